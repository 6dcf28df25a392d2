//! networking.k8s.io/v1 IngressClass.

use jiff::Timestamp;
use serde_json::Value;

use super::{default, object, rules};
use crate::error::Causes;
use crate::registry::{Kind, PLAIN, typed};
use crate::table::{Column, age, text};

/// The row.
pub(crate) const KIND: Kind = Kind {
    group: "networking.k8s.io",
    plural: "ingressclasses",
    singular: "ingressclass",
    kind: "IngressClass",
    namespaced: false,
    generation: true,
    typed: typed::<k8s_openapi::api::networking::v1::IngressClass>,
    default: defaults,
    validate,
    validate_update,
    columns: &[
        Column::NAME,
        Column::text("Controller", "Who serves ingresses of this class."),
        Column::text("Parameters", "The object with its parameters."),
        Column::AGE,
    ],
    cells,
    ..PLAIN
};

const CONTROLLER_LIMIT: usize = 250;

fn defaults(value: &mut Value) {
    let spec = object(value, "spec");
    if let Some(Value::Object(parameters)) = spec.get_mut("parameters") {
        default(parameters, "scope", "Cluster");
    }
}

fn validate(o: &Value, causes: &mut Causes) {
    let controller = text(o, "/spec/controller");
    let prefixed = controller.split_once('/').is_some_and(|(domain, path)| {
        crate::meta::is_dns_subdomain(domain)
            && !path.is_empty()
            && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_.~%!$&'()*+,;=:".contains(&b))
    });
    if controller.len() > CONTROLLER_LIMIT {
        causes.too_long("spec.controller", CONTROLLER_LIMIT);
    }
    if controller.is_empty() {
        causes.required("spec.controller", "");
    } else if !prefixed {
        let rule = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        causes.invalid("spec.controller", controller, rule);
    }
    let Some(parameters) = o.pointer("/spec/parameters").filter(|p| !p.is_null()) else { return };
    let at = "spec.parameters";
    let group = text(parameters, "/apiGroup");
    if !group.is_empty() {
        rules::dns_subdomain(&format!("{at}.apiGroup"), group, causes);
    }
    for key in ["kind", "name"] {
        if text(parameters, &format!("/{key}")).is_empty() {
            causes.required(&format!("{at}.{key}"), &format!("{key} is required"));
        }
    }
    let namespace = text(parameters, "/namespace");
    let field = format!("{at}.namespace");
    match text(parameters, "/scope") {
        "Namespace" if namespace.is_empty() => {
            causes.required(&field, "`parameters.scope` is set to 'Namespace'");
        }
        "Namespace" => rules::dns_label(&field, namespace, causes),
        "Cluster" if !namespace.is_empty() => {
            causes.forbidden(&field, "`parameters.scope` is set to 'Cluster'");
        }
        "Cluster" => {}
        other => causes.unsupported(&format!("{at}.scope"), other, &["Cluster", "Namespace"]),
    }
}

fn validate_update(new: &Value, old: &Value, causes: &mut Causes) {
    super::immutable(new, old, "/spec/controller", causes);
}

fn cells(o: &Value, now: Timestamp) -> Vec<Value> {
    let part = |key: &str| text(o, &format!("/spec/parameters/{key}"));
    let parameters = match (part("kind"), part("apiGroup")) {
        ("", _) => "<none>".to_owned(),
        (kind, "") => format!("{kind}/{}", part("name")),
        (kind, group) => format!("{kind}.{group}/{}", part("name")),
    };
    vec![text(o, "/metadata/name").into(), text(o, "/spec/controller").into(), parameters.into(), age(o, now)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_rule() {
        let with = |p: Value| json!({"controller": "a.example/b", "parameters": p});
        for (spec, expected) in [
            (json!({"controller": "a.example/b"}), vec![]),
            (json!({}), vec!["spec.controller FieldValueRequired"]),
            (json!({"controller": "b"}), vec!["spec.controller FieldValueInvalid"]),
            (
                json!({"controller": format!("a/{}", "b".repeat(250))}),
                vec!["spec.controller FieldValueTooLong"],
            ),
            (with(json!({"kind": "K", "name": "n"})), vec![]),
            (
                with(json!({"kind": "K", "name": "n", "namespace": "x"})),
                vec!["spec.parameters.namespace FieldValueForbidden"],
            ),
            (
                with(json!({"kind": "K", "name": "n", "scope": "Namespace"})),
                vec!["spec.parameters.namespace FieldValueRequired"],
            ),
            (
                with(json!({"name": "n", "scope": "X"})),
                vec![
                    "spec.parameters.kind FieldValueRequired",
                    "spec.parameters.scope FieldValueNotSupported",
                ],
            ),
        ] {
            let mut o = json!({"spec": spec.clone()});
            defaults(&mut o);
            let mut causes = Causes::default();
            validate(&o, &mut causes);
            let found: Vec<String> =
                causes.0.into_iter().map(|c| format!("{} {}", c.field, c.reason)).collect();
            assert_eq!(found, expected, "{spec}");
        }
    }
}
