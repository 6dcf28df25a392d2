//! The agent's configuration: one set of keys for flags, environment and file; judged as a whole, before anything runs.
//!
//! A key is written `--node-name` on the command line, `WARREN_NODE_NAME` in the environment and `node-name` in the
//! file. Flags win over the environment, the environment over the file. Every fault is found, not just the first.

mod dns;
mod ingress;
mod keys;
mod services;

pub use keys::{KEYS, LISTS, SERVER_KEYS};
pub use services::ServicesConfig;
pub use warren_loadbalancer::Mode;

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use warren_dns::DnsConfig;
use warren_ingress::IngressConfig;
use warren_policy::Unknown;
use warren_types::cidr::overlap;
use warren_types::{Family, NodeName, Secret, defaults};

/// Which implementation of WireGuard is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TunnelBackend {
    /// The kernel's where probing it succeeds, else the userspace process.
    #[default]
    Auto,
    /// The kernel's, or fail.
    Kernel,
    /// The userspace process.
    Userspace,
}

/// Where the API is, and how to become known to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiChoice {
    /// A kubeconfig that someone else wrote.
    Kubeconfig(PathBuf),
    /// The service account of a pod.
    InCluster,
    /// A server to join with a token; the identity is kept in the data directory.
    Join {
        /// URL of the server, `https://host:port`; none: only the identity of an earlier join.
        server: Option<String>,
        /// The token, when there is one.
        token: Option<TokenSource>,
    },
}

/// Where a join token comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// Given as a value.
    Value(Secret),
    /// Read from a file when it is needed: the file may appear later.
    File(PathBuf),
}

/// The whole configuration, valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentConfig {
    /// Where the API is.
    pub api: ApiChoice,
    /// This node's name.
    pub node_name: NodeName,
    /// This node's addresses, when given; at most one a family.
    pub node_ips: Vec<IpAddr>,
    /// State that outlives a reboot.
    pub data_dir: PathBuf,
    /// Sockets.
    pub run_dir: PathBuf,
    /// Pod network; empty: from the cluster.
    pub cluster_cidrs: Vec<IpNet>,
    /// Service network; empty: from the cluster.
    pub service_cidrs: Vec<IpNet>,
    /// Where the conflist goes.
    pub cni_conf_dir: PathBuf,
    /// Where the plugin goes.
    pub cni_bin_dir: PathBuf,
    /// UDP port of the tunnel.
    pub tunnel_port: u16,
    /// Which WireGuard.
    pub tunnel_backend: TunnelBackend,
    /// Whether this agent makes and keeps its Node object.
    pub register_node: bool,
    /// /livez, /readyz, /metrics.
    pub health_address: SocketAddr,
    /// MTU of pods and tunnel; none: from the path.
    pub mtu: Option<u32>,
    /// Services.
    pub services: ServicesConfig,
    /// What becomes of pods of which nothing is known; none when somebody else enforces network policies.
    pub policy: Option<Unknown>,
    /// Ingresses; none when somebody else serves them.
    pub ingress: Option<IngressConfig>,
    /// Whether the agents issue certificates to Ingresses that ask for them.
    pub issue_certificates: bool,
    /// Cluster DNS; none when somebody else serves it.
    pub dns: Option<DnsConfig>,
}

impl AgentConfig {
    /// The agent's own directory of state.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.data_dir.join("agent")
    }
    /// The identity that joining gave this node.
    #[must_use]
    pub fn identity_path(&self) -> PathBuf {
        identity_path(&self.data_dir)
    }
}

/// Where the identity of an earlier join is kept.
#[must_use]
pub fn identity_path(data_dir: &Path) -> PathBuf {
    data_dir.join("agent/kubeconfig")
}

/// Facts of the machine that defaults depend on.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The host name.
    pub hostname: String,
    /// Whether a service account is mounted here.
    pub in_cluster: bool,
    /// Whether a data directory holds the identity of an earlier join.
    pub has_identity: fn(&Path) -> bool,
}

/// Where a value was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// On the command line or in the environment.
    Flag,
    /// In the configuration file.
    File,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key, as it is written where it was said.
    pub key: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

/// Everything that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let many = self.0.len();
        write!(f, "{many} fault{} in the configuration", if many == 1 { "" } else { "s" })?;
        for fault in &self.0 {
            write!(f, "\n  {}: {}", fault.key, fault.reason)?;
        }
        Ok(())
    }
}

