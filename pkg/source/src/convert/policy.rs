//! NetworkPolicies, and the namespaces that they look at.
//!
//! What cannot be read must never allow more than what was meant: it is left out where leaving it out allows less, and
//! takes what holds it with it where not. So also for fields that this version does not know: a condition that is not
//! understood is not a condition that is met.

use super::{Converted, Door, cut, known, list, object, text, unreadable};
use ipnet::IpNet;
use kube::core::ObjectMeta;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::net::IpAddr;
use warren_types::{
    Labels, NamedPort, Namespace, NamespaceState, NetworkPolicy, PolicyKey, PolicyName, PolicyPeer,
    PolicyPort, PolicyRule, PortMatch, Protocol, Requirement, Selector,
};

/// At most this many rules of one direction are kept.
const MAX_RULES: usize = 1024;
/// At most this many peers of one rule are kept: lists of a provider's ranges are long.
const MAX_PEERS: usize = 16_384;
/// At most this many ports of one rule are kept.
const MAX_PORTS: usize = 1024;
/// At most this many peers and ports of one direction are kept, so that the row fits into the store.
const MAX_ENTRIES: usize = 32_768;
/// At most this many exceptions of one block are understood.
const MAX_EXCEPT: usize = 4096;
/// At most this many conditions of one selector are understood, each with at most as many values.
const MAX_CONDITIONS: usize = 256;
/// At most this many names of ports of one pod are kept.
const MAX_NAMED_PORTS: usize = 256;
/// Lengths of a label's key, prefix and all, and of its value, at most.
const MAX_LABEL: (usize, usize) = (253 + 1 + 63, 63);
/// Label of every namespace: its name.
const LABEL_NAME: &str = "kubernetes.io/metadata.name";

/// The key of a Namespace object, when its name is usable.
#[must_use]
pub fn namespace_of(meta: &ObjectMeta) -> Option<Namespace> {
    Namespace::new(meta.name.clone().unwrap_or_default()).ok()
}

/// A Namespace object into a row of table `namespaces`.
#[must_use]
pub fn namespace(meta: &ObjectMeta, data: &Value) -> Converted<NamespaceState> {
    let mut door = Door::new("Namespace", meta);
    let name = door.keep("metadata.name", Namespace::new(meta.name.clone().unwrap_or_default()));
    let row = name.map(|name| {
        let mut labels: Labels = meta.labels.clone().unwrap_or_default();
        // The API promises it, and policies rely on it: nobody's word but the name's own counts.
        labels.insert(LABEL_NAME.into(), name.to_string());
        let terminating =
            meta.deletion_timestamp.is_some() || text(data, "/status/phase") == Some("Terminating");
        NamespaceState { name, labels, terminating }
    });
    Converted { row, refused: door.refused }
}

fn key(door: &mut Door, meta: &ObjectMeta) -> Option<PolicyKey> {
    let namespace =
        door.keep("metadata.namespace", Namespace::new(meta.namespace.clone().unwrap_or_default()))?;
    let name = door.keep("metadata.name", PolicyName::new(meta.name.clone().unwrap_or_default()))?;
    Some(PolicyKey { namespace, name })
}

/// The key of a NetworkPolicy object, when its names are usable.
#[must_use]
pub fn policy_key_of(meta: &ObjectMeta) -> Option<PolicyKey> {
    key(&mut Door::new("NetworkPolicy", meta), meta)
}

/// A NetworkPolicy object into a row of table `network_policies`.
#[must_use]
pub fn network_policy(meta: &ObjectMeta, data: &Value) -> Converted<NetworkPolicy> {
    let mut door = Door::new("NetworkPolicy", meta);
    let Some(key) = key(&mut door, meta) else {
        return Converted { row: None, refused: door.refused };
    };
    let spec = match given(data, "spec") {
        None => Spec { pods: Selector::default(), ingress: Some(Vec::new()), egress: None },
        Some(Value::Object(spec)) => read_spec(&mut door, spec),
        Some(other) => {
            unreadable(&mut door, "spec", other, "an object");
            Spec { pods: Selector::default(), ingress: Some(Vec::new()), egress: Some(Vec::new()) }
        }
    };
    let Spec { pods, ingress, egress } = spec;
    let row = NetworkPolicy { key, uid: meta.uid.clone().unwrap_or_default(), pods, ingress, egress };
    Converted { row: Some(row), refused: door.refused }
}

