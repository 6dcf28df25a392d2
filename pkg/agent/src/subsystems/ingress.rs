//! Starts `warren_ingress`, or clears what it left when it is off.

use super::Shared;
use crate::supervisor::SubsystemError;
use tokio_util::sync::CancellationToken;
use warren_ingress::{Deps, Tables};
use warren_types::{HealthCell, HealthState};

/// Serves Ingresses.
pub(super) async fn run(
    shared: Shared,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), SubsystemError> {
    let Some(config) = shared.config.ingress.clone() else {
        warren_ingress::clear(&Tables::of(&shared.store), &shared.config.run_dir).await?;
        health.set(HealthState::Ready, "off: Ingresses are left to somebody else");
        stop.cancelled().await;
        return Ok(());
    };
    let deps = Deps {
        tables: Tables::of(&shared.store),
        status: shared.ingress.clone(),
        ports: shared.ingress_ports.clone(),
        run_dir: shared.config.run_dir.clone(),
        program: "/proc/self/exe".into(),
    };
    Ok(warren_ingress::run(config, deps, health, stop).await?)
}
