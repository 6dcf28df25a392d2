//! Who this node is, and where.

use super::joined;
use crate::engine::{Check, Verdict, failure, note, warning};
use crate::facts::Facts;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use warren_netlink::RouteTarget;
use warren_types::NodeName;
use warren_types::cidr::overlap;
use warren_types::marks::{LINK_PREFIX, ROUTE_PROTOCOL};

/// What QEMU and VirtualBox give every machine behind their own NAT.
const SHARED_NAT: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// `RTPROT_KERNEL`: routes that come with addresses.
const WITH_ADDRESS: u8 = 2;

pub(crate) const CHECKS: &[Check] = &[
    Check { id: "node-name", about: "the node has a name that Kubernetes takes", says: "failure", run: name },
    Check {
        id: "node-address",
        about: "the node's address is on a link that is up",
        says: "failure",
        run: address,
    },
    Check {
        id: "node-address-shared-nat",
        about: "the node's address is not 10.0.2.15, which every Vagrant machine has behind its own NAT",
        says: "failure",
        run: shared_nat,
    },
    Check {
        id: "node-address-duplicate",
        about: "no other node has this node's address",
        says: "failure",
        run: same_address,
    },
    Check {
        id: "node-identity-duplicate",
        about: "no two nodes have one identity or key, as cloned machines do",
        says: "failure",
        run: same_identity,
    },
    Check {
        id: "machine-id-duplicate",
        about: "no two nodes have one machine-id, by which DHCP gives addresses",
        says: "warning",
        run: same_machine,
    },
    Check {
        id: "default-route",
        about: "whether there is a way out; Warren needs none",
        says: "note",
        run: default_route,
    },
    Check {
        id: "cidr-overlap-addresses",
        about: "no address of this node is in the ranges of pods or Services",
        says: "failure",
        run: overlap_addresses,
    },
    Check {
        id: "cidr-overlap-routes",
        about: "no route to a LAN, VPN or Docker network overlaps the ranges of pods or Services",
        says: "failure",
        run: overlap_routes,
    },
    Check {
        id: "wifi-announcements",
        about: "addresses of load balancers are not announced on a wireless link, whose access points often drop ARP",
        says: "warning",
        run: wifi,
    },
];

fn name(facts: &Facts) -> Verdict {
    let name = &facts.settings.node_name;
    let name = if name.is_empty() { &facts.hostname } else { name };
    if name.is_empty() {
        return Err("the host name is not known".into());
    }
    let bad = NodeName::new(name.to_ascii_lowercase()).err();
    Ok(bad
        .map(|why| {
            failure(
                format!("{name:?} is no name of a node: {why}"),
                "`hostnamectl set-hostname NAME` (letters, digits, '-' and '.'), or `warren agent --node-name NAME`",
            )
        })
        .into_iter()
        .collect())
}

fn address(facts: &Facts) -> Verdict {
    let own = facts.own_addresses();
    let links = facts.links()?;
    if own.is_empty() {
        let status = facts.status()?;
        if status.uptime_seconds < 15 {
            return Err("the agent has just started".into());
        }
        return Ok(vec![failure(
            "no address of this machine reaches the API, so other nodes cannot find this one",
            "give the link an address, or say which it is: `warren agent --node-ip ADDRESS`",
        )]);
    }
    let mut found = Vec::new();
    for ip in own {
        let link = facts
            .addresses
            .iter()
            .find(|(_, net)| net.addr() == ip)
            .and_then(|(i, _)| links.iter().find(|l| l.index == *i));
        let what = match link {
            Some(link) if link.up => continue,
            Some(link) => format!("this node's address {ip} is on {}, which is down", link.name),
            None => format!("this node's address {ip} is on none of its links"),
        };
        found.push(failure(
            what,
            "`ip address` shows what there is; correct node-ip in the configuration, or bring the link up",
        ));
    }
    Ok(found)
}

