//! Segments that belong to a connection by address, port and acknowledgement, and that connection tracking cannot place all the
//! same: their sequence numbers are far outside of the window.

use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const HEADER: usize = 20;
/// ACK and PSH.
const FLAGS: u8 = 0x18;
const TEXT: &[u8] = b"boom\n";
/// Further than any window reaches.
const FAR: u32 = 1 << 29;
/// How long the other end may be silent.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers each of `count` segments that come from `to` to `from`, an address and port of this place, with a stray one. A
/// kernel that knows no such connection resets it, by the acknowledgement; that is what makes strays dangerous.
pub(crate) fn send(from: SocketAddr, to: SocketAddr, count: u32) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::new(from.ip(), 0).into())?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let target = SocketAddr::new(to.ip(), 0).into();
    let mut buffer = [0; 65_536];
    let mut sent = 0;
    while sent < count {
        let silent = |e: io::Error| io::Error::new(e.kind(), format!("{to} says nothing more: {e}"));
        let length = (&socket).read(&mut buffer).map_err(silent)?;
        let Some(heard) = Heard::read(&buffer[..length], to.is_ipv4()) else { continue };
        if heard.ports == (to.port(), from.port()) && heard.length > 0 {
            let next = heard.sequence.wrapping_add(heard.length);
            socket.send_to(&segment(from, to, heard.acknowledged.wrapping_add(FAR), next), &target)?;
            sent += 1;
        }
    }
    Ok(())
}

/// What is needed of a segment.
struct Heard {
    /// Source and destination.
    ports: (u16, u16),
    sequence: u32,
    acknowledged: u32,
    /// Bytes of data.
    length: u32,
}

impl Heard {
    /// Raw sockets of IPv4 give the header of IP too.
    fn read(packet: &[u8], v4: bool) -> Option<Self> {
        let skip = if v4 { usize::from(packet.first()? & 0xf) * 4 } else { 0 };
        let segment = packet.get(skip..)?;
        let number = |at: usize| Some(u32::from_be_bytes(segment.get(at..at + 4)?.try_into().ok()?));
        let data = usize::from(segment.get(12)? >> 4) * 4;
        Some(Self {
            ports: ((number(0)? >> 16) as u16, (number(0)? & 0xffff) as u16),
            sequence: number(4)?,
            acknowledged: number(8)?,
            length: segment.get(data..)?.len() as u32,
        })
    }
}

fn segment(from: SocketAddr, to: SocketAddr, sequence: u32, acknowledged: u32) -> Vec<u8> {
    let mut segment = Vec::with_capacity(HEADER + TEXT.len());
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend(acknowledged.to_be_bytes());
    segment.extend([(HEADER as u8 / 4) << 4, FLAGS]);
    // Window, checksum, urgent pointer.
    segment.extend([0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(TEXT);
    let sum = checksum(from.ip(), to.ip(), &segment).to_be_bytes();
    segment[16..18].copy_from_slice(&sum);
    segment
}

/// The checksum of TCP (RFC 9293 section 3.1) with its pseudo-header.
fn checksum(from: IpAddr, to: IpAddr, segment: &[u8]) -> u16 {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let length = segment.len() as u16;
    let all = [&octets(from)[..], &octets(to), &[0, 6], &length.to_be_bytes(), segment].concat();
    let mut sum: u32 = all
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
