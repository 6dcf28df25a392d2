use super::super::tests::{any_json, meta, spoiled};
use super::*;
use crate::convert::{MAX_REFUSALS, pod};
use proptest::prelude::*;
use serde_json::json;

fn named() -> ObjectMeta {
    meta(json!({"name": "web.v1", "namespace": "shop", "uid": "u"}))
}

fn row(spec: Value) -> NetworkPolicy {
    network_policy(&named(), &json!({ "spec": spec })).row.unwrap()
}

/// The row, and the fields that were refused.
fn judged(spec: Value) -> (NetworkPolicy, Vec<String>) {
    let got = network_policy(&named(), &json!({ "spec": spec }));
    (got.row.unwrap(), got.refused.into_iter().map(|r| r.field).collect())
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn label(key: &str, value: &str) -> Requirement {
    Requirement::In(key.into(), [value.to_owned()].into())
}

fn tcp(ports: PortMatch) -> PolicyPort {
    PolicyPort { protocol: Protocol::Tcp, ports }
}

/// Every field of the API, and a list for each place where one can be spoiled.
fn whole() -> Value {
    json!({
        "podSelector": {"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "old", "operator": "DoesNotExist"}]},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"role": "client"}}},
                      {"namespaceSelector": {"matchLabels": {"team": "x"}},
                       "podSelector": {"matchExpressions": [{"key": "role", "operator": "NotIn", "values": ["bad"]}]}},
                      {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25", "192.0.2.7/32"]}}],
             "ports": [{"port": 80}, {"protocol": "UDP", "port": 5000, "endPort": 5010}, {"port": "http"}]},
            {"from": [{"namespaceSelector": {}}], "ports": [{"protocol": "SCTP"}]}],
        "egress": [{"to": [{"ipBlock": {"cidr": "2001:db8::/32"}}, {"podSelector": {}}]}]
    })
}

#[test]
fn a_whole_policy_becomes_a_row() {
    let (row, refused) = judged(whole());
    assert_eq!(refused, [""; 0]);
    assert_eq!((row.key.to_string().as_str(), row.uid.as_str()), ("shop/web.v1", "u"));
    let tiers = Requirement::In("tier".into(), ["a".to_owned(), "b".to_owned()].into());
    let pods = [label("app", "web"), tiers, Requirement::DoesNotExist("old".into())];
    assert_eq!(row.pods, Selector::new(pods));
    let ingress = row.ingress.unwrap();
    let not_bad = Requirement::NotIn("role".into(), ["bad".to_owned()].into());
    assert_eq!(
        ingress[0].peers,
        [
            PolicyPeer::Pods { namespaces: None, pods: Selector::new([label("role", "client")]) },
            PolicyPeer::Pods {
                namespaces: Some(Selector::new([label("team", "x")])),
                pods: Selector::new([not_bad])
            },
            PolicyPeer::Block {
                cidr: net("192.0.2.0/24"),
                except: vec![net("192.0.2.128/25"), net("192.0.2.7/32")]
            },
        ]
    );
    let udp = PolicyPort { protocol: Protocol::Udp, ports: PortMatch::Range(5000, 5010) };
    assert_eq!(ingress[0].ports, [tcp(PortMatch::Range(80, 80)), udp, tcp(PortMatch::Named("http".into()))]);
    let everywhere = PolicyPeer::Pods { namespaces: Some(Selector::default()), pods: Selector::default() };
    assert_eq!(ingress[1].peers, [everywhere]);
    assert_eq!(ingress[1].ports, [PolicyPort { protocol: Protocol::Sctp, ports: PortMatch::Any }]);
    let egress = row.egress.unwrap();
    assert_eq!(egress[0].peers[0], PolicyPeer::Block { cidr: net("2001:db8::/32"), except: vec![] });
    assert_eq!(egress[0].peers[1], PolicyPeer::Pods { namespaces: None, pods: Selector::default() });
    assert!(egress[0].ports.is_empty());
}

#[test]
fn types_are_the_given_ones_or_follow_from_the_rules() {
    for (spec, ingress, egress) in [
        (json!({}), Some(0), None),
        (json!({"policyTypes": []}), Some(0), None),
        (json!({"policyTypes": null, "egress": null}), Some(0), None),
        (json!({"ingress": [{}]}), Some(1), None),
        (json!({"egress": [{}, {}]}), Some(0), Some(2)),
        (json!({"egress": []}), Some(0), None),
        (json!({"ingress": [{}], "egress": [{}]}), Some(1), Some(1)),
        (json!({"policyTypes": ["Egress"]}), None, Some(0)),
        (json!({"policyTypes": ["Egress"], "ingress": [{}]}), None, Some(0)),
        (json!({"policyTypes": ["Ingress"], "egress": [{}]}), Some(0), None),
        (json!({"policyTypes": ["Ingress", "Egress"], "egress": [{}]}), Some(0), Some(1)),
        // What cannot be read isolates.
        (json!({"policyTypes": ["Egress", "Both"]}), Some(0), Some(0)),
        (json!({"policyTypes": "Egress"}), Some(0), Some(0)),
        (json!({"egress": {"to": []}}), Some(0), Some(0)),
    ] {
        let row = row(spec.clone());
        let counts = (row.ingress.map(|r| r.len()), row.egress.map(|r| r.len()));
        assert_eq!(counts, (ingress, egress), "{spec}");
    }
    let without = network_policy(&named(), &json!({}));
    assert_eq!(without.refused, []);
    assert_eq!(without.row.unwrap(), row(json!({})));
    let broken = network_policy(&named(), &json!({"spec": 7})).row.unwrap();
    assert_eq!((broken.ingress, broken.egress), (Some(vec![]), Some(vec![])));
}

#[test]
fn what_cannot_be_read_is_left_out_and_named() {
    let from = |entry: Value| json!({"ingress": [{"from": [entry, {"podSelector": {}}]}]});
    let block = |entry: Value| from(json!({ "ipBlock": entry }));
    let selector = |entry: Value| from(json!({ "podSelector": entry }));
    let expression = |entry: Value| selector(json!({"matchExpressions": [entry]}));
    for (field, spec) in [
        ("from", from(json!("x"))),
        ("from", from(json!({}))),
        ("from", from(json!({"podSelector": null}))),
        ("from", from(json!({"podSelector": {}, "serviceSelector": {}}))),
        ("from", from(json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}))),
        ("from.ipBlock", block(json!("10.0.0.0/8"))),
        ("from.ipBlock", block(json!({"cidr": "10.0.0.0/8", "ports": [80]}))),
        ("from.ipBlock.cidr", block(json!({}))),
        ("from.ipBlock.cidr", block(json!({"cidr": "10.0.0.0"}))),
        ("from.ipBlock.cidr", block(json!({"cidr": "10.0.0.0/33"}))),
        ("from.ipBlock.cidr", block(json!({"cidr": "::ffff:10.0.0.0/104"}))),
        ("from.ipBlock.except", block(json!({"cidr": "10.0.0.0/8", "except": "10.0.0.0/9"}))),
        ("from.ipBlock.except", block(json!({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "x"]}))),
        ("from.ipBlock.except", block(json!({"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}))),
        ("from.ipBlock.except", block(json!({"cidr": "10.0.0.0/8", "except": ["0.0.0.0/0"]}))),
        ("from.ipBlock.except", block(json!({"cidr": "::/0", "except": vec!["::1/128"; MAX_EXCEPT + 1]}))),
        ("from.podSelector", selector(json!([]))),
        ("from.podSelector", selector(json!({"matchFields": {"a": "b"}}))),
        ("from.podSelector.matchLabels", selector(json!({"matchLabels": ["a"]}))),
        ("from.podSelector.matchLabels", selector(json!({"matchLabels": {"a": 7}}))),
        ("from.podSelector.matchLabels", selector(json!({"matchLabels": {"a": "b c"}}))),
        ("from.podSelector.matchLabels", selector(json!({"matchLabels": {"": "b"}}))),
        ("from.podSelector.matchLabels", selector(json!({"matchLabels": {"a": "b".repeat(64)}}))),
        ("from.podSelector.matchExpressions", selector(json!({"matchExpressions": {}}))),
        ("from.podSelector.matchExpressions", expression(json!("x"))),
        (
            "from.podSelector.matchExpressions",
            expression(json!({"key": "a", "operator": "Gt", "values": ["1"]})),
        ),
        ("from.podSelector.matchExpressions", expression(json!({"key": "a", "operator": "In"}))),
        (
            "from.podSelector.matchExpressions",
            expression(json!({"key": "a", "operator": "NotIn", "values": []})),
        ),
        (
            "from.podSelector.matchExpressions",
            expression(json!({"key": "a", "operator": "NotIn", "values": ["b", 7]})),
        ),
        (
            "from.podSelector.matchExpressions",
            expression(json!({"key": "a", "operator": "Exists", "values": ["b"]})),
        ),
        ("from.podSelector.matchExpressions", expression(json!({"key": 7, "operator": "Exists"}))),
        ("from.namespaceSelector", from(json!({"namespaceSelector": 7}))),
    ] {
        let (row, refused) = judged(spec.clone());
        assert_eq!(refused, [format!("spec.ingress.{field}")], "{spec}");
        let rules = row.ingress.unwrap();
        assert_eq!((rules.len(), rules[0].peers.len()), (1, 1), "{spec}");
    }
    for (field, port) in [
        ("ports", json!(80)),
        ("ports", json!({"port": 80, "appProtocol": "h2"})),
        ("ports.protocol", json!({"protocol": "ICMP", "port": 80})),
        ("ports.protocol", json!({"protocol": "", "port": 80})),
        ("ports.port", json!({"port": 0})),
        ("ports.port", json!({"port": 65536})),
        ("ports.port", json!({"port": -1})),
        ("ports.port", json!({"port": 80.5})),
        ("ports.port", json!({"port": ""})),
        ("ports.port", json!({"port": "80"})),
        ("ports.port", json!({"port": "-http"})),
        ("ports.port", json!({"port": "ht--tp"})),
        ("ports.port", json!({"port": "HTTP"})),
        ("ports.port", json!({"port": "longer-than-15-l"})),
        ("ports.port", json!({"port": true})),
        ("ports.endPort", json!({"endPort": 90})),
        ("ports.endPort", json!({"port": "http", "endPort": 90})),
        ("ports.endPort", json!({"port": 80, "endPort": 79})),
        ("ports.endPort", json!({"port": 80, "endPort": 65536})),
        ("ports.endPort", json!({"port": 80, "endPort": "90"})),
    ] {
        let (row, refused) = judged(json!({"ingress": [{"ports": [port, {"port": 443}]}]}));
        assert_eq!(refused, [format!("spec.ingress.{field}")], "{port}");
        assert_eq!(row.ingress.unwrap()[0].ports, [tcp(PortMatch::Range(443, 443))], "{port}");
    }
}

#[test]
fn a_list_that_loses_all_its_entries_does_not_become_the_list_that_allows_everything() {
    for rule in [
        json!(null),
        json!("x"),
        json!({"from": [{"ipBlock": {"cidr": "x"}}]}),
        json!({"from": [{}], "ports": [{"port": 80}]}),
        json!({"from": "everyone"}),
        json!({"ports": [{"port": 0}]}),
        json!({"ports": {"port": 80}}),
        json!({"from": [{"podSelector": {}}], "ports": [null]}),
        json!({"to": [{"podSelector": {}}]}),
        json!({"from": [], "action": "Deny"}),
    ] {
        let (row, refused) = judged(json!({"ingress": [rule]}));
        assert_eq!(row.ingress, Some(vec![]), "{rule}");
        assert_eq!(refused.len(), 1, "{rule}");
    }
    // What is empty or missing from the beginning does allow everything.
    for rule in [json!({}), json!({"from": [], "ports": []}), json!({"from": null, "ports": null})] {
        let everything = PolicyRule { peers: vec![], ports: vec![] };
        assert_eq!(judged(json!({"ingress": [rule]})).0.ingress, Some(vec![everything]), "{rule}");
    }
}

#[test]
fn pods_that_may_be_meant_are_isolated_and_allowed_nothing() {
    for selector in [
        json!("x"),
        json!({"matchLabels": {"app": "web", "tier": 7}}),
        json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}),
        json!({"matchLabels": {"app": "web"}, "matchFields": {"x": "y"}}),
    ] {
        let (row, refused) = judged(json!({"podSelector": selector, "ingress": [{}], "egress": [{}]}));
        assert_eq!((row.ingress, row.egress), (Some(vec![]), Some(vec![])), "{selector}");
        let web = [("app".to_owned(), "web".to_owned())].into();
        assert!(row.pods.matches(&web), "{selector}");
        assert_eq!(refused.len(), 1, "{selector}");
    }
}

