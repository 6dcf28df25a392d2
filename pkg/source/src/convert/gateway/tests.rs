//! The door of the Gateway API: what is understood, what is said of the rest, and that nothing panics.

use super::super::{gateway, gateway_class, grpc_route, http_route, reference_grant};
use super::*;
use proptest::prelude::*;
use serde_json::json;
use warren_types::{GatewayRoute, PathChange, Requirement, RouteKind, RouteRule, Selector};

fn object(value: Value) -> (ObjectMeta, Value) {
    let object: crate::Object = serde_json::from_value(value).unwrap();
    (object.metadata, object.data)
}

fn with_spec(spec: Value) -> (ObjectMeta, Value) {
    object(json!({"metadata": {"name": "x", "namespace": "shop", "uid": "u", "generation": 7,
        "creationTimestamp": "1970-01-01T00:00:09Z"}, "spec": spec}))
}

fn listener_of(listener: Value) -> Listener {
    let (meta, data) = with_spec(json!({"gatewayClassName": "warren", "listeners": [listener]}));
    let converted = gateway(&meta, &data);
    converted.row.unwrap().listeners.remove(0)
}

fn route_of(spec: Value) -> GatewayRoute {
    let (meta, data) = with_spec(spec);
    http_route(&meta, &data).row.unwrap().0
}

fn rule_of(rule: Value) -> RouteRule {
    route_of(json!({"rules": [rule]})).rules.remove(0)
}

#[test]
fn a_gateway_is_read_with_its_listeners() {
    let (meta, data) = with_spec(json!({"gatewayClassName": "warren", "listeners": [
        {"name": "http", "port": 80, "protocol": "HTTP"},
        {"name": "https", "port": 443, "protocol": "HTTPS", "hostname": "*.example.org",
            "tls": {"mode": "Terminate", "certificateRefs": [{"name": "a"}, {"kind": "Secret", "group": "", "namespace": "vault", "name": "b"}]},
            "allowedRoutes": {"namespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "web"}}},
                "kinds": [{"kind": "HTTPRoute"}]}}]}));
    let Converted { row, refused } = gateway(&meta, &data);
    assert_eq!(refused, []);
    let row = row.unwrap();
    assert_eq!((row.key.to_string(), row.generation, row.refused.clone()), ("shop/x".into(), 7, None));
    let [plain, secure] = row.listeners.as_slice() else { panic!() };
    assert_eq!((plain.from.clone(), plain.host.clone(), plain.port), (AllowedNamespaces::Same, None, 80));
    let refs: Vec<String> =
        secure.certificates.iter().map(|c| format!("{}/{}", c.namespace, c.name)).collect();
    assert_eq!(refs, ["shop/a", "vault/b"]);
    let team = Selector::new([Requirement::In("team".into(), ["web".to_owned()].into())]);
    assert_eq!(secure.from, AllowedNamespaces::Selector(team));
    assert_eq!(secure.kinds, [GroupKind { group: GATEWAY_GROUP.into(), kind: "HTTPRoute".into() }]);
    assert_eq!(secure.refused, None);
}

#[test]
fn what_restricts_and_is_not_understood_forbids_to_serve() {
    for (spec, reason) in [
        (json!({"addresses": [{"value": "192.0.2.1"}]}), "UnsupportedAddress"),
        (json!({"infrastructure": {"parametersRef": {"name": "x"}}}), "InvalidParameters"),
        (json!({"tls": {"frontend": {}}}), "Invalid"),
        (json!({"something": 1}), "Invalid"),
    ] {
        let mut whole = json!({"gatewayClassName": "warren", "listeners": []});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let (meta, data) = with_spec(whole);
        assert_eq!(gateway(&meta, &data).row.unwrap().refused.unwrap().reason, reason, "{spec}");
    }
    for harmless in
        [json!({"addresses": []}), json!({"infrastructure": {"labels": {"a": "b"}}}), json!({"tls": null})]
    {
        let mut whole = json!({"gatewayClassName": "warren", "listeners": []});
        whole.as_object_mut().unwrap().extend(harmless.as_object().unwrap().clone());
        let (meta, data) = with_spec(whole);
        assert_eq!(gateway(&meta, &data).row.unwrap().refused, None, "{harmless}");
    }
    let tls = |tls: Value| json!({"name": "a", "port": 443, "protocol": "HTTPS", "tls": tls});
    for (listener, word) in [
        (tls(json!({"mode": "Passthrough"})), "Passthrough"),
        (tls(json!({"options": {"min": "1.3"}})), "options"),
        (tls(json!({"frontendValidation": {}})), "frontendValidation"),
        (json!({"name": "a", "port": 80, "protocol": "HTTP", "hostname": "192.0.2.1"}), "hostname"),
        (json!({"name": "a", "port": 80, "protocol": "HTTP", "odd": true}), "odd"),
        (
            json!({"name": "a", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "x"}}}),
            "from",
        ),
        (json!({"name": "a", "protocol": "HTTP"}), "port"),
    ] {
        let row = listener_of(listener);
        assert!(row.refused.clone().unwrap().contains(word), "{row:?}");
    }
}

