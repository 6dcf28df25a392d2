//! Addresses of the nodes that can serve a Service.

use super::{AddressInput, AllGiven, EndpointNodes, Given, is_left_out};
use std::collections::{BTreeMap, BTreeSet};
use warren_types::{Family, Node, Protocol, Service, TrafficPolicy};

/// `services` are sorted, the oldest first.
pub(super) fn give<'a>(
    input: &AddressInput<'a>,
    services: &[&'a Service],
    endpoints: &EndpointNodes<'a>,
) -> AllGiven {
    let nodes: Vec<&Node> = input.nodes.iter().copied().filter(|node| serves(node)).collect();
    let mut claims: BTreeMap<(Family, Protocol, u16), &Service> = BTreeMap::new();
    let mut all = AllGiven::new();
    for service in services {
        let mut given = Given::default();
        for family in families(service) {
            if let Some((port, protocol, older)) = contested(&claims, service, family) {
                given.fault(
                    "PortConflict",
                    format!(
                        "port {port}/{protocol} on the nodes' addresses belongs to the older Service {}; change the \
                         port of one of them, or give Services addresses of their own with --loadbalancer pool",
                        older.key
                    ),
                );
                continue;
            }
            claims.extend(service.ports.iter().map(|port| ((family, port.protocol, port.port), *service)));
            give_family(&mut given, service, family, &nodes, endpoints, input);
        }
        for asked in &service.requested_addresses {
            if !given.addresses.contains(asked) {
                given.fault(
                    "AddressRefused",
                    format!(
                        "{asked} was asked for, but Services get the addresses of nodes that serve them; give the \
                         agents a pool that holds it with --loadbalancer pool and --loadbalancer-pool"
                    ),
                );
            }
        }
        all.insert(service.key.clone(), given);
    }
    all
}

/// The nodes' addresses of one family, for a Service whose ports nobody contests.
fn give_family<'a>(
    given: &mut Given,
    service: &'a Service,
    family: Family,
    nodes: &[&Node],
    endpoints: &EndpointNodes<'a>,
    input: &AddressInput<'_>,
) {
    if !endpoints.any(&service.key, family) {
        return;
    }
    let local = service.external_policy == TrafficPolicy::Local;
    for node in nodes.iter().filter(|node| !local || endpoints.on(&service.key, family, &node.name)) {
        let held = input.held.get(&node.name).and_then(|held| {
            service.ports.iter().find_map(|port| Some((port, held.get(&(port.protocol, port.port))?)))
        });
        match held {
            Some((port, holder)) => given.fault(
                "PortInUse",
                format!(
                    "port {}/{} on node {} is held by {holder}; stop it or change the Service's port",
                    port.port, port.protocol, node.name
                ),
            ),
            None => given
                .addresses
                .extend(node.internal_ips.iter().filter(|address| Family::of(**address) == family)),
        }
    }
}

/// The first of the Service's ports that an older one has.
fn contested<'a>(
    claims: &BTreeMap<(Family, Protocol, u16), &'a Service>,
    service: &Service,
    family: Family,
) -> Option<(u16, Protocol, &'a Service)> {
    service.ports.iter().find_map(|port| {
        let older = claims.get(&(family, port.protocol, port.port))?;
        Some((port.port, port.protocol, *older))
    })
}

fn serves(node: &Node) -> bool {
    node.ready && !is_left_out(node)
}

/// The Service's families, each once.
fn families(service: &Service) -> BTreeSet<Family> {
    service.families.iter().copied().collect()
}