struct Spec {
    pods: Selector,
    ingress: Option<Vec<PolicyRule>>,
    egress: Option<Vec<PolicyRule>>,
}

fn read_spec(door: &mut Door, spec: &Map<String, Value>) -> Spec {
    known(door, "spec", spec, &["podSelector", "ingress", "egress", "policyTypes"]);
    let (pods, certain) = match spec.get("podSelector") {
        None => (Selector::default(), true),
        Some(selector) => subjects(door, selector),
    };
    let (ingress, egress) = types(door, spec);
    // Pods that may be meant are isolated. That they are allowed something is only said of pods that are meant.
    let mut read = |isolates: bool, field: &Direction| match isolates {
        true if certain => Some(rules(door, spec, field)),
        true => Some(Vec::new()),
        false => None,
    };
    Spec { pods, ingress: read(ingress, &INGRESS), egress: read(egress, &EGRESS) }
}

struct Direction {
    rules: &'static str,
    peers: &'static str,
}
const INGRESS: Direction = Direction { rules: "ingress", peers: "from" };
const EGRESS: Direction = Direction { rules: "egress", peers: "to" };

/// In which directions the policy isolates. Without `policyTypes`: ingress always, egress if there are rules for it. One
/// that is neither may be either.
fn types(door: &mut Door, spec: &Map<String, Value>) -> (bool, bool) {
    let by_default = || {
        let egress = spec.get("egress").filter(|e| !e.is_null());
        (true, egress.is_some_and(|e| e.as_array().is_none_or(|rules| !rules.is_empty())))
    };
    let given = match spec.get("policyTypes") {
        None | Some(Value::Null) => return by_default(),
        Some(Value::Array(types)) if types.is_empty() => return by_default(),
        Some(Value::Array(types)) => types,
        Some(other) => {
            unreadable(door, "spec.policyTypes", other, "a list");
            return (true, true);
        }
    };
    let (mut ingress, mut egress) = (false, false);
    for of_type in given {
        match of_type.as_str() {
            Some("Ingress") => ingress = true,
            Some("Egress") => egress = true,
            _ => {
                unreadable(door, "spec.policyTypes", of_type, "Ingress or Egress");
                (ingress, egress) = (true, true);
            }
        }
    }
    (ingress, egress)
}

fn rules(door: &mut Door, spec: &Map<String, Value>, direction: &Direction) -> Vec<PolicyRule> {
    let field = format!("spec.{}", direction.rules);
    let given = match spec.get(direction.rules) {
        None | Some(Value::Null) => return Vec::new(),
        Some(Value::Array(given)) => given,
        Some(other) => {
            unreadable(door, &field, other, "a list");
            return Vec::new();
        }
    };
    let mut left = MAX_ENTRIES;
    let mut out = Vec::new();
    for value in super::first(door, &field, given, MAX_RULES) {
        let Some(rule) = rule(door, value, &field, direction.peers) else { continue };
        let Some(rest) = left.checked_sub(rule.peers.len() + rule.ports.len()) else {
            door.refuse(&field, format_args!("more than {MAX_ENTRIES} peers and ports; rule left out"));
            continue;
        };
        left = rest;
        out.push(rule);
    }
    out
}

/// A rule. An entry that cannot be read allows nothing; a list of nothing else must not become the empty list, which
/// allows everything, and takes the rule with it.
fn rule(door: &mut Door, value: &Value, field: &str, peers: &str) -> Option<PolicyRule> {
    let map = object(door, field, value, &[peers, "ports"])?;
    Some(PolicyRule {
        peers: entries(door, &format!("{field}.{peers}"), map.get(peers), MAX_PEERS, peer)?,
        ports: entries(door, &format!("{field}.ports"), map.get("ports"), MAX_PORTS, port)?,
    })
}

