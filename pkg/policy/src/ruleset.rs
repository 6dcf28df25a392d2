//! The rules, which depend on nothing, and how items become elements of the sets and maps that they look into.
//!
//! All of it hangs in the forward hook: behind the translation of destinations, so that the real receiver is judged, and
//! before that of sources, so that the real sender is. What a pod and its own node have to say to each other does not come
//! by there, and always passes, as Kubernetes wants. Answers, and ICMP errors of what passed, belong to a connection and pass.
//!
//! A packet that belongs to no connection and does not begin one is dropped when either end is isolated: after a connection
//! was ended because it is no longer allowed, an answer on its way would else begin it anew from the other end.

use crate::items::{Item, Verdict as Judged};
use crate::late;
use crate::rules::Direction;
use std::collections::BTreeSet;
use std::net::IpAddr;
use warren_netlink::nft::Change;
use warren_netlink::nft::build::{base, equals, go, in_state, rule};
use warren_netlink::nft::expr::{Expr, Header, Meta, Register, SetChange, Verdict};
use warren_netlink::nft::model::{Chain, Element, FORWARD, Field, Rule, Ruleset, Set, Value};

/// `NF_IP_PRI_FILTER`.
const PRIORITY_FILTER: i32 = 0;
/// Protocols whose packets have ports where they are looked for: TCP, UDP, SCTP.
const WITH_PORTS: [u8; 3] = [6, 17, 132];
/// In the state of a connection: `NF_CT_STATE_BIT(IP_CT_ESTABLISHED)` and `NF_CT_STATE_BIT(IP_CT_RELATED)`.
const STATE_KNOWN: u32 = 0b110;
/// Where the packet's mark is kept for a moment: the last word, which no key reaches.
const KEPT: Register = Register::FIRST.after(4 * 15);
/// Kinds of denied packets that are remembered, of one family.
const DENIED: u32 = 4_096;
/// How long a kind is remembered, in ms.
pub(crate) const DENIED_FOR: u64 = 60_000;

/// Set: classes whose default is to deny; counts the packets.
pub(crate) const CLOSED: &str = "pol_closed";
const PEERS: &str = "pol_peers";
const PORTED: &str = "pol_ported";
const FORWARD_CHAIN: &str = "pol_forward";
pub(crate) const STRAYS: &str = "pol_strays";

/// What one family's sets and chains are called.
pub(crate) struct Names {
    v4: bool,
    /// `NFPROTO_*`.
    number: u8,
    /// Where a header has its source and its destination.
    pub(crate) source: u32,
    pub(crate) destination: u32,
    sending: &'static str,
    receiving: &'static str,
    oneself: &'static str,
    identities: &'static str,
    blocks: &'static str,
    denied: &'static str,
    pub(crate) ended: &'static str,
    pub(crate) parted: &'static str,
    send: Way,
    receive: Way,
}

/// Chains of one direction.
struct Way {
    judge: &'static str,
    refuse: &'static str,
}

pub(crate) const V4: Names = Names {
    v4: true,
    number: 2,
    source: 12,
    destination: 16,
    sending: "pol_out4",
    receiving: "pol_in4",
    oneself: "pol_self4",
    identities: "pol_id4",
    blocks: "pol_blocks4",
    denied: "pol_denied4",
    ended: "pol_ended4",
    parted: "pol_parted4",
    send: Way { judge: "pol_egress4", refuse: "pol_refuse_egress4" },
    receive: Way { judge: "pol_ingress4", refuse: "pol_refuse_ingress4" },
};

pub(crate) const V6: Names = Names {
    v4: false,
    number: 10,
    source: 8,
    destination: 24,
    sending: "pol_out6",
    receiving: "pol_in6",
    oneself: "pol_self6",
    identities: "pol_id6",
    blocks: "pol_blocks6",
    denied: "pol_denied6",
    ended: "pol_ended6",
    parted: "pol_parted6",
    send: Way { judge: "pol_egress6", refuse: "pol_refuse_egress6" },
    receive: Way { judge: "pol_ingress6", refuse: "pol_refuse_ingress6" },
};