#[test]
fn a_route_is_read_with_its_rules() {
    let row = route_of(json!({
        "parentRefs": [{"name": "gw", "namespace": "infra", "sectionName": "https", "port": 443}],
        "hostnames": ["a.example.org", "*.example.org"],
        "rules": [{
            "matches": [{"path": {"type": "Exact", "value": "/x"}, "method": "POST",
                "headers": [{"name": "Version", "value": "2"}, {"name": "version", "value": "3"}],
                "queryParams": [{"name": "q", "value": "1"}]}, {}],
            "filters": [
                {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "A", "value": "1"}], "remove": ["B"]}},
                {"type": "URLRewrite", "urlRewrite": {"hostname": "in.example", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/y"}}}],
            "backendRefs": [{"name": "a", "port": 80, "weight": 3}, {"name": "b", "namespace": "store", "port": 81}],
            "timeouts": {"request": "1m30s", "backendRequest": "0s"}}]}));
    assert_eq!((row.created, row.generation, row.hosts.len()), (9, 7, 2));
    let parent = &row.parents[0];
    assert_eq!((parent.section.as_deref(), parent.port), (Some("https"), Some(443)));
    let rule = &row.rules[0];
    assert_eq!(rule.unsupported, None);
    let [first, second] = rule.matches.as_slice() else { panic!() };
    assert_eq!((first.path.as_str(), first.exact, first.method.as_deref()), ("/x", true, Some("POST")));
    assert_eq!(first.headers, [("version".to_owned(), "2".to_owned())], "the first of a name counts");
    assert_eq!((second.path.as_str(), second.exact, second.method.as_deref()), ("/", false, None));
    assert_eq!(rule.filters.request.set, [("a".to_owned(), "1".to_owned())]);
    assert_eq!(rule.filters.path, Some(PathChange::Prefix("/y".into())));
    assert_eq!((rule.request_timeout, rule.backend_timeout), (Some(90_000), None));
    let backends: Vec<(String, u32)> = rule
        .backends
        .iter()
        .map(|b| (format!("{}/{}", b.target.namespace, b.target.name), b.weight))
        .collect();
    assert_eq!(backends, [("shop/a".to_owned(), 3), ("store/b".to_owned(), 1)]);
}

