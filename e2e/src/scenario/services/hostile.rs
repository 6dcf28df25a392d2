//! Objects that are wrong, by mistake or by intent.

use super::both;
use crate::battery::{Battery, FAMILIES, PORT};
use crate::eventually;
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::time::Duration;

const PORTS: &[(&str, &str, u16)] = &[("tcp", "TCP", PORT), ("udp", "UDP", PORT)];

/// Endpoints that are loopback, link-local, multicast, unspecified or a Service's address get no packet, the good ones beside
/// them do, other Services notice nothing, and the owner is told.
///
/// # Errors
/// When it is not so.
pub fn hostile_slices(b: &Battery) -> Result<()> {
    let scope = b.scope("hostile")?;
    let good = scope.service("good", json!({}))?;
    scope.members("good", &["n1a", "n2a"])?;
    let bad = scope.service("bad", json!({"selector": null}))?;
    let other = good.ip(false)?.to_string();
    let other_6 = good.ip(true)?.to_string();
    // On the host these would be reached.
    let _server = b.serve("node-1", "host", &["--tcp", &PORT.to_string(), "--on", "127.0.0.1"])?;
    let hostile: [(bool, Vec<&str>); 2] = [
        (
            false,
            vec![
                "127.0.0.1",
                "127.0.0.53",
                "224.0.0.1",
                "169.254.169.254",
                "0.0.0.0",
                "255.255.255.255",
                &other,
            ],
        ),
        (true, vec!["::1", "ff02::1", "fe80::1", "::", "::ffff:127.0.0.1", &other_6]),
    ];
    let mut named = Vec::new();
    for (v6, addresses) in &hostile {
        let own = scope.endpoint("n3a", *v6, json!({}))?;
        scope.slice("bad", if *v6 { "good-6" } else { "good-4" }, *v6, PORTS, &[own])?;
        for (n, address) in addresses.iter().enumerate() {
            let endpoint =
                json!({"addresses": [address], "nodeName": "node-1", "conditions": {"ready": true}});
            let name = format!("bad-{}-{n}", if *v6 { 6 } else { 4 });
            // The API refuses most of them already.
            match scope.slice("bad", &name, *v6, PORTS, &[endpoint]) {
                Ok(()) => named.push((*address).to_owned()),
                Err(error) => println!("hostile: the API refuses {address}: {}", error.root_cause()),
            }
        }
    }
    println!("hostile: in slices: {named:?}");
    ensure!(!named.is_empty(), "every hostile endpoint was refused by the API: this tests nothing");
    for v6 in FAMILIES {
        for from in ["n1b", "node-1", "node-3"] {
            both(b, from, bad.at(v6, 80)?).into_iter().try_for_each(|e| e.reaches(&["n3a"]).map(drop))?;
            both(b, from, good.at(v6, 80)?)
                .into_iter()
                .try_for_each(|e| e.reaches(&["n1a", "n2a"]).map(drop))?;
        }
    }
    if b.is_warren("telling the owner of bad endpoints") {
        eventually(Duration::from_secs(5), || {
            let events = b.objects().list("Event", scope.namespace())?;
            let said: Vec<&str> = events.iter().filter_map(|e| e["message"].as_str()).collect();
            let untold: Vec<&String> =
                named.iter().filter(|a| !said.iter().any(|m| m.contains(a.as_str()))).collect();
            ensure!(untold.is_empty(), "no event names {untold:?}: {said:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Names of the greatest length, and thousands of endpoints in one Service.
///
/// # Errors
/// When they, or others, are not served.
pub fn limits(b: &Battery) -> Result<()> {
    let scope = b.scope("limits")?;
    let good = scope.service("good", json!({}))?;
    scope.members("good", &["n1a"])?;
    let long = "n".repeat(63);
    let port = "p".repeat(15);
    let service = scope.service(
        &long,
        json!({"selector": {"app": "good"}, "ports": [{"name": port, "port": 80, "targetPort": PORT, "protocol": "TCP"}]}),
    )?;
    for v6 in FAMILIES {
        b.tcp("n3b", service.at(v6, 80)?).reaches(&["n1a"])?;
    }
    // 5,000 endpoints; those that there are answer, the others are nobody's.
    let many = scope.service("many", json!({"selector": null, "internalTrafficPolicy": "Local"}))?;
    for slice in 0..50_u32 {
        let mut endpoints: Vec<Value> = (0..100_u32)
            .map(|n| {
                let n = slice * 100 + n;
                json!({"addresses": [format!("10.42.{}.{}", 100 + n / 200, 1 + n % 200)], "nodeName": "node-1",
                       "conditions": {"ready": true}})
            })
            .collect();
        if slice == 49 {
            endpoints.pop();
            endpoints.push(scope.endpoint("n3a", false, json!({}))?);
        }
        scope.slice("many", &format!("many-{slice}"), false, PORTS, &endpoints)?;
    }
    b.tcp("n3b", many.at(false, 80)?).within(Duration::from_secs(5)).reaches(&["n3a"])?;
    both(b, "n3b", good.at(false, 80)?).into_iter().try_for_each(|e| e.reaches(&["n1a"]).map(drop))?;
    // On node-1 the many are served, the good one beside them as well, and changes are followed.
    scope.members("good", &["n2a"])?;
    b.tcp("n1b", good.at(false, 80)?).reaches(&["n1a", "n2a"])?;
    (0..50).try_for_each(|slice| scope.delete("EndpointSlice", &format!("many-{slice}")))?;
    b.tcp("n1b", many.at(false, 80)?).within(Duration::from_secs(5)).is_refused()?;
    Ok(())
}
