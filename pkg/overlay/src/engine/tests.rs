use super::*;
use proptest::prelude::*;
use std::net::Ipv4Addr;
use std::time::Duration;
use warren_types::NodeId;

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}
fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}
fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node(text: &str, key: u8, cidrs: &[&str], address: &str) -> Node {
    Node {
        name: name(text),
        uid: format!("uid-{text}"),
        node_id: None,
        public_key: (key != 0).then_some(PublicKey([key; 32])),
        endpoints: vec![SocketAddr::new(ip(address), 51840)],
        observed: BTreeMap::new(),
        held_ports: Vec::new(),
        ingress: Vec::new(),
        internal_ips: vec![ip(address)],
        served_ips: Vec::new(),
        pod_cidrs: PodCidrs::parse(cidrs).unwrap(),
        labels: BTreeMap::new(),
        ready: true,
    }
}

fn local() -> LocalNode {
    LocalNode {
        name: name("a"),
        node_id: NodeId::new("0".repeat(32)).unwrap(),
        public_key: PublicKey([1; 32]),
        endpoints: vec!["192.0.2.1:51840".parse().unwrap()],
        held_ports: Vec::new(),
        ingress: Vec::new(),
        internal_ips: vec![ip("192.0.2.1")],
        served_ips: Vec::new(),
        ready: true,
        message: String::new(),
    }
}

fn lan() -> Underlay {
    let addresses = (1..=254).map(|i| (IpAddr::from(Ipv4Addr::new(192, 0, 2, i)), 1500));
    Underlay {
        paths: addresses.collect(),
        addresses: vec![net("192.0.2.1/24")],
        routes: vec![net("192.0.2.0/24")],
    }
}

fn cluster() -> ClusterConfig {
    ClusterConfig {
        cluster_cidrs: vec![net("10.42.0.0/16"), net("fd00:42::/56")],
        service_cidrs: vec![net("10.43.0.0/16")],
    }
}

fn run(nodes: &[Node], underlay: &Underlay, cluster: &ClusterConfig) -> Desired {
    compile(&OverlayInput {
        local: &local(),
        nodes,
        cluster,
        learned: &BTreeMap::new(),
        underlay,
        tunnels: &BTreeMap::new(),
        mtu: None,
        max_mtu: 65535,
    })
}

fn own() -> Node {
    node("a", 1, &["10.42.1.0/24", "fd00:42:0:1::/64"], "192.0.2.1")
}

fn objects(desired: &Desired) -> Vec<&str> {
    desired.quarantined.iter().map(|q| q.object.as_str()).collect()
}

#[test]
fn a_peer_gets_routes_for_its_pods_and_for_itself() {
    let out =
        run(&[own(), node("b", 2, &["10.42.2.0/24", "fd00:42:0:2::/64"], "192.0.2.2")], &lan(), &cluster());
    assert_eq!(out.quarantined, []);
    let peer = &out.peers[&PublicKey([2; 32])];
    assert_eq!(
        peer.allowed_ips,
        BTreeSet::from([net("10.42.2.0/24"), net("fd00:42:0:2::/64"), net("192.0.2.2/32")])
    );
    assert_eq!((peer.endpoint, peer.keepalive), (Some("192.0.2.2:51840".parse().unwrap()), 0));
    let routes: Vec<(String, Option<IpAddr>)> = out.routes.iter().map(|r| (r.to_string(), r.src)).collect();
    assert_eq!(
        routes,
        [
            ("10.42.2.0/24 dev wrn-wg table 254".into(), Some(ip("10.42.1.1"))),
            ("10.43.0.0/16 dev wrn-wg table 254".into(), Some(ip("10.42.1.1"))),
            ("192.0.2.2/32 dev wrn-wg table 8700".into(), None),
            ("fd00:42:0:2::/64 dev wrn-wg table 254".into(), Some(ip("fd00:42:0:1::1"))),
        ]
    );
    let guards: Vec<String> = out.guards.iter().map(ToString::to_string).collect();
    for dst in [
        "10.42.0.0/16",
        "10.42.1.0/24",
        "10.42.2.0/24",
        "fd00:42::/56",
        "fd00:42:0:1::/64",
        "fd00:42:0:2::/64",
    ] {
        assert!(guards.contains(&format!("unreachable {dst} table 254 metric {GUARD_METRIC}")), "{dst}");
    }
    assert!(guards.contains(&format!("unreachable 192.0.2.2/32 table 8700 metric {GUARD_METRIC}")));
    let rules: Vec<String> = out.rules.iter().map(ToString::to_string).collect();
    assert_eq!(rules, ["8700: from 10.42.1.0/24 lookup 8700", "8700: from fd00:42:0:1::/64 lookup 8700"]);
    assert_eq!(out.addresses, BTreeSet::from([net("10.42.1.1/32"), net("fd00:42:0:1::1/128")]));
    assert_eq!(out.mtu, 1440);
}

