//! nftables of the virtual LAN: masquerade in routers, partitions on the switch. All inside the lab's namespaces.

use crate::LabError;
use std::net::IpAddr;
use warren_netlink::NetNs;
use warren_netlink::nft::build::{base, equals, go, in_state, link_is, rule};
use warren_netlink::nft::expr::{Comparison, Expr, Header, Meta, Register, STATE_NEW, Verdict};
use warren_netlink::nft::model::{Chain, FORWARD, INPUT, POSTROUTING, Rule, Ruleset};
use warren_netlink::nft::replace_table;
use warren_netlink::nft::ruleset::TableFamily;

const TABLE: &str = "lab";
const CHAIN: &str = "forward";
const INPUT_CHAIN: &str = "input";
const NAT_CHAIN: &str = "postrouting";
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_ICMPV6: u8 = 58;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SOURCE_NAT: i32 = 100;

/// Makes `netns` a home router with `link` to the outside: what leaves is masqueraded, and nothing comes in that was not
/// asked for. Without the latter, a call that comes before the one from inside takes its place in conntrack, and the
/// mapped port moves.
pub(crate) async fn home_router(netns: &NetNs, link: &str) -> Result<(), LabError> {
    let mut ruleset = Ruleset::default();
    let masquerade = vec![Expr::Masquerade { flags: 0, ports: None }];
    let masquerade = rule([link_is(Meta::OutName, link), masquerade]);
    add(&mut ruleset, NAT_CHAIN, ("nat", POSTROUTING, PRIORITY_SOURCE_NAT), vec![masquerade]);
    for (name, hook) in [(INPUT_CHAIN, INPUT), (CHAIN, FORWARD)] {
        // Neighbour discovery and ping have to go on; everything else that is new is dropped.
        let icmp = |protocol| {
            rule([link_is(Meta::InName, link), equals(Meta::Protocol, vec![protocol]), go(Verdict::Accept)])
        };
        let new = rule([link_is(Meta::InName, link), in_state(STATE_NEW), go(Verdict::Drop)]);
        let rules = vec![icmp(IPPROTO_ICMP), icmp(IPPROTO_ICMPV6), new];
        add(&mut ruleset, name, ("filter", hook, PRIORITY_FILTER), rules);
    }
    let replaced = replace_table(netns, TableFamily::Inet, TABLE, &ruleset).await;
    replaced.map_err(LabError::kernel("set up the masquerade of a router"))
}

/// Makes the switch drop what goes between the addresses of these pairs, and nothing else.
pub(crate) async fn partition(switch: &NetNs, pairs: &[(Vec<IpAddr>, Vec<IpAddr>)]) -> Result<(), LabError> {
    let mut ruleset = Ruleset::default();
    if !pairs.is_empty() {
        let pairs = pairs.iter().flat_map(|(a, b)| both_ways(a, b));
        let rules = pairs.map(|(from, to)| between(from, to)).collect();
        add(&mut ruleset, CHAIN, ("filter", FORWARD, PRIORITY_FILTER), rules);
    }
    let replaced = replace_table(switch, TableFamily::Bridge, TABLE, &ruleset).await;
    replaced.map_err(LabError::kernel("set up the partitions of the switch"))
}

fn add(ruleset: &mut Ruleset, name: &str, (kind, hook, priority): (&str, u32, i32), rules: Vec<Rule>) {
    ruleset.chains.insert(name.into(), Chain { base: base(kind, hook, priority) });
    ruleset.rules.insert(name.into(), rules);
}

/// Drops frames with packets of one family from an address to another.
fn between(from: IpAddr, to: IpAddr) -> Rule {
    let bytes = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let (ether_type, source, destination) = match from {
        IpAddr::V4(_) => ([0x08, 0x00], 12, 16),
        IpAddr::V6(_) => ([0x86, 0xdd], 8, 24),
    };
    let is_at = |ip: IpAddr, offset: u32| {
        let value = bytes(ip);
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        vec![
            Expr::Payload { header: Header::Network, offset, length, into: Register::FIRST },
            Expr::Compare { from: Register::FIRST, is: Comparison::Equal, value },
        ]
    };
    rule([
        equals(Meta::EtherType, ether_type.to_vec()),
        is_at(from, source),
        is_at(to, destination),
        go(Verdict::Drop),
    ])
}

/// Every (source, destination) between the two lists, within a family.
fn both_ways(a: &[IpAddr], b: &[IpAddr]) -> Vec<(IpAddr, IpAddr)> {
    let pairs = a.iter().flat_map(|x| b.iter().map(move |y| (*x, *y)));
    pairs.filter(|(x, y)| x.is_ipv4() == y.is_ipv4()).flat_map(|(x, y)| [(x, y), (y, x)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_works_both_ways_and_within_a_family() {
        let parse = |s: &str| s.parse::<IpAddr>().unwrap();
        let (a, b) = ([parse("10.0.0.1"), parse("fd::1")], [parse("10.0.0.2"), parse("fd::2")]);
        let all = both_ways(&a, &b);
        assert_eq!(all.len(), 4);
        assert!(all.contains(&(a[1], b[1])) && all.contains(&(b[0], a[0])));
    }
}
