//! `warren agent`: run a node.

use crate::failure::UsageError;
use anyhow::Context as _;
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use warren_agent::config::{AgentConfig, Facts, Origin, RawConfig, identity_path};
use warren_types::defaults;

/// Arguments of `warren agent`. Each is also a key of the configuration file, and a variable `WARREN_<NAME>`.
///
/// All values are texts here: they are judged together with those of the file, so that every fault is told at once.
#[derive(Debug, Args)]
#[command(next_line_help = false)]
pub(crate) struct AgentArgs {
    /// Configuration file (YAML); its keys are the names of these flags.
    #[arg(long, value_name = "FILE", env = "WARREN_CONFIG")]
    config: Option<PathBuf>,

    /// Kubeconfig of an API that knows this node (k3s, kubeadm, any Kubernetes).
    #[arg(long, value_name = "FILE", env = "WARREN_KUBECONFIG", help_heading = "Cluster")]
    kubeconfig: Option<String>,
    /// `warren server` to join.
    #[arg(long, value_name = "URL", env = "WARREN_SERVER", help_heading = "Cluster")]
    server: Option<String>,
    /// Join token.
    #[arg(
        long,
        value_name = "TOKEN",
        env = "WARREN_TOKEN",
        hide_env_values = true,
        help_heading = "Cluster"
    )]
    token: Option<String>,
    /// File with the join token.
    #[arg(long, value_name = "FILE", env = "WARREN_TOKEN_FILE", help_heading = "Cluster")]
    token_file: Option<String>,
    /// Make and keep this node's Node object: true with --server, false with --kubeconfig.
    #[arg(long, value_name = "BOOL", env = "WARREN_REGISTER_NODE", num_args = 0..=1, default_missing_value = "true",
          help_heading = "Cluster")]
    register_node: Option<String>,

    /// Name of this node [default: the host name].
    #[arg(long, value_name = "NAME", env = "WARREN_NODE_NAME", help_heading = "Node")]
    node_name: Option<String>,
    /// Addresses by which other nodes reach this one [default: the one that reaches the API].
    #[arg(long, value_name = "IP[,IP]", env = "WARREN_NODE_IP", help_heading = "Node")]
    node_ip: Vec<String>,
    /// State that outlives a reboot [default: /var/lib/warren].
    #[arg(long, value_name = "DIR", env = "WARREN_DATA_DIR", help_heading = "Node")]
    data_dir: Option<String>,
    /// Sockets [default: /run/warren].
    #[arg(long, value_name = "DIR", env = "WARREN_RUN_DIR", help_heading = "Node")]
    run_dir: Option<String>,
    /// Where /livez, /readyz and /metrics are served; loopback only [default: 127.0.0.1:9457].
    #[arg(long, value_name = "ADDR:PORT", env = "WARREN_HEALTH_ADDRESS", help_heading = "Node")]
    health_address: Option<String>,

    /// Pod network [default: what the cluster says].
    #[arg(long, value_name = "CIDR[,CIDR]", env = "WARREN_CLUSTER_CIDR", help_heading = "Network")]
    cluster_cidr: Vec<String>,
    /// Service network [default: what the cluster says].
    #[arg(long, value_name = "CIDR[,CIDR]", env = "WARREN_SERVICE_CIDR", help_heading = "Network")]
    service_cidr: Vec<String>,
    /// UDP port of the tunnel [default: 51840].
    #[arg(long, value_name = "PORT", env = "WARREN_TUNNEL_PORT", help_heading = "Network")]
    tunnel_port: Option<String>,
    /// WireGuard of the kernel, or of this program: auto, kernel, userspace [default: auto].
    #[arg(long, value_name = "BACKEND", env = "WARREN_TUNNEL_BACKEND", help_heading = "Network")]
    tunnel_backend: Option<String>,
    /// MTU of pods and tunnel [default: what the path carries].
    #[arg(long, value_name = "BYTES", env = "WARREN_MTU", help_heading = "Network")]
    mtu: Option<String>,
    /// Where runtimes look for CNI configuration [default: /etc/cni/net.d].
    #[arg(long, value_name = "DIR", env = "WARREN_CNI_CONF_DIR", help_heading = "Network")]
    cni_conf_dir: Option<String>,
    /// Where runtimes look for CNI plugins [default: /opt/cni/bin].
    #[arg(long, value_name = "DIR", env = "WARREN_CNI_BIN_DIR", help_heading = "Network")]
    cni_bin_dir: Option<String>,

    /// Translate Services (on), or leave them to another proxy (off) [default: on].
    #[arg(long, value_name = "ON|OFF", env = "WARREN_PROXY", help_heading = "Services")]
    proxy: Option<String>,
    /// Serve node ports on this node's addresses in these ranges [default: its own addresses, as of --node-ip].
    #[arg(
        long = "nodeport-addresses",
        value_name = "CIDR[,CIDR]",
        env = "WARREN_NODEPORT_ADDRESSES",
        help_heading = "Services"
    )]
    nodeport_addresses: Vec<String>,
    /// Where `spec.externalIPs` of Services may come from [default: nowhere].
    #[arg(long, value_name = "CIDR[,CIDR]", env = "WARREN_SERVICE_EXTERNAL_IPS", help_heading = "Services")]
    service_external_ips: Vec<String>,
    /// Where Services of type LoadBalancer get addresses from: nodes, pool, off [default: pool if there is one, else
    /// nodes].
    #[arg(long, value_name = "MODE", env = "WARREN_LOADBALANCER", help_heading = "Services")]
    loadbalancer: Option<String>,
    /// Addresses for Services of type LoadBalancer, announced on the LAN.
    #[arg(
        long,
        value_name = "CIDR|FIRST-LAST[,...]",
        env = "WARREN_LOADBALANCER_POOL",
        help_heading = "Services"
    )]
    loadbalancer_pool: Vec<String>,
    /// Link on which these addresses are announced [default: that of this node's address].
    #[arg(long, value_name = "LINK", env = "WARREN_LOADBALANCER_INTERFACE", help_heading = "Services")]
    loadbalancer_interface: Option<String>,

    /// Enforce NetworkPolicies (on), or leave them to somebody else (off) [default: on].
    #[arg(long, value_name = "ON|OFF", env = "WARREN_NETWORK_POLICY", help_heading = "Network policy")]
    network_policy: Option<String>,
    /// What becomes of pods while their labels or policies are not known: closed, open [default: closed].
    #[arg(long, value_name = "WHAT", env = "WARREN_NETWORK_POLICY_UNKNOWN", help_heading = "Network policy")]
    network_policy_unknown: Option<String>,

    /// Serve Ingresses on this node (on), or leave them to somebody else (off) [default: on]. Nothing listens while there is
    /// no Ingress.
    #[arg(long, value_name = "ON|OFF", env = "WARREN_INGRESS", help_heading = "Ingress")]
    ingress: Option<String>,
    /// Port of HTTP on this node [default: 80].
    #[arg(long, value_name = "PORT", env = "WARREN_INGRESS_HTTP_PORT", help_heading = "Ingress")]
    ingress_http_port: Option<String>,
    /// Port of HTTPS on this node [default: 443].
    #[arg(long, value_name = "PORT", env = "WARREN_INGRESS_HTTPS_PORT", help_heading = "Ingress")]
    ingress_https_port: Option<String>,
    /// Name of the class, where Ingresses name it by the annotation kubernetes.io/ingress.class [default: warren].
    #[arg(long, value_name = "NAME", env = "WARREN_INGRESS_CLASS", help_heading = "Ingress")]
    ingress_class: Option<String>,
    /// Serve only when this node has these labels [default: always].
    #[arg(long, value_name = "KEY[=VALUE][,...]", env = "WARREN_INGRESS_NODES", help_heading = "Ingress")]
    ingress_nodes: Vec<String>,
    /// Serve backends that are Services of type ExternalName (on), or not (off) [default: off].
    #[arg(long, value_name = "ON|OFF", env = "WARREN_INGRESS_EXTERNAL_NAMES", help_heading = "Ingress")]
    ingress_external_names: Option<String>,
    /// Issue certificates to Ingresses that ask for them (on), or not (off); `warren server` does so itself. Needs the rights
    /// that `warren manifests --certificates` gives [default: off].
    #[arg(long, value_name = "ON|OFF", env = "WARREN_INGRESS_CERTIFICATES", help_heading = "Ingress")]
    ingress_certificates: Option<String>,
    /// Peers that may say for whom a request is, such as another proxy in front [default: nobody].
    #[arg(long, value_name = "CIDR[,CIDR]", env = "WARREN_INGRESS_TRUSTED", help_heading = "Ingress")]
    ingress_trusted: Vec<String>,
    /// Peers whose connections begin with a PROXY header [default: nobody].
    #[arg(long, value_name = "CIDR[,CIDR]", env = "WARREN_INGRESS_PROXY_PROTOCOL", help_heading = "Ingress")]
    ingress_proxy_protocol: Vec<String>,
    /// Write a line for each request (common: Common Log Format; json), or none (off) [default: off].
    #[arg(long, value_name = "FORMAT", env = "WARREN_INGRESS_ACCESS_LOG", help_heading = "Ingress")]
    ingress_access_log: Option<String>,
    /// File for these lines (mode 0640), opened anew when it was moved away [default: standard output].
    #[arg(long, value_name = "PATH", env = "WARREN_INGRESS_ACCESS_LOG_FILE", help_heading = "Ingress")]
    ingress_access_log_file: Option<String>,

    /// Serve cluster DNS on this node (on), or leave it to somebody else (off) [default: on].
    #[arg(long, value_name = "ON|OFF", env = "WARREN_DNS", help_heading = "DNS")]
    dns: Option<String>,
    /// Addresses of cluster DNS [default: those of Service kube-system/kube-dns, else the tenth of each range of Services].
    #[arg(long, value_name = "IP[,IP]", env = "WARREN_CLUSTER_DNS", help_heading = "DNS")]
    cluster_dns: Vec<String>,
    /// The cluster's domain [default: cluster.local].
    #[arg(long, value_name = "NAME", env = "WARREN_CLUSTER_DOMAIN", help_heading = "DNS")]
    cluster_domain: Option<String>,
    /// Who is asked for outside names; tls://IP#NAME for DNS over TLS [default: the node's own resolvers].
    #[arg(long, value_name = "IP[:PORT][,...]", env = "WARREN_DNS_UPSTREAM", help_heading = "DNS")]
    dns_upstream: Vec<String>,
    /// A domain with resolvers of its own.
    #[arg(long, value_name = "DOMAIN=IP[,IP]", env = "WARREN_DNS_STUB", help_heading = "DNS")]
    dns_stub: Vec<String>,
    /// A host and its addresses.
    #[arg(long, value_name = "NAME=IP[,IP]", env = "WARREN_DNS_HOST", help_heading = "DNS")]
    dns_host: Vec<String>,
    /// A name that is answered as another, or *.OLD=*.NEW for all below.
    #[arg(long, value_name = "OLD=NEW", env = "WARREN_DNS_REWRITE", help_heading = "DNS")]
    dns_rewrite: Vec<String>,
    /// How long clients may keep the cluster's names, in seconds [default: 5].
    #[arg(long, value_name = "SECONDS", env = "WARREN_DNS_TTL", help_heading = "DNS")]
    dns_ttl: Option<String>,
    /// Which pods' addresses have names: disabled, insecure, verified [default: verified].
    #[arg(long, value_name = "MODE", env = "WARREN_DNS_POD_NAMES", help_heading = "DNS")]
    dns_pod_names: Option<String>,
    /// Walk pods' search paths for them [default: on].
    #[arg(long, value_name = "ON|OFF", env = "WARREN_DNS_SEARCH", help_heading = "DNS")]
    dns_search: Option<String>,
    /// There are no outside names: deny them at once, for sites without a way out.
    #[arg(long, value_name = "BOOL", env = "WARREN_DNS_OFFLINE", num_args = 0..=1, default_missing_value = "true",
          help_heading = "DNS")]
    dns_offline: Option<String>,
    /// Questions that one client may ask in a second; 0 is no limit [default: 100000].
    #[arg(long, value_name = "NUMBER", env = "WARREN_DNS_CLIENT_LIMIT", help_heading = "DNS")]
    dns_client_limit: Option<String>,
}

