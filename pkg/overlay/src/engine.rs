//! The overlay's engine: from what the cluster says to what the kernel of this node should hold. Pure, deterministic.
//!
//! Who keeps what two nodes claim: this node its own podCIDRs, whatever others say; of others, the first by name. The
//! other one is refused and named, so that all nodes decide alike with no word between them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use warren_netlink::{Route, RouteTarget, Rule};
use warren_types::cidr::overlap;
use warren_types::marks::{
    GUARD_METRIC, ROUTE_PROTOCOL, ROUTE_TABLE_NODES, RULE_PRIORITY_NODES, TUNNEL_LINK,
};
use warren_types::{ClusterConfig, Family, LocalNode, Node, NodeName, PodCidrs, PublicKey};

use crate::endpoint::{self, PeerState, Whereabouts};

/// The main routing table.
const TABLE_MAIN: u32 = 254;
/// MTU of a path of which nothing is known.
const PATH_MTU: u32 = 1500;

/// What is known of this host's own network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Underlay {
    /// Path MTU to each address there is a way to, of those asked for; an address that is missing cannot be reached.
    pub paths: BTreeMap<IpAddr, u32>,
    /// Addresses of this host, with their prefixes, without those on Warren's links.
    pub addresses: Vec<IpNet>,
    /// Destinations of this host's routes that are not Warren's, without default routes.
    pub routes: Vec<IpNet>,
}

/// Everything that the overlay of a node is made from.
#[derive(Debug, Clone, Copy)]
pub struct OverlayInput<'a> {
    /// This node.
    pub local: &'a LocalNode,
    /// All nodes of the cluster, in any order; this node among them once it has podCIDRs.
    pub nodes: &'a [Node],
    /// Ranges of the cluster.
    pub cluster: &'a ClusterConfig,
    /// Where peers were last heard from.
    pub learned: &'a BTreeMap<PublicKey, SocketAddr>,
    /// This host's own network.
    pub underlay: &'a Underlay,
    /// Peers as the device has them now.
    pub tunnels: &'a BTreeMap<PublicKey, PeerState>,
    /// MTU that the administrator chose.
    pub mtu: Option<u32>,
    /// Largest MTU that the backend carries.
    pub max_mtu: u32,
}

/// One peer of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredPeer {
    /// The node behind it.
    pub node: NodeName,
    /// What it may send from, and what is sent to it.
    pub allowed_ips: BTreeSet<IpNet>,
    /// Where to send; none: it has to come to us.
    pub endpoint: Option<SocketAddr>,
    /// Every endpoint worth trying, best first; `endpoint` need not be among them, when the peer has roamed.
    pub candidates: Vec<SocketAddr>,
    /// Persistent keepalive in seconds; 0 for none.
    pub keepalive: u16,
}

/// An object that is refused, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quarantined {
    /// The object, for example `node b: podCIDR 10.42.1.0/24`.
    pub object: String,
    /// Why, and what to do.
    pub reason: String,
}

impl fmt::Display for Quarantined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.reason)
    }
}

/// What the kernel of this node should hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Peers of the device.
    pub peers: BTreeMap<PublicKey, DesiredPeer>,
    /// Unreachable routes, there before everything else and gone after it.
    pub guards: BTreeSet<Route>,
    /// Routes into the tunnel.
    pub routes: BTreeSet<Route>,
    /// Rules for packets from local pods.
    pub rules: BTreeSet<Rule>,
    /// Addresses on the tunnel link.
    pub addresses: BTreeSet<IpNet>,
    /// MTU of the tunnel link.
    pub mtu: u32,
    /// Every range that pods of the cluster have addresses from.
    pub pod_ranges: BTreeSet<IpNet>,
    /// This node's own podCIDRs.
    pub local_pod_cidrs: BTreeSet<IpNet>,
    /// The Service network.
    pub service_ranges: BTreeSet<IpNet>,
    /// What is refused, in order.
    pub quarantined: Vec<Quarantined>,
}

