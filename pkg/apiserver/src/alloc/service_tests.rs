use super::*;
use crate::registry::SERVICE;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn allocator(ranges: &[&str], ports: RangeInclusive<u16>) -> ServiceAllocator {
    let ranges: Vec<IpNet> = ranges.iter().map(|r| r.parse().unwrap()).collect();
    ServiceAllocator::new(&ranges, ports)
}

fn service(name: &str, spec: Value) -> Value {
    let kind = SERVICE.get();
    let mut o = (kind.typed)(json!({"metadata": {"name": name, "namespace": "d"}, "spec": spec})).unwrap();
    (kind.default)(&mut o);
    (kind.create)(&mut o);
    o
}

fn made(a: &mut ServiceAllocator, name: &str, spec: Value) -> Result<Value, Refused> {
    let mut o = service(name, spec);
    a.hold(&format!("d/{name}"), &mut o, None).map(|()| o)
}

fn changed(a: &mut ServiceAllocator, old: &Value, spec: Value) -> Result<Value, Refused> {
    let kind = SERVICE.get();
    let name = crate::table::text(old, "/metadata/name").to_owned();
    let mut o = (kind.typed)(json!({"metadata": {"name": name, "namespace": "d"}, "spec": spec})).unwrap();
    (kind.default)(&mut o);
    (kind.carry)(&mut o, old);
    a.hold(&format!("d/{name}"), &mut o, Some(old)).map(|()| o)
}

fn why(refused: Result<Value, Refused>) -> String {
    match refused {
        Err(Refused::Invalid(causes)) => {
            causes.0.iter().map(|c| format!("{}: {}", c.field, c.message)).collect::<Vec<_>>().join("; ")
        }
        Err(other) => format!("{other:?}"),
        Ok(o) => panic!("{o}"),
    }
}

const V4: &str = "10.43.0.0/16";
const V6: &str = "fd57:43::/112";

#[test]
fn addresses_come_from_above_the_static_band() {
    let mut a = allocator(&[V4], 30_000..=32_767);
    let o = made(&mut a, "a", json!({"ports": [{"port": 80}]})).unwrap();
    assert_eq!(o["spec"]["clusterIP"], "10.43.1.0");
    assert_eq!(o["spec"]["clusterIPs"], json!(["10.43.1.0"]));
    assert_eq!(o["spec"]["ipFamilies"], json!(["IPv4"]));
    let dns = made(&mut a, "dns", json!({"clusterIP": "10.43.0.10", "ports": [{"port": 53}]})).unwrap();
    assert_eq!(dns["spec"]["clusterIPs"], json!(["10.43.0.10"]));
    assert_eq!(
        why(made(&mut a, "b", json!({"clusterIP": "10.43.0.10", "ports": [{"port": 53}]}))),
        "spec.clusterIPs: Invalid value: [\"10.43.0.10\"]: failed to allocate IP 10.43.0.10: provided IP is already allocated"
    );
    assert!(
        why(made(&mut a, "b", json!({"clusterIP": "10.44.0.1", "ports": [{"port": 53}]})))
            .contains("not in the valid range")
    );
    let first = json!({"clusterIP": "10.43.0.1", "ports": [{"port": 443}]});
    assert!(why(made(&mut a, "b", first.clone())).contains("already allocated"), "kept for the API");
    let mut api = service("kubernetes", first);
    assert_eq!(a.hold(KUBERNETES, &mut api, None), Ok(()));
    for headless in [json!({"clusterIP": "None"}), json!({"type": "ExternalName", "externalName": "x"})] {
        made(&mut a, "none", headless).unwrap();
    }
    assert_eq!(a.all().len(), 3, "{:?}", a.all());
}