impl AgentArgs {
    /// Flags and environment, then the file, judged as one.
    fn into_config(self) -> anyhow::Result<AgentConfig> {
        let mut raw = RawConfig::default();
        let file = self.say(&mut raw);
        if let Some(value) = read_file(file.as_deref())? {
            raw.say_file(&value);
        }
        validate(raw)
    }

    /// Says what flags and environment say; returns the configuration file that they name.
    pub(crate) fn say(self, raw: &mut RawConfig) -> Option<PathBuf> {
        let one = |v: Option<String>| v.into_iter().collect::<Vec<_>>();
        for (key, values) in [
            ("kubeconfig", one(self.kubeconfig)),
            ("server", one(self.server)),
            ("token", one(self.token)),
            ("token-file", one(self.token_file)),
            ("register-node", one(self.register_node)),
            ("node-name", one(self.node_name)),
            ("node-ip", self.node_ip),
            ("data-dir", one(self.data_dir)),
            ("run-dir", one(self.run_dir)),
            ("health-address", one(self.health_address)),
            ("cluster-cidr", self.cluster_cidr),
            ("service-cidr", self.service_cidr),
            ("tunnel-port", one(self.tunnel_port)),
            ("tunnel-backend", one(self.tunnel_backend)),
            ("mtu", one(self.mtu)),
            ("cni-conf-dir", one(self.cni_conf_dir)),
            ("cni-bin-dir", one(self.cni_bin_dir)),
            ("proxy", one(self.proxy)),
            ("nodeport-addresses", self.nodeport_addresses),
            ("service-external-ips", self.service_external_ips),
            ("loadbalancer", one(self.loadbalancer)),
            ("loadbalancer-pool", self.loadbalancer_pool),
            ("loadbalancer-interface", one(self.loadbalancer_interface)),
            ("network-policy", one(self.network_policy)),
            ("network-policy-unknown", one(self.network_policy_unknown)),
            ("ingress", one(self.ingress)),
            ("ingress-http-port", one(self.ingress_http_port)),
            ("ingress-https-port", one(self.ingress_https_port)),
            ("ingress-class", one(self.ingress_class)),
            ("ingress-nodes", self.ingress_nodes),
            ("ingress-external-names", one(self.ingress_external_names)),
            ("ingress-certificates", one(self.ingress_certificates)),
            ("ingress-trusted", self.ingress_trusted),
            ("ingress-proxy-protocol", self.ingress_proxy_protocol),
            ("ingress-access-log", one(self.ingress_access_log)),
            ("ingress-access-log-file", one(self.ingress_access_log_file)),
            ("dns", one(self.dns)),
            ("cluster-dns", self.cluster_dns),
            ("cluster-domain", one(self.cluster_domain)),
            ("dns-upstream", self.dns_upstream),
            ("dns-stub", self.dns_stub),
            ("dns-host", self.dns_host),
            ("dns-rewrite", self.dns_rewrite),
            ("dns-ttl", one(self.dns_ttl)),
            ("dns-pod-names", one(self.dns_pod_names)),
            ("dns-search", one(self.dns_search)),
            ("dns-offline", one(self.dns_offline)),
            ("dns-client-limit", one(self.dns_client_limit)),
        ] {
            raw.say(key, Origin::Flag, values);
        }
        self.config
    }
}

