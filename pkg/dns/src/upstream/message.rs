//! Questions to upstreams, and what is taken from their replies.
//!
//! A reply is hostile until shown otherwise: it must repeat id and question exactly, and only the chain of aliases from the
//! asked name and the records at its end are kept. Whatever else it says (other owners, additional records, name servers)
//! is dropped, so nothing can be planted for another name.

use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::{DNSClass, RData, Record as HickoryRecord};
use hickory_proto::serialize::binary::{BinEncodable as _, BinEncoder, NameEncoding};

use crate::wire::{Data, Name, Rcode, Record, Soa, Type};

/// The size of UDP replies that is asked for (DNS flag day 2020): it passes every usual path in one fragment.
const UDP_SIZE: u16 = 1232;
/// Length of the header.
const HEADER: usize = 12;
/// Most aliases of one chain.
pub const LONGEST_CHAIN: usize = 16;
/// Most records of a reply, of which each costs time to read. Real answers have a few dozen.
const MOST_READ: u32 = 1_024;
/// Most records of the final set; more are cut off, since no answer of ours could carry them.
const MOST_RECORDS: usize = 256;

/// One question as it is sent, and against which replies are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The name.
    pub name: Name,
    /// The type.
    pub rtype: Type,
    /// A random number that the reply must repeat.
    pub id: u16,
}

/// What a reply says about its question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Its response code.
    pub rcode: Rcode,
    /// Aliases from the asked name on, then the records of the asked type.
    pub answers: Vec<Record>,
    /// The SOA of a negative answer.
    pub soa: Option<Record>,
    /// How long it may be kept: the least TTL of what is kept, none when nothing says.
    pub ttl: Option<Duration>,
    /// The alias at the end of the chain that the reply leaves without records and without denying them.
    pub unfinished: Option<Name>,
}

/// Why bytes are no answer to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadReply {
    /// Not to this question: another id, question, opcode, or no reply at all. Somebody may be guessing; wait on.
    #[error("it answers no question of ours")]
    Foreign,
    /// The rest is to be had by TCP.
    #[error("it is truncated")]
    Truncated,
    /// The server does not know EDNS, and wants the question without it.
    #[error("the server does not know EDNS")]
    NoEdns,
    /// It can not be read, or contradicts itself.
    #[error("it is malformed: {0}")]
    Malformed(&'static str),
    /// A server that answered, but with no answer: it fails, refuses, or only refers to others.
    #[error("the server has no answer (code {})", .0.0)]
    Unwilling(Rcode),
}

