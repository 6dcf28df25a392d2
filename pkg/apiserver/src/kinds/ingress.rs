//! networking.k8s.io/v1 Ingress.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::rules;
use crate::error::Causes;
use crate::proto::{META, Schema, Type};
use crate::registry::{Kind, PLAIN, typed};
use crate::table::{Column, age, list, or, text};

/// The row.
pub(crate) const KIND: Kind = Kind {
    group: "networking.k8s.io",
    plural: "ingresses",
    singular: "ingress",
    short: &["ing"],
    kind: "Ingress",
    status: true,
    generation: true,
    typed: typed::<k8s_openapi::api::networking::v1::Ingress>,
    proto: Some(&[(1, "metadata", Type::Message(META)), (2, "spec", Type::Message(SPEC))]),
    create,
    validate,
    columns: &[
        Column::NAME,
        Column::text("Class", "Which controller serves it."),
        Column::text("Hosts", "Hosts of its rules."),
        Column::text("Address", "Where it is served."),
        Column::text("Ports", "Ports it is served at."),
        Column::AGE,
    ],
    cells,
    ..PLAIN
};

const BACKEND: Schema = &[
    (
        3,
        "resource",
        Type::Message(&[(1, "apiGroup", Type::Text), (2, "kind", Type::Text), (3, "name", Type::Text)]),
    ),
    (
        4,
        "service",
        Type::Message(&[
            (1, "name", Type::Text),
            (2, "port", Type::Message(&[(1, "name", Type::Text), (2, "number", Type::Int)])),
        ]),
    ),
];
const PATH: Schema =
    &[(1, "path", Type::Text), (2, "backend", Type::Message(BACKEND)), (3, "pathType", Type::Text)];
const RULE: Schema = &[
    (1, "host", Type::Text),
    (2, "", Type::Inline(&[(1, "http", Type::Message(&[(1, "paths", Type::List(&Type::Message(PATH)))]))])),
];
const TLS: Schema = &[(1, "hosts", Type::List(&Type::Text)), (2, "secretName", Type::Text)];
const SPEC: Schema = &[
    (1, "defaultBackend", Type::Message(BACKEND)),
    (2, "tls", Type::List(&Type::Message(TLS))),
    (3, "rules", Type::List(&Type::Message(RULE))),
    (4, "ingressClassName", Type::Text),
];

const CLASS_ANNOTATION: &str = "/metadata/annotations/kubernetes.io~1ingress.class";
const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
const BAD_SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const BAD_ENDS: [&str; 2] = ["/..", "/."];

fn create(o: &mut Value) {
    o["status"] = json!({ "loadBalancer": {} });
}

fn present<'a>(o: &'a Value, pointer: &str) -> Option<&'a Value> {
    o.pointer(pointer).filter(|v| !v.is_null())
}

fn validate(o: &Value, causes: &mut Causes) {
    let class = text(o, "/spec/ingressClassName");
    // Rules of a new ingress only: a stored one may have been written before they were kept.
    let annotation = text(o, CLASS_ANNOTATION);
    if !annotation.is_empty() && !class.is_empty() && text(o, "/metadata/resourceVersion").is_empty() {
        let rule = "can not be set when the class field is also set";
        causes.invalid("metadata.annotations[kubernetes.io/ingress.class]", annotation, rule);
    }
    if present(o, "/spec/ingressClassName").is_some() {
        rules::dns_subdomain("spec.ingressClassName", class, causes);
    }
    let ingress_rules = list(o, "/spec/rules");
    let backend = present(o, "/spec/defaultBackend");
    if ingress_rules.is_empty() && backend.is_none() {
        let rule = "either `defaultBackend` or `rules` must be specified";
        causes.invalid_value("spec", &json!(ingress_rules), rule);
    }
    if let Some(backend) = backend {
        validate_backend(backend, "spec.defaultBackend", causes);
    }
    for (i, rule) in ingress_rules.iter().enumerate() {
        let at = format!("spec.rules[{i}]");
        let name = text(rule, "/host");
        if name.parse::<std::net::IpAddr>().is_ok() {
            causes.invalid(&format!("{at}.host"), name, "must be a DNS name, not an IP address");
        } else if !name.is_empty() {
            rules::host(&format!("{at}.host"), name, causes);
        }
        if let Some(http) = present(rule, "/http") {
            let paths = list(http, "/paths");
            if paths.is_empty() {
                causes.required(&format!("{at}.http.paths"), "");
            }
            for (j, path) in paths.iter().enumerate() {
                validate_path(path, &format!("{at}.http.paths[{j}]"), causes);
            }
        }
    }
    for (i, tls) in list(o, "/spec/tls").iter().enumerate() {
        for (j, name) in list(tls, "/hosts").iter().filter_map(Value::as_str).enumerate() {
            rules::host(&format!("spec.tls[{i}].hosts[{j}]"), name, causes);
        }
        let secret = text(tls, "/secretName");
        if !secret.is_empty() {
            rules::dns_subdomain(&format!("spec.tls[{i}].secretName"), secret, causes);
        }
    }
    rules::load_balancer(o, causes);
}

