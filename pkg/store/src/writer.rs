//! The writer thread: takes requests in order, commits them in groups, keeps the engine alive.
//!
//! Requests that wait at the same time form one group: one engine batch, one flush of the journal. What a group changed is shown to
//! readers, and acknowledged, only after the engine has all of it. While the process lives, memory is the truth: an
//! engine that failed (disk full, I/O error, a panic inside) is thrown away, opened again and brought to what memory
//! holds before the next group, so that an error is an answer to those who met it and to nobody after them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::codec::{Batch, Content, Digest};
use crate::engine::{Engine, OpenError, Opener};
use crate::files::Files;
use crate::journal::{BeginError, Journal};
use crate::table::{AnyTable, Registry};
use crate::{Durability, Revision, StoreError};

/// Cached writes reach the disk after at most this and one flush.
const CACHED_FLUSH: Duration = Duration::from_millis(500);
/// A group is closed when it has this many requests,
const GROUP_REQUESTS: usize = 256;
/// or this many engine writes.
const GROUP_WRITES: usize = 4096;
/// After a failed attempt to revive the engine, requests fail at once for this long.
const REVIVE_PAUSE: Duration = Duration::from_millis(200);
/// How often the engine's size is looked at.
const SIZE_CHECK: Duration = Duration::from_secs(30);
/// The engine's files are written anew when they take more than this,
const COMPACT_BYTES: u64 = 64 * 1024 * 1024;
/// and this many times what they hold.
const COMPACT_FACTOR: u64 = 8;

/// What store handles and the writer share.
pub(crate) struct Core {
    pub(crate) registry: Mutex<Registry>,
    pub(crate) revision: AtomicU64,
    pub(crate) disk_bytes: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) failure: Mutex<Option<String>>,
}

