//! Echo requests of several sizes across each tunnel, all at once: who answers, and how large a packet arrives.

use crate::facts::{Facts, Known, TunnelProbe};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use warren_netlink::Netlink;
use warren_types::marks::TUNNEL_LINK;

/// A small one first, then those by which a path that is too narrow is measured. The tunnel's own MTU is added.
const SIZES: [u32; 12] = [100, 576, 1000, 1200, 1240, 1280, 1300, 1320, 1340, 1360, 1380, 1400];
/// How long answers are waited for, each time.
const WAIT: Duration = Duration::from_millis(800);
/// Tries: the first packets of a quiet tunnel wait for a handshake, and any may be lost.
const TRIES: usize = 3;
/// Most peers that are asked.
const MOST: usize = 256;

const REQUEST_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const REQUEST_V6: u8 = 128;
const REPLY_V6: u8 = 129;
/// Bytes of the ICMP header.
const HEADER: usize = 8;

pub(super) async fn gather(facts: &mut Facts) {
    facts.tunnels = probe(facts).await;
}

async fn probe(facts: &Facts) -> Known<Vec<TunnelProbe>> {
    let status = facts.status()?;
    let mtu = facts
        .links()?
        .iter()
        .find(|l| l.name == TUNNEL_LINK)
        .map(|l| l.mtu)
        .ok_or("there is no tunnel link")?;
    let netlink = Netlink::current().map_err(|e| e.to_string())?;
    let mut found = Vec::new();
    for node in status.nodes.iter().filter(|n| !n.own).take(MOST) {
        let Some(tunnel) = &node.tunnel else { continue };
        let first = node.pod_cidrs.first().and_then(|c| c.parse::<ipnet::IpNet>().ok());
        let address = first.and_then(|net| net.hosts().next());
        let endpoint = tunnel.endpoint.as_ref().and_then(|e| e.parse::<SocketAddr>().ok());
        let underlay_mtu = match endpoint {
            Some(endpoint) => netlink.path_mtu(endpoint.ip()).await.ok(),
            None => None,
        };
        let underlay_v6 = endpoint.is_some_and(|e| e.is_ipv6());
        found.push(TunnelProbe {
            node: node.name.clone(),
            address,
            underlay_mtu,
            underlay_v6,
            ..TunnelProbe::default()
        });
    }
    let work = move || {
        for v4 in [true, false] {
            if let Err(e) = ask(&mut found, mtu, v4) {
                return Err(format!("echo requests cannot be sent: {e}"));
            }
        }
        Ok(found)
    };
    tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())?
}

