//! Network policies as the cluster sees them, and what they look at.

use crate::{Labels, Namespace, PolicyKey, Protocol, Selector};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A namespace, from its Namespace object. Table `namespaces`, written by `source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceState {
    /// Its name.
    pub name: Namespace,
    /// `metadata.labels`.
    pub labels: Labels,
    /// Whether it is being deleted: objects in it go one by one, in no certain order.
    pub terminating: bool,
}

/// A NetworkPolicy (networking.k8s.io/v1). Table `network_policies`, written by `source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPolicy {
    /// Namespace and name.
    pub key: PolicyKey,
    /// `metadata.uid`, as opaque text.
    pub uid: String,
    /// Which pods of its namespace it isolates.
    pub pods: Selector,
    /// What may reach them; none when `policyTypes`, given or by default, does not hold `Ingress`.
    pub ingress: Option<Vec<PolicyRule>>,
    /// What they may reach; none when `policyTypes`, given or by default, does not hold `Egress`.
    pub egress: Option<Vec<PolicyRule>>,
}

/// One entry of `spec.ingress` or `spec.egress`: any of the peers at any of the ports is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    /// `from` or `to`; empty: everyone.
    pub peers: Vec<PolicyPeer>,
    /// `ports`, those of the receiving side; empty: all ports of all protocols.
    pub ports: Vec<PolicyPort>,
}

/// A peer of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PolicyPeer {
    /// `podSelector` and `namespaceSelector`.
    Pods {
        /// Which namespaces; none: the policy's own.
        namespaces: Option<Selector>,
        /// Which pods in them.
        pods: Selector,
    },
    /// `ipBlock`.
    Block {
        /// `cidr`, without host bits.
        cidr: IpNet,
        /// `except`: ranges inside `cidr`.
        except: Vec<IpNet>,
    },
}

/// A port of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The ports of that protocol.
    pub ports: PortMatch,
}

/// Ports of one protocol.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PortMatch {
    /// All of them.
    Any,
    /// From `port` to `endPort`, both included; the two are the same without `endPort`.
    Range(u16, u16),
    /// The container port of this name, at each receiving pod its own.
    Named(String),
}