/// Compiles `input`. The order of `input.nodes` does not matter.
#[must_use]
pub fn compile(input: &OverlayInput<'_>) -> Desired {
    let nodes: BTreeMap<&NodeName, &Node> = input.nodes.iter().map(|n| (&n.name, n)).collect();
    let own = nodes.get(&input.local.name).map(|n| n.pod_cidrs).unwrap_or_default();
    let mut refused = BTreeSet::new();
    let accepted = accept_pod_cidrs(input, &nodes, own, &mut refused);
    let keys = accept_keys(input, &nodes, &mut refused);
    let addresses = accept_addresses(input, &nodes, &mut refused);

    let mut out = Desired { local_pod_cidrs: own.iter().collect(), ..Desired::default() };
    out.service_ranges = input.cluster.service_cidrs.iter().map(IpNet::trunc).collect();
    out.pod_ranges = input.cluster.cluster_cidrs.iter().map(IpNet::trunc).collect();
    out.pod_ranges.extend(nodes.values().flat_map(|n| n.pod_cidrs.iter()));
    out.guards = out.pod_ranges.iter().map(|net| guard(*net, TABLE_MAIN)).collect();
    out.addresses = own.node_addresses().map(IpNet::from).collect();
    out.rules = own
        .iter()
        .map(|from| Rule {
            from,
            table: ROUTE_TABLE_NODES,
            priority: RULE_PRIORITY_NODES,
            protocol: ROUTE_PROTOCOL,
        })
        .collect();

    let ipv6_pods = out.pod_ranges.iter().any(|net| net.addr().is_ipv6());
    let usable = |addr: IpAddr| input.underlay.paths.contains_key(&addr) && !within(&out.pod_ranges, addr);
    let mut mtus = BTreeMap::new();
    for (name, node) in &nodes {
        let pods = accepted.get(name).copied().unwrap_or_default();
        let Some(key) = keys.get(name).copied().filter(|_| !pods.is_empty()) else { continue };
        let state = input.tunnels.get(&key);
        let learned = input.learned.get(&key).copied();
        let observed = observed(input, &nodes, name);
        let at = Whereabouts { published: &node.endpoints, observed: &observed, learned };
        let connected = &input.underlay.addresses;
        let candidates = endpoint::candidates(&at, connected, usable);
        let endpoint = endpoint::choose(&at, &candidates, usable, state);
        let keepalive =
            endpoint::keepalive(&input.local.endpoints, &node.endpoints, connected, learned, state);
        let path = endpoint.and_then(|e| Some((*input.underlay.paths.get(&e.ip())?, Family::of(e.ip()))));
        mtus.insert(*name, path.map(|(mtu, family)| endpoint::inner_mtu(mtu, family, ipv6_pods)));
        let own_addresses = addresses.get(name).into_iter().flatten().map(|a| IpNet::from(*a));
        let allowed_ips = pods.iter().chain(own_addresses).collect();
        out.peers
            .insert(key, DesiredPeer { node: (*name).clone(), allowed_ips, endpoint, candidates, keepalive });
    }

    let usual = usual_mtu(input, ipv6_pods);
    let ceiling = input.max_mtu.max(1280);
    out.mtu = input.mtu.or(mtus.values().flatten().max().copied()).unwrap_or(usual).min(ceiling);
    for peer in out.peers.values() {
        let mtu = mtus.get(&peer.node).copied().flatten().filter(|mtu| *mtu < out.mtu);
        for net in &peer.allowed_ips {
            let pods = accepted.get(&peer.node).is_some_and(|p| p.iter().any(|cidr| cidr == *net));
            let table = if pods { TABLE_MAIN } else { ROUTE_TABLE_NODES };
            if !pods {
                out.guards.insert(guard(*net, table));
            }
            // Only the node itself looks in the main table for a source; pods bring theirs.
            let src = own.node_addresses().find(|a| pods && a.is_ipv4() == net.addr().is_ipv4());
            out.routes.insert(tunnel_route(*net, table, src, mtu));
        }
    }
    // The proxy translates before anything goes this way; the route lets this node itself connect to Services, also
    // when it has no default route.
    for net in &out.service_ranges {
        let src = own.node_addresses().find(|a| a.is_ipv4() == net.addr().is_ipv4());
        if src.is_some() {
            out.routes.insert(tunnel_route(*net, TABLE_MAIN, src, None));
        }
    }
    out.quarantined = refused.into_iter().collect();
    out
}

