//! An agent restarts under load: the sockets are kept, and what came meanwhile is answered.

use super::{Load, Names, finished};
use crate::battery::Battery;
use anyhow::{Context as _, Result, ensure};
use std::time::{Duration, Instant};

const NODE: &str = "node-1";
const POD: &str = "n1a";
/// Questions a second; each may take 2 s, and is asked once.
const RATE: u64 = 1_000;
/// Questions that an agent may have read and not answered when it is killed: a batch, when it was behind.
const IN_HAND: u64 = 32;
/// What a start may take.
const START: Duration = Duration::from_secs(20);

/// How often.
fn restarts() -> Result<usize> {
    let text = std::env::var("WARREN_BATTERY_DNS_RESTARTS").unwrap_or_else(|_| "10".into());
    text.parse().with_context(|| format!("WARREN_BATTERY_DNS_RESTARTS={text}"))
}

/// The agent of one node restarts in order, again and again: no question is lost.
///
/// # Errors
/// When one is.
pub fn agent_restarts_in_order(names: &Names<'_>) -> Result<()> {
    let b = names.battery;
    let load = under_load(names, "in order", |_| {
        b.lab().lab(&["service", NODE, "stop", "agent"])?;
        b.lab().lab(&["service", NODE, "start", "agent"])?;
        serves(b)
    })?;
    load.all_right()
}

/// The agent is killed, again and again: a question that it had taken from the socket dies with it, no other does.
///
/// # Errors
/// When more are lost than can have been in its hands.
pub fn agent_is_killed(names: &Names<'_>) -> Result<()> {
    let b = names.battery;
    let load = under_load(names, "killed", |_| {
        b.lab().lab(&["kill", NODE, "--process", "agent"])?;
        // The lab, as a service manager, would wait before it starts one again that ends so often.
        b.lab().lab(&["service", NODE, "stop", "agent"])?;
        b.lab().lab(&["service", NODE, "start", "agent"])?;
        serves(b)
    })?;
    let most = restarts()? as u64 * IN_HAND;
    ensure!(load.lost <= most && load.wrong.is_empty(), "{load:?}");
    Ok(())
}

fn serves(b: &Battery) -> Result<()> {
    b.lab().agent_ready_within(NODE, START).map(drop)
}

fn under_load(names: &Names<'_>, how: &str, restart: impl Fn(usize) -> Result<()>) -> Result<Load> {
    let (many, mut slowest) = (restarts()?, Duration::ZERO);
    let load = names.load(POD, RATE)?;
    for n in 0..many {
        let start = Instant::now();
        restart(n).with_context(|| format!("restart {n}"))?;
        slowest = slowest.max(start.elapsed());
    }
    let load = finished(load)?;
    println!("dns: agent restarted {many} times, {how}, the slowest in {} ms: {load}", slowest.as_millis());
    if load.lost > 0 {
        println!("dns: lost were those after {:?} ms", load.lost_at_ms);
    }
    ensure!(load.send_errors == 0, "{} questions could not be sent", load.send_errors);
    Ok(load)
}
