//! Gateways: attachment, precedence, filters, references and what is said of it all, by the text of the specification.

mod any;
mod attachment;

use super::*;
use crate::route::{PathEdit, ValueMatch};
use warren_types::gateway::{GATEWAY_CONTROLLER, GATEWAY_GROUP};
use warren_types::{
    AllowedNamespaces, Condition, Gateway, GatewayClass, GatewayClassName, GatewayKey, GatewayObject,
    GatewayRoute, GatewayTold, GrantKey, GroupKind, GrpcRoute, HttpRoute, Listener, ObjectRef, ParentRef,
    PathChange, ReferenceGrant, RouteBackend, RouteKey, RouteKind, RouteMatch, RouteRedirect, RouteRule,
};

fn kind(group: &str, kind: &str) -> GroupKind {
    GroupKind { group: group.into(), kind: kind.into() }
}

fn space(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

fn reference(of: &str, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef { of: kind("", of), namespace: space(namespace), name: name.into() }
}

/// A listener of HTTP on port 80, or of HTTPS on 443 when its name begins with `tls`, whose Secret is `tls` then.
fn listener(name: &str, of: &str) -> Listener {
    let tls = name.starts_with("tls");
    Listener {
        name: name.into(),
        host: (!of.is_empty()).then(|| host(of)),
        port: if tls { 443 } else { 80 },
        protocol: if tls { "HTTPS" } else { "HTTP" }.into(),
        certificates: if tls { vec![reference("Secret", NS, "tls")] } else { Vec::new() },
        from: AllowedNamespaces::Same,
        kinds: Vec::new(),
        refused: None,
    }
}

fn gateway(name: &str, listeners: Vec<Listener>) -> Gateway {
    Gateway {
        key: GatewayKey::parse(&format!("{NS}/{name}")).unwrap(),
        uid: format!("uid-{name}"),
        generation: 3,
        class: GatewayClassName::new("warren").unwrap(),
        listeners,
        refused: None,
    }
}

fn parent(name: &str, section: Option<&str>) -> ParentRef {
    ParentRef {
        of: kind(GATEWAY_GROUP, "Gateway"),
        namespace: None,
        name: name.into(),
        section: section.map(str::to_owned),
        port: None,
    }
}

fn matching(path: &str) -> RouteMatch {
    let (path, exact) = path.strip_prefix('=').map_or((path, false), |path| (path, true));
    RouteMatch { path: path.into(), exact, method: None, headers: Vec::new(), query: Vec::new() }
}

fn to_service(name: &str) -> RouteBackend {
    RouteBackend { target: reference("Service", NS, name), port: Some(80), weight: 1 }
}

fn rule_of(matches: Vec<RouteMatch>, to: &str) -> RouteRule {
    RouteRule { matches, backends: vec![to_service(to)], ..RouteRule::default() }
}

/// A route of Gateway `gw`; a path that begins with `=` is meant exactly.
fn http(name: &str, hosts: &[&str], rules: &[(&str, &str)]) -> GatewayRoute {
    GatewayRoute {
        kind: RouteKind::Http,
        key: RouteKey::parse(&format!("{NS}/{name}")).unwrap(),
        uid: format!("uid-{name}"),
        generation: 5,
        created: 1,
        parents: vec![parent("gw", None)],
        hosts: hosts.iter().map(|name| host(name)).collect(),
        hosts_refused: None,
        rules: rules.iter().map(|(path, to)| rule_of(vec![matching(path)], to)).collect(),
    }
}

impl World {
    /// With a GatewayClass of Warren's, and Gateway `gw` with these listeners.
    fn with_gateway(listeners: Vec<Listener>) -> Self {
        let mut world = Self::new();
        world.gateway_class(GATEWAY_CONTROLLER, false);
        world.gateway(gateway("gw", listeners));
        world
    }

    fn gateway_class(&mut self, controller: &str, has_parameters: bool) {
        let name = GatewayClassName::new("warren").unwrap();
        let (uid, controller) = ("uid-class".into(), controller.into());
        let row = GatewayClass { name, uid, generation: 1, controller, has_parameters };
        self.0.set_gateway_row("warren", Some(Arc::new(row)));
    }

    fn gateway(&mut self, row: Gateway) {
        self.0.set_gateway_row(&row.key.to_string(), Some(Arc::new(row)));
    }

    fn http(&mut self, row: GatewayRoute) {
        self.0.set_gateway_row(&row.key.to_string(), Some(Arc::new(HttpRoute(row))));
    }

    fn grant(&mut self, from: &str, to: &str, namespace: &str) {
        let key = GrantKey::parse(&format!("{namespace}/grant-{to}").to_lowercase()).unwrap();
        let from = vec![(kind(GATEWAY_GROUP, from), space(NS))];
        let row = ReferenceGrant { key, from, to: vec![(kind("", to), None)] };
        self.0.set_gateway_row(&row.key.to_string(), Some(Arc::new(row)));
    }

    fn tls_secret(&mut self) {
        let (chain, private) = self_signed("a.example");
        self.secret("tls", &[("tls.crt", &chain), ("tls.key", &private)]);
    }
}

fn over_tls(compiled: &Compiled, host: &str, path: &str) -> String {
    let (method, headers) = (&Method::GET, HeaderMap::new());
    let path = path.as_bytes();
    let request = RequestLine { scheme: Scheme::Https, host, method, path, query: None, headers: &headers };
    compiled.table.find(&request).map_or("none", |found| &found.route.name).to_owned()
}

fn told<'c>(compiled: &'c Compiled, kind: GatewayObject, name: &str) -> &'c GatewayTold {
    let object = if kind == GatewayObject::Class { name.to_owned() } else { format!("{NS}/{name}") };
    let found = compiled.gateways.statuses.iter().find(|s| s.kind == kind && s.object == object);
    &found.unwrap_or_else(|| panic!("nothing is said of {object}")).told
}

