//! Who wrote what: one line for every write, in the log (target `audit`) or in a file of its own. Neither bodies nor
//! secrets are in it.

use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::ServerError;

/// Largest file before it is put aside as `FILE.1`.
const SIZE: u64 = 32 << 20;
/// Files kept beside the current one.
const KEPT: u32 = 3;
/// The client went away before the answer; the write may have been done.
const CLIENT_GONE: u16 = 499;

/// One write.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Entry {
    pub(crate) user: String,
    pub(crate) verb: &'static str,
    /// `pods`, `leases.coordination.k8s.io`, `pods/status`.
    pub(crate) resource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) code: u16,
    pub(crate) from: Option<IpAddr>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: Timestamp,
    #[serde(flatten)]
    entry: &'a Entry,
}

/// Where the lines go.
pub(crate) struct Audit(Option<Mutex<Rotating>>);

struct Rotating {
    path: PathBuf,
    file: File,
    written: u64,
    limit: u64,
    /// The last write failed, and this was said.
    failed: bool,
}

impl Audit {
    /// Opens the file, or none: then the log gets the lines.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, ServerError> {
        Self::with_limit(path, SIZE)
    }

    fn with_limit(path: Option<&Path>, limit: u64) -> Result<Self, ServerError> {
        let Some(path) = path else { return Ok(Self(None)) };
        let io = |source| ServerError::Io { path: path.to_owned(), source };
        let (file, written) = private(path).map_err(io)?;
        let rotating = Rotating { path: path.to_owned(), file, written, limit, failed: false };
        Ok(Self(Some(Mutex::new(rotating))))
    }

    /// Begins to watch over a write: however it ends, there is a line.
    pub(crate) fn begin(&self, entry: Entry) -> Pending<'_> {
        Pending { audit: self, entry: Entry { code: CLIENT_GONE, ..entry } }
    }

    /// Writes a line. The page cache takes it: this does not wait for the disk.
    fn write(&self, e: &Entry) {
        let Some(rotating) = &self.0 else {
            let from = e.from.map(|a| a.to_string()).unwrap_or_default();
            tracing::info!(target: "audit", user = e.user, verb = e.verb, resource = e.resource,
                namespace = e.namespace, name = e.name, code = e.code, from, "write");
            return;
        };
        let line = Line { time: Timestamp::now(), entry: e };
        let Ok(mut line) = serde_json::to_vec(&line) else { return };
        line.push(b'\n');
        let mut rotating = rotating.lock().unwrap_or_else(PoisonError::into_inner);
        let result = rotating.append(&line);
        match (&result, rotating.failed) {
            (Err(error), false) => {
                tracing::error!(path = %rotating.path.display(), %error, "the audit file cannot be written; lines are lost");
            }
            (Ok(()), true) => tracing::info!("the audit file can be written again"),
            _ => {}
        }
        rotating.failed = result.is_err();
    }
}

/// Opens for appending, mode 0600, and gives the size.
fn private(path: &Path) -> std::io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

impl Rotating {
    fn append(&mut self, line: &[u8]) -> std::io::Result<()> {
        if self.written > 0 && self.written + line.len() as u64 > self.limit {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.written += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        let aside = |n: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        for n in (1..KEPT).rev() {
            match fs::rename(aside(n), aside(n + 1)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        fs::rename(&self.path, aside(1))?;
        (self.file, self.written) = private(&self.path)?;
        Ok(())
    }
}

/// A write in progress; its line is written when it is dropped.
pub(crate) struct Pending<'a> {
    audit: &'a Audit,
    entry: Entry,
}

impl Pending<'_> {
    /// It ended with this code; `name` when the object got its name only now.
    pub(crate) fn done(mut self, code: StatusCode, name: Option<&str>) {
        self.entry.code = code.as_u16();
        if let Some(name) = name {
            name.clone_into(&mut self.entry.name);
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.audit.write(&self.entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_private_bounded_and_say_how_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let audit = Audit::with_limit(Some(&path), 1000).unwrap();
        let entry = Entry { user: "a".into(), verb: "create", resource: "pods".into(), ..Entry::default() };
        audit.begin(entry.clone()).done(StatusCode::CREATED, Some("p-1"));
        drop(audit.begin(entry.clone()));
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!((&lines[0]["code"], &lines[0]["name"]), (&201.into(), &"p-1".into()));
        assert_eq!(lines[1]["code"], CLIENT_GONE);
        for _ in 0..200 {
            drop(audit.begin(entry.clone()));
        }
        let files: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().metadata().unwrap()).collect();
        assert_eq!(files.len(), 1 + KEPT as usize);
        assert!(files.iter().all(|m| m.len() <= 1000 && m.permissions().mode() & 0o777 == 0o600));
        drop(audit);
        let again = Audit::with_limit(Some(&path), 1000).unwrap();
        let before = fs::read_to_string(&path).unwrap();
        drop(again.begin(entry));
        assert!(fs::read_to_string(&path).unwrap().starts_with(&before) || !before.is_empty());
        assert!(Audit::open(Some(&dir.path().join("none/x"))).is_err());
    }
}
