//! What is asked, and what is answered.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::IpAddr;
use warren_types::{NodeName, Protocol, ServiceKey};

/// A pod, as far as packets from it are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSource {
    /// Namespace and name, for people.
    pub name: String,
    /// Where it runs; none while that is not known.
    pub node: Option<NodeName>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether it shares its node's addresses.
    pub host_network: bool,
}

/// Who sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A pod.
    Pod(PodSource),
    /// A process of this node.
    Node,
    /// A host outside of the cluster, by this node.
    Outside(IpAddr),
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who sends.
    pub source: Source,
    /// To which Service.
    pub service: ServiceKey,
    /// To which of its ports: a number or a name, with a protocol or not: `53`, `53/udp`, `http`.
    pub port: String,
    /// To which of its addresses; none: its cluster addresses, or from outside all others.
    pub at: Option<IpAddr>,
    /// Addresses of other nodes: what comes from outside for these does not come to this one.
    pub others: BTreeSet<IpAddr>,
}

impl Question {
    /// The port as it was asked for, and the protocol where one was.
    pub(super) fn port_and_protocol(&self) -> (&str, Option<Protocol>) {
        let (port, protocol) = self.port.split_once('/').unwrap_or((&self.port, ""));
        (port, Protocol::from_name(protocol))
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// No such Service.
    #[error("there is no Service {0}")]
    NoService(ServiceKey),
    /// No such port.
    #[error("Service {service} has no port {port}; it has {ports}")]
    NoPort {
        /// The Service.
        service: ServiceKey,
        /// What was asked for.
        port: String,
        /// What it has.
        ports: String,
    },
    /// The Service does not have the address.
    #[error("Service {service} has no address {address}; `warren service show {service}` names them all")]
    NoAddress {
        /// The Service.
        service: ServiceKey,
        /// What was asked for.
        address: IpAddr,
    },
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Explanation {
    /// Who sends.
    pub from: String,
    /// To what.
    pub to: String,
    /// One for each address and port that may be meant.
    pub paths: Vec<Path>,
}

/// What happens to packets to one address and port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Path {
    /// Where the packet goes, as it is sent.
    pub destination: String,
    /// What happens, in order.
    pub steps: Vec<Step>,
    /// How it ends.
    pub outcome: Outcome,
    /// The end in words.
    pub end: String,
    /// What to do, where something is to be done.
    pub advice: Option<String>,
}

/// One step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Step {
    /// What it is about, in one word.
    pub about: String,
    /// What happens.
    pub text: String,
}

/// How it ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It comes to an endpoint.
    Delivered,
    /// It is refused at once.
    Refused,
    /// It is dropped.
    Dropped,
    /// Warren does not translate it.
    #[default]
    Untouched,
    /// Another node decides.
    Elsewhere,
}