/// The sets that packets fill with what was denied: source, destination, protocol, port, class.
pub(crate) const DENIED_SETS: [&str; 2] = [V4.denied, V6.denied];
/// The sets that are not items': nothing is said of their elements.
const FLEETING: [&str; 6] = [V4.denied, V6.denied, V4.ended, V6.ended, V4.parted, V6.parted];

impl Names {
    pub(crate) fn of(address: IpAddr) -> &'static Self {
        if address.is_ipv4() { &V4 } else { &V6 }
    }

    pub(crate) fn address(&self) -> Field {
        if self.v4 { Field::Ipv4 } else { Field::Ipv6 }
    }

    pub(crate) fn length(&self) -> u8 {
        if self.v4 { 4 } else { 16 }
    }

    pub(crate) fn load(&self, offset: u32, into: Register) -> Expr {
        Expr::Payload { header: Header::Network, offset, length: self.length().into(), into }
    }

    /// The pod whose policies count, its peer, and the map with the pod's class.
    fn ends(&self, direction: Direction) -> (u32, u32, &'static str) {
        match direction {
            Direction::Egress => (self.source, self.destination, self.sending),
            Direction::Ingress => (self.destination, self.source, self.receiving),
        }
    }

    fn way(&self, direction: Direction) -> &Way {
        match direction {
            Direction::Egress => &self.send,
            Direction::Ingress => &self.receive,
        }
    }
}

/// The section `pol_` with these items.
#[must_use]
pub fn ruleset<'i>(items: impl IntoIterator<Item = &'i Item>) -> Ruleset {
    let mut all = Ruleset::default();
    for (name, set) in sets() {
        if !FLEETING.contains(&name) {
            all.elements.insert(name.into(), BTreeSet::new());
        }
        all.sets.insert(name.into(), set);
    }
    let ported = WITH_PORTS.map(|protocol| Element::exact(vec![protocol]));
    all.elements.insert(PORTED.into(), ported.into());
    for item in items {
        let (set, element) = element(item);
        all.elements.entry(set.into()).or_default().insert(element);
    }
    let mut chain = |name: &str, base, rules| {
        all.chains.insert(name.into(), Chain { base });
        all.rules.insert(name.into(), rules);
    };
    chain(FORWARD_CHAIN, base("filter", FORWARD, PRIORITY_FILTER), forward());
    chain(STRAYS, None, strays());
    for names in [&V4, &V6] {
        for direction in [Direction::Egress, Direction::Ingress] {
            let way = names.way(direction);
            chain(way.judge, None, judge(names, direction));
            chain(way.refuse, None, refuse(names, direction));
        }
    }
    all
}

/// What brings the kernel from the items that it has to others.
#[must_use]
pub fn change<'i>(
    add: impl IntoIterator<Item = &'i Item>,
    remove: impl IntoIterator<Item = &'i Item>,
) -> Change {
    let mut change = Change::default();
    for (items, into) in [
        (&mut add.into_iter() as &mut dyn Iterator<Item = &Item>, &mut change.add),
        (&mut remove.into_iter(), &mut change.remove),
    ] {
        for item in items {
            let (set, element) = element(item);
            into.entry(set.to_owned()).or_default().push(element);
        }
    }
    change
}

fn sets() -> Vec<(&'static str, Set)> {
    let judged = |field: Field| {
        Set::of_range_tuples(&[Field::Number, field, Field::Protocol, Field::Port]).mapping_to_verdicts()
    };
    let mut sets = vec![
        (PEERS, judged(Field::Number)),
        (CLOSED, Set::of(Field::Number).counted()),
        (PORTED, Set::of(Field::Protocol)),
    ];
    for names in [&V4, &V6] {
        let address = names.address();
        let numbered = || Set::of(address).mapping_to(&[Field::Number]);
        let denied = [address, address, Field::Protocol, Field::Port, Field::Number];
        sets.extend([
            (names.sending, numbered()),
            (names.receiving, numbered()),
            (names.identities, numbered()),
            (names.oneself, Set::of_tuples(&[address, address])),
            (names.blocks, judged(address)),
            (names.denied, Set::of_tuples(&denied).counted().filled_by_packets(DENIED)),
        ]);
        sets.extend(late::sets(names));
    }
    sets
}

