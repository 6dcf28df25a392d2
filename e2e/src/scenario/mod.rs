//! The behaviours that must hold with either WireGuard backend: the end-to-end tests run them in namespaces of the machine
//! (userspace backend), and again inside the virtual machine (kernel backend).

mod cold_boot;
mod connectivity;
pub mod dns;
mod faults;
mod leak;
pub mod policy;
mod restart;
pub mod services;
mod writes;

pub use cold_boot::cold_boot_without_the_api;
pub use connectivity::{connectivity, sources_are_kept};
pub use faults::{address_change, join_and_leave, partition_and_heal};
pub use leak::{no_clear_packet, no_tunnel_no_packet};
pub use restart::{agent_restarts, server_loss};
pub use writes::server_killed_under_writes;

use crate::Lab;
use anyhow::{Context as _, Result};
use ipnet::IpNet;
use std::net::IpAddr;

/// UDP port of the tunnel.
pub const TUNNEL_PORT: u16 = 51840;

/// A bad line, as arguments of netem.
pub const BAD_LINE: &[&str] =
    &["delay", "40ms", "10ms", "loss", "5%", "reorder", "25%", "duplicate", "2%", "limit", "10000"];

/// The pod ranges of a lab.
#[must_use]
pub fn pod_ranges() -> Vec<IpNet> {
    let net = |s: &str| s.parse().ok();
    [net("10.42.0.0/16"), net("fd57:4e00:42::/56")].into_iter().flatten().collect()
}

/// Two pods on two nodes, and a common family of theirs: (pid, address) of each.
fn pair(lab: &Lab, from: &str, to: &str) -> Result<[(u32, IpAddr); 2]> {
    let first = |node: &str| -> Result<crate::lab::Pod> {
        let pods = lab.pods_on(node)?;
        pods.into_iter().find(|p| p.pid.is_some()).with_context(|| format!("no running pod on {node}"))
    };
    let (a, b) = (first(from)?, first(to)?);
    let common =
        a.ips.iter().find_map(|x| b.ips.iter().find(|y| x.is_ipv4() == y.is_ipv4()).map(|y| (*x, *y)));
    let (x, y) = common.context("the two pods have no address family in common")?;
    Ok([(a.pid.unwrap_or(0), x), (b.pid.unwrap_or(0), y)])
}
