//! The store's directory: lock, format, generations of engine files, and setting aside.
//!
//! ```text
//! DIR/lock           held while open
//! DIR/FORMAT         schema and current generation, replaced by rename
//! DIR/gen-<n>/       the engine's files
//! DIR/journal        the same once more, see the module of that name
//! DIR.broken-<n>/    what could not be read
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::codec::{Content, Digest, SCHEMA};
use crate::disk::{self, DiskFile, sync_dir};
use crate::engine::{Engine, OpenError, Opener, restrict, snapshots};
use crate::journal::{Found, Journal};
use crate::{SetAside, StoreError};

const LOCK: &str = "lock";
const FORMAT: &str = "FORMAT";
const FORMAT_NEW: &str = "FORMAT.new";
const FORMAT_WORD: &str = "warren-store";
const GENERATION: &str = "gen-";
/// So many set-aside copies are kept; older ones are removed, so that a crash loop cannot fill the disk.
const COPIES: usize = 5;
/// So long a lock is waited for: a program that its holder starts has it too, from the fork until it is executed, and may so
/// outlive the holder for a moment.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The directory, locked.
pub(crate) struct Files {
    pub(crate) dir: PathBuf,
    /// Current generation; 0: none was completed yet.
    generation: u64,
    _lock: File,
}

/// What opening gave.
pub(crate) struct Loaded {
    pub(crate) files: Files,
    pub(crate) open: Open,
    pub(crate) set_aside: Option<SetAside>,
}

/// An engine and a journal that agree, and what they hold.
pub(crate) struct Open {
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) journal: Journal,
    pub(crate) content: Content,
}

enum Failure {
    /// The content is unusable.
    Damaged(String),
    /// The caller's problem.
    Refused(StoreError),
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Io { path: path.to_owned(), source }
}

/// Opens the store in `dir`, whatever lies there.
pub(crate) fn open(dir: &Path, opener: &dyn Opener) -> Result<Loaded, StoreError> {
    let dir = absolute(dir).map_err(io_error(dir))?;
    if fs::symlink_metadata(&dir).is_ok_and(|m| !m.is_dir() && !m.is_symlink()) {
        // A file in our place: foreign.
        let copy = move_aside(&dir).map_err(io_error(&dir))?;
        let mut loaded = open(&dir, opener)?;
        loaded.set_aside = Some(SetAside { copy, reason: "it is not a directory".into() });
        return Ok(loaded);
    }
    let mut files = Files::lock(&dir)?;
    match files.load(opener) {
        Ok(open) => Ok(Loaded { files, open, set_aside: None }),
        Err(Failure::Refused(e)) => Err(e),
        Err(Failure::Damaged(reason)) => {
            let copy = files.set_aside().map_err(io_error(&dir))?;
            tracing::warn!(dir = %dir.display(), copy = %copy.display(), reason, "the store could not be read and was set aside");
            let mut files = files.relock()?;
            match files.load(opener) {
                Ok(open) => Ok(Loaded { files, open, set_aside: Some(SetAside { copy, reason }) }),
                Err(Failure::Refused(e)) => Err(e),
                Err(Failure::Damaged(e)) => {
                    Err(StoreError::Engine(format!("{}: a new store cannot be made: {e}", dir.display())))
                }
            }
        }
    }
}

fn absolute(dir: &Path) -> io::Result<PathBuf> {
    std::path::absolute(dir)
}

fn create_private(dir: &Path) -> io::Result<()> {
    disk::create_dir(dir)?;
    restrict(dir, 0o700)
}

