//! The PROXY protocol: who a connection is from, said before its first byte.

use crate::error::Broken;
use crate::route::ProxyHeader;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What the binary form begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest header of the text form.
const LONGEST_V1: usize = 107;
/// The most that a header of the binary form may say besides addresses.
const LONGEST_V2: usize = 1024;

/// The header of a connection.
pub(crate) fn write(version: ProxyHeader, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
    let ports = (source.port(), destination.port());
    match (version, from, to) {
        (ProxyHeader::V1, IpAddr::V4(_), IpAddr::V4(_)) => {
            format!("PROXY TCP4 {from} {to} {} {}\r\n", ports.0, ports.1).into_bytes()
        }
        (ProxyHeader::V1, ..) => {
            let (from, to) = (v6(from), v6(to));
            format!("PROXY TCP6 {from} {to} {} {}\r\n", ports.0, ports.1).into_bytes()
        }
        (ProxyHeader::V2, from, to) => {
            let (family, addresses) = match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => (0x11, [from.octets(), to.octets()].concat()),
                (from, to) => (0x21, [v6(from).octets(), v6(to).octets()].concat()),
            };
            let mut header = SIGNATURE.to_vec();
            header.extend_from_slice(&[0x21, family]);
            header.extend_from_slice(&(addresses.len() as u16 + 4).to_be_bytes());
            header.extend_from_slice(&addresses);
            header.extend_from_slice(&ports.0.to_be_bytes());
            header.extend_from_slice(&ports.1.to_be_bytes());
            header
        }
    }
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// Reads the header that a connection begins with, and not a byte more. Returns source and destination, unless the proxy
/// speaks for itself.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<(SocketAddr, SocketAddr)>, Broken> {
    let bad = || Broken::Io(io::Error::new(io::ErrorKind::InvalidData, "no PROXY header"));
    // The shortest header of all is `PROXY UNKNOWN` and its line end.
    let mut begin = [0; 15];
    stream.read_exact(&mut begin).await?;
    if begin.starts_with(&SIGNATURE) {
        let (command, family, high) = (begin[12], begin[13], begin[14]);
        let length = usize::from(u16::from_be_bytes([high, stream.read_u8().await?]));
        if command & 0xf0 != 0x20 || length > LONGEST_V2 {
            return Err(bad());
        }
        let mut rest = vec![0; length];
        stream.read_exact(&mut rest).await?;
        return match (command & 0x0f, family) {
            (0, _) => Ok(None),
            (1, 0x11) => v2::<4, Ipv4Addr>(&rest).map(Some).ok_or_else(bad),
            (1, 0x21) => v2::<16, Ipv6Addr>(&rest).map(Some).ok_or_else(bad),
            _ => Err(bad()),
        };
    }
    let mut line = begin.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == LONGEST_V1 || !line.starts_with(b"PROXY ") {
            return Err(bad());
        }
        line.push(stream.read_u8().await?);
    }
    let line = std::str::from_utf8(&line).map_err(|_| bad())?.trim_end();
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", "TCP4" | "TCP6", from, to, from_port, to_port] => {
            let address = |ip: &str, port: &str| -> Option<SocketAddr> {
                Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
            };
            let both = address(from, from_port).zip(address(to, to_port));
            both.map(Some).ok_or_else(bad)
        }
        _ => Err(bad()),
    }
}

fn v2<const N: usize, A: From<[u8; N]> + Into<IpAddr>>(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (from, rest) = bytes.split_first_chunk::<N>()?;
    let (to, rest) = rest.split_first_chunk::<N>()?;
    let (from_port, rest) = rest.split_first_chunk::<2>()?;
    let (to_port, _) = rest.split_first_chunk::<2>()?;
    let address = |ip: [u8; N], port: [u8; 2]| SocketAddr::new(A::from(ip).into(), u16::from_be_bytes(port));
    Some((address(*from, *from_port), address(*to, *to_port)))
}
