//! Objects seen through their types: which fields they set, how two differ, how one is merged into another.

use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

use super::set::{Element, Set};
use crate::schema::rules::ListRule;
use crate::schema::{self, Shape};

/// How two states of an object differ.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// What is there that was not, and what has another value.
    pub(crate) set: Set,
    /// What is there no longer.
    pub(crate) removed: Set,
}

/// A value as merging sees it.
enum View<'a> {
    /// Owned as a whole.
    Whole,
    /// An object.
    Object(&'a Map<String, Value>),
    /// The entries of a list, by what tells them apart.
    Entries(Vec<(Element, &'a Value)>),
}

fn view<'a>(value: &'a Value, shape: &Shape) -> View<'a> {
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(m)) => View::Object(m),
        // A list that breaks its own rule is taken as a whole.
        (Shape::List(rule, _), Value::Array(items)) => match entries(items, *rule) {
            Ok(Some(entries)) => View::Entries(entries),
            Ok(None) | Err(_) => View::Whole,
        },
        _ => View::Whole,
    }
}

/// What tells an entry of a list apart; `None` in atomic lists.
fn element(item: &Value, rule: ListRule) -> Result<Option<Element>, String> {
    match rule {
        ListRule::Atomic => Ok(None),
        ListRule::Set => Ok(Some(Element::Value(item.to_string()))),
        ListRule::Keyed(keys) => {
            let mut found = BTreeMap::new();
            for (key, fallback) in keys {
                let value = item.get(key).filter(|v| !v.is_null()).cloned();
                match value.or_else(|| fallback.map(Into::into)) {
                    Some(v) => found.insert(*key, v),
                    None => {
                        return Err(format!(
                            "associative list with keys has an element that omits key field {key:?}"
                        ));
                    }
                };
            }
            Ok(serde_json::to_string(&found).ok().map(Element::Key))
        }
    }
}

fn entries(items: &[Value], rule: ListRule) -> Result<Option<Vec<(Element, &Value)>>, String> {
    if rule == ListRule::Atomic {
        return Ok(None);
    }
    let mut seen = BTreeSet::new();
    let mut out = Vec::with_capacity(items.len());
    for item in items {
        let Some(at) = element(item, rule)? else { return Ok(None) };
        if !seen.insert(at.clone()) {
            let mut shown = Set::default();
            shown.insert(at);
            return Err(format!("duplicate entries for key {}", shown.paths().concat()));
        }
        out.push((at, item));
    }
    Ok(Some(out))
}

/// The shape of what a step leads to.
fn step<'a>(shape: &'a Shape, at: &Element) -> &'a Shape {
    match (shape, at) {
        (Shape::Struct(name), Element::Field(field)) => {
            schema::lookup(name).and_then(|s| s.fields.get(field)).map_or(&Shape::Leaf, |f| &f.shape)
        }
        (Shape::Map(of) | Shape::List(_, of), _) => of,
        _ => &Shape::Leaf,
    }
}

fn members(map: &Map<String, Value>) -> impl Iterator<Item = (Element, &Value)> {
    map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (Element::Field(k.clone()), v))
}

/// The fields that `value` sets.
pub(crate) fn fields(value: &Value, shape: &Shape) -> Set {
    let mut set = Set::default();
    match view(value, shape) {
        View::Whole => {}
        View::Object(map) => {
            for (at, v) in members(map) {
                let inner = step(shape, &at);
                let below = fields(v, inner);
                if below.is_empty() {
                    set.insert(at);
                } else {
                    set.put(at, below);
                }
            }
        }
        View::Entries(entries) => {
            for (at, v) in entries {
                set.put(at.clone(), fields(v, step(shape, &at)));
                set.insert(at);
            }
        }
    }
    set
}

/// How `new` differs from `old`.
pub(crate) fn changes(old: &Value, new: &Value, shape: &Shape) -> Changes {
    let mut out = Changes::default();
    fn parts<'a>(value: &'a Value, shape: &Shape) -> BTreeMap<Element, &'a Value> {
        match view(value, shape) {
            View::Whole => BTreeMap::new(),
            View::Object(map) => members(map).collect(),
            View::Entries(entries) => entries.into_iter().collect(),
        }
    }
    let (before, after) = (parts(old, shape), parts(new, shape));
    for (at, value) in &after {
        let inner = step(shape, at);
        match before.get(at) {
            Some(old) if old == value => {}
            Some(old) => {
                let whole = |v| matches!(view(v, inner), View::Whole);
                if whole(old) || whole(value) {
                    out.set.put(at.clone(), all(value, inner));
                    out.set.insert(at.clone());
                    out.removed.put(at.clone(), all(old, inner).difference(&all(value, inner)));
                } else {
                    let below = changes(old, value, inner);
                    out.set.put(at.clone(), below.set);
                    out.removed.put(at.clone(), below.removed);
                }
            }
            None => {
                out.set.put(at.clone(), all(value, inner));
                if !leads(shape, value, inner) {
                    out.set.insert(at.clone());
                }
            }
        }
    }
    for (at, value) in before.iter().filter(|(at, _)| !after.contains_key(at)) {
        out.removed.put(at.clone(), all(value, step(shape, at)));
        out.removed.insert(at.clone());
    }
    out
}

/// Whether a field only leads to others: a struct in a struct, which nobody owns by itself.
fn leads(shape: &Shape, value: &Value, inner: &Shape) -> bool {
    matches!((shape, inner), (Shape::Struct(_), Shape::Struct(_)))
        && value.as_object().is_some_and(|m| !m.is_empty())
}

