use super::*;
use proptest::prelude::*;
use serde_json::json;

pub(super) fn meta(v: Value) -> ObjectMeta {
    serde_json::from_value(v).unwrap()
}

#[test]
fn a_whole_node_becomes_a_row() {
    let key = PublicKey([7; 32]);
    let m = meta(json!({"name": "n1", "uid": "u", "labels": {"a": "b"}, "annotations": {
        "warren.dev/public-key": key.to_string(), "warren.dev/endpoints": "192.0.2.1:51840, [2001:db8::1]:51840",
        "warren.dev/node-id": "0123456789abcdef0123456789abcdef",
        "warren.dev/observed": "n2=198.51.100.7:4711, n.3=[2001:db8::7]:1"}}));
    let got = node(
        &m,
        &json!({"spec": {"podCIDR": "10.42.1.0/24", "podCIDRs": ["10.42.1.0/24", "fd00:1::/64"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "n1"}],
                   "conditions": [{"type": "Ready", "status": "True"}]}}),
    );
    assert_eq!(got.refused, []);
    let row = got.row.unwrap();
    assert_eq!(row.public_key, Some(key));
    assert_eq!(row.endpoints, ["192.0.2.1:51840".parse().unwrap(), "[2001:db8::1]:51840".parse().unwrap()]);
    let observed = [("n2", "198.51.100.7:4711"), ("n.3", "[2001:db8::7]:1")];
    assert_eq!(
        row.observed,
        observed.map(|(n, at)| (NodeName::new(n).unwrap(), at.parse().unwrap())).into_iter().collect()
    );
    assert_eq!(row.internal_ips, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(row.pod_cidrs, PodCidrs::parse(["10.42.1.0/24", "fd00:1::/64"]).unwrap());
    assert!(row.ready);
}

#[test]
fn a_bad_field_is_refused_by_name_and_the_node_is_kept() {
    let table: &[(&str, Value, Value)] = &[
        ("spec.podCIDRs", json!({}), json!({"spec": {"podCIDRs": ["10.42.1.7/24"]}})),
        ("spec.podCIDRs", json!({}), json!({"spec": {"podCIDRs": ["10.42.1.0/24", "10.43.1.0/24"]}})),
        ("spec.podCIDRs", json!({}), json!({"spec": {"podCIDRs": [17]}})),
        ("spec.podCIDRs", json!({}), json!({"spec": {"podCIDR": "hello"}})),
        ("warren.dev/public-key", json!({"warren.dev/public-key": "AAAA"}), json!({})),
        ("warren.dev/endpoints", json!({"warren.dev/endpoints": "127.0.0.1:1"}), json!({})),
        ("warren.dev/endpoints", json!({"warren.dev/endpoints": "192.0.2.1:0"}), json!({})),
        ("warren.dev/endpoints", json!({"warren.dev/endpoints": "192.0.2.1; rm -rf /"}), json!({})),
        ("warren.dev/observed", json!({"warren.dev/observed": "n2"}), json!({})),
        ("warren.dev/observed", json!({"warren.dev/observed": "n2=127.0.0.1:7"}), json!({})),
        ("warren.dev/observed", json!({"warren.dev/observed": "../n=192.0.2.1:7"}), json!({})),
        ("warren.dev/node-id", json!({"warren.dev/node-id": "../x"}), json!({})),
        (
            "status.addresses",
            json!({}),
            json!({"status": {"addresses": [{"type": "InternalIP", "address": "169.254.1.1"}]}}),
        ),
    ];
    for (field, annotations, data) in table {
        let got = node(&meta(json!({"name": "n1", "annotations": annotations})), data);
        let row = got.row.unwrap();
        assert_eq!(got.refused.len(), 1, "{field} {data}");
        assert_eq!((got.refused[0].object.as_str(), got.refused[0].field.as_str()), ("n1", *field));
        assert!(row.pod_cidrs.is_empty() && row.public_key.is_none() && row.endpoints.is_empty());
    }
}

#[test]
fn a_nameless_object_is_refused_whole() {
    assert!(node(&meta(json!({})), &json!({})).row.is_none());
    assert!(node(&meta(json!({"name": "../etc"})), &json!({})).row.is_none());
    assert!(pod(&meta(json!({"name": "a", "namespace": "a/b"})), &json!({})).row.is_none());
}

#[test]
fn pods_carry_addresses_and_their_end() {
    let m = meta(json!({"name": "p", "namespace": "ns"}));
    let got = pod(
        &m,
        &json!({"spec": {"nodeName": "n1", "hostNetwork": true}, "status": {"phase": "Failed",
        "podIP": "10.42.1.2", "podIPs": [{"ip": "10.42.1.2"}, {"ip": "fd00::2"}]}}),
    );
    let row = got.row.unwrap();
    assert_eq!(row.ips.len(), 2);
    assert!(row.finished && row.host_network);
    let one = pod(&m, &json!({"status": {"podIP": "10.42.1.2"}})).row.unwrap();
    assert_eq!(one.ips, ["10.42.1.2".parse::<IpAddr>().unwrap()]);
}

