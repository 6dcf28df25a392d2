//! The rules, which do not depend on any Service, and the chains that pick endpoints.
//!
//! The chains hang in NAT hooks, so that only the first packet of a connection meets them. What belongs to a Service is
//! elements: a front (address, protocol, port) leads to a chain by the number of its endpoints, that chain draws an index,
//! and front and index lead to the endpoint. The cost of a packet does not grow with the number of Services, and a change
//! of one endpoint is a few elements.
//!
//! Translated connections carry [`SERVICE_MARK`]; only they get a new source, and only where answers would else miss this
//! node: a pod that reaches itself, a client from elsewhere (outside, or another node's pod) whose endpoint is on another
//! node, and what leaves the cluster.

use crate::names::{DROP, Names, Pick, REJECT, V4, V6};
use crate::node::NodeContext;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use warren_netlink::nft::build::{base, equals, go, in_state, link_begins, link_is, rule};
use warren_netlink::nft::expr::{
    Comparison, Connection, Expr, Header, Meta, NAT_FULLY_RANDOM, ROUTE_LOCAL, Refusal, Register,
    STATE_INVALID, SetChange, Translation, Verdict,
};
use warren_netlink::nft::model::{
    Base, Chain, FORWARD, Field, OUTPUT, POSTROUTING, PREROUTING, Rule, Ruleset, Set,
};
use warren_netlink::nft::{address_ranges, masquerade_rules};
use warren_types::Family;
use warren_types::marks::{LINK_PREFIX, SERVICE_MARK, TUNNEL_LINK};

/// `NF_IP_PRI_NAT_DST`.
const PRIORITY_DESTINATION: i32 = -100;
/// Just before Warren's own masquerading, whose place is `NF_IP_PRI_NAT_SRC`.
const PRIORITY_SOURCE: i32 = 99;
const PRIORITY_FILTER: i32 = 0;
/// Clients that can be remembered for session affinity, of one family.
const CLIENTS: u32 = 262_144;
const IPPROTO_TCP: u8 = 6;

/// The tables' fixed part: sets, and rules that follow from the node.
#[must_use]
pub fn compile(node: &NodeContext) -> Ruleset {
    let mut all = Ruleset::default();
    for names in [&V4, &V6] {
        sets(names, node, &mut all);
        let mut chain = |name: &str, rules: Vec<Rule>| add(&mut all, name, None, rules);
        chain(names.arriving, arriving(names));
        chain(names.leaving, leaving(names));
        chain(names.common, common(names));
    }
    let dispatch = |to: fn(&Names) -> &'static str| {
        vec![
            rule([is_family(&V4), go(Verdict::Goto(to(&V4).into()))]),
            rule([is_family(&V6), go(Verdict::Goto(to(&V6).into()))]),
        ]
    };
    let nat = |hook, priority| base("nat", hook, priority);
    add(&mut all, "svc_prerouting", nat(PREROUTING, PRIORITY_DESTINATION), dispatch(|names| names.arriving));
    add(&mut all, "svc_output", nat(OUTPUT, PRIORITY_DESTINATION), dispatch(|names| names.leaving));
    add(&mut all, "svc_postrouting", nat(POSTROUTING, PRIORITY_SOURCE), postrouting(node));
    add(&mut all, "svc_as_node", None, masquerade_rules(node.tunnel_port));
    add(&mut all, "svc_forward", base("filter", FORWARD, PRIORITY_FILTER), forward());
    let reset = [equals(Meta::Protocol, vec![IPPROTO_TCP]), vec![Expr::Reject(Refusal::Reset)]];
    add(&mut all, REJECT, None, vec![rule(reset), rule([vec![Expr::Reject(Refusal::PortUnreachable)]])]);
    add(&mut all, DROP, None, vec![rule([go(Verdict::Drop)])]);
    all
}

fn add(all: &mut Ruleset, name: &str, base: Option<Base>, rules: Vec<Rule>) {
    all.chains.insert(name.into(), Chain { base });
    all.rules.insert(name.into(), rules);
}

