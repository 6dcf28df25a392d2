//! `warren server`: the embedded control plane.

use anyhow::Context as _;
use clap::Args as _;
use clap::parser::ValueSource;
use ipnet::IpNet;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;
use warren_agent::notify::Notifier;
use warren_apiserver::{Limits, NodeLife, Server, ServerConfig, ServerError};
use warren_types::pod_cidr::CidrError;
use warren_types::{HealthCell, defaults, marks};

use crate::failure::UsageError;

/// Arguments of `warren server`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ServerArgs {
    #[command(subcommand)]
    command: Option<crate::backup::BackupCommand>,
    /// Configuration file (YAML), which may be the agent's too; its keys are the names of these flags, but for --token-file
    /// and --print-token, and flags and environment win over it.
    #[arg(long, value_name = "FILE", env = "WARREN_CONFIG")]
    config: Option<PathBuf>,
    /// Where to keep state; the server's is in `server/` below it.
    #[arg(long, value_name = "DIR", env = "WARREN_DATA_DIR", default_value = defaults::DATA_DIR)]
    data_dir: PathBuf,
    /// Print the token that nodes join with, and exit.
    #[arg(long)]
    print_token: bool,
    /// Address to listen on.
    #[arg(long, value_name = "ADDR:PORT", env = "WARREN_LISTEN", default_value_t = SocketAddr::from(([0, 0, 0, 0], defaults::API_PORT)))]
    listen: SocketAddr,
    /// Address that nodes and the kubeconfig use to reach this server [default: loopback, or that of --listen].
    #[arg(long, value_name = "IP", env = "WARREN_ADVERTISE_ADDRESS")]
    advertise_address: Option<IpAddr>,
    /// More names and addresses under which this server is reached; they enter its certificate.
    #[arg(long, value_name = "NAME", env = "WARREN_TLS_SAN", value_delimiter = ',')]
    tls_san: Vec<String>,
    /// Pod network: one range, or an IPv4 and an IPv6 range.
    #[arg(long, value_name = "CIDR", env = "WARREN_CLUSTER_CIDR", value_delimiter = ',', default_value = defaults::CLUSTER_CIDR_V4)]
    cluster_cidr: Vec<IpNet>,
    /// Service network: one range, or an IPv4 and an IPv6 range.
    #[arg(long, value_name = "CIDR", env = "WARREN_SERVICE_CIDR", value_delimiter = ',', default_value = defaults::SERVICE_CIDR_V4)]
    service_cidr: Vec<IpNet>,
    /// Prefix length of a node's IPv4 podCIDR.
    #[arg(long, value_name = "BITS", env = "WARREN_NODE_PREFIX_V4", default_value_t = defaults::NODE_PREFIX_V4)]
    node_prefix_v4: u8,
    /// Prefix length of a node's IPv6 podCIDR.
    #[arg(long, value_name = "BITS", env = "WARREN_NODE_PREFIX_V6", default_value_t = defaults::NODE_PREFIX_V6)]
    node_prefix_v6: u8,
    /// Give podCIDRs to new nodes; else the agents do, as in a Kubernetes whose controller manager does not.
    #[arg(long, value_name = "BOOL", env = "WARREN_ALLOCATE_NODE_CIDRS", default_value_t = true, action = clap::ArgAction::Set)]
    allocate_node_cidrs: bool,
    /// Issue certificates to Ingresses that ask for them; else the agents do that are told to, as in a Kubernetes.
    #[arg(long, value_name = "BOOL", env = "WARREN_ISSUE_CERTIFICATES", default_value_t = true, action = clap::ArgAction::Set)]
    issue_certificates: bool,
    /// Ports of the nodes that Services of type NodePort and LoadBalancer may have.
    #[arg(long, value_name = "FIRST-LAST", env = "WARREN_SERVICE_NODE_PORT_RANGE", default_value = "30000-32767", value_parser = port_range)]
    service_node_port_range: std::ops::RangeInclusive<u16>,
    /// Serve Ingresses that name no class, too: the class `warren` becomes the default.
    #[arg(long, env = "WARREN_DEFAULT_INGRESS_CLASS")]
    default_ingress_class: bool,
    /// File with the secret that nodes join with [default: one is made].
    #[arg(long, value_name = "FILE", env = "WARREN_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Where to write the administrator's kubeconfig (mode 0600).
    #[arg(
        long,
        value_name = "FILE",
        env = "WARREN_WRITE_KUBECONFIG",
        default_value = "/etc/warren/kubeconfig"
    )]
    write_kubeconfig: PathBuf,
    /// File for the audit lines, one for every write (mode 0600) [default: they are in the log].
    #[arg(long, value_name = "FILE", env = "WARREN_AUDIT_LOG")]
    audit_log: Option<PathBuf>,
}

