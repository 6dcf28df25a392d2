//! What `warren policy check` asks, from what was typed.

use super::CheckArgs;
use crate::failure::UsageError;
use crate::{objects, output};
use kube::core::ObjectMeta;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use warren_agent::policy::{CheckQuery, End, PortAsked, Proposed};
use warren_source::convert::{Converted, network_policy};
use warren_types::{
    InvalidName, Namespace, NetworkPolicy, PodKey, PodName, PolicyKey, PolicyName, Protocol, ServiceKey,
    ServiceName,
};

/// Largest file that is asked about.
const FILE_LIMIT: u64 = 1 << 20;

/// The question.
pub(super) fn read(args: &CheckArgs) -> anyhow::Result<CheckQuery> {
    let from = sender(&args.from, &args.namespace)?;
    let namespace = match &from {
        End::Pod(key) => key.namespace.as_str(),
        _ => &args.namespace,
    };
    let (to, port) = receiver(&args.to, namespace)?;
    let put = match &args.file {
        Some(path) => policies(path, &args.namespace)?,
        None => Vec::new(),
    };
    let delete = args.delete.iter().map(|name| policy(name, &args.namespace));
    let delete = delete.collect::<anyhow::Result<Vec<_>>>()?;
    let proposed = (args.file.is_some() || !delete.is_empty()).then_some(Proposed { put, delete });
    Ok(CheckQuery { from, to, port, proposed })
}

/// A policy's name in full.
pub(super) fn policy(text: &str, namespace: &str) -> anyhow::Result<PolicyKey> {
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    Ok(PolicyKey {
        namespace: Namespace::new(namespace).map_err(fault)?,
        name: PolicyName::new(name).map_err(fault)?,
    })
}

fn fault(error: InvalidName) -> UsageError {
    UsageError(error.to_string())
}

fn sender(text: &str, namespace: &str) -> anyhow::Result<End> {
    if let Some(address) = address(text) {
        return Ok(End::Address(address));
    }
    if text.starts_with("svc/") {
        return Err(UsageError(format!("{text:?}: a Service sends nothing; name one of its pods")).into());
    }
    Ok(End::Pod(pod(text, namespace)?))
}

fn receiver(text: &str, namespace: &str) -> anyhow::Result<(End, Option<PortAsked>)> {
    // An address of IPv6 has colons of its own.
    if let Some(address) = address(text) {
        return Ok((End::Address(address), None));
    }
    let wrong = || {
        UsageError(format!(
            "{text:?} is no pod, Service or address with a port, such as web:80, svc/web:http or [2001:db8::5]:53/udp"
        ))
    };
    let (name, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']').ok_or_else(wrong)) {
        Some(bracketed) => {
            let (name, rest) = bracketed?;
            let port = match rest.strip_prefix(':') {
                Some(port) => Some(port),
                None if rest.is_empty() => None,
                None => return Err(wrong().into()),
            };
            (name, port)
        }
        None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
    };
    let port = port.map(|port| asked(port).ok_or_else(wrong)).transpose()?;
    if let Ok(address) = name.parse() {
        return Ok((End::Address(address), port));
    }
    let end = match name.strip_prefix("svc/") {
        Some(name) => {
            let (namespace, name) = name.split_once('/').unwrap_or((namespace, name));
            let (namespace, name) =
                (Namespace::new(namespace).map_err(fault)?, ServiceName::new(name).map_err(fault)?);
            End::Service(ServiceKey { namespace, name })
        }
        None => End::Pod(pod(name, namespace)?),
    };
    Ok((end, port))
}

/// An address, also in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let inside = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if inside.parse::<SocketAddr>().is_ok() {
        return None;
    }
    inside.parse().ok()
}

fn pod(text: &str, namespace: &str) -> anyhow::Result<PodKey> {
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    Ok(PodKey {
        namespace: Namespace::new(namespace).map_err(fault)?,
        name: PodName::new(name).map_err(fault)?,
    })
}

/// `80`, `http`, `53/udp`.
fn asked(text: &str) -> Option<PortAsked> {
    let (port, protocol) = match text.split_once('/') {
        Some((port, protocol)) => (port, Some(Protocol::from_name(protocol)?)),
        None => (text, None),
    };
    let known = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let fits = (1..=63).contains(&port.len()) && port.chars().all(known);
    fits.then(|| PortAsked { port: port.to_owned(), protocol })
}

/// The policies in a file.
fn policies(path: &Path, namespace: &str) -> anyhow::Result<Vec<NetworkPolicy>> {
    let mut out = Vec::new();
    for object in objects::read_up_to(path, FILE_LIMIT)? {
        out.push(converted(object, namespace)?);
    }
    Ok(out)
}

fn converted(object: Value, namespace: &str) -> anyhow::Result<NetworkPolicy> {
    let (version, kind) = (&object["apiVersion"], &object["kind"]);
    if version != "networking.k8s.io/v1" || kind != "NetworkPolicy" {
        let (version, kind) = (version.as_str().unwrap_or_default(), kind.as_str().unwrap_or_default());
        return Err(UsageError(format!(
            "the file has a {kind} of {version}; only objects of kind NetworkPolicy of networking.k8s.io/v1 can be tried"
        ))
        .into());
    }
    let mut meta: ObjectMeta = serde_json::from_value(object["metadata"].clone())
        .map_err(|error| UsageError(format!("metadata of a NetworkPolicy: {error}")))?;
    meta.namespace.get_or_insert_with(|| namespace.to_owned());
    let Converted { row, refused } = network_policy(&meta, &object);
    for refusal in &refused {
        output::stderr(&format!(
            "warning: {} {}: {}: {}\n",
            refusal.kind, refusal.object, refusal.field, refusal.reason
        ));
    }
    Ok(row.ok_or_else(|| UsageError("the file has a NetworkPolicy without a usable name".into()))?)
}
