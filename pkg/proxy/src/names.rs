//! Names of the proxy's objects in `inet warren`, and the bytes of their keys.

use crate::plan::FrontKey;
use std::net::IpAddr;
use warren_netlink::nft::model::Field;
use warren_types::{Family, Protocol};

/// What one family's sets and chains are called.
#[derive(Debug)]
pub struct Names {
    /// The family.
    pub family: Family,
    /// `NFPROTO_*`.
    pub number: u8,
    /// Offset of the source address in the header.
    pub source: u32,
    /// Offset of the destination address in the header.
    pub destination: u32,
    /// Map: front -> chain that picks an endpoint.
    pub fronts: &'static str,
    /// As `fronts`, for packets from pods and from this node, where that differs.
    pub inside_fronts: &'static str,
    /// Map: front and index -> endpoint.
    pub ends: &'static str,
    /// As `ends`, for `inside_fronts`.
    pub inside_ends: &'static str,
    /// Map that packets fill: front and client -> endpoint.
    pub affinity: &'static str,
    /// Set: front and endpoint, of fronts with session affinity.
    pub alive: &'static str,
    /// Set: fronts that not everyone may connect to.
    pub guarded: &'static str,
    /// Set: front and range of sources that may.
    pub allowed: &'static str,
    /// Set: cluster addresses of Services.
    pub cluster_ips: &'static str,
    /// Set: other addresses of Services that are no node's.
    pub virtual_ips: &'static str,
    /// Set: pods of this node that are endpoints, each twice: as source and as destination.
    pub hairpin: &'static str,
    /// Map: address, protocol, port -> pod.
    pub host_ports: &'static str,
    /// Map: protocol, port -> pod, at every address of this node.
    pub host_ports_any: &'static str,
    /// Set: sources of this node: its pods, and its own addresses that answers through the tunnel come back to.
    pub local: &'static str,
    /// Set: where Services' addresses come from.
    pub service_ranges: &'static str,
    /// Chain: what comes from links.
    pub arriving: &'static str,
    /// Chain: what this node itself sends.
    pub leaving: &'static str,
    /// Chain: both.
    pub common: &'static str,
    /// What the names of chains that pick an endpoint begin with.
    pub pick: &'static str,
}

/// IPv4.
pub const V4: Names = Names {
    family: Family::V4,
    number: 2,
    source: 12,
    destination: 16,
    fronts: "svc_fronts4",
    inside_fronts: "svc_inside_fronts4",
    ends: "svc_ends4",
    inside_ends: "svc_inside_ends4",
    affinity: "svc_affinity4",
    alive: "svc_alive4",
    guarded: "svc_guarded4",
    allowed: "svc_allowed4",
    cluster_ips: "svc_cluster_ips4",
    virtual_ips: "svc_virtual_ips4",
    hairpin: "svc_hairpin4",
    host_ports: "svc_host_ports4",
    host_ports_any: "svc_host_ports_any4",
    local: "svc_local4",
    service_ranges: "svc_service_ranges4",
    arriving: "svc_arriving4",
    leaving: "svc_leaving4",
    common: "svc_common4",
    pick: "svc_pick4",
};

/// IPv6.
pub const V6: Names = Names {
    family: Family::V6,
    number: 10,
    source: 8,
    destination: 24,
    fronts: "svc_fronts6",
    inside_fronts: "svc_inside_fronts6",
    ends: "svc_ends6",
    inside_ends: "svc_inside_ends6",
    affinity: "svc_affinity6",
    alive: "svc_alive6",
    guarded: "svc_guarded6",
    allowed: "svc_allowed6",
    cluster_ips: "svc_cluster_ips6",
    virtual_ips: "svc_virtual_ips6",
    hairpin: "svc_hairpin6",
    host_ports: "svc_host_ports6",
    host_ports_any: "svc_host_ports_any6",
    local: "svc_local6",
    service_ranges: "svc_service_ranges6",
    arriving: "svc_arriving6",
    leaving: "svc_leaving6",
    common: "svc_common6",
    pick: "svc_pick6",
};

/// Chain: refuses.
pub const REJECT: &str = "svc_reject";
/// Chain: drops.
pub const DROP: &str = "svc_drop";

impl Names {
    /// The names of an address's family.
    #[must_use]
    pub fn of(address: IpAddr) -> &'static Self {
        match Family::of(address) {
            Family::V4 => &V4,
            Family::V6 => &V6,
        }
    }

    /// Address as a field.
    #[must_use]
    pub fn field(&self) -> Field {
        match self.family {
            Family::V4 => Field::Ipv4,
            Family::V6 => Field::Ipv6,
        }
    }

    /// Bytes of an address.
    #[must_use]
    pub fn length(&self) -> u8 {
        match self.family {
            Family::V4 => 4,
            Family::V6 => 16,
        }
    }
}

/// How an endpoint is picked: by which chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pick {
    /// For which family.
    pub family: Family,
    /// Whether for packets of the cluster's own, of an `inside_fronts` element.
    pub inside: bool,
    /// Seconds for which a client keeps its endpoint.
    pub affinity: Option<u32>,
    /// Among how many.
    pub count: u32,
}

impl Pick {
    /// The name of its chain.
    #[must_use]
    pub fn chain(&self) -> String {
        let Self { inside, affinity, count, .. } = self;
        let pick = self.names().pick;
        let inside = if *inside { "_inside" } else { "" };
        match affinity {
            Some(seconds) => format!("{pick}{inside}_{count}_sticky_{seconds}"),
            None => format!("{pick}{inside}_{count}"),
        }
    }

    /// The names of its family.
    #[must_use]
    pub fn names(&self) -> &'static Names {
        match self.family {
            Family::V4 => &V4,
            Family::V6 => &V6,
        }
    }
}

/// An address as keys have it.
#[must_use]
pub fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Protocol and port as keys have them.
#[must_use]
pub fn port_bytes(protocol: Protocol, port: u16) -> [u8; 8] {
    let [high, low] = port.to_be_bytes();
    [protocol.number(), 0, 0, 0, high, low, 0, 0]
}

/// A front as keys have it.
#[must_use]
pub fn front_bytes(front: &FrontKey) -> Vec<u8> {
    let mut key = address_bytes(front.address);
    key.extend(port_bytes(front.protocol, front.port));
    key
}

/// Address and port as maps give them to registers.
#[must_use]
pub fn end_bytes(address: IpAddr, port: u16) -> Vec<u8> {
    let mut bytes = address_bytes(address);
    let [high, low] = port.to_be_bytes();
    bytes.extend([high, low, 0, 0]);
    bytes
}
