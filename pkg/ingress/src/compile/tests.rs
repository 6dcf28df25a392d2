mod moved;
mod names;

use super::*;
use crate::route::{Action, Matched, PathEdit, Protocol, Readiness, RequestLine, Route, Scheme};
use http::{HeaderMap, Method, StatusCode};
use proptest::prelude::*;
use std::net::IpAddr;
use warren_types::{
    BackendPort, Endpoint, EndpointPort, Family, HostPattern, IngressPath, IngressRule, IngressTls,
    Namespace, PathKind, Protocol as Transport, SecretContent, ServiceName, ServicePort,
};

mod certificates;
mod gateways;

const NS: &str = "shop";

fn key(name: &str) -> IngressKey {
    IngressKey::parse(&format!("{NS}/{name}")).unwrap()
}

fn service_key(name: &str) -> ServiceKey {
    ServiceKey::parse(&format!("{NS}/{name}")).unwrap()
}

fn host(name: &str) -> HostPattern {
    HostPattern::new(name).unwrap()
}

fn backend(name: &str) -> IngressBackend {
    IngressBackend::Service { name: ServiceName::new(name).unwrap(), port: BackendPort::Number(80) }
}

fn path(path: &str, kind: PathKind, to: &str) -> IngressPath {
    IngressPath { path: path.into(), kind, backend: backend(to) }
}

fn rule(of: &str, paths: &[IngressPath]) -> IngressRule {
    IngressRule { host: (!of.is_empty()).then(|| host(of)), paths: paths.to_vec() }
}

fn ingress(name: &str, created: i64, rules: &[IngressRule]) -> Ingress {
    Ingress {
        key: key(name),
        uid: format!("uid-{name}"),
        created,
        class: Some("warren".into()),
        options: BTreeMap::new(),
        default_backend: None,
        rules: rules.to_vec(),
        tls: Vec::new(),
        published: Vec::new(),
    }
}

fn with(mut row: Ingress, annotations: &[(&str, &str)]) -> Ingress {
    row.options = annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    row
}

fn service(name: &str, ports: &[ServicePort]) -> Service {
    let mut service = Service::new(service_key(name));
    service.ports = ports.to_vec();
    service
}

fn slice(of: &str, name: &str, ports: &[(&str, u16)], endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        key: SliceKey::parse(&format!("{NS}/{name}")).unwrap(),
        service: service_key(of),
        family: Family::V4,
        ports: ports
            .iter()
            .map(|(name, port)| EndpointPort { name: (*name).into(), protocol: Transport::Tcp, port: *port })
            .collect(),
        endpoints,
        foreign_proxy: false,
    }
}

fn address(last: u8) -> IpAddr {
    [10, 42, 0, last].into()
}

struct World(Engine);

impl World {
    /// The class, Services `a`, `b`, `c` with port 80 and an endpoint each: 10.42.0.1, .2, .3.
    fn new() -> Self {
        let class = IngressClassName::new("warren").unwrap();
        let settings =
            Settings { class, http_port: 80, https_port: 443, external_names: false, certificate: None };
        let mut world = Self(Engine::new(settings));
        world.class("warren", INGRESS_CONTROLLER, false, 1);
        for (n, name) in (1..).zip(["a", "b", "c"]) {
            world.service(service(name, &[ServicePort::new(Transport::Tcp, 80)]));
            world.slice(slice(name, name, &[("", 8080)], vec![Endpoint::ready(address(n))]));
        }
        world
    }

    fn class(&mut self, name: &str, controller: &str, is_default: bool, created: i64) {
        let name = IngressClassName::new(name).unwrap();
        let row = IngressClass { name: name.clone(), controller: controller.into(), is_default, created };
        self.0.set_class(&name, Some(Arc::new(row)));
    }

    fn service(&mut self, row: Service) {
        self.0.set_service(&row.key.clone(), Some(Arc::new(row)));
    }

    fn slice(&mut self, row: EndpointSlice) {
        self.0.set_slice(&row.key.clone(), Some(Arc::new(row)));
    }

    fn ingress(&mut self, row: Ingress) {
        self.0.set_ingress(&row.key.clone(), Some(Arc::new(row)));
    }

