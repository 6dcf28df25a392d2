//! Ingresses, their classes, and Secrets.
//!
//! What cannot be read must not send requests elsewhere than was meant. A path whose backend cannot be read stays, with
//! nothing behind it, lest its requests go to the backend of a shorter one; so does a path with a condition that this
//! version does not know. What does not even say which requests it is for is left out. Nothing of a Secret is ever quoted.

use super::service::load_balancer_ips;
use super::{Converted, Door, cut, first, is_label, known, object, opaque, text, unreadable};
use kube::core::ObjectMeta;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use warren_types::ingress::{
    ANNOTATION_DEFAULT_CLASS, ANNOTATION_INGRESS_CLASS, PREFIX_NGINX, PREFIX_OPTIONS, SECRET_ENTRIES,
};
use warren_types::{
    BackendPort, HostPattern, Ingress, IngressBackend, IngressClass, IngressClassName, IngressKey,
    IngressName, IngressPath, IngressRule, IngressTls, Namespace, PathKind, SecretBytes, SecretContent,
    SecretName, SecretObject, SecretRef, ServiceName,
};

/// At most this many rules of one Ingress, paths of all of them, entries of `tls` and hosts of one entry are kept.
const MAX_RULES: usize = 2048;
const MAX_PATHS: usize = 4096;
const MAX_TLS: usize = 1024;
const MAX_HOSTS: usize = 1024;
/// Longest path, and all hosts of `tls` together: so that the row fits into the store.
const MAX_PATH: usize = 1024;
const MAX_ALL_HOSTS: usize = 8192;
/// As long as the API lets all annotations of an object be. No option is ever left out: it may be one that restricts.
const MAX_OPTIONS: usize = 256 * 1024;
/// Longest `spec.controller` that the API takes.
const MAX_CONTROLLER: usize = 250;
/// As long as the API lets all entries of a Secret be together.
const MAX_SECRET: usize = 1024 * 1024;
/// Longest name of a class, or type of a Secret.
const MAX_NAME: usize = 253;
/// What the API refuses in paths that are compared, and at their ends.
const BAD_SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const BAD_ENDS: [&str; 2] = ["/..", "/."];

fn namespace(door: &mut Door, meta: &ObjectMeta) -> Option<Namespace> {
    door.keep("metadata.namespace", Namespace::new(meta.namespace.clone().unwrap_or_default()))
}

fn key(door: &mut Door, meta: &ObjectMeta) -> Option<IngressKey> {
    let namespace = namespace(door, meta)?;
    let name = door.keep("metadata.name", IngressName::new(meta.name.clone().unwrap_or_default()))?;
    Some(IngressKey { namespace, name })
}

/// The key of an Ingress object, when its names are usable.
#[must_use]
pub fn ingress_key_of(meta: &ObjectMeta) -> Option<IngressKey> {
    key(&mut Door::new("Ingress", meta), meta)
}

/// An Ingress object into a row of table `ingresses`.
#[must_use]
pub fn ingress(meta: &ObjectMeta, data: &Value) -> Converted<Ingress> {
    let mut door = Door::new("Ingress", meta);
    let row = whole_ingress(&mut door, meta, data);
    Converted { row, refused: door.refused }
}

fn whole_ingress(door: &mut Door, meta: &ObjectMeta, data: &Value) -> Option<Ingress> {
    let key = key(door, meta)?;
    let none = Map::new();
    let spec = match data.get("spec") {
        None | Some(Value::Null) => &none,
        Some(Value::Object(spec)) => spec,
        Some(other) => {
            unreadable(door, "spec", other, "an object");
            return None;
        }
    };
    known(door, "spec", spec, &["ingressClassName", "defaultBackend", "rules", "tls"]);
    let class = class(door, meta, spec)?;
    let options = options(door, meta)?;
    let default_backend =
        spec.get("defaultBackend").filter(|v| !v.is_null()).map(|v| backend(door, "spec.defaultBackend", v));
    Some(Ingress {
        key,
        uid: meta.uid.clone().unwrap_or_default(),
        created: meta.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
        class,
        options,
        default_backend,
        rules: rules(door, spec),
        tls: tls(door, spec),
        published: load_balancer_ips(door, data),
    })
}

