//! A pool of addresses for Services: ranges, read from flags.

use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use warren_types::Family;

/// Why a range was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRange {
    /// Neither of the forms.
    #[error("{0:?} is not a range: write 198.51.100.64/28, 198.51.100.64-198.51.100.79 or one address")]
    Syntax(String),
    /// The ends are of two families, or in the wrong order.
    #[error("range {0:?}: both ends must be of one family, the lower first")]
    Order(String),
    /// Not addresses that a Service can have on a LAN.
    #[error(
        "range {0:?} holds loopback, link-local, multicast or unspecified addresses; no Service can have those"
    )]
    Unusable(String),
}

/// Addresses from the first to the last, of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PoolRange {
    first: IpAddr,
    last: IpAddr,
}

impl FromStr for PoolRange {
    type Err = InvalidRange;

    /// Reads a prefix, two addresses with `-` between them, or one address. Of an IPv4 prefix the network's and the
    /// broadcast address are left out, of an IPv6 prefix the routers' anycast address, unless it has no room for them.
    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let text = text.trim();
        let syntax = |_| InvalidRange::Syntax(text.to_owned());
        let (first, last) = if let Some((first, last)) = text.split_once('-') {
            let parse = |end: &str| end.trim().parse::<IpAddr>().map_err(|_| syntax(()));
            (parse(first)?, parse(last)?)
        } else if text.contains('/') {
            let net: IpNet = text.parse().map_err(|_| syntax(()))?;
            let (first, last) = (net.network(), net.broadcast());
            match net {
                IpNet::V4(net) if net.prefix_len() < 31 => (step(first, 1), step(last, -1)),
                IpNet::V6(net) if net.prefix_len() < 127 => (step(first, 1), last),
                _ => (first, last),
            }
        } else {
            let one = text.parse().map_err(|_| syntax(()))?;
            (one, one)
        };
        if first.is_ipv4() != last.is_ipv4() || first > last {
            return Err(InvalidRange::Order(text.to_owned()));
        }
        let range = Self { first, last };
        let bad = |text: &str| text.parse::<IpNet>().is_ok_and(|net| range.touches(net));
        if ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"]
            .into_iter()
            .chain(["::/127", "fe80::/10", "ff00::/8", "::ffff:0:0/96"])
            .any(bad)
        {
            return Err(InvalidRange::Unusable(text.to_owned()));
        }
        Ok(range)
    }
}

impl PoolRange {
    fn family(&self) -> Family {
        Family::of(self.first)
    }

    fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && (self.first..=self.last).contains(&address)
    }

    fn touches(&self, net: IpNet) -> bool {
        self.first.is_ipv4() == net.addr().is_ipv4()
            && self.first <= net.broadcast()
            && net.network() <= self.last
    }
}

impl fmt::Display for PoolRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Ranges that Services are given addresses from. They may overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pool(Vec<PoolRange>);

impl Pool {
    /// A pool of these ranges.
    #[must_use]
    pub fn new(mut ranges: Vec<PoolRange>) -> Self {
        ranges.sort_unstable();
        Self(ranges)
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|range| range.contains(address))
    }

    /// Whether it has any address of a family.
    #[must_use]
    pub fn has(&self, family: Family) -> bool {
        self.0.iter().any(|range| range.family() == family)
    }

    /// How many addresses of a family it has, at most `u128::MAX`.
    #[must_use]
    pub fn size(&self, family: Family) -> u128 {
        let mut size = 0u128;
        let mut next = 0u128;
        // The ranges are sorted, so what lies before `next` has been counted.
        for range in self.0.iter().filter(|range| range.family() == family) {
            let (first, last) = (number(range.first).max(next), number(range.last));
            if first <= last {
                size = size.saturating_add(last - first).saturating_add(1);
                next = last.saturating_add(1);
            }
        }
        size
    }

    /// The lowest address of a family that is not below `from`.
    #[must_use]
    pub fn next(&self, family: Family, from: Option<IpAddr>) -> Option<IpAddr> {
        let ranges = self.0.iter().filter(|range| range.family() == family);
        ranges
            .filter(|range| from.is_none_or(|from| from <= range.last))
            .map(|range| from.map_or(range.first, |from| from.max(range.first)))
            .min()
    }

    /// The ranges as text.
    #[must_use]
    pub fn describe(&self) -> String {
        self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// The address after this one; `None` after the last of its family.
pub(crate) fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_add(1).map(|n| Ipv4Addr::from_bits(n).into()),
        IpAddr::V6(v6) => v6.to_bits().checked_add(1).map(|n| Ipv6Addr::from_bits(n).into()),
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// An address moved by one; only for addresses inside a prefix with room.
fn step(address: IpAddr, by: i8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().wrapping_add_signed(by.into())).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().wrapping_add_signed(by.into())).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(text: &str) -> PoolRange {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn ranges_are_read_in_three_forms() {
        assert_eq!(range("192.0.2.8/29").to_string(), "192.0.2.9-192.0.2.14");
        assert_eq!(range("192.0.2.8/31").to_string(), "192.0.2.8-192.0.2.9");
        assert_eq!(range(" 192.0.2.8 - 192.0.2.15 ").to_string(), "192.0.2.8-192.0.2.15");
        assert_eq!(range("192.0.2.8").to_string(), "192.0.2.8-192.0.2.8");
        assert_eq!(range("2001:db8::10/124").to_string(), "2001:db8::11-2001:db8::1f");
    }

    #[test]
    fn ranges_that_make_no_sense_are_refused_with_a_reason() {
        for bad in
            ["", "x", "192.0.2.9-192.0.2.1", "192.0.2.1-2001:db8::1", "192.0.2.1/33", "1-2-3", "10.0.0.0/8-"]
        {
            assert!(bad.parse::<PoolRange>().is_err(), "{bad}");
        }
        for bad in [
            "127.0.0.1",
            "224.0.0.0/28",
            "0.0.0.0/0",
            "::/0",
            "fe80::/64",
            "::1",
            "169.254.1.1",
            "120.0.0.0-130.0.0.0",
        ] {
            assert!(matches!(bad.parse::<PoolRange>(), Err(InvalidRange::Unusable(_))), "{bad}");
        }
    }

    #[test]
    fn addresses_come_in_order_and_overlaps_count_once() {
        let pool = Pool::new(
            ["192.0.2.20-192.0.2.21", "192.0.2.1-192.0.2.2", "192.0.2.2-192.0.2.3"].map(range).into(),
        );
        let mut all = Vec::new();
        let mut next = pool.next(Family::V4, None);
        while let Some(address) = next {
            all.push(address.to_string());
            next = after(address).and_then(|from| pool.next(Family::V4, Some(from)));
        }
        assert_eq!(all, ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.20", "192.0.2.21"]);
        assert_eq!((pool.size(Family::V4), pool.size(Family::V6)), (5, 0));
        assert_eq!(Pool::new(vec![range("2001:db8::/64")]).size(Family::V6), u128::from(u64::MAX));
        assert!(!pool.has(Family::V6));
    }

    proptest! {
        #[test]
        fn any_text_is_a_range_or_refused(text in "\\PC{0,40}|[0-9a-f:./-]{0,40}") {
            if let Ok(range) = text.parse::<PoolRange>() {
                prop_assert!(range.contains(range.first) && range.contains(range.last));
            }
        }
    }
}