    fn secret(&mut self, name: &str, data: &[(&str, &[u8])]) {
        let key = SecretRef::parse(&format!("{NS}/{name}")).unwrap();
        let data = data.iter().map(|(k, v)| ((*k).to_owned(), warren_types::SecretBytes::new(v.to_vec())));
        let content = SecretContent { kind: "Opaque".into(), data: data.collect() };
        let row = SecretObject { key: key.clone(), content: Some(content) };
        self.0.set_secret(&key, Some(Arc::new(row)));
    }

    fn compile(&mut self) -> Compiled {
        self.0.compile()
    }
}

fn find<'t>(compiled: &'t Compiled, host: &str, path: &str) -> Option<Matched<'t>> {
    let headers = HeaderMap::new();
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    compiled.table.find(&RequestLine {
        scheme: Scheme::Http,
        host,
        method: &Method::GET,
        path: path.as_bytes(),
        query: query.map(str::as_bytes),
        headers: &headers,
    })
}

/// The first endpoint that a request goes to, or the status of its answer.
fn to(compiled: &Compiled, host: &str, path: &str) -> String {
    match find(compiled, host, path).map(|found| &found.route.action) {
        None => "none".into(),
        Some(Action::Answer(status)) => status.as_str().into(),
        Some(Action::Redirect(redirect)) => format!("{redirect:?}"),
        Some(Action::Forward(forward)) => {
            let endpoints = forward.backends[0].backend.endpoints.get();
            endpoints.first().map_or_else(|| "nobody".into(), |endpoint| endpoint.address.to_string())
        }
    }
}

fn route<'t>(compiled: &'t Compiled, host: &str, path: &str) -> &'t Route {
    find(compiled, host, path).unwrap().route
}

fn reasons(compiled: &Compiled, name: &str) -> Vec<String> {
    compiled.served[&key(name)].faults.iter().map(|fault| fault.reason.clone()).collect()
}

const A: &str = "10.42.0.1:8080";
const B: &str = "10.42.0.2:8080";
const C: &str = "10.42.0.3:8080";

#[test]
fn hosts_and_paths_lead_where_they_say() {
    let mut world = World::new();
    world.ingress(ingress(
        "one",
        1,
        &[
            rule(
                "foo.example",
                &[
                    path("/", PathKind::Prefix, "a"),
                    path("/api", PathKind::Prefix, "b"),
                    path("/api/exact", PathKind::Exact, "c"),
                ],
            ),
            rule("*.example", &[path("/", PathKind::ImplementationSpecific, "c")]),
            rule("", &[path("/any", PathKind::Prefix, "b")]),
        ],
    ));
    let compiled = world.compile();
    for (host, path, wanted) in [
        ("foo.example", "/", A),
        ("foo.example", "/apis", A),
        ("foo.example", "/api", B),
        ("foo.example", "/api/x?y", B),
        ("foo.example", "/api/exact", C),
        ("foo.example", "/api/exact/", B),
        ("bar.example", "/whatever", C),
        ("x.bar.example", "/", "none"),
        ("x.bar.example", "/any/", B),
        ("other.test", "/", "none"),
    ] {
        assert_eq!(to(&compiled, host, path), wanted, "{host}{path}");
    }
    assert_eq!(reasons(&compiled, "one"), Vec::<String>::new());
}

#[test]
fn classes_say_whose_an_ingress_is() {
    let mut world = World::new();
    let rules = |host: &str| vec![rule(host, &[path("/", PathKind::Prefix, "a")])];
    world.class("theirs", "example.org/other", false, 1);
    world.class("also-ours", INGRESS_CONTROLLER, false, 1);
    for (name, class) in [
        ("named", Some("warren")),
        ("second", Some("also-ours")),
        ("theirs", Some("theirs")),
        ("unknown", Some("no-such-class")),
        ("without", None),
    ] {
        world.ingress(Ingress {
            class: class.map(str::to_owned),
            ..ingress(name, 1, &rules(&format!("{name}.test")))
        });
    }
    let served =
        |world: &mut World| world.compile().served.keys().map(|k| k.name.to_string()).collect::<Vec<_>>();
    assert_eq!(served(&mut world), ["named", "second"]);
    world.class("warren", INGRESS_CONTROLLER, true, 1);
    assert_eq!(served(&mut world), ["named", "second", "without"]);
    // The newest of two defaults counts.
    world.class("theirs", "example.org/other", true, 2);
    assert_eq!(served(&mut world), ["named", "second"]);
    // The annotation of old names a word; nothing of that name need be there.
    world.0.set_class(&IngressClassName::new("warren").unwrap(), None);
    assert_eq!(served(&mut world), ["named", "second"]);
}

