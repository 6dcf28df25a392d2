//! What a rule is made of: the kernel's register machine, typed.
//!
//! An expression loads into registers, compares them (and ends the rule when the comparison fails), or acts. The model
//! has what Warren's rules use; everything else read from the kernel is [`Expr::Unknown`], which equals nothing that
//! Warren wants.

use super::wire::{self, Writer};

/// A 32-bit word of the register file, 0 to 15. A value longer than a word goes into the following ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Register(u8);

impl Register {
    /// The first word.
    pub(super) const FIRST: Self = Self(0);
    const WORDS: u8 = 16;
    /// `NFT_REG32_00`: single words are numbered from here, groups of four from 1.
    const WORD_BASE: u32 = 8;

    /// The word at `index`.
    pub(super) fn word(index: u8) -> Option<Self> {
        (index < Self::WORDS).then_some(Self(index))
    }

    /// The word behind a value of `bytes` bytes that starts here.
    pub(super) fn after(self, bytes: u8) -> Self {
        Self((self.0 + bytes.div_ceil(4)).min(Self::WORDS - 1))
    }

    /// As the kernel reports it: a word that begins a group of four by the group's number.
    fn number(self) -> u32 {
        let word = u32::from(self.0);
        if word.is_multiple_of(4) { 1 + word / 4 } else { Self::WORD_BASE + word }
    }

    fn from_number(number: u32) -> Option<Self> {
        let word = match number {
            1..=4 => (number - 1) * 4,
            _ => number.checked_sub(Self::WORD_BASE)?,
        };
        Self::word(u8::try_from(word).ok()?)
    }
}

/// A property of the packet that is not in its bytes: `NFT_META_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Meta {
    /// Name of the link it came in on, 16 bytes.
    InName = 6,
    /// Name of the link it leaves on.
    OutName = 7,
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`, one byte.
    Family = 15,
    /// Transport protocol, one byte; behind extension headers in IPv6.
    Protocol = 16,
}

impl Meta {
    const ALL: [Self; 4] = [Self::InName, Self::OutName, Self::Family, Self::Protocol];
}

/// Where an offset counts from: `NFT_PAYLOAD_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Header {
    Network = 1,
    Transport = 2,
}

impl Header {
    const ALL: [Self; 2] = [Self::Network, Self::Transport];
}

/// `NFT_CMP_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Comparison {
    Equal = 0,
    NotEqual = 1,
    AtMost = 3,
    AtLeast = 5,
}

impl Comparison {
    const ALL: [Self; 4] = [Self::Equal, Self::NotEqual, Self::AtMost, Self::AtLeast];
}

/// Where a packet goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Drop,
    Accept,
    Return,
    /// To a chain, coming back at its end.
    Jump(String),
    /// To a chain, not coming back.
    Goto(String),
}

/// One expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expr {
    /// Loads a property of the packet.
    Meta { load: Meta, into: Register },
    /// Loads bytes of the packet.
    Payload { header: Header, offset: u32, length: u32, into: Register },
    /// `into = (from & mask) ^ 0`.
    Mask { from: Register, into: Register, mask: Vec<u8> },
    /// Goes on when the register compares so.
    Compare { from: Register, is: Comparison, value: Vec<u8> },
    /// Goes on when the value is in the set, or, `inverted`, when it is not.
    Lookup { set: String, from: Register, inverted: bool },
    /// Loads the type (`RTN_*`, a word in the machine's order) of the destination address.
    DestinationType { into: Register },
    /// Loads a constant.
    Constant { into: Register, value: Vec<u8> },
    /// Counts in a named counter.
    CountIn(String),
    /// Leaves the packet out of connection tracking.
    NoTrack,
    /// Source becomes the address of the link, the port one of a range (two registers) or any.
    Masquerade { flags: u32, ports: Option<(Register, Register)> },
    /// Ends the rule.
    Verdict(Verdict),
    /// Something of another program's, or of a later kernel's.
    Unknown { name: String, data: Vec<u8> },
}

