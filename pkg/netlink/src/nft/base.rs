//! What `inet warren` holds: a pure function of [`BaseRules`], and the difference to what the kernel has.
//!
//! Every packet from a pod's link passes `from_pod` before connection tracking and routing see it. Of what a pod may
//! want to say, router and neighbour discovery is dropped whole: the neighbour entries on both ends of its link are
//! permanent, so these messages could only deceive. Link-local and unspecified sources (duplicate address detection,
//! multicast reports; every pod sends some when it starts) are dropped without being counted as spoofing. What is left
//! must come from an address that the pod holds.
//!
//! On all links that are not Warren's, addresses of pods are neither accepted nor sent, as source or as destination:
//! that is the guard. It looks at packets before destination NAT on the way in and after source NAT on the way out, so
//! masqueraded packets of pods and their answers, which carry the node's address there, pass.
//!
//! The tunnel's packets are not tracked: no entry that a pod can cause shadows its port, and a full table does not stop
//! it. Masquerading picks no port of the tunnel's for UDP, since answers to such a flow would be lost.

use super::build::{base, equals, go, link_begins, link_is, rule};
use super::expr::{
    Comparison, Expr, Header, Meta, NAT_FULLY_RANDOM, NAT_PORTS, ROUTE_LOCAL, Register, Verdict,
};
use super::model::{Base, Chain, Element, Field, OUTPUT, POSTROUTING, PREROUTING, Rule, Ruleset, Set};
use super::ranges::{self, Family};
use super::{CLEAR_IN, CLEAR_OUT, DISCOVERY, POD_SOURCES_V4, POD_SOURCES_V6, SPOOFED};
use ipnet::IpNet;
use std::collections::BTreeSet;

/// What the base of the table depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BaseRules {
    /// Where pods' addresses come from: the cluster's ranges and every node's podCIDRs. They may overlap.
    pub pod_ranges: Vec<IpNet>,
    /// This node's podCIDRs; they count as pod ranges too.
    pub local_pod_cidrs: Vec<IpNet>,
    /// Where Service addresses come from. A packet to one never leaves through a link that is not Warren's.
    pub service_ranges: Vec<IpNet>,
    /// UDP port of the tunnel.
    pub tunnel_port: u16,
}

const PREROUTING_RAW: &str = "prerouting_raw";
const OUTPUT_RAW: &str = "output_raw";
const FROM_POD: &str = "from_pod";
const POSTROUTING_GUARD: &str = "postrouting_guard";
const MASQUERADE: &str = "postrouting_masquerade";
const AS_NODE: &str = "masquerade_as_node";

/// Before connection tracking (-200) and after reassembly (-400).
const PRIORITY_RAW: i32 = -300;
const PRIORITY_SOURCE_NAT: i32 = 100;
/// After every source NAT.
const PRIORITY_LAST: i32 = 300;

const OURS: &str = "wrn";
const POD_LINKS: &str = "wrnp";
const IPPROTO_UDP: u8 = 17;
const IPPROTO_ICMPV6: u8 = 58;
/// Router solicitation to redirect: RFC 4861.
const DISCOVERY_TYPES: (u8, u8) = (133, 137);
/// The lowest port that masquerading gives out.
const LOWEST_PORT: u16 = 1024;

/// How a family's packets look.
struct Layout {
    family: Family,
    /// `NFPROTO_*`.
    number: u8,
    source: u32,
    destination: u32,
    suffix: &'static str,
    sources: &'static str,
}

const V4: Layout = Layout {
    family: Family::V4,
    number: 2,
    source: 12,
    destination: 16,
    suffix: "4",
    sources: POD_SOURCES_V4,
};
const V6: Layout = Layout {
    family: Family::V6,
    number: 10,
    source: 8,
    destination: 24,
    suffix: "6",
    sources: POD_SOURCES_V6,
};

