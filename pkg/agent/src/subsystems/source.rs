//! Starts `warren_source` as soon as it is known how the API is reached.

use super::Shared;
use tokio_util::sync::CancellationToken;
use warren_source::{SourceConfig, SourceError};
use warren_types::HealthCell;

/// Waits for an identity, then follows the API.
pub(super) async fn run(
    shared: Shared,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), SourceError> {
    let mut access = shared.access.subscribe();
    health.degraded("this node has not joined a cluster yet; working from the store");
    let known = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        known = access.wait_for(Option::is_some) => known.ok().and_then(|a| a.clone()),
    };
    let Some(known) = known else { return Ok(()) };
    let config = SourceConfig {
        access: known,
        node_name: shared.config.node_name.clone(),
        register_node: shared.config.register_node,
        cluster_from_flags: !shared.config.cluster_cidrs.is_empty(),
    };
    warren_source::run(config, shared.store, shared.status, health, stop).await
}
