//! A plain reading of the Service documentation: one packet, all Services, no tables.

use super::interpreter::Fate;
use super::world::World;
use crate::node::NodeContext;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use warren_types::marks::SERVICE_MARK;
use warren_types::*;

/// Where a packet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Outside,
    Pod,
    ThisNode,
}

fn special(address: IpAddr) -> bool {
    address.is_loopback() || address.is_multicast()
}

fn within(nets: &[ipnet::IpNet], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&address))
}

/// A packet matches a Service in one of these ways.
enum Way<'a> {
    ClusterIp(&'a ServicePort),
    External(&'a ServicePort, bool),
}

pub(crate) fn fates(
    world: &World,
    node: &NodeContext,
    (from, source): (Origin, IpAddr),
    to: SocketAddr,
    protocol: Protocol,
) -> BTreeSet<Fate> {
    let mut services: Vec<&Service> = world.services.values().map(|s| &**s).collect();
    services.sort_by_key(|service| (service.created, service.key.clone()));
    for service in &services {
        if let Some(way) = way(service, node, to, protocol) {
            return of_service(service, way, world, node, (from, source), to.is_ipv4());
        }
    }
    let mut served = services.iter().filter(|s| active(s)).flat_map(|s| {
        let cluster = s.cluster_ips.iter().filter(|ip| cluster_ok(node, **ip)).map(|ip| (*ip, s));
        cluster.collect::<Vec<_>>()
    });
    // A cluster address refuses other ports, as long as one of its Service's own ports is the Service's.
    let has_front = |ip: IpAddr, service: &Service| {
        service.ports.iter().any(|port| {
            let at = SocketAddr::new(ip, port.port);
            let first = services.iter().find(|other| way(other, node, at, port.protocol).is_some());
            first.is_some_and(|first| first.key == service.key)
        })
    };
    if served.any(|(ip, service)| ip == to.ip() && has_front(ip, service)) {
        return [Fate::Reject].into();
    }
    let virtual_ip = services.iter().filter(|s| active(s)).any(|service| {
        let ips = external_ips(service, node);
        !node.node_addresses.contains(&to.ip())
            && ips.iter().any(|(ip, _)| *ip == to.ip())
            && has_front(to.ip(), service)
    });
    if virtual_ip {
        return [Fate::Reject].into();
    }
    if within(&node.service_ranges, to.ip()) {
        return [Fate::Drop].into();
    }
    [Fate::Pass].into()
}

fn active(service: &Service) -> bool {
    !service.foreign_proxy && service.kind != ServiceKind::ExternalName && !service.cluster_ips.is_empty()
}

fn cluster_ok(node: &NodeContext, ip: IpAddr) -> bool {
    !node.node_addresses.contains(&ip) && !within(&node.pod_ranges, ip) && !special(ip)
}

/// External addresses, and whether each is a load balancer's.
fn external_ips(service: &Service, node: &NodeContext) -> Vec<(IpAddr, bool)> {
    let external = service.external_ips.iter().filter(|ip| {
        within(&node.external_ip_ranges, **ip)
            && !within(&node.service_ranges, **ip)
            && !node.node_addresses.contains(*ip)
            && !within(&node.pod_ranges, **ip)
    });
    let balancer = service.load_balancer_ips.iter().filter(|ip| {
        service.kind == ServiceKind::LoadBalancer
            && !within(&node.service_ranges, **ip)
            && !within(&node.pod_ranges, **ip)
    });
    external.map(|ip| (*ip, false)).chain(balancer.map(|ip| (*ip, true))).collect()
}

fn way<'a>(service: &'a Service, node: &NodeContext, to: SocketAddr, protocol: Protocol) -> Option<Way<'a>> {
    if !active(service) {
        return None;
    }
    let ports = || service.ports.iter().filter(|port| port.protocol == protocol);
    let held = node.held_ports.get(&to.ip()).is_some_and(|ports| ports.contains_key(&(protocol, to.port())));
    // Of two ports that are the same, the first counts; of the ways, cluster address, then the outer ones.
    let mut found = Vec::new();
    for port in ports() {
        if port.port == to.port() && service.cluster_ips.contains(&to.ip()) && cluster_ok(node, to.ip()) {
            found.push(Way::ClusterIp(port));
        }
        for (_, balancer) in external_ips(service, node).iter().filter(|(ip, _)| *ip == to.ip()) {
            if port.port == to.port() && !held {
                found.push(Way::External(port, *balancer));
            }
        }
        let families: Vec<bool> = service.cluster_ips.iter().map(IpAddr::is_ipv4).collect();
        let on_node = matches!(service.kind, ServiceKind::NodePort | ServiceKind::LoadBalancer)
            && node.node_port_addresses.contains(&to.ip())
            && families.contains(&to.is_ipv4());
        if on_node && port.node_port == Some(to.port()) && !held {
            found.push(Way::External(port, false));
        }
    }
    found.into_iter().next()
}

