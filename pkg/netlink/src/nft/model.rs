//! The objects of a table, typed; each can be written as a message and read back from one.
//!
//! Equality is what `ensure` compares: everything that decides what happens to a packet takes part in it, and nothing
//! that the kernel adds (handles, use counts, counted packets).

use super::expr::{self, Expr, Verdict};
use super::ranges::Family;
use super::wire::{self, Writer};
use std::collections::{BTreeMap, BTreeSet};

/// Everything a table holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// `NFT_TABLE_F_*`, none of which Warren wants: a dormant table would do nothing.
    pub(super) flags: u32,
    /// Names of counters.
    pub counters: BTreeSet<String>,
    /// Sets and maps.
    pub sets: BTreeMap<String, Set>,
    /// The elements of those sets that were asked for.
    pub elements: BTreeMap<String, BTreeSet<Element>>,
    /// Chains.
    pub chains: BTreeMap<String, Chain>,
    /// The rules of every chain, in order.
    pub rules: BTreeMap<String, Vec<Rule>>,
}

/// A chain without its rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets enter; a chain without is reached from others.
    pub base: Option<Base>,
}

/// What makes a chain a base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// `NF_INET_*`.
    pub hook: u32,
    /// Its place among others on the hook: low ones first.
    pub priority: i32,
    /// What happens at its end: `NF_ACCEPT` or `NF_DROP`.
    pub policy: u32,
}

/// A rule: expressions, and a word for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// What it is made of, in order.
    pub exprs: Vec<Expr>,
    /// For people who list the table.
    pub comment: Option<String>,
}

/// A set or a map, without its elements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    /// `NFT_SET_*`.
    pub(super) flags: u32,
    /// How `nft` prints the key; the kernel does not look at it.
    pub(super) key_type: u32,
    /// Bytes of a key.
    pub(super) key_length: u32,
    /// Bytes of each field of a concatenated key; empty for a plain one.
    pub(super) fields: Vec<u32>,
    /// What its keys lead to, which makes it a map.
    pub(super) data: Option<Data>,
    /// Most elements, where packets add them or they go by themselves.
    pub(super) size: Option<u32>,
    /// How long an element stays of which nothing else is said, in ms.
    pub(super) lasting: Option<u64>,
    /// Whether each element counts the packets that found it.
    pub(super) counted: bool,
}

/// What the keys of a map lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Data {
    Verdict,
    /// Type for `nft` to print, and length in bytes.
    Bytes(u32, u32),
}

/// What a field of a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// Name of a link, 16 bytes.
    LinkName,
    /// IPv4 address, 4 bytes.
    Ipv4,
    /// IPv6 address, 16 bytes.
    Ipv6,
    /// Number of a transport protocol, 1 byte.
    Protocol,
    /// Port of a transport protocol, 2 bytes.
    Port,
    /// A number in the machine's order, 4 bytes.
    Number,
}

impl From<Family> for Field {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::Ipv4,
            Family::V6 => Self::Ipv6,
        }
    }
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// Its key: each field in the order of the network (but [`Field::Number`]), padded to four bytes.
    pub key: Vec<u8>,
    /// In a plain set of ranges: a range has ended before this key.
    pub end: bool,
    /// In a concatenation of ranges: the last key of the range.
    pub last: Option<Vec<u8>>,
    /// In a map: what the key leads to.
    pub value: Option<Value>,
}

/// What an element, or a counter that has a name, has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl Counted {
    /// The data of the expression, and of the object.
    pub(super) fn encode(self, w: &mut Writer) {
        w.u64(1, self.bytes);
        w.u64(2, self.packets);
    }

    pub(super) fn decode(data: &[u8]) -> Self {
        let number = |kind| wire::find_u64(data, kind).unwrap_or(0);
        Self { bytes: number(1), packets: number(2) }
    }
}

/// What elements of a set have counted, by key.
pub(super) type Counts = BTreeMap<Vec<u8>, Counted>;

/// What a key of a map leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// Where the packet goes.
    Verdict(Verdict),
    /// Bytes for registers.
    Bytes(Vec<u8>),
}

