//! Endpoints in slices, whoever wrote them.

use super::both;
use crate::battery::{Battery, FAMILIES, PORT, PORT_2};
use anyhow::Result;
use serde_json::json;

const PORTS: &[(&str, &str, u16)] = &[("tcp", "TCP", PORT), ("udp", "UDP", PORT)];

/// The endpoints of all slices count, each once, whatever order the slices come in.
///
/// # Errors
/// When it is not so.
pub fn several_slices(b: &Battery) -> Result<()> {
    let scope = b.scope("slices")?;
    let service = scope.service("web", json!({"selector": null}))?;
    for v6 in FAMILIES {
        let name = |n: &str| format!("web-{n}-{}", if v6 { 6 } else { 4 });
        let end = |pod: &str| scope.endpoint(pod, v6, json!({}));
        scope.slice("web", &name("a"), v6, PORTS, &[end("n1a")?, end("n2a")?])?;
        scope.slice("web", &name("b"), v6, PORTS, &[end("n2a")?, end("n3a")?])?;
        let reach = |servers: &[&str]| {
            both(b, "n1b", service.at(v6, 80)?).into_iter().try_for_each(|e| e.reaches(servers).map(drop))
        };
        reach(&["n1a", "n2a", "n3a"])?;
        // What another slice has too stays.
        scope.slice("web", &name("a"), v6, PORTS, &[end("n1a")?])?;
        reach(&["n1a", "n2a", "n3a"])?;
        scope.delete("EndpointSlice", &name("b"))?;
        reach(&["n1a"])?;
        scope.slice("web", &name("a"), v6, PORTS, &[end("n3b")?])?;
        reach(&["n3b"])?;
    }
    Ok(())
}

/// A Service without a selector has the endpoints, and the ports, that somebody wrote; also such as are no pods.
///
/// # Errors
/// When it is not so.
pub fn slices_by_hand(b: &Battery) -> Result<()> {
    let scope = b.scope("by-hand")?;
    let service = scope.service(
        "web",
        json!({"selector": null, "ports": [{"name": "a", "port": 80, "protocol": "TCP"},
                                           {"name": "b", "port": 81, "protocol": "TCP"}]}),
    )?;
    let _outside = b.serve("outside", "outside", &["--tcp", "7070"])?;
    for v6 in FAMILIES {
        let name = |n: &str| format!("web-{n}-{}", if v6 { 6 } else { 4 });
        let end = |pod: &str| scope.endpoint(pod, v6, json!({}));
        scope.slice("web", &name("a"), v6, &[("a", "TCP", PORT)], &[end("n1a")?])?;
        scope.slice("web", &name("b"), v6, &[("b", "TCP", PORT_2)], &[end("n2a")?])?;
        for from in ["n3b", "node-2"] {
            b.tcp(from, service.at(v6, 80)?).reaches(&["n1a"])?;
            b.tcp(from, service.at(v6, 81)?).reaches(&["n2a"])?;
        }
        // A server outside of the cluster.
        let outside = b.addresses("outside")?.into_iter().find(|ip| ip.is_ipv6() == v6 && !ip.is_loopback());
        let foreign = json!({"addresses": [outside], "conditions": {"ready": true}});
        scope.slice("web", &name("b"), v6, &[("b", "TCP", 7070)], &[foreign])?;
        for from in ["n3b", "node-2"] {
            b.tcp(from, service.at(v6, 81)?).reaches(&["outside"])?;
        }
    }
    Ok(())
}
