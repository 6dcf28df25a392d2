//! Endpoints of Services.

use crate::{Family, NodeName, PodKey, Protocol, ServiceKey, SliceKey};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// A port of a slice's endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointPort {
    /// The name of the Service's port that it stands for; may be empty.
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
    pub ready: bool,
    /// `conditions.serving`; absent is `ready`.
    pub serving: bool,
    /// `conditions.terminating`; absent is false.
    pub terminating: bool,
    /// `hostname`, for DNS.
    pub hostname: Option<String>,
    /// `nodeName`.
    pub node: Option<NodeName>,
    /// `zone`.
    pub zone: Option<String>,
    /// `hints.forZones`.
    pub for_zones: BTreeSet<String>,
    /// `hints.forNodes`.
    pub for_nodes: BTreeSet<NodeName>,
    /// `targetRef`, when it is a Pod.
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub key: SliceKey,
    /// The Service (label `kubernetes.io/service-name`).
    pub service: ServiceKey,
    /// `addressType`: IPv4 or IPv6.
    pub family: Family,
    /// The ports, which all endpoints have.
    pub ports: Vec<EndpointPort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Whether another proxy, or none, takes care of it.
    pub foreign_proxy: bool,
}
