//! The life of an agent: what is opened in which order, and what is started.

use crate::admin::{self, AdminConfig};
use crate::board::Board;
use crate::config::{AgentConfig, ApiChoice};
use crate::files::{self, FileError};
use crate::identity::{self, IdentityError};
use crate::notify::Notifier;
use crate::subsystems::{self, Shared};
use crate::supervisor::Supervisor;
use crate::sysctls::SysctlRecord;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use warren_dns::DnsStatus;
use warren_ingress::IngressStatus;
use warren_loadbalancer::{HeldPorts, LoadBalancerStatus};
use warren_netlink::{Netlink, NetlinkError};
use warren_overlay::OverlayStatus;
use warren_policy::{Gate, PolicyStatus};
use warren_proxy::ProxyStatus;
use warren_source::{ApiAccess, SourceStatus};
use warren_store::{Durability, Opened, Store, StoreError};
use warren_types::{BootId, ClusterConfig, InvalidName, defaults};

/// How long subsystems may take to stop.
const GRACE: Duration = Duration::from_secs(5);
/// How often free memory goes back to the kernel.
const GIVE_BACK: Duration = Duration::from_secs(30);

/// Why the agent cannot run at all. What can be waited for is waited for instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// A directory or file of ours.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The keys.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The kernel's netlink sockets.
    #[error("the kernel's network configuration cannot be reached: {0}")]
    Netlink(#[from] NetlinkError),
    /// `/proc/sys/kernel/random/boot_id`.
    #[error("the boot id cannot be read: {0}")]
    BootId(String),
    /// Signals, threads.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl From<InvalidName> for AgentError {
    fn from(e: InvalidName) -> Self {
        Self::BootId(e.to_string())
    }
}

impl AgentError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File(_) | Self::Netlink(_) => {
                Some("the agent needs root, and directories it can write to".into())
            }
            Self::Store(StoreError::Locked(_)) => Some(
                "`warren status` shows the agent that runs; --data-dir and --run-dir keep two apart".into(),
            ),
            _ => None,
        }
    }
}

/// Runs the agent until SIGTERM or SIGINT. Stopping removes nothing: pods keep their network.
///
/// # Errors
/// [`AgentError`].
pub async fn run(config: AgentConfig) -> Result<(), AgentError> {
    let stop = CancellationToken::new();
    let signals = Signals::listen()?;
    files::private_dir(&config.data_dir)?;
    files::private_dir(&config.state_dir())?;
    files::private_dir(&config.run_dir)?;
    let boot_id = warren_netlink::host::boot_id().map_err(|e| AgentError::BootId(e.to_string()))?;
    let boot_id = BootId::new(boot_id)?;
    let netlink = Netlink::current()?;
    let store_path = config.state_dir().join("store");
    let Opened { store, set_aside } = open(store_path.clone()).await?;
    let set_aside = set_aside.map(|s| {
        tracing::error!(copy = %s.copy.display(), reason = %s.reason, "the store could not be used; it was set aside and is rebuilt");
        format!("the store could not be used ({}); it is kept in {}", s.reason, s.copy.display())
    });
    let recovered = match &set_aside {
        Some(_) => warren_overlay::read_existing_key(&netlink).await,
        None => None,
    };
    let keys = identity::load_or_make(&store, recovered).await?;
    cluster_from_flags(&config, &store).await?;
    let status = SourceStatus::default();
    let board = Board::new(
        config.node_name.clone(),
        store.clone(),
        store_path,
        set_aside.unwrap_or_default(),
        status.clone(),
    );
    let admin =
        AdminConfig { socket: config.run_dir.join(defaults::ADMIN_SOCKET), health: config.health_address };
    let admin_stop = CancellationToken::new();
    let thread = admin::start(admin, board.clone(), admin_stop.clone())
        .map_err(|source| AgentError::System { what: "the admin thread cannot be started", source })?;
    tracing::info!(node = %config.node_name, version = env!("CARGO_PKG_VERSION"), "agent started");

    let mut supervisor = Supervisor::new(stop.clone());
    let board_told = board.clone();
    let access = tokio::sync::watch::Sender::new(known_access(&config));
    let sysctls = SysctlRecord::open(&config.state_dir());
    let shared = Shared {
        config,
        store: store.clone(),
        netlink,
        keys,
        boot_id,
        status,
        board,
        access,
        overlay: OverlayStatus::default(),
        proxy: ProxyStatus::default(),
        policy: PolicyStatus::default(),
        gate: Gate::default(),
        ingress: IngressStatus::default(),
        ingress_ports: tokio::sync::watch::Sender::new(Vec::new()),
        dns: DnsStatus::default(),
        load_balancer: LoadBalancerStatus::default(),
        held_ports: tokio::sync::watch::Sender::new(HeldPorts::default()),
        pool: Arc::default(),
        sysctls,
    };
    shared.board.set_desk(shared.desk()?);
    shared.board.set_dns(shared.dns_desk());
    shared.board.set_policy(shared.policy_desk()?);
    shared.board.set_ingress(shared.ingress_desk());
    subsystems::start_all(&mut supervisor, &shared);
    let notifier = Notifier::from_environment();
    let signal = tokio::select! {
        signal = signals.wait() => signal,
        never = notifier.keep(&board_told) => match never {},
        never = give_memory_back() => match never {},
    };
    notifier.say("STOPPING=1");
    tracing::info!(signal, "stopping; pods keep their network");
    let late = supervisor.stop(GRACE).await;
    if late > 0 {
        tracing::warn!(late, "subsystems did not stop in time and were ended");
    }
    admin_stop.cancel();
    // The thread sees the token at its next turn; it is not worth waiting for one that hangs.
    let joined = tokio::task::spawn_blocking(move || thread.join());
    let _ = tokio::time::timeout(Duration::from_secs(1), joined).await;
    store.close().await?;
    Ok(())
}

