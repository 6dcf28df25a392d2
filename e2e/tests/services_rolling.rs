//! A Deployment rolled under load: no connection fails. `WARREN_BATTERY_ROLLS` says how often all ten pods are replaced in
//! each test [default: 5]; a run that is to prove something takes 100.

use anyhow::{Context as _, Result};
use std::time::Duration;
use warren_e2e::Battery;
use warren_e2e::scenario::services::{Rolling, rolling};

const WHOAMI: &str = env!("CARGO_BIN_EXE_whoami");

fn rolls() -> Result<usize> {
    match std::env::var("WARREN_BATTERY_ROLLS") {
        Ok(text) => text.parse().with_context(|| format!("WARREN_BATTERY_ROLLS={text}")),
        Err(_) => Ok(5),
    }
}

fn roll(test: &str, grace: Duration, kill_agents: bool) -> Result<()> {
    // Addresses rest before they are given again: a roll takes ten.
    let battery = Battery::up(test, WHOAMI, &["--node-prefix-v4", "21"])?;
    rolling(&battery, Rolling { rolls: rolls()?, grace, kill_agents })?;
    battery.done()
}

#[test]
fn a_deployment_is_rolled_and_no_connection_fails() -> Result<()> {
    roll("svc-roll", Duration::from_secs(1), false)
}

#[test]
fn a_deployment_is_rolled_while_agents_are_killed_and_no_connection_fails() -> Result<()> {
    roll("svc-roll-kill", Duration::from_secs(3), true)
}
