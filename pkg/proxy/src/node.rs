//! What a node is to its proxy.

use crate::config::ProxyConfig;
use crate::plan::FrontKey;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use warren_types::{ClusterConfig, Endpoint, LocalNode, Node, NodeName, Protocol};

/// Label on Nodes: the zone.
const LABEL_ZONE: &str = "topology.kubernetes.io/zone";

/// Everything besides Services and endpoints that decides what packets meet on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeContext {
    /// This node.
    pub name: NodeName,
    /// Its label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// Addresses of this node that node ports are served on.
    pub node_port_addresses: BTreeSet<IpAddr>,
    /// The InternalIPs of all nodes.
    pub node_addresses: BTreeSet<IpAddr>,
    /// Ports of nodes that a process of the host holds, by the node's address, with the holder's name.
    pub held_ports: BTreeMap<IpAddr, BTreeMap<(Protocol, u16), String>>,
    /// Where pods' addresses come from.
    pub pod_ranges: Vec<IpNet>,
    /// This node's podCIDRs.
    pub local_pod_cidrs: Vec<IpNet>,
    /// Where Services' addresses come from.
    pub service_ranges: Vec<IpNet>,
    /// This node's own address in the pod network: what connections that must come back to this node come from.
    pub own_v4: Option<Ipv4Addr>,
    /// As `own_v4`.
    pub own_v6: Option<Ipv6Addr>,
    /// Where `spec.externalIPs` may come from.
    pub external_ip_ranges: Vec<IpNet>,
    /// UDP port of the tunnel, which masquerading must not use.
    pub tunnel_port: u16,
}

/// The rows that say what this node is.
pub struct Rows<'a> {
    /// This node's word about itself.
    pub local: &'a LocalNode,
    /// All nodes.
    pub nodes: &'a [Arc<Node>],
    /// The cluster's ranges.
    pub cluster: &'a ClusterConfig,
}

impl NodeContext {
    /// From the rows, the flags, and the addresses that the kernel has.
    #[must_use]
    pub fn new(rows: &Rows<'_>, config: &ProxyConfig, addresses: &[IpAddr]) -> Self {
        let own = rows.nodes.iter().find(|node| node.name == config.node_name);
        let pod_cidrs = own.map(|node| node.pod_cidrs).unwrap_or_default();
        let in_config = |address: &IpAddr| Self::in_ranges(&config.node_port_addresses, *address);
        let node_port_addresses = match config.node_port_addresses.is_empty() {
            true => rows.local.internal_ips.iter().copied().collect(),
            // Loopback is the relay's.
            false => addresses.iter().copied().filter(|a| in_config(a) && !a.is_loopback()).collect(),
        };
        let others = rows.nodes.iter().flat_map(|node| node.internal_ips.iter().copied());
        let mut held_ports: BTreeMap<IpAddr, BTreeMap<(Protocol, u16), String>> = BTreeMap::new();
        for node in rows.nodes {
            for held in &node.held_ports {
                for address in &node.internal_ips {
                    let of_address = held_ports.entry(*address).or_default();
                    let holder = format!("{} on node {}", held.holder, node.name);
                    of_address.insert((held.protocol, held.port), holder);
                }
            }
        }
        let all_pods = rows.nodes.iter().flat_map(|node| node.pod_cidrs.iter());
        let own_address = |v4| pod_cidrs.node_addresses().find(|address| address.is_ipv4() == v4);
        Self {
            name: config.node_name.clone(),
            zone: own.and_then(|node| node.labels.get(LABEL_ZONE)).filter(|zone| !zone.is_empty()).cloned(),
            node_port_addresses,
            node_addresses: others.chain(rows.local.internal_ips.iter().copied()).collect(),
            held_ports,
            pod_ranges: rows.cluster.cluster_cidrs.iter().copied().chain(all_pods).collect(),
            local_pod_cidrs: pod_cidrs.iter().collect(),
            service_ranges: rows.cluster.service_cidrs.clone(),
            own_v4: own_address(true).and_then(|a| if let IpAddr::V4(v4) = a { Some(v4) } else { None }),
            own_v6: own_address(false).and_then(|a| if let IpAddr::V6(v6) = a { Some(v6) } else { None }),
            external_ip_ranges: config.external_ip_ranges.clone(),
            tunnel_port: config.tunnel_port,
        }
    }

    fn in_ranges(ranges: &[IpNet], address: IpAddr) -> bool {
        ranges.iter().any(|range| range.contains(&address))
    }

    /// Whether the endpoint is on this node.
    pub(crate) fn has(&self, endpoint: &Endpoint) -> bool {
        match &endpoint.node {
            Some(node) => *node == self.name,
            None => self.is_local_pod(endpoint.address),
        }
    }

    /// Whether a pod of this node can have this address.
    pub(crate) fn is_local_pod(&self, address: IpAddr) -> bool {
        Self::in_ranges(&self.local_pod_cidrs, address)
    }

    /// What holds the port at the address, when it is a node's.
    pub(crate) fn holder_of(&self, key: &FrontKey) -> Option<&str> {
        self.held_ports.get(&key.address)?.get(&(key.protocol, key.port)).map(String::as_str)
    }

    /// Why a Service cannot have this cluster address.
    pub(crate) fn refuses_cluster_ip(&self, address: IpAddr) -> Option<&'static str> {
        if self.node_addresses.contains(&address) {
            return Some("is a node's address");
        }
        self.refuses_any(address)
    }

    /// Why a Service cannot have this external address.
    pub(crate) fn refuses_external_ip(&self, address: IpAddr) -> Option<&'static str> {
        if !Self::in_ranges(&self.external_ip_ranges, address) {
            return Some("is in no range that --service-external-ips allows");
        }
        if Self::in_ranges(&self.service_ranges, address) {
            return Some("is in the range of cluster addresses");
        }
        if self.node_addresses.contains(&address) {
            return Some("is a node's address");
        }
        self.refuses_any(address)
    }

    /// Why a Service cannot have this address of a load balancer. A node's address is fine.
    pub(crate) fn refuses_load_balancer_ip(&self, address: IpAddr) -> Option<&'static str> {
        if Self::in_ranges(&self.service_ranges, address) {
            return Some("is in the range of cluster addresses");
        }
        self.refuses_any(address)
    }

    fn refuses_any(&self, address: IpAddr) -> Option<&'static str> {
        if Self::in_ranges(&self.pod_ranges, address) {
            return Some("is in the range of pods");
        }
        is_special(address)
            .then_some("can be no address of a Service: it is loopback, link-local, multicast or none")
    }

    /// Why an endpoint cannot have this address.
    pub(crate) fn refuses_endpoint(&self, address: IpAddr) -> Option<&'static str> {
        if Self::in_ranges(&self.service_ranges, address) {
            return Some("is a cluster address, which can be no endpoint");
        }
        is_special(address).then_some("can be no endpoint: it is loopback, link-local, multicast or none")
    }
}

fn is_special(address: IpAddr) -> bool {
    let special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    special
        || match address {
            IpAddr::V4(v4) => v4.is_broadcast() || v4.is_link_local() || v4.octets()[0] == 0,
            IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
        }
}
