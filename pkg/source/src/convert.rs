//! Kubernetes objects into Warren's rows: pure, total, and the only place where the API's text is judged.
//!
//! A field that is malformed is left out and named in a [`Refusal`]; the object is kept. An object without a usable
//! name is refused as a whole. Nothing here panics, whatever JSON comes in.

use crate::status::Refusal;
use kube::core::ObjectMeta;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use warren_types::cluster::{CONFIG_MAP_KEY, CONFIG_MAP_NAME};
use warren_types::connectivity::{self, ConnectivityRun, RUN_KEY};
use warren_types::ingress::ANNOTATION_INGRESS;
use warren_types::node::{
    ANNOTATION_ENDPOINTS, ANNOTATION_NODE_ID, ANNOTATION_OBSERVED, ANNOTATION_PUBLIC_KEY,
    ANNOTATION_SERVED_ADDRESSES,
};
use warren_types::service::{ANNOTATION_HELD_PORTS, LABEL_HEADLESS, LABEL_PROXY_NAME};
use warren_types::{
    ClusterConfig, HeldPort, Namespace, Node, NodeId, NodeName, Pod, PodCidrs, PodKey, PodName, Protocol,
    PublicKey, ServiceName,
};

mod endpoint_slice;
mod gateway;
mod ingress;
mod policy;
mod service;

pub use endpoint_slice::{endpoint_slice, slice_key_of};
pub use gateway::{
    gateway, gateway_class, gateway_class_of, gateway_key_of, grant_key_of, grpc_route, http_route,
    reference_grant, route_key_of,
};
pub use ingress::{ingress, ingress_class, ingress_class_of, ingress_key_of, secret};
pub use policy::{namespace, namespace_of, network_policy, policy_key_of};
pub(crate) use service::MAX_INGRESS;
pub use service::{service, service_key_of};

/// On the mirror of a static pod, and the uid of that pod.
const ANNOTATION_MIRROR: &str = "kubernetes.io/config.mirror";
const ANNOTATION_HASH: &str = "kubernetes.io/config.hash";
/// At most this many observations of one node are kept: more than a site has nodes.
const MAX_OBSERVED: usize = 1024;
/// At most this many endpoints of one node are kept: each is tried in turn.
const MAX_ENDPOINTS: usize = 8;
/// At most this many addresses of one object are kept.
const MAX_ADDRESSES: usize = 16;
/// At most this many held ports of one node are kept.
const MAX_HELD_PORTS: usize = 256;
/// At most this many ports of ingress of one node are kept.
const MAX_INGRESS_PORTS: usize = 16;
/// At most this many refusals of one object are kept: enough to see what is wrong with it.
const MAX_REFUSALS: usize = 20;

/// A row, if there can be one, and what was left out of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted<R> {
    /// The row; none when the object as a whole was refused, or, with nothing refused, when it is none of ours.
    pub row: Option<R>,
    /// What was refused, each with the object's name.
    pub refused: Vec<Refusal>,
}

/// Collects what is refused of one object.
struct Door {
    kind: &'static str,
    object: String,
    refused: Vec<Refusal>,
}

impl Door {
    fn new(kind: &'static str, meta: &ObjectMeta) -> Self {
        let name = meta.name.as_deref().unwrap_or("(no name)");
        let object = match meta.namespace.as_deref() {
            Some(ns) if kind != "Node" => format!("{}/{}", cut(ns), cut(name)),
            _ => cut(name),
        };
        Self { kind, object, refused: Vec::new() }
    }
    fn refuse(&mut self, field: &str, reason: impl std::fmt::Display) {
        if self.refused.len() >= MAX_REFUSALS {
            return;
        }
        self.refused.push(Refusal {
            kind: self.kind.into(),
            object: self.object.clone(),
            field: field.into(),
            reason: cut(&reason.to_string()),
        });
    }
    fn keep<T, E: std::fmt::Display>(&mut self, field: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|e| self.refuse(field, e)).ok()
    }
}

/// The first `most` of `items`; that there are more is refused.
fn first<'a, T>(door: &mut Door, field: &str, items: &'a [T], most: usize) -> &'a [T] {
    if items.len() > most {
        door.refuse(field, format_args!("{} entries; the first {most} are used", items.len()));
    }
    items.get(..most).unwrap_or(items)
}

/// Text that Warren only compares and shows, of at most `most` characters.
fn opaque(door: &mut Door, field: &str, value: Option<&str>, most: usize) -> Option<String> {
    let value = value.filter(|v| !v.is_empty())?;
    if value.chars().take(most + 1).count() > most || value.chars().any(char::is_control) {
        door.refuse(
            field,
            format_args!("{:?} is longer than {most} characters, or not printable", cut(value)),
        );
        return None;
    }
    Some(value.to_owned())
}

