//! Sysctls under /proc/sys, tolerating those that a namespace shows read-only or not at all.

use std::io;

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
/// # Errors
/// An I/O error other than missing or read-only; the message names the key.
pub fn set(key: &str, value: &str) -> io::Result<SysctlOutcome> {
    let _ = (key, value);
    todo!()
}

/// Reads `key`; `None` when it does not exist.
///
/// # Errors
/// An I/O error other than missing.
pub fn get(key: &str) -> io::Result<Option<String>> {
    let _ = key;
    todo!()
}
