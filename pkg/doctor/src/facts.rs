//! What is known of a node. Everything that may fail to be known says why it is not.

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use warren_agent::status::StatusReport;
use warren_netlink::listeners::Listener;
use warren_netlink::nft::ruleset::AnyTable;
use warren_netlink::{Link, Route};

/// A fact, or why it is not known.
pub(crate) type Known<T> = Result<T, String>;

fn unknown<T>() -> Known<T> {
    Err("nobody has looked".into())
}

/// What the agent of this node is told, as far as checks need it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    /// Whether anybody configured anything: a file, flags, or an identity of an earlier join.
    pub(crate) configured: bool,
    /// What is wrong with the configuration.
    pub(crate) faults: Vec<String>,
    pub(crate) node_name: String,
    pub(crate) node_ips: Vec<IpAddr>,
    pub(crate) data_dir: PathBuf,
    pub(crate) cni_conf_dir: PathBuf,
    pub(crate) cni_bin_dir: PathBuf,
    pub(crate) tunnel_port: u16,
    pub(crate) health_port: u16,
    /// As the cluster, or the configuration, says; empty when neither does.
    pub(crate) cluster_cidrs: Vec<IpNet>,
    pub(crate) service_cidrs: Vec<IpNet>,
    /// Whether Warren serves cluster DNS here, and where.
    pub(crate) dns: Option<Vec<IpAddr>>,
    /// Whether outside names are asked of the node's own resolvers.
    pub(crate) asks_host_resolvers: bool,
    /// Ports of ingress, when Warren serves it.
    pub(crate) ingress: Option<[u16; 2]>,
    /// Whether Warren translates Services.
    pub(crate) proxy: bool,
    /// The link on which addresses of a pool are announced, when there is a pool.
    pub(crate) announces_on: Option<String>,
}

/// A process in this node's network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proc {
    pub(crate) pid: u32,
    /// `comm`.
    pub(crate) name: String,
    pub(crate) args: Vec<String>,
}

/// A listener, and who has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) listener: Listener,
    /// Name and pid for people; empty when nobody that can be seen has it.
    pub(crate) holder: String,
    /// Its name alone.
    pub(crate) name: String,
}

/// A file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: PathBuf,
    pub(crate) mode: u32,
    pub(crate) is_dir: bool,
}

/// A CNI configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CniFile {
    pub(crate) name: String,
    /// Types of its plugins.
    pub(crate) plugins: Vec<String>,
}

/// The directories of CNI.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CniFacts {
    /// What is in the configuration directory, as runtimes sort it.
    pub(crate) files: Vec<CniFile>,
    /// Mode of the plugin, when it is there.
    pub(crate) plugin_mode: Option<u32>,
    /// Whether its bytes are those of the agent that runs, where that can be told.
    pub(crate) plugin_is_agents: Option<bool>,
}

/// A file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) total: u64,
    pub(crate) free: u64,
    pub(crate) read_only: bool,
}

/// The node's resolvers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resolvers {
    /// `nameserver` lines of /etc/resolv.conf.
    pub(crate) named: Vec<IpAddr>,
    /// Search domains there.
    pub(crate) search: Vec<String>,
    /// Whether resolved's own file names anybody.
    pub(crate) behind_stub: bool,
}

/// The API.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ApiFacts {
    /// The Nodes.
    pub(crate) nodes: Vec<ApiNode>,
    /// Our clock less the API's, in seconds.
    pub(crate) skew: Option<i64>,
}

/// A Node as the API tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ApiNode {
    pub(crate) name: String,
    pub(crate) machine_id: String,
}

/// What became of echo requests across a tunnel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TunnelProbe {
    pub(crate) node: String,
    /// The peer's own pod-network address.
    pub(crate) address: Option<IpAddr>,
    /// Whether a small one was answered.
    pub(crate) answered: bool,
    /// The largest packet that was answered, in bytes.
    pub(crate) largest: u32,
    /// MTU of the way to the peer's endpoint, as the kernel knows it.
    pub(crate) underlay_mtu: Option<u32>,
    /// Whether that way is IPv6.
    pub(crate) underlay_v6: bool,
}

/// The agent of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentFacts {
    /// Its status; why it gives none.
    pub(crate) status: Known<StatusReport>,
    /// What its check of addresses found.
    pub(crate) leaks: Known<Vec<String>>,
    /// Its limit of open files.
    pub(crate) open_files: Option<u64>,
}

impl Default for AgentFacts {
    fn default() -> Self {
        Self { status: unknown(), leaks: unknown(), open_files: None }
    }
}

