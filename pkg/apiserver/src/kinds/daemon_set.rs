//! apps/v1 DaemonSet. This server runs no pods: the objects are kept for those who apply whole manifests.

use jiff::Timestamp;
use serde_json::Value;

use super::{default_text, immutable, object, rules};
use crate::error::Causes;
use crate::registry::{Kind, PLAIN, typed};
use crate::table::{Column, age, list, text};

/// The row.
pub(crate) const KIND: Kind = Kind {
    group: "apps",
    plural: "daemonsets",
    singular: "daemonset",
    short: &["ds"],
    kind: "DaemonSet",
    categories: &["all"],
    status: true,
    generation: true,
    typed: typed::<k8s_openapi::api::apps::v1::DaemonSet>,
    default: defaults,
    validate,
    validate_update,
    columns: &[
        Column::NAME,
        Column::text("Desired", "Number of nodes that should run the pod."),
        Column::text("Ready", "Number of nodes whose pod is ready."),
        Column::AGE,
    ],
    cells,
    ..PLAIN
};

fn defaults(value: &mut Value) {
    let spec = object(value, "spec");
    super::default(spec, "revisionHistoryLimit", 10);
    let strategy = spec.entry("updateStrategy").or_insert_with(|| serde_json::json!({}));
    if let Value::Object(strategy) = strategy {
        default_text(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = strategy.entry("rollingUpdate").or_insert_with(|| serde_json::json!({}));
            if let Value::Object(rolling) = rolling {
                super::default(rolling, "maxUnavailable", 1);
                super::default(rolling, "maxSurge", 0);
            }
        }
    }
}

fn validate(o: &Value, causes: &mut Causes) {
    let (selector, labels) =
        (o.pointer("/spec/selector"), o.pointer("/spec/template/metadata/labels").unwrap_or(&Value::Null));
    match selector.filter(|s| s.as_object().is_some_and(|s| !s.is_empty())) {
        None => causes.required("spec.selector", "an empty selector is not valid for a daemonset"),
        Some(selector) => {
            rules::label_selector("spec.selector", selector, causes);
            let wanted = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
            if wanted.clone().any(|(k, v)| labels.get(k) != Some(v)) {
                let why = "`selector` does not match template `labels`";
                causes.invalid_value("spec.template.metadata.labels", labels, why);
            }
        }
    }
    if list(o, "/spec/template/spec/containers").is_empty() {
        causes.required("spec.template.spec.containers", "");
    }
    let policy = text(o, "/spec/template/spec/restartPolicy");
    if !matches!(policy, "" | "Always") {
        causes.unsupported("spec.template.spec.restartPolicy", policy, &["Always"]);
    }
}

fn validate_update(new: &Value, old: &Value, causes: &mut Causes) {
    immutable(new, old, "/spec/selector", causes);
}

fn cells(o: &Value, now: Timestamp) -> Vec<Value> {
    let number = |at: &str| o.pointer(at).and_then(Value::as_i64).unwrap_or(0).to_string().into();
    vec![
        text(o, "/metadata/name").into(),
        number("/status/desiredNumberScheduled"),
        number("/status/numberReady"),
        age(o, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_rule() {
        let good = json!({"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}]}}});
        let with = |pointer: &str, value: Value| {
            let mut spec = good.clone();
            *spec.pointer_mut(pointer).unwrap() = value;
            spec
        };
        let mut once = good.clone();
        once["template"]["spec"]["restartPolicy"] = "Never".into();
        for (spec, expected) in [
            (good.clone(), vec![]),
            (with("/selector", json!({})), vec!["spec.selector FieldValueRequired"]),
            (
                with("/template/metadata/labels", json!({})),
                vec!["spec.template.metadata.labels FieldValueInvalid"],
            ),
            (
                with("/template/spec/containers", json!([])),
                vec!["spec.template.spec.containers FieldValueRequired"],
            ),
            (once, vec!["spec.template.spec.restartPolicy FieldValueNotSupported"]),
        ] {
            let mut o = json!({"spec": spec});
            defaults(&mut o);
            let mut causes = Causes::default();
            validate(&o, &mut causes);
            let found: Vec<String> =
                causes.0.into_iter().map(|c| format!("{} {}", c.field, c.reason)).collect();
            assert_eq!(found, expected, "{o}");
        }
    }
}
