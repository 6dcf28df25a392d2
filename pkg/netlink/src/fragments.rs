//! Sockets whose packets are never cut into fragments.
//!
//! Job: let a datagram pass as it is or not at all, whatever is believed of the path. Owns: nothing.

use nix::libc;
use socket2::SockRef;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Has the datagrams of a UDP socket sent whole: with the DF flag (IPv4), never cut by this host, and also when the path is
/// believed to be narrower. What is larger than the link is refused with `EMSGSIZE`.
///
/// # Errors
/// When the socket is of another kind than its family's.
pub fn forbid(socket: &impl AsFd, v4: bool) -> io::Result<()> {
    let (level, option, value) = if v4 {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
    };
    set(&SockRef::from(socket), level, option, value)
}

#[expect(unsafe_code, reason = "no library sets this option of both families")]
fn set(socket: &SockRef<'_>, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the call, since `socket` borrows it; the option takes an `int`,
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
    use std::net::UdpSocket;

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
                forbid(&socket, to.local_addr().unwrap().is_ipv4()).unwrap();
                assert!(socket.send(&vec![0; 1400 - header]).is_ok());
                assert!(socket.send(&vec![0; 1401 - header]).is_err());
            }
        });
        done.unwrap();
    }
}
