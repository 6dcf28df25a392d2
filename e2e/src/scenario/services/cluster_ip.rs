//! The cluster address of a Service.

use super::both;
use crate::battery::{Battery, FAMILIES, Member, NODES, PORT, PORT_2};
use anyhow::Result;
use serde_json::json;

/// From pods and hosts, with and without endpoints on their node, the Service is reached, and pods are seen as themselves.
///
/// # Errors
/// When it is not so.
pub fn cluster_ip(b: &Battery) -> Result<()> {
    let scope = b.scope("cluster-ip")?;
    let service = scope.service("web", json!({}))?;
    scope.members("web", &["n1a", "n2a"])?;
    for v6 in FAMILIES {
        let at = service.at(v6, 80)?;
        for from in ["n1b", "n3b"] {
            for expect in both(b, from, at) {
                expect.seen_as_itself()?.reaches(&["n1a", "n2a"])?;
            }
        }
        for from in ["node-1", "node-3"] {
            for expect in both(b, from, at) {
                expect.seen_as_itself()?.reaches(&["n1a", "n2a"])?;
            }
        }
    }
    // A change is followed, and one family alone is a Service too.
    scope.members("web", &["n3a"])?;
    scope.remove("web-n1a")?;
    for v6 in FAMILIES {
        both(b, "n1b", service.at(v6, 80)?)
            .into_iter()
            .try_for_each(|e| e.reaches(&["n2a", "n3a"]).map(drop))?;
    }
    let single = json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"], "selector": {"app": "web"}});
    let single = scope.service("single", single)?;
    b.tcp("n1b", single.at(true, 80)?).seen_as_itself()?.reaches(&["n2a", "n3a"])?;
    Ok(())
}

/// A pod reaches itself through its Service, and so does a host.
///
/// # Errors
/// When it is not so.
pub fn hairpin(b: &Battery) -> Result<()> {
    let scope = b.scope("hairpin")?;
    let service = scope.service("web", json!({"type": "NodePort"}))?;
    scope.members("web", &["n1a"])?;
    let server = b.serve("node-2", "host", &["--tcp", &PORT.to_string(), "--udp", &PORT.to_string()])?;
    let own = scope.service("own", json!({}))?;
    scope.members("own", &["node-2"])?;
    for v6 in FAMILIES {
        for at in [service.at(v6, 80)?, (b.address("node-1", v6)?, service.node_port(0)?).into()] {
            b.tcp("n1a", at).reaches(&["n1a"])?;
        }
        b.udp("n1a", service.at(v6, 80)?).reaches(&["n1a"])?;
        both(b, "node-2", own.at(v6, 80)?).into_iter().try_for_each(|e| e.reaches(&["host"]).map(drop))?;
    }
    drop(server);
    Ok(())
}

/// Several ports lead to several ports of the pods, by name to another number in each.
///
/// # Errors
/// When it is not so.
pub fn named_ports(b: &Battery) -> Result<()> {
    let scope = b.scope("named")?;
    let _one = b.serve("n1a", "n1a-second", &["--tcp", "7199"])?;
    let _two = b.serve("n2a", "n2a-first", &["--tcp", "7299"])?;
    let service = scope.service(
        "web",
        json!({"ports": [{"name": "a", "port": 80, "targetPort": "first"}, {"name": "b", "port": 81, "targetPort": "second"},
                        {"name": "c", "port": 82, "targetPort": PORT_2}]}),
    )?;
    let member =
        Member { app: "web", place: "n1a", ready: true, ports: &[("first", PORT), ("second", 7199)] };
    scope.member(&member)?;
    scope.member(&Member { place: "n2a", ports: &[("first", 7299), ("second", PORT_2)], ..member })?;
    // One that knows no such names serves the numbered port alone.
    scope.members("web", &["n3a"])?;
    for v6 in FAMILIES {
        for from in ["n1b", "node-3"] {
            b.tcp(from, service.at(v6, 80)?).reaches(&["n1a", "n2a-first"])?;
            b.tcp(from, service.at(v6, 81)?).reaches(&["n1a-second", "n2a"])?;
            b.tcp(from, service.at(v6, 82)?).reaches(&["n1a", "n2a", "n3a"])?;
        }
    }
    Ok(())
}

/// Endpoints on the host's network are reached from pods and hosts, of their own node and of others.
///
/// # Errors
/// When it is not so.
pub fn host_network_endpoints(b: &Battery) -> Result<()> {
    let scope = b.scope("host-network")?;
    let port = PORT.to_string();
    let names = ["host-1", "host-2"];
    let servers: Vec<_> = NODES
        .iter()
        .zip(names)
        .map(|(node, name)| b.serve(node, name, &["--tcp", &port, "--udp", &port]))
        .collect::<Result<_>>()?;
    let service = scope.service("web", json!({}))?;
    scope.members("web", &["node-1", "node-2"])?;
    for v6 in FAMILIES {
        for from in ["n1a", "n3a"] {
            for expect in both(b, from, service.at(v6, 80)?) {
                expect.seen_as_itself()?.reaches(&names)?;
            }
        }
        for from in NODES {
            both(b, from, service.at(v6, 80)?).into_iter().try_for_each(|e| e.reaches(&names).map(drop))?;
        }
    }
    drop(servers);
    Ok(())
}

/// A host without a default route reaches Services all the same.
///
/// # Errors
/// When it does not, or its route cannot be put back.
pub fn no_default_route(b: &Battery) -> Result<()> {
    if !b.is_warren("Services without a default route") {
        return Ok(());
    }
    let scope = b.scope("no-route")?;
    let service = scope.service("web", json!({}))?;
    scope.members("web", &["n2a", "n3a"])?;
    let routes: Vec<(bool, String)> = FAMILIES
        .into_iter()
        .map(|v6| {
            let text = b.exec("node-3", &["ip", if v6 { "-6" } else { "-4" }, "route", "show", "default"])?;
            Ok((v6, text.lines().next().unwrap_or_default().trim().to_owned()))
        })
        .collect::<Result<_>>()?;
    let route = |verb: &str, v6: bool, route: &str| -> Result<()> {
        let words = ["ip", if v6 { "-6" } else { "-4" }, "route", verb];
        let route: Vec<&str> = route.split_whitespace().filter(|w| *w != "pref" && *w != "medium").collect();
        b.exec("node-3", &[words.as_slice(), &route].concat()).map(drop)
    };
    for (v6, text) in &routes {
        route("del", *v6, text)?;
    }
    let outcome = FAMILIES.into_iter().try_for_each(|v6| {
        let at = service.at(v6, 80)?;
        ["node-3", "n3b"].into_iter().try_for_each(|from| {
            both(b, from, at).into_iter().try_for_each(|e| e.reaches(&["n2a", "n3a"]).map(drop))
        })
    });
    for (v6, text) in &routes {
        route("add", *v6, text)?;
    }
    outcome
}