/// A number from 1 to `most`. Absent and 0 are none, as the API writes them.
fn number(door: &mut Door, field: &str, value: Option<&Value>, most: u32) -> Option<u32> {
    let value = value.filter(|v| !v.is_null() && v.as_u64() != Some(0))?;
    let number = value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= most);
    if number.is_none() {
        door.refuse(field, format_args!("{} is not a number from 1 to {most}", cut(&value.to_string())));
    }
    number
}

fn port_number(door: &mut Door, field: &str, value: Option<&Value>) -> Option<u16> {
    number(door, field, value, u16::MAX.into()).and_then(|n| u16::try_from(n).ok())
}

/// A port's protocol; absent is TCP.
fn protocol(door: &mut Door, field: &str, port: &Value) -> Option<Protocol> {
    let Some(name) = port.get("protocol").filter(|v| !v.is_null()) else { return Some(Protocol::Tcp) };
    let known = name.as_str().and_then(Protocol::from_name);
    if known.is_none() {
        door.refuse(field, format_args!("protocol {} is none of TCP, UDP and SCTP", cut(&name.to_string())));
    }
    known
}

/// A port's name: a DNS label, or empty. None when it is neither.
fn port_name(door: &mut Door, field: &str, port: &Value) -> Option<String> {
    let name = match port.get("name") {
        None | Some(Value::Null) => "",
        Some(name) => name.as_str().unwrap_or("?"),
    };
    if !name.is_empty() && !is_label(name) {
        door.refuse(field, format_args!("port name {:?} is not a DNS label", cut(name)));
        return None;
    }
    Some(name.to_owned())
}

/// Whether `s` is a DNS label: names of Services are just that.
fn is_label(s: &str) -> bool {
    ServiceName::new(s).is_ok()
}

/// Whether labels say that another proxy, or none, takes care of the object.
fn foreign_proxy(meta: &ObjectMeta) -> bool {
    let labels = meta.labels.as_ref();
    labels.is_some_and(|l| l.contains_key(LABEL_PROXY_NAME) || l.contains_key(LABEL_HEADLESS))
}

fn cut(s: &str) -> String {
    s.chars().filter(|c| !c.is_control()).take(200).collect()
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str).filter(|s| !s.is_empty())
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// An object all of whose fields are known.
fn object<'a>(
    door: &mut Door,
    field: &str,
    value: &'a Value,
    names: &[&str],
) -> Option<&'a Map<String, Value>> {
    let Value::Object(map) = value else {
        unreadable(door, field, value, "an object");
        return None;
    };
    known(door, field, map, names).then_some(map)
}

/// Whether each field of `map` is one of `names`; those that are not are refused.
fn known(door: &mut Door, field: &str, map: &Map<String, Value>, names: &[&str]) -> bool {
    let unknown = map.iter().find(|(name, value)| !value.is_null() && !names.contains(&name.as_str()));
    if let Some((name, _)) = unknown {
        door.refuse(field, format_args!("field {:?} is not known", cut(name)));
    }
    unknown.is_none()
}

fn unreadable(door: &mut Door, field: &str, value: &Value, what: &str) {
    let value = cut(&value.to_string());
    let value = value.chars().take(80).collect::<String>();
    door.refuse(field, format_args!("{value} is not {what}"));
}

/// A Node object into a row of table `nodes`.
#[must_use]
pub fn node(meta: &ObjectMeta, data: &Value) -> Converted<Node> {
    let mut door = Door::new("Node", meta);
    let Some(name) = door.keep("metadata.name", NodeName::new(meta.name.clone().unwrap_or_default())) else {
        return Converted { row: None, refused: door.refused };
    };
    let annotation = |key: &str| meta.annotations.as_ref().and_then(|a| a.get(key)).filter(|v| !v.is_empty());
    let node_id =
        annotation(ANNOTATION_NODE_ID).and_then(|v| door.keep(ANNOTATION_NODE_ID, NodeId::new(v.clone())));
    let public_key =
        annotation(ANNOTATION_PUBLIC_KEY).and_then(|v| door.keep(ANNOTATION_PUBLIC_KEY, PublicKey::parse(v)));
    let endpoints = annotation(ANNOTATION_ENDPOINTS).map(|v| endpoints(&mut door, v)).unwrap_or_default();
    let observed = annotation(ANNOTATION_OBSERVED).map(|v| observed(&mut door, v)).unwrap_or_default();
    let held_ports = annotation(ANNOTATION_HELD_PORTS).map(|v| held_ports(&mut door, v)).unwrap_or_default();
    let ingress = annotation(ANNOTATION_INGRESS).map(|v| ports(&mut door, v)).unwrap_or_default();
    let served_ips =
        annotation(ANNOTATION_SERVED_ADDRESSES).map(|v| addresses(&mut door, v)).unwrap_or_default();
    let pod_cidrs = pod_cidrs(&mut door, data);
    let mut internal_ips = Vec::new();
    for address in list(data, "/status/addresses").iter().filter(|a| text(a, "/type") == Some("InternalIP")) {
        if let Some(ip) = ip(&mut door, "status.addresses", text(address, "/address").unwrap_or_default())
            && internal_ips.len() < MAX_ADDRESSES
            && !internal_ips.contains(&ip)
        {
            internal_ips.push(ip);
        }
    }
    let ready = list(data, "/status/conditions")
        .iter()
        .any(|c| text(c, "/type") == Some("Ready") && text(c, "/status") == Some("True"));
    let row = Node {
        name,
        uid: meta.uid.clone().unwrap_or_default(),
        node_id,
        public_key,
        endpoints,
        observed,
        held_ports,
        ingress,
        internal_ips,
        served_ips,
        pod_cidrs,
        labels: meta.labels.clone().unwrap_or_default(),
        ready,
    };
    Converted { row: Some(row), refused: door.refused }
}

