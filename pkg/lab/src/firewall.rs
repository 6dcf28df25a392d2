//! nftables of the virtual LAN: masquerade in routers, partitions on the switch. All inside the lab's namespaces.

use crate::LabError;
use nlink::netlink::nftables::{
    BaseChain, Chain, CtState, Family, FilterHook, NatHook, Priority, Rule, Transaction,
};
use nlink::netlink::{Connection, Nftables};
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use warren_netlink::NetNs;

const TABLE: &str = "lab";
const CHAIN: &str = "forward";
const INPUT_CHAIN: &str = "input";
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_ICMPV6: u8 = 58;
const NAT_CHAIN: &str = "postrouting";

/// Makes `netns` a home router with `link` to the outside: what leaves is masqueraded, and nothing comes in that was not
/// asked for. Without the latter, a call that comes before the one from inside takes its place in conntrack, and the
/// mapped port moves.
pub(crate) async fn home_router(netns: &NetNs, link: &str) -> Result<(), LabError> {
    let build = async {
        let nft = Connection::<Nftables>::new_in(netns.as_fd())?;
        let chain = Chain::new(TABLE, NAT_CHAIN)?
            .family(Family::Inet)
            .base(BaseChain::nat(NatHook::Postrouting, Priority::SrcNat));
        let rule = Rule::new(TABLE, NAT_CHAIN).family(Family::Inet).match_oif(link).masquerade();
        let mut change = nft.transaction().add_table(TABLE, Family::Inet).add_chain(chain).add_rule(rule);
        for (name, hook) in [(INPUT_CHAIN, FilterHook::Input), (CHAIN, FilterHook::Forward)] {
            let chain =
                Chain::new(TABLE, name)?.family(Family::Inet).base(BaseChain::filter(hook, Priority::Filter));
            let rule = |r: Rule| r.family(Family::Inet).match_iif(link);
            // Neighbour discovery and ping have to go on; everything else that is new is dropped.
            let icmp = [IPPROTO_ICMP, IPPROTO_ICMPV6];
            change = change.add_chain(chain);
            for proto in icmp {
                change = change.add_rule(rule(Rule::new(TABLE, name)).match_l4proto(proto).accept());
            }
            change = change.add_rule(rule(Rule::new(TABLE, name)).match_ct_state(CtState::NEW).drop());
        }
        change.commit(&nft).await
    };
    build.await.map_err(LabError::firewall("set up the masquerade of a router"))
}

/// Makes the switch drop what goes between the addresses of these pairs, and nothing else.
pub(crate) async fn partition(pairs: &[(Vec<IpAddr>, Vec<IpAddr>)]) -> Result<(), LabError> {
    let build = async {
        let nft = Connection::<Nftables>::new()?;
        nft.del_table_if_exists(TABLE, Family::Bridge).await?;
        if pairs.is_empty() {
            return Ok(());
        }
        let chain = Chain::new(TABLE, CHAIN)?
            .family(Family::Bridge)
            .base(BaseChain::filter(FilterHook::Forward, Priority::Filter));
        let mut change: Transaction = nft.transaction().add_table(TABLE, Family::Bridge).add_chain(chain);
        for (a, b) in pairs {
            for (from, to) in both_ways(a, b) {
                let bits = if from.is_ipv4() { 32 } else { 128 };
                let rule = Rule::new(TABLE, CHAIN).family(Family::Bridge);
                change = change.add_rule(rule.match_saddr(from, bits).match_daddr(to, bits).drop());
            }
        }
        change.commit(&nft).await
    };
    build.await.map_err(LabError::firewall("set up the partitions of the switch"))
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
