//! Ports that Warren wants and others hold.

use super::joined;
use crate::engine::{Check, Finding, Verdict, failure, warning};
use crate::facts::{Facts, Held, at};
use std::net::{IpAddr, Ipv4Addr};

const TCP: u8 = 6;
const UDP: u8 = 17;

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "port-tunnel",
        about: "nobody else holds the tunnel's UDP port",
        says: "failure",
        run: tunnel,
    },
    Check {
        id: "port-dns",
        about: "nobody else answers on port 53 of the cluster DNS addresses",
        says: "failure",
        run: dns,
    },
    Check {
        id: "port-ingress",
        about: "nobody else holds the ports of ingress",
        says: "warning",
        run: ingress,
    },
    Check {
        id: "port-health",
        about: "nobody else holds the port of health and metrics",
        says: "warning",
        run: health,
    },
];

fn told(held: &[&Held]) -> String {
    joined(held.iter().map(|h| format!("{} ({})", at(h.listener.address), h.holder)))
}

fn one(held: Vec<&Held>, say: impl Fn(String) -> Finding) -> Verdict {
    Ok(if held.is_empty() { Vec::new() } else { vec![say(told(&held))] })
}

fn tunnel(facts: &Facts) -> Verdict {
    let port = facts.settings.tunnel_port;
    one(facts.held_by_others(&[UDP], port, &[])?, |held| {
        failure(
            format!("UDP {port}, the tunnel's, is held by others: {held}"),
            "stop that program, or give the tunnel another port on every node: `warren agent --tunnel-port PORT`",
        )
    })
}

fn dns(facts: &Facts) -> Verdict {
    let Some(addresses) = &facts.settings.dns else { return Ok(Vec::new()) };
    if addresses.is_empty() {
        return Err("the cluster DNS addresses are not known".into());
    }
    one(facts.held_by_others(&[TCP, UDP], 53, addresses)?, |held| {
        failure(
            format!("port 53 of the cluster DNS address {} is held by others: {held}", joined(addresses)),
            "let that program listen on its own addresses only (dnsmasq: bind-interfaces; bind: listen-on), or stop it",
        )
    })
}

fn ingress(facts: &Facts) -> Verdict {
    let Some(ports) = facts.settings.ingress else { return Ok(Vec::new()) };
    // On loopback alone it is in nobody's way.
    let own = facts.own_addresses();
    let mut held = Vec::new();
    for port in ports {
        held.extend(facts.held_by_others(&[TCP], port, if own.is_empty() { &[] } else { &own })?);
    }
    one(held, |held| {
        warning(
            format!("ports of ingress are held by others: {held}; this node serves no Ingress there"),
            "stop that program, or `warren agent --ingress-http-port PORT --ingress-https-port PORT`, or `--ingress=off`",
        )
    })
}

fn health(facts: &Facts) -> Verdict {
    let port = facts.settings.health_port;
    one(facts.held_by_others(&[TCP], port, &[IpAddr::V4(Ipv4Addr::LOCALHOST)])?, |held| {
        warning(
            format!("port {port} of health and metrics is held by others: {held}"),
            "stop that program, or `warren agent --health-address 127.0.0.1:PORT`",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Status;
    use crate::testing::{fires, healthy, hold};

    #[test]
    fn each_port_and_its_holder() {
        let found = fires("port-tunnel", Status::Failure, |f| hold(f, UDP, "0.0.0.0:51840", "openvpn"));
        assert!(found.finding.contains("openvpn (pid 7)"), "{found:?}");
        fires("port-dns", Status::Failure, |f| hold(f, UDP, "0.0.0.0:53", "dnsmasq"));
        fires("port-ingress", Status::Warning, |f| hold(f, TCP, "[::]:443", "nginx"));
        fires("port-health", Status::Warning, |f| hold(f, TCP, "127.0.0.1:9457", "other"));
    }

    #[test]
    fn what_is_elsewhere_or_our_own_is_in_nobodys_way() {
        let mut facts = healthy();
        hold(&mut facts, UDP, "127.0.0.53:53", "systemd-resolve");
        hold(&mut facts, TCP, "127.0.0.1:80", "nginx");
        hold(&mut facts, UDP, "0.0.0.0:51840", "warren");
        for check in CHECKS {
            assert_eq!((check.run)(&facts).unwrap(), [], "{}", check.id);
        }
    }
}
