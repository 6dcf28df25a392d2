//! Small worlds: few addresses, so that Services meet, and some that nobody may have.

use crate::node::NodeContext;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use warren_types::*;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn nets(texts: &[&str]) -> Vec<ipnet::IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Node n1, in zone a.
pub(crate) fn node() -> NodeContext {
    let node = NodeName::new("n1").unwrap();
    let held = BTreeMap::from([((Protocol::Tcp, 22), "sshd (pid 1) on node n1".to_owned())]);
    NodeContext {
        name: node,
        zone: Some("a".into()),
        node_port_addresses: [ip("192.0.2.1"), ip("2001:db8::1")].into(),
        node_addresses: [ip("192.0.2.1"), ip("2001:db8::1"), ip("192.0.2.2"), ip("2001:db8::2")].into(),
        own_addresses: [ip("192.0.2.1"), ip("2001:db8::1")].into(),
        held_ports: BTreeMap::from([(ip("192.0.2.1"), held)]),
        pod_ranges: nets(&["10.42.0.0/16", "fd42::/48"]),
        local_pod_cidrs: nets(&["10.42.1.0/24", "fd42:0:0:1::/64"]),
        service_ranges: nets(&["10.43.0.0/16", "fd43::/112"]),
        own_v4: Some("10.42.1.1".parse().unwrap()),
        own_v6: Some("fd42:0:0:1::1".parse().unwrap()),
        external_ip_ranges: nets(&["198.51.100.0/24", "10.43.0.0/24", "192.0.2.0/24"]),
        tunnel_port: 51840,
    }
}

pub(crate) const CLUSTER: [&str; 4] = ["10.43.0.10", "10.43.0.11", "fd43::10", "192.0.2.1"];
pub(crate) const EXTERNAL: [&str; 6] =
    ["198.51.100.7", "203.0.113.7", "10.43.0.11", "10.42.1.7", "192.0.2.2", "2001:db8:ffff::7"];
pub(crate) const ENDPOINTS: [&str; 11] = [
    "10.42.1.5",
    "10.42.1.6",
    "10.42.2.5",
    "192.0.2.1",
    "192.0.2.2",
    "203.0.113.5",
    "fd42:0:0:1::5",
    "fd42:0:0:2::5",
    "127.0.0.1",
    "10.43.0.11",
    "224.0.0.1",
];
pub(crate) const PORTS: [u16; 3] = [22, 80, 443];
pub(crate) const NODE_PORTS: [u16; 2] = [30080, 30081];
pub(crate) const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

