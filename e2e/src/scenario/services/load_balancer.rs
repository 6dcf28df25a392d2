//! Addresses of load balancers.

use super::both;
use crate::battery::{Ask, Battery, FAMILIES, NODES, Scope, Svc};
use crate::eventually;
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Any route of the lab that leads nowhere.
const ADDRESSES: [&str; 2] = ["198.51.100.77", "2001:db8:77::77"];

/// The addresses in the status of a Service.
pub(super) fn ingress(scope: &Scope<'_>, service: &Svc) -> Result<BTreeSet<IpAddr>> {
    let object = scope.again(service)?.object;
    let all = object.pointer("/status/loadBalancer/ingress").and_then(Value::as_array).cloned();
    Ok(all.into_iter().flatten().filter_map(|i| i["ip"].as_str()?.parse().ok()).collect())
}

fn gets(scope: &Scope<'_>, service: &Svc, wanted: &BTreeSet<IpAddr>) -> Result<()> {
    let (_, took) = eventually(Duration::from_secs(3), || {
        let has = ingress(scope, service)?;
        ensure!(has == *wanted, "{} has {has:?}, not {wanted:?}", service.name);
        Ok(())
    })?;
    println!("load balancer: {} addresses after {} ms", wanted.len(), took.as_millis());
    Ok(())
}

fn of_nodes(b: &Battery, nodes: &[&str]) -> Result<BTreeSet<IpAddr>> {
    nodes.iter().flat_map(|n| FAMILIES.map(|v6| b.address(n, v6))).collect()
}

/// Without a pool, a Service has the addresses of the nodes that can serve it; with policy Local the client is seen as
/// itself.
///
/// # Errors
/// When it is not so.
pub fn load_balancer_on_nodes(b: &Battery) -> Result<()> {
    if !b.is_warren("load balancers with the nodes' addresses") {
        return Ok(());
    }
    let scope = b.scope("lb-nodes")?;
    let servers = ["n1a", "n2a"];
    scope.members("web", &servers)?;
    let service =
        scope.service("web", json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false}))?;
    gets(&scope, &service, &of_nodes(b, &NODES)?)?;
    for v6 in FAMILIES {
        for node in NODES {
            let at = SocketAddr::new(b.address(node, v6)?, 80);
            for from in ["outside", "n1b", "n3a", "node-1"] {
                both(b, from, at).into_iter().try_for_each(|e| e.reaches(&servers).map(drop))?;
            }
        }
    }
    let service = scope.change(&service, json!({"externalTrafficPolicy": "Local"}))?;
    gets(&scope, &service, &of_nodes(b, &["node-1", "node-2"])?)?;
    for v6 in FAMILIES {
        for (node, server) in [("node-1", "n1a"), ("node-2", "n2a")] {
            let at = SocketAddr::new(b.address(node, v6)?, 80);
            for expect in both(b, "outside", at) {
                // The status may be there before this node's rules are, which chose this server by chance.
                eventually(Duration::from_secs(2), || {
                    let got = b.ask(&Ask { count: 8, ..Ask::tcp("outside", at) })?;
                    ensure!(got.iter().all(|g| g.server == server), "not {server} alone: {got:?}");
                    Ok(())
                })?;
                expect.seen_as_itself()?.reaches(&[server])?;
            }
            b.tcp("n3a", at).reaches(&servers)?;
        }
    }
    scope.remove("web-n2a")?;
    gets(&scope, &service, &of_nodes(b, &["node-1"])?)?;
    // A foreign class is for somebody else, and the addresses go back.
    let foreign = json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/other"});
    let other = scope.service(
        "other",
        json!({"selector": {"app": "web"}}).as_object().map_or(foreign.clone(), |o| {
            let mut spec = foreign.clone();
            o.iter().for_each(|(k, v)| spec[k] = v.clone());
            spec
        }),
    )?;
    gets(&scope, &other, &BTreeSet::new())?;
    let service = scope.change(&service, json!({"type": "ClusterIP", "externalTrafficPolicy": null}))?;
    gets(&scope, &service, &BTreeSet::new())?;
    b.tcp("outside", (b.address("node-1", false)?, 80).into()).is_refused()?;
    Ok(())
}

