//! From a name to what it stands for.

use super::reverse::{self, Label, Reverse, read_dashed};
use super::{Entry, Holder, Kind, Knowledge, Labels, Zone};
use crate::answer::PodNames;
use crate::wire::NameBuffer;
use std::net::IpAddr;
use warren_types::Protocol;

/// What a name stands for.
#[derive(Debug)]
pub(crate) enum Found<'z> {
    /// Not the cluster's.
    Outside,
    /// The cluster's, but what there is is not known yet.
    Unknown,
    /// The cluster's, and there is no such name.
    Missing,
    /// It has no records, but names below it may.
    Empty,
    /// The domain itself, or the start of a reverse zone.
    Apex,
    /// `dns-version`.
    Version,
    /// `ns.dns`.
    NameServer,
    /// A Service, with its labels.
    Service(&'z [u8], &'z Entry),
    /// Addresses, and whose they are.
    Addresses(Vec<IpAddr>, Whose<'z>),
    /// A port of a Service: the Service's labels, and the port's name and protocol.
    Port(&'z [u8], &'z Entry, Box<[u8]>, Protocol),
    /// Names of an address, in wire form.
    Names(Vec<NameBuffer>),
}

/// Whose addresses were found.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Whose<'z> {
    /// Endpoints of the Service with these labels.
    Endpoints(&'z [u8]),
    /// A node's.
    Node,
    /// A pod's.
    Pod,
}

/// A name that was looked up.
#[derive(Debug)]
pub(crate) struct Lookup<'z> {
    /// What it stands for.
    pub(crate) found: Found<'z>,
    /// Where in the name the zone's own name begins.
    pub(crate) apex: usize,
}

/// Labels before the domain that matter; names with more do not exist.
const MOST_LABELS: usize = 5;

