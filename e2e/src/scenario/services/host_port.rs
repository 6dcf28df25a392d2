//! `hostPort` of pods, by the runtime's `portMappings`.

use crate::battery::{Battery, FAMILIES};
use crate::eventually;
use anyhow::{Context as _, Result, ensure};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A pod's host port is on the addresses of its node, or on the one that it names, for its protocol alone; packets on their
/// way to somebody else pass; and it goes with the pod.
///
/// # Errors
/// When it is not so.
pub fn host_ports(b: &Battery) -> Result<()> {
    let second: IpAddr = "192.168.57.78".parse()?;
    let ports =
        ["--host-port=5080:7080", "--host-port=5053:7080/udp", "--host-port=192.168.57.78:5081:7090/tcp"];
    b.start_pod("mapped", "node-1", &ports)?;
    b.exec("node-1", &["ip", "address", "add", &format!("{second}/24"), "dev", "eth0"])?;
    let _outside = b.serve("outside", "outside", &["--tcp", "5080", "--udp", "5053"])?;
    let outside = b.addresses("outside")?;
    for v6 in FAMILIES {
        let node = b.address("node-1", v6)?;
        let at = |port: u16| SocketAddr::new(node, port);
        for from in ["outside", "n2a", "n1a", "node-2", "node-1"] {
            b.tcp(from, at(5080)).reaches(&["mapped"])?;
            b.udp(from, at(5053)).reaches(&["mapped"])?;
        }
        for from in ["outside", "n2a"] {
            b.tcp(from, at(5080)).seen_as_itself()?.reaches(&["mapped"])?;
            b.udp(from, at(5053)).seen_as_itself()?.reaches(&["mapped"])?;
        }
        // Another protocol, another node, another address.
        b.udp("outside", at(5080)).is_refused()?;
        b.tcp("outside", (b.address("node-2", v6)?, 5080).into()).is_refused()?;
        b.tcp("outside", at(5081)).is_refused()?;
        // In transit: the pod's node routes it, and it is for somebody else.
        let there = outside
            .iter()
            .find(|ip| ip.is_ipv6() == v6 && !ip.is_loopback())
            .context("no address outside")?;
        for from in ["n1a", "n1b"] {
            b.tcp(from, SocketAddr::new(*there, 5080)).reaches(&["outside"])?;
            b.udp(from, SocketAddr::new(*there, 5053)).reaches(&["outside"])?;
        }
    }
    // An address that is none of the node's InternalIPs, and that a pod names: other nodes send their pods' packets to it
    // through the tunnel, so that these keep their addresses.
    for from in ["outside", "n1a", "node-1", "n2a", "n3b", "node-2"] {
        b.tcp(from, (second, 5081).into()).seen_as_itself()?.reaches(&["mapped"])?;
        b.tcp(from, (second, 5080).into()).seen_as_itself()?.reaches(&["mapped"])?;
    }
    // The pod reaches itself by its host port.
    b.tcp("mapped", (b.address("node-1", false)?, 5080).into()).reaches(&["mapped"])?;
    b.lab().lab(&["rm", "mapped"])?;
    b.tcp("outside", (b.address("node-1", false)?, 5080).into()).is_refused()?;
    b.udp("n2a", (b.address("node-1", true)?, 5053).into()).is_refused()?;
    // The port is free for the next one, which has another address.
    b.start_pod("mapped-again", "node-1", &["--host-port=5080:7080"])?;
    b.tcp("outside", (b.address("node-1", false)?, 5080).into()).reaches(&["mapped-again"])?;
    // Whose agent may restart.
    b.lab().lab(&["kill", "node-1", "--process", "agent"])?;
    b.lab().agent_ready_within("node-1", Duration::from_secs(20))?;
    b.tcp("outside", (b.address("node-1", true)?, 5080).into()).reaches(&["mapped-again"])?;
    b.lab().lab(&["rm", "mapped-again"])?;
    b.exec("node-1", &["ip", "address", "del", &format!("{second}/24"), "dev", "eth0"])?;
    // Nothing of them is left in the rules.
    eventually(Duration::from_secs(2), || {
        let rules = b.exec("node-1", &["nft", "list", "table", "inet", "warren"])?;
        ensure!(!rules.contains("5080"), "a port of a pod that is gone is in the rules: {rules}");
        Ok(())
    })
    .map(drop)
}
