//! The state of one table: what readers see, and what the writer thread is preparing.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::codec::{Batch, RawRow, RawTable, check_limits, loaded_key, row_key};
use crate::rows::Entry;
use crate::watch::Hub;
use crate::{Change, Record, Revision, Rows, Snapshot, StoreError};

/// What a writer asked for.
pub(crate) enum Request<R> {
    Batch(Vec<Change<R>>),
    Replace(Vec<R>),
    /// Nothing but the rows with these keys stays.
    Retain(BTreeSet<String>),
    Loaded,
}

/// A table of whatever type.
pub(crate) trait AnyTable: Send + Sync {
    /// Shows readers what was staged.
    fn publish(&self, revision: Revision);
    /// Forgets what was staged.
    fn discard(&self);
    /// What is committed, encoded anew.
    fn raw(&self) -> Result<RawTable, String>;
    /// Tells followers that nothing more will come.
    fn close(&self);
    /// Rows that readers see, and stored rows that this binary cannot read.
    fn counts(&self) -> (usize, usize);
}

/// See the module.
pub(crate) struct TableState<R> {
    current: RwLock<Snapshot<R>>,
    hub: Mutex<Hub>,
    write: Mutex<WriteSide<R>>,
}

struct WriteSide<R> {
    committed: Inner<R>,
    staged: Option<Staged<R>>,
}

struct Inner<R> {
    rows: Rows<R>,
    /// Since which revision, and in how many fragments that is stored.
    loaded: Option<(Revision, u16)>,
    /// Stored rows that this binary cannot read. They stay until overwritten or replaced.
    unreadable: Arc<BTreeMap<String, RawRow>>,
}

impl<R> Clone for Inner<R> {
    fn clone(&self) -> Self {
        Self { rows: self.rows.clone(), loaded: self.loaded, unreadable: Arc::clone(&self.unreadable) }
    }
}

