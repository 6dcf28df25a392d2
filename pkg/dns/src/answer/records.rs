//! The records of what a name stands for.

use super::Context;
use crate::wire::{Name, NameBuffer, Owner, Rdata, Section, Type, Writer};
use crate::zone::{Entry, Found, Kind, Label, Port, Zone};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The version of the Kubernetes DNS specification, as a text of TXT.
const VERSION: &[u8] = b"\x051.1.0";

/// The name that a name stands for.
pub(super) fn alias<'z>(found: &Found<'z>) -> Option<&'z Name> {
    let Found::Service(_, entry) = found else { return None };
    if let Some(Kind::External(Some(target))) = entry.kind() { Some(target) } else { None }
}

/// Puts items into an order that the random number tells (Fisher and Yates; the numbers by splitmix64).
fn shuffle<T>(items: &mut [T], random: u64) {
    let mut state = random;
    for i in (1..items.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // A remainder of 64 random bits: the bias is far below what could be noticed.
        let j = usize::try_from(mixed % (i as u64 + 1)).unwrap_or(0);
        items.swap(i, j);
    }
}

/// The type of an address.
fn type_of(address: IpAddr) -> Type {
    if address.is_ipv4() { Type::A } else { Type::AAAA }
}

/// Writes the records of a type of what was found. Says whether there are any.
pub(super) fn write_found(
    writer: &mut Writer<'_>,
    context: Context<'_>,
    owner: Owner<'_>,
    qtype: Type,
    found: &Found<'_>,
) -> bool {
    let (ttl, zone) = (context.settings.ttl, context.zone);
    match (found, qtype) {
        (Found::Apex, Type::SOA) => soa(writer, Section::Answer, owner, context),
        (Found::Apex, Type::NS) => {
            let Some(server) = NameBuffer::join(&[b"\x02ns\x03dns", zone.domain().wire()]) else {
                return false;
            };
            writer.record(Section::Answer, owner, Type::NS, ttl, Rdata::Name(server.wire()));
            let mut servers = context.settings.servers.clone();
            glue(writer, context, server.wire(), &mut servers);
            true
        }
        (Found::Version, Type::TXT) => {
            writer.record(Section::Answer, owner, Type::TXT, ttl, Rdata::Other(VERSION));
            true
        }
        (Found::NameServer, Type::A | Type::AAAA) => {
            addresses(writer, context, owner, qtype, &mut context.settings.servers.clone())
        }
        (Found::Addresses(list, _), Type::A | Type::AAAA) => {
            addresses(writer, context, owner, qtype, &mut list.clone())
        }
        (Found::Names(names), Type::PTR) => {
            let mut order: Vec<&NameBuffer> = names.iter().collect();
            shuffle(&mut order, context.random);
            for name in &order {
                writer.record(Section::Answer, owner, Type::PTR, ttl, Rdata::Name(name.wire()));
            }
            !order.is_empty()
        }
        (Found::Service(labels, entry), _) => service(writer, context, owner, qtype, labels, entry),
        (Found::Port(labels, entry, name, protocol), Type::SRV) => {
            srv(writer, context, owner, labels, entry, &|p| p.protocol == *protocol && p.name == *name)
        }
        _ => false,
    }
}

/// Writes the records of a type of a Service.
fn service(
    writer: &mut Writer<'_>,
    context: Context<'_>,
    owner: Owner<'_>,
    qtype: Type,
    labels: &[u8],
    entry: &Entry,
) -> bool {
    match (entry.kind(), qtype) {
        (Some(Kind::Cluster { addresses, .. }), Type::A | Type::AAAA) => {
            let mut any = false;
            for &address in addresses.iter().filter(|a| type_of(**a) == qtype) {
                any = true;
                writer.record(Section::Answer, owner, qtype, context.settings.ttl, Rdata::Address(address));
            }
            any
        }
        (Some(Kind::Headless { .. }), Type::A | Type::AAAA) => {
            let mut list: Vec<IpAddr> =
                entry.endpoints().map(|(e, _)| e.address).filter(|a| type_of(*a) == qtype).collect();
            addresses(writer, context, owner, qtype, &mut list)
        }
        (Some(Kind::External(Some(target))), Type::CNAME) => {
            writer.record(
                Section::Answer,
                owner,
                Type::CNAME,
                context.settings.ttl,
                Rdata::Name(target.wire()),
            );
            true
        }
        (Some(Kind::Cluster { .. } | Kind::Headless { .. }), Type::SRV) => {
            srv(writer, context, owner, labels, entry, &|_| true)
        }
        _ => false,
    }
}

/// Writes addresses of one family, each once.
fn addresses(
    writer: &mut Writer<'_>,
    context: Context<'_>,
    owner: Owner<'_>,
    qtype: Type,
    list: &mut Vec<IpAddr>,
) -> bool {
    list.retain(|a| type_of(*a) == qtype);
    list.sort_unstable();
    list.dedup();
    shuffle(list, context.random);
    for &address in &*list {
        if !writer.record(Section::Answer, owner, qtype, context.settings.ttl, Rdata::Address(address)) {
            break;
        }
    }
    !list.is_empty()
}

