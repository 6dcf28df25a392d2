//! A Deployment rolled under load: no connection to its Service fails, and no request to its Ingress.
//! `WARREN_BATTERY_ROLLS` says how often all ten pods are replaced in each test [default: 5]; a run that is to prove
//! something takes 100.

use anyhow::{Context as _, Result, ensure};
use std::time::Duration;
use warren_e2e::Battery;
use warren_e2e::scenario::services::{Agents, Rolled, Rolling, Through, WAITED_FOR, rolling};

const WHOAMI: &str = env!("CARGO_BIN_EXE_whoami");

fn rolls() -> Result<usize> {
    match std::env::var("WARREN_BATTERY_ROLLS") {
        Ok(text) => text.parse().with_context(|| format!("WARREN_BATTERY_ROLLS={text}")),
        Err(_) => Ok(5),
    }
}

fn roll(test: &str, grace: u64, agents: Agents, through: Through) -> Result<Rolled> {
    // Addresses rest before they are given again: a roll takes ten.
    let battery = Battery::up(test, WHOAMI, &["--node-prefix-v4", "21"])?;
    let how = Rolling { rolls: rolls()?, grace: Duration::from_secs(grace), agents, through };
    let rolled = rolling(&battery, how)?;
    battery.done()?;
    Ok(rolled)
}

fn roll_without_failure(test: &str, grace: u64, agents: Agents, through: Through) -> Result<()> {
    let rolled = roll(test, grace, agents, through)?;
    ensure!(rolled.failed == 0, "{} of {} attempts failed", rolled.failed, rolled.asked);
    Ok(())
}

#[test]
fn a_deployment_is_rolled_and_no_connection_fails() -> Result<()> {
    roll_without_failure("svc-roll", 1, Agents::Left, Through::Service)
}

#[test]
fn a_deployment_is_rolled_while_agents_are_killed_and_no_connection_fails() -> Result<()> {
    roll_without_failure("svc-roll-kill", 3, Agents::Killed, Through::Service)
}

#[test]
fn a_deployment_is_rolled_and_agents_restart_and_no_request_to_ingress_fails() -> Result<()> {
    roll_without_failure("ingress-roll", 3, Agents::Restarted, Through::Ingress)
}

/// Ingress runs in the agent: what an agent that is killed was answering is lost. New connections wait for the next one.
#[test]
fn agents_are_killed_and_requests_to_ingress_fail_only_in_that_moment() -> Result<()> {
    let rolled = roll("ingress-kill", 3, Agents::Killed, Through::Ingress)?;
    ensure!(rolled.disturbed > 0, "no agent was killed");
    // Four clients ask a node, so many requests at a time each.
    let most = rolled.disturbed * 4 * WAITED_FOR;
    ensure!(rolled.failed <= most, "{} of {} attempts failed, more than {most}", rolled.failed, rolled.asked);
    ensure!(rolled.gap < 3000, "a client met failures for {} ms", rolled.gap);
    Ok(())
}
