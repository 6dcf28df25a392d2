//! An upstream that answers as the labels of a name say:
//!
//! `nx`, `nodata`, `servfail`, `refused`: so; `slow`: after 300 ms; `silent`: never; `wrongid`, `wrongname`, `garbage`: so,
//! and with the address [`EVIL`]; `late`: wrong ones first, then the right one; `tc`: truncated by UDP; `poison`: right, with
//! records of the cluster's names besides; `alias`: a CNAME to `target.example.`. All others exist.
//!
//! A question for `WORD.mode.control.` makes it answer everything so: `normal`, or one of these words.

use super::{A, AAAA, CNAME, Heard, NS, PTR, SOA, TXT, wire_name};
use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher as _;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// What every name has.
const GOOD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
const GOOD_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53);
/// What nobody may ever be told.
const EVIL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);
const SLOW: Duration = Duration::from_millis(300);
const TTL: u32 = 30;
const CONTROL: &str = ".mode.control.";

struct Fake {
    mode: Mutex<String>,
    log: Mutex<File>,
}

/// Packets to send, one after the other.
struct Plan {
    wait: Duration,
    packets: Vec<Vec<u8>>,
}

pub(crate) fn serve(at: &[SocketAddr], log: &Path) -> io::Result<()> {
    let log = File::options().create(true).append(true).open(log)?;
    let fake = Arc::new(Fake { mode: Mutex::new("normal".into()), log: Mutex::new(log) });
    let sockets: Vec<_> =
        at.iter().map(|at| Ok((UdpSocket::bind(at)?, TcpListener::bind(at)?))).collect::<io::Result<_>>()?;
    println!("ready");
    thread::scope(|scope| {
        for (udp, tcp) in &sockets {
            let fake = &fake;
            scope.spawn(move || datagrams(fake, udp));
            scope.spawn(move || {
                for stream in tcp.incoming().flatten() {
                    let fake = Arc::clone(fake);
                    thread::spawn(move || converse(&fake, stream));
                }
            });
        }
    });
    Ok(())
}

fn datagrams(fake: &Fake, socket: &UdpSocket) {
    let mut buffer = [0; 4096];
    loop {
        // Errors are of earlier replies.
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let Some(plan) = fake.plan(&buffer[..length], false) else { continue };
        let Ok(socket) = socket.try_clone() else { continue };
        let send = move || plan.packets.iter().for_each(|packet| drop(socket.send_to(packet, from)));
        if plan.wait.is_zero() {
            send();
        } else {
            thread::spawn(move || {
                thread::park_timeout(plan.wait);
                send();
            });
        }
    }
}

fn converse(fake: &Fake, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut packet)?;
        let Some(plan) = fake.plan(&packet, true) else { continue };
        thread::park_timeout(plan.wait);
        for packet in plan.packets {
            stream.write_all(&[&(packet.len() as u16).to_be_bytes()[..], &packet].concat())?;
        }
    }
}

impl Fake {
    fn plan(&self, packet: &[u8], tcp: bool) -> Option<Plan> {
        let heard = Heard::read(packet)?;
        let name = heard.name.to_ascii_lowercase();
        if let Some(word) = name.strip_suffix(CONTROL) {
            *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = word.to_owned();
            return Some(Plan { wait: Duration::ZERO, packets: vec![reply(packet, &heard, 0, &[], 0)] });
        }
        let protocol = if tcp { "tcp" } else { "udp" };
        let line = format!("{protocol} {} {name}\n", heard.qtype);
        let _ = self.log.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
        let mode = self.mode.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let said = |word: &str| mode == word || name.split('.').any(|label| label == word);
        let good = right(packet, &heard, &name);
        let evil = || evil(packet, &heard);
        let wait = if said("slow") { SLOW } else { Duration::ZERO };
        let packets = match () {
            () if said("silent") => return None,
            () if said("nx") => vec![negative(packet, &heard, 3)],
            () if said("nodata") => vec![negative(packet, &heard, 0)],
            () if said("servfail") => vec![reply(packet, &heard, 2, &[], 0)],
            () if said("refused") => vec![reply(packet, &heard, 5, &[], 0)],
            () if said("wrongid") => vec![wrong_id(evil())],
            () if said("wrongname") => vec![wrong_name(evil())],
            () if said("garbage") => vec![garbage(&evil())],
            () if said("late") => vec![wrong_id(evil()), wrong_name(evil()), garbage(&evil()), good],
            () if said("tc") && !tcp => vec![truncated(reply(packet, &heard, 0, &[], 0))],
            () if said("poison") => vec![poisoned(good)],
            () => vec![good],
        };
        Some(Plan { wait, packets })
    }
}

