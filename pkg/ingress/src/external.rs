//! Names of ExternalName Services, and where they may lead.
//!
//! Whoever may write a Service could have this node ask anything that the node reaches and clients do not: the metadata of
//! the cloud, programs on the node's loopback, pods that a policy shuts. So what a name resolves to is judged, each time.

use ipnet::{IpNet, Ipv6Net};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use warren_types::{ClusterConfig, Node};

/// How many names are served; each is asked for again and again.
pub(crate) const MOST_NAMES: usize = 256;
/// How many addresses of a name are used.
pub(crate) const MOST_ADDRESSES: usize = 32;

/// IPv4 addresses as IPv6 networks that translate have them (RFC 6052).
const TRANSLATED: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);
/// Addresses of metadata and control of clouds that no other rule covers: Alibaba, Azure, AWS by IPv6.
const CLOUDS: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// What a name leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The addresses that may be asked.
    pub addresses: Vec<IpAddr>,
    /// What is wrong with the name.
    pub fault: Option<String>,
}

/// Where no name may lead.
#[derive(Debug, Default)]
pub(crate) struct Forbidden {
    ranges: Vec<(IpNet, &'static str)>,
    nodes: BTreeSet<IpAddr>,
}

impl Forbidden {
    /// Nothing while the ranges of the cluster are not known: then nothing may be asked.
    pub(crate) fn new<'a>(
        cluster: Option<&ClusterConfig>,
        nodes: impl IntoIterator<Item = &'a Node>,
        own: &BTreeSet<IpAddr>,
    ) -> Option<Self> {
        let cluster = cluster.filter(|c| !c.cluster_cidrs.is_empty() && !c.service_cidrs.is_empty())?;
        let pods = cluster.cluster_cidrs.iter().map(|range| (*range, "is a pod's"));
        let services = cluster.service_cidrs.iter().map(|range| (*range, "is a Service's"));
        let mut all = Self { ranges: pods.chain(services).collect(), nodes: own.clone() };
        for node in nodes {
            all.ranges.extend(node.pod_cidrs.iter().map(|range| (range, "is a pod's")));
            all.nodes.extend(node.internal_ips.iter().map(IpAddr::to_canonical));
        }
        Some(all)
    }

    /// Why an address may not be asked, if so.
    fn why(&self, address: IpAddr) -> Option<&'static str> {
        let address = embedded(address);
        let special = match address {
            IpAddr::V4(v4) if v4.is_link_local() => Some("is link-local"),
            IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.octets()[0] >= 240 => Some("is nobody's"),
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("is link-local"),
            _ if address.is_loopback() => Some("is the node's loopback"),
            _ if address.is_unspecified() => Some("is nobody's"),
            _ if address.is_multicast() => Some("is multicast"),
            _ if CLOUDS.contains(&address) => Some("is metadata of the cloud"),
            _ if self.nodes.contains(&address) => Some("is a node's"),
            _ => None,
        };
        let in_range = || self.ranges.iter().find(|(range, _)| range.contains(&address)).map(|(_, why)| *why);
        special.or_else(in_range)
    }
}

/// The address that is meant: of an IPv6 form of an IPv4 address, that one.
fn embedded(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if Ipv6Net::new_assert(TRANSLATED, 96).contains(&v6) => {
            IpAddr::V4(Ipv4Addr::from_bits(v6.to_bits() as u32))
        }
        other => other,
    }
}