/// The class; nothing at all when it cannot be read: whose Ingress it is, is not known then.
#[expect(clippy::option_option, reason = "no class is something else than one that cannot be read")]
fn class(door: &mut Door, meta: &ObjectMeta, spec: &Map<String, Value>) -> Option<Option<String>> {
    let field = "spec.ingressClassName";
    let given = match spec.get("ingressClassName") {
        None | Some(Value::Null) => "",
        Some(Value::String(name)) => name,
        Some(other) => {
            unreadable(door, field, other, "the name of a class");
            return None;
        }
    };
    if !given.is_empty() {
        return opaque(door, field, Some(given), MAX_NAME).map(Some);
    }
    match annotation(meta, ANNOTATION_INGRESS_CLASS).filter(|v| !v.is_empty()) {
        None => Some(None),
        Some(name) => opaque(door, ANNOTATION_INGRESS_CLASS, Some(name), MAX_NAME).map(Some),
    }
}

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref().and_then(|a| a.get(key)).map(String::as_str)
}

fn options(door: &mut Door, meta: &ObjectMeta) -> Option<BTreeMap<String, String>> {
    let all = meta.annotations.iter().flatten();
    let ours = all.filter(|(key, _)| key.starts_with(PREFIX_OPTIONS) || key.starts_with(PREFIX_NGINX));
    let options: BTreeMap<String, String> = ours.map(|(key, value)| (key.clone(), value.clone())).collect();
    let length: usize = options.iter().map(|(key, value)| key.len() + value.len()).sum();
    if length > MAX_OPTIONS {
        let reason = format_args!("options of {length} bytes; at most {MAX_OPTIONS} are understood");
        door.refuse("metadata.annotations", reason);
        return None;
    }
    Some(options)
}

/// The list at `name`; empty, and refused, when it is something else.
fn entries<'a>(door: &mut Door, field: &str, map: &'a Map<String, Value>, name: &str) -> &'a [Value] {
    match map.get(name) {
        None | Some(Value::Null) => &[],
        Some(Value::Array(entries)) => entries,
        Some(other) => {
            unreadable(door, field, other, "a list");
            &[]
        }
    }
}

fn rules(door: &mut Door, spec: &Map<String, Value>) -> Vec<IngressRule> {
    let field = "spec.rules";
    let given = entries(door, field, spec, "rules");
    let mut left = MAX_PATHS;
    let rules = first(door, field, given, MAX_RULES).iter();
    rules.filter_map(|rule| read_rule(door, field, rule, &mut left)).collect()
}

/// A rule; none when it cannot be read which host it is for.
fn read_rule(door: &mut Door, field: &str, value: &Value, left: &mut usize) -> Option<IngressRule> {
    let Value::Object(map) = value else {
        unreadable(door, field, value, "an object");
        return None;
    };
    let host = match map.get("host") {
        None | Some(Value::Null) => None,
        Some(Value::String(host)) if host.is_empty() => None,
        Some(Value::String(host)) => Some(door.keep("spec.rules.host", HostPattern::new(host.clone()))?),
        Some(other) => {
            unreadable(door, "spec.rules.host", other, "the name of a host");
            return None;
        }
    };
    let certain = known(door, field, map, &["host", "http"]);
    let mut paths = match map.get("http") {
        None | Some(Value::Null) => Vec::new(),
        Some(http) => match object(door, "spec.rules.http", http, &["paths"]) {
            Some(http) => paths(door, http, left),
            None => vec![everything()],
        },
    };
    if !certain {
        // It is for fewer requests than it looks.
        paths.iter_mut().for_each(|path| path.backend = IngressBackend::Unreadable);
        if paths.is_empty() {
            paths.push(everything());
        }
    }
    Some(IngressRule { host, paths })
}

/// Every path, with nothing behind it: of what could not be read.
fn everything() -> IngressPath {
    IngressPath { path: "/".into(), kind: PathKind::Prefix, backend: IngressBackend::Unreadable }
}

fn paths(door: &mut Door, http: &Map<String, Value>, left: &mut usize) -> Vec<IngressPath> {
    let field = "spec.rules.http.paths";
    let given = match http.get("paths") {
        None | Some(Value::Null) => return Vec::new(),
        Some(Value::Array(given)) => given,
        Some(other) => {
            unreadable(door, field, other, "a list");
            return vec![everything()];
        }
    };
    let kept = first(door, field, given, *left);
    *left -= kept.len();
    let mut out: Vec<IngressPath> = kept.iter().filter_map(|path| read_path(door, field, path)).collect();
    if out.is_empty() && !given.is_empty() {
        // No path at all would mean the default backend.
        out.push(everything());
    }
    out
}

