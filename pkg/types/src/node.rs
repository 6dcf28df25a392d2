//! Nodes: what every node knows of every other, and what a node says of itself.

use crate::{NodeId, NodeName, PodCidrs, Protocol, PublicKey};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Annotation on a Node: the node's WireGuard public key, base64.
pub const ANNOTATION_PUBLIC_KEY: &str = "warren.dev/public-key";
/// Annotation on a Node: comma-separated `address:port` list where its tunnel listens.
pub const ANNOTATION_ENDPOINTS: &str = "warren.dev/endpoints";
/// Annotation on a Node: comma-separated `node=address:port` list of other nodes that a NAT hides, each with the endpoint
/// from which this node hears it.
pub const ANNOTATION_OBSERVED: &str = "warren.dev/observed";
/// Annotation on a Node: the node's random identity.
pub const ANNOTATION_NODE_ID: &str = "warren.dev/node-id";

/// Annotation on a Node: comma-separated addresses of it, none of its InternalIPs, on which it serves ports because somebody
/// named them: by `hostIP` of a pod, or in `--nodeport-addresses`.
pub const ANNOTATION_SERVED_ADDRESSES: &str = "warren.dev/served-addresses";

/// A port of a node that a listener of the host holds, so that the node serves no load balancer on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HeldPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The port, 1 to 65535.
    pub port: u16,
    /// Who listens, for people: a program's name, as far as it is known.
    pub holder: String,
}

/// A node of the cluster, from its Node object. Table `nodes`, written by `source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `metadata.name`.
    pub name: NodeName,
    /// `metadata.uid`, as opaque text.
    pub uid: String,
    /// Annotation [`ANNOTATION_NODE_ID`]; none while the node's agent has not published it.
    pub node_id: Option<NodeId>,
    /// Annotation [`ANNOTATION_PUBLIC_KEY`]; none while the node's agent has not published it.
    pub public_key: Option<PublicKey>,
    /// Annotation [`ANNOTATION_ENDPOINTS`]: where the node's tunnel can be tried, best first.
    pub endpoints: Vec<SocketAddr>,
    /// Annotation [`ANNOTATION_OBSERVED`]: from where this node hears others that do not publish that endpoint
    /// themselves. A third node can call them there.
    #[serde(default)]
    pub observed: BTreeMap<NodeName, SocketAddr>,
    /// Annotation [`ANNOTATION_HELD_PORTS`](crate::service::ANNOTATION_HELD_PORTS). Sorted.
    #[serde(default)]
    pub held_ports: Vec<HeldPort>,
    /// Annotation [`ANNOTATION_INGRESS`](crate::ingress::ANNOTATION_INGRESS): the ports on which it serves ingress.
    /// Sorted; empty: it does not.
    #[serde(default)]
    pub ingress: Vec<u16>,
    /// `status.addresses` of type InternalIP.
    pub internal_ips: Vec<IpAddr>,
    /// Annotation [`ANNOTATION_SERVED_ADDRESSES`]. Sorted.
    #[serde(default)]
    pub served_ips: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: PodCidrs,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// Whether the Ready condition is True.
    pub ready: bool,
}

/// What this node says of itself. Table `local_node`, one row, written by the agent; `source` brings it to the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalNode {
    /// This node's name.
    pub name: NodeName,
    /// This node's identity.
    pub node_id: NodeId,
    /// This node's WireGuard public key.
    pub public_key: PublicKey,
    /// Where this node's tunnel listens, best first.
    pub endpoints: Vec<SocketAddr>,
    /// Ports that listeners of this host hold against load balancers. Sorted.
    #[serde(default)]
    pub held_ports: Vec<HeldPort>,
    /// The ports on which this node really serves ingress. Sorted; empty: it does not.
    #[serde(default)]
    pub ingress: Vec<u16>,
    /// This node's own addresses (InternalIP).
    pub internal_ips: Vec<IpAddr>,
    /// Its other addresses on which it serves ports because somebody named them. Sorted.
    #[serde(default)]
    pub served_ips: Vec<IpAddr>,
    /// Whether the agent can attach pods; becomes the Ready condition where the agent registers its Node.
    pub ready: bool,
    /// Why not, in one line; empty when ready.
    pub message: String,
}

/// Whether a node is the first by name among those that are ready: the one that writes what one node writes for all.
#[must_use]
pub fn is_first_ready<'a>(own: &NodeName, nodes: impl IntoIterator<Item = &'a Node>) -> bool {
    nodes.into_iter().filter(|node| node.ready).map(|node| &node.name).min() == Some(own)
}
