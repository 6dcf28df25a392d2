//! Traffic policy `Local`.

use super::both;
use crate::battery::{Battery, FAMILIES, NODES};
use crate::eventually;
use anyhow::{Result, ensure};
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;

/// `internalTrafficPolicy: Local`: endpoints of the client's node alone, and nothing where there are none.
///
/// # Errors
/// When it is not so.
pub fn internal_local(b: &Battery) -> Result<()> {
    let scope = b.scope("internal")?;
    let service = scope.service("web", json!({"internalTrafficPolicy": "Local"}))?;
    scope.members("web", &["n1a", "n1b", "n2a"])?;
    for v6 in FAMILIES {
        let at = service.at(v6, 80)?;
        for (from, servers) in [
            ("n1a", ["n1a", "n1b"].as_slice()),
            ("node-1", &["n1a", "n1b"]),
            ("n2b", &["n2a"]),
            ("node-2", &["n2a"]),
        ] {
            both(b, from, at).into_iter().try_for_each(|e| e.reaches(servers).map(drop))?;
        }
        b.tcp("n3a", at).is_dropped()?;
        b.tcp("node-3", at).is_dropped()?;
    }
    // With no endpoint anywhere it is rejected.
    ["web-n1a", "web-n1b", "web-n2a"].into_iter().try_for_each(|m| scope.remove(m))?;
    b.tcp("n1b", service.at(false, 80)?).is_refused()?;
    b.tcp("n3a", service.at(true, 80)?).is_refused()?;
    Ok(())
}

/// `externalTrafficPolicy: Local` on node ports: the client is seen as itself, nodes without endpoints are silent, and
/// clients inside the cluster reach every endpoint all the same.
///
/// # Errors
/// When it is not so.
pub fn external_local(b: &Battery) -> Result<()> {
    let scope = b.scope("external")?;
    let service = scope.service("web", json!({"type": "NodePort", "externalTrafficPolicy": "Local"}))?;
    let servers = ["n1a", "n2a"];
    scope.members("web", &servers)?;
    for v6 in FAMILIES {
        for (node, server) in [("node-1", "n1a"), ("node-2", "n2a")] {
            let tcp = SocketAddr::new(b.address(node, v6)?, service.node_port(0)?);
            let udp = SocketAddr::new(b.address(node, v6)?, service.node_port(1)?);
            b.tcp("outside", tcp).seen_as_itself()?.reaches(&[server])?;
            b.udp("outside", udp).seen_as_itself()?.reaches(&[server])?;
        }
        let without = SocketAddr::new(b.address("node-3", v6)?, service.node_port(0)?);
        b.tcp("outside", without).is_dropped()?;
        // Pods and the host of the node itself are inside.
        for from in ["n3a", "node-3"] {
            b.tcp(from, without).reaches(&servers)?;
            b.tcp(from, service.at(v6, 80)?).reaches(&servers)?;
        }
        b.tcp("n3a", service.at(v6, 80)?).seen_as_itself()?.reaches(&servers)?;
    }
    scope.remove("web-n1a")?;
    b.tcp("outside", (b.address("node-1", false)?, service.node_port(0)?).into()).is_dropped()?;
    scope.remove("web-n2a")?;
    for node in NODES {
        b.tcp("outside", (b.address(node, false)?, service.node_port(0)?).into()).is_refused()?;
    }
    Ok(())
}

/// `healthCheckNodePort` tells load balancers which nodes have endpoints, as kube-proxy tells it.
///
/// # Errors
/// When it does not.
pub fn health_check_port(b: &Battery) -> Result<()> {
    let scope = b.scope("health")?;
    let service = scope.service("web", json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}))?;
    scope.members("web", &["n1a", "n1b"])?;
    let says = |node: &str, from: &str, v6: bool, code: u64, count: u64| -> Result<()> {
        let at = SocketAddr::new(b.address(node, v6)?, service.health_port()?).to_string();
        let (_, took) = eventually(Duration::from_secs(2), || {
            let (status, body) = b.get(from, &at, "/")?;
            ensure!(status == code && body["localEndpoints"] == count, "{node} answers {status} {body}");
            ensure!(body["serviceProxyHealthy"] == true, "{node}: {body}");
            let (space, name) = (&body["service"]["namespace"], &body["service"]["name"]);
            ensure!(*space == scope.namespace() && *name == "web", "{node} names another Service: {body}");
            Ok(())
        })?;
        println!("health check: {node} tells {count} endpoints after {} ms", took.as_millis());
        Ok(())
    };
    for v6 in FAMILIES {
        says("node-1", "outside", v6, 200, 2)?;
        says("node-2", "outside", v6, 503, 0)?;
        says("node-1", "node-1", v6, 200, 2)?;
    }
    scope.ready("web-n1a", false)?;
    says("node-1", "outside", false, 200, 1)?;
    scope.members("web", &["n2a"])?;
    says("node-2", "node-3", false, 200, 1)?;
    scope.remove("web-n1b")?;
    says("node-1", "outside", true, 503, 0)?;
    let old: SocketAddr = (b.address("node-2", false)?, service.health_port()?).into();
    scope.delete("Service", "web")?;
    eventually(Duration::from_secs(2), || {
        ensure!(
            b.get("outside", &old.to_string(), "/").is_err(),
            "the port of a Service that is gone still answers"
        );
        Ok(())
    })?;
    Ok(())
}