fn validate_path(path: &Value, at: &str, causes: &mut Causes) {
    let (field, value) = (format!("{at}.path"), text(path, "/path"));
    match path.get("pathType").and_then(Value::as_str) {
        None => causes.required(&format!("{at}.pathType"), "pathType must be specified"),
        Some("Exact" | "Prefix") => {
            if !value.starts_with('/') {
                causes.invalid(&field, value, "must be an absolute path");
            }
            for bad in BAD_SEQUENCES.iter().filter(|bad| value.contains(**bad)) {
                causes.invalid(&field, value, format_args!("must not contain '{bad}'"));
            }
            for bad in BAD_ENDS.iter().filter(|bad| value.ends_with(**bad)) {
                causes.invalid(&field, value, format_args!("cannot end with '{bad}'"));
            }
        }
        Some("ImplementationSpecific") => {
            if !value.is_empty() && !value.starts_with('/') {
                causes.invalid(&field, value, "must be an absolute path");
            }
        }
        Some(other) => causes.unsupported(&format!("{at}.pathType"), other, PATH_TYPES),
    }
    validate_backend(path.get("backend").unwrap_or(&Value::Null), &format!("{at}.backend"), causes);
}

fn validate_backend(backend: &Value, at: &str, causes: &mut Causes) {
    match (present(backend, "/service"), present(backend, "/resource")) {
        (Some(_), Some(_)) => {
            causes.invalid(at, "", "cannot set both resource and service backends");
        }
        (None, None) => causes.required(at, "resource or service backend is required"),
        (Some(service), None) => {
            let name = text(service, "/name");
            if name.is_empty() {
                causes.required(&format!("{at}.service.name"), "");
            } else {
                rules::dns_label(&format!("{at}.service.name"), name, causes);
            }
            let port_name = text(service, "/port/name");
            let number = present(service, "/port/number").filter(|n| n.as_i64() != Some(0));
            match (port_name, number) {
                ("", None) => causes.required(at, "port name or number is required"),
                ("", Some(number)) => {
                    rules::port_number(&format!("{at}.service.port.number"), number, causes);
                }
                (name, None) => rules::port_name(&format!("{at}.service.port.name"), name, causes),
                _ => causes.invalid(at, "", "cannot set both port name & port number"),
            }
        }
        (None, Some(resource)) => {
            for key in ["kind", "name"] {
                if text(resource, &format!("/{key}")).is_empty() {
                    causes.required(&format!("{at}.resource.{key}"), "");
                }
            }
            let group = text(resource, "/apiGroup");
            if !group.is_empty() {
                rules::dns_subdomain(&format!("{at}.resource.apiGroup"), group, causes);
            }
        }
    }
}

