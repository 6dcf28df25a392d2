//! What is kept over restarts of what may be gone before its time, as rows of tables.

use crate::config::Tables;
use crate::engine::Engine;
use crate::keep::{Held, Kept};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use warren_store::{Change, Durability, Record, StoreError, Table};
use warren_types::{NamespaceState, Pod};

/// A policy of a namespace with pods on this node, lest it goes before they do. Table `held_policies`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HeldPolicy(Held);

impl Record for HeldPolicy {
    const TABLE: &'static str = "held_policies";
    fn key(&self) -> String {
        self.0.policy.key.to_string()
    }
}

/// The last row of a pod of this node whose object is gone. Table `remembered_pods`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedPod {
    attachment: String,
    pod: Pod,
}

impl Record for RememberedPod {
    const TABLE: &'static str = "remembered_pods";
    fn key(&self) -> String {
        self.attachment.clone()
    }
}

/// The last row of a namespace that is gone while there are pods in it. Table `remembered_namespaces`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RememberedNamespace(NamespaceState);

impl Record for RememberedNamespace {
    const TABLE: &'static str = "remembered_namespaces";
    fn key(&self) -> String {
        self.0.name.to_string()
    }
}

/// Tells the engine what an earlier run kept; to be called when it knows all else.
pub(crate) fn restore(engine: &mut Engine, tables: &Tables) {
    let policies = tables.held.snapshot().rows;
    let pods = tables.remembered.snapshot().rows;
    let namespaces = tables.remembered_namespaces.snapshot().rows;
    engine.set_kept(Kept {
        policies: policies.values().map(|row| (row.0.policy.key.clone(), Some(row.0.clone()))).collect(),
        pods: pods.values().map(|row| (row.attachment.clone(), Some(Arc::new(row.pod.clone())))).collect(),
        namespaces: namespaces
            .values()
            .map(|row| (row.0.name.clone(), Some(Arc::new(row.0.clone()))))
            .collect(),
    });
}

/// Writes down what is to be kept.
pub(crate) async fn keep(tables: &Tables, kept: Kept) -> Result<(), StoreError> {
    let policies = kept.policies.into_iter().map(|(key, held)| (key.to_string(), held.map(HeldPolicy)));
    write(&tables.held, policies).await?;
    let pods = kept.pods.into_iter().map(|(attachment, pod)| {
        let pod = pod.map(|pod| RememberedPod { attachment: attachment.clone(), pod: pod.as_ref().clone() });
        (attachment, pod)
    });
    write(&tables.remembered, pods).await?;
    let namespaces = kept
        .namespaces
        .into_iter()
        .map(|(name, row)| (name.to_string(), row.map(|row| RememberedNamespace(row.as_ref().clone()))));
    write(&tables.remembered_namespaces, namespaces).await
}

async fn write<R: Record>(
    table: &Table<R>,
    rows: impl Iterator<Item = (String, Option<R>)>,
) -> Result<(), StoreError> {
    let change = |(key, row): (String, Option<R>)| match (table.get(&key), row) {
        (None, None) => None,
        (Some(_), None) => Some(Change::Delete(key)),
        (before, Some(row)) => (before.as_deref() != Some(&row)).then_some(Change::Put(row)),
    };
    let changes: Vec<_> = rows.filter_map(change).collect();
    if changes.is_empty() {
        return Ok(());
    }
    table.commit(changes, Durability::Cached).await.map(drop)
}
