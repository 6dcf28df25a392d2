//! Not one clear packet on the LAN.

use super::{TUNNEL_PORT, pair, pod_ranges};
use crate::lab::{Lab, netns_of};
use crate::probe::Probe;
use crate::{Capture, eventually};
use anyhow::{Result, ensure};
use std::time::Duration;

/// Captures the LAN while agents and tunnels are killed, a node loses power and comes back, one joins and one leaves, with
/// traffic between pods all the time.
///
/// # Errors
/// When a clear packet was seen, or the capture was blind.
pub fn no_clear_packet(lab: &Lab) -> Result<()> {
    let capture = Capture::start(&netns_of(lab.status()?.switch_pid), None, pod_ranges(), TUNNEL_PORT)?;
    let [(a_pid, a), (b_pid, b)] = pair(lab, "node-1", "node-2")?;
    let probe = Probe::start(&netns_of(a_pid), a, &netns_of(b_pid), b)?;

    lab.lab(&["kill", "node-2", "--process", "agent"])?;
    lab.check_within(Duration::from_secs(10))?;
    let [_, (_, gone)] = pair(lab, "node-1", "node-3")?;
    lab.lab(&["kill", "node-3"])?;
    // Its pods are asked for while it is off: that must not leave node-1 in clear.
    let _ = lab.try_exec("node-1", &["ping", "-c", "3", "-i", "0.2", "-W", "1", &gone.to_string()])?;
    lab.lab(&["start", "node-3"])?;
    lab.check_within(Duration::from_secs(20))?;
    lab.lab(&["node", "add"])?;
    lab.check_within(Duration::from_secs(20))?;
    lab.lab(&["node", "remove", "node-4"])?;
    lab.check_within(Duration::from_secs(10))?;

    let gap = probe.finish()?;
    ensure!(gap.heard > 1000, "the traffic of the test did not flow: {gap:?}");
    let seen = capture.finish("br0", &[])?;
    println!(
        "leak: {} packets on the LAN, {} of the tunnel, {} clear",
        seen.packets, seen.tunnel, seen.clear_count
    );
    ensure!(seen.tunnel > 1000, "the capture saw only {} tunnel packets", seen.tunnel);
    ensure!(seen.clear_count == 0, "{} clear packets, the first: {:#?}", seen.clear_count, seen.clear);
    Ok(())
}

/// With its tunnel link deleted, a node drops traffic to remote pods until the agent has rebuilt it.
///
/// # Errors
/// When a clear packet was seen, or the tunnel does not come back.
pub fn no_tunnel_no_packet(lab: &Lab) -> Result<()> {
    let capture = Capture::start(&netns_of(lab.status()?.switch_pid), None, pod_ranges(), TUNNEL_PORT)?;
    let [(_, _), (_, remote)] = pair(lab, "node-1", "node-2")?;
    lab.lab(&["service", "node-1", "stop", "agent"])?;
    lab.exec("node-1", &["ip", "link", "del", "wrn-wg"])?;
    let target = remote.to_string();
    let ping = lab.try_exec("node-1", &["ping", "-c", "3", "-i", "0.2", "-W", "1", &target])?;
    ensure!(!ping.status.success(), "a ping was answered with the tunnel gone");
    lab.lab(&["service", "node-1", "start", "agent"])?;
    let (_, took) =
        eventually(Duration::from_secs(10), || lab.exec("node-1", &["ping", "-c", "1", "-W", "1", &target]))?;
    println!("leak: tunnel link deleted and agent started: reachable again after {} ms", took.as_millis());
    let seen = capture.finish("br0", &[])?;
    ensure!(seen.clear_count == 0, "{} clear packets, the first: {:#?}", seen.clear_count, seen.clear);
    Ok(())
}
