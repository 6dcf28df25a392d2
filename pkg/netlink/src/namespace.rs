//! Network namespaces by file descriptor: opened once, verified, then used by the descriptor.

use crate::NetlinkError;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, getsockname, socket};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use std::any::Any;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
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
        const OP: &str = "open network namespace";
        let object = || path.display().to_string();
        // Non-blocking: the path is the runtime's word, and a FIFO there must not stop the caller.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let fd = nix::fcntl::open(path, flags, Mode::empty()).map_err(|e| match e {
            nix::Error::ENOENT | nix::Error::ENOTDIR => NetlinkError::NotFound { op: OP, object: object() },
            e => NetlinkError::Kernel { op: OP, object: object(), source: e.into() },
        })?;
        match is_network_namespace(&fd) {
            Ok(true) => Ok(Self(fd)),
            Ok(false) => Err(NetlinkError::Kernel {
                op: OP,
                object: object(),
                source: io::Error::new(io::ErrorKind::InvalidInput, "the file is not a network namespace"),
            }),
            Err(e) => Err(NetlinkError::Kernel { op: OP, object: object(), source: e.into() }),
        }
    }

    /// The calling thread's.
    ///
    /// # Errors
    /// When `/proc/thread-self/ns/net` cannot be opened.
    pub fn current() -> Result<Self, NetlinkError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// A new namespace with nothing in it but a loopback link that is down. It ends with the last descriptor.
    ///
    /// # Errors
    /// Without the right to make one (root), or when the kernel has no network namespaces.
    pub fn fresh() -> Result<Self, NetlinkError> {
        let made = std::thread::Builder::new().name("netns".into()).spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| NetlinkError::Kernel {
                op: "make",
                object: "network namespace".into(),
                source: e.into(),
            })?;
            Self::current()
        });
        made.map_err(no_thread)?.join().map_err(|panic| panicked(panic.as_ref()))?
    }

    /// Another descriptor of the same namespace.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn try_clone(&self) -> Result<Self, NetlinkError> {
        self.0.try_clone().map(Self).map_err(|source| NetlinkError::Kernel {
            op: "duplicate",
            object: "network namespace descriptor".into(),
            source,
        })
    }

    /// Whether both are the same namespace (device and inode).
    #[must_use]
    pub fn same(&self, other: &NetNs) -> bool {
        self.identity().is_some_and(|own| other.identity() == Some(own))
    }

    /// Device and inode number: what `/proc/PID/ns/net` shows, unique among the namespaces alive.
    #[must_use]
    #[allow(clippy::useless_conversion, reason = "on 32-bit machines the number of an inode is narrower")]
    pub fn identity(&self) -> Option<(u64, u64)> {
        fstat(&self.0).ok().map(|stat| (stat.st_dev, stat.st_ino.into()))
    }

    /// Runs `f` inside the namespace on a thread of its own, and returns its result.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or `f` panicked.
    pub fn run<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> Result<T, NetlinkError> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("netns".into())
                .spawn_scoped(scope, || self.enter().map(|()| f()))
                .map_err(no_thread)?;
            thread.join().map_err(|panic| panicked(panic.as_ref()))?
        })
    }

    /// Like [`NetNs::run`], without stopping the calling thread.
    pub(crate) async fn run_async<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NetlinkError> {
        let ns = self.try_clone()?;
        let (result, answer) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("netns".into())
            .spawn(move || {
                let _ = result.send(ns.enter().map(|()| f()));
            })
            .map_err(no_thread)?;
        answer.await.map_err(|_| panicked(&"see the log"))?
    }

    /// A route netlink socket of this namespace, for [`crate::Netlink::over_socket`] of another process.
    ///
    /// The calling thread goes there and comes back, so this is for a program that has no other use for its threads: a
    /// server must not risk one of its own. After an error the thread may be in either namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered or left, or the socket cannot be opened.
    pub fn route_socket(&self) -> Result<OwnedFd, NetlinkError> {
        let own = Self::current()?;
        self.enter()?;
        let (family, kind) = (AddressFamily::Netlink, SockType::Datagram);
        let opened = socket(family, kind, SockFlag::SOCK_CLOEXEC, Some(SockProtocol::NetlinkRoute));
        own.enter()?;
        opened.map_err(|e| NetlinkError::Kernel {
            op: "open",
            object: "route netlink socket".into(),
            source: e.into(),
        })
    }

    /// Whether `socket` is a netlink socket of this namespace.
    pub(crate) fn holds(&self, socket: &OwnedFd) -> bool {
        getsockname::<NetlinkAddr>(socket.as_raw_fd()).is_ok()
            && namespace_of(socket).is_ok_and(|ns| self.same(&ns))
    }

    /// Moves the calling thread in.
    fn enter(&self) -> Result<(), NetlinkError> {
        setns(&self.0, CloneFlags::CLONE_NEWNET).map_err(|e| NetlinkError::Kernel {
            op: "enter",
            object: "network namespace".into(),
            source: e.into(),
        })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn no_thread(source: io::Error) -> NetlinkError {
    NetlinkError::Kernel { op: "start", object: "thread for a network namespace".into(), source }
}

fn panicked(panic: &(dyn Any + Send)) -> NetlinkError {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    let text =
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into());
    NetlinkError::Protocol { op: "run in network namespace", reason: format!("the thread panicked: {text}") }
}

/// Whether `fd` is a file of nsfs, and of a network namespace.
fn is_network_namespace(fd: &OwnedFd) -> nix::Result<bool> {
    if fstatfs(fd)?.filesystem_type() != NSFS_MAGIC {
        return Ok(false);
    }
    namespace_type(fd).map(|kind| kind == libc::CLONE_NEWNET)
}

/// `SIOCGSKNS`: the network namespace of a socket.
#[expect(unsafe_code, reason = "the namespace of a socket is told by an ioctl only, and as a number")]
fn namespace_of(socket: &OwnedFd) -> nix::Result<NetNs> {
    nix::ioctl_none_bad!(siocgskns, 0x894c);
    // SAFETY: the descriptor is open for the length of the call, since `socket` is borrowed; the request takes no
    // argument, so the kernel reads and writes no memory of ours; on what is no socket it answers ENOTTY.
    let fd = unsafe { siocgskns(socket.as_raw_fd())? };
    // SAFETY: the kernel has just installed this descriptor in our table for this call; nobody else knows its number.
    Ok(NetNs(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// `NS_GET_NSTYPE`: the `CLONE_NEW*` flag of the namespace behind an nsfs file.
#[expect(unsafe_code, reason = "the kind of a namespace is told by an ioctl only")]
fn namespace_type(fd: &OwnedFd) -> nix::Result<libc::c_int> {
    const NSIO: u8 = 0xb7;
    nix::ioctl_none_bad!(ns_get_nstype, nix::request_code_none!(NSIO, 0x3));
    // SAFETY: the descriptor is open for the length of the call, since `fd` is borrowed; the request takes no argument,
    // so the kernel reads and writes no memory of ours; on a file of another kind it answers ENOTTY.
    unsafe { ns_get_nstype(fd.as_raw_fd()) }
}