fn sets(names: &Names, node: &NodeContext, all: &mut Ruleset) {
    let address = names.field();
    let front = [address, Field::Protocol, Field::Port];
    let with = |more: &[Field]| [&front[..], more].concat();
    let end = [address, Field::Port];
    let sets = [
        (names.fronts, Set::of_tuples(&front).mapping_to_verdicts().counted()),
        (names.inside_fronts, Set::of_tuples(&front).mapping_to_verdicts().counted()),
        (names.ends, Set::of_tuples(&with(&[Field::Number])).mapping_to(&end)),
        (names.inside_ends, Set::of_tuples(&with(&[Field::Number])).mapping_to(&end)),
        (names.alive, Set::of_tuples(&with(&end))),
        (names.guarded, Set::of_tuples(&front)),
        (names.allowed, Set::of_range_tuples(&with(&[address]))),
        (names.cluster_ips, Set::of(address)),
        (names.virtual_ips, Set::of(address)),
        (names.hairpin, Set::of_tuples(&[address, address])),
        (names.host_ports, Set::of_tuples(&front).mapping_to(&end)),
        (names.host_ports_any, Set::of_tuples(&front[1..]).mapping_to(&end)),
    ];
    for (name, set) in sets {
        all.sets.insert(name.into(), set);
        all.elements.insert(name.into(), BTreeSet::new());
    }
    let affinity = Set::of_tuples(&with(&[address])).mapping_to(&end).filled_by_packets(CLIENTS);
    all.sets.insert(names.affinity.into(), affinity);
    let own = node.own_addresses.iter().map(|ip| IpNet::from(*ip));
    let local: Vec<IpNet> = node.local_pod_cidrs.iter().copied().chain(own).collect();
    for (name, ranges) in [(names.local, local), (names.service_ranges, node.service_ranges.clone())] {
        let (set, elements) = address_ranges(&ranges, names.family == Family::V4);
        all.sets.insert(name.into(), set);
        all.elements.insert(name.into(), elements);
    }
}

/// Whether the elements of a set count connections: a front that leads elsewhere goes on from what it counted.
pub(crate) fn counts(set: &str) -> bool {
    [&V4, &V6].iter().any(|names| [names.fronts, names.inside_fronts].contains(&set))
}

const W: [Register; 16] = {
    let mut words = [Register::FIRST; 16];
    let mut index = 0;
    while index < 16 {
        if let Some(word) = Register::word(index as u8) {
            words[index] = word;
        }
        index += 1;
    }
    words
};

/// Words of a front, and of an address.
fn words(names: &Names) -> (usize, usize) {
    let address = usize::from(names.length()) / 4;
    (address + 2, address)
}

fn is_family(names: &Names) -> Vec<Expr> {
    equals(Meta::Family, vec![names.number])
}

fn load_address(names: &Names, offset: u32, into: Register) -> Expr {
    Expr::Payload { header: Header::Network, offset, length: u32::from(names.length()), into }
}

fn load_port(into: Register) -> Expr {
    Expr::Payload { header: Header::Transport, offset: 2, length: 2, into }
}

/// Loads the front that a packet is for, into the first words.
fn load_front(names: &Names) -> Vec<Expr> {
    let (_, address) = words(names);
    vec![
        load_address(names, names.destination, W[0]),
        Expr::Meta { load: Meta::Protocol, into: W[address] },
        load_port(W[address + 1]),
    ]
}

fn verdict_of(names: &Names, map: &str) -> Vec<Expr> {
    let mut exprs = load_front(names);
    exprs.push(Expr::VerdictMap { map: map.into(), from: W[0] });
    exprs
}

fn in_set(names: &Names, offset: u32, set: &str, inverted: bool) -> Vec<Expr> {
    vec![load_address(names, offset, W[0]), Expr::Lookup { set: set.into(), from: W[0], inverted }]
}

/// Drops who may not connect.
fn guard(names: &Names) -> Rule {
    let (front, _) = words(names);
    let lookups = vec![
        Expr::Lookup { set: names.guarded.into(), from: W[0], inverted: false },
        load_address(names, names.source, W[front]),
        Expr::Lookup { set: names.allowed.into(), from: W[0], inverted: true },
    ];
    rule([load_front(names), lookups, go(Verdict::Drop)])
}