pub(crate) fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(4), 0);
    padded
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A box of a map of verdicts.
fn ranged(
    class: u32,
    peer: (Vec<u8>, Vec<u8>),
    protocols: (u8, u8),
    ports: (u16, u16),
    verdict: Judged,
) -> Element {
    let key = |peer: Vec<u8>, protocol: u8, port: u16| {
        [class.to_ne_bytes().to_vec(), peer, padded(&[protocol]), padded(&port.to_be_bytes())].concat()
    };
    let to = match verdict {
        Judged::Accept => Verdict::Return,
        Judged::Deny => Verdict::Drop,
    };
    Element::range(key(peer.0, protocols.0, ports.0), key(peer.1, protocols.1, ports.1))
        .to(Value::Verdict(to))
}

/// The element that stands for an item, and its set.
fn element(item: &Item) -> (&'static str, Element) {
    let number = |number: u32| number.to_ne_bytes().to_vec();
    match *item {
        Item::Local { direction, address, class } => {
            let (_, _, map) = Names::of(address).ends(direction);
            (map, Element::exact(octets(address)).to(Value::Bytes(number(class))))
        }
        Item::Loop { address } => {
            let both = [octets(address), octets(address)].concat();
            (Names::of(address).oneself, Element::exact(both))
        }
        Item::Identity { address, identity } => {
            let element = Element::exact(octets(address)).to(Value::Bytes(number(identity)));
            (Names::of(address).identities, element)
        }
        Item::Peer { class, identity, protocols, ports, verdict } => {
            let peer = (number(identity), number(identity));
            (PEERS, ranged(class, peer, protocols, ports, verdict))
        }
        Item::Block { class, addresses: (first, last), protocols, ports, verdict } => {
            let element = ranged(class, (octets(first), octets(last)), protocols, ports, verdict);
            (Names::of(first).blocks, element)
        }
        Item::Closed { class } => (CLOSED, Element::exact(number(class))),
    }
}

fn forward() -> Vec<Rule> {
    let mut rules = vec![rule([in_state(STATE_KNOWN), go(Verdict::Accept)])];
    for names in [&V4, &V6] {
        let both = vec![
            names.load(names.source, Register::FIRST),
            names.load(names.destination, Register::FIRST.after(names.length())),
            Expr::Lookup { set: names.oneself.into(), from: Register::FIRST, inverted: false },
        ];
        rules.push(rule([family(names), both, go(Verdict::Accept)]));
    }
    rules.extend(late::rules());
    for names in [&V4, &V6] {
        for direction in [Direction::Egress, Direction::Ingress] {
            let (pod, _, map) = names.ends(direction);
            let jump = go(Verdict::Jump(names.way(direction).judge.into()));
            let about = format!("pods in {map}");
            rules.push(rule([family(names), has(names, pod, map), jump]).about(&about));
        }
    }
    rules
}

/// Goes on for packets of a family.
pub(crate) fn family(names: &Names) -> Vec<Expr> {
    equals(Meta::Family, vec![names.number])
}

/// Drops what comes from or goes to a pod that is isolated in any direction: the end that is not may have said it.
fn strays() -> Vec<Rule> {
    let mut rules = Vec::new();
    for names in [&V4, &V6] {
        for end in [names.source, names.destination] {
            for map in [names.sending, names.receiving] {
                let about = format!("pods in {map}");
                rules.push(rule([family(names), has(names, end, map), go(Verdict::Drop)]).about(&about));
            }
        }
    }
    rules
}

