//! Names that configuration answers or sends elsewhere: domains with resolvers of their own, hosts, and rewrites.
//!
//! A rewrite comes first, then hosts, then the resolvers of the longest domain, label by label. A rewrite is applied once,
//! so no two of them can make a loop.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::upstream::address::{Address, InvalidAddress};
use crate::wire::{Data, Name, Record, Soa, Type};

/// TTL of what configuration answers: a change of it reaches clients in half a minute.
pub const TTL: u32 = 30;

/// Why a text of configuration can not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverrideError {
    /// A stub domain.
    #[error(
        "{0:?} is no stub domain: {1}. Give it as domain=address,address, for example corp.example=10.0.0.53"
    )]
    Stub(String, String),
    /// A host entry.
    #[error(
        "{0:?} is no host entry: {1}. Give it as name=address,address, for example nas.home=192.168.1.5,fd00::5"
    )]
    Host(String, String),
    /// A rewrite.
    #[error(
        "{0:?} is no rewrite: {1}. Give it as old.example=new.example, or *.old.example=*.new.example for all names below"
    )]
    Rewrite(String, String),
    /// One name is said to be two things.
    #[error("{what} {name} is given twice; give it once, with all it stands for")]
    Twice {
        /// What.
        what: &'static str,
        /// Whose.
        name: Name,
    },
}

/// `corp.example=10.0.0.53,tls://10.0.0.54#ns.corp.example`: a domain and who is asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StubDomain {
    /// The domain, with everything below it.
    pub domain: Name,
    /// Its resolvers.
    pub upstreams: Vec<Address>,
}

/// `nas.home=192.168.1.5,fd00::5`: a host and its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEntry {
    /// The host.
    pub name: Name,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// `old.example=new.example` or `*.old.example=*.new.example`: a name that is asked as another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// The name, or the domain below which names are rewritten.
    pub from: Name,
    /// What stands in its place.
    pub to: Name,
    /// Whether names below are meant, and not the name itself.
    pub below: bool,
}

/// The two sides of `a=b`; without either the text is refused by `error`.
fn sides<'t>(
    text: &'t str,
    error: &impl Fn(String) -> OverrideError,
) -> Result<(&'t str, &'t str), OverrideError> {
    match text.split_once('=').map(|(left, right)| (left.trim(), right.trim())) {
        Some((left, right)) if !left.is_empty() && !right.is_empty() => Ok((left, right)),
        _ => Err(error("it has not a text on both sides of =".into())),
    }
}

/// A host name as one writes it: letters, digits, `-` and `_` between dots.
fn host_name(text: &str) -> Result<Name, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    match text.parse::<Name>() {
        Ok(name) if text.bytes().all(plain) => Ok(name),
        Ok(_) => Err(format!("{text:?} has characters that names of hosts do not have")),
        Err(error) => Err(error.to_string()),
    }
}

impl FromStr for StubDomain {
    type Err = OverrideError;
    fn from_str(text: &str) -> Result<Self, OverrideError> {
        let error = |why: String| OverrideError::Stub(text.into(), why);
        let (domain, upstreams) = sides(text, &error)?;
        let domain = host_name(domain).map_err(error)?;
        if domain == Name::root() {
            return Err(error("the root is not a domain of its own; its resolvers are the upstreams".into()));
        }
        let upstreams: Result<Vec<_>, InvalidAddress> =
            upstreams.split(',').map(|one| one.trim().parse()).collect();
        Ok(Self { domain, upstreams: upstreams.map_err(|e| error(e.to_string()))? })
    }
}

impl FromStr for HostEntry {
    type Err = OverrideError;
    fn from_str(text: &str) -> Result<Self, OverrideError> {
        let error = |why: String| OverrideError::Host(text.into(), why);
        let (name, addresses) = sides(text, &error)?;
        let name = host_name(name).map_err(error)?;
        let address = |one: &str| {
            let one = one.trim();
            one.parse::<IpAddr>().map_err(|_| error(format!("{one:?} is not an IP address")))
        };
        Ok(Self { name, addresses: addresses.split(',').map(address).collect::<Result<_, _>>()? })
    }
}

impl FromStr for Rewrite {
    type Err = OverrideError;
    fn from_str(text: &str) -> Result<Self, OverrideError> {
        let error = |why: &str| OverrideError::Rewrite(text.into(), why.into());
        let (from, to) = sides(text, &|why| error(&why))?;
        let (below, from, to) = match (from.strip_prefix("*."), to.strip_prefix("*.")) {
            (Some(from), Some(to)) => (true, from, to),
            (None, None) => (false, from, to),
            _ => return Err(error("*. stands on one side only")),
        };
        let name = |text: &str| host_name(text).map_err(|why| error(&why));
        let (from, to) = (name(from)?, name(to)?);
        if from == to {
            return Err(error("both sides are the same"));
        }
        Ok(Self { from, to, below })
    }
}

/// Values by domain; the longest domain that a name lies in decides, label by label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Domains<T>(HashMap<Box<[u8]>, T>);

impl<T> Default for Domains<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Domains<T> {
    /// The value that was there before comes back.
    pub(crate) fn insert(&mut self, domain: &Name, value: T) -> Option<T> {
        self.0.insert(domain.wire().to_ascii_lowercase().into(), value)
    }

