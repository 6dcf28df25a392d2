//! Rules of other programs that drop the cluster's packets.

use super::joined;
use crate::engine::{Check, Finding, Verdict, failure, warning};
use crate::facts::Facts;
use crate::packets::{FORWARD, INPUT, OUTPUT, Owner, Packet, Refusal, refused};
use ipnet::IpNet;
use std::net::IpAddr;
use warren_types::marks::{POD_LINK_PREFIX, TUNNEL_FWMARK, TUNNEL_LINK};

const TCP: u8 = 6;
const UDP: u8 = 17;

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "firewall-forward",
        about: "no table of another program drops packets from, to and between pods",
        says: "failure, warning",
        run: |f| forwarded(f, Owner::Other),
    },
    Check {
        id: "firewall-docker",
        about: "Docker's FORWARD policy and chains let pods' packets pass",
        says: "failure, warning",
        run: |f| forwarded(f, Owner::Docker),
    },
    Check {
        id: "firewall-firewalld",
        about: "firewalld lets pods' packets pass",
        says: "failure, warning",
        run: |f| forwarded(f, Owner::Firewalld),
    },
    Check {
        id: "firewall-ufw",
        about: "ufw lets pods' packets pass",
        says: "failure, warning",
        run: |f| forwarded(f, Owner::Ufw),
    },
    Check {
        id: "firewall-tunnel-port",
        about: "the tunnel's UDP port is open to other nodes",
        says: "failure, warning",
        run: tunnel_port,
    },
    Check {
        id: "firewall-pods-to-host",
        about: "pods reach cluster DNS on this node, and other nodes' pods this node's own address",
        says: "failure, warning",
        run: to_host,
    },
    Check {
        id: "firewall-output",
        about: "this node may send to other nodes' tunnels and to its pods",
        says: "failure, warning",
        run: output,
    },
    Check {
        id: "firewall-ingress",
        about: "the ports of ingress are open where this node serves Ingresses",
        says: "warning",
        run: ingress,
    },
    Check {
        id: "iptables-legacy",
        about: "no rules of legacy iptables, which are kept apart from nftables and cannot be read there",
        says: "warning",
        run: legacy,
    },
];

/// A link of a pod, as any.
fn pod_link() -> String {
    format!("{POD_LINK_PREFIX}0a1b2c3d4e5")
}

/// The second address of a range: a pod's.
fn pod_of(range: IpNet) -> IpAddr {
    range.hosts().nth(1).unwrap_or(range.addr())
}

/// For each family: a pod here, a pod elsewhere.
fn pods(facts: &Facts) -> Vec<(IpAddr, IpAddr)> {
    let own: Vec<IpNet> = facts
        .status()
        .map(|s| s.node.pod_cidrs.iter().filter_map(|c| c.parse().ok()).collect())
        .unwrap_or_default();
    let ranges = &facts.settings.cluster_cidrs;
    let of = |range: &IpNet| {
        let here = own.iter().find(|o| range.contains(*o)).map_or(pod_of(*range), |o| pod_of(*o));
        // The end of the range is another node's, or nobody's.
        let there = match range.broadcast() {
            IpAddr::V4(last) => IpAddr::V4((u32::from(last) - 1).into()),
            IpAddr::V6(last) => IpAddr::V6((u128::from(last) - 1).into()),
        };
        (here, there)
    };
    ranges.iter().map(of).collect()
}

fn packet(hook: u32, links: [&str; 2], ends: (IpAddr, IpAddr), (protocol, port): (u8, u16)) -> Packet {
    let [from_link, to_link] = links.map(str::to_owned);
    Packet { hook, from_link, to_link, source: ends.0, destination: ends.1, protocol, port, mark: 0 }
}

