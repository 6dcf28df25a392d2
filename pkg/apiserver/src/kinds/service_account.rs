//! v1 ServiceAccount. This server gives out no tokens for them; they are kept for those who name them.

use jiff::Timestamp;
use serde_json::Value;

use crate::proto::{META, Type};
use crate::registry::{Kind, PLAIN, typed};
use crate::table::{Column, age, list, text};

/// The row.
pub(crate) const KIND: Kind = Kind {
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short: &["sa"],
    kind: "ServiceAccount",
    unconditional_update: false,
    returns_deleted: true,
    typed: typed::<k8s_openapi::api::core::v1::ServiceAccount>,
    proto: Some(&[
        (1, "metadata", Type::Message(META)),
        (2, "secrets", Type::List(&Type::Message(crate::proto::OBJECT_REFERENCE))),
        (3, "imagePullSecrets", Type::List(&Type::Message(&[(1, "name", Type::Text)]))),
        (4, "automountServiceAccountToken", Type::Bool),
    ]),
    columns: &[Column::NAME, Column::text("Secrets", "Number of secrets."), Column::AGE],
    cells,
    ..PLAIN
};

fn cells(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![text(o, "/metadata/name").into(), list(o, "/secrets").len().to_string().into(), age(o, now)]
}
