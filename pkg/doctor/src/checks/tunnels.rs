//! The tunnels to other nodes.

use super::joined;
use crate::engine::{Check, Verdict, failure, warning};
use crate::facts::{Facts, TunnelProbe};
use warren_agent::status::age;
use warren_types::marks::TUNNEL_LINK;

/// What WireGuard adds to a packet: IP, UDP, its own header and tag.
const OVERHEAD_V4: u32 = 60;
const OVERHEAD_V6: u32 = 80;
/// What IPv6 asks of every link (RFC 8200, section 5).
const LEAST_V6: u32 = 1280;

pub(crate) const CHECKS: &[Check] = &[
    Check { id: "tunnel-key", about: "every other node has published a key", says: "warning", run: keys },
    Check {
        id: "tunnel-endpoint",
        about: "every other node can be called, or has called",
        says: "warning",
        run: endpoints,
    },
    Check {
        id: "tunnel-answers",
        about: "every ready node answers an echo request across its tunnel; else with the time since the last handshake",
        says: "failure, warning",
        run: answers,
    },
    Check {
        id: "tunnel-mtu",
        about: "packets as large as the tunnel's MTU arrive, measured across each tunnel",
        says: "failure",
        run: mtu,
    },
    Check {
        id: "underlay-mtu",
        about: "the way to each node carries the tunnel's packets without fragments",
        says: "failure, warning",
        run: underlay,
    },
    Check { id: "tunnel-link", about: "the tunnel link is there and up", says: "failure", run: link },
];

fn keys(facts: &Facts) -> Verdict {
    let status = facts.status()?;
    let without: Vec<&str> =
        status.nodes.iter().filter(|n| !n.own && n.tunnel.is_none()).map(|n| n.name.as_str()).collect();
    Ok((!without.is_empty())
        .then(|| {
            warning(
                format!("no key of {} is known: there is no tunnel to it", joined(&without)),
                format!("start `warren agent` there; if it is gone: `kubectl delete node {}`", without[0]),
            )
        })
        .into_iter()
        .collect())
}

fn endpoints(facts: &Facts) -> Verdict {
    let status = facts.status()?;
    let tunnels = status.nodes.iter().filter_map(|n| Some((n, n.tunnel.as_ref()?)));
    Ok(tunnels
        .filter(|(n, t)| n.ready && t.endpoint.is_none() && t.handshake_seconds.is_none())
        .map(|(n, _)| warning(
            format!("{} has no endpoint that can be reached, and has not called", n.name),
            "one node of each pair must be reachable: forward the tunnel's UDP port to it, or give it an address with `--node-ip`",
        ))
        .collect())
}

fn probes(facts: &Facts) -> Result<&[TunnelProbe], String> {
    facts.tunnels.as_deref().map_err(Clone::clone)
}

fn answers(facts: &Facts) -> Verdict {
    let (status, probes) = (facts.status()?, probes(facts)?);
    let port = facts.settings.tunnel_port;
    let mut found = Vec::new();
    for probe in probes.iter().filter(|p| !p.answered && p.address.is_some()) {
        let Some(node) = status.nodes.iter().find(|n| n.name == probe.node) else { continue };
        let Some(tunnel) = &node.tunnel else { continue };
        // One that has no endpoint has its own check.
        if tunnel.endpoint.is_none() && tunnel.handshake_seconds.is_none() {
            continue;
        }
        let last = tunnel.handshake_seconds.map_or_else(
            || "there never was a handshake".to_owned(),
            |s| format!("the last handshake was {} ago", age(s)),
        );
        let what = format!(
            "{} does not answer across its tunnel ({}); {last}",
            node.name,
            tunnel.endpoint.as_deref().unwrap_or("no endpoint")
        );
        let fix = format!(
            "open UDP {port} on the way to it; `warren doctor` there says whether its own firewall drops it; `warren status` shows both ends"
        );
        found.push(if node.ready {
            failure(what, fix)
        } else {
            warning(what, format!("it is not ready: start it; {fix}"))
        });
    }
    Ok(found)
}

/// The tunnel's MTU, as the kernel has it.
fn own_mtu(facts: &Facts) -> Result<u32, String> {
    let link = facts.links()?.iter().find(|l| l.name == TUNNEL_LINK);
    link.map(|l| l.mtu).ok_or_else(|| "there is no tunnel link".into())
}

