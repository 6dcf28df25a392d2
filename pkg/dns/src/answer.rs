//! From a question to its answer, or to what has to be asked elsewhere for it.

mod records;

use crate::search::Walk;
use crate::wire::{Name, NameBuffer, Owner, Query, Rcode, Rdata, Record, Section, Transport, Type, Writer};
use crate::zone::{Found, Knowledge, Lookup, Zone};
use records::{negative, write_found};
use std::net::IpAddr;

/// Most names that stand for each other before the answer is given up.
const LONGEST_CHAIN: usize = 8;
/// Class IN.
const IN: u16 = 1;

/// Which pods' addresses have names (`a-b-c-d.ns.pod`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PodNames {
    /// None.
    Disabled,
    /// Every address that anyone asks for, whether or not a pod has it.
    Insecure,
    /// Those of pods of that namespace.
    #[default]
    Verified,
}

/// How questions are answered.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which pods' addresses have names.
    pub pods: PodNames,
    /// How long answers from the zone may be kept, in seconds; of names that do not exist too.
    pub ttl: u32,
    /// The addresses of the name server, `ns.dns` in the cluster's domain.
    pub servers: Vec<IpAddr>,
    /// Whether pods' search paths are walked for them.
    pub search: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { pods: PodNames::Verified, ttl: 5, servers: Vec::new(), search: true }
    }
}

/// What is known of who asks.
#[derive(Debug, Clone, Copy)]
pub enum Client<'c> {
    /// Not of the cluster, as far as is known: refused.
    Stranger,
    /// A pod of this node, with the search path in its `resolv.conf`, of which the first domain is its namespace's.
    Pod(&'c [Name]),
    /// Anyone else of the pod, Service and node ranges.
    Other,
}

impl Client<'_> {
    /// Whether it is of the cluster.
    #[must_use]
    pub const fn known(self) -> bool {
        !matches!(self, Self::Stranger)
    }
}

/// A question for someone else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The name.
    pub name: Name,
    /// The type.
    pub qtype: Type,
}

/// What someone else answered.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'r> {
    /// The response code.
    pub rcode: Rcode,
    /// The answer section.
    pub answers: &'r [Record],
    /// The SOA of a negative answer.
    pub soa: Option<&'r Record>,
    /// How long the records may be kept, in seconds: in place of their own times, which they had when they came.
    pub ttl: u32,
}

/// Names that the cluster says stand for each other, from the one that was asked for; the last is someone else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    names: Vec<Name>,
    qtype: Type,
}

impl Chain {
    /// A chain of these names.
    pub(crate) fn new(names: Vec<Name>, qtype: Type) -> Self {
        Self { names, qtype }
    }

    /// What is to be asked elsewhere.
    #[must_use]
    pub fn asked(&self) -> Asked {
        Asked { name: self.names.last().cloned().unwrap_or_else(Name::root), qtype: self.qtype }
    }
}

/// What becomes of a question.
#[derive(Debug)]
pub enum Outcome {
    /// The buffer holds the answer.
    Answered,
    /// The name is someone else's.
    Forward(Asked),
    /// The name stands for one that is someone else's: [`Chain::asked`] is to be asked, then [`complete`] called.
    ForwardThen(Chain),
    /// The name does not exist, but another one of the client's search path may: [`Walk::asked`] is to be asked, then
    /// [`Walk::next`] called.
    WalkSearch(Walk),
}

/// What an answer is made of.
#[derive(Debug, Clone, Copy)]
pub struct Context<'c> {
    /// The names of the cluster.
    pub zone: &'c Zone,
    /// How questions are answered.
    pub settings: &'c Settings,
    /// How the answer goes back.
    pub transport: Transport,
    /// A number by which records are shuffled.
    pub random: u64,
}

/// Answers a question from the zone, or says what is to be asked elsewhere for it. What the buffer holds counts only when
/// the outcome is [`Outcome::Answered`].
pub fn answer(context: Context<'_>, client: Client<'_>, query: &Query<'_>, out: &mut Vec<u8>) -> Outcome {
    if let Some(rcode) = refusal(context.zone, client, query) {
        Writer::new(query, context.transport, out).finish(rcode);
        return Outcome::Answered;
    }
    let lower = NameBuffer::lower(query.name);
    let lookup = context.zone.find(lower.wire(), context.settings.pods);
    match lookup.found {
        Found::Outside => match Name::from_wire(query.name) {
            Ok(name) => Outcome::Forward(Asked { name, qtype: query.qtype }),
            Err(_) => fail(context, query, Rcode::FORM_ERR, out),
        },
        Found::Missing => match search_of(context, client, query) {
            Some(walk) => walk.go(context, query, out),
            None => conclude(context, query, Vec::new(), lower, lookup, out),
        },
        _ => conclude(context, query, Vec::new(), lower, lookup, out),
    }
}

/// Answers a question by another name, which the one that was asked for stands for.
pub fn alias(context: Context<'_>, query: &Query<'_>, target: Name, out: &mut Vec<u8>) -> Outcome {
    let Ok(asked) = Name::from_wire(query.name) else { return fail(context, query, Rcode::FORM_ERR, out) };
    let lower = NameBuffer::lower(target.wire());
    let lookup = context.zone.find(lower.wire(), context.settings.pods);
    let chain = vec![asked, target];
    if matches!(lookup.found, Found::Outside) {
        return Outcome::ForwardThen(Chain { names: chain, qtype: query.qtype });
    }
    conclude(context, query, chain, lower, lookup, out)
}

