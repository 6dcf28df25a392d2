//! Leaks, restarts, faults and cold boots with the userspace backend. The virtual machine runs the same with the kernel's.

use anyhow::Result;
use std::time::Duration;
use warren_e2e::{Lab, scenario};

#[test]
fn no_clear_packet_is_on_the_lan_in_any_state() -> Result<()> {
    let lab = Lab::up("leak", &["--dual-stack"])?;
    scenario::connectivity(&lab)?;
    scenario::no_clear_packet(&lab)?;
    scenario::no_tunnel_no_packet(&lab)?;
    lab.done()
}

#[test]
fn agents_and_server_may_die_under_load() -> Result<()> {
    let lab = Lab::up("restart", &["--dual-stack"])?;
    scenario::connectivity(&lab)?;
    scenario::agent_restarts(&lab, 3, Duration::from_millis(100))?;
    scenario::server_loss(&lab)?;
    lab.done()
}

#[test]
fn the_server_may_die_under_writes() -> Result<()> {
    let lab = Lab::up("writes", &["--nodes", "2"])?;
    scenario::server_killed_under_writes(&lab, 5)?;
    // The nodes, which watched it too, are none the worse.
    scenario::connectivity(&lab)?;
    lab.done()
}

#[test]
fn nodes_boot_without_the_api() -> Result<()> {
    let lab = Lab::up("cold", &["--dual-stack"])?;
    scenario::connectivity(&lab)?;
    scenario::cold_boot_without_the_api(&lab)?;
    lab.done()
}

#[test]
fn faults_of_the_network_heal_within_five_seconds() -> Result<()> {
    let lab = Lab::up("faults", &["--dual-stack"])?;
    scenario::connectivity(&lab)?;
    scenario::partition_and_heal(&lab)?;
    scenario::address_change(&lab)?;
    scenario::join_and_leave(&lab)?;
    lab.done()
}
