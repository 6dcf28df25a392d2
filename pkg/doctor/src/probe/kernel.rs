//! Tries what Warren needs of the kernel, in a network namespace that ends with the trial.

use crate::checks::kernel::{CONNTRACK, FIB, MAPS, NAT, NFTABLES, NUMGEN, RULES, TUN, VETH, WIREGUARD};
use crate::facts::Known;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use warren_netlink::nft::build::{base, equals, go, rule};
use warren_netlink::nft::expr::{
    Comparison, Connection, Expr, Header, Meta, Register, SetChange, Translation, Verdict,
};
use warren_netlink::nft::model::{
    Chain, FORWARD, Field, OUTPUT, POSTROUTING, PREROUTING, Rule, Ruleset, Set,
};
use warren_netlink::nft::{BaseRules, Nft, Section};
use warren_netlink::{NetNs, Netlink, Rule as RoutingRule, VethSpec, tun};
use warren_types::marks::{ROUTE_PROTOCOL, ROUTE_TABLE_NODES, RULE_PRIORITY_NODES};

const IPV4: u8 = 2;
const ELEMENTS: u32 = 16;

/// The outcome of each trial; empty where no namespace can be made, which takes root.
pub(super) async fn try_all() -> BTreeMap<&'static str, Known<()>> {
    let mut found = BTreeMap::new();
    let Ok(ns) = NetNs::fresh() else { return found };
    links(&ns, &mut found).await;
    found.insert(TUN, tun_link(&ns));
    match Nft::in_namespace(&ns).await {
        Err(e) => drop(found.insert(NFTABLES, Err(e.to_string()))),
        Ok(nft) => {
            let rules = BaseRules { tunnel_port: 1, ..BaseRules::default() };
            found.insert(NFTABLES, nft.ensure_base(&rules).await.map(drop).map_err(|e| e.to_string()));
            for (name, ruleset) in
                [(NAT, nat()), (MAPS, maps()), (NUMGEN, numgen()), (FIB, fib()), (CONNTRACK, conntrack())]
            {
                let tried = nft.ensure_section(Section::Services, Arc::new(ruleset)).await;
                found.insert(name, tried.map(drop).map_err(|e| e.to_string()));
            }
        }
    }
    found
}

async fn links(ns: &NetNs, found: &mut BTreeMap<&'static str, Known<()>>) {
    let netlink = match Netlink::in_namespace(ns).await {
        Ok(netlink) => netlink,
        Err(e) => return drop(found.insert(VETH, Err(e.to_string()))),
    };
    let spec =
        VethSpec { name: "wrntry0", peer_name: "wrntry1", peer_ns: None, mtu: 1400, macs: None, alias: "" };
    found.insert(VETH, netlink.add_veth(&spec).await.map_err(|e| e.to_string()));
    found.insert(WIREGUARD, netlink.add_wireguard("wrntry-wg", 1400, "").await.map_err(|e| e.to_string()));
    let from = ipnet::Ipv4Net::default().into();
    let rule = RoutingRule {
        from,
        table: ROUTE_TABLE_NODES,
        priority: RULE_PRIORITY_NODES,
        protocol: ROUTE_PROTOCOL,
    };
    found.insert(RULES, netlink.ensure_rule(&rule).await.map_err(|e| e.to_string()));
}

fn tun_link(ns: &NetNs) -> Known<()> {
    let tried = ns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let _context = runtime.enter();
        tun::open("wrntry-tun").map(drop)
    });
    tried.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

/// A ruleset of one base chain.
fn chain(kind: &str, hook: u32, priority: i32, rules: Vec<Rule>) -> Ruleset {
    let mut all = Ruleset::default();
    add(&mut all, "svc_try", Chain { base: base(kind, hook, priority) }, rules);
    all
}

fn add(all: &mut Ruleset, name: &str, chain: Chain, rules: Vec<Rule>) {
    all.chains.insert(name.into(), chain);
    all.rules.insert(name.into(), rules);
}

fn word(index: u8) -> Register {
    Register::word(index).unwrap_or(Register::FIRST)
}