/// `spec.podCIDRs`, or `spec.podCIDR` where only that is set. All or none: half a plan is no plan.
fn pod_cidrs(door: &mut Door, data: &Value) -> PodCidrs {
    let many = list(data, "/spec/podCIDRs");
    let texts: Vec<String> = if many.is_empty() {
        text(data, "/spec/podCIDR").map(str::to_owned).into_iter().collect()
    } else {
        many.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect()
    };
    door.keep("spec.podCIDRs", PodCidrs::parse(texts)).unwrap_or_default()
}

fn endpoints(door: &mut Door, value: &str) -> Vec<SocketAddr> {
    let mut out = Vec::new();
    for part in parts(value).take(MAX_ENDPOINTS) {
        if let Some(e) = endpoint(door, ANNOTATION_ENDPOINTS, part)
            && !out.contains(&e)
        {
            out.push(e);
        }
    }
    out
}

fn observed(door: &mut Door, value: &str) -> BTreeMap<NodeName, SocketAddr> {
    let mut out = BTreeMap::new();
    for part in parts(value).take(MAX_OBSERVED) {
        let Some((name, at)) = part.split_once('=') else {
            door.refuse(ANNOTATION_OBSERVED, format_args!("{:?} is not node=address:port", cut(part)));
            continue;
        };
        if let Some(name) = door.keep(ANNOTATION_OBSERVED, NodeName::new(name.to_owned()))
            && let Some(at) = endpoint(door, ANNOTATION_OBSERVED, at)
        {
            out.insert(name, at);
        }
    }
    out
}

fn held_ports(door: &mut Door, value: &str) -> Vec<HeldPort> {
    let mut out = Vec::new();
    for part in parts(value).take(MAX_HELD_PORTS) {
        let held = part.split_once('=').and_then(|(socket, holder)| {
            let (protocol, port) = socket.split_once('/')?;
            let port = port.parse().ok().filter(|p| *p != 0)?;
            Some(HeldPort { protocol: Protocol::from_name(protocol)?, port, holder: cut(holder) })
        });
        match held {
            Some(held) => out.push(held),
            None => door
                .refuse(ANNOTATION_HELD_PORTS, format_args!("{:?} is not protocol/port=holder", cut(part))),
        }
    }
    out.sort();
    out.dedup();
    out
}

/// The ports of [`ANNOTATION_INGRESS`].
fn ports(door: &mut Door, value: &str) -> Vec<u16> {
    let mut out = Vec::new();
    for part in parts(value).take(MAX_INGRESS_PORTS) {
        match part.parse() {
            Ok(0) | Err(_) => door.refuse(ANNOTATION_INGRESS, format_args!("{:?} is not a port", cut(part))),
            Ok(port) => out.push(port),
        }
    }
    out.sort_unstable();
    out.dedup();
    out
}

/// The addresses of [`ANNOTATION_SERVED_ADDRESSES`].
fn addresses(door: &mut Door, value: &str) -> Vec<IpAddr> {
    let mut out: Vec<IpAddr> = parts(value)
        .take(MAX_ADDRESSES)
        .filter_map(|part| ip(door, ANNOTATION_SERVED_ADDRESSES, part))
        .collect();
    out.sort();
    out.dedup();
    out
}

/// The entries of a comma-separated list.
fn parts(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|p| !p.is_empty())
}

fn endpoint(door: &mut Door, field: &str, value: &str) -> Option<SocketAddr> {
    match value.parse::<SocketAddr>() {
        Ok(e) if e.port() != 0 && usable(e.ip()) => return Some(e),
        Ok(_) => door.refuse(field, format_args!("{value:?} cannot be reached from another node")),
        Err(_) => door.refuse(field, format_args!("{:?} is not address:port", cut(value))),
    }
    None
}