impl Core {
    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(crate) fn failure(&self) -> MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Stage = Box<dyn FnOnce(Revision, &mut Batch) -> Result<bool, StoreError> + Send>;

/// A request to the writer thread.
pub(crate) enum Message {
    Commit(Commit),
    /// Flush, close the engine, end.
    Close(oneshot::Sender<Result<(), StoreError>>),
}

/// A batch for one table.
pub(crate) struct Commit {
    pub(crate) table: Arc<dyn AnyTable>,
    pub(crate) stage: Stage,
    pub(crate) durability: Durability,
    pub(crate) reply: oneshot::Sender<Result<Revision, StoreError>>,
    /// The place in the queue, given back when the request is done.
    pub(crate) place: OwnedSemaphorePermit,
}

/// The state of the thread.
pub(crate) struct Writer {
    pub(crate) core: Arc<Core>,
    pub(crate) files: Files,
    pub(crate) opener: Arc<dyn Opener>,
    /// None after a failure, until revived.
    pub(crate) engine: Option<Box<dyn Engine>>,
    pub(crate) journal: Journal,
    /// Last revision given out; those of failed groups are not given again.
    pub(crate) revision: Revision,
    pub(crate) digest: Digest,
    /// Since when something applied is not flushed.
    pub(crate) unflushed: Option<Instant>,
    pub(crate) revived: Option<(Instant, String)>,
}

/// A request that was staged and waits for its group.
struct Waiting {
    commit: Pending,
    revision: Revision,
}

struct Pending {
    table: Arc<dyn AnyTable>,
    reply: oneshot::Sender<Result<Revision, StoreError>>,
    _place: OwnedSemaphorePermit,
}

impl Writer {
    /// Runs until told to close or until every handle is gone.
    pub(crate) fn run(mut self, queue: &Receiver<Message>) {
        let mut next_size_check = Instant::now();
        let reply = loop {
            if Instant::now() >= next_size_check {
                next_size_check = Instant::now() + SIZE_CHECK;
                self.check_size();
            }
            let flush_due = self.unflushed.map(|since| since + CACHED_FLUSH);
            let until = flush_due.unwrap_or(next_size_check);
            match queue.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Message::Commit(first)) => {
                    if let Some(reply) = self.group(first, queue) {
                        break Some(reply);
                    }
                    self.trim_journal();
                    if flush_due.is_some_and(|due| Instant::now() >= due) {
                        self.flush_cached();
                    }
                }
                Ok(Message::Close(reply)) => break Some(reply),
                Err(RecvTimeoutError::Timeout) => self.flush_cached(),
                Err(RecvTimeoutError::Disconnected) => break None,
            }
        };
        let mut result = self.flush();
        if let Some(mut engine) = self.engine.take()
            && let Err(e) = engine.flush()
        {
            // The journal has it all.
            tracing::warn!(error = %e, "the store's engine could not be flushed");
        }
        if self.core.failure().is_some() && result.is_ok() {
            result = self.revive();
        }
        self.engine = None;
        self.core.registry().close();
        // The lock goes before anybody hears that the store is closed.
        drop(self.files);
        if let Err(e) = &result {
            tracing::error!(error = %e, "the store's last flush failed");
        }
        if let Some(reply) = reply {
            let _ = reply.send(result.map_err(StoreError::Engine));
        }
    }

    /// Commits `first` and what else waits. Returns the reply to a close request that came up.
    fn group(
        &mut self,
        first: Commit,
        queue: &Receiver<Message>,
    ) -> Option<oneshot::Sender<Result<(), StoreError>>> {
        let (mut batch, mut waiting, mut closing) = (Batch::default(), Vec::new(), None);
        let mut flush = false;
        let mut next = Some(first);
        while let Some(commit) = next.take() {
            let Commit { table, stage, durability, reply, place } = commit;
            let pending = Pending { table, reply, _place: place };
            let revision = self.revision + 1;
            match catch_unwind(AssertUnwindSafe(|| stage(revision, &mut batch))) {
                Ok(Ok(changed)) => {
                    self.revision += u64::from(changed);
                    flush |= durability == Durability::Flushed;
                    waiting.push(Waiting { commit: pending, revision: self.revision });
                }
                Ok(Err(e)) => {
                    let _ = pending.reply.send(Err(e));
                }
                Err(_) => {
                    let _ = pending
                        .reply
                        .send(Err(StoreError::Engine("a row panicked while it was encoded".into())));
                }
            }
            if waiting.len() < GROUP_REQUESTS && batch.writes.len() < GROUP_WRITES {
                match queue.try_recv() {
                    Ok(Message::Commit(commit)) => next = Some(commit),
                    Ok(Message::Close(reply)) => closing = Some(reply),
                    Err(_) => {}
                }
            }
        }
        match self.write(batch, flush) {
            Ok(()) => {
                // The last request of a table shows all that was staged in it, under its own revision.
                for w in waiting.iter().rev() {
                    w.commit.table.publish(w.revision);
                }
                if let Some(last) = waiting.last() {
                    self.core.revision.store(last.revision, Ordering::Release);
                }
                for w in waiting {
                    let _ = w.commit.reply.send(Ok(w.revision));
                }
            }
            Err(e) => {
                for w in &waiting {
                    w.commit.table.discard();
                }
                for w in waiting {
                    let _ = w.commit.reply.send(Err(StoreError::Engine(e.clone())));
                }
            }
        }
        closing
    }

    fn write(&mut self, mut batch: Batch, flush: bool) -> Result<(), String> {
        if batch.writes.is_empty() && !(flush && self.unflushed.is_some()) {
            return Ok(());
        }
        self.revive()?;
        if !batch.writes.is_empty() {
            let digest = self.digest.plus(batch.digest);
            batch.seal(self.revision, digest);
            self.unflushed.get_or_insert_with(Instant::now);
            self.attempt(|w| {
                w.journal.append(&batch.writes).map_err(|e| format!("writing the journal: {e}"))?;
                w.engine.as_mut().ok_or("the engine is closed")?.apply(batch.writes)
            })?;
            if flush {
                self.flush()?;
            }
            self.digest = digest;
            return Ok(());
        }
        self.flush()
    }

    /// Begins the journal anew when it has become long.
    fn trim_journal(&mut self) {
        if !self.journal.is_long() || self.engine.is_none() {
            return;
        }
        let content = match self.content() {
            Ok(content) => content,
            Err(e) => {
                tracing::warn!(dir = %self.files.dir.display(), error = e, "the store's journal could not be begun anew");
                return self.journal.postpone();
            }
        };
        match Journal::begin(&self.files.dir, &content) {
            Ok(journal) => {
                self.journal = journal;
                self.unflushed = None;
            }
            Err(BeginError::Replaced(e)) => {
                // The open journal has no name any more. Before the next write all is made anew.
                let _ = self.attempt(|_| Err(format!("beginning the journal anew: {e}")));
            }
            Err(BeginError::Kept(e)) => {
                tracing::warn!(dir = %self.files.dir.display(), error = %e, "the store's journal could not be begun anew");
                self.journal.postpone();
            }
        }
    }

    fn flush(&mut self) -> Result<(), String> {
        if self.unflushed.is_none() {
            return Ok(());
        }
        self.revive()?;
        // Reviving flushes too.
        if self.unflushed.is_some() {
            self.attempt(|w| w.journal.sync().map_err(|e| format!("syncing the journal: {e}")))?;
            self.core.flushes.fetch_add(1, Ordering::Relaxed);
            self.unflushed = None;
        }
        Ok(())
    }

    fn flush_cached(&mut self) {
        if let Err(e) = self.flush() {
            tracing::warn!(error = %e, "the store could not be flushed; trying again");
            self.unflushed = Some(Instant::now());
        }
    }

    /// Runs what must succeed on journal and engine; after an error neither is trusted.
    fn attempt(&mut self, call: impl FnOnce(&mut Self) -> Result<(), String>) -> Result<(), String> {
        let result = call(self);
        if let Err(e) = &result {
            tracing::error!(dir = %self.files.dir.display(), error = %e, "the store's files failed; they will be opened again");
            *self.core.failure() = Some(e.clone());
            self.engine = None;
        }
        result
    }

    /// What memory holds.
    fn content(&self) -> Result<Content, String> {
        let tables = self.core.registry().content()?;
        Ok(Content {
            revision: self.core.revision.load(Ordering::Acquire),
            digest: Digest::default(),
            tables,
        })
    }

    /// Makes sure that there is an engine and that it holds what memory holds.
    fn revive(&mut self) -> Result<(), String> {
        if self.engine.is_some() {
            return Ok(());
        }
        if let Some((at, error)) = &self.revived
            && at.elapsed() < REVIVE_PAUSE
        {
            return Err(error.clone());
        }
        let result = self.try_revive();
        match &result {
            Ok(()) => {
                tracing::info!(dir = %self.files.dir.display(), "the store's engine works again");
                self.revived = None;
                self.unflushed = None;
                *self.core.failure() = None;
            }
            Err(e) => self.revived = Some((Instant::now(), e.clone())),
        }
        result
    }

    fn try_revive(&mut self) -> Result<(), String> {
        let content = self.content()?;
        // First of all what failed writes left in the journal has to go.
        self.journal =
            Journal::begin(&self.files.dir, &content).map_err(|e| format!("writing the journal: {e}"))?;
        let (mut engine, digest) = match self.files.reopen(&*self.opener) {
            Ok((mut engine, on_disk)) => {
                let (batch, digest) = content.difference(&on_disk);
                engine.apply(batch.writes)?;
                (engine, digest)
            }
            Err((e, false)) => return Err(e),
            Err((e, true)) => {
                tracing::error!(dir = %self.files.dir.display(), error = %e, "the store's files are damaged; writing them anew from memory");
                self.files.next_generation(&*self.opener, &content).map_err(|e| match e {
                    OpenError::Damaged(e) => e,
                    OpenError::Locked => "the files are locked".into(),
                    OpenError::Io(e) => e.to_string(),
                })?
            }
        };
        engine.flush()?;
        self.engine = Some(engine);
        self.digest = digest;
        Ok(())
    }

    /// Notes the engine's size, and writes its files anew when they hold mostly what is no longer needed.
    fn check_size(&mut self) {
        let Some(bytes) = self.engine.as_ref().map(|e| e.disk_bytes()) else { return };
        self.core.disk_bytes.store(bytes + self.journal.len(), Ordering::Relaxed);
        if bytes < COMPACT_BYTES {
            return;
        }
        let Ok(content) = self.content() else { return };
        let held: u64 = content.records().values().map(|r| 64 + r.2.len() as u64).sum();
        if bytes < held * COMPACT_FACTOR {
            return;
        }
        match self.files.next_generation(&*self.opener, &content) {
            Ok((engine, digest)) => {
                let after = engine.disk_bytes();
                tracing::info!(before = bytes, after, "the store's files were written anew");
                self.core.disk_bytes.store(after + self.journal.len(), Ordering::Relaxed);
                self.engine = Some(engine);
                self.digest = digest;
            }
            Err(e) => tracing::warn!(error = ?e, "the store's files could not be written anew"),
        }
    }
}
