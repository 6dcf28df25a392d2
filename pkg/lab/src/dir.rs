//! The lab's directory on the host, `/run/warren-lab/NAME`: all that a lab shows outside of its namespaces.

use crate::LabError;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

const BASE: &str = "/run/warren-lab";

/// Name of a lab: also the name of its directory and host name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabName(String);

impl LabName {
    /// Validates `name`.
    ///
    /// # Errors
    /// [`LabError::Refused`] with the rule.
    pub fn new(name: impl Into<String>) -> Result<Self, LabError> {
        let name = name.into();
        let ok = warren_types::Namespace::new(name.as_str()).is_ok() && name.len() <= 32;
        if ok {
            return Ok(Self(name));
        }
        let shown: String = name.chars().take(80).collect();
        let rule = "use lower-case letters, digits and '-', at most 32 characters";
        Err(LabError::Refused(format!("{shown:?} cannot name a lab: {rule}")))
    }
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl TryFrom<String> for LabName {
    type Error = LabError;
    fn try_from(s: String) -> Result<Self, LabError> {
        Self::new(s)
    }
}
impl std::str::FromStr for LabName {
    type Err = LabError;
    fn from_str(s: &str) -> Result<Self, LabError> {
        Self::new(s)
    }
}
impl From<LabName> for String {
    fn from(n: LabName) -> String {
        n.0
    }
}

/// Who holds the lab: `holder.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HolderRecord {
    /// Warren's version.
    pub(crate) version: String,
    /// Process id of the lab's first process, as the host counts.
    pub(crate) pid: i32,
    /// When that process started, in clock ticks since boot: with the id, it names one process for ever.
    pub(crate) start_time: u64,
}

/// The directory of one lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabDir(PathBuf);

impl LabDir {
    /// The directory of the lab `name`.
    #[must_use]
    pub fn of(name: &LabName) -> Self {
        Self(Path::new(BASE).join(name.as_str()))
    }

    /// The labs that have a directory.
    ///
    /// # Errors
    /// When the directory of all labs cannot be read.
    pub fn names() -> Result<Vec<LabName>, LabError> {
        let entries = match std::fs::read_dir(BASE) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(LabError::io(format!("read {BASE}"))(e)),
        };
        let mut names: Vec<LabName> =
            entries.filter_map(|e| LabName::new(e.ok()?.file_name().into_string().ok()?).ok()).collect();
        names.sort();
        Ok(names)
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
    /// The directory of all labs.
    fn base(&self) -> &Path {
        self.0.parent().unwrap_or(Path::new(BASE))
    }
    /// The control socket.
    pub(crate) fn control(&self) -> PathBuf {
        self.0.join("control.sock")
    }
    fn record_path(&self) -> PathBuf {
        self.0.join("holder.json")
    }
    /// Where the lab mounts its memory disk, in its own mount namespace only. On the host it stays empty.
    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("state")
    }
    /// Log files.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }
    /// The log of the lab's first process.
    pub(crate) fn holder_log(&self) -> PathBuf {
        self.logs().join("lab.log")
    }
    /// A node's disk.
    pub(crate) fn disk(&self, node: &str) -> PathBuf {
        self.state().join(node)
    }

    /// Makes the directory and its children; false when there is one already.
    pub(crate) fn create(&self) -> Result<bool, LabError> {
        let make = |path: &Path| match DirBuilder::new().mode(0o700).create(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            made => made.map(|()| true),
        };
        let base = self.base();
        loop {
            make(base).map_err(LabError::io(format!("make {} (a lab needs root)", base.display())))?;
            match make(&self.0) {
                Ok(true) => break,
                Ok(false) => return Ok(false),
                // The last of the other labs has ended in between, and has taken the directory of all with it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(LabError::io(format!("make {}", self.0.display()))(e)),
            }
        }
        for path in [self.state(), self.logs()] {
            make(&path).map_err(LabError::io(format!("make {}", path.display())))?;
        }
        Ok(true)
    }

    /// Held by `up` while it works, so that nobody takes a lab without a first process for a dead one.
    pub(crate) fn lock(&self) -> Result<Option<Flock<File>>, LabError> {
        let path = self.0.join("lock");
        let file = match File::options().create(true).truncate(false).write(true).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(LabError::io(format!("open {}", path.display()))(e)),
        };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
            Err((_, e)) => Err(LabError::errno(format!("lock {}", path.display()))(e)),
        }
    }

    /// Says who holds the lab. Written aside and renamed: a reader sees all of it or nothing.
    pub(crate) fn write_record(&self, record: &HolderRecord) -> Result<(), LabError> {
        let path = self.record_path();
        let text = serde_json::to_vec(record).map_err(LabError::message("holder.json"))?;
        let aside = self.0.join("holder.json.new");
        let what = || format!("write {}", path.display());
        std::fs::write(&aside, text).map_err(LabError::io(what()))?;
        std::fs::rename(&aside, &path).map_err(LabError::io(what()))
    }

    /// Who holds the lab; none when it was never said or cannot be read.
    pub(crate) fn read_record(&self) -> Option<HolderRecord> {
        serde_json::from_slice(&std::fs::read(self.record_path()).ok()?).ok()
    }

    /// Removes the directory, and the directory of all labs with the last one. Only plain files are ever in it.
    pub(crate) fn remove(&self) -> Result<(), LabError> {
        match std::fs::remove_dir_all(&self.0) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(LabError::io(format!("remove {}", self.0.display()))(e)),
        }
        // Other labs keep it.
        let _ = std::fs::remove_dir(self.base());
        Ok(())
    }
}

