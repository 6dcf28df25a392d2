//! Starts `warren_dns`, or clears what it left when it is off.

use super::Shared;
use crate::supervisor::SubsystemError;
use tokio_util::sync::CancellationToken;
use warren_dns::resolv::Paths;
use warren_dns::{Deps, Tables};
use warren_netlink::nft::Nft;
use warren_types::{HealthCell, HealthState};

/// Runs cluster DNS.
pub(super) async fn run(
    shared: Shared,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), SubsystemError> {
    let Some(config) = shared.config.dns.clone() else {
        // What an agent with another configuration left must not keep questions from whoever answers them now.
        warren_dns::clear(&shared.netlink, &Nft::current()?, &shared.config.run_dir).await?;
        health.set(HealthState::Ready, "off: cluster DNS is left to somebody else");
        stop.cancelled().await;
        return Ok(());
    };
    let deps = Deps {
        tables: Tables::of(&shared.store),
        netlink: shared.netlink.clone(),
        nft: Nft::current()?,
        status: shared.dns.clone(),
        resolv: Paths::default(),
        run_dir: shared.config.run_dir.clone(),
        program: "/proc/self/exe".into(),
    };
    Ok(warren_dns::run(config, deps, health, stop).await?)
}
