//! Starts `warren_proxy`, or clears what it left when it is off.

use super::Shared;
use crate::supervisor::SubsystemError;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use warren_netlink::conntrack::Conntrack;
use warren_netlink::nft::{Nft, Section};
use warren_proxy::{Deps, ProxyConfig, Tables};
use warren_types::{HealthCell, HealthState};

/// Runs the proxy.
pub(super) async fn run(
    shared: Shared,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), SubsystemError> {
    if !shared.config.services.proxy {
        let nft = Nft::current()?;
        if nft.table_exists().await? {
            // What an agent with another configuration left must not translate beside the other proxy.
            nft.ensure_section(Section::Services, Arc::default()).await?;
        }
        health.set(HealthState::Ready, "off: Services are left to another proxy");
        stop.cancelled().await;
        return Ok(());
    }
    let config = ProxyConfig {
        node_name: shared.config.node_name.clone(),
        node_port_addresses: shared.config.services.node_port_addresses.clone(),
        external_ip_ranges: shared.config.services.external_ips.clone(),
        tunnel_port: shared.config.tunnel_port,
    };
    let deps = Deps {
        tables: Tables::of(&shared.store),
        netlink: shared.netlink.clone(),
        nft: Nft::current()?,
        conntrack: Conntrack::current()?,
        status: shared.proxy.clone(),
    };
    Ok(warren_proxy::run(config, deps, health, stop).await?)
}