/// When process `pid` started, in clock ticks since boot (`/proc/PID/stat`, field 22); none when it has ended, also when
/// nobody has taken note of that yet.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    parse_start_time(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The second field is the program's name in parentheses and may hold anything, also parentheses and spaces.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    if ended { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        for bad in ["", "..", ".", "a/b", "A", "-a", &"x".repeat(33), "a b", "a\0"] {
            assert!(LabName::new(bad).is_err(), "{bad:?}");
        }
        assert!(LabName::new("lab-2").is_ok());
    }

    #[test]
    fn a_process_is_named_by_its_start_too() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(start_time(me).is_some_and(|t| t > 0) && start_time(me) == start_time(me));
        assert_eq!(start_time(i32::MAX), None);
    }

    #[test]
    fn hostile_program_names_do_not_shift_the_fields() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20";
        for name in ["x", "a) S 1 2", ") (", ""] {
            assert_eq!(parse_start_time(&format!("5 ({name}) {tail}")), Some(777), "{name:?}");
        }
        assert_eq!(parse_start_time(&format!("5 (x) {}", tail.replacen('S', "Z", 1))), None, "a zombie");
    }

    #[test]
    fn a_torn_record_is_no_record() {
        let dir = LabDir(std::env::temp_dir().join(format!("warren-lab-test-{}", std::process::id())));
        std::fs::create_dir_all(&dir.0).unwrap();
        let record = HolderRecord { version: "1".into(), pid: 7, start_time: 8 };
        dir.write_record(&record).unwrap();
        assert_eq!(dir.read_record(), Some(record));
        std::fs::write(dir.record_path(), b"{\"version\"").unwrap();
        assert_eq!(dir.read_record(), None);
        std::fs::remove_dir_all(&dir.0).unwrap();
    }

    /// Each takes the directory of all labs with it when it is the last, just when another makes its own there.
    #[test]
    fn labs_come_and_go_beside_each_other() {
        let base = std::env::temp_dir().join(format!("warren-labs-test-{}", std::process::id()));
        std::thread::scope(|scope| {
            for name in ["a", "b"] {
                let dir = LabDir(base.join(name));
                scope.spawn(move || {
                    for _ in 0..2000 {
                        assert!(dir.create().unwrap());
                        dir.remove().unwrap();
                    }
                });
            }
        });
        assert!(!base.exists());
    }

    proptest! {
        #[test]
        fn any_stat_line_is_read_without_panic(s in "\\PC{0,200}") {
            let _ = parse_start_time(&s);
        }
    }
}
