//! Numbers and addresses as text, straight into a buffer: several are written for each request.

use std::io::Write as _;
use std::net::IpAddr;

/// The most digits of a number.
const DIGITS: usize = 20;

/// Writes a number in decimal.
pub(crate) fn number(out: &mut Vec<u8>, number: u64) {
    padded(out, number, 1);
}

/// Writes a number in decimal, with zeros in front up to a width of at most 20.
pub(crate) fn padded(out: &mut Vec<u8>, mut number: u64, width: usize) {
    let mut digits = [b'0'; DIGITS];
    let mut at = DIGITS;
    while number > 0 {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits[at.min(DIGITS.saturating_sub(width))..]);
}

/// Writes a number in hexadecimal, as the sizes of chunks are.
pub(crate) fn hex(out: &mut Vec<u8>, number: u64) {
    let length = (64 - number.leading_zeros()).div_ceil(4).max(1);
    out.extend((0..length).rev().map(|at| b"0123456789abcdef"[(number >> (at * 4)) as usize & 15]));
}

/// Writes the header line of a length.
pub(crate) fn content_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    number(out, length);
    out.extend_from_slice(b"\r\n");
}

/// Writes an address.
pub(crate) fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let (mut text, mut at) = ([b'.'; 16], 0);
            for octet in address.octets() {
                for (least, digit) in [(100, octet / 100), (10, octet / 10 % 10), (0, octet % 10)] {
                    if octet >= least {
                        text[at] = b'0' + digit;
                        at += 1;
                    }
                }
                // The point is there.
                at += 1;
            }
            out.extend_from_slice(&text[..at - 1]);
        }
        IpAddr::V6(address) => {
            // Writing to memory does not fail.
            let _ = write!(out, "{address}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn made(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b"=".to_vec();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_the_standard_library_writes(
            any in any::<u64>(),
            shift in 0_u32..64,
            width in 1_usize..=20,
            ip in any::<IpAddr>(),
        ) {
            let any = any >> shift;
            prop_assert_eq!(made(|out| number(out, any)), format!("={any}"));
            prop_assert_eq!(made(|out| padded(out, any, width)), format!("={any:0width$}"));
            prop_assert_eq!(made(|out| hex(out, any)), format!("={any:x}"));
            prop_assert_eq!(made(|out| address(out, ip)), format!("={ip}"));
        }
    }

    #[test]
    fn the_ends_of_the_range_are_written() {
        for number in [0, 9, 10, 15, 16, u64::MAX] {
            assert_eq!(made(|out| super::number(out, number)), format!("={number}"));
            assert_eq!(made(|out| hex(out, number)), format!("={number:x}"));
        }
    }
}
