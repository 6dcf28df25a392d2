//! What the processes of a lab say to each other, and `--output json`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;
use warren_types::{NamedPort, Protocol};

/// A request to a lab, over its control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verb")]
pub enum Request {
    /// Nodes, pods, services: [`LabStatus`].
    Status,
    /// Starts a pod: [`PodStatus`].
    Run {
        /// Its name.
        name: String,
        /// Its node.
        node: String,
        /// Its labels.
        labels: BTreeMap<String, String>,
        /// Its namespace, which has to exist for its Pod object to be shown.
        #[serde(default = "default_namespace")]
        namespace: String,
        /// Ports of its node that lead to it.
        host_ports: Vec<HostPort>,
        /// Its ports that have names.
        #[serde(default)]
        ports: Vec<ContainerPort>,
        /// Its program; empty for the echo server.
        command: Vec<String>,
    },
    /// Removes a pod.
    Rm {
        /// Its name.
        name: String,
    },
    /// Cuts a node's power, or kills one of its processes.
    Kill {
        /// The node.
        node: String,
        /// The one service to kill; none for the whole node.
        process: Option<Service>,
    },
    /// Boots a node that was killed, and starts its pods again.
    Start {
        /// The node.
        node: String,
    },
    /// Stops a service until it is started again.
    Service {
        /// The node.
        node: String,
        /// What to do.
        action: ServiceAction,
        /// With which service.
        service: Service,
    },
    /// One more node: its [`NodeStatus`].
    NodeAdd,
    /// Removes a node for good, its Node object too.
    NodeRemove {
        /// The node.
        node: String,
    },
    /// Gives a node another address on its switch: its [`NodeStatus`].
    Readdress {
        /// The node.
        node: String,
    },
    /// Cuts two nodes apart at the switch.
    Partition {
        /// One.
        a: String,
        /// The other.
        b: String,
    },
    /// Joins all nodes that were cut apart.
    Heal,
    /// The connectivity check: [`CheckReport`].
    Check {
        /// How long one probe may take.
        timeout_ms: u64,
    },
    /// A kubeconfig that works on the host.
    Kubeconfig,
    /// Where a node, a pod, a router, the switch or the outside is: its namespaces.
    Target {
        /// Its name.
        name: String,
    },
}

/// A service of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// `warren server`.
    Server,
    /// `warren agent`.
    Agent,
    /// The echo server on the node's own addresses.
    Echo,
}

impl Service {
    /// Its name.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Service::Server => "server",
            Service::Agent => "agent",
            Service::Echo => "echo",
        }
    }
}

/// What to do with a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceAction {
    /// Stop it, until it is started.
    Stop,
    /// Start it.
    Start,
}

/// A line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// What is being done now.
    Progress(String),
    /// The result; the last line.
    Done(Value),
    /// Why there is no result; the last line.
    Failed(String),
}

/// A lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabStatus {
    /// Its name.
    pub name: String,
    /// `lan`, `nat` or `sites`.
    pub topology: crate::Topology,
    /// `v4`, `v6` or `dual`.
    pub families: crate::Families,
    /// Process id, as the host counts, of the lab's first process; its network namespace is the switch.
    pub switch_pid: i32,
    /// TCP port on the host's loopback that leads to the lab's API.
    pub api_port: u16,
    /// The nodes.
    pub nodes: Vec<NodeStatus>,
    /// Their pods.
    pub pods: Vec<PodStatus>,
    /// Pairs of nodes that are cut apart.
    pub partitions: Vec<(String, String)>,
    /// The outside host's addresses.
    pub outside: Vec<IpAddr>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Process id, as the host counts, of its first process; none while it is off.
    pub pid: Option<i32>,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// What the switch sees of it; another than `addresses` behind a masquerading router.
    pub switch_addresses: Vec<IpAddr>,
    /// Its services; empty while it is off.
    pub services: Vec<ServiceStatus>,
}

/// A service of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Which.
    pub name: Service,
    /// Process id, as the node counts; none while it does not run.
    pub pid: Option<i32>,
    /// Whether it is to run.
    pub wanted: bool,
    /// How often it was started.
    pub starts: u64,
    /// How it ended the last time; empty when it never did.
    pub last_exit: String,
}

/// State of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodState {
    /// Its program runs.
    Running,
    /// Its program ended; its namespaces and addresses are still there.
    Exited,
    /// Its node is off, or it could not be started again.
    Dead,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStatus {
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: String,
    /// Process id, as the host counts, of its first process; none when there is none.
    pub pid: Option<i32>,
    /// Its addresses, as the CNI plugin gave them.
    pub ips: Vec<IpAddr>,
    /// Its state.
    pub state: PodState,
    /// What there is to say about the state; empty when it runs.
    pub message: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its program; empty for the echo server.
    pub command: Vec<String>,
    /// Its container id, as the CNI plugin heard it.
    pub container_id: String,
}