impl Question {
    /// The message for it.
    #[must_use]
    pub fn message(&self, edns: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.name.wire().len() + 15);
        out.extend_from_slice(&self.id.to_be_bytes());
        // A standard query, recursion desired.
        out.extend_from_slice(&[0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)]);
        self.section(&mut out);
        if edns {
            out.push(0);
            out.extend_from_slice(&Type::OPT.0.to_be_bytes());
            out.extend_from_slice(&UDP_SIZE.to_be_bytes());
            out.extend_from_slice(&[0; 6]);
        }
        out
    }

    fn section(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.name.wire());
        out.extend_from_slice(&self.rtype.0.to_be_bytes());
        out.extend_from_slice(&[0, 1]);
    }

    /// Reads a reply to it.
    ///
    /// # Errors
    /// [`BadReply`], which says whether to wait on, to ask by TCP or to ask another server.
    pub fn read(&self, bytes: &[u8], edns: bool) -> Result<Reply, BadReply> {
        let Some(header) = bytes.first_chunk::<HEADER>() else { return Err(BadReply::Foreign) };
        let reply = header[2] & 0x80 != 0 && header[2] & 0x78 == 0;
        if !reply || header[..2] != self.id.to_be_bytes() {
            return Err(BadReply::Foreign);
        }
        let rcode = Rcode(header[3] & 0x0f);
        // Servers that can not read a question may leave it out of the reply.
        let unread = matches!(rcode, Rcode::FORM_ERR | Rcode::NOT_IMP);
        if unread && bytes.len() == HEADER && header[4..6] == [0, 0] {
            return Err(if edns { BadReply::NoEdns } else { BadReply::Unwilling(rcode) });
        }
        let mut section = Vec::with_capacity(self.name.wire().len() + 4);
        self.section(&mut section);
        let name = self.name.wire().len();
        // The first name of a message has nothing before it to point to.
        let asked = bytes[HEADER..].get(..section.len());
        let same = asked.is_some_and(|asked| {
            asked[..name].eq_ignore_ascii_case(&section[..name]) && asked[name..] == section[name..]
        });
        if !same || header[4..6] != [0, 1] {
            return Err(BadReply::Foreign);
        }
        match rcode {
            Rcode::FORM_ERR | Rcode::NOT_IMP if edns => return Err(BadReply::NoEdns),
            Rcode::NO_ERROR | Rcode::NX_DOMAIN => {}
            other => return Err(BadReply::Unwilling(other)),
        }
        if header[2] & 0x02 != 0 {
            return Err(BadReply::Truncated);
        }
        let counts =
            header[6..].chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        if counts.sum::<u32>() > MOST_READ {
            return Err(BadReply::Malformed("it has more records than any answer needs"));
        }
        let message = Message::from_vec(bytes).map_err(|_| BadReply::Malformed("it can not be decoded"))?;
        // EDNS may carry the upper bits of the code: BADVERS and the like.
        if message.edns.as_ref().is_some_and(|edns| edns.rcode_high() != 0) {
            return Err(if edns { BadReply::NoEdns } else { BadReply::Unwilling(Rcode::SERV_FAIL) });
        }
        self.take(rcode, &message)
    }

    /// Takes the chain from the asked name and the records at its end.
    fn take(&self, rcode: Rcode, message: &Message) -> Result<Reply, BadReply> {
        let records = owned(&message.answers)?;
        let mut answers: Vec<Record> = Vec::new();
        let mut at = self.name.clone();
        loop {
            let set: Vec<_> = records.iter().filter(|(owner, _)| *owner == at).collect();
            let ends = |r: &HickoryRecord| u16::from(r.record_type()) == self.rtype.0;
            if set.iter().any(|(_, record)| ends(record)) {
                for (_, record) in set.iter().filter(|(_, record)| ends(record)).take(MOST_RECORDS) {
                    let record = convert(&at, record)?;
                    if !answers.contains(&record) {
                        answers.push(record);
                    }
                }
                if rcode == Rcode::NX_DOMAIN {
                    return Err(BadReply::Malformed("it denies a name and has records of it"));
                }
                let ttl = answers.iter().map(|r| r.ttl).min().map(seconds);
                return Ok(Reply { rcode, answers, soa: None, ttl, unfinished: None });
            }
            let mut aliases = set.iter().filter(|(_, record)| matches!(record.data, RData::CNAME(_)));
            let Some((_, alias)) = aliases.next() else { break };
            let record = convert(&at, alias)?;
            let Data::Name(target) = &record.data else {
                return Err(BadReply::Malformed("an alias without a name"));
            };
            let target = target.clone();
            if aliases.any(|(_, other)| other.data != alias.data) {
                return Err(BadReply::Malformed("one name is an alias of two"));
            }
            answers.push(record);
            if answers.len() > LONGEST_CHAIN || answers.iter().any(|earlier| earlier.owner == target) {
                return Err(BadReply::Malformed("its aliases form a loop, or too long a chain"));
            }
            at = target;
        }
        self.negative(rcode, message, answers, at)
    }

    /// A chain that ends at a name without records.
    fn negative(
        &self,
        rcode: Rcode,
        message: &Message,
        answers: Vec<Record>,
        end: Name,
    ) -> Result<Reply, BadReply> {
        let mut soa = None;
        let mut refers = false;
        for (owner, record) in owned(&message.authorities)? {
            refers |= matches!(record.data, RData::NS(_));
            if soa.is_none() && matches!(record.data, RData::SOA(_)) && end.lies_in(&owner) {
                soa = Some(convert(&owner, record)?);
            }
        }
        let lame = !message.metadata.authoritative && !message.metadata.recursion_available;
        if rcode == Rcode::NO_ERROR && soa.is_none() && answers.is_empty() && (refers || lame) {
            // A referral says that others know; taking it for "no records" would deny what exists.
            return Err(BadReply::Unwilling(Rcode::SERV_FAIL));
        }
        let denied = soa.as_ref().map(|record| match &record.data {
            Data::Soa(soa) => record.ttl.min(soa.minimum),
            _ => record.ttl,
        });
        let ttl = answers.iter().map(|r| r.ttl).chain(denied).min().filter(|_| denied.is_some()).map(seconds);
        let unfinished = (rcode == Rcode::NO_ERROR && soa.is_none() && !answers.is_empty()).then_some(end);
        Ok(Reply { rcode, answers, soa, ttl, unfinished })
    }
}

/// A TTL as RFC 2181 reads it: one with the top bit set is 0.
fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(u64::from(if ttl > i32::MAX as u32 { 0 } else { ttl }))
}

/// The records of class IN with their owners.
fn owned(records: &[HickoryRecord]) -> Result<Vec<(Name, &HickoryRecord)>, BadReply> {
    records
        .iter()
        .filter(|record| record.dns_class == DNSClass::IN)
        .map(|record| Ok((name(&record.name)?, record)))
        .collect()
}

fn name(name: &hickory_proto::rr::Name) -> Result<Name, BadReply> {
    Name::from_labels(name.iter()).map_err(|_| BadReply::Malformed("a name that is none"))
}

fn convert(owner: &Name, record: &HickoryRecord) -> Result<Record, BadReply> {
    let data = match &record.data {
        RData::A(a) => Data::Address(a.0.into()),
        RData::AAAA(a) => Data::Address(a.0.into()),
        RData::CNAME(to) => Data::Name(name(&to.0)?),
        RData::NS(to) => Data::Name(name(&to.0)?),
        RData::PTR(to) => Data::Name(name(&to.0)?),
        RData::SRV(srv) => Data::Srv {
            priority: srv.priority,
            weight: srv.weight,
            port: srv.port,
            target: name(&srv.target)?,
        },
        RData::SOA(soa) => Data::Soa(Soa {
            mname: name(&soa.mname)?,
            rname: name(&soa.rname)?,
            serial: soa.serial,
            refresh: soa.refresh.cast_unsigned(),
            retry: soa.retry.cast_unsigned(),
            expire: soa.expire.cast_unsigned(),
            minimum: soa.minimum,
        }),
        other => {
            let mut bytes = Vec::new();
            let mut encoder = BinEncoder::new(&mut bytes);
            encoder.set_name_encoding(NameEncoding::Uncompressed);
            other
                .emit(&mut encoder)
                .map_err(|_| BadReply::Malformed("data that can not be written again"))?;
            Data::Other(bytes.into())
        }
    };
    Ok(Record { owner: owner.clone(), rtype: Type(record.record_type().into()), ttl: record.ttl, data })
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