fn entries<T>(
    door: &mut Door,
    field: &str,
    given: Option<&Value>,
    most: usize,
    read: impl Fn(&mut Door, &str, &Value) -> Option<T>,
) -> Option<Vec<T>> {
    let given = match given {
        None | Some(Value::Null) => return Some(Vec::new()),
        Some(Value::Array(given)) => given,
        Some(other) => {
            unreadable(door, field, other, "a list");
            return None;
        }
    };
    let kept = super::first(door, field, given, most).iter();
    let out: Vec<T> = kept.filter_map(|entry| read(door, field, entry)).collect();
    (given.is_empty() || !out.is_empty()).then_some(out)
}

fn peer(door: &mut Door, field: &str, value: &Value) -> Option<PolicyPeer> {
    let map = object(door, field, value, &["podSelector", "namespaceSelector", "ipBlock"])?;
    let part = |name: &str| map.get(name).filter(|v| !v.is_null());
    let (pods, namespaces) = (part("podSelector"), part("namespaceSelector"));
    if let Some(given) = part("ipBlock") {
        if pods.is_some() || namespaces.is_some() {
            door.refuse(field, "ipBlock stands alone in a peer");
            return None;
        }
        return block(door, &format!("{field}.ipBlock"), given);
    }
    if pods.is_none() && namespaces.is_none() {
        door.refuse(field, "a peer has a podSelector, a namespaceSelector, or an ipBlock");
        return None;
    }
    let mut read = |name: &str, selector: Option<&Value>| match selector {
        None => Some(None),
        Some(selector) => whole_selector(door, &format!("{field}.{name}"), selector).map(Some),
    };
    let namespaces = read("namespaceSelector", namespaces)?;
    let pods = read("podSelector", pods)?.unwrap_or_default();
    Some(PolicyPeer::Pods { namespaces, pods })
}

/// A block. Each exception narrows it, so one that cannot be read takes the block with it.
fn block(door: &mut Door, field: &str, value: &Value) -> Option<PolicyPeer> {
    let map = object(door, field, value, &["cidr", "except"])?;
    let cidr = prefix(door, &format!("{field}.cidr"), map.get("cidr").unwrap_or(&Value::Null))?;
    let field = format!("{field}.except");
    let given = match map.get("except") {
        None | Some(Value::Null) => &[],
        Some(Value::Array(given)) if given.len() <= MAX_EXCEPT => given.as_slice(),
        Some(Value::Array(given)) => {
            door.refuse(&field, format_args!("{} entries; at most {MAX_EXCEPT} are understood", given.len()));
            return None;
        }
        Some(other) => {
            unreadable(door, &field, other, "a list");
            return None;
        }
    };
    let mut except = Vec::new();
    for value in given {
        let inner = prefix(door, &field, value)?;
        if inner.contains(&cidr) {
            door.refuse(&field, format_args!("{inner} leaves nothing of {cidr}"));
            return None;
        }
        if !cidr.contains(&inner) {
            door.refuse(&field, format_args!("{inner} is outside of {cidr}"));
        } else {
            except.push(inner);
        }
    }
    Some(PolicyPeer::Block { cidr, except })
}

/// A prefix, without host bits. One of IPv4 in the form of IPv6 would match no packet, nor narrow a block as it looks.
fn prefix(door: &mut Door, field: &str, value: &Value) -> Option<IpNet> {
    let parsed = value.as_str().and_then(|t| t.parse::<IpNet>().ok());
    let mapped = |net: &IpNet| matches!(net.addr(), IpAddr::V6(a) if a.to_ipv4_mapped().is_some());
    let net = parsed.filter(|net| !mapped(net)).map(|net| net.trunc());
    if net.is_none() {
        unreadable(door, field, value, "a prefix such as 192.0.2.0/24 or 2001:db8::/64");
    }
    net
}

