//! Which addresses each Service of type LoadBalancer should have: from values alone.
//!
//! Two ways: those of the nodes that can serve it (`nodes`), or one per family from a pool (`pool`). The result depends on
//! the input only, so whichever node computes it comes to the same; among Services that want the same, the oldest gets it,
//! and what a Service has it keeps as long as it may.

mod nodes;
mod pool;
#[cfg(test)]
mod tests;

use crate::config::Mode;
use crate::pool::Pool;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use warren_types::{
    Endpoint, EndpointSlice, Family, Fault, LoadBalancerAddresses, Node, NodeName, Protocol, Service,
    ServiceKey, TrafficPolicy,
};

/// Ports that a program of a node's host holds, and which program.
pub type HeldPorts = BTreeMap<(Protocol, u16), String>;

/// Label on nodes that load balancers are to leave out.
pub const LABEL_EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// What addresses depend on.
#[derive(Debug, Clone, Copy)]
pub struct AddressInput<'a> {
    /// Where addresses come from.
    pub mode: &'a Mode,
    /// Services; those that Warren gives no addresses to are left out here.
    pub services: &'a [&'a Service],
    /// Every EndpointSlice, or at least those of these Services.
    pub slices: &'a [&'a EndpointSlice],
    /// Every node.
    pub nodes: &'a [&'a Node],
    /// What each node's host holds.
    pub held: &'a BTreeMap<NodeName, HeldPorts>,
}

/// The rows of `load_balancer_addresses`: one for each Service that Warren gives addresses to, in order of their names.
#[must_use]
pub fn compile(input: &AddressInput<'_>) -> Vec<LoadBalancerAddresses> {
    let mut services: Vec<&Service> = input.services.iter().copied().filter(|s| is_ours(s)).collect();
    services.sort_by(|a, b| (a.created, &a.key).cmp(&(b.created, &b.key)));
    let wanted: BTreeSet<_> = services.iter().map(|service| &service.key).collect();
    let endpoints = EndpointNodes::of(input.slices.iter().copied(), |key| wanted.contains(key));
    let mut given = match input.mode {
        Mode::Off => return Vec::new(),
        Mode::Nodes => nodes::give(input, &services, &endpoints),
        Mode::Pool(pool) => pool::give(pool, input.nodes, &services),
    };
    for service in &services {
        if let Some(node) = left_out(service, input.nodes, &endpoints) {
            let message = format!(
                "node {node} could serve it, but has the label {LABEL_EXCLUDED}, which kubeadm gives to nodes of the \
                 control plane; if it is to serve Services: kubectl label node {node} {LABEL_EXCLUDED}-"
            );
            given.entry(service.key.clone()).or_default().fault("NodesExcluded", message);
        }
    }
    services.sort_by(|a, b| a.key.cmp(&b.key));
    let row = |service: &&Service| {
        let given = given.remove(&service.key).unwrap_or_default();
        LoadBalancerAddresses {
            service: service.key.clone(),
            uid: service.uid.clone(),
            addresses: given.addresses.into_iter().collect(),
            faults: given.faults.into_iter().collect(),
        }
    };
    services.iter().map(row).collect()
}

/// The addresses of the pool that some Service has, and that this node can serve as far as its endpoints go.
#[must_use]
pub fn servable<'a>(
    pool: &Pool,
    own: &Node,
    services: &[&'a Service],
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
) -> BTreeSet<IpAddr> {
    if is_left_out(own) {
        return BTreeSet::new();
    }
    let local = |service: &Service| service.external_policy == TrafficPolicy::Local;
    let wanted: BTreeSet<_> = services.iter().filter(|s| is_ours(s) && local(s)).map(|s| &s.key).collect();
    let endpoints = EndpointNodes::of(slices, |key| wanted.contains(key));
    let ours = services.iter().filter(|service| is_ours(service));
    let addresses = ours.flat_map(|service| service.load_balancer_ips.iter().map(move |ip| (*service, *ip)));
    addresses
        .filter(|(_, ip)| pool.contains(*ip))
        .filter(|(s, ip)| !local(s) || endpoints.on(&s.key, Family::of(*ip), &own.name))
        .map(|(_, ip)| ip)
        .collect()
}

