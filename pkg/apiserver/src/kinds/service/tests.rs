use super::*;
use crate::error::Causes;
use warren_types::Family;

const PORTS: [Family; 2] = [Family::V4, Family::V6];

fn service(spec: Value) -> Value {
    let mut o = (KIND.typed)(json!({"metadata": {"name": "s", "namespace": "d"}, "spec": spec})).unwrap();
    (KIND.default)(&mut o);
    (KIND.create)(&mut o);
    o
}

/// With a port, so that only what is looked at is wrong.
fn with(mut spec: Value) -> Value {
    if spec.get("ports").is_none() {
        spec["ports"] = json!([{"port": 80}]);
    }
    service(spec)
}

fn told(causes: Causes) -> Vec<String> {
    let short = |c: crate::error::Cause| {
        format!("{} {}", c.field.trim_start_matches("spec."), c.reason.trim_start_matches("FieldValue"))
    };
    causes.0.into_iter().map(short).collect()
}

fn faults(o: &Value) -> Vec<String> {
    let mut causes = Causes::default();
    (KIND.validate)(o, &mut causes);
    told(causes)
}

#[test]
fn defaults_by_type() {
    let o = with(json!({}));
    let expected = json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]});
    assert_eq!(o["spec"], expected);
    assert_eq!(o["status"], json!({"loadBalancer": {}}));
    for (spec, key, value) in [
        (json!({"type": "NodePort"}), "externalTrafficPolicy", json!("Cluster")),
        (json!({"type": "LoadBalancer"}), "externalTrafficPolicy", json!("Cluster")),
        (json!({"type": "LoadBalancer"}), "allocateLoadBalancerNodePorts", json!(true)),
        (json!({"externalIPs": ["192.0.2.1"]}), "externalTrafficPolicy", json!("Cluster")),
        (json!({"type": "ExternalName", "externalName": "a.example."}), "externalName", json!("a.example")),
        (
            json!({"sessionAffinity": "ClientIP"}),
            "sessionAffinityConfig",
            json!({"clientIP": {"timeoutSeconds": 10800}}),
        ),
        (
            json!({"sessionAffinity": "None", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}),
            "sessionAffinityConfig",
            Value::Null,
        ),
        (json!({"type": "ExternalName", "externalName": "a"}), "internalTrafficPolicy", Value::Null),
        (json!({"clusterIP": "10.43.0.9"}), "clusterIPs", json!(["10.43.0.9"])),
        (json!({"clusterIP": "", "externalName": ""}), "clusterIP", Value::Null),
        (
            json!({"ports": [{"port": 53, "protocol": "UDP", "targetPort": "dns"}]}),
            "ports",
            json!([{"port": 53, "protocol": "UDP", "targetPort": "dns"}]),
        ),
    ] {
        assert_eq!(with(spec.clone())["spec"][key], value, "{spec} {key}");
    }
}