fn of_service(
    service: &Service,
    way: Way<'_>,
    world: &World,
    node: &NodeContext,
    (from, source): (Origin, IpAddr),
    v4: bool,
) -> BTreeSet<Fate> {
    let (port, policy, outer) = match way {
        Way::ClusterIp(port) => (port, service.internal_policy, false),
        Way::External(port, balancer) => {
            let allowed = within(&service.source_ranges, source);
            if balancer && !service.source_ranges.is_empty() && !allowed {
                return [Fate::Drop].into();
            }
            (port, service.external_policy, true)
        }
    };
    let mut endpoints: Vec<(SocketAddr, &Endpoint)> = Vec::new();
    for slice in world.slices.values().filter(|s| s.service == service.key && !s.foreign_proxy) {
        for number in slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol) {
            for endpoint in slice.endpoints.iter().filter(|e| e.address.is_ipv4() == v4) {
                if !special(endpoint.address) && !within(&node.service_ranges, endpoint.address) {
                    endpoints.push((SocketAddr::new(endpoint.address, number.port), endpoint));
                }
            }
        }
    }
    let endpoints = best(endpoints);
    let here = |endpoint: &Endpoint| match &endpoint.node {
        Some(name) => *name == node.name,
        None => within(&node.local_pod_cidrs, endpoint.address),
    };
    let all = cluster(&endpoints, node);
    let local: Vec<_> = endpoints.iter().copied().filter(|(_, endpoint)| here(endpoint)).collect();
    let inside = outer && from != Origin::Outside;
    let chosen = if policy == TrafficPolicy::Local && !inside { usable(&local) } else { all.clone() };
    if chosen.is_empty() {
        return [if all.is_empty() { Fate::Reject } else { Fate::Drop }].into();
    }
    chosen.into_iter().map(|to| Fate::To(to, SERVICE_MARK)).collect()
}

/// Of what is said of one endpoint, the best: ready, else serving. The first such counts.
fn best(endpoints: Vec<(SocketAddr, &Endpoint)>) -> Vec<(SocketAddr, &Endpoint)> {
    let mut out: Vec<(SocketAddr, &Endpoint)> = Vec::new();
    for (at, endpoint) in endpoints {
        match out.iter_mut().find(|(have, _)| *have == at) {
            None => out.push((at, endpoint)),
            Some(have) if (have.1.ready, have.1.serving) < (endpoint.ready, endpoint.serving) => {
                have.1 = endpoint
            }
            Some(_) => {}
        }
    }
    out
}

fn usable(endpoints: &[(SocketAddr, &Endpoint)]) -> Vec<SocketAddr> {
    let ready: Vec<_> = endpoints.iter().filter(|(_, e)| e.ready).map(|(at, _)| *at).collect();
    if !ready.is_empty() {
        return ready;
    }
    endpoints.iter().filter(|(_, e)| e.serving && e.terminating).map(|(at, _)| *at).collect()
}

fn cluster(endpoints: &[(SocketAddr, &Endpoint)], node: &NodeContext) -> Vec<SocketAddr> {
    let ready: Vec<_> = endpoints.iter().filter(|(_, e)| e.ready).collect();
    if ready.iter().all(|(_, e)| !e.for_nodes.is_empty()) {
        let mine: Vec<_> =
            ready.iter().filter(|(_, e)| e.for_nodes.contains(&node.name)).map(|(at, _)| *at).collect();
        if !mine.is_empty() {
            return mine;
        }
    }
    if ready.iter().all(|(_, e)| !e.for_zones.is_empty()) {
        let zone = node.zone.as_deref().unwrap_or_default();
        let mine: Vec<_> =
            ready.iter().filter(|(_, e)| e.for_zones.contains(zone)).map(|(at, _)| *at).collect();
        if !mine.is_empty() {
            return mine;
        }
    }
    usable(endpoints)
}