#[test]
fn default_backends_take_what_is_left() {
    let mut world = World::new();
    world.ingress(Ingress {
        default_backend: Some(backend("b")),
        ..ingress(
            "hosted",
            1,
            &[rule("foo.test", &[path("/a", PathKind::Prefix, "a")]), rule("bare.test", &[])],
        )
    });
    world.ingress(Ingress { default_backend: Some(backend("c")), ..ingress("all", 2, &[]) });
    let compiled = world.compile();
    for (host, path, wanted) in
        [("foo.test", "/a", A), ("foo.test", "/x", B), ("bare.test", "/", B), ("else.test", "/a", C)]
    {
        assert_eq!(to(&compiled, host, path), wanted, "{host}{path}");
    }
}

#[test]
fn of_two_that_want_a_path_the_older_has_it_and_the_other_is_told() {
    let mut world = World::new();
    let rules = |to: &str| vec![rule("foo.test", &[path("/x", PathKind::Prefix, to)])];
    world.ingress(ingress("younger", 2, &rules("a")));
    world.ingress(ingress("older", 1, &rules("b")));
    let compiled = world.compile();
    assert_eq!(to(&compiled, "foo.test", "/x"), B);
    assert_eq!(reasons(&compiled, "older"), Vec::<String>::new());
    let told = &compiled.served[&key("younger")].faults[0];
    assert_eq!(told.reason, "PathTaken");
    assert!(told.message.contains("shop/older") && told.message.contains("foo.test/x"), "{}", told.message);
    world.0.set_ingress(&key("older"), None);
    let compiled = world.compile();
    assert_eq!(to(&compiled, "foo.test", "/x"), A);
    assert_eq!(reasons(&compiled, "younger"), Vec::<String>::new());
}

#[test]
fn backends_are_the_endpoints_of_a_port_and_what_cannot_be_served_says_so() {
    let mut world = World::new();
    let port = |name: &str, port: u16, app: Option<&str>| ServicePort {
        name: name.into(),
        app_protocol: app.map(str::to_owned),
        ..ServicePort::new(Transport::Tcp, port)
    };
    world.service(service(
        "many",
        &[port("web", 80, None), port("grpc", 81, Some("kubernetes.io/h2c")), port("tls", 82, Some("https"))],
    ));
    let ends = vec![
        Endpoint::ready(address(20)),
        Endpoint { ready: false, serving: true, terminating: true, ..Endpoint::ready(address(21)) },
        Endpoint { ready: false, serving: false, ..Endpoint::ready(address(22)) },
    ];
    world.slice(slice("many", "many-1", &[("web", 8000), ("grpc", 9000), ("tls", 9443)], ends));
    world.slice(slice(
        "many",
        "many-2",
        &[("web", 8001)],
        vec![Endpoint::ready(address(20)), Endpoint::ready(address(23))],
    ));
    world.service(Service {
        kind: warren_types::ServiceKind::ExternalName,
        external_name: Some("example.org".into()),
        ..service("elsewhere", &[port("", 80, None)])
    });
    let named = |name: &str, port: BackendPort| IngressBackend::Service {
        name: ServiceName::new(name).unwrap(),
        port,
    };
    let many = |port: &str| named("many", BackendPort::Name(port.into()));
    let paths: Vec<IngressPath> = [
        ("/web", many("web")),
        ("/number", named("many", BackendPort::Number(80))),
        ("/grpc", many("grpc")),
        ("/tls", many("tls")),
        ("/port", named("many", BackendPort::Number(99))),
        ("/gone", backend("gone")),
        ("/elsewhere", backend("elsewhere")),
        ("/resource", IngressBackend::Resource("StorageBucket example.org/b".into())),
        ("/broken", IngressBackend::Unreadable),
    ]
    .into_iter()
    .map(|(path, backend)| IngressPath { path: path.into(), kind: PathKind::Prefix, backend })
    .collect();
    world.ingress(ingress("one", 1, &[rule("foo.test", &paths)]));
    let compiled = world.compile();
    let Action::Forward(forward) = &route(&compiled, "foo.test", "/web").action else {
        panic!("not forwarded")
    };
    let made = &forward.backends[0].backend;
    let found: Vec<(String, Readiness)> =
        made.endpoints.get().iter().map(|end| (end.address.to_string(), end.readiness)).collect();
    assert_eq!(
        found,
        [
            ("10.42.0.20:8000".to_owned(), Readiness::Ready),
            ("10.42.0.20:8001".to_owned(), Readiness::Ready),
            ("10.42.0.21:8000".to_owned(), Readiness::Terminating),
            ("10.42.0.23:8001".to_owned(), Readiness::Ready),
        ]
    );
    let Action::Forward(same) = &route(&compiled, "foo.test", "/number").action else {
        panic!("not forwarded")
    };
    assert!(Arc::ptr_eq(made, &same.backends[0].backend), "one backend for one port");
    let Action::Forward(grpc) = &route(&compiled, "foo.test", "/grpc").action else {
        panic!("not forwarded")
    };
    assert_eq!(grpc.backends[0].backend.protocol, Protocol::H2c);
    for path in ["/tls", "/port", "/gone", "/elsewhere", "/resource", "/broken"] {
        assert_eq!(to(&compiled, "foo.test", path), "503", "{path}");
    }
    let faults = &compiled.served[&key("one")].faults;
    assert_eq!(faults.len(), 6, "{faults:?}");
    let port = faults.iter().find(|fault| fault.message.contains("99")).unwrap();
    assert_eq!(port.message, "Service many has no TCP port 99; it has 80 (web), 81 (grpc), 82 (tls)");
}

