use super::*;
use crate::view::tests::{balancer, engine, ip, key, name, ready, service};
use warren_types::{Affinity, Endpoint, NodeName};

fn pod(address: &str) -> Source {
    Source::Pod(PodSource {
        name: "default/client".into(),
        node: Some(name("a")),
        addresses: vec![ip(address)],
        host_network: false,
    })
}

fn outside() -> Source {
    Source::Outside(ip("203.0.113.9"))
}

fn ask(service: Service, endpoints: &[Endpoint], source: Source) -> Vec<Path> {
    ask_for(service, endpoints, source, "80", None).unwrap().paths
}

fn ask_for(
    service: Service,
    endpoints: &[Endpoint],
    source: Source,
    port: &str,
    at: Option<&str>,
) -> Result<Explanation, ExplainError> {
    let question = Question {
        source,
        service: key("default/web"),
        port: port.into(),
        at: at.map(ip),
        others: BTreeSet::new(),
    };
    explain(&engine(vec![service], endpoints.to_vec()), &question)
}

fn said<'a>(path: &'a Path, about: &str) -> Vec<&'a str> {
    path.steps.iter().filter(|step| step.about == about).map(|step| step.text.as_str()).collect()
}

#[test]
fn a_pod_reaches_endpoints_here_and_there_with_its_own_address() {
    let paths = ask(service(), &[ready("10.42.0.5", "a"), ready("10.42.1.5", "b")], pod("10.42.0.9"));
    let [path] = paths.as_slice() else { panic!("{paths:?}") };
    assert_eq!((path.outcome, path.destination.as_str()), (Outcome::Delivered, "10.43.0.10:80 TCP"));
    assert_eq!(said(path, "address"), ["web.default.svc stands for 10.43.0.10, its ClusterIP"]);
    assert_eq!(said(path, "policy"), ["internalTrafficPolicy is Cluster: endpoints on any node count"]);
    assert_eq!(
        said(path, "way"),
        [
            "to 10.42.0.5:8080: on this node, by the pod's link; the source stays 10.42.0.9",
            "to 10.42.1.5:8080: through the tunnel to b; the source stays 10.42.0.9",
        ]
    );
    assert_eq!(path.end, "to 10.42.0.5:8080 or 10.42.1.5:8080");
}

#[test]
fn a_pod_that_reaches_itself_gets_a_new_source() {
    let path = ask(service(), &[ready("10.42.0.5", "a")], pod("10.42.0.5")).remove(0);
    let way = said(&path, "way")[0];
    assert!(way.contains("own link") && way.contains("becomes 10.42.0.1"), "{way}");
}

#[test]
fn the_node_sends_from_its_own_pod_network_address() {
    let path = ask(service(), &[ready("10.42.1.5", "b")], Source::Node).remove(0);
    assert!(said(&path, "way")[0].ends_with("the source is 10.42.0.1, this node's own pod-network address"));
}

#[test]
fn a_client_from_outside_keeps_its_address_where_the_endpoint_is_here() {
    let mut service = balancer();
    service.external_policy = TrafficPolicy::Cluster;
    let paths = ask(service.clone(), &[ready("10.42.0.5", "a"), ready("10.42.1.5", "b")], outside());
    let destinations = |paths: &[Path]| paths.iter().map(|path| path.destination.clone()).collect::<Vec<_>>();
    assert_eq!(destinations(&paths), ["192.168.0.240:80 TCP"], "the one with this number");
    let by_name = ask_for(service.clone(), &[], outside(), "http", None).unwrap().paths;
    assert_eq!(destinations(&by_name), ["192.168.0.1:30080 TCP", "192.168.0.240:80 TCP"]);
    // A node's address with both the port and the node port.
    service.load_balancer_ips = vec![ip("192.168.0.1")];
    let both = ask_for(service.clone(), &[], outside(), "80/tcp", None).unwrap().paths;
    assert_eq!(said(&both[0], "address"), ["192.168.0.1 is an address of the Service: LoadBalancer"]);
    let others = [ip("192.168.0.1")].into();
    let question =
        Question { source: outside(), service: key("default/web"), port: "80".into(), at: None, others };
    let path = explain(&engine(vec![service], Vec::new()), &question).unwrap().paths.remove(0);
    assert!(path.advice.unwrap().contains("on the node that has its address"));
    for path in &paths {
        let ways = said(path, "way");
        assert!(ways[0].ends_with("the source stays 203.0.113.9"), "{ways:?}");
        assert!(ways[1].contains("tunnel to b; the source becomes 10.42.0.1"), "{ways:?}");
    }
}

