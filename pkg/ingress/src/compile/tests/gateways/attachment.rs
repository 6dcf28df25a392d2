//! Which route is attached to which listener, and which listener is served.

use super::*;
use warren_types::{NamespaceState, Requirement, Selector};

/// A listener, changed.
fn changed(name: &str, of: &str, change: impl FnOnce(&mut Listener)) -> Listener {
    let mut listener = listener(name, of);
    change(&mut listener);
    listener
}

#[test]
fn a_route_attaches_where_it_may_and_says_why_not() {
    let listeners = || vec![listener("http", "*.test"), listener("other", "foo.example")];
    let with = |parents: Vec<ParentRef>, hosts: &[&str]| GatewayRoute {
        parents,
        ..http("one", hosts, &[("/", "a")])
    };
    let at_port = |port: u16| ParentRef { port: Some(port), ..parent("gw", None) };
    for (route, accepted, attached) in [
        (with(vec![parent("gw", None)], &["a.test"]), "+Accepted", [1, 0]),
        (with(vec![parent("gw", None)], &[]), "+Accepted", [1, 1]),
        (with(vec![parent("gw", Some("other"))], &[]), "+Accepted", [0, 1]),
        (with(vec![at_port(80)], &["a.test", "foo.example"]), "+Accepted", [1, 1]),
        (with(vec![parent("gw", None), parent("gw", Some("http"))], &[]), "+Accepted", [1, 1]),
        (with(vec![parent("gw", Some("none"))], &[]), "-Accepted NoMatchingParent", [0, 0]),
        (with(vec![at_port(81)], &[]), "-Accepted NoMatchingParent", [0, 0]),
        (with(vec![parent("gw", None)], &["a.other"]), "-Accepted NoMatchingListenerHostname", [0, 0]),
        (
            with(vec![parent("gw", Some("other"))], &["a.test"]),
            "-Accepted NoMatchingListenerHostname",
            [0, 0],
        ),
        (
            GatewayRoute { hosts_refused: Some("?".into()), ..with(vec![parent("gw", None)], &[]) },
            "-Accepted UnsupportedValue",
            [0, 0],
        ),
    ] {
        let mut world = World::with_gateway(listeners());
        world.http(route.clone());
        let compiled = world.compile();
        assert_eq!(of_route(&compiled, "one")[0], accepted, "{:?} {:?}", route.parents, route.hosts);
        let counts: Vec<u32> = of_gateway(&compiled).1.into_iter().map(|(_, attached)| attached).collect();
        assert_eq!(counts, attached, "{:?} {:?}", route.parents, route.hosts);
    }
}

#[test]
fn parents_that_are_not_warrens_are_not_spoken_of() {
    let mut world = World::with_gateway(vec![listener("http", "")]);
    let service = ParentRef { of: kind("", "Service"), ..parent("gw", None) };
    world.http(GatewayRoute {
        parents: vec![service, parent("gone", None)],
        ..http("one", &["h.test"], &[("/", "a")])
    });
    let compiled = world.compile();
    assert!(compiled.gateways.statuses.iter().all(|s| s.kind != GatewayObject::Route(RouteKind::Http)));
    assert_eq!(to(&compiled, "h.test", "/"), "none");
    world.gateway_class("somebody.else/gateways", false);
    world.http(http("one", &["h.test"], &[("/", "a")]));
    let compiled = world.compile();
    assert_eq!((compiled.gateways.statuses.len(), to(&compiled, "h.test", "/")), (0, "none".into()));
}

#[test]
fn a_class_with_parameters_is_not_accepted() {
    let mut world = World::with_gateway(vec![listener("http", "")]);
    world.http(http("one", &["h.test"], &[("/", "a")]));
    let class = |compiled: &Compiled| match told(compiled, GatewayObject::Class, "warren") {
        GatewayTold::Class { conditions } => said(conditions),
        other => panic!("{other:?}"),
    };
    assert_eq!(class(&world.compile()), ["+Accepted"]);
    world.gateway_class(GATEWAY_CONTROLLER, true);
    let compiled = world.compile();
    assert_eq!(class(&compiled), ["-Accepted InvalidParameters"]);
    assert_eq!(of_gateway(&compiled).0, ["-Accepted Invalid", "-Programmed Invalid"]);
    assert_eq!((to(&compiled, "h.test", "/"), compiled.gateways.is_served), ("none".into(), false));
}

