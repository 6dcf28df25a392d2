//! Server-side apply: who owns which field, and what a write does to that.
//!
//! Job: keep `managedFields` for every writer; merge applied configurations; find conflicts.
//! Inputs: objects as JSON, their types from [`crate::schema`], the time. Outputs: objects. No I/O.
//! A reviewer asks: does an apply ever change a field that it does not name and never owned? does a second apply of the
//! same configuration change anything?

mod managed;
mod set;
mod typed;

use serde_json::Value;

pub(crate) use managed::Manager;
use managed::{Entry, Managers, asks_reset, bare, ownable};

use crate::registry::Kind;
use crate::schema::{Shape, definition_name};

/// The manager of what was there before anyone was recorded.
const BEFORE: &str = "before-first-apply";

/// A field that another manager owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// The other, as it is shown.
    pub(crate) manager: String,
    /// The field.
    pub(crate) field: String,
}

/// Why a configuration is not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It breaks the type.
    Malformed(String),
    /// Others own fields that it would change.
    Conflicts(Vec<Conflict>),
}

fn shape(kind: &Kind) -> Shape {
    Shape::Struct(definition_name(kind))
}

/// The managers that a write starts from.
fn starting(live: &Value, new: &Value) -> Managers {
    if asks_reset(new) {
        return Managers::default();
    }
    // A client may rewrite the list; one that leaves it out, or breaks it, changes nothing.
    match Managers::decode(new) {
        Some(managers) if !managers.0.is_empty() => managers,
        _ => Managers::decode(live).unwrap_or_default(),
    }
}

/// Records in `new` what an update from `live` changes. `live` is null for a new object.
pub(crate) fn update(kind: &Kind, live: &Value, new: &mut Value, manager: &Manager, now: &str) {
    let mut managers = starting(live, new);
    let shape = shape(kind);
    let changes = typed::changes(&bare(live), &bare(new), &shape);
    let mine = ownable(changes.set.clone(), manager.subresource, kind.status);
    for entry in managers.0.iter_mut().filter(|e| e.manager != *manager) {
        entry.fields = entry.fields.difference(&changes.removed).difference(&mine);
    }
    let owned = managers.get(manager).map(|e| e.fields.clone()).unwrap_or_default();
    let owned = owned.union(mine).difference(&changes.removed);
    managers.set(manager, owned, false, now);
    managers.store(new);
}

/// The object that comes of applying `config` to `live`, with its managers. `live` is null for a new object.
pub(crate) fn apply(
    kind: &Kind,
    live: &Value,
    config: &Value,
    manager: &Manager,
    force: bool,
    now: &str,
) -> Result<Value, Refused> {
    let shape = shape(kind);
    typed::check(config, &shape, &mut String::new()).map_err(Refused::Malformed)?;
    let mut managers = Managers::decode(live).unwrap_or_default();
    let old = bare(live);
    if managers.0.is_empty() && live.is_object() {
        let fields = ownable(typed::fields(&old, &shape), "", kind.status);
        let before = Manager { name: BEFORE.into(), applies: false, subresource: "", ..manager.clone() };
        managers.0.push(Entry { manager: before, time: now.to_owned(), fields });
    }
    let config = only(kind, bare(config), manager);
    let wanted = typed::fields(&config, &shape);
    let mine = ownable(wanted.clone(), manager.subresource, kind.status);
    let last = managers.get(manager).map(|e| e.fields.clone()).unwrap_or_default();

    let merged = if live.is_object() { typed::merge(&old, &config, &shape) } else { config };
    // What was applied before, is not now, and nobody else holds, goes.
    let mut held = wanted;
    for entry in managers.0.iter().filter(|e| e.manager != *manager) {
        held = held.union(entry.fields.clone());
    }
    let gone = typed::with_structs(&last, &shape).difference(&held.with_ways());
    let mut new = typed::remove(&merged, &gone, &shape).unwrap_or(merged);

    let changes = typed::changes(&old, &new, &shape);
    let mut conflicts = Vec::new();
    for entry in managers.0.iter_mut().filter(|e| e.manager != *manager) {
        let contested = entry.fields.intersection(&changes.set);
        let shown = entry.show();
        conflicts
            .extend(contested.paths().into_iter().map(|field| Conflict { manager: shown.clone(), field }));
        entry.fields = entry.fields.difference(&contested).difference(&changes.removed);
    }
    if !force && !conflicts.is_empty() {
        return Err(Refused::Conflicts(conflicts));
    }
    let moved = !changes.set.is_empty() || !changes.removed.is_empty();
    managers.set(manager, mine, moved, now);
    managers.store(&mut new);
    Ok(new)
}

/// What of a configuration passes through the manager's door.
fn only(kind: &Kind, mut config: Value, manager: &Manager) -> Value {
    if let Value::Object(map) = &mut config {
        match manager.subresource {
            "" if kind.status => {
                map.shift_remove("status");
            }
            "" => {}
            part => map.retain(|k, _| matches!(k.as_str(), "apiVersion" | "kind") || k == part),
        }
    }
    config
}

#[cfg(test)]
mod tests;
