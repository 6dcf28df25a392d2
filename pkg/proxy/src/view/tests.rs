use super::*;
use crate::names::front_bytes;
use crate::node::NodeContext;
use std::sync::Arc;
use warren_types::{
    Affinity, Endpoint, EndpointPort, Namespace, NodeName, Protocol, ServiceName, ServicePort, SliceKey,
    SliceName,
};

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

/// Node `a` of a cluster with the pods 10.42.0.0/16 and the Services 10.43.0.0/16; its own pods are 10.42.0.0/24.
pub(crate) fn node() -> NodeContext {
    NodeContext {
        name: name("a"),
        zone: Some("east".into()),
        node_port_addresses: [ip("192.168.0.1")].into(),
        node_addresses: [ip("192.168.0.1"), ip("192.168.0.2")].into(),
        own_addresses: [ip("192.168.0.1")].into(),
        held_ports: BTreeMap::new(),
        pod_ranges: vec!["10.42.0.0/16".parse().unwrap(), "fd42::/48".parse().unwrap()],
        local_pod_cidrs: vec!["10.42.0.0/24".parse().unwrap(), "fd42::/64".parse().unwrap()],
        service_ranges: vec!["10.43.0.0/16".parse().unwrap(), "fd43::/112".parse().unwrap()],
        own_v4: Some("10.42.0.1".parse().unwrap()),
        own_v6: Some("fd42::1".parse().unwrap()),
        external_ip_ranges: Vec::new(),
        tunnel_port: 51840,
    }
}

pub(crate) fn key(text: &str) -> ServiceKey {
    ServiceKey::parse(text).unwrap()
}

/// `default/web`: port 80 (`http`), to be changed.
pub(crate) fn service() -> Service {
    Service {
        uid: "1".into(),
        created: 1,
        cluster_ips: vec![ip("10.43.0.10")],
        families: vec![Family::V4],
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
            target: "8080".into(),
            app_protocol: None,
        }],
        ..Service::new(key("default/web"))
    }
}

/// A ready endpoint.
pub(crate) fn ready(address: &str, node: &str) -> Endpoint {
    Endpoint { node: Some(name(node)), ..Endpoint::ready(ip(address)) }
}

pub(crate) fn engine(services: Vec<Service>, endpoints: Vec<Endpoint>) -> Engine {
    let mut engine = Engine::new(node());
    for service in services {
        let slice =
            SliceKey { namespace: service.key.namespace.clone(), name: SliceName::new("web-1").unwrap() };
        let row = EndpointSlice {
            key: slice.clone(),
            service: key("default/web"),
            family: Family::V4,
            ports: vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
            endpoints: endpoints.clone(),
            foreign_proxy: false,
        };
        engine.set_slice(&slice, Some(Arc::new(row)));
        engine.set_service(&service.key.clone(), Some(Arc::new(service)));
    }
    engine.commit();
    engine
}

/// A load balancer at 192.168.0.240 with node port 30080 and policy Local.
pub(crate) fn balancer() -> Service {
    let mut service = service();
    service.kind = ServiceKind::LoadBalancer;
    service.load_balancer_ips = vec![ip("192.168.0.240")];
    service.external_policy = TrafficPolicy::Local;
    service.ports[0].node_port = Some(30080);
    service
}

#[test]
fn endpoints_say_why_they_are_not_drawn() {
    let mut ending = ready("10.42.0.6", "a");
    (ending.ready, ending.terminating) = (false, true);
    let mut ended = ending.clone();
    (ended.address, ended.serving) = (ip("10.42.0.7"), false);
    let mut sick = ready("10.42.1.8", "b");
    (sick.ready, sick.serving) = (false, false);
    let all = vec![ready("10.42.0.5", "a"), ready("10.42.1.5", "b"), ending, ended, sick];
    let engine = engine(vec![balancer()], all);
    let view = show(&engine, &key("default/web"), None).unwrap();
    let said: Vec<_> = view
        .endpoints
        .iter()
        .map(|e| (e.address.as_str(), e.state, e.chosen, e.chosen_outside, e.why.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            ("10.42.0.5", State::Ready, true, Some(true), ""),
            ("10.42.0.6", State::Serving, false, Some(false), "terminating, and others are ready"),
            ("10.42.0.7", State::Terminating, false, Some(false), "terminating, and serves no more"),
            (
                "10.42.1.5",
                State::Ready,
                true,
                Some(false),
                "not on this node, and externalTrafficPolicy is Local"
            ),
            ("10.42.1.8", State::NotReady, false, Some(false), "not ready"),
        ]
    );
    assert_eq!(view.mode.external_policy.as_deref(), Some("Local"));
}

