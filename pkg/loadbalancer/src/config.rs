//! What the load balancer is given.

use crate::addresses::HeldPorts;
use crate::pool::Pool;
use crate::status::LoadBalancerStatus;
use std::collections::BTreeMap;
use tokio::sync::watch;
use warren_netlink::Netlink;
use warren_store::{Store, Table};
use warren_types::{EndpointSlice, IfName, LoadBalancerAddresses, LocalNode, Node, NodeName, Service};

/// Where addresses of Services come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Mode {
    /// Somebody else gives them.
    Off,
    /// The addresses of the nodes that can serve the Service.
    #[default]
    Nodes,
    /// A pool.
    Pool(Pool),
}

/// How the load balancer of this node is to be.
#[derive(Debug, Clone)]
pub struct LoadBalancerConfig {
    /// This node.
    pub node_name: NodeName,
    /// Where addresses come from.
    pub mode: Mode,
    /// The link on which addresses of the pool are announced; none: the one that carries the node's InternalIP.
    pub interface: Option<IfName>,
}

/// The tables that the load balancer reads, and the one it writes.
#[derive(Clone)]
pub struct Tables {
    /// Read.
    pub services: Table<Service>,
    /// Read.
    pub endpoint_slices: Table<EndpointSlice>,
    /// Read.
    pub nodes: Table<Node>,
    /// Read.
    pub local_node: Table<LocalNode>,
    /// Written.
    pub load_balancer_addresses: Table<LoadBalancerAddresses>,
}

impl Tables {
    /// The tables of `store`.
    #[must_use]
    pub fn of(store: &Store) -> Self {
        Self {
            services: store.table(),
            endpoint_slices: store.table(),
            nodes: store.table(),
            local_node: store.table(),
            load_balancer_addresses: store.table(),
        }
    }
}

/// What the load balancer works with.
#[derive(Clone)]
pub struct Deps {
    /// Its tables.
    pub tables: Tables,
    /// The node's network namespace.
    pub netlink: Netlink,
    /// What each node published of the ports that its host holds, this node's own from before a restart too.
    pub held: watch::Receiver<BTreeMap<NodeName, HeldPorts>>,
    /// Where it tells what this host holds, to be published.
    pub held_here: watch::Sender<HeldPorts>,
    /// Whether this node's proxy has its rules in the kernel, so that packets to Services get where they should.
    pub serving: watch::Receiver<bool>,
    /// Where it tells of itself.
    pub status: LoadBalancerStatus,
}