/// Conditions as `+Accepted`, or `-Accepted Reason` when one does not hold.
fn said(conditions: &[Condition]) -> Vec<String> {
    let one = |c: &Condition| match c.holds {
        true if c.reason == c.kind => format!("+{}", c.kind),
        holds => format!("{}{} {}", if holds { '+' } else { '-' }, c.kind, c.reason),
    };
    conditions.iter().filter(|c| c.kind != "Conflicted" || c.holds).map(one).collect()
}

/// What is said of a route by its first parent.
fn of_route(compiled: &Compiled, name: &str) -> Vec<String> {
    let GatewayTold::Route { parents } = told(compiled, GatewayObject::Route(RouteKind::Http), name) else {
        panic!("no route")
    };
    assert!(parents[0].1.iter().all(|c| c.generation == 5));
    said(&parents[0].1)
}

/// What is said of Gateway `gw`, and of its listeners with how many routes each has.
fn of_gateway(compiled: &Compiled) -> (Vec<String>, Vec<(String, u32)>) {
    let GatewayTold::Gateway { conditions, listeners, .. } = told(compiled, GatewayObject::Gateway, "gw")
    else {
        panic!("no Gateway")
    };
    let listener = |l: &warren_types::ListenerTold| (said(&l.conditions).join(" "), l.attached);
    (said(conditions), listeners.iter().map(listener).collect())
}

const GOOD: &str = "+Accepted +Programmed +ResolvedRefs";

#[test]
fn a_route_is_served_by_its_hosts_and_paths() {
    let mut world = World::with_gateway(vec![listener("http", "")]);
    world.http(http("one", &["foo.test", "*.bar.test"], &[("/", "a"), ("/api", "b"), ("=/api/x", "c")]));
    let compiled = world.compile();
    for (host, path, expected) in [
        ("foo.test", "/", A),
        ("foo.test", "/apis", A),
        ("foo.test", "/api/", B),
        ("foo.test", "/api/x", C),
        ("foo.test", "/api/x/", B),
        ("a.bar.test", "/", A),
        ("a.b.bar.test", "/api", B),
        ("bar.test", "/", "none"),
        ("other.test", "/", "none"),
    ] {
        assert_eq!(to(&compiled, host, path), expected, "{host}{path}");
    }
    assert_eq!(over_tls(&compiled, "foo.test", "/"), "none", "there is no listener of HTTPS");
    assert_eq!(of_route(&compiled, "one"), ["+Accepted", "+ResolvedRefs"]);
    let (gateway, listeners) = of_gateway(&compiled);
    assert_eq!(gateway, ["+Accepted", "+Programmed"]);
    assert_eq!(listeners, [(GOOD.to_owned(), 1)]);
    let served = &compiled.gateways.routes[0];
    assert_eq!(
        (served.hosts.join(" "), served.matches, served.tls),
        ("*.bar.test foo.test".into(), 3, false)
    );
    // An endpoint that changes is one of the same table, and an unchanged status keeps its allocation.
    world.slice(slice("a", "a", &[("", 8080)], vec![Endpoint::ready(address(9))]));
    assert!(!world.0.is_changed());
    let moved = world.0.move_endpoints();
    assert_eq!(
        moved.iter().map(|b| b.endpoints.get()[0].address.ip()).collect::<BTreeSet<_>>(),
        [address(9)].into()
    );
    assert_ne!(to(&compiled, "foo.test", "/"), A);
    let after = world.compile();
    assert!(Arc::ptr_eq(&after.gateways, &compiled.gateways));
}

