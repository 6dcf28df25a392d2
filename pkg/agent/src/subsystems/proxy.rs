//! Starts `warren_proxy`.

use super::Shared;
use crate::supervisor::SubsystemError;
use tokio_util::sync::CancellationToken;
use warren_netlink::conntrack::Conntrack;
use warren_netlink::nft::Nft;
use warren_proxy::{Deps, ProxyConfig, Tables};
use warren_types::HealthCell;

/// Runs the proxy.
pub(super) async fn run(
    shared: Shared,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), SubsystemError> {
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
