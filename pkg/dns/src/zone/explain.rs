//! Which object a name comes from, for people.

use super::{Found, Kind, Whose, Zone};
use crate::answer::PodNames;
use crate::wire::{Name, NameBuffer};
use std::fmt;

/// Where the answer to a name comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Not of the cluster: an upstream server answers.
    Upstream,
    /// Of the cluster, of which nothing is known yet: SERVFAIL.
    NothingKnown,
    /// Of the cluster, and there is no such name: NXDOMAIN.
    Missing,
    /// A name that only has others below it: an answer without records.
    Empty,
    /// The cluster's domain itself, and what it says of itself.
    Domain,
    /// The Service `namespace/name`: cluster addresses, endpoints or another name.
    Service {
        /// Namespace and name.
        key: String,
        /// What it has: `cluster addresses`, `ready endpoints` or `external name`.
        what: &'static str,
    },
    /// A port of the Service `namespace/name`.
    Port(String),
    /// Endpoints of the Service `namespace/name`.
    Endpoints(String),
    /// A node.
    Node,
    /// A pod.
    Pod,
    /// An address, which has these names.
    Names(Vec<Name>),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream => f.write_str("not of the cluster; upstream servers are asked"),
            Self::NothingKnown => f.write_str("of the cluster, of which nothing is known yet"),
            Self::Missing => f.write_str("of the cluster, where it does not exist"),
            Self::Empty => f.write_str("only names below it have records"),
            Self::Domain => f.write_str("the cluster's domain"),
            Self::Service { key, what } => write!(f, "Service {key}, by its {what}"),
            Self::Port(key) => write!(f, "a port of Service {key}"),
            Self::Endpoints(key) => write!(f, "endpoints of Service {key}"),
            Self::Node => f.write_str("a node"),
            Self::Pod => f.write_str("a pod"),
            Self::Names(names) => {
                f.write_str("the address of")?;
                names.iter().try_for_each(|name| write!(f, " {name}"))
            }
        }
    }
}

/// `NAME NS` in wire form as `NS/NAME`.
fn key(labels: &[u8]) -> String {
    let (name, rest) = labels.split_at(1 + usize::from(labels.first().copied().unwrap_or(0)));
    let text = |l: &[u8]| String::from_utf8_lossy(l.get(1..).unwrap_or_default()).into_owned();
    format!("{}/{}", text(rest), text(name))
}

impl Zone {
    /// Where the answer to a name comes from.
    #[must_use]
    pub fn explain(&self, name: &Name, pods: PodNames) -> Source {
        match self.find(NameBuffer::lower(name.wire()).wire(), pods).found {
            Found::Outside => Source::Upstream,
            Found::Unknown => Source::NothingKnown,
            Found::Missing => Source::Missing,
            Found::Empty => Source::Empty,
            Found::Apex | Found::Version | Found::NameServer => Source::Domain,
            Found::Service(labels, entry) => Source::Service {
                key: key(labels),
                what: match entry.kind() {
                    Some(Kind::Cluster { .. }) => "cluster addresses",
                    Some(Kind::External(_)) => "external name",
                    Some(Kind::Headless { .. }) | None => "ready endpoints",
                },
            },
            Found::Port(labels, ..) => Source::Port(key(labels)),
            Found::Addresses(_, Whose::Endpoints(labels)) => Source::Endpoints(key(labels)),
            Found::Addresses(_, Whose::Node) => Source::Node,
            Found::Addresses(_, Whose::Pod) => Source::Pod,
            Found::Names(names) => {
                Source::Names(names.iter().filter_map(|n| Name::from_wire(n.wire()).ok()).collect())
            }
        }
    }
}