/// From where other nodes hear `name`, without repeats. What this node itself observes is in `learned`.
fn observed(
    input: &OverlayInput<'_>,
    nodes: &BTreeMap<&NodeName, &Node>,
    name: &NodeName,
) -> Vec<SocketAddr> {
    let others = nodes.iter().filter(|(observer, _)| **observer != &input.local.name);
    others
        .filter_map(|(_, node)| node.observed.get(name))
        .copied()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// The MTU without any peer: that of the path to this node's own addresses, whose links lead to the others.
fn usual_mtu(input: &OverlayInput<'_>, ipv6_pods: bool) -> u32 {
    let own = input.local.internal_ips.first().copied();
    let family = own.map_or(Family::V6, Family::of);
    let path = own.and_then(|a| input.underlay.paths.get(&a)).copied().unwrap_or(PATH_MTU);
    endpoint::inner_mtu(path, family, ipv6_pods)
}

fn guard(dst: IpNet, table: u32) -> Route {
    Route {
        dst,
        target: RouteTarget::Unreachable,
        src: None,
        scope_link: false,
        metric: GUARD_METRIC,
        table,
        protocol: ROUTE_PROTOCOL,
        mtu: None,
    }
}

fn tunnel_route(dst: IpNet, table: u32, src: Option<IpAddr>, mtu: Option<u32>) -> Route {
    Route {
        dst,
        target: RouteTarget::Link { link: TUNNEL_LINK.into(), gateway: None, onlink: false },
        src,
        scope_link: dst.addr().is_ipv4(),
        metric: 0,
        table,
        protocol: ROUTE_PROTOCOL,
        mtu,
    }
}

fn within<'a>(ranges: impl IntoIterator<Item = &'a IpNet>, addr: IpAddr) -> bool {
    ranges.into_iter().any(|net| net.contains(&addr))
}

/// The podCIDRs of other nodes that get a route.
fn accept_pod_cidrs<'a>(
    input: &OverlayInput<'_>,
    nodes: &BTreeMap<&'a NodeName, &'a Node>,
    own: PodCidrs,
    refused: &mut BTreeSet<Quarantined>,
) -> BTreeMap<&'a NodeName, PodCidrs> {
    let mut taken: Vec<(IpNet, &NodeName)> = own.iter().map(|net| (net, &input.local.name)).collect();
    let mut out: BTreeMap<&NodeName, PodCidrs> = BTreeMap::new();
    for net in own.iter() {
        if let Some(reason) = unfit(input, nodes, net) {
            refused.insert(pod_cidr(&input.local.name, net, reason));
        }
    }
    for (name, node) in nodes {
        for net in node.pod_cidrs.iter().filter(|_| **name != input.local.name) {
            let clash = taken.iter().find(|(other, _)| overlap(*other, net));
            let reason = match clash {
                Some((other, owner)) if **owner == input.local.name => Some(format!(
                    "overlaps this node's own {other}, which is kept; give one of the nodes another podCIDR"
                )),
                Some((other, owner)) => Some(format!(
                    "overlaps {other} of node {owner}, which keeps it (first by name); give node {name} another podCIDR"
                )),
                None => unfit(input, nodes, net),
            };
            match (reason, net) {
                (Some(reason), _) => {
                    refused.insert(pod_cidr(name, net, reason));
                }
                (None, IpNet::V4(v4)) => out.entry(*name).or_default().v4 = Some(v4),
                (None, IpNet::V6(v6)) => out.entry(*name).or_default().v6 = Some(v6),
            }
            if !refused.iter().any(|q| q.object == pod_cidr_name(name, net)) {
                taken.push((net, *name));
            }
        }
    }
    out
}

fn pod_cidr_name(name: &NodeName, net: IpNet) -> String {
    format!("node {name}: podCIDR {net}")
}

fn pod_cidr(name: &NodeName, net: IpNet, reason: String) -> Quarantined {
    Quarantined { object: pod_cidr_name(name, net), reason }
}

/// Why a podCIDR cannot be routed on this host, whoever has it.
fn unfit(input: &OverlayInput<'_>, nodes: &BTreeMap<&NodeName, &Node>, net: IpNet) -> Option<String> {
    let of_family: Vec<&IpNet> =
        input.cluster.cluster_cidrs.iter().filter(|c| c.addr().is_ipv4() == net.addr().is_ipv4()).collect();
    if !of_family.is_empty() && !of_family.iter().any(|c| c.contains(&net)) {
        let ranges = of_family.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Some(format!("is outside of the cluster's {ranges}; check --cluster-cidr"));
    }
    if let Some(service) = input.cluster.service_cidrs.iter().find(|s| overlap(**s, net)) {
        return Some(format!("overlaps the Service network {service}; check --service-cidr"));
    }
    if let Some(addr) = input.underlay.addresses.iter().find(|a| net.contains(&a.addr())) {
        return Some(format!(
            "holds {}, an address of this host; choose another --cluster-cidr",
            addr.addr()
        ));
    }
    if let Some(route) = input.underlay.routes.iter().find(|r| net.contains(*r)) {
        return Some(format!("holds {route}, to which this host has a route; choose another --cluster-cidr"));
    }
    // Tunnel packets to an address inside the tunnel would go round in circles.
    for (name, node) in nodes {
        let addresses = node.internal_ips.iter().copied().chain(node.endpoints.iter().map(SocketAddr::ip));
        if let Some(addr) = addresses.into_iter().find(|a| net.contains(a)) {
            return Some(format!(
                "holds {addr}, an address of node {name} itself; choose another --cluster-cidr"
            ));
        }
    }
    None
}

