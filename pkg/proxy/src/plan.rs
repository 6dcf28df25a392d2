//! What should happen to packets for one Service: a pure function of the Service, its slices and the node.
//!
//! Semantics follow "Virtual IPs and Service Proxies" of the Kubernetes documentation, and kube-proxy where that is
//! silent. Addresses that no Service may take are refused here again, whatever the API let in (CVE-2020-8554,
//! CVE-2021-25737).

use crate::node::NodeContext;
use ipnet::IpNet;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use warren_types::{
    Endpoint, EndpointSlice, Family, Fault, Protocol, Service, ServiceKey, ServiceKind, ServicePort,
    TrafficPolicy,
};

/// Where packets for a Service arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontKey {
    /// The destination address.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The destination port.
    pub port: u16,
}

impl std::fmt::Display for FrontKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", SocketAddr::new(self.address, self.port), self.protocol)
    }
}

/// Which part of a Service a front is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Origin {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `spec.ports[].nodePort` on an address of this node.
    NodePort,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `status.loadBalancer`.
    LoadBalancer,
}

/// An endpoint that packets can be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Whether it is a pod of this node, with an address of its own.
    pub local_pod: bool,
}

/// What happens to a new connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// It goes to one of these, at random. Never empty; sorted.
    To(Arc<[Target]>),
    /// It is refused at once: nothing serves it anywhere.
    Reject,
    /// It is dropped: nothing on this node serves it, but another node may.
    Drop,
}

impl Route {
    /// The targets; none when it is refused or dropped.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        match self {
            Self::To(targets) => targets,
            Self::Reject | Self::Drop => &[],
        }
    }
}

/// One address and port of a Service, and what happens there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Front {
    /// Where packets arrive.
    pub key: FrontKey,
    /// Which part of the Service it is.
    pub origin: Origin,
    /// Index in `spec.ports`.
    pub port: usize,
    /// What happens.
    pub route: Route,
    /// What happens instead to packets from pods and from this node itself, where that differs: with
    /// `externalTrafficPolicy: Local` they reach any endpoint.
    pub inside: Option<Route>,
    /// Seconds for which a client keeps its endpoint.
    pub affinity: Option<u32>,
    /// Sources that may connect; none is everyone.
    pub sources: Option<Arc<[IpNet]>>,
    /// All endpoints that serve, chosen or not, sorted: flows to them may live on. Of UDP alone; others' flows end by
    /// themselves.
    pub serving: Arc<[SocketAddr]>,
}

/// What a load balancer in front of the cluster may ask about a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port it asks on.
    pub port: u16,
    /// Ready endpoints on this node.
    pub local_endpoints: usize,
}

/// One Service on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServicePlan {
    /// Its fronts; each key once.
    pub fronts: Vec<Front>,
    /// `spec.healthCheckNodePort`, when it is to be answered.
    pub health: Option<HealthCheck>,
    /// What was refused. Sorted.
    pub faults: Vec<Fault>,
}

/// An endpoint of one port, from all slices.
pub(crate) struct Candidate<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) target: Target,
    pub(crate) on_this_node: bool,
}

/// What the endpoints of one port of a Service come to, for one family.
struct Choice {
    cluster: Arc<[Target]>,
    local: Arc<[Target]>,
    serving: Arc<[SocketAddr]>,
}

/// Compiles one Service.
#[must_use]
pub fn compile(service: &Service, slices: &[&EndpointSlice], node: &NodeContext) -> ServicePlan {
    let mut plan = ServicePlan::default();
    if service.foreign_proxy || service.kind == ServiceKind::ExternalName || service.is_headless() {
        return plan;
    }
    let slices: Vec<&EndpointSlice> = slices.iter().copied().filter(|slice| !slice.foreign_proxy).collect();
    let mut fronts: BTreeMap<FrontKey, Front> = BTreeMap::new();
    let mut faults = BTreeSet::new();
    let places = places(service, node, &mut faults);
    for (index, port) in service.ports.iter().enumerate() {
        let mut choices: BTreeMap<Family, Choice> = BTreeMap::new();
        for place in &places {
            let Some(number) = place.port_of(port) else { continue };
            let key = FrontKey { address: place.address, protocol: port.protocol, port: number };
            if place.origin != Origin::ClusterIp
                && let Some(holder) = node.holder_of(&key)
            {
                faults.insert(Fault {
                    reason: "PortInUse".into(),
                    message: format!("{key} is held by {holder}; stop it, or change the Service's port"),
                });
                continue;
            }
            let choice = choices
                .entry(Family::of(place.address))
                .or_insert_with(|| choose(port, Family::of(place.address), &slices, node, &mut faults));
            let front = front(service, place, index, key, choice);
            fronts.entry(key).or_insert(front);
        }
    }
    plan.fronts = fronts.into_values().collect();
    plan.health = health(service, &slices, node);
    plan.faults = faults.into_iter().collect();
    plan
}

