//! Sysctls under /proc/sys, tolerating those that a namespace shows read-only or not at all.
//!
//! Those below `net` belong to the network namespace of the calling thread; use [`crate::NetNs::run`] for another's.

use std::io;
use std::path::{Path, PathBuf};

/// What became of a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SysctlOutcome {
    /// It already had the value.
    Unchanged,
    /// It was changed; this was the value before.
    Changed(String),
    /// Missing or read-only here.
    Unavailable,
}

/// Sets `key` (dots or slashes: `net/ipv4/ip_forward`) in the calling thread's network namespace.
///
/// A key with a slash is taken as a path, so that link names with dots can be named.
///
/// # Errors
/// An I/O error other than missing or read-only; the message names the key.
pub fn set(key: &str, value: &str) -> io::Result<SysctlOutcome> {
    let path = path_of(key)?;
    // Some keys can only be written; those are always written.
    let before = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim_end().to_owned(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(SysctlOutcome::Unavailable),
        Err(_) => String::new(),
    };
    if !before.is_empty() && before.split_whitespace().eq(value.split_whitespace()) {
        return Ok(SysctlOutcome::Unchanged);
    }
    let written = write_to(&path, key, value)?;
    Ok(if written { SysctlOutcome::Changed(before) } else { SysctlOutcome::Unavailable })
}

/// Like [`set`], for one that is known to have another value: it is not read first. False when it is missing or
/// read-only here.
///
/// # Errors
/// As [`set`].
pub fn write(key: &str, value: &str) -> io::Result<bool> {
    write_to(&path_of(key)?, key, value)
}

fn write_to(path: &Path, key: &str, value: &str) -> io::Result<bool> {
    match std::fs::write(path, value) {
        Ok(()) => Ok(true),
        Err(e) if is_unavailable(&e) => {
            tracing::debug!(key, value, error = %e, "sysctl is not available here");
            Ok(false)
        }
        Err(e) => Err(named("set", key, &e)),
    }
}

/// Reads `key`; `None` when it does not exist.
///
/// # Errors
/// An I/O error other than missing.
pub fn get(key: &str) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path_of(key)?) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(named("read", key, &e)),
    }
}

/// Missing, read-only file system, or not ours to write: all of them are facts of a container, not faults.
fn is_unavailable(error: &io::Error) -> bool {
    use io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), NotFound | PermissionDenied | ReadOnlyFilesystem)
}

fn named(verb: &str, key: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {verb} sysctl {key}: {error}"))
}

fn path_of(key: &str) -> io::Result<PathBuf> {
    let separator = if key.contains('/') { '/' } else { '.' };
    let parts: Vec<&str> = key.split(separator).collect();
    if parts.iter().any(|part| matches!(*part, "" | "." | "..") || part.contains('\0')) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{key:?} is no sysctl key")));
    }
    Ok(parts.iter().fold(Path::new("/proc/sys").to_owned(), |path, part| path.join(part)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_and_slashes_name_the_same_key() {
        assert_eq!(path_of("net.ipv4.ip_forward").unwrap(), path_of("net/ipv4/ip_forward").unwrap());
        assert_eq!(
            path_of("net/ipv4/conf/eth0.7/rp_filter").unwrap(),
            Path::new("/proc/sys/net/ipv4/conf/eth0.7/rp_filter")
        );
    }

    #[test]
    fn keys_that_climb_are_refused() {
        for key in ["", "net/../../etc/passwd", "/etc/passwd", "net..ipv4", "net/./ipv4", "a\0b"] {
            assert_eq!(path_of(key).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{key:?}");
        }
    }

    #[test]
    fn a_missing_key_is_unavailable_and_reads_none() {
        assert_eq!(set("net/ipv4/no_such_key", "1").unwrap(), SysctlOutcome::Unavailable);
        assert!(!write("net/ipv4/no_such_key", "1").unwrap());
        assert_eq!(get("net.ipv4.no_such_key").unwrap(), None);
    }
}
