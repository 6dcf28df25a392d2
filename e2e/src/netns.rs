//! Running a piece of the test inside a network namespace: a namespace belongs to a thread, so each piece gets one.

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::path::Path;
use std::thread::JoinHandle;

/// Starts `f` on a thread inside the network namespace at `path` (`/proc/PID/ns/net`).
///
/// # Errors
/// When the namespace cannot be opened.
pub fn spawn<T: Send + 'static>(
    path: &Path,
    f: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<JoinHandle<Result<T>>> {
    let ns = File::open(path).with_context(|| format!("open {}", path.display()))?;
    Ok(std::thread::spawn(move || {
        setns(&ns, CloneFlags::CLONE_NEWNET).context("enter the network namespace (needs root)")?;
        f()
    }))
}

/// Runs `f` inside the network namespace at `path` and waits for it.
///
/// # Errors
/// When the namespace cannot be entered, or what `f` answers.
pub fn run<T: Send + 'static>(path: &Path, f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    join(spawn(path, f)?)
}

/// Waits for a thread of [`spawn`].
///
/// # Errors
/// What the thread answered, or that it panicked.
pub fn join<T>(handle: JoinHandle<Result<T>>) -> Result<T> {
    handle.join().map_err(|_| anyhow!("a thread of the test panicked"))?
}