/// Values as they were said, not yet judged.
#[derive(Debug, Clone, Default)]
pub struct RawConfig {
    values: BTreeMap<String, (Origin, Vec<String>)>,
    faults: Vec<Fault>,
}

impl RawConfig {
    /// Notes what was said of `key`. What is already there stays: say the strongest origin first. An empty list says
    /// nothing.
    pub fn say(&mut self, key: &str, origin: Origin, values: Vec<String>) {
        if !values.is_empty() {
            self.values.entry(key.to_owned()).or_insert((origin, values));
        }
    }

    /// Notes what a parsed configuration file says. Unknown keys and wrong types become faults.
    pub fn say_file(&mut self, file: &serde_json::Value) {
        let Some(map) = file.as_object() else {
            if !file.is_null() {
                self.fault("(file)", "must be a mapping of keys to values, such as `node-name: a`");
            }
            return;
        };
        for (key, value) in map {
            if SERVER_KEYS.contains(&key.as_str()) {
                continue;
            }
            if !KEYS.contains(&key.as_str()) {
                let near = KEYS
                    .iter()
                    .min_by_key(|k| distance(k, key))
                    .filter(|k| distance(k, key) <= (key.len() / 2).min(3));
                let hint = near.map(|k| format!("; did you mean {k}?")).unwrap_or_default();
                self.fault(key, format!("there is no such key{hint}"));
                continue;
            }
            match texts(value) {
                Some(values) if values.len() <= 1 || LISTS.contains(&key.as_str()) => {
                    self.say(key, Origin::File, values);
                }
                _ => self.fault(
                    key,
                    if LISTS.contains(&key.as_str()) {
                        "must be a text or a list of texts"
                    } else {
                        "must be one value"
                    },
                ),
            }
        }
    }

    fn fault(&mut self, key: &str, reason: impl Into<String>) {
        self.faults.push(Fault { key: key.to_owned(), reason: reason.into() });
    }

    /// How `key` is named to the person who said it.
    fn shown(&self, key: &str) -> String {
        match self.values.get(key) {
            Some((Origin::File, _)) => key.to_owned(),
            _ => format!("--{key}"),
        }
    }

    fn list(&self, key: &str) -> Vec<String> {
        let values = self.values.get(key).map(|(_, v)| v.as_slice()).unwrap_or_default();
        values
            .iter()
            .flat_map(|v| v.split(','))
            .map(str::trim)
            .filter(|v| !v.is_empty())
            .map(str::to_owned)
            .collect()
    }

    fn one(&self, key: &str) -> Option<String> {
        self.values
            .get(key)
            .and_then(|(_, v)| v.last())
            .map(|v| v.trim().to_owned())
            .filter(|v| !v.is_empty())
    }

    fn parse<T>(&mut self, key: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let value = self.one(key)?;
        match read(&value) {
            Ok(v) => Some(v),
            Err(reason) => {
                let shown = self.shown(key);
                self.fault(&shown, reason);
                None
            }
        }
    }

    fn path(&mut self, key: &str, default: &str) -> PathBuf {
        self.parse(key, |v| {
            let path = PathBuf::from(v);
            if path.is_absolute() { Ok(path) } else { Err(format!("{v:?} is not an absolute path")) }
        })
        .unwrap_or_else(|| default.into())
    }

    /// Judges everything at once.
    ///
    /// # Errors
    /// [`Faults`]: all of them.
    pub fn validate(mut self, facts: &Facts) -> Result<AgentConfig, Faults> {
        let node_name = self.node_name(facts);
        let data_dir = self.path("data-dir", defaults::DATA_DIR);
        let api = self.api(facts, &data_dir);
        let joins = matches!(api, Some(ApiChoice::Join { .. }));
        let (cluster_cidrs, service_cidrs) = self.ranges();
        let node = node_name.clone().unwrap_or_else(placeholder);
        let config = AgentConfig {
            node_ips: self.node_ips(),
            run_dir: self.path("run-dir", defaults::RUN_DIR),
            cni_conf_dir: self.path("cni-conf-dir", defaults::CNI_CONF_DIR),
            cni_bin_dir: self.path("cni-bin-dir", defaults::CNI_BIN_DIR),
            tunnel_port: self.parse("tunnel-port", port).unwrap_or(defaults::TUNNEL_PORT),
            tunnel_backend: self.parse("tunnel-backend", backend).unwrap_or_default(),
            register_node: self.parse("register-node", boolean).unwrap_or(joins),
            health_address: self
                .parse("health-address", loopback)
                .unwrap_or_else(|| (std::net::Ipv4Addr::LOCALHOST, defaults::HEALTH_PORT).into()),
            mtu: self.parse("mtu", mtu),
            services: self.services(),
            policy: self.policy(),
            ingress: self.ingress(&node),
            issue_certificates: self.issue_certificates(joins),
            dns: self.dns(),
            api: api.unwrap_or(ApiChoice::InCluster),
            node_name: node,
            data_dir,
            cluster_cidrs,
            service_cidrs,
        };
        if self.faults.is_empty() && node_name.is_some() { Ok(config) } else { Err(Faults(self.faults)) }
    }

