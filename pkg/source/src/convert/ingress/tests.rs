use super::super::tests::{any_json, meta, spoiled};
use super::*;
use crate::convert::MAX_REFUSALS;
use proptest::prelude::*;
use serde_json::json;

fn named() -> ObjectMeta {
    meta(
        json!({"name": "web.v1", "namespace": "shop", "uid": "u", "creationTimestamp": "1970-01-01T00:01:40Z"}),
    )
}

fn row(spec: Value) -> Ingress {
    ingress(&named(), &json!({ "spec": spec })).row.unwrap()
}

/// The row, and the fields that were refused.
fn judged(spec: Value) -> (Ingress, Vec<String>) {
    let got = ingress(&named(), &json!({ "spec": spec }));
    (got.row.unwrap(), got.refused.into_iter().map(|r| r.field).collect())
}

fn host(s: &str) -> HostPattern {
    HostPattern::new(s).unwrap()
}

fn to(name: &str, port: u16) -> IngressBackend {
    IngressBackend::Service { name: ServiceName::new(name).unwrap(), port: BackendPort::Number(port) }
}

fn path(path: &str, kind: PathKind, backend: IngressBackend) -> IngressPath {
    IngressPath { path: path.into(), kind, backend }
}

/// Every field of the API, and a list for each place where one can be spoiled.
fn whole() -> Value {
    json!({
        "ingressClassName": "warren",
        "defaultBackend": {"resource": {"apiGroup": "k8s.example.com", "kind": "StorageBucket", "name": "static-assets"}},
        "rules": [
            {"host": "foo.bar.com", "http": {"paths": [
                {"path": "/bar", "pathType": "Prefix", "backend": {"service": {"name": "service1", "port": {"number": 80}}}},
                {"path": "/bar/x", "pathType": "Exact", "backend": {"service": {"name": "service2", "port": {"name": "http"}}}}]}},
            {"host": "*.foo.com", "http": {"paths": [
                {"pathType": "ImplementationSpecific", "backend": {"service": {"name": "service3", "port": {"number": 81}}}}]}},
            {"http": {"paths": [
                {"path": "/icons", "pathType": "ImplementationSpecific",
                 "backend": {"resource": {"kind": "StorageBucket", "name": "icon-assets"}}}]}},
            {"host": "empty.foo.com"}],
        "tls": [{"hosts": ["https-example.foo.com", "*.foo.com"], "secretName": "testsecret-tls"}, {"hosts": ["foo.bar.com"]}, {}]
    })
}

#[test]
fn a_whole_ingress_becomes_a_row() {
    let m = meta(
        json!({"name": "web.v1", "namespace": "shop", "uid": "u", "creationTimestamp": "1970-01-01T00:01:40Z",
        "annotations": {"ingress.warren.dev/redirect": "https", "nginx.ingress.kubernetes.io/rewrite-target": "/",
            "kubernetes.io/ingress.class": "other", "example.org/x": "y"}}),
    );
    let status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb.example.org"}, {"ip": "2001:db8::1"}]}});
    let got = ingress(&m, &json!({"spec": whole(), "status": status}));
    assert_eq!(got.refused, []);
    let row = got.row.unwrap();
    assert_eq!((row.key.to_string().as_str(), row.uid.as_str(), row.created), ("shop/web.v1", "u", 100));
    assert_eq!(row.class.as_deref(), Some("warren"));
    let options =
        [("ingress.warren.dev/redirect", "https"), ("nginx.ingress.kubernetes.io/rewrite-target", "/")];
    assert!(row.options.iter().map(|(k, v)| (k.as_str(), v.as_str())).eq(options));
    let bucket = "StorageBucket.k8s.example.com/static-assets";
    assert_eq!(row.default_backend, Some(IngressBackend::Resource(bucket.into())));
    let by_name = IngressBackend::Service {
        name: ServiceName::new("service2").unwrap(),
        port: BackendPort::Name("http".into()),
    };
    let icons = IngressBackend::Resource("StorageBucket/icon-assets".into());
    let rules = [
        (
            Some(host("foo.bar.com")),
            vec![
                path("/bar", PathKind::Prefix, to("service1", 80)),
                path("/bar/x", PathKind::Exact, by_name),
            ],
        ),
        (Some(host("*.foo.com")), vec![path("/", PathKind::ImplementationSpecific, to("service3", 81))]),
        (None, vec![path("/icons", PathKind::ImplementationSpecific, icons)]),
        (Some(host("empty.foo.com")), vec![]),
    ];
    assert_eq!(row.rules, rules.map(|(host, paths)| IngressRule { host, paths }));
    let secret = SecretName::new("testsecret-tls").ok();
    let tls = [
        (vec![host("https-example.foo.com"), host("*.foo.com")], secret),
        (vec![host("foo.bar.com")], None),
        (vec![], None),
    ];
    assert_eq!(row.tls, tls.map(|(hosts, secret)| IngressTls { hosts, secret }));
    assert_eq!(row.published, ["192.0.2.1", "2001:db8::1"].map(|a| a.parse::<std::net::IpAddr>().unwrap()));
}

