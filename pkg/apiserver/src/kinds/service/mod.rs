//! v1 Service: the row and the table. Addresses and ports are given by [`crate::alloc`].

mod defaults;
pub(crate) mod families;
mod validate;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::rules;
use crate::proto::{META, Schema, Type};
use crate::registry::{Kind, NameRule, PLAIN, typed};
use crate::table::{Column, age, list, or, text};

/// The row.
pub(crate) const KIND: Kind = Kind {
    plural: "services",
    singular: "service",
    short: &["svc"],
    kind: "Service",
    categories: &["all"],
    status: true,
    returns_deleted: true,
    names: NameRule::Label,
    fields: &[("spec.clusterIP", "/spec/clusterIP"), ("spec.type", "/spec/type")],
    typed: typed::<k8s_openapi::api::core::v1::Service>,
    proto: Some(&[(1, "metadata", Type::Message(META)), (2, "spec", Type::Message(SPEC))]),
    default: defaults::defaults,
    create,
    carry: defaults::carry,
    validate: validate::validate,
    validate_update: validate::validate_update,
    columns: &[
        Column::NAME,
        Column::text("Type", "How the Service is reached."),
        Column::text("Cluster-IP", "Its address in the cluster."),
        Column::text("External-IP", "Its addresses outside of the cluster."),
        Column::text("Port(s)", "Its ports, with those of the nodes."),
        Column::AGE,
        Column::wide("Selector", "The pods that serve it."),
    ],
    cells,
    ..PLAIN
};

const PORT: Schema = &[
    (1, "name", Type::Text),
    (2, "protocol", Type::Text),
    (3, "port", Type::Int),
    (4, "targetPort", Type::Either),
    (5, "nodePort", Type::Int),
    (6, "appProtocol", Type::Text),
];
const SPEC: Schema = &[
    (1, "ports", Type::List(&Type::Message(PORT))),
    (2, "selector", Type::Map(&Type::Text)),
    (3, "clusterIP", Type::Text),
    (4, "type", Type::Text),
    (5, "externalIPs", Type::List(&Type::Text)),
    (7, "sessionAffinity", Type::Text),
    (8, "loadBalancerIP", Type::Text),
    (9, "loadBalancerSourceRanges", Type::List(&Type::Text)),
    (10, "externalName", Type::Text),
    (11, "externalTrafficPolicy", Type::Text),
    (12, "healthCheckNodePort", Type::Int),
    (13, "publishNotReadyAddresses", Type::Bool),
    (
        14,
        "sessionAffinityConfig",
        Type::Message(&[(1, "clientIP", Type::Message(&[(1, "timeoutSeconds", Type::Int)]))]),
    ),
    (17, "ipFamilyPolicy", Type::Text),
    (18, "clusterIPs", Type::List(&Type::Text)),
    (19, "ipFamilies", Type::List(&Type::Text)),
    (20, "allocateLoadBalancerNodePorts", Type::Bool),
    (21, "loadBalancerClass", Type::Text),
    (22, "internalTrafficPolicy", Type::Text),
    (23, "trafficDistribution", Type::Text),
];

/// `clusterIP` of a Service without an address of its own.
pub(crate) const NONE: &str = "None";

pub(crate) fn of_type(o: &Value) -> &str {
    text(o, "/spec/type")
}
pub(crate) fn is_external_name(o: &Value) -> bool {
    of_type(o) == "ExternalName"
}
/// Whether it has no address of its own.
pub(crate) fn is_headless(o: &Value) -> bool {
    text(o, "/spec/clusterIP") == NONE
}
pub(crate) fn has_selector(o: &Value) -> bool {
    o.pointer("/spec/selector").and_then(Value::as_object).is_some_and(|s| !s.is_empty())
}
/// Whether its type has ports on the nodes.
pub(crate) fn uses_node_ports(o: &Value) -> bool {
    matches!(of_type(o), "NodePort" | "LoadBalancer")
}
/// Whether the nodes answer at a port of its own whether they serve it.
pub(crate) fn uses_health_port(o: &Value) -> bool {
    of_type(o) == "LoadBalancer" && text(o, "/spec/externalTrafficPolicy") == "Local"
}
/// Whether it is reached from outside of the cluster.
pub(crate) fn is_external(o: &Value) -> bool {
    uses_node_ports(o) || of_type(o) == "ClusterIP" && !list(o, "/spec/externalIPs").is_empty()
}
/// Texts of a list.
pub(crate) fn texts<'a>(o: &'a Value, pointer: &str) -> Vec<&'a str> {
    list(o, pointer).iter().filter_map(Value::as_str).collect()
}
/// A number; 0 when there is none.
pub(crate) fn number(o: &Value, pointer: &str) -> i64 {
    o.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

fn create(o: &mut Value) {
    let spec = super::object(o, "spec");
    let ip = spec.get("clusterIP").and_then(Value::as_str).unwrap_or_default().to_owned();
    // Who knows of one address only means the list of one.
    if !ip.is_empty() && spec.get("clusterIPs").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        spec.insert("clusterIPs".into(), json!([ip]));
    }
    o["status"] = json!({ "loadBalancer": {} });
}

fn external_addresses(o: &Value) -> String {
    let own = texts(o, "/spec/externalIPs");
    match of_type(o) {
        "ExternalName" => text(o, "/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let mut all = rules::load_balancer_addresses(o);
            all.extend(own.into_iter().map(str::to_owned));
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        _ => or(&own.join(","), "<none>").to_owned(),
    }
}

fn cells(o: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = list(o, "/spec/ports")
        .iter()
        .map(|p| match (number(p, "/port"), number(p, "/nodePort"), text(p, "/protocol")) {
            (port, 0, protocol) => format!("{port}/{protocol}"),
            (port, node, protocol) => format!("{port}:{node}/{protocol}"),
        })
        .collect();
    let selector = rules::show_selector(&json!({ "matchLabels": o.pointer("/spec/selector") }));
    vec![
        text(o, "/metadata/name").into(),
        of_type(o).into(),
        or(texts(o, "/spec/clusterIPs").first().copied().unwrap_or_default(), "<none>").into(),
        external_addresses(o).into(),
        or(&ports.join(","), "<none>").into(),
        age(o, now),
        selector.into(),
    ]
}

#[cfg(test)]
mod tests;
