//! `externalIPs`: nothing unless an administrator allowed the address (CVE-2020-8554).

use super::both;
use crate::battery::Battery;
use crate::eventually;
use anyhow::{Result, ensure};
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// What the lab's agents allow: see [`external_ips`].
pub const EXTERNAL_RANGE: &str = "198.51.100.0/28";
const INSIDE: &str = "198.51.100.3";
const OUTSIDE: &str = "198.51.100.33";

fn at(address: &str) -> Result<SocketAddr> {
    Ok(SocketAddr::new(address.parse::<IpAddr>()?, 80))
}

/// In a lab whose agents allow [`EXTERNAL_RANGE`], an address inside is served and one outside is not; nor is the address
/// of a server that is there already, which must stay reachable.
///
/// # Errors
/// When it is not so.
pub fn external_ips(b: &Battery) -> Result<()> {
    let scope = b.scope("external-ips")?;
    let _server = b.serve("outside", "outside", &["--tcp", "80"])?;
    let outside = b.addresses("outside")?.into_iter().find(|ip| ip.is_ipv4() && !ip.is_loopback());
    let Some(outside) = outside else { anyhow::bail!("the outside host has no IPv4 address") };
    b.tcp("n1b", (outside, 80).into()).reaches(&["outside"])?;
    let spec = json!({"externalIPs": [INSIDE, OUTSIDE, outside], "ipFamilyPolicy": "SingleStack"});
    scope.service("web", spec)?;
    scope.members("web", &["n1a", "n2a"])?;
    for from in ["n1b", "n3a", "node-3"] {
        both(b, from, at(INSIDE)?).into_iter().try_for_each(|e| e.reaches(&["n1a", "n2a"]).map(drop))?;
        b.tcp(from, (outside, 80).into()).reaches(&["outside"])?;
    }
    if b.is_warren("refusing external addresses") {
        for from in ["n1b", "node-3"] {
            let got = b.ask(&crate::battery::Ask::tcp(from, at(OUTSIDE)?))?;
            ensure!(
                got.iter().all(|g| g.result != "answer"),
                "an address that nobody allowed answers: {got:?}"
            );
        }
        // Whoever owns the Service is told.
        eventually(Duration::from_secs(5), || {
            let events = b.objects().list("Event", scope.namespace())?;
            let said = events.iter().filter_map(|e| e["message"].as_str()).any(|m| m.contains(OUTSIDE));
            ensure!(said, "no event names {OUTSIDE}: {events:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Of two Services that claim the same address and port the older has it, until it is gone.
///
/// # Errors
/// When it is not so.
pub fn one_external_ip_two_services(b: &Battery) -> Result<()> {
    if !b.is_warren("who keeps an address that two Services claim") {
        return Ok(());
    }
    let scope = b.scope("claims")?;
    let spec = json!({"externalIPs": [INSIDE], "ipFamilyPolicy": "SingleStack"});
    scope.members("old", &["n1a"])?;
    scope.members("new", &["n2a"])?;
    scope.service("old", spec.clone())?;
    b.tcp("n1b", at(INSIDE)?).reaches(&["n1a"])?;
    // Ages are told in seconds.
    let pause = Instant::now() + Duration::from_millis(1100);
    while let Some(rest) = pause.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(rest);
    }
    let younger = scope.service("new", spec)?;
    // Its own address shows that it has arrived; what it claims besides is the older one's still.
    b.tcp("n1b", younger.at(false, 80)?).reaches(&["n2a"])?;
    for from in ["n1b", "n3a", "node-2"] {
        b.tcp(from, at(INSIDE)?).reaches(&["n1a"])?;
    }
    scope.delete("Service", "old")?;
    for from in ["n1b", "n3a", "node-2"] {
        b.tcp(from, at(INSIDE)?).reaches(&["n2a"])?;
    }
    Ok(())
}