fn arriving(names: &Names) -> Vec<Rule> {
    vec![
        guard(names),
        // Pods of other nodes come to a node port as anybody else does: policy Local holds for them.
        rule([in_set(names, names.source, names.local, false), verdict_of(names, names.inside_fronts)]),
        rule([go(Verdict::Goto(names.common.into()))]),
    ]
}

fn leaving(names: &Names) -> Vec<Rule> {
    vec![
        guard(names),
        rule([verdict_of(names, names.inside_fronts)]),
        rule([go(Verdict::Goto(names.common.into()))]),
    ]
}

fn common(names: &Names) -> Vec<Rule> {
    let (front, address) = words(names);
    let local = |is| {
        let value = ROUTE_LOCAL.to_ne_bytes().to_vec();
        vec![Expr::DestinationType { into: W[15] }, Expr::Compare { from: W[15], is, value }]
    };
    // What goes to a loopback address must not leave the host, whatever its port (CVE-2020-8558).
    let no_loopback = match names.family {
        Family::V4 => vec![
            Expr::Payload { header: Header::Network, offset: names.destination, length: 1, into: W[15] },
            Expr::Compare { from: W[15], is: Comparison::NotEqual, value: vec![127] },
        ],
        Family::V6 => {
            let mut loopback = vec![0; 15];
            loopback.push(1);
            vec![
                load_address(names, names.destination, W[11]),
                Expr::Compare { from: W[11], is: Comparison::NotEqual, value: loopback },
            ]
        }
    };
    let found = |map: &str, from: usize| {
        let mut exprs = load_front(names);
        exprs.push(Expr::Map { map: map.into(), from: W[from], into: W[front] });
        exprs
    };
    let translate = || {
        let mut exprs = set_mark(W[15]);
        exprs.push(translate(names, Translation::Destination, W[front], Some(W[front + address]), 0));
        exprs
    };
    vec![
        rule([verdict_of(names, names.fronts)]),
        rule([found(names.host_ports, 0), local(Comparison::Equal), translate()]),
        rule([found(names.host_ports_any, address), no_loopback, local(Comparison::Equal), translate()]),
        rule([in_set(names, names.destination, names.cluster_ips, false), go(Verdict::Goto(REJECT.into()))]),
        rule([
            in_set(names, names.destination, names.virtual_ips, false),
            local(Comparison::NotEqual),
            go(Verdict::Goto(REJECT.into())),
        ]),
        rule([in_set(names, names.destination, names.service_ranges, false), go(Verdict::Drop)]),
    ]
}

fn translate(
    names: &Names,
    what: Translation,
    address: Register,
    port: Option<Register>,
    flags: u32,
) -> Expr {
    Expr::Translate { what, family: names.number, address, port, flags }
}

/// Marks the connection as ours.
fn set_mark(through: Register) -> Vec<Expr> {
    let (mask, toggle) = ((!SERVICE_MARK).to_ne_bytes().to_vec(), SERVICE_MARK.to_ne_bytes().to_vec());
    vec![
        Expr::Connection { load: Connection::Mark, into: through },
        Expr::Mask { from: through, into: through, mask, toggle },
        Expr::SetConnectionMark { from: through },
    ]
}

/// The chain that picks one of some endpoints.
#[must_use]
pub fn pick(pick: &Pick) -> Vec<Rule> {
    let names = pick.names();
    let (front, _) = words(names);
    let ends = if pick.inside { names.inside_ends } else { names.ends };
    // Where the endpoint's address and port are, behind the front.
    let end = |from: usize, address: usize| (W[from], W[from + address]);
    let drawn = |index: Expr| {
        let mut exprs = load_front(names);
        exprs.push(index);
        exprs
    };
    let (_, address) = words(names);
    let random = || drawn(Expr::Random { below: pick.count, into: W[front] });
    let first = || drawn(Expr::Constant { into: W[front], value: 0u32.to_ne_bytes().to_vec() });
    let to = |into: usize| {
        let (at, port) = end(into, address);
        vec![translate(names, Translation::Destination, at, Some(port), 0)]
    };
    let found = |into: usize| vec![Expr::Map { map: ends.into(), from: W[0], into: W[into] }];
    let mut rules = vec![rule([set_mark(W[0])])];
    if let Some(seconds) = pick.affinity {
        rules.extend(sticky(names, seconds, &random(), ends));
    }
    rules.push(rule([random(), found(front), to(front)]));
    // A packet that was on its way while the number of endpoints shrank.
    rules.push(rule([first(), found(front), to(front)]));
    rules.push(rule([go(Verdict::Drop)]));
    rules
}