/// The key of each other node that has one of its own.
fn accept_keys<'a>(
    input: &OverlayInput<'_>,
    nodes: &BTreeMap<&'a NodeName, &'a Node>,
    refused: &mut BTreeSet<Quarantined>,
) -> BTreeMap<&'a NodeName, PublicKey> {
    let mut owners = BTreeMap::from([(input.local.public_key, &input.local.name)]);
    let mut out = BTreeMap::new();
    for (name, node) in nodes.iter().filter(|(name, _)| ***name != input.local.name) {
        let Some(key) = node.public_key else { continue };
        match owners.get(&key) {
            None => {
                owners.insert(key, name);
                out.insert(*name, key);
            }
            Some(owner) => {
                refused.insert(Quarantined {
                    object: format!("node {name}: public key {key}"),
                    reason: format!(
                        "node {owner} has the same; one was cloned from the other: on {name}, stop the agent, remove \
                         its data directory, and start it again"
                    ),
                });
            }
        }
    }
    out
}

/// The addresses of each other node that can be reached through its tunnel: its own, and those on which it serves ports.
fn accept_addresses<'a>(
    input: &OverlayInput<'_>,
    nodes: &BTreeMap<&'a NodeName, &'a Node>,
    refused: &mut BTreeSet<Quarantined>,
) -> BTreeMap<&'a NodeName, BTreeSet<IpAddr>> {
    let mut claims: BTreeMap<IpAddr, BTreeSet<&NodeName>> = BTreeMap::new();
    for (name, node) in nodes {
        for addr in &node.internal_ips {
            claims.entry(*addr).or_default().insert(name);
        }
    }
    for addr in &input.local.internal_ips {
        claims.entry(*addr).or_default().insert(&input.local.name);
    }
    let unfit = |addr: IpAddr| {
        if !ordinary(addr) {
            Some("is not an address that another host can have")
        } else if input.underlay.addresses.iter().any(|own| own.addr() == addr) {
            Some("is an address of this host too; pods here reach this host by it")
        } else if within(&input.cluster.cluster_cidrs, addr) || within(&input.cluster.service_cidrs, addr) {
            Some("lies in a range of the cluster; choose another --cluster-cidr or --service-cidr")
        } else if nodes.values().any(|n| n.pod_cidrs.contains(addr)) {
            Some("lies in a podCIDR")
        } else {
            None
        }
    };
    let mut out: BTreeMap<&NodeName, BTreeSet<IpAddr>> = BTreeMap::new();
    for (name, node) in nodes.iter().filter(|(name, _)| ***name != input.local.name) {
        for addr in &node.internal_ips {
            let others = claims.get(addr).into_iter().flatten().filter(|other| **other != *name);
            let others: Vec<&str> = others.map(|n| n.as_str()).collect();
            let reason = if !others.is_empty() {
                Some(format!("node {} claims it too; used for none of them", others.join(", ")))
            } else {
                unfit(*addr).map(str::to_owned)
            };
            match reason {
                Some(reason) => {
                    refused.insert(Quarantined { object: format!("node {name}: address {addr}"), reason });
                }
                None => {
                    out.entry(*name).or_default().insert(*addr);
                }
            }
        }
    }
    // Nobody's InternalIP can be taken away so. What several hosts have (10.0.2.15 of every Vagrant machine, the bridge of
    // every Docker) is no fault, and has no one way to it.
    let mut served: BTreeMap<IpAddr, BTreeSet<&NodeName>> = BTreeMap::new();
    for (name, node) in nodes {
        for addr in node.served_ips.iter().filter(|addr| !claims.contains_key(addr)) {
            served.entry(*addr).or_default().insert(name);
        }
    }
    for (addr, by) in served {
        if let Some(name) = by.first().filter(|name| by.len() == 1 && ***name != input.local.name)
            && unfit(addr).is_none()
        {
            out.entry(*name).or_default().insert(addr);
        }
    }
    out
}

fn ordinary(addr: IpAddr) -> bool {
    let link_local = match addr {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(addr.is_loopback() || addr.is_multicast() || addr.is_unspecified() || link_local)
}

#[cfg(test)]
mod tests;
