//! The sockets that requests come in on: made here, or taken over from the agent before.

use crate::route::Scheme;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use warren_netlink::keeper::{self, Named};

/// The process that keeps them while no agent runs: `warren ingress-sockets`.
pub const KEEPER: keeper::Process = keeper::Process::new("ingress-sockets");
/// Connections that wait to be accepted, also while no agent runs.
const BACKLOG: i32 = 4_096;

/// What listens where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) https: bool,
    pub(crate) address: SocketAddr,
}

impl Place {
    pub(crate) fn scheme(self) -> Scheme {
        if self.https { Scheme::Https } else { Scheme::Http }
    }

    /// Both families, for both schemes.
    pub(crate) fn all(http_port: u16, https_port: u16) -> Vec<Self> {
        let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let place = |https, port| any.map(|ip| Self { https, address: SocketAddr::new(ip, port) });
        [place(false, http_port), place(true, https_port)].concat()
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.scheme().as_str(), self.address)
    }
}

/// The sockets that there are.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    open: BTreeMap<Place, TcpListener>,
    /// From the agent before, until it is known which are wanted.
    left: BTreeMap<String, TcpListener>,
}

impl Sockets {
    /// Takes over what an agent before deposited. What is not what its name says is left alone.
    pub(crate) fn adopt(&mut self, deposited: Vec<Named<OwnedFd>>) {
        let found = deposited.into_iter().map(|(name, fd)| (name, TcpListener::from(fd)));
        let speaks = |name: &str, socket: &TcpListener| {
            socket.local_addr().is_ok_and(|address| name.ends_with(&format!("://{address}")))
        };
        self.left = found.filter(|(name, socket)| speaks(name, socket)).collect();
    }

    /// Listens at these places, and nowhere else. What was open there stays. Says where it could not, and why.
    pub(crate) fn listen(&mut self, places: &[Place]) -> Vec<String> {
        self.open.retain(|place, _| places.contains(place));
        let mut failed = Vec::new();
        for place in places {
            if self.open.contains_key(place) {
                continue;
            }
            let kept = self.left.remove(&place.to_string()).map(Ok);
            match kept.unwrap_or_else(|| open(*place)) {
                Ok(socket) => drop(self.open.insert(*place, socket)),
                // A machine without IPv6.
                Err(e) if e.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) && place.address.is_ipv6() => {}
                Err(e) => failed.push(format!("{place} cannot be listened on: {e}")),
            }
        }
        self.left.clear();
        failed
    }

    /// Where it listens.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> {
        self.open.keys().copied()
    }

    /// Copies of the sockets.
    pub(crate) fn copies(&self) -> io::Result<Vec<(Place, TcpListener)>> {
        self.open.iter().map(|(place, socket)| Ok((*place, socket.try_clone()?))).collect()
    }

    /// For the deposit.
    pub(crate) fn named(&self) -> Vec<Named<BorrowedFd<'_>>> {
        self.open.iter().map(|(place, socket)| (place.to_string(), socket.as_fd())).collect()
    }
}

fn open(place: Place) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(place.address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Connections of the agent before may linger.
    socket.set_reuse_address(true)?;
    if place.address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&SockAddr::from(place.address))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(address: &str) -> Place {
        Place { https: false, address: address.parse().unwrap() }
    }

    #[test]
    fn what_was_left_is_used_and_what_nobody_wants_is_closed() {
        let mut first = Sockets::default();
        // Of an address that no other test binds, so that nobody takes the port meanwhile.
        let free = TcpListener::bind("127.0.0.2:0").unwrap().local_addr().unwrap();
        let wanted = [Place { https: false, address: free }];
        assert_eq!(first.listen(&wanted), Vec::<String>::new());
        assert_eq!(first.listen(&wanted), Vec::<String>::new(), "it is open already");
        let deposited = first.named().into_iter().map(|(name, fd)| (name, fd.try_clone_to_owned().unwrap()));
        let deposited: Vec<_> = deposited.collect();
        drop(first);

        let mut next = Sockets::default();
        next.adopt(deposited);
        assert_eq!(next.listen(&wanted), Vec::<String>::new());
        assert_eq!(next.places().collect::<Vec<_>>(), wanted);
        let said = next.listen(&[]);
        assert_eq!((said, next.named().len()), (Vec::new(), 0));
        TcpListener::bind(free).unwrap();
    }

    #[test]
    fn a_port_that_somebody_has_is_named() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = place(&holder.local_addr().unwrap().to_string());
        let failed = Sockets::default().listen(&[taken]);
        assert!(failed[0].contains(&taken.to_string()), "{failed:?}");
    }

    #[test]
    fn a_socket_that_is_not_what_its_name_says_is_not_used() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sockets = Sockets::default();
        sockets.adopt(vec![("http://127.0.0.1:1".into(), other.into())]);
        assert!(sockets.left.is_empty());
    }
}
