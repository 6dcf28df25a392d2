//! Starts `warren_source` as soon as it is known how the API is reached, and anew when this node's addresses change.

use super::Shared;
use std::net::IpAddr;
use tokio_util::sync::CancellationToken;
use warren_source::{SourceConfig, SourceError};
use warren_store::StoreError;
use warren_store::tables::ONLY;
use warren_types::{HealthCell, LocalNode};

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
    access.mark_unchanged();
    let config = SourceConfig {
        access: known,
        node_name: shared.config.node_name.clone(),
        register_node: shared.config.register_node,
        cluster_from_flags: !shared.config.cluster_cidrs.is_empty(),
        issue_certificates: shared.config.issue_certificates,
    };
    loop {
        let life = stop.child_token();
        let run = warren_source::run(
            config.clone(),
            shared.store.clone(),
            shared.status.clone(),
            health.clone(),
            life.clone(),
        );
        tokio::select! {
            ended = run => return ended,
            // Connections from an address that is gone would only be found dead after seconds of silence.
            moved = moved(&shared) => {
                moved?;
                tracing::info!("this node's addresses changed; connecting to the API anew");
            }
            // The file is another one under the same name.
            Ok(()) = access.changed() => tracing::info!("this node has another certificate; connecting to the API anew"),
        }
        life.cancel();
    }
}

/// Returns when this node has other addresses than now.
async fn moved(shared: &Shared) -> Result<(), StoreError> {
    let table = shared.store.table::<LocalNode>();
    let addresses = || table.get(ONLY).map(|l| l.internal_ips.clone()).unwrap_or_default();
    let mut rows = table.watch();
    let mut before: Vec<IpAddr> = addresses();
    loop {
        rows.next().await.ok_or(StoreError::Closed)?;
        let now = addresses();
        if before.is_empty() {
            before = now;
        } else if now != before && !now.is_empty() {
            return Ok(());
        }
    }
}
