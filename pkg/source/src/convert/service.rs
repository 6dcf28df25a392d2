//! Services.

use super::{
    Converted, Door, MAX_ADDRESSES, first, foreign_proxy, ip, list, number, opaque, parts, port_name,
    port_number, protocol, text,
};
use ipnet::IpNet;
use kube::core::ObjectMeta;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use warren_types::service::{ANNOTATION_ADDRESSES, ANNOTATION_SHARING_KEY};
use warren_types::{
    Affinity, Family, Namespace, NodeName, Service, ServiceKey, ServiceKind, ServiceName, ServicePort,
    TrafficPolicy,
};

/// At most this many ports of one Service are kept.
const MAX_PORTS: usize = 100;
/// At most this many source ranges of one Service are kept.
const MAX_RANGES: usize = 256;
/// At most this many addresses of a load balancer are kept: where nodes are the load balancer, each has a few.
pub(crate) const MAX_INGRESS: usize = 1024;
/// `sessionAffinityConfig.clientIP.timeoutSeconds` where it is not given, and its limit.
const AFFINITY_SECONDS: (u32, u32) = (10_800, 86_400);
/// Annotations of MetalLB with the meaning of [`ANNOTATION_ADDRESSES`]; the newer name first.
const METALLB_ADDRESSES: [&str; 2] = ["metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs"];
/// Annotations of MetalLB with the meaning of [`ANNOTATION_SHARING_KEY`]; the newer name first.
const METALLB_SHARING_KEY: [&str; 2] = ["metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip"];

fn key(door: &mut Door, meta: &ObjectMeta) -> Option<ServiceKey> {
    let namespace =
        door.keep("metadata.namespace", Namespace::new(meta.namespace.clone().unwrap_or_default()))?;
    let name = door.keep("metadata.name", ServiceName::new(meta.name.clone().unwrap_or_default()))?;
    Some(ServiceKey { namespace, name })
}

/// The key of a Service object, when its names are usable.
#[must_use]
pub fn service_key_of(meta: &ObjectMeta) -> Option<ServiceKey> {
    key(&mut Door::new("Service", meta), meta)
}

/// A Service object into a row of table `services`.
#[must_use]
pub fn service(meta: &ObjectMeta, data: &Value) -> Converted<Service> {
    let mut door = Door::new("Service", meta);
    let Some(key) = key(&mut door, meta) else {
        return Converted { row: None, refused: door.refused };
    };
    let d = &mut door;
    let kind = kind(d, data);
    let cluster_ips = if kind == ServiceKind::ExternalName { Vec::new() } else { cluster_ips(d, data) };
    let row = Service {
        key,
        uid: meta.uid.clone().unwrap_or_default(),
        created: meta.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
        kind,
        selector: data.pointer("/spec/selector").and_then(Value::as_object).is_some_and(|s| !s.is_empty()),
        families: families(d, data, &cluster_ips),
        cluster_ips,
        external_ips: addresses(d, "spec.externalIPs", list(data, "/spec/externalIPs")),
        external_name: external_name(d, data).filter(|_| kind == ServiceKind::ExternalName),
        load_balancer_ips: load_balancer_ips(d, data),
        load_balancer_class: opaque(d, "spec.loadBalancerClass", text(data, "/spec/loadBalancerClass"), 317),
        source_ranges: source_ranges(d, data),
        requested_addresses: requested_addresses(d, meta, data),
        sharing_key: sharing_key(d, meta),
        ports: ports(d, data),
        affinity: affinity(d, data),
        internal_policy: policy(d, "spec.internalTrafficPolicy", data.pointer("/spec/internalTrafficPolicy")),
        external_policy: policy(d, "spec.externalTrafficPolicy", data.pointer("/spec/externalTrafficPolicy")),
        health_check_node_port: port_number(
            d,
            "spec.healthCheckNodePort",
            data.pointer("/spec/healthCheckNodePort"),
        ),
        traffic_distribution: opaque(
            d,
            "spec.trafficDistribution",
            text(data, "/spec/trafficDistribution"),
            63,
        ),
        publish_not_ready: data
            .pointer("/spec/publishNotReadyAddresses")
            .and_then(Value::as_bool)
            .unwrap_or(false),
        foreign_proxy: foreign_proxy(meta),
    };
    Converted { row: Some(row), refused: door.refused }
}