/// What of the last good answer for a name may be asked. `error` is why there is none newer.
pub(crate) fn judge(
    name: &str,
    answer: Option<&[IpAddr]>,
    error: Option<&str>,
    forbidden: Option<&Forbidden>,
) -> Resolved {
    let Some(forbidden) = forbidden else {
        let fault = "the ranges of the cluster are not known, which no name may lead to; give the agents \
                     --cluster-cidr and --service-cidr"
            .to_owned();
        return Resolved { addresses: Vec::new(), fault: Some(fault) };
    };
    let mut resolved = Resolved::default();
    for address in answer.unwrap_or_default() {
        match forbidden.why(*address) {
            None => resolved.addresses.push(*address),
            Some(why) if resolved.fault.is_none() => {
                resolved.fault = Some(format!(
                    "{name} leads to {address}, which {why} and is not asked for clients; name what is outside the cluster"
                ));
            }
            Some(_) => {}
        }
    }
    resolved.addresses.sort();
    resolved.addresses.dedup();
    resolved.addresses.truncate(MOST_ADDRESSES);
    if let (None, Some(error)) = (&resolved.fault, error) {
        let meanwhile = if answer.is_some() { "; its last addresses are used" } else { "" };
        resolved.fault = Some(format!(
            "{name} cannot be resolved ({error}){meanwhile}; does this node's resolver know it?"
        ));
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren_types::{Labels, NodeName, PodCidrs};

    fn forbidden() -> Forbidden {
        let cluster = ClusterConfig {
            cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap(), "fd57:42::/48".parse().unwrap()],
            service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
        };
        let node = Node {
            name: NodeName::new("n1").unwrap(),
            uid: String::new(),
            node_id: None,
            public_key: None,
            endpoints: Vec::new(),
            observed: Default::default(),
            held_ports: Vec::new(),
            ingress: Vec::new(),
            internal_ips: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            served_ips: Vec::new(),
            pod_cidrs: PodCidrs::parse(["10.99.0.0/24"]).unwrap(),
            labels: Labels::new(),
            ready: true,
        };
        let own = BTreeSet::from(["198.51.100.9".parse().unwrap()]);
        Forbidden::new(Some(&cluster), [&node], &own).unwrap()
    }

    #[test]
    fn no_name_leads_into_the_node_or_the_cluster() {
        let forbidden = forbidden();
        for bad in [
            "127.0.0.1",
            "127.8.8.8",
            "::1",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "::ffff:127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::7f00:1",
            "169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "168.63.129.16",
            "100.100.100.200",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "192.0.2.1",
            "2001:db8::1",
            "198.51.100.9",
            "::ffff:192.0.2.1",
            "10.42.7.7",
            "::ffff:10.42.7.7",
            "fd57:42::5",
            "10.99.0.9",
            "10.43.0.1",
        ] {
            let judged = judge("a.test", Some(&[bad.parse().unwrap()]), None, Some(&forbidden));
            assert_eq!(judged.addresses, Vec::<IpAddr>::new(), "{bad}");
            assert!(judged.fault.is_some_and(|fault| fault.contains(bad)), "{bad}");
        }
        for good in ["192.0.2.2", "10.44.0.1", "2001:db8::2", "64:ff9b::c000:202", "203.0.113.1"] {
            let address = good.parse().unwrap();
            let judged = judge("a.test", Some(&[address]), None, Some(&forbidden));
            assert_eq!(judged, Resolved { addresses: vec![address], fault: None }, "{good}");
        }
    }

    #[test]
    fn a_name_of_both_kinds_keeps_the_good_ones_and_the_fault() {
        let answer = ["203.0.113.2", "127.0.0.1", "203.0.113.1"].map(|text| text.parse().unwrap());
        let judged = judge("a.test", Some(&answer), None, Some(&forbidden()));
        assert_eq!(judged.addresses, [answer[2], answer[0]]);
        assert!(judged.fault.unwrap().contains("127.0.0.1"));
    }

    #[test]
    fn a_name_that_resolves_no_more_keeps_its_last_addresses() {
        let answer = ["203.0.113.1".parse().unwrap()];
        let judged = judge("a.test", Some(&answer), Some("timed out"), Some(&forbidden()));
        assert_eq!(judged.addresses, answer);
        assert!(judged.fault.unwrap().contains("its last addresses are used"));
        let judged = judge("a.test", None, Some("timed out"), Some(&forbidden()));
        assert!(judged.addresses.is_empty() && judged.fault.unwrap().contains("timed out"));
        assert_eq!(judge("a.test", None, None, Some(&forbidden())), Resolved::default());
    }

    #[test]
    fn nothing_is_asked_before_the_ranges_of_the_cluster_are_known() {
        let none = Forbidden::new(None, [], &BTreeSet::new());
        assert!(none.is_none());
        assert!(Forbidden::new(Some(&ClusterConfig::default()), [], &BTreeSet::new()).is_none());
        let judged = judge("a.test", Some(&["203.0.113.1".parse().unwrap()]), None, none.as_ref());
        assert!(judged.addresses.is_empty() && judged.fault.unwrap().contains("--service-cidr"));
    }
}
