//! A power cut with the control plane away.

use crate::{Lab, eventually};
use anyhow::{Context as _, Result, ensure};
use std::time::{Duration, Instant};

/// Two nodes lose power and come back with nothing but their disks; the server stays off. Their pods reach each other,
/// the tunnel has the same key.
///
/// # Errors
/// When the nodes needed the server.
pub fn cold_boot_without_the_api(lab: &Lab) -> Result<()> {
    let key = |node: &str| -> Result<String> {
        let status = lab.agent_status(node)?;
        let key = status.pointer("/node/publicKey").and_then(|k| k.as_str());
        Ok(key.with_context(|| format!("{node}: no public key in {status}"))?.to_owned())
    };
    let nodes = ["node-2", "node-3"];
    let before: Vec<String> = nodes.iter().map(|n| key(n)).collect::<Result<_>>()?;
    lab.lab(&["service", "node-1", "stop", "server"])?;
    for node in nodes {
        lab.lab(&["kill", node])?;
    }
    let start = Instant::now();
    for node in nodes {
        lab.lab(&["start", node])?;
    }
    lab.check_within(Duration::from_secs(20))?;
    println!(
        "cold boot of two nodes without the API: full connectivity {} ms after power-on",
        start.elapsed().as_millis()
    );
    eventually(Duration::from_secs(20), || lab.lab(&["run", "after-boot", "--node", "node-3"]))?;
    lab.check_within(Duration::from_secs(20))?;
    let after: Vec<String> = nodes.iter().map(|n| key(n)).collect::<Result<_>>()?;
    ensure!(before == after, "the keys changed: {before:?} became {after:?}");
    lab.lab(&["service", "node-1", "start", "server"])?;
    Ok(())
}
