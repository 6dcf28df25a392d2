//! Flows of UDP, which nobody closes.

use super::let_pass;
use crate::battery::{Ask, Battery};
use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::json;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long datagrams may go where nobody is any more.
const BLACK_HOLE: u128 = 1000;

/// A line of a client that kept asking.
#[derive(Debug, Deserialize)]
struct Line {
    /// When it was asked, in milliseconds of the clock.
    at: u128,
    result: String,
    #[serde(default)]
    server: String,
    #[serde(default)]
    client: String,
}

fn now() -> Result<u128> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())
}

fn asking_all_the_time(b: &Battery, from: &str, target: std::net::SocketAddr, port: u16) -> Ask {
    let _ = b;
    Ask { count: 0, gap: 20, timeout: 200, keep: true, source_port: port, ..Ask::udp(from, target) }
}

/// A client that keeps its port is led to each new endpoint within a second, when the one it talked to goes and when the
/// last one goes; from pods and hosts, to the cluster address and to a node port.
///
/// # Errors
/// When datagrams vanish for longer.
pub fn udp_follows_its_endpoints(b: &Battery) -> Result<()> {
    let scope = b.scope("udp")?;
    let service = scope.service("web", json!({"type": "NodePort"}))?;
    scope.members("web", &["n1a"])?;
    let targets = [
        ("n1b", service.at(false, 80)?),
        ("n3b", service.at(true, 80)?),
        ("node-2", service.at(false, 80)?),
        ("outside", (b.address("node-3", false)?, service.node_port(1)?).into()),
    ];
    for (from, target) in targets {
        b.udp(from, target).reaches(&["n1a"])?;
    }
    let clients: Vec<_> = targets
        .iter()
        .map(|(from, target)| b.asking(&asking_all_the_time(b, from, *target, 4500)))
        .collect::<Result<_>>()?;
    // Who answers, and since when.
    let mut turns = vec![(now()?, "n1a")];
    let phase = Duration::from_millis(2200);
    let_pass(phase);
    for (name, change) in [("n2a", "n1a"), ("", "n2a"), ("n3a", ""), ("n1a", "n3a")] {
        // It begins with the change: the first answer of the new one may come before all have heard of it.
        turns.push((now()?, name));
        if !name.is_empty() {
            scope.members("web", &[name])?;
        }
        if !change.is_empty() {
            scope.remove(&format!("web-{change}"))?;
        }
        let_pass(phase);
    }
    let end = now()?;
    for ((from, target), client) in targets.iter().zip(clients) {
        let text = client.finish()?;
        let lines: Vec<Line> = text
            .lines()
            .map(|l| serde_json::from_str(l).with_context(|| l.to_owned()))
            .collect::<Result<_>>()?;
        ensure!(lines.len() > 100, "{from} asked only {} times", lines.len());
        for (n, (since, name)) in turns.iter().enumerate() {
            let until = turns.get(n + 1).map_or(end, |t| t.0);
            let of_turn = lines.iter().filter(|l| (*since..until).contains(&l.at));
            // Rejections are few: the kernel sends one a second.
            let wrong = |l: &&Line| l.server != *name && (!name.is_empty() || l.result == "answer");
            let last = of_turn.clone().rfind(wrong);
            let hole = last.map_or(0, |l| l.at - since);
            let right = |l: &Line| if name.is_empty() { l.result == "refused" } else { l.server == *name };
            ensure!(of_turn.clone().any(right), "{from} -> {target}: turn {n} ({name:?}) never came");
            println!(
                "UDP {from} -> {target}: {} after {hole} ms",
                if name.is_empty() { "rejected" } else { name }
            );
            ensure!(of_turn.count() > 5, "{from} asked too little in turn {n}");
            ensure!(
                hole <= BLACK_HOLE,
                "{from} -> {target}: {hole} ms after turn {n} ({name}) still {last:?}"
            );
        }
    }
    Ok(())
}

/// A flow whose endpoint stays keeps it, with the address and port under which the server knows it, while endpoints come and
/// go, and while the agents of both ends are killed.
///
/// # Errors
/// When it does not.
pub fn udp_flow_survives_the_agent(b: &Battery) -> Result<()> {
    if !b.is_warren("flows that outlive the agent") {
        return Ok(());
    }
    let scope = b.scope("udp-flow")?;
    let service = scope.service("web", json!({"type": "NodePort"}))?;
    scope.members("web", &["n2a"])?;
    let targets = [
        ("n1b", service.at(false, 80)?),
        ("n3b", service.at(true, 80)?),
        ("outside", (b.address("node-1", false)?, service.node_port(1)?).into()),
    ];
    for (from, target) in targets {
        b.udp(from, target).reaches(&["n2a"])?;
    }
    let clients: Vec<_> = targets
        .iter()
        .map(|(from, target)| b.asking(&asking_all_the_time(b, from, *target, 4600)))
        .collect::<Result<_>>()?;
    let held = Ask { udp: false, ..asking_all_the_time(b, "n1b", service.at(false, 80)?, 0) };
    let held = b.asking(&Ask { timeout: 2000, ..held })?;
    let_pass(Duration::from_millis(300));
    // Others come and go: the flow is not theirs.
    scope.members("web", &["n1a", "n3a"])?;
    b.tcp("n1b", service.at(false, 80)?).reaches(&["n1a", "n2a", "n3a"])?;
    scope.remove("web-n1a")?;
    b.tcp("n1b", service.at(false, 80)?).reaches(&["n2a", "n3a"])?;
    for node in ["node-1", "node-2", "node-3"] {
        b.lab().lab(&["kill", node, "--process", "agent"])?;
        b.lab().agent_ready_within(node, Duration::from_secs(20))?;
    }
    // The restarted ones follow changes, and have swept whatever they sweep.
    scope.remove("web-n3a")?;
    b.tcp("n1b", service.at(false, 80)?).reaches(&["n2a"])?;
    b.tcp("n3b", service.at(true, 80)?).reaches(&["n2a"])?;
    let_pass(Duration::from_millis(500));
    for (from, client) in
        targets.iter().map(|t| t.0).chain(["n1b by TCP"]).zip(clients.into_iter().chain([held]))
    {
        let text = client.finish()?;
        let lines: Vec<Line> = text
            .lines()
            .map(|l| serde_json::from_str(l).with_context(|| l.to_owned()))
            .collect::<Result<_>>()?;
        let first = lines.first().context("nothing was asked")?;
        let lost = lines.iter().filter(|l| l.result != "answer").count();
        println!(
            "flow of {from}: {} answers by {} to {}, {lost} lost",
            lines.len() - lost,
            first.server,
            first.client
        );
        let moved = lines
            .iter()
            .find(|l| l.result == "answer" && (&l.server, &l.client) != (&first.server, &first.client));
        ensure!(moved.is_none(), "{from}: the flow of {first:?} moved: {moved:?}");
        // A busy machine may lose a datagram's time; a flow that breaks loses all that follow.
        ensure!(
            lost <= 2,
            "{from}: {lost} of {} unanswered, the first: {:?}",
            lines.len(),
            lines.iter().find(|l| l.result != "answer")
        );
    }
    Ok(())
}
