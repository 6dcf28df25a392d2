//! The thread that writes lines.

use super::Dropped;
use super::gathered::{Gathered, Lines};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long lines gather before they are written. Waking this thread costs the one that serves more than the line does, so it
/// is done once for all of them. There is place for more than come in this time.
const GATHER: Duration = Duration::from_millis(5);
/// How often it is looked whether the file was moved away, and a file that could not be opened is tried again.
const LOOK: Duration = Duration::from_secs(2);
/// Warnings are at least this far apart.
const QUIET: Duration = Duration::from_secs(60);

pub(super) struct Writer {
    path: Option<PathBuf>,
    look: Duration,
    out: Option<File>,
    /// When `out` was opened, tried, or looked after.
    looked: Option<Instant>,
    /// A write broke off, perhaps within a line.
    torn: bool,
    dropped: Dropped,
    /// How many dropped lines were told of, and when.
    told: (u64, Option<Instant>),
    /// What went wrong last.
    trouble: Option<io::Error>,
}

impl Writer {
    pub(super) fn new(path: Option<PathBuf>, dropped: Dropped) -> Self {
        Self {
            path,
            look: LOOK,
            out: None,
            looked: None,
            torn: false,
            dropped,
            told: (0, None),
            trouble: None,
        }
    }

    pub(super) fn run(mut self, gathered: &Gathered) {
        // A file that cannot be written is said at once, not with the first request.
        self.refresh();
        self.warn();
        let mut lines = Lines::default();
        let mut goes_on = true;
        while goes_on {
            goes_on = gathered.wait(GATHER);
            gathered.take(!goes_on, &mut lines, |lines| self.write(&lines.bytes, lines.count));
            self.warn();
        }
    }

    fn write(&mut self, batch: &[u8], lines: u64) {
        self.refresh();
        let Some(out) = &mut self.out else { return self.dropped.add(lines) };
        // Otherwise half a line and the next one would be read as one.
        let written = if self.torn { out.write_all(b"\n") } else { Ok(()) };
        match written.and_then(|()| out.write_all(batch)) {
            Ok(()) => self.torn = false,
            Err(error) => {
                self.torn = true;
                self.trouble = Some(error);
                self.dropped.add(lines);
            }
        }
    }

    /// Opens the file anew when it is not open, or was moved away, which is how logs are rotated.
    fn refresh(&mut self) {
        if self.looked.is_some_and(|looked| looked.elapsed() < self.look) {
            return;
        }
        self.looked = Some(Instant::now());
        let opened = match (&self.path, &self.out) {
            (None, Some(_)) => return,
            (None, None) => io::stdout().as_fd().try_clone_to_owned().map(File::from),
            (Some(path), Some(out)) if is_at(out, path) => return,
            (Some(path), _) => open(path),
        };
        match opened {
            Ok(out) => {
                self.out = Some(out);
                self.torn = false;
                self.trouble = None;
            }
            // Better in the file that was moved away than nowhere.
            Err(error) => self.trouble = Some(error),
        }
    }

    /// Says, once in a while, that lines are missing. It is here and not where requests are served, since who cannot write
    /// this log may not be able to write the other one either.
    fn warn(&mut self) {
        let (told, when) = self.told;
        let dropped = self.dropped.get();
        let is_news = dropped > told || (self.trouble.is_some() && when.is_none());
        if !is_news || when.is_some_and(|when| when.elapsed() < QUIET) {
            return;
        }
        let file = self.path.as_deref().unwrap_or(Path::new("standard output")).display();
        match &self.trouble {
            Some(error) => {
                tracing::warn!(%file, %error, dropped, "the access log cannot be written; its lines are dropped")
            }
            None => {
                tracing::warn!(%file, dropped, "the access log is written too slowly; some of its lines were dropped")
            }
        }
        self.told = (dropped, Some(Instant::now()));
    }
}

/// Whether this file is the one at the path.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |of: io::Result<std::fs::Metadata>| of.map(|of| (of.dev(), of.ino())).ok();
    id(file.metadata()) == id(std::fs::metadata(path))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn writer(path: &Path) -> Writer {
        Writer { look: Duration::ZERO, ..Writer::new(Some(path.to_owned()), Dropped::default()) }
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        let mut writer = writer(&path);
        writer.write(b"1\n", 1);
        std::fs::rename(&path, &old).unwrap();
        writer.write(b"2\n", 1);
        writer.write(b"3\n", 1);
        assert_eq!((read(&old), read(&path)), ("1\n".into(), "2\n3\n".into()));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777 & !0o640, 0, "{mode:o}");
        std::fs::remove_file(&path).unwrap();
        writer.write(b"4\n", 1);
        assert_eq!(read(&path), "4\n");
        // What is there already stays.
        super::tests::writer(&path).write(b"5\n", 1);
        assert_eq!(read(&path), "4\n5\n");
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_until_they_can() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("later/log");
        let mut writer = writer(&path);
        writer.write(b"1\n2\n", 2);
        assert_eq!(writer.dropped.get(), 2);
        assert!(writer.trouble.is_some());
        writer.warn();
        assert_eq!(writer.told.0, 2);
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        writer.write(b"3\n", 1);
        assert_eq!((writer.dropped.get(), std::fs::read_to_string(&path).unwrap()), (2, "3\n".into()));
        assert!(writer.trouble.is_none());
    }

    #[test]
    fn a_full_disk_costs_lines_and_tears_none_in_two() {
        let mut writer = writer(Path::new("/dev/full"));
        writer.write(b"1\n", 1);
        assert_eq!((writer.dropped.get(), writer.torn), (1, true));
        // Once there is room, the next line begins on its own.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        writer.out = Some(open(&path).unwrap());
        writer.path = Some(path.clone());
        writer.write(b"2\n", 1);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "\n2\n");
    }
}
