//! Starting processes in namespaces: the system calls between fork and exec.
//!
//! The namespace of process ids is chosen by the thread that forks, the others by the child before it runs its
//! program. So each start happens on a thread of its own, whose choice ends with it.

use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// All the namespaces that a node or pod has of its own.
pub(crate) const OWN: CloneFlags = CloneFlags::CLONE_NEWPID
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWIPC);

/// Starts `command` as the leader of a session, in new namespaces.
pub(crate) fn spawn_in_new(command: &mut Command, new: CloneFlags) -> io::Result<Child> {
    let by_child = new.difference(CloneFlags::CLONE_NEWPID);
    before_exec(command, move || {
        nix::unistd::setsid()?;
        unshare(by_child)?;
        Ok(())
    });
    let by_parent = new.intersection(CloneFlags::CLONE_NEWPID);
    on_a_thread(command, move || if by_parent.is_empty() { Ok(()) } else { unshare(by_parent) })
}

/// Starts `command` as the leader of a session.
pub(crate) fn spawn_session(command: &mut Command) -> io::Result<Child> {
    before_exec(command, || nix::unistd::setsid().map(drop));
    command.spawn()
}

/// Starts `command` in another network namespace.
pub(crate) fn spawn_in_netns(command: &mut Command, netns: OwnedFd) -> io::Result<Child> {
    before_exec(command, move || setns(&netns, CloneFlags::CLONE_NEWNET));
    command.spawn()
}

/// The namespaces of a running process.
#[derive(Debug)]
pub(crate) struct Namespaces {
    pid: OwnedFd,
    /// In the order in which they are entered: the mount namespace last, since the others need nothing of it.
    others: Vec<(OwnedFd, CloneFlags)>,
}

impl Namespaces {
    /// Opens those of process `pid`; the network namespace is the one at `netns` if given.
    pub(crate) fn of(pid: i32, netns: Option<&Path>) -> io::Result<Self> {
        let open = |path: &Path| File::open(path).map(OwnedFd::from);
        let own = |kind: &str| open(Path::new(&format!("/proc/{pid}/ns/{kind}")));
        let net = match netns {
            Some(path) => open(path)?,
            None => own("net")?,
        };
        let others = vec![
            (net, CloneFlags::CLONE_NEWNET),
            (own("uts")?, CloneFlags::CLONE_NEWUTS),
            (own("ipc")?, CloneFlags::CLONE_NEWIPC),
            (own("mnt")?, CloneFlags::CLONE_NEWNS),
        ];
        // A process without a namespace of process ids for its children has not come far enough.
        Ok(Self { pid: own("pid_for_children")?, others })
    }
}

/// Starts `command` inside `namespaces`, in `directory` if it exists there, else in `/`.
pub(crate) fn spawn_inside(
    command: &mut Command,
    namespaces: Namespaces,
    directory: &Path,
) -> io::Result<Child> {
    let Namespaces { pid, others } = namespaces;
    let directory = std::ffi::CString::new(directory.as_os_str().as_encoded_bytes())?;
    before_exec(command, move || {
        for (fd, kind) in &others {
            setns(fd, *kind)?;
        }
        nix::unistd::chdir(directory.as_c_str()).or_else(|_| nix::unistd::chdir(c"/"))
    });
    on_a_thread(command, move || setns(pid.as_fd(), CloneFlags::CLONE_NEWPID))
}

/// Spawns on a thread that ran `prepare` first.
fn on_a_thread(command: &mut Command, prepare: impl FnOnce() -> nix::Result<()> + Send) -> io::Result<Child> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            prepare()?;
            command.spawn()
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts a process panicked")))
    })
}

#[expect(unsafe_code, reason = "namespaces are entered between fork and exec")]
fn before_exec(command: &mut Command, mut run: impl FnMut() -> nix::Result<()> + Send + Sync + 'static) {
    // SAFETY: the closure runs in the child after fork, where only async-signal-safe functions may be called. Every
    // closure of this module (the function is private to it) does nothing but system calls on descriptors and C
    // strings that were made before the fork: setsid, unshare, setns and chdir take no lock and allocate nothing, and
    // an errno becomes an `io::Error` without allocation.
    unsafe {
        command.pre_exec(move || run().map_err(io::Error::from));
    }
}

/// A process that stays the same one, whatever becomes of its id.
#[derive(Debug)]
pub(crate) struct ProcessHandle(OwnedFd);

impl ProcessHandle {
    /// Of the process that has this id now.
    #[expect(unsafe_code, reason = "there is no safe wrapper of pidfd_open")]
    pub(crate) fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two integers and touches no memory of this process.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel made this descriptor in the call above, so nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends SIGKILL.
    #[expect(unsafe_code, reason = "there is no safe wrapper of pidfd_send_signal")]
    pub(crate) fn kill(&self) -> io::Result<()> {
        let none: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: the descriptor is open as long as `self`, and the kernel takes a null pointer for "no siginfo".
        let result =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), libc::SIGKILL, none, 0) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits until the process has ended; false when `limit` has passed before.
    #[expect(unsafe_code, reason = "tokio cannot know that a descriptor stays the same")]
    pub(crate) async fn wait(self, limit: Duration) -> io::Result<bool> {
        // SAFETY: an `OwnedFd` answers with the same open descriptor as long as it lives, and `AsyncFd` owns it.
        let fd = unsafe { AsyncFd::register_with_interest(self.0, Interest::READABLE)? };
        match tokio::time::timeout(limit, fd.readable()).await {
            Ok(ended) => ended.map(|_| true),
            Err(_) => Ok(false),
        }
    }
}
