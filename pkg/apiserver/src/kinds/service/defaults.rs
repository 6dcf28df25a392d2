//! What a Service has that its author left out, and what an update takes over from the stored one.

use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

use super::{is_external, is_external_name, number, texts, uses_health_port, uses_node_ports};
use crate::kinds::{default, default_text, each, object, prune};
use crate::table::{list, text};

const AFFINITY_SECONDS: i64 = 10_800;

pub(super) fn defaults(o: &mut Value) {
    let spec = object(o, "spec");
    prune(
        spec,
        &[
            "clusterIP",
            "clusterIPs",
            "ipFamilies",
            "ipFamilyPolicy",
            "externalIPs",
            "externalName",
            "externalTrafficPolicy",
            "healthCheckNodePort",
            "internalTrafficPolicy",
            "loadBalancerIP",
            "loadBalancerSourceRanges",
            "ports",
            "selector",
        ],
    );
    default_text(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "None" {
        spec.shift_remove("sessionAffinityConfig");
    } else if spec["sessionAffinity"] == "ClientIP" {
        let mut config = spec.shift_remove("sessionAffinityConfig").unwrap_or_default();
        default(object(&mut config, "clientIP"), "timeoutSeconds", AFFINITY_SECONDS);
        spec.insert("sessionAffinityConfig".into(), config);
    }
    default_text(spec, "type", "ClusterIP");
    for port in each(spec, "ports") {
        default_text(port, "protocol", "TCP");
        prune(port, &["name", "nodePort", "appProtocol"]);
        if matches!(port.get("targetPort"), Some(v) if v == 0 || v == "") {
            port.shift_remove("targetPort");
        }
        if let Some(number) = port.get("port").cloned() {
            default(port, "targetPort", number);
        }
    }
    // A trailing dot names the same host.
    if let Some(Value::String(name)) = spec.get_mut("externalName")
        && name.len() > 1
        && name.ends_with('.')
    {
        name.pop();
    }
    let of_type = spec["type"].as_str().unwrap_or_default().to_owned();
    if of_type == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
    if matches!(of_type.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        default_text(spec, "internalTrafficPolicy", "Cluster");
    }
    if is_external(o) {
        default_text(object(o, "spec"), "externalTrafficPolicy", "Cluster");
    }
}

/// What an update takes over: what was allocated and not said otherwise. What no longer fits its type goes, unless the
/// author has just changed it, which is then refused.
pub(super) fn carry(new: &mut Value, old: &Value) {
    follow_cluster_ip(new, old);
    keep_allocated(new, old);
    drop_by_type(new, old);
}

fn same(new: &Value, old: &Value, key: &str) -> bool {
    new["spec"].get(key).filter(|v| !v.is_null()) == old["spec"].get(key).filter(|v| !v.is_null())
}

fn copy(new: &mut Value, old: &Value, key: &str) {
    if let Some(value) = old["spec"].get(key) {
        object(new, "spec").insert(key.into(), value.clone());
    }
}

fn clear(new: &mut Value, keys: &[&str]) {
    let spec = object(new, "spec");
    for key in keys {
        spec.shift_remove(*key);
    }
}

/// `clusterIP` and the first of `clusterIPs` are one: who changes one of them means both.
fn follow_cluster_ip(new: &mut Value, old: &Value) {
    if texts(new, "/spec/clusterIPs").is_empty() && same(new, old, "clusterIP") {
        copy(new, old, "clusterIPs");
    }
    if !same(new, old, "clusterIP")
        && (same(new, old, "clusterIPs") || texts(new, "/spec/clusterIPs").is_empty())
    {
        let ip = text(new, "/spec/clusterIP").to_owned();
        if ip.is_empty() {
            clear(new, &["clusterIPs"]);
        } else {
            object(new, "spec").insert("clusterIPs".into(), json!([ip]));
        }
    }
}

fn keep_allocated(new: &mut Value, old: &Value) {
    if !is_external_name(old) && !is_external_name(new) {
        if text(new, "/spec/clusterIP").is_empty() {
            copy(new, old, "clusterIP");
        }
        if texts(new, "/spec/clusterIPs").is_empty() && same(new, old, "clusterIP") {
            copy(new, old, "clusterIPs");
        }
        // Not said: as it was. A change of policy alone is told apart by `families`.
        for key in ["ipFamilyPolicy", "ipFamilies"] {
            if new["spec"].get(key).is_none_or(Value::is_null) {
                copy(new, old, key);
            }
        }
    }
    if uses_node_ports(old) && uses_node_ports(new) {
        keep_node_ports(new, old);
    }
    if uses_health_port(old) && uses_health_port(new) && number(new, "/spec/healthCheckNodePort") == 0 {
        copy(new, old, "healthCheckNodePort");
    }
}

/// Ports of nodes go with the names of ports, unless the new state uses them elsewhere.
fn keep_node_ports(new: &mut Value, old: &Value) {
    let used: BTreeSet<i64> =
        list(new, "/spec/ports").iter().map(|p| number(p, "/nodePort")).filter(|n| *n != 0).collect();
    for port in each(object(new, "spec"), "ports") {
        let name = port.get("name").and_then(Value::as_str).unwrap_or_default();
        let before = list(old, "/spec/ports").iter().find(|p| text(p, "/name") == name);
        let before = before.map_or(0, |p| number(p, "/nodePort"));
        if before != 0 && !used.contains(&before) && port.get("nodePort").is_none() {
            port.insert("nodePort".into(), before.into());
        }
    }
}

fn node_ports(o: &Value) -> BTreeSet<i64> {
    list(o, "/spec/ports").iter().map(|p| number(p, "/nodePort")).filter(|n| *n != 0).collect()
}

fn drop_by_type(new: &mut Value, old: &Value) {
    if !is_external_name(old) && is_external_name(new) {
        if same(new, old, "clusterIP") && same(new, old, "clusterIPs") {
            clear(new, &["clusterIP", "clusterIPs"]);
        }
        for key in ["ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if same(new, old, key) {
                clear(new, &[key]);
            }
        }
    }
    if uses_node_ports(old) && !uses_node_ports(new) && node_ports(new).is_subset(&node_ports(old)) {
        for port in each(object(new, "spec"), "ports") {
            Map::shift_remove(port, "nodePort");
        }
    }
    if uses_health_port(old) && !uses_health_port(new) && same(new, old, "healthCheckNodePort") {
        clear(new, &["healthCheckNodePort"]);
    }
    let balanced = |o: &Value| super::of_type(o) == "LoadBalancer";
    if balanced(old) && !balanced(new) {
        for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(new, old, key) {
                clear(new, &[key]);
            }
        }
        new["status"] = json!({ "loadBalancer": {} });
    }
    if is_external(old) && !is_external(new) && same(new, old, "externalTrafficPolicy") {
        clear(new, &["externalTrafficPolicy"]);
    }
}
