//! ARP and neighbour discovery as frames: the four kinds that matter, read with tolerance.

use super::Mac;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const BROADCAST: Mac = Mac([0xff; 6]);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ETHERNET: usize = 14;
const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// Hardware type Ethernet, protocol type IPv4, their lengths.
const ARP_HEAD: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_REQUEST: [u8; 2] = [0, 1];
const ARP_REPLY: [u8; 2] = [0, 2];
const IPV6_HEADER: usize = 40;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// The shortest frame of Ethernet, without its checksum.
const MIN_FRAME: usize = 60;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// Its hardware address.
    pub mac: Mac,
    /// Its address.
    pub ip: IpAddr,
}

/// What a frame says that was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Somebody holds an address.
    Announcement {
        /// The address.
        address: IpAddr,
        /// Who.
        mac: Mac,
    },
    /// Somebody looks for an address.
    Question {
        /// The address.
        address: IpAddr,
        /// Who; none when it only asks whether the address is free (duplicate address detection).
        asker: Option<Asker>,
    },
}

/// A frame to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The address that it is about, which tells the family.
    pub address: IpAddr,
    /// All of it, from the Ethernet header on.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// Tells everyone that `mac` holds `address`.
    #[must_use]
    pub fn announcement(address: IpAddr, mac: Mac) -> Self {
        let bytes = match address {
            IpAddr::V4(v4) => arp(BROADCAST, mac, ARP_REQUEST, v4, Mac([0; 6]), v4),
            IpAddr::V6(v6) => advertisement(None, mac, v6),
        };
        Self { address, bytes }
    }

    /// Tells the asker that `mac` holds `address`; everyone, when there is nobody to tell.
    #[must_use]
    pub fn answer(address: IpAddr, mac: Mac, asker: Option<Asker>) -> Self {
        let bytes = match (address, asker) {
            (IpAddr::V4(v4), Some(Asker { mac: to, ip: IpAddr::V4(ip) })) => {
                arp(to, mac, ARP_REPLY, v4, to, ip)
            }
            (IpAddr::V6(v6), Some(Asker { mac: to, ip: IpAddr::V6(ip) })) => {
                advertisement(Some((to, ip)), mac, v6)
            }
            _ => return Self::announcement(address, mac),
        };
        Self { address, bytes }
    }
}

fn ethernet(to: Mac, from: Mac, kind: [u8; 2]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ETHERNET + IPV6_HEADER + 32);
    bytes.extend(to.0);
    bytes.extend(from.0);
    bytes.extend(kind);
    bytes
}

fn arp(
    to: Mac,
    mac: Mac,
    operation: [u8; 2],
    address: Ipv4Addr,
    target: Mac,
    target_ip: Ipv4Addr,
) -> Vec<u8> {
    let mut bytes = ethernet(to, mac, ARP);
    bytes.extend(ARP_HEAD);
    bytes.extend(operation);
    bytes.extend(mac.0);
    bytes.extend(address.octets());
    bytes.extend(target.0);
    bytes.extend(target_ip.octets());
    bytes.resize(MIN_FRAME, 0);
    bytes
}

/// A neighbour advertisement to the one that asked, or to all nodes. It comes from the address itself: the host may have no
/// other of its scope.
fn advertisement(asker: Option<(Mac, Ipv6Addr)>, mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let flags = if asker.is_some() { SOLICITED | OVERRIDE } else { OVERRIDE };
    let (to, ip) = asker.unwrap_or((Mac([0x33, 0x33, 0, 0, 0, 1]), ALL_NODES));
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend(address.octets());
    message.extend([TARGET_LINK_ADDRESS, 1]);
    message.extend(mac.0);
    let sum = checksum(address, ip, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut bytes = ethernet(to, mac, IPV6);
    bytes.extend([0x60, 0, 0, 0]);
    bytes.extend((message.len() as u16).to_be_bytes());
    bytes.extend([ICMPV6, 255]);
    bytes.extend(address.octets());
    bytes.extend(ip.octets());
    bytes.extend(message);
    bytes
}

/// The checksum of an ICMPv6 message, with its pseudo-header (RFC 4443, section 2.3). Over a message that carries its
/// checksum it is zero.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = message.len() as u32;
    let words = |bytes: &[u8]| {
        let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        bytes.chunks(2).map(word).sum::<u32>()
    };
    let mut sum = words(&source.octets()) + words(&destination.octets()) + words(message);
    sum += (length >> 16) + (length & 0xffff) + u32::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

impl Heard {
    /// Reads a frame; `None` when it says nothing that matters.
    #[must_use]
    pub fn read(frame: &[u8]) -> Option<Self> {
        let body = frame.get(ETHERNET..)?;
        match frame[12..14] {
            [a, b] if [a, b] == ARP => read_arp(body),
            [a, b] if [a, b] == IPV6 => read_ndp(mac_at(frame, 6)?, body),
            _ => None,
        }
    }
}

fn read_arp(body: &[u8]) -> Option<Heard> {
    if body.get(..6)? != ARP_HEAD {
        return None;
    }
    let (sender, ip) = (mac_at(body, 8)?, v4_at(body, 14)?);
    let target = v4_at(body, 24)?;
    let operation = [body[6], body[7]];
    if ip == target {
        return Some(Heard::Announcement { address: target.into(), mac: sender });
    }
    if operation != ARP_REQUEST || unusable(sender) {
        return None;
    }
    let asker = (!ip.is_unspecified()).then_some(Asker { mac: sender, ip: ip.into() });
    Some(Heard::Question { address: target.into(), asker })
}

fn read_ndp(from: Mac, body: &[u8]) -> Option<Heard> {
    // Only what no router has passed on is believed (RFC 4861, section 7.1).
    if body.get(6..8)? != [ICMPV6, 255] || body[0] >> 4 != 6 {
        return None;
    }
    let (source, destination) = (v6_at(body, 8)?, v6_at(body, 24)?);
    let length = usize::from(u16::from_be_bytes([body[4], body[5]]));
    let message = body.get(IPV6_HEADER..IPV6_HEADER + length)?;
    let target = v6_at(message, 8)?;
    if checksum(source, destination, message) != 0 || message[1] != 0 || target.is_multicast() {
        return None;
    }
    match message[0] {
        ADVERTISEMENT if message[4] & SOLICITED == 0 => {
            let mac = option(message.get(24..)?, TARGET_LINK_ADDRESS).unwrap_or(from);
            Some(Heard::Announcement { address: target.into(), mac })
        }
        SOLICITATION => {
            let mac = option(message.get(24..)?, SOURCE_LINK_ADDRESS).unwrap_or(from);
            let asks = !source.is_unspecified();
            if asks && (unusable(mac) || source.is_multicast()) {
                return None;
            }
            Some(Heard::Question {
                address: target.into(),
                asker: asks.then_some(Asker { mac, ip: source.into() }),
            })
        }
        _ => None,
    }
}

/// The hardware address in an option of neighbour discovery.
fn option(mut options: &[u8], wanted: u8) -> Option<Mac> {
    loop {
        let length = usize::from(*options.get(1)?) * 8;
        if length == 0 {
            return None;
        }
        if options[0] == wanted {
            return mac_at(options, 2);
        }
        options = options.get(length..)?;
    }
}

/// Whether nobody can be reached there: a group, or nothing.
fn unusable(mac: Mac) -> bool {
    mac.0[0] & 1 == 1 || mac.0 == [0; 6]
}

fn mac_at(bytes: &[u8], at: usize) -> Option<Mac> {
    Some(Mac(bytes.get(at..at + 6)?.try_into().ok()?))
}

fn v4_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    Some(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?.into())
}

