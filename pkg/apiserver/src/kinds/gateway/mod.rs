//! gateway.networking.k8s.io: GatewayClass, Gateway, HTTPRoute, GRPCRoute (v1) and ReferenceGrant (v1beta1). Elsewhere these
//! are CustomResourceDefinitions; here they are kinds like the others, whose types, defaults and rules are one model.

mod fields;
mod model;
#[cfg(test)]
mod tests;

pub(crate) use model::definitions;

use jiff::Timestamp;
use serde_json::{Value, json};
use warren_types::gateway::GATEWAY_GROUP;

use crate::error::Causes;
use crate::registry::{Kind, PLAIN};
use crate::table::{Column, age, list, text};

const GROUND: Kind = Kind { group: GATEWAY_GROUP, generation: true, status: true, ..PLAIN };

/// GatewayClass.
pub(crate) const CLASS: Kind = Kind {
    plural: "gatewayclasses",
    singular: "gatewayclass",
    short: &["gc"],
    kind: "GatewayClass",
    categories: &["gateway-api"],
    namespaced: false,
    typed: |o| model::typed("GatewayClass", o),
    default: |o| model::defaults("GatewayClass", o),
    create: |o| o["status"] = json!({"conditions": [pending("Accepted")]}),
    validate: |o, causes| model::validate("GatewayClass", o, causes),
    validate_update: |new, old, causes| super::immutable(new, old, "/spec/controllerName", causes),
    columns: &[
        Column::NAME,
        Column::text("Controller", "Who serves Gateways of this class."),
        Column::text("Accepted", "Whether that one has accepted it."),
        Column::AGE,
    ],
    cells: |o, now| {
        let (name, controller) = (text(o, "/metadata/name"), text(o, "/spec/controllerName"));
        vec![name.into(), controller.into(), condition(o, "Accepted").into(), age(o, now)]
    },
    ..GROUND
};

/// Gateway.
pub(crate) const GATEWAY: Kind = Kind {
    plural: "gateways",
    singular: "gateway",
    short: &["gtw"],
    kind: "Gateway",
    categories: &["gateway-api"],
    typed: |o| model::typed("Gateway", o),
    default: |o| model::defaults("Gateway", o),
    create: |o| o["status"] = json!({"conditions": [pending("Accepted"), pending("Programmed")]}),
    validate: validate_gateway,
    columns: &[
        Column::NAME,
        Column::text("Class", "The class of the Gateway."),
        Column::text("Address", "Where it is served."),
        Column::text("Programmed", "Whether it is served."),
        Column::AGE,
    ],
    cells: gateway_cells,
    ..GROUND
};

const ROUTE_COLUMNS: &[Column] =
    &[Column::NAME, Column::text("Hostnames", "The hosts that it is for."), Column::AGE];

/// HTTPRoute.
pub(crate) const HTTP_ROUTE: Kind = Kind {
    plural: "httproutes",
    singular: "httproute",
    kind: "HTTPRoute",
    categories: &["gateway-api"],
    typed: |o| model::typed("HTTPRoute", o),
    default: |o| model::defaults("HTTPRoute", o),
    create: no_parents,
    validate: |o, causes| validate_route("HTTPRoute", o, causes),
    columns: ROUTE_COLUMNS,
    cells: route_cells,
    ..GROUND
};

/// GRPCRoute.
pub(crate) const GRPC_ROUTE: Kind = Kind {
    plural: "grpcroutes",
    singular: "grpcroute",
    kind: "GRPCRoute",
    categories: &["gateway-api"],
    typed: |o| model::typed("GRPCRoute", o),
    default: |o| model::defaults("GRPCRoute", o),
    create: no_parents,
    validate: |o, causes| validate_route("GRPCRoute", o, causes),
    columns: ROUTE_COLUMNS,
    cells: route_cells,
    ..GROUND
};

/// ReferenceGrant. Its v1beta1 is what manifests of all releases of the Gateway API have.
pub(crate) const GRANT: Kind = Kind {
    version: "v1beta1",
    plural: "referencegrants",
    singular: "referencegrant",
    short: &["refgrant"],
    kind: "ReferenceGrant",
    categories: &["gateway-api"],
    status: false,
    typed: |o| model::typed("ReferenceGrant", o),
    default: |o| model::defaults("ReferenceGrant", o),
    validate: |o, causes| model::validate("ReferenceGrant", o, causes),
    columns: &[Column::NAME, Column::AGE],
    cells: |o, now| vec![text(o, "/metadata/name").into(), age(o, now)],
    ..GROUND
};

