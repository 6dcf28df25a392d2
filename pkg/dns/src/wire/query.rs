//! Reading a question where it lies, without a copy.

use super::{Rcode, Type};

/// Bytes of a header (RFC 1035 section 4.1.1).
pub(super) const HEADER: usize = 12;
/// Most records behind a question that are looked at. Clients send one (OPT); this bounds the work of a packet.
const MOST_RECORDS: u16 = 16;

/// A question as it lies in its packet.
#[derive(Debug, Clone, Copy)]
pub struct Query<'p> {
    /// The client's number for it.
    pub id: u16,
    /// Whether the client wants names of others resolved too (RD).
    pub recursion_desired: bool,
    /// Whether the client checks signatures itself (CD).
    pub checking_disabled: bool,
    /// The name in wire form, with its end, in the case in which it was asked.
    pub name: &'p [u8],
    /// The type that is asked for.
    pub qtype: Type,
    /// The class that is asked for; 1 is IN.
    pub class: u16,
    /// What the client says of itself by EDNS.
    pub edns: Option<Edns>,
}

/// What a client says of itself by EDNS (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// The longest packet it takes over UDP.
    pub udp_size: u16,
    /// Its version; 0 is the only one there is.
    pub version: u8,
    /// Whether it wants signatures (DO).
    pub dnssec_ok: bool,
}

/// Why a packet holds no question that can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No reply at all: what is no question may be an answer, and answering answers makes loops.
    #[error("the packet is an answer, or shorter than a header")]
    Silent,
    /// A reply that is a header only.
    #[error("the packet cannot be read as a question: code {}", rcode.0)]
    Reply {
        /// The client's number for its question.
        id: u16,
        /// What the client wanted done.
        opcode: u8,
        /// Its RD bit.
        recursion_desired: bool,
        /// What is wrong: FORMERR or NOTIMP.
        rcode: Rcode,
    },
}

impl Refusal {
    /// Writes the reply, if there is to be one, in place of what `out` holds. Says whether there is.
    pub fn write(self, out: &mut Vec<u8>) -> bool {
        out.clear();
        let Self::Reply { id, opcode, recursion_desired, rcode } = self else { return false };
        out.extend_from_slice(&id.to_be_bytes());
        out.push(0x80 | opcode << 3 | u8::from(recursion_desired));
        out.push(0x80 | rcode.0 & 0xf);
        out.extend_from_slice(&[0; 8]);
        true
    }
}

/// The two bytes at `at`.
fn number(packet: &[u8], at: usize) -> Option<u16> {
    packet.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]))
}

/// The end of the name at `at`, which has no pointers.
fn end_of_plain_name(packet: &[u8], at: usize) -> Option<usize> {
    let mut end = at;
    loop {
        match *packet.get(end)? {
            0 if end + 1 - at <= 255 => return Some(end + 1),
            length @ 1..=63 => end += 1 + usize::from(length),
            _ => return None,
        }
        if end - at > 255 {
            return None;
        }
    }
}

/// The end of the name at `at`, where a pointer may stand for its rest. The pointer is not followed.
fn end_of_name(packet: &[u8], at: usize) -> Option<usize> {
    let mut end = at;
    loop {
        match *packet.get(end)? {
            0 => return Some(end + 1),
            length @ 1..=63 => end += 1 + usize::from(length),
            0xc0.. => return Some(end + 2),
            _ => return None,
        }
        if end - at > 255 {
            return None;
        }
    }
}

impl<'p> Query<'p> {
    /// Reads a packet. Options of EDNS (cookies and the like) are passed over.
    ///
    /// # Errors
    /// [`Refusal`] where there is no question of the usual kind: exactly one, and no records but additional ones.
    pub fn read(packet: &'p [u8]) -> Result<Self, Refusal> {
        let (Some(id), Some(&flags), Some(&more_flags)) = (number(packet, 0), packet.get(2), packet.get(3))
        else {
            return Err(Refusal::Silent);
        };
        if packet.len() < HEADER || flags & 0x80 != 0 {
            return Err(Refusal::Silent);
        }
        let opcode = flags >> 3 & 0xf;
        let recursion_desired = flags & 1 != 0;
        let refuse = |rcode| Refusal::Reply { id, opcode, recursion_desired, rcode };
        if opcode != 0 {
            return Err(refuse(Rcode::NOT_IMP));
        }
        let mut query = Self::body(packet).ok_or_else(|| refuse(Rcode::FORM_ERR))?;
        query.id = id;
        query.recursion_desired = recursion_desired;
        query.checking_disabled = more_flags & 0x10 != 0;
        Ok(query)
    }

    /// Reads what is behind the header's first four bytes; nothing where the form is wrong.
    fn body(packet: &'p [u8]) -> Option<Self> {
        let [questions, answers, authorities, additional] = [4, 6, 8, 10].map(|at| number(packet, at));
        if (questions?, answers?, authorities?) != (1, 0, 0) || additional? > MOST_RECORDS {
            return None;
        }
        let name_end = end_of_plain_name(packet, HEADER)?;
        let (qtype, class) = (Type(number(packet, name_end)?), number(packet, name_end + 2)?);
        if qtype == Type::OPT {
            return None;
        }
        let mut edns = None;
        let mut at = name_end + 4;
        for _ in 0..additional? {
            let owner_end = end_of_name(packet, at)?;
            let fields = packet.get(owner_end..owner_end + 10)?;
            let data = usize::from(u16::from_be_bytes([fields[8], fields[9]]));
            if Type(u16::from_be_bytes([fields[0], fields[1]])) == Type::OPT {
                // One at most, and of the root (RFC 6891 section 6.1.1).
                if edns.is_some() || owner_end != at + 1 {
                    return None;
                }
                edns = Some(Edns {
                    udp_size: u16::from_be_bytes([fields[2], fields[3]]),
                    version: fields[5],
                    dnssec_ok: fields[6] & 0x80 != 0,
                });
            }
            at = owner_end + 10 + data;
            if at > packet.len() {
                return None;
            }
        }
        Some(Self {
            id: 0,
            recursion_desired: false,
            checking_disabled: false,
            name: packet.get(HEADER..name_end)?,
            qtype,
            class,
            edns,
        })
    }
}