/// A path; none when it cannot be read which requests it is for.
fn read_path(door: &mut Door, field: &str, value: &Value) -> Option<IngressPath> {
    let Value::Object(map) = value else {
        unreadable(door, field, value, "an object");
        return None;
    };
    let kind = match map.get("pathType").and_then(Value::as_str) {
        Some("Exact") => PathKind::Exact,
        Some("Prefix") => PathKind::Prefix,
        Some("ImplementationSpecific") => PathKind::ImplementationSpecific,
        _ => {
            let given = map.get("pathType").unwrap_or(&Value::Null);
            unreadable(
                door,
                "spec.rules.http.paths.pathType",
                given,
                "one of Exact, Prefix and ImplementationSpecific",
            );
            return None;
        }
    };
    let path = path_text(door, "spec.rules.http.paths.path", map.get("path"), kind)?;
    let certain = known(door, field, map, &["path", "pathType", "backend"]);
    let given = map.get("backend").unwrap_or(&Value::Null);
    let backend = backend(door, "spec.rules.http.paths.backend", given);
    Some(IngressPath { path, kind, backend: if certain { backend } else { IngressBackend::Unreadable } })
}

/// The text of a path, by the rules that the API has for its kind.
pub(super) fn path_text(
    door: &mut Door,
    field: &str,
    value: Option<&Value>,
    kind: PathKind,
) -> Option<String> {
    let given = match value {
        None | Some(Value::Null) => "",
        Some(Value::String(path)) => path,
        Some(other) => {
            unreadable(door, field, other, "a path");
            return None;
        }
    };
    let specific = kind == PathKind::ImplementationSpecific;
    let path = if specific && given.is_empty() { "/" } else { given };
    let reason = if !path.starts_with('/') {
        "does not begin with '/'".to_owned()
    } else if path.len() > MAX_PATH {
        format!("is longer than {MAX_PATH} bytes")
    } else if path.chars().any(char::is_control) {
        "holds a control character".to_owned()
    } else if let Some(bad) = BAD_SEQUENCES.iter().find(|bad| !specific && path.contains(**bad)) {
        format!("holds {bad:?}")
    } else if let Some(bad) = BAD_ENDS.iter().find(|bad| !specific && path.ends_with(**bad)) {
        format!("ends with {bad:?}")
    } else {
        return Some(path.to_owned());
    };
    let start: String = cut(path).chars().take(80).collect();
    door.refuse(field, format_args!("{start:?} {reason}"));
    None
}

fn backend(door: &mut Door, field: &str, value: &Value) -> IngressBackend {
    read_backend(door, field, value).unwrap_or(IngressBackend::Unreadable)
}

fn read_backend(door: &mut Door, field: &str, value: &Value) -> Option<IngressBackend> {
    let map = object(door, field, value, &["service", "resource"])?;
    let part = |name: &str| map.get(name).filter(|v| !v.is_null());
    match (part("service"), part("resource")) {
        (Some(service), None) => service_backend(door, &format!("{field}.service"), service),
        (None, Some(resource)) => {
            let name = match (text(resource, "/kind"), text(resource, "/apiGroup"), text(resource, "/name")) {
                (Some(kind), None, Some(name)) => format!("{kind}/{name}"),
                (Some(kind), Some(group), Some(name)) => format!("{kind}.{group}/{name}"),
                _ => String::new(),
            };
            let name = opaque(door, &format!("{field}.resource"), Some(&name), 3 * MAX_NAME)?;
            Some(IngressBackend::Resource(name))
        }
        _ => {
            door.refuse(field, "a backend is either a service or a resource");
            None
        }
    }
}

fn service_backend(door: &mut Door, field: &str, value: &Value) -> Option<IngressBackend> {
    let map = object(door, field, value, &["name", "port"])?;
    let name = text(value, "/name").unwrap_or_default();
    let name = door.keep(&format!("{field}.name"), ServiceName::new(name))?;
    let field = format!("{field}.port");
    let port = object(door, &field, map.get("port").unwrap_or(&Value::Null), &["name", "number"])?;
    let part = |name: &str| port.get(name).filter(|v| !v.is_null() && **v != 0 && **v != "");
    let port = match (part("number"), part("name")) {
        (Some(number), None) => number.as_u64().and_then(|n| u16::try_from(n).ok()).map(BackendPort::Number),
        (None, Some(Value::String(name))) if is_label(name) => Some(BackendPort::Name(name.clone())),
        _ => None,
    };
    if port.is_none() {
        let given = map.get("port").unwrap_or(&Value::Null);
        unreadable(door, &field, given, "either the number or the name of a port");
    }
    Some(IngressBackend::Service { name, port: port? })
}

