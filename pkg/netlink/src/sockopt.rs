//! Options of sockets that no library sets.
//!
//! Job: set them. Owns: nothing.

use nix::libc;
use socket2::SockRef;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Has the datagrams of a UDP socket sent whole: with the DF flag (IPv4), never cut by this host, and also when the path is
/// believed to be narrower. What is larger than the link is refused with `EMSGSIZE`.
///
/// # Errors
/// When the socket is of another kind than its family's.
pub fn forbid_fragments(socket: &impl AsFd, v4: bool) -> io::Result<()> {
    let (level, option, value) = if v4 {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
    };
    set(&SockRef::from(socket), level, option, value)
}

/// Has a listening socket of TCP hand out a connection once its first bytes have come, or after this time without any (`tcp(7)`,
/// `TCP_DEFER_ACCEPT`; whole seconds, which the kernel rounds up to one of its retransmissions). It is for protocols in which
/// the client speaks first: who accepts finds something to read.
///
/// # Errors
/// When the socket is not one of TCP.
pub fn defer_accept(socket: &impl AsFd, most: Duration) -> io::Result<()> {
    let seconds = libc::c_int::try_from(most.as_secs()).unwrap_or(libc::c_int::MAX);
    set(&SockRef::from(socket), libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)
}

#[expect(unsafe_code, reason = "no library sets these options")]
fn set(socket: &SockRef<'_>, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the call, since `socket` borrows it; the options take an `int`,
    // which `value` is, initialised and alive, and its length is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::net::{TcpStream, UdpSocket};

    /// In a namespace of its own, whose loopback is narrow.
    #[test]
    fn what_is_larger_than_the_link_is_refused() {
        let ns = crate::NetNs::fresh().unwrap();
        let done = ns.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let netlink = crate::Netlink::current().unwrap();
                netlink.set_mtu("lo", 1400).await.unwrap();
                netlink.set_up("lo", true).await.unwrap();
            });
            for (any, header) in [("127.0.0.1:0", 28), ("[::1]:0", 48)] {
                let to = UdpSocket::bind(any).unwrap();
                let socket = UdpSocket::bind(any).unwrap();
                socket.connect(to.local_addr().unwrap()).unwrap();
                assert!(socket.send(&[0; 2000]).is_ok(), "cut in two");
                forbid_fragments(&socket, to.local_addr().unwrap().is_ipv4()).unwrap();
                assert!(socket.send(&vec![0; 1400 - header]).is_ok());
                assert!(socket.send(&vec![0; 1401 - header]).is_err());
            }
        });
        done.unwrap();
    }

    #[test]
    fn who_says_nothing_is_handed_out_late_and_who_speaks_at_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        defer_accept(&listener, Duration::from_secs(1)).unwrap();
        let address = listener.local_addr().unwrap();
        let silent = TcpStream::connect(address).unwrap();
        let mut speaker = TcpStream::connect(address).unwrap();
        speaker.write_all(b"hello").unwrap();
        let (_, first) = listener.accept().unwrap();
        assert_eq!(first, speaker.local_addr().unwrap());
        let (_, second) = listener.accept().unwrap();
        assert_eq!(second, silent.local_addr().unwrap());
        let not_of_tcp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(defer_accept(&not_of_tcp, Duration::from_secs(1)).is_err());
    }
}