#[test]
fn host_bits_are_cut_and_exceptions_outside_are_ignored_by_name() {
    let block = json!({"cidr": "10.1.2.3/8", "except": ["10.9.9.9/16", "11.0.0.0/8", "fd00::/8"]});
    let (row, refused) = judged(json!({"ingress": [{"from": [{"ipBlock": block}]}]}));
    let kept = PolicyPeer::Block { cidr: net("10.0.0.0/8"), except: vec![net("10.9.0.0/16")] };
    assert_eq!(row.ingress.unwrap()[0].peers, [kept]);
    assert_eq!(refused, ["spec.ingress.from.ipBlock.except"; 2]);
}

#[test]
fn lists_are_bounded() {
    let many = |n: usize, entry: Value| vec![entry; n];
    let (row, refused) = judged(json!({"ingress": many(MAX_RULES + 1, json!({}))}));
    assert_eq!((row.ingress.unwrap().len(), refused.len()), (MAX_RULES, 1));
    let rule = json!({"from": many(MAX_PEERS + 1, json!({"podSelector": {}}))});
    let (row, refused) = judged(json!({"ingress": [rule, rule, rule]}));
    let rules = row.ingress.unwrap();
    assert_eq!((rules.len(), rules[0].peers.len(), refused.len()), (2, MAX_PEERS, 4));
    let rule = json!({"ports": many(MAX_PORTS + 1, json!({}))});
    assert_eq!(judged(json!({"egress": [rule]})).0.egress.unwrap()[0].ports.len(), MAX_PORTS);
    let keys: Map<String, Value> = (0..=MAX_CONDITIONS).map(|i| (format!("k{i}"), json!("v"))).collect();
    let peer = json!({"podSelector": {"matchLabels": keys}});
    assert_eq!(judged(json!({"ingress": [{"from": [peer]}]})).0.ingress, Some(vec![]));
    // The largest row that comes of it fits into the store, whose limit is 8 MiB.
    let rule = json!({"ports": many(MAX_PORTS, json!({"port": 11111, "endPort": 22222}))});
    let row = row_of_both(many(MAX_RULES, rule));
    assert!(serde_json::to_vec(&row).unwrap().len() < 8 << 20);
}

