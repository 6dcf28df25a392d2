//! The engine under the store: an ordered map of bytes with atomic batches. sled is the one implementation.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::codec::{Stored, Write};
use crate::disk::sync_dir;

/// Why an engine could not be opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// The files are damaged, or not this engine's.
    Damaged(String),
    /// Another process has them open.
    Locked,
    /// The system refused (permissions, disk full); the files may be fine.
    Io(io::Error),
}

/// An open engine. Every call may block on disk.
pub(crate) trait Engine: Send {
    /// Applies a batch: after a crash all of it is there, or none.
    fn apply(&mut self, batch: Vec<Write>) -> Result<(), String>;
    /// Returns once everything applied is on the disk, power loss included.
    fn flush(&mut self) -> Result<(), String>;
    /// Every record, in key order.
    fn scan(&mut self) -> Result<Vec<Stored>, String>;
    /// Bytes that its files take.
    fn disk_bytes(&self) -> u64;
}

/// Opens engines; tests put failing ones behind it.
pub(crate) trait Opener: Send + Sync {
    /// Opens or creates the engine in `dir`.
    fn open(&self, dir: &Path) -> Result<Box<dyn Engine>, OpenError>;
}

/// Opens sled.
pub(crate) struct SledOpener;

/// sled keeps its lock until the last of its threads has let go of the file; so long is waited for that.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// A damaged file has been seen to send engines into a loop; after so long it counts as damaged.
const OPEN_PATIENCE: Duration = Duration::from_secs(120);
/// Memory for pages: above what a node stores, so that a batch never has to read back a page of its own.
const CACHE_BYTES: u64 = 512 * 1024 * 1024;
/// sled's own flush: it also drives the reuse of space in its file.
const SELF_FLUSH_MS: u64 = 500;
/// Prefix of the files in which sled remembers where its log begins.
const SNAPSHOT_PREFIX: &str = "snap.";
/// Suffix of such a file that was not finished.
const UNFINISHED_SUFFIX: &str = ".generating";

impl Opener for SledOpener {
    fn open(&self, dir: &Path) -> Result<Box<dyn Engine>, OpenError> {
        fs::create_dir_all(dir).map_err(OpenError::Io)?;
        // A half-written snapshot sorts behind every whole one, and sled would trust it.
        for path in snapshots(dir).map_err(OpenError::Io)? {
            if path.to_string_lossy().ends_with(UNFINISHED_SUFFIX) {
                tracing::info!(path = %path.display(), "removing a half-written engine snapshot");
                fs::remove_file(&path).map_err(OpenError::Io)?;
            }
        }
        let begun = Instant::now();
        let db = loop {
            match open_on_a_thread(dir.to_owned()) {
                Err(OpenError::Locked) if begun.elapsed() < LOCK_PATIENCE => {
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                other => break other?,
            }
        };
        let engine =
            Sled { db: Some(db), log: File::open(dir.join("db")).map_err(OpenError::Io)?, dir: dir.into() };
        engine.sync_names().map_err(OpenError::Io)?;
        Ok(Box::new(engine))
    }
}

/// sled's snapshot files in `dir`.
pub(crate) fn snapshots(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(SNAPSHOT_PREFIX) {
            out.push(entry.path());
        }
    }
    Ok(out)
}

/// Opens sled so that neither a panic nor an endless loop in it takes the caller along.
fn open_on_a_thread(dir: PathBuf) -> Result<sled::Db, OpenError> {
    let (tx, rx) = mpsc::sync_channel(1);
    let config =
        sled::Config::new().path(&dir).cache_capacity(CACHE_BYTES).flush_every_ms(Some(SELF_FLUSH_MS));
    let thread = std::thread::Builder::new().name("store-open".into()).spawn(move || {
        let result = catch_unwind(AssertUnwindSafe(|| config.open()));
        // The receiver is gone only after it gave up on this thread.
        let _ = tx.send(result);
    });
    thread.map_err(OpenError::Io)?;
    match rx.recv_timeout(OPEN_PATIENCE) {
        Ok(Ok(Ok(db))) => Ok(db),
        Ok(Ok(Err(e))) => Err(classify(e)),
        Ok(Err(panic)) => Err(OpenError::Damaged(format!("the engine panicked: {}", panic_text(&*panic)))),
        Err(_) => {
            Err(OpenError::Damaged(format!("the engine did not open within {} s", OPEN_PATIENCE.as_secs())))
        }
    }
}

fn classify(e: sled::Error) -> OpenError {
    match e {
        // sled has no error of its own for this.
        sled::Error::Io(e) if e.to_string().contains("could not acquire lock") => OpenError::Locked,
        sled::Error::Io(e) if is_system(&e) => OpenError::Io(e),
        e => OpenError::Damaged(e.to_string()),
    }
}

/// Whether the error speaks of the system's state rather than of the files' content.
fn is_system(e: &io::Error) -> bool {
    use ErrorKind::{OutOfMemory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    matches!(e.kind(), OutOfMemory | PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull)
        || matches!(e.raw_os_error(), Some(EMFILE | ENFILE))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "(no message)".into())
}

/// Runs a call into sled, whose internal errors are often panics.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(v)) => Ok(v),
        Ok(Err(e)) => Err(e.to_string()),
        Err(panic) => Err(format!("the engine panicked: {}", panic_text(&*panic))),
    }
}

struct Sled {
    /// Taken only by `drop`.
    db: Option<sled::Db>,
    /// The log, opened once more: sled's flush writes pages back but does not wait for the disk's own cache nor for
    /// the file's size, so the store syncs the file itself.
    log: File,
    dir: PathBuf,
}

impl Sled {
    /// Makes the files' names durable and the files private.
    fn sync_names(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let file = entry.file_type()?.is_file();
            restrict(&entry.path(), if file { 0o600 } else { 0o700 })?;
            File::open(entry.path())?.sync_all()?;
        }
        sync_dir(&self.dir)
    }
    fn db(&self) -> Result<&sled::Db, String> {
        self.db.as_ref().ok_or_else(|| "the engine is closed".to_owned())
    }
}

impl Engine for Sled {
    fn apply(&mut self, batch: Vec<Write>) -> Result<(), String> {
        let db = self.db()?;
        let mut out = sled::Batch::default();
        for (key, value) in batch {
            match value {
                Some(value) => out.insert(key, value),
                None => out.remove(key),
            }
        }
        guarded(|| db.apply_batch(out))
    }
    fn flush(&mut self) -> Result<(), String> {
        let db = self.db()?;
        guarded(|| db.flush())?;
        self.log.sync_data().map_err(|e| format!("syncing {}: {e}", self.dir.join("db").display()))
    }
    fn scan(&mut self) -> Result<Vec<Stored>, String> {
        let db = self.db()?;
        guarded(|| db.iter().map(|r| r.map(|(k, v)| (k.to_vec(), v.to_vec()))).collect())
    }
    fn disk_bytes(&self) -> u64 {
        self.log.metadata().map_or(0, |m| std::os::unix::fs::MetadataExt::blocks(&m) * 512)
    }
}

impl Drop for Sled {
    fn drop(&mut self) {
        let db = self.db.take();
        // sled unwraps its last sync.
        if let Err(e) = guarded(|| {
            drop(db);
            Ok(())
        }) {
            tracing::warn!(dir = %self.dir.display(), error = %e, "the store's engine did not close cleanly");
        }
    }
}

/// Sets the permission bits of `path`.
pub(crate) fn restrict(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}
