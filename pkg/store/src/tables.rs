//! The tables of an agent's store: which row type, which key, which one writer.
//!
//! | table | row | writer |
//! |---|---|---|
//! | `nodes` | [`Node`] | source |
//! | `pods` | [`Pod`] | source |
//! | `cluster` | [`ClusterConfig`] | source, or the agent from flags |
//! | `local_node` | [`LocalNode`] | agent |
//! | `attachments` | [`Attachment`] | ipam |
//! | `quarantine` | `Quarantined`, in ipam: addresses that rest after a release | ipam |
//! | `peer_endpoints` | [`PeerEndpoint`] | overlay |
//! | `keys` | [`NodeKeys`] | agent |
//! | `services` | [`Service`] | source |
//! | `endpoint_slices` | [`EndpointSlice`] | source |
//! | `service_faults` | [`ServiceFaults`] | proxy |
//! | `load_balancer_addresses` | [`LoadBalancerAddresses`] | loadbalancer |
//! | `namespaces` | [`NamespaceState`] | source |
//! | `network_policies` | [`NetworkPolicy`] | source |
//! | `ingresses` | [`Ingress`] | source |
//! | `ingress_classes` | [`IngressClass`] | source |
//! | `secrets` | [`SecretObject`] | source |
//! | `wanted_secrets` | [`WantedSecrets`] | ingress |
//! | `ingress_faults` | [`IngressFaults`] | ingress |
//! | `ingress_addresses` | [`IngressAddresses`] | ingress |
//! | `gateway_classes` | [`GatewayClass`] | source |
//! | `gateways` | [`Gateway`] | source |
//! | `http_routes` | [`HttpRoute`] | source |
//! | `grpc_routes` | [`GrpcRoute`] | source |
//! | `reference_grants` | [`ReferenceGrant`] | source |
//! | `gateway_statuses` | [`GatewayStatus`] | ingress |
//! | `connectivity_run` | [`ConnectivityRun`] | source |
//! | `connectivity_answer` | [`ConnectivityAnswer`] | connectivity |

use crate::Record;
use serde::{Deserialize, Serialize};
use warren_types::{
    Attachment, AttachmentKey, ClusterConfig, ConnectivityAnswer, ConnectivityRun, EndpointSlice, Gateway,
    GatewayClass, GatewayStatus, GrpcRoute, HttpRoute, Ingress, IngressAddresses, IngressClass,
    IngressClassName, IngressFaults, IngressKey, LoadBalancerAddresses, LocalNode, Namespace, NamespaceState,
    NetworkPolicy, Node, NodeId, NodeName, PeerEndpoint, Pod, PodKey, PolicyKey, ReferenceGrant, Secret,
    SecretKey, SecretObject, SecretRef, Service, ServiceFaults, ServiceKey, SliceKey, WantedSecrets,
};

/// The secrets and the identity of this node. Table `keys`, one row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeKeys {
    /// Random identity, made at first start.
    pub node_id: NodeId,
    /// WireGuard private key.
    pub private_key: SecretKey,
    /// Random password that keeps others from joining under this node's name.
    pub node_password: Secret,
}

/// Key of tables with one row.
pub const ONLY: &str = "self";