fn row_of_both(rules: Vec<Value>) -> NetworkPolicy {
    row(json!({"ingress": rules, "egress": rules, "policyTypes": ["Ingress", "Egress"]}))
}

#[test]
fn namespaces_have_their_name_as_a_label_and_say_when_they_end() {
    let of = |m: Value, data: Value| namespace(&meta(m), &data).row;
    let row = of(json!({"name": "shop", "labels": {"team": "x", LABEL_NAME: "other"}}), json!({})).unwrap();
    let labels = [("team", "x"), (LABEL_NAME, "shop")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!((row.name.as_str(), row.labels, row.terminating), ("shop", labels.into(), false));
    let phase = json!({"status": {"phase": "Terminating"}});
    assert!(of(json!({"name": "shop"}), phase).unwrap().terminating);
    let deleted = json!({"name": "shop", "deletionTimestamp": "2026-01-01T00:00:00Z"});
    assert!(of(deleted, json!({})).unwrap().terminating);
    assert_eq!(of(json!({"name": "a.b"}), json!({})), None);
    assert_eq!(policy_key_of(&meta(json!({"name": "a/b", "namespace": "shop"}))), None);
}

#[test]
fn ports_with_names_are_those_of_containers_that_run_beside_each_other() {
    let m = meta(json!({"name": "p", "namespace": "shop"}));
    let spec = json!({
        "containers": [
            {"ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 9}, {"name": "", "containerPort": 8}]},
            {"ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}, {"name": "http", "containerPort": 8080}]}],
        "initContainers": [
            {"ports": [{"name": "once", "containerPort": 1}]},
            {"restartPolicy": "Always", "ports": [{"name": "mesh", "containerPort": 15001}]}]});
    let got = pod(&m, &json!({ "spec": spec }));
    assert_eq!(got.refused, []);
    let named = |name: &str, protocol, port| NamedPort { name: name.into(), protocol, port };
    assert_eq!(
        got.row.unwrap().named_ports,
        [
            named("http", Protocol::Tcp, 8080),
            named("dns", Protocol::Udp, 53),
            named("mesh", Protocol::Tcp, 15001)
        ]
    );
    for (field, port) in [
        ("name", json!({"name": "80", "containerPort": 80})),
        ("protocol", json!({"name": "a", "containerPort": 80, "protocol": "X"})),
        ("containerPort", json!({"name": "a", "containerPort": 0})),
        ("containerPort", json!({"name": "a"})),
    ] {
        let got = pod(&m, &json!({"spec": {"containers": [{"ports": [port]}]}}));
        assert_eq!(got.refused[0].field, format!("spec.containers.ports.{field}"), "{port}");
        assert_eq!(got.row.unwrap().named_ports, [], "{port}");
    }
    let many: Vec<Value> = (1..=300).map(|p| json!({"name": format!("p{p}"), "containerPort": p})).collect();
    let got = pod(&m, &json!({"spec": {"containers": [{"ports": many}]}}));
    assert_eq!((got.row.unwrap().named_ports.len(), got.refused.len()), (MAX_NAMED_PORTS, 1));
}

/// One question to a policy.
#[derive(Debug, Clone)]
struct Probe {
    ingress: bool,
    pod: Labels,
    peer: Result<(Labels, Labels), IpAddr>,
    protocol: Protocol,
    port: u16,
}

/// Whether the policy, alone, lets it pass. The subject's port named `http` is 8080.
fn passes(policy: &NetworkPolicy, probe: &Probe) -> bool {
    let rules = if probe.ingress { &policy.ingress } else { &policy.egress };
    let Some(rules) = rules.as_ref().filter(|_| policy.pods.matches(&probe.pod)) else { return true };
    let own: Labels = [(LABEL_NAME.to_owned(), "shop".to_owned())].into();
    rules.iter().any(|rule| {
        let peer = rule.peers.is_empty()
            || rule.peers.iter().any(|peer| match (peer, &probe.peer) {
                (PolicyPeer::Pods { namespaces, pods }, Ok((of_namespace, of_pod))) => {
                    namespaces.as_ref().map_or(*of_namespace == own, |n| n.matches(of_namespace))
                        && pods.matches(of_pod)
                }
                (PolicyPeer::Block { cidr, except }, Err(ip)) => {
                    cidr.contains(ip) && !except.iter().any(|e| e.contains(ip))
                }
                _ => false,
            });
        let port = rule.ports.is_empty()
            || rule.ports.iter().any(|p| {
                p.protocol == probe.protocol
                    && match &p.ports {
                        PortMatch::Any => true,
                        PortMatch::Range(first, last) => (*first..=*last).contains(&probe.port),
                        PortMatch::Named(name) => name == "http" && probe.port == 8080,
                    }
            });
        peer && port
    })
}

fn some_labels() -> impl Strategy<Value = Labels> {
    let pairs = [
        ("app", "web"),
        ("tier", "a"),
        ("tier", "c"),
        ("old", ""),
        ("role", "client"),
        ("role", "bad"),
        ("team", "x"),
        (LABEL_NAME, "shop"),
    ];
    let pairs = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
    prop::sample::subsequence(pairs, 0..5).prop_map(|pairs| pairs.into_iter().collect())
}

fn probes() -> impl Strategy<Value = Vec<Probe>> {
    let addresses = ["192.0.2.1", "192.0.2.7", "192.0.2.200", "10.0.0.1", "2001:db8::1", "fd00::1"];
    let address = prop::sample::select(addresses.to_vec()).prop_map(|a| Err(a.parse().unwrap()));
    let peer = prop_oneof![(some_labels(), some_labels()).prop_map(Ok), address];
    let protocol = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
    let port = prop::sample::select(vec![1, 80, 81, 5000, 5005, 5011, 8080, 65535]);
    let probe = (any::<bool>(), some_labels(), peer, protocol, port);
    let probe = probe.prop_map(|(ingress, pod, peer, protocol, port)| {
        // Half of all pods are those that the policy is for.
        let ours = [("app", "web"), ("tier", "a")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let pod = if port % 2 == 0 { ours.into() } else { pod };
        Probe { ingress, pod, peer, protocol, port }
    });
    prop::collection::vec(probe, 200)
}

/// Whatever place of a policy this stands in, it cannot be read.
fn garbage() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!("x y"),
        json!(-7),
        json!(true),
        json!(0.5),
        json!([-7]),
        json!([null]),
        json!({"?": 1}),
        json!("\u{0}\n".repeat(300)),
    ])
}

/// Every place below the spec.
fn places(value: &Value, at: &str, out: &mut Vec<String>) {
    let parts: Vec<(String, &Value)> = match value {
        Value::Object(o) => o.iter().map(|(k, v)| (format!("{at}/{k}"), v)).collect(),
        Value::Array(a) => a.iter().enumerate().map(|(i, v)| (format!("{at}/{i}"), v)).collect(),
        _ => Vec::new(),
    };
    for (at, part) in parts {
        places(part, &at, out);
        out.push(at);
    }
}

/// `spec` without the entry of a list at `place`; the same when it is in no list.
fn without(spec: &Value, place: &str) -> Value {
    let mut out = spec.clone();
    if let Some((list, index)) = place.rsplit_once('/')
        && let (Some(Value::Array(list)), Ok(index)) = (out.pointer_mut(list), index.parse::<usize>())
    {
        list.remove(index);
    }
    out
}

fn place() -> impl Strategy<Value = String> {
    let mut all = Vec::new();
    places(&whole(), "", &mut all);
    prop::sample::select(all)
}

proptest! {
    #[test]
    fn what_cannot_be_read_never_allows_more(place in place(), bad in garbage(), probes in probes()) {
        let good = whole();
        let mut spoiled = good.clone();
        *spoiled.pointer_mut(&place).unwrap() = bad;
        let (spoiled, refused) = judged(spoiled);
        prop_assert!(!refused.is_empty(), "{place}");
        let before = [row(good.clone()), row(without(&good, &place))];
        for probe in probes.iter().filter(|p| passes(&spoiled, p)) {
            prop_assert!(before.iter().all(|policy| passes(policy, probe)), "{place}: {probe:?}");
        }
    }

    #[test]
    fn no_policy_can_panic_the_door(data in spoiled(json!({"spec": whole()})), other in any_json(), name in "\\PC{0,20}") {
        for data in [&data, &other, &json!({ "spec": other })] {
            let got = network_policy(&named(), data);
            let row = got.row.unwrap();
            prop_assert!(row.ingress.is_some() || row.egress.is_some(), "it isolates in some direction");
            prop_assert!(got.refused.len() <= MAX_REFUSALS);
            for r in &got.refused {
                prop_assert!(r.reason.chars().count() <= 200 && !r.reason.contains('\n'));
            }
            let text = serde_json::to_string(&row).unwrap();
            prop_assert_eq!(serde_json::from_str::<NetworkPolicy>(&text).unwrap(), row);
            let of_any_name = meta(json!({ "name": name }));
            prop_assert!(namespace(&of_any_name, data).refused.len() <= 1);
            let ports = pod(&named(), data).row.unwrap().named_ports;
            prop_assert!(ports.len() <= MAX_NAMED_PORTS && ports.iter().all(|p| p.port != 0));
        }
    }
}