fn tls(door: &mut Door, spec: &Map<String, Value>) -> Vec<IngressTls> {
    let field = "spec.tls";
    let given = entries(door, field, spec, "tls");
    let mut left = MAX_ALL_HOSTS;
    first(door, field, given, MAX_TLS)
        .iter()
        .filter_map(|entry| {
            let tls = read_tls(door, field, entry)?;
            let Some(rest) = left.checked_sub(tls.hosts.len()) else {
                door.refuse(field, format_args!("more than {MAX_ALL_HOSTS} hosts; entry left out"));
                return None;
            };
            left = rest;
            Some(tls)
        })
        .collect()
}

/// An entry of `tls`. One that names hosts and of which none can be read must not become one for all hosts.
fn read_tls(door: &mut Door, field: &str, value: &Value) -> Option<IngressTls> {
    let Value::Object(map) = value else {
        unreadable(door, field, value, "an object");
        return None;
    };
    known(door, field, map, &["hosts", "secretName"]);
    let field = "spec.tls.hosts";
    let given = match map.get("hosts") {
        None | Some(Value::Null) => &[],
        Some(Value::Array(hosts)) => hosts.as_slice(),
        Some(other) => {
            unreadable(door, field, other, "a list");
            return None;
        }
    };
    let mut hosts = Vec::new();
    for host in first(door, field, given, MAX_HOSTS) {
        match host {
            Value::String(host) => hosts.extend(door.keep(field, HostPattern::new(host.clone()))),
            other => unreadable(door, field, other, "the name of a host"),
        }
    }
    if hosts.is_empty() && !given.is_empty() {
        return None;
    }
    let field = "spec.tls.secretName";
    let secret = match map.get("secretName") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) if name.is_empty() => None,
        Some(Value::String(name)) => door.keep(field, SecretName::new(name.clone())),
        Some(other) => {
            unreadable(door, field, other, "the name of a Secret");
            None
        }
    };
    Some(IngressTls { hosts, secret })
}

/// The name of an IngressClass object, when it is usable.
#[must_use]
pub fn ingress_class_of(meta: &ObjectMeta) -> Option<IngressClassName> {
    IngressClassName::new(meta.name.clone().unwrap_or_default()).ok()
}

/// An IngressClass object into a row of table `ingress_classes`.
#[must_use]
pub fn ingress_class(meta: &ObjectMeta, data: &Value) -> Converted<IngressClass> {
    let mut door = Door::new("IngressClass", meta);
    let name = door.keep("metadata.name", IngressClassName::new(meta.name.clone().unwrap_or_default()));
    let row = name.map(|name| {
        let given = data.pointer("/spec/controller").unwrap_or(&Value::Null);
        if !given.is_string() {
            unreadable(&mut door, "spec.controller", given, "the name of a controller");
        }
        let controller = opaque(&mut door, "spec.controller", given.as_str(), MAX_CONTROLLER);
        IngressClass {
            name,
            controller: controller.unwrap_or_default(),
            is_default: annotation(meta, ANNOTATION_DEFAULT_CLASS) == Some("true"),
            created: meta.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
        }
    });
    Converted { row, refused: door.refused }
}

/// A Secret object into a row of table `secrets`: of its entries only those of [`SECRET_ENTRIES`].
#[must_use]
pub fn secret(meta: &ObjectMeta, data: &Value) -> Converted<SecretObject> {
    let mut door = Door::new("Secret", meta);
    let row = whole_secret(&mut door, meta, data);
    Converted { row, refused: door.refused }
}

fn whole_secret(door: &mut Door, meta: &ObjectMeta, data: &Value) -> Option<SecretObject> {
    let namespace = namespace(door, meta)?;
    let name = door.keep("metadata.name", SecretName::new(meta.name.clone().unwrap_or_default()))?;
    let kind = opaque(door, "type", text(data, "/type"), MAX_NAME).unwrap_or_default();
    let mut entries = BTreeMap::new();
    let mut left = MAX_SECRET;
    for entry in SECRET_ENTRIES {
        let field = format!("data[{entry:?}]");
        let given = match data.get("data").and_then(|d| d.get(entry)) {
            None | Some(Value::Null) => continue,
            Some(Value::String(given)) => given,
            Some(_) => {
                door.refuse(&field, "not text");
                continue;
            }
        };
        let Some(bytes) = door.keep(&field, SecretBytes::from_base64(given)) else { continue };
        let Some(rest) = left.checked_sub(bytes.expose().len()) else {
            door.refuse(&field, format_args!("entries of more than {MAX_SECRET} bytes together"));
            continue;
        };
        left = rest;
        entries.insert(entry.to_owned(), bytes);
    }
    let content = SecretContent { kind, data: entries };
    Some(SecretObject { key: SecretRef { namespace, name }, content: Some(content) })
}

#[cfg(test)]
mod tests;