/// The examples of the Ingress documentation.
#[test]
fn the_examples_of_the_documentation_are_read() {
    let minimal = json!({"ingressClassName": "nginx-example", "rules": [{"http": {"paths": [
        {"path": "/testpath", "pathType": "Prefix", "backend": {"service": {"name": "test", "port": {"number": 80}}}}]}}]});
    let (row, refused) = judged(minimal);
    assert_eq!((row.class.as_deref(), refused), (Some("nginx-example"), vec![]));
    assert_eq!(
        row.rules,
        [IngressRule { host: None, paths: vec![path("/testpath", PathKind::Prefix, to("test", 80))] }]
    );
    let single = json!({"defaultBackend": {"service": {"name": "test", "port": {"number": 80}}}});
    assert_eq!(judged(single).0.default_backend, Some(to("test", 80)));
    assert_eq!(judged(Value::Null), (row_of_nothing(), vec![]));
}

fn row_of_nothing() -> Ingress {
    Ingress {
        key: IngressKey::parse("shop/web.v1").unwrap(),
        uid: "u".into(),
        created: 100,
        class: None,
        options: BTreeMap::new(),
        default_backend: None,
        rules: vec![],
        tls: vec![],
        published: vec![],
    }
}

#[test]
fn the_class_is_the_field_or_else_the_annotation() {
    let of = |annotation: &str, spec: Value| {
        let m = meta(
            json!({"name": "i", "namespace": "shop", "annotations": {"kubernetes.io/ingress.class": annotation}}),
        );
        let got = ingress(&m, &json!({ "spec": spec }));
        (got.row.map(|r| r.class), got.refused.len())
    };
    assert_eq!(of("a", json!({"ingressClassName": "b"})), (Some(Some("b".into())), 0));
    assert_eq!(of("a", json!({})), (Some(Some("a".into())), 0));
    assert_eq!(of("a", json!({"ingressClassName": ""})), (Some(Some("a".into())), 0));
    assert_eq!(of("", json!({})), (Some(None), 0));
    assert_eq!(of("a\n", json!({})), (None, 1), "whose it is, is not known");
    assert_eq!(of("a", json!({"ingressClassName": 7})), (None, 1));
}