/// The link of this node's address, and an address.
fn uplinks(facts: &Facts) -> Vec<(String, IpAddr)> {
    let own = facts.own_addresses();
    let given = own.iter().filter_map(|a| Some((facts.link_of(*a)?.to_owned(), *a)));
    let mut found: Vec<(String, IpAddr)> = given.collect();
    if found.is_empty() {
        let fit = |ip: IpAddr| !ip.is_loopback() && ip.is_ipv4();
        let any = facts.addresses.iter().find(|(_, net)| fit(net.addr()));
        found.extend(any.map(|(index, net)| (facts.link_name(*index).to_owned(), net.addr())));
    }
    found
}

/// Somebody else of the same family.
fn other(own: IpAddr, facts: &Facts) -> IpAddr {
    let nodes = facts.status().map(|s| s.nodes.clone()).unwrap_or_default();
    let peers =
        nodes.iter().filter(|n| !n.own).flat_map(|n| &n.addresses).filter_map(|a| a.parse::<IpAddr>().ok());
    let fallback = match own {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) ^ 1).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) ^ 1).into()),
    };
    peers.into_iter().find(|p| p.is_ipv4() == own.is_ipv4()).unwrap_or(fallback)
}

/// Judges packets, each with words for it; the same place is told once.
fn judge(
    facts: &Facts,
    packets: impl IntoIterator<Item = (&'static str, Packet)>,
    fix: impl Fn(&Refusal) -> Option<String>,
) -> Verdict {
    let tables = facts.ruleset.as_ref().map_err(Clone::clone)?;
    let mut by_place: Vec<(Refusal, Vec<&'static str>, String)> = Vec::new();
    for (words, packet) in packets {
        let Some(refusal) = refused(tables, &packet) else { continue };
        let Some(fix) = fix(&refusal) else { continue };
        match by_place.iter_mut().find(|(r, ..)| *r == refusal) {
            Some((_, all, _)) if all.contains(&words) => {}
            Some((_, all, _)) => all.push(words),
            None => by_place.push((refusal, vec![words], fix)),
        }
    }
    let told = |(refusal, words, fix): (Refusal, Vec<&'static str>, String)| -> Finding {
        match refusal.certain {
            true => failure(format!("{} drops packets {}", refusal.place, joined(words)), fix),
            false => warning(
                format!(
                    "{} may drop packets {}: not every rule before it can be read",
                    refusal.place,
                    joined(words)
                ),
                fix,
            ),
        }
    };
    Ok(by_place.into_iter().map(told).collect())
}

fn forwarded(facts: &Facts, owner: Owner) -> Verdict {
    let pod = pod_link();
    let uplink = uplinks(facts).into_iter().next().map_or_else(|| "eth0".to_owned(), |(link, _)| link);
    let mut packets = Vec::new();
    for (here, there) in pods(facts) {
        let outside = if here.is_ipv4() {
            IpAddr::from([203, 0, 113, 10])
        } else {
            IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 10])
        };
        let sends = |links, ends| packet(FORWARD, links, ends, (TCP, 8080));
        packets.extend([
            ("from pods to other nodes", sends([&pod, TUNNEL_LINK], (here, there))),
            ("from other nodes to pods", sends([TUNNEL_LINK, &pod], (there, here))),
            ("between pods of this node", sends([&pod, &pod], (here, here))),
            ("from pods to the outside", sends([&pod, &uplink], (here, outside))),
        ]);
    }
    judge(facts, packets, |refusal| (refusal.owner == owner).then(|| open_forward(owner, facts)))
}

