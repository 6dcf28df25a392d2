//! The wire format (RFC 1035), as far as the path of an answer needs it fast.
//!
//! Messages of other servers are read with hickory-proto; they are not on that path.

mod name;
mod query;
mod writer;

pub use name::{InvalidName, Name};
pub(crate) use name::{LONGEST, NameBuffer};
pub use query::{Edns, Query, Refusal};
pub use writer::{LONGEST_OVER_UDP, Owner, Rdata, Section, Transport, Writer};

/// The type of a record or question (RFC 1035 section 3.2.2), as its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Type(pub u16);

impl Type {
    /// IPv4 address.
    pub const A: Self = Self(1);
    /// Name server.
    pub const NS: Self = Self(2);
    /// Another name.
    pub const CNAME: Self = Self(5);
    /// Start of a zone.
    pub const SOA: Self = Self(6);
    /// The name of an address.
    pub const PTR: Self = Self(12);
    /// Text.
    pub const TXT: Self = Self(16);
    /// IPv6 address (RFC 3596).
    pub const AAAA: Self = Self(28);
    /// Host and port of a service (RFC 2782).
    pub const SRV: Self = Self(33);
    /// EDNS (RFC 6891).
    pub const OPT: Self = Self(41);
    /// Everything (RFC 8482).
    pub const ANY: Self = Self(255);
}

/// The response code (RFC 1035 section 4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rcode(pub u8);

impl Rcode {
    /// Answered, perhaps with no record.
    pub const NO_ERROR: Self = Self(0);
    /// The question could not be read.
    pub const FORM_ERR: Self = Self(1);
    /// No answer can be found now.
    pub const SERV_FAIL: Self = Self(2);
    /// There is no such name.
    pub const NX_DOMAIN: Self = Self(3);
    /// Not implemented.
    pub const NOT_IMP: Self = Self(4);
    /// Not answered to this client, or not this question.
    pub const REFUSED: Self = Self(5);
    /// Not this version of EDNS (RFC 6891); its upper bits are in the OPT record.
    pub const BAD_VERS: Self = Self(16);
}

/// A record of class IN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub owner: Name,
    /// Its type.
    pub rtype: Type,
    /// How long it may be kept, in seconds.
    pub ttl: u32,
    /// Its data.
    pub data: Data,
}

/// The data of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// An address: A or AAAA.
    Address(std::net::IpAddr),
    /// A name: CNAME, NS, PTR.
    Name(Name),
    /// SRV.
    Srv {
        /// Lower is tried first.
        priority: u16,
        /// Share among equals.
        weight: u16,
        /// Port of the service.
        port: u16,
        /// Host of the service.
        target: Name,
    },
    /// SOA.
    Soa(Soa),
    /// Anything else, in wire form without compressed names.
    Other(Box<[u8]>),
}

/// The data of an SOA record (RFC 1035 section 3.3.13).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Soa {
    /// First name server.
    pub mname: Name,
    /// Mailbox of who is responsible.
    pub rname: Name,
    /// Version of the zone.
    pub serial: u32,
    /// Seconds between refreshes by secondaries.
    pub refresh: u32,
    /// Seconds until a failed refresh is tried again.
    pub retry: u32,
    /// Seconds until secondaries stop answering.
    pub expire: u32,
    /// TTL of negative answers (RFC 2308), in seconds.
    pub minimum: u32,
}
