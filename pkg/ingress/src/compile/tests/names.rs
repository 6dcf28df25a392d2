//! Services of type ExternalName.

use super::*;
use crate::external::MOST_NAMES;

fn abroad(name: &str, external: &str, ports: &[ServicePort]) -> Service {
    Service {
        kind: warren_types::ServiceKind::ExternalName,
        external_name: Some(external.into()),
        ..service(name, ports)
    }
}

fn to_port(of: &str, port: BackendPort) -> IngressPath {
    let backend = IngressBackend::Service { name: ServiceName::new(of).unwrap(), port };
    IngressPath { path: "/".into(), kind: PathKind::Prefix, backend }
}

/// A world where names are served, with the Service `abroad` for `db.example.org`, and an Ingress for a port of it.
fn world(port: BackendPort) -> World {
    let mut world = World::new();
    world.0.settings.external_names = true;
    let named = ServicePort { name: "web".into(), ..ServicePort::new(Transport::Tcp, 8443) };
    world.service(abroad("abroad", "db.example.org", &[named]));
    world.ingress(ingress("one", 1, &[rule("foo.test", &[to_port("abroad", port)])]));
    world
}

fn resolved(addresses: &[&str], fault: Option<&str>) -> Resolved {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    Resolved { addresses, fault: fault.map(str::to_owned) }
}

fn lead(world: &mut World, to: Resolved) {
    world.0.set_names(BTreeMap::from([("db.example.org".to_owned(), to)]));
}

#[test]
fn a_name_is_served_by_what_it_leads_to() {
    let mut world = world(BackendPort::Number(9000));
    let compiled = world.compile();
    assert_eq!(compiled.names, BTreeSet::from(["db.example.org".to_owned()]));
    assert_eq!(to(&compiled, "foo.test", "/"), "nobody", "before the first answer");
    assert_eq!(reasons(&compiled, "one"), Vec::<String>::new());

    lead(&mut world, resolved(&["203.0.113.1"], None));
    assert!(world.0.is_changed());
    assert_eq!(to(&world.compile(), "foo.test", "/"), "203.0.113.1:9000");
    lead(&mut world, resolved(&["203.0.113.1"], None));
    assert!(!world.0.is_changed(), "the same answer changes nothing");

    lead(&mut world, resolved(&[], Some("leads to 127.0.0.1")));
    let compiled = world.compile();
    assert_eq!(to(&compiled, "foo.test", "/"), "nobody");
    assert_eq!(reasons(&compiled, "one"), ["BackendUnresolved"]);
}

#[test]
fn a_port_by_name_is_that_of_the_service() {
    let mut world = world(BackendPort::Name("web".into()));
    lead(&mut world, resolved(&["2001:db8::7"], None));
    assert_eq!(to(&world.compile(), "foo.test", "/"), "[2001:db8::7]:8443");
    world.ingress(ingress(
        "one",
        1,
        &[rule("foo.test", &[to_port("abroad", BackendPort::Name("no".into()))])],
    ));
    let compiled = world.compile();
    assert_eq!(to(&compiled, "foo.test", "/"), "503");
    assert_eq!(reasons(&compiled, "one"), ["BackendMissing"]);
}

#[test]
fn the_host_is_the_clients_unless_it_is_said() {
    let mut world = world(BackendPort::Number(80));
    lead(&mut world, resolved(&["203.0.113.1"], None));
    let host = |compiled: &Compiled| match &route(compiled, "foo.test", "/").action {
        Action::Forward(forward) => forward.host.clone(),
        _ => panic!("not forwarded"),
    };
    assert_eq!(host(&world.compile()), None);
    let rules = [rule("foo.test", &[to_port("abroad", BackendPort::Number(80))])];
    let said = [("nginx.ingress.kubernetes.io/upstream-vhost", "db.example.org")];
    world.ingress(with(ingress("one", 1, &rules), &said));
    assert_eq!(host(&world.compile()).unwrap(), "db.example.org");
}

#[test]
fn names_are_not_served_unless_that_was_asked_for() {
    let mut world = world(BackendPort::Number(80));
    world.0.settings.external_names = false;
    lead(&mut world, resolved(&["203.0.113.1"], None));
    let compiled = world.compile();
    assert_eq!(to(&compiled, "foo.test", "/"), "503");
    assert!(compiled.names.is_empty());
    let fault = &compiled.served[&key("one")].faults[0];
    assert!(fault.reason == "BackendNotServed" && fault.message.contains("--ingress-external-names"));
}

#[test]
fn an_address_is_no_name_and_names_are_bounded() {
    let mut world = world(BackendPort::Number(80));
    world.service(abroad("abroad", "203.0.113.9", &[]));
    assert_eq!(to(&world.compile(), "foo.test", "/"), "503");
    for n in 0..=MOST_NAMES {
        world.service(abroad(&format!("s{n}"), &format!("n{n}.example.org"), &[]));
        let rules = [rule("foo.test", &[to_port(&format!("s{n}"), BackendPort::Number(80))])];
        world.ingress(ingress(&format!("of-{n}"), i64::try_from(n).unwrap() + 2, &rules));
    }
    let compiled = world.compile();
    assert_eq!(compiled.names.len(), MOST_NAMES);
    let last = &compiled.served[&key(&format!("of-{MOST_NAMES}"))].faults;
    assert!(last.iter().any(|fault| fault.message.contains("more than")), "{last:?}");
}