    fn policy(&mut self) -> Option<Unknown> {
        let unknown = self.parse("network-policy-unknown", |v| match v {
            "closed" => Ok(Unknown::Closed),
            "open" => Ok(Unknown::Open),
            _ => Err(format!("{v:?} is neither closed nor open")),
        });
        let on = self.parse("network-policy", services::on_off).unwrap_or(true);
        on.then(|| unknown.unwrap_or_default())
    }

    fn node_name(&mut self, facts: &Facts) -> Option<NodeName> {
        if self.one("node-name").is_some() {
            return self.parse("node-name", |v| NodeName::new(v).map_err(|e| e.to_string()));
        }
        match NodeName::new(facts.hostname.trim().to_ascii_lowercase()) {
            Ok(name) => Some(name),
            Err(e) => {
                self.fault(
                    "--node-name",
                    format!("not given, and the host name cannot stand in for it: {e}"),
                );
                None
            }
        }
    }

    fn api(&mut self, facts: &Facts, data_dir: &Path) -> Option<ApiChoice> {
        let (server, kubeconfig) = (self.one("server"), self.one("kubeconfig"));
        let token = match (self.one("token"), self.one("token-file")) {
            (Some(_), Some(_)) => {
                self.fault("--token-file", "give --token or --token-file, not both");
                None
            }
            (Some(t), None) => {
                if let Err(e) = warren_source::join::JoinToken::parse(&t) {
                    self.fault("--token", e.to_string());
                }
                Some(TokenSource::Value(Secret::new(t)))
            }
            (None, Some(_)) => Some(TokenSource::File(self.path("token-file", "/"))),
            (None, None) => None,
        };
        let known = (facts.has_identity)(data_dir);
        match (server, kubeconfig) {
            (Some(_), Some(_)) => {
                self.fault("--kubeconfig", "give --kubeconfig (an API that knows this node) or --server (a server to join), not both");
                None
            }
            (Some(_), None) => {
                let server = self.parse("server", server_url);
                if token.is_none() && !known {
                    self.fault("--token", "joining a server needs --token or --token-file; `warren server` keeps it in DATA_DIR/server/agent-token");
                }
                server.map(|s| ApiChoice::Join { server: Some(s), token })
            }
            (None, Some(_)) => Some(ApiChoice::Kubeconfig(self.path("kubeconfig", "/"))),
            (None, None) if known => Some(ApiChoice::Join { server: None, token }),
            (None, None) if facts.in_cluster => Some(ApiChoice::InCluster),
            (None, None) => {
                self.fault(
                    "--server",
                    "say where the API is: --server URL with --token, or --kubeconfig FILE",
                );
                None
            }
        }
    }

    fn node_ips(&mut self) -> Vec<IpAddr> {
        let mut out: Vec<IpAddr> = Vec::new();
        let shown = self.shown("node-ip");
        for text in self.list("node-ip") {
            match text.parse::<IpAddr>() {
                Ok(ip) if !warren_source::convert::usable(ip) => {
                    self.fault(&shown, format!("{ip} cannot be reached from other nodes: loopback, link-local and multicast are refused"));
                }
                Ok(ip) if out.iter().any(|o| Family::of(*o) == Family::of(ip)) => {
                    self.fault(
                        &shown,
                        format!("{ip} is a second address of its family; give one IPv4 and one IPv6 at most"),
                    );
                }
                Ok(ip) => out.push(ip),
                Err(_) => self.fault(&shown, format!("{text:?} is not an IP address")),
            }
        }
        out
    }

