//! The rules of a Service.

use serde_json::{Value, json};
use std::collections::BTreeSet;

use super::{families, is_external, is_external_name, is_headless, number, of_type, texts, uses_health_port};
use crate::error::Causes;
use crate::kinds::rules;
use crate::table::{list, text};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
/// Longest time that a client stays with an endpoint.
const MAX_AFFINITY: i64 = 86_400;
const KUBELET_PORT: i64 = 10_250;
const SOURCE_RANGES: &str = "/metadata/annotations/service.beta.kubernetes.io~1load-balancer-source-ranges";

pub(super) fn validate(o: &Value, causes: &mut Causes) {
    families::validate(o, causes);
    let of_type = of_type(o);
    rules::one_of("spec.type", of_type, TYPES, causes);
    ports(o, causes);
    rules::labels("spec.selector", o.pointer("/spec/selector"), causes);
    affinity(o, causes);
    if is_external_name(o) {
        let name = text(o, "/spec/externalName");
        if name.is_empty() {
            causes.required("spec.externalName", "");
        } else {
            rules::dns_subdomain("spec.externalName", name, causes);
        }
    }
    if is_headless(o) && matches!(of_type, "NodePort" | "LoadBalancer") {
        let rule = format!("may not be set to 'None' for {of_type} services");
        causes.invalid("spec.clusterIPs[0]", super::NONE, rule);
    }
    for (i, ip) in texts(o, "/spec/externalIPs").into_iter().enumerate() {
        let at = format!("spec.externalIPs[{i}]");
        if let Some(address) = rules::address(&at, ip, causes) {
            rules::not_special(&at, ip, address, causes);
        }
    }
    balancer(o, causes);
    traffic(o, causes);
    rules::load_balancer(o, causes);
    if of_type != "LoadBalancer" && !list(o, "/status/loadBalancer/ingress").is_empty() {
        let rule = "may only be used when `spec.type` is \"LoadBalancer\"";
        causes.forbidden("status.loadBalancer.ingress", rule);
    }
}

