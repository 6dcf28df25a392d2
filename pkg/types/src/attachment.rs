//! Attachments: the journal of what CNI gave to which container, and the lease of its addresses.

use crate::{BootId, ContainerId, IfName, NamedPort, PodKey, Protocol};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// What the CNI specification identifies an attachment by, within one network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentKey {
    /// `CNI_CONTAINERID`.
    pub container_id: ContainerId,
    /// `CNI_IFNAME`.
    pub if_name: IfName,
}

impl fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container_id, self.if_name)
    }
}

impl AttachmentKey {
    /// The key of an attachment that was found in the kernel and that no row knows: of its true key only the host link
    /// is left, which was derived from it. The link's name stands for both parts.
    #[must_use]
    pub fn of_found(host_link: &IfName) -> Option<Self> {
        let container_id = ContainerId::new(host_link.as_str()).ok()?;
        Some(Self { container_id, if_name: host_link.clone() })
    }
}

/// A port of the node that leads to a pod (CNI convention `portMappings`; `spec.containers[].ports[].hostPort`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The port on the node, 1 to 65535.
    pub host_port: u16,
    /// The port of the pod, 1 to 65535.
    pub container_port: u16,
    /// The node's address; none is each of them.
    pub host_ip: Option<IpAddr>,
}

impl HostPort {
    /// Whether one packet could be for both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let same_address = match (self.host_ip, other.host_ip) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        same_address && (self.protocol, self.host_port) == (other.protocol, other.host_port)
    }
}

/// The node's side of it: `TCP 80`, or `TCP 192.0.2.1 port 80`.
impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(ip) => write!(f, "{} {ip} port {}", self.protocol, self.host_port),
            None => write!(f, "{} port {}", self.protocol, self.host_port),
        }
    }
}

/// How far an attachment has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachmentPhase {
    /// Addresses are leased; the kernel side may be missing or half done. After a crash: rolled back.
    Adding,
    /// ADD was answered with success.
    Live,
    /// DEL has begun; the kernel side may be half gone. After a crash: finished.
    Deleting,
}

/// One attachment. Table `attachments`: the journal of CNI and the leases of IPAM in one row, so that they
/// cannot disagree. Flushed to disk before it is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// (containerID, ifname).
    pub key: AttachmentKey,
    /// The pod, when the runtime named one (`K8S_POD_NAMESPACE`, `K8S_POD_NAME`).
    pub pod: Option<PodKey>,
    /// `K8S_POD_UID`, when given.
    pub pod_uid: Option<String>,
    /// Labels from the CNI `args.cni.labels` convention, when given.
    pub labels: BTreeMap<String, String>,
    /// The pod's addresses, one per family at most; IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// `CNI_NETNS`.
    pub netns: PathBuf,
    /// Name of the host side of the veth pair.
    pub host_link: IfName,
    /// How far it has come.
    pub phase: AttachmentPhase,
    /// Ports of the node that lead to it (`runtimeConfig.portMappings`).
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
    /// Names of its ports (`args.cni.ports`), when given.
    #[serde(default)]
    pub named_ports: Vec<NamedPort>,
    /// The boot in which it was made: after a reboot no attachment of an earlier boot can be alive.
    pub boot_id: BootId,
}

impl Attachment {
    /// Whether it was found in the kernel: its key is that of [`AttachmentKey::of_found`], not the runtime's.
    #[must_use]
    pub fn was_found(&self) -> bool {
        AttachmentKey::of_found(&self.host_link).as_ref() == Some(&self.key)
    }
}

/// An attachment that wants addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRequest {
    /// (containerID, ifname).
    pub key: AttachmentKey,
    /// The pod, when the runtime named one.
    pub pod: Option<PodKey>,
    /// Its uid, when given.
    pub pod_uid: Option<String>,
    /// Its labels, when given.
    pub labels: BTreeMap<String, String>,
    /// `CNI_NETNS`.
    pub netns: PathBuf,
    /// Name of the host side of the veth pair.
    pub host_link: IfName,
    /// Ports of the node that lead to it.
    pub host_ports: Vec<HostPort>,
    /// Names of its ports.
    pub named_ports: Vec<NamedPort>,
    /// Addresses that it must get, at most one per family; a family that is not named gets any.
    pub requested: Vec<IpAddr>,
}

impl LeaseRequest {
    /// The row, with these addresses.
    #[must_use]
    pub fn attachment(self, addresses: Vec<IpAddr>, phase: AttachmentPhase, boot_id: BootId) -> Attachment {
        let Self { key, pod, pod_uid, labels, netns, host_link, host_ports, named_ports, requested: _ } =
            self;
        Attachment {
            key,
            pod,
            pod_uid,
            labels,
            addresses,
            netns,
            host_link,
            phase,
            host_ports,
            named_ports,
            boot_id,
        }
    }
}