fn shared_nat(facts: &Facts) -> Verdict {
    let is = facts.own_addresses().contains(&IpAddr::V4(SHARED_NAT));
    Ok(is
        .then(|| failure(
            format!("this node's address is {SHARED_NAT}, which every machine of QEMU, VirtualBox and Vagrant has: no other node reaches it there"),
            "`warren agent --node-ip ADDRESS` with the address of the private network that the machines share",
        ))
        .into_iter()
        .collect())
}

fn same_address(facts: &Facts) -> Verdict {
    let nodes = &facts.status()?.nodes;
    let own = facts.own_addresses();
    let others = nodes.iter().filter(|n| !n.own);
    let found = others.flat_map(|n| n.addresses.iter().map(move |a| (n, a)));
    Ok(found
        .filter(|(_, a)| a.parse().is_ok_and(|a: IpAddr| own.contains(&a)))
        .map(|(node, a)| {
            failure(
                format!("{a} is the address of this node and of {}", node.name),
                format!(
                    "give one of them another address; if {} is gone: `kubectl delete node {}`",
                    node.name, node.name
                ),
            )
        })
        .collect())
}

/// Values that more than one node has.
fn shared<'a>(all: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut by: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (value, node) in all.filter(|(value, _)| !value.is_empty()) {
        by.entry(value).or_default().push(node);
    }
    by.into_iter().filter(|(_, nodes)| nodes.len() > 1).collect()
}

fn same_identity(facts: &Facts) -> Verdict {
    let nodes = &facts.status()?.nodes;
    let ids = shared(nodes.iter().map(|n| (n.id.as_str(), n.name.as_str())));
    let keys = shared(nodes.iter().map(|n| (n.public_key.as_str(), n.name.as_str())));
    let told = |(_, names): (&str, Vec<&str>), what: &str| {
        failure(
            format!(
                "nodes {} have one {what}: a machine was cloned with its data directory",
                names.join(", ")
            ),
            format!(
                "on the clone: stop the agent, `rm -r {}/agent`, start it again with a token",
                facts.settings.data_dir.display()
            ),
        )
    };
    let ids = ids.into_iter().map(|one| told(one, "identity")).collect::<Vec<_>>();
    if !ids.is_empty() {
        return Ok(ids);
    }
    Ok(keys.into_iter().map(|one| told(one, "WireGuard key")).collect())
}

fn same_machine(facts: &Facts) -> Verdict {
    let api = facts.api.as_ref().map_err(Clone::clone)?;
    let found = shared(api.nodes.iter().map(|n| (n.machine_id.as_str(), n.name.as_str())));
    Ok(found
        .into_iter()
        .map(|(id, names)| warning(
            format!("nodes {} have one machine-id ({id}): DHCP may give them one address", names.join(", ")),
            "on all but one: `rm /etc/machine-id /var/lib/dbus/machine-id; systemd-machine-id-setup`, then reboot",
        ))
        .collect())
}

fn default_route(facts: &Facts) -> Verdict {
    let routes = facts.routes.as_ref().map_err(Clone::clone)?;
    let out = routes.iter().any(|r| r.dst.prefix_len() == 0 && matches!(r.target, RouteTarget::Link { .. }));
    Ok((!out)
        .then(|| note("there is no default route: nothing outside can be reached", "nothing has to be done; where outside names should be denied at once: `warren agent --dns-offline`"))
        .into_iter()
        .collect())
}

fn overlap_addresses(facts: &Facts) -> Verdict {
    facts.links()?;
    let mut found = Vec::new();
    for (what, range) in facts.ranges() {
        for (index, net) in &facts.addresses {
            let link = facts.link_name(*index);
            if range.contains(&net.addr()) && !link.starts_with(LINK_PREFIX) && !is_rivals(link) {
                found.push(failure(format!("{net} on {link} is in the {what} {range}"), renumber(range)));
            }
        }
    }
    Ok(found)
}

/// Links of other networks of pods, which have a check of their own.
fn is_rivals(link: &str) -> bool {
    ["cni0", "flannel", "cali", "cilium", "kube-"].iter().any(|b| link.starts_with(b))
}