#[test]
fn a_served_address_goes_through_the_tunnel_unless_somebody_else_has_it_too() {
    let serving = |name: &str, key: u8, served: &[&str]| Node {
        served_ips: served.iter().map(|text| ip(text)).collect(),
        ..node(name, key, &[&format!("10.42.{key}.0/24")], &format!("192.0.2.{key}"))
    };
    let mut underlay = lan();
    underlay.addresses.push(net("198.51.100.9/24"));
    let nodes = [
        own(),
        // Its own; one that the next node serves too; another node's InternalIP; this host's; a pod's; a Service's.
        serving(
            "b",
            2,
            &["198.51.100.2", "10.0.2.15", "192.0.2.3", "198.51.100.9", "10.42.3.7", "10.43.0.7"],
        ),
        serving("c", 3, &["10.0.2.15"]),
    ];
    let out = run(&nodes, &underlay, &cluster());
    assert_eq!(out.quarantined, [], "what several hosts have is no fault");
    let allowed = |key: u8| &out.peers[&PublicKey([key; 32])].allowed_ips;
    assert_eq!(
        *allowed(2),
        BTreeSet::from([net("10.42.2.0/24"), net("192.0.2.2/32"), net("198.51.100.2/32")])
    );
    assert_eq!(*allowed(3), BTreeSet::from([net("10.42.3.0/24"), net("192.0.2.3/32")]));
    let to = net("198.51.100.2/32");
    let way = out.routes.iter().find(|route| route.dst == to).unwrap();
    assert_eq!(way.to_string(), "198.51.100.2/32 dev wrn-wg table 8700");
    assert!(out.guards.iter().any(|guard| guard.dst == to && guard.table == ROUTE_TABLE_NODES));
}

#[test]
fn a_node_without_key_or_pods_is_guarded_only() {
    let keyless = node("b", 0, &["10.42.2.0/24"], "192.0.2.2");
    let podless = node("c", 3, &[], "192.0.2.3");
    let out = run(&[own(), keyless, podless], &lan(), &cluster());
    let routed: Vec<IpNet> = out.routes.iter().map(|route| route.dst).collect();
    assert_eq!(routed, [net("10.43.0.0/16")], "Services are this node's own business");
    assert!(out.peers.is_empty() && out.quarantined.is_empty());
    assert!(out.guards.iter().any(|g| g.dst == net("10.42.2.0/24")));
}

#[test]
fn of_two_that_claim_the_same_pods_the_first_by_name_keeps_them() {
    let out = run(
        &[
            node("c", 3, &["10.42.2.0/25"], "192.0.2.3"),
            own(),
            node("b", 2, &["10.42.2.0/24"], "192.0.2.2"),
            node("d", 4, &["10.42.1.128/25"], "192.0.2.4"),
        ],
        &lan(),
        &cluster(),
    );
    assert_eq!(objects(&out), ["node c: podCIDR 10.42.2.0/25", "node d: podCIDR 10.42.1.128/25"]);
    assert!(out.quarantined[0].reason.contains("node b, which keeps it"), "{}", out.quarantined[0]);
    assert!(out.quarantined[1].reason.contains("this node's own 10.42.1.0/24"), "{}", out.quarantined[1]);
    assert_eq!(out.peers.keys().collect::<Vec<_>>(), [&PublicKey([2; 32])]);
}

#[test]
fn a_refused_family_leaves_the_other() {
    let odd = node("b", 2, &["10.99.2.0/24", "fd00:42:0:2::/64"], "192.0.2.2");
    let out = run(&[own(), odd], &lan(), &cluster());
    assert_eq!(objects(&out), ["node b: podCIDR 10.99.2.0/24"]);
    let peer = &out.peers[&PublicKey([2; 32])];
    assert_eq!(peer.allowed_ips, BTreeSet::from([net("192.0.2.2/32"), net("fd00:42:0:2::/64")]));
    assert!(out.guards.iter().any(|g| g.dst == net("10.99.2.0/24")), "refused is guarded too");
}