/// What the connectivity check found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Checks that passed.
    pub passed: usize,
    /// All checks.
    pub total: usize,
    /// Every check.
    pub results: Vec<CheckResult>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    /// From: a pod's or node's name.
    pub source: String,
    /// To: a pod's or node's name, or `outside`.
    pub target: String,
    /// The address asked.
    pub address: IpAddr,
    /// `tcp`, `udp`, `http` or `icmp`.
    pub method: Method,
    /// Whether it passed.
    pub ok: bool,
    /// How long the answer took.
    pub ms: f64,
    /// Why it failed; empty when it passed.
    pub error: String,
}

/// How to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// A line to the echo server over TCP.
    Tcp,
    /// A datagram to the echo server.
    Udp,
    /// A request to the echo server over HTTP.
    Http,
    /// An echo request.
    Icmp,
}

/// A port of a node that leads to a pod, as CNI's capability `portMappings` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// The port of the node.
    pub host_port: u16,
    /// The port of the pod.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The one address of the node that it is on; none: every one.
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

impl FromStr for HostPort {
    type Err = String;

    /// Reads `[ADDRESS:]PORT:PORT[/PROTOCOL]`; an IPv6 address stands in brackets.
    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?} is not [ADDRESS:]PORT:PORT[/tcp|udp|sctp]");
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = protocol.to_lowercase();
        if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
            return Err(form());
        }
        let number = |text: &str| text.parse::<u16>().ok().filter(|n| *n > 0).ok_or_else(form);
        let (front, container_port) = ports.rsplit_once(':').ok_or_else(form)?;
        let (address, host_port) = match front.rsplit_once(':') {
            Some((address, port)) => (Some(address.trim_start_matches('[').trim_end_matches(']')), port),
            None => (None, front),
        };
        let host_ip = address.map(|a| a.parse().map_err(|_| form())).transpose()?;
        Ok(Self { host_port: number(host_port)?, container_port: number(container_port)?, protocol, host_ip })
    }
}

/// A port of a pod that has a name, as `spec.containers[].ports` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// Its name.
    pub name: String,
    /// The port of the pod.
    pub container_port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

impl FromStr for ContainerPort {
    type Err = String;

    /// Reads `NAME=PORT[/PROTOCOL]`.
    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?} is not NAME=PORT[/tcp|udp|sctp]");
        let (name, port) = text.split_once('=').ok_or_else(form)?;
        let (port, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let protocol = Protocol::from_name(protocol).ok_or_else(form)?.to_string();
        let container_port = port.parse().ok().filter(|n| *n > 0).ok_or_else(form)?;
        if !NamedPort::is_name(name) {
            return Err(format!(
                "{name:?} is no name of a port: at most 15 of a-z, 0-9 and '-', with a letter"
            ));
        }
        Ok(Self { name: name.to_owned(), container_port, protocol })
    }
}

/// The namespace of a pod that is told none.
pub(crate) fn default_namespace() -> String {
    "default".into()
}

/// A pod, as its node is told to run it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodSpec {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) host_ports: Vec<HostPort>,
    pub(crate) ports: Vec<ContainerPort>,
    pub(crate) command: Vec<String>,
}

impl PodSpec {
    /// The k-th sample pod of a node: the echo server.
    pub(crate) fn sample(node: u16, k: u16) -> Self {
        Self {
            name: format!("pod-{node}-{k}"),
            namespace: default_namespace(),
            labels: BTreeMap::from([("app".to_owned(), "sample".to_owned())]),
            host_ports: Vec::new(),
            ports: Vec::new(),
            command: Vec::new(),
        }
    }
}

/// A request to a node's first process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verb")]
pub(crate) enum NodeRequest {
    /// Starts these services.
    Boot {
        services: Vec<ServiceSpec>,
    },
    Service {
        action: ServiceAction,
        service: Service,
    },
    /// Kills a service's process; it is restarted.
    Kill {
        service: Service,
    },
    /// Runs a pod; tries until this time has passed.
    Run {
        pod: PodSpec,
        patience_ms: u64,
    },
    Rm {
        name: String,
    },
    /// Services and pods: [`NodeReport`].
    Report,
    /// Probes from a pod, or from the node itself: a list of [`CheckResult`].
    Probe {
        from: Option<String>,
        order: ProbeOrder,
    },
}

/// A service, as the node is told to run it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServiceSpec {
    pub(crate) name: Service,
    pub(crate) args: Vec<String>,
    pub(crate) log_filter: String,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeReport {
    pub(crate) services: Vec<ServiceStatus>,
    pub(crate) pods: Vec<PodStatus>,
}

/// What the prober is to ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProbeOrder {
    pub(crate) source: String,
    pub(crate) timeout_ms: u64,
    pub(crate) targets: Vec<ProbeTarget>,
}

/// One thing to ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProbeTarget {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    pub(crate) method: Method,
    /// The addresses of which one must be what the target sees; empty: the prober's own address.
    pub(crate) seen_as: Vec<IpAddr>,
}

/// Where a target of `exec` is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Process id, as the host counts.
    pub(crate) pid: i32,
    /// Network namespace, when it is not that of the process.
    pub(crate) netns: Option<String>,
}

/// What a new first process of a node or pod says, once its namespaces are furnished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// Its process id, as the host counts.
    pub(crate) host_pid: i32,
}