#[test]
fn every_rule_of_ports() {
    for (ports, expected) in [
        (json!([{"port": 80}]), vec![]),
        (json!([]), vec!["ports Required"]),
        (json!([{"port": 80}, {"port": 81}]), vec!["ports[0].name Required", "ports[1].name Required"]),
        (json!([{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]), vec!["ports[1].name Duplicate"]),
        (json!([{"port": 80, "name": "A"}]), vec!["ports[0].name Invalid"]),
        (json!([{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]), vec!["ports[1] Duplicate"]),
        (json!([{"port": 53, "name": "a"}, {"port": 53, "name": "b", "protocol": "UDP"}]), vec![]),
        (json!([{"port": 0}]), vec!["ports[0].port Invalid", "ports[0].targetPort Invalid"]),
        (json!([{"port": 65536, "targetPort": 1}]), vec!["ports[0].port Invalid"]),
        (json!([{"port": 80, "protocol": "ICMP"}]), vec!["ports[0].protocol NotSupported"]),
        (json!([{"port": 80, "targetPort": "http"}]), vec![]),
        (json!([{"port": 80, "targetPort": "a-very-long-name"}]), vec!["ports[0].targetPort Invalid"]),
        (json!([{"port": 80, "targetPort": "80-"}]), vec!["ports[0].targetPort Invalid"; 2]),
        (json!([{"port": 80, "targetPort": "a--b"}]), vec!["ports[0].targetPort Invalid"]),
        (json!([{"port": 80, "targetPort": 70000}]), vec!["ports[0].targetPort Invalid"]),
        (json!([{"port": 80, "appProtocol": "example.com/x"}]), vec![]),
        (json!([{"port": 80, "appProtocol": "a b"}]), vec!["ports[0].appProtocol Invalid"]),
        (json!([{"port": 80, "nodePort": 30080}]), vec!["ports[0].nodePort Forbidden"]),
    ] {
        assert_eq!(faults(&service(json!({"ports": ports}))), expected, "{ports}");
    }
    let node = |ports: Value| faults(&service(json!({"type": "NodePort", "ports": ports})));
    assert_eq!(
        node(
            json!([{"port": 80, "name": "a", "nodePort": 30080}, {"port": 81, "name": "b", "nodePort": 30080}])
        ),
        ["ports[1].nodePort Duplicate"]
    );
    let both = json!([{"port": 53, "name": "a", "nodePort": 30053}, {"port": 53, "name": "b", "protocol": "UDP", "nodePort": 30053}]);
    assert!(node(both).is_empty());
}

#[test]
fn every_other_rule() {
    for (spec, expected) in [
        (json!({"type": "Other"}), vec!["type NotSupported", "internalTrafficPolicy Required"]),
        (json!({"clusterIP": "None", "ports": []}), vec![]),
        (json!({"clusterIP": "None", "type": "NodePort"}), vec!["clusterIPs[0] Invalid"]),
        (json!({"clusterIP": "None", "type": "LoadBalancer"}), vec!["clusterIPs[0] Invalid"]),
        (json!({"clusterIP": "10.0.0.300"}), vec!["clusterIPs[0] Invalid"]),
        (json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.2"]}), vec!["clusterIPs Invalid"]),
        (json!({"clusterIPs": ["10.0.0.2"]}), vec!["clusterIPs Invalid"]),
        (
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2"]}),
            vec!["clusterIPs Invalid"],
        ),
        (json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "None"]}), vec!["clusterIPs[1] Invalid"]),
        (json!({"clusterIP": "10.0.0.1", "ipFamilies": ["IPv6"]}), vec!["clusterIPs[0] Invalid"]),
        (json!({"ipFamilies": ["IPv4", "IPv4"]}), vec!["ipFamilies[1] Duplicate"]),
        (json!({"ipFamilies": ["IPv5"]}), vec!["ipFamilies[0] NotSupported"]),
        (json!({"ipFamilyPolicy": "Both"}), vec!["ipFamilyPolicy NotSupported"]),
        (json!({"type": "ExternalName", "ports": []}), vec!["externalName Required"]),
        (json!({"type": "ExternalName", "externalName": "A", "ports": []}), vec!["externalName Invalid"]),
        (
            json!({"type": "ExternalName", "externalName": "a", "clusterIP": "None"}),
            vec!["clusterIPs Forbidden"],
        ),
        (
            json!({"type": "ExternalName", "externalName": "a", "ipFamilyPolicy": "SingleStack"}),
            vec!["ipFamilyPolicy Forbidden"],
        ),
        (json!({"type": "ExternalName", "externalName": "a", "ports": []}), vec![]),
        (json!({"sessionAffinity": "Cookie"}), vec!["sessionAffinity NotSupported"]),
        (
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
            vec!["sessionAffinityConfig.clientIP.timeoutSeconds Invalid"],
        ),
        (json!({"selector": {"a b": "c"}}), vec!["selector Invalid"]),
        (json!({"externalIPs": ["127.0.0.1"]}), vec!["externalIPs[0] Invalid"]),
        (json!({"externalIPs": ["a"]}), vec!["externalIPs[0] Invalid"]),
        (json!({"externalTrafficPolicy": "Local"}), vec!["externalTrafficPolicy Invalid"]),
        (
            json!({"type": "NodePort", "externalTrafficPolicy": "Near"}),
            vec!["externalTrafficPolicy NotSupported"],
        ),
        (json!({"internalTrafficPolicy": "Near"}), vec!["internalTrafficPolicy NotSupported"]),
        (json!({"trafficDistribution": "PreferSameZone"}), vec![]),
        (json!({"trafficDistribution": "Far"}), vec!["trafficDistribution NotSupported"]),
        (json!({"loadBalancerClass": "a/b"}), vec!["loadBalancerClass Forbidden"]),
        (json!({"type": "LoadBalancer", "loadBalancerClass": "a b"}), vec!["loadBalancerClass Invalid"]),
        (json!({"allocateLoadBalancerNodePorts": true}), vec!["allocateLoadBalancerNodePorts Forbidden"]),
        (json!({"loadBalancerSourceRanges": ["10.0.0.0/8"]}), vec!["loadBalancerSourceRanges Forbidden"]),
        (
            json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8", "x"]}),
            vec!["loadBalancerSourceRanges[1] Invalid"],
        ),
        (json!({"type": "LoadBalancer", "ports": [{"port": 10250}]}), vec!["ports[0].port Invalid"]),
        (json!({"healthCheckNodePort": 30001}), vec!["healthCheckNodePort Invalid"]),
        (json!({"type": "LoadBalancer", "healthCheckNodePort": 30001}), vec!["healthCheckNodePort Invalid"]),
        (
            json!({"type": "LoadBalancer", "healthCheckNodePort": 30001, "externalTrafficPolicy": "Local"}),
            vec![],
        ),
    ] {
        assert_eq!(faults(&with(spec.clone())), expected, "{spec}");
    }
    let mut o = with(json!({}));
    o["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
    assert_eq!(faults(&o), ["status.loadBalancer.ingress Forbidden"]);
}

#[test]
fn families_by_policy_and_cluster() {
    let fill = |spec: Value, cluster: &[Family]| {
        let mut o = with(spec);
        families::fill(&mut o, None, cluster)
            .map_err(told)
            .map(|()| (text(&o, "/spec/ipFamilyPolicy").to_owned(), texts(&o, "/spec/ipFamilies").join(",")))
    };
    let ok = |policy: &str, families: &str| Ok((policy.to_owned(), families.to_owned()));
    let no = |faults: &[&str]| Err(faults.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>());
    let (v4, v6, both, v6_first) = (&PORTS[..1], &PORTS[1..], &PORTS[..], &[Family::V6, Family::V4][..]);
    for (spec, cluster, expected) in [
        (json!({}), v4, ok("SingleStack", "IPv4")),
        (json!({}), v6, ok("SingleStack", "IPv6")),
        (json!({}), both, ok("SingleStack", "IPv4")),
        (json!({}), v6_first, ok("SingleStack", "IPv6")),
        (json!({"ipFamilies": ["IPv6"]}), both, ok("SingleStack", "IPv6")),
        (json!({"ipFamilies": ["IPv6"]}), v4, no(&["ipFamilies[0] Invalid"])),
        (json!({"ipFamilyPolicy": "PreferDualStack"}), v4, ok("PreferDualStack", "IPv4")),
        (json!({"ipFamilyPolicy": "PreferDualStack"}), both, ok("PreferDualStack", "IPv4,IPv6")),
        (
            json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"]}),
            both,
            ok("PreferDualStack", "IPv6,IPv4"),
        ),
        (json!({"ipFamilyPolicy": "RequireDualStack"}), v4, no(&["ipFamilyPolicy Invalid"])),
        (json!({"ipFamilyPolicy": "RequireDualStack"}), v6_first, ok("RequireDualStack", "IPv6,IPv4")),
        (json!({"ipFamilies": ["IPv4", "IPv6"]}), both, no(&["ipFamilyPolicy Invalid"])),
        (
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]}),
            both,
            no(&["ipFamilyPolicy Invalid"]),
        ),
        (json!({"clusterIP": "fd00::1"}), both, ok("SingleStack", "IPv6")),
        (json!({"clusterIP": "fd00::1"}), v4, no(&["clusterIPs[0] Invalid"])),
        (
            json!({"clusterIP": "fd00::1", "ipFamilyPolicy": "PreferDualStack"}),
            both,
            ok("PreferDualStack", "IPv6,IPv4"),
        ),
        // Headless without a selector: both families, whatever the cluster has.
        (json!({"clusterIP": "None"}), v4, ok("RequireDualStack", "IPv4,IPv6")),
        (json!({"clusterIP": "None", "ipFamilyPolicy": "SingleStack"}), both, ok("SingleStack", "IPv4")),
        (json!({"clusterIP": "None", "ipFamilies": ["IPv6"]}), v4, ok("RequireDualStack", "IPv6,IPv4")),
        // Headless with one: as with an address.
        (json!({"clusterIP": "None", "selector": {"a": "b"}}), both, ok("SingleStack", "IPv4")),
        (
            json!({"clusterIP": "None", "selector": {"a": "b"}, "ipFamilyPolicy": "RequireDualStack"}),
            v4,
            no(&["ipFamilyPolicy Invalid"]),
        ),
        (json!({"type": "ExternalName", "externalName": "a"}), both, ok("", "")),
    ] {
        assert_eq!(fill(spec.clone(), cluster), expected, "{spec} {cluster:?}");
    }
}

