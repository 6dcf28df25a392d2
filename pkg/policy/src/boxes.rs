//! Disjoint boxes: the kernel's interval maps refuse elements that overlap, and rules overlap as they please.
//!
//! One axis at a time: the borders of all ranges cut it into slices within which the same rules match; each slice is cut along
//! the next axis; at the end stands one verdict. Slices that say the same are put together again.

use crate::items::Verdict;
use crate::rules::Block;
use ipnet::IpNet;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use warren_types::Family;

/// Both ends included.
pub type Range = (u128, u128);

/// Protocols and ports with one verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortBox {
    /// Numbers of protocols, both included.
    pub protocols: (u8, u8),
    /// Ports, both included.
    pub ports: (u16, u16),
    /// What becomes of them.
    pub verdict: Verdict,
}

impl PortBox {
    /// Whether it holds a protocol and port.
    #[must_use]
    pub fn contains(&self, protocol: u8, port: u16) -> bool {
        (self.protocols.0..=self.protocols.1).contains(&protocol)
            && (self.ports.0..=self.ports.1).contains(&port)
    }
}

/// Protocols and ports that a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    /// Numbers of protocols, both included.
    pub protocols: (u8, u8),
    /// Ports, both included.
    pub ports: (u16, u16),
}

impl Ports {
    /// All ports of all protocols.
    pub const ALL: Self = Self { protocols: (0, u8::MAX), ports: (0, u16::MAX) };
}

/// The verdict of the rules with these numbers, in ascending order; none where the map needs no element.
pub type Resolve<'a> = dyn Fn(&[u32]) -> Option<Verdict> + 'a;

/// Disjoint boxes, in order.
pub type Cover = Arc<[PortBox]>;

/// Cuts an axis at the borders of ranges. Gives slices, in order, with the owners of the ranges that hold them (ascending, each
/// once); slices that nobody holds are left out, neighbours with the same owners are one.
fn slices(ranges: impl IntoIterator<Item = (Range, u32)>) -> Vec<(Range, Vec<u32>)> {
    let mut borders: Vec<(u128, bool, u32)> = Vec::new();
    for ((first, last), owner) in ranges {
        borders.push((first, true, owner));
        if let Some(after) = last.checked_add(1) {
            borders.push((after, false, owner));
        }
    }
    borders.sort_unstable();
    let mut holding: BTreeMap<u32, u32> = BTreeMap::new();
    let mut out: Vec<(Range, Vec<u32>)> = Vec::new();
    let mut at = 0;
    while let Some(&(from, ..)) = borders.get(at) {
        while let Some(&(_, begins, owner)) = borders.get(at).filter(|border| border.0 == from) {
            let count = holding.entry(owner).or_default();
            // Within one position ends come before beginnings, so the count of an owner may pass through 0.
            *count = if begins { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                holding.remove(&owner);
            }
            at += 1;
        }
        let to = borders.get(at).map_or(u128::MAX, |border| border.0 - 1);
        if holding.is_empty() {
            continue;
        }
        match out.last_mut() {
            Some(((_, last), owners))
                if last.checked_add(1) == Some(from) && owners.iter().eq(holding.keys()) =>
            {
                *last = to;
            }
            _ => out.push(((from, to), holding.keys().copied().collect())),
        }
    }
    out
}

/// Puts slices together along the axis where they hold the same thing.
fn runs<T: Ord + Copy>(
    slices: impl IntoIterator<Item = (Range, impl IntoIterator<Item = T>)>,
) -> Vec<(Range, T)> {
    let mut out: Vec<(Range, T)> = Vec::new();
    // Where in `out` a thing's latest range is.
    let mut latest: BTreeMap<T, usize> = BTreeMap::new();
    for ((first, last), things) in slices {
        for thing in things {
            let before = latest.get(&thing).and_then(|at| out.get_mut(*at));
            match before {
                Some(((_, end), _)) if end.checked_add(1) == Some(first) => *end = last,
                _ => {
                    latest.insert(thing, out.len());
                    out.push(((first, last), thing));
                }
            }
        }
    }
    out
}