#[test]
fn pods_on_the_hosts_own_ranges_are_refused() {
    let mut underlay = lan();
    underlay.routes.push(net("10.42.2.128/25"));
    underlay.routes.push(net("10.0.0.0/8"));
    underlay.addresses.push(net("10.42.3.7/32"));
    let nodes = [
        own(),
        node("b", 2, &["10.42.2.0/24"], "192.0.2.2"),
        node("c", 3, &["10.42.3.0/24"], "192.0.2.3"),
        node("d", 4, &["10.42.4.0/24"], "10.42.4.9"),
        node("e", 5, &["10.42.5.0/24"], "192.0.2.5"),
    ];
    let out = run(&nodes, &underlay, &cluster());
    let refused = objects(&out);
    for object in
        ["node b: podCIDR 10.42.2.0/24", "node c: podCIDR 10.42.3.0/24", "node d: podCIDR 10.42.4.0/24"]
    {
        assert!(refused.contains(&object), "{object} in {refused:?}");
    }
    assert_eq!(
        out.peers.keys().collect::<Vec<_>>(),
        [&PublicKey([5; 32])],
        "a wider route of the host is no harm"
    );
}

#[test]
fn cloned_keys_and_addresses_are_named() {
    let nodes = [
        own(),
        node("b", 2, &["10.42.2.0/24"], "10.0.2.15"),
        node("c", 2, &["10.42.3.0/24"], "10.0.2.15"),
        node("d", 1, &["10.42.4.0/24"], "192.0.2.1"),
    ];
    let out = run(&nodes, &lan(), &cluster());
    let refused = objects(&out);
    assert_eq!(refused.iter().filter(|o| o.contains("public key")).count(), 2, "{refused:?}");
    assert_eq!(refused.iter().filter(|o| o.contains("address")).count(), 3, "{refused:?}");
    let peer = &out.peers[&PublicKey([2; 32])];
    assert_eq!(
        (peer.node.as_str(), peer.allowed_ips.len()),
        ("b", 1),
        "an address of two is used for neither"
    );
}

#[test]
fn a_narrow_path_gets_an_mtu_of_its_own() {
    let mut underlay = lan();
    underlay.paths.insert(ip("192.0.2.3"), 1400);
    let nodes =
        [own(), node("b", 2, &["10.42.2.0/24"], "192.0.2.2"), node("c", 3, &["10.42.3.0/24"], "192.0.2.3")];
    let out = run(&nodes, &underlay, &cluster());
    assert_eq!(out.mtu, 1440);
    let mtu = |dst: &str| out.routes.iter().find(|r| r.dst == net(dst)).unwrap().mtu;
    assert_eq!(
        (mtu("10.42.2.0/24"), mtu("10.42.3.0/24"), mtu("192.0.2.3/32")),
        (None, Some(1340), Some(1340))
    );
    let alone = run(&[own()], &underlay, &cluster());
    assert_eq!(alone.mtu, 1440, "this node's own link says it before there are peers");
}

#[test]
fn a_tunnel_that_works_keeps_what_it_learned() {
    let roamed: SocketAddr = "192.0.2.77:7".parse().unwrap();
    let state = PeerState {
        endpoint: Some(roamed),
        endpoint_age: Duration::from_secs(99),
        handshake_age: Some(Duration::from_secs(9)),
        ..PeerState::default()
    };
    let out = compile(&OverlayInput {
        local: &local(),
        nodes: &[own(), node("b", 2, &["10.42.2.0/24"], "192.0.2.2")],
        cluster: &cluster(),
        learned: &BTreeMap::new(),
        underlay: &lan(),
        tunnels: &BTreeMap::from([(PublicKey([2; 32]), state)]),
        mtu: Some(1400),
        max_mtu: 65535,
    });
    let peer = &out.peers[&PublicKey([2; 32])];
    assert_eq!((peer.endpoint, peer.keepalive, out.mtu), (Some(roamed), endpoint::KEEPALIVE, 1400));
}