/// Bytes of an interface name, with its NUL.
pub(super) const LINK_NAME: usize = 16;
/// `NF_INET_PRE_ROUTING`.
pub const PREROUTING: u32 = 0;
/// `NF_INET_LOCAL_IN`.
pub const INPUT: u32 = 1;
/// `NF_INET_FORWARD`.
pub const FORWARD: u32 = 2;
/// `NF_INET_LOCAL_OUT`.
pub const OUTPUT: u32 = 3;
/// `NF_INET_POST_ROUTING`.
pub const POSTROUTING: u32 = 4;
/// `NF_ACCEPT`: at a chain's end packets go on.
pub const POLICY_ACCEPT: u32 = 1;
const SET_INTERVAL: u32 = 0x4;
const SET_MAP: u32 = 0x8;
const SET_TIMEOUT: u32 = 0x10;
const SET_FROM_PACKETS: u32 = 0x20;
const SET_CONCATENATION: u32 = 0x80;
/// `NFT_DATA_VERDICT`, the type of what a verdict map leads to.
const DATA_VERDICT: u32 = 0xffff_ff00;
/// `NFT_CHAIN_BASE`, which the kernel adds to what it reports.
const CHAIN_BASE: u32 = 1;
/// libnftnl's numbers: types in a concatenation take six bits each, the comment of a rule is its record 0.
const TYPE_BITS: u32 = 6;
const COMMENT: u8 = 0;
const COUNTER: &str = "counter";

impl Field {
    fn type_and_length(self) -> (u32, u32) {
        match self {
            Self::Ipv4 => (7, 4),
            Self::Ipv6 => (8, 16),
            Self::LinkName => (41, 16),
            Self::Protocol => (12, 1),
            Self::Port => (13, 2),
            Self::Number => (19, 4),
        }
    }
}

impl Set {
    /// A set of ranges of addresses.
    pub(super) fn of_ranges(field: Field) -> Self {
        let (key_type, key_length) = field.type_and_length();
        Self { flags: SET_INTERVAL, key_type, key_length, ..Self::default() }
    }

    /// A set of addresses and the like.
    #[must_use]
    pub fn of(field: Field) -> Self {
        let (key_type, key_length) = field.type_and_length();
        Self { key_type, key_length, ..Self::default() }
    }

    /// A set of exact tuples.
    #[must_use]
    pub fn of_tuples(fields: &[Field]) -> Self {
        let (key_type, key_length) = concatenated(fields);
        let lengths = fields.iter().map(|field| field.type_and_length().1).collect();
        Self { flags: SET_CONCATENATION, key_type, key_length, fields: lengths, ..Self::default() }
    }

    /// A set of tuples of which each field is a range.
    #[must_use]
    pub fn of_range_tuples(fields: &[Field]) -> Self {
        let set = Self::of_tuples(fields);
        Self { flags: set.flags | SET_INTERVAL, ..set }
    }

    /// Makes it a map to tuples.
    #[must_use]
    pub fn mapping_to(self, fields: &[Field]) -> Self {
        let (kind, length) = concatenated(fields);
        Self { flags: self.flags | SET_MAP, data: Some(Data::Bytes(kind, length)), ..self }
    }

    /// Makes it a map to verdicts.
    #[must_use]
    pub fn mapping_to_verdicts(self) -> Self {
        Self { flags: self.flags | SET_MAP, data: Some(Data::Verdict), ..self }
    }

    /// Lets packets add elements, each for some time, up to `size` of them.
    #[must_use]
    pub fn filled_by_packets(self, size: u32) -> Self {
        Self { flags: self.flags | SET_TIMEOUT | SET_FROM_PACKETS, size: Some(size), ..self }
    }

    /// Makes elements go by themselves after so many ms, and lets in up to `size` of them.
    #[must_use]
    pub fn lasting(self, ms: u64, size: u32) -> Self {
        Self { flags: self.flags | SET_TIMEOUT, size: Some(size), lasting: Some(ms), ..self }
    }

    /// Makes each element count the packets that found it (Linux 5.7).
    #[must_use]
    pub fn counted(self) -> Self {
        Self { counted: true, ..self }
    }

