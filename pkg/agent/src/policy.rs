//! What the admin socket tells of network policies.

mod check;
mod render;
#[cfg(test)]
mod tests;
mod words;

pub use check::{Check, CheckQuery, End, FlowView, PortAsked, Proposed, SideView};
pub(crate) use render::lines;
pub use render::{render_check, render_denials, render_list, render_show};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use warren_dns::DnsStatus;
use warren_netlink::nft::Nft;
use warren_policy::denials::{self, Denial};
use warren_policy::{Direction, Engine, PolicyId, PolicyStatus};
use warren_store::Store;
use warren_types::{NodeName, PolicyKey, Protocol};

/// The part of `warren status` that is about network policies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyView {
    /// Whether the cluster's policies are known; else what was in the kernel serves.
    pub loaded: bool,
    /// Policies in force.
    pub policies: u64,
    /// Those of them whose objects are gone, while pods of their namespaces are still there.
    pub held: u64,
    /// Those that the kernel refuses: they isolate, and allow nothing.
    pub refused: u64,
    /// Pods of this node that are isolated.
    pub isolated: u64,
    /// Pods of this node of which nothing is known yet.
    pub unknown: u64,
    /// Changes brought to the kernel.
    pub changes: u64,
    /// Microseconds that the last one took, from its row to the kernel's word.
    pub last_change_micros: u64,
    /// How often the kernel was compared as a whole.
    pub comparisons: u64,
    /// How often something had to be mended then.
    pub repairs: u64,
    /// Connections ended because they were no longer allowed.
    pub flows_ended: u64,
    /// Packets denied.
    pub denied_packets: u64,
    /// Packets denied to pods that a policy isolates, by namespace and name; each counts for every such policy.
    pub denied: BTreeMap<String, u64>,
}

/// A line of `warren policy list`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicySummary {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Pods of this node that it selects.
    pub pods: u64,
    /// Rules for what reaches them; none when it does not isolate them there.
    pub ingress_rules: Option<u64>,
    /// Rules for what they send; none when it does not isolate them there.
    pub egress_rules: Option<u64>,
    /// Packets denied to pods of this node that it isolates.
    pub denied: u64,
    /// Whether its object is gone, and it stays for the pods that are there.
    pub held: bool,
    /// Whether the kernel refuses it: it isolates, and allows nothing until it changes.
    pub refused: bool,
}

/// A policy, as `warren policy show` has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyDetail {
    /// What its line in the list says.
    #[serde(flatten)]
    pub summary: PolicySummary,
    /// Which pods of its namespace it selects.
    pub selector: String,
    /// Those of this node.
    pub selected: Vec<String>,
    /// Its rules for what reaches them, in words.
    pub ingress: Option<Vec<String>>,
    /// Its rules for what they send, in words.
    pub egress: Option<Vec<String>>,
    /// Classes of pods that it is part of in the kernel; other policies may be, too.
    pub classes: u64,
    /// Elements of these classes.
    pub elements: u64,
}

/// Denied packets of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DenialView {
    /// Who sent them.
    pub source: String,
    /// The pod that it is, where it is known.
    pub source_pod: Option<String>,
    /// For whom they were.
    pub destination: String,
    /// The pod that it is, where it is known.
    pub destination_pod: Option<String>,
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, or the protocol's number.
    pub protocol: String,
    /// The destination port, of protocols that have ports.
    pub port: Option<u16>,
    /// `egress`: denied to the sender; `ingress`: denied to the receiver.
    pub direction: String,
    /// The policies that isolate the pod there and do not allow this; none: nothing is known of the pod.
    pub policies: Vec<String>,
    /// How many, since the kind was last forgotten: a minute after its last packet.
    pub packets: u64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoPolicyAnswer {
    /// It is off.
    #[error("network policies are left to somebody else on this node (--network-policy=off)")]
    Off,
    /// Nothing to look at.
    #[error("the cluster's policies have not been loaded yet; `warren status` says what is missing")]
    NotLoaded,
    /// The kernel does not say.
    #[error("denied packets cannot be read: {0}; `warren status` says how subsystem policy is")]
    Kernel(#[from] warren_netlink::NetlinkError),
    /// No such policy.
    #[error("there is no NetworkPolicy {0} in force; `warren policy list` names those that are")]
    NoPolicy(String),
    /// No such pod.
    #[error("there is no pod {0}; `warren get pods -A` names all; write NAMESPACE/POD, or give --namespace")]
    NoPod(String),
    /// A pod that has nothing to be judged by.
    #[error("pod {0} has no address {1}; `warren ipam status` on its node says why it has none")]
    NoAddress(String, &'static str),
    /// No such Service.
    #[error(
        "there is no Service {0}; `warren service list` names all; write svc/NAMESPACE/NAME, or give --namespace"
    )]
    NoService(String),
    /// A port that is not there.
    #[error("{of} has no port {port}; {there}")]
    NoPort {
        /// Of what.
        of: String,
        /// The port.
        port: String,
        /// What there is instead.
        there: String,
    },
    /// A Service without endpoints.
    #[error(
        "nothing serves {0}: `warren service show` says why; what a policy makes of its pods can be asked by their names"
    )]
    NoEndpoint(String),
    /// Nothing in common.
    #[error("{from} and {to} have no address of the same family")]
    NoFamily {
        /// Who sends.
        from: String,
        /// To whom.
        to: String,
    },
}

/// Everything that is needed to tell of network policies.
#[derive(Clone)]
pub struct PolicyDesk {
    /// What enforces them; none when it is off.
    pub status: Option<PolicyStatus>,
    /// Cluster DNS, whose addresses are this node's own; none when it is off.
    pub dns: Option<DnsStatus>,
    /// The kernel's table, for denied packets.
    pub nft: Nft,
    /// Nodes, Services and their endpoints.
    pub store: Store,
    /// This node.
    pub node: NodeName,
}