fn open_forward(owner: Owner, facts: &Facts) -> String {
    let ranges = joined(&facts.settings.cluster_cidrs).replace(", ", " and ");
    match owner {
        Owner::Docker => "`iptables -I DOCKER-USER -i wrn+ -j ACCEPT` and `iptables -I DOCKER-USER -o wrn+ -j ACCEPT`, also at boot; or \"iptables\": false in /etc/docker/daemon.json".into(),
        Owner::Firewalld => format!("`firewall-cmd --permanent --zone=trusted --add-source=RANGE` for {ranges}, `firewall-cmd --permanent --zone=trusted --add-interface={TUNNEL_LINK}`, then `firewall-cmd --reload`"),
        Owner::Ufw => format!("`ufw route allow from RANGE` and `ufw route allow to RANGE` for {ranges}, or DEFAULT_FORWARD_POLICY=\"ACCEPT\" in /etc/default/ufw and `ufw reload`"),
        Owner::Other => "add rules to that chain that accept links whose name begins with wrn (iifname \"wrn*\" accept; oifname \"wrn*\" accept); `nft -a list ruleset` shows it".into(),
    }
}

fn open_port(owner: Owner, port: u16, protocol: &str) -> String {
    match owner {
        Owner::Firewalld => {
            format!("`firewall-cmd --permanent --add-port={port}/{protocol}`, then `firewall-cmd --reload`")
        }
        Owner::Ufw => format!("`ufw allow {port}/{protocol}`"),
        Owner::Docker | Owner::Other => format!(
            "add the rule `{protocol} dport {port} accept` to that chain; `nft -a list ruleset` shows it"
        ),
    }
}

fn tunnel_port(facts: &Facts) -> Verdict {
    let port = facts.settings.tunnel_port;
    let packets = uplinks(facts).into_iter().map(|(link, own)| {
        (
            "from other nodes to this node's tunnel",
            packet(INPUT, [&link, ""], (other(own, facts), own), (UDP, port)),
        )
    });
    judge(facts, packets.collect::<Vec<_>>(), |refusal| Some(open_port(refusal.owner, port, "udp")))
}

fn to_host(facts: &Facts) -> Verdict {
    let mut packets = Vec::new();
    for (here, there) in pods(facts) {
        for dns in facts.settings.dns.iter().flatten().filter(|d| d.is_ipv4() == here.is_ipv4()) {
            packets.push((
                "from pods to cluster DNS",
                packet(INPUT, [&pod_link(), ""], (here, *dns), (UDP, 53)),
            ));
        }
        let own = facts
            .addresses
            .iter()
            .find(|(i, net)| facts.link_name(*i) == TUNNEL_LINK && net.addr().is_ipv4() == here.is_ipv4());
        if let Some((_, own)) = own {
            packets.push((
                "from other nodes' pods to this node",
                packet(INPUT, [TUNNEL_LINK, ""], (there, own.addr()), (TCP, 8080)),
            ));
        }
    }
    judge(facts, packets, |refusal| {
        Some(match refusal.owner {
            Owner::Firewalld => open_forward(Owner::Firewalld, facts),
            Owner::Ufw => {
                "`ufw allow in on wrn+` is not possible: `ufw allow from RANGE` for the ranges of pods".into()
            }
            Owner::Docker | Owner::Other => {
                "add the rule `iifname \"wrn*\" accept` to that chain; `nft -a list ruleset` shows it".into()
            }
        })
    })
}

fn output(facts: &Facts) -> Verdict {
    let mut packets = Vec::new();
    for (link, own) in uplinks(facts) {
        let sent = packet(OUTPUT, ["", &link], (own, other(own, facts)), (UDP, facts.settings.tunnel_port));
        packets.push(("from this node's tunnel to others", Packet { mark: TUNNEL_FWMARK, ..sent }));
    }
    for (here, _) in pods(facts) {
        packets.push((
            "from this node to its pods",
            packet(OUTPUT, ["", &pod_link()], (here, here), (TCP, 8080)),
        ));
    }
    judge(facts, packets, |refusal| {
        let port = open_port(refusal.owner, facts.settings.tunnel_port, "udp");
        Some(format!("{port}; and accept what leaves by links whose name begins with wrn"))
    })
}