fn addresses(from: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<IpAddr>> {
    vec(select(from).prop_map(ip), 0..=most)
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    select(&[TrafficPolicy::Cluster, TrafficPolicy::Local][..])
}

fn port() -> impl Strategy<Value = ServicePort> {
    (select(&["", "b"][..]), select(&PROTOCOLS[..]), select(&PORTS[..]), option::of(select(&NODE_PORTS[..])))
        .prop_map(|(name, protocol, port, node_port)| ServicePort {
            name: name.into(),
            protocol,
            port,
            node_port,
            target: String::new(),
            app_protocol: None,
        })
}

pub(crate) fn service_key(number: u8) -> ServiceKey {
    ServiceKey::parse(&format!("default/s{number}")).unwrap()
}

/// One of `count` Services.
pub(crate) fn service(count: u8) -> impl Strategy<Value = Service> {
    let kind = select(
        &[
            ServiceKind::ClusterIp,
            ServiceKind::NodePort,
            ServiceKind::LoadBalancer,
            ServiceKind::LoadBalancer,
            ServiceKind::ExternalName,
        ][..],
    );
    let addresses = (addresses(&CLUSTER, 2), addresses(&EXTERNAL, 2), addresses(&EXTERNAL, 2));
    let ranges =
        vec(select(&["192.168.0.0/16", "192.168.7.0/24", "2001:db8:5::/48", "10.42.0.0/16"][..]), 0..3);
    (
        (0..count, 0i64..3, kind, addresses, vec(port(), 1..3)),
        (policy(), policy(), option::of(30u32..31), prop::bool::weighted(0.1), ranges),
    )
        .prop_map(|((number, created, kind, (cluster, external, balancer), ports), rest)| {
            let (internal, external_policy, affinity, foreign_proxy, ranges) = rest;
            Service {
                created,
                kind,
                cluster_ips: cluster,
                external_ips: external,
                load_balancer_ips: balancer,
                source_ranges: nets(&ranges),
                ports,
                affinity: affinity.map(|seconds| Affinity { seconds }),
                internal_policy: internal,
                external_policy,
                foreign_proxy,
                ..Service::new(service_key(number))
            }
        })
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let hints = || vec(select(&["a", "b"][..]), 0..2);
    let nodes = || option::of(select(&["n1", "n2"][..]));
    (
        select(&ENDPOINTS[..]),
        any::<(bool, bool, bool)>(),
        nodes(),
        prop_oneof![Just(Vec::new()), hints()],
        prop_oneof![Just(None), nodes()],
    )
        .prop_map(|(address, (ready, serving, terminating), node, for_zones, for_node)| Endpoint {
            ready,
            serving,
            terminating,
            node: node.map(|name| NodeName::new(name).unwrap()),
            for_zones: for_zones.into_iter().map(str::to_owned).collect(),
            for_nodes: for_node.into_iter().map(|name| NodeName::new(name).unwrap()).collect(),
            ..Endpoint::ready(ip(address))
        })
}

/// A slice of one of `count` Services; an IPv4 slice has no other addresses.
pub(crate) fn slice(count: u8) -> impl Strategy<Value = EndpointSlice> {
    let port = (select(&["", "b"][..]), select(&PROTOCOLS[..]), select(&[8080u16, 9090][..]));
    (0..count, 0u8..3, any::<bool>(), vec(port, 1..3), vec(endpoint(), 0..5), prop::bool::weighted(0.1))
        .prop_map(|(service, number, v4, ports, mut endpoints, foreign_proxy)| {
            endpoints.retain(|endpoint| endpoint.address.is_ipv4() == v4);
            let family = if v4 { Family::V4 } else { Family::V6 };
            let port = |(name, protocol, port): (&str, Protocol, u16)| EndpointPort {
                name: name.into(),
                protocol,
                port,
            };
            EndpointSlice {
                key: SliceKey::parse(&format!("default/s{service}-{number}")).unwrap(),
                service: service_key(service),
                family,
                ports: ports.into_iter().map(port).collect(),
                endpoints,
                foreign_proxy,
            }
        })
}

/// What there is: the last of each key counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) services: BTreeMap<ServiceKey, Arc<Service>>,
    pub(crate) slices: BTreeMap<SliceKey, Arc<EndpointSlice>>,
}

/// Something that changes.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Service(Box<Service>),
    NoService(ServiceKey),
    Slice(EndpointSlice),
    NoSlice(SliceKey),
    /// What was changed so far is brought to the kernel.
    Commit,
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => service(4).prop_map(|row| Event::Service(Box::new(row))),
        1 => (0u8..4).prop_map(|n| Event::NoService(service_key(n))),
        4 => slice(4).prop_map(Event::Slice),
        1 => slice(4).prop_map(|slice| Event::NoSlice(slice.key)),
        2 => Just(Event::Commit),
    ]
}

pub(crate) fn world() -> impl Strategy<Value = World> {
    (vec(service(4), 1..4), vec(slice(4), 0..8)).prop_map(|(services, slices)| World {
        services: services.into_iter().map(|s| (s.key.clone(), Arc::new(s))).collect(),
        slices: slices.into_iter().map(|s| (s.key.clone(), Arc::new(s))).collect(),
    })
}

/// Every address that a packet may be sent to.
pub(crate) fn destinations() -> BTreeSet<IpAddr> {
    let named = CLUSTER.iter().chain(&EXTERNAL).map(|text| ip(text));
    named.chain(["2001:db8::1", "10.43.0.99", "8.8.8.8", "10.42.1.5"].map(ip)).collect()
}

/// A Service with one endpoint.
pub(crate) fn plain() -> (Arc<Service>, Arc<EndpointSlice>) {
    let key = service_key(0);
    let row = Service {
        cluster_ips: vec![ip("10.43.0.10")],
        families: vec![Family::V4],
        ports: vec![ServicePort::new(Protocol::Tcp, 80)],
        ..Service::new(key.clone())
    };
    let endpoint = Endpoint::ready(ip("10.42.1.5"));
    let slice = EndpointSlice {
        key: SliceKey::parse("default/s0-0").unwrap(),
        service: key,
        family: Family::V4,
        ports: vec![EndpointPort { name: String::new(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: vec![endpoint],
        foreign_proxy: false,
    };
    (Arc::new(row), Arc::new(slice))
}
