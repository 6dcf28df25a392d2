//! Writing an answer into a buffer.

use super::query::HEADER;
use super::{Data, Query, Rcode, Record, Soa, Type};
use std::net::IpAddr;

/// The longest answer over UDP: what passes every path without fragments (DNS flag day 2020; CVE-2023-28450).
pub const LONGEST_OVER_UDP: u16 = 1232;
/// The longest answer over UDP to a client without EDNS.
const LONGEST_WITHOUT_EDNS: u16 = 512;
/// Bytes of the OPT record that is sent.
const OPT: usize = 11;
/// How many names, besides the question's, later names are compared with. Bounds the work of an answer
/// (RUSTSEC-2026-0119 was a compression without a bound).
const REMEMBERED: usize = 4;
/// Offsets from here on cannot be pointed at.
const POINTABLE: usize = 0x4000;

/// How an answer goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In one packet, which may be too short for it.
    Udp,
    /// In a stream.
    Tcp,
}

/// Whose a record is.
#[derive(Debug, Clone, Copy)]
pub enum Owner<'n> {
    /// The name that was asked for.
    Asked,
    /// A name in wire form.
    Name(&'n [u8]),
}

/// The data of a record to be written; names in wire form.
#[derive(Debug, Clone, Copy)]
pub enum Rdata<'d> {
    /// A or AAAA.
    Address(IpAddr),
    /// A name that may be compressed: CNAME, NS, PTR.
    Name(&'d [u8]),
    /// SRV.
    Srv {
        /// Share among equals.
        weight: u16,
        /// Port of the service.
        port: u16,
        /// Host of the service. Not compressed (RFC 2782).
        target: &'d [u8],
    },
    /// SOA.
    Soa {
        /// First name server.
        mname: &'d [u8],
        /// Mailbox of who is responsible.
        rname: &'d [u8],
        /// Serial, refresh, retry, expire, minimum.
        numbers: [u32; 5],
    },
    /// Anything else, in wire form.
    Other(&'d [u8]),
}

/// A section of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// What was asked for.
    Answer,
    /// Who says so.
    Authority,
    /// What will be asked for next.
    Additional,
}

/// Writes one answer. Sections are written in their order.
///
/// When the answer section does not fit, the records that do fit stay, and TC is set: clients that cannot ask again over
/// TCP can use them. Other sections are left out without TC where they do not fit (RFC 2181 section 9).
#[derive(Debug)]
pub struct Writer<'o> {
    out: &'o mut Vec<u8>,
    limit: usize,
    opt: Option<[u8; OPT]>,
    counts: [u16; 3],
    /// Where names lie that are written in full, and their lengths; the first is the question's.
    names: [(u16, u8); 1 + REMEMBERED],
    /// How many were ever remembered; the oldest but the question's is forgotten first.
    remembered: usize,
    cut: bool,
}