/// Goes on when a map has something for an address. Kernels before 6.9 do not look into a map without taking what is there.
fn has(names: &Names, end: u32, map: &str) -> Vec<Expr> {
    vec![
        names.load(end, Register::FIRST),
        Expr::Map { map: map.into(), from: Register::FIRST, into: Register::FIRST },
    ]
}

/// Loads the number that a map has for an address; goes on when it has one.
///
/// `nft` cannot list rules with keys of which a part came from a map: it ends by an assertion, on any table of the host. So the
/// number makes a detour through the packet's mark, which is put back at once.
fn number_of(names: &Names, end: u32, map: &str, into: Register) -> Vec<Expr> {
    let mark = |into| Expr::Meta { load: Meta::Mark, into };
    vec![
        names.load(end, into),
        Expr::Map { map: map.into(), from: into, into },
        mark(KEPT),
        Expr::SetMark { from: into },
        mark(into),
        Expr::SetMark { from: KEPT },
    ]
}

/// Loads what every protocol with ports has where, behind a key's first part.
fn protocol_and_port(behind: Register) -> Vec<Expr> {
    vec![
        Expr::Meta { load: Meta::Protocol, into: behind },
        Expr::Payload { header: Header::Transport, offset: 2, length: 2, into: behind.after(1) },
    ]
}

/// Comes back when the packet passes; does not when it is denied.
fn judge(names: &Names, direction: Direction) -> Vec<Rule> {
    let (pod, peer, map) = names.ends(direction);
    let refuse = || go(Verdict::Goto(names.way(direction).refuse.into()));
    let second = Register::FIRST.after(4);
    let identity = || number_of(names, peer, names.identities, second);
    let verdict = |map: &str| vec![Expr::VerdictMap { map: map.into(), from: Register::FIRST }];
    let closed = vec![Expr::Lookup { set: CLOSED.into(), from: Register::FIRST, inverted: false }];
    let known = [
        number_of(names, pod, map, Register::FIRST),
        identity(),
        protocol_and_port(second.after(4)),
        verdict(PEERS),
    ];
    let known_closed = [
        has(names, peer, names.identities),
        number_of(names, pod, map, Register::FIRST),
        closed.clone(),
        refuse(),
    ];
    // What nft does not show of a rule that only looks whether something is there.
    let selected = format!("peers in {}", names.identities);
    let known_open = [has(names, peer, names.identities), go(Verdict::Return)];
    let block = [
        number_of(names, pod, map, Register::FIRST),
        vec![names.load(peer, second)],
        protocol_and_port(second.after(names.length())),
        verdict(names.blocks),
    ];
    let block_closed = [number_of(names, pod, map, Register::FIRST), closed, refuse()];
    vec![
        rule(known),
        rule(known_closed).about(&selected),
        rule(known_open).about(&selected),
        rule(block),
        rule(block_closed),
    ]
}

/// Remembers what is denied, and drops it.
fn refuse(names: &Names, direction: Direction) -> Vec<Rule> {
    let (pod, _, map) = names.ends(direction);
    let [from, to] = [Register::FIRST, Register::FIRST.after(names.length())];
    let protocol = to.after(names.length());
    let (port, number) = (protocol.after(1), protocol.after(1).after(2));
    let remember = |port_of: Vec<Expr>| {
        let ends = vec![names.load(names.source, from), names.load(names.destination, to)];
        let change = Expr::ChangeSet {
            set: names.denied.into(),
            change: SetChange::Update,
            key: from,
            value: None,
            timeout: DENIED_FOR,
        };
        rule([ends, port_of, number_of(names, pod, map, number), vec![change]])
    };
    let ported = |inverted| {
        vec![
            Expr::Meta { load: Meta::Protocol, into: protocol },
            Expr::Lookup { set: PORTED.into(), from: protocol, inverted },
        ]
    };
    let with =
        [ported(false), vec![Expr::Payload { header: Header::Transport, offset: 2, length: 2, into: port }]];
    let without = [ported(true), vec![Expr::Constant { into: port, value: vec![0; 4] }]];
    vec![remember(with.concat()), remember(without.concat()), rule([go(Verdict::Drop)])]
}
