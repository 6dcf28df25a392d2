//! Pods as the cluster sees them.

use crate::{NodeName, PodKey};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A pod of the cluster, from its Pod object. Table `pods`, written by `source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace and name.
    pub key: PodKey,
    /// `metadata.uid`, as opaque text.
    pub uid: String,
    /// `spec.nodeName`; none while unscheduled.
    pub node: Option<NodeName>,
    /// `status.podIPs`.
    pub ips: Vec<IpAddr>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// Whether the pod has ended (phase Succeeded or Failed): its addresses are no longer its own.
    pub finished: bool,
}