#[test]
fn namespaces_and_kinds_are_allowed_as_the_listener_says() {
    let team = Selector::new([Requirement::In("team".into(), ["web".to_owned()].into())]);
    let grpc_only = vec![kind(GATEWAY_GROUP, "GRPCRoute")];
    let both = vec![kind(GATEWAY_GROUP, "HTTPRoute"), kind("", "Odd")];
    for (listener, own, other) in [
        (listener("http", ""), true, false),
        (changed("http", "", |l| l.from = AllowedNamespaces::All), true, true),
        (changed("http", "", |l| l.from = AllowedNamespaces::None), false, false),
        (changed("http", "", |l| l.from = AllowedNamespaces::Selector(team.clone())), false, true),
        (changed("http", "", |l| l.kinds = grpc_only), false, false),
        (changed("http", "", |l| l.kinds = both), true, false),
    ] {
        let mut world = World::with_gateway(vec![listener.clone()]);
        for (name, labels) in [(NS, None), ("store", Some(("team".to_owned(), "web".to_owned())))] {
            let labels = labels.into_iter().collect();
            let row = NamespaceState { name: space(name), labels, terminating: false };
            world.0.set_gateway_row(name, Some(Arc::new(row)));
        }
        let foreign = GatewayRoute {
            key: RouteKey::parse("store/one").unwrap(),
            parents: vec![ParentRef { namespace: Some(space(NS)), ..parent("gw", None) }],
            ..http("one", &["other.test"], &[("/", "a")])
        };
        let mut at_home = foreign.clone();
        at_home.rules[0].backends[0].target = reference("Service", NS, "a");
        world.http(http("one", &["own.test"], &[("/", "a")]));
        world.http(foreign);
        world.grant("HTTPRoute", "Service", NS);
        let compiled = world.compile();
        let found = |host: &str| find(&compiled, host, "/").is_some();
        assert_eq!((found("own.test"), found("other.test")), (own, other), "{listener:?}");
        let reason = if own { "+Accepted" } else { "-Accepted NotAllowedByListeners" };
        assert_eq!(of_route(&compiled, "one")[0], reason, "{listener:?}");
    }
}

#[test]
fn listeners_that_cannot_be_served_say_why() {
    let tls = |change: fn(&mut Listener)| changed("tls", "", change);
    for (row, expected) in [
        (
            changed("http", "", |l| l.port = 8080),
            "-Accepted PortUnavailable -Programmed Invalid +ResolvedRefs",
        ),
        (
            changed("http", "", |l| l.port = 443),
            "-Accepted PortUnavailable -Programmed Invalid +ResolvedRefs",
        ),
        (
            changed("http", "", |l| l.protocol = "TCP".into()),
            "-Accepted UnsupportedProtocol -Programmed Invalid +ResolvedRefs",
        ),
        (
            changed("http", "", |l| l.refused = Some("?".into())),
            "-Accepted UnsupportedValue -Programmed Invalid +ResolvedRefs",
        ),
        (
            changed("http", "", |l| l.kinds = vec![kind("", "Odd")]),
            "+Accepted +Programmed -ResolvedRefs InvalidRouteKinds",
        ),
        (tls(|_| {}), GOOD),
        (
            tls(|l| l.certificates.clear()),
            "+Accepted -Programmed Invalid -ResolvedRefs InvalidCertificateRef",
        ),
        (
            tls(|l| l.certificates[0].name = "gone".into()),
            "+Accepted -Programmed Invalid -ResolvedRefs InvalidCertificateRef",
        ),
        (
            tls(|l| l.certificates[0].of.kind = "ConfigMap".into()),
            "+Accepted -Programmed Invalid -ResolvedRefs InvalidCertificateRef",
        ),
        (
            tls(|l| l.certificates[0].namespace = space("vault")),
            "+Accepted -Programmed Invalid -ResolvedRefs RefNotPermitted",
        ),
    ] {
        let mut world = World::with_gateway(vec![row.clone()]);
        world.tls_secret();
        world.http(http("one", &["a.example"], &[("/", "a")]));
        let compiled = world.compile();
        let (gateway, listeners) = of_gateway(&compiled);
        assert_eq!(listeners[0].0, expected, "{row:?}");
        let served = expected.contains("+Programmed");
        assert_eq!(gateway[1].starts_with('+'), served, "{row:?}");
        assert_eq!(compiled.gateways.is_served, served);
        let anywhere =
            to(&compiled, "a.example", "/") != "none" || over_tls(&compiled, "a.example", "/") != "none";
        // A listener that takes no kind of route is served, and has none.
        let routed = served && !expected.contains("InvalidRouteKinds");
        assert_eq!(anywhere, routed, "{row:?}");
    }
}

#[test]
fn a_gateway_with_a_bad_listener_is_accepted_for_the_others() {
    let bad = changed("bad", "", |l| l.port = 8080);
    let mut world = World::with_gateway(vec![listener("http", ""), bad]);
    world.http(http("one", &["h.test"], &[("/", "a")]));
    let compiled = world.compile();
    assert_eq!(of_gateway(&compiled).0, ["+Accepted ListenersNotValid", "+Programmed"]);
    assert_eq!(to(&compiled, "h.test", "/"), A);
    let mut refused = gateway("gw", vec![listener("http", "")]);
    refused.refused = Some(Fault { reason: "UnsupportedAddress".into(), message: String::new() });
    world.gateway(refused);
    let compiled = world.compile();
    assert_eq!(of_gateway(&compiled).0, ["-Accepted UnsupportedAddress", "-Programmed Invalid"]);
    assert_eq!(to(&compiled, "h.test", "/"), "none");
}

