//! DNS by hand, and so owing nothing to the server under test: a fake upstream, a steady asker, and bad clients.

mod bad;
mod fake;
mod load;

use clap::{Args, Subcommand, ValueEnum};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

#[derive(Subcommand)]
pub(crate) enum Dns {
    /// Answers every question at these addresses by UDP and TCP, as labels of its name say, until it is killed.
    Serve {
        /// Where.
        #[arg(required = true)]
        at: Vec<SocketAddr>,
        /// A line for each question is appended to this file: `udp` or `tcp`, type, name.
        #[arg(long)]
        log: PathBuf,
    },
    /// Asks at a steady pace over one socket, never the same question again; prints one line of JSON.
    Load(Load),
    /// Sends what is no question until standard input ends.
    Flood {
        /// Whom.
        target: SocketAddr,
        /// What.
        #[arg(long)]
        kind: Kind,
        /// Packets a second at most.
        #[arg(long)]
        rate: u32,
    },
    /// Holds connections of TCP that ask nothing until standard input ends, and opens them again when they are closed.
    Idle {
        /// Whom.
        target: SocketAddr,
        /// How many.
        #[arg(long)]
        connections: usize,
    },
}

/// How to ask.
#[derive(Args)]
pub(crate) struct Load {
    /// Whom.
    target: SocketAddr,
    /// The names, in turn.
    #[arg(long, value_delimiter = ',', required = true)]
    name: Vec<String>,
    /// Questions a second.
    #[arg(long)]
    rate: u64,
    /// How many; 0: until standard input ends.
    #[arg(long, default_value_t = 0)]
    count: u64,
    /// What takes longer is lost.
    #[arg(long, default_value_t = 2000, value_name = "MS")]
    timeout: u64,
    /// The address that each answer must have.
    #[arg(long)]
    expect: Option<IpAddr>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Kind {
    /// Random bytes.
    Garbage,
    /// Answers that nobody asked for.
    Answers,
    /// Well-formed questions.
    Questions,
}

pub(crate) fn run(what: &Dns) -> io::Result<()> {
    match what {
        Dns::Serve { at, log } => fake::serve(at, log),
        Dns::Load(order) => load::run(order),
        Dns::Flood { target, kind, rate } => bad::flood(*target, *kind, *rate),
        Dns::Idle { target, connections } => bad::idle(*target, *connections),
    }
}

pub(crate) const A: u16 = 1;
pub(crate) const NS: u16 = 2;
pub(crate) const CNAME: u16 = 5;
pub(crate) const SOA: u16 = 6;
pub(crate) const PTR: u16 = 12;
pub(crate) const TXT: u16 = 16;
pub(crate) const AAAA: u16 = 28;

/// A name as on the wire.
pub(crate) fn wire_name(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut wire: Vec<u8> =
        labels.flat_map(|label| std::iter::once(label.len() as u8).chain(label.bytes())).collect();
    wire.push(0);
    wire
}

/// A question that wants recursion.
pub(crate) fn question(id: u16, name: &str, qtype: u16) -> Vec<u8> {
    let mut packet = id.to_be_bytes().to_vec();
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    packet.extend(wire_name(name));
    packet.extend(qtype.to_be_bytes());
    packet.extend([0, 1]);
    packet
}

/// What is read of a packet.
pub(crate) struct Heard {
    pub(crate) id: u16,
    pub(crate) rcode: u8,
    pub(crate) name: String,
    pub(crate) qtype: u16,
    /// Header and question.
    pub(crate) length: usize,
}

impl Heard {
    pub(crate) fn read(packet: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
        let (mut name, mut at) = (String::new(), 12);
        while let length @ 1.. = usize::from(*packet.get(at)?) {
            let label = packet.get(at + 1..at + 1 + length)?;
            name += &String::from_utf8_lossy(label);
            name.push('.');
            at += 1 + length;
        }
        let qtype = number(at + 1)?;
        Some(Self { id: number(0)?, rcode: packet.get(3)? & 0xf, name, qtype, length: at + 5 })
    }
}

/// The addresses in the data of the answer's records: those alone that have the form of the question's own name.
pub(crate) fn has_address(packet: &[u8], address: IpAddr) -> bool {
    let octets = match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let data = [&(octets.len() as u16).to_be_bytes()[..], &octets].concat();
    packet.windows(data.len()).any(|window| window == data)
}
