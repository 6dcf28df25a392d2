//! Change streams: what a table tells its followers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::table::TableState;
use crate::{Record, Rows, Snapshot, Update};

/// A follower that is further behind than this many keys is given a new snapshot instead.
pub(crate) const PENDING_MAX: usize = 4096;

/// The followers of one table.
#[derive(Default)]
pub(crate) struct Hub {
    next: u64,
    slots: BTreeMap<u64, Slot>,
    closed: bool,
}

struct Slot {
    pending: Pending,
    wake: Arc<Notify>,
}

/// What a follower has not been told yet.
enum Pending {
    /// Too much, or everything.
    Everything,
    /// The rows with these keys.
    Keys(BTreeSet<String>),
    /// No row, but that the table is loaded now.
    LoadedOnly,
    Nothing,
}

impl Pending {
    fn add(&mut self, keys: &BTreeSet<String>, loaded_changed: bool) {
        match self {
            Pending::Everything => {}
            Pending::Keys(have) => {
                have.extend(keys.iter().cloned());
                if have.len() > PENDING_MAX {
                    *self = Pending::Everything;
                }
            }
            Pending::LoadedOnly | Pending::Nothing if keys.len() > PENDING_MAX => *self = Pending::Everything,
            Pending::LoadedOnly | Pending::Nothing if !keys.is_empty() => *self = Pending::Keys(keys.clone()),
            Pending::LoadedOnly => {}
            Pending::Nothing => {
                if loaded_changed {
                    *self = Pending::LoadedOnly;
                }
            }
        }
    }
}

impl Hub {
    pub(crate) fn publish(&mut self, keys: &BTreeSet<String>, loaded_changed: bool) {
        for slot in self.slots.values_mut() {
            slot.pending.add(keys, loaded_changed);
            slot.wake.notify_one();
        }
    }
    pub(crate) fn close(&mut self) {
        self.closed = true;
        for slot in self.slots.values() {
            slot.wake.notify_one();
        }
    }
    #[cfg(test)]
    pub(crate) fn followers(&self) -> usize {
        self.slots.len()
    }
}

/// A change stream: memory is bounded by a fixed number of pending keys whatever the reader does; a dropped `Watch`
/// costs nothing.
pub struct Watch<R: Record> {
    state: Arc<TableState<R>>,
    id: u64,
    wake: Arc<Notify>,
}

impl<R: Record> Watch<R> {
    pub(crate) fn new(state: Arc<TableState<R>>) -> Self {
        let wake = Arc::new(Notify::new());
        let mut hub = state.hub();
        let id = hub.next;
        hub.next += 1;
        hub.slots.insert(id, Slot { pending: Pending::Everything, wake: Arc::clone(&wake) });
        drop(hub);
        Self { state, id, wake }
    }

    /// The next update; waits for one. `None` when the store has closed and everything was told. Cancel safe.
    pub async fn next(&mut self) -> Option<Update<R>> {
        loop {
            match self.take() {
                Taken::Update(update) => return Some(update),
                Taken::Closed => return None,
                Taken::Nothing => self.wake.notified().await,
            }
        }
    }

    /// The next update, if there is one now.
    pub fn try_next(&mut self) -> Option<Update<R>> {
        match self.take() {
            Taken::Update(update) => Some(update),
            Taken::Nothing | Taken::Closed => None,
        }
    }

    /// Waits until [`crate::Table::loaded`], then returns a snapshot. `None` when the store has closed. Takes nothing
    /// away from [`Watch::next`], whose first update stays a snapshot.
    pub async fn loaded(&mut self) -> Option<Snapshot<R>> {
        loop {
            let closed = self.state.hub().closed;
            let snapshot = self.state.snapshot();
            if snapshot.loaded {
                return Some(snapshot);
            }
            if closed {
                return None;
            }
            self.wake.notified().await;
        }
    }

    fn take(&self) -> Taken<R> {
        // The table publishes under the same lock, so that snapshot and pending keys agree.
        let mut hub = self.state.hub();
        let closed = hub.closed;
        let Some(slot) = hub.slots.get_mut(&self.id) else { return Taken::Closed };
        let pending = std::mem::replace(&mut slot.pending, Pending::Nothing);
        let keys = match pending {
            Pending::Everything => return Taken::Update(Update::Snapshot(self.state.snapshot())),
            Pending::Nothing => return if closed { Taken::Closed } else { Taken::Nothing },
            Pending::Keys(keys) => keys,
            Pending::LoadedOnly => BTreeSet::new(),
        };
        let snapshot = self.state.snapshot();
        drop(hub);
        let changes = changes(&snapshot.rows, keys);
        Taken::Update(Update::Delta { changes, snapshot })
    }
}

fn changes<R>(rows: &Rows<R>, keys: BTreeSet<String>) -> BTreeMap<String, Option<Arc<R>>> {
    keys.into_iter().map(|k| (rows.get(&k).cloned(), k)).map(|(row, k)| (k, row)).collect()
}

enum Taken<R> {
    Update(Update<R>),
    Nothing,
    Closed,
}

impl<R: Record> Drop for Watch<R> {
    fn drop(&mut self) {
        self.state.hub().slots.remove(&self.id);
    }
}