/// Writes the addresses of a name behind the answer: for each family all or none.
fn glue(writer: &mut Writer<'_>, context: Context<'_>, owner: &[u8], list: &mut Vec<IpAddr>) -> bool {
    list.sort_unstable();
    list.dedup();
    shuffle(list, context.random);
    [Type::A, Type::AAAA].into_iter().all(|family| {
        writer.all_or_none(Section::Additional, |writer| {
            list.iter().filter(|a| type_of(**a) == family).all(|&address| {
                writer.record(
                    Section::Additional,
                    Owner::Name(owner),
                    family,
                    context.settings.ttl,
                    Rdata::Address(address),
                )
            })
        })
    })
}

/// Writes the SRV records of a Service's ports, and the addresses of the hosts they name.
fn srv(
    writer: &mut Writer<'_>,
    context: Context<'_>,
    owner: Owner<'_>,
    labels: &[u8],
    entry: &Entry,
    wanted: &dyn Fn(&Port) -> bool,
) -> bool {
    if let Some(Kind::Cluster { addresses, ports, .. }) = entry.kind() {
        let Some(target) = host(context.zone, b"", labels) else { return false };
        let ports: Vec<(&[u8], u16)> =
            ports.iter().filter(|p| wanted(p)).map(|p| (&b""[..], p.port)).collect();
        write_srv(writer, context, owner, &ports, |_| Some(target));
        if !ports.is_empty() {
            glue(writer, context, target.wire(), &mut addresses.to_vec());
        }
        return !ports.is_empty();
    }
    // Endpoints that share a hostname share its records; one port may come from several slices.
    let mut hosts: Vec<(Label, IpAddr)> = Vec::new();
    let mut pairs: Vec<(Label, u16)> = Vec::new();
    for (endpoint, ports) in entry.endpoints() {
        let label = endpoint.host_label();
        let before = pairs.len();
        pairs.extend(ports.iter().filter(|p| wanted(p)).map(|p| (label, p.port)));
        if pairs.len() > before {
            hosts.push((label, endpoint.address));
        }
    }
    pairs.sort_unstable();
    pairs.dedup();
    hosts.sort_unstable();
    let mut order: Vec<(&[u8], u16)> = pairs.iter().map(|(label, port)| (label.wire(), *port)).collect();
    shuffle(&mut order, context.random);
    write_srv(writer, context, owner, &order, |label| host(context.zone, label, labels));
    // In the order of the answer, so that what is cut off is what comes last.
    let mut told = BTreeSet::new();
    for (label, _) in order.iter().filter(|(label, _)| told.insert(*label)) {
        let from = hosts.partition_point(|(l, _)| l.wire() < *label);
        let mut list: Vec<IpAddr> =
            hosts[from..].iter().take_while(|(l, _)| l.wire() == *label).map(|(_, a)| *a).collect();
        let Some(name) = host(context.zone, label, labels) else { continue };
        if !glue(writer, context, name.wire(), &mut list) {
            break;
        }
    }
    !order.is_empty()
}

/// The name of an endpoint of a Service, or of the Service itself.
fn host(zone: &Zone, label: &[u8], labels: &[u8]) -> Option<NameBuffer> {
    NameBuffer::join(&[label, labels, b"\x03svc", zone.domain().wire()])
}

fn write_srv(
    writer: &mut Writer<'_>,
    context: Context<'_>,
    owner: Owner<'_>,
    order: &[(&[u8], u16)],
    target: impl Fn(&[u8]) -> Option<NameBuffer>,
) {
    // Shares of 100, as CoreDNS has them.
    let weight = (100 / u16::try_from(order.len()).unwrap_or(u16::MAX).max(1)).max(1);
    for &(label, port) in order {
        let Some(target) = target(label) else { continue };
        let data = Rdata::Srv { weight, port, target: target.wire() };
        if !writer.record(Section::Answer, owner, Type::SRV, context.settings.ttl, data) {
            break;
        }
    }
}

/// Writes the SOA record by which a negative answer is kept (RFC 2308).
pub(super) fn negative(writer: &mut Writer<'_>, context: Context<'_>, apex: &[u8]) {
    soa(writer, Section::Authority, Owner::Name(apex), context);
}

fn soa(writer: &mut Writer<'_>, section: Section, owner: Owner<'_>, context: Context<'_>) -> bool {
    let domain = context.zone.domain().wire();
    let (Some(mname), Some(rname)) =
        (NameBuffer::join(&[b"\x02ns\x03dns", domain]), NameBuffer::join(&[b"\x0ahostmaster", domain]))
    else {
        return false;
    };
    let ttl = context.settings.ttl;
    let numbers = [context.zone.serial(), 7200, 1800, 86400, ttl];
    let data = Rdata::Soa { mname: mname.wire(), rname: rname.wire(), numbers };
    writer.record(section, owner, Type::SOA, ttl, data)
}
