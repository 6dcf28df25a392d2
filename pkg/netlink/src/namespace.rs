//! Network namespaces by file descriptor: opened once, verified, then used by the descriptor.

use crate::NetlinkError;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// An open network namespace. Holding it keeps the namespace alive.
#[derive(Debug)]
pub struct NetNs(OwnedFd);

impl NetNs {
    /// Opens the namespace at `path` (a bind mount or `/proc/PID/ns/net`) and verifies that it is one.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`] when nothing is there; a kernel error when it is not a network namespace.
    pub fn open(path: &Path) -> Result<Self, NetlinkError> {
        let _ = path;
        todo!()
    }
    /// The calling thread's.
    ///
    /// # Errors
    /// When `/proc/thread-self/ns/net` cannot be opened.
    pub fn current() -> Result<Self, NetlinkError> {
        todo!()
    }
    /// Whether both are the same namespace (device and inode).
    #[must_use]
    pub fn same(&self, other: &NetNs) -> bool {
        let _ = other;
        todo!()
    }
    /// Runs `f` inside the namespace on a thread of its own, and returns its result.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or `f` panicked.
    pub fn run<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> Result<T, NetlinkError> {
        let _ = f;
        todo!()
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
