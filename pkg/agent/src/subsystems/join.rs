//! Joining a server, once; retried for ever, and nothing waits for it.

use super::Shared;
use tokio_util::sync::CancellationToken;
use warren_types::HealthCell;

/// Joins when there is no identity yet, then has nothing more to do.
pub(super) async fn run(
    shared: Shared,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), std::io::Error> {
    if shared.access.borrow().is_some() {
        health.ready();
    }
    stop.cancelled().await;
    Ok(())
}
