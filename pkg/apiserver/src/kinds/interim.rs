//! Rows of Service, EndpointSlice, Endpoints and ServiceAccount without rules of their own.

use jiff::Timestamp;
use serde_json::Value;

use super::{any_change, anything, nothing};
use crate::registry::{Kind, NameRule, typed};
use crate::table::{Column, age, text};

const fn row(
    group: &'static str,
    kind: &'static str,
    singular: &'static str,
    plural: &'static str,
    typed: fn(Value) -> Result<Value, serde_json::Error>,
) -> Kind {
    Kind {
        group,
        version: "v1",
        plural,
        singular,
        short: &[],
        kind,
        categories: &[],
        namespaced: true,
        status: false,
        generation: false,
        unconditional_update: true,
        returns_deleted: false,
        names: NameRule::Subdomain,
        fields: &[],
        typed,
        proto: None,
        default: nothing,
        create: nothing,
        validate: anything,
        validate_update: any_change,
        columns: &[Column::NAME, Column::AGE],
        cells,
    }
}

pub(crate) const SERVICE: Kind =
    row("", "Service", "service", "services", typed::<k8s_openapi::api::core::v1::Service>);
pub(crate) const ENDPOINTS: Kind =
    row("", "Endpoints", "endpoints", "endpoints", typed::<k8s_openapi::api::core::v1::Endpoints>);
pub(crate) const ENDPOINT_SLICE: Kind = row(
    "discovery.k8s.io",
    "EndpointSlice",
    "endpointslice",
    "endpointslices",
    typed::<k8s_openapi::api::discovery::v1::EndpointSlice>,
);
pub(crate) const SERVICE_ACCOUNT: Kind = row(
    "",
    "ServiceAccount",
    "serviceaccount",
    "serviceaccounts",
    typed::<k8s_openapi::api::core::v1::ServiceAccount>,
);

fn cells(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![text(o, "/metadata/name").into(), age(o, now)]
}
