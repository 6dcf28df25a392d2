//! Records the file operations below a directory, and makes one of them fail.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A handle to the file with this name, of a new and empty file if `fresh`.
    Open {
        handle: u64,
        path: PathBuf,
        fresh: bool,
    },
    Write(u64, Vec<u8>),
    SetLen(u64, u64),
    Sync(u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    SyncDir(PathBuf),
    MakeDir(PathBuf),
    /// Something that the test itself saw.
    Note(Note),
    /// The operation that was to fail.
    Failed,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Note {
    /// So many commits were acknowledged as flushed, or shown after opening: they must stay.
    Promised(usize),
    /// So many commits have been asked for.
    Asked(usize),
    /// So many states of the engine have been.
    Engine(usize),
}

#[derive(Default)]
struct Tape {
    events: Vec<Event>,
    fail_at: Option<usize>,
}

static TAPES: Mutex<BTreeMap<PathBuf, Tape>> = Mutex::new(BTreeMap::new());

fn tapes() -> MutexGuard<'static, BTreeMap<PathBuf, Tape>> {
    TAPES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records what happens below `root` from now on; the operation with this number fails.
pub(crate) fn start(root: &Path, fail_at: Option<usize>) {
    tapes().insert(root.to_owned(), Tape { fail_at, ..Tape::default() });
}

/// Ends recording and returns what happened.
pub(crate) fn stop(root: &Path) -> Vec<Event> {
    tapes().remove(root).map(|t| t.events).unwrap_or_default()
}

/// Notes what the test saw.
pub(crate) fn note(root: &Path, note: Note) {
    if let Some(tape) = tapes().get_mut(root) {
        tape.events.push(Event::Note(note));
    }
}

pub(crate) fn record(path: &Path, event: impl FnOnce() -> Event) -> io::Result<()> {
    let mut tapes = tapes();
    let Some((_, tape)) = tapes.iter_mut().find(|(root, _)| path.starts_with(root)) else { return Ok(()) };
    let operations = tape.events.iter().filter(|e| !matches!(e, Event::Note(_))).count();
    if tape.fail_at == Some(operations) {
        tape.events.push(Event::Failed);
        return Err(io::Error::from_raw_os_error(nix::libc::EIO));
    }
    tape.events.push(event());
    Ok(())
}

/// An open file, as the tape knows it.
pub(crate) struct Handle {
    id: u64,
    path: PathBuf,
}

impl Handle {
    pub(crate) fn new(path: &Path, fresh: bool) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        record(path, || Event::Open { handle: id, path: path.to_owned(), fresh })?;
        Ok(Self { id, path: path.to_owned() })
    }
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        record(&self.path, || Event::Write(self.id, bytes.to_vec()))
    }
    pub(crate) fn set_len(&self, len: u64) -> io::Result<()> {
        record(&self.path, || Event::SetLen(self.id, len))
    }
    pub(crate) fn sync(&self) -> io::Result<()> {
        record(&self.path, || Event::Sync(self.id))
    }
}