#[test]
fn local_policy_drops_for_outside_and_serves_inside() {
    let elsewhere = [ready("10.42.1.5", "b")];
    for path in ask(balancer(), &elsewhere, outside()) {
        assert_eq!(path.outcome, Outcome::Dropped);
        assert!(path.advice.is_some_and(|advice| advice.contains("externalTrafficPolicy: Cluster")));
        assert!(path.steps.iter().any(|s| s.text.contains("does not count: not on this node")));
    }
    let path = ask_for(balancer(), &elsewhere, pod("10.42.0.9"), "80", Some("192.168.0.240"))
        .unwrap()
        .paths
        .remove(0);
    assert_eq!(path.outcome, Outcome::Delivered);
    assert!(said(&path, "policy")[0].contains("but for packets from pods"));
    assert!(said(&path, "front")[0].contains("svc_inside_fronts4"));
    // The cluster address has a policy of its own.
    let mut internal = service();
    internal.internal_policy = TrafficPolicy::Local;
    let path = ask(internal, &elsewhere, pod("10.42.0.9")).remove(0);
    assert_eq!(path.outcome, Outcome::Dropped);
    assert!(path.advice.unwrap().contains("internalTrafficPolicy: Cluster"));
}

#[test]
fn source_ranges_stop_who_is_in_none() {
    let mut service = balancer();
    service.external_policy = TrafficPolicy::Cluster;
    service.source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
    let here = [ready("10.42.0.5", "a")];
    let of = |source| {
        ask_for(service.clone(), &here, source, "80", Some("192.168.0.240")).unwrap().paths.remove(0)
    };
    let path = of(outside());
    assert_eq!(path.outcome, Outcome::Dropped);
    assert!(path.advice.unwrap().contains("203.0.113.9"));
    assert_eq!(of(Source::Outside(ip("198.51.100.7"))).outcome, Outcome::Delivered);
    // Ranges of the other family alone let nobody in.
    service.source_ranges = vec!["fd00::/8".parse().unwrap()];
    let path =
        ask_for(service.clone(), &here, outside(), "80", Some("192.168.0.240")).unwrap().paths.remove(0);
    assert!(said(&path, "ranges")[0].contains("none of this family"));
    assert_eq!(path.outcome, Outcome::Dropped);
}

#[test]
fn what_nothing_serves_is_refused_with_what_to_do() {
    let advice = |service: Service, endpoints: &[Endpoint]| {
        let path = ask(service, endpoints, pod("10.42.0.9")).remove(0);
        assert_eq!(path.outcome, Outcome::Refused);
        path.advice.unwrap()
    };
    assert!(advice(service(), &[]).contains("no pod matches its selector"));
    let mut sick = ready("10.42.0.5", "a");
    (sick.ready, sick.serving) = (false, false);
    assert!(advice(service(), &[sick]).contains("not ready"));
    let mut alone = service();
    alone.selector = false;
    assert!(advice(alone, &[]).contains("EndpointSlice"));
    let mut other = service();
    other.ports[0].name = "grpc".into();
    assert!(advice(other, &[ready("10.42.0.5", "a")]).contains("targetPort"));
}

#[test]
fn ports_go_by_name_number_and_node_port() {
    let here = [ready("10.42.0.5", "a")];
    let outcome = |source, port: &str, at| {
        ask_for(balancer(), &here, source, port, at)
            .map(|e| e.paths.iter().map(|p| p.outcome).collect::<Vec<_>>())
    };
    assert_eq!(outcome(pod("10.42.0.9"), "http", None).unwrap(), [Outcome::Delivered]);
    assert_eq!(outcome(outside(), "30080", None).unwrap(), [Outcome::Delivered]);
    assert_eq!(outcome(outside(), "http/TCP", None).unwrap(), [Outcome::Delivered; 2]);
    assert_eq!(outcome(pod("10.42.0.9"), "80/udp", None).unwrap(), [Outcome::Refused]);
    assert_eq!(outcome(Source::Outside(ip("10.42.7.7")), "80", None).unwrap(), [Outcome::Dropped]);
    assert_eq!(outcome(pod("10.42.0.9"), "81", None).unwrap(), [Outcome::Refused]);
    let no_port = |port: &str| ExplainError::NoPort {
        service: key("default/web"),
        port: port.into(),
        ports: "80/TCP (http)".into(),
    };
    assert_eq!(outcome(outside(), "81", None), Err(no_port("81")));
    assert_eq!(outcome(pod("10.42.0.9"), "grpc", None), Err(no_port("grpc")));
    let error = outcome(Source::Node, "80", Some("192.0.2.1")).unwrap_err();
    assert_eq!(error, ExplainError::NoAddress { service: key("default/web"), address: ip("192.0.2.1") });
}

