//! What a server is told, and why it may refuse to run.

use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::controllers::NodeLife;
use crate::serve::Limits;
use warren_types::pod_cidr::CidrError;

/// Configuration of a server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// State; the server's is in `server/` below it.
    pub data_dir: PathBuf,
    /// Where to listen.
    pub listen: SocketAddr,
    /// The address that clients are told to use; none: loopback in the kubeconfig.
    pub advertise_address: Option<IpAddr>,
    /// More names and addresses for the server's certificate.
    pub tls_sans: Vec<String>,
    /// The pod network, at most one range a family.
    pub cluster_cidrs: Vec<IpNet>,
    /// The Service network, at most one range a family.
    pub service_cidrs: Vec<IpNet>,
    /// Prefix length of a node's IPv4 podCIDR.
    pub node_prefix_v4: u8,
    /// Prefix length of a node's IPv6 podCIDR.
    pub node_prefix_v6: u8,
    /// Whether new nodes get podCIDRs; else agents give them.
    pub allocate_node_cidrs: bool,
    /// Whether Ingresses that ask for certificates get them; else agents issue them.
    pub issue_certificates: bool,
    /// Ports of the nodes that Services may have.
    pub node_ports: std::ops::RangeInclusive<u16>,
    /// A file with the secret (or whole token) that nodes join with; none: one is made.
    pub token_file: Option<PathBuf>,
    /// Where to write the administrator's kubeconfig; none: nowhere.
    pub kubeconfig: Option<PathBuf>,
    /// Prefixes to which this host has routes, default routes and Warren's own left out.
    pub host_routes: Vec<IpNet>,
    /// A file for the audit lines; none: they are in the log.
    pub audit_log: Option<PathBuf>,
    /// How long certificates last; they are renewed when a third is left.
    pub certificate_life: Duration,
    /// Bounds on connections.
    pub limits: Limits,
    /// Whether Ingresses that name no class get Warren's. The class `warren` is there anyhow.
    pub default_ingress_class: bool,
    /// When nodes count as dead.
    pub node_life: NodeLife,
}

/// How long certificates last by default.
pub const CERTIFICATE_LIFE: Duration = crate::authority::LIFE;

impl ServerConfig {
    /// The names that the server's certificate carries: from configuration only, never from what a client asks for.
    pub(crate) fn sans(&self) -> Vec<String> {
        let mut names: Vec<String> = [
            "localhost",
            "127.0.0.1",
            "::1",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ]
        .map(str::to_owned)
        .into();
        names.extend(self.advertise_address.map(|a| a.to_string()));
        names.extend(Some(self.listen.ip()).filter(|a| !a.is_unspecified()).map(|a| a.to_string()));
        names.extend(
            self.service_cidrs.iter().filter_map(|c| crate::alloc::first_address(*c)).map(|a| a.to_string()),
        );
        names.extend(self.tls_sans.iter().cloned());
        let mut unique = Vec::new();
        for name in names {
            if !unique.contains(&name) {
                unique.push(name);
            }
        }
        unique
    }
}

/// Why a server cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The ranges are in conflict.
    #[error(transparent)]
    Cidr(#[from] CidrError),
    /// A file or directory cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}; is another server running? --listen names another address"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Keys or certificates cannot be used.
    #[error("certificates: {0}")]
    Certificates(String),
    /// A token file cannot be used.
    #[error("token file {path}: {reason}")]
    Token {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] warren_store::StoreError),
    /// A backup cannot be written or restored.
    #[error("{0}")]
    Backup(String),
    /// A first object could not be made.
    #[error("cannot make {object}: {reason}")]
    Bootstrap {
        /// The object.
        object: String,
        /// Why.
        reason: String,
    },
    /// A task of the server ended by panic.
    #[error("server: {0}")]
    Task(String),
}