fn cells(o: &Value, now: Timestamp) -> Vec<Value> {
    let all: Vec<&str> =
        list(o, "/spec/rules").iter().map(|r| text(r, "/host")).filter(|h| !h.is_empty()).collect();
    let hosts = match all.len() {
        0 => "*".to_owned(),
        n if n > 3 => format!("{} + {} more...", all[..3].join(","), n - 3),
        _ => all.join(","),
    };
    let ports = if list(o, "/spec/tls").is_empty() { "80" } else { "80, 443" };
    vec![
        text(o, "/metadata/name").into(),
        or(or(text(o, "/spec/ingressClassName"), text(o, CLASS_ANNOTATION)), "<none>").into(),
        hosts.into(),
        rules::load_balancer_addresses(o).join(",").into(),
        ports.into(),
        age(o, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(o: &Value) -> Vec<String> {
        let mut causes = Causes::default();
        validate(o, &mut causes);
        causes.0.into_iter().map(|c| format!("{} {}", c.field, c.reason)).collect()
    }

    #[test]
    fn every_rule() {
        let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
        let path = |p: &str, t: &str| json!({"rules": [{"http": {"paths": [{"path": p, "pathType": t, "backend": backend}]}}]});
        let to = |b: Value| json!({"defaultBackend": b});
        let host = |h: &str| json!({"rules": [{"host": h}]});
        let at = "spec.rules[0].http.paths[0]";
        for (spec, expected) in [
            (path("/", "Prefix"), vec![]),
            (path("/a.b/../c", "ImplementationSpecific"), vec![]),
            (path("", "ImplementationSpecific"), vec![]),
            (path("a", "ImplementationSpecific"), vec![format!("{at}.path FieldValueInvalid")]),
            (path("", "Exact"), vec![format!("{at}.path FieldValueInvalid")]),
            (path("/a//b", "Exact"), vec![format!("{at}.path FieldValueInvalid")]),
            (path("/a/../b", "Prefix"), vec![format!("{at}.path FieldValueInvalid")]),
            (path("/a%2fb", "Prefix"), vec![format!("{at}.path FieldValueInvalid")]),
            (path("/a/.", "Prefix"), vec![format!("{at}.path FieldValueInvalid")]),
            (path("/", "Regex"), vec![format!("{at}.pathType FieldValueNotSupported")]),
            (
                json!({"rules": [{"http": {"paths": [{"path": "/", "backend": backend}]}}]}),
                vec![format!("{at}.pathType FieldValueRequired")],
            ),
            (
                json!({"rules": [{"http": {"paths": []}}]}),
                vec!["spec.rules[0].http.paths FieldValueRequired".into()],
            ),
            (json!({}), vec!["spec FieldValueInvalid".into()]),
            (to(backend.clone()), vec![]),
            (to(json!({})), vec!["spec.defaultBackend FieldValueRequired".into()]),
            (to(json!({"resource": {"kind": "B", "name": "b"}})), vec![]),
            (
                to(
                    json!({"service": {"name": "s", "port": {"number": 80}}, "resource": {"kind": "B", "name": "b"}}),
                ),
                vec!["spec.defaultBackend FieldValueInvalid".into()],
            ),
            (to(json!({"service": {"name": "s"}})), vec!["spec.defaultBackend FieldValueRequired".into()]),
            (
                to(json!({"service": {"name": "s", "port": {"number": 80, "name": "http"}}})),
                vec!["spec.defaultBackend FieldValueInvalid".into()],
            ),
            (
                to(json!({"service": {"name": "s", "port": {"number": 70000}}})),
                vec!["spec.defaultBackend.service.port.number FieldValueInvalid".into()],
            ),
            (
                to(json!({"service": {"name": "s", "port": {"name": "HTTP"}}})),
                vec!["spec.defaultBackend.service.port.name FieldValueInvalid".into(); 2],
            ),
            (host("*.a.example"), vec![]),
            (host("a.example"), vec![]),
            (host("*"), vec!["spec.rules[0].host FieldValueInvalid".into()]),
            (host("a.*.example"), vec!["spec.rules[0].host FieldValueInvalid".into()]),
            (host("10.0.0.1"), vec!["spec.rules[0].host FieldValueInvalid".into()]),
            (
                json!({"defaultBackend": backend, "tls": [{"hosts": ["*.a", "-"], "secretName": "S"}]}),
                vec![
                    "spec.tls[0].hosts[1] FieldValueInvalid".into(),
                    "spec.tls[0].secretName FieldValueInvalid".into(),
                ],
            ),
            (
                json!({"defaultBackend": backend, "ingressClassName": "X"}),
                vec!["spec.ingressClassName FieldValueInvalid".into()],
            ),
        ] {
            assert_eq!(faults(&json!({"spec": spec})), expected, "{spec}");
        }
    }

    #[test]
    fn the_class_is_named_once() {
        let mut o = json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "a"}},
            "spec": {"ingressClassName": "b", "defaultBackend": {"resource": {"kind": "B", "name": "b"}}}});
        assert_eq!(faults(&o), ["metadata.annotations[kubernetes.io/ingress.class] FieldValueInvalid"]);
        o["metadata"]["resourceVersion"] = "5".into();
        assert!(faults(&o).is_empty());
    }

    #[test]
    fn the_table() {
        let o = json!({"metadata": {"name": "i"}, "spec": {"ingressClassName": "c", "tls": [{}], "rules": [{"host": "a"}, {"host": "b"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "x"}]}}});
        assert_eq!(cells(&o, Timestamp::UNIX_EPOCH)[..5], ["i", "c", "a,b", "192.0.2.1,x", "80, 443"]);
    }
}
