//! What cluster DNS is given.

use crate::answer::PodNames;
use crate::limits::Rate;
use crate::overrides::Overrides;
use crate::resolv::Paths;
use crate::status::DnsStatus;
use crate::upstream::Address;
use crate::wire::Name;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use warren_netlink::Netlink;
use warren_netlink::nft::Nft;
use warren_store::{Store, Table};
use warren_types::{Attachment, ClusterConfig, EndpointSlice, LocalNode, Node, Pod, Service};

/// What the user says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsConfig {
    /// The cluster's domain.
    pub domain: Name,
    /// Its addresses; empty: as [`crate::place::addresses`] says.
    pub addresses: Vec<IpAddr>,
    /// TTL of the cluster's names, in seconds.
    pub ttl: u32,
    /// Which pods' addresses have names.
    pub pods: PodNames,
    /// Whether pods' search paths are walked for them.
    pub search: bool,
    /// Upstream resolvers; empty: the node's.
    pub upstreams: Vec<Address>,
    /// Stub domains, hosts and rewrites.
    pub overrides: Arc<Overrides>,
    /// Outside names are denied at once.
    pub offline: bool,
    /// How many questions a client may ask.
    pub limit: Rate,
}

/// The tables that it follows.
#[derive(Clone)]
pub struct Tables {
    pub(crate) services: Table<Service>,
    pub(crate) slices: Table<EndpointSlice>,
    pub(crate) pods: Table<Pod>,
    pub(crate) nodes: Table<Node>,
    pub(crate) cluster: Table<ClusterConfig>,
    pub(crate) local_node: Table<LocalNode>,
    pub(crate) attachments: Table<Attachment>,
}

impl Tables {
    /// Those of an agent's store.
    #[must_use]
    pub fn of(store: &Store) -> Self {
        Self {
            services: store.table(),
            slices: store.table(),
            pods: store.table(),
            nodes: store.table(),
            cluster: store.table(),
            local_node: store.table(),
            attachments: store.table(),
        }
    }
}

/// What it works with.
#[derive(Clone)]
pub struct Deps {
    /// The tables.
    pub tables: Tables,
    /// Routes of the node.
    pub netlink: Netlink,
    /// A handle of its own on the table `inet warren`.
    pub nft: Nft,
    /// Where it shows what it does.
    pub status: DnsStatus,
    /// Where the node's resolvers are named.
    pub resolv: Paths,
    /// Directory of the keeper's socket.
    pub run_dir: PathBuf,
    /// What is executed to be the keeper, before its arguments.
    pub program: OsString,
}
