//! Address families and podCIDRs.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of `addr`.
    #[must_use]
    pub fn of(addr: IpAddr) -> Self {
        if addr.is_ipv4() { Family::V4 } else { Family::V6 }
    }
    /// The length of a single-address prefix: 32 or 128.
    #[must_use]
    pub fn max_prefix_len(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

/// Why a list of podCIDRs was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPodCidrs {
    /// Not a prefix at all.
    #[error("podCIDR {0:?} is not a prefix such as 10.42.1.0/24")]
    Syntax(String),
    /// Two prefixes of one family.
    #[error("podCIDRs {0} and {1} are of the same family; at most one IPv4 and one IPv6 prefix is allowed")]
    SameFamily(IpNet, IpNet),
    /// Address bits are set below the prefix length.
    #[error("podCIDR {0} has host bits set; did you mean {1}?")]
    HostBits(IpNet, IpNet),
    /// Loopback, link-local, multicast or unspecified space, or too large to be a node's.
    #[error(
        "podCIDR {0} is not usable for pods: loopback, link-local, multicast and whole-internet prefixes are refused"
    )]
    Unusable(IpNet),
}

/// A node's podCIDRs: at most one per family (`Node.spec.podCIDRs`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodCidrs {
    /// The IPv4 prefix.
    pub v4: Option<Ipv4Net>,
    /// The IPv6 prefix.
    pub v6: Option<Ipv6Net>,
}

impl PodCidrs {
    /// Validates a list of prefixes.
    ///
    /// # Errors
    /// [`InvalidPodCidrs`], naming the offending prefix.
    pub fn from_nets(nets: impl IntoIterator<Item = IpNet>) -> Result<Self, InvalidPodCidrs> {
        let mut out = Self::default();
        for net in nets {
            if net.trunc() != net {
                return Err(InvalidPodCidrs::HostBits(net, net.trunc()));
            }
            if !usable(net) {
                return Err(InvalidPodCidrs::Unusable(net));
            }
            let before = match net {
                IpNet::V4(n) => out.v4.replace(n).map(IpNet::V4),
                IpNet::V6(n) => out.v6.replace(n).map(IpNet::V6),
            };
            if let Some(before) = before {
                return Err(InvalidPodCidrs::SameFamily(before, net));
            }
        }
        Ok(out)
    }

    /// Parses and validates the strings of `Node.spec.podCIDRs`.
    ///
    /// # Errors
    /// [`InvalidPodCidrs`], naming the offending string or prefix.
    pub fn parse<S: AsRef<str>>(list: impl IntoIterator<Item = S>) -> Result<Self, InvalidPodCidrs> {
        let nets: Result<Vec<IpNet>, _> = list
            .into_iter()
            .map(|s| {
                s.as_ref().parse().map_err(|_| InvalidPodCidrs::Syntax(s.as_ref().chars().take(80).collect()))
            })
            .collect();
        Self::from_nets(nets?)
    }

    /// The prefixes, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> + use<> {
        self.v4.map(IpNet::V4).into_iter().chain(self.v6.map(IpNet::V6))
    }
    /// Whether there is no prefix at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }
    /// Whether `addr` lies in one of the prefixes.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.iter().any(|n| n.contains(&addr))
    }
    /// Whether any prefix of `self` overlaps any of `other`.
    #[must_use]
    pub fn overlaps(&self, other: &PodCidrs) -> bool {
        self.iter().any(|a| other.iter().any(|b| overlap(a, b)))
    }
    /// The node's own addresses inside its podCIDRs: the first after the network address of each prefix. They
    /// sit on the tunnel link, are the source of the node's own traffic to pods, and are never given to a pod. A prefix
    /// of a single address has none: the next one is somebody else's.
    pub fn node_addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 =
            self.v4.map(|n| IpAddr::from(std::net::Ipv4Addr::from(u32::from(n.network()).wrapping_add(1))));
        let v6 =
            self.v6.map(|n| IpAddr::from(std::net::Ipv6Addr::from(u128::from(n.network()).wrapping_add(1))));
        let cidrs = *self;
        v4.into_iter().chain(v6).filter(move |addr| cidrs.contains(*addr))
    }
}

