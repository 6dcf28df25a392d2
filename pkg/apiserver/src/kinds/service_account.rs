//! v1 ServiceAccount. This server gives out no tokens for them; they are kept for those who name them.

use jiff::Timestamp;
use serde_json::Value;

use super::{any_change, anything, nothing, nothing_kept};
use crate::proto::{META, Type};
use crate::registry::{Kind, NameRule, typed};
use crate::table::{Column, age, list, text};

/// The row.
pub(crate) const KIND: Kind = Kind {
    group: "",
    version: "v1",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short: &["sa"],
    kind: "ServiceAccount",
    categories: &[],
    namespaced: true,
    status: false,
    generation: false,
    unconditional_update: false,
    returns_deleted: true,
    names: NameRule::Subdomain,
    fields: &[],
    typed: typed::<k8s_openapi::api::core::v1::ServiceAccount>,
    proto: Some(&[
        (1, "metadata", Type::Message(META)),
        (2, "secrets", Type::List(&Type::Message(crate::proto::OBJECT_REFERENCE))),
        (3, "imagePullSecrets", Type::List(&Type::Message(&[(1, "name", Type::Text)]))),
        (4, "automountServiceAccountToken", Type::Bool),
    ]),
    default: nothing,
    create: nothing,
    carry: nothing_kept,
    validate: anything,
    validate_update: any_change,
    columns: &[Column::NAME, Column::text("Secrets", "Number of secrets."), Column::AGE],
    cells,
};

fn cells(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![text(o, "/metadata/name").into(), list(o, "/secrets").len().to_string().into(), age(o, now)]
}
