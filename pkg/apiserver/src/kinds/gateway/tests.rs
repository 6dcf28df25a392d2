//! The model against itself, and objects against the model.

use super::*;
use crate::decode;
use crate::query::FieldValidation;
use fields::{Of, TYPES};

/// What is wrong with an object, after its defaults.
fn wrong(kind: &Kind, spec: Value) -> (Value, Vec<String>) {
    let o = json!({"metadata": {"name": "x", "namespace": "d"}, "spec": spec});
    let mut o = decode::typed(kind, o, FieldValidation::Warn).unwrap().0;
    (kind.default)(&mut o);
    let mut causes = Causes::default();
    (kind.validate)(&o, &mut causes);
    let found = causes.0.into_iter().map(|c| format!("{} {}", c.field, c.reason)).collect();
    (o, found)
}

#[test]
fn every_type_that_is_named_is_there_and_every_default_is_json() {
    fn named(of: Of) -> Option<&'static str> {
        match of {
            Of::Type(name) => Some(name),
            Of::List(of, ..) => named(*of),
            _ => None,
        }
    }
    for field in TYPES.iter().flat_map(|(_, fields)| *fields) {
        if let Some(name) = named(field.of) {
            assert!(TYPES.iter().any(|(known, _)| *known == name), "{name}");
        }
        if let Some(default) = field.default {
            assert!(serde_json::from_str::<Value>(default).is_ok(), "{}", field.name);
        }
    }
}

#[test]
fn what_is_not_said_is_filled() {
    let (route, causes) = wrong(
        &HTTP_ROUTE,
        json!({"parentRefs": [{"name": "gw"}], "rules": [{"backendRefs": [{"name": "a", "port": 80}],
            "matches": [{"headers": [{"name": "a", "value": "b"}]}]}, {}], "unknown": 1}),
    );
    assert_eq!(causes, Vec::<String>::new());
    let spec = &route["spec"];
    assert_eq!(
        spec["parentRefs"][0],
        json!({"name": "gw", "group": "gateway.networking.k8s.io", "kind": "Gateway"})
    );
    assert_eq!(
        spec["rules"][0]["matches"][0],
        json!({"headers": [{"name": "a", "value": "b", "type": "Exact"}], "path": {"type": "PathPrefix", "value": "/"}})
    );
    assert_eq!(spec["rules"][0]["backendRefs"][0]["weight"], 1);
    assert_eq!(spec["rules"][1]["matches"][0]["path"]["value"], "/");
    assert!(spec.get("unknown").is_none());
    let (gateway, causes) = wrong(
        &GATEWAY,
        json!({"gatewayClassName": "warren", "listeners": [{"name": "a", "port": 443, "protocol": "HTTPS",
            "tls": {"certificateRefs": [{"name": "s"}]}}]}),
    );
    assert_eq!(causes, Vec::<String>::new());
    let listener = &gateway["spec"]["listeners"][0];
    assert_eq!(listener["allowedRoutes"]["namespaces"]["from"], "Same");
    assert_eq!(listener["tls"]["certificateRefs"][0], json!({"name": "s", "group": "", "kind": "Secret"}));
}

#[test]
fn every_rule() {
    let listener = |more: Value| {
        let mut listener = json!({"name": "a", "port": 80, "protocol": "HTTP"});
        listener.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"gatewayClassName": "warren", "listeners": [listener]})
    };
    let rule = |rule: Value| json!({"rules": [rule]});
    for (kind, spec, expected) in [
        (&CLASS, json!({}), "spec.controllerName FieldValueRequired"),
        (
            &GATEWAY,
            json!({"gatewayClassName": "warren", "listeners": []}),
            "spec.listeners FieldValueInvalid",
        ),
        (&GATEWAY, listener(json!({"port": 0})), "spec.listeners[0].port FieldValueInvalid"),
        (&GATEWAY, listener(json!({"hostname": "A_b"})), "spec.listeners[0].hostname FieldValueInvalid"),
        (&GATEWAY, listener(json!({"tls": {}})), "spec.listeners[0].tls FieldValueForbidden"),
        (
            &GATEWAY,
            listener(json!({"allowedRoutes": {"namespaces": {"from": "x"}}})),
            "spec.listeners[0].allowedRoutes.namespaces.from FieldValueNotSupported",
        ),
        (
            &HTTP_ROUTE,
            rule(json!({"backendRefs": [{"name": "a"}]})),
            "spec.rules[0].backendRefs[0].port FieldValueRequired",
        ),
        (
            &HTTP_ROUTE,
            rule(json!({"matches": [{"method": "get"}]})),
            "spec.rules[0].matches[0].method FieldValueNotSupported",
        ),
        (
            &HTTP_ROUTE,
            rule(json!({"filters": [{"type": "URLRewrite"}]})),
            "spec.rules[0].filters[0].urlRewrite FieldValueRequired",
        ),
        (
            &HTTP_ROUTE,
            rule(json!({"filters": [{"type": "RequestRedirect", "requestRedirect": {}, "urlRewrite": {}}]})),
            "spec.rules[0].filters[0].urlRewrite FieldValueForbidden",
        ),
        (
            &GRANT,
            json!({"from": [], "to": [{"group": "", "kind": "Service"}]}),
            "spec.from FieldValueInvalid",
        ),
    ] {
        assert_eq!(wrong(kind, spec.clone()).1, [expected], "{spec}");
    }
    let twice = json!({"gatewayClassName": "w", "listeners": [
        {"name": "a", "port": 80, "protocol": "HTTP"}, {"name": "a", "port": 81, "protocol": "HTTP"}]});
    assert_eq!(wrong(&GATEWAY, twice).1, ["spec.listeners[1].name FieldValueDuplicate"]);
}

#[test]
fn wrong_types_are_refused_by_place() {
    for (spec, place) in [
        (json!({"rules": {}}), ".spec.rules"),
        (json!({"rules": [{"matches": [{"path": "/"}]}]}), ".spec.rules.matches.path"),
        (json!({"rules": [{"backendRefs": [{"name": 1}]}]}), ".spec.rules.backendRefs.name"),
        (json!({"rules": [{"backendRefs": [{"name": "a", "port": "80"}]}]}), ".spec.rules.backendRefs.port"),
    ] {
        let o = json!({"metadata": {"name": "x"}, "spec": spec});
        let error = (HTTP_ROUTE.typed)(o).unwrap_err().to_string();
        assert!(error.contains(place), "{error}");
    }
}
