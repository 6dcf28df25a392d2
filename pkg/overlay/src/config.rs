//! What the overlay is given.

use std::ffi::OsString;
use std::path::PathBuf;

use warren_netlink::Netlink;
use warren_netlink::nft::Nft;
use warren_store::{Store, Table};
use warren_types::{ClusterConfig, LocalNode, Node, NodeName, PeerEndpoint, SecretKey};

use crate::backend::BackendChoice;
use crate::status::OverlayStatus;
use crate::sysctls::NoteSysctl;

/// How the overlay of this node is to be.
#[derive(Debug, Clone)]
pub struct OverlayConfig {
    /// This node.
    pub node_name: NodeName,
    /// UDP port of the tunnel.
    pub listen_port: u16,
    /// Which WireGuard to use.
    pub backend: BackendChoice,
    /// MTU of tunnel and pods; none: what the path carries.
    pub mtu: Option<u32>,
    /// Directory of the userspace tunnel's pid file and log.
    pub run_dir: PathBuf,
    /// This node's private key.
    pub private_key: SecretKey,
    /// What to execute for the userspace tunnel, and its first arguments.
    pub program: Vec<OsString>,
}

impl OverlayConfig {
    /// The usual program: this same binary.
    #[must_use]
    pub fn own_program() -> Vec<OsString> {
        vec!["/proc/self/exe".into(), "wireguard".into()]
    }
}

/// The tables that the overlay reads, and the one it writes.
#[derive(Clone)]
pub struct Tables {
    /// Read.
    pub nodes: Table<Node>,
    /// Read.
    pub cluster: Table<ClusterConfig>,
    /// Read.
    pub local_node: Table<LocalNode>,
    /// Written.
    pub peer_endpoints: Table<PeerEndpoint>,
}

impl Tables {
    /// The tables of `store`.
    #[must_use]
    pub fn of(store: &Store) -> Self {
        Self {
            nodes: store.table(),
            cluster: store.table(),
            local_node: store.table(),
            peer_endpoints: store.table(),
        }
    }
}

/// What the overlay works with.
#[derive(Clone)]
pub struct Deps {
    /// Its tables.
    pub tables: Tables,
    /// The node's network namespace.
    pub netlink: Netlink,
    /// The same, for nftables.
    pub nft: Nft,
    /// Where it tells of itself.
    pub status: OverlayStatus,
    /// Is told of sysctls before they are changed.
    pub note_sysctl: NoteSysctl,
}
