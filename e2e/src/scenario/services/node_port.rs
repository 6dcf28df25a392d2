//! Node ports.

use super::both;
use crate::battery::{Battery, FAMILIES, FLEET, NODES};
use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Every node serves the port, to the outside, to pods and to hosts, wherever the endpoints are.
///
/// # Errors
/// When it is not so.
pub fn node_port(b: &Battery) -> Result<()> {
    let scope = b.scope("node-port")?;
    let service = scope.service("web", json!({"type": "NodePort"}))?;
    let servers = ["n1a", "n2a"];
    scope.members("web", &servers)?;
    for v6 in FAMILIES {
        for node in NODES {
            let tcp = SocketAddr::new(b.address(node, v6)?, service.node_port(0)?);
            let udp = SocketAddr::new(b.address(node, v6)?, service.node_port(1)?);
            for from in ["outside", "n1a", "n2b", "n3b", "node-1", "node-3"] {
                b.tcp(from, tcp).reaches(&servers)?;
                b.udp(from, udp).reaches(&servers)?;
            }
        }
    }
    // Cluster-wide, in the end, and closed when the Service is gone.
    scope.members("web", &["n3a"])?;
    let at = SocketAddr::new(b.address("node-3", false)?, service.node_port(0)?);
    b.tcp("outside", at).reaches(&["n1a", "n2a", "n3a"])?;
    scope.delete("Service", "web")?;
    b.tcp("outside", at).is_refused()?;
    b.tcp("node-3", at).is_refused()?;
    Ok(())
}

/// The range that [`node_port_on_named_addresses`] is about, in both families: none of the nodes' InternalIPs is in it.
pub const NAMED_RANGES: &str = "192.168.57.64/28,fd57:1ab::700/120";

/// With `--nodeport-addresses`, ports are on the addresses in these ranges, also where these are no InternalIPs, for other
/// nodes and their pods as well. Pods' packets to them go through the tunnel, so they keep their addresses.
///
/// # Errors
/// When it is not so.
pub fn node_port_on_named_addresses(b: &Battery) -> Result<()> {
    if !b.is_warren("node ports on named addresses") {
        return Ok(());
    }
    let scope = b.scope("named")?;
    let spread = scope.service("web", json!({"type": "NodePort"}))?;
    scope.members("web", &["n1a", "n2a"])?;
    let near = scope.service("near", json!({"type": "NodePort"}))?;
    scope.members("near", &["n2b"])?;
    let named = ["192.168.57.77/24", "fd57:1ab::777/64"].map(|text| text.parse::<IpNet>());
    for net in named.clone() {
        b.exec("node-2", &["ip", "address", "add", &net?.to_string(), "dev", "eth0", "nodad"])?;
    }
    for (v6, net) in FAMILIES.into_iter().zip(named) {
        let address = net?.addr();
        let primary = b.address("node-2", v6)?;
        for from in ["outside", "n1a", "n2a", "n3b", "node-1", "node-2", "node-3"] {
            b.tcp(from, (address, spread.node_port(0)?).into()).reaches(&["n1a", "n2a"])?;
            b.udp(from, (address, spread.node_port(1)?).into()).reaches(&["n1a", "n2a"])?;
            let kept = b.tcp(from, (address, near.node_port(0)?).into()).seen_as_itself()?;
            kept.reaches(&["n2b"])?;
            b.tcp(from, (primary, spread.node_port(0)?).into()).is_refused()?;
        }
    }
    Ok(())
}

/// The host reaches its own node ports on loopback too.
///
/// # Errors
/// When it does not.
pub fn node_port_on_loopback(b: &Battery) -> Result<()> {
    if !b.is_warren("node ports on 127.0.0.1") {
        return Ok(());
    }
    let scope = b.scope("loopback")?;
    let service = scope.service("web", json!({"type": "NodePort"}))?;
    scope.members("web", &["n1a", "n2a"])?;
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, service.node_port(0)?));
    for node in ["node-1", "node-3"] {
        b.tcp(node, at).reaches(&["n1a", "n2a"])?;
        let route_localnet = b.exec(node, &["cat", "/proc/sys/net/ipv4/conf/all/route_localnet"])?;
        ensure!(route_localnet.trim() == "0", "{node}: route_localnet is on");
    }
    scope.delete("Service", "web")?;
    b.tcp("node-1", at).is_refused().map(drop)
}

/// Node ports are on the nodes' own addresses, and on no other address that a node happens to have.
///
/// # Errors
/// When it is not so.
pub fn node_port_on_primary_addresses(b: &Battery) -> Result<()> {
    if !b.is_warren("node ports on primary addresses alone") {
        return Ok(());
    }
    let scope = b.scope("primary")?;
    let service = scope.service("web", json!({"type": "NodePort"}))?;
    scope.members("web", &["n1a", "n2a"])?;
    let (tcp, second) = (service.node_port(0)?, "192.168.57.77");
    b.tcp("outside", (b.address("node-2", false)?, tcp).into()).reaches(&["n1a", "n2a"])?;
    b.exec("node-2", &["ip", "address", "add", &format!("{second}/24"), "dev", "eth0"])?;
    let outcome = ["outside", "node-1", "node-2"]
        .into_iter()
        .try_for_each(|from| b.tcp(from, (second.parse::<IpAddr>()?, tcp).into()).is_refused().map(drop));
    b.exec("node-2", &["ip", "address", "del", &format!("{second}/24"), "dev", "eth0"])?;
    outcome?;
    for v6 in FAMILIES {
        // The node's own address in the pod network.
        let primary = b.address("node-2", v6)?;
        let known = b.addresses("node-2")?;
        let mut others =
            known.into_iter().filter(|ip| ip.is_ipv6() == v6 && !ip.is_loopback() && *ip != primary);
        let own = others.next().context("node-2 has no address in the pod network")?;
        both(b, "n1b", (own, tcp).into()).into_iter().try_for_each(|e| e.is_refused().map(drop))?;
        // A pod's address is the pod's, whatever the port.
        b.tcp("n1b", (b.address(FLEET[2], v6)?, tcp).into()).is_refused()?;
    }
    Ok(())
}
