//! The little of Ethernet, IPv4 and IPv6 that the capture needs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses, protocol and UDP ports of a captured frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// IP protocol, or the first IPv6 next header.
    pub protocol: u8,
    /// Source and destination port, for UDP and TCP in a first fragment.
    pub ports: Option<(u16, u16)>,
}

/// Reads an Ethernet frame; `None` when it carries neither IPv4, IPv6 nor ARP. ARP shows as protocol 0 from the
/// sender's to the target's address: it, too, tells addresses.
#[must_use]
pub fn parse(frame: &[u8]) -> Option<Packet> {
    let (kind, body) = (frame.get(12..14)?, frame.get(14..)?);
    match kind {
        [0x08, 0x00] => {
            let header = usize::from(body.first()? & 0x0f) * 4;
            let first = body.get(6)? & 0x1f == 0 && *body.get(7)? == 0;
            let protocol = *body.get(9)?;
            let ports = if first { ports(protocol, body.get(header..)?) } else { None };
            Some(Packet { src: v4(body.get(12..16)?), dst: v4(body.get(16..20)?), protocol, ports })
        }
        [0x86, 0xdd] => {
            let protocol = *body.get(6)?;
            let ports = ports(protocol, body.get(40..)?);
            Some(Packet { src: v6(body.get(8..24)?), dst: v6(body.get(24..40)?), protocol, ports })
        }
        [0x08, 0x06] => {
            Some(Packet { src: v4(body.get(14..18)?), dst: v4(body.get(24..28)?), protocol: 0, ports: None })
        }
        _ => None,
    }
}

fn ports(protocol: u8, transport: &[u8]) -> Option<(u16, u16)> {
    if !matches!(protocol, 6 | 17) {
        return None;
    }
    let port = |at: usize| Some(u16::from_be_bytes([*transport.get(at)?, *transport.get(at + 1)?]));
    Some((port(0)?, port(2)?))
}

fn v4(bytes: &[u8]) -> IpAddr {
    let mut octets = [0; 4];
    octets.copy_from_slice(bytes);
    Ipv4Addr::from(octets).into()
}

fn v6(bytes: &[u8]) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(bytes);
    Ipv6Addr::from(octets).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// UDP from 10.42.0.2:40000 to 10.42.1.3:8080, with two bytes of payload.
    const UDP: &[u8] = &[
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0x57, 0x08, 0x00, 0x45, 0, 0, 30, 0, 1, 0, 0, 64,
        17, 0, 0, 10, 42, 0, 2, 10, 42, 1, 3, 0x9c, 0x40, 0x1f, 0x90, 0, 10, 0, 0, b'h', b'i',
    ];

    #[test]
    fn a_frame_tells_addresses_and_ports() {
        let (src, dst) = (Ipv4Addr::new(10, 42, 0, 2).into(), Ipv4Addr::new(10, 42, 1, 3).into());
        assert_eq!(parse(UDP), Some(Packet { src, dst, protocol: 17, ports: Some((40000, 8080)) }));
    }

    #[test]
    fn a_cut_frame_is_no_packet_and_no_panic() {
        for cut in 0..34 {
            assert_eq!(parse(&UDP[..cut]), None, "{cut} bytes");
        }
    }
}