fn ports(o: &Value, causes: &mut Causes) {
    let all = list(o, "/spec/ports");
    if all.is_empty() && !is_headless(o) && !is_external_name(o) {
        causes.required("spec.ports", "");
    }
    let (mut names, mut numbers, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (i, port) in all.iter().enumerate() {
        let at = format!("spec.ports[{i}]");
        let (name, protocol) = (text(port, "/name"), text(port, "/protocol"));
        if name.is_empty() {
            if all.len() > 1 {
                causes.required(&format!("{at}.name"), "");
            }
        } else {
            rules::dns_label(&format!("{at}.name"), name, causes);
            if !names.insert(name) {
                causes.duplicate(&format!("{at}.name"), name);
            }
        }
        rules::port_number(&format!("{at}.port"), &port["port"], causes);
        rules::protocol(&format!("{at}.protocol"), protocol, causes);
        rules::port_number_or_name(&format!("{at}.targetPort"), &port["targetPort"], causes);
        let app = text(port, "/appProtocol");
        if !app.is_empty() {
            rules::qualified_name(&format!("{at}.appProtocol"), app, causes);
        }
        if of_type(o) == "LoadBalancer" && number(port, "/port") == KUBELET_PORT {
            let rule = "may not expose port 10250 externally since it is used by kubelet";
            causes.invalid_value(&format!("{at}.port"), &port["port"], rule);
        }
        if !numbers.insert((protocol, number(port, "/port"))) {
            causes.duplicate_value(&at, &json!({"protocol": protocol, "port": port["port"]}));
        }
        let node_port = number(port, "/nodePort");
        if node_port != 0 {
            let at = format!("{at}.nodePort");
            if !super::uses_node_ports(o) {
                causes.forbidden(&at, format_args!("may not be used when `type` is '{}'", of_type(o)));
            } else if !node_ports.insert((protocol, node_port)) {
                causes.duplicate_value(&at, &port["nodePort"]);
            }
        }
    }
}

fn affinity(o: &Value, causes: &mut Causes) {
    let affinity = text(o, "/spec/sessionAffinity");
    rules::one_of("spec.sessionAffinity", affinity, &["ClientIP", "None"], causes);
    let seconds = o.pointer("/spec/sessionAffinityConfig/clientIP/timeoutSeconds");
    let at = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
    match (affinity, seconds) {
        ("ClientIP", None) => causes.required(at, "must be set when session affinity is ClientIP"),
        ("ClientIP", Some(n)) if !n.as_i64().is_some_and(|n| n > 0 && n <= MAX_AFFINITY) => {
            causes.invalid_value(at, n, format_args!("must be greater than 0 and less than {MAX_AFFINITY}"));
        }
        ("None", Some(_)) => {
            let rule = "must not be set when session affinity is None";
            causes.forbidden("spec.sessionAffinityConfig", rule);
        }
        _ => {}
    }
}

/// Fields of load balancers.
fn balancer(o: &Value, causes: &mut Causes) {
    let balanced = of_type(o) == "LoadBalancer";
    let only = "may only be used when `type` is 'LoadBalancer'";
    let ranges = texts(o, "/spec/loadBalancerSourceRanges");
    let annotated: Vec<&str> =
        text(o, SOURCE_RANGES).split(',').map(str::trim).filter(|r| !r.is_empty()).collect();
    let annotation = "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]";
    for (at, ranges) in [("spec.loadBalancerSourceRanges", ranges), (annotation, annotated)] {
        if !balanced && !ranges.is_empty() {
            causes.forbidden(at, only);
            continue;
        }
        for (i, range) in ranges.into_iter().enumerate() {
            rules::prefix(&format!("{at}[{i}]"), range.trim(), causes);
        }
    }
    let allocate = o["spec"].get("allocateLoadBalancerNodePorts").filter(|v| !v.is_null());
    let at = "spec.allocateLoadBalancerNodePorts";
    match allocate {
        None if balanced => causes.required(at, ""),
        Some(_) if !balanced => causes.forbidden(at, only),
        _ => {}
    }
    if let Some(class) = o["spec"].get("loadBalancerClass").and_then(Value::as_str) {
        if !balanced {
            causes.forbidden("spec.loadBalancerClass", only);
        }
        rules::qualified_name("spec.loadBalancerClass", class, causes);
    }
}

fn traffic(o: &Value, causes: &mut Causes) {
    const POLICIES: &[&str] = &["Cluster", "Local"];
    let external = text(o, "/spec/externalTrafficPolicy");
    match (is_external(o), external) {
        (true, "") => causes.required("spec.externalTrafficPolicy", ""),
        (true, policy) => rules::one_of("spec.externalTrafficPolicy", policy, POLICIES, causes),
        (false, "") => {}
        (false, policy) => {
            let rule = "may only be set for externally-accessible services";
            causes.invalid("spec.externalTrafficPolicy", policy, rule);
        }
    }
    match text(o, "/spec/internalTrafficPolicy") {
        "" if is_external_name(o) => {}
        "" => causes.required("spec.internalTrafficPolicy", ""),
        policy => rules::one_of("spec.internalTrafficPolicy", policy, POLICIES, causes),
    }
    let health = number(o, "/spec/healthCheckNodePort");
    let at = "spec.healthCheckNodePort";
    if uses_health_port(o) {
        if health < 0 {
            causes.invalid_value(at, &json!(health), "must be greater than or equal to 0");
        }
    } else if health != 0 {
        let rule = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        causes.invalid_value(at, &json!(health), rule);
    }
    if let Some(distribution) = o["spec"].get("trafficDistribution").and_then(Value::as_str) {
        let known = &["PreferClose", "PreferSameNode", "PreferSameZone"];
        rules::one_of("spec.trafficDistribution", distribution, known, causes);
    }
}

const FIXED: &str = "may not change once set";

pub(super) fn validate_update(new: &Value, old: &Value, causes: &mut Causes) {
    let of = |o: &Value| of_type(o) == "LoadBalancer";
    if of(new) && of(old) && new["spec"].get("loadBalancerClass") != old["spec"].get("loadBalancerClass") {
        let class = new["spec"].get("loadBalancerClass").cloned().unwrap_or_default();
        causes.invalid_value("spec.loadBalancerClass", &class, FIXED);
    }
    let health = number(old, "/spec/healthCheckNodePort");
    if uses_health_port(new) && health != 0 && number(new, "/spec/healthCheckNodePort") != health {
        let at = "spec.healthCheckNodePort";
        causes.invalid_value(at, &new["spec"]["healthCheckNodePort"], "field is immutable");
    }
    if is_external_name(new) || is_external_name(old) {
        return;
    }
    for (key, what) in [("clusterIPs", "clusterIP"), ("ipFamilies", "ipFamily")] {
        let (now, before) = (texts(new, &format!("/spec/{key}")), texts(old, &format!("/spec/{key}")));
        if let Some(first) = before.first() {
            let at = format!("spec.{key}[0]");
            match now.first() {
                None => {
                    causes.invalid_value(&at, &json!(now), format_args!("primary {what} can not be unset"))
                }
                Some(n) if n != first => causes.invalid_value(&at, &json!(now), FIXED),
                Some(_) => {}
            }
        }
        if let (Some(was), Some(is)) = (before.get(1), now.get(1))
            && was != is
        {
            causes.invalid_value(&format!("spec.{key}[1]"), &json!(now), FIXED);
        }
    }
}
