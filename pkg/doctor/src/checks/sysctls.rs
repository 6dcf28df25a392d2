//! Settings of the kernel that others change.

use super::joined;
use crate::engine::{Check, Verdict, failure, note, warning};
use crate::facts::Facts;
use warren_netlink::RouteTarget;
use warren_types::marks::{LINK_PREFIX, TUNNEL_LINK};

/// Connections that a node should be able to track.
const FEWEST_CONNECTIONS: i64 = 32_768;
/// Node ports as Kubernetes gives them.
const NODE_PORTS: (i64, i64) = (30_000, 32_767);
/// `RTPROT_RA`: a route from a router advertisement.
const FROM_ADVERTISEMENT: u8 = 9;

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "ip-forward",
        about: "this node forwards IPv4 (net.ipv4.ip_forward); the agent turns it on when it starts",
        says: "failure, note",
        run: |f| forwarding(f, true),
    },
    Check {
        id: "ipv6-forward",
        about: "this node forwards IPv6, where pods have IPv6 addresses",
        says: "failure, note",
        run: |f| forwarding(f, false),
    },
    Check {
        id: "rp-filter",
        about: "no strict reverse path filter on the tunnel, nor on one of several links to other networks",
        says: "failure, note",
        run: rp_filter,
    },
    Check {
        id: "accept-ra",
        about: "a default route from router advertisements survives forwarding (accept_ra=2; moby/moby#44687)",
        says: "warning",
        run: accept_ra,
    },
    Check {
        id: "conntrack-size",
        about: "the table of connections is large enough, and not nearly full",
        says: "failure, warning",
        run: conntrack,
    },
    Check {
        id: "route-localnet",
        about: "no link routes 127.0.0.0/8, which opens the host's loopback services to its neighbours (CVE-2020-8558)",
        says: "warning",
        run: route_localnet,
    },
    Check {
        id: "bridge-nf-call",
        about: "whether packets between ports of a bridge go through iptables",
        says: "note",
        run: bridge_nf_call,
    },
    Check {
        id: "port-range",
        about: "ports that programs are given by chance are no node ports, and not the tunnel's",
        says: "warning, note",
        run: port_range,
    },
    Check {
        id: "inotify-limits",
        about: "inotify instances and watches that programs in containers can have",
        says: "warning",
        run: inotify,
    },
];

fn forwarding(facts: &Facts, v4: bool) -> Verdict {
    let (key, name) =
        if v4 { ("net/ipv4/ip_forward", "IPv4") } else { ("net/ipv6/conf/all/forwarding", "IPv6") };
    let wanted = facts.settings.cluster_cidrs.is_empty() && v4
        || facts.settings.cluster_cidrs.iter().any(|n| n.addr().is_ipv4() == v4);
    let Some(value) = facts.number(key).filter(|_| wanted) else { return Ok(Vec::new()) };
    if value != 0 {
        return Ok(Vec::new());
    }
    let found = format!("{key} is 0: no packet of {name} goes from or to a pod");
    let dotted = key.replace('/', ".");
    Ok(vec![if facts.runs() {
        failure(found, format!("`sysctl -w {dotted}=1`, and look in /etc/sysctl.d for what set it to 0"))
    } else {
        note(found, "nothing has to be done: `warren agent` sets it, and `warren uninstall` puts it back")
    }])
}

fn rp_filter(facts: &Facts) -> Verdict {
    let all = facts.number("net/ipv4/conf/all/rp_filter").unwrap_or(0);
    let of = |link: &str| {
        let own = facts.number(&format!("net/ipv4/conf/{link}/rp_filter")).unwrap_or(0);
        all.max(own)
    };
    let links = facts.links()?;
    let mut found = Vec::new();
    if links.iter().any(|l| l.name == TUNNEL_LINK) && of(TUNNEL_LINK) == 1 {
        found.push(failure(
            format!("the reverse path filter of {TUNNEL_LINK} is strict: answers whose sender has another way back are dropped"),
            format!("`sysctl -w net.ipv4.conf.{TUNNEL_LINK}.rp_filter=2`, and net.ipv4.conf.all.rp_filter=0 or 2 in /etc/sysctl.d"),
        ));
    }
    let uplinks: Vec<&str> = links
        .iter()
        .filter(|l| l.up && !l.name.starts_with(LINK_PREFIX) && l.kind.is_empty() && l.name != "lo")
        .filter(|l| facts.addresses.iter().any(|(i, net)| *i == l.index && net.addr().is_ipv4()))
        .map(|l| l.name.as_str())
        .collect();
    let strict: Vec<&str> = uplinks.iter().copied().filter(|l| of(l) == 1).collect();
    if uplinks.len() > 1 && !strict.is_empty() {
        found.push(note(
            format!("the reverse path filter of {} is strict, and this node has several links: clients that come by one and are answered by another are dropped", joined(strict)),
            "where clients of node ports or load balancers are not answered: net.ipv4.conf.all.rp_filter=2 in /etc/sysctl.d, then `sysctl --system`",
        ));
    }
    Ok(found)
}