/// The table for these rules. The elements of the sets of pod sources are not part of it.
pub(super) fn compile(rules: &BaseRules) -> Ruleset {
    let mut ruleset = Ruleset::default();
    ruleset.counters.extend([SPOOFED, DISCOVERY, CLEAR_IN, CLEAR_OUT].map(str::to_owned));
    for layout in [V4, V6] {
        let link_and_address = [Field::LinkName, layout.family.into()];
        ruleset.sets.insert(layout.sources.into(), Set::of_tuples(&link_and_address));
        let pods: Vec<IpNet> = rules.pod_ranges.iter().chain(&rules.local_pod_cidrs).copied().collect();
        for (set, prefixes) in [
            ("pod_ranges", &pods),
            ("local", &rules.local_pod_cidrs),
            ("service_ranges", &rules.service_ranges),
        ] {
            let name = format!("{set}{}", layout.suffix);
            let (ranges, elements) = address_ranges(prefixes, layout.family == Family::V4);
            ruleset.elements.insert(name.clone(), elements);
            ruleset.sets.insert(name, ranges);
        }
    }
    let mut chain = |name: &str, base: Option<Base>, rules: Vec<Rule>| {
        ruleset.chains.insert(name.into(), Chain { base });
        ruleset.rules.insert(name.into(), rules);
    };
    chain(PREROUTING_RAW, base("filter", PREROUTING, PRIORITY_RAW), prerouting(rules.tunnel_port));
    chain(FROM_POD, None, from_pod());
    chain(OUTPUT_RAW, base("filter", OUTPUT, PRIORITY_RAW), output(rules.tunnel_port));
    chain(POSTROUTING_GUARD, base("filter", POSTROUTING, PRIORITY_LAST), guard());
    chain(MASQUERADE, base("nat", POSTROUTING, PRIORITY_SOURCE_NAT), masquerade());
    chain(AS_NODE, None, masquerade_rules(rules.tunnel_port));
    ruleset
}

fn prerouting(tunnel_port: u16) -> Vec<Rule> {
    let to_this_node = {
        let compare = Expr::Compare {
            from: Register::FIRST,
            is: Comparison::Equal,
            value: ROUTE_LOCAL.to_ne_bytes().to_vec(),
        };
        vec![Expr::DestinationType { into: Register::FIRST }, compare]
    };
    let mut rules = vec![
        rule([link_begins(Meta::InName, POD_LINKS), go(Verdict::Goto(FROM_POD.into()))]),
        rule([link_begins(Meta::InName, OURS), go(Verdict::Accept)]),
        rule([link_is(Meta::InName, "lo"), go(Verdict::Accept)]),
        rule([udp_port(UDP_DESTINATION, tunnel_port), to_this_node, vec![Expr::NoTrack]])
            .about("the tunnel's own packets"),
    ];
    for layout in [V4, V6] {
        for offset in [layout.source, layout.destination] {
            rules.push(drop_in_set(&layout, offset, "pod_ranges", CLEAR_IN));
        }
    }
    rules
}

fn from_pod() -> Vec<Rule> {
    let discovery = {
        let compare = |is, value: u8| Expr::Compare { from: Register::FIRST, is, value: vec![value] };
        vec![
            Expr::Payload { header: Header::Transport, offset: 0, length: 1, into: Register::FIRST },
            compare(Comparison::AtLeast, DISCOVERY_TYPES.0),
            compare(Comparison::AtMost, DISCOVERY_TYPES.1),
        ]
    };
    let unspecified = vec![
        address(V6.source, V6.family),
        Expr::Compare { from: Register::FIRST, is: Comparison::Equal, value: vec![0; 16] },
    ];
    let mut rules = vec![
        rule([is_family(&V6), protocol(IPPROTO_ICMPV6), discovery, count(DISCOVERY), go(Verdict::Drop)])
            .about("a pod's neighbours are permanent"),
        rule([
            is_family(&V6),
            prefix(&V6, V6.source, &[0xfe, 0x80], 10, Comparison::Equal),
            go(Verdict::Drop),
        ]),
        rule([is_family(&V6), unspecified, go(Verdict::Drop)]),
    ];
    for layout in [V4, V6] {
        let behind_name = Register::FIRST.after(16);
        let length = layout.family.bytes() as u32;
        let load =
            Expr::Payload { header: Header::Network, offset: layout.source, length, into: behind_name };
        let held = vec![
            Expr::Meta { load: Meta::InName, into: Register::FIRST },
            load,
            Expr::Lookup { set: layout.sources.into(), from: Register::FIRST, inverted: true },
        ];
        rules.push(
            rule([is_family(&layout), held, count(SPOOFED), go(Verdict::Drop)])
                .about("not an address of this pod"),
        );
    }
    rules
}

