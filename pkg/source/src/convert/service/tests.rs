use super::*;
use crate::convert::tests::{meta, spoiled};
use crate::convert::usable;
use proptest::prelude::*;
use serde_json::json;
use warren_types::Protocol;

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

fn whole() -> Value {
    json!({
        "spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "clusterIP": "10.43.0.10",
            "clusterIPs": ["10.43.0.10", "fd00:43::10"], "ipFamilies": ["IPv4", "IPv6"],
            "externalIPs": ["198.51.100.7"], "loadBalancerClass": "warren.dev/load-balancer",
            "loadBalancerSourceRanges": ["192.0.2.7/24", " 2001:db8::/32"], "loadBalancerIP": "203.0.113.9",
            "ports": [{"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080, "appProtocol": "http"},
                      {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 5353}],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000,
            "trafficDistribution": "PreferClose", "publishNotReadyAddresses": true},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9", "ipMode": "VIP"}, {"hostname": "lb.example"},
            {"ip": "203.0.113.10", "ipMode": "Proxy"}, {"ip": "2001:db8::9"}]}}})
}

fn named(annotations: Value, labels: Value) -> ObjectMeta {
    meta(json!({"name": "web", "namespace": "shop", "uid": "u1", "creationTimestamp": "1970-01-01T00:01:00Z",
        "annotations": annotations, "labels": labels}))
}

#[test]
fn a_whole_service_becomes_a_row() {
    let m = named(json!({"warren.dev/load-balancer-sharing-key": "k"}), json!({"a": "b"}));
    let got = service(&m, &whole());
    assert_eq!(got.refused, []);
    let want = Service {
        key: service_key_of(&m).unwrap(),
        uid: "u1".into(),
        created: 60,
        kind: ServiceKind::LoadBalancer,
        selector: true,
        cluster_ips: ips(&["10.43.0.10", "fd00:43::10"]),
        external_ips: ips(&["198.51.100.7"]),
        external_name: None,
        load_balancer_ips: ips(&["203.0.113.9", "2001:db8::9"]),
        load_balancer_class: Some("warren.dev/load-balancer".into()),
        source_ranges: vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        requested_addresses: ips(&["203.0.113.9"]),
        sharing_key: Some("k".into()),
        families: vec![Family::V4, Family::V6],
        ports: vec![
            ServicePort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: 80,
                node_port: Some(30080),
                target: "web".into(),
                app_protocol: Some("http".into()),
            },
            ServicePort {
                name: "dns".into(),
                protocol: Protocol::Udp,
                port: 53,
                node_port: None,
                target: "5353".into(),
                app_protocol: None,
            },
        ],
        affinity: Some(Affinity { seconds: 60 }),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Local,
        health_check_node_port: Some(32000),
        traffic_distribution: Some("PreferClose".into()),
        publish_not_ready: true,
        foreign_proxy: false,
    };
    assert_eq!(got.row.unwrap(), want);
}

#[test]
fn what_is_absent_has_the_meaning_of_the_api() {
    let got = service(&named(json!({}), json!({})), &json!({"spec": {"ports": [{"port": 80}]}}));
    assert_eq!(got.refused, []);
    let row = got.row.unwrap();
    assert_eq!((row.kind, row.selector, row.affinity), (ServiceKind::ClusterIp, false, None));
    assert!(row.is_headless() && row.families.is_empty() && row.source_ranges.is_empty());
    assert_eq!(
        (row.ports[0].protocol, row.ports[0].target.as_str(), row.ports[0].name.as_str()),
        (Protocol::Tcp, "80", "")
    );
    let affine = service(&named(json!({}), json!({})), &json!({"spec": {"sessionAffinity": "ClientIP"}}));
    assert_eq!(affine.row.unwrap().affinity, Some(Affinity { seconds: 10_800 }));
    let single =
        service(&named(json!({}), json!({})), &json!({"spec": {"clusterIP": "10.43.0.1"}})).row.unwrap();
    assert_eq!((single.cluster_ips, single.families), (ips(&["10.43.0.1"]), vec![Family::V4]));
}

#[test]
fn headless_external_and_foreign_services_are_told_apart() {
    let m = named(json!({}), json!({}));
    let headless = json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": ["IPv6"]}});
    let row = service(&m, &headless);
    assert_eq!(row.refused, []);
    assert_eq!(
        (row.row.as_ref().unwrap().is_headless(), row.row.unwrap().families),
        (true, vec![Family::V6])
    );
    let external =
        json!({"spec": {"type": "ExternalName", "externalName": "db.example.org.", "clusterIP": ""}});
    let row = service(&m, &external);
    assert_eq!(row.refused, []);
    assert_eq!(row.row.unwrap().external_name.as_deref(), Some("db.example.org"));
    for label in ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"] {
        let mut labels = json!({});
        labels[label] = json!("");
        assert!(service(&named(json!({}), labels), &json!({})).row.unwrap().foreign_proxy, "{label}");
    }
}

