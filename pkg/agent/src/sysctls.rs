//! The record of sysctls that Warren changed, so that `warren uninstall` can put them back.
//!
//! The first value seen is the one that is kept: a later change of our own must not become the value to restore. The
//! record is on disk before the sysctl is changed, so it is complete after a crash too.

use crate::files::{self, FileError};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// File name of the record, in the agent's state directory.
pub const RECORD: &str = "sysctls.json";

/// The record. Clones share it.
#[derive(Debug, Clone)]
pub struct SysctlRecord(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    values: BTreeMap<String, String>,
}

impl SysctlRecord {
    /// Opens the record in `state_dir`; an unreadable one is begun anew, with a warning.
    #[must_use]
    pub fn open(state_dir: &Path) -> Self {
        let path = state_dir.join(RECORD);
        let values = match load(state_dir) {
            Ok(values) => values,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the record of changed sysctls cannot be read; begun anew");
                BTreeMap::new()
            }
        };
        Self(Arc::new(Mutex::new(Inner { path, values })))
    }

    /// Notes that `key` had `old` before Warren; the first note of a key counts.
    ///
    /// # Errors
    /// [`FileError`]: then the sysctl should not be changed.
    pub fn note(&self, key: &str, old: &str) -> Result<(), FileError> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Dots are separators only where there are no slashes: link names may hold dots.
        let key = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
        if inner.values.contains_key(&key) {
            return Ok(());
        }
        let mut values = inner.values.clone();
        values.insert(key, old.trim().to_owned());
        let json = serde_json::to_vec_pretty(&values).unwrap_or_default();
        files::write(&inner.path, &json, 0o600)?;
        inner.values = values;
        Ok(())
    }
}

/// The record in `state_dir`: key and value before Warren.
///
/// # Errors
/// When it is there and cannot be read.
pub fn load(state_dir: &Path) -> std::io::Result<BTreeMap<String, String>> {
    match std::fs::read(state_dir.join(RECORD)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(std::io::Error::other),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_is_kept_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let record = SysctlRecord::open(dir.path());
        record.note("net.ipv4.ip_forward", "0\n").unwrap();
        record.note("net/ipv4/ip_forward", "1").unwrap();
        SysctlRecord::open(dir.path()).note("net/ipv4/ip_forward", "1").unwrap();
        assert_eq!(load(dir.path()).unwrap(), BTreeMap::from([("net/ipv4/ip_forward".into(), "0".into())]));
    }

    #[test]
    fn a_torn_record_does_not_stop_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(RECORD), "{").unwrap();
        assert!(load(dir.path()).is_err());
        SysctlRecord::open(dir.path()).note("a/b", "1").unwrap();
        assert_eq!(load(dir.path()).unwrap().len(), 1);
    }
}
