//! Owner garbage collection: an object whose owners are all gone goes too; an object that is deleted in the foreground
//! waits for what it owns; one that is deleted as an orphan lets go of it first.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::api::{Api, Part, gone_is_well};
use super::queue::Key;
use super::runner::Controller;
use crate::error::ApiResult;
use crate::registry::KindId;
use crate::storage::{Event, Object, object_key};
use crate::table::{list, text};

/// Finalizer of a deletion that waits for dependents.
const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of a deletion that spares dependents.
const ORPHAN: &str = "orphan";

/// Collects objects without owners.
pub(crate) struct Garbage {
    api: Api,
    /// Who depends on an owner, by the owner's uid.
    dependents: Mutex<BTreeMap<String, BTreeSet<Key>>>,
}

fn owners(object: &Object) -> &[Value] {
    list(&object.value, "/metadata/ownerReferences")
}

fn key(object: &Object) -> Key {
    (object.kind, object.key())
}

fn ends(object: &Object) -> bool {
    !text(&object.value, "/metadata/deletionTimestamp").is_empty()
}

fn has_finalizer(object: &Object, name: &str) -> bool {
    list(&object.value, "/metadata/finalizers").iter().any(|f| f == name)
}

/// Whether the object waits for what it owns.
fn waits(object: &Object) -> bool {
    ends(object) && has_finalizer(object, FOREGROUND)
}

fn without(o: &mut Value, pointer: &str, drop: impl Fn(&Value) -> bool) {
    if let Some(Value::Array(entries)) = o.pointer_mut(pointer) {
        entries.retain(|e| !drop(e));
    }
}

/// What an owner reference leads to.
enum Owner {
    /// An object that lives, or one of a kind that is unknown here.
    Lives,
    /// An object that waits for its dependents to go.
    Waits,
    /// Nothing.
    Absent,
}

impl Garbage {
    pub(crate) fn new(api: Api) -> Self {
        Self { api, dependents: Mutex::default() }
    }

    fn index(&self) -> MutexGuard<'_, BTreeMap<String, BTreeSet<Key>>> {
        self.dependents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unlearn(&self, object: &Object) {
        let mut index = self.index();
        for owner in owners(object) {
            let uid = text(owner, "/uid");
            if let Some(keys) = index.get_mut(uid) {
                keys.remove(&key(object));
                if keys.is_empty() {
                    index.remove(uid);
                }
            }
        }
    }

    fn dependents_of(&self, owner: &Object) -> Vec<Arc<Object>> {
        let keys: Vec<Key> = self.index().get(owner.uid()).into_iter().flatten().cloned().collect();
        let uid = owner.uid();
        keys.iter()
            .filter_map(|(kind, key)| self.api.cache().get(*kind, key))
            .filter(|o| owners(o).iter().any(|r| text(r, "/uid") == uid))
            .collect()
    }

    fn owner(&self, dependent: &Object, reference: &Value) -> Owner {
        let found = KindId::all().find(|k| {
            let row = k.get();
            row.kind == text(reference, "/kind") && row.api_version() == text(reference, "/apiVersion")
        });
        let Some(kind) = found else { return Owner::Lives };
        let namespace = if kind.get().namespaced { dependent.namespace.as_str() } else { "" };
        if kind.get().namespaced && namespace.is_empty() {
            // An object of the cluster cannot be owned by one in a namespace; nobody can tell which is meant.
            return Owner::Lives;
        }
        match self.api.cache().get(kind, &object_key(namespace, text(reference, "/name"))) {
            Some(owner) if owner.uid() != text(reference, "/uid") => Owner::Absent,
            Some(owner) if waits(&owner) => Owner::Waits,
            Some(_) => Owner::Lives,
            None => Owner::Absent,
        }
    }

    /// An object that may have lost its owners.
    async fn collect(&self, object: &Object) -> ApiResult<()> {
        let (mut lives, mut waiting, mut lost) = (false, false, Vec::new());
        for reference in owners(object) {
            let uid = text(reference, "/uid").to_owned();
            match self.owner(object, reference) {
                Owner::Lives => lives = true,
                Owner::Waits => {
                    waiting = true;
                    lost.push(uid);
                }
                Owner::Absent => lost.push(uid),
            }
        }
        if lost.is_empty() {
            return Ok(());
        }
        if lives {
            return self.let_go(object, &lost).await;
        }
        // In the foreground an object goes after what it owns itself.
        if waiting && !self.dependents_of(object).is_empty() && !has_finalizer(object, FOREGROUND) {
            let marked = self.api.change(object, Part::Main, |o| {
                without(o, "/metadata/finalizers", |f| f == FOREGROUND);
                match o.pointer_mut("/metadata/finalizers") {
                    Some(Value::Array(finalizers)) => finalizers.push(FOREGROUND.into()),
                    _ => o["metadata"]["finalizers"] = vec![FOREGROUND].into(),
                }
            });
            gone_is_well(marked.await)?;
        }
        tracing::debug!(kind = object.kind.get().singular, name = %object.key(), "its owners are gone");
        self.api.delete(object).await
    }

