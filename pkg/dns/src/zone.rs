//! What the cluster's names stand for.
//!
//! The zone holds of each object what DNS needs, and finds a name by walking its labels: there is no table of records
//! made beforehand, so a change costs what the changed object costs.
//!
//! Names are those of the Kubernetes DNS specification 1.1. Where it leaves room, they are CoreDNS's: SRV of a bare
//! Service has all its ports, and endpoints of Services with cluster addresses have names too. Other than CoreDNS:
//! - names that only have others below them (`_tcp.web.shop.svc`, `dns`) exist and have no records (RFC 8020);
//! - a namespace exists while it has a Service or a pod;
//! - the address of a pod that is no endpoint has the pod's name;
//! - nodes have their addresses, as `NAME` alone, which a hosts file would give them, and as `NAME.node`;
//! - of addresses outside the cluster's ranges, the nodes' alone have names: whoever may write endpoints could
//!   otherwise name anyone's.

mod explain;
mod lookup;
mod reverse;

pub use explain::Source;
pub(crate) use lookup::{Found, Lookup, Whose};
pub(crate) use reverse::Label;

use crate::wire::{InvalidName, LONGEST, Name};
use ipnet::IpNet;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use warren_types::{
    EndpointSlice, Node, NodeName, Pod, PodKey, Protocol, Service, ServiceKey, ServiceKind, SliceKey,
};

/// What is known of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Knowledge {
    /// Nothing yet: every name of the cluster is answered with SERVFAIL, because that it does not exist is not known.
    #[default]
    Nothing,
    /// What was known last; the source has not been heard in this life.
    Last,
    /// What the source says now.
    Current,
}

/// Labels in wire form without an end, in lower case: `NAME NS` of a Service, `NS`, a node's name.
type Labels = Arc<[u8]>;

/// Who has an address. In the order in which they name it: where several do, the first kind answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Holder {
    /// A Service, by a cluster address.
    Service(Labels),
    /// A node.
    Node(Labels),
    /// A Service, by an endpoint.
    Endpoint(Labels),
    /// A pod of this namespace.
    Pod(Labels),
}

/// A Service and its endpoints. Either may be there without the other.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    service: Option<Kind>,
    slices: Vec<Slice>,
}

/// What a Service is to DNS.
#[derive(Debug)]
pub(crate) enum Kind {
    /// It has addresses of its own.
    Cluster {
        /// `spec.clusterIPs`.
        addresses: Box<[IpAddr]>,
        /// `spec.ports`.
        ports: Box<[Port]>,
        /// `spec.publishNotReadyAddresses`.
        publish_not_ready: bool,
    },
    /// Its endpoints are its addresses.
    Headless {
        /// `spec.publishNotReadyAddresses`.
        publish_not_ready: bool,
    },
    /// It is another name; none where what it has is no name.
    External(Option<Name>),
}

/// A port with its name.
#[derive(Debug)]
pub(crate) struct Port {
    /// Its name in lower case; may be empty.
    pub(crate) name: Box<[u8]>,
    /// The protocol.
    pub(crate) protocol: Protocol,
    /// The number.
    pub(crate) port: u16,
}

#[derive(Debug)]
struct Slice {
    key: Arc<str>,
    ports: Box<[Port]>,
    endpoints: Box<[Endpoint]>,
}

/// An endpoint.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Its address.
    pub(crate) address: IpAddr,
    ready: bool,
    /// Its hostname in lower case.
    pub(crate) hostname: Option<Box<[u8]>>,
}

/// The names of the cluster.
#[derive(Debug)]
pub struct Zone {
    /// The cluster's domain, in lower case.
    domain: Name,
    knowledge: Knowledge,
    /// Counts changes: the serial of the SOA record.
    serial: u32,
    /// Whose reverse names are the cluster's.
    ranges: Vec<IpNet>,
    entries: HashMap<Labels, Entry>,
    /// Of which Service each slice is.
    slices: HashMap<Arc<str>, Labels>,
    /// How many Services and pods each namespace has: it exists while it has any.
    namespaces: HashMap<Labels, u32>,
    pods: HashMap<Box<str>, (Labels, Box<[IpAddr]>)>,
    nodes: HashMap<Labels, Box<[IpAddr]>>,
    /// How many nodes' names end with each of these, below `node`: they exist, without records.
    above_nodes: HashMap<Labels, u32>,
    holders: BTreeSet<(IpAddr, Holder)>,
}

