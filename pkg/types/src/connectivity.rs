//! A run of `warren connectivity`: what the command wants of the nodes, and what each of them found.
//!
//! Both are in one ConfigMap, [`CONFIG_MAP_NAME`] beside that of the cluster's ranges: the command writes [`RUN_KEY`], each
//! agent the key of its own node ([`answer_key`]). The command makes it and takes it away again.

use crate::{NodeName, is_default};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The ConfigMap of a run, in [`crate::cluster::CONFIG_MAP_NAMESPACE`].
pub const CONFIG_MAP_NAME: &str = "warren-connectivity";
/// Its data key with the [`ConnectivityRun`], as JSON.
pub const RUN_KEY: &str = "run";
/// Namespace of the pods, Services and policies of a run.
pub const NAMESPACE: &str = "warren-connectivity";
/// Label of a run's pods: `ask` or `answer`.
pub const LABEL_ROLE: &str = "warren.dev/connectivity";
/// Label of a run's pods: the number of their node in the run.
pub const LABEL_NODE: &str = "warren.dev/connectivity-node";
/// Most nodes of a run: all answers have to fit one ConfigMap.
pub const MOST_NODES: usize = 16;

/// The ConfigMap's data key with the answer of a node, as JSON.
#[must_use]
pub fn answer_key(node: &NodeName) -> String {
    format!("node.{node}")
}

/// The pod of the node with this number that asks.
#[must_use]
pub fn asker(number: usize) -> String {
    format!("ask-{number}")
}

/// The pod of the node with this number that answers; also the name of the Service that leads to it.
#[must_use]
pub fn answerer(number: usize) -> String {
    format!("answer-{number}")
}

/// The host of the Ingress that leads to the pod which answers on the node with this number.
#[must_use]
pub fn ingress_host(number: usize) -> String {
    format!("{}.{NAMESPACE}.internal", answerer(number))
}

/// How far a run is. Each step begins when the one before has been answered by all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RunPhase {
    /// Who is there?
    Hello,
    /// Attach two pods: one that asks, and one that answers.
    Attach,
    /// Ask everybody, in every way.
    Ask,
    /// Ask again: now a NetworkPolicy allows one port, and denies another.
    Policy,
}

/// What is wanted of the nodes. Table `connectivity_run`, at most one row, written by `source` from the ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectivityRun {
    /// Tells runs apart.
    pub id: String,
    /// How far it is.
    pub phase: RunPhase,
    /// How long one question may take, in milliseconds.
    pub timeout_ms: u64,
    /// A name outside of the cluster that is asked for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub outside: Option<String>,
    /// The nodes that take part, and where they are asked. Their order numbers them.
    pub targets: BTreeMap<NodeName, ConnectivityTarget>,
}

/// Where a node is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectivityTarget {
    /// Addresses of its pod that answers; none before it is attached.
    #[serde(skip_serializing_if = "is_default")]
    pub pod: Vec<IpAddr>,
    /// ClusterIPs of the Service that leads to it.
    #[serde(skip_serializing_if = "is_default")]
    pub service: Vec<IpAddr>,
    /// The node's own addresses.
    #[serde(skip_serializing_if = "is_default")]
    pub node: Vec<IpAddr>,
    /// The node port of the Service.
    #[serde(skip_serializing_if = "is_default")]
    pub node_port: Option<u16>,
    /// The port on which the node serves Ingresses.
    #[serde(skip_serializing_if = "is_default")]
    pub ingress_port: Option<u16>,
}

/// What a node found. Table `connectivity_answer`, at most one row, written by `connectivity`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectivityAnswer {
    /// The run.
    pub id: String,
    /// What is answered.
    pub phase: RunPhase,
    /// Why the node cannot go on; empty when it can.
    #[serde(default, skip_serializing_if = "is_default")]
    pub error: String,
    /// Whether the agent makes Pod objects of what is attached; where a kubelet does, nobody makes these.
    #[serde(default, skip_serializing_if = "is_default")]
    pub registers: bool,
    /// The port on which it serves Ingresses; none when it does not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ingress_port: Option<u16>,
    /// Whether outside names are denied here by configuration.
    #[serde(default, skip_serializing_if = "is_default")]
    pub offline: bool,
    /// Addresses of its pod that asks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub asker: Vec<IpAddr>,
    /// Addresses of its pod that answers.
    #[serde(default, skip_serializing_if = "is_default")]
    pub answerer: Vec<IpAddr>,
    /// What was tried.
    #[serde(default, skip_serializing_if = "is_default")]
    pub checks: Vec<Check>,
}

/// What is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CheckKind {
    /// Pod to pod, over TCP.
    Tcp,
    /// Pod to pod, over UDP; its latency is that of the cell.
    Udp,
    /// Pod to the ClusterIP of a Service.
    Service,
    /// Pod to the node port of a Service, at the node's own address.
    NodePort,
    /// Names of the cluster: of the API, or of the Service of a node.
    Dns,
    /// A name outside of the cluster.
    DnsOutside,
    /// HTTP to the node's own address, by an Ingress.
    Ingress,
    /// The largest packet that passes without fragments.
    Mtu,
    /// Packets to another node leave this one encrypted, and never in clear text.
    Encryption,
    /// The port that the policy will deny answers before there is one.
    Open,
    /// What the policy allows passes.
    Allowed,
    /// What the policy denies does not.
    Denied,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// As it should be.
    Held,
    /// Not so.
    Failed,
    /// Not tried.
    NotChecked,
}

/// One check, from the node that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// The node that was asked; none: nobody's in particular.
    #[serde(default, skip_serializing_if = "is_default")]
    pub to: Option<NodeName>,
    /// What.
    pub kind: CheckKind,
    /// The address that was asked.
    #[serde(default, skip_serializing_if = "is_default")]
    pub address: Option<IpAddr>,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it failed or was not tried; empty when it held.
    #[serde(default, skip_serializing_if = "is_default")]
    pub why: String,
    /// Shortest and median round trip, in microseconds, where it was measured.
    #[serde(default, skip_serializing_if = "is_default")]
    pub latency_micros: Option<(u64, u64)>,
    /// Largest packet that passed, in bytes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bytes: Option<u32>,
}
