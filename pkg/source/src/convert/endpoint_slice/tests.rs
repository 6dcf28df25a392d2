use super::*;
use crate::convert::tests::{meta, spoiled};
use crate::convert::usable;
use proptest::prelude::*;
use serde_json::json;
use warren_types::Protocol;

fn named(labels: Value) -> ObjectMeta {
    meta(json!({"name": "web-abc.1", "namespace": "shop", "labels": labels}))
}

fn ours() -> ObjectMeta {
    named(json!({"kubernetes.io/service-name": "web"}))
}

fn whole() -> Value {
    json!({"addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}],
        "endpoints": [
            {"addresses": ["10.42.1.2", "10.42.1.3"], "conditions": {"ready": false, "serving": true, "terminating": true},
             "hostname": "web-0", "nodeName": "n1", "zone": "z1",
             "hints": {"forZones": [{"name": "z1"}, {"name": "z2"}], "forNodes": [{"name": "n1"}]},
             "targetRef": {"kind": "Pod", "name": "web-0", "namespace": "shop"}},
            {"addresses": ["10.42.1.4"]}]})
}

#[test]
fn a_whole_slice_becomes_a_row() {
    let got = endpoint_slice(&ours(), &whole());
    assert_eq!(got.refused, []);
    let row = got.row.unwrap();
    assert_eq!((row.key.to_string(), row.service.to_string()), ("shop/web-abc.1".into(), "shop/web".into()));
    assert_eq!((row.family, row.foreign_proxy), (Family::V4, false));
    let port = |name: &str, protocol, port| EndpointPort { name: name.into(), protocol, port };
    assert_eq!(row.ports, [port("http", Protocol::Tcp, 8080), port("", Protocol::Udp, 53)]);
    let node = NodeName::new("n1").unwrap();
    let first = Endpoint {
        address: "10.42.1.2".parse().unwrap(),
        ready: false,
        serving: true,
        terminating: true,
        hostname: Some("web-0".into()),
        node: Some(node.clone()),
        zone: Some("z1".into()),
        for_zones: ["z1".to_owned(), "z2".to_owned()].into(),
        for_nodes: [node].into(),
        pod: Some(PodKey {
            namespace: Namespace::new("shop").unwrap(),
            name: PodName::new("web-0").unwrap(),
        }),
    };
    let second = Endpoint {
        address: "10.42.1.4".parse().unwrap(),
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node: None,
        zone: None,
        for_zones: BTreeSet::new(),
        for_nodes: BTreeSet::new(),
        pod: None,
    };
    assert_eq!(row.endpoints, [first, second]);
}

#[test]
fn what_is_absent_has_the_meaning_of_the_api() {
    let with = |endpoint: Value| {
        let data = json!({"addressType": "IPv6", "ports": [{"name": "any"}], "endpoints": [endpoint]});
        let got = endpoint_slice(&ours(), &data);
        assert_eq!(got.refused, []);
        let row = got.row.unwrap();
        assert_eq!(row.ports, [], "any port is none to a proxy");
        let e = &row.endpoints[0];
        (e.ready, e.serving, e.terminating)
    };
    assert_eq!(with(json!({"addresses": ["fd00::2"]})), (true, true, false));
    assert_eq!(with(json!({"addresses": ["fd00::2"], "conditions": {"ready": null}})), (true, true, false));
    assert_eq!(
        with(json!({"addresses": ["fd00::2"], "conditions": {"ready": false}})),
        (false, false, false)
    );
}

#[test]
fn slices_that_are_no_services_or_of_names_give_nothing() {
    for (m, data) in [
        (named(json!({})), whole()),
        (named(json!({"kubernetes.io/service-name": ""})), whole()),
        (ours(), json!({"addressType": "FQDN", "endpoints": [{"addresses": ["example.org"]}]})),
    ] {
        assert_eq!(endpoint_slice(&m, &data), Converted { row: None, refused: vec![] });
        assert!(slice_key_of(&m).is_some(), "an earlier row can be found and deleted");
    }
    let foreign = named(json!({"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": ""}));
    assert!(endpoint_slice(&foreign, &whole()).row.unwrap().foreign_proxy);
}