/// Ranges of ports and protocols with their owners, as disjoint boxes.
#[must_use]
pub fn cover(ports: &[(u32, Ports)], resolve: &Resolve<'_>) -> Cover {
    let wide = |(first, last): (u16, u16)| (u128::from(first), u128::from(last));
    let protocols = ports.iter().enumerate().map(|(at, (_, of))| {
        ((u128::from(of.protocols.0), u128::from(of.protocols.1)), u32::try_from(at).unwrap_or(u32::MAX))
    });
    let columns = slices(protocols).into_iter().map(|(range, held)| {
        let of_column = held.into_iter().filter_map(|at| ports.get(at as usize));
        let cells = slices(of_column.map(|(owner, of)| (wide(of.ports), *owner)));
        let decided = cells.into_iter().map(|(range, owners)| (range, resolve(&owners)));
        (range, runs(decided))
    });
    let mut boxes: Vec<PortBox> = runs(columns)
        .into_iter()
        .map(|(protocols, (ports, verdict))| PortBox {
            protocols: (protocols.0 as u8, protocols.1.min(255) as u8),
            ports: (ports.0 as u16, ports.1.min(65535) as u16),
            verdict,
        })
        .collect();
    boxes.sort_unstable();
    boxes.into()
}

/// What a rule matches among addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The rule's number.
    pub rule: u32,
    /// Addresses of one family; they may overlap.
    pub addresses: Vec<Range>,
}

/// Addresses of one family with what holds for each, disjoint and in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slabs(Vec<(Range, Cover)>);

impl Slabs {
    /// From rules with their addresses; `ports` gives those of a rule.
    #[must_use]
    pub fn new(entries: &[Entry], ports: &dyn Fn(u32) -> Vec<Ports>, resolve: &Resolve<'_>) -> Self {
        let mut known: HashMap<Vec<u32>, Cover> = HashMap::new();
        let ranges = entries.iter().flat_map(|e| e.addresses.iter().map(|range| (*range, e.rule)));
        let mut out: Vec<(Range, Cover)> = Vec::new();
        for (range, rules) in slices(ranges) {
            let cover = known.entry(rules).or_insert_with_key(|rules| {
                let all: Vec<(u32, Ports)> =
                    rules.iter().flat_map(|rule| ports(*rule).into_iter().map(|p| (*rule, p))).collect();
                cover(&all, resolve)
            });
            match out.last_mut() {
                Some(((_, last), same)) if last.checked_add(1) == Some(range.0) && same == cover => {
                    *last = range.1;
                }
                _ if cover.is_empty() => {}
                _ => out.push((range, cover.clone())),
            }
        }
        Self(out)
    }

    /// What holds for an address.
    #[must_use]
    pub fn at(&self, address: u128) -> Option<&Cover> {
        let after = self.0.partition_point(|((first, _), _)| *first <= address);
        let ((_, last), cover) = self.0.get(after.checked_sub(1)?)?;
        (address <= *last).then_some(cover)
    }

    /// As disjoint boxes.
    #[must_use]
    pub fn boxes(&self) -> Vec<(Range, PortBox)> {
        runs(self.0.iter().map(|(range, cover)| (*range, cover.iter().copied())))
    }
}

/// An address as a number.
#[must_use]
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The address with a number.
#[must_use]
pub fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        Family::V6 => Ipv6Addr::from(number).into(),
    }
}

/// All addresses of a family.
#[must_use]
pub fn everything(family: Family) -> Range {
    match family {
        Family::V4 => (0, u128::from(u32::MAX)),
        Family::V6 => (0, u128::MAX),
    }
}

fn range(net: &IpNet) -> Range {
    (number(net.network()), number(net.broadcast()))
}

/// The addresses of a block: its prefix without its exceptions.
#[must_use]
pub fn ranges(block: &Block) -> Vec<Range> {
    let family = |net: &IpNet| Family::of(net.addr());
    let (mut first, last) = range(&block.cidr);
    let mut holes: Vec<Range> =
        block.except.iter().filter(|net| family(net) == family(&block.cidr)).map(range).collect();
    holes.sort_unstable();
    let mut out = Vec::new();
    for (from, to) in holes {
        if to < first || from > last {
            continue;
        }
        if from > first {
            out.push((first, from - 1));
        }
        match to.checked_add(1) {
            Some(after) if after <= last => first = after,
            _ => return out,
        }
    }
    out.push((first, last));
    out
}
