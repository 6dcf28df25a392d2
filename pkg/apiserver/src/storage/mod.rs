//! The objects: on disk in a [`warren_store::Store`], in memory in a [`Cache`] with a bounded history for watches.

mod cache;
mod writer;

pub(crate) use cache::{Cache, Event, History, Since};
pub(crate) use writer::{Op, Refused, Writer, WriterTask};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use warren_store::{Record, Store, Table};

use crate::registry::KindId;
use crate::table::text;

/// One object on disk, or the row with the last revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ApiObject {
    /// `resource.group/namespace/name`, or [`REVISION_ROW`].
    pub(crate) key: String,
    /// resourceVersion: one per write, in the order of writes.
    pub(crate) revision: u64,
    /// The object as JSON; empty in [`REVISION_ROW`].
    pub(crate) json: String,
}

/// Key of the row that keeps the highest revision ever given, deletions included.
pub(crate) const REVISION_ROW: &str = "~revision";

impl Record for ApiObject {
    const TABLE: &'static str = "api_objects";
    fn key(&self) -> String {
        self.key.clone()
    }
}

/// An object in memory. Never changes; a write makes a new one.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) kind: KindId,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) revision: u64,
    /// Decoded, with resourceVersion, without `managedFields`: they would be half of the memory, and only writes need
    /// them. See [`Object::full`].
    pub(crate) value: Value,
    /// The whole object as JSON.
    pub(crate) json: Bytes,
}

impl Object {
    /// Stamps `revision` into `value`.
    pub(crate) fn new(kind: KindId, mut value: Value, revision: u64) -> Self {
        let metadata = crate::meta::of(&mut value);
        metadata.insert("resourceVersion".into(), revision.to_string().into());
        if metadata.get(MANAGED).is_some_and(|m| m.as_array().is_none_or(Vec::is_empty)) {
            metadata.shift_remove(MANAGED);
        }
        let json = Bytes::from(value.to_string());
        crate::meta::of(&mut value).shift_remove(MANAGED);
        let (namespace, name) =
            (text(&value, "/metadata/namespace").to_owned(), text(&value, "/metadata/name").to_owned());
        Self { kind, namespace, name, revision, value, json }
    }
    /// The whole object, decoded anew.
    pub(crate) fn full(&self) -> Value {
        serde_json::from_slice(&self.json).unwrap_or_else(|_| self.value.clone())
    }
    /// The key inside its kind.
    pub(crate) fn key(&self) -> String {
        object_key(&self.namespace, &self.name)
    }
    pub(crate) fn uid(&self) -> &str {
        text(&self.value, "/metadata/uid")
    }
}

/// The key inside a kind. `/` sorts a namespace's objects together, and no name holds one.
pub(crate) fn object_key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

fn row_key(kind: KindId, key: &str) -> String {
    format!("{}/{key}", kind.get().qualified())
}

/// The list of those who own fields, in the metadata.
const MANAGED: &str = "managedFields";

/// Gives `new` the owners of fields in `old` when it says nothing of them; an empty list says that there are none.
fn keep_managers(new: &mut Value, old: &Object) {
    if new.pointer("/metadata/managedFields").is_none()
        && let Some(managed) = old.full().pointer_mut("/metadata/managedFields")
    {
        crate::meta::of(new).insert(MANAGED.into(), managed.take());
    }
}

/// Where objects are kept.
#[derive(Clone)]
pub(crate) enum Disk {
    /// In the store.
    Store(Table<ApiObject>),
    /// Nowhere: tests of what stands above.
    #[cfg(test)]
    Memory,
}

impl Disk {
    pub(crate) fn in_store(store: &Store) -> Self {
        Self::Store(store.table())
    }
    /// Everything, decoded, and the last revision. Rows that cannot be read are named and left on disk.
    pub(crate) fn load(&self) -> (Vec<Arc<Object>>, u64) {
        let rows = match self {
            Self::Store(table) => table.snapshot().rows,
            #[cfg(test)]
            Self::Memory => return (Vec::new(), 1),
        };
        let mut last = 1;
        let mut objects = Vec::new();
        for row in rows.values() {
            last = last.max(row.revision);
            if row.key == REVISION_ROW {
                continue;
            }
            match decode(row) {
                Ok(object) => objects.push(Arc::new(object)),
                Err(reason) => {
                    tracing::error!(key = %row.key, %reason, "stored object cannot be read; it is left out")
                }
            }
        }
        (objects, last)
    }
}

fn decode(row: &ApiObject) -> Result<Object, String> {
    let (resource, _) = row.key.split_once('/').ok_or("key has no resource")?;
    let kind = KindId::all()
        .find(|k| k.get().qualified() == resource)
        .ok_or("this kind is unknown; it was written by another version of warren")?;
    let value: Value = serde_json::from_str(&row.json).map_err(|e| e.to_string())?;
    let object = Object::new(kind, value, row.revision);
    if row_key(kind, &object.key()) != row.key {
        return Err(format!("it holds {}", object.key()));
    }
    Ok(object)
}

#[cfg(test)]
mod tests;
