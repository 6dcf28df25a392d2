//! What a node is to its proxy.

use crate::config::ProxyConfig;
use crate::plan::FrontKey;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use warren_types::{ClusterConfig, Endpoint, HeldPort, LocalNode, Node, NodeName, Protocol};

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
    /// Those of this node that no other node has: answers to them come back by the tunnel.
    pub own_addresses: BTreeSet<IpAddr>,
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
        let elsewhere = rows.nodes.iter().filter(|node| node.name != config.node_name);
        let taken: BTreeSet<IpAddr> = elsewhere.flat_map(|node| node.internal_ips.iter().copied()).collect();
        let told = rows.nodes.iter().map(|node| (&node.name, &node.held_ports, &node.internal_ips));
        // This node's own word too: it is here before the API has brought it around, so that no front takes a port from
        // a listener of this host meanwhile.
        let own_word = (&rows.local.name, &rows.local.held_ports, &rows.local.internal_ips);
        let mut held_ports: BTreeMap<IpAddr, BTreeMap<(Protocol, u16), String>> = BTreeMap::new();
        for (node, ports, addresses) in told.chain([own_word]) {
            for address in addresses {
                let holder = |held: &HeldPort| format!("{} on node {node}", held.holder);
                let all = ports.iter().map(|held| ((held.protocol, held.port), holder(held)));
                held_ports.entry(*address).or_default().extend(all);
            }
        }
        let all_pods = rows.nodes.iter().flat_map(|node| node.pod_cidrs.iter());
        let own_address = |v4| pod_cidrs.node_addresses().find(|address| address.is_ipv4() == v4);
        Self {
            name: config.node_name.clone(),
            zone: own.and_then(|node| node.labels.get(LABEL_ZONE)).filter(|zone| !zone.is_empty()).cloned(),
            node_port_addresses,
            node_addresses: others.chain(rows.local.internal_ips.iter().copied()).collect(),
            own_addresses: rows.local.internal_ips.iter().copied().filter(|ip| !taken.contains(ip)).collect(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_held_on_this_nodes_own_word_before_the_api_has_it() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let local = LocalNode {
            name: "n1".parse().unwrap(),
            node_id: "0123456789abcdef0123456789abcdef".parse().unwrap(),
            public_key: warren_types::PublicKey([7; 32]),
            endpoints: Vec::new(),
            held_ports: vec![HeldPort { protocol: Protocol::Tcp, port: 80, holder: "nginx (pid 7)".into() }],
            ingress: Vec::new(),
            internal_ips: vec![address],
            served_ips: Vec::new(),
            ready: true,
            message: String::new(),
        };
        let cluster = ClusterConfig { cluster_cidrs: Vec::new(), service_cidrs: Vec::new() };
        let config = ProxyConfig {
            node_name: local.name.clone(),
            node_port_addresses: Vec::new(),
            external_ip_ranges: Vec::new(),
            tunnel_port: 51820,
        };
        let node =
            NodeContext::new(&Rows { local: &local, nodes: &[], cluster: &cluster }, &config, &[address]);
        let of = |port| node.holder_of(&FrontKey { address, protocol: Protocol::Tcp, port });
        assert_eq!(of(80), Some("nginx (pid 7) on node n1"));
        assert_eq!(of(81), None);
    }
}