    /// Whether it is a set of ranges of one field.
    pub(super) fn is_plain_ranges(&self) -> bool {
        self.flags & (SET_INTERVAL | SET_CONCATENATION) == SET_INTERVAL
    }

    /// Whether each element counts packets.
    pub(super) fn counts(&self) -> bool {
        self.counted
    }

    /// Whether its elements go by themselves.
    pub(super) fn forgets(&self) -> bool {
        self.flags & SET_TIMEOUT != 0
    }

    pub(super) fn encode(&self, table: &str, name: &str, id: u32, w: &mut Writer) {
        w.text(1, table);
        w.text(2, name);
        w.u32(3, self.flags);
        w.u32(4, self.key_type);
        w.u32(5, self.key_length);
        match self.data {
            None => {}
            Some(Data::Verdict) => {
                w.u32(6, DATA_VERDICT);
                w.u32(7, 0);
            }
            Some(Data::Bytes(kind, length)) => {
                w.u32(6, kind);
                w.u32(7, length);
            }
        }
        w.u32(10, id);
        if let Some(ms) = self.lasting {
            w.u64(11, ms);
        }
        if !self.fields.is_empty() || self.size.is_some() {
            w.nest(9, |w| {
                if let Some(size) = self.size {
                    w.u32(1, size);
                }
                if !self.fields.is_empty() {
                    w.nest(2, |w| {
                        for length in &self.fields {
                            w.nest(1, |w| w.u32(1, *length));
                        }
                    });
                }
            });
        }
        if self.counted {
            w.nest(17, |w| {
                w.text(1, COUNTER);
                w.nest(2, |w| Counted::default().encode(w));
            });
        }
    }

    pub(super) fn decode(attributes: &[u8]) -> Option<(String, Self)> {
        let description = wire::find(attributes, 9).unwrap_or_default();
        let fields = wire::find(description, 2).map(|list| {
            wire::attributes(list).filter_map(|(_, field)| wire::find_u32(field, 1)).collect::<Vec<_>>()
        });
        let flags = wire::find_u32(attributes, 3).unwrap_or(0);
        let data = match wire::find_u32(attributes, 6) {
            Some(DATA_VERDICT) => Some(Data::Verdict),
            Some(kind) => Some(Data::Bytes(kind, wire::find_u32(attributes, 7)?)),
            None => None,
        };
        let set = Self {
            flags,
            key_type: wire::find_u32(attributes, 4).unwrap_or(0),
            key_length: wire::find_u32(attributes, 5)?,
            fields: fields.unwrap_or_default(),
            data,
            size: wire::find_u32(description, 1),
            lasting: wire::find_u64(attributes, 11),
            counted: wire::find(attributes, 17).and_then(|e| wire::find_text(e, 1)).as_deref()
                == Some(COUNTER),
        };
        Some((wire::find_text(attributes, 2)?, set))
    }
}

/// Type and length of a concatenation.
fn concatenated(fields: &[Field]) -> (u32, u32) {
    let parts = fields.iter().map(|field| field.type_and_length());
    let kind = parts.clone().fold(0, |all, (kind, _)| all << TYPE_BITS | kind);
    (kind, parts.map(|(_, length)| length.next_multiple_of(4)).sum())
}

impl Chain {
    pub(super) fn encode(&self, table: &str, name: &str, w: &mut Writer) {
        w.text(1, table);
        w.text(3, name);
        if let Some(base) = &self.base {
            w.nest(4, |w| {
                w.u32(1, base.hook);
                w.u32(2, base.priority.cast_unsigned());
            });
            w.u32(5, base.policy);
            w.text(7, &base.kind);
        }
    }

    /// `None` for a chain that the model cannot say exactly.
    pub(super) fn decode(attributes: &[u8]) -> Option<(String, Self)> {
        let base = match wire::find(attributes, 4) {
            None => None,
            Some(hook) => Some(Base {
                kind: wire::find_text(attributes, 7)?,
                hook: wire::find_u32(hook, 1)?,
                priority: wire::find_u32(hook, 2)?.cast_signed(),
                policy: wire::find_u32(attributes, 5).unwrap_or(POLICY_ACCEPT),
            }),
        };
        let plain = wire::find_u32(attributes, 10).unwrap_or(0) & !CHAIN_BASE == 0;
        plain.then_some((wire::find_text(attributes, 3)?, Self { base }))
    }
}