/// The label of a text in wire form. Kubernetes' own names are lower case already.
fn push_label(labels: &mut Vec<u8>, text: &str) {
    labels.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    labels.extend(text.bytes().map(|b| b.to_ascii_lowercase()));
}

fn label(text: &str) -> Vec<u8> {
    let mut label = Vec::with_capacity(1 + text.len());
    push_label(&mut label, text);
    label
}

/// Counts an object that was and now is there, or not, by what it has in common with others.
fn count(counts: &mut HashMap<Labels, u32>, common: &[u8], was: bool, is: bool) {
    match (was, is) {
        (false, true) => *counts.entry(common.into()).or_default() += 1,
        (true, false) => {
            if let Some(count) = counts.get_mut(common) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(common);
                }
            }
        }
        _ => {}
    }
}

fn service_labels(key: &ServiceKey) -> Vec<u8> {
    let mut labels = Vec::with_capacity(2 + key.name.as_str().len() + key.namespace.as_str().len());
    push_label(&mut labels, key.name.as_str());
    push_label(&mut labels, key.namespace.as_str());
    labels
}

fn port(name: &str, protocol: Protocol, port: u16) -> Port {
    Port { name: name.to_ascii_lowercase().into_bytes().into(), protocol, port }
}

impl Kind {
    fn of(service: &Service) -> Self {
        let publish_not_ready = service.publish_not_ready;
        match service.kind {
            ServiceKind::ExternalName => Self::External(service.external_name.as_deref().and_then(external)),
            _ if service.is_headless() => Self::Headless { publish_not_ready },
            _ => Self::Cluster {
                addresses: service.cluster_ips.iter().copied().collect(),
                ports: service.ports.iter().map(|p| port(&p.name, p.protocol, p.port)).collect(),
                publish_not_ready,
            },
        }
    }

    fn addresses(&self) -> &[IpAddr] {
        if let Self::Cluster { addresses, .. } = self { addresses } else { &[] }
    }
}

/// The name that an ExternalName Service stands for. What looks like an address is none: Kubernetes promises no record
/// for it.
fn external(text: &str) -> Option<Name> {
    if text.parse::<IpAddr>().is_ok() {
        return None;
    }
    text.parse().ok()
}

impl Entry {
    /// The Service's kind.
    pub(crate) fn kind(&self) -> Option<&Kind> {
        self.service.as_ref()
    }

    /// The endpoints that DNS shows, each with the ports of its slice. One that moves between slices may come twice.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = (&Endpoint, &[Port])> {
        let all = match self.service {
            Some(Kind::Cluster { publish_not_ready, .. } | Kind::Headless { publish_not_ready }) => {
                Some(publish_not_ready)
            }
            Some(Kind::External(_)) | None => None,
        };
        let shown = self.slices.iter().flat_map(|s| s.endpoints.iter().map(|e| (e, &s.ports[..])));
        shown.filter(move |(e, _)| all.is_some_and(|all| all || e.ready))
    }
}

impl Endpoint {
    fn of(endpoint: &warren_types::Endpoint) -> Self {
        // A hostname that is no label would make names that cannot be written.
        let hostname = endpoint.hostname.as_deref().filter(|h| (1..=63).contains(&h.len()));
        Self {
            address: endpoint.address,
            ready: endpoint.ready,
            hostname: hostname.map(|h| h.to_ascii_lowercase().into_bytes().into()),
        }
    }
}

