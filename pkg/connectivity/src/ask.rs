//! Questions to an echo server, one each: over TCP, UDP, HTTP, and by ICMP. Each asks from the network namespace of the
//! calling thread, and waits for ever: how long is the caller's to say.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UdpSocket};

/// What may be lost is sent again after so long.
const AGAIN: Duration = Duration::from_millis(200);
const MAX_ANSWER: u64 = 64 << 10;

/// What an echo server answered.
pub struct Answer {
    /// The server's name.
    pub name: String,
    /// The prober's address as the server saw it.
    pub seen: IpAddr,
    /// The prober's address as it knows it.
    pub own: IpAddr,
}

/// An answer as an echo server words it, to who has the address `own`.
///
/// # Errors
/// When it is no such answer.
pub fn parse(text: &str, own: IpAddr) -> io::Result<Answer> {
    let mut words = text.split_whitespace();
    let name = words.next().map(str::to_owned);
    let seen = words.next().and_then(|w| w.parse().ok());
    let both = name.zip(seen).ok_or_else(|| io::Error::other("the answer is no echo"));
    both.map(|(name, seen)| Answer { name, seen, own })
}

/// A line over TCP.
///
/// # Errors
/// When nobody is there, or what answers is no echo.
pub async fn tcp(to: SocketAddr) -> io::Result<Answer> {
    let stream = TcpStream::connect(to).await?;
    let own = stream.local_addr()?.ip();
    let (read, mut write) = stream.into_split();
    write.write_all(b"probe\n").await?;
    let mut line = String::new();
    BufReader::new(read).take(MAX_ANSWER).read_line(&mut line).await?;
    parse(&line, own)
}

/// A request over HTTP, for this host.
///
/// # Errors
/// When nobody is there, or what answers is no echo.
pub async fn http(to: SocketAddr, host: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(to).await?;
    let own = stream.local_addr()?.ip();
    stream
        .write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut text = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut text).await?;
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body);
    let body: serde_json::Value = serde_json::from_str(body.unwrap_or_default())?;
    let word = |key: &str| body.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
    parse(&format!("{} {}", word("name"), word("peer")), own)
}

/// A datagram, sent again until it is answered.
///
/// # Errors
/// When nobody is there, or what answers is no echo.
pub async fn udp(to: SocketAddr) -> io::Result<Answer> {
    let socket = UdpSocket::bind((unspecified(to.ip()), 0)).await?;
    socket.connect(to).await?;
    let own = socket.local_addr()?.ip();
    let mut buffer = [0; 512];
    loop {
        // An error is the answer to an earlier datagram; the way may open yet.
        let failed = socket.send(b"probe").await.err();
        match tokio::time::timeout(AGAIN, socket.recv(&mut buffer)).await {
            Ok(Ok(length)) => {
                let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
                return parse(&text, own);
            }
            Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => return Err(e),
            Ok(Err(_)) => tokio::time::sleep(AGAIN).await,
            Err(_) if failed.is_some() => tokio::time::sleep(AGAIN).await,
            Err(_) => {}
        }
    }
}

/// The address that stands for any, of the same family.
pub(crate) fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// An echo request by ICMP, sent again until it is answered. Needs the right to raw sockets.
///
/// # Errors
/// When it cannot be sent.
pub async fn ping(address: IpAddr) -> io::Result<()> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.connect(&SocketAddr::new(address, 0).into())?;
    // Raw sockets hear all answers; the local end of this one in memory tells it from others of this process.
    let id = u16::try_from(std::os::fd::AsRawFd::as_raw_fd(&socket) & 0xfff).unwrap_or(0)
        | (u16::try_from(std::process::id() & 0xf).unwrap_or(0) << 12);
    // What follows only sends and receives, as any socket for datagrams does.
    let socket = UdpSocket::from_std(socket.into())?;
    let mut sequence = 0;
    loop {
        sequence += 1;
        let request = echo_request(address, id, sequence);
        let sent = socket.send(&request).await;
        match tokio::time::timeout(AGAIN, answered(&socket, address, id)).await {
            Ok(result) => return result,
            Err(_) => match sent {
                Err(e) if sequence > 3 && !is_full(&e) => return Err(e),
                _ => {}
            },
        }
    }
}

/// A queue on the way out was full: raw sockets of IPv6 tell it, those of IPv4 keep it to themselves. The next request
/// may pass; whether one does is for the prober's own limit to say.
fn is_full(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::ENOBUFS)
}

async fn answered(socket: &UdpSocket, address: IpAddr, id: u16) -> io::Result<()> {
    let mut buffer = [0; 1500];
    loop {
        // Errors told by routers concern one request, of several.
        let Ok(length) = socket.recv(&mut buffer).await else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        if is_answer(buffer.get(..length).unwrap_or_default(), address, id) {
            return Ok(());
        }
    }
}

fn echo_request(address: IpAddr, id: u16, sequence: u16) -> Vec<u8> {
    let kind = if address.is_ipv4() { 8 } else { 128 };
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend_from_slice(&id.to_be_bytes());
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(b"warren echo test");
    if address.is_ipv4() {
        // The kernel fills in the checksum of ICMPv6 alone.
        let sum = checksum(&packet);
        packet.splice(2..4, sum.to_be_bytes());
    }
    packet
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|c| match c {
        [a, b] => u32::from(u16::from_be_bytes([*a, *b])),
        [a] => u32::from(u16::from_be_bytes([*a, 0])),
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// Whether a received packet answers the request `id`. IPv4 raw sockets receive the IP header too.
fn is_answer(packet: &[u8], address: IpAddr, id: u16) -> bool {
    let icmp = match (address, packet.first()) {
        (IpAddr::V4(_), Some(first)) => packet.get(usize::from(first & 0xf) * 4..).unwrap_or_default(),
        _ => packet,
    };
    let kind = if address.is_ipv4() { 0 } else { 129 };
    icmp.first() == Some(&kind) && icmp.get(4..6) == Some(id.to_be_bytes().as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_has_a_right_checksum() {
        assert_eq!(checksum(&echo_request("10.0.0.1".parse().unwrap(), 7, 1)), 0);
    }

    proptest! {
        #[test]
        fn any_packet_is_read_without_panic(packet in proptest::collection::vec(any::<u8>(), 0..64), id: u16) {
            is_answer(&packet, "10.0.0.1".parse().unwrap(), id);
            is_answer(&packet, "fd::1".parse().unwrap(), id);
        }
        #[test]
        fn any_answer_is_read_without_panic(text in "\\PC{0,80}") {
            let _ = parse(&text, Ipv4Addr::LOCALHOST.into());
        }
    }
}
