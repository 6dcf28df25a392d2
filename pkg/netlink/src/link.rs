//! Links and their addresses.

use crate::{NetNs, Netlink, NetlinkError};
use ipnet::IpNet;
use std::net::IpAddr;

/// A link as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// `ifindex`.
    pub index: u32,
    /// `IFLA_IFNAME`.
    pub name: String,
    /// `IFLA_IFALIAS`; empty when unset.
    pub alias: String,
    /// `IFLA_INFO_KIND` (`veth`, `bridge`, `wireguard`, `tun`, ...); empty for physical links.
    pub kind: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Hardware address; empty for point-to-point links.
    pub mac: Vec<u8>,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// `IFLA_MASTER`.
    pub master: Option<u32>,
    /// `IFLA_LINK`: the peer's index, for a veth.
    pub peer_index: Option<u32>,
}

/// How to make a veth pair.
#[derive(Debug, Clone)]
pub struct VethSpec<'a> {
    /// Name of the end that stays in the handle's namespace.
    pub name: &'a str,
    /// Name of the other end.
    pub peer_name: &'a str,
    /// Namespace of the other end, made there directly; `None`: the handle's.
    pub peer_ns: Option<&'a NetNs>,
    /// MTU of both ends.
    pub mtu: u32,
    /// Hardware addresses (own end, peer end); `None`: the kernel's choice.
    pub macs: Option<([u8; 6], [u8; 6])>,
    /// Alias of the own end (`IFLA_IFALIAS`); empty for none.
    pub alias: &'a str,
}

impl Netlink {
    /// All links.
    pub async fn list_links(&self) -> Result<Vec<Link>, NetlinkError> {
        todo!()
    }
    /// The link with this name; `None` when there is none.
    pub async fn get_link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let _ = name;
        todo!()
    }
    /// Makes a veth pair. EEXIST is an error: the caller decides what a leftover means.
    pub async fn add_veth(&self, spec: &VethSpec<'_>) -> Result<(), NetlinkError> {
        let _ = spec;
        todo!()
    }
    /// Makes a kernel WireGuard link; the error's errno is EOPNOTSUPP where the kernel has no WireGuard.
    pub async fn add_wireguard(&self, name: &str, mtu: u32, alias: &str) -> Result<(), NetlinkError> {
        let _ = (name, mtu, alias);
        todo!()
    }
    /// Makes a bridge.
    pub async fn add_bridge(&self, name: &str) -> Result<(), NetlinkError> {
        let _ = name;
        todo!()
    }
    /// Makes `link` a port of bridge `master`.
    pub async fn set_master(&self, link: &str, master: &str) -> Result<(), NetlinkError> {
        let _ = (link, master);
        todo!()
    }
    /// Removes a link; missing is success (returns false).
    pub async fn remove_link(&self, name: &str) -> Result<bool, NetlinkError> {
        let _ = name;
        todo!()
    }
    /// Sets a link up or down.
    pub async fn set_up(&self, name: &str, up: bool) -> Result<(), NetlinkError> {
        let _ = (name, up);
        todo!()
    }
    /// Sets the MTU.
    pub async fn set_mtu(&self, name: &str, mtu: u32) -> Result<(), NetlinkError> {
        let _ = (name, mtu);
        todo!()
    }
    /// Sets the alias.
    pub async fn set_alias(&self, name: &str, alias: &str) -> Result<(), NetlinkError> {
        let _ = (name, alias);
        todo!()
    }
    /// Turns ARP and neighbour discovery off on a link (`IFF_NOARP`): only permanent neighbours count.
    pub async fn set_noarp(&self, name: &str) -> Result<(), NetlinkError> {
        let _ = name;
        todo!()
    }
    /// Moves a link into another namespace.
    pub async fn move_link(&self, name: &str, ns: &NetNs) -> Result<(), NetlinkError> {
        let _ = (name, ns);
        todo!()
    }
    /// Adds an address (IPv6 without duplicate address detection); present is success.
    pub async fn ensure_address(&self, link: &str, addr: IpNet) -> Result<(), NetlinkError> {
        let _ = (link, addr);
        todo!()
    }
    /// Removes an address; missing is success.
    pub async fn remove_address(&self, link: &str, addr: IpNet) -> Result<(), NetlinkError> {
        let _ = (link, addr);
        todo!()
    }
    /// All addresses of a link, or of every link: (ifindex, address with prefix).
    pub async fn list_addresses(&self, link: Option<&str>) -> Result<Vec<(u32, IpNet)>, NetlinkError> {
        let _ = link;
        todo!()
    }
    /// Sets a permanent neighbour entry (`ip neigh replace ADDR lladdr MAC dev LINK nud permanent`).
    pub async fn ensure_neighbour(&self, link: &str, addr: IpAddr, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let _ = (link, addr, mac);
        todo!()
    }
}
