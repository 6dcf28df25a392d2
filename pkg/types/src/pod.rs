//! Pods as the cluster sees them.

use crate::{Labels, NodeName, PodKey, Protocol};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A pod of the cluster, from its Pod object. Table `pods`, written by `source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace and name.
    pub key: PodKey,
    /// `metadata.uid`, as opaque text; of a static pod the uid that its node gave it, not that of its mirror.
    pub uid: String,
    /// `spec.nodeName`; none while unscheduled.
    pub node: Option<NodeName>,
    /// `status.podIPs`.
    pub ips: Vec<IpAddr>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `metadata.labels`.
    pub labels: Labels,
    /// Whether the pod has ended (phase Succeeded or Failed): its addresses are no longer its own.
    pub finished: bool,
    /// Ports that its containers have a name for.
    #[serde(default)]
    pub named_ports: Vec<NamedPort>,
}

/// A port with a name, of one of a pod's containers (`spec.containers[].ports[]`, also of sidecars).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The port at the pod's address.
    pub port: u16,
}

impl NamedPort {
    /// Whether a port can have this name: RFC 6335, section 5.1, in lower case.
    #[must_use]
    pub fn is_name(name: &str) -> bool {
        name.len() <= 15
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && name.bytes().any(|b| b.is_ascii_lowercase())
            && !name.contains("--")
            && !name.starts_with('-')
            && !name.ends_with('-')
    }
}