/// A condition that nobody has spoken of yet.
fn pending(kind: &str) -> Value {
    json!({"type": kind, "status": "Unknown", "reason": "Pending", "message": "Waiting for controller",
        "lastTransitionTime": "1970-01-01T00:00:00Z"})
}

fn no_parents(o: &mut Value) {
    if let Value::Object(map) = o {
        map.shift_remove("status");
    }
}

fn condition<'a>(o: &'a Value, kind: &str) -> &'a str {
    let found = list(o, "/status/conditions").iter().find(|c| text(c, "/type") == kind);
    found.map_or("", |c| text(c, "/status"))
}

fn gateway_cells(o: &Value, now: Timestamp) -> Vec<Value> {
    let address = list(o, "/status/addresses").first().map_or("", |a| text(a, "/value"));
    vec![
        text(o, "/metadata/name").into(),
        text(o, "/spec/gatewayClassName").into(),
        address.into(),
        condition(o, "Programmed").into(),
        age(o, now),
    ]
}

fn route_cells(o: &Value, now: Timestamp) -> Vec<Value> {
    let hosts = o.pointer("/spec/hostnames").map_or_else(String::new, Value::to_string);
    vec![text(o, "/metadata/name").into(), hosts.into(), age(o, now)]
}

/// What the model does not say of a Gateway.
fn validate_gateway(o: &Value, causes: &mut Causes) {
    model::validate("Gateway", o, causes);
    let mut names = Vec::new();
    for (i, listener) in list(o, "/spec/listeners").iter().enumerate() {
        let at = format!("spec.listeners[{i}]");
        let name = text(listener, "/name");
        if names.contains(&name) {
            causes.duplicate(&format!("{at}.name"), name);
        }
        names.push(name);
        let tls = listener.get("tls").filter(|tls| !tls.is_null());
        if tls.is_some() && matches!(text(listener, "/protocol"), "HTTP" | "TCP" | "UDP") {
            causes.forbidden(&format!("{at}.tls"), "must not be set for protocols HTTP, TCP and UDP");
        }
        let plain = matches!(text(listener, "/protocol"), "TCP" | "UDP");
        if plain && !text(listener, "/hostname").is_empty() {
            causes.forbidden(&format!("{at}.hostname"), "must not be set for protocols TCP and UDP");
        }
    }
}

/// What the model does not say of a route: filters hold just what their type names, and a Service has a port.
fn validate_route(kind: &str, o: &Value, causes: &mut Causes) {
    model::validate(kind, o, causes);
    for (i, rule) in list(o, "/spec/rules").iter().enumerate() {
        let at = format!("spec.rules[{i}]");
        filters(&format!("{at}.filters"), list(rule, "/filters"), causes);
        for (j, backend) in list(rule, "/backendRefs").iter().enumerate() {
            let at = format!("{at}.backendRefs[{j}]");
            filters(&format!("{at}.filters"), list(backend, "/filters"), causes);
            let service = text(backend, "/group").is_empty() && text(backend, "/kind") == "Service";
            if service && backend.get("port").is_none_or(Value::is_null) {
                causes.required(&format!("{at}.port"), "must have port for Service reference");
            }
        }
    }
}

fn filters(at: &str, filters: &[Value], causes: &mut Causes) {
    let field_of =
        |kind: &str| kind.get(..1).map(|first| format!("{}{}", first.to_ascii_lowercase(), &kind[1..]));
    for (i, filter) in filters.iter().enumerate() {
        let kind = text(filter, "/type");
        let field = match kind {
            "URLRewrite" => "urlRewrite".to_owned(),
            "CORS" => "cors".to_owned(),
            kind => field_of(kind).unwrap_or_default(),
        };
        let at = format!("{at}[{i}]");
        for (name, value) in filter.as_object().into_iter().flatten() {
            if *name != "type" && *name != field && !value.is_null() {
                causes.forbidden(&format!("{at}.{name}"), format_args!("must not be set for type {kind}"));
            }
        }
        if filter.get(&field).is_none_or(Value::is_null) {
            causes.required(&format!("{at}.{field}"), &format!("must be set for type {kind}"));
        }
    }
}