#[test]
fn only_what_the_table_was_made_of_asks_for_another() {
    let mut world = World::new();
    world.ingress(ingress("one", 1, &[rule("foo.test", &[path("/", PathKind::Prefix, "a")])]));
    let Compiled { served, .. } = world.compile();
    assert!(!world.0.is_changed());
    let port = ServicePort::new(Transport::Tcp, 81);
    world.service(service("b", std::slice::from_ref(&port)));
    assert!(!world.0.is_changed(), "nobody names b");
    world.service(service("a", &[ServicePort::new(Transport::Tcp, 80), port]));
    assert!(world.0.is_changed());
    assert!(Arc::ptr_eq(&served, &world.compile().served), "nothing new to tell of Ingresses");
}

fn self_signed(host: &str) -> (Vec<u8>, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
    (made.cert.pem().into_bytes(), made.signing_key.serialize_pem().into_bytes())
}

/// The Secrets that are wanted, besides the default certificate's.
fn wanted(compiled: &Compiled) -> Vec<String> {
    let (default, others): (Vec<_>, Vec<_>) =
        compiled.wanted.iter().map(ToString::to_string).partition(|name| name == DEFAULT);
    assert_eq!(default.len(), 1);
    others
}

const DEFAULT: &str = "kube-system/warren-ingress-default";

/// Compiles one Ingress for `foo.test/app`, to `a`, with these annotations.
fn annotated(annotations: &[(&str, &str)]) -> Compiled {
    annotated_path("/app", annotations)
}

fn annotated_path(of: &str, annotations: &[(&str, &str)]) -> Compiled {
    let mut world = World::new();
    let (chain, private) = self_signed("foo.test");
    world.secret("tls", &[("tls.crt", &chain), ("tls.key", &private)]);
    let row = ingress("one", 1, &[rule("foo.test", &[path(of, PathKind::ImplementationSpecific, "a")])]);
    world.ingress(with(row, annotations));
    world.compile()
}