/// The order of HTTPRouteRule, `matches`: exact path, longest prefix, method, most headers, most parameters; then the oldest
/// route, then the first by name, then the first rule.
#[test]
fn the_most_specific_match_wins_then_the_oldest_route() {
    let full = |path: &str, method: Option<&str>, headers: usize, query: usize| {
        let pairs = |n: usize| (0..n).map(|n| (format!("x{n}"), "1".to_owned())).collect();
        RouteMatch {
            method: method.map(str::to_owned),
            headers: pairs(headers),
            query: pairs(query),
            ..matching(path)
        }
    };
    // Each pair: what wins, what loses, for one and the same request.
    for (winner, loser) in [
        (full("=/a/b", None, 0, 0), full("/a/b", Some("GET"), 2, 2)),
        (full("/a/b", None, 0, 0), full("/a", Some("GET"), 2, 2)),
        (full("/a", Some("GET"), 0, 0), full("/a", None, 2, 2)),
        (full("/a", None, 2, 0), full("/a", None, 1, 2)),
        (full("/a", None, 1, 2), full("/a", None, 1, 1)),
    ] {
        for order in [["w", "l"], ["l", "w"]] {
            let mut world = World::with_gateway(vec![listener("http", "")]);
            for (name, created) in order.into_iter().zip(1..) {
                let mut route = http(name, &["h.test"], &[]);
                let (matching, to) = if name == "w" { (&winner, "a") } else { (&loser, "b") };
                route.rules = vec![rule_of(vec![matching.clone()], to)];
                route.created = created;
                world.http(route);
            }
            let compiled = world.compile();
            let headers: HeaderMap = ["x0", "x1"]
                .map(|name| (http::HeaderName::from_static(name), http::HeaderValue::from_static("1")))
                .into_iter()
                .collect();
            let request = RequestLine {
                scheme: Scheme::Http,
                host: "h.test",
                method: &Method::GET,
                path: b"/a/b",
                query: Some(b"x0=1&x1=1"),
                headers: &headers,
            };
            let found = compiled.table.find(&request).unwrap();
            assert_eq!(*found.route.name, *"HTTPRoute/shop/w rule 0", "{winner:?} before {loser:?}");
        }
    }
    let mut world = World::with_gateway(vec![listener("http", "")]);
    let with = |name: &str, created: i64, to: &str| GatewayRoute {
        created,
        ..http(name, &["h.test"], &[("/", to)])
    };
    world.http(with("a", 2, "a"));
    world.http(with("b", 1, "b"));
    assert_eq!(to(&world.compile(), "h.test", "/"), B, "the oldest");
    world.http(with("b", 2, "b"));
    assert_eq!(to(&world.compile(), "h.test", "/"), A, "the first by name");
    world.http(http("a", &["h.test"], &[("/", "c"), ("/", "a")]));
    assert_eq!(to(&world.compile(), "h.test", "/"), C, "the first rule");
}

#[test]
fn an_exact_host_comes_before_a_wildcard_and_a_long_one_before_a_short_one() {
    let mut world = World::with_gateway(vec![listener("http", "")]);
    world.http(http("wide", &["*.test"], &[("/", "a")]));
    world.http(http("long", &["*.b.test"], &[("/", "b")]));
    world.http(http("exact", &["a.b.test"], &[("/only", "c")]));
    let compiled = world.compile();
    for (host, path, expected) in [
        ("a.b.test", "/only", C),
        ("a.b.test", "/else", B),
        ("x.y.b.test", "/only", B),
        ("b.test", "/", A),
        ("x.test", "/", A),
        ("test", "/", "none"),
    ] {
        assert_eq!(to(&compiled, host, path), expected, "{host}{path}");
    }
}

