//! The whole ruleset of a namespace, of every program: for people and for judging what becomes of a packet. Read only.

use super::expr::{self, Expr};
use super::model::{Base, Element, POLICY_ACCEPT, Set};
use super::socket::{Connection, Failure};
use super::wire::{self, Writer, message};
use super::{Nft, unspoilt};
use crate::NetlinkError;
use std::collections::BTreeMap;
use std::fmt;

const OBJECT: &str = "nftables ruleset";
/// `NFT_TABLE_F_DORMANT`.
const DORMANT: u32 = 1;
/// Elements of a set that are kept; of a larger one it is not known what is in it.
const MOST_ELEMENTS: usize = 16_384;

/// The families of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum TableFamily {
    /// Both.
    Inet = 1,
    /// IPv4.
    Ip = 2,
    /// Frames that a bridge forwards. What is here is not read by [`Nft::list_all`].
    Bridge = 7,
    /// IPv6.
    Ip6 = 10,
}

impl TableFamily {
    /// Those that packets of IPv4 and IPv6 meet.
    const ALL: [Self; 3] = [Self::Inet, Self::Ip, Self::Ip6];
}

impl fmt::Display for TableFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Bridge => "bridge",
            Self::Ip6 => "ip6",
        })
    }
}

/// A table of any program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnyTable {
    /// Its family.
    pub family: TableFamily,
    /// Its name.
    pub name: String,
    /// Whether it does nothing at present.
    pub dormant: bool,
    /// Its chains by name.
    pub chains: BTreeMap<String, AnyChain>,
    /// Its sets and maps by name.
    pub sets: BTreeMap<String, AnySet>,
}

impl fmt::Display for AnyTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// A chain with its rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnyChain {
    /// Where packets enter; a chain without is reached from others.
    pub base: Option<Base>,
    /// In order.
    pub rules: Vec<AnyRule>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnyRule {
    /// Its number, by which `nft delete rule` and `nft -a list ruleset` name it.
    pub handle: u64,
    /// What it is made of.
    pub exprs: Vec<Expr>,
    /// What its program says of it.
    pub comment: Option<String>,
}

/// A set or map with its elements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnySet {
    set: Set,
    /// In order of their keys; `None` when there are too many to be read.
    elements: Option<Vec<Element>>,
}

impl AnySet {
    /// Bytes of a key.
    #[must_use]
    pub fn key_length(&self) -> usize {
        self.set.key_length as usize
    }

    /// The element that a key finds: `Some(None)` when there is none, `None` when that is not known.
    #[must_use]
    pub fn find(&self, key: &[u8]) -> Option<Option<&Element>> {
        let elements = self.elements.as_ref()?;
        if self.set.is_plain_ranges() {
            // The last that begins at or before the key: a range, or the end of one.
            let before = elements.iter().take_while(|e| e.key.as_slice() <= key);
            return Some(before.last().filter(|e| !e.end));
        }
        Some(elements.iter().find(|e| match &e.last {
            None => e.key == key,
            Some(last) => self.within(key, &e.key, last),
        }))
    }

    /// Whether every field of the key lies between those of two others.
    fn within(&self, key: &[u8], first: &[u8], last: &[u8]) -> bool {
        let mut at = 0;
        self.set.fields.iter().all(|length| {
            let end = at + *length as usize;
            let field = |bytes: &'_ [u8]| bytes.get(at..end).map(<[u8]>::to_vec);
            let inside = match (field(key), field(first), field(last)) {
                (Some(key), Some(first), Some(last)) => first <= key && key <= last,
                _ => false,
            };
            at = end.next_multiple_of(4);
            inside
        })
    }
}

impl Expr {
    /// Of a match or target of xtables inside nftables (`iptables-nft`): its name, such as `REJECT`.
    #[must_use]
    pub fn xtables_name(&self) -> Option<String> {
        match self {
            Self::Unknown { name, data } if name == "match" || name == "target" => wire::find_text(data, 1),
            _ => None,
        }
    }
}

impl Nft {
    /// Every table of the families `inet`, `ip` and `ip6`, of all programs, with chains, rules, sets and elements.
    ///
    /// # Errors
    /// When the kernel's answer cannot be had, or the ruleset changes without a pause.
    pub async fn list_all(&self) -> Result<Vec<AnyTable>, NetlinkError> {
        self.run("read", |connection| list(connection).map_err(|f| f.named("read", OBJECT, None))).await
    }
}

