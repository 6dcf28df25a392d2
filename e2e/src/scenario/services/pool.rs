//! Addresses that are announced on the LAN, and ports that the host holds.

use super::load_balancer::ingress;
use crate::battery::{Ask, Battery, FAMILIES, NODES};
use crate::eventually;
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The pool of the lab, in the LAN's own ranges.
pub const POOL: &str = "192.168.57.200-192.168.57.219,fd57:1ab::200-fd57:1ab::219";
/// How long an address may be without a holder.
const MOVED: Duration = Duration::from_secs(3);

/// The node whose hardware address the gateway has for an address of the pool.
fn holder(b: &Battery, address: IpAddr) -> Result<&'static str> {
    let neighbours = b.exec("gateway", &["ip", "neigh", "show", &address.to_string()])?;
    let mut words = neighbours.split_whitespace().skip_while(|word| *word != "lladdr").skip(1);
    let mac = words.next().with_context(|| format!("no neighbour entry for {address}: {neighbours}"))?;
    for node in NODES {
        if b.exec(node, &["cat", "/sys/class/net/eth0/address"])?.trim() == mac {
            return Ok(node);
        }
    }
    anyhow::bail!("{mac} is no node's")
}

/// A Service gets one address of the pool per family; the LAN reaches it by a node; when that node's power is cut, another
/// answers within three seconds.
///
/// # Errors
/// When it is not so.
pub fn pool_addresses_move(b: &Battery) -> Result<()> {
    if !b.is_warren("addresses of a pool") {
        return Ok(());
    }
    let scope = b.scope("lb-pool")?;
    let servers = ["n1a", "n2a", "n3a"];
    scope.members("web", &servers)?;
    // Which node holds an address follows from both; node-1 runs the API server and stays.
    for turn in 0..8 {
        let name = format!("web-{turn}");
        let service = scope.service(&name, json!({"type": "LoadBalancer", "selector": {"app": "web"}}))?;
        let (addresses, took) = eventually(Duration::from_secs(3), || {
            let all = ingress(&scope, &service)?;
            ensure!(all.len() == 2, "{all:?} is not one address of each family");
            Ok(all)
        })?;
        println!("pool: {name} has {addresses:?} after {} ms", took.as_millis());
        for v6 in FAMILIES {
            let address = addresses.iter().find(|a| a.is_ipv6() == v6).context("an address of the family")?;
            let at = SocketAddr::new(*address, 80);
            b.tcp("outside", at).within(MOVED).reaches(&servers)?;
            b.tcp("n2b", at).reaches(&servers)?;
            b.tcp("outside", SocketAddr::new(*address, 81)).is_refused()?;
        }
        let address = *addresses.iter().find(|a| a.is_ipv4()).context("an IPv4 address")?;
        let before = holder(b, address)?;
        if before == "node-1" {
            continue;
        }
        b.lab().lab(&["kill", before])?;
        let ask = Ask { timeout: 200, ..Ask::tcp("outside", SocketAddr::new(address, 80)) };
        let ((), took) = eventually(MOVED, || {
            let got = b.ask(&ask)?;
            ensure!(got.iter().any(|g| g.result == "answer"), "no answer: {got:?}");
            Ok(())
        })?;
        println!("pool: {address} moved from {before} in {} ms", took.as_millis());
        b.lab().lab(&["start", before])?;
        return Ok(());
    }
    anyhow::bail!("node-1 holds all of eight addresses")
}

/// A node whose host listens on a Service's port does not serve it there, and an Event says who listens.
///
/// # Errors
/// When it is not so.
pub fn held_ports_are_refused(b: &Battery) -> Result<()> {
    if !b.is_warren("load balancers with the nodes' addresses") {
        return Ok(());
    }
    let scope = b.scope("lb-held")?;
    let listener = b.serve("node-2", "the-host", &["--tcp", "8088"])?;
    scope.members("web", &["n1a"])?;
    let service = scope
        .service("web", json!({"type": "LoadBalancer", "ports": [{"port": 8088, "targetPort": 7080}]}))?;
    let of = |nodes: &[&str]| -> Result<BTreeSet<IpAddr>> {
        nodes.iter().flat_map(|n| FAMILIES.map(|v6| b.address(n, v6))).collect()
    };
    let without = of(&["node-1", "node-3"])?;
    eventually(Duration::from_secs(5), || {
        let has = ingress(&scope, &service)?;
        ensure!(has == without, "{has:?}, not {without:?}");
        Ok(())
    })?;
    for v6 in FAMILIES {
        let at = |node| Ok::<_, anyhow::Error>(SocketAddr::new(b.address(node, v6)?, 8088));
        b.tcp("outside", at("node-1")?).reaches(&["n1a"])?;
        b.tcp("outside", at("node-2")?).reaches(&["the-host"])?;
        b.tcp("n3b", at("node-2")?).reaches(&["the-host"])?;
    }
    eventually(Duration::from_secs(8), || {
        let events = b.objects().list("Event", scope.namespace())?;
        let told = events.iter().any(|event| {
            let message = event["message"].as_str().unwrap_or_default();
            event["reason"] == "PortInUse" && message.contains("8088") && message.contains("whoami")
        });
        ensure!(told, "no Event names the port and who holds it: {events:?}");
        Ok(())
    })?;
    drop(listener);
    Ok(())
}