#[test]
fn rules_of_change() {
    let cluster_ip = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "ports": [{"port": 80}]});
    let change = |old: &Value, new: Value| {
        let old = with(old.clone());
        let mut new =
            (KIND.typed)(json!({"metadata": {"name": "s", "namespace": "d"}, "spec": new})).unwrap();
        (KIND.default)(&mut new);
        (KIND.carry)(&mut new, &old);
        let mut causes = Causes::default();
        (KIND.validate)(&new, &mut causes);
        (KIND.validate_update)(&new, &old, &mut causes);
        (new, told(causes))
    };
    let port = json!([{"port": 80}]);

    // What is left out stays.
    let (new, found) = change(&cluster_ip, json!({"ports": port}));
    assert_eq!((new["spec"]["clusterIPs"].clone(), found), (json!(["10.0.0.1"]), vec![]));
    // An address stays, or is refused.
    for bad in [json!({"clusterIP": "10.0.0.2", "ports": port}), json!({"clusterIP": "None", "ports": port})]
    {
        assert_eq!(change(&cluster_ip, bad).1, ["clusterIPs[0] Invalid"]);
    }
    assert_eq!(
        change(&cluster_ip, json!({"ipFamilies": ["IPv6"], "ports": port})).1,
        ["clusterIPs[0] Invalid", "ipFamilies[0] Invalid"]
    );
    // To ExternalName: the address goes.
    let (new, found) = change(
        &cluster_ip,
        json!({"type": "ExternalName", "externalName": "a", "clusterIP": "10.0.0.1", "ports": port}),
    );
    assert_eq!((new["spec"].get("clusterIP"), new["spec"].get("ipFamilies"), found), (None, None, vec![]));
    // But not when it was changed with it.
    let (_, found) =
        change(&cluster_ip, json!({"type": "ExternalName", "externalName": "a", "clusterIP": "10.0.0.9"}));
    assert!(found.contains(&"clusterIPs Forbidden".to_owned()), "{found:?}");

    let node = json!({"type": "NodePort", "clusterIP": "10.0.0.1", "ports": [
        {"port": 80, "name": "a", "nodePort": 30080}, {"port": 81, "name": "b", "nodePort": 30081}]});
    // Ports of nodes go with the names.
    let (new, found) = change(
        &node,
        json!({"type": "NodePort", "ports": [{"port": 8080, "name": "a"}, {"port": 82, "name": "c"}]}),
    );
    assert_eq!(
        (number(&new, "/spec/ports/0/nodePort"), number(&new, "/spec/ports/1/nodePort"), found),
        (30080, 0, vec![])
    );
    let (new, _) = change(
        &node,
        json!({"type": "NodePort", "ports": [{"port": 80, "name": "a"}, {"port": 82, "name": "c", "nodePort": 30080}]}),
    );
    assert_eq!(number(&new, "/spec/ports/0/nodePort"), 0, "it has gone to another port");
    // To ClusterIP: they go.
    let (new, found) = change(
        &node,
        json!({"type": "ClusterIP", "externalTrafficPolicy": "Cluster", "ports": node["ports"]}),
    );
    assert_eq!(
        (number(&new, "/spec/ports/0/nodePort"), new["spec"].get("externalTrafficPolicy"), found),
        (0, None, vec![])
    );

    let balanced = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30001, "loadBalancerClass": "a/b",
        "ports": [{"port": 80, "nodePort": 30080}]});
    assert_eq!(change(&balanced, json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30002, "loadBalancerClass": "a/b", "ports": port})).1, ["healthCheckNodePort Invalid"]);
    assert_eq!(change(&balanced, json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "loadBalancerClass": "a/c", "ports": port})).1, ["loadBalancerClass Invalid"]);
    let (new, found) = change(
        &balanced,
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Cluster", "healthCheckNodePort": 30001, "loadBalancerClass": "a/b", "ports": port}),
    );
    assert_eq!((number(&new, "/spec/healthCheckNodePort"), found), (0, vec![]));
    let mut whole = balanced;
    whole["type"] = "ClusterIP".into();
    whole["allocateLoadBalancerNodePorts"] = true.into();
    let (new, found) = change(
        &json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30001, "loadBalancerClass": "a/b",
        "ports": [{"port": 80, "nodePort": 30080}]}),
        whole,
    );
    assert_eq!(found, Vec::<String>::new(), "{new}");
}