#[test]
fn a_bad_field_is_refused_by_name_and_the_rest_is_kept() {
    let at = |address: &str| json!({"endpoints": [{"addresses": [address]}, {"addresses": ["10.42.9.9"]}]});
    let detail = |detail: Value| {
        let mut endpoint = json!({"addresses": ["10.42.9.9"]});
        endpoint.as_object_mut().unwrap().extend(detail.as_object().unwrap().clone());
        json!({ "endpoints": [endpoint] })
    };
    let good = json!({"addresses": ["10.42.9.9"]});
    let hints: Vec<Value> = (0..9).map(|z| json!({"name": format!("z{z}")})).collect();
    let table: &[(&str, Value, usize)] = &[
        ("endpoints.addresses", at("127.0.0.1"), 1),
        ("endpoints.addresses", at("169.254.169.254"), 1),
        ("endpoints.addresses", at("224.0.0.251"), 1),
        ("endpoints.addresses", at("0.0.0.0"), 1),
        ("endpoints.addresses", at("255.255.255.255"), 1),
        ("endpoints.addresses", at("fd00::1"), 1),
        ("endpoints.addresses", at("::ffff:10.0.0.1"), 1),
        ("endpoints.addresses", at("10.0.0.01"), 1),
        ("endpoints.addresses", json!({"endpoints": [{}, good.clone()]}), 1),
        ("endpoints.addresses", json!({"endpoints": [7, good.clone()]}), 1),
        ("endpoints", json!({"endpoints": vec![good.clone(); 1001]}), 1000),
        ("endpoints.nodeName", detail(json!({"nodeName": "../x"})), 1),
        ("endpoints.hostname", detail(json!({"hostname": "a.b"})), 1),
        ("endpoints.zone", detail(json!({"zone": "z".repeat(300)})), 1),
        ("endpoints.targetRef", detail(json!({"targetRef": {"kind": "Pod", "name": "A/B"}})), 1),
        ("endpoints.hints.forZones", detail(json!({"hints": {"forZones": hints}})), 1),
        ("endpoints.hints.forNodes", detail(json!({"hints": {"forNodes": [{"name": "N"}]}})), 1),
        ("ports", json!({"ports": [{"port": 1}, {"port": 2}]}), 0),
        ("ports.port", json!({"ports": [{"port": 65536}]}), 0),
        ("ports.name", json!({"ports": [{"name": "A B", "port": 1}]}), 0),
        ("ports.protocol", json!({"ports": [{"protocol": "GRE", "port": 1}]}), 0),
    ];
    for (field, data, kept) in table {
        let mut data = data.clone();
        data["addressType"] = json!("IPv4");
        let got = endpoint_slice(&ours(), &data);
        let fields: Vec<_> = got.refused.iter().map(|r| (r.object.as_str(), r.field.as_str())).collect();
        assert_eq!(fields, [("shop/web-abc.1", *field)]);
        assert_eq!(got.row.unwrap().endpoints.len(), *kept, "{field}");
    }
    for (m, data, field) in [
        (ours(), json!({}), "addressType"),
        (ours(), json!({"addressType": "X"}), "addressType"),
        (named(json!({"kubernetes.io/service-name": "a/b"})), whole(), "kubernetes.io/service-name"),
    ] {
        let got = endpoint_slice(&m, &data);
        assert_eq!((got.row, got.refused[0].field.as_str()), (None, field));
    }
}

#[test]
fn a_thousand_bad_endpoints_are_named_a_few_times() {
    let data = json!({"addressType": "IPv4", "endpoints": vec![json!({"addresses": ["127.0.0.1"]}); 1000]});
    let got = endpoint_slice(&ours(), &data);
    assert_eq!(got.refused.len(), super::super::MAX_REFUSALS);
    assert_eq!(got.row.unwrap().endpoints, []);
}

proptest! {
    #[test]
    fn a_spoiled_slice_never_panics_and_never_lets_a_bad_address_in(data in spoiled(whole())) {
        if let Some(row) = endpoint_slice(&ours(), &data).row {
            prop_assert!(row.endpoints.iter().all(|e| usable(e.address) && Family::of(e.address) == row.family));
            prop_assert!(row.ports.iter().all(|p| p.port != 0));
        }
    }
}