impl Zone {
    /// A zone of which nothing is known yet.
    ///
    /// # Errors
    /// [`InvalidName`] when `domain` leaves no room for the names below it, or is the root.
    pub fn new(domain: &Name) -> Result<Self, InvalidName> {
        // Each negative answer names `hostmaster` below the domain.
        if !(2..=LONGEST - 11).contains(&domain.wire().len()) {
            return Err(InvalidName::of(domain));
        }
        let lower = Name::from_wire(&domain.wire().to_ascii_lowercase())?;
        Ok(Self {
            domain: lower,
            knowledge: Knowledge::Nothing,
            serial: 0,
            ranges: Vec::new(),
            entries: HashMap::new(),
            slices: HashMap::new(),
            namespaces: HashMap::new(),
            pods: HashMap::new(),
            nodes: HashMap::new(),
            above_nodes: HashMap::new(),
            holders: BTreeSet::new(),
        })
    }

    /// The cluster's domain, in lower case.
    #[must_use]
    pub fn domain(&self) -> &Name {
        &self.domain
    }

    /// How many changes there were; the serial of the SOA record.
    #[must_use]
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// What is known of the cluster.
    #[must_use]
    pub fn knowledge(&self) -> Knowledge {
        self.knowledge
    }

    /// Says what is known of the cluster from now on.
    pub fn set_knowledge(&mut self, knowledge: Knowledge) {
        self.knowledge = knowledge;
    }

    /// Sets the ranges of pods and Services: the reverse names of their addresses are the cluster's, and no others.
    pub fn set_cluster(&mut self, ranges: impl IntoIterator<Item = IpNet>) {
        self.ranges = ranges.into_iter().map(|r| r.trunc()).collect();
        self.changed();
    }

    /// How many Services there are.
    #[must_use]
    pub fn services(&self) -> usize {
        self.entries.values().filter(|e| e.service.is_some()).count()
    }