/// What of this machine defaults depend on.
pub(crate) fn facts() -> Facts {
    Facts {
        hostname: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default(),
        in_cluster: warren_source::ApiAccess::in_cluster().is_some(),
        has_identity: |dir: &Path| identity_path(dir).exists(),
    }
}

fn validate(raw: RawConfig) -> anyhow::Result<AgentConfig> {
    raw.validate(&facts()).map_err(|faults| UsageError(faults.to_string()).into())
}

/// Judges settings as the agent will.
pub(crate) fn judge(settings: Vec<(String, Vec<String>)>) -> anyhow::Result<()> {
    let mut raw = RawConfig::default();
    settings.into_iter().for_each(|(key, values)| raw.say(&key, Origin::Flag, values));
    validate(raw).map(drop)
}

/// The configuration file; the default one may be missing.
pub(crate) fn read_file(named: Option<&Path>) -> anyhow::Result<Option<serde_json::Value>> {
    let path = named.unwrap_or(Path::new(defaults::CONFIG_FILE));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if named.is_none() && e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(UsageError(format!("configuration file {}: {e}", path.display())).into()),
    };
    if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
        return Ok(None);
    }
    match serde_saphyr::from_str(&text) {
        Ok(value) => Ok(Some(value)),
        Err(e) => Err(UsageError(format!("configuration file {}: {e}", path.display())).into()),
    }
}

