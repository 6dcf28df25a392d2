//! Which subsystems an agent has, what each is given, and what it waits for.

mod join;
mod node;
mod source;

use crate::board::Board;
use crate::config::AgentConfig;
use crate::supervisor::{Factory, SubsystemError, Supervisor};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use warren_netlink::Netlink;
use warren_source::{ApiAccess, SourceStatus};
use warren_store::Store;
use warren_store::tables::NodeKeys;
use warren_types::{BootId, HealthCell, SecretKey};

/// What the subsystems share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) config: AgentConfig,
    pub(crate) store: Store,
    pub(crate) netlink: Netlink,
    pub(crate) keys: NodeKeys,
    pub(crate) boot_id: BootId,
    pub(crate) status: SourceStatus,
    pub(crate) board: Board,
    /// How the API is reached; none before the node has joined.
    pub(crate) access: watch::Sender<Option<ApiAccess>>,
}

/// Starts everything, in order.
pub(crate) fn start_all(supervisor: &mut Supervisor, shared: &Shared) {
    if matches!(shared.config.api, crate::config::ApiChoice::Join { .. }) {
        start(supervisor, shared, "join", join::run);
    }
    start(supervisor, shared, "source", source::run);
    start(supervisor, shared, "node", node::run);
}

fn start<F, Fut, E>(supervisor: &mut Supervisor, shared: &Shared, name: &'static str, run: F)
where
    F: Fn(Shared, HealthCell, CancellationToken) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<SubsystemError>,
{
    let given = shared.clone();
    let factory: Factory = Arc::new(move |health, stop| {
        let life = run(given.clone(), health, stop);
        Box::pin(async move { life.await.map_err(Into::into) })
    });
    shared.board.watch(supervisor.start(name, factory));
}

/// The private key that the tunnel of an earlier run still uses, when there is one.
pub(crate) async fn recover_key(run_dir: &Path) -> Option<SecretKey> {
    let _ = run_dir;
    None
}
