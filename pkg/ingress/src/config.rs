//! What the ingress is given.

use crate::access::AccessLogConfig;
use crate::runner::IngressStatus;
use ipnet::IpNet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;
use warren_store::{Store, Table};
use warren_types::{
    ClusterConfig, EndpointSlice, Gateway, GatewayClass, GatewayStatus, GrpcRoute, HttpRoute, Ingress,
    IngressAddresses, IngressClass, IngressClassName, IngressFaults, NamespaceState, Node, NodeName,
    ReferenceGrant, SecretObject, Selector, Service, WantedSecrets,
};

/// What the user says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressConfig {
    /// This node.
    pub node_name: NodeName,
    /// The port of HTTP.
    pub http_port: u16,
    /// The port of HTTPS.
    pub https_port: u16,
    /// The name of Warren's class.
    pub class: IngressClassName,
    /// Only nodes with these labels serve.
    pub nodes: Selector,
    /// Whether Services of type ExternalName are served.
    pub external_names: bool,
    /// Peers that may say, in `X-Forwarded-For` and its like, for whom a request is.
    pub trusted: Vec<IpNet>,
    /// Peers whose connections begin with a PROXY header.
    pub proxy_from: Vec<IpNet>,
    /// What is logged of requests; nothing by itself.
    pub access_log: Option<AccessLogConfig>,
    /// How long requests that are under way may take when the agent stops.
    pub drain: Duration,
}

/// The tables that it follows, and those that it writes.
#[derive(Clone)]
pub struct Tables {
    pub(crate) ingresses: Table<Ingress>,
    pub(crate) classes: Table<IngressClass>,
    pub(crate) services: Table<Service>,
    pub(crate) slices: Table<EndpointSlice>,
    pub(crate) secrets: Table<SecretObject>,
    pub(crate) nodes: Table<Node>,
    pub(crate) cluster: Table<ClusterConfig>,
    pub(crate) gateway_classes: Table<GatewayClass>,
    pub(crate) gateways: Table<Gateway>,
    pub(crate) http_routes: Table<HttpRoute>,
    pub(crate) grpc_routes: Table<GrpcRoute>,
    pub(crate) grants: Table<ReferenceGrant>,
    pub(crate) namespaces: Table<NamespaceState>,
    pub(crate) wanted: Table<WantedSecrets>,
    pub(crate) faults: Table<IngressFaults>,
    pub(crate) addresses: Table<IngressAddresses>,
    pub(crate) gateway_statuses: Table<GatewayStatus>,
}

impl Tables {
    /// Those of an agent's store.
    #[must_use]
    pub fn of(store: &Store) -> Self {
        Self {
            ingresses: store.table(),
            classes: store.table(),
            services: store.table(),
            slices: store.table(),
            secrets: store.table(),
            nodes: store.table(),
            cluster: store.table(),
            gateway_classes: store.table(),
            gateways: store.table(),
            http_routes: store.table(),
            grpc_routes: store.table(),
            grants: store.table(),
            namespaces: store.table(),
            wanted: store.table(),
            faults: store.table(),
            addresses: store.table(),
            gateway_statuses: store.table(),
        }
    }
}

/// What it works with.
#[derive(Clone)]
pub struct Deps {
    /// The tables.
    pub tables: Tables,
    /// Where it shows what it does.
    pub status: IngressStatus,
    /// Where it says on which ports it serves.
    pub ports: watch::Sender<Vec<u16>>,
    /// Directory of the socket of whoever keeps its sockets.
    pub run_dir: PathBuf,
    /// What is executed to keep them, before its arguments.
    pub program: OsString,
}
