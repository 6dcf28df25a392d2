//! From a Service, its pods and their nodes to endpoints. Pure.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::slices::{
    Frame, Group, HEADLESS_LABEL, MANAGED_BY_LABEL, SERVICE_LABEL, Wanted, address_type, ports_key,
};
use crate::storage::Object;
use crate::table::{list, text};

/// Who writes slices of Services with selectors.
pub(crate) const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Most endpoints of a slice.
const MOST: usize = 100;
/// The node label with the zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Whether a Service selects pods.
pub(crate) fn selects(service: &Value) -> bool {
    let selector = service.pointer("/spec/selector").and_then(Value::as_object);
    selector.is_some_and(|s| !s.is_empty()) && text(service, "/spec/type") != "ExternalName"
}

/// Whether a Service selects this pod.
pub(crate) fn matches(service: &Value, pod: &Value) -> bool {
    let Some(selector) = service.pointer("/spec/selector").and_then(Value::as_object) else { return false };
    let labels = pod.pointer("/metadata/labels");
    !selector.is_empty() && selector.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
}

/// The zone of a node.
pub(crate) fn zone(node: &Value) -> &str {
    node.pointer("/metadata/labels")
        .and_then(|l| l.get(ZONE_LABEL))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Whether the Service has no address of its own.
pub(crate) fn headless(service: &Value) -> bool {
    text(service, "/spec/clusterIP") == "None"
}

/// The address types of a Service's slices.
fn address_types(service: &Value) -> Vec<&'static str> {
    let known = |family: &str| match family {
        "IPv4" => Some("IPv4"),
        "IPv6" => Some("IPv6"),
        _ => None,
    };
    let families: Vec<_> =
        list(service, "/spec/ipFamilies").iter().filter_map(Value::as_str).filter_map(known).collect();
    if !families.is_empty() {
        return families;
    }
    match text(service, "/spec/clusterIP") {
        "" | "None" => vec!["IPv4", "IPv6"],
        address if address.contains(':') => vec!["IPv6"],
        _ => vec!["IPv4"],
    }
}

/// Whether a pod can be an endpoint at all: it has not ended.
pub(crate) fn runs(pod: &Value) -> bool {
    !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// Whether the pod says that it is ready.
pub(crate) fn is_ready(pod: &Value) -> bool {
    list(pod, "/status/conditions")
        .iter()
        .any(|c| text(c, "/type") == "Ready" && text(c, "/status") == "True")
}

/// Whether the pod is being deleted.
pub(crate) fn is_terminating(pod: &Value) -> bool {
    !text(pod, "/metadata/deletionTimestamp").is_empty()
}

/// Whether the Service asks for pods that are not ready too.
pub(crate) fn publishes_not_ready(service: &Value) -> bool {
    service.pointer("/spec/publishNotReadyAddresses") == Some(&Value::Bool(true))
}

/// The pod's addresses.
pub(crate) fn addresses(pod: &Value) -> Vec<&str> {
    let all: Vec<&str> =
        list(pod, "/status/podIPs").iter().map(|ip| text(ip, "/ip")).filter(|ip| !ip.is_empty()).collect();
    match text(pod, "/status/podIP") {
        single if all.is_empty() && !single.is_empty() => vec![single],
        _ => all,
    }
}

/// The hostname under which the Service knows the pod.
pub(crate) fn hostname<'a>(service: &Value, pod: &'a Value) -> Option<&'a str> {
    let hostname = text(pod, "/spec/hostname");
    let same = text(pod, "/spec/subdomain") == text(service, "/metadata/name")
        && text(pod, "/metadata/namespace") == text(service, "/metadata/namespace");
    (same && !hostname.is_empty()).then_some(hostname)
}

/// The number behind a port of a Service in this pod.
fn target_port(port: &Value, pod: &Value) -> Option<i64> {
    let name = match port.get("targetPort") {
        Some(Value::String(name)) => name,
        Some(Value::Number(n)) if n.as_i64() != Some(0) => return n.as_i64(),
        _ => return port.get("port").and_then(Value::as_i64),
    };
    let protocol = |p: &Value| match text(p, "/protocol") {
        "" => "TCP".to_owned(),
        given => given.to_owned(),
    };
    let sidecars = list(pod, "/spec/initContainers").iter().filter(|c| text(c, "/restartPolicy") == "Always");
    list(pod, "/spec/containers")
        .iter()
        .chain(sidecars)
        .flat_map(|c| list(c, "/ports"))
        .find(|p| text(p, "/name") == name && protocol(p) == protocol(port))
        .and_then(|p| p.get("containerPort")?.as_i64())
}

