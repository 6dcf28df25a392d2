//! What the typed rules do to a packet, read expression by expression, as the kernel would.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use warren_netlink::nft::expr::{
    Comparison, Connection, Expr, Header, Meta, ROUTE_LOCAL, Register, SetChange, Translation, Verdict,
};
use warren_netlink::nft::model::{Ruleset, Value};
use warren_types::Protocol;

/// The first packet of a connection, at one hook.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) protocol: Protocol,
    /// Whether the destination is an address of this node.
    pub(crate) to_this_node: bool,
    pub(crate) out_link: &'static str,
    /// The connection's mark.
    pub(crate) mark: u32,
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// Its destination is another, and the connection has this mark.
    To(SocketAddr, u32),
    /// Its source is this, with any port.
    From(IpAddr),
    /// Its source is the address of the link that it leaves by.
    FromLink,
    Reject,
    Drop,
    /// Nothing.
    Pass,
}

/// Elements that packets added: set, key -> value.
pub(crate) type Remembered = BTreeMap<(String, Vec<u8>), Vec<u8>>;

/// Every fate that the packet may have, whatever number is drawn.
pub(crate) fn fates(ruleset: &Ruleset, chain: &str, packet: &Packet) -> BTreeSet<Fate> {
    let mut all = BTreeSet::new();
    let mut draw = 0;
    loop {
        let mut run = Run::new(ruleset, packet, draw);
        all.insert(run.run(chain, &mut Remembered::new()));
        draw += 1;
        if draw >= run.below {
            return all;
        }
    }
}

/// Its fate when this number is drawn, with what was remembered.
pub(crate) fn fate(
    ruleset: &Ruleset,
    chain: &str,
    packet: &Packet,
    draw: u32,
    remembered: &mut Remembered,
) -> Fate {
    Run::new(ruleset, packet, draw).run(chain, remembered)
}

struct Run<'a> {
    ruleset: &'a Ruleset,
    packet: &'a Packet,
    draw: u32,
    below: u32,
    mark: u32,
    registers: [u8; 64],
}

enum Step {
    Next,
    /// The rule does not match.
    Break,
    Verdict(Verdict),
    Fate(Fate),
}

enum End {
    Fate(Fate),
    Return,
}

impl<'a> Run<'a> {
    fn new(ruleset: &'a Ruleset, packet: &'a Packet, draw: u32) -> Self {
        Self { ruleset, packet, draw, below: 0, mark: packet.mark, registers: [0; 64] }
    }

    fn run(&mut self, chain: &str, remembered: &mut Remembered) -> Fate {
        match self.chain(chain, remembered) {
            End::Fate(fate) => fate,
            End::Return => Fate::Pass,
        }
    }

    fn chain(&mut self, name: &str, remembered: &mut Remembered) -> End {
        let rules = self.ruleset.rules.get(name).unwrap_or_else(|| panic!("no chain {name}"));
        for rule in rules {
            // Registers do not outlive a rule.
            self.registers = [0xa5; 64];
            for expr in &rule.exprs {
                match self.step(expr, remembered) {
                    Step::Next => {}
                    Step::Break => break,
                    Step::Fate(fate) => return End::Fate(fate),
                    Step::Verdict(Verdict::Drop) => return End::Fate(Fate::Drop),
                    Step::Verdict(Verdict::Accept) => return End::Fate(Fate::Pass),
                    Step::Verdict(Verdict::Return) => return End::Return,
                    Step::Verdict(Verdict::Goto(to)) => return self.chain(&to, remembered),
                    Step::Verdict(Verdict::Jump(to)) => match self.chain(&to, remembered) {
                        End::Return => break,
                        end => return end,
                    },
                }
            }
        }
        End::Return
    }