fn output(tunnel_port: u16) -> Vec<Rule> {
    vec![rule([udp_port(UDP_SOURCE, tunnel_port), vec![Expr::NoTrack]]).about("the tunnel's own packets")]
}

fn guard() -> Vec<Rule> {
    let mut rules = vec![
        rule([link_begins(Meta::OutName, OURS), go(Verdict::Accept)]),
        rule([link_is(Meta::OutName, "lo"), go(Verdict::Accept)]),
    ];
    for layout in [V4, V6] {
        for (offset, set) in [
            (layout.source, "pod_ranges"),
            (layout.destination, "pod_ranges"),
            (layout.destination, "service_ranges"),
        ] {
            rules.push(drop_in_set(&layout, offset, set, CLEAR_OUT));
        }
    }
    rules
}

fn masquerade() -> Vec<Rule> {
    let mut rules = vec![
        rule([link_begins(Meta::OutName, OURS), go(Verdict::Return)]),
        rule([link_is(Meta::OutName, "lo"), go(Verdict::Return)]),
    ];
    for (layout, multicast, bits) in [(V4, [0xe0u8], 4), (V6, [0xffu8], 8)] {
        rules.push(rule([
            is_family(&layout),
            in_set(&layout, layout.source, "local", false),
            in_set(&layout, layout.destination, "pod_ranges", true),
            prefix(&layout, layout.destination, &multicast, bits, Comparison::NotEqual),
            go(Verdict::Goto(AS_NODE.into())),
        ]));
    }
    rules
}

/// A set of ranges of one family's addresses, and the elements for these prefixes, which may overlap.
#[must_use]
pub fn address_ranges(prefixes: &[IpNet], v4: bool) -> (Set, BTreeSet<Element>) {
    let family = if v4 { Family::V4 } else { Family::V6 };
    let ranges = ranges::merge(prefixes, family);
    let keys = ranges::keys(&ranges, family).map(|(key, end)| Element { end, ..Element::exact(key) });
    (Set::of_ranges(family.into()), keys.collect())
}

/// The rules that give a connection the address of the link that it leaves by, and a port that is not the tunnel's.
#[must_use]
pub fn masquerade_rules(tunnel_port: u16) -> Vec<Rule> {
    let (low, high) = masquerade_ports(tunnel_port);
    let (first, second) = (Register::FIRST, Register::FIRST.after(16));
    let udp = vec![
        Expr::Constant { into: first, value: low.to_be_bytes().to_vec() },
        Expr::Constant { into: second, value: high.to_be_bytes().to_vec() },
        Expr::Masquerade { flags: NAT_FULLY_RANDOM | NAT_PORTS, ports: Some((first, second)) },
    ];
    vec![
        rule([protocol(IPPROTO_UDP), udp]).about("without the tunnel's port"),
        rule([vec![Expr::Masquerade { flags: NAT_FULLY_RANDOM, ports: None }]]),
    ]
}

/// The larger side of the unprivileged ports beside the tunnel's.
fn masquerade_ports(tunnel_port: u16) -> (u16, u16) {
    if tunnel_port < LOWEST_PORT {
        return (LOWEST_PORT, u16::MAX);
    }
    if tunnel_port - LOWEST_PORT > u16::MAX - tunnel_port {
        (LOWEST_PORT, tunnel_port - 1)
    } else {
        (tunnel_port + 1, u16::MAX)
    }
}