#[test]
fn annotations_of_both_kinds_do_what_they_say() {
    let both = [
        ("ingress.warren.dev/", "redirect-to-https"),
        ("nginx.ingress.kubernetes.io/", "force-ssl-redirect"),
    ];
    for (prefix, name) in both {
        let compiled = annotated(&[(&format!("{prefix}{name}"), "true")]);
        assert_eq!(route(&compiled, "foo.test", "/app").https, Some(StatusCode::PERMANENT_REDIRECT));
    }
    let compiled = annotated(&[("nginx.ingress.kubernetes.io/ssl-redirect", "true")]);
    assert_eq!(route(&compiled, "foo.test", "/app").https, None, "the host has no TLS");

    let compiled = annotated(&[("ingress.warren.dev/permanent-redirect", "https://example.org/x?y=1")]);
    let redirect = to(&compiled, "foo.test", "/app");
    assert!(redirect.contains("example.org") && redirect.contains("301"), "{redirect}");

    let edit = |compiled: &Compiled, path: &str| match &route(compiled, "foo.test", path).action {
        Action::Forward(forward) => forward.path.clone(),
        other => panic!("{other:?}"),
    };
    let compiled = annotated(&[("ingress.warren.dev/rewrite-prefix", "/new")]);
    assert_eq!(edit(&compiled, "/app/x"), Some(PathEdit::Prefix("/new".into())));
    let compiled = annotated_path("/app(/|$)(.*)", &[("nginx.ingress.kubernetes.io/rewrite-target", "/$2")]);
    assert_eq!(edit(&compiled, "/app/x"), Some(PathEdit::Prefix("/".into())));
    assert_eq!(reasons(&compiled, "one"), Vec::<String>::new());
    let compiled = annotated_path("/a[pb]+", &[("nginx.ingress.kubernetes.io/use-regex", "true")]);
    assert_eq!(reasons(&compiled, "one"), ["PathNotServed"]);
    assert_eq!(to(&compiled, "foo.test", "/a[pb]+"), "none");

    let compiled = annotated(&[
        ("nginx.ingress.kubernetes.io/limit-rps", "10"),
        ("nginx.ingress.kubernetes.io/proxy-body-size", "8m"),
        ("nginx.ingress.kubernetes.io/whitelist-source-range", "10.0.0.0/8, 2001:db8::1"),
        ("nginx.ingress.kubernetes.io/proxy-read-timeout", "3600"),
        ("nginx.ingress.kubernetes.io/affinity", "cookie"),
        ("nginx.ingress.kubernetes.io/proxy-buffering", "off"),
        ("ingress.warren.dev/body-limit", "1g"),
    ]);
    let found = route(&compiled, "foo.test", "/app");
    assert_eq!(found.limits.burst, 50);
    assert_eq!(found.body_limit, Some(1 << 30), "Warren's own count");
    assert!(found.sources.admits([10, 1, 2, 3].into()) && !found.sources.admits([192, 0, 2, 1].into()));
    let Action::Forward(forward) = &found.action else { panic!("not forwarded") };
    assert_eq!(forward.timeouts.read.as_secs(), 3_600);
    assert_eq!(forward.backends[0].backend.sticky.as_ref().map(|s| &*s.cookie), Some("INGRESSCOOKIE"));
    assert_eq!(reasons(&compiled, "one"), Vec::<String>::new());
}

#[test]
fn what_is_not_understood_is_said_and_what_kept_others_out_still_does() {
    let compiled = annotated(&[
        ("nginx.ingress.kubernetes.io/proxy-buffers-number", "8"),
        ("ingress.warren.dev/no-such-thing", "x"),
        ("ingress.warren.dev/read-timeout", "soon"),
    ]);
    assert_eq!(to(&compiled, "foo.test", "/app"), A);
    assert_eq!(
        reasons(&compiled, "one"),
        ["AnnotationInvalid", "AnnotationNotUnderstood", "AnnotationNotUnderstood"]
    );
    for (name, value) in [
        ("ingress.warren.dev/allow-source-ranges", "10.0.0.0/33"),
        ("ingress.warren.dev/rate-limit", "many"),
        ("ingress.warren.dev/auth-secret", "no-such-secret"),
        ("nginx.ingress.kubernetes.io/auth-type", "digest"),
        ("nginx.ingress.kubernetes.io/auth-type", "basic"),
        ("nginx.ingress.kubernetes.io/auth-url", "https://auth.example.org"),
        ("nginx.ingress.kubernetes.io/configuration-snippet", "deny all;"),
        ("nginx.ingress.kubernetes.io/backend-protocol", "HTTPS"),
        ("nginx.ingress.kubernetes.io/canary", "true"),
    ] {
        let compiled = annotated(&[(name, value)]);
        assert_eq!(to(&compiled, "foo.test", "/app"), "503", "{name}: {value}");
    }
}

