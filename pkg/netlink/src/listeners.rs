//! Who listens on which port: TCP sockets that accept and UDP sockets that are bound, as `/proc` tells.
//!
//! Job: a snapshot of a network namespace's listeners, and the process behind one of them.
//! Inputs: `/proc/thread-self/net`, `/proc/PID`. Outputs: [`Listener`]s, [`Process`]. Owns: nothing.
//! A table that this kernel lacks (no IPv6, say) has no listeners; a line that makes no sense is skipped.

use crate::{NetNs, NetlinkError};
use nix::libc;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// State of a TCP socket that accepts connections.
const TCP_LISTEN: u8 = 10;
/// State of a UDP socket that is bound, not connected.
const UDP_BOUND: u8 = 7;
/// Descriptors of one process that are looked at.
const MAX_DESCRIPTORS: usize = 65_536;

/// A socket that takes what comes to a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listener {
    /// The number in the IP header: TCP or UDP.
    pub protocol: u8,
    /// Where it listens. The wildcard of IPv6 may take IPv4 too.
    pub address: SocketAddr,
    /// Its inode, by which [`process_of`] finds who has it.
    pub inode: u64,
}

impl Listener {
    /// Whether it takes what comes to this address: by name or by wildcard.
    #[must_use]
    pub fn takes(&self, address: IpAddr) -> bool {
        match self.address.ip() {
            IpAddr::V6(own) if own.is_unspecified() => true,
            IpAddr::V6(own) => IpAddr::V6(own).to_canonical() == address,
            IpAddr::V4(own) if own.is_unspecified() => address.is_ipv4(),
            own @ IpAddr::V4(_) => own == address,
        }
    }
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its number, in the process namespace of the caller.
    pub pid: u32,
    /// Its short name.
    pub name: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// The listeners in the network namespace of the calling thread. Blocking: it reads four files.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn current() -> Result<Vec<Listener>, NetlinkError> {
    let mut found = Vec::new();
    for (table, protocol, state) in [
        ("tcp", libc::IPPROTO_TCP, TCP_LISTEN),
        ("tcp6", libc::IPPROTO_TCP, TCP_LISTEN),
        ("udp", libc::IPPROTO_UDP, UDP_BOUND),
        ("udp6", libc::IPPROTO_UDP, UDP_BOUND),
    ] {
        let protocol = u8::try_from(protocol).unwrap_or_default();
        // The thread's, not the process's: they may be in different namespaces.
        let path = format!("/proc/thread-self/net/{table}");
        let read = |source| NetlinkError::Kernel { op: "read", object: path.clone(), source };
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(read(e)),
        };
        // Connections have lines too, so it may be long.
        for line in BufReader::new(file).split(b'\n') {
            found.extend(parse(&line.map_err(read)?, protocol, state));
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The listeners in `ns`.
///
/// # Errors
/// When the namespace cannot be entered, or `/proc` cannot be read.
pub async fn in_namespace(ns: &NetNs) -> Result<Vec<Listener>, NetlinkError> {
    ns.run_async(current).await?
}

/// Which process has the socket with this inode open; the one with the lowest number. `None` when no process that can
/// be seen here has it. Blocking, and slow: it may look at every descriptor of every process.
#[must_use]
pub fn process_of(inode: u64) -> Option<Process> {
    processes_of(&BTreeSet::from([inode])).remove(&inode)
}

/// As [`process_of`] for several sockets, in one search. Those that no process has are missing.
#[must_use]
pub fn processes_of(inodes: &BTreeSet<u64>) -> BTreeMap<u64, Process> {
    let mut found = BTreeMap::new();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    for pid in pids {
        // Processes end at any time, so nothing here is an error.
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        for entry in descriptors.take(MAX_DESCRIPTORS) {
            let inode = std::fs::read_link(entry.path()).ok().and_then(|target| socket(&target));
            if let Some(inode) = inode.filter(|inode| inodes.contains(inode)) {
                found.entry(inode).or_insert_with(|| Process { pid, name: name_of(pid) });
            }
        }
        if found.len() == inodes.len() {
            break;
        }
    }
    found
}

/// The inode in `socket:[INODE]`.
fn socket(target: &Path) -> Option<u64> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn name_of(pid: u32) -> String {
    let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name: String =
        String::from_utf8_lossy(&name).trim_end().chars().filter(|c| !c.is_control()).collect();
    if name.is_empty() { "a process".into() } else { name }
}

/// One line of a table: the fields are slot, local address, remote address, state, queues, timer, retransmissions, user,
/// timeout, inode.
fn parse(line: &[u8], protocol: u8, wanted: u8) -> Option<Listener> {
    let line = std::str::from_utf8(line).ok()?;
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = address(fields.next()?)?;
    if u8::from_str_radix(fields.nth(1)?, 16).ok()? != wanted || local.port() == 0 {
        return None;
    }
    Some(Listener { protocol, address: local, inode: fields.nth(5)?.parse().ok()? })
}

/// `ADDRESS:PORT` in hexadecimal; the address is of 32-bit words, each as a number of this machine's byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut octets = [0; 16];
    let length = ip.len().is_multiple_of(8).then_some(ip.len() / 2)?;
    for (word, place) in ip.as_bytes().chunks(8).zip(octets.chunks_mut(4)) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        place.copy_from_slice(&word.to_ne_bytes());
    }
    let ip = match length {
        4 => IpAddr::from(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3])),
        16 => IpAddr::from(Ipv6Addr::from(octets)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    const LINE: &str = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0000000000000000 100 0 0 10 0";

    #[test]
    #[cfg(target_endian = "little")]
    fn a_line_of_the_kernel_is_read() {
        let listener = |address: &str| {
            let address = address.parse().unwrap();
            Some(Listener { protocol: 6, address, inode: 12345 })
        };
        assert_eq!(parse(LINE.as_bytes(), 6, TCP_LISTEN), listener("127.0.0.1:8080"));
        let six = LINE.replace("0100007F:", "B80D0120000000000000000001000000:");
        assert_eq!(parse(six.as_bytes(), 6, TCP_LISTEN), listener("[2001:db8::1]:8080"));
        assert_eq!(parse(LINE.replace(" 0A ", " 01 ").as_bytes(), 6, TCP_LISTEN), None);
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        assert_eq!(parse(head.as_bytes(), 6, TCP_LISTEN), None);
    }

    #[test]
    fn listeners_of_the_own_namespace_are_found_with_their_process() {
        let ns = crate::tests::support::fresh();
        let here = TcpListener::bind("127.0.0.1:0").unwrap();
        ns.run(move || {
            crate::tests::support::ip("link set lo up");
            let tcp = TcpListener::bind("127.0.0.1:80").unwrap();
            let udp = UdpSocket::bind("[::]:53").unwrap();
            let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
            connected.connect("127.0.0.1:9").unwrap();
            let _client = TcpStream::connect("127.0.0.1:80").unwrap();
            let found = current().unwrap();
            let all: Vec<_> = found.iter().map(|l| (l.protocol, l.address.to_string())).collect();
            assert_eq!(all, [(6, "127.0.0.1:80".to_owned()), (17, "[::]:53".to_owned())]);
            let process = process_of(found[0].inode).unwrap();
            assert_eq!(process.pid, std::process::id());
            assert!(process.to_string().ends_with(&format!("(pid {})", process.pid)), "{process}");
            drop((tcp, udp));
            assert_eq!(process_of(found[0].inode), None);
            assert_eq!(current().unwrap(), []);
        })
        .unwrap();
        assert!(current().unwrap().iter().any(|l| l.address == here.local_addr().unwrap()));
    }

    #[test]
    fn a_wildcard_takes_every_address_and_an_address_its_own() {
        let listener = |address: &str| Listener { protocol: 6, address: address.parse().unwrap(), inode: 1 };
        let (four, six): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        assert!(listener("0.0.0.0:80").takes(four) && !listener("0.0.0.0:80").takes(six));
        assert!(listener("[::]:80").takes(four) && listener("[::]:80").takes(six));
        assert!(listener("192.0.2.1:80").takes(four) && !listener("192.0.2.2:80").takes(four));
        assert!(listener("[::ffff:192.0.2.1]:80").takes(four) && !listener("[::1]:80").takes(six));
    }

    proptest! {
        #[test]
        fn any_line_is_harmless(noise: Vec<u8>, cut in 0usize..LINE.len(), at in 0usize..LINE.len(), byte: u8) {
            let mut line = LINE.as_bytes().to_vec();
            line[at] = byte;
            for line in [&noise, &line, &line[..cut].to_vec()] {
                let _ = parse(line, 6, TCP_LISTEN);
            }
        }
    }
}