#[test]
fn what_cannot_be_read_is_named_and_sends_nothing_elsewhere() {
    let rule = |http: Value| json!({"rules": [{"host": "a.example", "http": http}]});
    let one = |p: Value| rule(json!({"paths": [p]}));
    let good = json!({"service": {"name": "s", "port": {"number": 80}}});
    let broken = [path("/", PathKind::Prefix, IngressBackend::Unreadable)];
    let backends = [
        ("", json!({})),
        ("", json!("s")),
        ("", Value::Null),
        ("", json!({"service": good["service"], "resource": {"kind": "B", "name": "b"}})),
        ("", json!({"weight": 3, "service": good["service"]})),
        (".service", json!({"service": 7})),
        (".service.name", json!({"service": {"name": "S", "port": {"number": 80}}})),
        (".service.name", json!({"service": {"port": {"number": 80}}})),
        (".service.port", json!({"service": {"name": "s"}})),
        (".service.port", json!({"service": {"name": "s", "port": {}}})),
        (".service.port", json!({"service": {"name": "s", "port": {"number": 0}}})),
        (".service.port", json!({"service": {"name": "s", "port": {"number": 65536}}})),
        (".service.port", json!({"service": {"name": "s", "port": {"number": -1}}})),
        (".service.port", json!({"service": {"name": "s", "port": {"number": 80, "name": "http"}}})),
        (".service.port", json!({"service": {"name": "s", "port": {"name": "a b"}}})),
        (".resource", json!({"resource": {"kind": "B\n", "name": "b"}})),
    ];
    for (field, backend) in backends {
        let (row, refused) = judged(one(json!({"path": "/", "pathType": "Prefix", "backend": backend})));
        assert_eq!(refused, [format!("spec.rules.http.paths.backend{field}")], "{backend}");
        assert_eq!(row.rules[0].paths, broken, "{backend}");
        let (row, refused) = judged(json!({ "defaultBackend": backend }));
        if !backend.is_null() {
            assert_eq!(refused, [format!("spec.defaultBackend{field}")], "{backend}");
            assert_eq!(row.default_backend, Some(IngressBackend::Unreadable), "{backend}");
        }
    }
    // Nothing is known of which requests they are for; that no path is left must not mean the default backend.
    for (field, spoiled) in [
        ("", json!(7)),
        (".pathType", json!({"path": "/a", "backend": good})),
        (".pathType", json!({"path": "/a", "pathType": "Regex", "backend": good})),
        (".path", json!({"path": "", "pathType": "Exact", "backend": good})),
        (".path", json!({"path": "a", "pathType": "Prefix", "backend": good})),
        (".path", json!({"path": "/a//b", "pathType": "Prefix", "backend": good})),
        (".path", json!({"path": "/a/../b", "pathType": "Exact", "backend": good})),
        (".path", json!({"path": "/a/./b", "pathType": "Exact", "backend": good})),
        (".path", json!({"path": "/a%2Fb", "pathType": "Exact", "backend": good})),
        (".path", json!({"path": "/a/..", "pathType": "Exact", "backend": good})),
        (".path", json!({"path": "a", "pathType": "ImplementationSpecific", "backend": good})),
        (".path", json!({"path": "/\r\nHost: x", "pathType": "ImplementationSpecific", "backend": good})),
        (
            ".path",
            json!({"path": format!("/{}", "a".repeat(MAX_PATH)), "pathType": "Prefix", "backend": good}),
        ),
    ] {
        let (row, refused) = judged(one(spoiled.clone()));
        assert_eq!(refused, [format!("spec.rules.http.paths{field}")], "{spoiled}");
        assert_eq!(row.rules[0].paths, broken, "{spoiled}");
        let other = json!({"path": "/b", "pathType": "Prefix", "backend": good});
        let (row, _) = judged(rule(json!({"paths": [spoiled, other]})));
        assert_eq!(row.rules[0].paths, [path("/b", PathKind::Prefix, to("s", 80))]);
    }
    let (row, refused) = judged(one(
        json!({"path": "/", "pathType": "Prefix", "backend": good, "queryParams": [{"name": "a"}]}),
    ));
    assert_eq!(refused, ["spec.rules.http.paths"]);
    assert_eq!(row.rules[0].paths, broken, "a condition that is not known");
    for http in [json!(7), json!({"paths": 7}), json!({"paths": [], "filters": []})] {
        assert_eq!(judged(rule(http.clone())).0.rules[0].paths, broken, "{http}");
    }
    let whole = json!({"rules": [{"headers": {"a": "b"}, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": good}]}}]});
    assert_eq!(judged(whole).0.rules[0].paths, broken, "a rule with a condition that is not known");
    // A host that cannot be read must not become every host.
    for host in [json!("*"), json!("10.0.0.1"), json!(7), json!("A.example"), json!("a.*.b"), json!("a:80")] {
        let (row, refused) = judged(json!({"rules": [{"host": host, "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": good}]}}]}));
        assert_eq!((row.rules.len(), refused), (0, vec!["spec.rules.host".to_owned()]), "{host}");
    }
    for (tls, field, left) in [
        (json!([{"hosts": ["-", "*"], "secretName": "s"}]), "hosts", 0),
        (json!([{"hosts": "a.example"}]), "hosts", 0),
        (json!([{"hosts": [7, "a.example"], "secretName": "s"}]), "hosts", 1),
        (json!([{"hosts": ["a.example"], "secretName": "S"}]), "secretName", 1),
        (json!([{"hosts": ["a.example"], "secretName": {}}]), "secretName", 1),
    ] {
        let (row, refused) = judged(json!({ "tls": tls }));
        assert_eq!(refused[0], format!("spec.tls.{field}"), "{tls}");
        assert_eq!(row.tls.len(), left, "{tls}");
    }
    assert_eq!(ingress(&named(), &json!({"spec": 7})).row, None);
    assert_eq!(judged(json!({"routes": []})).1, ["spec"]);
}

#[test]
fn an_ingress_without_a_usable_name_is_refused() {
    for m in [json!({}), json!({"name": "x"}), json!({"name": "../x", "namespace": "shop"})] {
        let got = ingress(&meta(m), &json!({ "spec": whole() }));
        assert!(got.row.is_none() && got.refused.len() == 1);
    }
    assert_eq!(ingress_key_of(&named()).map(|k| k.to_string()).as_deref(), Some("shop/web.v1"));
    assert_eq!(ingress_key_of(&meta(json!({"name": "a/b", "namespace": "shop"}))), None);
}

#[test]
fn rows_are_bounded_and_options_are_all_or_nothing() {
    let p = json!({"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}});
    let rule = json!({"http": {"paths": vec![p; 1000]}});
    let (row, refused) = judged(json!({"rules": vec![rule; 6]}));
    assert_eq!(row.rules.iter().map(|r| r.paths.len()).max(), Some(1000));
    assert!(
        row.rules.iter().map(|r| r.paths.len()).sum::<usize>() <= MAX_PATHS + MAX_RULES
            && !refused.is_empty()
    );
    let (row, refused) = judged(json!({"rules": vec![json!({"host": "a"}); MAX_RULES + 1]}));
    assert_eq!((row.rules.len(), refused.len()), (MAX_RULES, 1));
    let hosts = json!({"hosts": vec!["a.example"; MAX_HOSTS + 1]});
    let (row, _) = judged(json!({"tls": vec![hosts; 20]}));
    assert_eq!(row.tls.iter().map(|t| t.hosts.len()).sum::<usize>(), MAX_ALL_HOSTS);
    let m = |length: usize| {
        meta(
            json!({"name": "i", "namespace": "shop", "annotations": {"ingress.warren.dev/x": "x".repeat(length)}}),
        )
    };
    assert_eq!(
        ingress(&m(MAX_OPTIONS), &json!({})).row,
        None,
        "an option left out may be one that restricts"
    );
    assert_eq!(ingress(&m(100_000), &json!({})).row.unwrap().options.len(), 1);
}

#[test]
fn classes_become_rows() {
    let class = |annotation: &str, spec: Value| {
        let m = meta(
            json!({"name": "warren", "annotations": {"ingressclass.kubernetes.io/is-default-class": annotation}}),
        );
        ingress_class(&m, &json!({ "spec": spec }))
    };
    let parameters = json!({"controller": "warren.dev/ingress", "parameters": {"kind": "X", "name": "x"}});
    let got = class("true", parameters);
    assert_eq!(got.refused, []);
    let row = got.row.unwrap();
    assert_eq!(
        (row.name.as_str(), row.controller.as_str(), row.is_default),
        ("warren", "warren.dev/ingress", true)
    );
    assert!(
        !class("True", json!({"controller": "a/b"})).row.unwrap().is_default,
        "as Kubernetes compares it"
    );
    for bad in [
        json!({}),
        json!({"controller": 7}),
        json!({"controller": "a/\n"}),
        json!({"controller": "a".repeat(251)}),
    ] {
        let got = class("false", bad.clone());
        assert_eq!((got.row.unwrap().controller.as_str(), got.refused.len()), ("", 1), "{bad}");
    }
    assert_eq!(ingress_class(&meta(json!({"name": "a/b"})), &json!({})).row, None);
}

#[test]
fn of_a_secret_only_known_entries_are_kept_and_nothing_is_quoted() {
    let m = meta(json!({"name": "tls", "namespace": "shop"}));
    let data = json!({"tls.crt": "Y2VydA==", "tls.key": "aHVudGVyMg==", "ca.crt": null, "other": "eA=="});
    let got = secret(&m, &json!({"type": "kubernetes.io/tls", "data": data}));
    assert_eq!(got.refused, []);
    let row = got.row.unwrap();
    assert_eq!(row.key.to_string(), "shop/tls");
    let content = row.content.clone().unwrap();
    assert_eq!(content.kind, "kubernetes.io/tls");
    assert_eq!(content.data.keys().collect::<Vec<_>>(), ["tls.crt", "tls.key"]);
    assert_eq!(content.data["tls.key"].expose(), b"hunter2");
    assert!(!format!("{row:?}").contains("hunter2") && !format!("{row:?}").contains("aHVudGVyMg"));
    for bad in [json!("hunter2!"), json!(["hunter2"]), json!({"hunter2": 1}), json!(7)] {
        let got = secret(&m, &json!({"data": {"tls.key": bad, "auth": "YQ=="}}));
        assert_eq!(got.refused.len(), 1);
        assert_eq!(got.refused[0].field, "data[\"tls.key\"]");
        assert!(!format!("{:?}", got.refused).contains("hunter"));
        assert_eq!(got.row.unwrap().content.unwrap().data.keys().collect::<Vec<_>>(), ["auth"]);
    }
    let got =
        secret(&m, &json!({"data": {"tls.crt": "A".repeat(4 * MAX_SECRET / 3 + 64), "tls.key": "eA=="}}));
    assert_eq!((got.row.unwrap().content.unwrap().data.len(), got.refused.len()), (1, 1));
    assert_eq!(
        secret(&m, &Value::Null).row.unwrap().content,
        Some(SecretContent { kind: String::new(), data: BTreeMap::new() })
    );
    assert_eq!(secret(&meta(json!({"name": "tls"})), &json!({})).row, None);
}

/// Where a request goes, by the rows alone: the longest path that matches, exact before prefix; then the default.
fn served(row: &Ingress, name: &str, at: &str) -> Option<IngressBackend> {
    let rules = || row.rules.iter().filter(|r| r.host.as_ref().is_none_or(|h| h.matches(name)));
    let best = rules().flat_map(|r| &r.paths).filter(|p| match p.kind {
        PathKind::Exact => p.path == at,
        _ => p.path == "/" || at == p.path || at.starts_with(&format!("{}/", p.path.trim_end_matches('/'))),
    });
    let best = best.max_by_key(|p| (p.path.len(), p.kind == PathKind::Exact));
    best.map(|p| p.backend.clone()).or_else(|| row.default_backend.clone())
}

fn garbage() -> impl Strategy<Value = Value> {
    let all = vec![
        json!("x y"),
        json!(-7),
        json!(true),
        json!(0.5),
        json!([-7]),
        json!([null]),
        json!({"?": 1}),
        json!("\u{0}\n".repeat(300)),
    ];
    prop::sample::select(all)
}

proptest! {
    #[test]
    fn a_backend_that_cannot_be_read_gives_its_requests_to_nobody_else(bad in garbage(), rule in 0usize..3) {
        let good = row(whole());
        let mut spoiled = whole();
        *spoiled.pointer_mut(&format!("/rules/{rule}/http/paths/0/backend")).unwrap() = bad;
        let (spoiled, refused) = judged(spoiled);
        prop_assert!(!refused.is_empty());
        for name in ["foo.bar.com", "a.foo.com", "empty.foo.com", "other.example"] {
            for at in ["/", "/bar", "/bar/x", "/bar/y", "/icons/1"] {
                let now = served(&spoiled, name, at);
                prop_assert!(now == served(&good, name, at) || now == Some(IngressBackend::Unreadable), "{name}{at}");
            }
        }
    }

    #[test]
    fn no_ingress_class_or_secret_can_panic_the_door(
        data in spoiled(json!({"spec": whole(), "data": {"tls.key": "eA==", "auth": "eA=="}, "type": "x"})),
        other in any_json(), name in "\\PC{0,20}",
    ) {
        for data in [&data, &other, &json!({ "spec": other }), &json!({ "data": other })] {
            let of_any_name = meta(json!({"name": name, "namespace": name,
                "annotations": {"kubernetes.io/ingress.class": name, "ingress.warren.dev/x": name}}));
            for m in [&named(), &of_any_name] {
                let got = ingress(m, data);
                if let Some(row) = &got.row {
                    prop_assert!(row.rules.iter().flat_map(|r| &r.paths).all(|p| p.path.starts_with('/')));
                    let text = serde_json::to_string(row).unwrap();
                    prop_assert_eq!(&serde_json::from_str::<Ingress>(&text).unwrap(), row);
                }
                let secret = secret(m, data);
                if let Some(row) = &secret.row {
                    let text = serde_json::to_string(row).unwrap();
                    prop_assert_eq!(&serde_json::from_str::<SecretObject>(&text).unwrap(), row);
                }
                for refused in [got.refused, secret.refused, ingress_class(m, data).refused] {
                    prop_assert!(refused.len() <= MAX_REFUSALS);
                    for r in &refused {
                        prop_assert!(r.reason.chars().count() <= 200 && !r.reason.contains('\n'));
                    }
                }
            }
        }
    }
}