/// Whether two prefixes share an address.
#[must_use]
pub fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn usable(net: IpNet) -> bool {
    let a = net.network();
    let special = a.is_loopback() || a.is_multicast() || a.is_unspecified();
    let link_local = match a {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !special && !link_local && net.prefix_len() >= 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_prefix_a_family() {
        let ok = PodCidrs::parse(["10.42.1.0/24", "fd00:1::/64"]).unwrap();
        assert_eq!(ok.iter().count(), 2);
        assert_eq!(
            ok.node_addresses().collect::<Vec<_>>(),
            ["10.42.1.1".parse::<IpAddr>().unwrap(), "fd00:1::1".parse().unwrap()]
        );
        assert!(matches!(
            PodCidrs::parse(["10.0.0.0/24", "10.1.0.0/24"]),
            Err(InvalidPodCidrs::SameFamily(..))
        ));
        assert!(matches!(PodCidrs::parse(["10.0.0.1/24"]), Err(InvalidPodCidrs::HostBits(..))));
        for bad in ["127.0.0.0/24", "169.254.0.0/24", "224.0.0.0/24", "0.0.0.0/0", "fe80::/64", "ff00::/64"] {
            assert!(matches!(PodCidrs::parse([bad]), Err(InvalidPodCidrs::Unusable(_))), "{bad}");
        }
        assert!(matches!(PodCidrs::parse(["x"]), Err(InvalidPodCidrs::Syntax(_))));
    }

    fn any_prefix() -> impl Strategy<Value = String> {
        prop_oneof![
            (any::<u32>(), 0u8..=33).prop_map(|(a, l)| match Ipv4Net::new(a.into(), l) {
                Ok(net) if a % 2 == 0 => net.trunc().to_string(),
                _ => format!("{}/{l}", std::net::Ipv4Addr::from(a)),
            }),
            (any::<u128>(), 0u8..=129).prop_map(|(a, l)| match Ipv6Net::new(a.into(), l) {
                Ok(net) if a % 2 == 0 => net.trunc().to_string(),
                _ => format!("{}/{l}", std::net::Ipv6Addr::from(a)),
            }),
            "[0-9a-f.:/]{0,24}",
            "\\PC{0,30}",
        ]
    }

    proptest! {
        #[test]
        fn any_list_is_refused_with_a_reason_or_comes_back_as_it_was(list in prop::collection::vec(any_prefix(), 0..4)) {
            match PodCidrs::parse(&list) {
                Ok(cidrs) => {
                    prop_assert_eq!(cidrs.iter().count(), list.len());
                    prop_assert_eq!(PodCidrs::parse(cidrs.iter().map(|n| n.to_string())), Ok(cidrs));
                    prop_assert!(cidrs.iter().all(|n| list.iter().any(|s| s.parse() == Ok(n))));
                    prop_assert!(cidrs.node_addresses().all(|a| cidrs.contains(a)));
                    let json = serde_json::to_string(&cidrs).unwrap();
                    prop_assert_eq!(serde_json::from_str::<PodCidrs>(&json).unwrap(), cidrs);
                }
                Err(e) => prop_assert!((10..400).contains(&e.to_string().len()), "{}", e),
            }
        }

        #[test]
        fn overlap_is_symmetric_and_means_a_shared_address(a: u32, al in 8u8..=32, b: u32, bl in 8u8..=32) {
            let net = |x: u32, l| IpNet::V4(Ipv4Net::new(x.into(), l).unwrap().trunc());
            let (a, b) = (net(a, al), net(b, bl));
            prop_assert_eq!(overlap(a, b), overlap(b, a));
            prop_assert_eq!(overlap(a, b), a.contains(&b) || b.contains(&a));
        }
    }
}
