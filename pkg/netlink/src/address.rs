//! Addresses of links, and neighbours.

use crate::transport::Failure;
use crate::{Netlink, NetlinkError, distinct};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteType;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc;
use std::net::IpAddr;

/// An entry of the neighbour table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The link's index.
    pub index: u32,
    /// Its address.
    pub addr: IpAddr,
    /// Its hardware address; empty when it is not known.
    pub mac: Vec<u8>,
    /// Set by an administrator, never asked for (`NUD_PERMANENT`).
    pub permanent: bool,
}

impl Netlink {
    /// Adds an address (IPv6 without duplicate address detection); present is success.
    pub async fn ensure_address(&self, link: &str, addr: IpNet) -> Result<(), NetlinkError> {
        self.ensure_address_at(self.link_index(link).await?, addr).await
    }

    /// Like [`Netlink::ensure_address`], for a caller that knows the link's index.
    pub async fn ensure_address_at(&self, index: u32, addr: IpNet) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewAddress(address_message(index, addr));
        match self.change(message, NLM_F_CREATE | NLM_F_EXCL).await {
            Ok(_) => Ok(()),
            // IPv6 says so also when the address is there with another prefix length.
            Err(f) if f.errno() == Some(libc::EEXIST) => {
                let present = self.addresses(index).await?.contains(&(index, addr));
                if present { Ok(()) } else { Err(f.named("add address", on(addr, index))) }
            }
            Err(f) => Err(f.named("add address", on(addr, index))),
        }
    }

    /// Removes an address; missing is success.
    pub async fn remove_address(&self, link: &str, addr: IpNet) -> Result<(), NetlinkError> {
        let Some(link) = self.get_link(link).await? else { return Ok(()) };
        let message = RouteNetlinkMessage::DelAddress(address_message(link.index, addr));
        match self.change(message, 0).await {
            Ok(_) => Ok(()),
            Err(f) if matches!(f.errno(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(()),
            Err(f) => Err(f.named("remove address", on(addr, link.index))),
        }
    }

    /// All addresses of a link, or of every link: (ifindex, address with prefix).
    pub async fn list_addresses(&self, link: Option<&str>) -> Result<Vec<(u32, IpNet)>, NetlinkError> {
        match link {
            Some(name) => self.addresses(self.link_index(name).await?).await,
            None => self.addresses(0).await,
        }
    }

    /// Addresses of the link with this index, or of all when it is 0.
    async fn addresses(&self, index: u32) -> Result<Vec<(u32, IpNet)>, NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        let all = self.dump(RouteNetlinkMessage::GetAddress(message)).await;
        let all = all.map_err(|f| f.named("list", "addresses"))?;
        let found = all.into_iter().filter_map(|m| match m {
            RouteNetlinkMessage::NewAddress(m) => Some((m.header.index, decode_address(&m)?)),
            _ => None,
        });
        Ok(distinct(found.filter(|(i, _)| index == 0 || *i == index), |one| *one))
    }

    /// Sets a permanent neighbour entry (`ip neigh replace ADDR lladdr MAC dev LINK nud permanent`).
    pub async fn ensure_neighbour(&self, link: &str, addr: IpAddr, mac: [u8; 6]) -> Result<(), NetlinkError> {
        self.ensure_neighbour_at(self.link_index(link).await?, addr, mac).await
    }

    /// Like [`Netlink::ensure_neighbour`], for a caller that knows the link's index.
    pub async fn ensure_neighbour_at(
        &self,
        index: u32,
        addr: IpAddr,
        mac: [u8; 6],
    ) -> Result<(), NetlinkError> {
        let mut message = neighbour_message(index, addr);
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let done =
            self.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE).await;
        done.map(drop).map_err(|f| f.named("set neighbour", on(addr, index)))
    }

    /// Removes a neighbour entry; missing is success.
    pub async fn remove_neighbour(&self, link: &str, addr: IpAddr) -> Result<(), NetlinkError> {
        let Some(link) = self.get_link(link).await? else { return Ok(()) };
        match self.change(RouteNetlinkMessage::DelNeighbour(neighbour_message(link.index, addr)), 0).await {
            Ok(_) => Ok(()),
            Err(f) if matches!(f.errno(), Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
            Err(f) => Err(f.named("remove neighbour", on(addr, link.index))),
        }
    }

    /// Neighbours of a link, or of every link.
    pub async fn list_neighbours(&self, link: Option<&str>) -> Result<Vec<Neighbour>, NetlinkError> {
        let index = match link {
            Some(name) => Some(self.link_index(name).await?),
            None => None,
        };
        let mut message = NeighbourMessage::default();
        message.attributes.extend(index.map(NeighbourAttribute::IfIndex));
        let all = self.dump(RouteNetlinkMessage::GetNeighbour(message)).await;
        let all = all.map_err(|f: Failure| f.named("list", "neighbours"))?;
        let found = all.iter().filter_map(|m| match m {
            RouteNetlinkMessage::NewNeighbour(m) => decode_neighbour(m),
            _ => None,
        });
        Ok(distinct(found.filter(|n| index.is_none_or(|i| n.index == i)), |n| (n.index, n.addr)))
    }
}

/// An object of a link, in words.
fn on(addr: impl std::fmt::Display, index: u32) -> String {
    format!("{addr} on link number {index}")
}

pub(crate) fn family_of(addr: IpAddr) -> AddressFamily {
    if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn address_message(index: u32, addr: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family_of(addr.addr());
    message.header.prefix_len = addr.prefix_len();
    message.header.index = index;
    message.header.scope =
        if addr.addr().is_loopback() { AddressScope::Host } else { AddressScope::Universe };
    if addr.addr().is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message.attributes.push(AddressAttribute::Local(addr.addr()));
    message.attributes.push(AddressAttribute::Address(addr.addr()));
    message
}

/// The local address; on a point-to-point link the other attribute is the peer's.
fn decode_address(message: &AddressMessage) -> Option<IpNet> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(addr) => found = Some(*addr),
            AddressAttribute::Address(addr) => found = found.or(Some(*addr)),
            _ => {}
        }
    }
    IpNet::new(found?, message.header.prefix_len).ok()
}

fn neighbour_message(index: u32, addr: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(addr);
    message.header.ifindex = index;
    message.header.kind = RouteType::Unspec;
    message.attributes.push(NeighbourAttribute::Destination(match addr {
        IpAddr::V4(addr) => NeighbourAddress::Inet(addr),
        IpAddr::V6(addr) => NeighbourAddress::Inet6(addr),
    }));
    message
}

fn decode_neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let mut addr = None;
    let mut mac = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => addr = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => addr = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac.clone_from(bytes),
            _ => {}
        }
    }
    let permanent = message.header.state == NeighbourState::Permanent;
    Some(Neighbour { index: message.header.ifindex, addr: addr?, mac, permanent })
}