fn record(owner: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
    let mut record = owner.to_vec();
    record.extend(kind.to_be_bytes());
    record.extend([0, 1]);
    record.extend(TTL.to_be_bytes());
    record.extend((data.len() as u16).to_be_bytes());
    record.extend(data);
    record
}

/// A reply with these records, of which the first `authorities` are of that section instead of answers.
fn reply(packet: &[u8], heard: &Heard, rcode: u8, records: &[Vec<u8>], authorities: u8) -> Vec<u8> {
    let mut reply = packet[..heard.length].to_vec();
    let answers = records.len() as u8 - authorities;
    reply[2] = 0x80 | (packet[2] & 1);
    reply[3] = 0x80 | rcode;
    reply[4..12].copy_from_slice(&[0, 1, 0, answers, 0, authorities, 0, 0]);
    records.iter().for_each(|record| reply.extend(record));
    reply
}

/// The name of the question.
const SAME: &[u8] = &[0xc0, 12];

fn right(packet: &[u8], heard: &Heard, name: &str) -> Vec<u8> {
    let mut records = Vec::new();
    let mut owner = SAME.to_vec();
    if name.split('.').any(|label| label == "alias") {
        owner = wire_name("target.example.");
        records.push(record(SAME, CNAME, &owner));
    }
    let data = match heard.qtype {
        A => GOOD.octets().to_vec(),
        AAAA => GOOD_V6.octets().to_vec(),
        PTR | NS => wire_name("forwarded.example."),
        TXT => b"\x09forwarded".to_vec(),
        _ => return negative(packet, heard, 0),
    };
    records.push(record(&owner, heard.qtype, &data));
    reply(packet, heard, 0, &records, 0)
}

fn negative(packet: &[u8], heard: &Heard, rcode: u8) -> Vec<u8> {
    let mut data = [wire_name("ns.example."), wire_name("hostmaster.example.")].concat();
    data.extend([1_u32, 7200, 1800, 86_400, TTL].iter().flat_map(|n| n.to_be_bytes()));
    // The last label of the name, or the root: above all that is asked.
    let top = heard.name.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    reply(packet, heard, rcode, &[record(&wire_name(top), SOA, &data)], 1)
}

fn evil(packet: &[u8], heard: &Heard) -> Vec<u8> {
    reply(packet, heard, 0, &[record(SAME, A, &EVIL.octets())], 0)
}

fn wrong_id(mut packet: Vec<u8>) -> Vec<u8> {
    packet[1] ^= 0x55;
    packet
}

/// One letter is another.
fn wrong_name(mut packet: Vec<u8>) -> Vec<u8> {
    packet[13] = if packet[13].eq_ignore_ascii_case(&b'x') { b'y' } else { b'x' };
    packet
}

/// The id is right, the rest is not.
fn garbage(packet: &[u8]) -> Vec<u8> {
    let seed = RandomState::new();
    let noise = (0..40_u64).map(|n| seed.hash_one(n) as u8);
    packet[..4].iter().copied().chain([0xff; 8]).chain(noise).collect()
}

fn truncated(mut packet: Vec<u8>) -> Vec<u8> {
    packet[2] |= 2;
    packet
}

fn poisoned(mut packet: Vec<u8>) -> Vec<u8> {
    for name in ["kubernetes.default.svc.cluster.local.", "victim.example."] {
        packet.extend(record(&wire_name(name), A, &EVIL.octets()));
        // One more answer, and one more additional record.
        packet[7] += 1;
    }
    packet.extend(record(&wire_name("victim.example."), A, &EVIL.octets()));
    packet[11] += 1;
    packet
}