impl ServerArgs {
    /// Whether this runs the server, and does not ask something of it.
    pub(crate) fn is_daemon(&self) -> bool {
        self.command.is_none() && !self.print_token
    }
}

/// Flags that are no keys of the configuration file: the token there is the agent's.
const NOT_IN_FILE: [&str; 3] = ["config", "token-file", "print-token"];

/// The flags of `warren server` that are also keys of the configuration file, with their keys.
pub(crate) fn keys(server: &clap::Command) -> impl Iterator<Item = (&str, &clap::Arg)> {
    let all = server.get_arguments().filter(|arg| !arg.is_global_set());
    all.filter_map(|arg| Some((arg.get_long()?, arg)))
        .filter(|(key, _)| !NOT_IN_FILE.contains(key) && !["help", "version"].contains(key))
}

/// The words of the command line, and those that the configuration file of a server adds: only where a file is named, and
/// of its keys only those that neither a flag nor a variable says. A line that is no valid one is left as it is.
pub(crate) fn with_file(tree: &clap::Command, mut words: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    let Ok(matches) = tree.clone().try_get_matches_from(&words) else { return Ok(words) };
    let Some(("server", said)) = matches.subcommand() else { return Ok(words) };
    let Some(path) = said.get_one::<PathBuf>("config").filter(|_| said.subcommand().is_none()) else {
        return Ok(words);
    };
    let Some(serde_json::Value::Object(file)) = crate::agent::read_file(Some(path))? else {
        return Ok(words);
    };
    for (key, arg) in keys(&ServerArgs::augment_args(clap::Command::new("server"))) {
        let Some(value) = file.get(key) else { continue };
        let source = said.value_source(arg.get_id().as_str());
        if matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            continue;
        }
        let text = |value: &serde_json::Value| match value {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let texts: Vec<String> = match value {
            serde_json::Value::Array(items) => items.iter().map(text).collect(),
            other => vec![text(other)],
        };
        match arg.get_action().takes_values() {
            true => words.push(format!("--{key}={}", texts.join(",")).into()),
            false if texts == ["true"] => words.push(format!("--{key}").into()),
            false => {}
        }
    }
    Ok(words)
}