#[test]
fn what_a_rule_says_that_is_not_supported_is_said_and_its_other_matches_stay() {
    for (rule, word) in [
        (
            json!({"matches": [{"path": {"type": "RegularExpression", "value": "/a.*"}}, {"path": {"value": "/b"}}]}),
            "RegularExpression",
        ),
        (
            json!({"matches": [{"headers": [{"type": "RegularExpression", "name": "a", "value": "b"}]}, {}]}),
            "RegularExpression",
        ),
        (json!({"matches": [{"path": {"value": "/a//b"}}, {}]}), "path.value"),
        (json!({"matches": [{"odd": 1}, {}]}), "odd"),
        (json!({"filters": [{"type": "RequestMirror", "requestMirror": {}}]}), "RequestMirror"),
        (json!({"filters": [{"type": "ExtensionRef", "extensionRef": {}}]}), "ExtensionRef"),
        (json!({"filters": [{"type": "CORS", "cors": {}}]}), "CORS"),
        (
            json!({"filters": [
            {"type": "RequestRedirect", "requestRedirect": {}}, {"type": "URLRewrite", "urlRewrite": {}}]}),
            "exclude",
        ),
        (json!({"filters": [{"type": "RequestRedirect", "requestRedirect": {"statusCode": 200}}]}), "200"),
        (
            json!({"filters": [{"type": "RequestRedirect", "requestRedirect": {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/a?b"}}}]}),
            "replacement",
        ),
        (
            json!({"filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "a b", "value": "1"}]}}]}),
            "header",
        ),
        (
            json!({"backendRefs": [{"name": "a", "port": 80, "filters": [{"type": "RequestMirror"}]}]}),
            "single backend",
        ),
        (json!({"backendRefs": [{"name": "a", "port": 80, "weight": -1}]}), "weight"),
        (json!({"sessionPersistence": {}}), "sessionPersistence"),
        (json!({"timeouts": {"request": "1d"}}), "duration"),
        (json!({"timeouts": {"request": ""}}), "duration"),
    ] {
        let row = rule_of(rule);
        assert!(row.unsupported.clone().unwrap().contains(word), "{row:?} {word}");
        assert_eq!(row.matches.len(), 1, "{row:?}");
    }
    let row = route_of(json!({"hostnames": ["192.0.2.1"]}));
    assert!(row.hosts.is_empty() && row.hosts_refused.is_some(), "no host is not every host");
}

#[test]
fn methods_of_grpc_are_paths() {
    let of = |method: Value| {
        let (meta, data) = with_spec(json!({"rules": [{"matches": [{"method": method}]}]}));
        let row = grpc_route(&meta, &data).row.unwrap().0;
        assert_eq!(row.kind, RouteKind::Grpc);
        let rule = &row.rules[0];
        let found = rule.matches.first().map(|m| format!("{}{}", if m.exact { "=" } else { "" }, m.path));
        found.or(rule.unsupported.clone()).unwrap()
    };
    assert_eq!(of(json!({"service": "pkg.Svc", "method": "Do"})), "=/pkg.Svc/Do");
    assert_eq!(of(json!({"service": "pkg.Svc", "type": "Exact"})), "/pkg.Svc");
    assert_eq!(of(json!(null)), "/");
    assert!(of(json!({"method": "Do"})).contains("method.service"));
    assert!(of(json!({"type": "RegularExpression", "service": "a"})).contains("RegularExpression"));
}

#[test]
fn classes_and_grants_are_read() {
    let (meta, data) = object(json!({"metadata": {"name": "warren", "generation": 2},
        "spec": {"controllerName": "warren.dev/gateway-controller", "parametersRef": {"name": "x"}}}));
    let row = gateway_class(&meta, &data).row.unwrap();
    assert_eq!((row.controller.as_str(), row.has_parameters), ("warren.dev/gateway-controller", true));
    let (meta, data) = with_spec(json!({
        "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"}, {"kind": "HTTPRoute", "namespace": "Bad_"}],
        "to": [{"group": "", "kind": "Service"}, {"group": "", "kind": "Secret", "name": "a"}]}));
    let Converted { row, refused } = reference_grant(&meta, &data);
    let row = row.unwrap();
    assert_eq!((row.from.len(), row.to.len(), refused.len()), (1, 2, 1));
    let (meta, data) = with_spec(json!({"from": [], "to": [], "unless": 1}));
    assert_eq!(reference_grant(&meta, &data).row, None, "a condition that is not known");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "\\PC{0,8}|/[a-z./]{0,8}|[a-z.]{1,8}|(Exact|PathPrefix|HTTP|Same|URLRewrite)".prop_map(Value::from),
    ];
    let key = "(name|spec|listeners|rules|matches|path|type|value|port|protocol|hostname|filters|urlRewrite|backendRefs|\
        parentRefs|hostnames|tls|certificateRefs|from|to|kind|group|namespace|timeouts|request|gatewayClassName|headers|method)";
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..6).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_panics_and_rows_can_be_stored(spec in any_json()) {
        let (meta, data) = with_spec(spec);
        let through = |text: String, again: Result<String, serde_json::Error>| again.is_ok_and(|again| again == text);
        if let Some(row) = gateway(&meta, &data).row {
            let text = serde_json::to_string(&row).unwrap();
            let again = serde_json::from_str::<Gateway>(&text).and_then(|row| serde_json::to_string(&row));
            prop_assert!(through(text, again));
        }
        if let Some(row) = http_route(&meta, &data).row {
            let text = serde_json::to_string(&row).unwrap();
            let again = serde_json::from_str::<warren_types::HttpRoute>(&text).and_then(|row| serde_json::to_string(&row));
            prop_assert!(through(text, again));
        }
        let _ = (gateway_class(&meta, &data), grpc_route(&meta, &data), reference_grant(&meta, &data));
    }
}