fn accept_ra(facts: &Facts) -> Verdict {
    let routes = facts.routes.as_ref().map_err(Clone::clone)?;
    let learned = routes
        .iter()
        .filter(|r| r.dst.prefix_len() == 0 && r.dst.addr().is_ipv6() && r.protocol == FROM_ADVERTISEMENT);
    let mut found = Vec::new();
    for route in learned {
        let RouteTarget::Link { link, .. } = &route.target else { continue };
        let value = |key: &str| facts.number(&format!("net/ipv6/conf/{link}/{key}"));
        if value("forwarding") == Some(1) && value("accept_ra") == Some(1) {
            found.push(warning(
                format!("{link} forwards IPv6 and has accept_ra=1: its default route from router advertisements is not renewed, and goes when it expires"),
                format!("`sysctl -w net.ipv6.conf.{link}.accept_ra=2`, and the same in /etc/sysctl.d"),
            ));
        }
    }
    Ok(found)
}

fn conntrack(facts: &Facts) -> Verdict {
    let max = facts.number("net/netfilter/nf_conntrack_max").ok_or("connections are not tracked yet")?;
    let fix = format!(
        "`sysctl -w net.netfilter.nf_conntrack_max={}`, and the same in /etc/sysctl.d",
        FEWEST_CONNECTIONS.max(max * 2)
    );
    let count = facts.number("net/netfilter/nf_conntrack_count").unwrap_or(0);
    Ok(if max > 0 && count * 10 >= max * 9 {
        vec![failure(
            format!("{count} of {max} connections are tracked: new ones are dropped when the table is full"),
            fix,
        )]
    } else if max < FEWEST_CONNECTIONS {
        vec![warning(
            format!(
                "at most {max} connections are tracked (nf_conntrack_max); a node with Services soon has more"
            ),
            fix,
        )]
    } else {
        Vec::new()
    })
}

fn route_localnet(facts: &Facts) -> Verdict {
    let ours = |link: &str| link.starts_with(LINK_PREFIX);
    let on: Vec<&str> = facts
        .sysctls
        .iter()
        .filter(|(_, value)| value.trim() == "1")
        .filter_map(|(key, _)| key.strip_prefix("net/ipv4/conf/")?.strip_suffix("/route_localnet"))
        .filter(|link| !ours(link) && *link != "lo")
        .collect();
    if on.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![warning(
        format!(
            "route_localnet is 1 for {}: neighbours on the LAN can reach what listens on 127.0.0.1; kube-proxy sets it, Warren does not need it",
            joined(&on)
        ),
        format!("`sysctl -w net.ipv4.conf.{}.route_localnet=0`", on[0]),
    )])
}

fn bridge_nf_call(facts: &Facts) -> Verdict {
    let on: Vec<&str> = ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"]
        .into_iter()
        .filter(|key| facts.number(&format!("net/bridge/{key}")) == Some(1))
        .collect();
    if on.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![note(
        format!(
            "{} is on (br_netfilter): packets between ports of a bridge pass the firewall too",
            joined(on)
        ),
        "nothing has to be done: Warren has no bridge. Virtual machines on a bridge may need `sysctl -w net.bridge.bridge-nf-call-iptables=0`",
    )])
}

fn port_range(facts: &Facts) -> Verdict {
    let range = facts.sysctls.get("net/ipv4/ip_local_port_range").ok_or("the range cannot be read")?;
    let mut words = range.split_whitespace().map(str::parse::<i64>);
    let (Some(Ok(low)), Some(Ok(high))) = (words.next(), words.next()) else {
        return Err(format!("{range:?} is no range of ports"));
    };
    let reserved = facts.sysctls.get("net/ipv4/ip_local_reserved_ports").map_or("", String::as_str);
    let mut found = Vec::new();
    if facts.settings.proxy
        && low <= NODE_PORTS.1
        && high >= NODE_PORTS.0
        && !is_reserved(reserved, NODE_PORTS)
    {
        found.push(warning(
            format!("programs are given ports {low} to {high} by chance, and node ports are {} to {}: a connection of this node can take a Service's port", NODE_PORTS.0, NODE_PORTS.1),
            "`sysctl -w net.ipv4.ip_local_reserved_ports=30000-32767`, or a range that begins at 32768; and the same in /etc/sysctl.d",
        ));
    }
    let port = i64::from(facts.settings.tunnel_port);
    if !facts.runs()
        && facts.settings.configured
        && (low..=high).contains(&port)
        && !is_reserved(reserved, (port, port))
    {
        found.push(note(
            format!("UDP {port}, the tunnel's, is among the ports that programs are given by chance ({low} to {high}): one can have it before the agent starts"),
            format!("nothing has to be done while it does not happen; `sysctl -w net.ipv4.ip_local_reserved_ports={port}` rules it out"),
        ));
    }
    Ok(found)
}