fn ip(door: &mut Door, field: &str, value: &str) -> Option<IpAddr> {
    match value.parse::<IpAddr>() {
        Ok(ip) if usable(ip) => Some(ip),
        Ok(ip) => {
            door.refuse(field, format_args!("{ip} cannot be another host's address"));
            None
        }
        Err(_) => {
            door.refuse(field, format_args!("{:?} is not an IP address", cut(value)));
            None
        }
    }
}

/// Whether `ip` can be the address of another host.
#[must_use]
pub fn usable(ip: IpAddr) -> bool {
    let special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
    let other = match ip {
        IpAddr::V4(v4) => v4.is_broadcast() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    !special && !other
}

fn pod_key(door: &mut Door, meta: &ObjectMeta) -> Option<PodKey> {
    let namespace =
        door.keep("metadata.namespace", Namespace::new(meta.namespace.clone().unwrap_or_default()))?;
    let name = door.keep("metadata.name", PodName::new(meta.name.clone().unwrap_or_default()))?;
    Some(PodKey { namespace, name })
}

/// A Pod object into a row of table `pods`.
#[must_use]
pub fn pod(meta: &ObjectMeta, data: &Value) -> Converted<Pod> {
    let mut door = Door::new("Pod", meta);
    let Some(key) = pod_key(&mut door, meta) else {
        return Converted { row: None, refused: door.refused };
    };
    let node = text(data, "/spec/nodeName").and_then(|n| door.keep("spec.nodeName", NodeName::new(n)));
    let mut texts: Vec<&str> = list(data, "/status/podIPs").iter().filter_map(|v| text(v, "/ip")).collect();
    if texts.is_empty() {
        texts.extend(text(data, "/status/podIP"));
    }
    let mut ips = Vec::new();
    for t in texts.into_iter().take(MAX_ADDRESSES) {
        if let Some(ip) = ip(&mut door, "status.podIPs", t)
            && !ips.contains(&ip)
        {
            ips.push(ip);
        }
    }
    let row = Pod {
        key,
        uid: pod_uid(meta),
        node,
        ips,
        host_network: data.pointer("/spec/hostNetwork").and_then(Value::as_bool).unwrap_or(false),
        labels: meta.labels.clone().unwrap_or_default(),
        finished: matches!(text(data, "/status/phase"), Some("Succeeded" | "Failed")),
        named_ports: policy::named_ports(&mut door, data),
    };
    Converted { row: Some(row), refused: door.refused }
}

/// The uid that a pod's node knows it by. The object of a static pod is a mirror that has one of its own.
fn pod_uid(meta: &ObjectMeta) -> String {
    let annotation = |key| meta.annotations.as_ref().and_then(|all| all.get(key));
    let of_static = annotation(ANNOTATION_MIRROR).and_then(|_| annotation(ANNOTATION_HASH));
    of_static.or(meta.uid.as_ref()).cloned().unwrap_or_default()
}

/// The ConfigMap of the cluster's ranges into the row of table `cluster`. Another ConfigMap gives nothing.
#[must_use]
pub fn cluster(meta: &ObjectMeta, data: &Value) -> Converted<ClusterConfig> {
    let mut door = Door::new("ConfigMap", meta);
    if meta.name.as_deref() != Some(CONFIG_MAP_NAME) {
        return Converted { row: None, refused: Vec::new() };
    }
    let field = format!("data[{CONFIG_MAP_KEY:?}]");
    let row = match data.get("data").and_then(|d| d.get(CONFIG_MAP_KEY)).and_then(Value::as_str) {
        None => {
            door.refuse(&field, "missing");
            None
        }
        Some(json) => door.keep(&field, serde_json::from_str::<ClusterConfig>(json)),
    };
    Converted { row, refused: door.refused }
}

/// The ConfigMap of a run of `warren connectivity` into the row of table `connectivity_run`. Another ConfigMap gives nothing.
#[must_use]
pub fn connectivity_run(meta: &ObjectMeta, data: &Value) -> Converted<ConnectivityRun> {
    let mut door = Door::new("ConfigMap", meta);
    let text = data.get("data").and_then(|d| d.get(RUN_KEY)).and_then(Value::as_str);
    let row = match text.filter(|_| meta.name.as_deref() == Some(connectivity::CONFIG_MAP_NAME)) {
        None => None,
        Some(json) => door.keep(&format!("data[{RUN_KEY:?}]"), serde_json::from_str::<ConnectivityRun>(json)),
    };
    Converted { row, refused: door.refused }
}

/// Labels of an object, for comparing.
#[must_use]
pub(crate) fn labels(meta: &ObjectMeta) -> BTreeMap<String, String> {
    meta.labels.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests;