/// Runs the agent until SIGTERM or SIGINT.
pub(crate) fn run(args: AgentArgs) -> anyhow::Result<ExitCode> {
    let config = args.into_config()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("agent")
        .build()
        .context("the runtime cannot be started")?;
    let data_dir = config.data_dir.clone();
    let result = runtime.block_on(crate::upgrade::watched(config));
    // Blocking calls that hang must not keep the process: whatever is acknowledged is on disk.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    let failed = result.map_err(|e| match e.hint() {
        Some(hint) => crate::failure::Hinted::new(e.to_string(), hint).into(),
        None => anyhow::Error::new(e),
    })?;
    match failed {
        Some(why) => Err(crate::upgrade::take_back(&data_dir, &why)),
        None => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[derive(clap::Parser)]
    struct Only {
        #[command(flatten)]
        _args: AgentArgs,
    }

    #[test]
    fn flags_keys_and_variables_are_the_same_set() {
        let command = Only::command();
        for key in warren_agent::config::KEYS {
            let arg = command.get_arguments().find(|a| a.get_long() == Some(key));
            let arg = arg.unwrap_or_else(|| panic!("key {key} has no flag"));
            let variable = format!("WARREN_{}", key.to_uppercase().replace('-', "_"));
            assert_eq!(arg.get_env().and_then(|e| e.to_str()), Some(variable.as_str()));
            let many = matches!(arg.get_action(), clap::ArgAction::Append);
            assert_eq!(warren_agent::config::LISTS.contains(key), many, "{key}");
        }
        let flags =
            command.get_arguments().filter(|a| !["config", "help"].contains(&a.get_id().as_str())).count();
        assert_eq!(flags, warren_agent::config::KEYS.len());
    }

    #[test]
    fn a_bad_file_is_a_usage_error() {
        let dir = std::env::temp_dir().join(format!("warren-config-{}", std::process::id()));
        for bad in ["a: [", "a: 1\na: 2\n", "\"x"] {
            std::fs::write(&dir, bad).unwrap();
            let error = read_file(Some(&dir)).unwrap_err();
            assert_eq!(crate::failure::describe(&error).1, crate::failure::EXIT_USAGE, "{bad:?}");
        }
        std::fs::write(&dir, "# nothing\n\n").unwrap();
        assert_eq!(read_file(Some(&dir)).unwrap(), None);
        std::fs::remove_file(&dir).unwrap();
        assert!(read_file(Some(&dir)).is_err(), "a file that was named must exist");
    }
}