/// Whether load balancers are to leave this node out.
fn is_left_out(node: &Node) -> bool {
    node.labels.contains_key(LABEL_EXCLUDED)
}

/// Where nodes could serve a Service, and every one of them is to be left out: the first of these.
fn left_out<'a>(
    service: &'a Service,
    nodes: &[&'a Node],
    endpoints: &EndpointNodes<'a>,
) -> Option<&'a NodeName> {
    let local = service.external_policy == TrafficPolicy::Local;
    service.families.iter().find_map(|family| {
        let has_part = |node: &&&Node| !local || endpoints.on(&service.key, *family, &node.name);
        let able = || nodes.iter().filter(|node| node.ready).filter(has_part);
        let none_is_left = endpoints.any(&service.key, *family) && able().all(|node| is_left_out(node));
        able().filter(|_| none_is_left).map(|node| &node.name).min()
    })
}

/// Whether Warren gives this Service addresses, and its proxies take care of them.
pub(crate) fn is_ours(service: &Service) -> bool {
    service.wants_load_balancer() && !service.foreign_proxy
}

/// What one Service gets.
#[derive(Debug, Default)]
struct Given {
    addresses: BTreeSet<IpAddr>,
    faults: BTreeSet<Fault>,
}

impl Given {
    fn fault(&mut self, reason: &str, message: String) {
        self.faults.insert(Fault { reason: reason.to_owned(), message });
    }
}

/// What each Service gets.
type AllGiven = BTreeMap<ServiceKey, Given>;

/// The nodes with endpoints of a Service, by family: those that are ready; where none is, those that still serve.
#[derive(Debug, Default)]
pub(crate) struct EndpointNodes<'a>(BTreeMap<(&'a ServiceKey, Family), Usable<'a>>);

#[derive(Debug, Default)]
struct Usable<'a> {
    ready: BTreeSet<Option<&'a NodeName>>,
    serving: BTreeSet<Option<&'a NodeName>>,
}

impl<'a> EndpointNodes<'a> {
    /// Reads slices, for the Services that `wanted` picks.
    pub(crate) fn of(
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
        wanted: impl Fn(&ServiceKey) -> bool,
    ) -> Self {
        let mut all: BTreeMap<_, Usable<'_>> = BTreeMap::new();
        for slice in slices.into_iter().filter(|slice| !slice.foreign_proxy && wanted(&slice.service)) {
            let usable = all.entry((&slice.service, slice.family)).or_default();
            for Endpoint { ready, serving, node, .. } in &slice.endpoints {
                if *ready {
                    usable.ready.insert(node.as_ref());
                } else if *serving {
                    usable.serving.insert(node.as_ref());
                }
            }
        }
        Self(all)
    }

    /// Nodes with a usable endpoint; `None` stands for endpoints on no node.
    fn nodes(&self, service: &'a ServiceKey, family: Family) -> Option<&BTreeSet<Option<&'a NodeName>>> {
        let usable = self.0.get(&(service, family))?;
        let nodes = if usable.ready.is_empty() { &usable.serving } else { &usable.ready };
        Some(nodes).filter(|nodes| !nodes.is_empty())
    }

    /// Whether the Service has any usable endpoint.
    pub(crate) fn any(&self, service: &'a ServiceKey, family: Family) -> bool {
        self.nodes(service, family).is_some()
    }

    /// Whether it has one on this node.
    pub(crate) fn on(&self, service: &'a ServiceKey, family: Family, node: &NodeName) -> bool {
        self.nodes(service, family).is_some_and(|nodes| nodes.contains(&Some(node)))
    }
}