#[test]
fn topology_hints_are_a_reason() {
    let (mut near, mut far) = (ready("10.42.0.5", "a"), ready("10.42.1.5", "b"));
    near.for_zones = ["east".to_owned()].into();
    far.for_zones = ["west".to_owned()].into();
    let view = show(&engine(vec![service()], vec![near, far]), &key("default/web"), None).unwrap();
    let whys: Vec<_> = view.endpoints.iter().map(|e| (e.chosen, e.why.as_str())).collect();
    assert_eq!(whys, [(true, ""), (false, "topology hints mean it for other nodes or zones")]);
    assert_eq!(view.mode.external_policy, None, "it has no such front");
}

#[test]
fn fronts_say_what_they_do_and_count() {
    let mut service = balancer();
    service.affinity = Some(Affinity { seconds: 60 });
    let engine = engine(vec![service], vec![ready("10.42.1.5", "b")]);
    let cluster = FrontKey { address: ip("10.43.0.10"), protocol: Protocol::Tcp, port: 80 };
    let hits = Hits::from([(front_bytes(&cluster), 7)]);
    let view = show(&engine, &key("default/web"), Some(&hits)).unwrap();
    let said: Vec<_> = view
        .fronts
        .iter()
        .map(|f| {
            (f.address.as_str(), f.port, f.origin.as_str(), f.does, f.endpoints, f.endpoints_inside, f.hits)
        })
        .collect();
    assert_eq!(
        said,
        [
            ("10.43.0.10", 80, "ClusterIP", Does::Forwards, 1, None, Some(7)),
            ("192.168.0.1", 30080, "NodePort", Does::Drops, 0, Some(1), Some(0)),
            ("192.168.0.240", 80, "LoadBalancer", Does::Drops, 0, Some(1), Some(0)),
        ]
    );
    assert_eq!(view.mode.affinity_seconds, Some(60));
    assert_eq!(no_local(&engine), NoLocal { internal: 0, external: 1 });
    let summary = list(&engine, Some(&hits)).remove(0);
    assert_eq!(
        (summary.kind.as_str(), summary.ready, summary.endpoints, summary.hits, summary.faults),
        ("LoadBalancer", 1, 1, Some(7), 0)
    );
    assert_eq!(
        (summary.ports, summary.external),
        (vec!["80:30080/TCP".into()], vec!["192.168.0.240".into()])
    );
    assert_eq!(list(&engine, None).remove(0).hits, None);
}

#[test]
fn an_address_that_an_older_service_has_is_shown_as_taken() {
    let mut younger = service();
    younger.key = ServiceKey {
        namespace: Namespace::new("default").unwrap(),
        name: ServiceName::new("thief").unwrap(),
    };
    younger.created = 2;
    let engine = engine(vec![service(), younger], vec![ready("10.42.0.5", "a")]);
    let view = show(&engine, &key("default/thief"), Some(&Hits::new())).unwrap();
    assert_eq!((view.fronts[0].does, view.fronts[0].hits), (Does::Taken, None));
    assert!(view.faults[0].message.contains("default/web"), "{:?}", view.faults);
    assert_eq!(show(&engine, &key("default/nobody"), None), None);
}

#[test]
fn what_is_not_translated_says_so() {
    let mut headless = service();
    headless.cluster_ips = Vec::new();
    let engine = engine(vec![headless], vec![ready("10.42.0.5", "a")]);
    let view = show(&engine, &key("default/web"), None).unwrap();
    assert_eq!(view.kind, "Headless");
    assert!(view.note.starts_with("headless"), "{}", view.note);
    assert_eq!((view.fronts.len(), view.endpoints.len()), (0, 1));
}
