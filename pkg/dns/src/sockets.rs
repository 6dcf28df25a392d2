//! The sockets that questions come in on: made here, or taken over from the agent before.

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use warren_netlink::keeper::{self, Named};

/// The process that keeps them while no agent runs: `warren dns-sockets`.
pub const KEEPER: keeper::Process = keeper::Process::new("dns-sockets");
/// What the kernel queues for an agent that is not there: a second of 1,000 questions takes less than a quarter of it.
const BUFFER: usize = 4 << 20;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1_024;

/// How questions come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Udp,
    Tcp,
}

/// Which socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Udp => "udp",
            Kind::Tcp => "tcp",
        };
        write!(f, "{kind} {}", self.address)
    }
}

/// The sockets that there are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sockets(pub(crate) BTreeMap<Place, Arc<Socket>>);

impl Sockets {
    /// Takes over what an agent before deposited. What is not what its name says is left.
    pub(crate) fn adopt(deposited: Vec<Named<OwnedFd>>) -> Self {
        let found = deposited.into_iter().filter_map(|(name, fd)| {
            let socket = Socket::from(fd);
            let address = socket.local_addr().ok()?.as_socket()?;
            let kind = if socket.r#type().ok()? == Type::DGRAM { Kind::Udp } else { Kind::Tcp };
            let place = Place { kind, address };
            (place.to_string() == name).then(|| (place, Arc::new(socket)))
        });
        Self(found.collect())
    }

    /// Listens at `addresses`, and nowhere else. What there was stays open there. Says where that was not possible, and why.
    pub(crate) fn listen(&mut self, addresses: &[SocketAddr]) -> Vec<String> {
        let wanted: Vec<Place> = [Kind::Udp, Kind::Tcp]
            .into_iter()
            .flat_map(|kind| addresses.iter().map(move |address| Place { kind, address: *address }))
            .collect();
        self.0.retain(|place, _| wanted.contains(place));
        let mut failed = Vec::new();
        for place in wanted {
            if let Entry::Vacant(free) = self.0.entry(place) {
                match open(place) {
                    Ok(socket) => drop(free.insert(Arc::new(socket))),
                    Err(error) => failed.push(format!("{place} cannot be listened on: {error}")),
                }
            }
        }
        failed
    }

    /// For the deposit.
    pub(crate) fn named(&self) -> Vec<Named<BorrowedFd<'_>>> {
        self.0.iter().map(|(place, socket)| (place.to_string(), socket.as_fd())).collect()
    }
}

fn open(place: Place) -> io::Result<Socket> {
    let (kind, protocol) = match place.kind {
        Kind::Udp => (Type::DGRAM, Protocol::UDP),
        Kind::Tcp => (Type::STREAM, Protocol::TCP),
    };
    let socket = Socket::new(Domain::for_address(place.address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    // No link has the address.
    match place.address.ip() {
        IpAddr::V4(_) => socket.set_freebind_v4(true)?,
        IpAddr::V6(_) => {
            socket.set_freebind_v6(true)?;
            socket.set_only_v6(true)?;
        }
    }
    match place.kind {
        Kind::Udp => {
            // Root may have more than others.
            let forced =
                nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &BUFFER);
            if forced.is_err() {
                socket.set_recv_buffer_size(BUFFER)?;
            }
        }
        // Connections of the agent before may linger.
        Kind::Tcp => socket.set_reuse_address(true)?,
    }
    socket.bind(&SockAddr::from(place.address))?;
    if place.kind == Kind::Tcp {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_adopted_by_name_and_only_those_wanted_stay() {
        let mut sockets = Sockets::default();
        let wanted: Vec<SocketAddr> = vec!["127.0.0.1:0".parse().unwrap()];
        assert!(sockets.listen(&wanted).is_empty());
        let real = |s: &Socket| s.local_addr().unwrap().as_socket().unwrap();
        let udp = sockets.0.iter().find(|(place, _)| place.kind == Kind::Udp).unwrap().1.clone();
        let address = real(&udp);
        let copy = || OwnedFd::from(udp.try_clone().unwrap());
        let named = Place { kind: Kind::Udp, address }.to_string();
        let adopted = Sockets::adopt(vec![(named, copy()), ("udp 127.0.0.1:1".into(), copy())]);
        assert_eq!(adopted.0.keys().map(|p| p.address).collect::<Vec<_>>(), [address]);

        let mut adopted = adopted;
        assert!(adopted.listen(&[address]).is_empty());
        assert_eq!(adopted.0.len(), 2, "TCP came in addition");
        assert!(adopted.listen(&[]).is_empty());
        assert!(adopted.0.is_empty());
    }

    #[test]
    fn an_address_in_use_is_named() {
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        // Somebody else may have the port for TCP.
        let failed = Sockets::default().listen(&[address]);
        assert!(failed.iter().any(|why| why.starts_with(&format!("udp {address} "))), "{failed:?}");
    }
}
