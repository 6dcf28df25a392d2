//! What the proxy is given.

use crate::status::ProxyStatus;
use ipnet::IpNet;
use warren_netlink::Netlink;
use warren_netlink::conntrack::Conntrack;
use warren_netlink::nft::Nft;
use warren_store::{Store, Table};
use warren_types::{
    Attachment, ClusterConfig, EndpointSlice, LocalNode, Node, NodeName, Service, ServiceFaults,
};

/// What the user says of it.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// This node.
    pub node_name: NodeName,
    /// Node ports are served on this node's addresses in these ranges; none: on its InternalIPs.
    pub node_port_addresses: Vec<IpNet>,
    /// Where `spec.externalIPs` may come from; empty: nowhere.
    pub external_ip_ranges: Vec<IpNet>,
    /// UDP port of the tunnel.
    pub tunnel_port: u16,
}

/// The tables that it follows, and the one that it writes.
#[derive(Clone)]
pub struct Tables {
    pub(crate) services: Table<Service>,
    pub(crate) slices: Table<EndpointSlice>,
    pub(crate) nodes: Table<Node>,
    pub(crate) cluster: Table<ClusterConfig>,
    pub(crate) local_node: Table<LocalNode>,
    pub(crate) attachments: Table<Attachment>,
    pub(crate) faults: Table<ServiceFaults>,
}

impl Tables {
    /// Those of an agent's store.
    #[must_use]
    pub fn of(store: &Store) -> Self {
        Self {
            services: store.table(),
            slices: store.table(),
            nodes: store.table(),
            cluster: store.table(),
            local_node: store.table(),
            attachments: store.table(),
            faults: store.table(),
        }
    }
}

/// What it works with.
#[derive(Clone)]
pub struct Deps {
    /// The tables.
    pub tables: Tables,
    /// Links and addresses of the node.
    pub netlink: Netlink,
    /// A handle of its own on the table `inet warren`.
    pub nft: Nft,
    /// Tracked connections.
    pub conntrack: Conntrack,
    /// Where it shows what it does.
    pub status: ProxyStatus,
}