impl Zone {
    /// Looks up a name in lower case.
    pub(crate) fn find(&self, name: &[u8], pods: PodNames) -> Lookup<'_> {
        let known = |found| if self.knowledge == Knowledge::Nothing { Found::Unknown } else { found };
        if let Some(head) = self.above(name) {
            return Lookup { found: known(self.below(&name[..head], pods)), apex: head };
        }
        if let Some(reverse) = reverse::read(name) {
            return self.reverse(name, reverse, pods);
        }
        // Nodes are known by their bare names too, as hosts files would have them.
        let bare = &name[..name.len() - 1];
        let found = match self.nodes.get(bare) {
            Some(addresses) => known(Found::Addresses(addresses.to_vec(), Whose::Node)),
            // A single label may be a node's.
            None if self.knowledge == Knowledge::Nothing && single(bare) => Found::Unknown,
            None => Found::Outside,
        };
        Lookup { found, apex: 0 }
    }

    /// Whether there is a Service of this name, `service.ns.svc` in the domain, even if it has no records now.
    pub(crate) fn has_service(&self, name: &NameBuffer) -> bool {
        let head = self.above(name.wire()).map(|head| &name.wire()[..head]);
        head.and_then(|h| h.strip_suffix(b"\x03svc")).is_some_and(|labels| self.entries.contains_key(labels))
    }

    /// How much of a name stands before the domain; none when it does not lie there.
    fn above(&self, name: &[u8]) -> Option<usize> {
        let domain = self.domain.wire();
        let split = name.len().checked_sub(domain.len())?;
        if name[split..] != *domain {
            return None;
        }
        let mut at = 0;
        while at < split {
            at += 1 + usize::from(name[at]);
        }
        (at == split).then_some(split)
    }

    /// Looks up what stands before the domain.
    fn below(&self, head: &[u8], pods: PodNames) -> Found<'_> {
        let mut starts = [0usize; MOST_LABELS];
        let (mut count, mut at) = (0, 0);
        while at < head.len() {
            if count < MOST_LABELS {
                starts[count] = at;
            }
            count += 1;
            at += 1 + usize::from(head[at]);
        }
        // The rest of the head from its n-th label from the right on.
        let from = |n: usize| &head[starts[count - n]..];
        if let Some(node) = head.strip_suffix(b"\x04node").filter(|n| !n.is_empty()) {
            return match self.nodes.get(node) {
                Some(addresses) => Found::Addresses(addresses.to_vec(), Whose::Node),
                None if self.above_nodes.contains_key(node) => Found::Empty,
                None => Found::Missing,
            };
        }
        if count > MOST_LABELS {
            return Found::Missing;
        }
        let last = if count == 0 { &[][..] } else { from(1) };
        match (last, count) {
            (b"", _) => Found::Apex,
            (b"\x0bdns-version", 1) => Found::Version,
            (b"\x03dns" | b"\x03svc" | b"\x03pod" | b"\x04node", 1) => Found::Empty,
            (b"\x03dns", 2) if from(2) == b"\x02ns\x03dns" => Found::NameServer,
            (b"\x03svc" | b"\x03pod", 2) => {
                let known = self.namespaces.contains_key(&head[..head.len() - 4]);
                let promised = last == b"\x03pod" && pods == PodNames::Insecure;
                if known || promised { Found::Empty } else { Found::Missing }
            }
            (b"\x03pod", 3) => self.pod(head, pods),
            (b"\x03svc", _) => {
                let Some((labels, entry)) = self.entries.get_key_value(&from(3)[..from(3).len() - 4]) else {
                    return Found::Missing;
                };
                self.of_service(&head[..starts[count - 3]], labels, entry)
            }
            _ => Found::Missing,
        }
    }

    /// Looks up what stands before a Service's labels.
    fn of_service<'z>(&'z self, head: &[u8], labels: &'z [u8], entry: &'z Entry) -> Found<'z> {
        match (entry.kind(), head) {
            // Without endpoints a headless Service has no name (specification, 2.4.1).
            (Some(Kind::Headless { .. }), b"") if entry.endpoints().next().is_none() => Found::Missing,
            (Some(Kind::External(None)) | None, _) => Found::Missing,
            (Some(_), b"") => Found::Service(labels, entry),
            (Some(Kind::External(_)), _) => Found::Missing,
            (Some(_), [_, b'_', ..]) => port(head, labels, entry),
            (Some(_), [length, host @ ..]) if host.len() == usize::from(*length) => {
                let dashed = read_dashed(host);
                let addresses: Vec<IpAddr> = entry
                    .endpoints()
                    .map(|(endpoint, _)| endpoint)
                    .filter(|e| match &e.hostname {
                        Some(hostname) => **hostname == *host,
                        None => Some(e.address) == dashed,
                    })
                    .map(|e| e.address)
                    .collect();
                if addresses.is_empty() {
                    Found::Missing
                } else {
                    Found::Addresses(addresses, Whose::Endpoints(labels))
                }
            }
            _ => Found::Missing,
        }
    }

    /// Looks up `a-b-c-d.ns.pod`.
    fn pod(&self, head: &[u8], pods: PodNames) -> Found<'_> {
        let length = usize::from(head[0]);
        let Some(address) = read_dashed(&head[1..=length]) else { return Found::Missing };
        let exists = match pods {
            PodNames::Disabled => false,
            PodNames::Insecure => true,
            PodNames::Verified => {
                self.namespaces.get_key_value(&head[1 + length..head.len() - 4]).is_some_and(
                    |(namespace, _)| self.holders.contains(&(address, Holder::Pod(namespace.clone()))),
                )
            }
        };
        if exists { Found::Addresses(vec![address], Whose::Pod) } else { Found::Missing }
    }

    /// Looks up a reverse name.
    fn reverse(&self, name: &[u8], said: Reverse, pods: PodNames) -> Lookup<'_> {
        // The bits at which the zone of the widest range begins that holds the address.
        let zone_bits = self
            .ranges
            .iter()
            .filter(|range| range.contains(&said.address))
            .map(|range| range.prefix_len().next_multiple_of(said.step))
            .filter(|&bits| bits <= said.bits)
            .min();
        let full = !said.more && said.bits == if said.address.is_ipv4() { 32 } else { 128 };
        let holders = || {
            let first = (said.address, Holder::Service([].into()));
            self.holders.range(first..).take_while(|(a, _)| *a == said.address).map(|(_, h)| h)
        };
        let Some(zone_bits) = zone_bits else {
            // Of all addresses outside the ranges, the nodes' alone have names here.
            let node = full && holders().any(|h| matches!(h, Holder::Node(_)));
            let names = if node { self.names(said.address, holders(), pods) } else { Vec::new() };
            let found = if names.is_empty() { Found::Outside } else { Found::Names(names) };
            return Lookup { found, apex: 0 };
        };
        let labels = usize::from((said.bits - zone_bits) / said.step);
        let apex = if said.more {
            // Labels that say no address stand before those that do.
            let below: usize = usize::from(zone_bits / said.step) + 2;
            start_of_last(name, below)
        } else {
            start_of_label(name, labels)
        };
        let found = match (full, said.more) {
            _ if self.knowledge == Knowledge::Nothing => Found::Unknown,
            (_, true) => Found::Missing,
            (true, _) => match self.names(said.address, holders(), pods) {
                names if names.is_empty() => Found::Missing,
                names => Found::Names(names),
            },
            _ if labels == 0 => Found::Apex,
            _ => Found::Empty,
        };
        Lookup { found, apex }
    }

    /// The names that the first kind of holder gives an address.
    fn names<'h>(
        &self,
        address: IpAddr,
        holders: impl Iterator<Item = &'h Holder>,
        pods: PodNames,
    ) -> Vec<NameBuffer> {
        let domain = self.domain.wire();
        let mut names: Vec<NameBuffer> = Vec::new();
        let mut of: Option<std::mem::Discriminant<Holder>> = None;
        for holder in holders {
            let kind = std::mem::discriminant(holder);
            if of.is_some_and(|of| of != kind) {
                break;
            }
            let before = names.len();
            match holder {
                Holder::Service(labels) => names.extend(NameBuffer::join(&[labels, b"\x03svc", domain])),
                Holder::Node(labels) => names.extend(NameBuffer::join(&[labels, b"\0"])),
                Holder::Endpoint(labels) => self.endpoint_names(address, labels, &mut names),
                Holder::Pod(_) if pods == PodNames::Disabled => {}
                Holder::Pod(namespace) => {
                    let host = Label::dashed(address);
                    names.extend(NameBuffer::join(&[host.wire(), namespace, b"\x03pod", domain]));
                }
            }
            if names.len() > before {
                of = Some(kind);
            }
        }
        names
    }

    /// The names that the endpoints of a Service give an address.
    fn endpoint_names(&self, address: IpAddr, labels: &Labels, names: &mut Vec<NameBuffer>) {
        let Some(entry) = self.entries.get(labels) else { return };
        let before = names.len();
        for (endpoint, _) in entry.endpoints().filter(|(e, _)| e.address == address) {
            let host = endpoint.host_label();
            if let Some(name) = NameBuffer::join(&[host.wire(), labels, b"\x03svc", self.domain.wire()])
                && names[before..].iter().all(|n| n.wire() != name.wire())
            {
                names.push(name);
            }
        }
    }
}