/// Whether a list such as `80,30000-32767` has all of a range.
fn is_reserved(list: &str, (low, high): (i64, i64)) -> bool {
    list.trim().split(',').any(|part| {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        matches!((a.parse::<i64>(), b.parse::<i64>()), (Ok(a), Ok(b)) if a <= low && high <= b)
    })
}

fn inotify(facts: &Facts) -> Verdict {
    let mut found = Vec::new();
    for (key, least, wanted) in
        [("fs/inotify/max_user_instances", 128, 1024), ("fs/inotify/max_user_watches", 8192, 65_536)]
    {
        if let Some(value) = facts.number(key).filter(|v| *v < least) {
            found.push(warning(
                format!("{key} is {value}: programs in containers fail with \"too many open files\""),
                format!("`sysctl -w {}={wanted}`, and the same in /etc/sysctl.d", key.replace('/', ".")),
            ));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Status;
    use crate::testing::{fires, healthy, set};

    #[test]
    fn forwarding_is_a_failure_only_under_an_agent() {
        fires("ip-forward", Status::Failure, |f| set(f, "net/ipv4/ip_forward", "0"));
        let mut facts = healthy();
        facts.agent.status = Err("no agent".into());
        set(&mut facts, "net/ipv4/ip_forward", "0");
        assert_eq!(forwarding(&facts, true).unwrap()[0].status, Status::Note);
        assert_eq!(forwarding(&facts, false).unwrap(), []);
        facts.settings.cluster_cidrs.push("fd57:4e00:42::/56".parse().unwrap());
        set(&mut facts, "net/ipv6/conf/all/forwarding", "0");
        assert_eq!(forwarding(&facts, false).unwrap().len(), 1);
    }

    #[test]
    fn a_strict_filter_matters_on_the_tunnel() {
        fires("rp-filter", Status::Failure, |f| {
            set(f, "net/ipv4/conf/all/rp_filter", "1");
            set(f, "net/ipv4/conf/wrn-wg/rp_filter", "0");
        });
        let mut facts = healthy();
        // The larger of the two counts: 2 is loose.
        set(&mut facts, "net/ipv4/conf/all/rp_filter", "1");
        set(&mut facts, "net/ipv4/conf/wrn-wg/rp_filter", "2");
        assert_eq!(rp_filter(&facts).unwrap(), []);
    }

    #[test]
    fn a_default_route_that_expires_is_seen() {
        fires("accept-ra", Status::Warning, |f| {
            let mut route = f.routes.as_ref().unwrap()[0].clone();
            route.dst = "::/0".parse().unwrap();
            route.protocol = FROM_ADVERTISEMENT;
            f.routes.as_mut().unwrap().push(route);
            set(f, "net/ipv6/conf/eth0/forwarding", "1");
            set(f, "net/ipv6/conf/eth0/accept_ra", "1");
        });
    }

    #[test]
    fn sizes_and_switches() {
        fires("conntrack-size", Status::Warning, |f| set(f, "net/netfilter/nf_conntrack_max", "4096"));
        fires("conntrack-size", Status::Failure, |f| set(f, "net/netfilter/nf_conntrack_count", "262000"));
        fires("route-localnet", Status::Warning, |f| set(f, "net/ipv4/conf/all/route_localnet", "1"));
        fires("bridge-nf-call", Status::Note, |f| set(f, "net/bridge/bridge-nf-call-iptables", "1"));
        fires("inotify-limits", Status::Warning, |f| set(f, "fs/inotify/max_user_instances", "16"));
        fires("port-range", Status::Warning, |f| set(f, "net/ipv4/ip_local_port_range", "1024\t60999"));
        let mut facts = healthy();
        set(&mut facts, "net/ipv4/ip_local_port_range", "1024 60999");
        set(&mut facts, "net/ipv4/ip_local_reserved_ports", "80,30000-32767");
        assert_eq!(port_range(&facts).unwrap(), []);
        facts.agent.status = Err("no agent".into());
        assert_eq!(port_range(&facts).unwrap()[0].status, Status::Note);
    }
}