#[test]
fn a_mirror_has_the_uid_of_its_static_pod() {
    let annotations = json!({"kubernetes.io/config.mirror": "abc", "kubernetes.io/config.hash": "abc"});
    let mirror = meta(json!({"name": "p", "namespace": "ns", "uid": "own", "annotations": annotations}));
    assert_eq!(pod(&mirror, &json!({})).row.unwrap().uid, "abc");
    let annotations = json!({"kubernetes.io/config.hash": "abc"});
    let other = meta(json!({"name": "p", "namespace": "ns", "uid": "own", "annotations": annotations}));
    assert_eq!(pod(&other, &json!({})).row.unwrap().uid, "own");
}

#[test]
fn the_cluster_config_map_is_read_or_named() {
    let m = meta(json!({"name": "warren-cluster", "namespace": "kube-system"}));
    let good = cluster(&m, &json!({"data": {"config.json": "{\"clusterCidrs\":[\"10.42.0.0/16\"]}"}}));
    assert_eq!(good.row.unwrap().cluster_cidrs.len(), 1);
    for bad in
        [json!({}), json!({"data": {"config.json": "{"}}), json!({"data": {"config.json": "{\"x\":1}"}})]
    {
        let got = cluster(&m, &bad);
        assert!(got.row.is_none());
        assert_eq!(got.refused.len(), 1);
    }
    assert_eq!(cluster(&meta(json!({"name": "other"})), &json!({})).refused, []);
}

pub(super) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(Value::from("InternalIP")),
        Just(Value::from("10.42.1.0/24")),
        Just(Value::from("Ready")),
    ];
    leaf.prop_recursive(5, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(
                prop_oneof![
                    Just("spec".to_owned()),
                    Just("status".to_owned()),
                    Just("podCIDRs".to_owned()),
                    Just("podCIDR".to_owned()),
                    Just("addresses".to_owned()),
                    Just("address".to_owned()),
                    Just("type".to_owned()),
                    Just("podIPs".to_owned()),
                    Just("data".to_owned()),
                    Just("config.json".to_owned()),
                    "\\PC{0,8}",
                ],
                inner,
                0..5
            )
            .prop_map(Value::from_iter),
        ]
    })
}

proptest! {
    #[test]
    fn no_object_can_panic_the_door(name in "\\PC{0,20}", ns in "\\PC{0,20}", key in "\\PC{0,60}", eps in "\\PC{0,60}",
                                    data in any_json()) {
        let m = meta(json!({"name": name, "namespace": ns, "annotations": {
            "warren.dev/public-key": key, "warren.dev/endpoints": eps, "warren.dev/node-id": key}}));
        let all = [
            node(&m, &data).refused, pod(&m, &data).refused, cluster(&m, &data).refused,
            service(&m, &data).refused, endpoint_slice(&m, &data).refused,
        ];
        for c in all {
            prop_assert!(c.len() <= MAX_REFUSALS);
            for r in c {
                prop_assert!(r.reason.chars().count() <= 200 && !r.reason.contains('\n'));
            }
        }
    }

    #[test]
    fn no_held_ports_can_panic_the_door(text in "((TCP|udp|x)/[0-9]{0,6}=[a-z,=]{0,5},?){0,4}|\\PC{0,60}") {
        let m = meta(json!({"name": "n", "annotations": {"warren.dev/held-ports": text}}));
        let row = node(&m, &json!({})).row.unwrap();
        prop_assert!(row.held_ports.iter().all(|p| p.port != 0) && row.held_ports.is_sorted());
    }

    #[test]
    fn what_passes_the_door_can_be_reached(ip: [u8; 4], port: u16) {
        let eps = format!("{}:{port}", IpAddr::from(ip));
        let m = meta(json!({"name": "n", "annotations": {"warren.dev/endpoints": eps}}));
        let got = node(&m, &json!({}));
        let kept = got.row.map(|r| r.endpoints).unwrap_or_default();
        prop_assert_eq!(kept.len() + got.refused.len(), 1);
        prop_assert!(kept.iter().all(|e| e.port() != 0 && usable(e.ip())));
    }
}

/// Every place in a value, as JSON pointers.
fn places(value: &Value, at: &str, out: &mut Vec<String>) {
    out.push(at.to_owned());
    match value {
        Value::Object(o) => o.iter().for_each(|(k, v)| places(v, &format!("{at}/{k}"), out)),
        Value::Array(a) => a.iter().enumerate().for_each(|(i, v)| places(v, &format!("{at}/{i}"), out)),
        _ => {}
    }
}

/// A good object with something else in a place or two.
pub(super) fn spoiled(good: Value) -> impl Strategy<Value = Value> {
    let mut all = Vec::new();
    places(&good, "", &mut all);
    prop::collection::vec((prop::sample::select(all), any_json()), 1..3).prop_map(move |changes| {
        let mut out = good.clone();
        for (place, value) in changes {
            if let Some(at) = out.pointer_mut(&place) {
                *at = value;
            }
        }
        out
    })
}
