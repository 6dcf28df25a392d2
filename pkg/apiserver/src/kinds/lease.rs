//! coordination.k8s.io/v1 Lease.

use jiff::Timestamp;
use serde_json::Value;

use crate::error::Causes;
use crate::proto::{META, Type};
use crate::registry::{Kind, PLAIN, typed};
use crate::table::{Column, age, text};

/// The row.
pub(crate) const KIND: Kind = Kind {
    group: "coordination.k8s.io",
    plural: "leases",
    singular: "lease",
    kind: "Lease",
    unconditional_update: false,
    typed: typed::<k8s_openapi::api::coordination::v1::Lease>,
    proto: Some(&[
        (1, "metadata", Type::Message(META)),
        (
            2,
            "spec",
            Type::Message(&[
                (1, "holderIdentity", Type::Text),
                (2, "leaseDurationSeconds", Type::Int),
                (3, "acquireTime", Type::MicroTime),
                (4, "renewTime", Type::MicroTime),
                (5, "leaseTransitions", Type::Int),
                (6, "strategy", Type::Text),
                (7, "preferredHolder", Type::Text),
            ]),
        ),
    ]),
    validate,
    columns: &[Column::NAME, Column::text("Holder", "Who holds the lease."), Column::AGE],
    cells,
    ..PLAIN
};

fn validate(o: &Value, causes: &mut Causes) {
    if let Some(n) = o.pointer("/spec/leaseDurationSeconds").and_then(Value::as_i64).filter(|n| *n <= 0) {
        causes.invalid("spec.leaseDurationSeconds", n, "must be greater than 0");
    }
    if let Some(n) = o.pointer("/spec/leaseTransitions").and_then(Value::as_i64).filter(|n| *n < 0) {
        causes.invalid("spec.leaseTransitions", n, "must be greater than or equal to 0");
    }
}

fn cells(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![text(o, "/metadata/name").into(), text(o, "/spec/holderIdentity").into(), age(o, now)]
}