fn kind(door: &mut Door, data: &Value) -> ServiceKind {
    match text(data, "/spec/type") {
        None | Some("ClusterIP") => ServiceKind::ClusterIp,
        Some("NodePort") => ServiceKind::NodePort,
        Some("LoadBalancer") => ServiceKind::LoadBalancer,
        Some("ExternalName") => ServiceKind::ExternalName,
        Some(other) => {
            door.refuse("spec.type", format_args!("{:?} is not a type of Service", super::cut(other)));
            ServiceKind::ClusterIp
        }
    }
}

/// Addresses of other hosts, without duplicates, in their order.
fn addresses(door: &mut Door, field: &str, values: &[Value]) -> Vec<IpAddr> {
    let texts: Vec<&str> = first(door, field, values, MAX_ADDRESSES)
        .iter()
        .map(|v| v.as_str().unwrap_or("(not text)"))
        .collect();
    parsed(door, field, texts)
}

fn parsed<'a>(door: &mut Door, field: &str, texts: impl IntoIterator<Item = &'a str>) -> Vec<IpAddr> {
    let mut out = Vec::new();
    for t in texts {
        if let Some(ip) = ip(door, field, t)
            && !out.contains(&ip)
        {
            out.push(ip);
        }
    }
    out
}

/// `spec.clusterIPs`, or `spec.clusterIP` where only that is set. `None` is a headless Service's.
fn cluster_ips(door: &mut Door, data: &Value) -> Vec<IpAddr> {
    let many = list(data, "/spec/clusterIPs");
    let one = data.pointer("/spec/clusterIP").filter(|v| v.as_str().is_some_and(|s| !s.is_empty()));
    let values = if many.is_empty() { one.map(std::slice::from_ref).unwrap_or_default() } else { many };
    if values.iter().any(|v| v == "None") {
        return Vec::new();
    }
    addresses(door, "spec.clusterIPs", values)
}

fn families(door: &mut Door, data: &Value, cluster_ips: &[IpAddr]) -> Vec<Family> {
    let mut out: Vec<Family> = Vec::new();
    let given = list(data, "/spec/ipFamilies");
    for value in first(door, "spec.ipFamilies", given, 2) {
        match value.as_str() {
            Some("IPv4") => out.push(Family::V4),
            Some("IPv6") => out.push(Family::V6),
            _ => door.refuse(
                "spec.ipFamilies",
                format_args!("{} is neither IPv4 nor IPv6", super::cut(&value.to_string())),
            ),
        }
    }
    if given.is_empty() {
        out.extend(cluster_ips.iter().map(|ip| Family::of(*ip)));
    }
    let mut seen = Vec::new();
    out.retain(|f| {
        !seen.contains(f) && {
            seen.push(*f);
            true
        }
    });
    out
}

/// A DNS name; a dot at its end says no more.
fn external_name(door: &mut Door, data: &Value) -> Option<String> {
    let name = text(data, "/spec/externalName")?;
    let name = name.strip_suffix('.').unwrap_or(name);
    if NodeName::new(name).is_err() {
        door.refuse("spec.externalName", format_args!("{:?} is not a DNS name", super::cut(name)));
        return None;
    }
    Some(name.to_owned())
}

/// Addresses of `ipMode: Proxy` are for the load balancer alone; entries with only a host name are somebody else's.
pub(super) fn load_balancer_ips(door: &mut Door, data: &Value) -> Vec<IpAddr> {
    let field = "status.loadBalancer.ingress";
    let entries = first(door, field, list(data, "/status/loadBalancer/ingress"), MAX_INGRESS);
    let texts = entries.iter().filter(|e| text(e, "/ipMode") != Some("Proxy")).filter_map(|e| text(e, "/ip"));
    parsed(door, field, texts)
}

/// Refused ranges let nobody in: when none is left of those that were given, the list must not become empty, which
/// is everyone.
fn source_ranges(door: &mut Door, data: &Value) -> Vec<IpNet> {
    let field = "spec.loadBalancerSourceRanges";
    let given = list(data, "/spec/loadBalancerSourceRanges");
    let mut out: Vec<IpNet> = Vec::new();
    for value in first(door, field, given, MAX_RANGES) {
        match value.as_str().and_then(|t| t.trim().parse::<IpNet>().ok()) {
            Some(net) => out.push(net.trunc()),
            None => door.refuse(
                field,
                format_args!("{} is not a prefix such as 192.0.2.0/24", super::cut(&value.to_string())),
            ),
        }
    }
    if out.is_empty() && !given.is_empty() {
        out = vec![
            IpNet::from(IpAddr::from(Ipv4Addr::UNSPECIFIED)),
            IpNet::from(IpAddr::from(Ipv6Addr::UNSPECIFIED)),
        ];
    }
    out
}

