//! Sets of addresses as ranges: prefixes in, disjoint sorted ranges out.
//!
//! The kernel refuses overlapping intervals in a set, and node prefixes lie inside cluster prefixes, so Warren merges
//! them itself. (The automatic merging that `nft` offers is work of that program, not of the kernel.)

use ipnet::IpNet;
use std::net::IpAddr;

/// An inclusive range of addresses of one family, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Range {
    pub(super) first: u128,
    pub(super) last: u128,
}

/// The family of a set of ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    /// Bytes of an address.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    /// The family of an address.
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn max(self) -> u128 {
        match self {
            Self::V4 => u128::from(u32::MAX),
            Self::V6 => u128::MAX,
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The fewest ranges that hold exactly the addresses of one family's prefixes.
pub(super) fn merge<'a>(prefixes: impl IntoIterator<Item = &'a IpNet>, family: Family) -> Vec<Range> {
    let mut ranges: Vec<Range> = prefixes
        .into_iter()
        .filter(|prefix| Family::of(prefix.addr()) == family)
        .map(|prefix| Range { first: number(prefix.network()), last: number(prefix.broadcast()) })
        .collect();
    ranges.sort_unstable();
    let mut merged: Vec<Range> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(previous) if range.first <= previous.last.saturating_add(1) => {
                previous.last = previous.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// The keys that hold the ranges in an interval set: where each begins, and where it has ended (`true`). A range up to
/// the family's last address has no end.
pub(super) fn keys(ranges: &[Range], family: Family) -> impl Iterator<Item = (Vec<u8>, bool)> {
    let bytes = move |n: u128| n.to_be_bytes()[16 - family.bytes()..].to_vec();
    ranges.iter().flat_map(move |range| {
        let end = (range.last < family.max()).then(|| (bytes(range.last + 1), true));
        std::iter::once((bytes(range.first), false)).chain(end)
    })
}