struct Staged<R> {
    inner: Inner<R>,
    changed: BTreeSet<String>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<R: Record> TableState<R> {
    pub(crate) fn new(raw: RawTable, revision: Revision) -> Self {
        let mut rows = Rows::default();
        let mut unreadable = BTreeMap::new();
        for (key, row) in raw.rows {
            match serde_json::from_slice::<R>(&row.payload) {
                Ok(value) if value.key() == key => rows.insert(Entry {
                    key,
                    value: Arc::new(value),
                    revision: row.revision,
                    fragments: row.fragments,
                }),
                other => {
                    let error =
                        other.err().map_or_else(|| "it belongs under another key".into(), |e| e.to_string());
                    tracing::warn!(
                        table = R::TABLE,
                        key,
                        error,
                        "a stored row cannot be read and is left out"
                    );
                    unreadable.insert(key, row);
                }
            }
        }
        let inner = Inner { rows, loaded: raw.loaded, unreadable: Arc::new(unreadable) };
        let snapshot = Snapshot { rows: inner.rows.clone(), revision, loaded: inner.loaded.is_some() };
        Self {
            current: RwLock::new(snapshot),
            hub: Mutex::default(),
            write: Mutex::new(WriteSide { committed: inner, staged: None }),
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot<R> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn read<T>(&self, f: impl FnOnce(&Snapshot<R>) -> T) -> T {
        f(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn hub(&self) -> MutexGuard<'_, Hub> {
        lock(&self.hub)
    }

    /// Stages a request on top of what is staged already and adds its engine writes to `batch`. Whether it changes
    /// anything. On an error nothing is staged.
    pub(crate) fn stage(
        &self,
        request: Request<R>,
        revision: Revision,
        batch: &mut Batch,
    ) -> Result<bool, StoreError> {
        let mut write = lock(&self.write);
        let WriteSide { committed, staged } = &mut *write;
        let now = staged.as_ref().map_or(&*committed, |s| &s.inner);
        let set_loaded = !matches!(request, Request::Batch(_)) && now.loaded.is_none();
        let plan = plan(now, request)?;
        if plan.is_empty() && !set_loaded {
            return Ok(false);
        }
        let staged =
            staged.get_or_insert_with(|| Staged { inner: committed.clone(), changed: BTreeSet::new() });
        let inner = &mut staged.inner;
        for (key, change) in plan {
            let base = row_key(R::TABLE, &key);
            let mut old = inner.rows.entry(&key).map(|e| (e.revision, e.fragments));
            if inner.unreadable.contains_key(&key) {
                old = Arc::make_mut(&mut inner.unreadable).remove(&key).map(|r| (r.revision, r.fragments));
            }
            match change {
                Some((value, payload)) => {
                    let fragments = batch.put(&base, old, revision, &payload);
                    inner.rows.insert(Entry {
                        key: key.clone(),
                        value: Arc::new(value),
                        revision,
                        fragments,
                    });
                }
                None => {
                    inner.rows.remove(&key);
                    if let Some(old) = old {
                        batch.delete(&base, old);
                    }
                }
            }
            staged.changed.insert(key);
        }
        if set_loaded {
            let fragments = batch.put(&loaded_key(R::TABLE), None, revision, &[]);
            inner.loaded = Some((revision, fragments));
        }
        Ok(true)
    }
}

/// A row to write with its encoding, or none to delete it; by key.
type Plan<R> = BTreeMap<String, Option<(R, Vec<u8>)>>;

/// The keys of all rows, those that cannot be read included.
fn present<R>(now: &Inner<R>) -> impl Iterator<Item = &String> {
    now.rows.keys().chain(now.unreadable.keys())
}

/// What really changes, encoded.
fn plan<R: Record>(now: &Inner<R>, request: Request<R>) -> Result<Plan<R>, StoreError> {
    let mut wanted: BTreeMap<String, Option<R>> = BTreeMap::new();
    match request {
        Request::Loaded => {}
        Request::Batch(changes) => {
            wanted.extend(changes.into_iter().map(|c| match c {
                Change::Put(row) => (row.key(), Some(row)),
                Change::Delete(key) => (key, None),
            }));
        }
        Request::Replace(rows) => {
            wanted.extend(rows.into_iter().map(|r| (r.key(), Some(r))));
            let missing = present(now).filter(|k| !wanted.contains_key(*k)).cloned();
            let missing: Vec<String> = missing.collect();
            wanted.extend(missing.into_iter().map(|k| (k, None)));
        }
        Request::Retain(keys) => {
            wanted.extend(present(now).filter(|k| !keys.contains(*k)).map(|k| (k.clone(), None)));
        }
    }
    let mut plan = BTreeMap::new();
    for (key, row) in wanted {
        match row {
            Some(row) if now.rows.get(&key).is_some_and(|have| **have == row) => {}
            Some(row) => {
                let payload = serde_json::to_vec(&row)
                    .map_err(|e| StoreError::Engine(format!("table {}: row {key:?}: {e}", R::TABLE)))?;
                check_limits(R::TABLE, &key, payload.len()).map_err(StoreError::Engine)?;
                plan.insert(key, Some((row, payload)));
            }
            None if now.rows.contains_key(&key) || now.unreadable.contains_key(&key) => {
                plan.insert(key, None);
            }
            None => {}
        }
    }
    Ok(plan)
}

impl<R: Record> AnyTable for TableState<R> {
    fn publish(&self, revision: Revision) {
        let mut write = lock(&self.write);
        let Some(Staged { inner, changed }) = write.staged.take() else { return };
        let loaded_changed = inner.loaded.is_some() != write.committed.loaded.is_some();
        let snapshot = Snapshot { rows: inner.rows.clone(), revision, loaded: inner.loaded.is_some() };
        // The old rows are let go outside the readers' locks.
        let old = std::mem::replace(&mut write.committed, inner);
        let mut hub = self.hub();
        let before =
            std::mem::replace(&mut *self.current.write().unwrap_or_else(PoisonError::into_inner), snapshot);
        hub.publish(&changed, loaded_changed);
        drop(hub);
        drop((old, before));
    }

    fn discard(&self) {
        lock(&self.write).staged = None;
    }

    fn raw(&self) -> Result<RawTable, String> {
        let inner = lock(&self.write).committed.clone();
        let mut rows = (*inner.unreadable).clone();
        for e in inner.rows.entries() {
            let payload = serde_json::to_vec(&*e.value)
                .map_err(|err| format!("table {}: {}: {err}", R::TABLE, e.key))?;
            rows.insert(e.key.clone(), RawRow { revision: e.revision, fragments: e.fragments, payload });
        }
        Ok(RawTable { loaded: inner.loaded, rows })
    }

    fn close(&self) {
        self.hub().close();
    }

    fn counts(&self) -> (usize, usize) {
        (self.read(|s| s.rows.len()), lock(&self.write).committed.unreadable.len())
    }
}

/// The tables of a store: those that somebody asked for, and the stored ones that nobody did.
pub(crate) struct Registry {
    open: BTreeMap<&'static str, Open>,
    raw: BTreeMap<String, RawTable>,
}

struct Open {
    typed: Arc<dyn Any + Send + Sync>,
    any: Arc<dyn AnyTable>,
}

impl Registry {
    pub(crate) fn new(raw: BTreeMap<String, RawTable>) -> Self {
        Self { open: BTreeMap::new(), raw }
    }

    /// The table of `R`; the same state for everybody who asks. `None` when another type holds the name.
    pub(crate) fn table<R: Record>(&mut self, revision: Revision) -> Option<Arc<TableState<R>>> {
        let raw = &mut self.raw;
        let open = self.open.entry(R::TABLE).or_insert_with(|| {
            let state = Arc::new(TableState::<R>::new(raw.remove(R::TABLE).unwrap_or_default(), revision));
            Open { typed: Arc::clone(&state) as Arc<dyn Any + Send + Sync>, any: state }
        });
        Arc::clone(&open.typed).downcast().ok()
    }

    /// Everything that is committed.
    pub(crate) fn content(&self) -> Result<BTreeMap<String, RawTable>, String> {
        let mut out = self.raw.clone();
        for (name, open) in &self.open {
            let raw = open.any.raw()?;
            if raw.loaded.is_some() || !raw.rows.is_empty() {
                out.insert((*name).to_owned(), raw);
            }
        }
        Ok(out)
    }

    pub(crate) fn close(&self) {
        for open in self.open.values() {
            open.any.close();
        }
    }

    /// Name, rows and unreadable rows of each table.
    pub(crate) fn counts(&self) -> Vec<(String, usize, usize)> {
        let raw = self.raw.iter().map(|(name, t)| (name.clone(), t.rows.len(), 0));
        let open = self.open.iter().map(|(name, o)| {
            let (rows, unreadable) = o.any.counts();
            ((*name).to_owned(), rows, unreadable)
        });
        let mut all: Vec<_> = raw.chain(open).collect();
        all.sort();
        all
    }
}
