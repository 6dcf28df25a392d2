//! podCIDRs for nodes, and the check of the cluster's ranges. Pure: no clock, no I/O.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Family;
use crate::cidr::overlap;

/// Why podCIDRs cannot be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CidrError {
    /// Every podCIDR of the range belongs to a node.
    #[error(
        "no free /{prefix} is left in the cluster range {range}; delete nodes that are gone, or start the server with a larger --cluster-cidr"
    )]
    Exhausted {
        /// The cluster range.
        range: IpNet,
        /// Prefix length of a node's podCIDR.
        prefix: u8,
    },
    /// Another node has it, or a part of it.
    #[error("podCIDR {cidr} overlaps {other}, which belongs to node {node}")]
    Taken {
        /// The wanted prefix.
        cidr: IpNet,
        /// The prefix in the way.
        other: IpNet,
        /// Its node.
        node: String,
    },
    /// Two ranges of one family in a flag.
    #[error(
        "--{flag}: {first} and {second} are of the same family; give at most one IPv4 and one IPv6 range"
    )]
    SameFamily {
        /// The flag.
        flag: &'static str,
        /// One range.
        first: IpNet,
        /// The other.
        second: IpNet,
    },
    /// No range at all.
    #[error("--{flag}: give at least one range, such as 10.42.0.0/16")]
    Empty {
        /// The flag.
        flag: &'static str,
    },
    /// Host bits, or space that cannot be used.
    #[error("--{flag}: {reason}")]
    Unusable {
        /// The flag.
        flag: &'static str,
        /// Why.
        reason: String,
    },
    /// A node's prefix does not fit.
    #[error("--{flag} {prefix}: must be between {range} and /{longest}", range = range.prefix_len())]
    Prefix {
        /// The flag.
        flag: &'static str,
        /// Its value.
        prefix: u8,
        /// The cluster range.
        range: IpNet,
        /// The longest that makes sense.
        longest: u8,
    },
    /// The ranges of pods and Services share addresses.
    #[error(
        "--cluster-cidr {cluster} and --service-cidr {service} overlap; give ranges that share no address"
    )]
    Overlap {
        /// Range of pods.
        cluster: IpNet,
        /// Range of Services.
        service: IpNet,
    },
    /// The host already reaches these addresses elsewhere.
    #[error(
        "--{flag} {range} overlaps {route}, to which this host has a route; use a free range, for example --{flag} {proposal}"
    )]
    Routed {
        /// The flag.
        flag: &'static str,
        /// The range.
        range: IpNet,
        /// The route in the way.
        route: IpNet,
        /// A range of the same size that is free.
        proposal: String,
    },
}

/// One family's range and what is taken of it.
#[derive(Debug, Clone)]
struct Pool {
    range: IpNet,
    prefix: u8,
    /// Where the search for the next free one begins: freed prefixes are used again last.
    cursor: u128,
}

/// Gives every node its own podCIDR, one a family.
#[derive(Debug, Clone)]
pub struct PodCidrAllocator {
    pools: Vec<Pool>,
    /// Taken prefixes by first address, disjoint; with their node.
    taken: BTreeMap<IpAddr, (IpNet, String)>,
}

fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => u32::from(a).into(),
        IpAddr::V6(a) => a.into(),
    }
}

fn net(family: Family, addr: u128, prefix: u8) -> Option<IpNet> {
    match family {
        Family::V4 => Ipv4Net::new(Ipv4Addr::from(u32::try_from(addr).ok()?), prefix).ok().map(IpNet::V4),
        Family::V6 => Ipv6Net::new(Ipv6Addr::from(addr), prefix).ok().map(IpNet::V6),
    }
}

impl Pool {
    fn family(&self) -> Family {
        Family::of(self.range.addr())
    }
    /// How many podCIDRs the range holds.
    fn count(&self) -> u128 {
        1u128.checked_shl(u32::from(self.prefix - self.range.prefix_len())).unwrap_or(u128::MAX)
    }
    fn step(&self) -> u128 {
        1u128.checked_shl(u32::from(self.family().max_prefix_len() - self.prefix)).unwrap_or(u128::MAX)
    }
    fn nth(&self, index: u128) -> Option<IpNet> {
        let start = bits(self.range.network()).checked_add(index.checked_mul(self.step())?)?;
        net(self.family(), start, self.prefix)
    }
    /// The index after `cidr`, when it lies in the range.
    fn after(&self, cidr: IpNet) -> Option<u128> {
        let inside = self.range.contains(&cidr.broadcast());
        inside.then(|| (bits(cidr.broadcast()) - bits(self.range.network())) / self.step() + 1)
    }
}

