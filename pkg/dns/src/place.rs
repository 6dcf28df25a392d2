//! Where the server is reached: its addresses, and what in the kernel leads to them.
//!
//! The addresses are made the host's own by routes of the table `local`, which carry Warren's protocol number; no link has
//! them. What goes to and comes from their port 53 is left out of connection tracking, and so out of all translation, also
//! that of another proxy which still knows a Service there.

use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use warren_netlink::nft::build::{base, equals, rule};
use warren_netlink::nft::expr::{Expr, Header, Meta, Register};
use warren_netlink::nft::model::{Chain, Element, Field, OUTPUT, PREROUTING, Rule, Ruleset, Set};
use warren_types::Service;
use warren_types::cluster::dns_address;

/// The port of DNS.
pub const PORT: u16 = 53;
/// The Service that stands for cluster DNS: `kube-system/kube-dns`, whoever serves it.
pub const SERVICE: &str = "kube-system/kube-dns";
/// `NF_IP_PRI_RAW`: before connection tracking.
const PRIORITY_RAW: i32 = -300;
const PROTOCOLS: [u8; 2] = [6, 17];

/// The addresses of cluster DNS: those of the configuration, else of the Service that stands for it, else the customary ones.
#[must_use]
pub fn addresses(
    configured: &[IpAddr],
    service: Option<&Service>,
    service_ranges: &[IpNet],
) -> BTreeSet<IpAddr> {
    if !configured.is_empty() {
        return configured.iter().copied().collect();
    }
    match service {
        Some(service) if !service.cluster_ips.is_empty() => service.cluster_ips.iter().copied().collect(),
        _ => service_ranges.iter().filter_map(dns_address).collect(),
    }
}

/// The section `dns_` of Warren's table.
pub(crate) fn ruleset(addresses: &BTreeSet<IpAddr>) -> Ruleset {
    let mut all = Ruleset::default();
    let mut rules = [Vec::new(), Vec::new()];
    for v4 in [true, false] {
        let (set, field) = if v4 { ("dns_servers4", Field::Ipv4) } else { ("dns_servers6", Field::Ipv6) };
        all.sets.insert(set.into(), Set::of_tuples(&[field, Field::Protocol, Field::Port]));
        let elements =
            addresses.iter().filter(|a| a.is_ipv4() == v4).flat_map(|a| PROTOCOLS.map(|p| element(*a, p)));
        all.elements.insert(set.into(), elements.collect());
        // Questions of pods and of the host itself, then answers.
        rules[0].push(untracked(set, v4, true));
        rules[1].extend([untracked(set, v4, true), untracked(set, v4, false)]);
    }
    for ((name, hook), rules) in
        [("dns_arriving", PREROUTING), ("dns_leaving", OUTPUT)].into_iter().zip(rules)
    {
        all.chains.insert(name.into(), Chain { base: base("filter", hook, PRIORITY_RAW) });
        all.rules.insert(name.into(), rules);
    }
    all
}

/// Address, protocol and port, each padded to four bytes.
fn element(address: IpAddr, protocol: u8) -> Element {
    let mut key = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    key.extend([protocol, 0, 0, 0]);
    key.extend(PORT.to_be_bytes());
    key.extend([0, 0]);
    Element::exact(key)
}

/// Leaves out what is to, or from, one of the set.
fn untracked(set: &str, v4: bool, to: bool) -> Rule {
    let (family, length, source, destination) = if v4 { (2, 4, 12, 16) } else { (10, 16, 8, 24) };
    let (address, port) = if to { (destination, 2) } else { (source, 0) };
    let protocol = Register::FIRST.after(length);
    let number = protocol.after(1);
    let lookup = vec![
        Expr::Payload {
            header: Header::Network,
            offset: address,
            length: length.into(),
            into: Register::FIRST,
        },
        Expr::Meta { load: Meta::Protocol, into: protocol },
        Expr::Payload { header: Header::Transport, offset: port, length: 2, into: number },
        Expr::Lookup { set: set.into(), from: Register::FIRST, inverted: false },
        Expr::NoTrack,
    ];
    rule([equals(Meta::Family, vec![family]), lookup])
}

/// Where it listens.
pub(crate) fn listen(addresses: &BTreeSet<IpAddr>) -> Vec<SocketAddr> {
    addresses.iter().map(|address| SocketAddr::new(*address, PORT)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_customary_address_is_the_tenth() {
        let ranges: Vec<IpNet> =
            ["10.96.0.0/12", "fd00:43::/112", "10.0.0.0/30"].map(|r| r.parse().unwrap()).into();
        assert_eq!(addresses(&[], None, &ranges), set(&["10.96.0.10", "fd00:43::a"]));
        assert_eq!(addresses(&["1.2.3.4".parse().unwrap()], None, &ranges), set(&["1.2.3.4"]));
    }
}