    /// The value of the longest domain that `name` lies in, and the labels before that domain in wire form.
    pub(crate) fn find<'n>(&self, name: &'n Name) -> Option<(&T, &'n [u8])> {
        if self.0.is_empty() {
            return None;
        }
        let wire = name.wire();
        let mut folded = [0; 256];
        let folded = folded.get_mut(..wire.len())?;
        folded.copy_from_slice(wire);
        // Lengths of labels are below the letters.
        folded.make_ascii_lowercase();
        let mut at = 0;
        loop {
            if let Some(value) = self.0.get(&folded[at..]) {
                return Some((value, &wire[..at]));
            }
            match wire.get(at) {
                None | Some(0) => return None,
                Some(&length) => at += 1 + usize::from(length),
            }
        }
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.0.values()
    }

    pub(crate) fn map<U>(&self, mut change: impl FnMut(&T) -> U) -> Domains<U> {
        Domains(self.0.iter().map(|(domain, value)| (domain.clone(), change(value))).collect())
    }
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    hosts: HashMap<Name, Vec<IpAddr>>,
    names: HashMap<IpAddr, Vec<Name>>,
    pub(crate) stubs: Domains<Vec<Address>>,
    exact: HashMap<Name, Name>,
    below: Domains<Name>,
}

impl Overrides {
    /// Puts them together.
    ///
    /// # Errors
    /// [`OverrideError::Twice`] for a name that is given twice in one of the lists.
    pub fn new(
        stubs: impl IntoIterator<Item = StubDomain>,
        hosts: impl IntoIterator<Item = HostEntry>,
        rewrites: impl IntoIterator<Item = Rewrite>,
    ) -> Result<Self, OverrideError> {
        let mut all = Self::default();
        let once = |new: bool, what, name: &Name| match new {
            true => Ok(()),
            false => Err(OverrideError::Twice { what, name: name.clone() }),
        };
        for stub in stubs {
            once(all.stubs.insert(&stub.domain, stub.upstreams).is_none(), "stub domain", &stub.domain)?;
        }
        for host in hosts {
            for &address in &host.addresses {
                all.names.entry(address.to_canonical()).or_default().push(host.name.clone());
            }
            once(all.hosts.insert(host.name.clone(), host.addresses).is_none(), "host", &host.name)?;
        }
        for Rewrite { from, to, below } in rewrites {
            let new = match below {
                true => all.below.insert(&from, to).is_none(),
                false => all.exact.insert(from.clone(), to).is_none(),
            };
            once(new, "rewrite of", &from)?;
        }
        Ok(all)
    }

    /// Whether there are any rewrites.
    #[must_use]
    pub fn rewrites(&self) -> bool {
        !self.exact.is_empty() || !self.below.0.is_empty()
    }

    /// The name that is asked in place of `name`. It may lie in the cluster's domain.
    #[must_use]
    pub fn rewrite(&self, name: &Name) -> Option<Name> {
        if let Some(to) = self.exact.get(name) {
            return Some(to.clone());
        }
        let (to, before) = self.below.find(name).filter(|(_, before)| !before.is_empty())?;
        // One that becomes too long stays as it is.
        Name::from_wire(&[before, to.wire()].concat()).ok()
    }

    /// What configuration answers: records, and the SOA when there are none of that type. None when it says nothing.
    #[must_use]
    pub fn host(&self, name: &Name, rtype: Type) -> Option<(Vec<Record>, Option<Record>)> {
        if self.hosts.is_empty() {
            return None;
        }
        let record = |rtype, data| Record { owner: name.clone(), rtype, ttl: TTL, data };
        let answers: Vec<_> = if let Some(addresses) = self.hosts.get(name) {
            let wanted = |ip: &&IpAddr| rtype == if ip.is_ipv4() { Type::A } else { Type::AAAA };
            addresses.iter().filter(wanted).map(|&ip| record(rtype, Data::Address(ip))).collect()
        } else {
            let names = self.names.get(&reverse(name)?)?;
            let wanted = names.iter().filter(|_| rtype == Type::PTR);
            wanted.map(|name| record(Type::PTR, Data::Name(name.clone()))).collect()
        };
        let soa = answers.is_empty().then(|| soa(name.clone(), TTL));
        Some((answers, soa))
    }
}

/// An SOA of our own, for denials that no zone stands behind.
#[must_use]
pub(crate) fn soa(owner: Name, ttl: u32) -> Record {
    let nobody = Name::from_labels([&b"nobody"[..], b"invalid"]).unwrap_or_else(|_| Name::root());
    let data = Soa {
        mname: nobody.clone(),
        rname: nobody,
        serial: 1,
        refresh: 3_600,
        retry: 600,
        expire: 86_400,
        minimum: ttl,
    };
    Record { owner, rtype: Type::SOA, ttl, data: Data::Soa(data) }
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for.
fn reverse(name: &Name) -> Option<IpAddr> {
    let labels: Vec<&[u8]> = name.labels().collect();
    let (ip, domain) = labels.split_at(labels.len().checked_sub(2)?);
    if !domain[1].eq_ignore_ascii_case(b"arpa") {
        return None;
    }
    let text = |label: &'_ [u8]| std::str::from_utf8(label).ok().map(str::to_owned);
    match ip.len() {
        4 if domain[0].eq_ignore_ascii_case(b"in-addr") => {
            let number = |label: &&[u8]| text(label).filter(|t| !t.starts_with('+'))?.parse::<u8>().ok();
            let mut octets = ip.iter().rev().map(number);
            let mut next = || octets.next().flatten();
            Some(Ipv4Addr::new(next()?, next()?, next()?, next()?).into())
        }
        32 if domain[0].eq_ignore_ascii_case(b"ip6") => {
            let digit = |label: &&[u8]| match label {
                [digit] => char::from(*digit).to_digit(16),
                _ => None,
            };
            let bits =
                ip.iter().rev().map(digit).try_fold(0_u128, |bits, d| Some(bits << 4 | u128::from(d?)))?;
            Some(Ipv6Addr::from(bits).into())
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "overrides_tests.rs"]
mod tests;