#[test]
fn listeners_that_cannot_be_told_apart_are_in_conflict() {
    for (second, reason) in [
        (listener("b", "a.test"), "HostnameConflict"),
        (changed("b", "b.test", |l| l.protocol = "TCP".into()), "ProtocolConflict"),
    ] {
        let mut world = World::with_gateway(vec![listener("a", "a.test"), second, listener("c", "c.test")]);
        world.http(http("one", &[], &[("/", "a")]));
        let compiled = world.compile();
        let (_, listeners) = of_gateway(&compiled);
        assert!(listeners[0].0.ends_with(&format!("+Conflicted {reason}")), "{listeners:?}");
        assert!(listeners[1].0.contains(&format!("+Conflicted {reason}")), "{listeners:?}");
        let conflicted = reason == "ProtocolConflict";
        assert_eq!(listeners[2].0.contains("Conflicted"), conflicted, "all of one port: {listeners:?}");
        assert_eq!(to(&compiled, "a.test", "/"), "none");
    }
}

/// Listener, `hostname`: a request is for the most specific listener that matches, and for routes of that one alone.
#[test]
fn a_request_is_for_the_listener_with_the_most_exact_host() {
    let mut world = World::with_gateway(vec![
        listener("any", ""),
        listener("wide", "*.test"),
        listener("exact", "foo.test"),
    ]);
    let at = |name: &str, section: &str, hosts: &[&str], to: &str| GatewayRoute {
        parents: vec![parent("gw", Some(section))],
        ..http(name, hosts, &[("/", to)])
    };
    world.http(at("any", "any", &[], "a"));
    world.http(at("wide", "wide", &["foo.test", "bar.test"], "b"));
    let mut exact = at("exact", "exact", &[], "c");
    exact.rules[0].matches[0].path = "/only".into();
    world.http(exact);
    let compiled = world.compile();
    for (host, path, expected) in [
        ("foo.test", "/only", C),
        ("foo.test", "/", "404"),
        ("bar.test", "/", B),
        ("baz.test", "/", "404"),
        ("x.y.test", "/", "404"),
        ("other.example", "/", A),
    ] {
        assert_eq!(to(&compiled, host, path), expected, "{host}{path}");
    }
    assert_eq!(of_route(&compiled, "wide")[0], "+Accepted");
}

#[test]
fn each_port_has_routes_and_certificates_of_its_own() {
    let mut world = World::with_gateway(vec![
        listener("http", ""),
        listener("tls", "*.example"),
        listener("tls-all", ""),
    ]);
    world.tls_secret();
    let redirect = RouteRedirect { https: Some(true), host: None, path: None, port: None, status: 301 };
    let mut to_https = http("redirect", &[], &[("/", "a")]);
    to_https.parents = vec![parent("gw", Some("http"))];
    to_https.rules[0].filters.redirect = Some(redirect);
    world.http(to_https);
    world.http(GatewayRoute {
        parents: vec![parent("gw", Some("tls"))],
        ..http("web", &["a.example"], &[("/", "a")])
    });
    let compiled = world.compile();
    assert!(to(&compiled, "a.example", "/").contains("301"));
    assert_eq!(over_tls(&compiled, "a.example", "/"), "HTTPRoute/shop/web rule 0");
    assert_eq!(over_tls(&compiled, "b.example", "/"), "Gateway/shop/gw listener tls");
    assert_eq!(over_tls(&compiled, "b.other", "/"), "none");
    assert_eq!(compiled.wanted.iter().map(ToString::to_string).collect::<Vec<_>>(), ["shop/tls"]);
    let certificates = compiled.table.certificates();
    for name in [Some("a.example"), Some("deep.a.example"), Some("any.other"), None] {
        assert!(certificates.find(name).is_some(), "{name:?}");
    }
    assert_eq!(compiled.certificates["*.example"].to_string(), "shop/tls");
    assert_eq!(compiled.default.unwrap().to_string(), "shop/tls");
}

#[test]
fn ingresses_and_gateways_live_side_by_side() {
    let mut world = World::with_gateway(vec![listener("http", "")]);
    world.ingress(ingress("one", 1, &[rule("h.test", &[path("/", PathKind::Prefix, "a")])]));
    world.http(http("one", &["h.test", "g.test"], &[("/", "b"), ("/deep", "c")]));
    let compiled = world.compile();
    assert_eq!(to(&compiled, "h.test", "/"), A, "an Ingress has what both want");
    assert_eq!((to(&compiled, "h.test", "/deep"), to(&compiled, "g.test", "/")), (C.into(), B.into()));
    assert_eq!(over_tls(&compiled, "h.test", "/deep"), "shop/one h.test /", "an Ingress is on both ports");
}