/// Addresses that somebody else gave a Service are served on every node that they are routed to, and by pods' nodes.
///
/// # Errors
/// When they are not.
pub fn load_balancer_addresses(b: &Battery) -> Result<()> {
    let scope = b.scope("lb-status")?;
    let servers = ["n1a", "n2a"];
    scope.members("web", &servers)?;
    let service = scope.service(
        "web",
        json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/other", "externalTrafficPolicy": "Cluster"}),
    )?;
    let given: Vec<Value> = ADDRESSES.iter().map(|ip| json!({ "ip": ip })).collect();
    b.objects().status("Service", scope.namespace(), "web", &json!({"loadBalancer": {"ingress": given}}))?;
    let routed = Routed::to(b, "node-2")?;
    for address in ADDRESSES {
        let at = SocketAddr::new(address.parse()?, 80);
        for from in ["outside", "n1b", "n3a", "node-1", "node-3"] {
            both(b, from, at).into_iter().try_for_each(|e| e.reaches(&servers).map(drop))?;
        }
        // As other clients of the cluster, pods are seen as themselves.
        b.tcp("n3a", at).seen_as_itself()?.reaches(&servers)?;
    }
    scope.change(&service, json!({"externalTrafficPolicy": "Local"}))?;
    for address in ADDRESSES {
        let at = SocketAddr::new(address.parse()?, 80);
        b.tcp("outside", at).seen_as_itself()?.reaches(&["n2a"])?;
        b.tcp("n3a", at).reaches(&servers)?;
    }
    scope.remove("web-n2a")?;
    b.tcp("outside", SocketAddr::new(ADDRESSES[0].parse()?, 80)).is_dropped()?;
    drop(routed);
    Ok(())
}

/// `loadBalancerSourceRanges` admits clients with these addresses to load-balancer addresses, and nobody else.
///
/// # Errors
/// When it is not so.
pub fn source_ranges(b: &Battery) -> Result<()> {
    let scope = b.scope("lb-ranges")?;
    scope.members("web", &["n1a"])?;
    let admitting = |ranges: &[&str]| json!({"loadBalancerSourceRanges": ranges});
    let mut spec = admitting(&["203.0.113.0/24", "2001:db8:57::/64"]);
    spec["type"] = "LoadBalancer".into();
    spec["loadBalancerClass"] = "example.com/other".into();
    let service = scope.service("web", spec)?;
    let given: Vec<Value> = ADDRESSES.iter().map(|ip| json!({ "ip": ip })).collect();
    b.objects().status("Service", scope.namespace(), "web", &json!({"loadBalancer": {"ingress": given}}))?;
    let _routed = Routed::to(b, "node-2")?;
    let all = || ADDRESSES.into_iter().map(|a| Ok::<_, anyhow::Error>(SocketAddr::new(a.parse()?, 80)));
    // One flow for all datagrams: it is known when the ranges change, and must not outlive what allowed it.
    let flow = |at| b.expect(Ask { source_port: 40_123, ..Ask::udp("outside", at) });
    for at in all() {
        let at = at?;
        both(b, "outside", at).into_iter().try_for_each(|e| e.reaches(&["n1a"]).map(drop))?;
        flow(at).reaches(&["n1a"])?;
    }
    scope.change(&service, admitting(&["192.0.2.0/24", "2001:db8:1::/64"]))?;
    for at in all() {
        let at = at?;
        both(b, "outside", at).into_iter().try_for_each(|e| e.is_dropped().map(drop))?;
        if b.is_warren("the end of flows that may not be any more") {
            flow(at).is_dropped()?;
        }
    }
    // Node ports and the cluster address are not behind it.
    for v6 in FAMILIES {
        b.tcp("n3a", service.at(v6, 80)?).reaches(&["n1a"])?;
        b.tcp("outside", (b.address("node-3", v6)?, service.node_port(0)?).into()).reaches(&["n1a"])?;
    }
    scope.change(&service, json!({"loadBalancerSourceRanges": null}))?;
    for at in all() {
        b.tcp("outside", at?).reaches(&["n1a"])?;
    }
    Ok(())
}

/// Routes of the gateway that lead [`ADDRESSES`] to a node, as a router or a cloud would.
struct Routed<'a> {
    battery: &'a Battery,
    node: &'static str,
}

impl<'a> Routed<'a> {
    fn to(battery: &'a Battery, node: &'static str) -> Result<Self> {
        let routed = Self { battery, node };
        routed.each("replace")?;
        Ok(routed)
    }

    fn each(&self, verb: &str) -> Result<()> {
        FAMILIES.into_iter().zip(ADDRESSES).try_for_each(|(v6, address)| {
            let via = self.battery.address(self.node, v6)?.to_string();
            let words = ["ip", if v6 { "-6" } else { "-4" }, "route", verb, address, "via", &via];
            self.battery.exec("gateway", &words).map(drop)
        })
    }
}

impl Drop for Routed<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.each("del") {
            eprintln!("battery: {error:#}");
        }
    }
}