impl PodCidrAllocator {
    /// Gives prefixes of the given lengths from `ranges` (at most one a family; see [`check_ranges`]).
    ///
    /// # Errors
    /// [`CidrError::Prefix`] when a length does not fit its range.
    pub fn new(ranges: &[IpNet], prefix_v4: u8, prefix_v6: u8) -> Result<Self, CidrError> {
        let mut pools = Vec::new();
        for range in ranges {
            let (flag, prefix, longest) = match range {
                IpNet::V4(_) => ("node-prefix-v4", prefix_v4, 30),
                IpNet::V6(_) => ("node-prefix-v6", prefix_v6, 126),
            };
            if prefix < range.prefix_len() || prefix > longest {
                return Err(CidrError::Prefix { flag, prefix, range: *range, longest });
            }
            pools.push(Pool { range: range.trunc(), prefix, cursor: 0 });
        }
        Ok(Self { pools, taken: BTreeMap::new() })
    }

    /// Forgets every node.
    pub fn clear(&mut self) {
        self.taken.clear();
    }

    /// The taken prefix that shares addresses with `cidr`, unless it is `node`'s.
    fn in_the_way(&self, cidr: IpNet, node: &str) -> Option<&(IpNet, String)> {
        let before = self.taken.range(..=cidr.network()).next_back().map(|(_, t)| t);
        let inside = self.taken.range(cidr.network()..=cidr.broadcast()).map(|(_, t)| t);
        before.into_iter().chain(inside).find(|(other, owner)| owner != node && overlap(*other, cidr))
    }

    /// Gives `node` one prefix a family.
    ///
    /// # Errors
    /// [`CidrError::Exhausted`]; then the node gets none at all.
    pub fn assign(&mut self, node: &str) -> Result<Vec<IpNet>, CidrError> {
        let mut given = Vec::new();
        let mut cursors = Vec::new();
        for pool in &self.pools {
            let (cidr, cursor) =
                self.free(pool).ok_or(CidrError::Exhausted { range: pool.range, prefix: pool.prefix })?;
            given.push(cidr);
            cursors.push(cursor);
        }
        for (pool, cursor) in self.pools.iter_mut().zip(cursors) {
            pool.cursor = cursor;
        }
        self.release(node);
        for cidr in &given {
            self.taken.insert(cidr.network(), (*cidr, node.to_owned()));
        }
        Ok(given)
    }

    /// The next free prefix after the cursor, and the cursor after it.
    fn free(&self, pool: &Pool) -> Option<(IpNet, u128)> {
        let count = pool.count();
        // Every step over something taken leaves it behind, so taken + 1 steps from either start are enough.
        for (from, to) in [(pool.cursor.min(count), count), (0, pool.cursor.min(count))] {
            let mut index = from;
            while index < to {
                let cidr = pool.nth(index)?;
                match self.in_the_way(cidr, "") {
                    None => return Some((cidr, index + 1)),
                    Some((other, _)) => index = pool.after(*other).unwrap_or(index + 1).max(index + 1),
                }
            }
        }
        None
    }

    /// Records that `node` has these prefixes, in place of what it had.
    ///
    /// # Errors
    /// [`CidrError::Taken`]; then nothing has changed.
    pub fn occupy(&mut self, node: &str, cidrs: &[IpNet]) -> Result<(), CidrError> {
        for cidr in cidrs {
            if let Some((other, owner)) = self.in_the_way(*cidr, node) {
                return Err(CidrError::Taken { cidr: *cidr, other: *other, node: owner.clone() });
            }
        }
        self.release(node);
        for cidr in cidrs {
            self.taken.insert(cidr.network(), (*cidr, node.to_owned()));
            for pool in &mut self.pools {
                if let Some(after) = pool.after(*cidr).filter(|_| pool.range.contains(&cidr.network())) {
                    pool.cursor = pool.cursor.max(after);
                }
            }
        }
        Ok(())
    }