#[test]
fn warrens_annotations_win_over_metallbs_and_those_over_the_field() {
    let of = |annotations: Value| {
        let row = service(&named(annotations, json!({})), &whole()).row.unwrap();
        (row.requested_addresses, row.sharing_key)
    };
    assert_eq!(of(json!({})), (ips(&["203.0.113.9"]), None));
    let older = json!({"metallb.universe.tf/loadBalancerIPs": "192.0.2.1", "metallb.universe.tf/allow-shared-ip": "o"});
    assert_eq!(of(older.clone()), (ips(&["192.0.2.1"]), Some("o".into())));
    let mut newer = older;
    newer["metallb.io/loadBalancerIPs"] = json!("192.0.2.2, 2001:db8::2");
    newer["metallb.io/allow-shared-ip"] = json!("n");
    assert_eq!(of(newer.clone()), (ips(&["192.0.2.2", "2001:db8::2"]), Some("n".into())));
    newer["warren.dev/load-balancer-addresses"] = json!("192.0.2.3");
    newer["warren.dev/load-balancer-sharing-key"] = json!("w");
    assert_eq!(of(newer), (ips(&["192.0.2.3"]), Some("w".into())));
}

#[test]
fn a_bad_field_is_refused_by_name_and_the_service_is_kept() {
    let many = |n: u32| (0..n).map(|i| json!(format!("192.0.2.{i}"))).collect::<Vec<_>>();
    let table: &[(&str, Value)] = &[
        ("spec.type", json!({"type": "Gateway"})),
        ("spec.clusterIPs", json!({"clusterIPs": ["127.0.0.1"]})),
        ("spec.clusterIPs", json!({"clusterIPs": ["10.43.0.010"]})),
        ("spec.clusterIPs", json!({"clusterIP": "hello"})),
        ("spec.externalIPs", json!({"externalIPs": ["224.0.0.1"]})),
        ("spec.externalIPs", json!({"externalIPs": ["169.254.169.254"]})),
        ("spec.externalIPs", json!({"externalIPs": ["0.0.0.0"]})),
        ("spec.externalIPs", json!({"externalIPs": ["::1"]})),
        ("spec.externalIPs", json!({"externalIPs": [7]})),
        ("spec.externalIPs", json!({"externalIPs": many(17)})),
        ("spec.loadBalancerIP", json!({"loadBalancerIP": "fe80::1"})),
        ("spec.loadBalancerSourceRanges", json!({"loadBalancerSourceRanges": ["192.0.2.1"]})),
        ("spec.ipFamilies", json!({"ipFamilies": ["IPv5"]})),
        ("spec.ports", json!({"ports": [{"port": 80}, {"port": 80, "name": "b"}]})),
        ("spec.ports", json!({"ports": [{"port": 80, "name": "Not A Label"}]})),
        ("spec.ports", json!({"ports": [{"port": 80, "protocol": "ICMP"}]})),
        ("spec.ports", json!({"ports": (1..=101).map(|p| json!({"port": p})).collect::<Vec<_>>()})),
        ("spec.ports.port", json!({"ports": [{"port": 65536}]})),
        ("spec.ports.port", json!({"ports": [{"port": -1}]})),
        ("spec.ports.port", json!({"ports": ["x"]})),
        ("spec.ports.nodePort", json!({"ports": [{"port": 80, "nodePort": 70000}]})),
        ("spec.sessionAffinity", json!({"sessionAffinity": "Cookie"})),
        (
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
        ),
        ("spec.externalTrafficPolicy", json!({"externalTrafficPolicy": "Nowhere"})),
        ("spec.internalTrafficPolicy", json!({"internalTrafficPolicy": 7})),
        ("spec.healthCheckNodePort", json!({"healthCheckNodePort": "x"})),
        ("spec.externalName", json!({"type": "ExternalName", "externalName": "a b"})),
        ("spec.loadBalancerClass", json!({"loadBalancerClass": "x\ny"})),
    ];
    for (field, spec) in table {
        let got = service(&named(json!({}), json!({})), &json!({ "spec": spec }));
        assert!(got.row.is_some(), "{spec}");
        let fields: Vec<_> = got.refused.iter().map(|r| (r.object.as_str(), r.field.as_str())).collect();
        assert_eq!(fields, [("shop/web", *field)], "{spec}");
    }
    let got = service(
        &named(json!({}), json!({})),
        &json!({"status": {"loadBalancer": {"ingress": [{"ip": "::"}]}}}),
    );
    assert_eq!(got.refused[0].field, "status.loadBalancer.ingress");
    let annotated = named(json!({"warren.dev/load-balancer-addresses": "192.0.2.1,x"}), json!({}));
    let got = service(&annotated, &json!({}));
    assert_eq!(got.refused[0].field, "warren.dev/load-balancer-addresses");
    assert_eq!(got.row.unwrap().requested_addresses, ips(&["192.0.2.1"]));
    assert!(service(&meta(json!({"name": "../x", "namespace": "a"})), &json!({})).row.is_none());
}

#[test]
fn source_ranges_that_cannot_be_read_let_nobody_in() {
    let data = json!({"spec": {"loadBalancerSourceRanges": ["hello"]}});
    let row = service(&named(json!({}), json!({})), &data).row.unwrap();
    let nobody: Vec<IpNet> = vec!["0.0.0.0/32".parse().unwrap(), "::/128".parse().unwrap()];
    assert_eq!(row.source_ranges, nobody);
}

proptest! {
    #[test]
    fn a_spoiled_service_never_panics_and_never_lets_a_bad_address_in(data in spoiled(whole())) {
        let row = service(&named(json!({}), json!({})), &data).row.unwrap();
        let all = [&row.cluster_ips, &row.external_ips, &row.load_balancer_ips, &row.requested_addresses];
        for list in all {
            prop_assert!(list.len() <= MAX_INGRESS && list.iter().all(|ip| usable(*ip)));
        }
        prop_assert!(row.ports.len() <= MAX_PORTS);
        prop_assert!(row.ports.iter().all(|p| p.port != 0 && p.node_port != Some(0)));
    }
}