fn ingress(facts: &Facts) -> Verdict {
    let serves =
        facts.status().ok().and_then(|s| s.ingress.as_ref()).is_some_and(|i| !i.listening.is_empty());
    let Some(ports) = facts.settings.ingress.filter(|_| serves) else { return Ok(Vec::new()) };
    let mut packets = Vec::new();
    for (link, own) in uplinks(facts) {
        for port in ports {
            packets.push((
                "from clients to ingress",
                packet(INPUT, [&link, ""], (other(own, facts), own), (TCP, port)),
            ));
        }
    }
    let found = judge(facts, packets, |refusal| Some(open_port(refusal.owner, ports[0], "tcp")))?;
    Ok(found.into_iter().map(|f| warning(f.finding, f.fix)).collect())
}

fn legacy(facts: &Facts) -> Verdict {
    if facts.legacy_tables.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![warning(
        format!(
            "legacy iptables has tables here: {}; what they drop cannot be seen through nftables",
            joined(&facts.legacy_tables)
        ),
        "`iptables-legacy-save` shows them; `update-alternatives --set iptables /usr/sbin/iptables-nft`, then start what made them anew, or `iptables-legacy -F` and reboot",
    )])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Status;
    use crate::testing::{fires, healthy, nft};

    fn fired(id: &str, status: Status, script: &str) -> Finding {
        let tables = nft(script);
        fires(id, status, move |f| f.ruleset = Ok(tables.clone()))
    }
    const DROPS: &str = "type filter hook forward priority 0; policy drop;";

    #[test]
    fn each_firewall_is_named_by_its_own_check() {
        let found = fired(
            "firewall-forward",
            Status::Failure,
            &format!("table inet mine {{ chain passing {{ {DROPS} }}; }}"),
        );
        assert!(found.finding.contains("table inet mine, chain passing, policy drop"), "{found:?}");
        assert!(found.finding.contains("between pods of this node"), "{found:?}");
        let docker = format!(
            "table ip filter {{ chain DOCKER-USER {{ }}; chain FORWARD {{ {DROPS} jump DOCKER-USER; }}; }}"
        );
        assert!(fired("firewall-docker", Status::Failure, &docker).fix.contains("DOCKER-USER"));
        let ufw =
            format!("table ip filter {{ chain ufw-before-forward {{ }}; chain FORWARD {{ {DROPS} }}; }}");
        assert!(fired("firewall-ufw", Status::Failure, &ufw).fix.contains("ufw route"));
        let firewalld = "table inet firewalld { chain filter_FORWARD { type filter hook forward priority 10; reject with icmpx admin-prohibited; }; }";
        assert!(fired("firewall-firewalld", Status::Failure, firewalld).fix.contains("firewall-cmd"));
    }

    #[test]
    fn what_lets_wrn_links_pass_is_no_finding() {
        let script = format!(
            "table ip filter {{ chain DOCKER-USER {{ iifname \"wrn*\" accept; oifname \"wrn*\" accept; }}; chain FORWARD {{ {DROPS} jump DOCKER-USER; }}; }}"
        );
        let mut facts = healthy();
        facts.ruleset = Ok(nft(&script));
        assert_eq!(forwarded(&facts, Owner::Docker).unwrap(), []);
    }

    #[test]
    fn ports_that_are_closed() {
        let closed =
            "table inet mine { chain in { type filter hook input priority 0; udp dport 51840 drop; }; }";
        assert!(fired("firewall-tunnel-port", Status::Failure, closed).finding.contains("rule handle"));
        let dns = "table inet mine { chain in { type filter hook input priority 0; iifname \"wrnp*\" udp dport 53 reject; }; }";
        fired("firewall-pods-to-host", Status::Failure, dns);
        let out =
            "table inet mine { chain out { type filter hook output priority 0; udp dport 51840 drop; }; }";
        fired("firewall-output", Status::Failure, out);
        let web = "table inet mine { chain in { type filter hook input priority 0; tcp dport 443 drop; }; }";
        fired("firewall-ingress", Status::Warning, web);
        fires("iptables-legacy", Status::Warning, |f| f.legacy_tables.push("nat".into()));
    }
}
