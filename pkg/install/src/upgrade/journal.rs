//! The journal of an upgrade: what is under way, so that whoever comes after a crash or a power cut knows the way back.
//!
//! While it is there, the program was or is about to be exchanged and nobody has confirmed it. Who upgrades holds a lock, which
//! ends with its process. A journal without a lock was left behind: the program before it comes back.

use super::health::Health;
use crate::disk::Disk;
use crate::error::InstallError;
use crate::places::{self, previous};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use warren_agent::files::FileError;

/// An upgrade that is not confirmed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Journal {
    /// The program that is exchanged.
    pub program: PathBuf,
    /// Version before.
    pub from: String,
    /// Version after.
    pub to: String,
    /// Seconds that it may take to be confirmed.
    pub timeout_seconds: u64,
    /// The boot in which it began.
    pub boot_id: String,
    /// Seconds after that boot.
    pub began_seconds: u64,
    /// How the node was before.
    pub before: Health,
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(places::JOURNAL)
}

impl Journal {
    /// The journal in `data_dir`; none when no upgrade is under way. One that cannot be read counts as none: each write of it
    /// was whole.
    #[must_use]
    pub fn load(data_dir: &Path) -> Option<Self> {
        let text = fs::read(path(data_dir)).ok()?;
        match serde_json::from_slice(&text) {
            Ok(journal) => Some(journal),
            Err(error) => {
                tracing::warn!(path = %path(data_dir).display(), %error, "the journal of an upgrade cannot be read");
                None
            }
        }
    }

    /// Whether its time is over.
    #[must_use]
    pub fn is_late(&self) -> bool {
        let this_boot = warren_netlink::host::boot_id().is_ok_and(|id| id == self.boot_id);
        let now = warren_netlink::host::boottime().unwrap_or(Duration::MAX);
        !this_boot || now.as_secs() > self.began_seconds.saturating_add(self.timeout_seconds)
    }

    /// Puts the new program in place of the old one, which stays beside it. What is on disk at any moment of it starts.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn exchange(&self, data_dir: &Path, new: &Path, disk: &dyn Disk) -> Result<(), FileError> {
        disk.copy(&self.program, &previous(&self.program))?;
        disk.write(&path(data_dir), &serde_json::to_vec_pretty(self).unwrap_or_default(), 0o600)?;
        disk.copy(new, &self.program).map(drop)
    }

    /// Puts the program from before back in place.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn take_back(&self, disk: &dyn Disk) -> Result<(), FileError> {
        disk.copy(&previous(&self.program), &self.program).map(drop)
    }

    /// Ends it: whatever program is in place now is the one that stays.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn close(data_dir: &Path, disk: &dyn Disk) -> Result<(), FileError> {
        disk.remove(&path(data_dir)).map(drop)
    }
}

/// Held by who upgrades.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock.
    ///
    /// # Errors
    /// [`InstallError::Busy`] when somebody has it, [`InstallError::File`].
    pub fn take(data_dir: &Path) -> Result<Self, InstallError> {
        let path = data_dir.join(places::LOCK);
        let failed = |e| InstallError::File(FileError::new("lock", &path, e));
        let options =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(&path);
        let mut file = options.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = fs::read_to_string(&path).ok().and_then(|t| t.trim().parse().ok());
                return Err(InstallError::Busy(pid.unwrap_or_default()));
            }
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        let told = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        told.map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// Before a start: takes an upgrade back that nobody confirmed and nobody works on. True when there was one.
///
/// # Errors
/// [`FileError`]: then the journal is still there, and the next start tries again.
pub fn recover(data_dir: &Path, disk: &dyn Disk) -> Result<bool, InstallError> {
    let Some(journal) = Journal::load(data_dir) else { return Ok(false) };
    let _lock = match Lock::take(data_dir) {
        Ok(lock) => lock,
        Err(InstallError::Busy(_)) => return Ok(false),
        Err(error) => return Err(error),
    };
    journal.take_back(disk)?;
    Journal::close(data_dir, disk)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use crate::disk::cut::CutDisk;
    use std::os::unix::fs::PermissionsExt as _;

    struct Machine {
        dir: tempfile::TempDir,
        journal: Journal,
        new: PathBuf,
    }

    fn machine() -> Machine {
        let dir = tempfile::tempdir().unwrap();
        let (program, new) = (dir.path().join("warren"), dir.path().join("warren-2"));
        for (path, text) in [(&program, "old"), (&new, "new")] {
            fs::write(path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Machine { journal: Journal { program, ..Journal::default() }, dir, new }
    }

    impl Machine {
        fn program(&self) -> String {
            let mode = fs::metadata(&self.journal.program).unwrap().permissions().mode();
            assert_eq!(mode & 0o111, 0o111);
            fs::read_to_string(&self.journal.program).unwrap()
        }
        /// An upgrade that is confirmed, with the power cut after so many changes; whether it came to its end.
        fn upgrade(&self, disk: &dyn Disk) -> bool {
            let data = self.dir.path();
            self.journal.exchange(data, &self.new, disk).and_then(|()| Journal::close(data, disk)).is_ok()
        }
    }

    #[test]
    fn power_cut_anywhere_ends_in_one_of_the_two_programs() {
        for cut in 0.. {
            let m = machine();
            let done = m.upgrade(&CutDisk::after(cut));
            // The boot after it may lose its power too, and the one after that.
            for again in 0..4 {
                assert!(["old", "new"].contains(&m.program().as_str()));
                let _ = recover(m.dir.path(), &CutDisk::after(again));
            }
            recover(m.dir.path(), &RealDisk).unwrap();
            assert_eq!(m.program(), if done { "new" } else { "old" }, "cut after {cut} changes");
            assert_eq!(Journal::load(m.dir.path()), None);
            if done {
                assert!(cut >= 4, "only {cut} changes");
                break;
            }
        }
    }

    #[test]
    fn who_upgrades_is_left_alone() {
        let m = machine();
        m.journal.exchange(m.dir.path(), &m.new, &RealDisk).unwrap();
        let lock = Lock::take(m.dir.path()).unwrap();
        assert!(
            matches!(Lock::take(m.dir.path()), Err(InstallError::Busy(pid)) if pid == std::process::id())
        );
        assert!(!recover(m.dir.path(), &RealDisk).unwrap());
        assert_eq!(m.program(), "new");
        drop(lock);
        assert!(recover(m.dir.path(), &RealDisk).unwrap());
        assert_eq!(m.program(), "old");
        assert!(!recover(m.dir.path(), &RealDisk).unwrap());
    }

    #[test]
    fn its_time_ends_with_the_boot_at_the_latest() {
        let boot_id = warren_netlink::host::boot_id().unwrap();
        let began_seconds = warren_netlink::host::boottime().unwrap().as_secs();
        let now = Journal { boot_id, began_seconds, timeout_seconds: 60, ..Journal::default() };
        assert!(!now.is_late());
        assert!(Journal { boot_id: "another".into(), ..now.clone() }.is_late());
        assert!(
            Journal { timeout_seconds: 0, began_seconds: began_seconds.saturating_sub(2), ..now }.is_late()
        );
    }
}