/// An address of a Service.
struct Place {
    address: IpAddr,
    origin: Origin,
}

impl Place {
    fn port_of(&self, port: &ServicePort) -> Option<u16> {
        match self.origin {
            Origin::NodePort => port.node_port,
            _ => Some(port.port),
        }
    }
}

/// The addresses that the Service may have, best claim first.
fn places(service: &Service, node: &NodeContext, faults: &mut BTreeSet<Fault>) -> Vec<Place> {
    let mut places = Vec::new();
    let mut refuse = |field: &str, address: IpAddr, why: &str| {
        faults
            .insert(Fault { reason: "AddressRefused".into(), message: format!("{field}: {address} {why}") });
    };
    for address in service.cluster_ips.iter().copied() {
        match node.refuses_cluster_ip(address) {
            Some(why) => refuse("spec.clusterIPs", address, why),
            None => places.push(Place { address, origin: Origin::ClusterIp }),
        }
    }
    for address in service.external_ips.iter().copied() {
        match node.refuses_external_ip(address) {
            Some(why) => refuse("spec.externalIPs", address, why),
            None => places.push(Place { address, origin: Origin::ExternalIp }),
        }
    }
    if service.kind == ServiceKind::LoadBalancer {
        for address in service.load_balancer_ips.iter().copied() {
            match node.refuses_load_balancer_ip(address) {
                Some(why) => refuse("status.loadBalancer", address, why),
                None => places.push(Place { address, origin: Origin::LoadBalancer }),
            }
        }
    }
    if matches!(service.kind, ServiceKind::NodePort | ServiceKind::LoadBalancer) {
        let families: BTreeSet<Family> = service.cluster_ips.iter().map(|ip| Family::of(*ip)).collect();
        let own = node.node_port_addresses.iter().copied();
        places.extend(
            own.filter(|address| families.contains(&Family::of(*address)))
                .map(|address| Place { address, origin: Origin::NodePort }),
        );
    }
    places
}

fn front(service: &Service, place: &Place, port: usize, key: FrontKey, choice: &Choice) -> Front {
    let policy = match place.origin {
        Origin::ClusterIp => service.internal_policy,
        _ => service.external_policy,
    };
    let (cluster, local) = (route(&choice.cluster, false), route(&choice.local, !choice.cluster.is_empty()));
    let (route, inside) = match (policy, place.origin) {
        (TrafficPolicy::Cluster, _) => (cluster, None),
        (TrafficPolicy::Local, Origin::ClusterIp) => (local, None),
        (TrafficPolicy::Local, _) => {
            let inside = (local != cluster).then_some(cluster);
            (local, inside)
        }
    };
    let restricted = place.origin == Origin::LoadBalancer && !service.source_ranges.is_empty();
    let sources = restricted.then(|| {
        let family = Family::of(place.address);
        let ranges = service.source_ranges.iter().copied().filter(|net| Family::of(net.addr()) == family);
        IpNet::aggregate(&ranges.collect()).into()
    });
    Front {
        key,
        origin: place.origin,
        port,
        route,
        inside,
        affinity: service.affinity.map(|affinity| affinity.seconds),
        sources,
        serving: choice.serving.clone(),
    }
}

/// `elsewhere`: whether others than these could serve.
fn route(targets: &Arc<[Target]>, elsewhere: bool) -> Route {
    match (targets.is_empty(), elsewhere) {
        (false, _) => Route::To(targets.clone()),
        (true, true) => Route::Drop,
        (true, false) => Route::Reject,
    }
}

/// The endpoints of one port. What several slices say of one endpoint adds up: it is ready when one says so.
pub(crate) fn candidates<'a>(
    port: &ServicePort,
    family: Family,
    slices: &[&'a EndpointSlice],
    node: &NodeContext,
    faults: &mut BTreeSet<Fault>,
) -> BTreeMap<SocketAddr, Candidate<'a>> {
    let mut found: BTreeMap<SocketAddr, Candidate<'a>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.family == family) {
        for number in
            slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol).map(|p| p.port)
        {
            for endpoint in &slice.endpoints {
                if let Some(why) = node.refuses_endpoint(endpoint.address) {
                    faults.insert(Fault {
                        reason: "EndpointRefused".into(),
                        message: format!("EndpointSlice {}: {} {why}", slice.key, endpoint.address),
                    });
                    continue;
                }
                let on_this_node = node.has(endpoint);
                let target = Target {
                    address: endpoint.address,
                    port: number,
                    local_pod: node.is_local_pod(endpoint.address),
                };
                let candidate = Candidate { endpoint, target, on_this_node };
                let rank = |e: &Endpoint| (e.ready, e.serving);
                match found.entry(SocketAddr::new(endpoint.address, number)) {
                    std::collections::btree_map::Entry::Vacant(entry) => drop(entry.insert(candidate)),
                    std::collections::btree_map::Entry::Occupied(mut entry) => {
                        if rank(entry.get().endpoint) < rank(endpoint) {
                            entry.insert(candidate);
                        }
                    }
                }
            }
        }
    }
    found
}