fn nat() -> Ruleset {
    let translate = vec![
        Expr::Constant { into: word(0), value: vec![10, 0, 0, 1] },
        Expr::Constant { into: word(1), value: vec![0, 80] },
        Expr::Translate {
            what: Translation::Destination,
            family: IPV4,
            address: word(0),
            port: Some(word(1)),
            flags: 0,
        },
    ];
    let is_v4 = || equals(Meta::Family, vec![IPV4]);
    let mut all = chain("nat", PREROUTING, -100, vec![rule([is_v4(), translate])]);
    let masquerade = vec![Expr::Masquerade { flags: 0, ports: None }];
    add(&mut all, "svc_try_post", Chain { base: base("nat", POSTROUTING, 100) }, vec![rule([masquerade])]);
    all
}

fn maps() -> Ruleset {
    let front = [Field::Ipv4, Field::Protocol, Field::Port];
    let load = || {
        vec![
            Expr::Payload { header: Header::Network, offset: 16, length: 4, into: word(0) },
            Expr::Meta { load: Meta::Protocol, into: word(1) },
            Expr::Payload { header: Header::Transport, offset: 2, length: 2, into: word(2) },
        ]
    };
    let is_v4 = || equals(Meta::Family, vec![IPV4]);
    let lookups = vec![
        rule([
            is_v4(),
            load(),
            vec![Expr::Lookup { set: "svc_try_ranges".into(), from: word(0), inverted: true }],
            go(Verdict::Accept),
        ]),
        rule([is_v4(), load(), vec![Expr::Map { map: "svc_try_ends".into(), from: word(0), into: word(3) }]]),
        rule([
            is_v4(),
            load(),
            vec![Expr::ChangeSet {
                set: "svc_try_filled".into(),
                change: SetChange::Update,
                key: word(0),
                value: None,
                timeout: 1000,
            }],
        ]),
        rule([is_v4(), load(), vec![Expr::VerdictMap { map: "svc_try_verdicts".into(), from: word(0) }]]),
    ];
    let mut all = chain("filter", FORWARD, 0, lookups);
    for (name, set) in [
        ("svc_try_verdicts", Set::of_tuples(&front).mapping_to_verdicts().counted()),
        ("svc_try_ends", Set::of_tuples(&front).mapping_to(&[Field::Ipv4, Field::Port])),
        ("svc_try_ranges", Set::of_range_tuples(&front)),
        ("svc_try_filled", Set::of_tuples(&front).filled_by_packets(ELEMENTS)),
    ] {
        if name != "svc_try_filled" {
            all.elements.insert(name.into(), BTreeSet::new());
        }
        all.sets.insert(name.into(), set);
    }
    all
}

fn numgen() -> Ruleset {
    let draws = vec![
        Expr::Random { below: 4, into: word(0) },
        Expr::Compare { from: word(0), is: Comparison::Equal, value: 1u32.to_ne_bytes().to_vec() },
    ];
    chain("filter", OUTPUT, 0, vec![rule([draws, go(Verdict::Accept)])])
}

fn fib() -> Ruleset {
    let asks = vec![
        Expr::DestinationType { into: word(0) },
        Expr::Compare { from: word(0), is: Comparison::Equal, value: 2u32.to_ne_bytes().to_vec() },
    ];
    chain("filter", PREROUTING, 0, vec![rule([asks, go(Verdict::Accept)])])
}

fn conntrack() -> Ruleset {
    let state = vec![
        Expr::Connection { load: Connection::State, into: word(0) },
        Expr::Compare { from: word(0), is: Comparison::NotEqual, value: vec![0; 4] },
    ];
    let mut all = chain("filter", FORWARD, 0, vec![rule([state, go(Verdict::Accept)])]);
    let untracked = vec![rule([equals(Meta::Protocol, vec![17]), vec![Expr::NoTrack]])];
    add(&mut all, "svc_try_raw", Chain { base: base("filter", PREROUTING, -300) }, untracked);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_kernel_is_tried_and_nothing_stays() {
        let before = std::fs::read_to_string("/proc/net/dev").unwrap().lines().count();
        let found = try_all().await;
        assert_eq!(found.len(), 10, "making a network namespace needs root");
        for name in [VETH, NFTABLES, NAT, MAPS, NUMGEN, FIB, CONNTRACK, RULES, TUN] {
            assert_eq!(found[name], Ok(()), "{name}");
        }
        assert_eq!(std::fs::read_to_string("/proc/net/dev").unwrap().lines().count(), before);
    }
}