impl Rule {
    pub(super) fn encode(&self, table: &str, chain: &str, w: &mut Writer) {
        w.text(1, table);
        w.text(2, chain);
        w.nest(4, |w| expr::encode(&self.exprs, w));
        if let Some(comment) = &self.comment {
            // One record: type, length, text with its NUL; the length is a byte.
            let text = &comment.as_bytes()[..comment.len().min(MAX_COMMENT)];
            let mut record = vec![COMMENT, u8::try_from(text.len() + 1).unwrap_or(u8::MAX)];
            record.extend_from_slice(text);
            record.push(0);
            w.bytes(7, &record);
        }
    }

    /// The chain and the rule.
    pub(super) fn decode(attributes: &[u8]) -> Option<(String, Self)> {
        let comment = wire::find(attributes, 7).and_then(|record| match record {
            [COMMENT, length, text @ ..] => text.get(..usize::from(*length)).map(wire::as_text),
            _ => None,
        });
        let exprs = wire::find(attributes, 4).map(expr::decode).unwrap_or_default();
        Some((wire::find_text(attributes, 2)?, Self { exprs, comment }))
    }
}

/// The longest comment in bytes that `nft` would take.
pub(super) const MAX_COMMENT: usize = 127;

impl Element {
    /// An exact key.
    #[must_use]
    pub fn exact(key: Vec<u8>) -> Self {
        Self { key, end: false, last: None, value: None }
    }

    /// A key from here to `last`, in a concatenation of ranges.
    #[must_use]
    pub fn range(first: Vec<u8>, last: Vec<u8>) -> Self {
        Self { last: Some(last), ..Self::exact(first) }
    }

    /// Makes it lead to `value`.
    #[must_use]
    pub fn to(self, value: Value) -> Self {
        Self { value: Some(value), ..self }
    }

    /// An element that is to go on from what it has counted says so.
    pub(super) fn encode(&self, counted: Option<Counted>, w: &mut Writer) {
        w.nest(1, |w| {
            w.nest(1, |w| w.bytes(1, &self.key));
            match &self.value {
                None => {}
                Some(Value::Bytes(bytes)) => w.nest(2, |w| w.bytes(1, bytes)),
                Some(Value::Verdict(verdict)) => w.nest(2, |w| verdict.encode_data(w)),
            }
            if let Some(last) = &self.last {
                w.nest(10, |w| w.bytes(1, last));
            }
            if self.end {
                w.u32(3, 1);
            }
            if let Some(counted) = counted {
                w.nest(7, |w| {
                    w.text(1, COUNTER);
                    w.nest(2, |w| counted.encode(w));
                });
            }
        });
    }

    /// The elements in one message, each with what it counted.
    pub(super) fn decode(attributes: &[u8]) -> impl Iterator<Item = (Self, Counted)> {
        let list = wire::find(attributes, 3).unwrap_or_default();
        wire::attributes(list).filter_map(|(_, element)| {
            let key = wire::find(wire::find(element, 1)?, 1)?.to_vec();
            let last = wire::find(element, 10).and_then(|last| wire::find(last, 1)).map(<[u8]>::to_vec);
            let value = wire::find(element, 2).and_then(|data| match wire::find(data, 1) {
                Some(bytes) => Some(Value::Bytes(bytes.to_vec())),
                None => Verdict::decode_data(data).map(Value::Verdict),
            });
            let end = wire::find_u32(element, 3).unwrap_or(0) & 1 != 0;
            // One expression as such, or, since Linux 5.11, several in a list.
            let expression = wire::find(element, 7).or_else(|| wire::find(wire::find(element, 11)?, 1));
            let counted = expression
                .filter(|e| wire::find_text(e, 1).as_deref() == Some(COUNTER))
                .and_then(|e| wire::find(e, 2).map(Counted::decode));
            Some((Self { key, end, last, value }, counted.unwrap_or_default()))
        })
    }
}
