//! The data plane outlives the agent and the server.

use super::pair;
use crate::lab::{Lab, netns_of};
use crate::probe::Probe;
use crate::transfer::Transfer;
use anyhow::{Result, ensure};
use std::time::{Duration, UNIX_EPOCH};

/// Kills the agent of each end, several times, under a 1 kHz probe and a TCP transfer. `max_cut` is how long the path may
/// be cut; answers that are only late on a busy machine have ten times as long.
///
/// # Errors
/// When the connection was reset or the path was cut for longer.
pub fn agent_restarts(lab: &Lab, times: u32, max_cut: Duration) -> Result<()> {
    let [(a_pid, a), (b_pid, b)] = pair(lab, "node-1", "node-2")?;
    let (a_ns, b_ns) = (netns_of(a_pid), netns_of(b_pid));
    let probe = Probe::start(&a_ns, a, &b_ns, b)?;
    let transfer = Transfer::start(&a_ns, &b_ns, b)?;
    for _ in 0..times {
        for node in ["node-1", "node-2"] {
            lab.lab(&["kill", node, "--process", "agent"])?;
            lab.agent_ready_within(node, Duration::from_secs(20))?;
        }
    }
    lab.check_within(Duration::from_secs(20))?;
    let sent = transfer.finish()?;
    let gap = probe.finish()?;
    println!(
        "agent kill -9 x{}: path cut for {} ms, longest gap {} ms, {} of {} probes lost, {} MiB by TCP without a reset",
        times * 2,
        gap.cut.as_millis(),
        gap.longest.as_millis(),
        gap.lost(),
        gap.sent,
        sent >> 20
    );
    ensure!(gap.cut <= max_cut, "the path was cut for {:?}, more than {max_cut:?}", gap.cut);
    ensure!(
        gap.longest <= 10 * max_cut,
        "a gap of {:?}, more than ten times {max_cut:?}; it ended at second {:.3} of the minute",
        gap.longest,
        gap.ended.duration_since(UNIX_EPOCH)?.as_secs_f64() % 60.0
    );
    Ok(())
}

/// Stops the server: running pods talk, and new pods are attached on nodes that have their podCIDR.
///
/// # Errors
/// When something needed the server.
pub fn server_loss(lab: &Lab) -> Result<()> {
    lab.lab(&["service", "node-1", "stop", "server"])?;
    lab.check_within(Duration::from_secs(20))?;
    lab.lab(&["run", "while-away", "--node", "node-2"])?;
    lab.check_within(Duration::from_secs(20))?;
    // An agent that restarts now has nothing but its store.
    lab.lab(&["kill", "node-2", "--process", "agent"])?;
    lab.agent_ready_within("node-2", Duration::from_secs(20))?;
    lab.check_within(Duration::from_secs(20))?;
    lab.lab(&["rm", "while-away"])?;
    lab.lab(&["service", "node-1", "start", "server"])?;
    Ok(())
}
