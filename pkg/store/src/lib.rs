//! The embedded store: typed tables over one engine, revisions, change streams.
//!
//! Job: be the offline truth of a node. Subsystems read snapshots and follow changes; each table has one writer.
//! Inputs: rows from their one writer. Outputs: snapshots, change streams, revisions.
//! Owns: the files in its directory, nothing in the kernel.
//! Ordering: a write is visible to readers only after the engine has accepted it; with [`Durability::Flushed`]
//! only after it is on disk.
//!
//! How: tables live in memory; the engine (sled, behind a small trait) keeps them, and a journal beside it keeps the
//! same once more, because the engine's own flush is not enough when the power fails. One thread of its own writes, in
//! groups that share a flush; reads never leave memory. Files that cannot be read are made anew from the other copy,
//! and set aside when both are bad, never a reason not to start. Files that fail while running are opened again and
//! brought to what memory holds.

mod codec;
mod disk;
mod engine;
mod files;
mod journal;
mod rows;
mod table;
pub mod tables;
#[cfg(test)]
mod tests;
mod watch;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{Semaphore, oneshot};

pub use rows::{Iter, Rows};
pub use watch::Watch;

use engine::Opener;
use table::{AnyTable, Registry, Request, TableState};
use writer::{Commit, Core, Message, Writer};

/// Requests that may wait for the writer thread; more wait for a place.
const QUEUE: usize = 1024;

/// The format of the files: what this version writes, and the newest that it reads.
pub const FORMAT: u32 = codec::SCHEMA;

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
    #[error(
        "store {path}: schema {found} is newer than this binary knows ({known}); run a newer warren, or move the directory away to rebuild it"
    )]
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

/// An open store; clones share it. The last clone that goes, of the store and of its tables, flushes and closes.
#[derive(Clone)]
pub struct Store(Arc<Handle>);

struct Handle {
    core: Arc<Core>,
    dir: PathBuf,
    places: Arc<Semaphore>,
    queue: Option<SyncSender<Message>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Handle {
    async fn send<T>(
        &self,
        make: impl FnOnce(tokio::sync::OwnedSemaphorePermit, oneshot::Sender<T>) -> Message,
    ) -> Option<T> {
        let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
        let (tx, rx) = oneshot::channel();
        // There is room for every place.
        self.queue.as_ref()?.try_send(make(place, tx)).ok()?;
        rx.await.ok()
    }
    fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|t| t.join().is_err()) {
            tracing::error!(dir = %self.dir.display(), "the store's writer thread panicked");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue = None;
        self.join();
    }
}

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

/// What a store tells about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// Its directory.
    pub dir: PathBuf,
    /// Revision of the last committed write.
    pub revision: Revision,
    /// Bytes that its files take, as last measured.
    pub disk_bytes: u64,
    /// Flushes since it was opened.
    pub flushes: u64,
    /// Name, rows and unreadable rows of each table.
    pub tables: Vec<(String, usize, usize)>,
    /// The engine's last error, while it does not work.
    pub failure: Option<String>,
}

