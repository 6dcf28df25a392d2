//! Traffic kept near: hints of slices, and the fields that bring them about.

use super::both;
use crate::battery::{Battery, FAMILIES, NODES, PORT, Scope};
use crate::eventually;
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::time::Duration;

const PORTS: &[(&str, &str, u16)] = &[("tcp", "TCP", PORT), ("udp", "UDP", PORT)];
const ZONE: &str = "topology.kubernetes.io/zone";
/// The zones of the nodes.
const ZONES: [&str; 3] = ["east", "east", "west"];

/// Puts the nodes into zones, which they keep.
fn zones(b: &Battery) -> Result<()> {
    for (node, zone) in NODES.iter().zip(ZONES) {
        b.objects().merge("Node", "", node, &json!({"metadata": {"labels": {ZONE: zone}}}))?;
    }
    Ok(())
}

/// Writes the slices of `web`: pods with hints.
fn slices(scope: &Scope<'_>, endpoints: &[(&str, Value)]) -> Result<()> {
    for v6 in FAMILIES {
        let hinted = |(pod, hints): &(&str, Value)| {
            let hints = if hints.is_null() { json!({}) } else { json!({ "hints": hints }) };
            scope.endpoint(pod, v6, hints)
        };
        let all: Vec<Value> = endpoints.iter().map(hinted).collect::<Result<_>>()?;
        scope.slice("web", if v6 { "web-6" } else { "web-4" }, v6, PORTS, &all)?;
    }
    Ok(())
}

fn zone(name: &str) -> Value {
    json!({"forZones": [{"name": name}]})
}

/// Clients get the endpoints hinted at for their zone; and all of them when the hints do not say enough.
///
/// # Errors
/// When it is not so.
pub fn zone_hints(b: &Battery) -> Result<()> {
    zones(b)?;
    let scope = b.scope("zones")?;
    let service = scope.service("web", json!({"selector": null, "trafficDistribution": "PreferClose"}))?;
    let reach = |from: &str, servers: &[&str]| -> Result<()> {
        FAMILIES.into_iter().try_for_each(|v6| {
            both(b, from, service.at(v6, 80)?).into_iter().try_for_each(|e| e.reaches(servers).map(drop))
        })
    };
    slices(&scope, &[("n1a", zone("east")), ("n2a", zone("east")), ("n3a", zone("west"))])?;
    reach("n1b", &["n1a", "n2a"])?;
    reach("node-2", &["n1a", "n2a"])?;
    reach("n3b", &["n3a"])?;
    reach("node-3", &["n3a"])?;
    // One endpoint without a hint: nobody's hints count.
    slices(&scope, &[("n1a", zone("east")), ("n2a", Value::Null), ("n3a", zone("west"))])?;
    reach("n3b", &["n1a", "n2a", "n3a"])?;
    // No endpoint for the zone of the client.
    slices(&scope, &[("n1a", zone("east")), ("n2a", zone("east"))])?;
    reach("n3b", &["n1a", "n2a"])?;
    reach("n1b", &["n1a", "n2a"])?;
    Ok(())
}

/// Clients get the endpoints hinted at for their node, before those of their zone.
///
/// # Errors
/// When it is not so.
pub fn node_hints(b: &Battery) -> Result<()> {
    zones(b)?;
    let scope = b.scope("nodes")?;
    let service = scope.service("web", json!({"selector": null, "trafficDistribution": "PreferSameNode"}))?;
    let reach = |from: &str, servers: &[&str]| -> Result<()> {
        FAMILIES.into_iter().try_for_each(|v6| {
            both(b, from, service.at(v6, 80)?).into_iter().try_for_each(|e| e.reaches(servers).map(drop))
        })
    };
    let node = |node: &str, zone: &str| json!({"forNodes": [{"name": node}], "forZones": [{"name": zone}]});
    slices(&scope, &[("n1a", node("node-1", "east")), ("n3a", node("node-3", "west"))])?;
    reach("n1b", &["n1a"])?;
    reach("n3b", &["n3a"])?;
    // None for its node: its zone's.
    reach("n2b", &["n1a"])?;
    // Hints for nodes alone, and none for this one: all.
    let alone = |name: &str| json!({"forNodes": [{"name": name}]});
    slices(&scope, &[("n1a", alone("node-1")), ("n3a", alone("node-3"))])?;
    reach("n1b", &["n1a"])?;
    reach("n2b", &["n1a", "n3a"])?;
    Ok(())
}

/// `trafficDistribution`, with the hints of the real controller.
///
/// # Errors
/// When it is not so.
pub fn traffic_distribution(b: &Battery) -> Result<()> {
    zones(b)?;
    let scope = b.scope("near")?;
    let service = scope.service("web", json!({"trafficDistribution": "PreferSameNode"}))?;
    scope.members("web", &["n1a", "n2a", "n3a"])?;
    let reach = |from: &str, servers: &[&str]| -> Result<()> {
        FAMILIES.into_iter().try_for_each(|v6| {
            both(b, from, service.at(v6, 80)?).into_iter().try_for_each(|e| e.reaches(servers).map(drop))
        })
    };
    eventually(Duration::from_secs(3), || {
        let labels =
            b.objects().get("Node", "", "node-1")?.pointer("/metadata/labels").cloned().unwrap_or_default();
        ensure!(labels[ZONE] == ZONES[0], "node-1 has lost its zone: {labels}");
        Ok(())
    })?;
    for (from, server) in [("n1b", "n1a"), ("n2b", "n2a"), ("n3b", "n3a"), ("node-1", "n1a")] {
        reach(from, &[server])?;
    }
    scope.remove("web-n1a")?;
    reach("n1b", &["n2a"])?;
    scope.remove("web-n2a")?;
    reach("n1b", &["n3a"])?;
    scope.members("web", &["n1a", "n2a"])?;
    scope.change(&service, json!({"trafficDistribution": "PreferSameZone"}))?;
    reach("n1b", &["n1a", "n2a"])?;
    reach("n3b", &["n3a"])?;
    scope.change(&service, json!({"trafficDistribution": null}))?;
    reach("n3b", &["n1a", "n2a", "n3a"])?;
    Ok(())
}
