use super::*;
use crate::answer::PodNames;
use proptest::prelude::*;
use warren_types::{Endpoint as Row, Family};

fn slice(name: &str, of: &str, addresses: &[&str]) -> EndpointSlice {
    EndpointSlice {
        key: SliceKey::parse(name).unwrap(),
        service: ServiceKey::parse(of).unwrap(),
        family: Family::V4,
        ports: Vec::new(),
        endpoints: addresses.iter().map(|a| Row::ready(a.parse().unwrap())).collect(),
        foreign_proxy: false,
    }
}

fn zone() -> Zone {
    let mut zone = Zone::new(&"Cluster.Local".parse().unwrap()).unwrap();
    zone.set_knowledge(Knowledge::Current);
    zone
}

fn headless(zone: &mut Zone, key: &str) {
    let service = Service::new(ServiceKey::parse(key).unwrap());
    zone.set_service(&service.key, Some(&service));
}

fn exists(zone: &Zone, name: &str) -> bool {
    let name: Name = name.parse().unwrap();
    let found = zone.find(&name.wire().to_ascii_lowercase(), PodNames::Verified).found;
    !matches!(found, Found::Missing | Found::Outside)
}

#[test]
fn a_domain_leaves_room_for_the_names_that_every_answer_needs() {
    assert!(Zone::new(&Name::root()).is_err());
    let long = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(49));
    assert!(Zone::new(&long.parse().unwrap()).is_ok());
    assert!(Zone::new(&format!("{long}bb").parse().unwrap()).is_err());
}

#[test]
fn an_address_keeps_its_name_while_any_slice_of_the_service_has_it() {
    let mut zone = zone();
    zone.set_cluster(["10.42.0.0/16".parse().unwrap()]);
    headless(&mut zone, "a/web");
    let (one, two) =
        (slice("a/web-1", "a/web", &["10.42.0.1", "10.42.0.2"]), slice("a/web-2", "a/web", &["10.42.0.1"]));
    zone.set_slice(&one.key, Some(&one));
    zone.set_slice(&two.key, Some(&two));
    zone.set_slice(&one.key, None);
    assert!(exists(&zone, "1.0.42.10.in-addr.arpa"));
    assert!(!exists(&zone, "2.0.42.10.in-addr.arpa"));
    zone.set_slice(&two.key, None);
    assert!(!exists(&zone, "1.0.42.10.in-addr.arpa"));
}

#[test]
fn a_slice_moves_to_another_service() {
    let mut zone = zone();
    headless(&mut zone, "a/one");
    headless(&mut zone, "a/two");
    let mut moving = slice("a/x", "a/one", &["10.42.0.1"]);
    zone.set_slice(&moving.key, Some(&moving));
    assert!(exists(&zone, "one.a.svc.cluster.local") && !exists(&zone, "two.a.svc.cluster.local"));
    moving.service = ServiceKey::parse("a/two").unwrap();
    zone.set_slice(&moving.key, Some(&moving));
    assert!(!exists(&zone, "one.a.svc.cluster.local") && exists(&zone, "two.a.svc.cluster.local"));
}

#[test]
fn a_namespace_exists_while_it_has_services_or_pods() {
    let mut zone = zone();
    assert!(!exists(&zone, "a.svc.cluster.local"));
    headless(&mut zone, "a/one");
    headless(&mut zone, "a/one");
    headless(&mut zone, "a/two");
    let key = |k| ServiceKey::parse(k).unwrap();
    zone.set_service(&key("a/one"), None);
    zone.set_service(&key("a/one"), None);
    assert!(exists(&zone, "a.svc.cluster.local"));
    zone.set_service(&key("a/two"), None);
    assert!(!exists(&zone, "a.svc.cluster.local"));
    assert!(zone.is_empty());
}

#[derive(Debug, Clone)]
enum Change {
    Service(u8, Option<u8>),
    Slice(u8, Option<(u8, Vec<(u8, bool)>)>),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0..3u8, prop::option::of(0..3u8)).prop_map(|(s, k)| Change::Service(s, k)),
        (0..3u8, prop::option::of((0..3u8, prop::collection::vec((0..4u8, any::<bool>()), 0..4))))
            .prop_map(|(s, k)| Change::Slice(s, k)),
    ]
}

fn apply(zone: &mut Zone, change: &Change) {
    match change {
        Change::Service(n, kind) => {
            let mut service = Service::new(ServiceKey::parse(&format!("a/s{n}")).unwrap());
            match kind {
                Some(1) => service.cluster_ips.push(format!("10.43.0.{n}").parse().unwrap()),
                Some(2) => service.publish_not_ready = true,
                _ => {}
            }
            zone.set_service(&service.key.clone(), kind.map(|_| &service));
        }
        Change::Slice(n, to) => {
            let mut row = slice(&format!("a/x{n}"), &format!("a/s{}", to.as_ref().map_or(0, |t| t.0)), &[]);
            for (address, ready) in to.iter().flat_map(|t| &t.1) {
                row.endpoints
                    .push(Row { ready: *ready, ..Row::ready(format!("10.42.0.{address}").parse().unwrap()) });
            }
            zone.set_slice(&row.key.clone(), to.as_ref().map(|_| &row));
        }
    }
}

proptest! {
    #[test]
    fn what_changed_step_by_step_is_as_if_made_at_once(changes in prop::collection::vec(change(), 0..40)) {
        let mut grown = zone();
        grown.set_cluster(["10.42.0.0/15".parse().unwrap()]);
        let mut last = std::collections::BTreeMap::new();
        for change in &changes {
            apply(&mut grown, change);
            let id = match change { Change::Service(n, _) => (0, *n), Change::Slice(n, _) => (1, *n) };
            last.insert(id, change.clone());
        }
        let mut made = zone();
        made.set_cluster(["10.42.0.0/15".parse().unwrap()]);
        last.values().for_each(|change| apply(&mut made, change));
        prop_assert_eq!(&grown.holders, &made.holders);
        prop_assert_eq!(&grown.namespaces, &made.namespaces);
        prop_assert_eq!(grown.entries.len(), made.entries.len());
        for name in (0..3).map(|n| format!("s{n}.a.svc.cluster.local"))
            .chain((0..4).map(|n| format!("{n}.0.42.10.in-addr.arpa")))
            .chain((0..4).map(|n| format!("{n}.0.43.10.in-addr.arpa"))) {
            prop_assert_eq!(exists(&grown, &name), exists(&made, &name), "{}", name);
        }
        for change in last.values() {
            apply(&mut grown, &match change {
                Change::Service(n, _) => Change::Service(*n, None),
                Change::Slice(n, _) => Change::Slice(*n, None),
            });
        }
        prop_assert!(grown.is_empty());
    }
}