#[test]
fn filters_weights_and_timeouts_become_what_the_table_has() {
    let mut world = World::with_gateway(vec![listener("http", "")]);
    let mut route = http("one", &["h.test"], &[("/w", "a"), ("/r", "a")]);
    let first = &mut route.rules[0];
    first.backends = vec![
        RouteBackend { weight: 9, ..to_service("a") },
        RouteBackend { weight: 1, ..to_service("b") },
        RouteBackend { weight: 0, ..to_service("c") },
    ];
    first.filters.path = Some(PathChange::Prefix("/new".into()));
    first.filters.host = Some(host("inside.test"));
    first.filters.request.set = vec![("x-a".into(), "1".into())];
    first.filters.response.remove = vec!["server".into()];
    first.request_timeout = Some(1500);
    first.backend_timeout = Some(500);
    let https = Some(true);
    let path = Some(PathChange::Full("/there".into()));
    route.rules[1].filters.redirect =
        Some(RouteRedirect { https, host: None, path, port: Some(8443), status: 301 });
    route.rules[1].backends.clear();
    world.http(route);
    let compiled = world.compile();
    let made = super::route(&compiled, "h.test", "/w/x");
    let Action::Forward(forward) = &made.action else { panic!("{made:?}") };
    let weights: Vec<u32> = forward.backends.iter().map(|b| b.weight).collect();
    assert_eq!((weights, forward.path.clone()), (vec![9, 1, 0], Some(PathEdit::Prefix("/new".into()))));
    assert_eq!(forward.host.as_ref().unwrap(), "inside.test");
    assert_eq!(
        (forward.timeouts.request.unwrap().as_millis(), forward.timeouts.read.as_millis()),
        (1500, 500)
    );
    assert_eq!(made.request_headers.set[0].0, "x-a");
    assert_eq!(made.response_headers.remove, ["server"]);
    let Action::Redirect(redirect) = &super::route(&compiled, "h.test", "/r").action else { panic!() };
    assert_eq!(
        (redirect.status.as_u16(), redirect.port, redirect.scheme),
        (301, Some(8443), Some(Scheme::Https))
    );
    assert_eq!(redirect.path, Some(PathEdit::Full("/there".into())));
    assert_eq!(of_route(&compiled, "one"), ["+Accepted", "+ResolvedRefs"]);
}

#[test]
fn backends_that_are_not_there_or_not_allowed_are_said_and_answered() {
    let other = |name: &str| RouteBackend { target: reference("Service", "store", name), ..to_service("a") };
    let odd = RouteBackend { target: reference("Bucket", NS, "a"), ..to_service("a") };
    let portless = RouteBackend { port: None, ..to_service("a") };
    for (backend, reason) in [
        (to_service("gone"), "BackendNotFound"),
        (RouteBackend { port: Some(81), ..to_service("a") }, "BackendNotFound"),
        (portless, "BackendNotFound"),
        (odd, "InvalidKind"),
        (other("x"), "RefNotPermitted"),
    ] {
        let mut world = World::with_gateway(vec![listener("http", "")]);
        let mut route = http("one", &["h.test"], &[("/", "a"), ("/half", "a")]);
        route.rules[0].backends = vec![backend.clone()];
        route.rules[1].backends.push(backend);
        world.http(route);
        let compiled = world.compile();
        assert_eq!(to(&compiled, "h.test", "/"), "500", "{reason}");
        assert_eq!(to(&compiled, "h.test", "/half"), A);
        let half = super::route(&compiled, "h.test", "/half");
        assert!(half.backends().nth(1).unwrap().endpoints.get().is_empty(), "a share for nobody");
        assert_eq!(of_route(&compiled, "one"), ["+Accepted".to_owned(), format!("-ResolvedRefs {reason}")]);
    }
    let mut world = World::with_gateway(vec![listener("http", "")]);
    let key = ServiceKey::parse("store/x").unwrap();
    let mut there = Service::new(key.clone());
    there.ports = vec![ServicePort::new(Transport::Tcp, 80)];
    world.service(there);
    let mut at = slice("a", "x", &[("", 8080)], vec![Endpoint::ready(address(3))]);
    (at.key, at.service) = (SliceKey::parse("store/x").unwrap(), key);
    world.slice(at);
    let mut route = http("one", &["h.test"], &[("/", "a")]);
    route.rules[0].backends = vec![other("x")];
    world.http(route);
    world.grant("Gateway", "Service", "store");
    assert_eq!(to(&world.compile(), "h.test", "/"), "500", "a grant for others");
    world.grant("HTTPRoute", "Service", NS);
    assert_eq!(to(&world.compile(), "h.test", "/"), "500", "a grant of another namespace");
    world.grant("HTTPRoute", "Service", "store");
    let compiled = world.compile();
    assert_eq!(to(&compiled, "h.test", "/"), C);
    assert_eq!(of_route(&compiled, "one"), ["+Accepted", "+ResolvedRefs"]);
}