/// `NF_NAT_RANGE_PROTO_SPECIFIED`: the ports are given.
pub(super) const NAT_PORTS: u32 = 1 << 1;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
pub(super) const NAT_FULLY_RANDOM: u32 = 1 << 4;
/// `RTN_LOCAL`: an address of this host.
pub(super) const ROUTE_LOCAL: u32 = 2;

const LIST_ELEMENT: u16 = 1;
const NAME: u16 = 1;
const DATA: u16 = 2;
/// `NFTA_DATA_VALUE`, `NFTA_DATA_VERDICT`.
const VALUE: u16 = 1;
const VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const DROP: i32 = 0;
const ACCEPT: i32 = 1;
const JUMP: i32 = -3;
const GOTO: i32 = -4;
const RETURN: i32 = -5;
const OBJECT_COUNTER: u32 = 1;
const FIB_RESULT_TYPE: u32 = 3;
const FIB_DESTINATION: u32 = 2;
const LOOKUP_INVERTED: u32 = 1;

/// The expressions of a rule, as a list.
pub(super) fn encode(exprs: &[Expr], w: &mut Writer) {
    for expr in exprs {
        w.nest(LIST_ELEMENT, |w| {
            w.text(NAME, expr.name());
            match expr {
                Expr::NoTrack => {}
                Expr::Unknown { data, .. } => w.bytes(DATA | 0x8000, data),
                _ => w.nest(DATA, |w| expr.encode_data(w)),
            }
        });
    }
}

/// Reads a list of expressions.
pub(super) fn decode(list: &[u8]) -> Vec<Expr> {
    wire::attributes(list)
        .map(|(_, element)| {
            let name = wire::find_text(element, NAME).unwrap_or_default();
            let data = wire::find(element, DATA).unwrap_or_default();
            Expr::decode_one(&name, data).unwrap_or_else(|| Expr::Unknown { name, data: data.to_vec() })
        })
        .collect()
}

impl Expr {
    fn name(&self) -> &str {
        match self {
            Self::Meta { .. } => "meta",
            Self::Payload { .. } => "payload",
            Self::Mask { .. } => "bitwise",
            Self::Compare { .. } => "cmp",
            Self::Lookup { .. } => "lookup",
            Self::DestinationType { .. } => "fib",
            Self::Constant { .. } | Self::Verdict(_) => "immediate",
            Self::CountIn(_) => "objref",
            Self::NoTrack => "notrack",
            Self::Masquerade { .. } => "masq",
            Self::Unknown { name, .. } => name,
        }
    }