    /// Takes references out of an object.
    async fn let_go(&self, object: &Object, uids: &[String]) -> ApiResult<()> {
        let changed = self.api.change(object, Part::Main, |o| {
            without(o, "/metadata/ownerReferences", |r| uids.iter().any(|u| u == text(r, "/uid")));
        });
        gone_is_well(changed.await)
    }

    async fn drop_finalizer(&self, object: &Object, name: &str) -> ApiResult<()> {
        let changed =
            self.api.change(object, Part::Main, |o| without(o, "/metadata/finalizers", |f| f == name));
        gone_is_well(changed.await)
    }
}

impl Controller for Garbage {
    fn name(&self) -> &'static str {
        "garbage"
    }
    fn kinds(&self) -> Vec<KindId> {
        KindId::all().collect()
    }
    fn forget(&self) {
        self.index().clear();
    }
    fn learn(&self, object: &Object) {
        let mut index = self.index();
        for owner in owners(object) {
            index.entry(text(owner, "/uid").to_owned()).or_default().insert(key(object));
        }
    }
    fn all(&self) -> Vec<Key> {
        let concerned = |o: &&Arc<Object>| ends(o) || !owners(o).is_empty();
        KindId::all()
            .flat_map(|k| {
                let objects = self.api.cache().list(k).0;
                objects.values().filter(concerned).map(|o| key(o)).collect::<Vec<_>>()
            })
            .collect()
    }
    fn concerned(&self, event: &Event) -> Vec<Key> {
        let object = &event.object;
        let mut keys = Vec::new();
        if let Some(previous) = &event.previous {
            // Who waited for this dependent may go on.
            if event.deleted || owners(previous) != owners(object) {
                self.unlearn(previous);
                keys.extend(owners(previous).iter().filter_map(|r| self.waiting_owner(object, r)));
            }
        }
        if !event.deleted {
            self.learn(object);
            if ends(object) || !owners(object).is_empty() {
                keys.push(key(object));
            }
        }
        if event.deleted || ends(object) {
            keys.extend(self.index().get(object.uid()).into_iter().flatten().cloned());
        }
        keys
    }

    async fn reconcile(&self, (kind, name): &Key) -> ApiResult<Option<Duration>> {
        let Some(object) = self.api.cache().get(*kind, name) else { return Ok(None) };
        if !ends(&object) {
            self.collect(&object).await?;
            return Ok(None);
        }
        if has_finalizer(&object, ORPHAN) {
            let uid = object.uid().to_owned();
            for dependent in self.dependents_of(&object) {
                self.let_go(&dependent, std::slice::from_ref(&uid)).await?;
            }
            self.drop_finalizer(&object, ORPHAN).await?;
        } else if has_finalizer(&object, FOREGROUND) {
            let blocks = |o: &Arc<Object>| {
                owners(o).iter().any(|r| {
                    text(r, "/uid") == object.uid() && r.get("blockOwnerDeletion") == Some(&Value::Bool(true))
                })
            };
            // The dependents were queued with the mark; they go by themselves.
            if !self.dependents_of(&object).iter().any(blocks) {
                self.drop_finalizer(&object, FOREGROUND).await?;
            }
        }
        Ok(None)
    }
}

impl Garbage {
    /// The key of an owner that waits for `dependent`.
    fn waiting_owner(&self, dependent: &Object, reference: &Value) -> Option<Key> {
        let kind = KindId::all().find(|k| {
            let row = k.get();
            row.kind == text(reference, "/kind") && row.api_version() == text(reference, "/apiVersion")
        })?;
        let namespace = if kind.get().namespaced { dependent.namespace.as_str() } else { "" };
        let owner = self.api.cache().get(kind, &object_key(namespace, text(reference, "/name")))?;
        waits(&owner).then(|| key(&owner))
    }
}

#[cfg(test)]
mod tests;