/// Everything known.
#[derive(Debug, Clone)]
pub struct Facts {
    pub(crate) settings: Settings,
    pub(crate) hostname: String,
    pub(crate) kernel_release: String,
    pub(crate) booted_seconds_ago: u64,
    /// By feature: what trying it said.
    pub(crate) features: BTreeMap<&'static str, Known<()>>,
    /// Keys with slashes.
    pub(crate) sysctls: BTreeMap<String, String>,
    pub(crate) links: Known<Vec<Link>>,
    pub(crate) addresses: Vec<(u32, IpNet)>,
    pub(crate) routes: Known<Vec<Route>>,
    pub(crate) wireless: Vec<String>,
    pub(crate) ruleset: Known<Vec<AnyTable>>,
    pub(crate) legacy_tables: Vec<String>,
    pub(crate) processes: Known<Vec<Proc>>,
    pub(crate) held: Known<Vec<Held>>,
    pub(crate) resolvers: Known<Resolvers>,
    pub(crate) agent: AgentFacts,
    pub(crate) api: Known<ApiFacts>,
    pub(crate) tunnels: Known<Vec<TunnelProbe>>,
    /// Seconds since 1970.
    pub(crate) now: i64,
    pub(crate) clock_kept: Known<bool>,
    /// Of this node's client certificate: seconds since 1970 from and to which it counts.
    pub(crate) certificate: Known<(i64, i64)>,
    pub(crate) cni: Known<CniFacts>,
    pub(crate) disk: Known<Disk>,
    /// The data directory, and what is in it.
    pub(crate) data: Known<Vec<Entry>>,
    /// Kilobytes of memory that can be had.
    pub(crate) memory_kib: Known<u64>,
    /// Where containerd looks for CNI configuration: file that says so, directory.
    pub(crate) runtime_conf_dirs: Vec<(PathBuf, PathBuf)>,
    /// Cluster DNS as kubelet gives it to pods: file that says so, addresses.
    pub(crate) kubelet_dns: Option<(PathBuf, Vec<IpAddr>)>,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            hostname: String::new(),
            kernel_release: String::new(),
            booted_seconds_ago: 0,
            features: BTreeMap::new(),
            sysctls: BTreeMap::new(),
            links: unknown(),
            addresses: Vec::new(),
            routes: unknown(),
            wireless: Vec::new(),
            ruleset: unknown(),
            legacy_tables: Vec::new(),
            processes: unknown(),
            held: unknown(),
            resolvers: unknown(),
            agent: AgentFacts::default(),
            api: unknown(),
            tunnels: unknown(),
            now: 0,
            clock_kept: unknown(),
            certificate: unknown(),
            cni: unknown(),
            disk: unknown(),
            data: unknown(),
            memory_kib: unknown(),
            runtime_conf_dirs: Vec::new(),
            kubelet_dns: None,
        }
    }
}

impl Facts {
    /// The node's name, as its agent or its configuration says.
    pub(crate) fn node_name(&self) -> String {
        match self.status() {
            Ok(status) => status.node.name.clone(),
            Err(_) => self.settings.node_name.clone(),
        }
    }

    /// What the agent says; why nothing.
    pub(crate) fn status(&self) -> Result<&StatusReport, String> {
        self.agent.status.as_ref().map_err(Clone::clone)
    }

    /// Whether an agent answers.
    pub(crate) fn runs(&self) -> bool {
        self.status().is_ok()
    }

    /// This node's own addresses: what the agent chose, else what it was given.
    pub(crate) fn own_addresses(&self) -> Vec<IpAddr> {
        match self.status() {
            Ok(status) => status.node.addresses.iter().filter_map(|a| a.parse().ok()).collect(),
            Err(_) => self.settings.node_ips.clone(),
        }
    }

    pub(crate) fn links(&self) -> Result<&[Link], String> {
        self.links.as_deref().map_err(Clone::clone)
    }

    pub(crate) fn link_name(&self, index: u32) -> &str {
        let links = self.links.as_deref().unwrap_or_default();
        links.iter().find(|l| l.index == index).map_or("?", |l| &l.name)
    }

    /// The link that has the address.
    pub(crate) fn link_of(&self, address: IpAddr) -> Option<&str> {
        let (index, _) = self.addresses.iter().find(|(_, net)| net.addr() == address)?;
        Some(self.link_name(*index))
    }

    /// The number in a sysctl.
    pub(crate) fn number(&self, key: &str) -> Option<i64> {
        self.sysctls.get(key)?.trim().parse().ok()
    }

    /// The ranges of pods and of Services.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (&'static str, IpNet)> {
        let pods = self.settings.cluster_cidrs.iter().map(|n| ("pod network", *n));
        pods.chain(self.settings.service_cidrs.iter().map(|n| ("service network", *n)))
    }

    /// Whether pods have addresses of IPv6.
    pub(crate) fn wants_v6(&self) -> bool {
        self.settings.cluster_cidrs.iter().any(|n| n.addr().is_ipv6())
    }

    /// Listeners of somebody else on a port that Warren wants at these addresses; all when there are none.
    pub(crate) fn held_by_others(
        &self,
        protocols: &[u8],
        port: u16,
        addresses: &[IpAddr],
    ) -> Result<Vec<&Held>, String> {
        let held = self.held.as_ref().map_err(Clone::clone)?;
        let ours = |h: &Held| h.name.is_empty() || h.name.starts_with("warren");
        let there = |h: &Held| addresses.is_empty() || addresses.iter().any(|a| h.listener.takes(*a));
        Ok(held
            .iter()
            .filter(|h| protocols.contains(&h.listener.protocol) && h.listener.address.port() == port)
            .filter(|h| there(h) && !ours(h))
            .collect())
    }
}

/// An address and port for people.
pub(crate) fn at(address: SocketAddr) -> String {
    if address.ip().is_unspecified() { format!("port {}", address.port()) } else { address.to_string() }
}
