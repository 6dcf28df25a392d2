//! Others take away what leads to the server; and it is taken away when it is not wanted.

use super::{KUBERNETES, KUBERNETES_IP, Names, SERVERS};
use crate::battery::Battery;
use crate::dig::Dig;
use crate::eventually;
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

/// What is taken away is back after so long.
const REPAIRED: Duration = Duration::from_secs(2);
const NODE: &str = "node-2";
const POD: &str = "n2a";

/// What leads to the server, and keeps its sockets, is whole.
fn whole(b: &Battery) -> Result<()> {
    for (family, server) in ["-4", "-6"].iter().zip(SERVERS) {
        let routes = b.exec(NODE, &["ip", family, "route", "show", "table", "local", "proto", "87"])?;
        ensure!(routes.contains(server), "{server} is not routed here: {routes:?}");
    }
    let rules = b.exec(NODE, &["nft", "list", "table", "inet", "warren"])?;
    for part in ["dns_arriving", "dns_leaving", SERVERS[0], SERVERS[1]] {
        ensure!(rules.contains(part), "{part} is not in the rules: {rules}");
    }
    ensure!(rules.matches("notrack").count() >= 6, "rules are missing: {rules}");
    let keepers = keepers(b)?;
    ensure!(keepers.len() == 1, "{} processes keep the sockets", keepers.len());
    for (server, tcp) in SERVERS.iter().flat_map(|s| [(s, false), (s, true)]) {
        let dig = Dig { tcp, patience: 1, ..Dig::new(POD, server.parse()?) };
        let reply = dig.ask(b, KUBERNETES, "A")?;
        ensure!(reply.data("A") == [KUBERNETES_IP], "{server}: {reply:?}");
    }
    Ok(())
}

fn keepers(b: &Battery) -> Result<Vec<u32>> {
    b.lab().processes(NODE, &["dns-sockets", "--foreground"])
}

/// What others take away is there again.
///
/// # Errors
/// When it is not.
pub fn foreign_changes(names: &Names<'_>) -> Result<()> {
    let b = names.battery;
    whole(b)?;
    for change in [
        "nft flush ruleset",
        "nft flush chain inet warren dns_arriving",
        "ip -4 route flush table local proto 87",
        "ip -6 route flush table local proto 87",
    ] {
        let load = names.load(POD, 200)?;
        b.exec(NODE, &change.split(' ').collect::<Vec<_>>())?;
        let (_, took) = eventually(REPAIRED, || whole(b))?;
        let load = super::finished(load)?;
        // At 200 a second, one is lost in 5 ms.
        println!(
            "dns: {change}: whole again within {} ms, silent for some {} ms; {load}",
            took.as_millis(),
            load.lost * 5
        );
        ensure!(load.wrong.is_empty(), "{load:?}");
    }
    // Without its keeper the agent goes on, and has another at once.
    let before = keepers(b)?;
    let load = names.during(POD, 200, || {
        b.lab().kill_process(NODE, &["dns-sockets", "--foreground"])?;
        let start = Instant::now();
        let anew = || {
            whole(b)?;
            let after = keepers(b)?;
            ensure!(before != after, "it is still {after:?}");
            Ok(())
        };
        eventually(REPAIRED, anew)?;
        println!(
            "dns: the keeper of the sockets killed: another one after {} ms",
            start.elapsed().as_millis()
        );
        // The new one has them: the agent is restarted in order.
        b.lab().lab(&["service", NODE, "stop", "agent"])?;
        b.lab().lab(&["service", NODE, "start", "agent"])?;
        b.lab().agent_ready_within(NODE, Duration::from_secs(20)).map(drop)
    })?;
    println!("dns: the keeper killed, then the agent restarted: {load}");
    load.all_right()?;
    // A keeper that is at rest does nothing.
    let [keeper] = keepers(b)?[..] else { anyhow::bail!("not one keeper") };
    let ticks = || -> Result<u64> {
        let stat = b.exec(NODE, &["cat", &format!("/proc/{keeper}/stat")])?;
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let number = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).unwrap_or(u64::MAX / 2);
        Ok(number(11) + number(12))
    };
    let before = ticks()?;
    names.during(POD, 200, || {
        let start = Instant::now();
        while let Some(rest) = Duration::from_secs(1).checked_sub(start.elapsed()) {
            std::thread::park_timeout(rest);
        }
        Ok(())
    })?;
    let spent = ticks()? - before;
    println!("dns: the keeper at rest took {spent} hundredths of a second in one");
    ensure!(spent <= 2, "the keeper is not at rest: {spent} hundredths of a second in one");
    Ok(())
}

/// `--dns=off` takes away all that led to the server.
///
/// # Errors
/// When something is left.
pub fn off_leaves_nothing(names: &Names<'_>) -> Result<()> {
    let b = names.battery;
    whole(b)?;
    b.lab().lab(&["service", NODE, "stop", "agent"])?;
    b.exec(NODE, &["sh", "-c", "echo 'dns: \"off\"' > /etc/warren/config.yaml"])?;
    b.lab().lab(&["service", NODE, "start", "agent"])?;
    let gone = || -> Result<()> {
        for family in ["-4", "-6"] {
            let routes = b.exec(NODE, &["ip", family, "route", "show", "table", "local", "proto", "87"])?;
            ensure!(routes.trim().is_empty(), "routes are left: {routes}");
        }
        let rules = b.exec(NODE, &["nft", "list", "table", "inet", "warren"])?;
        ensure!(!rules.contains("dns_"), "rules are left: {rules}");
        let keepers = b.lab().processes(NODE, &["dns-sockets"])?;
        ensure!(keepers.is_empty(), "processes are left: {keepers:?}");
        let sockets =
            b.exec(NODE, &["sh", "-c", "cat /proc/net/udp /proc/net/udp6 /proc/net/tcp /proc/net/tcp6"])?;
        ensure!(
            !sockets
                .lines()
                .any(|line| line.split_whitespace().nth(1).is_some_and(|at| at.ends_with(":0035"))),
            "sockets are left"
        );
        Ok(())
    };
    let (_, took) = eventually(Duration::from_secs(20), gone)?;
    println!("dns: off: nothing is left {} ms after the agent's start", took.as_millis());
    let dig = Dig { patience: 1, ..Dig::new(POD, SERVERS[0].parse()?) };
    let reply = dig.ask(b, KUBERNETES, "A")?;
    ensure!(reply.rcode == "TIMEOUT", "somebody answers: {reply:?}");
    names.configure(NODE, "")?;
    eventually(REPAIRED, || whole(b)).map(drop)
}