    fn ranges(&mut self) -> (Vec<IpNet>, Vec<IpNet>) {
        let read = |this: &mut Self, key: &str| {
            let shown = this.shown(key);
            let mut out: Vec<IpNet> = Vec::new();
            for text in this.list(key) {
                match text.parse::<IpNet>() {
                    Ok(n) if n.trunc() != n => {
                        this.fault(&shown, format!("{n} has host bits set; did you mean {}?", n.trunc()))
                    }
                    Ok(n) if n.prefix_len() == 0 => this.fault(&shown, format!("{n} is the whole internet")),
                    Ok(n) if out.iter().any(|o| overlap(*o, n)) => {
                        this.fault(&shown, format!("{n} overlaps another range of the list"))
                    }
                    Ok(n) => out.push(n),
                    Err(_) => this.fault(&shown, format!("{text:?} is not a prefix such as 10.42.0.0/16")),
                }
            }
            out
        };
        let (cluster, service) = (read(self, "cluster-cidr"), read(self, "service-cidr"));
        let shown = self.shown("service-cidr");
        for (c, s) in cluster.iter().flat_map(|c| service.iter().map(move |s| (*c, *s))) {
            if overlap(c, s) {
                self.fault(&shown, format!("{s} overlaps the pod network {c}"));
            }
        }
        (cluster, service)
    }
}

/// Stands in for a name that was refused; never leaves [`RawConfig::validate`].
fn placeholder() -> NodeName {
    #[expect(clippy::expect_used, reason = "a constant that the type accepts")]
    NodeName::new("invalid").expect("a valid constant")
}

fn texts(value: &serde_json::Value) -> Option<Vec<String>> {
    use serde_json::Value;
    match value {
        Value::Null => Some(Vec::new()),
        Value::String(s) => Some(vec![s.clone()]),
        Value::Bool(b) => Some(vec![b.to_string()]),
        Value::Number(n) => Some(vec![n.to_string()]),
        Value::Array(items) => {
            let flat: Option<Vec<Vec<String>>> =
                items.iter().map(|i| if i.is_array() { None } else { texts(i) }).collect();
            Some(flat?.into_iter().flatten().collect())
        }
        Value::Object(_) => None,
    }
}

fn port(v: &str) -> Result<u16, String> {
    v.parse().ok().filter(|p| *p != 0).ok_or_else(|| format!("{v:?} is not a port (1 to 65535)"))
}

fn boolean(v: &str) -> Result<bool, String> {
    v.parse().map_err(|_| format!("{v:?} is neither true nor false"))
}

fn mtu(v: &str) -> Result<u32, String> {
    v.parse()
        .ok()
        .filter(|m| (1280..=65000).contains(m))
        .ok_or_else(|| format!("{v:?} is not an MTU (1280 to 65000)"))
}

fn backend(v: &str) -> Result<TunnelBackend, String> {
    match v {
        "auto" => Ok(TunnelBackend::Auto),
        "kernel" => Ok(TunnelBackend::Kernel),
        "userspace" => Ok(TunnelBackend::Userspace),
        _ => Err(format!("{v:?} is none of auto, kernel, userspace")),
    }
}

fn loopback(v: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = v.parse().map_err(|_| format!("{v:?} is not address:port"))?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err(format!("{address} is not on loopback; metrics and health are served to this machine only"))
    }
}

/// `https://host:port`; a bare host, and a missing port, are completed.
fn server_url(v: &str) -> Result<String, String> {
    let rest = match v.split_once("://") {
        Some(("https", rest)) => rest,
        Some(_) => return Err(format!("{v:?} must begin with https://")),
        None => v,
    };
    let host = rest.trim_end_matches('/');
    let odd =
        host.is_empty() || host.chars().any(|c| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '@'));
    if odd {
        return Err(format!("{v:?} is not a URL such as https://192.0.2.1:6443"));
    }
    if let Ok(v6) = host.parse::<std::net::Ipv6Addr>() {
        return Ok(format!("https://[{v6}]:{}", defaults::API_PORT));
    }
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(before, p)| !p.contains(']') && (!before.contains(':') || before.ends_with(']')));
    let url = match host.rsplit_once(':') {
        Some((_, p)) if has_port => port(p).map(|_| format!("https://{host}"))?,
        _ => format!("https://{host}:{}", defaults::API_PORT),
    };
    // Said now, not when joining has been tried for a while.
    warren_source::join::server_url(&url).map_err(|e| e.to_string())
}

/// How many single-letter edits lie between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(64).enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for j in 1..row.len() {
            let next = (before + usize::from(ca != b[j - 1])).min(row[j] + 1).min(row[j - 1] + 1);
            before = std::mem::replace(&mut row[j], next);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests;
