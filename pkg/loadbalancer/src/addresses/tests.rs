use super::*;
use proptest::prelude::*;
use warren_types::{
    Namespace, PodCidrs, ServiceKind, ServiceName, ServicePort, SliceKey, SliceName, TrafficPolicy,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node_name(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: Namespace::new("default").unwrap(), name: ServiceName::new(name).unwrap() }
}

/// Node `n1` has 192.0.2.1 and 2001:db8::1, and so on.
fn node(number: u8) -> Node {
    Node {
        name: node_name(&format!("n{number}")),
        uid: String::new(),
        node_id: None,
        public_key: None,
        endpoints: vec![],
        held_ports: Vec::new(),
        ingress: Vec::new(),
        observed: BTreeMap::new(),
        internal_ips: vec![ip(&format!("192.0.2.{number}")), ip(&format!("2001:db8::{number}"))],
        served_ips: Vec::new(),
        pod_cidrs: PodCidrs::default(),
        labels: BTreeMap::new(),
        ready: true,
    }
}

fn service(name: &str, created: i64, ports: &[u16]) -> Service {
    let port =
        |port: &u16| ServicePort { name: format!("p{port}"), ..ServicePort::new(Protocol::Tcp, *port) };
    Service {
        uid: format!("uid-{name}"),
        created,
        kind: ServiceKind::LoadBalancer,
        families: vec![Family::V4],
        ports: ports.iter().map(port).collect(),
        ..Service::new(key(name))
    }
}

/// A slice of IPv4 with an endpoint on each of these nodes, ready or only serving.
fn slice(service: &str, endpoints: &[(&str, bool)]) -> EndpointSlice {
    let endpoint = |(node, ready): &(&str, bool)| Endpoint {
        ready: *ready,
        terminating: !ready,
        node: Some(node_name(node)),
        ..Endpoint::ready(ip("10.42.0.9"))
    };
    EndpointSlice {
        key: SliceKey {
            namespace: Namespace::new("default").unwrap(),
            name: SliceName::new(format!("{service}-1")).unwrap(),
        },
        service: key(service),
        family: Family::V4,
        ports: vec![],
        endpoints: endpoints.iter().map(endpoint).collect(),
        foreign_proxy: false,
    }
}

/// A cluster to compile.
#[derive(Debug, Clone, Default)]
struct Cluster {
    mode: Mode,
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
    nodes: Vec<Node>,
    held: BTreeMap<NodeName, HeldPorts>,
}

impl Cluster {
    fn compile(&self) -> Vec<LoadBalancerAddresses> {
        compile(&AddressInput {
            mode: &self.mode,
            services: &self.services.iter().collect::<Vec<_>>(),
            slices: &self.slices.iter().collect::<Vec<_>>(),
            nodes: &self.nodes.iter().collect::<Vec<_>>(),
            held: &self.held,
        })
    }

    /// The addresses of a Service as text, and the reasons of its faults.
    fn given(&self, name: &str) -> (Vec<String>, Vec<String>) {
        let row = self.compile().into_iter().find(|row| row.service == key(name)).unwrap();
        let reasons = row.faults.iter().map(|fault| fault.reason.clone()).collect();
        (row.addresses.iter().map(ToString::to_string).collect(), reasons)
    }

    fn message(&self, name: &str) -> String {
        let row = self.compile().into_iter().find(|row| row.service == key(name)).unwrap();
        row.faults.iter().map(|fault| fault.message.clone()).collect::<Vec<_>>().join("; ")
    }

    /// The rows become the statuses, as the source brings it about.
    fn apply(&mut self) {
        for row in self.compile() {
            let service = self.services.iter_mut().find(|service| service.key == row.service).unwrap();
            service.load_balancer_ips = row.addresses;
        }
    }
}

fn of_nodes(services: Vec<Service>, slices: Vec<EndpointSlice>) -> Cluster {
    Cluster {
        mode: Mode::Nodes,
        services,
        slices,
        nodes: vec![node(1), node(2), node(3)],
        held: BTreeMap::new(),
    }
}

fn of_pool(ranges: &[&str], services: Vec<Service>) -> Cluster {
    let pool = Pool::new(ranges.iter().map(|range| range.parse().unwrap()).collect());
    Cluster { mode: Mode::Pool(pool), services, nodes: vec![node(1)], ..Cluster::default() }
}