/// What was read at the start, or in a burst, is not kept for ever.
async fn give_memory_back() -> Infallible {
    let mut started = false;
    loop {
        tokio::time::sleep(GIVE_BACK).await;
        let first = !std::mem::replace(&mut started, true);
        // It cannot fail but by a panic, which the next turn would show again.
        let _ = tokio::task::spawn_blocking(move || {
            warren_netlink::memory::give_back();
            if first {
                warren_netlink::memory::let_code_go();
            }
        })
        .await;
    }
}

async fn open(path: PathBuf) -> Result<Opened, AgentError> {
    match tokio::task::spawn_blocking(move || Store::open(&path)).await {
        Ok(opened) => Ok(opened?),
        Err(e) => Err(AgentError::System { what: "opening the store", source: std::io::Error::other(e) }),
    }
}

/// How the API is reached, as far as it is known before joining.
fn known_access(config: &AgentConfig) -> Option<ApiAccess> {
    match &config.api {
        ApiChoice::Kubeconfig(path) => Some(ApiAccess::Kubeconfig(path.clone())),
        ApiChoice::InCluster => Some(ApiAccess::InCluster),
        ApiChoice::Join { .. } => subsystems::join::known(config),
    }
}

/// Ranges that were given as flags win over the cluster's, and are known without it.
async fn cluster_from_flags(config: &AgentConfig, store: &Store) -> Result<(), AgentError> {
    if config.cluster_cidrs.is_empty() {
        return Ok(());
    }
    let row = ClusterConfig {
        cluster_cidrs: config.cluster_cidrs.clone(),
        service_cidrs: config.service_cidrs.clone(),
    };
    store.table::<ClusterConfig>().replace(vec![row], Durability::Flushed).await?;
    Ok(())
}

/// The signals that end the agent.
struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> Result<Self, AgentError> {
        use tokio::signal::unix::{SignalKind, signal};
        let failed = |source| AgentError::System { what: "signals cannot be received", source };
        Ok(Self {
            term: signal(SignalKind::terminate()).map_err(failed)?,
            int: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }
    async fn wait(mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}