impl super::Endpoint {
    /// Its label in the names of its Service: its hostname, else its address with dashes.
    pub(crate) fn host_label(&self) -> Label {
        self.hostname.as_deref().map_or_else(|| Label::dashed(self.address), Label::of)
    }
}

/// Looks up `_port._protocol`, or `_protocol` alone.
fn port<'z>(head: &[u8], labels: &'z [u8], entry: &'z Entry) -> Found<'z> {
    let (first, rest) = head.split_at(1 + usize::from(head[0]));
    let (name, protocol) = if rest.is_empty() { (None, first) } else { (Some(&first[2..]), rest) };
    let protocol = match protocol {
        b"\x04_tcp" => Protocol::Tcp,
        b"\x04_udp" => Protocol::Udp,
        b"\x05_sctp" => Protocol::Sctp,
        _ => return Found::Missing,
    };
    // Ports without a name have no name in DNS either.
    let is =
        |p: &super::Port| p.protocol == protocol && !p.name.is_empty() && name.is_none_or(|n| *p.name == *n);
    let exists = match entry.kind() {
        Some(Kind::Cluster { ports, .. }) => ports.iter().any(is),
        _ => entry.endpoints().any(|(_, ports)| ports.iter().any(is)),
    };
    match name {
        _ if !exists => Found::Missing,
        Some(name) => Found::Port(labels, entry, name.into(), protocol),
        None => Found::Empty,
    }
}

/// Whether a name without its end has one label.
fn single(bare: &[u8]) -> bool {
    bare.first().is_some_and(|&length| bare.len() == 1 + usize::from(length))
}

/// Where the label after `n` others begins.
fn start_of_label(name: &[u8], n: usize) -> usize {
    let mut at = 0;
    for _ in 0..n {
        at += 1 + usize::from(name[at]);
    }
    at
}

/// Where the last `n` labels begin, not counting the root's.
fn start_of_last(name: &[u8], n: usize) -> usize {
    let (mut count, mut at) = (0, 0);
    while name[at] > 0 {
        count += 1;
        at += 1 + usize::from(name[at]);
    }
    start_of_label(name, count - n.min(count))
}