#[test]
fn what_is_not_supported_is_refused_and_said() {
    let mut world = World::with_gateway(vec![listener("http", "")]);
    let mut route = http("one", &["h.test"], &[("/", "a"), ("/mirror", "b")]);
    route.rules[1].unsupported = Some("filters[0]: RequestMirror is not supported".into());
    world.http(route.clone());
    let compiled = world.compile();
    assert_eq!((to(&compiled, "h.test", "/"), to(&compiled, "h.test", "/mirror")), (A.into(), "500".into()));
    assert_eq!(
        of_route(&compiled, "one"),
        ["+Accepted", "+ResolvedRefs", "+PartiallyInvalid UnsupportedValue"]
    );
    assert!(compiled.gateways.routes[0].faults[0].contains("RequestMirror"));
    route.rules.remove(0);
    world.http(route);
    let compiled = world.compile();
    assert_eq!(of_route(&compiled, "one"), ["-Accepted UnsupportedValue", "+ResolvedRefs"]);
    assert_eq!((to(&compiled, "h.test", "/mirror"), of_gateway(&compiled).1[0].1), ("500".into(), 0));
}

#[test]
fn grpc_goes_by_http2_and_never_shares_the_backend_of_an_ingress() {
    let mut world = World::with_gateway(vec![listener("http", "")]);
    let mut row = http("one", &["h.test"], &[("=/pkg.Svc/Do", "a"), ("/pkg.Svc", "b")]);
    row.kind = RouteKind::Grpc;
    world.0.set_gateway_row(&row.key.to_string(), Some(Arc::new(GrpcRoute(row))));
    let annotated =
        [("ingress.warren.dev/backend-protocol", "h2c"), ("ingress.warren.dev/sticky-cookie", "s")];
    world
        .ingress(with(ingress("one", 1, &[rule("i.test", &[path("/", PathKind::Prefix, "a")])]), &annotated));
    let compiled = world.compile();
    let of = |path: &str| super::route(&compiled, "h.test", path).backends().next().unwrap().clone();
    assert_eq!(of("/pkg.Svc/Do").protocol, Protocol::H2c);
    assert!(of("/pkg.Svc/Do").sticky.is_none());
    assert_eq!(to(&compiled, "h.test", "/pkg.Svc/Other"), B);
    assert!(super::route(&compiled, "i.test", "/").backends().next().unwrap().sticky.is_some());
}

#[test]
fn matches_on_headers_and_parameters_reach_the_table() {
    let mut world = World::with_gateway(vec![listener("http", "")]);
    let mut route = http("one", &["h.test"], &[("/", "a")]);
    route.rules[0].matches[0].headers = vec![("version".into(), "2".into())];
    route.rules[0].matches[0].query = vec![("q".into(), "x".into())];
    world.http(route);
    let compiled = world.compile();
    let (matching, _) = compiled.table.entries().next().unwrap();
    assert_eq!(matching.headers[0].1, ValueMatch::Exact((*b"2").into()));
    assert_eq!(matching.query, [("q".to_owned(), ValueMatch::Exact((*b"x").into()))]);
    assert_eq!(matching.scheme, Some(Scheme::Http));
    assert_eq!(to(&compiled, "h.test", "/"), "none");
}
