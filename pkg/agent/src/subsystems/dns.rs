//! Starts `warren_dns`, or clears what it left when it is off.

use super::Shared;
use crate::supervisor::SubsystemError;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use warren_dns::limits::Rate;
use warren_dns::resolv::Paths;
use warren_dns::{Deps, DnsConfig, Tables};
use warren_netlink::nft::Nft;
use warren_types::{HealthCell, HealthState};

/// Runs cluster DNS.
pub(super) async fn run(
    shared: Shared,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), SubsystemError> {
    let said = &shared.config.dns;
    if !said.on {
        // What an agent with another configuration left must not keep questions from whoever answers them now.
        warren_dns::clear(&shared.netlink, &Nft::current()?, &shared.config.run_dir).await?;
        health.set(HealthState::Ready, "off: cluster DNS is left to somebody else");
        stop.cancelled().await;
        return Ok(());
    }
    let config = DnsConfig {
        domain: said.domain.clone(),
        addresses: said.addresses.clone(),
        ttl: said.ttl,
        pods: said.pods,
        search: said.search,
        upstreams: said.upstreams.clone(),
        overrides: Arc::clone(&said.overrides),
        offline: said.offline,
        limit: Rate::default(),
        resolv: Paths::default(),
        run_dir: shared.config.run_dir.clone(),
        program: "/proc/self/exe".into(),
    };
    let deps = Deps {
        tables: Tables::of(&shared.store),
        netlink: shared.netlink.clone(),
        nft: Nft::current()?,
        status: shared.dns.clone(),
    };
    Ok(warren_dns::run(config, deps, health, stop).await?)
}