fn texts(all: &[&str]) -> Vec<String> {
    all.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn services_of_others_get_no_row() {
    let mut classed = service("classed", 1, &[80]);
    classed.load_balancer_class = Some("example.org/other".into());
    let mut plain = service("plain", 1, &[80]);
    plain.kind = ServiceKind::ClusterIp;
    let mut proxied = service("proxied", 1, &[80]);
    proxied.foreign_proxy = true;
    let mut cluster = of_nodes(vec![classed, plain, proxied, service("ours", 1, &[80])], vec![]);
    let rows = |cluster: &Cluster| cluster.compile().into_iter().map(|row| row.service).collect::<Vec<_>>();
    assert_eq!(rows(&cluster), [key("ours")]);
    cluster.mode = Mode::Off;
    assert_eq!(rows(&cluster), []);
}

#[test]
fn nodes_that_can_serve_give_their_addresses() {
    let mut local = service("local", 2, &[81]);
    local.external_policy = TrafficPolicy::Local;
    let slices = vec![slice("any", &[("n2", true)]), slice("local", &[("n2", true), ("n3", false)])];
    let mut cluster = of_nodes(vec![service("any", 1, &[80]), local, service("none", 1, &[82])], slices);
    assert_eq!(cluster.given("any").0, ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    assert_eq!(cluster.given("local").0, ["192.0.2.2"]);
    assert_eq!(cluster.given("none"), (vec![], vec![]));
    // The last ready one goes: those that only serve until they end will do.
    cluster.slices[1] = slice("local", &[("n3", false)]);
    assert_eq!(cluster.given("local").0, ["192.0.2.3"]);
    // Nodes that are not ready, or that are to be left out.
    cluster.nodes[0].ready = false;
    cluster.nodes[1].labels.insert(LABEL_EXCLUDED.into(), String::new());
    assert_eq!(cluster.given("any").0, ["192.0.2.3"]);
}

/// One machine that kubeadm made a cluster of, for example.
#[test]
fn a_service_that_only_nodes_to_be_left_out_could_serve_says_so() {
    let mut local = service("local", 2, &[81]);
    local.external_policy = TrafficPolicy::Local;
    let services = vec![service("any", 1, &[80]), local, service("none", 1, &[82])];
    let slices = vec![slice("any", &[("n2", true)]), slice("local", &[("n2", true)])];
    for mut cluster in [
        of_nodes(services.clone(), slices.clone()),
        Cluster { slices, ..of_pool(&["198.51.100.1/29"], services) },
    ] {
        cluster.nodes = vec![node(1), node(2), node(3)];
        let faults = |cluster: &Cluster| ["any", "local", "none"].map(|name| cluster.given(name).1.join(","));
        assert_eq!(faults(&cluster), ["", "", ""]);
        cluster.nodes[1].labels.insert(LABEL_EXCLUDED.into(), String::new());
        assert_eq!(faults(&cluster), ["", "NodesExcluded", ""], "the one with the endpoint");
        assert!(cluster.message("local").contains(&format!("kubectl label node n2 {LABEL_EXCLUDED}-")));
        cluster.nodes[0].ready = false;
        cluster.nodes[2].labels.insert(LABEL_EXCLUDED.into(), String::new());
        assert_eq!(faults(&cluster), ["NodesExcluded", "NodesExcluded", ""]);
        cluster.nodes[1].ready = false;
        assert_eq!(faults(&cluster), ["NodesExcluded", "", ""], "where the label hinders nothing");
    }
}

#[test]
fn each_family_needs_endpoints_of_its_own() {
    let mut dual = service("dual", 1, &[80]);
    dual.families = vec![Family::V6, Family::V4];
    let mut six = slice("dual", &[("n1", true)]);
    six.family = Family::V6;
    let mut cluster = of_nodes(vec![dual], vec![six]);
    assert_eq!(cluster.given("dual").0, ["2001:db8::1", "2001:db8::2", "2001:db8::3"]);
    cluster.slices.push(slice("dual", &[("n1", true)]));
    assert_eq!(cluster.given("dual").0.len(), 6);
}

#[test]
fn a_port_that_a_program_holds_is_refused_by_name() {
    let mut cluster = of_nodes(vec![service("web", 1, &[443, 80])], vec![slice("web", &[("n1", true)])]);
    let held = HeldPorts::from([((Protocol::Tcp, 80), "nginx (pid 123)".to_owned())]);
    cluster.held.insert(node_name("n2"), held);
    assert_eq!(cluster.given("web"), (texts(&["192.0.2.1", "192.0.2.3"]), texts(&["PortInUse"])));
    let message = cluster.message("web");
    assert_eq!(
        message,
        "port 80/TCP on node n2 is held by nginx (pid 123); stop it or change the Service's port"
    );
    // Another protocol's port of that number is another port.
    cluster.services[0].ports[1].protocol = Protocol::Udp;
    assert_eq!(cluster.given("web").1, [""; 0]);
}

#[test]
fn the_older_service_gets_a_port_of_the_nodes() {
    let slices = ["old", "young", "other"].map(|name| slice(name, &[("n1", true)]));
    let services =
        vec![service("young", 2, &[80, 443]), service("other", 3, &[443]), service("old", 1, &[80])];
    let cluster = of_nodes(services, slices.into());
    assert_eq!(cluster.given("old").0.len(), 3);
    assert_eq!(cluster.given("young"), (vec![], texts(&["PortConflict"])));
    assert!(
        cluster.message("young").contains("port 80/TCP") && cluster.message("young").contains("default/old")
    );
    // Who gets nothing stands in nobody's way.
    assert_eq!(cluster.given("other").0.len(), 3);
}

#[test]
fn a_pool_gives_the_lowest_free_address_per_family() {
    let mut dual = service("b", 2, &[80]);
    dual.families = vec![Family::V4, Family::V6];
    let services = vec![dual, service("a", 1, &[80]), service("c", 3, &[80])];
    let mut cluster = of_pool(&["198.51.100.8/30", "2001:db8:9::/120"], services);
    assert_eq!(cluster.given("a").0, ["198.51.100.9"]);
    assert_eq!(cluster.given("b").0, ["198.51.100.10", "2001:db8:9::1"]);
    assert_eq!(cluster.given("c"), (vec![], texts(&["AddressPoolExhausted"])));
    assert!(cluster.message("c").contains("--loadbalancer-pool"), "{}", cluster.message("c"));
    // What is given stays, also when somebody older comes, and when somebody goes.
    cluster.apply();
    cluster.services.push(service("older", 0, &[80]));
    assert_eq!(cluster.given("older").1, ["AddressPoolExhausted"]);
    cluster.services.retain(|service| service.key != key("a"));
    assert_eq!(cluster.given("b").0, ["198.51.100.10", "2001:db8:9::1"]);
    assert_eq!(cluster.given("older").0, ["198.51.100.9"]);
}

#[test]
fn a_pool_of_one_family_is_no_fault_for_who_takes_both() {
    let mut dual = service("dual", 1, &[80]);
    dual.families = vec![Family::V4, Family::V6];
    let mut six = service("six", 1, &[80]);
    six.families = vec![Family::V6];
    let cluster = of_pool(&["198.51.100.9"], vec![dual, six]);
    assert_eq!(cluster.given("dual"), (texts(&["198.51.100.9"]), vec![]));
    assert!(cluster.message("six").contains("no IPv6 addresses"), "{}", cluster.message("six"));
}

#[test]
fn requests_come_first_and_are_refused_with_a_reason() {
    let mut asks = service("asks", 2, &[80]);
    asks.requested_addresses = vec![ip("198.51.100.1")];
    let mut late = service("late", 3, &[80]);
    late.requested_addresses = vec![ip("198.51.100.1")];
    let mut outside = service("outside", 1, &[80]);
    outside.requested_addresses = vec![ip("203.0.113.1")];
    let mut second = service("second", 1, &[80]);
    second.requested_addresses = vec![ip("198.51.100.7"), ip("198.51.100.8"), ip("2001:db8::5")];
    let mut of_node = service("of-node", 1, &[80]);
    of_node.requested_addresses = vec![ip("192.0.2.1")];
    let services = vec![asks, late, outside, second, of_node, service("any", 1, &[80])];
    let mut cluster = of_pool(&["198.51.100.1-198.51.100.9", "192.0.2.1"], services);
    assert_eq!(cluster.given("asks").0, ["198.51.100.1"]);
    assert_eq!(cluster.given("late"), (vec![], texts(&["AddressRefused"])));
    assert!(cluster.message("late").contains("default/asks"), "{}", cluster.message("late"));
    assert!(cluster.message("outside").contains("does not hold it"), "{}", cluster.message("outside"));
    assert!(cluster.message("of-node").contains("address of node n1"), "{}", cluster.message("of-node"));
    let (addresses, faults) = cluster.given("second");
    assert_eq!((addresses, faults.len()), (texts(&["198.51.100.7"]), 2));
    // Without requests: neither what others ask for, nor a node's.
    assert_eq!(cluster.given("any").0, ["198.51.100.2"]);
    // A request that is new moves a Service, when nobody has the address.
    cluster.apply();
    let any = cluster.services.last_mut().unwrap();
    any.requested_addresses = vec![ip("198.51.100.9")];
    assert_eq!(cluster.given("any").0, ["198.51.100.9"]);
}

#[test]
fn a_refusal_names_the_same_holder_once_everyone_has_what_was_given() {
    let asks = |name: &str, created, port, key: Option<&str>| {
        let mut one = service(name, created, &[port]);
        one.requested_addresses = vec![ip("198.51.100.2")];
        one.sharing_key = key.map(Into::into);
        one
    };
    let services =
        vec![asks("z", 0, 80, Some("team")), asks("m", 1, 81, None), asks("a", 2, 82, Some("team"))];
    let mut cluster = of_pool(&["198.51.100.1-198.51.100.9"], services);
    let message = cluster.message("m");
    assert!(message.contains("Service default/a has it"), "{message}");
    cluster.apply();
    assert_eq!(cluster.message("m"), message);
}

#[test]
fn services_with_a_key_in_common_share_unless_ports_or_policy_forbid() {
    let shared = |name: &str, created, port| {
        let mut one = service(name, created, &[port]);
        one.sharing_key = Some("team".into());
        one
    };
    let mut local = shared("local", 4, 83);
    local.external_policy = TrafficPolicy::Local;
    let mut stranger = service("stranger", 5, &[84]);
    stranger.requested_addresses = vec![ip("198.51.100.1")];
    let services = vec![shared("a", 1, 80), shared("b", 2, 81), shared("c", 3, 80), local, stranger];
    let mut cluster = of_pool(&["198.51.100.1-198.51.100.9"], services);
    cluster.services.remove(4);
    assert_eq!(cluster.given("a").0, cluster.given("b").0);
    assert_eq!(cluster.given("c").0, ["198.51.100.2"]);
    assert_eq!(cluster.given("local").0, ["198.51.100.3"]);
    // A port that comes to collide parts them: the older keeps the address.
    cluster.apply();
    cluster.services[1].ports[0].port = 80;
    assert_eq!(cluster.given("a").0, ["198.51.100.1"]);
    assert_eq!(cluster.given("b").0, ["198.51.100.4"]);
    let mut asks = service("asks", 9, &[90]);
    asks.requested_addresses = vec![ip("198.51.100.1")];
    cluster.services.push(asks);
    assert!(cluster.message("asks").contains("sharing key"), "{}", cluster.message("asks"));
}

#[test]
fn a_smaller_pool_or_a_new_node_moves_only_whom_it_concerns() {
    let services = vec![service("a", 1, &[80]), service("b", 2, &[80])];
    let mut cluster = of_pool(&["198.51.100.1-198.51.100.9"], services);
    cluster.apply();
    cluster.nodes[0].internal_ips.push(ip("198.51.100.1"));
    assert_eq!(cluster.given("a").0, ["198.51.100.3"]);
    assert_eq!(cluster.given("b").0, ["198.51.100.2"]);
    cluster.mode = of_pool(&["198.51.100.2-198.51.100.3"], vec![]).mode;
    assert_eq!(
        (cluster.given("a").0, cluster.given("b").0),
        (texts(&["198.51.100.3"]), texts(&["198.51.100.2"]))
    );
}

#[test]
fn an_address_is_servable_where_the_policy_lets_it_be_served() {
    let mut local = service("local", 1, &[80]);
    local.external_policy = TrafficPolicy::Local;
    local.load_balancer_ips = vec![ip("198.51.100.1")];
    let mut any = service("any", 1, &[80]);
    any.load_balancer_ips = vec![ip("198.51.100.2"), ip("203.0.113.1")];
    let mut others = any.clone();
    others.load_balancer_class = Some("example.org/other".into());
    others.load_balancer_ips = vec![ip("198.51.100.3")];
    let pool = Pool::new(vec!["198.51.100.1-198.51.100.9".parse().unwrap()]);
    let slices = [slice("local", &[("n2", true), ("n3", false)]), slice("any", &[])];
    let on = |node: &Node| {
        let found = servable(&pool, node, &[&local, &any, &others], &slices);
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(on(&node(1)), ["198.51.100.2"]);
    assert_eq!(on(&node(2)), ["198.51.100.1", "198.51.100.2"]);
    assert_eq!(on(&node(3)), ["198.51.100.2"]);
    let mut excluded = node(2);
    excluded.labels.insert(LABEL_EXCLUDED.into(), String::new());
    assert_eq!(on(&excluded), [""; 0]);
}

#[test]
fn the_first_ready_node_by_name_writes() {
    let mut nodes = [node(2), node(1), node(3)];
    assert!(
        warren_types::node::is_first_ready(&node_name("n1"), &nodes)
            && !warren_types::node::is_first_ready(&node_name("n2"), &nodes)
    );
    nodes[1].ready = false;
    assert!(
        warren_types::node::is_first_ready(&node_name("n2"), &nodes)
            && !warren_types::node::is_first_ready(&node_name("n1"), &nodes)
    );
    assert!(!warren_types::node::is_first_ready(&node_name("n1"), []));
}

#[test]
fn ten_thousand_services_are_no_burden() {
    const SERVICES: i64 = 10_000;
    let services: Vec<_> = (0..SERVICES)
        .map(|n| {
            let mut service = service(&format!("s{n}"), n, &[(n % 60_000) as u16 + 1]);
            service.sharing_key = (n % 2 == 0).then(|| format!("key{}", n % 500));
            service
        })
        .collect();
    let slices: Vec<_> = (0..SERVICES).map(|n| slice(&format!("s{n}"), &[("n1", true)])).collect();
    let mut cluster = of_pool(&["198.18.0.0/15", "192.0.2.0/24"], services);
    for given in ["fresh", "kept"] {
        let begun = std::time::Instant::now();
        let rows = cluster.compile();
        println!("pool, {given}: {:?}", begun.elapsed());
        assert!(rows.iter().all(|row| row.addresses.len() == 1 && row.faults.is_empty()));
        assert!(begun.elapsed().as_secs() < 2);
        let addresses: BTreeMap<_, _> = rows.into_iter().map(|row| (row.service, row.addresses)).collect();
        for service in &mut cluster.services {
            service.load_balancer_ips.clone_from(&addresses[&service.key]);
        }
    }
    cluster = Cluster { slices, ..of_nodes(cluster.services, vec![]) };
    let begun = std::time::Instant::now();
    assert!(cluster.compile().iter().all(|row| row.addresses.len() == 3));
    println!("nodes: {:?}", begun.elapsed());
    assert!(begun.elapsed().as_secs() < 2);
}

/// A Service of few ports, keys and requests, so that they collide.
fn any_service() -> impl Strategy<Value = Service> {
    let sharing = prop::option::weighted(0.4, prop_oneof![Just("x"), Just("y")]);
    let wish = prop::option::weighted(0.3, 1..12u8);
    (
        0..12u8,
        0..5i64,
        prop::collection::btree_set(80..84u16, 1..3),
        sharing,
        wish,
        any::<bool>(),
        0..3u8,
        1..4u8,
    )
        .prop_map(|(name, created, ports, sharing, wish, local, families, held)| {
            let ports: Vec<u16> = ports.into_iter().collect();
            let mut service = service(&format!("s{name}"), created, &ports);
            service.sharing_key = sharing.map(Into::into);
            service.requested_addresses =
                wish.map(|last| ip(&format!("198.51.100.{last}"))).into_iter().collect();
            if local {
                service.external_policy = TrafficPolicy::Local;
            }
            service.families = match families {
                0 => vec![Family::V4],
                1 => vec![Family::V6],
                _ => vec![Family::V4, Family::V6],
            };
            // Statuses of an earlier life, which may collide.
            if held == 1 {
                service.load_balancer_ips = vec![ip("198.51.100.3"), ip("203.0.113.1")];
            }
            service
        })
}

fn any_services() -> impl Strategy<Value = Vec<Service>> {
    prop::collection::vec(any_service(), 0..14).prop_map(|services| {
        let mut seen = BTreeSet::new();
        services.into_iter().filter(|service| seen.insert(service.key.clone())).collect()
    })
}

/// Each address once, but for Services that may share it; all from the pool and of the Service's families.
fn check_pool(cluster: &Cluster) {
    let Mode::Pool(pool) = &cluster.mode else { return };
    let find = |name: &ServiceKey| cluster.services.iter().find(|service| service.key == *name).unwrap();
    let mut holders: BTreeMap<IpAddr, Vec<&Service>> = BTreeMap::new();
    for row in cluster.compile() {
        let service = find(&row.service);
        for family in [Family::V4, Family::V6] {
            let of_family = row.addresses.iter().filter(|ip| Family::of(**ip) == family).count();
            assert!(of_family <= usize::from(service.families.contains(&family)), "{row:?}");
        }
        for address in row.addresses {
            assert!(pool.contains(address));
            for other in holders.entry(address).or_default() {
                assert!(service.sharing_key.is_some() && service.sharing_key == other.sharing_key);
                assert!([service, other].iter().all(|s| s.external_policy == TrafficPolicy::Cluster));
                assert!(service.ports.iter().all(|p| other.ports.iter().all(|q| p.port != q.port)));
            }
            holders.entry(address).or_default().push(service);
        }
    }
}

proptest! {
    #[test]
    fn a_pool_gives_nothing_twice_and_settles_at_once(services in any_services(), more in any_service(), order: u64) {
        let mut cluster = of_pool(&["198.51.100.1-198.51.100.6", "2001:db8:9::1-2001:db8:9::4"], services);
        check_pool(&cluster);
        // The order in which Services come makes no difference.
        let rows = cluster.compile();
        let mut shuffled = cluster.clone();
        let turn = order as usize % shuffled.services.len().max(1);
        shuffled.services.rotate_left(turn);
        shuffled.services.reverse();
        prop_assert_eq!(&shuffled.compile(), &rows);
        // What was given becomes the status, and nothing more happens.
        cluster.apply();
        prop_assert_eq!(&cluster.compile(), &rows);
        // Who comes later or goes moves nobody who has something.
        let mut after = cluster.clone();
        after.services.retain(|service| service.key != more.key);
        let kept = |cluster: &Cluster| -> BTreeMap<_, _> {
            cluster.compile().into_iter().filter(|r| r.service != more.key).map(|r| (r.service, r.addresses)).collect()
        };
        let before: BTreeMap<_, _> = kept(&cluster);
        let then = kept(&after);
        for (service, addresses) in &before {
            prop_assert!(addresses.iter().all(|ip| then[service].contains(ip)), "{} lost {:?}", service, addresses);
        }
        let mut newcomer = more.clone();
        newcomer.load_balancer_ips.clear();
        after.apply();
        let before = kept(&after);
        after.services.push(newcomer);
        check_pool(&after);
        prop_assert_eq!(kept(&after), before);
    }

    #[test]
    fn of_two_that_want_the_same_the_oldest_has_it(services in any_services()) {
        let mut services = services;
        for service in &mut services {
            service.load_balancer_ips.clear();
            service.sharing_key = None;
            service.families = vec![Family::V4];
        }
        let cluster = of_pool(&["198.51.100.1-198.51.100.11"], services);
        for service in &cluster.services {
            let Some(asked) = service.requested_addresses.first() else { continue };
            let rivals = cluster.services.iter().filter(|s| s.requested_addresses.first() == Some(asked));
            let oldest = rivals.min_by_key(|s| (s.created, s.key.clone())).unwrap();
            let has = cluster.given(service.key.name.as_str()).0 == [asked.to_string()];
            prop_assert_eq!(has, oldest.key == service.key);
        }
    }

    #[test]
    fn no_port_of_a_node_is_given_twice(services in any_services()) {
        let slices = services.iter().map(|s| slice(s.key.name.as_str(), &[("n1", true)])).collect();
        let cluster = of_nodes(services, slices);
        let mut seen = BTreeSet::new();
        for row in cluster.compile() {
            let service = cluster.services.iter().find(|service| service.key == row.service).unwrap();
            for (address, port) in row.addresses.iter().flat_map(|a| service.ports.iter().map(move |p| (a, p.port))) {
                prop_assert!(seen.insert((*address, port)));
            }
        }
    }
}