    /// Frees what `node` had.
    pub fn release(&mut self, node: &str) {
        self.taken.retain(|_, (_, owner)| owner != node);
    }
}

/// Checks the cluster's ranges by themselves and against the routes of the host.
///
/// # Errors
/// The first fault, with a proposal where a range is in use on this host.
pub fn check_ranges(cluster: &[IpNet], service: &[IpNet], host_routes: &[IpNet]) -> Result<(), CidrError> {
    for (flag, ranges) in [("cluster-cidr", cluster), ("service-cidr", service)] {
        if ranges.is_empty() {
            return Err(CidrError::Empty { flag });
        }
        for (i, range) in ranges.iter().enumerate() {
            if let Some(other) = ranges[..i].iter().find(|o| Family::of(o.addr()) == Family::of(range.addr()))
            {
                return Err(CidrError::SameFamily { flag, first: *other, second: *range });
            }
            crate::PodCidrs::from_nets([*range]).map_err(|e| CidrError::Unusable {
                flag,
                reason: e.to_string().replacen("podCIDR ", "", 1),
            })?;
        }
    }
    for c in cluster {
        if let Some(s) = service.iter().find(|s| overlap(*c, **s)) {
            return Err(CidrError::Overlap { cluster: *c, service: *s });
        }
    }
    for (flag, ranges, others) in [("cluster-cidr", cluster, service), ("service-cidr", service, cluster)] {
        for range in ranges {
            let Some(route) = host_routes.iter().find(|r| overlap(**r, *range)) else { continue };
            let avoid: Vec<IpNet> = host_routes.iter().chain(others).copied().collect();
            let proposal =
                propose(*range, &avoid).map_or_else(|| "one that no route covers".into(), |p| p.to_string());
            return Err(CidrError::Routed { flag, range: *range, route: *route, proposal });
        }
    }
    Ok(())
}