/// The first of these annotations that is set, with its name.
fn annotation<'a>(meta: &'a ObjectMeta, names: &[&'static str]) -> Option<(&'static str, &'a str)> {
    let annotations = meta.annotations.as_ref()?;
    names.iter().find_map(|n| Some((*n, annotations.get(*n)?.as_str()))).filter(|(_, v)| !v.is_empty())
}

fn requested_addresses(door: &mut Door, meta: &ObjectMeta, data: &Value) -> Vec<IpAddr> {
    let [newer, older] = METALLB_ADDRESSES;
    let (field, value) = annotation(meta, &[ANNOTATION_ADDRESSES, newer, older])
        .unwrap_or(("spec.loadBalancerIP", text(data, "/spec/loadBalancerIP").unwrap_or_default()));
    let texts: Vec<&str> = parts(value).take(MAX_ADDRESSES + 1).collect();
    let texts = first(door, field, &texts, MAX_ADDRESSES);
    parsed(door, field, texts.iter().copied())
}

fn sharing_key(door: &mut Door, meta: &ObjectMeta) -> Option<String> {
    let [newer, older] = METALLB_SHARING_KEY;
    let (field, value) = annotation(meta, &[ANNOTATION_SHARING_KEY, newer, older])?;
    opaque(door, field, Some(value), 253)
}

fn ports(door: &mut Door, data: &Value) -> Vec<ServicePort> {
    let said = first(door, "spec.ports", list(data, "/spec/ports"), MAX_PORTS);
    let mut out: Vec<ServicePort> = Vec::with_capacity(said.len());
    for port in said {
        let Some(row) = service_port(door, port) else { continue };
        if out.iter().any(|p| (p.protocol, p.port) == (row.protocol, row.port)) {
            door.refuse("spec.ports", format_args!("{} {} is named twice", row.protocol, row.port));
        } else {
            out.push(row);
        }
    }
    out
}

fn service_port(door: &mut Door, port: &Value) -> Option<ServicePort> {
    let name = port_name(door, "spec.ports", port)?;
    let protocol = protocol(door, "spec.ports", port)?;
    let Some(number) = port_number(door, "spec.ports.port", port.get("port")) else {
        if port.get("port").is_none_or(|v| v.is_null() || v.as_u64() == Some(0)) {
            door.refuse("spec.ports.port", format_args!("port {name:?} has no number"));
        }
        return None;
    };
    let target = match port.get("targetPort") {
        Some(Value::String(s)) => opaque(door, "spec.ports.targetPort", Some(s), 63),
        Some(Value::Number(n)) => Some(n.to_string()),
        _ => None,
    };
    Some(ServicePort {
        name,
        protocol,
        port: number,
        node_port: port_number(door, "spec.ports.nodePort", port.get("nodePort")),
        target: target.unwrap_or_else(|| number.to_string()),
        app_protocol: opaque(door, "spec.ports.appProtocol", text(port, "/appProtocol"), 317),
    })
}

fn affinity(door: &mut Door, data: &Value) -> Option<Affinity> {
    match text(data, "/spec/sessionAffinity") {
        None | Some("None") => None,
        Some("ClientIP") => {
            let given = data.pointer("/spec/sessionAffinityConfig/clientIP/timeoutSeconds");
            let (default, most) = AFFINITY_SECONDS;
            let seconds = number(door, "spec.sessionAffinityConfig.clientIP.timeoutSeconds", given, most);
            Some(Affinity { seconds: seconds.unwrap_or(default) })
        }
        Some(other) => {
            door.refuse(
                "spec.sessionAffinity",
                format_args!("{:?} is neither None nor ClientIP", super::cut(other)),
            );
            None
        }
    }
}

fn policy(door: &mut Door, field: &str, value: Option<&Value>) -> TrafficPolicy {
    match value {
        None | Some(Value::Null) => TrafficPolicy::Cluster,
        Some(v) if v == "Local" => TrafficPolicy::Local,
        Some(v) if v == "Cluster" || v == "" => TrafficPolicy::Cluster,
        Some(other) => {
            door.refuse(
                field,
                format_args!("{} is neither Cluster nor Local", super::cut(&other.to_string())),
            );
            TrafficPolicy::Cluster
        }
    }
}

#[cfg(test)]
mod tests;