/// Asks those of one family.
fn ask(probes: &mut [TunnelProbe], mtu: u32, v4: bool) -> io::Result<()> {
    if !probes.iter().any(|p| p.address.is_some_and(|a| a.is_ipv4() == v4)) {
        return Ok(());
    }
    let (domain, protocol) =
        if v4 { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
    let mut socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    let sizes: BTreeSet<u32> = SIZES.into_iter().filter(|s| *s < mtu).chain([mtu]).collect();
    let sizes: Vec<u32> = sizes.into_iter().collect();
    let identifier = u16::try_from(std::process::id() & 0xffff).unwrap_or_default();
    for _ in 0..TRIES {
        for (index, probe) in probes.iter().enumerate() {
            let Some(address) = probe.address.filter(|a| a.is_ipv4() == v4 && probe.largest < mtu) else {
                continue;
            };
            for (place, size) in sizes.iter().enumerate().filter(|(_, s)| **s > probe.largest) {
                let packet = request(v4, identifier, number(index, place), *size);
                // One that cannot be sent is one that is not answered.
                let _ = socket.send_to(&packet, &SockAddr::from(SocketAddr::new(address, 0)));
            }
        }
        hear(&mut socket, v4, identifier, &sizes, mtu, probes)?;
    }
    Ok(())
}

/// Notes answers until all have come, or nothing came for a while.
fn hear(
    socket: &mut Socket,
    v4: bool,
    identifier: u16,
    sizes: &[u32],
    mtu: u32,
    probes: &mut [TunnelProbe],
) -> io::Result<()> {
    let end = Instant::now() + WAIT;
    let mut buffer = vec![0; 65_536];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let all = probes.iter().all(|p| p.largest >= mtu || p.address.is_none_or(|a| a.is_ipv4() != v4));
        if left.is_zero() || all {
            return Ok(());
        }
        socket.set_read_timeout(Some(left))?;
        let length = match socket.read(&mut buffer) {
            Ok(length) => length,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(());
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let Some(number) = reply(buffer.get(..length).unwrap_or_default(), v4, identifier) else { continue };
        let (index, place) = (usize::from(number) / 16, usize::from(number) % 16);
        if let (Some(probe), Some(size)) = (probes.get_mut(index), sizes.get(place)) {
            probe.answered = true;
            probe.largest = probe.largest.max(*size);
        }
    }
}

/// The sequence number that stands for a peer and a size; there are at most 13 sizes.
fn number(index: usize, place: usize) -> u16 {
    u16::try_from(index * 16 + place).unwrap_or(u16::MAX)
}

/// An echo request that makes an IP packet of `size` bytes.
fn request(v4: bool, identifier: u16, sequence: u16, size: u32) -> Vec<u8> {
    let header = if v4 { 20 } else { 40 };
    let mut packet = vec![0; (size as usize).saturating_sub(header).max(HEADER)];
    packet[0] = if v4 { REQUEST_V4 } else { REQUEST_V6 };
    packet[4..6].copy_from_slice(&identifier.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    if v4 {
        // That of IPv6 is filled in by the kernel (RFC 3542, section 3.1).
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The sequence number of an answer to one of ours.
fn reply(packet: &[u8], v4: bool, identifier: u16) -> Option<u16> {
    // A raw socket of IPv4 gives the IP header too.
    let start = if v4 { usize::from(packet.first()? & 0x0f) * 4 } else { 0 };
    let icmp = packet.get(start..)?;
    let half = |at: usize| Some(u16::from_be_bytes(icmp.get(at..at + 2)?.try_into().ok()?));
    let kind = if v4 { REPLY_V4 } else { REPLY_V6 };
    (*icmp.first()? == kind && half(4)? == identifier).then(|| half(6))?
}

/// The internet checksum (RFC 1071).
fn checksum(packet: &[u8]) -> u16 {
    let words = packet.chunks(2).map(|c| u32::from(c[0]) << 8 | c.get(1).copied().map_or(0, u32::from));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren_netlink::{NetNs, sysctl};

    #[test]
    fn who_answers_is_measured_and_who_does_not_is_not() {
        let ns = NetNs::fresh().unwrap();
        let probes = ns.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let netlink = Netlink::current().unwrap();
                sysctl::set("net/ipv6/conf/all/disable_ipv6", "0").unwrap();
                netlink.set_up("lo", true).await.unwrap();
            });
            let at = |address: &str| TunnelProbe {
                address: Some(address.parse().unwrap()),
                ..TunnelProbe::default()
            };
            let mut probes = vec![at("127.0.0.1"), at("::1"), at("192.0.2.1")];
            ask(&mut probes, 1420, true).unwrap();
            ask(&mut probes, 1420, false).unwrap();
            probes
        });
        let probes = probes.unwrap();
        assert_eq!(
            probes.iter().map(|p| (p.answered, p.largest)).collect::<Vec<_>>(),
            [(true, 1420), (true, 1420), (false, 0)]
        );
    }

    #[test]
    fn a_packet_with_its_checksum_sums_to_nothing() {
        for size in [28, 29, 100, 1420] {
            assert_eq!(checksum(&request(true, 7, 9, size)), 0);
        }
        assert_eq!(reply(&[], true, 7), None);
        assert_eq!(reply(&[0x45; 10], true, 7), None);
    }
}