impl Record for Node {
    const TABLE: &'static str = "nodes";
    fn key(&self) -> String {
        node_key(&self.name)
    }
}
/// Key in `nodes`.
#[must_use]
pub fn node_key(name: &NodeName) -> String {
    name.to_string()
}
impl Record for Pod {
    const TABLE: &'static str = "pods";
    fn key(&self) -> String {
        pod_key(&self.key)
    }
}
/// Key in `pods`.
#[must_use]
pub fn pod_key(key: &PodKey) -> String {
    key.to_string()
}
impl Record for ClusterConfig {
    const TABLE: &'static str = "cluster";
    fn key(&self) -> String {
        ONLY.into()
    }
}
impl Record for LocalNode {
    const TABLE: &'static str = "local_node";
    fn key(&self) -> String {
        ONLY.into()
    }
}
impl Record for Attachment {
    const TABLE: &'static str = "attachments";
    fn key(&self) -> String {
        attachment_key(&self.key)
    }
}
/// Key in `attachments`.
#[must_use]
pub fn attachment_key(key: &AttachmentKey) -> String {
    key.to_string()
}
impl Record for PeerEndpoint {
    const TABLE: &'static str = "peer_endpoints";
    fn key(&self) -> String {
        self.public_key.to_string()
    }
}
impl Record for NodeKeys {
    const TABLE: &'static str = "keys";
    fn key(&self) -> String {
        ONLY.into()
    }
}
impl Record for Service {
    const TABLE: &'static str = "services";
    fn key(&self) -> String {
        service_key(&self.key)
    }
}
/// Key in `services`, `service_faults` and `load_balancer_addresses`.
#[must_use]
pub fn service_key(key: &ServiceKey) -> String {
    key.to_string()
}
impl Record for EndpointSlice {
    const TABLE: &'static str = "endpoint_slices";
    fn key(&self) -> String {
        slice_key(&self.key)
    }
}
/// Key in `endpoint_slices`.
#[must_use]
pub fn slice_key(key: &SliceKey) -> String {
    key.to_string()
}
impl Record for ServiceFaults {
    const TABLE: &'static str = "service_faults";
    fn key(&self) -> String {
        service_key(&self.service)
    }
}
impl Record for LoadBalancerAddresses {
    const TABLE: &'static str = "load_balancer_addresses";
    fn key(&self) -> String {
        service_key(&self.service)
    }
}
impl Record for NamespaceState {
    const TABLE: &'static str = "namespaces";
    fn key(&self) -> String {
        namespace_key(&self.name)
    }
}
/// Key in `namespaces`.
#[must_use]
pub fn namespace_key(name: &Namespace) -> String {
    name.to_string()
}
impl Record for NetworkPolicy {
    const TABLE: &'static str = "network_policies";
    fn key(&self) -> String {
        policy_key(&self.key)
    }
}
/// Key in `network_policies`.
#[must_use]
pub fn policy_key(key: &PolicyKey) -> String {
    key.to_string()
}
impl Record for Ingress {
    const TABLE: &'static str = "ingresses";
    fn key(&self) -> String {
        ingress_key(&self.key)
    }
}
/// Key in `ingresses`, `ingress_faults` and `ingress_addresses`.
#[must_use]
pub fn ingress_key(key: &IngressKey) -> String {
    key.to_string()
}
impl Record for IngressClass {
    const TABLE: &'static str = "ingress_classes";
    fn key(&self) -> String {
        ingress_class_key(&self.name)
    }
}
/// Key in `ingress_classes`.
#[must_use]
pub fn ingress_class_key(name: &IngressClassName) -> String {
    name.to_string()
}
impl Record for SecretObject {
    const TABLE: &'static str = "secrets";
    fn key(&self) -> String {
        secret_key(&self.key)
    }
}
/// Key in `secrets`.
#[must_use]
pub fn secret_key(key: &SecretRef) -> String {
    key.to_string()
}
impl Record for WantedSecrets {
    const TABLE: &'static str = "wanted_secrets";
    fn key(&self) -> String {
        ONLY.into()
    }
}
impl Record for IngressFaults {
    const TABLE: &'static str = "ingress_faults";
    fn key(&self) -> String {
        ingress_key(&self.ingress)
    }
}
impl Record for IngressAddresses {
    const TABLE: &'static str = "ingress_addresses";
    fn key(&self) -> String {
        ingress_key(&self.ingress)
    }
}
impl Record for GatewayClass {
    const TABLE: &'static str = "gateway_classes";
    fn key(&self) -> String {
        self.name.to_string()
    }
}
impl Record for Gateway {
    const TABLE: &'static str = "gateways";
    fn key(&self) -> String {
        self.key.to_string()
    }
}
impl Record for HttpRoute {
    const TABLE: &'static str = "http_routes";
    fn key(&self) -> String {
        self.0.key.to_string()
    }
}
impl Record for GrpcRoute {
    const TABLE: &'static str = "grpc_routes";
    fn key(&self) -> String {
        self.0.key.to_string()
    }
}
impl Record for ReferenceGrant {
    const TABLE: &'static str = "reference_grants";
    fn key(&self) -> String {
        self.key.to_string()
    }
}
impl Record for GatewayStatus {
    const TABLE: &'static str = "gateway_statuses";
    fn key(&self) -> String {
        format!("{}/{}", self.kind.as_str(), self.object)
    }
}
impl Record for ConnectivityRun {
    const TABLE: &'static str = "connectivity_run";
    fn key(&self) -> String {
        ONLY.into()
    }
}
impl Record for ConnectivityAnswer {
    const TABLE: &'static str = "connectivity_answer";
    fn key(&self) -> String {
        ONLY.into()
    }
}
