//! Which addresses of this machine the other nodes reach it by.
//!
//! Given with `--node-ip`, else the source address the kernel would use towards the API (not the default route's: a
//! Vagrant machine's default route leads to a NAT that no other node can reach), else the first global address.

use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use warren_netlink::Netlink;
use warren_types::{Family, marks};

/// What is known about a link and its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkAddress {
    /// Name of the link.
    pub link: String,
    /// Whether the link is up.
    pub up: bool,
    /// The address.
    pub ip: IpAddr,
}

/// Chooses this node's addresses: IPv4 first, at most one a family.
///
/// `given` is what the user said; `towards_api` are source addresses towards the API, best first; `all` is what the
/// machine has, in the kernel's order.
#[must_use]
pub fn choose(given: &[IpAddr], towards_api: &[IpAddr], all: &[LinkAddress]) -> Vec<IpAddr> {
    if !given.is_empty() {
        return sorted(given.to_vec());
    }
    let fit = |ip: &IpAddr| warren_source::convert::usable(*ip);
    let candidates: Vec<&LinkAddress> =
        all.iter().filter(|a| a.up && fit(&a.ip) && !a.link.starts_with(marks::LINK_PREFIX)).collect();
    let mut out: Vec<IpAddr> = Vec::new();
    for ip in towards_api.iter().filter(|ip| fit(ip) && candidates.iter().any(|c| c.ip == **ip)) {
        if !out.iter().any(|o| Family::of(*o) == Family::of(*ip)) {
            out.push(*ip);
        }
    }
    // The other family's address is taken from the same link: that is the network the nodes share.
    let link = out.first().and_then(|ip| candidates.iter().find(|c| c.ip == *ip)).map(|c| c.link.clone());
    for family in [Family::V4, Family::V6] {
        if out.iter().any(|o| Family::of(*o) == family) {
            continue;
        }
        let mut of_family = candidates.iter().filter(|c| Family::of(c.ip) == family);
        let found = match &link {
            Some(link) => of_family.find(|c| c.link == *link),
            None => of_family.next(),
        };
        out.extend(found.map(|c| c.ip));
    }
    sorted(out)
}

/// The addresses of this machine, besides its `internal` ones, on which it serves ports because somebody named them: those in
/// `ranges` and those among `named`. Sorted.
#[must_use]
pub fn served(
    all: &[LinkAddress],
    internal: &[IpAddr],
    ranges: &[IpNet],
    named: &BTreeSet<IpAddr>,
) -> Vec<IpAddr> {
    let wanted = |ip: &IpAddr| named.contains(ip) || ranges.iter().any(|range| range.contains(ip));
    let fit = |ip: &IpAddr| warren_source::convert::usable(*ip) && !internal.contains(ip);
    let own = all.iter().filter(|a| !a.link.starts_with(marks::LINK_PREFIX)).map(|a| a.ip);
    own.filter(|ip| wanted(ip) && fit(ip)).collect::<BTreeSet<_>>().into_iter().collect()
}

fn sorted(mut ips: Vec<IpAddr>) -> Vec<IpAddr> {
    ips.sort_by_key(IpAddr::is_ipv6);
    ips
}

/// Reads what the machine has, in the kernel's order.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn list(netlink: &Netlink) -> Result<Vec<LinkAddress>, warren_netlink::NetlinkError> {
    let links = netlink.list_links().await?;
    let named = |(index, net): (u32, IpNet)| {
        let link = links.iter().find(|l| l.index == index)?;
        Some(LinkAddress { link: link.name.clone(), up: link.up, ip: net.addr() })
    };
    Ok(netlink.list_addresses(None).await?.into_iter().filter_map(named).collect())
}

/// Asks the kernel for the ways to the API, and chooses. `api` are addresses of the API server, as far as they are known;
/// `all` is what the machine has; `registered` are the addresses of the Node object where somebody else writes it: they tell
/// where the API is reached by loopback, as on k3s.
pub async fn observe(
    netlink: &Netlink,
    given: &[IpAddr],
    api: &[IpAddr],
    all: &[LinkAddress],
    registered: &[IpAddr],
) -> Vec<IpAddr> {
    if !given.is_empty() {
        return choose(given, &[], &[]);
    }
    let mut towards = Vec::new();
    for ip in api {
        // A server on this machine is reached from its own address: that address is the answer then.
        if let Ok(route) = netlink.route_to(*ip).await {
            towards.extend(route.src.or(Some(*ip)));
        }
    }
    towards.extend(registered);
    choose(&[], &towards, all)
}

