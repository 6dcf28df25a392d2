//! v1 Namespace.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{default, object};
use crate::proto::{META, Type};
use crate::registry::{Kind, NameRule, PLAIN, typed};
use crate::table::{Column, age, or, text};

/// The row.
pub(crate) const KIND: Kind = Kind {
    plural: "namespaces",
    singular: "namespace",
    short: &["ns"],
    kind: "Namespace",
    namespaced: false,
    status: true,
    names: NameRule::Label,
    fields: &[("status.phase", "/status/phase")],
    typed: typed::<k8s_openapi::api::core::v1::Namespace>,
    proto: Some(&[
        (1, "metadata", Type::Message(META)),
        (2, "spec", Type::Message(&[(1, "finalizers", Type::List(&Type::Text))])),
        (3, "status", Type::Message(&[(1, "phase", Type::Text)])),
    ]),
    default: defaults,
    create,
    columns: &[Column::NAME, Column::text("Status", "Active or Terminating."), Column::AGE],
    cells,
    ..PLAIN
};

/// The label that every namespace carries, with its own name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

fn defaults(value: &mut Value) {
    let name = text(value, "/metadata/name").to_owned();
    if !name.is_empty()
        && let Value::Object(labels) = &mut value["metadata"]["labels"]
    {
        labels.insert(NAME_LABEL.into(), name.into());
    } else if !name.is_empty() {
        value["metadata"]["labels"] = json!({ NAME_LABEL: name });
    }
    default(object(value, "spec"), "finalizers", json!(["kubernetes"]));
}

fn create(value: &mut Value) {
    value["status"] = json!({ "phase": "Active" });
}

fn cells(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![text(o, "/metadata/name").into(), or(text(o, "/status/phase"), "Active").into(), age(o, now)]
}
