//! v1 Node.

use jiff::Timestamp;
use serde_json::Value;
use warren_types::PodCidrs;

use super::{immutable, object};
use crate::error::Causes;
use crate::registry::{Kind, PLAIN, typed};
use crate::table::{Column, age, list, or, text};

/// The row.
pub(crate) const KIND: Kind = Kind {
    plural: "nodes",
    singular: "node",
    short: &["no"],
    kind: "Node",
    namespaced: false,
    status: true,
    fields: &[("spec.unschedulable", "/spec/unschedulable")],
    typed: typed::<k8s_openapi::api::core::v1::Node>,
    default: pair_pod_cidr,
    carry: keep_pod_cidrs,
    validate,
    validate_update,
    columns: &[
        Column::NAME,
        Column::text("Status", "Whether the node is ready."),
        Column::text("Roles", "Roles of the node, from its labels."),
        Column::AGE,
        Column::text("Version", "Version of the node's agent."),
        Column::wide("Internal-IP", "Address inside the cluster."),
        Column::wide("External-IP", "Address outside the cluster."),
        Column::wide("OS-Image", "Operating system."),
        Column::wide("Kernel-Version", "Kernel."),
        Column::wide("Container-Runtime", "Container runtime."),
    ],
    cells,
    ..PLAIN
};

/// `spec.podCIDR` is the first of `spec.podCIDRs`; whichever is given fills the other.
fn pair_pod_cidr(o: &mut Value) {
    let first = o.pointer("/spec/podCIDRs/0").cloned();
    let single = o.pointer("/spec/podCIDR").filter(|v| v.as_str().is_some_and(|s| !s.is_empty())).cloned();
    match (first, single) {
        (Some(first), None) => o["spec"]["podCIDR"] = first,
        (None, Some(single)) => o["spec"]["podCIDRs"] = Value::Array(vec![single]),
        _ => {}
    }
}

/// An update by someone who does not know of podCIDRs does not take them away.
fn keep_pod_cidrs(new: &mut Value, old: &Value) {
    if list(new, "/spec/podCIDRs").is_empty() && !list(old, "/spec/podCIDRs").is_empty() {
        let spec = object(new, "spec");
        for key in ["podCIDR", "podCIDRs"] {
            spec.insert(key.into(), old["spec"][key].clone());
        }
    }
}

fn validate(o: &Value, causes: &mut Causes) {
    let cidrs: Vec<&str> = list(o, "/spec/podCIDRs").iter().filter_map(Value::as_str).collect();
    if let Err(e) = PodCidrs::parse(&cidrs) {
        causes.invalid("spec.podCIDRs", cidrs.join(","), e);
    }
    if let Some(first) = cidrs.first().filter(|c| text(o, "/spec/podCIDR") != **c) {
        causes.invalid(
            "spec.podCIDR",
            text(o, "/spec/podCIDR"),
            format_args!("must be {first}, the first of podCIDRs"),
        );
    }
    for (i, taint) in list(o, "/spec/taints").iter().enumerate() {
        let effect = text(taint, "/effect");
        let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if !known.contains(&effect) {
            causes.unsupported(&format!("spec.taints[{i}].effect"), effect, &known);
        }
    }
    for (i, address) in list(o, "/status/addresses").iter().enumerate() {
        let value = text(address, "/address");
        if matches!(text(address, "/type"), "InternalIP" | "ExternalIP")
            && value.parse::<std::net::IpAddr>().is_err()
        {
            causes.invalid(&format!("status.addresses[{i}].address"), value, "must be a valid IP address");
        }
    }
}

fn validate_update(new: &Value, old: &Value, causes: &mut Causes) {
    if !list(old, "/spec/podCIDRs").is_empty() && list(new, "/spec/podCIDRs") != list(old, "/spec/podCIDRs") {
        causes.forbidden("spec.podCIDRs", "node updates may not change podCIDR except from \"\" to valid");
    }
    if !text(old, "/spec/providerID").is_empty() {
        immutable(new, old, "/spec/providerID", causes);
    }
}

fn status(o: &Value) -> String {
    let ready = list(o, "/status/conditions").iter().find(|c| text(c, "/type") == "Ready");
    let word = match ready.map(|c| text(c, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let cordoned = o.pointer("/spec/unschedulable").and_then(Value::as_bool).unwrap_or(false);
    if cordoned { format!("{word},SchedulingDisabled") } else { word.to_owned() }
}

fn roles(o: &Value) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in o.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten() {
        match key.strip_prefix("node-role.kubernetes.io/") {
            Some("") => {}
            Some(role) => roles.push(role),
            None if key == "kubernetes.io/role" => roles.extend(value.as_str().filter(|v| !v.is_empty())),
            None => {}
        }
    }
    roles.sort_unstable();
    roles.dedup();
    or(&roles.join(","), "<none>").to_owned()
}

fn cells(o: &Value, now: Timestamp) -> Vec<Value> {
    let address = |kind: &str| {
        let found = list(o, "/status/addresses").iter().find(|a| text(a, "/type") == kind);
        found.map_or("<none>", |a| text(a, "/address")).to_owned()
    };
    let info = |field: &str| or(text(o, &format!("/status/nodeInfo/{field}")), "<unknown>").to_owned();
    vec![
        text(o, "/metadata/name").into(),
        status(o).into(),
        roles(o).into(),
        age(o, now),
        text(o, "/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        info("osImage").into(),
        info("kernelVersion").into(),
        info("containerRuntimeVersion").into(),
    ]
}
