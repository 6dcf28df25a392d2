//! Policies that outlive their objects, kept over restarts.

use crate::engine::Held;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use warren_store::{Change, Durability, Record, StoreError, Table};

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

/// Those of the table.
pub(crate) fn rows(table: &Table<HeldPolicy>) -> Vec<Held> {
    table.snapshot().rows.values().map(|row| row.0.clone()).collect()
}

/// Makes these the rows of the table.
pub(crate) async fn keep(table: &Table<HeldPolicy>, held: Vec<Held>) -> Result<(), StoreError> {
    let mut changes: BTreeMap<String, Change<HeldPolicy>> =
        table.snapshot().rows.keys().map(|key| (key.clone(), Change::Delete(key.clone()))).collect();
    for held in held {
        let row = HeldPolicy(held);
        changes.insert(row.key(), Change::Put(row));
    }
    table.commit(changes.into_values().collect(), Durability::Cached).await?;
    Ok(())
}
