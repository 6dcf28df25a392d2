use super::*;
use crate::Object;
use crate::addresses::patch;
use crate::convert::MAX_INGRESS;

fn write(want: &LoadBalancerAddresses, service: &Service) -> Option<Write> {
    Balancers::write(want, service)
}

fn service(spec: Value, ingress: Value) -> Service {
    let value = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u"}, "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress}}});
    let object: Object = serde_json::from_value(value).unwrap();
    crate::convert::service(&object.metadata, &object.data).row.unwrap()
}

fn wanted(uid: &str, addresses: &[&str]) -> LoadBalancerAddresses {
    LoadBalancerAddresses {
        service: service(json!({}), json!([])).key,
        uid: uid.into(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        faults: vec![],
    }
}

#[test]
fn only_what_differs_is_written_and_only_where_it_is_warrens() {
    let two = json!([{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]);
    let balancer = |class: Value| json!({"type": "LoadBalancer", "loadBalancerClass": class});
    let ours = || balancer(Value::Null);
    let table = [
        // Differs, matches, matches in another order, is another's shape of the same.
        (ours(), json!([]), "u", vec!["192.0.2.1"], Some(vec!["192.0.2.1"])),
        (ours(), two.clone(), "u", vec!["192.0.2.1", "2001:db8::1"], None),
        (ours(), two.clone(), "u", vec!["2001:db8::1", "192.0.2.1"], None),
        (
            ours(),
            json!([{"ip": "192.0.2.1", "ipMode": "VIP"}, {"hostname": "x"}]),
            "u",
            vec!["192.0.2.1"],
            None,
        ),
        (ours(), two.clone(), "u", vec!["192.0.2.2"], Some(vec!["192.0.2.2"])),
        (ours(), two.clone(), "u", vec![], Some(vec![])),
        (ours(), json!([]), "u", vec![], None),
        (
            balancer(json!("warren.dev/load-balancer")),
            json!([]),
            "u",
            vec!["192.0.2.1"],
            Some(vec!["192.0.2.1"]),
        ),
        // Another implementation's, a namesake, and what is no load balancer any more.
        (balancer(json!("example.org/lb")), json!([]), "u", vec!["192.0.2.1"], None),
        (balancer(json!("example.org/lb")), two.clone(), "u", vec![], None),
        (ours(), json!([]), "old", vec!["192.0.2.1"], None),
        (json!({"type": "ClusterIP"}), json!([]), "u", vec!["192.0.2.1"], None),
        (json!({"type": "ClusterIP"}), two, "u", vec![], Some(vec![])),
    ];
    for (i, (spec, ingress, uid, want, written)) in table.into_iter().enumerate() {
        let got = write(&wanted(uid, &want), &service(spec, ingress)).map(|w| w.addresses);
        let written: Option<Vec<IpAddr>> = written.map(|w| w.iter().map(|a| a.parse().unwrap()).collect());
        assert_eq!(got, written, "row {i}");
    }
}

#[test]
fn more_addresses_than_the_door_lets_in_are_not_written_for_ever() {
    let many: Vec<String> = (0..MAX_INGRESS + 5)
        .map(|i| format!("2001:db8::{i:x}"))
        .map(|a| a.replace("::0", "::ffff"))
        .collect();
    let want = wanted("u", &many.iter().map(String::as_str).collect::<Vec<_>>());
    let spec = json!({"type": "LoadBalancer"});
    let first = write(&want, &service(spec.clone(), json!([]))).unwrap();
    let shown = patch::<Balancers>(&first)["status"]["loadBalancer"]["ingress"].clone();
    assert_eq!(write(&want, &service(spec, shown)), None);
}

#[test]
fn a_status_without_addresses_is_removed() {
    let empty = Write { uid: "u".into(), addresses: vec![] };
    assert_eq!(patch::<Balancers>(&empty)["status"]["loadBalancer"], json!({"ingress": null}));
    let one = Write { uid: "u".into(), addresses: vec!["192.0.2.1".parse().unwrap()] };
    let body = json!({"metadata": {"uid": "u"},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}]}}});
    assert_eq!(patch::<Balancers>(&one), body);
}