fn mtu(facts: &Facts) -> Verdict {
    let own = own_mtu(facts)?;
    Ok(probes(facts)?
        .iter()
        .filter(|p| p.answered && p.largest < own)
        .map(|p| failure(
            format!("packets of {own} bytes do not reach {} across the tunnel, {} do: large transfers hang", p.node, p.largest),
            format!("set what the way carries, on every node: `warren agent --mtu {}`; and look for a link with a smaller MTU, or one that drops fragments, on the way", p.largest.max(LEAST_V6)),
        ))
        .collect())
}

fn underlay(facts: &Facts) -> Verdict {
    let own = own_mtu(facts)?;
    let mut found = Vec::new();
    for probe in probes(facts)? {
        let Some(way) = probe.underlay_mtu else { continue };
        let overhead = if probe.underlay_v6 { OVERHEAD_V6 } else { OVERHEAD_V4 };
        if own + overhead > way {
            found.push(failure(
                format!(
                    "the way to {} carries {way} bytes, and packets of the tunnel have up to {}",
                    probe.node,
                    own + overhead
                ),
                format!(
                    "`warren agent --mtu {}`, or leave --mtu out; it is measured then",
                    way.saturating_sub(overhead).max(LEAST_V6)
                ),
            ));
        } else if way < LEAST_V6 + overhead {
            found.push(warning(
                format!(
                    "the way to {} carries {way} bytes, less than the {} that a tunnel for IPv6 needs",
                    probe.node,
                    LEAST_V6 + overhead
                ),
                "raise the MTU of the link on the way, where it can be",
            ));
        }
    }
    Ok(found)
}

fn link(facts: &Facts) -> Verdict {
    let status = facts.status()?;
    let link = facts.links()?.iter().find(|l| l.name == TUNNEL_LINK);
    let why = match link {
        Some(link) if link.up => return Ok(Vec::new()),
        Some(_) => format!("{TUNNEL_LINK} is down"),
        None if status.uptime_seconds < 15 => return Err("the agent has just started".into()),
        None => format!("there is no link {TUNNEL_LINK}"),
    };
    Ok(vec![failure(
        format!("{why}: no packet goes to other nodes, in clear text or otherwise"),
        "the agent makes it anew within seconds; `warren status` says why when it does not",
    )])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Status;
    use crate::testing::{fires, fires_with, status};

    fn first(facts: &mut Facts) -> &mut TunnelProbe {
        &mut facts.tunnels.as_mut().unwrap()[0]
    }

    #[test]
    fn nodes_that_cannot_be_called() {
        fires("tunnel-key", Status::Warning, |f| status(f).nodes[1].tunnel = None);
        fires("tunnel-endpoint", Status::Warning, |f| {
            let tunnel = status(f).nodes[1].tunnel.as_mut().unwrap();
            (tunnel.endpoint, tunnel.handshake_seconds) = (None, None);
        });
        let found = fires("tunnel-answers", Status::Failure, |f| first(f).answered = false);
        assert!(found.finding.contains("last handshake was 42s ago"), "{found:?}");
        fires("tunnel-answers", Status::Warning, |f| {
            first(f).answered = false;
            status(f).nodes[1].ready = false;
        });
    }

    #[test]
    fn ways_that_are_too_narrow() {
        let found = fires("tunnel-mtu", Status::Failure, |f| first(f).largest = 1280);
        assert!(found.fix.contains("--mtu 1280"), "{found:?}");
        fires("underlay-mtu", Status::Failure, |f| first(f).underlay_mtu = Some(1400));
        let down = |f: &mut Facts| {
            f.links.as_mut().unwrap().iter_mut().filter(|l| l.name == TUNNEL_LINK).for_each(|l| l.up = false)
        };
        fires("tunnel-link", Status::Failure, down);
        fires_with("underlay-mtu", Status::Warning, &["tunnel-mtu"], |f| {
            first(f).underlay_mtu = Some(1300);
            first(f).largest = 1200;
            f.links.as_mut().unwrap().iter_mut().filter(|l| l.name == TUNNEL_LINK).for_each(|l| l.mtu = 1240);
        });
    }
}