/// Runs the command.
pub(crate) fn run(args: ServerArgs) -> anyhow::Result<ExitCode> {
    if let Some(command) = args.command {
        return crate::backup::run(command);
    }
    if args.print_token {
        let token = warren_apiserver::node_token(&args.data_dir)?;
        crate::output::line(token.expose());
        return Ok(ExitCode::SUCCESS);
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(serve(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: ServerArgs) -> anyhow::Result<()> {
    let host_routes = host_routes().await.context("read the routes of this host")?;
    let config = ServerConfig {
        data_dir: args.data_dir,
        listen: args.listen,
        advertise_address: args.advertise_address,
        tls_sans: args.tls_san,
        cluster_cidrs: args.cluster_cidr,
        service_cidrs: args.service_cidr,
        node_prefix_v4: args.node_prefix_v4,
        node_prefix_v6: args.node_prefix_v6,
        allocate_node_cidrs: args.allocate_node_cidrs,
        issue_certificates: args.issue_certificates,
        node_ports: args.service_node_port_range,
        token_file: args.token_file,
        kubeconfig: Some(args.write_kubeconfig),
        host_routes,
        audit_log: args.audit_log,
        certificate_life: warren_apiserver::CERTIFICATE_LIFE,
        limits: Limits::default(),
        default_ingress_class: args.default_ingress_class,
        node_life: NodeLife::default(),
    };
    let stop = CancellationToken::new();
    let server = Server::open(config).await.map_err(classify)?;
    Notifier::from_environment().say("READY=1");
    let mut signals = Signals::new().context("listen for signals")?;
    let mut running = std::pin::pin!(server.run(HealthCell::default(), stop.clone()));
    tokio::select! {
        ended = running.as_mut() => return Ok(ended?),
        name = signals.next() => tracing::info!(signal = name, "stopping"),
    }
    stop.cancel();
    Ok(running.await?)
}

fn port_range(text: &str) -> Result<std::ops::RangeInclusive<u16>, String> {
    let parsed = text.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    match parsed {
        Some((first, last)) if first > 0 && first <= last => Ok(first..=last),
        _ => Err("give the first and the last port, such as 30000-32767".into()),
    }
}

/// Faults of the configuration exit with the code of usage errors.
fn classify(error: ServerError) -> anyhow::Error {
    match error {
        ServerError::Cidr(
            e @ (CidrError::Empty { .. }
            | CidrError::SameFamily { .. }
            | CidrError::Unusable { .. }
            | CidrError::Prefix { .. }
            | CidrError::Overlap { .. }
            | CidrError::Routed { .. }),
        ) => anyhow::Error::new(UsageError(e.to_string())),
        e @ ServerError::Token { .. } => anyhow::Error::new(UsageError(e.to_string())),
        e => e.into(),
    }
}

/// Prefixes that this host reaches, but for default routes and what Warren itself has put there.
async fn host_routes() -> anyhow::Result<Vec<IpNet>> {
    let netlink = warren_netlink::Netlink::current()?;
    let ours = |link: &str| link.starts_with(marks::LINK_PREFIX);
    let routes = netlink.list_routes(None).await?;
    Ok(routes
        .into_iter()
        .filter(|r| r.protocol != marks::ROUTE_PROTOCOL && r.dst.prefix_len() > 0)
        .filter(|r| !matches!(&r.target, warren_netlink::RouteTarget::Link { link, .. } if ours(link)))
        .map(|r| r.dst)
        .collect())
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(subcommand)]
        _command: Verb,
    }
    #[derive(clap::Subcommand)]
    enum Verb {
        Server(Box<ServerArgs>),
    }

    #[test]
    fn a_file_says_what_flags_do_not() {
        use clap::CommandFactory as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        let yaml = "advertise-address: 10.0.0.1\nlisten: 10.0.0.1:1\ntls-san: [a, b]\ntoken-file: /x\nnode-name: n\n\
                    default-ingress-class: true\n";
        std::fs::write(&path, yaml).unwrap();
        let all = |line: &str| -> Vec<String> {
            let words = line.split(' ').map(OsString::from).collect();
            let words = with_file(&Only::command(), words).unwrap();
            words.into_iter().map(|w| w.into_string().unwrap()).collect()
        };
        let line = format!("x server --config {} --listen 0.0.0.0:2", path.display());
        let words = all(&line);
        assert_eq!(&words[6..], ["--advertise-address=10.0.0.1", "--tls-san=a,b", "--default-ingress-class"]);
        assert!(Only::try_parse_from(&words).is_ok());
        assert_eq!(all("x server --wrong"), ["x", "server", "--wrong"]);
        assert_eq!(all("x server").len(), 2);
    }
}