/// The walk through a client's search path, where there is one to go.
fn search_of(context: Context<'_>, client: Client<'_>, query: &Query<'_>) -> Option<Walk> {
    let Client::Pod(path) = client else { return None };
    if !context.settings.search {
        return None;
    }
    Walk::start(context.zone, &Name::from_wire(query.name).ok()?, query.qtype, path)
}

/// Why a question is not even looked up.
fn refusal(zone: &Zone, client: Client<'_>, query: &Query<'_>) -> Option<Rcode> {
    if !client.known() {
        // Whoever knows nothing of the cluster does not know who is a stranger either.
        let nothing = zone.knowledge() == Knowledge::Nothing;
        return Some(if nothing { Rcode::SERV_FAIL } else { Rcode::REFUSED });
    }
    if query.edns.is_some_and(|e| e.version != 0) {
        return Some(Rcode::BAD_VERS);
    }
    // Types from TKEY to ANY are no records but requests: for transfers, for everything (RFC 8482).
    let request = (249..=255).contains(&query.qtype.0);
    (query.class != IN || request).then_some(Rcode::REFUSED)
}

/// Writes an answer that has a code only.
pub(crate) fn fail(context: Context<'_>, query: &Query<'_>, rcode: Rcode, out: &mut Vec<u8>) -> Outcome {
    Writer::new(query, context.transport, out).finish(rcode);
    Outcome::Answered
}

/// Writes what was found for a name, following names that stand for others. `chain` holds the names that led to it,
/// from the one that was asked for; empty when it is that one.
pub(crate) fn conclude<'z>(
    context: Context<'z>,
    query: &Query<'_>,
    mut chain: Vec<Name>,
    mut lower: NameBuffer,
    mut lookup: Lookup<'z>,
    out: &mut Vec<u8>,
) -> Outcome {
    loop {
        if matches!(lookup.found, Found::Unknown) {
            return fail(context, query, Rcode::SERV_FAIL, out);
        }
        let Some(target) = records::alias(&lookup.found).filter(|_| query.qtype != Type::CNAME) else {
            break;
        };
        if chain.is_empty() {
            chain.extend(Name::from_wire(query.name));
        }
        // Also ends names that stand for each other in a circle.
        if chain.len() > LONGEST_CHAIN {
            return fail(context, query, Rcode::SERV_FAIL, out);
        }
        chain.push(target.clone());
        lower = NameBuffer::lower(target.wire());
        lookup = context.zone.find(lower.wire(), context.settings.pods);
        if matches!(lookup.found, Found::Outside) {
            return Outcome::ForwardThen(Chain { names: chain, qtype: query.qtype });
        }
    }
    let mut writer = Writer::new(query, context.transport, out);
    writer.authoritative();
    write_chain(&mut writer, context.settings.ttl, &chain);
    let owner = if chain.is_empty() { Owner::Asked } else { Owner::Name(lower.wire()) };
    let rcode = if matches!(lookup.found, Found::Missing) { Rcode::NX_DOMAIN } else { Rcode::NO_ERROR };
    if !write_found(&mut writer, context, owner, query.qtype, &lookup.found) {
        negative(&mut writer, context, &lower.wire()[lookup.apex..]);
    }
    writer.finish(rcode);
    Outcome::Answered
}

/// Writes that each name of a chain stands for the next.
fn write_chain(writer: &mut Writer<'_>, ttl: u32, chain: &[Name]) {
    let mut owner = Owner::Asked;
    for target in chain.iter().skip(1) {
        writer.record(Section::Answer, owner, Type::CNAME, ttl, Rdata::Name(target.wire()));
        owner = Owner::Name(target.wire());
    }
}

/// Writes the answer to a question whose name stands for one of someone else's, who replied, or did not.
pub fn complete(
    settings: &Settings,
    query: &Query<'_>,
    chain: &Chain,
    reply: Option<Reply<'_>>,
    transport: Transport,
    out: &mut Vec<u8>,
) {
    let mut writer = Writer::new(query, transport, out);
    let Some(reply) = reply.filter(|r| matches!(r.rcode, Rcode::NO_ERROR | Rcode::NX_DOMAIN)) else {
        writer.finish(Rcode::SERV_FAIL);
        return;
    };
    writer.authoritative();
    write_chain(&mut writer, settings.ttl, &chain.names);
    write_reply(writer, reply);
}

/// Writes what someone else answered to a question.
pub fn relay(query: &Query<'_>, reply: Reply<'_>, transport: Transport, out: &mut Vec<u8>) {
    write_reply(Writer::new(query, transport, out), reply);
}

fn write_reply(mut writer: Writer<'_>, reply: Reply<'_>) {
    for record in reply.answers {
        writer.copy(Section::Answer, record, reply.ttl);
    }
    if let Some(soa) = reply.soa {
        writer.copy(Section::Authority, soa, reply.ttl);
    }
    writer.finish(reply.rcode);
}

#[cfg(test)]
pub(crate) mod tests;