impl PolicyDesk {
    /// For `warren status` and the metrics; none when it is off.
    #[must_use]
    pub fn report(&self) -> Option<PolicyView> {
        let status = self.status.as_ref()?;
        let figures = status.figures();
        let counts = status.look(Engine::counts);
        let of = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let known = counts.unwrap_or_default();
        Some(PolicyView {
            loaded: counts.is_some(),
            policies: of(known.policies),
            held: of(known.held),
            refused: of(known.refused),
            isolated: of(known.isolated),
            unknown: of(known.unknown),
            changes: figures.changes,
            last_change_micros: u64::try_from(figures.last_change.as_micros()).unwrap_or(u64::MAX),
            comparisons: figures.comparisons,
            repairs: figures.repairs,
            flows_ended: figures.flows_ended,
            denied_packets: figures.denied_packets,
            denied: figures.denied.iter().map(|(id, n)| (name_of(id), *n)).collect(),
        })
    }

    /// All policies in force.
    ///
    /// # Errors
    /// When they have not been loaded.
    pub fn list(&self) -> Result<Vec<PolicySummary>, NoPolicyAnswer> {
        let denied = self.status()?.figures().denied;
        self.look(|engine| {
            let all = engine.policies().map(|policy| &policy.id);
            all.filter_map(|id| summary(engine, id, &denied)).collect()
        })
    }

    /// One policy.
    ///
    /// # Errors
    /// When there is none of this name, or none has been loaded.
    pub fn show(&self, namespace: &str, name: &str) -> Result<PolicyDetail, NoPolicyAnswer> {
        let text = format!("{namespace}/{name}");
        let no_policy = || NoPolicyAnswer::NoPolicy(text.clone());
        let id = PolicyId::of(&PolicyKey::parse(&text).ok_or_else(no_policy)?);
        let denied = self.status()?.figures().denied;
        self.look(|engine| {
            let policy = engine.policy(&id)?.clone();
            let cost = engine.cost(&id);
            let words = |direction| {
                let rules = policy.rules(direction)?.iter();
                Some(rules.map(|rule| words::rule(direction, rule, usize::MAX)).collect())
            };
            Some(PolicyDetail {
                summary: summary(engine, &id, &denied)?,
                selector: words::pods(&policy.subjects),
                selected: engine.selected_pods(&id).iter().map(ToString::to_string).collect(),
                ingress: words(Direction::Ingress),
                egress: words(Direction::Egress),
                classes: cost.classes as u64,
                elements: cost.elements as u64,
            })
        })?
        .ok_or_else(no_policy)
    }

    /// The kinds of packets that were denied in the last minute.
    ///
    /// # Errors
    /// When the kernel does not say, or policies have not been loaded.
    pub async fn denials(&self) -> Result<Vec<DenialView>, NoPolicyAnswer> {
        let status = self.status()?;
        self.look(|_| ())?;
        let kinds = denials::read(&self.nft).await?;
        let told = kinds.iter().filter_map(|(kind, packets)| denials::explain(status, kind, *packets));
        Ok(told.map(denial).collect())
    }

    fn status(&self) -> Result<&PolicyStatus, NoPolicyAnswer> {
        self.status.as_ref().ok_or(NoPolicyAnswer::Off)
    }

    fn look<T>(&self, look: impl FnOnce(&Engine) -> T) -> Result<T, NoPolicyAnswer> {
        self.status()?.look(look).ok_or(NoPolicyAnswer::NotLoaded)
    }
}

/// `NAMESPACE/NAME`, or the name of a policy of the cluster.
fn name_of(id: &PolicyId) -> String {
    id.namespace.as_ref().map_or_else(|| id.name.to_string(), |namespace| format!("{namespace}/{}", id.name))
}

fn summary(engine: &Engine, id: &PolicyId, denied: &BTreeMap<PolicyId, u64>) -> Option<PolicySummary> {
    let policy = engine.policy(id)?;
    let rules = |direction| policy.rules(direction).map(|rules| rules.len() as u64);
    Some(PolicySummary {
        namespace: id.namespace.as_ref().map(ToString::to_string).unwrap_or_default(),
        name: id.name.to_string(),
        pods: engine.selected_pods(id).len() as u64,
        ingress_rules: rules(Direction::Ingress),
        egress_rules: rules(Direction::Egress),
        denied: denied.get(id).copied().unwrap_or_default(),
        held: engine.is_held(id),
        refused: engine.is_refused(id),
    })
}

fn denial(denial: Denial) -> DenialView {
    let flow = denial.flow;
    let (protocol, has_ports) = protocol(flow.protocol);
    DenialView {
        source: flow.source.to_string(),
        source_pod: denial.source.as_ref().map(ToString::to_string),
        destination: flow.destination.to_string(),
        destination_pod: denial.destination.as_ref().map(ToString::to_string),
        protocol,
        port: has_ports.then_some(flow.port),
        direction: denial.direction.to_string(),
        policies: denial.policies.iter().map(name_of).collect(),
        packets: denial.packets,
    }
}

/// What a protocol is called, and whether it has ports.
fn protocol(number: u8) -> (String, bool) {
    match (Protocol::from_number(number), number) {
        (Some(protocol), _) => (protocol.to_string(), true),
        (None, 1 | 58) => ("ICMP".into(), false),
        (None, number) => (format!("protocol {number}"), false),
    }
}

/// `address:port`, or the address.
fn socket(address: IpAddr, port: Option<u16>) -> String {
    match port {
        Some(port) => std::net::SocketAddr::new(address, port).to_string(),
        None => address.to_string(),
    }
}