    fn encode_data(&self, w: &mut Writer) {
        match self {
            Self::Meta { load, into } => {
                w.u32(2, *load as u32);
                w.u32(1, into.number());
            }
            Self::Payload { header, offset, length, into } => {
                w.u32(1, into.number());
                w.u32(2, *header as u32);
                w.u32(3, *offset);
                w.u32(4, *length);
            }
            Self::Mask { from, into, mask } => {
                w.u32(1, from.number());
                w.u32(2, into.number());
                w.u32(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
                w.nest(4, |w| w.bytes(VALUE, mask));
                w.nest(5, |w| w.bytes(VALUE, &vec![0; mask.len()]));
            }
            Self::Compare { from, is, value } => {
                w.u32(1, from.number());
                w.u32(2, *is as u32);
                w.nest(3, |w| w.bytes(VALUE, value));
            }
            Self::Lookup { set, from, inverted } => {
                w.text(1, set);
                w.u32(2, from.number());
                if *inverted {
                    w.u32(5, LOOKUP_INVERTED);
                }
            }
            Self::DestinationType { into } => {
                w.u32(1, into.number());
                w.u32(2, FIB_RESULT_TYPE);
                w.u32(3, FIB_DESTINATION);
            }
            Self::Constant { into, value } => {
                w.u32(1, into.number());
                w.nest(2, |w| w.bytes(VALUE, value));
            }
            Self::Verdict(verdict) => {
                w.u32(1, 0);
                w.nest(2, |w| w.nest(VERDICT, |w| verdict.encode(w)));
            }
            Self::CountIn(counter) => {
                w.u32(1, OBJECT_COUNTER);
                w.text(2, counter);
            }
            Self::Masquerade { flags, ports } => {
                w.u32(1, *flags);
                if let Some((low, high)) = ports {
                    w.u32(2, low.number());
                    w.u32(3, high.number());
                }
            }
            Self::NoTrack | Self::Unknown { .. } => {}
        }
    }

    /// `None` for what the model cannot say exactly.
    fn decode_one(name: &str, data: &[u8]) -> Option<Self> {
        let number = |kind| wire::find_u32(data, kind);
        let register = |kind| Register::from_number(number(kind)?);
        let value = |kind| wire::find(wire::find(data, kind)?, VALUE).map(<[u8]>::to_vec);
        Some(match name {
            "meta" => {
                let key = number(2)?;
                let load = *Meta::ALL.iter().find(|m| **m as u32 == key)?;
                Self::Meta { load, into: register(1)? }
            }
            "payload" => {
                let base = number(2)?;
                Self::Payload {
                    header: *Header::ALL.iter().find(|h| **h as u32 == base)?,
                    offset: number(3)?,
                    length: number(4)?,
                    into: register(1)?,
                }
            }
            // Attribute 6 is the operation; 0, or absent in an old kernel, is the mask.
            "bitwise" if number(6).unwrap_or(0) == 0 => {
                let mask = value(4)?;
                let plain = value(5)?.iter().all(|b| *b == 0) && number(3)? as usize == mask.len();
                plain.then_some(Self::Mask { from: register(1)?, into: register(2)?, mask })?
            }
            "cmp" => {
                let op = number(2)?;
                let is = *Comparison::ALL.iter().find(|c| **c as u32 == op)?;
                Self::Compare { from: register(1)?, is, value: value(3)? }
            }
            // Attribute 3, a register for the data, makes it a look-up in a map.
            "lookup" if number(3).is_none() => {
                let flags = number(5).unwrap_or(0);
                let set = wire::find_text(data, 1)?;
                (flags <= LOOKUP_INVERTED).then_some(Self::Lookup {
                    set,
                    from: register(2)?,
                    inverted: flags == LOOKUP_INVERTED,
                })?
            }
            "fib" if number(2)? == FIB_RESULT_TYPE && number(3)? == FIB_DESTINATION => {
                Self::DestinationType { into: register(1)? }
            }
            "immediate" if number(1)? == 0 => {
                Self::Verdict(Verdict::decode(wire::find(wire::find(data, 2)?, VERDICT)?)?)
            }
            "immediate" => Self::Constant { into: register(1)?, value: value(2)? },
            "objref" if number(1) == Some(OBJECT_COUNTER) => Self::CountIn(wire::find_text(data, 2)?),
            "notrack" => Self::NoTrack,
            "masq" => {
                let ports = match (number(2), number(3)) {
                    (None, None) => None,
                    _ => Some((register(2)?, register(3)?)),
                };
                Self::Masquerade { flags: number(1).unwrap_or(0), ports }
            }
            _ => return None,
        })
    }
}

impl Verdict {
    fn encode(&self, w: &mut Writer) {
        let (code, chain) = match self {
            Self::Drop => (DROP, None),
            Self::Accept => (ACCEPT, None),
            Self::Return => (RETURN, None),
            Self::Jump(chain) => (JUMP, Some(chain)),
            Self::Goto(chain) => (GOTO, Some(chain)),
        };
        w.u32(VERDICT_CODE, code.cast_unsigned());
        if let Some(chain) = chain {
            w.text(VERDICT_CHAIN, chain);
        }
    }

    fn decode(data: &[u8]) -> Option<Self> {
        let chain = || wire::find_text(data, VERDICT_CHAIN);
        Some(match wire::find_u32(data, VERDICT_CODE)?.cast_signed() {
            DROP => Self::Drop,
            ACCEPT => Self::Accept,
            RETURN => Self::Return,
            JUMP => Self::Jump(chain()?),
            GOTO => Self::Goto(chain()?),
            _ => return None,
        })
    }
}