    /// Whether it has no objects at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
            && self.slices.is_empty()
            && self.namespaces.is_empty()
            && self.pods.is_empty()
            && self.nodes.is_empty()
            && self.above_nodes.is_empty()
            && self.holders.is_empty()
    }

    /// Sets a Service, or takes it away.
    pub fn set_service(&mut self, key: &ServiceKey, service: Option<&Service>) {
        let namespace = label(key.namespace.as_str());
        let labels = self.labels_of(&service_labels(key));
        let entry = self.entries.entry(Arc::clone(&labels)).or_default();
        let new = service.map(Kind::of);
        let old = std::mem::replace(&mut entry.service, new);
        for &address in old.as_ref().map_or(&[][..], Kind::addresses) {
            self.holders.remove(&(address, Holder::Service(Arc::clone(&labels))));
        }
        for &address in entry.service.as_ref().map_or(&[][..], Kind::addresses) {
            self.holders.insert((address, Holder::Service(Arc::clone(&labels))));
        }
        self.drop_empty(&labels);
        count(&mut self.namespaces, &namespace, old.is_some(), service.is_some());
        self.changed();
    }

    /// Sets a slice of endpoints, or takes it away.
    pub fn set_slice(&mut self, key: &SliceKey, slice: Option<&EndpointSlice>) {
        let text: Arc<str> = key.to_string().into();
        let new = slice.map(|s| self.labels_of(&service_labels(&s.service)));
        if let Some((text, labels)) = self.slices.remove_entry(&text) {
            self.remove_slice(&labels, &text);
            self.drop_empty(&labels);
        }
        if let (Some(labels), Some(slice)) = (new, slice) {
            for endpoint in &slice.endpoints {
                self.holders.insert((endpoint.address, Holder::Endpoint(Arc::clone(&labels))));
            }
            self.slices.insert(Arc::clone(&text), Arc::clone(&labels));
            let slices = &mut self.entries.entry(labels).or_default().slices;
            // Most Services have one slice for each family.
            slices.reserve_exact(1);
            slices.push(Slice {
                key: text,
                ports: slice.ports.iter().map(|p| port(&p.name, p.protocol, p.port)).collect(),
                endpoints: slice.endpoints.iter().map(Endpoint::of).collect(),
            });
        }
        self.changed();
    }

    /// Sets a pod, or takes it away. A pod that has ended has no addresses.
    pub fn set_pod(&mut self, key: &PodKey, pod: Option<&Pod>) {
        let namespace = label(key.namespace.as_str());
        let text: Box<str> = key.to_string().into();
        let new = pod.map(|p| {
            let ips = if p.finished { [].into() } else { p.ips.iter().copied().collect::<Box<[IpAddr]>>() };
            let label = self
                .namespaces
                .get_key_value(&namespace[..])
                .map(|(l, _)| Arc::clone(l))
                .unwrap_or_else(|| namespace[..].into());
            (label, ips)
        });
        let old = match &new {
            Some(row) => self.pods.insert(text, row.clone()),
            None => self.pods.remove(&text),
        };
        if let Some((label, ips)) = &old {
            for &ip in ips {
                self.holders.remove(&(ip, Holder::Pod(Arc::clone(label))));
            }
        }
        if let Some((label, ips)) = &new {
            for &ip in ips {
                self.holders.insert((ip, Holder::Pod(Arc::clone(label))));
            }
        }
        count(&mut self.namespaces, &namespace, old.is_some(), new.is_some());
        self.changed();
    }

    /// Sets a node, or takes it away. A node whose name has a label of more than 63 characters has no name in DNS.
    pub fn set_node(&mut self, name: &NodeName, node: Option<&Node>) {
        let Ok(wire) = name.as_str().parse::<Name>() else { return };
        let labels: Labels = wire.wire()[..wire.wire().len() - 1].into();
        let old = match node {
            Some(node) => {
                let addresses = node.internal_ips.iter().copied().collect();
                self.nodes.insert(Arc::clone(&labels), addresses)
            }
            None => self.nodes.remove(&labels),
        };
        let mut rest = &labels[..];
        while let Some((_, above)) =
            rest.split_at_checked(1 + usize::from(rest[0])).filter(|(_, a)| !a.is_empty())
        {
            count(&mut self.above_nodes, above, old.is_some(), node.is_some());
            rest = above;
        }
        for ip in old.unwrap_or_default() {
            self.holders.remove(&(ip, Holder::Node(Arc::clone(&labels))));
        }
        for &ip in node.map_or(&[][..], |n| &n.internal_ips) {
            self.holders.insert((ip, Holder::Node(Arc::clone(&labels))));
        }
        self.changed();
    }

    /// The one copy of a Service's labels that is shared by all that name it.
    fn labels_of(&self, labels: &[u8]) -> Labels {
        self.entries.get_key_value(labels).map_or_else(|| labels.into(), |(shared, _)| Arc::clone(shared))
    }

    /// Takes a slice from its Service, and the addresses that no other slice of the Service has.
    fn remove_slice(&mut self, labels: &Labels, key: &str) {
        let Some(entry) = self.entries.get_mut(labels) else { return };
        let Some(at) = entry.slices.iter().position(|s| *s.key == *key) else { return };
        let gone = entry.slices.remove(at);
        let mut addresses: Vec<IpAddr> = gone.endpoints.iter().map(|e| e.address).collect();
        if !entry.slices.is_empty() {
            addresses.sort_unstable();
            let others = entry.slices.iter().flat_map(|s| s.endpoints.iter());
            let kept: BTreeSet<IpAddr> =
                others.map(|e| e.address).filter(|a| addresses.binary_search(a).is_ok()).collect();
            addresses.retain(|a| !kept.contains(a));
        }
        for address in addresses {
            self.holders.remove(&(address, Holder::Endpoint(Arc::clone(labels))));
        }
    }

    /// Forgets an entry in which nothing is.
    fn drop_empty(&mut self, labels: &Labels) {
        if self.entries.get(labels).is_some_and(|e| e.service.is_none() && e.slices.is_empty()) {
            self.entries.remove(labels);
        }
    }

    fn changed(&mut self) {
        self.serial = self.serial.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests;
