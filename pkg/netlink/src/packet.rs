//! Packet sockets: whole Ethernet frames of one kind, received from and sent on one link.
//!
//! Job: hear and speak ARP or IPv6 neighbour discovery for addresses that the host does not hold; see what leaves by a link.
//! Inputs: a link's index and a kind. Outputs: frames, with their Ethernet header and without a VLAN tag.
//! Owns: nothing; a socket that is closed leaves the link as it was.
//! Ordering: frames come in the order of the link, and only those that arrive after the socket was opened; what the host
//! sends itself comes to [`Frames::All`] alone. A reader that is too slow misses frames.

use crate::{NetNs, NetlinkError};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

/// Bytes of the largest frame of these kinds that is taken whole; neighbour discovery of sane hosts is far smaller.
pub const MAX_FRAME: usize = 2048;
/// Bytes of frames that may wait, with the kernel's own for each: a burst of some thousand, from a whole LAN.
const RECEIVE_BUFFER: usize = 2 * 1024 * 1024;

/// Which frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frames {
    /// ARP.
    Arp,
    /// ICMPv6 neighbour solicitations and advertisements, also those to multicast groups that the host has not joined.
    NeighbourDiscovery,
    /// Every kind, also what the host itself sends.
    All,
}

impl Frames {
    /// The EtherType, or what the kernel has in its place for all.
    #[must_use]
    pub fn ether_type(self) -> u16 {
        match self {
            Self::Arp => 0x0806,
            Self::NeighbourDiscovery => 0x86dd,
            // `ETH_P_ALL`.
            Self::All => 0x0003,
        }
    }
}

/// A packet socket on a link.
#[derive(Debug)]
pub struct PacketSocket(AsyncFd<Socket>);

impl PacketSocket {
    /// Opens a socket on the link with this index in `ns`. Needs a tokio runtime.
    ///
    /// # Errors
    /// When there is no such link, or the kernel refuses.
    pub async fn in_namespace(ns: &NetNs, link: u32, frames: Frames) -> Result<Self, NetlinkError> {
        let runtime = Handle::current();
        let opened = ns.run_async(move || {
            let _context = runtime.enter();
            Self::open(link, frames)
        });
        opened.await?
    }

    /// Opens a socket on the link with this index, in the network namespace of the calling thread. Needs a tokio runtime.
    ///
    /// # Errors
    /// When there is no such link, or the kernel refuses.
    pub fn open(link: u32, frames: Frames) -> Result<Self, NetlinkError> {
        open(link, frames).and_then(register).map(Self).map_err(|source| NetlinkError::Kernel {
            op: "open",
            object: format!("packet socket on the link with index {link}"),
            source,
        })
    }

    /// Waits for a frame; its length, at most the buffer's. What does not fit [`MAX_FRAME`] may be cut.
    ///
    /// # Errors
    /// `ENETDOWN` once when the link goes down: go on reading. Others are the socket's end.
    pub async fn receive(&self, frame: &mut [u8]) -> io::Result<usize> {
        self.0.async_io(Interest::READABLE | Interest::ERROR, |mut socket| socket.read(frame)).await
    }

    /// Sends a frame with its Ethernet header.
    ///
    /// # Errors
    /// `ENETDOWN` while the link is down, `ENXIO` when it is gone.
    pub async fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.0.async_io(Interest::WRITABLE, |socket| socket.send(frame)).await.map(drop)
    }
}

fn open(link: u32, frames: Frames) -> io::Result<Socket> {
    let index = libc::c_int::try_from(link).map_err(|_| io::ErrorKind::InvalidInput)?;
    // Without a protocol nothing is received yet: first the filter, then the link, then the frames.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    socket.set_nonblocking(true)?;
    // Beyond the limit for everyone, where that is allowed.
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
        .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
    if frames == Frames::NeighbourDiscovery {
        socket.attach_filter(&NEIGHBOUR_DISCOVERY)?;
        // The link gives up frames to groups that nobody here has joined; the kernel counts these memberships.
        set_membership(&socket, index)?;
    }
    socket.bind(&link_address(index, frames.ether_type()))?;
    Ok(socket)
}

/// Classic BPF: ICMPv6 (next header at 20) of type 135 or 136 (at 54), behind an Ethernet header; with extension headers
/// it is no neighbour discovery that a host may heed without care.
const NEIGHBOUR_DISCOVERY: [SockFilter; 7] = [
    SockFilter::new(LOAD_BYTE, 0, 0, 20),
    SockFilter::new(JUMP_IF_EQUAL, 0, 4, 58),
    SockFilter::new(LOAD_BYTE, 0, 0, 54),
    SockFilter::new(JUMP_IF_EQUAL, 1, 0, 135),
    SockFilter::new(JUMP_IF_EQUAL, 0, 1, 136),
    SockFilter::new(RETURN, 0, 0, MAX_FRAME as u32),
    SockFilter::new(RETURN, 0, 0, 0),
];
const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Takes frames to every group from the link.
#[expect(unsafe_code, reason = "memberships of packet sockets are an option that no library sets")]
fn set_membership(socket: &Socket, index: libc::c_int) -> io::Result<()> {
    let request = libc::packet_mreq {
        mr_ifindex: index,
        mr_type: libc::PACKET_MR_ALLMULTI as libc::c_ushort,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    // SAFETY: the descriptor is open for the length of the call, since `socket` is borrowed; the option takes a `struct
    // packet_mreq`, which `request` is, initialised and alive, and its length is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const request).cast(),
            size_of::<libc::packet_mreq>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A link and an EtherType as the address of a packet socket.
#[expect(unsafe_code, reason = "no library makes such an address")]
fn link_address(index: libc::c_int, ether_type: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the storage is larger than `struct sockaddr_ll` and aligned for every kind of address; all its bytes are
    // initialised, and of a `sockaddr_ll` any bytes are a value.
    let address: &mut libc::sockaddr_ll = unsafe { storage.view_as() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = ether_type.to_be();
    address.sll_ifindex = index;
    // SAFETY: the storage holds a `sockaddr_ll` with its family set, and that is its length.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}

#[expect(unsafe_code, reason = "a descriptor is watched by its number")]
fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a `Socket` owns its open descriptor, always gives the same number, and closes it only when dropped, which
    // is after the `AsyncFd` that owns it has forgotten the number; `PacketSocket` gives it to nobody.
    unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
}