/// Nodes that collide in every way there is: few names, few keys, few prefixes of several lengths, few addresses.
fn any_node() -> impl Strategy<Value = Node> {
    let prefix = (0u8..6, 22u8..27, any::<bool>(), 0u16..4, any::<bool>());
    (0u8..8, 0u8..6, prefix, 1u8..8).prop_map(|(n, key, (third, len, v4, sixth, v6), host)| {
        let mut cidrs = Vec::new();
        if v4 {
            cidrs.push(format!("10.42.{third}.0/{len}").parse::<IpNet>().unwrap().trunc().to_string());
        }
        if v6 {
            cidrs.push(format!("fd00:42:0:{sixth:x}::/64"));
        }
        let cidrs: Vec<&str> = cidrs.iter().map(String::as_str).collect();
        let served_ips = vec![ip(&format!("192.0.2.{}", host + n % 3)), ip(&format!("10.42.{third}.9"))];
        Node { served_ips, ..node(&format!("n{n}"), key, &cidrs, &format!("192.0.2.{host}")) }
    })
}

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    proptest::collection::vec(any_node(), 0..10).prop_map(|all| {
        let by_name: BTreeMap<NodeName, Node> = all.into_iter().map(|n| (n.name.clone(), n)).collect();
        by_name.into_values().chain([own()]).collect()
    })
}

proptest! {
    #[test]
    fn allowed_ips_of_different_peers_never_overlap(nodes in nodes()) {
        let out = run(&nodes, &lan(), &cluster());
        let all: Vec<(&PublicKey, IpNet)> =
            out.peers.iter().flat_map(|(k, p)| p.allowed_ips.iter().map(move |n| (k, *n))).collect();
        for (i, (key, net)) in all.iter().enumerate() {
            for (other, theirs) in &all[i + 1..] {
                prop_assert!(key == other || !overlap(*net, *theirs), "{net} and {theirs}");
            }
            prop_assert!(!own().pod_cidrs.iter().any(|own| overlap(own, *net)), "{net} is ours");
        }
    }

    #[test]
    fn the_order_of_nodes_does_not_matter(mut nodes in nodes(), seed in any::<u64>()) {
        let first = run(&nodes, &lan(), &cluster());
        let len = nodes.len().max(1);
        nodes.rotate_left(usize::try_from(seed % 97).unwrap() % len);
        if seed % 2 == 0 {
            nodes.reverse();
        }
        prop_assert_eq!(first, run(&nodes, &lan(), &cluster()));
    }

    #[test]
    fn every_pod_cidr_is_guarded_and_routed_or_refused(nodes in nodes()) {
        let out = run(&nodes, &lan(), &cluster());
        for node in &nodes {
            for cidr in node.pod_cidrs.iter() {
                prop_assert!(out.guards.iter().any(|g| g.dst == cidr && g.table == TABLE_MAIN && g.metric == GUARD_METRIC));
                let routes = out.routes.iter().filter(|r| r.dst == cidr && r.table == TABLE_MAIN).count();
                let peers = out.peers.values().filter(|p| p.node == node.name && p.allowed_ips.contains(&cidr)).count();
                let owners = out.peers.values().filter(|p| p.allowed_ips.contains(&cidr)).count();
                prop_assert!(routes <= 1 && routes == owners && peers <= owners);
                let named = out.quarantined.iter().any(|q| q.object == pod_cidr_name(&node.name, cidr));
                let key_named = out.quarantined.iter().any(|q| q.object.starts_with(&format!("node {}: public key", node.name)));
                let own_or_keyless = node.name.as_str() == "a" || node.public_key.is_none();
                prop_assert!(peers == 1 || named || key_named || own_or_keyless, "{} {cidr} vanished", node.name);
            }
        }
        // Services are translated before they are routed; what is not is kept from leaving by the rules.
        for route in out.routes.iter().filter(|route| !out.service_ranges.contains(&route.dst)) {
            prop_assert!(out.guards.iter().any(|g| g.dst == route.dst && g.table == route.table), "{route} has no guard");
            prop_assert!(route.kernel_metric() < GUARD_METRIC);
        }
    }

    #[test]
    fn no_tunnel_packet_enters_a_tunnel(nodes in nodes()) {
        let out = run(&nodes, &lan(), &cluster());
        for peer in out.peers.values() {
            if let Some(endpoint) = peer.endpoint {
                prop_assert!(!out.pod_ranges.iter().any(|r| r.contains(&endpoint.ip())));
            }
        }
    }
}