/// The endpoint that the client had, while it serves; else another, which is remembered.
fn sticky(names: &Names, seconds: u32, random: &[Expr], ends: &str) -> [Rule; 2] {
    let (front, address) = words(names);
    // Five words at most, to the last.
    let kept = 15 - address;
    let client = || load_address(names, names.source, W[front]);
    let lookup = |into: usize| Expr::Map { map: names.affinity.into(), from: W[0], into: W[into] };
    let change = |change| Expr::ChangeSet {
        set: names.affinity.into(),
        change,
        key: W[0],
        value: Some(W[kept]),
        timeout: if change == SetChange::Update { u64::from(seconds) * 1000 } else { 0 },
    };
    let to_kept = || translate(names, Translation::Destination, W[kept], Some(W[kept + address]), 0);
    let again = vec![
        client(),
        lookup(front),
        Expr::Lookup { set: names.alive.into(), from: W[0], inverted: false },
        client(),
        lookup(kept),
        change(SetChange::Update),
        to_kept(),
    ];
    let anew = vec![
        Expr::Map { map: ends.into(), from: W[0], into: W[kept] },
        client(),
        // The kernel wants the value named for either change.
        change(SetChange::Delete),
        change(SetChange::Update),
        to_kept(),
    ];
    [rule([load_front(names), again]), rule([random.to_vec(), anew])]
}

fn postrouting(node: &NodeContext) -> Vec<Rule> {
    let masked =
        |from| Expr::Mask { from, into: from, mask: SERVICE_MARK.to_ne_bytes().to_vec(), toggle: vec![0; 4] };
    let not_ours = vec![
        Expr::Connection { load: Connection::Mark, into: W[0] },
        masked(W[0]),
        Expr::Compare { from: W[0], is: Comparison::Equal, value: vec![0; 4] },
    ];
    let mut rules = vec![rule([not_ours, go(Verdict::Return)])];
    let own = [(&V4, node.own_v4.map(IpAddr::from)), (&V6, node.own_v6.map(IpAddr::from))];
    for (names, own) in own {
        let Some(own) = own else { continue };
        let (_, address) = words(names);
        let come_back = || {
            vec![
                Expr::Constant { into: W[0], value: crate::names::address_bytes(own) },
                translate(names, Translation::Source, W[0], None, NAT_FULLY_RANDOM),
            ]
        };
        let itself = vec![
            load_address(names, names.source, W[0]),
            load_address(names, names.destination, W[address]),
            Expr::Lookup { set: names.hairpin.into(), from: W[0], inverted: false },
        ];
        rules.push(rule([is_family(names), itself, come_back()]).about("a pod that reaches itself"));
        rules.push(
            rule([
                is_family(names),
                link_is(Meta::OutName, TUNNEL_LINK),
                in_set(names, names.source, names.local, true),
                come_back(),
            ])
            .about("a client from elsewhere, an endpoint on another node"),
        );
    }
    rules.push(rule([link_begins(Meta::OutName, LINK_PREFIX), go(Verdict::Return)]));
    rules.push(rule([link_is(Meta::OutName, "lo"), go(Verdict::Return)]));
    rules.push(rule([go(Verdict::Goto("svc_as_node".into()))]).about("out of the cluster"));
    rules
}

/// A packet that connection tracking cannot place is not translated: it would meet the wrong end, which answers with a
/// reset and ends a healthy connection.
fn forward() -> Vec<Rule> {
    [Meta::InName, Meta::OutName]
        .map(|load| rule([in_state(STATE_INVALID), link_begins(load, LINK_PREFIX), go(Verdict::Drop)]))
        .to_vec()
}