fn choose(
    port: &ServicePort,
    family: Family,
    slices: &[&EndpointSlice],
    node: &NodeContext,
    faults: &mut BTreeSet<Fault>,
) -> Choice {
    let candidates = candidates(port, family, slices, node, faults);
    let serves = |c: &Candidate<'_>| c.endpoint.ready || (c.endpoint.serving && c.endpoint.terminating);
    let serving = match port.protocol {
        Protocol::Udp => candidates.iter().filter(|(_, c)| serves(c)).map(|(at, _)| *at).collect(),
        Protocol::Tcp | Protocol::Sctp => Arc::default(),
    };
    let all: Vec<&Candidate<'_>> = candidates.values().collect();
    let here: Vec<&Candidate<'_>> = all.iter().copied().filter(|c| c.on_this_node).collect();
    let near = near(&all, node);
    let cluster = if near.is_empty() { usable(&all) } else { near };
    Choice { cluster: cluster.into(), local: usable(&here).into(), serving }
}

/// Those that are ready; when there is none, those that still serve while they terminate (KEP-1669).
fn usable(candidates: &[&Candidate<'_>]) -> Vec<Target> {
    let ready: Vec<Target> = candidates.iter().filter(|c| c.endpoint.ready).map(|c| c.target).collect();
    if !ready.is_empty() {
        return ready;
    }
    let last = |c: &&&Candidate<'_>| c.endpoint.serving && c.endpoint.terminating;
    candidates.iter().filter(last).map(|c| c.target).collect()
}

/// The ready endpoints that hints mean for this node or its zone. None when the hints are not complete, or mean nobody
/// here: then all count (KEP-2433, KEP-3015).
fn near(candidates: &[&Candidate<'_>], node: &NodeContext) -> Vec<Target> {
    let ready: Vec<&&Candidate<'_>> = candidates.iter().filter(|c| c.endpoint.ready).collect();
    let meant = |hinted: &dyn Fn(&Endpoint) -> bool, for_here: &dyn Fn(&Endpoint) -> bool| -> Vec<Target> {
        if !ready.iter().all(|c| hinted(c.endpoint)) {
            return Vec::new();
        }
        ready.iter().filter(|c| for_here(c.endpoint)).map(|c| c.target).collect()
    };
    let by_node = meant(&|e| !e.for_nodes.is_empty(), &|e| e.for_nodes.contains(&node.name));
    if !by_node.is_empty() {
        return by_node;
    }
    let Some(zone) = &node.zone else { return Vec::new() };
    meant(&|e| !e.for_zones.is_empty(), &|e| e.for_zones.contains(zone))
}

fn health(service: &Service, slices: &[&EndpointSlice], node: &NodeContext) -> Option<HealthCheck> {
    let port = service.health_check_node_port?;
    if service.kind != ServiceKind::LoadBalancer || service.external_policy != TrafficPolicy::Local {
        return None;
    }
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    let here: BTreeSet<String> = endpoints
        .filter(|e| e.ready && node.has(e))
        .map(|e| e.pod.as_ref().map_or_else(|| e.address.to_string(), ToString::to_string))
        .collect();
    Some(HealthCheck { port, local_endpoints: here.len() })
}

/// Why a Service does not get a front: an older one has it.
#[must_use]
pub fn taken(key: &FrontKey, by: &ServiceKey) -> Fault {
    Fault {
        reason: "AddressInUse".into(),
        message: format!("{key} belongs to Service {by}, which is older; change the address or the port"),
    }
}

/// The plan of a Service whose rules the kernel refuses.
#[must_use]
pub fn quarantined() -> ServicePlan {
    let fault = Fault {
        reason: "RulesRefused".into(),
        message: "the kernel refuses the rules of this Service, so it is left out; see the agent's log, and report it".into(),
    };
    ServicePlan { faults: vec![fault], ..ServicePlan::default() }
}
