//! Packets that connection tracking cannot place.

use super::let_pass;
use crate::battery::{Ask, Battery, FAMILIES, PORT};
use crate::eventually;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

/// The port of the client.
const SOURCE: u16 = 4700;
/// How often strays are sent, and how many each time.
const TIMES: usize = 5;
/// How long the connection is used after them, and how many answers that is at least.
const AFTER: Duration = Duration::from_millis(500);
const ENOUGH: usize = 10;
/// How long the client may take to connect.
const SETTLED: Duration = Duration::from_secs(3);

/// Segments far outside of a connection's window come from the server's end, so untranslated, for connection tracking calls
/// them invalid. None reaches the client, whose kernel would answer with a reset to an address and port that it does not
/// know, and end the server's healthy connection (kubernetes/kubernetes#74839). On the node of the client and on another.
///
/// # Errors
/// When a connection ended.
pub fn strays_end_no_connection(b: &Battery) -> Result<()> {
    let scope = b.scope("stray")?;
    for (name, server) in [("near", "n1a"), ("far", "n2a")] {
        let service = scope.service(name, json!({"selector": {"app": name}}))?;
        scope.members(name, &[server])?;
        for v6 in FAMILIES {
            let target = service.at(v6, 80)?;
            b.tcp("n1b", target).reaches(&[server])?;
            let held = Ask { count: 0, gap: 20, timeout: 2000, keep: true, ..Ask::tcp("n1b", target) };
            let held = b.asking(&Ask { source_port: SOURCE, ..held })?;
            let from = SocketAddr::new(b.address(server, v6)?, PORT).to_string();
            let to = SocketAddr::new(b.address("n1b", v6)?, SOURCE).to_string();
            eventually(SETTLED, || {
                let all =
                    b.exec("n1b", &["ss", "-Htn", "state", "established", "sport", &format!("= :{SOURCE}")])?;
                ensure!(!all.trim().is_empty(), "{to} is not connected");
                Ok(())
            })?;
            for _ in 0..TIMES {
                b.exec(server, &[b.whoami(), "stray", &from, &to, "3"])?;
            }
            let_pass(AFTER);
            let text = held.finish()?;
            let lines: Vec<Value> =
                text.lines().map(|l| serde_json::from_str(l).context("a line")).collect::<Result<_>>()?;
            let bad = lines.iter().find(|l| l["result"] != "answer");
            ensure!(bad.is_none(), "{from} -> {to}: after strays the connection had {bad:?}");
            ensure!(lines.len() > ENOUGH, "{from} -> {to}: only {} answers", lines.len());
        }
    }
    Ok(())
}