const UDP_SOURCE: u32 = 0;
const UDP_DESTINATION: u32 = 2;

fn count(counter: &str) -> Vec<Expr> {
    vec![Expr::CountIn(counter.into())]
}

fn is_family(layout: &Layout) -> Vec<Expr> {
    equals(Meta::Family, vec![layout.number])
}

fn protocol(number: u8) -> Vec<Expr> {
    equals(Meta::Protocol, vec![number])
}

fn udp_port(offset: u32, port: u16) -> Vec<Expr> {
    let mut exprs = protocol(IPPROTO_UDP);
    exprs.push(Expr::Payload { header: Header::Transport, offset, length: 2, into: Register::FIRST });
    exprs.push(Expr::Compare {
        from: Register::FIRST,
        is: Comparison::Equal,
        value: port.to_be_bytes().to_vec(),
    });
    exprs
}

fn address(offset: u32, family: Family) -> Expr {
    let length = family.bytes() as u32;
    Expr::Payload { header: Header::Network, offset, length, into: Register::FIRST }
}

/// Compares the address at `offset` with a prefix of `bits` bits that lie in `start`.
fn prefix(layout: &Layout, offset: u32, start: &[u8], bits: u8, is: Comparison) -> Vec<Expr> {
    let whole = |bytes: &[u8]| {
        let mut all = bytes.to_vec();
        all.resize(layout.family.bytes(), 0);
        all
    };
    if usize::from(bits) == start.len() * 8 {
        // Whole bytes: load no more than these.
        let length = start.len() as u32;
        return vec![
            Expr::Payload { header: Header::Network, offset, length, into: Register::FIRST },
            Expr::Compare { from: Register::FIRST, is, value: start.to_vec() },
        ];
    }
    let mask: Vec<u8> =
        (0..start.len() as u32).map(|i| !0xffu8.checked_shr(u32::from(bits) - i * 8).unwrap_or(0)).collect();
    vec![
        address(offset, layout.family),
        Expr::Mask { from: Register::FIRST, into: Register::FIRST, mask: whole(&mask), toggle: whole(&[]) },
        Expr::Compare { from: Register::FIRST, is, value: whole(start) },
    ]
}

fn in_set(layout: &Layout, offset: u32, set: &str, inverted: bool) -> Vec<Expr> {
    let set = format!("{set}{}", layout.suffix);
    vec![address(offset, layout.family), Expr::Lookup { set, from: Register::FIRST, inverted }]
}

fn drop_in_set(layout: &Layout, offset: u32, set: &str, counter: &str) -> Rule {
    rule([is_family(layout), in_set(layout, offset, set, false), count(counter), go(Verdict::Drop)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masquerading_never_picks_the_tunnels_port() {
        for port in [0, 1, 1023, 1024, 1025, 30_000, 33_279, 33_280, 51_840, 65_534, 65_535] {
            let (low, high) = masquerade_ports(port);
            assert!(LOWEST_PORT <= low && low < high, "{port}: {low}-{high}");
            assert!(port < low || high < port, "{port}: {low}-{high}");
            assert!(high - low > 32_000, "{port}: {low}-{high}");
        }
    }

    #[test]
    fn every_rule_refers_to_what_exists() {
        let ruleset = compile(&BaseRules::default());
        for rule in ruleset.rules.values().flatten() {
            for expr in &rule.exprs {
                match expr {
                    Expr::Lookup { set, .. } => assert!(ruleset.sets.contains_key(set), "{set}"),
                    Expr::CountIn(counter) => assert!(ruleset.counters.contains(counter), "{counter}"),
                    Expr::Verdict(Verdict::Goto(chain) | Verdict::Jump(chain)) => {
                        assert!(ruleset.chains.contains_key(chain), "{chain}");
                    }
                    _ => {}
                }
            }
        }
    }
}