impl Store {
    /// Opens or creates the store in `dir` (mode 0700). Blocking; call it before the runtime or on a blocking thread.
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::Schema`], [`StoreError::Io`]. Torn or foreign files are no error: they
    /// are set aside and named in [`Opened::set_aside`].
    pub fn open(dir: &Path) -> Result<Opened, StoreError> {
        Self::open_with(dir, Arc::new(engine::SledOpener))
    }

    fn open_with(dir: &Path, opener: Arc<dyn Opener>) -> Result<Opened, StoreError> {
        let files::Loaded { files, open, set_aside } = files::open(dir, &*opener)?;
        let core = Arc::new(Core {
            registry: Mutex::new(Registry::new(open.content.tables)),
            revision: AtomicU64::new(open.content.revision),
            disk_bytes: AtomicU64::new(open.engine.disk_bytes() + open.journal.len()),
            flushes: AtomicU64::new(0),
            failure: Mutex::new(None),
        });
        let dir = files.dir.clone();
        let writer = Writer {
            core: Arc::clone(&core),
            files,
            opener,
            engine: Some(open.engine),
            journal: open.journal,
            revision: open.content.revision,
            digest: open.content.digest,
            unflushed: None,
            revived: None,
        };
        let (queue, requests) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(&requests))
            .map_err(|source| StoreError::Io { path: dir.clone(), source })?;
        let handle = Handle {
            core,
            dir,
            places: Arc::new(Semaphore::new(QUEUE)),
            queue: Some(queue),
            thread: Mutex::new(Some(thread)),
        };
        Ok(Opened { store: Store(Arc::new(handle)), set_aside })
    }

    /// The table of `R`. Everybody who asks gets the same one. Should two types claim one name, the second gets a table
    /// that is empty and refuses writes.
    pub fn table<R: Record>(&self) -> Table<R> {
        let found = self.0.core.registry().table(self.revision());
        let usable = found.is_some();
        if !usable {
            tracing::error!(table = R::TABLE, "two types of row claim this table");
        }
        let state = found.unwrap_or_else(|| Arc::new(TableState::new(codec::RawTable::default(), 0)));
        Table { state, handle: Arc::clone(&self.0), usable }
    }

    /// The revision of the last committed write.
    pub fn revision(&self) -> Revision {
        self.0.core.revision.load(Ordering::Acquire)
    }

    /// The store's directory.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Size, tables and health, for status and metrics.
    pub fn stats(&self) -> Stats {
        let core = &self.0.core;
        Stats {
            dir: self.0.dir.clone(),
            revision: self.revision(),
            disk_bytes: core.disk_bytes.load(Ordering::Relaxed),
            flushes: core.flushes.load(Ordering::Relaxed),
            tables: core.registry().counts(),
            failure: core.failure().clone(),
        }
    }

    /// Flushes and closes; later writes give [`StoreError::Closed`], watches end. Reads go on from memory. The
    /// directory can be opened again when this has returned. Closing twice is no error.
    ///
    /// # Errors
    /// The engine's: cached writes of the last second may be lost.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.0.send(|_place, reply| Message::Close(reply)).await.unwrap_or(Ok(()))
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
///
/// A write whose future is dropped may still happen.
pub struct Table<R: Record> {
    state: Arc<TableState<R>>,
    handle: Arc<Handle>,
    usable: bool,
}

impl<R: Record> Clone for Table<R> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state), handle: Arc::clone(&self.handle), usable: self.usable }
    }
}

impl<R: Record> Table<R> {
    /// One row.
    pub fn get(&self, key: &str) -> Option<Arc<R>> {
        self.state.read(|s| s.rows.get(key).cloned())
    }
    /// One row and the revision of the commit that wrote it.
    pub fn get_with_revision(&self, key: &str) -> Option<(Arc<R>, Revision)> {
        self.state.read(|s| s.rows.get_with_revision(key).map(|(row, rev)| (Arc::clone(row), rev)))
    }
    /// Every row, by key. Cheap: an immutable shared map.
    pub fn snapshot(&self) -> Snapshot<R> {
        self.state.snapshot()
    }
    /// Every row with the revision of the commit that wrote it, by key, and the revision of the whole. The same is in
    /// [`Rows::iter_with_revisions`] of a snapshot, without the copy.
    pub fn snapshot_with_revisions(&self) -> (BTreeMap<String, (Arc<R>, Revision)>, Revision) {
        let s = self.snapshot();
        let rows =
            s.rows.iter_with_revisions().map(|(k, row, rev)| (k.clone(), (Arc::clone(row), rev))).collect();
        (rows, s.revision)
    }

    async fn request(&self, request: Request<R>, durability: Durability) -> Result<Revision, StoreError> {
        if !self.usable {
            return Err(StoreError::Engine(format!("table {}: another type of row has this name", R::TABLE)));
        }
        let state = Arc::clone(&self.state);
        let stage = Box::new(move |revision, batch: &mut codec::Batch| state.stage(request, revision, batch));
        let table = Arc::clone(&self.state) as Arc<dyn AnyTable>;
        let sent = self
            .handle
            .send(|place, reply| Message::Commit(Commit { table, stage, durability, reply, place }));
        sent.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Commits a batch atomically: all of it or none. A batch that changes nothing commits nothing and returns the
    /// current revision (after a flush, if one is asked for and earlier writes still need it).
    ///
    /// # Errors
    /// The engine's; then nothing of the batch is visible.
    pub async fn commit(
        &self,
        batch: Vec<Change<R>>,
        durability: Durability,
    ) -> Result<Revision, StoreError> {
        self.request(Request::Batch(batch), durability).await
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
        self.request(Request::Replace(rows), durability).await
    }
    /// Deletes the rows whose keys are not among these, and marks the table loaded: the end of a relist whose rows were
    /// committed as they came. Beside [`Table::replace`], readers see some of the list before the rest and a crash may leave
    /// it so, but nobody holds the whole list in memory: for rows that the API can give again.
    ///
    /// # Errors
    /// As [`Table::commit`].
    pub async fn retain(
        &self,
        keys: BTreeSet<String>,
        durability: Durability,
    ) -> Result<Revision, StoreError> {
        self.request(Request::Retain(keys), durability).await
    }
    /// Whether the table ever completed a first load (in this process or, persisted, an earlier one): the in-sync gate.
    pub fn loaded(&self) -> bool {
        self.state.read(|s| s.loaded)
    }
    /// Marks the table loaded (tables whose writer has no relist).
    ///
    /// # Errors
    /// As [`Table::commit`].
    pub async fn mark_loaded(&self) -> Result<(), StoreError> {
        self.request(Request::Loaded, Durability::Cached).await.map(drop)
    }
    /// Follows the table.
    pub fn watch(&self) -> Watch<R> {
        Watch::new(Arc::clone(&self.state))
    }
}

/// An immutable view of a table.
pub struct Snapshot<R> {
    /// The rows, by key.
    pub rows: Rows<R>,
    /// The revision it shows: the last commit that changed this table, or the store's when it was opened.
    pub revision: Revision,
    /// As [`Table::loaded`].
    pub loaded: bool,
}

impl<R> Clone for Snapshot<R> {
    fn clone(&self) -> Self {
        Self { rows: self.rows.clone(), revision: self.revision, loaded: self.loaded }
    }
}

/// What a [`Watch`] yields.
pub enum Update<R> {
    /// The whole table: first always, and again whenever the reader fell too far behind to be told each key.
    Snapshot(Snapshot<R>),
    /// The keys that changed since the last update, each with its row now (`None`: removed), plus the snapshot they
    /// are taken from. Several changes of one key arrive as one. No keys at all: only [`Snapshot::loaded`] changed.
    Delta {
        /// Changed keys.
        changes: BTreeMap<String, Option<Arc<R>>>,
        /// The table after them.
        snapshot: Snapshot<R>,
    },
}

impl<R> Update<R> {
    /// The rows that it tells of, by their keys; none: removed. Of a whole table, those of `known` that are not in it are.
    pub fn rows_by_key(self, known: impl FnOnce() -> Vec<String>) -> BTreeMap<String, Option<Arc<R>>> {
        match self {
            Self::Delta { changes, .. } => changes,
            Self::Snapshot(snapshot) => {
                let mut all: BTreeMap<_, _> = known().into_iter().map(|key| (key, None)).collect();
                all.extend(snapshot.rows.iter().map(|(key, row)| (key.clone(), Some(row.clone()))));
                all
            }
        }
    }

    /// The table after this update.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot<R> {
        match self {
            Update::Snapshot(snapshot) | Update::Delta { snapshot, .. } => snapshot,
        }
    }
}

impl<R> Clone for Update<R> {
    fn clone(&self) -> Self {
        match self {
            Update::Snapshot(s) => Update::Snapshot(s.clone()),
            Update::Delta { changes, snapshot } => {
                Update::Delta { changes: changes.clone(), snapshot: snapshot.clone() }
            }
        }
    }
}
