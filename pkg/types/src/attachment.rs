//! Attachments: the journal of what CNI gave to which container, and the lease of its addresses.

use crate::{BootId, ContainerId, IfName, PodKey};
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
    /// The boot in which it was made: after a reboot no attachment of an earlier boot can be alive.
    pub boot_id: BootId,
}