fn renumber(range: IpNet) -> String {
    format!(
        "give that network another range (Docker: default-address-pools in /etc/docker/daemon.json), or make the cluster with one other than {range}: `--cluster-cidr` and `--service-cidr` of `warren server`"
    )
}

fn overlap_routes(facts: &Facts) -> Verdict {
    let routes = facts.routes.as_ref().map_err(Clone::clone)?;
    let mut found = Vec::new();
    for (what, range) in facts.ranges() {
        for route in routes {
            let RouteTarget::Link { link, .. } = &route.target else { continue };
            let foreign = route.protocol != ROUTE_PROTOCOL && route.protocol != WITH_ADDRESS;
            let wide = route.dst.prefix_len() == 0 || route.dst.addr().is_multicast();
            if foreign
                && !wide
                && overlap(route.dst, range)
                && !link.starts_with(LINK_PREFIX)
                && !is_rivals(link)
            {
                found
                    .push(failure(format!("the route {route} overlaps the {what} {range}"), renumber(range)));
            }
        }
    }
    Ok(found)
}

fn wifi(facts: &Facts) -> Verdict {
    let Some(link) = facts.settings.announces_on.as_ref().filter(|l| facts.wireless.contains(l)) else {
        return Ok(Vec::new());
    };
    Ok(vec![warning(
        format!(
            "addresses of load balancers are announced on {link}, which is wireless: power saving and access points lose ARP"
        ),
        format!(
            "use a wired link (`--loadbalancer-interface`), or `iw dev {link} set power_save off`; {} may help too",
            joined(["`ip link set promisc on`"])
        ),
    )])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Status;
    use crate::facts::ApiNode;
    use crate::testing::{fires, fires_with, healthy, status};

    #[test]
    fn names_and_addresses() {
        fires("node-name", Status::Failure, |f| f.settings.node_name = "my_node!".into());
        fires("node-address", Status::Failure, |f| f.addresses.retain(|(i, _)| *i != 2));
        fires_with("node-address-shared-nat", Status::Failure, &["node-address"], |f| {
            status(f).node.addresses = vec!["10.0.2.15".into()];
        });
        fires("node-address-duplicate", Status::Failure, |f| {
            let own = f.own_addresses()[0].to_string();
            status(f).nodes[1].addresses = vec![own];
        });
    }

    #[test]
    fn cloned_machines() {
        fires("node-identity-duplicate", Status::Failure, |f| {
            let id = status(f).nodes[0].id.clone();
            status(f).nodes[1].id = id;
        });
        fires("machine-id-duplicate", Status::Warning, |f| {
            let node = |name: &str| ApiNode { name: name.into(), machine_id: "5eed".into() };
            f.api.as_mut().unwrap().nodes = vec![node("a"), node("b")];
        });
    }

    #[test]
    fn ranges_that_collide() {
        let found = fires("cidr-overlap-addresses", Status::Failure, |f| {
            f.addresses.push((2, "10.42.77.1/24".parse().unwrap()));
        });
        assert!(
            found.finding.contains("10.42.77.1/24 on eth0 is in the pod network 10.42.0.0/16"),
            "{found:?}"
        );
        fires("cidr-overlap-routes", Status::Failure, |f| {
            let mut route = f.routes.as_ref().unwrap()[0].clone();
            (route.dst, route.protocol) = ("10.43.0.0/20".parse().unwrap(), 4);
            f.routes.as_mut().unwrap().push(route);
        });
    }

    #[test]
    fn no_way_out_and_wifi() {
        fires("default-route", Status::Note, |f| {
            f.routes.as_mut().unwrap().retain(|r| r.dst.prefix_len() > 0)
        });
        fires("wifi-announcements", Status::Warning, |f| {
            f.settings.announces_on = Some("wlan0".into());
            f.wireless.push("wlan0".into());
        });
        let mut facts = healthy();
        facts.settings.announces_on = Some("eth0".into());
        assert_eq!(wifi(&facts).unwrap(), []);
    }
}
