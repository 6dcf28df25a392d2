//! What network policy is given.

use crate::engine::Unknown;
use crate::gate::Gate;
use crate::held::{HeldPolicy, RememberedNamespace, RememberedPod};
use crate::status::PolicyStatus;
use warren_netlink::Netlink;
use warren_netlink::conntrack::Conntrack;
use warren_netlink::nft::Nft;
use warren_store::{Store, Table};
use warren_types::{Attachment, NamespaceState, NetworkPolicy, NodeName, Pod};

/// What the user says of it.
#[derive(Debug, Clone)]
pub struct PolicyConfig {
    /// This node.
    pub node_name: NodeName,
    /// What becomes of pods of this node of which nothing is known.
    pub unknown: Unknown,
    /// Whether attachments tell the labels of their pods: where there is no kubelet.
    pub labels_from_attachments: bool,
}

/// The tables that it follows, and those that it writes.
#[derive(Clone)]
pub struct Tables {
    pub(crate) pods: Table<Pod>,
    pub(crate) namespaces: Table<NamespaceState>,
    pub(crate) policies: Table<NetworkPolicy>,
    pub(crate) attachments: Table<Attachment>,
    pub(crate) held: Table<HeldPolicy>,
    pub(crate) remembered: Table<RememberedPod>,
    pub(crate) remembered_namespaces: Table<RememberedNamespace>,
}

impl Tables {
    /// Those of an agent's store.
    #[must_use]
    pub fn of(store: &Store) -> Self {
        Self {
            pods: store.table(),
            namespaces: store.table(),
            policies: store.table(),
            attachments: store.table(),
            held: store.table(),
            remembered: store.table(),
            remembered_namespaces: store.table(),
        }
    }
}

/// What it works with.
#[derive(Clone)]
pub struct Deps {
    /// The tables.
    pub tables: Tables,
    /// Addresses of the node.
    pub netlink: Netlink,
    /// A handle of its own on the table `inet warren`.
    pub nft: Nft,
    /// Tracked connections.
    pub conntrack: Conntrack,
    /// Where ADDs wait.
    pub gate: Gate,
    /// Where it shows what it does.
    pub status: PolicyStatus,
}
