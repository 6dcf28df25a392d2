//! Endpoints of Services.

use crate::{Family, NodeName, PodKey, Protocol, ServiceKey, SliceKey};
use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// A port of a slice's endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointPort {
    /// The name of the Service's port that it stands for; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The port, 1 to 65535.
    pub port: u16,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The first of its `addresses`; the others are to be the same endpoint's and are not used.
    pub address: IpAddr,
    /// `conditions.ready`; absent is true.
    #[serde(default, skip_serializing_if = "crate::is_default")]
    pub ready: bool,
    /// `conditions.serving`; absent is `ready`.
    #[serde(default, skip_serializing_if = "crate::is_default")]
    pub serving: bool,
    /// `conditions.terminating`; absent is false.
    #[serde(default, skip_serializing_if = "crate::is_default")]
    pub terminating: bool,
    /// `hostname`, for DNS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// `nodeName`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// `zone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// `hints.forZones`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub for_zones: BTreeSet<String>,
    /// `hints.forNodes`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub for_nodes: BTreeSet<NodeName>,
    /// `targetRef`, when it is a Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodKey>,
}

impl Endpoint {
    /// A ready endpoint of which nothing else is known.
    #[must_use]
    pub fn ready(address: IpAddr) -> Self {
        Self {
            address,
            ready: true,
            serving: true,
            terminating: false,
            hostname: None,
            node: None,
            zone: None,
            for_zones: BTreeSet::new(),
            for_nodes: BTreeSet::new(),
            pod: None,
        }
    }
}

/// Some of a Service's endpoints, from an EndpointSlice object. Table `endpoint_slices`, written by `source`.
/// What it does not say is not stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub key: SliceKey,
    /// The Service (label `kubernetes.io/service-name`).
    pub service: ServiceKey,
    /// `addressType`: IPv4 or IPv6.
    pub family: Family,
    /// The ports, which all endpoints have.
    #[serde(default, deserialize_with = "crate::exact", skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<EndpointPort>,
    /// The endpoints.
    #[serde(default, deserialize_with = "crate::exact", skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// Whether another proxy, or none, takes care of it.
    #[serde(default, skip_serializing_if = "crate::is_default")]
    pub foreign_proxy: bool,
}

/// A slice that an ordered set finds by its key.
#[derive(Debug, Clone)]
pub struct SliceByKey(pub Arc<EndpointSlice>);

impl Borrow<SliceKey> for SliceByKey {
    fn borrow(&self) -> &SliceKey {
        &self.0.key
    }
}

impl PartialEq for SliceByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for SliceByKey {}

impl PartialOrd for SliceByKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SliceByKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.key.cmp(&other.0.key)
    }
}
