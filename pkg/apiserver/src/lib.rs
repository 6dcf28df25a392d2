//! The embedded control plane: the part of the Kubernetes API that a cluster network needs, on a store of its own.
//!
//! Job: serve nodes, pods, namespaces, config maps, leases and events as Kubernetes does; give every node its podCIDRs;
//! let nodes join with a token.
//! Inputs: HTTPS requests, authenticated by client certificates of its own authority; configuration.
//! Outputs: objects, watches; certificates for nodes; the administrator's kubeconfig.
//! Owns: `server/` in the data directory (store, keys, tokens) and the kubeconfig; nothing in the kernel.
//! Ordering: a write gets its resourceVersion from the one writer, is flushed to disk, then becomes visible to lists and
//! watches, then is acknowledged. One resourceVersion is one write of one object.
//! Failure modes: disk full: writes answer 503, reads and watches go on; a stored object that cannot be read is named
//! and left out.
//! A reviewer asks: can a client without a certificate reach more than it must? is memory bounded whatever a client
//! sends or fails to read? can a node write what is not its own?

mod alloc;
mod apply;
mod audit;
mod auth;
mod authority;
mod backup;
mod bearer;
mod bootstrap;
mod config;
mod controllers;
mod decode;
mod deletion;
mod discovery;
mod error;
mod gates;
mod gateway;
mod http;
mod impersonate;
mod ingress;
mod join;
mod kinds;
mod kubeconfig;
mod lists;
mod meta;
mod openapi;
mod ops;
mod patch;
mod proto;
mod query;
mod rbac;
mod registry;
mod renew;
mod repeated;
mod reply;
mod reviews;
mod schema;
mod selector;
mod serve;
mod storage;
mod table;
mod tokens;
mod watch;

pub use backup::{Restored, restore, verify as verify_backup, write as write_backup};
pub use config::{CERTIFICATE_LIFE, ServerConfig, ServerError};
pub use controllers::NodeLife;
pub use serve::Limits;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use jiff::Timestamp;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use warren_store::Store;
use warren_types::pod_cidr::{self, PodCidrAllocator};
use warren_types::{ClusterConfig, HealthCell, Secret};

use alloc::{Allocators, ServiceAllocator};
use audit::Audit;
use authority::{Authority, make_private_dir};
use bearer::Bearers;
use gates::Gates;
use join::Joining;
use ops::Objects;
use renew::{Renewal, Shown};
use storage::{Cache, Disk, History, Writer, WriterTask};
use tokens::Tokens;

/// A server that is open and bound, and not yet running.
pub struct Server {
    config: ServerConfig,
    listener: TcpListener,
    address: SocketAddr,
    store: Store,
    authority: Arc<Authority>,
    ingress_authority: Arc<warren_ca::Authority>,
    tokens: Tokens,
    kubeconfig: Secret,
    cache: Arc<Cache>,
    writer: Writer,
    task: WriterTask,
    tls: Arc<rustls::ServerConfig>,
    renewal: Renewal,
    audit: Audit,
}

impl Server {
    /// Checks the configuration, opens state and keys, binds the address, writes the kubeconfig.
    ///
    /// # Errors
    /// [`ServerError`], each with what to do; nothing is written before the ranges are found sound.
    pub async fn open(config: ServerConfig) -> Result<Self, ServerError> {
        pod_cidr::check_ranges(&config.cluster_cidrs, &config.service_cidrs, &config.host_routes)?;
        let cidrs =
            PodCidrAllocator::new(&config.cluster_cidrs, config.node_prefix_v4, config.node_prefix_v6)?;
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|source| ServerError::Listen { address: config.listen, source })?;
        let address =
            listener.local_addr().map_err(|source| ServerError::Listen { address: config.listen, source })?;

        let directory = config.data_dir.join("server");
        make_private_dir(&directory)?;
        let store_dir = directory.join("store");
        let opened = tokio::task::spawn_blocking(move || Store::open(&store_dir))
            .await
            .map_err(|e| ServerError::Task(e.to_string()))??;
        if let Some(aside) = &opened.set_aside {
            tracing::error!(copy = %aside.copy.display(), reason = %aside.reason,
                "the store could not be read; it was moved away and the server begins with an empty one");
        }
        let (tls_dir, now) = (directory.join("tls"), Timestamp::now());
        let authority = Arc::new(Authority::open(&tls_dir, now, config.certificate_life)?);
        let ingress_authority = Arc::new(authority::for_ingress(&tls_dir, now)?);
        let tokens = Tokens::open(&directory, &authority, config.token_file.as_deref())?;
        let audit = Audit::open(config.audit_log.as_deref())?;
        let host = config.advertise_address.unwrap_or(match config.listen.ip() {
            ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip,
        });
        let url = format!("https://{}", SocketAddr::new(host, address.port()));
        let (renewal, kubeconfig) =
            Renewal::begin(authority.clone(), config.sans(), url, config.kubeconfig.clone())?;
        let tls = tls_config(&authority, renewal.shown.clone())?;