fn port(door: &mut Door, field: &str, value: &Value) -> Option<PolicyPort> {
    let map = object(door, field, value, &["protocol", "port", "endPort"])?;
    let protocol = super::protocol(door, &format!("{field}.protocol"), value)?;
    let end = map.get("endPort").filter(|v| !v.is_null());
    let ports = match map.get("port").filter(|v| !v.is_null()) {
        Some(number @ Value::Number(_)) => {
            let first = port_number(door, &format!("{field}.port"), number)?;
            let last = match end {
                None => first,
                Some(end) => port_number(door, &format!("{field}.endPort"), end)?,
            };
            if last < first {
                door.refuse(&format!("{field}.endPort"), format_args!("{last} is less than port {first}"));
                return None;
            }
            PortMatch::Range(first, last)
        }
        _ if end.is_some() => {
            door.refuse(&format!("{field}.endPort"), "endPort is for a port that is a number");
            return None;
        }
        None => PortMatch::Any,
        Some(Value::String(name)) if NamedPort::is_name(name) => PortMatch::Named(name.clone()),
        Some(other) => {
            unreadable(door, &format!("{field}.port"), other, "the number or the name of a port");
            return None;
        }
    };
    Some(PolicyPort { protocol, ports })
}

/// A port that has to be there: 0 is none, and no port is every port.
fn port_number(door: &mut Door, field: &str, value: &Value) -> Option<u16> {
    let number = value.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0);
    if number.is_none() {
        unreadable(door, field, value, "a number from 1 to 65535");
    }
    number
}

/// Ports with a name of the containers that run beside each other: `spec.containers`, and sidecars among
/// `spec.initContainers`.
pub(super) fn named_ports(door: &mut Door, data: &Value) -> Vec<NamedPort> {
    let sidecars = list(data, "/spec/initContainers").iter();
    let sidecars = sidecars.filter(|c| text(c, "/restartPolicy") == Some("Always"));
    let containers = list(data, "/spec/containers").iter().chain(sidecars);
    let named = containers.flat_map(|c| list(c, "/ports")).filter(|p| text(p, "/name").is_some());
    let named: Vec<&Value> = named.take(MAX_NAMED_PORTS + 1).collect();
    let mut out = Vec::new();
    for port in super::first(door, "spec.containers.ports", &named, MAX_NAMED_PORTS) {
        if let Some(port) = named_port(door, port)
            && !out.contains(&port)
        {
            out.push(port);
        }
    }
    out
}

fn named_port(door: &mut Door, port: &Value) -> Option<NamedPort> {
    let name = text(port, "/name").unwrap_or_default();
    if !NamedPort::is_name(name) {
        door.refuse("spec.containers.ports.name", format_args!("{:?} is not the name of a port", cut(name)));
        return None;
    }
    let protocol: Protocol = super::protocol(door, "spec.containers.ports.protocol", port)?;
    let number = port.get("containerPort").unwrap_or(&Value::Null);
    let port = port_number(door, "spec.containers.ports.containerPort", number)?;
    Some(NamedPort { name: name.to_owned(), protocol, port })
}

/// Which pods a policy is for, and whether that is certain. A condition that cannot be read is left out: more pods than
/// were meant are selected then, not fewer.
fn subjects(door: &mut Door, value: &Value) -> (Selector, bool) {
    let conditions = requirements(door, "spec.podSelector", value);
    let certain = conditions.iter().all(Option::is_some);
    (Selector::new(conditions.into_iter().flatten()), certain)
}

/// A selector of whom to allow; none when any of it cannot be read, since it would select more without that.
pub(super) fn whole_selector(door: &mut Door, field: &str, value: &Value) -> Option<Selector> {
    let conditions: Option<Vec<Requirement>> = requirements(door, field, value).into_iter().collect();
    conditions.map(Selector::new)
}

