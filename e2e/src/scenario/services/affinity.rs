//! `sessionAffinity: ClientIP`.

use crate::battery::{Ask, Battery, FAMILIES};
use crate::eventually;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn affinity(seconds: u32) -> Value {
    json!({"type": "NodePort", "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}})
}

/// Who answers all of `count` connections.
fn only_server(b: &Battery, ask: &Ask, count: u64) -> Result<String> {
    let got = b.ask(&Ask { count, ..ask.clone() })?;
    let first = got.first().context("nothing was asked")?.server.clone();
    ensure!(got.iter().all(|g| g.result == "answer" && g.server == first), "not one server: {got:?}");
    Ok(first)
}

/// A client keeps its endpoint, over TCP and UDP, and gets another only when that one is gone.
///
/// # Errors
/// When it is not so.
pub fn affinity_keeps_and_moves(b: &Battery) -> Result<()> {
    let scope = b.scope("affinity")?;
    let service = scope.service("web", affinity(600))?;
    let mut servers = vec!["n1a", "n2a", "n3a"];
    scope.members("web", &servers)?;
    for v6 in FAMILIES {
        // A client that came while endpoints were added may hold the first of them: that is as it should be.
        b.tcp("n1b", service.at(v6, 80)?).reaches_one_of(&servers)?;
        for from in ["n1b", "n2b", "node-3"] {
            for ask in [Ask::tcp(from, service.at(v6, 80)?), Ask::udp(from, service.at(v6, 80)?)] {
                only_server(b, &ask, 40)?;
            }
        }
        let outside = Ask::tcp("outside", (b.address("node-2", v6)?, service.node_port(0)?).into());
        only_server(b, &outside, 40)?;
    }
    let ask = Ask::tcp("n1b", service.at(false, 80)?);
    while servers.len() > 1 {
        let kept = only_server(b, &ask, 10)?;
        scope.remove(&format!("web-{kept}"))?;
        servers.retain(|s| *s != kept);
        let (next, took) = eventually(Duration::from_secs(2), || {
            let next = only_server(b, &ask, 10)?;
            ensure!(servers.contains(&next.as_str()), "still {next}, which is gone");
            Ok(next)
        })?;
        println!("affinity: {kept} is gone, {next} after {} ms", took.as_millis());
    }
    Ok(())
}

/// Each new connection renews the time; when it is over, the choice is free again.
///
/// # Errors
/// When it is not so.
pub fn affinity_ends_with_its_time(b: &Battery) -> Result<()> {
    let scope = b.scope("affinity-time")?;
    let service = scope.service("web", affinity(2))?;
    let servers = ["n1a", "n2a", "n3a"];
    scope.members("web", &servers)?;
    let ask = Ask::tcp("n1b", service.at(false, 80)?);
    b.expect(ask.clone()).reaches_one_of(&servers)?;
    // Twice its time, with a connection every 500 ms.
    let first = only_server(b, &Ask { gap: 500, ..ask.clone() }, 8)?;
    // By chance the same one is chosen again, one time in three.
    let (start, mut turns) = (Instant::now(), 0);
    let mut last = first.clone();
    while last == first {
        turns += 1;
        ensure!(
            turns <= 15,
            "after {:?} and {turns} times of 2.6 s without a connection, still {first}",
            start.elapsed()
        );
        let pause = Instant::now() + Duration::from_millis(2600);
        while let Some(rest) = pause.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(rest);
        }
        last = only_server(b, &ask, 3)?;
    }
    println!("affinity: {first} for 4 s, {last} after {turns} times of 2.6 s without a connection");
    Ok(())
}