    fn load(&mut self, into: Register, bytes: &[u8]) {
        let at = usize::from(into.index()) * 4;
        let whole = bytes.len().next_multiple_of(4);
        self.registers[at..at + whole].fill(0);
        self.registers[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn get(&self, from: Register, length: usize) -> Vec<u8> {
        let at = usize::from(from.index()) * 4;
        self.registers[at..at + length].to_vec()
    }

    fn address(&self, from: Register, family: u8) -> IpAddr {
        match family {
            2 => IpAddr::from(<[u8; 4]>::try_from(self.get(from, 4)).unwrap()),
            _ => IpAddr::from(<[u8; 16]>::try_from(self.get(from, 16)).unwrap()),
        }
    }

    fn step(&mut self, expr: &Expr, remembered: &mut Remembered) -> Step {
        let packet = self.packet;
        let v4 = packet.destination.is_ipv4();
        match expr {
            Expr::Meta { load, into } => {
                let link = |name: &str| {
                    let mut bytes = name.as_bytes().to_vec();
                    bytes.resize(16, 0);
                    bytes
                };
                let bytes = match load {
                    Meta::EtherType => {
                        if v4 {
                            vec![0x08, 0x00]
                        } else {
                            vec![0x86, 0xdd]
                        }
                    }
                    Meta::Mark => vec![0; 4],
                    Meta::InName => link("eth0"),
                    Meta::OutName => link(packet.out_link),
                    Meta::Family => vec![if v4 { 2 } else { 10 }],
                    Meta::Protocol => vec![packet.protocol.number()],
                };
                self.load(*into, &bytes);
            }
            Expr::Connection { load, into } => {
                let value = match load {
                    Connection::Mark => self.mark,
                    Connection::State => 8, // new
                };
                self.load(*into, &value.to_ne_bytes());
            }
            Expr::SetConnectionMark { from } => {
                self.mark = u32::from_ne_bytes(self.get(*from, 4).try_into().unwrap());
            }
            Expr::Payload { header, offset, length, into } => {
                let header: Vec<u8> = match header {
                    Header::Network => network(packet),
                    Header::Transport => {
                        [packet.source.port().to_be_bytes(), packet.destination.port().to_be_bytes()].concat()
                    }
                };
                let at = *offset as usize;
                match header.get(at..at + *length as usize) {
                    Some(bytes) => self.load(*into, bytes),
                    None => return Step::Break,
                }
            }
            Expr::Mask { from, into, mask, toggle } => {
                let value = self.get(*from, mask.len());
                let bits = value.iter().zip(mask).zip(toggle).map(|((v, m), t)| (v & m) ^ t);
                let bits: Vec<u8> = bits.collect();
                self.load(*into, &bits);
            }
            Expr::Compare { from, is, value } => {
                let have = self.get(*from, value.len());
                let holds = match is {
                    Comparison::Equal => have == *value,
                    Comparison::NotEqual => have != *value,
                    Comparison::AtMost => have <= *value,
                    Comparison::AtLeast => have >= *value,
                };
                return if holds { Step::Next } else { Step::Break };
            }
            Expr::Lookup { set, from, inverted } => {
                let found = self.find(set, *from, remembered).is_some();
                return if found != *inverted { Step::Next } else { Step::Break };
            }
            Expr::Map { map, from, into } => match self.find(map, *from, remembered) {
                Some(Some(Value::Bytes(bytes))) => self.load(*into, &bytes),
                Some(other) => panic!("{map} leads to {other:?}"),
                None => return Step::Break,
            },
            Expr::VerdictMap { map, from } => match self.find(map, *from, remembered) {
                Some(Some(Value::Verdict(verdict))) => return Step::Verdict(verdict),
                Some(other) => panic!("{map} leads to {other:?}"),
                None => return Step::Break,
            },
            Expr::Random { below, into } => {
                self.below = self.below.max(*below);
                self.load(*into, &(self.draw % below).to_ne_bytes());
            }
            Expr::DestinationType { into } => {
                let kind = if packet.to_this_node { ROUTE_LOCAL } else { 1 };
                self.load(*into, &kind.to_ne_bytes());
            }
            Expr::Constant { into, value } => self.load(*into, value),
            Expr::Translate { what, family, address, port, .. } => {
                if (*family == 2) != v4 {
                    return Step::Break;
                }
                let to = self.address(*address, *family);
                return Step::Fate(match what {
                    Translation::Source => Fate::From(to),
                    Translation::Destination => {
                        let port = port.map_or(packet.destination.port(), |port| {
                            u16::from_be_bytes(self.get(port, 2).try_into().unwrap())
                        });
                        Fate::To(SocketAddr::new(to, port), self.mark)
                    }
                });
            }
            Expr::Masquerade { .. } => return Step::Fate(Fate::FromLink),
            Expr::ChangeSet { set, change, key, value, .. } => {
                let length = key_length(self.ruleset, set, v4);
                let place = (set.clone(), self.get(*key, length));
                match (change, value) {
                    (SetChange::Delete, _) => drop(remembered.remove(&place)),
                    (SetChange::Update, Some(value)) => {
                        let value = self.get(*value, if v4 { 8 } else { 20 });
                        remembered.entry(place).or_insert(value);
                    }
                    (SetChange::Update, None) => panic!("{set} is a map"),
                }
            }
            Expr::Reject(_) => return Step::Fate(Fate::Reject),
            Expr::Verdict(verdict) => return Step::Verdict(verdict.clone()),
            other => panic!("{other:?} is not among the rules of Services"),
        }
        Step::Next
    }

    /// The element that the registers name; its value, if it is a map's.
    fn find(&self, set: &str, from: Register, remembered: &Remembered) -> Option<Option<Value>> {
        assert!(self.ruleset.sets.contains_key(set), "no set {set}");
        let v4 = self.packet.destination.is_ipv4();
        let key = self.get(from, key_length(self.ruleset, set, v4));
        if let Some(value) = remembered.get(&(set.to_owned(), key.clone())) {
            return Some(Some(Value::Bytes(value.clone())));
        }
        let elements = self.ruleset.elements.get(set)?;
        if set.contains("_ranges") || set.starts_with("svc_local") {
            let before = elements.iter().rev().find(|element| element.key <= key)?;
            return (!before.end).then_some(None);
        }
        // In a concatenation of ranges each field lies in its own; all but the last are points here.
        let inside = |e: &&warren_netlink::nft::model::Element| match &e.last {
            Some(last) => e.key <= key && key <= *last,
            None => e.key == key,
        };
        elements.iter().find(inside).map(|element| element.value.clone())
    }
}

/// Bytes of a key, from the set's kind: known by the names.
fn key_length(ruleset: &Ruleset, set: &str, v4: bool) -> usize {
    assert!(ruleset.sets.contains_key(set), "no set {set}");
    let address = if v4 { 4 } else { 16 };
    let front = address + 8;
    let name = set.trim_start_matches("svc_").trim_end_matches(['4', '6']);
    match name {
        "fronts" | "inside_fronts" | "guarded" | "host_ports" => front,
        "ends" | "inside_ends" => front + 4,
        "affinity" | "allowed" => front + address,
        "alive" => front + address + 4,
        "hairpin" => 2 * address,
        "host_ports_any" => 8,
        "cluster_ips" | "virtual_ips" | "local" | "service_ranges" => address,
        other => panic!("set {other} is unknown here"),
    }
}

fn network(packet: &Packet) -> Vec<u8> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let mut header = vec![0; if packet.destination.is_ipv4() { 12 } else { 8 }];
    header.extend(octets(packet.source.ip()));
    header.extend(octets(packet.destination.ip()));
    header
}