impl Files {
    fn lock(dir: &Path) -> Result<Self, StoreError> {
        create_private(dir).map_err(io_error(dir))?;
        let path = dir.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = lock.map_err(io_error(&path))?;
        let begun = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { dir: dir.to_owned(), generation: 0, _lock: lock }),
                Err(TryLockError::WouldBlock) if begun.elapsed() < LOCK_PATIENCE => {
                    std::thread::park_timeout(LOCK_PAUSE);
                }
                Err(TryLockError::WouldBlock) => return Err(StoreError::Locked(dir.to_owned())),
                Err(TryLockError::Error(e)) => return Err(io_error(&path)(e)),
            }
        }
    }

    /// After the directory moved away: a new one in its place. The old lock is held until the new one is.
    fn relock(self) -> Result<Self, StoreError> {
        Self::lock(&self.dir)
    }

    fn generation_dir(&self, n: u64) -> PathBuf {
        self.dir.join(format!("{GENERATION}{n}"))
    }

    /// Reads what is there, or makes an empty store where nothing is.
    fn load(&mut self, opener: &dyn Opener) -> Result<Open, Failure> {
        let path = self.dir.clone();
        let io = |e| Failure::Refused(io_error(&path)(e));
        self.generation = match fs::read_to_string(self.dir.join(FORMAT)) {
            Ok(text) => {
                let (schema, generation) = parse_format(&text)
                    .ok_or_else(|| Failure::Damaged(format!("{FORMAT} is not a store's")))?;
                if schema > SCHEMA {
                    let (path, found, known) = (self.dir.clone(), schema, SCHEMA);
                    return Err(Failure::Refused(StoreError::Schema { path, found, known }));
                }
                generation
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut names = self.names().map_err(io)?;
                names.retain(|n| n != LOCK && n != FORMAT_NEW);
                if let Some(first) = names.first() {
                    return Err(Failure::Damaged(format!("{FORMAT} is missing but {first} is there")));
                }
                0
            }
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                return Err(Failure::Damaged(format!("{FORMAT} is not text")));
            }
            Err(e) => return Err(io(e)),
        };
        if self.generation == 0 {
            self.remove_other_generations().map_err(io)?;
            Journal::remove(&self.dir).map_err(io)?;
            self.write_format(0).map_err(io)?;
            let content = Content::default();
            let journal = Journal::begin(&self.dir, &content).map_err(|e| io(e.into()))?;
            let (engine, _) = self.next_generation(opener, &content).map_err(|e| match e {
                OpenError::Damaged(e) => Failure::Damaged(e),
                OpenError::Locked => Failure::Refused(StoreError::Locked(path.clone())),
                OpenError::Io(e) => io(e),
            })?;
            return Ok(Open { engine, journal, content });
        }
        let journal = Journal::read(&self.dir);
        let engine = self.read_engine(opener);
        let open = self.agree(opener, engine, journal)?;
        self.remove_other_generations().map_err(io)?;
        Ok(open)
    }

    /// Takes the newer of engine and journal that is intact, and brings the other to it.
    fn agree(
        &mut self,
        opener: &dyn Opener,
        engine: Result<(Box<dyn Engine>, Content), Failure>,
        journal: Result<Option<Found>, String>,
    ) -> Result<Open, Failure> {
        let path = self.dir.clone();
        let io = |e| Failure::Refused(io_error(&path)(e));
        let warn = |what: &str, error: &str| {
            tracing::warn!(dir = %path.display(), error, "{what}");
        };
        let found = match journal {
            Ok(found) => found,
            Err(e) => {
                warn("the store's journal is damaged; the engine's files are used alone", &e);
                None
            }
        };
        match (engine, found) {
            (Ok((mut engine, have)), Some(found)) if found.content.revision > have.revision => {
                tracing::info!(dir = %path.display(), from = have.revision, to = found.content.revision, "the journal is ahead of the engine");
                let (batch, digest) = found.content.difference(&have);
                let wrote = engine.apply(batch.writes).and_then(|()| engine.flush());
                wrote.map_err(|e| Failure::Refused(StoreError::Engine(e)))?;
                let journal = Journal::resume(&path, &found).map_err(io)?;
                Ok(Open { engine, journal, content: Content { digest, ..found.content } })
            }
            (Ok((engine, content)), Some(found)) if found.content.revision == content.revision => {
                let journal = Journal::resume(&path, &found).map_err(io)?;
                Ok(Open { engine, journal, content })
            }
            (Ok((engine, content)), _) => {
                let journal = Journal::begin(&path, &content).map_err(|e| io(e.into()))?;
                Ok(Open { engine, journal, content })
            }
            (Err(Failure::Damaged(e)), Some(found)) => {
                warn("the engine's files are damaged; they are written anew from the journal", &e);
                let (engine, digest) = self.next_generation(opener, &found.content).map_err(|e| match e {
                    OpenError::Damaged(e) => Failure::Damaged(e),
                    OpenError::Locked => Failure::Refused(StoreError::Locked(path.clone())),
                    OpenError::Io(e) => io(e),
                })?;
                let journal = Journal::resume(&path, &found).map_err(io)?;
                Ok(Open { engine, journal, content: Content { digest, ..found.content } })
            }
            (Err(e), _) => Err(e),
        }
    }

    /// Opens the engine's files and reads them; from the log alone, should that help.
    fn read_engine(&self, opener: &dyn Opener) -> Result<(Box<dyn Engine>, Content), Failure> {
        let io = |e| Failure::Refused(io_error(&self.dir)(e));
        let first = match self.read(opener) {
            Err(Failure::Damaged(e)) => e,
            other => return other,
        };
        // The engine can also start from its log alone; a bad hint about where it begins has cost stores before.
        let dir = self.generation_dir(self.generation);
        let mut unused = Vec::new();
        for path in if dir.is_dir() { snapshots(&dir).map_err(io)? } else { Vec::new() } {
            let to = path
                .with_file_name(format!("unused-{}", path.file_name().unwrap_or_default().to_string_lossy()));
            fs::rename(&path, &to).map_err(io)?;
            unused.push(to);
        }
        if unused.is_empty() {
            return Err(Failure::Damaged(first));
        }
        tracing::warn!(dir = %dir.display(), error = first, "the store did not open; reading its log from the start");
        let read = self.read(opener).map_err(|e| match e {
            Failure::Damaged(_) => Failure::Damaged(first),
            refused @ Failure::Refused(_) => refused,
        })?;
        for path in unused {
            fs::remove_file(&path).map_err(io)?;
        }
        Ok(read)
    }

    fn read(&self, opener: &dyn Opener) -> Result<(Box<dyn Engine>, Content), Failure> {
        let dir = self.generation_dir(self.generation);
        if !dir.is_dir() {
            return Err(Failure::Damaged(format!("{} is missing", dir.display())));
        }
        let mut engine = opener.open(&dir).map_err(|e| match e {
            OpenError::Damaged(e) => Failure::Damaged(e),
            OpenError::Locked => Failure::Refused(StoreError::Locked(self.dir.clone())),
            OpenError::Io(e) => Failure::Refused(io_error(&dir)(e)),
        })?;
        let records = engine.scan().map_err(Failure::Damaged)?;
        let content = Content::decode(records).map_err(Failure::Damaged)?;
        Ok((engine, content))
    }

    /// Opens the current generation again and reads it.
    ///
    /// # Errors
    /// The error, and whether the files themselves are at fault.
    pub(crate) fn reopen(&self, opener: &dyn Opener) -> Result<(Box<dyn Engine>, Content), (String, bool)> {
        self.read(opener).map_err(|e| match e {
            Failure::Damaged(e) => (e, true),
            Failure::Refused(e) => (e.to_string(), false),
        })
    }

    /// Writes `content` to a new generation and makes it the current one; returns its engine and digest. The old generation's
    /// files are removed.
    pub(crate) fn next_generation(
        &mut self,
        opener: &dyn Opener,
        content: &Content,
    ) -> Result<(Box<dyn Engine>, Digest), OpenError> {
        let next = self.generation + 1;
        let dir = self.generation_dir(next);
        remove_tree(&dir).map_err(OpenError::Io)?;
        create_private(&dir).map_err(OpenError::Io)?;
        let mut engine = opener.open(&dir)?;
        let (batch, digest) = content.difference(&Content::default());
        let other = |e: String| OpenError::Io(io::Error::other(e));
        engine.apply(batch.writes).map_err(other)?;
        engine.flush().map_err(other)?;
        self.write_format(next).map_err(OpenError::Io)?;
        self.generation = next;
        if let Err(e) = self.remove_other_generations() {
            tracing::warn!(dir = %self.dir.display(), error = %e, "an old generation of the store could not be removed");
        }
        Ok((engine, digest))
    }

    fn write_format(&self, generation: u64) -> io::Result<()> {
        let path = self.dir.join(FORMAT_NEW);
        let mut f = DiskFile::create(&path)?;
        f.write_all(format!("{FORMAT_WORD}\nschema {SCHEMA}\ngeneration {generation}\n").as_bytes())?;
        f.sync()?;
        disk::rename(&path, &self.dir.join(FORMAT))?;
        sync_dir(&self.dir)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// Removes generations that were not completed, or were replaced.
    fn remove_other_generations(&self) -> io::Result<()> {
        for name in self.names()? {
            if let Some(n) = name.strip_prefix(GENERATION)
                && n.parse() != Ok(self.generation)
            {
                remove_tree(&self.dir.join(&name))?;
            }
        }
        Ok(())
    }

    /// Moves everything away; the lock stays held. Returns where it is now.
    fn set_aside(&self) -> io::Result<PathBuf> {
        match move_aside(&self.dir) {
            // The directory is a mount point: keep the copy inside it.
            Err(e) if matches!(e.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices) => {
                let copy = free_name(&self.dir.join("store"))?;
                let names = self.names()?;
                create_private(&copy)?;
                for name in names.iter().filter(|n| *n != LOCK && !n.contains(".broken-")) {
                    fs::rename(self.dir.join(name), copy.join(name))?;
                }
                sync_dir(&self.dir)?;
                Ok(copy)
            }
            other => other,
        }
    }
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn parse_format(text: &str) -> Option<(u32, u64)> {
    let mut lines = text.lines();
    if lines.next()? != FORMAT_WORD {
        return None;
    }
    let schema = lines.next()?.strip_prefix("schema ")?.parse().ok()?;
    // What follows belongs to the schema; a newer one may say other things.
    if schema > SCHEMA {
        return Some((schema, 0));
    }
    Some((schema, lines.next()?.strip_prefix("generation ")?.parse().ok()?))
}

/// The set-aside copies of `path`, by number.
fn copies(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Vec::new()) };
    let prefix = format!("{}.broken-", name.to_string_lossy());
    let mut out = Vec::new();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let n = entry.file_name().to_string_lossy().strip_prefix(&prefix).and_then(|n| n.parse().ok());
        out.extend(n.map(|n| (n, entry.path())));
    }
    out.sort();
    Ok(out)
}

/// A name for the next copy; the oldest copies beyond [`COPIES`] are removed.
fn free_name(path: &Path) -> io::Result<PathBuf> {
    let copies = copies(path)?;
    let next = copies.last().map_or(1, |c| c.0 + 1);
    let surplus = (copies.len() + 1).saturating_sub(COPIES);
    for (_, old) in copies.into_iter().take(surplus) {
        if old.is_dir() { remove_tree(&old)? } else { fs::remove_file(&old)? }
    }
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".broken-{next}"));
    Ok(path.with_file_name(name))
}

fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let copy = free_name(path)?;
    fs::rename(path, &copy)?;
    if let Some(parent) = path.parent() {
        sync_dir(parent)?;
    }
    Ok(copy)
}