#[test]
fn nobody_comes_in_by_a_path_of_an_unread_list_of_users() {
    let mut world = World::new();
    let row = ingress("one", 1, &[rule("foo.test", &[path("/", PathKind::Prefix, "a")])]);
    world.ingress(with(row, &[("ingress.warren.dev/auth-secret", "users")]));
    let compiled = world.compile();
    assert_eq!(to(&compiled, "foo.test", "/"), "503");
    assert_eq!(wanted(&compiled), ["shop/users"]);
    world.secret("users", &[("other", b"x")]);
    let compiled = world.compile();
    assert_eq!(
        (to(&compiled, "foo.test", "/"), reasons(&compiled, "one")),
        ("503".into(), vec!["SecretMissing".into()])
    );
    world.secret("users", &[("auth", b"joe:$apr1$x$PJOu2.f.aDQ8UL6k9yZDe.\n")]);
    let compiled = world.compile();
    assert_eq!(to(&compiled, "foo.test", "/"), A);
    assert!(route(&compiled, "foo.test", "/").auth.is_some());
}

#[test]
fn users_are_of_the_namespace_of_the_ingress() {
    let of = |secret: &str| {
        let prefix = "nginx.ingress.kubernetes.io/";
        let (kind, name) = (format!("{prefix}auth-type"), format!("{prefix}auth-secret"));
        annotated(&[(&kind, "basic"), (&name, secret)])
    };
    assert_eq!(wanted(&of("users")), ["shop/users"]);
    assert_eq!(wanted(&of("shop/users")), ["shop/users"]);
    let foreign = of("elsewhere/users");
    assert_eq!((wanted(&foreign), to(&foreign, "foo.test", "/app")), (Vec::<String>::new(), "503".into()));
    assert_eq!(reasons(&foreign, "one"), ["AnnotationInvalid"]);
}

#[test]
fn other_names_of_a_host_and_its_root() {
    let compiled = annotated(&[
        ("nginx.ingress.kubernetes.io/server-alias", "alias.test, *.alias.test"),
        ("nginx.ingress.kubernetes.io/app-root", "/app"),
    ]);
    for host in ["foo.test", "alias.test", "x.alias.test"] {
        assert_eq!(to(&compiled, host, "/app"), A, "{host}");
        assert!(to(&compiled, host, "/").contains("/app"), "{host}");
    }
    assert_eq!(reasons(&compiled, "one"), Vec::<String>::new());
}

fn an_annotation() -> impl Strategy<Value = (String, String)> {
    let name = prop_oneof![
        "[a-z-]{1,20}",
        Just("rate-limit".into()),
        Just("rewrite-target".into()),
        Just("request-headers-set".into()),
        Just("cors-origins".into()),
        Just("permanent-redirect".into()),
        Just("auth-secret".into()),
        Just("whitelist-source-range".into()),
    ];
    let prefix = prop_oneof![Just("ingress.warren.dev/"), Just("nginx.ingress.kubernetes.io/")];
    let value = prop_oneof!["\\PC{0,40}", "[0-9/.:,a-z$ ]{0,30}", "(X-[a-z]{1,5}: [a-z\\r\\n]{0,5}\\n){0,3}"];
    (prefix, name, value).prop_map(|(prefix, name, value)| (format!("{prefix}{name}"), value))
}

proptest! {
    #[test]
    fn no_annotation_or_path_hurts_others(
        annotations in proptest::collection::vec(an_annotation(), 0..6),
        of in "/\\PC{0,20}",
    ) {
        let mut world = World::new();
        let rules = [rule("foo.test", &[path(&of, PathKind::ImplementationSpecific, "a")])];
        let mut row = ingress("one", 2, &rules);
        row.options = annotations.into_iter().collect();
        world.ingress(row);
        world.ingress(ingress("other", 1, &[rule("other.test", &[path("/", PathKind::Prefix, "b")])]));
        let compiled = world.compile();
        prop_assert_eq!(to(&compiled, "other.test", "/"), B);
        for fault in &compiled.served[&key("one")].faults {
            prop_assert!(fault.message.len() < 600, "{}", fault.message);
            prop_assert!(!fault.message.contains(['\n', '\r']), "{:?}", fault.message);
        }
    }
}

#[test]
fn namespaces_do_not_reach_into_each_other() {
    let mut world = World::new();
    let mut row = ingress("one", 1, &[rule("foo.test", &[path("/", PathKind::Prefix, "a")])]);
    row.key.namespace = Namespace::new("elsewhere").unwrap();
    let key = row.key.clone();
    world.ingress(row);
    let compiled = world.compile();
    assert_eq!(to(&compiled, "foo.test", "/"), "503");
    assert_eq!(compiled.served[&key].faults[0].message, "there is no Service a in namespace elsewhere");
}
