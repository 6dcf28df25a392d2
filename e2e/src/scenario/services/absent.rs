//! Services, ports and addresses with nobody behind them.

use super::both;
use crate::Capture;
use crate::battery::{Battery, FAMILIES, NODES};
use crate::lab::netns_of;
use crate::scenario::TUNNEL_PORT;
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::net::{IpAddr, SocketAddr};

/// A Service without endpoints rejects at once, on all its addresses; and serves as soon as it has one.
///
/// # Errors
/// When it is not so.
pub fn no_endpoints_reject(b: &Battery) -> Result<()> {
    let scope = b.scope("nobody")?;
    let service = scope.service("web", json!({"type": "NodePort"}))?;
    for turn in 0..2 {
        for v6 in FAMILIES {
            for from in ["n1b", "n3a", "node-1", "node-3"] {
                both(b, from, service.at(v6, 80)?).into_iter().try_for_each(|e| e.is_refused().map(drop))?;
            }
            for node in NODES {
                let tcp = SocketAddr::new(b.address(node, v6)?, service.node_port(0)?);
                let udp = SocketAddr::new(b.address(node, v6)?, service.node_port(1)?);
                for from in ["outside", "n1b", "node-1"] {
                    b.tcp(from, tcp).is_refused()?;
                    b.udp(from, udp).is_refused()?;
                }
            }
        }
        if turn == 0 {
            scope.members("web", &["n2a"])?;
            both(b, "n1b", service.at(false, 80)?)
                .into_iter()
                .try_for_each(|e| e.reaches(&["n2a"]).map(drop))?;
            b.tcp("outside", (b.address("node-1", true)?, service.node_port(0)?).into()).reaches(&["n2a"])?;
            scope.remove("web-n2a")?;
        }
    }
    Ok(())
}

/// A port that a cluster address does not have rejects at once.
///
/// # Errors
/// When it does not.
pub fn unknown_ports_reject(b: &Battery) -> Result<()> {
    let scope = b.scope("ports")?;
    let service = scope.service(
        "web",
        json!({"ports": [{"name": "tcp", "port": 80, "targetPort": 7080, "protocol": "TCP"}]}),
    )?;
    scope.members("web", &["n1a"])?;
    for v6 in FAMILIES {
        for from in ["n1b", "n2a", "node-3"] {
            b.tcp(from, service.at(v6, 80)?).reaches(&["n1a"])?;
            both(b, from, service.at(v6, 81)?).into_iter().try_for_each(|e| e.is_refused().map(drop))?;
            // The port, but another protocol.
            b.udp(from, service.at(v6, 80)?).is_refused()?;
        }
    }
    Ok(())
}

/// Addresses of the Service network that no Service has are silent, and no packet to them is on the LAN.
///
/// # Errors
/// When one answers, or a packet leaves.
pub fn unallocated_addresses_drop(b: &Battery) -> Result<()> {
    let ranges = ["10.43.0.0/16", "fd57:4e00:43::/112"].map(|r| r.parse().context(r));
    let ranges: Vec<ipnet::IpNet> = ranges.into_iter().collect::<Result<_>>()?;
    // The positive control of a capture has addresses of pods.
    let watched = ranges.iter().copied().chain(["10.42.254.0/24".parse()?]).collect();
    let nobody: [IpAddr; 2] = ["10.43.211.77".parse()?, "fd57:4e00:43::d34d".parse()?];
    let capture = Capture::start(&netns_of(b.lab().status()?.switch_pid), None, watched, TUNNEL_PORT)?;
    for ip in nobody {
        for from in ["n1b", "n3a", "node-2"] {
            b.tcp(from, (ip, 80).into()).is_dropped()?;
        }
        let got = b.ask(&crate::battery::Ask::udp("n1b", (ip, 53).into()))?;
        ensure!(got.iter().all(|g| g.result == "timeout"), "not silence: {got:?}");
    }
    let seen = capture.finish("br0", &[])?;
    println!(
        "unallocated: {} packets on the LAN, {} of them to the Service network",
        seen.packets, seen.clear_count
    );
    ensure!(seen.clear_count == 0, "packets to the Service network left: {:#?}", seen.clear);
    Ok(())
}