        let services = ServiceAllocator::new(&config.service_cidrs, config.node_ports.clone());
        let alloc = Allocators::new(cidrs, services).giving_cidrs(config.allocate_node_cidrs);
        let disk = Disk::in_store(&opened.store);
        let (objects, revision) = disk.load();
        let cache = Arc::new(Cache::new(objects, revision, History::default()));
        let (task, writer) = WriterTask::new(cache.clone(), disk, alloc);
        Ok(Self {
            config,
            listener,
            address,
            store: opened.store,
            authority,
            ingress_authority,
            tokens,
            kubeconfig,
            cache,
            writer,
            task,
            tls,
            renewal,
            audit,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &Secret {
        &self.kubeconfig
    }
    /// The whole token that nodes join with.
    #[must_use]
    pub fn node_token(&self) -> Secret {
        self.tokens.node_token()
    }
    /// The certificate of its authority, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.authority.ca_pem
    }

    /// Serves until `stop`; then requests in progress are finished and the store is closed.
    ///
    /// # Errors
    /// [`ServerError`] when the first objects cannot be made, or a task fails.
    pub async fn run(self, health: HealthCell, stop: CancellationToken) -> Result<(), ServerError> {
        let objects = Objects { cache: self.cache, writer: self.writer };
        // The writer outlives the connections, so that what they began is finished.
        let writer_stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(self.task.run(writer_stop.clone()));
        let cluster = ClusterConfig {
            cluster_cidrs: self.config.cluster_cidrs.clone(),
            service_cidrs: self.config.service_cidrs.clone(),
        };
        let listen = SocketAddr::new(self.config.listen.ip(), self.address.port());
        let reached_at = bootstrap::reached_at(self.config.advertise_address, listen);
        let first = bootstrap::First {
            cluster: &cluster,
            reached_at,
            port: self.address.port(),
            default_ingress_class: self.config.default_ingress_class,
        };
        bootstrap::objects(&objects, &first, Timestamp::now()).await?;
        let stop = stop.child_token();
        let controllers = controllers::run(
            objects.clone(),
            self.authority.ca_pem.clone(),
            self.config.issue_certificates.then_some(self.ingress_authority),
            self.config.node_life,
            stop.clone(),
        );
        let bearers = Bearers::new(&self.store, self.tokens.clone());
        tasks.spawn(self.renewal.run(writer_stop.clone()));
        let app = Arc::new(http::App {
            objects,
            ca_pem: self.authority.ca_pem.clone(),
            joining: Joining::new(self.authority.clone(), bearers.clone(), &self.store),
            bearers,
            audit: self.audit,
            gates: Gates::new(&self.config.limits),
            store: self.store.clone(),
            health: health.clone(),
            stop: stop.clone(),
        });
        let router = axum::Router::new().fallback(http::handle).with_state(app);
        health.ready();
        tracing::info!(address = %self.address, token_file = %self.config.data_dir.join("server/agent-token").display(), "serving the API");
        let serving = serve::serve(self.listener, router, self.tls, self.config.limits, stop.clone());
        let result = tokio::select! {
            ((), ()) = async { tokio::join!(serving, controllers) } => Ok(()),
            ended = tasks.join_next() => {
                stop.cancel();
                Err(ServerError::Task(match ended {
                    Some(Err(e)) => format!("a task failed: {e}"),
                    _ => "a task ended early".into(),
                }))
            }
        };
        writer_stop.cancel();
        while tasks.join_next().await.is_some() {}
        self.store.close().await?;
        result
    }
}

/// Opens a server and runs it until `stop`.
///
/// # Errors
/// [`ServerError`].
pub async fn run(
    config: ServerConfig,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), ServerError> {
    Server::open(config).await?.run(health, stop).await
}

/// The node token of the server whose state is in `data_dir`.
///
/// # Errors
/// [`ServerError::Token`] when there is none: no server has run there; [`ServerError::Io`].
pub fn node_token(data_dir: &std::path::Path) -> Result<Secret, ServerError> {
    let path = data_dir.join("server/agent-token");
    match authority::read_optional(&path)? {
        Some(text) => Ok(Secret::new(text.trim())),
        None => Err(ServerError::Token {
            path,
            reason:
                "there is none; `warren server` makes it when it first starts, and --data-dir names its place"
                    .into(),
        }),
    }
}

/// The certificate of the authority for ingress of the server whose state is in `data_dir`, PEM.
///
/// # Errors
/// [`ServerError::Certificates`] when there is none; [`ServerError::Io`].
pub fn ingress_root(data_dir: &std::path::Path) -> Result<String, ServerError> {
    let path = data_dir.join("server/tls").join(authority::INGRESS_CERT);
    authority::read_optional(&path)?.ok_or_else(|| {
        ServerError::Certificates(format!(
            "{}: there is none; `warren server` makes it when it starts, and --data-dir names its place",
            path.display()
        ))
    })
}

fn tls_config(authority: &Authority, shown: Arc<Shown>) -> Result<Arc<rustls::ServerConfig>, ServerError> {
    let fault = |e: &dyn std::fmt::Display| ServerError::Certificates(e.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.certificate()?).map_err(|e| fault(&e))?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| fault(&e))?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| fault(&e))?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(shown);
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(tls))
}

#[cfg(test)]
mod tests;