#[test]
fn the_table() {
    let row = |spec: Value, status: Value| {
        let mut o = with(spec);
        o["status"] = status;
        let cells: Vec<String> = (KIND.cells)(&o, Timestamp::UNIX_EPOCH)
            .into_iter()
            .map(|c| c.as_str().unwrap().to_owned())
            .collect();
        [&cells[1..5], &cells[6..]].concat().join(" ")
    };
    let none = || json!({"loadBalancer": {}});
    assert_eq!(
        row(json!({"clusterIP": "10.0.0.1", "selector": {"b": "2", "a": "1"}}), none()),
        "ClusterIP 10.0.0.1 <none> 80/TCP a=1,b=2"
    );
    assert_eq!(row(json!({"clusterIP": "None"}), none()), "ClusterIP None <none> 80/TCP <none>");
    assert_eq!(
        row(json!({"type": "ExternalName", "externalName": "a.b", "ports": []}), none()),
        "ExternalName <none> a.b <none> <none>"
    );
    assert_eq!(
        row(
            json!({"type": "LoadBalancer", "clusterIP": "10.0.0.1", "ports": [{"port": 80, "nodePort": 30080}]}),
            none()
        ),
        "LoadBalancer 10.0.0.1 <pending> 80:30080/TCP <none>"
    );
    assert_eq!(
        row(
            json!({"type": "LoadBalancer", "clusterIP": "10.0.0.1", "externalIPs": ["192.0.2.9"]}),
            json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}})
        ),
        "LoadBalancer 10.0.0.1 192.0.2.1,192.0.2.9 80/TCP <none>"
    );
}