/// A private range as large as `like` that overlaps none of `avoid`.
fn propose(like: IpNet, avoid: &[IpNet]) -> Option<IpNet> {
    let bases: &[&str] = match like {
        IpNet::V4(_) => &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"],
        IpNet::V6(_) => &["fd57:4e00::/32"],
    };
    let family = Family::of(like.addr());
    for base in bases {
        let base: IpNet = base.parse().ok()?;
        if like.prefix_len() < base.prefix_len() {
            continue;
        }
        let step = 1u128.checked_shl(u32::from(family.max_prefix_len() - like.prefix_len()))?;
        // From the size of the range, or for small ones from a /16 or /48, so that proposals stay round numbers.
        let round = match family {
            Family::V4 => step.max(1 << 16),
            Family::V6 => step.max(1 << 80),
        };
        // From the middle of the private space, where few networks are.
        let half = 1u128.checked_shl(u32::from(family.max_prefix_len() - base.prefix_len()))? / 2;
        let mut at = bits(base.network()) + half / round * round;
        for _ in 0..4096 {
            let candidate = net(family, at, like.prefix_len()).filter(|c| base.contains(&c.broadcast()));
            let Some(candidate) = candidate else { break };
            if !avoid.iter().any(|a| overlap(*a, candidate)) {
                return Some(candidate);
            }
            at += round;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|s| s.parse().unwrap()).collect()
    }

    #[test]
    fn one_prefix_a_family_and_freed_ones_last() {
        let mut a = PodCidrAllocator::new(&nets(&["10.42.0.0/22", "fd00::/62"]), 24, 64).unwrap();
        assert_eq!(a.assign("n1").unwrap(), nets(&["10.42.0.0/24", "fd00::/64"]));
        assert_eq!(a.assign("n2").unwrap(), nets(&["10.42.1.0/24", "fd00:0:0:1::/64"]));
        a.release("n1");
        assert_eq!(a.assign("n3").unwrap(), nets(&["10.42.2.0/24", "fd00:0:0:2::/64"]));
        assert_eq!(a.assign("n4").unwrap(), nets(&["10.42.3.0/24", "fd00:0:0:3::/64"]));
        assert_eq!(a.assign("n5").unwrap(), nets(&["10.42.0.0/24", "fd00::/64"]));
        assert!(matches!(a.assign("n6"), Err(CidrError::Exhausted { .. })));
    }

    #[test]
    fn given_prefixes_must_be_free_and_larger_ones_are_stepped_over() {
        let mut a = PodCidrAllocator::new(&nets(&["10.0.0.0/16"]), 24, 64).unwrap();
        a.occupy("big", &nets(&["10.0.0.0/17"])).unwrap();
        assert!(matches!(a.occupy("x", &nets(&["10.0.5.0/24"])), Err(CidrError::Taken { .. })));
        assert!(matches!(a.occupy("x", &nets(&["10.0.0.0/8"])), Err(CidrError::Taken { .. })));
        assert_eq!(a.assign("y").unwrap(), nets(&["10.0.128.0/24"]));
        a.occupy("big", &nets(&["10.0.0.0/24"])).unwrap();
    }

    #[test]
    fn ranges_in_conflict_are_named_and_a_free_one_proposed() {
        let (c, s) = (nets(&["10.42.0.0/16"]), nets(&["10.43.0.0/16"]));
        assert_eq!(check_ranges(&c, &s, &nets(&["192.168.1.0/24"])), Ok(()));
        assert!(matches!(check_ranges(&c, &nets(&["10.42.5.0/24"]), &[]), Err(CidrError::Overlap { .. })));
        assert!(matches!(check_ranges(&[], &s, &[]), Err(CidrError::Empty { .. })));
        assert!(matches!(
            check_ranges(&nets(&["10.0.0.0/16", "10.1.0.0/16"]), &s, &[]),
            Err(CidrError::SameFamily { .. })
        ));
        assert!(matches!(check_ranges(&nets(&["127.0.0.0/16"]), &s, &[]), Err(CidrError::Unusable { .. })));
        let Err(CidrError::Routed { proposal, .. }) = check_ranges(&c, &s, &nets(&["10.0.0.0/8"])) else {
            panic!()
        };
        assert_eq!(proposal, "172.24.0.0/16");
        assert!(PodCidrAllocator::new(&c, 8, 64).is_err() && PodCidrAllocator::new(&c, 31, 64).is_err());
    }

    proptest! {
        #[test]
        fn no_two_nodes_share_an_address(ops in prop::collection::vec((0u8..3, 0u8..12, 0u32..256, 22u8..27), 1..80)) {
            let range: IpNet = "10.0.0.0/21".parse().unwrap();
            let mut a = PodCidrAllocator::new(&[range], 24, 64).unwrap();
            let mut model: BTreeMap<u8, Vec<IpNet>> = BTreeMap::new();
            for (op, node, at, len) in ops {
                let name = node.to_string();
                match op {
                    0 if !model.contains_key(&node) => {
                        let free = (0..8u32).any(|i| {
                            let c = net(Family::V4, (0x0a00_0000 + i * 256).into(), 24).unwrap();
                            !model.values().flatten().any(|m| overlap(*m, c))
                        });
                        match a.assign(&name) {
                            Ok(c) => { prop_assert!(free && range.contains(&c[0])); model.insert(node, c); }
                            Err(e) => { prop_assert!(!free, "{}", e); }
                        }
                    }
                    1 => { a.release(&name); model.remove(&node); }
                    2 => {
                        let c = net(Family::V4, u128::from(0x0a00_0000 + at * 32), len).unwrap().trunc();
                        let clash = model.iter().any(|(n, m)| *n != node && m.iter().any(|m| overlap(*m, c)));
                        prop_assert_eq!(a.occupy(&name, &[c]).is_err(), clash);
                        if !clash { model.insert(node, vec![c]); }
                    }
                    _ => {}
                }
                let all: Vec<(u8, IpNet)> = model.iter().flat_map(|(n, m)| m.iter().map(|c| (*n, *c))).collect();
                for (i, (n, c)) in all.iter().enumerate() {
                    prop_assert!(all[..i].iter().all(|(m, d)| m == n || !overlap(*c, *d)));
                }
            }
        }
    }
}