/// The conditions of a `LabelSelector`, with none for what cannot be read of it.
fn requirements(door: &mut Door, field: &str, value: &Value) -> Vec<Option<Requirement>> {
    let map = match value {
        Value::Null => return Vec::new(),
        Value::Object(map) => map,
        other => {
            unreadable(door, field, other, "a selector");
            return vec![None];
        }
    };
    let mut out = Vec::new();
    if !known(door, field, map, &["matchLabels", "matchExpressions"]) {
        out.push(None);
    }
    let at = format!("{field}.matchLabels");
    match map.get("matchLabels") {
        None | Some(Value::Null) => {}
        Some(Value::Object(labels)) => {
            bounded(door, &at, labels.iter(), &mut out, |door, (key, value)| {
                let key = label_key(door, &at, key)?;
                Some(Requirement::In(key, [label_value(door, &at, value)?].into()))
            });
        }
        Some(other) => {
            unreadable(door, &at, other, "a map of labels");
            out.push(None);
        }
    }
    let at = format!("{field}.matchExpressions");
    match map.get("matchExpressions") {
        None | Some(Value::Null) => {}
        Some(Value::Array(expressions)) => {
            bounded(door, &at, expressions.iter(), &mut out, |door, e| expression(door, &at, e));
        }
        Some(other) => {
            unreadable(door, &at, other, "a list");
            out.push(None);
        }
    }
    out
}

/// Reads at most so many conditions; the rest counts as unreadable.
fn bounded<T>(
    door: &mut Door,
    field: &str,
    given: impl ExactSizeIterator<Item = T>,
    out: &mut Vec<Option<Requirement>>,
    read: impl Fn(&mut Door, T) -> Option<Requirement>,
) {
    let count = given.len();
    out.extend(given.take(MAX_CONDITIONS).map(|condition| read(door, condition)));
    if count > MAX_CONDITIONS {
        door.refuse(field, format_args!("{count} conditions; at most {MAX_CONDITIONS} are understood"));
        out.push(None);
    }
}

fn expression(door: &mut Door, field: &str, value: &Value) -> Option<Requirement> {
    let map = object(door, field, value, &["key", "operator", "values"])?;
    let key = label_key(door, field, map.get("key").and_then(Value::as_str).unwrap_or_default())?;
    let given = match map.get("values") {
        None | Some(Value::Null) => &[],
        Some(Value::Array(values)) if values.len() <= MAX_CONDITIONS => values.as_slice(),
        Some(other) => {
            unreadable(door, field, other, "a list of values");
            return None;
        }
    };
    let values: Option<BTreeSet<String>> = given.iter().map(|v| label_value(door, field, v)).collect();
    let values = values?;
    let operator = map.get("operator").unwrap_or(&Value::Null);
    match operator.as_str() {
        Some("In") if !values.is_empty() => Some(Requirement::In(key, values)),
        Some("NotIn") if !values.is_empty() => Some(Requirement::NotIn(key, values)),
        Some("Exists") if values.is_empty() => Some(Requirement::Exists(key)),
        Some("DoesNotExist") if values.is_empty() => Some(Requirement::DoesNotExist(key)),
        Some(operator @ ("In" | "NotIn")) => {
            door.refuse(field, format_args!("{operator} {key:?} has no values"));
            None
        }
        Some(operator @ ("Exists" | "DoesNotExist")) => {
            door.refuse(field, format_args!("{operator} {key:?} takes no values"));
            None
        }
        _ => {
            unreadable(door, field, operator, "one of In, NotIn, Exists and DoesNotExist");
            None
        }
    }
}

fn label_key(door: &mut Door, field: &str, key: &str) -> Option<String> {
    let fits = !key.is_empty() && label_text(key, MAX_LABEL.0);
    if !fits {
        door.refuse(field, format_args!("{:?} is not the key of a label", cut(key)));
    }
    fits.then(|| key.to_owned())
}

fn label_value(door: &mut Door, field: &str, value: &Value) -> Option<String> {
    let fits = value.as_str().filter(|v| label_text(v, MAX_LABEL.1) && !v.contains('/'));
    if fits.is_none() {
        unreadable(door, field, value, "the value of a label");
    }
    fits.map(str::to_owned)
}

/// Whether `s` can be of a label: of these letters, and no longer than `most`.
fn label_text(s: &str, most: usize) -> bool {
    s.len() <= most && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/'))
}

fn given<'a>(data: &'a Value, name: &str) -> Option<&'a Value> {
    data.get(name).filter(|v| !v.is_null())
}

#[cfg(test)]
mod tests;