#[test]
fn endpoints_on_hosts_and_outside_of_the_cluster_are_told_apart() {
    let mut far = ready("198.51.100.1", "b");
    far.node = None;
    let all = [ready("192.168.0.1", "a"), ready("192.168.0.2", "b"), far];
    let path = ask(service(), &all, pod("10.42.0.9")).remove(0);
    assert_eq!(
        said(&path, "way"),
        [
            "to 192.168.0.1:8080: to a process on this node's own network; the source stays 10.42.0.9",
            "to 192.168.0.2:8080: through the tunnel to b, to its own network; the source stays 10.42.0.9",
            "to 198.51.100.1:8080: by the host's routes and in clear; the source becomes this node's address on that link",
        ]
    );
}

#[test]
fn affinity_and_terminating_endpoints_are_named() {
    let mut service = service();
    service.affinity = Some(Affinity { seconds: 60 });
    let mut ending = ready("10.42.0.5", "a");
    (ending.ready, ending.terminating) = (false, true);
    let path = ask(service, &[ending], pod("10.42.0.9")).remove(0);
    assert!(said(&path, "affinity")[0].contains("60 s"));
    assert!(said(&path, "endpoint")[0].contains("none that is ready is left"));
    assert_eq!(path.outcome, Outcome::Delivered);
}

#[test]
fn who_decides_elsewhere_and_what_is_not_translated() {
    let of = |node: Option<NodeName>, host_network| {
        let source = PodSource {
            name: "default/client".into(),
            node,
            addresses: vec![ip("192.168.0.1")],
            host_network,
        };
        ask(service(), &[ready("10.42.0.5", "a")], Source::Pod(source)).remove(0)
    };
    let path = of(Some(name("b")), false);
    assert_eq!(
        (path.outcome, path.advice.as_deref()),
        (Outcome::Elsewhere, Some("run the same command on b"))
    );
    assert_eq!(of(None, false).outcome, Outcome::Elsewhere);
    let path = of(Some(name("a")), true);
    assert!(said(&path, "source")[0].contains("host's network"));
    assert_eq!(path.outcome, Outcome::Delivered);

    let mut headless = service();
    headless.cluster_ips = Vec::new();
    let path = ask(headless, &[ready("10.42.0.5", "a")], Source::Node).remove(0);
    assert_eq!(path.outcome, Outcome::Untouched);
    assert!(said(&path, "endpoints")[0].ends_with("10.42.0.5"));
    assert_eq!(ask(service(), &[], outside())[0].outcome, Outcome::Untouched);
    let six = ask(service(), &[ready("10.42.0.5", "a")], pod("fd42::9")).remove(0);
    assert!(six.end.contains("IPv4"), "{}", six.end);
}

#[test]
fn an_older_service_gets_the_packet() {
    let mut younger = service();
    younger.key = key("default/thief");
    younger.created = 2;
    let engine = engine(vec![service(), younger], vec![ready("10.42.0.5", "a")]);
    let question = Question {
        source: Source::Node,
        service: key("default/thief"),
        port: "80".into(),
        at: None,
        others: BTreeSet::new(),
    };
    let path = explain(&engine, &question).unwrap().paths.remove(0);
    assert_eq!(
        (path.outcome, path.end.as_str()),
        (Outcome::Untouched, "Service default/web gets the packet")
    );
    let nobody = Question { service: key("default/nobody"), ..question };
    assert_eq!(explain(&engine, &nobody), Err(ExplainError::NoService(key("default/nobody"))));
}
