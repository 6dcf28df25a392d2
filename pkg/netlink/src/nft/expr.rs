//! What a rule is made of: the kernel's register machine, typed.
//!
//! An expression loads into registers, compares them (and ends the rule when the comparison fails), or acts. The model
//! has what Warren's rules use; everything else read from the kernel is [`Expr::Unknown`], which equals nothing that
//! Warren wants.

mod codec;

pub(super) use codec::{decode, encode};

/// A 32-bit word of the register file, 0 to 15. A value longer than a word goes into the following ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(u8);

impl Register {
    /// The first word.
    pub const FIRST: Self = Self(0);
    const WORDS: u8 = 16;
    /// `NFT_REG32_00`: single words are numbered from here, groups of four from 1.
    const WORD_BASE: u32 = 8;

    /// The word at `index`; there are 16.
    #[must_use]
    pub const fn word(index: u8) -> Option<Self> {
        if index < Self::WORDS { Some(Self(index)) } else { None }
    }

    /// The word behind a value of `bytes` bytes that starts here.
    #[must_use]
    pub const fn after(self, bytes: u8) -> Self {
        let word = self.0 + bytes.div_ceil(4);
        if word < Self::WORDS { Self(word) } else { Self(Self::WORDS - 1) }
    }

    /// The number of the word.
    #[must_use]
    pub fn index(self) -> u8 {
        self.0
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
pub enum Meta {
    /// EtherType of the packet, two bytes.
    EtherType = 1,
    /// The packet's mark, a word in the machine's order.
    Mark = 3,
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
    const ALL: [Self; 6] =
        [Self::EtherType, Self::Mark, Self::InName, Self::OutName, Self::Family, Self::Protocol];
}

/// Where an offset counts from: `NFT_PAYLOAD_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Header {
    /// The header of IPv4 or IPv6.
    Network = 1,
    /// The header behind it.
    Transport = 2,
}

impl Header {
    const ALL: [Self; 2] = [Self::Network, Self::Transport];
}

/// `NFT_CMP_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Comparison {
    /// Equal.
    Equal = 0,
    /// Not equal.
    NotEqual = 1,
    /// Less or equal.
    AtMost = 3,
    /// Greater or equal.
    AtLeast = 5,
}

impl Comparison {
    const ALL: [Self; 4] = [Self::Equal, Self::NotEqual, Self::AtMost, Self::AtLeast];
}

/// Where a packet goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nowhere.
    Drop,
    /// On to the next hook.
    Accept,
    /// Back to the chain that jumped here.
    Return,
    /// To a chain, coming back at its end.
    Jump(String),
    /// To a chain, not coming back.
    Goto(String),
}

/// A property of the packet's connection: `NFT_CT_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Connection {
    /// A bit for each state, a word in the machine's order: [`STATE_INVALID`].
    State = 0,
    /// The connection's mark, a word in the machine's order.
    Mark = 3,
}

impl Connection {
    const ALL: [Self; 2] = [Self::State, Self::Mark];
}

/// Which address a translation changes: `NFT_NAT_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Translation {
    /// The source.
    Source = 0,
    /// The destination.
    Destination = 1,
}

/// How a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A TCP reset.
    Reset,
    /// ICMP or ICMPv6: port unreachable.
    PortUnreachable,
}

/// What a packet does to a set that packets fill: `NFT_DYNSET_OP_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum SetChange {
    /// Adds the element, or renews its time. An element that is there keeps its value.
    Update = 1,
    /// Deletes it.
    Delete = 2,
}

impl SetChange {
    const ALL: [Self; 2] = [Self::Update, Self::Delete];
}

