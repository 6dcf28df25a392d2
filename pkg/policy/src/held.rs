//! What stays in force after its object is gone, kept over restarts: policies, and the last rows of pods of this node.

use crate::config::Tables;
use crate::engine::{Engine, Held};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use warren_store::{Change, Durability, Record, StoreError, Table};
use warren_types::Pod;

/// A policy whose object went before the pods of its namespace did. Table `held_policies`.
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

/// Tells the engine what an earlier run kept; to be called when it knows all else.
pub(crate) fn restore(engine: &mut Engine, tables: &Tables) {
    engine.set_held(tables.held.snapshot().rows.values().map(|row| row.0.clone()));
    let remembered = tables.remembered.snapshot().rows;
    engine.set_remembered(remembered.values().map(|row| (row.attachment.clone(), Arc::new(row.pod.clone()))));
}

/// Makes these the rows of the tables.
pub(crate) async fn keep(
    tables: &Tables,
    held: Vec<Held>,
    remembered: Vec<(String, Arc<Pod>)>,
) -> Result<(), StoreError> {
    replace(&tables.held, held.into_iter().map(HeldPolicy)).await?;
    let rows = remembered
        .into_iter()
        .map(|(attachment, pod)| RememberedPod { attachment, pod: pod.as_ref().clone() });
    replace(&tables.remembered, rows).await
}

async fn replace<R: Record>(table: &Table<R>, rows: impl Iterator<Item = R>) -> Result<(), StoreError> {
    let before = table.snapshot().rows;
    let mut changes: BTreeMap<String, Change<R>> =
        before.keys().map(|key| (key.clone(), Change::Delete(key.clone()))).collect();
    changes.extend(rows.map(|row| (row.key(), Change::Put(row))));
    table.commit(changes.into_values().collect(), Durability::Cached).await.map(drop)
}