/// The addresses behind the host part of a URL; none when the name cannot be resolved now.
pub async fn resolve(url: &str) -> Vec<IpAddr> {
    let rest = url.split_once("://").map_or(url, |(_, r)| r);
    let host = rest.split('/').next().unwrap_or_default();
    if let Ok(address) = host.parse::<SocketAddr>() {
        return vec![address.ip()];
    }
    let with_port = if host.parse::<std::net::Ipv6Addr>().is_ok() {
        format!("[{host}]:443")
    } else if host.contains(':') && !host.ends_with(']') {
        host.to_owned()
    } else {
        format!("{host}:443")
    };
    let lookup = tokio::time::timeout(std::time::Duration::from_secs(3), tokio::net::lookup_host(with_port));
    match lookup.await {
        Ok(Ok(addresses)) => addresses.map(|a| a.ip()).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }
    fn on(link: &str, s: &str) -> LinkAddress {
        LinkAddress { link: link.into(), up: true, ip: ip(s) }
    }
    fn machine() -> Vec<LinkAddress> {
        vec![
            on("lo", "127.0.0.1"),
            on("eth0", "10.0.2.15"),
            on("eth1", "192.168.56.11"),
            on("eth1", "fe80::1"),
            on("eth1", "2001:db8::11"),
            on("wrn-wg", "10.42.0.1"),
        ]
    }

    #[test]
    fn the_address_towards_the_api_wins_over_the_first() {
        assert_eq!(
            choose(&[], &[ip("192.168.56.11")], &machine()),
            [ip("192.168.56.11"), ip("2001:db8::11")]
        );
        assert_eq!(choose(&[], &[], &machine()), [ip("10.0.2.15"), ip("2001:db8::11")]);
    }

    #[test]
    fn an_api_on_loopback_tells_nothing_and_the_registered_address_counts_if_it_is_ours() {
        let towards = |registered| choose(&[], &[ip("127.0.0.1"), ip(registered)], &machine());
        assert_eq!(towards("192.168.56.11"), [ip("192.168.56.11"), ip("2001:db8::11")]);
        assert_eq!(towards("192.168.56.99"), [ip("10.0.2.15"), ip("2001:db8::11")]);
    }

    #[test]
    fn what_was_given_is_used_as_it_is() {
        let given = [ip("2001:db8::9"), ip("192.0.2.9")];
        assert_eq!(choose(&given, &[ip("192.168.56.11")], &machine()), [ip("192.0.2.9"), ip("2001:db8::9")]);
    }

    #[test]
    fn loopback_link_local_and_our_own_links_are_never_chosen() {
        let all = [
            on("lo", "127.0.0.1"),
            on("eth0", "169.254.3.4"),
            on("wrn-wg", "10.42.0.1"),
            on("eth0", "fe80::1"),
        ];
        assert_eq!(choose(&[], &[ip("127.0.0.1"), ip("10.42.0.1")], &all), Vec::<IpAddr>::new());
    }

    #[test]
    fn only_what_somebody_named_is_served_besides() {
        let internal = [ip("192.168.56.11"), ip("2001:db8::11")];
        let named = |texts: &[&str]| texts.iter().map(|text| ip(text)).collect();
        let by_range = |range: &str| served(&machine(), &internal, &[range.parse().unwrap()], &named(&[]));
        assert_eq!(served(&machine(), &internal, &[], &named(&[])), Vec::<IpAddr>::new());
        assert_eq!(by_range("0.0.0.0/0"), [ip("10.0.2.15")], "neither loopback nor the pod network's");
        assert_eq!(by_range("::/0"), Vec::<IpAddr>::new(), "nothing of one link");
        let hosts = named(&["10.0.2.15", "192.168.56.11", "203.0.113.1", "127.0.0.1"]);
        assert_eq!(served(&machine(), &internal, &[], &hosts), [ip("10.0.2.15")]);
    }

    #[tokio::test]
    async fn addresses_in_urls_need_no_resolver() {
        assert_eq!(resolve("https://192.0.2.1:6443").await, [ip("192.0.2.1")]);
        assert_eq!(resolve("https://[2001:db8::1]:6443/").await, [ip("2001:db8::1")]);
    }
}
