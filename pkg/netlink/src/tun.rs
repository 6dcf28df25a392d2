//! TUN links: IP packets of a link, handed to a process.

use crate::link::MAX_NAME;
use nix::libc;
use nix::sys::uio::writev;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A TUN link, which lives as long as this.
#[derive(Debug)]
pub struct Tun(AsyncFd<File>);

impl Tun {
    /// Reads one packet behind its header, as soon as there is one.
    ///
    /// # Errors
    /// `EBADFD` when the link is gone.
    pub async fn read(&self, frame: &mut [u8]) -> io::Result<usize> {
        // Of a link that is gone the kernel says "error" and not "readable".
        self.0.async_io(Interest::READABLE | Interest::ERROR, |mut file| file.read(frame)).await
    }

    /// Writes one packet behind its header, in pieces.
    ///
    /// # Errors
    /// `EBADFD` when the link is gone, `EIO` while it is down, `EINVAL` when the kernel does not like the packet.
    pub async fn write(&self, frame: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.async_io(Interest::WRITABLE, |file| Ok(writev(file, frame)?)).await
    }
}

/// Makes the TUN link `name`, in the network namespace of the calling thread.
///
/// Each read gives one packet, each write takes one, behind a `struct virtio_net_hdr` of ten bytes; the packet may be
/// a TCP packet of up to 64 KiB that stands for many (TSO), and its checksum may be left to be filled in. Needs a tokio
/// runtime.
///
/// # Errors
/// When there is no `/dev/net/tun`, the name is taken or no name, or the kernel refuses.
pub fn open(name: &str) -> io::Result<Tun> {
    const DEVICE: &str = "/dev/net/tun";
    let named = |what: &str, e: io::Error| io::Error::new(e.kind(), format!("{what}: {e}"));
    if name.is_empty() || name.len() > MAX_NAME || name.contains(['/', '\0', '%']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not a link name")));
    }
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE);
    let file = file.map_err(|e| named(DEVICE, e))?;
    attach(&file, name).map_err(|e| named(&format!("make TUN link {name}"), e.into()))?;
    offload(&file).map_err(|e| named(&format!("set offloads of TUN link {name}"), e.into()))?;
    register(file).map(Tun)
}

#[expect(unsafe_code, reason = "a descriptor is watched by its number")]
fn register(file: File) -> io::Result<AsyncFd<File>> {
    // SAFETY: a `File` owns its open descriptor, always gives the same number, and closes it only when dropped, which is
    // after the `AsyncFd` that owns it has forgotten the number; `Tun` gives it to nobody.
    unsafe { AsyncFd::register(file) }.map_err(io::Error::from)
}

/// `TUNSETIFF`.
#[expect(unsafe_code, reason = "a TUN link is made by an ioctl only")]
fn attach(file: &File, name: &str) -> nix::Result<()> {
    nix::ioctl_write_ptr_bad!(
        tun_set_iff,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        // The flags are 16 bits wide, and all of these fit.
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags as libc::c_short },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        // Whether it has a sign depends on the architecture.
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: the descriptor is open for the length of the call, since `file` is borrowed; the request's argument is a
    // `struct ifreq`, which `request` is, initialised and alive; its name ends in NUL, being shorter than the field.
    unsafe { tun_set_iff(file.as_raw_fd(), &raw const request) }.map(drop)
}

/// `TUNSETOFFLOAD`: take packets with unfinished checksums, and TCP packets that stand for many.
#[expect(unsafe_code, reason = "the offloads of a TUN link are set by an ioctl only")]
fn offload(file: &File) -> nix::Result<()> {
    nix::ioctl_write_int_bad!(
        tun_set_offload,
        nix::request_code_write!(b'T', 208, size_of::<libc::c_uint>())
    );
    const CSUM: libc::c_int = 0x01;
    const TSO4: libc::c_int = 0x02;
    const TSO6: libc::c_int = 0x04;
    // SAFETY: the descriptor is open for the length of the call, since `file` is borrowed; the argument is a number, so
    // the kernel reads and writes no memory of ours.
    unsafe { tun_set_offload(file.as_raw_fd(), CSUM | TSO4 | TSO6) }.map(drop)
}
