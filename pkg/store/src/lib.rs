//! The embedded store: typed tables over one engine, revisions, change streams.
//!
//! Job: be the offline truth of a node. Subsystems read snapshots and follow changes; each table has one writer.
//! Inputs: rows from their one writer. Outputs: snapshots, change streams, revisions.
//! Owns: the files in its directory, nothing in the kernel.
//! Ordering: a write is visible to readers only after the engine has accepted it; with [`Durability::Flushed`]
//! only after it is on disk.

pub mod tables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};

/// A store-wide, strictly growing number: every committed write gets the next one. Survives restarts.
pub type Revision = u64;

/// When a write may be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// After it is on disk (fsync); concurrent flushed writes share one fsync. Leases, keys, tokens, API objects.
    Flushed,
    /// After the engine has it; on disk within a second. Rows that the API can give again.
    Cached,
}

/// A type of row. The key is text so that it can be listed and printed; it orders the table.
pub trait Record: Clone + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Name of the table.
    const TABLE: &'static str;
    /// The row's key, unique in its table.
    fn key(&self) -> String;
}

/// What went wrong in the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has it open.
    #[error("store {0}: in use by another process; is another warren running with this --data-dir?")]
    Locked(PathBuf),
    /// The directory cannot be used.
    #[error("store {path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The engine refused or failed an operation (disk full, I/O error).
    #[error("store: {0}")]
    Engine(String),
    /// Written by a newer Warren.
    #[error("store {path}: schema {found} is newer than this binary knows ({known}); run a newer warren, or move the directory away to rebuild it")]
    Schema {
        /// The directory.
        path: PathBuf,
        /// Schema on disk.
        found: u32,
        /// Newest schema known.
        known: u32,
    },
    /// The store is closed (its writer thread ended).
    #[error("store: closed")]
    Closed,
}

/// An open store; clones share it.
#[derive(Clone)]
pub struct Store(Arc<()>);

/// The result of opening: the store, and what had to be set aside.
pub struct Opened {
    /// The store.
    pub store: Store,
    /// When the files were torn or foreign: where they were moved and why. The store is then empty.
    pub set_aside: Option<SetAside>,
}

/// A store that could not be read and was moved away.
#[derive(Debug, Clone)]
pub struct SetAside {
    /// Where the old files are now.
    pub copy: PathBuf,
    /// Why they were not used.
    pub reason: String,
}

impl Store {
    /// Opens or creates the store in `dir` (mode 0700). Blocking; call it before the runtime or on a blocking thread.
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::Schema`], [`StoreError::Io`]. Torn or foreign files are no error: they
    /// are set aside and named in [`Opened::set_aside`].
    pub fn open(dir: &Path) -> Result<Opened, StoreError> {
        let _ = dir;
        todo!()
    }
    /// The table of `R`.
    pub fn table<R: Record>(&self) -> Table<R> {
        todo!()
    }
    /// The revision of the last committed write.
    pub fn revision(&self) -> Revision {
        todo!()
    }
    /// Flushes and closes; later writes give [`StoreError::Closed`].
    pub async fn close(&self) -> Result<(), StoreError> {
        todo!()
    }
}

/// One change of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Change<R> {
    /// Insert or replace the row under its key.
    Put(R),
    /// Remove the row with this key, if there is one.
    Delete(String),
}

/// A typed table. Reads come from memory and never block on disk; writes go through the store's writer thread.
pub struct Table<R: Record>(std::marker::PhantomData<R>);

impl<R: Record> Clone for Table<R> {
    fn clone(&self) -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<R: Record> Table<R> {
    /// One row.
    pub fn get(&self, key: &str) -> Option<Arc<R>> {
        let _ = key;
        todo!()
    }
    /// Every row, by key. Cheap: an immutable shared map.
    pub fn snapshot(&self) -> Snapshot<R> {
        todo!()
    }
    /// Commits a batch atomically: all of it or none. A batch that changes nothing commits nothing and returns the
    /// current revision.
    ///
    /// # Errors
    /// The engine's; then nothing of the batch is visible.
    pub async fn commit(&self, batch: Vec<Change<R>>, durability: Durability) -> Result<Revision, StoreError> {
        let _ = (batch, durability);
        todo!()
    }
    /// Inserts or replaces one row.
    ///
    /// # Errors
    /// As [`Table::commit`].
    pub async fn put(&self, row: R, durability: Durability) -> Result<Revision, StoreError> {
        self.commit(vec![Change::Put(row)], durability).await
    }
    /// Removes one row.
    ///
    /// # Errors
    /// As [`Table::commit`].
    pub async fn delete(&self, key: &str, durability: Durability) -> Result<Revision, StoreError> {
        self.commit(vec![Change::Delete(key.to_owned())], durability).await
    }
    /// Makes the table hold exactly `rows` (a completed relist): puts what differs, deletes what is missing, and marks
    /// the table loaded.
    ///
    /// # Errors
    /// As [`Table::commit`].
    pub async fn replace(&self, rows: Vec<R>, durability: Durability) -> Result<Revision, StoreError> {
        let _ = (rows, durability);
        todo!()
    }
    /// Whether the table ever completed a first load (in this process or, persisted, an earlier one): the in-sync gate.
    pub fn loaded(&self) -> bool {
        todo!()
    }
    /// Marks the table loaded (tables whose writer has no relist).
    ///
    /// # Errors
    /// As [`Table::commit`].
    pub async fn mark_loaded(&self) -> Result<(), StoreError> {
        todo!()
    }
    /// Follows the table.
    pub fn watch(&self) -> Watch<R> {
        todo!()
    }
}

/// An immutable view of a table.
#[derive(Clone)]
pub struct Snapshot<R> {
    /// The rows, by key.
    pub rows: Arc<BTreeMap<String, Arc<R>>>,
    /// The revision it shows.
    pub revision: Revision,
    /// As [`Table::loaded`].
    pub loaded: bool,
}

/// What a [`Watch`] yields.
#[derive(Clone)]
pub enum Update<R> {
    /// The whole table: first always, and again whenever the reader fell too far behind to be told each key.
    Snapshot(Snapshot<R>),
    /// The keys that changed since the last update, each with its row now (`None`: removed), plus the snapshot they
    /// are taken from. Several changes of one key arrive as one.
    Delta {
        /// Changed keys.
        changes: BTreeMap<String, Option<Arc<R>>>,
        /// The table after them.
        snapshot: Snapshot<R>,
    },
}

/// A change stream: memory is bounded by a fixed number of pending keys whatever the reader does; a dropped `Watch`
/// costs nothing.
pub struct Watch<R: Record>(std::marker::PhantomData<R>);

impl<R: Record> Watch<R> {
    /// The next update; waits for one. `None` when the store has closed. Cancel safe.
    pub async fn next(&mut self) -> Option<Update<R>> {
        todo!()
    }
    /// Waits until [`Table::loaded`], then returns a snapshot. `None` when the store has closed.
    pub async fn loaded(&mut self) -> Option<Snapshot<R>> {
        todo!()
    }
}