/// The fields of a value that came or went, maps and lists among them.
fn all(value: &Value, shape: &Shape) -> Set {
    let mut set = Set::default();
    let parts: Vec<_> = match view(value, shape) {
        View::Whole => return set,
        View::Object(map) => members(map).collect(),
        View::Entries(entries) => entries,
    };
    for (at, v) in parts {
        let inner = step(shape, &at);
        set.put(at.clone(), all(v, inner));
        if !leads(shape, v, inner) {
            set.insert(at);
        }
    }
    set
}

/// Refuses fields that the type has not, and lists that break their rule.
pub(crate) fn check(value: &Value, shape: &Shape, path: &mut String) -> Result<(), String> {
    let length = path.len();
    match (shape, value) {
        (Shape::Struct(name), Value::Object(map)) => {
            let Some(of_type) = schema::lookup(name) else { return Ok(()) };
            for (key, v) in map {
                path.push('.');
                path.push_str(key);
                match of_type.fields.get(key) {
                    Some(field) => check(v, &field.shape, path)?,
                    None => return Err(format!("{path}: field not declared in schema")),
                }
                path.truncate(length);
            }
        }
        (Shape::Map(of), Value::Object(map)) => {
            for (key, v) in map {
                path.push('.');
                path.push_str(key);
                check(v, of, path)?;
                path.truncate(length);
            }
        }
        (Shape::List(rule, of), Value::Array(items)) => {
            entries(items, *rule).map_err(|why| format!("{path}: {why}"))?;
            for v in items {
                check(v, of, path)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// `live` with what `applied` sets.
pub(crate) fn merge(live: &Value, applied: &Value, shape: &Shape) -> Value {
    match (view(live, shape), view(applied, shape)) {
        (View::Object(old), View::Object(new)) => {
            let mut out = old.clone();
            for (key, value) in new.iter().filter(|(_, v)| !v.is_null()) {
                let inner = step(shape, &Element::Field(key.clone()));
                let merged = old.get(key).map_or_else(|| value.clone(), |o| merge(o, value, inner));
                out.insert(key.clone(), merged);
            }
            Value::Object(out)
        }
        (View::Entries(old), View::Entries(new)) => {
            // The applied order holds; what stands between stays before what stood after it.
            let live: BTreeMap<&Element, &Value> = old.iter().map(|(at, v)| (at, *v)).collect();
            let wanted: BTreeSet<&Element> = new.iter().map(|(at, _)| at).collect();
            let merged = |(at, v): &(Element, &Value)| {
                live.get(at).map_or_else(|| (*v).clone(), |o| merge(o, v, step(shape, at)))
            };
            let (mut out, mut next) = (Vec::new(), 0);
            for (at, v) in &old {
                if !wanted.contains(at) {
                    out.push((*v).clone());
                    continue;
                }
                let upto = new.iter().position(|(n, _)| n == at).map_or(next, |i| i + 1);
                while next < upto {
                    out.push(merged(&new[next]));
                    next += 1;
                }
            }
            out.extend(new[next..].iter().map(merged));
            Value::Array(out)
        }
        _ => applied.clone(),
    }
}

/// The set, and the fields of types that lead to its fields: who sets `a.b` holds `a` too, unless `a` is a map.
pub(crate) fn with_structs(set: &Set, shape: &Shape) -> Set {
    let mut out = Set::default();
    for (at, member, below) in set.parts() {
        let inner = step(shape, at);
        if member || (matches!(shape, Shape::Struct(_)) && matches!(inner, Shape::Struct(_))) {
            out.insert(at.clone());
        }
        out.put(at.clone(), with_structs(below, inner));
    }
    out
}

/// `value` without the fields of `gone`; none when nothing is left of what held them.
pub(crate) fn remove(value: &Value, gone: &Set, shape: &Shape) -> Option<Value> {
    let left = |at: &Element, v: &Value| match gone.below(at) {
        _ if gone.has(at) => None,
        Some(below) => remove(v, below, step(shape, at)),
        None => Some(v.clone()),
    };
    match view(value, shape) {
        View::Whole => Some(value.clone()),
        View::Object(map) => {
            let kept: Map<String, Value> = map
                .iter()
                .filter_map(|(k, v)| Some((k.clone(), left(&Element::Field(k.clone()), v)?)))
                .collect();
            (!kept.is_empty() || map.is_empty()).then_some(Value::Object(kept))
        }
        View::Entries(entries) => {
            // What is left of an entry keeps the keys by which it is known.
            let known = |(at, v): &(Element, &Value)| {
                let mut kept = left(at, v)?;
                if let (Shape::List(ListRule::Keyed(keys), _), Some(kept)) = (shape, kept.as_object_mut()) {
                    for (i, (key, fallback)) in keys.iter().enumerate() {
                        let id = v.get(key).filter(|id| id.as_str().is_none() || id.as_str() != *fallback);
                        if let (false, Some(id)) = (kept.contains_key(*key), id) {
                            kept.shift_insert(i.min(kept.len()), (*key).to_owned(), id.clone());
                        }
                    }
                }
                Some(kept)
            };
            let kept: Vec<Value> = entries.iter().filter_map(known).collect();
            (!kept.is_empty() || entries.is_empty()).then_some(Value::Array(kept))
        }
    }
}
