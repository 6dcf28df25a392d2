//! Addresses in names: `d.c.b.a.in-addr.arpa`, nibbles below `ip6.arpa`, and with dashes.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a name below `in-addr.arpa` or `ip6.arpa` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reverse {
    /// The address, as far as the name says it; the rest is zero.
    pub(super) address: IpAddr,
    /// How many bits of it the name says.
    pub(super) bits: u8,
    /// Bits that a label stands for: 8 or 4.
    pub(super) step: u8,
    /// Whether labels stand before those that say the address.
    pub(super) more: bool,
}

const IN_ADDR_ARPA: &[u8] = b"\x07in-addr\x04arpa\0";
const IP6_ARPA: &[u8] = b"\x03ip6\x04arpa\0";

/// Reads a name in lower case; nothing when it is no reverse name.
pub(super) fn read(name: &[u8]) -> Option<Reverse> {
    let (v4, head) = match (name.strip_suffix(IN_ADDR_ARPA), name.strip_suffix(IP6_ARPA)) {
        (Some(head), _) => (true, head),
        (_, Some(head)) => (false, head),
        _ => return None,
    };
    // Where each label begins, as far as there can be any that matter.
    let mut starts = [0u8; 128];
    let (mut count, mut at) = (0, 0);
    while at < head.len() {
        starts[count] = u8::try_from(at).ok()?;
        count += 1;
        at += 1 + usize::from(head[at]);
    }
    if at != head.len() {
        return None;
    }
    let (step, most) = if v4 { (8u8, 4) } else { (4, 32) };
    let mut value = 0u128;
    let mut said = 0u8;
    for &start in starts[..count].iter().rev().take(most) {
        let start = usize::from(start);
        let label = &head[start + 1..start + 1 + usize::from(head[start])];
        let Some(number) = (if v4 { octet(label) } else { nibble(label) }) else { break };
        said += 1;
        value = value << step | u128::from(number);
    }
    let bits = said * step;
    let address = if v4 {
        let value = u32::try_from(value).ok()?;
        IpAddr::V4(Ipv4Addr::from_bits(value.checked_shl(32 - u32::from(bits)).unwrap_or(0)))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits(value.checked_shl(128 - u32::from(bits)).unwrap_or(0)))
    };
    Some(Reverse { address, bits, step, more: count > usize::from(said) })
}

fn octet(label: &[u8]) -> Option<u8> {
    let canonical = matches!(label, [b'0'..=b'9'] | [b'1'..=b'9', _] | [b'1'..=b'2', _, _]);
    canonical.then(|| std::str::from_utf8(label).ok()?.parse().ok()).flatten()
}

fn nibble(label: &[u8]) -> Option<u8> {
    match *label {
        [digit @ b'0'..=b'9'] => Some(digit - b'0'),
        [digit @ b'a'..=b'f'] => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// The address that a label says with dashes: `10-42-0-7`, `fd00--7`.
pub(super) fn read_dashed(label: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(label).ok()?;
    if text.contains(['.', ':']) {
        return None;
    }
    let v4 = text.split('-').count() == 4 && !text.contains("--");
    text.replace('-', if v4 { "." } else { ":" }).parse().ok()
}

/// A label in wire form, with its length before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Label([u8; 64]);

impl Label {
    /// The label of a text of at most 63 bytes.
    pub(super) fn of(text: &[u8]) -> Self {
        let mut label = [0; 64];
        let length = text.len().min(63);
        label[0] = u8::try_from(length).unwrap_or(0);
        label[1..=length].copy_from_slice(&text[..length]);
        Self(label)
    }

    /// An address with dashes. One that would end with a dash gets a zero, as CoreDNS has it.
    pub(super) fn dashed(address: IpAddr) -> Self {
        let mut label = [0; 64];
        let mut rest = &mut label[1..];
        // The longest address has 45 characters.
        let _ = write!(rest, "{address}");
        let length = 63 - rest.len();
        for byte in &mut label[1..=length] {
            if matches!(byte, b'.' | b':') {
                *byte = b'-';
            }
        }
        let ends_with_dash = label[length] == b'-';
        if ends_with_dash {
            label[length + 1] = b'0';
        }
        label[0] = u8::try_from(length + usize::from(ends_with_dash)).unwrap_or(0);
        Self(label)
    }

    /// Its wire form.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.0[..=usize::from(self.0[0])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Name;
    use proptest::prelude::*;

    fn said(text: &str) -> Option<Reverse> {
        read(text.parse::<Name>().unwrap().wire())
    }

    #[test]
    fn reverse_names_say_addresses_from_the_right() {
        let v4 = |address: &str, bits, more| {
            Some(Reverse { address: address.parse().unwrap(), bits, step: 8, more })
        };
        assert_eq!(said("1.0.43.10.in-addr.arpa"), v4("10.43.0.1", 32, false));
        assert_eq!(said("43.10.in-addr.arpa"), v4("10.43.0.0", 16, false));
        assert_eq!(said("in-addr.arpa"), v4("0.0.0.0", 0, false));
        assert_eq!(said("x.1.0.43.10.in-addr.arpa"), v4("10.43.0.1", 32, true));
        assert_eq!(said("1.01.43.10.in-addr.arpa"), v4("10.43.0.0", 16, true), "not as it is written");
        assert_eq!(said("256.43.10.in-addr.arpa"), v4("10.43.0.0", 16, true));
        assert_eq!(said("10.in-addr.example"), None);
        assert_eq!(said("10.xin-addr.arpa"), None);
        let v6 = said("0.0.7.5.d.f.ip6.arpa").unwrap();
        assert_eq!((v6.address, v6.bits), ("fd57::".parse().unwrap(), 24));
    }

    #[test]
    fn labels_with_dashes_say_addresses() {
        for (text, address) in [
            ("10-42-0-7", Some("10.42.0.7")),
            ("fd57--7", Some("fd57::7")),
            ("fd57--", Some("fd57::")),
            ("fd57--0", Some("fd57::")),
            ("--1", Some("::1")),
            ("1-2-3-4-5-6-7-8", Some("1:2:3:4:5:6:7:8")),
            ("10-42-0", None),
            ("10-42-0-256", None),
            ("010-42-0-1", None),
            ("web-0", None),
            ("10.42.0.7", None),
        ] {
            assert_eq!(read_dashed(text.as_bytes()), address.map(|a| a.parse().unwrap()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn addresses_come_back(v4: [u8; 4], v6: [u16; 8], keep in 0usize..8) {
            let mut short = v6;
            short[keep..].fill(0);
            for address in [IpAddr::from(v4), IpAddr::from(v6), IpAddr::from(short)] {
                // An IPv4 address in an IPv6 one is written with dots, and does not come back.
                if !matches!(address, IpAddr::V6(a) if a.to_string().contains('.')) {
                    let label = Label::dashed(address);
                    prop_assert_eq!(label, Label::of(&label.wire()[1..]));
                    prop_assert_eq!(read_dashed(&label.wire()[1..]), Some(address));
                }
            }
            let nibbles: Vec<String> =
                Ipv6Addr::from(v6).octets().iter().rev().flat_map(|o| [o & 15, o >> 4]).map(|n| format!("{n:x}")).collect();
            let read = said(&format!("{}.ip6.arpa", nibbles.join("."))).unwrap();
            prop_assert_eq!(read, Reverse { address: v6.into(), bits: 128, step: 4, more: false });
        }
    }
}