#[test]
fn both_families_and_back() {
    let mut a = allocator(&[V4, V6], 30_000..=32_767);
    let ports = json!([{"port": 80}]);
    let one = made(&mut a, "a", json!({"ports": ports})).unwrap();
    let two = changed(&mut a, &one, json!({"ipFamilyPolicy": "RequireDualStack", "ports": ports})).unwrap();
    assert_eq!(two["spec"]["clusterIPs"], json!(["10.43.1.0", "fd57:43::100"]));
    assert_eq!(two["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    let mut reduced = two["spec"].clone();
    reduced["clusterIPs"] = json!(["10.43.1.0"]);
    assert!(
        why(changed(&mut a, &two, reduced))
            .contains("must be 'SingleStack' to release the secondary cluster IP")
    );
    let mut single = two["spec"].clone();
    single["ipFamilyPolicy"] = "SingleStack".into();
    let back = changed(&mut a, &two, single).unwrap();
    assert_eq!(back["spec"]["clusterIPs"], json!(["10.43.1.0"]));
    assert_eq!(a.all()["d/a"], Held::by(&back));
    assert_eq!(a.all()["d/a"].addresses.len(), 1);
}

#[test]
fn node_ports_of_every_kind() {
    let mut a = allocator(&[V4], 30_000..=32_767);
    let dns = json!([{"port": 53, "name": "u", "protocol": "UDP"}, {"port": 53, "name": "t"}, {"port": 80, "name": "w"}]);
    let o = made(&mut a, "dns", json!({"type": "NodePort", "ports": dns})).unwrap();
    let ports = |o: &Value| list(o, "/spec/ports").iter().map(|p| number(p, "/nodePort")).collect::<Vec<_>>();
    assert_eq!(ports(&o), [30_086, 30_086, 30_087], "a port's number is shared by protocols");
    let asked = |p: i64| json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": p}]});
    assert_eq!(
        why(made(&mut a, "b", asked(30_086))),
        "spec.ports[0].nodePort: Invalid value: 30086: provided port is already allocated"
    );
    assert_eq!(
        why(made(&mut a, "b", asked(80))),
        "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"
    );
    assert_eq!(a.all().len(), 1, "a refused Service holds nothing: {:?}", a.all());
    assert_eq!(ports(&made(&mut a, "c", asked(30_000)).unwrap()), [30_000]);

    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    let lb = made(&mut a, "lb", local).unwrap();
    assert_eq!((ports(&lb), number(&lb, "/spec/healthCheckNodePort")), (vec![30_088], 30_089));
    let mut cluster = lb["spec"].clone();
    cluster["externalTrafficPolicy"] = "Cluster".into();
    let lb = changed(&mut a, &lb, cluster).unwrap();
    assert_eq!(lb["spec"].get("healthCheckNodePort"), None);
    assert_eq!(a.all()["d/lb"].ports, BTreeSet::from([30_088]));
    let mut bare = lb["spec"].clone();
    bare["type"] = "ClusterIP".into();
    let bare = changed(&mut a, &lb, bare).unwrap();
    assert!(a.all()["d/lb"].ports.is_empty());
    a.release("d/lb", &bare);
    assert!(!a.all().contains_key("d/lb"));
    let none =
        json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}]});
    assert_eq!(ports(&made(&mut a, "n", none).unwrap()), [0]);
}

#[test]
fn a_full_range_is_told() {
    let mut a = allocator(&["10.0.0.0/29"], 30_000..=30_001);
    let given: Vec<String> = (0..5)
        .map(|i| made(&mut a, &format!("s{i}"), json!({"ports": [{"port": 80}]})).unwrap())
        .map(|o| o["spec"]["clusterIP"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(given, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
    assert!(why(made(&mut a, "x", json!({"ports": [{"port": 80}]}))).contains("range is full"));
    let mut b = allocator(&[V4], 30_000..=30_001);
    let three = json!({"type": "NodePort", "ports": [{"port": 1, "name": "a"}, {"port": 2, "name": "b"}, {"port": 3, "name": "c"}]});
    assert!(why(made(&mut b, "x", three)).contains("range is full"));
    assert!(b.all().is_empty(), "{:?}", b.all());
}

#[test]
fn what_two_have_is_told_and_stays_with_the_first() {
    let mut a = allocator(&[V4], 30_000..=32_767);
    let o =
        made(&mut a, "a", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30_001}]})).unwrap();
    let mut other = o.clone();
    other["metadata"]["name"] = "b".into();
    let mut b = allocator(&[V4], 30_000..=32_767);
    assert_eq!(b.occupy("d/a", &o), Vec::<String>::new());
    assert_eq!(b.occupy("d/b", &other).len(), 2);
    b.release("d/b", &other);
    assert_eq!(b.all()["d/a"], Held::by(&o), "the other's end frees nothing of the first");
}