/// The ports of a Service as this pod serves them; those that it does not are left out.
pub(crate) fn ports(service: &Value, pod: &Value) -> Vec<Value> {
    let found = list(service, "/spec/ports").iter().filter_map(|p| {
        let protocol = Some(text(p, "/protocol")).filter(|p| !p.is_empty()).unwrap_or("TCP");
        let mut port = json!({"name": text(p, "/name"), "port": target_port(p, pod)?, "protocol": protocol});
        if let Some(app) = p.get("appProtocol").filter(|a| a.is_string()) {
            port["appProtocol"] = app.clone();
        }
        Some(port)
    });
    found.collect()
}

/// The reference to a pod.
pub(crate) fn pod_reference(pod: &Value) -> Value {
    json!({"kind": "Pod", "namespace": text(pod, "/metadata/namespace"), "name": text(pod, "/metadata/name"),
        "uid": text(pod, "/metadata/uid")})
}

/// How traffic is to be kept near.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Near {
    Anywhere,
    Zone,
    Node,
}

fn near(service: &Value) -> Near {
    match text(service, "/spec/trafficDistribution") {
        "PreferClose" | "PreferSameZone" => Near::Zone,
        "PreferSameNode" => Near::Node,
        _ => Near::Anywhere,
    }
}

fn endpoint(service: &Value, pod: &Value, address: &str, zone: &str) -> Value {
    let (serving, terminating) = (is_ready(pod), is_terminating(pod));
    let ready = publishes_not_ready(service) || (serving && !terminating);
    let node = text(pod, "/spec/nodeName");
    let mut out = json!({"addresses": [address], "targetRef": pod_reference(pod),
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating}});
    if let Some(hostname) = hostname(service, pod) {
        out["hostname"] = hostname.into();
    }
    for (key, value) in [("nodeName", node), ("zone", zone)] {
        if !value.is_empty() {
            out[key] = value.into();
        }
    }
    let near = near(service);
    let mut hints = Map::new();
    if ready && near != Near::Anywhere && !zone.is_empty() {
        hints.insert("forZones".into(), json!([{ "name": zone }]));
    }
    if ready && near == Near::Node && !node.is_empty() {
        hints.insert("forNodes".into(), json!([{ "name": node }]));
    }
    if !hints.is_empty() {
        out["hints"] = hints.into();
    }
    out
}

/// The endpoints of a Service by address type and ports.
pub(crate) fn wanted(
    service: &Value,
    pods: &[Arc<Object>],
    node: impl Fn(&str) -> Option<Arc<Object>>,
) -> Wanted {
    let types = address_types(service);
    let mut groups: BTreeMap<(&'static str, String), Group> = BTreeMap::new();
    for pod in pods.iter().map(|p| &p.value).filter(|p| runs(p)) {
        let name = text(pod, "/spec/nodeName");
        let on = node(name);
        // A pod of a node that is gone is not there either, only its object is.
        if on.is_none() && !name.is_empty() && !publishes_not_ready(service) {
            continue;
        }
        let zone = on.as_ref().map_or("", |n| zone(&n.value));
        let ports = ports(service, pod);
        for address in addresses(pod) {
            let Some(kind) = address_type(address).filter(|k| types.contains(k)) else { continue };
            let group = groups.entry((kind, ports_key(&ports))).or_default();
            group.ports.clone_from(&ports);
            group.endpoints.push(endpoint(service, pod, address, zone));
        }
    }
    let mut wanted: Wanted = types.into_iter().map(|t| (t, Vec::new())).collect();
    for ((kind, _), group) in groups {
        wanted.entry(kind).or_default().push(group);
    }
    wanted
}

/// What the slices of a Service share.
pub(crate) fn frame(service: &Value) -> Frame {
    let name = text(service, "/metadata/name");
    let mut labels = labels_of(service, &[SERVICE_LABEL, MANAGED_BY_LABEL, HEADLESS_LABEL]);
    if headless(service) {
        labels.insert(HEADLESS_LABEL.into(), "".into());
    }
    labels.insert(SERVICE_LABEL.into(), name.into());
    labels.insert(MANAGED_BY_LABEL.into(), MANAGER.into());
    let owner = json!({"apiVersion": "v1", "kind": "Service", "name": name,
        "uid": text(service, "/metadata/uid"), "controller": true, "blockOwnerDeletion": true});
    Frame { service: name.into(), labels, annotations: Map::new(), owner, most: MOST, placeholder: true }
}

/// The labels of an object but for some.
pub(crate) fn labels_of(o: &Value, without: &[&str]) -> Map<String, Value> {
    let labels = o.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
    labels.filter(|(k, _)| !without.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
}

#[cfg(test)]
mod tests;
