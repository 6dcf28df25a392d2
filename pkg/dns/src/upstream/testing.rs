//! Records and replies for tests, written by hand so that nothing of the code under test takes part.

use crate::wire::{Data, Name, Record, Soa, Type};

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn a(owner: &str, ttl: u32, address: &str) -> Record {
    let address: std::net::IpAddr = address.parse().unwrap();
    let rtype = if address.is_ipv4() { Type::A } else { Type::AAAA };
    Record { owner: name(owner), rtype, ttl, data: Data::Address(address) }
}

pub(crate) fn alias(owner: &str, ttl: u32, target: &str) -> Record {
    Record { owner: name(owner), rtype: Type::CNAME, ttl, data: Data::Name(name(target)) }
}

pub(crate) fn soa(owner: &str, ttl: u32, minimum: u32) -> Record {
    let data = Soa {
        mname: name("ns.example"),
        rname: name("admin.example"),
        serial: 1,
        refresh: 2,
        retry: 3,
        expire: 4,
        minimum,
    };
    Record { owner: name(owner), rtype: Type::SOA, ttl, data: Data::Soa(data) }
}

/// What a fake server answers.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) flags: u16,
    pub(crate) rcode: u8,
    pub(crate) answers: Vec<Record>,
    pub(crate) authority: Vec<Record>,
    pub(crate) additional: Vec<Record>,
}

impl Default for Answer {
    fn default() -> Self {
        Self { flags: 0x8180, rcode: 0, answers: vec![], authority: vec![], additional: vec![] }
    }
}

impl Answer {
    pub(crate) fn of(answers: Vec<Record>) -> Self {
        Self { answers, ..Self::default() }
    }

    /// The reply to a query, in wire form.
    pub(crate) fn reply(&self, query: &[u8]) -> Vec<u8> {
        let mut out = query[..2].to_vec();
        out.extend_from_slice(&(self.flags | u16::from(self.rcode)).to_be_bytes());
        let count = |records: &[Record]| u16::try_from(records.len()).unwrap().to_be_bytes();
        out.extend_from_slice(&[0, 1]);
        for section in [&self.answers, &self.authority, &self.additional] {
            out.extend_from_slice(&count(section));
        }
        out.extend_from_slice(question_of(query));
        for record in self.answers.iter().chain(&self.authority).chain(&self.additional) {
            put(&mut out, record);
        }
        out
    }
}

/// The question section of a query.
pub(crate) fn question_of(query: &[u8]) -> &[u8] {
    let mut end = 12;
    while query[end] != 0 {
        end += 1 + usize::from(query[end]);
    }
    &query[12..end + 5]
}

/// The name and type that a query asks for.
pub(crate) fn asked(query: &[u8]) -> (Name, Type) {
    let section = question_of(query);
    let (name, rest) = section.split_at(section.len() - 4);
    (Name::from_wire(name).unwrap(), Type(u16::from_be_bytes([rest[0], rest[1]])))
}

fn put(out: &mut Vec<u8>, record: &Record) {
    let data = match &record.data {
        Data::Address(std::net::IpAddr::V4(v4)) => v4.octets().to_vec(),
        Data::Address(std::net::IpAddr::V6(v6)) => v6.octets().to_vec(),
        Data::Name(name) => name.wire().to_vec(),
        Data::Soa(soa) => {
            let mut data = [soa.mname.wire(), soa.rname.wire()].concat();
            for number in [soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum] {
                data.extend_from_slice(&number.to_be_bytes());
            }
            data
        }
        Data::Srv { priority, weight, port, target } => {
            let mut data = Vec::new();
            for number in [priority, weight, port] {
                data.extend_from_slice(&number.to_be_bytes());
            }
            [&data, target.wire()].concat()
        }
        Data::Other(bytes) => bytes.to_vec(),
    };
    out.extend_from_slice(record.owner.wire());
    out.extend_from_slice(&record.rtype.0.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    out.extend_from_slice(&record.ttl.to_be_bytes());
    out.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
    out.extend_from_slice(&data);
}
