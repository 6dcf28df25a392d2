//! Warren's vocabulary: validated newtypes and the records that subsystems exchange through the store.
//!
//! Job: make an invalid value impossible to hold. Everything that enters Warren (Kubernetes objects, CNI
//! requests, configuration, flags) is converted into these types once, at the door; behind the door nothing
//! is checked again.
//! Inputs: strings and numbers from outside. Outputs: values that are valid by construction.
//! Owns: the table of ownership marks ([`marks`]) and the fixed addresses and defaults ([`defaults`]).
//! No I/O, no tokio, no clock.

pub mod attachment;
pub mod cidr;
pub mod cluster;
pub mod connectivity;
pub mod defaults;
pub mod endpoint;
pub mod gateway;
pub mod health;
pub mod ingress;
pub mod keys;
pub mod marks;
pub mod name;
pub mod node;
pub mod peer;
pub mod pod;
pub mod pod_cidr;
pub mod policy;
pub mod selector;
pub mod service;

pub use attachment::{Attachment, AttachmentKey, AttachmentPhase, HostPort, LeaseRequest};
pub use cidr::{Family, PodCidrs};
pub use cluster::ClusterConfig;
pub use connectivity::{ConnectivityAnswer, ConnectivityRun};
pub use endpoint::{Endpoint, EndpointPort, EndpointSlice, SliceByKey};
pub use gateway::{
    AllowedNamespaces, Condition, Gateway, GatewayClass, GatewayObject, GatewayRoute, GatewayStatus,
    GatewayTold, GroupKind, GrpcRoute, HeaderChange, HttpRoute, Listener, ListenerTold, ObjectRef, ParentRef,
    PathChange, ReferenceGrant, RouteBackend, RouteFilters, RouteKind, RouteMatch, RouteRedirect, RouteRule,
};
pub use health::{HealthCell, HealthReport, HealthState};
pub use ingress::{
    BackendPort, HostPattern, Ingress, IngressAddresses, IngressBackend, IngressClass, IngressFaults,
    IngressPath, IngressRule, IngressTls, PathKind, SecretContent, SecretObject, WantedSecrets,
};
pub use keys::{PublicKey, Secret, SecretBytes, SecretKey};
pub use name::{
    BootId, ContainerId, GatewayClassName, GatewayKey, GatewayName, GrantKey, GrantName, IfName,
    IngressClassName, IngressKey, IngressName, InvalidName, Namespace, NodeId, NodeName, PodKey, PodName,
    PolicyKey, PolicyName, RouteKey, RouteName, SecretName, SecretRef, ServiceKey, ServiceName, SliceKey,
    SliceName,
};
pub use node::{HeldPort, LocalNode, Node};
pub use peer::PeerEndpoint;
pub use pod::{NamedPort, Pod};
pub use policy::{NamespaceState, NetworkPolicy, PolicyPeer, PolicyPort, PolicyRule, PortMatch};
pub use selector::{Labels, Requirement, Selector};
pub use service::{
    Affinity, Fault, LoadBalancerAddresses, Protocol, Service, ServiceFaults, ServiceKind, ServicePort,
    TrafficPolicy,
};

/// Reads a list and keeps no more room than it needs. Rows stay in memory, and a list that grew as it was read, from a format
/// that does not tell lengths, has room for four where there is one.
fn exact<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::Deserialize<'de>,
{
    let mut list = <Vec<T> as serde::Deserialize>::deserialize(deserializer)?;
    list.shrink_to_fit();
    Ok(list)
}

/// Whether a field of a stored row says nothing, so that it is left out.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
