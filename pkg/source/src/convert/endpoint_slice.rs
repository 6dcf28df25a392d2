//! EndpointSlices.

use super::{
    Converted, Door, first, foreign_proxy, ip, is_label, list, opaque, port_name, port_number, protocol, text,
};
use kube::core::ObjectMeta;
use serde_json::Value;
use std::collections::BTreeSet;
use warren_types::{
    Endpoint, EndpointPort, EndpointSlice, Family, Namespace, NodeName, PodKey, PodName, ServiceKey,
    ServiceName, SliceKey, SliceName,
};

/// Label on an EndpointSlice: its Service.
const LABEL_SERVICE: &str = "kubernetes.io/service-name";
/// At most this many endpoints of one slice are kept: as many as the API allows.
const MAX_ENDPOINTS: usize = 1000;
/// At most this many ports of one slice are kept: as many as the API allows.
const MAX_PORTS: usize = 100;
/// At most this many hints of one endpoint are kept: as many as the API allows.
const MAX_HINTS: usize = 8;

fn key(door: &mut Door, meta: &ObjectMeta) -> Option<SliceKey> {
    let namespace =
        door.keep("metadata.namespace", Namespace::new(meta.namespace.clone().unwrap_or_default()))?;
    let name = door.keep("metadata.name", SliceName::new(meta.name.clone().unwrap_or_default()))?;
    Some(SliceKey { namespace, name })
}

/// The key of an EndpointSlice object, when its names are usable.
#[must_use]
pub fn slice_key_of(meta: &ObjectMeta) -> Option<SliceKey> {
    key(&mut Door::new("EndpointSlice", meta), meta)
}

/// An EndpointSlice object into a row of table `endpoint_slices`. One that belongs to no Service gives nothing, nor does
/// one of DNS names, which no proxy can use.
#[must_use]
pub fn endpoint_slice(meta: &ObjectMeta, data: &Value) -> Converted<EndpointSlice> {
    let mut door = Door::new("EndpointSlice", meta);
    let row = row(&mut door, meta, data);
    Converted { row, refused: door.refused }
}

fn row(door: &mut Door, meta: &ObjectMeta, data: &Value) -> Option<EndpointSlice> {
    let key = key(door, meta)?;
    let service = meta.labels.as_ref()?.get(LABEL_SERVICE).filter(|v| !v.is_empty())?;
    let service = door.keep(LABEL_SERVICE, ServiceName::new(service.clone()))?;
    let family = match text(data, "/addressType") {
        Some("IPv4") => Family::V4,
        Some("IPv6") => Family::V6,
        Some("FQDN") => return None,
        other => {
            let other = super::cut(other.unwrap_or_default());
            door.refuse("addressType", format_args!("{other:?} is none of IPv4, IPv6 and FQDN"));
            return None;
        }
    };
    // Rows stay in memory: lists have room for what they hold.
    let said = first(door, "ports", list(data, "/ports"), MAX_PORTS);
    let mut ports: Vec<EndpointPort> = Vec::with_capacity(said.len());
    for port in said {
        let Some(row) = endpoint_port(door, port) else { continue };
        if ports.iter().any(|p| p.name == row.name) {
            door.refuse("ports", format_args!("name {:?} is given twice", row.name));
        } else {
            ports.push(row);
        }
    }
    let said = first(door, "endpoints", list(data, "/endpoints"), MAX_ENDPOINTS);
    let mut endpoints = Vec::with_capacity(said.len());
    endpoints.extend(said.iter().filter_map(|e| endpoint(door, &key.namespace, family, e)));
    let service = ServiceKey { namespace: key.namespace.clone(), name: service };
    Some(EndpointSlice { key, service, family, ports, endpoints, foreign_proxy: foreign_proxy(meta) })
}

/// A port; one without a number stands for any port and is of no use to a proxy.
fn endpoint_port(door: &mut Door, port: &Value) -> Option<EndpointPort> {
    let number = port_number(door, "ports.port", port.get("port"))?;
    let name = port_name(door, "ports.name", port)?;
    Some(EndpointPort { name, protocol: protocol(door, "ports.protocol", port)?, port: number })
}

fn endpoint(door: &mut Door, namespace: &Namespace, family: Family, value: &Value) -> Option<Endpoint> {
    let field = "endpoints.addresses";
    let Some(address) = list(value, "/addresses").first() else {
        door.refuse(field, "an endpoint without an address");
        return None;
    };
    let address = ip(door, field, address.as_str().unwrap_or("(not text)"))?;
    if Family::of(address) != family {
        door.refuse(field, format_args!("{address} is not of the slice's addressType"));
        return None;
    }
    let condition = |name: &str| value.get("conditions").and_then(|c| c.get(name)).and_then(Value::as_bool);
    let ready = condition("ready").unwrap_or(true);
    let node = text(value, "/nodeName").and_then(|n| door.keep("endpoints.nodeName", NodeName::new(n)));
    let hostname = text(value, "/hostname").and_then(|h| {
        if !is_label(h) {
            door.refuse("endpoints.hostname", format_args!("{:?} is not a DNS label", super::cut(h)));
        }
        is_label(h).then(|| h.to_owned())
    });
    Some(Endpoint {
        address,
        ready,
        serving: condition("serving").unwrap_or(ready),
        terminating: condition("terminating").unwrap_or(false),
        hostname,
        node,
        zone: opaque(door, "endpoints.zone", text(value, "/zone"), 253),
        for_zones: hints(door, value, "forZones", |d, f, n| opaque(d, f, Some(n), 253)),
        for_nodes: hints(door, value, "forNodes", |d, f, n| d.keep(f, NodeName::new(n))),
        pod: pod(door, namespace, value),
    })
}

fn hints<T: Ord>(
    door: &mut Door,
    endpoint: &Value,
    name: &str,
    read: impl Fn(&mut Door, &str, &str) -> Option<T>,
) -> BTreeSet<T> {
    let field = format!("endpoints.hints.{name}");
    let given = list(endpoint, &format!("/hints/{name}"));
    first(door, &field, given, MAX_HINTS)
        .iter()
        .filter_map(|hint| read(door, &field, text(hint, "/name")?))
        .collect()
}

fn pod(door: &mut Door, namespace: &Namespace, endpoint: &Value) -> Option<PodKey> {
    let target = endpoint.get("targetRef").filter(|t| text(t, "/kind") == Some("Pod"))?;
    let name = door.keep("endpoints.targetRef", PodName::new(text(target, "/name")?))?;
    let namespace = match text(target, "/namespace") {
        Some(other) => door.keep("endpoints.targetRef", Namespace::new(other))?,
        None => namespace.clone(),
    };
    Some(PodKey { namespace, name })
}

#[cfg(test)]
mod tests;