fn v6_at(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    Some(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 8]);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_announcement_is_heard_as_one() {
        for address in [ip("192.0.2.1"), ip("2001:db8::1")] {
            let frame = Frame::announcement(address, MAC);
            assert_eq!(Heard::read(&frame.bytes), Some(Heard::Announcement { address, mac: MAC }));
            // To a group, or to everyone.
            assert_eq!(frame.bytes[0] & 1, 1);
            // Nobody asked by name: the answer to duplicate address detection goes to everyone.
            assert_eq!(Frame::answer(address, MAC, None), frame);
        }
    }

    #[test]
    fn an_answer_goes_to_the_asker_alone_and_is_no_announcement() {
        for (address, asker) in [(ip("192.0.2.1"), ip("192.0.2.9")), (ip("2001:db8::1"), ip("fe80::9"))] {
            let frame = Frame::answer(address, MAC, Some(Asker { mac: OTHER, ip: asker })).bytes;
            assert_eq!((&frame[..6], &frame[6..12]), (&OTHER.0[..], &MAC.0[..]));
            assert_eq!(Heard::read(&frame), None);
        }
    }

    #[test]
    fn questions_are_read_with_who_asks() {
        let request =
            arp(BROADCAST, OTHER, ARP_REQUEST, [192, 0, 2, 9].into(), Mac([0; 6]), [192, 0, 2, 1].into());
        let asker = Some(Asker { mac: OTHER, ip: ip("192.0.2.9") });
        assert_eq!(Heard::read(&request), Some(Heard::Question { address: ip("192.0.2.1"), asker }));
        let probe = arp(BROADCAST, OTHER, ARP_REQUEST, [0; 4].into(), Mac([0; 6]), [192, 0, 2, 1].into());
        assert_eq!(Heard::read(&probe), Some(Heard::Question { address: ip("192.0.2.1"), asker: None }));
    }

    #[test]
    fn what_a_router_passed_on_or_a_wrong_checksum_is_not_believed() {
        let good = Frame::announcement(ip("2001:db8::1"), MAC).bytes;
        for at in [21, 56, 70] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(Heard::read(&bad), None, "{at}");
        }
    }

    proptest! {
        #[test]
        fn damaged_frames_are_harmless(noise: Vec<u8>, six: bool, at in 0usize..86, byte: u8, cut in 0usize..86) {
            let address = if six { ip("2001:db8::1") } else { ip("192.0.2.1") };
            let mut frame = Frame::announcement(address, MAC).bytes;
            let length = frame.len();
            frame[at % length] = byte;
            let _ = Heard::read(&frame);
            let _ = Heard::read(&frame[..cut.min(length)]);
            let _ = Heard::read(&noise);
        }

        #[test]
        fn every_announcement_is_heard(address: [u8; 16], four: bool, mac: [u8; 6]) {
            let address = if four {
                IpAddr::from([address[0], address[1], address[2], address[3]])
            } else {
                IpAddr::from(address)
            };
            prop_assume!(!address.is_multicast());
            let heard = Heard::read(&Frame::announcement(address, Mac(mac)).bytes);
            prop_assert_eq!(heard, Some(Heard::Announcement { address, mac: Mac(mac) }));
        }
    }
}
