//! Others change the rules.

use super::both;
use crate::battery::{Ask, Battery, FAMILIES, NODES};
use crate::eventually;
use anyhow::{Result, ensure};
use serde_json::json;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A table of somebody else, with what tables have.
const FOREIGN: &str = "table inet foreign {\n set addresses { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.2 } }\n \
    chain input { type filter hook input priority 10; policy accept; ip saddr @addresses counter drop; }\n}\n\
    table ip nat {\n chain post { type nat hook postrouting priority 100; policy accept; ip saddr 192.0.2.9 masquerade; }\n}\n";
const REPAIRED: Duration = Duration::from_secs(1);

fn rules(b: &Battery, node: &str, table: &[&str]) -> Result<String> {
    b.exec(node, &[&["nft", "-s", "list", "table"], table].concat())
}

/// Waits until a connection is answered again.
fn repaired(b: &Battery, at: SocketAddr) -> Result<()> {
    // A packet that met no rules is not sent again in time.
    let ask = Ask { timeout: 250, ..Ask::tcp("n1b", at) };
    eventually(REPAIRED, || {
        let got = b.ask(&ask)?;
        ensure!(got.iter().all(|g| g.result == "answer"), "not repaired: {got:?}");
        Ok(())
    })
    .map(drop)
}

/// Whatever somebody does to Warren's table is undone within a second.
///
/// # Errors
/// When it is not.
pub fn foreign_changes_are_repaired(b: &Battery) -> Result<()> {
    if !b.is_warren("repairs") {
        return Ok(());
    }
    let scope = b.scope("repair")?;
    let service = scope.service("web", json!({"type": "NodePort"}))?;
    let servers = ["n2a", "n3a"];
    scope.members("web", &servers)?;
    b.tcp("n1b", service.at(false, 80)?).reaches(&servers)?;
    for change in [
        "delete table inet warren",
        "flush ruleset",
        "flush table inet warren",
        "add table inet warren { flags dormant; }",
    ] {
        let start = Instant::now();
        if b.exec("node-1", &["nft", change]).is_err() {
            println!("repair: nft {change}: refused by the kernel");
            continue;
        }
        repaired(b, service.at(false, 80)?)?;
        println!("repair: nft {change}: served again {} ms after it began", start.elapsed().as_millis());
        for v6 in FAMILIES {
            for from in ["n1b", "node-1"] {
                both(b, from, service.at(v6, 80)?)
                    .into_iter()
                    .try_for_each(|e| e.reaches(&servers).map(drop))?;
            }
            b.tcp("outside", (b.address("node-1", v6)?, service.node_port(0)?).into()).reaches(&servers)?;
        }
    }
    Ok(())
}

/// Tables of others are as they were, whatever Warren does with its own.
///
/// # Errors
/// When one was touched.
pub fn foreign_tables_are_left_alone(b: &Battery) -> Result<()> {
    if !b.is_warren("foreign tables") {
        return Ok(());
    }
    let scope = b.scope("foreign")?;
    for node in NODES {
        b.exec(node, &["sh", "-c", &format!("nft -f - <<'END'\n{FOREIGN}END\n")])?;
    }
    let tables = |node: &str| {
        Ok::<_, anyhow::Error>(rules(b, node, &["inet", "foreign"])? + &rules(b, node, &["ip", "nat"])?)
    };
    let before: Vec<String> = NODES.iter().map(|n| tables(n)).collect::<Result<_>>()?;
    let service = scope.service("web", json!({"type": "LoadBalancer"}))?;
    scope.members("web", &["n2a"])?;
    b.tcp("n1b", service.at(false, 80)?).reaches(&["n2a"])?;
    b.exec("node-1", &["nft", "delete table inet warren"])?;
    repaired(b, service.at(false, 80)?)?;
    b.tcp("n1b", service.at(false, 80)?).reaches(&["n2a"])?;
    b.lab().lab(&["kill", "node-2", "--process", "agent"])?;
    b.lab().agent_ready_within("node-2", Duration::from_secs(20))?;
    scope.remove("web-n2a")?;
    b.tcp("n1b", service.at(false, 80)?).is_refused()?;
    for (node, before) in NODES.iter().zip(before) {
        let after = tables(node)?;
        ensure!(after == before, "{node}: a foreign table changed:\n{before}\nbecame\n{after}");
        b.exec(node, &["nft", "delete table inet foreign; delete table ip nat"])?;
    }
    Ok(())
}