impl<'o> Writer<'o> {
    /// Starts the answer to `query`, in place of what `out` holds.
    pub fn new(query: &Query<'_>, transport: Transport, out: &'o mut Vec<u8>) -> Self {
        let size = query
            .edns
            .map_or(LONGEST_WITHOUT_EDNS, |e| e.udp_size.clamp(LONGEST_WITHOUT_EDNS, LONGEST_OVER_UDP));
        let size = if transport == Transport::Udp { size } else { u16::MAX };
        let opt = query.edns.map(|edns| {
            let [high, low] = LONGEST_OVER_UDP.to_be_bytes();
            [0, 0, 41, high, low, 0, 0, if edns.dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]
        });
        out.clear();
        let [id_high, id_low] = query.id.to_be_bytes();
        let flags = 0x80 | u8::from(query.recursion_desired);
        let more_flags = 0x80 | if query.checking_disabled { 0x10 } else { 0 };
        out.extend_from_slice(&[id_high, id_low, flags, more_flags, 0, 1, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(query.name);
        out.extend_from_slice(&query.qtype.0.to_be_bytes());
        out.extend_from_slice(&query.class.to_be_bytes());
        let asked = (HEADER as u16, u8::try_from(query.name.len()).unwrap_or(u8::MAX));
        Self {
            out,
            limit: usize::from(size) - opt.map_or(0, |o| o.len()),
            opt,
            counts: [0; 3],
            names: [asked; 1 + REMEMBERED],
            remembered: 0,
            cut: false,
        }
    }

    /// Marks the answer as that of the zone's own server (AA).
    pub fn authoritative(&mut self) {
        self.out[2] |= 0x04;
    }

    /// Writes a record. Says whether it fitted; where it did not, nothing of it is there.
    pub fn record(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        rtype: Type,
        ttl: u32,
        data: Rdata<'_>,
    ) -> bool {
        if self.cut {
            return false;
        }
        let (start, remembered) = (self.out.len(), self.remembered);
        match owner {
            Owner::Asked => self.out.extend_from_slice(&[0xc0, HEADER as u8]),
            Owner::Name(name) => self.name(name),
        }
        let ([t1, t0], [s3, s2, s1, s0]) = (rtype.0.to_be_bytes(), ttl.to_be_bytes());
        self.out.extend_from_slice(&[t1, t0, 0, 1, s3, s2, s1, s0, 0, 0]);
        let from = self.out.len();
        self.data(data);
        let length = self.out.len() - from;
        let count = &mut self.counts[section as usize];
        match u16::try_from(length) {
            Ok(length) if self.out.len() <= self.limit && *count < u16::MAX => {
                self.out[from - 2..from].copy_from_slice(&length.to_be_bytes());
                *count += 1;
                true
            }
            _ => {
                self.out.truncate(start);
                self.forget(start, remembered);
                if section == Section::Answer {
                    self.cut = true;
                    self.out[2] |= 0x02;
                }
                false
            }
        }
    }

    /// Writes the records of one name in a section behind the answer: all, or none where they do not fit.
    /// Says whether they did.
    pub fn all_or_none(&mut self, section: Section, write: impl FnOnce(&mut Self) -> bool) -> bool {
        let (start, counts, remembered) = (self.out.len(), self.counts, self.remembered);
        let fitted = write(self);
        if !fitted && section != Section::Answer {
            self.out.truncate(start);
            self.counts = counts;
            self.forget(start, remembered);
        }
        fitted
    }

    /// Writes a record that was read elsewhere, with another TTL.
    pub fn copy(&mut self, section: Section, record: &Record, ttl: u32) -> bool {
        let data = match &record.data {
            Data::Address(address) => Rdata::Address(*address),
            Data::Name(name) => Rdata::Name(name.wire()),
            Data::Soa(Soa { mname, rname, serial, refresh, retry, expire, minimum }) => Rdata::Soa {
                mname: mname.wire(),
                rname: rname.wire(),
                numbers: [*serial, *refresh, *retry, *expire, *minimum],
            },
            Data::Srv { priority, weight, port, target } => {
                let mut wire = Vec::with_capacity(6 + target.wire().len());
                for number in [priority, weight, port] {
                    wire.extend_from_slice(&number.to_be_bytes());
                }
                wire.extend_from_slice(target.wire());
                return self.record(
                    section,
                    Owner::Name(record.owner.wire()),
                    record.rtype,
                    ttl,
                    Rdata::Other(&wire),
                );
            }
            Data::Other(bytes) => Rdata::Other(bytes),
        };
        self.record(section, Owner::Name(record.owner.wire()), record.rtype, ttl, data)
    }

    /// Ends the answer; the buffer holds it now.
    pub fn finish(mut self, rcode: Rcode) {
        self.out[3] |= rcode.0 & 0xf;
        for (at, count) in [6, 8, 10].into_iter().zip(self.counts) {
            let count = count + u16::from(at == 10 && self.opt.is_some());
            self.out[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
        if let Some(opt) = &mut self.opt {
            opt[5] = rcode.0 >> 4;
            self.out.extend_from_slice(opt);
        }
    }

    /// Whether nothing more fits into the answer.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    fn data(&mut self, data: Rdata<'_>) {
        match data {
            Rdata::Address(IpAddr::V4(address)) => self.out.extend_from_slice(&address.octets()),
            Rdata::Address(IpAddr::V6(address)) => self.out.extend_from_slice(&address.octets()),
            Rdata::Name(name) => self.name(name),
            Rdata::Srv { weight, port, target } => {
                let ([w1, w0], [p1, p0]) = (weight.to_be_bytes(), port.to_be_bytes());
                self.out.extend_from_slice(&[0, 0, w1, w0, p1, p0]);
                self.out.extend_from_slice(target);
            }
            Rdata::Soa { mname, rname, numbers } => {
                self.name(mname);
                self.name(rname);
                for number in numbers {
                    self.out.extend_from_slice(&number.to_be_bytes());
                }
            }
            Rdata::Other(bytes) => self.out.extend_from_slice(bytes),
        }
    }

    /// Writes a name, its rest as a pointer where a remembered name ends like it.
    fn name(&mut self, name: &[u8]) {
        for (at, length) in self.known() {
            let known = &self.out[at..at + length];
            if let Some((kept, place)) = common_end(name, known) {
                let pointer = 0xc000 | u16::try_from(at + place).unwrap_or(0);
                self.out.extend_from_slice(&name[..kept]);
                self.out.extend_from_slice(&pointer.to_be_bytes());
                return;
            }
        }
        let at = self.out.len();
        self.out.extend_from_slice(name);
        if at + name.len() < POINTABLE
            && let (Ok(at), Ok(length)) = (u16::try_from(at), u8::try_from(name.len()))
        {
            self.names[1 + self.remembered % REMEMBERED] = (at, length);
            self.remembered += 1;
        }
    }

    /// Where remembered names lie, and their lengths.
    fn known(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let names = self.names;
        names.into_iter().take(1 + self.remembered.min(REMEMBERED)).map(|(at, l)| (at.into(), l.into()))
    }

    /// Forgets names that lay in what was cut off at `start`. A name that one of them displaced stays forgotten.
    fn forget(&mut self, start: usize, remembered: usize) {
        if self.remembered != remembered {
            let asked = self.names[0];
            for name in &mut self.names[1..] {
                if usize::from(name.0) >= start {
                    *name = asked;
                }
            }
        }
    }
}

/// The longest rest of `name` that is also a rest of `known`, in whole labels: how much of `name` stands before it, and
/// where it begins in `known`. The root alone is none.
fn common_end(name: &[u8], known: &[u8]) -> Option<(usize, usize)> {
    let same =
        name.iter().rev().zip(known.iter().rev()).take_while(|(a, b)| a.eq_ignore_ascii_case(b)).count();
    if same < 2 {
        return None;
    }
    let (mut at, mut place) = (0, 0);
    loop {
        let (rest, known_rest) = (name.len() - at, known.len() - place);
        if rest < 2 || known_rest < 2 {
            return None;
        }
        if rest == known_rest && rest <= same {
            return Some((at, place));
        }
        // Both go forward, the one with more before it first; each label is passed once.
        if rest >= known_rest {
            at += 1 + usize::from(name[at]);
        } else {
            place += 1 + usize::from(known[place]);
        }
    }
}

#[cfg(test)]
mod tests;