fn any_spec() -> impl Strategy<Value = Value> {
    let ip = prop_oneof![
        5 => Just(Value::Null),
        1 => Just(json!("None")),
        3 => (0u8..32).prop_map(|n| json!(format!("10.0.0.{n}"))),
        1 => (0u8..8).prop_map(|n| json!(format!("fd00::{n:x}"))),
    ];
    let policy = prop_oneof![
        Just(Value::Null),
        Just(json!("SingleStack")),
        Just(json!("PreferDualStack")),
        Just(json!("RequireDualStack"))
    ];
    let of_type =
        prop_oneof![Just("ClusterIP"), Just("NodePort"), Just("LoadBalancer"), Just("ExternalName")];
    let node_port = || prop_oneof![3 => Just(0u16), 2 => 30_000u16..30_014];
    (ip, policy, of_type, node_port(), node_port(), any::<bool>(), any::<bool>()).prop_map(
        |(ip, policy, of_type, p1, p2, local, give)| {
            let mut spec = json!({"type": of_type, "clusterIP": ip, "ipFamilyPolicy": policy, "selector": {"a": "b"},
                "ports": [{"name": "a", "port": 53, "nodePort": p1}, {"name": "b", "port": 53, "protocol": "UDP", "nodePort": p2}]});
            if of_type == "ExternalName" {
                spec["externalName"] = "x".into();
            }
            if of_type == "LoadBalancer" {
                spec["allocateLoadBalancerNodePorts"] = give.into();
            }
            if local && of_type != "ClusterIP" && of_type != "ExternalName" {
                spec["externalTrafficPolicy"] = "Local".into();
            }
            spec
        },
    )
}

proptest! {
    /// Random lives of Services: what is handed out is what the objects say, always.
    #[test]
    fn nothing_is_handed_out_twice_and_nothing_leaks(ops in prop::collection::vec((0u8..4, 0u8..8, any_spec()), 1..120)) {
        let kind = SERVICE.get();
        let ranges = ["10.0.0.0/27", "fd00::/124"];
        let mut a = allocator(&ranges, 30_000..=30_012);
        let mut model: BTreeMap<String, Value> = BTreeMap::new();
        for (op, name, spec) in ops {
            let name = format!("s{name}");
            let key = format!("d/{name}");
            let old = model.get(&key).cloned();
            match (op, old) {
                (3, Some(old)) => {
                    a.release(&key, &old);
                    model.remove(&key);
                }
                (_, None) => {
                    let o = service(&name, spec);
                    let mut causes = Causes::default();
                    (kind.validate)(&o, &mut causes);
                    let mut o = o;
                    if causes.0.is_empty() && a.hold(&key, &mut o, None).is_ok() {
                        model.insert(key, o);
                    }
                }
                (_, Some(old)) => {
                    let mut o = (kind.typed)(json!({"metadata": {"name": name, "namespace": "d"}, "spec": spec})).unwrap();
                    (kind.default)(&mut o);
                    (kind.carry)(&mut o, &old);
                    let mut causes = Causes::default();
                    (kind.validate)(&o, &mut causes);
                    (kind.validate_update)(&o, &old, &mut causes);
                    if causes.0.is_empty() && a.hold(&key, &mut o, Some(&old)).is_ok() {
                        model.insert(key, o);
                    }
                }
            }
            let said: BTreeMap<String, Held> =
                model.iter().map(|(k, o)| (k.clone(), Held::by(o))).filter(|(_, h)| *h != Held::default()).collect();
            prop_assert_eq!(a.all(), said);
            // Every Service that is done is sound, and a start from the objects finds the same without a fault.
            let mut again = allocator(&ranges, 30_000..=30_012);
            for (key, o) in &model {
                let mut causes = Causes::default();
                (kind.validate)(o, &mut causes);
                prop_assert!(causes.0.is_empty(), "{} {:?}", o, causes);
                prop_assert_eq!(again.occupy(key, o), Vec::<String>::new());
                let headless = is_headless(o) || is_external_name(o);
                prop_assert_eq!(texts(o, "/spec/ipFamilies").len() == texts(o, "/spec/clusterIPs").len(), !headless || is_external_name(o) || texts(o, "/spec/ipFamilies").len() == 1);
            }
            prop_assert_eq!(again.all(), a.all());
        }
    }
}
