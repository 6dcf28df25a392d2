//! Expressions as attributes, and back.

use super::super::wire::{self, Writer};
use super::{
    Comparison, Connection, Expr, Header, Meta, NAT_ADDRESSES, NAT_PORTS, Refusal, Register, SetChange,
    Translation, Verdict,
};

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
const NUMBER_RANDOM: u32 = 1;
const REJECT_RESET: u32 = 1;
const REJECT_ICMPX: u32 = 2;
const ICMPX_PORT_UNREACHABLE: u8 = 1;

/// The expressions of a rule, as a list.
pub(in super::super) fn encode(exprs: &[Expr], w: &mut Writer) {
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
pub(in super::super) fn decode(list: &[u8]) -> Vec<Expr> {
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
            Self::Meta { .. } | Self::SetMark { .. } => "meta",
            Self::Connection { .. } | Self::SetConnectionMark { .. } => "ct",
            Self::Random { .. } => "numgen",
            Self::Translate { .. } => "nat",
            Self::ChangeSet { .. } => "dynset",
            Self::Reject(_) => "reject",
            Self::Payload { .. } => "payload",
            Self::Mask { .. } => "bitwise",
            Self::Compare { .. } => "cmp",
            Self::Lookup { .. } | Self::Map { .. } | Self::VerdictMap { .. } => "lookup",
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
            Self::Mask { from, into, mask, toggle } => {
                w.u32(1, from.number());
                w.u32(2, into.number());
                w.u32(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
                w.nest(4, |w| w.bytes(VALUE, mask));
                w.nest(5, |w| w.bytes(VALUE, toggle));
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
            Self::Connection { load, into } => {
                w.u32(2, *load as u32);
                w.u32(1, into.number());
            }
            Self::SetMark { from } => {
                w.u32(2, Meta::Mark as u32);
                w.u32(3, from.number());
            }
            Self::SetConnectionMark { from } => {
                w.u32(2, Connection::Mark as u32);
                w.u32(4, from.number());
            }
            Self::Map { map, from, into } => {
                w.text(1, map);
                w.u32(2, from.number());
                w.u32(3, into.number());
            }
            Self::VerdictMap { map, from } => {
                w.text(1, map);
                w.u32(2, from.number());
                w.u32(3, 0);
            }
            Self::Random { below, into } => {
                w.u32(1, into.number());
                w.u32(2, *below);
                w.u32(3, NUMBER_RANDOM);
                w.u32(4, 0);
            }
            Self::Translate { what, family, address, port, flags } => {
                w.u32(1, *what as u32);
                w.u32(2, u32::from(*family));
                w.u32(3, address.number());
                if let Some(port) = port {
                    w.u32(5, port.number());
                }
                if *flags != 0 {
                    w.u32(7, *flags);
                }
            }
            Self::ChangeSet { set, change, key, value, timeout } => {
                w.text(1, set);
                w.u32(3, *change as u32);
                w.u32(4, key.number());
                if let Some(value) = value {
                    w.u32(5, value.number());
                }
                if *timeout != 0 {
                    w.u64(6, *timeout);
                }
            }
            Self::Reject(Refusal::Reset) => w.u32(1, REJECT_RESET),
            Self::Reject(Refusal::PortUnreachable) => {
                w.u32(1, REJECT_ICMPX);
                w.bytes(2, &[ICMPX_PORT_UNREACHABLE]);
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
                w.nest(2, |w| verdict.encode_data(w));
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
            "meta" if number(3).is_some() => match number(2)? {
                key if key == Meta::Mark as u32 => Self::SetMark { from: register(3)? },
                _ => return None,
            },
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
                let (mask, toggle) = (value(4)?, value(5)?);
                let plain = toggle.len() == mask.len() && number(3)? as usize == mask.len();
                plain.then_some(Self::Mask { from: register(1)?, into: register(2)?, mask, toggle })?
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
            // To the register of verdicts.
            "lookup" if number(3) == Some(0) => {
                Self::VerdictMap { map: wire::find_text(data, 1)?, from: register(2)? }
            }
            "lookup" => Self::Map { map: wire::find_text(data, 1)?, from: register(2)?, into: register(3)? },
            "ct" if number(4).is_some() => match number(2)? {
                key if key == Connection::Mark as u32 => Self::SetConnectionMark { from: register(4)? },
                _ => return None,
            },
            "ct" if wire::find(data, 3).is_none() => {
                let key = number(2)?;
                let load = *Connection::ALL.iter().find(|c| **c as u32 == key)?;
                Self::Connection { load, into: register(1)? }
            }
            "numgen" if number(3)? == NUMBER_RANDOM && number(4).unwrap_or(0) == 0 => {
                Self::Random { below: number(2)?, into: register(1)? }
            }
            "nat" => Self::decode_translation(data)?,
            "dynset" => Self::decode_set_change(data)?,
            "reject" => match (number(1)?, wire::find(data, 2)) {
                (REJECT_RESET, _) => Self::Reject(Refusal::Reset),
                (REJECT_ICMPX, Some([ICMPX_PORT_UNREACHABLE])) => Self::Reject(Refusal::PortUnreachable),
                _ => return None,
            },
            "fib" if number(2)? == FIB_RESULT_TYPE && number(3)? == FIB_DESTINATION => {
                Self::DestinationType { into: register(1)? }
            }
            "immediate" if number(1)? == 0 => Self::Verdict(Verdict::decode_data(wire::find(data, 2)?)?),
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

    fn decode_translation(data: &[u8]) -> Option<Self> {
        let number = |kind| wire::find_u32(data, kind);
        let what = match number(1)? {
            0 => Translation::Source,
            1 => Translation::Destination,
            _ => return None,
        };
        let address = number(3)?;
        // The kernel reports the end of a range that was not given as its beginning, and what follows from the rest.
        let single = |first: Option<u32>, last: Option<u32>| last.is_none() || last == first;
        if !single(Some(address), number(4)) || !single(number(5), number(6)) {
            return None;
        }
        let port = match number(5) {
            Some(port) => Some(Register::from_number(port)?),
            None => None,
        };
        Some(Self::Translate {
            what,
            family: u8::try_from(number(2)?).ok()?,
            address: Register::from_number(address)?,
            port,
            flags: number(7).unwrap_or(0) & !(NAT_ADDRESSES | NAT_PORTS),
        })
    }

    fn decode_set_change(data: &[u8]) -> Option<Self> {
        let number = |kind| wire::find_u32(data, kind);
        let operation = number(3)?;
        let change = *SetChange::ALL.iter().find(|c| **c as u32 == operation)?;
        let plain =
            [7, 10].iter().all(|kind| wire::find(data, *kind).is_none()) && number(9).unwrap_or(0) == 0;
        let value = match number(5) {
            Some(value) => Some(Register::from_number(value)?),
            None => None,
        };
        plain.then_some(Self::ChangeSet {
            set: wire::find_text(data, 1)?,
            change,
            key: Register::from_number(number(4)?)?,
            value,
            timeout: wire::find_u64(data, 6).unwrap_or(0),
        })
    }
}

impl Verdict {
    /// As data: of an immediate expression, or of an element of a map.
    pub(in super::super) fn encode_data(&self, w: &mut Writer) {
        w.nest(VERDICT, |w| self.encode(w));
    }

    /// The inverse of [`Verdict::encode_data`].
    pub(in super::super) fn decode_data(data: &[u8]) -> Option<Self> {
        Self::decode(wire::find(data, VERDICT)?)
    }

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
