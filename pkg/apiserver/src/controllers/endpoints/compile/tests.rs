use super::*;
use crate::registry::{NODE, POD};

fn pod(name: &str, ip: &str, change: impl Fn(&mut Value)) -> Arc<Object> {
    let mut value = json!({"metadata": {"name": name, "namespace": "d", "uid": format!("uid-{name}"), "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                   "conditions": [{"type": "Ready", "status": "True"}]}});
    change(&mut value);
    Arc::new(Object::new(POD, value, 1))
}

fn service(change: impl Fn(&mut Value)) -> Value {
    let mut value = json!({"metadata": {"name": "web", "namespace": "d", "uid": "s"},
        "spec": {"clusterIP": "10.43.0.9", "ipFamilies": ["IPv4"], "selector": {"app": "web"},
                 "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}]}});
    change(&mut value);
    value
}

fn nodes(name: &str) -> Option<Arc<Object>> {
    let labels = match name {
        "n1" => json!({ZONE_LABEL: "east"}),
        "n2" => json!({}),
        _ => return None,
    };
    Some(Arc::new(Object::new(NODE, json!({"metadata": {"name": name, "labels": labels}}), 1)))
}

fn same(_: &mut Value) {}

/// The only endpoint of the only group.
fn only(service: &Value, pod: Arc<Object>) -> Value {
    let wanted = wanted(service, &[pod], nodes);
    let groups: Vec<&Group> = wanted.values().flatten().collect();
    assert_eq!((groups.len(), groups[0].endpoints.len()), (1, 1), "{wanted:?}");
    groups[0].endpoints[0].clone()
}

#[test]
fn an_endpoint_says_all_about_its_pod() {
    let pod = pod("a", "10.0.0.5", |p| {
        p["spec"]["hostname"] = "one".into();
        p["spec"]["subdomain"] = "web".into();
    });
    assert_eq!(
        only(&service(same), pod),
        json!({"addresses": ["10.0.0.5"], "nodeName": "n1", "zone": "east", "hostname": "one",
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": "d", "name": "a", "uid": "uid-a"}})
    );
}

#[test]
fn conditions_follow_the_pod() {
    let not_ready = |p: &mut Value| p["status"]["conditions"][0]["status"] = "False".into();
    let ends = |p: &mut Value| p["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let all = service(|s| s["spec"]["publishNotReadyAddresses"] = true.into());
    for (service, change, ready, serving, terminating) in [
        (service(same), &not_ready as &dyn Fn(&mut Value), false, false, false),
        (service(same), &ends, false, true, true),
        (all.clone(), &not_ready, true, false, false),
        (all, &ends, true, true, true),
    ] {
        let e = only(&service, pod("a", "10.0.0.5", change));
        assert_eq!(e["conditions"], json!({"ready": ready, "serving": serving, "terminating": terminating}));
    }
}

#[test]
fn who_is_no_endpoint() {
    let count = |change: &dyn Fn(&mut Value), service: &Value| {
        wanted(service, &[pod("a", "10.0.0.5", change)], nodes).values().flatten().count()
    };
    let s = service(same);
    assert_eq!(count(&|_| {}, &s), 1);
    assert_eq!(count(&|p| p["status"]["phase"] = "Succeeded".into(), &s), 0);
    assert_eq!(count(&|p| p["status"]["phase"] = "Failed".into(), &s), 0);
    assert_eq!(count(&|p| p["status"] = json!({"phase": "Pending"}), &s), 0);
    assert_eq!(count(&|p| p["spec"]["nodeName"] = "gone".into(), &s), 0, "its node is gone");
    let all = service(|s| s["spec"]["publishNotReadyAddresses"] = true.into());
    assert_eq!(count(&|p| p["spec"]["nodeName"] = "gone".into(), &all), 1);
    for bad in ["127.0.0.1", "169.254.1.1", "nonsense"] {
        assert_eq!(count(&|p| p["status"]["podIPs"] = json!([{"ip": bad}]), &s), 0, "{bad}");
    }
    assert_eq!(count(&|p| p["spec"]["hostNetwork"] = true.into(), &s), 1);
}

#[test]
fn each_family_has_its_own_slices() {
    let dual =
        pod("a", "10.0.0.5", |p| p["status"]["podIPs"] = json!([{"ip": "10.0.0.5"}, {"ip": "fd00::5"}]));
    let types = |change: &dyn Fn(&mut Value)| {
        let w = wanted(&service(change), std::slice::from_ref(&dual), nodes);
        w.iter().map(|(t, g)| (*t, g.len())).collect::<Vec<_>>()
    };
    assert_eq!(types(&|_| {}), [("IPv4", 1)]);
    assert_eq!(types(&|s| s["spec"]["ipFamilies"] = json!(["IPv6", "IPv4"])), [("IPv4", 1), ("IPv6", 1)]);
    let without = |ip: &'static str| {
        move |s: &mut Value| {
            s["spec"]["clusterIP"] = ip.into();
            s["spec"].as_object_mut().unwrap().remove("ipFamilies");
        }
    };
    assert_eq!(types(&without("None")), [("IPv4", 1), ("IPv6", 1)]);
    assert_eq!(types(&without("fd00::1")), [("IPv6", 1)]);
    let v4_only =
        wanted(&service(|s| s["spec"]["ipFamilies"] = json!(["IPv6"])), &[pod("b", "10.0.0.6", same)], nodes);
    assert_eq!(
        v4_only,
        BTreeMap::from([("IPv6", Vec::new())]),
        "the family is there, to hold an empty slice"
    );
}

#[test]
fn named_ports_are_what_each_pod_calls_so() {
    let named = service(|s| {
        s["spec"]["ports"] = json!([{"name": "w", "port": 80, "protocol": "TCP", "targetPort": "http", "appProtocol": "http"},
            {"name": "d", "port": 53, "protocol": "UDP", "targetPort": 53}, {"name": "same", "port": 7}])
    });
    let other =
        pod("b", "10.0.0.6", |p| p["spec"]["containers"][0]["ports"][0]["containerPort"] = 9090.into());
    let udp = pod("c", "10.0.0.7", |p| p["spec"]["containers"][0]["ports"][0]["protocol"] = "UDP".into());
    let sidecar = pod("d", "10.0.0.8", |p| {
        let container = p["spec"]["containers"][0].take();
        p["spec"]["containers"] = json!([{"name": "none"}]);
        p["spec"]["initContainers"] = json!([container]);
        p["spec"]["initContainers"][0]["restartPolicy"] = "Always".into();
    });
    let w = wanted(&named, &[pod("a", "10.0.0.5", same), other, udp, sidecar], nodes);
    let mut groups: Vec<(Vec<i64>, usize)> = w["IPv4"]
        .iter()
        .map(|g| (g.ports.iter().map(|p| p["port"].as_i64().unwrap()).collect(), g.endpoints.len()))
        .collect();
    groups.sort();
    assert_eq!(groups, [(vec![53, 7], 1), (vec![8080, 53, 7], 2), (vec![9090, 53, 7], 1)]);
    let first = w["IPv4"].iter().find(|g| g.ports[0]["port"] == 8080).unwrap();
    assert_eq!(first.ports[0], json!({"name": "w", "port": 8080, "protocol": "TCP", "appProtocol": "http"}));
}

#[test]
fn hints_keep_traffic_near() {
    let hints = |distribution: &str, node: &str, ready: &str| {
        let s = service(|s| s["spec"]["trafficDistribution"] = distribution.into());
        let p = pod("a", "10.0.0.5", |p| {
            p["spec"]["nodeName"] = node.into();
            p["status"]["conditions"][0]["status"] = ready.into();
        });
        only(&s, p).get("hints").cloned().unwrap_or_default()
    };
    let zone = json!({"forZones": [{"name": "east"}]});
    assert_eq!(hints("PreferClose", "n1", "True"), zone);
    assert_eq!(hints("PreferSameZone", "n1", "True"), zone);
    assert_eq!(hints("PreferSameZone", "n2", "True"), Value::Null);
    assert_eq!(hints("PreferSameZone", "n1", "False"), Value::Null);
    assert_eq!(
        hints("PreferSameNode", "n1", "True"),
        json!({"forZones": [{"name": "east"}], "forNodes": [{"name": "n1"}]})
    );
    assert_eq!(hints("PreferSameNode", "n2", "True"), json!({"forNodes": [{"name": "n2"}]}));
    assert_eq!(hints("", "n1", "True"), Value::Null);
}

#[test]
fn the_frame_carries_the_labels_of_the_service() {
    let f = frame(&service(|s| {
        s["metadata"]["labels"] = json!({"team": "a", SERVICE_LABEL: "forged", HEADLESS_LABEL: ""});
    }));
    assert_eq!(
        Value::Object(f.labels),
        json!({"team": "a", "kubernetes.io/service-name": "web",
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"})
    );
    let f = frame(&service(|s| s["spec"]["clusterIP"] = "None".into()));
    assert_eq!(f.labels["service.kubernetes.io/headless"], "");
    assert_eq!((&f.owner["uid"], &f.owner["controller"]), (&json!("s"), &json!(true)));
}

#[test]
fn a_selector_must_say_something() {
    let p = pod("a", "10.0.0.5", same);
    assert!(selects(&service(same)) && matches(&service(same), &p.value));
    for selector in [json!({}), Value::Null] {
        let s = service(|s| s["spec"]["selector"] = selector.clone());
        assert!(!selects(&s) && !matches(&s, &p.value));
    }
    assert!(!matches(&service(|s| s["spec"]["selector"]["x"] = "y".into()), &p.value));
    assert!(!selects(&service(|s| s["spec"]["type"] = "ExternalName".into())));
}
