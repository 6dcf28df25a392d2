//! The objects of a table, typed; each can be written as a message and read back from one.
//!
//! Equality is what `ensure` compares: everything that decides what happens to a packet takes part in it, and nothing
//! that the kernel adds (handles, use counts, counted packets).

use super::expr::{self, Expr};
use super::ranges::Family;
use super::wire::{self, Writer};
use std::collections::{BTreeMap, BTreeSet};

/// Everything a table holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ruleset {
    /// `NFT_TABLE_F_*`, none of which Warren wants: a dormant table would do nothing.
    pub(super) flags: u32,
    pub(super) counters: BTreeSet<String>,
    pub(super) sets: BTreeMap<String, Set>,
    /// The elements of those sets that were asked for.
    pub(super) elements: BTreeMap<String, BTreeSet<Element>>,
    pub(super) chains: BTreeMap<String, Chain>,
    /// The rules of every chain, in order.
    pub(super) rules: BTreeMap<String, Vec<Rule>>,
}

/// A chain without its rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// Where packets enter; a chain without is reached from others.
    pub(super) base: Option<Base>,
}

/// What makes a chain a base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Base {
    /// `filter`, `nat` or `route`.
    pub(super) kind: String,
    /// `NF_INET_*`.
    pub(super) hook: u32,
    pub(super) priority: i32,
    /// What happens at its end: `NF_ACCEPT` or `NF_DROP`.
    pub(super) policy: u32,
}

/// A rule: expressions, and a word for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) exprs: Vec<Expr>,
    pub(super) comment: Option<String>,
}

/// A set without its elements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Set {
    /// `NFT_SET_*`.
    pub(super) flags: u32,
    /// How `nft` prints the key; the kernel does not look at it.
    pub(super) key_type: u32,
    /// Bytes of a key.
    pub(super) key_length: u32,
    /// Bytes of each field of a concatenated key; empty for a plain one.
    pub(super) fields: Vec<u32>,
}

/// What a field of a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    LinkName,
    Ipv4,
    Ipv6,
}

impl From<Family> for Field {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::Ipv4,
            Family::V6 => Self::Ipv6,
        }
    }
}

/// An element of a set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    /// In an interval set: a range has ended before this key.
    pub(super) end: bool,
}

/// Bytes of an interface name, with its NUL.
pub(super) const LINK_NAME: usize = 16;
/// `NF_INET_PRE_ROUTING`, `NF_INET_LOCAL_OUT`, `NF_INET_POST_ROUTING`.
pub(super) const PREROUTING: u32 = 0;
pub(super) const OUTPUT: u32 = 3;
pub(super) const POSTROUTING: u32 = 4;
pub(super) const POLICY_ACCEPT: u32 = 1;
const SET_INTERVAL: u32 = 0x4;
const SET_CONCATENATION: u32 = 0x80;
/// `NFT_CHAIN_BASE`, which the kernel adds to what it reports.
const CHAIN_BASE: u32 = 1;
/// libnftnl's numbers: types in a concatenation take six bits each, the comment of a rule is its record 0.
const TYPE_BITS: u32 = 6;
const COMMENT: u8 = 0;

impl Field {
    fn type_and_length(self) -> (u32, u32) {
        match self {
            Self::Ipv4 => (7, 4),
            Self::Ipv6 => (8, 16),
            Self::LinkName => (41, 16),
        }
    }
}

impl Set {
    /// A set of ranges of addresses.
    pub(super) fn of_ranges(field: Field) -> Self {
        let (key_type, key_length) = field.type_and_length();
        Self { flags: SET_INTERVAL, key_type, key_length, fields: Vec::new() }
    }

    /// A set of exact tuples.
    pub(super) fn of_tuples(fields: &[Field]) -> Self {
        let parts = fields.iter().map(|field| field.type_and_length());
        let key_type = parts.clone().fold(0, |all, (kind, _)| all << TYPE_BITS | kind);
        let lengths: Vec<u32> = parts.map(|(_, length)| length).collect();
        let key_length = lengths.iter().map(|length| length.next_multiple_of(4)).sum();
        Self { flags: SET_CONCATENATION, key_type, key_length, fields: lengths }
    }

    pub(super) fn encode(&self, table: &str, name: &str, id: u32, w: &mut Writer) {
        w.text(1, table);
        w.text(2, name);
        w.u32(3, self.flags);
        w.u32(4, self.key_type);
        w.u32(5, self.key_length);
        w.u32(10, id);
        if !self.fields.is_empty() {
            w.nest(9, |w| {
                w.nest(2, |w| {
                    for length in &self.fields {
                        w.nest(1, |w| w.u32(1, *length));
                    }
                });
            });
        }
    }

    pub(super) fn decode(attributes: &[u8]) -> Option<(String, Self)> {
        let fields = wire::find(attributes, 9).and_then(|description| wire::find(description, 2));
        let fields = fields.map(|list| {
            wire::attributes(list).filter_map(|(_, field)| wire::find_u32(field, 1)).collect::<Vec<_>>()
        });
        let set = Self {
            flags: wire::find_u32(attributes, 3).unwrap_or(0),
            key_type: wire::find_u32(attributes, 4).unwrap_or(0),
            key_length: wire::find_u32(attributes, 5)?,
            fields: fields.unwrap_or_default(),
        };
        Some((wire::find_text(attributes, 2)?, set))
    }
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
    pub(super) fn exact(key: Vec<u8>) -> Self {
        Self { key, end: false }
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.nest(1, |w| {
            w.nest(1, |w| w.bytes(1, &self.key));
            if self.end {
                w.u32(3, 1);
            }
        });
    }

    /// The elements in one message of a dump.
    pub(super) fn decode(attributes: &[u8]) -> impl Iterator<Item = Self> {
        let list = wire::find(attributes, 3).unwrap_or_default();
        wire::attributes(list).filter_map(|(_, element)| {
            let key = wire::find(wire::find(element, 1)?, 1)?.to_vec();
            Some(Self { key, end: wire::find_u32(element, 3).unwrap_or(0) & 1 != 0 })
        })
    }
}