/// One expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Loads a property of the packet.
    Meta {
        /// Which.
        load: Meta,
        /// Where to.
        into: Register,
    },
    /// Loads a property of the packet's connection.
    Connection {
        /// Which.
        load: Connection,
        /// Where to.
        into: Register,
    },
    /// Sets the packet's mark.
    SetMark {
        /// From where.
        from: Register,
    },
    /// Sets the mark of the packet's connection.
    SetConnectionMark {
        /// From where.
        from: Register,
    },
    /// Loads bytes of the packet.
    Payload {
        /// Where the offset counts from.
        header: Header,
        /// Bytes to skip.
        offset: u32,
        /// Bytes to load.
        length: u32,
        /// Where to.
        into: Register,
    },
    /// `into = (from & mask) ^ toggle`; mask and toggle are of one length.
    Mask {
        /// From where.
        from: Register,
        /// Where to.
        into: Register,
        /// The bits that stay.
        mask: Vec<u8>,
        /// The bits that change.
        toggle: Vec<u8>,
    },
    /// Goes on when the register compares so.
    Compare {
        /// What is compared.
        from: Register,
        /// How.
        is: Comparison,
        /// With what.
        value: Vec<u8>,
    },
    /// Goes on when the value is in the set, or, `inverted`, when it is not.
    Lookup {
        /// The set.
        set: String,
        /// The key.
        from: Register,
        /// Whether it must not be there.
        inverted: bool,
    },
    /// Goes on when the value is a key of the map, with what it leads to.
    Map {
        /// The map.
        map: String,
        /// The key.
        from: Register,
        /// Where to.
        into: Register,
    },
    /// Does what the map of verdicts says for the value; goes on when it says nothing.
    VerdictMap {
        /// The map.
        map: String,
        /// The key.
        from: Register,
    },
    /// Loads a random number below `below`, a word in the machine's order.
    Random {
        /// The first number that is not given out.
        below: u32,
        /// Where to.
        into: Register,
    },
    /// Loads the type (`RTN_*`, a word in the machine's order) of the destination address.
    DestinationType {
        /// Where to.
        into: Register,
    },
    /// Loads a constant.
    Constant {
        /// Where to.
        into: Register,
        /// The bytes.
        value: Vec<u8>,
    },
    /// Counts in a named counter.
    CountIn(String),
    /// Leaves the packet out of connection tracking.
    NoTrack,
    /// Source becomes the address of the link, the port one of a range (two registers) or any.
    Masquerade {
        /// `NF_NAT_RANGE_*`.
        flags: u32,
        /// First and last port.
        ports: Option<(Register, Register)>,
    },
    /// Translates the connection, for packets of one family. Ends the rule and the chain.
    Translate {
        /// Which address.
        what: Translation,
        /// `NFPROTO_*`.
        family: u8,
        /// The new address.
        address: Register,
        /// The new port; none leaves it.
        port: Option<Register>,
        /// `NF_NAT_RANGE_*`; that ports are given need not be said.
        flags: u32,
    },
    /// Changes a set that packets fill. Goes on; or ends the rule when the set is full.
    ChangeSet {
        /// The set.
        set: String,
        /// What to do.
        change: SetChange,
        /// The key.
        key: Register,
        /// What it leads to, in a map.
        value: Option<Register>,
        /// How long it stays, in ms; zero for ever.
        timeout: u64,
    },
    /// Refuses the packet.
    Reject(Refusal),
    /// Ends the rule.
    Verdict(Verdict),
    /// Something of another program's, or of a later kernel's.
    Unknown {
        /// Its name.
        name: String,
        /// Its attributes.
        data: Vec<u8>,
    },
}

/// `NF_NAT_RANGE_MAP_IPS`: the address is given.
const NAT_ADDRESSES: u32 = 1 << 0;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`: the ports are given.
pub const NAT_PORTS: u32 = 1 << 1;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
pub const NAT_FULLY_RANDOM: u32 = 1 << 4;
/// `RTN_LOCAL`: an address of this host.
pub const ROUTE_LOCAL: u32 = 2;
/// In [`Connection::State`]: not part of any connection (`NF_CT_STATE_INVALID_BIT`).
pub const STATE_INVALID: u32 = 1;
/// In [`Connection::State`]: the first packet of a connection (`NF_CT_STATE_BIT(IP_CT_NEW)`).
pub const STATE_NEW: u32 = 8;