fn list(connection: &mut Connection) -> Result<Vec<AnyTable>, Failure> {
    let mut found = Vec::new();
    for family in TableFamily::ALL {
        found.extend(unspoilt(|| match of_family(connection, family) {
            // A set that went between two questions.
            Err(failure) if failure.is_not_found() => Err(Failure::Stale),
            outcome => outcome,
        })?);
    }
    Ok(found)
}

fn of_family(connection: &mut Connection, family: TableFamily) -> Result<Vec<AnyTable>, Failure> {
    let mut tables: BTreeMap<String, AnyTable> = BTreeMap::new();
    dump(connection, family, message::GET_TABLE, Writer::default(), |attributes| {
        let Some(name) = wire::find_text(attributes, 1) else { return };
        let dormant = wire::find_u32(attributes, 2).unwrap_or(0) & DORMANT != 0;
        let table =
            AnyTable { family, name: name.clone(), dormant, chains: BTreeMap::new(), sets: BTreeMap::new() };
        tables.insert(name, table);
    })?;
    dump(connection, family, message::GET_CHAIN, Writer::default(), |attributes| {
        let table = wire::find_text(attributes, 1).and_then(|name| tables.get_mut(&name));
        if let (Some(table), Some(name)) = (table, wire::find_text(attributes, 3)) {
            table.chains.insert(name, AnyChain { base: base_of(attributes), rules: Vec::new() });
        }
    })?;
    dump(connection, family, message::GET_RULE, Writer::default(), |attributes| {
        let table = wire::find_text(attributes, 1).and_then(|name| tables.get_mut(&name));
        let chain = wire::find_text(attributes, 2).zip(table).and_then(|(name, t)| t.chains.get_mut(&name));
        let Some(chain) = chain else { return };
        let comment = super::model::Rule::decode(attributes).and_then(|(_, rule)| rule.comment);
        chain.rules.push(AnyRule {
            handle: wire::find_u64(attributes, 3).unwrap_or(0),
            exprs: wire::find(attributes, 4).map(expr::decode).unwrap_or_default(),
            comment,
        });
    })?;
    dump(connection, family, message::GET_SET, Writer::default(), |attributes| {
        let table = wire::find_text(attributes, 1).and_then(|name| tables.get_mut(&name));
        if let (Some(table), Some((name, set))) = (table, Set::decode(attributes)) {
            table.sets.insert(name, AnySet { set, elements: None });
        }
    })?;
    for table in tables.values_mut() {
        for (name, set) in &mut table.sets {
            set.elements = elements(connection, family, &table.name, name)?;
        }
    }
    Ok(tables.into_values().collect())
}

fn elements(
    connection: &mut Connection,
    family: TableFamily,
    table: &str,
    set: &str,
) -> Result<Option<Vec<Element>>, Failure> {
    let mut request = Writer::default();
    request.text(1, table);
    request.text(2, set);
    let mut found = Vec::new();
    dump(connection, family, message::GET_ELEMENTS, request, |attributes| {
        if found.len() <= MOST_ELEMENTS {
            found.extend(Element::decode(attributes).map(|(element, _)| element));
        }
    })?;
    // Where one range ends and the next begins, the beginning counts.
    found.sort_by(|a, b| (&a.key, !a.end).cmp(&(&b.key, !b.end)));
    Ok((found.len() <= MOST_ELEMENTS).then_some(found))
}

fn dump(
    connection: &mut Connection,
    family: TableFamily,
    message: u8,
    request: Writer,
    each: impl FnMut(&[u8]),
) -> Result<(), Failure> {
    match connection.dump_of(wire::kind_of(message), family as u8, request, each)? {
        true => Ok(()),
        false => Err(Failure::Stale),
    }
}

fn base_of(attributes: &[u8]) -> Option<Base> {
    let hook = wire::find(attributes, 4)?;
    Some(Base {
        kind: wire::find_text(attributes, 7).unwrap_or_default(),
        hook: wire::find_u32(hook, 1)?,
        priority: wire::find_u32(hook, 2)?.cast_signed(),
        policy: wire::find_u32(attributes, 5).unwrap_or(POLICY_ACCEPT),
    })
}
