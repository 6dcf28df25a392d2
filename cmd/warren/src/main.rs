//! `warren`: one binary for the node agent, the embedded control plane, the lab, and the CNI plugin.
//!
//! Job: look at argv and the environment, hand over to one subcommand, turn its result into an exit code.
//! Exit codes: 0 done; 1 the run failed; 2 usage or configuration. The CNI plugin has its own (CNI specification).
//! A container runtime starts the same file as its plugin: `CNI_COMMAND` in the environment decides, before
//! anything else is set up.

mod agent;
mod api;
mod backup;
mod ca;
mod completion;
mod connectivity;
mod dns;
mod doctor;
mod failure;
mod ingress;
mod install;
mod ipam;
mod lab;
mod logging;
mod manifests;
#[cfg(test)]
mod manual;
mod objects;
mod output;
mod policy;
mod server;
mod service;
mod sockets;
mod status;
mod token;
mod uninstall;
mod upgrade;
mod wireguard;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::process::ExitCode;

/// A complete cluster network in one binary: CNI, a WireGuard overlay and IPAM, with or without Kubernetes.
#[derive(Parser)]
#[command(
    name = "warren",
    version,
    max_term_width = 100,
    propagate_version = true,
    disable_help_subcommand = true
)]
#[command(after_help = "Try first: `warren lab up` brings up a three-node cluster inside this machine.")]
struct Cli {
    #[command(flatten)]
    logging: logging::LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node: attach pods, keep the tunnels, write the CNI configuration.
    Agent(Box<agent::AgentArgs>),
    /// Run the embedded control plane: the Kubernetes API that a cluster network needs.
    Server(Box<server::ServerArgs>),
    /// Make, list and revoke the tokens of a server.
    Token(token::TokenArgs),
    /// Make the objects in a file, or change them to what it says.
    Apply(objects::ApplyArgs),
    /// Show objects.
    Get(objects::GetArgs),
    /// Delete objects.
    Delete(objects::DeleteArgs),
    /// Show how this node is: subsystems, nodes, tunnels, addresses, store.
    Status(status::StatusArgs),
    /// Look for what keeps, or would keep, Warren from working on this node, and say what to do.
    Doctor(Box<doctor::DoctorArgs>),
    /// See who reaches whom, in every way and between all nodes, from pods that are made for it.
    Connectivity(connectivity::ConnectivityArgs),
    /// Look at Services: where packets arrive, where this node sends them, and why.
    Service(service::ServiceArgs),
    /// Say step by step what would happen to a packet to a Service, and why.
    Explain(service::ExplainArgs),
    /// Look at cluster DNS: ask as a pod would, and see why it answers so.
    Dns(dns::DnsArgs),
    /// Look at network policies: what they make of a connection, and which packets they denied.
    Policy(policy::PolicyArgs),
    /// Look at Ingresses: which are served here, and what would become of a URL.
    Ingress(ingress::IngressArgs),
    /// Get the certificate of the authority whose certificates ingress shows.
    Ca(ca::CaArgs),
    /// Look at the addresses of this node's pods.
    Ipam(ipam::IpamArgs),
    /// Print the objects that make Warren the network of a Kubernetes cluster, for `kubectl apply -f -`.
    Manifests(Box<manifests::ManifestsArgs>),
    /// Bring up and take apart whole clusters inside this machine.
    Lab(lab::LabArgs),
    /// Run a userspace WireGuard tunnel (the agent starts this where the kernel has none).
    #[command(hide = true)]
    Wireguard(wireguard::WireguardArgs),
    /// Keep the DNS sockets while no agent runs (the agent starts this).
    #[command(hide = true, name = warren_dns::KEEPER.name())]
    DnsSockets(sockets::SocketsArgs),
    /// Keep the ingress sockets while no agent runs (the agent starts this).
    #[command(hide = true, name = warren_ingress::KEEPER.name())]
    IngressSockets(sockets::SocketsArgs),
    /// Install Warren on this machine: program, services, configuration, shell completion.
    Install(install::InstallArgs),
    /// Exchange the program under a running node; it comes back by itself when the node is not as well as before.
    Upgrade(upgrade::UpgradeArgs),
    /// Remove everything that Warren put on this node, and prove it.
    Uninstall(uninstall::UninstallArgs),
    /// Print a shell's completion script.
    Completion(completion::CompletionArgs),
    /// Print the version.
    Version(VersionArgs),
}

/// Arguments of `warren version`.
#[derive(Debug, clap::Args)]
struct VersionArgs {
    /// Form of the output.
    #[arg(long, short, value_enum, default_value = "table")]
    output: status::Output,
}

impl Command {
    /// Daemons log what they do; the other commands print their result and log only trouble.
    fn is_daemon(&self) -> bool {
        match self {
            Command::Server(args) => args.is_daemon(),
            Command::Agent(_)
            | Command::Wireguard(_)
            | Command::DnsSockets(_)
            | Command::IngressSockets(_) => true,
            _ => false,
        }
    }

    fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Command::Agent(args) => agent::run(*args),
            Command::Server(args) => server::run(*args),
            Command::Token(args) => token::run(args),
            Command::Apply(args) => objects::apply(args),
            Command::Get(args) => objects::get(args),
            Command::Delete(args) => objects::delete(args),
            Command::Status(args) => status::run(args),
            Command::Doctor(args) => doctor::run(*args),
            Command::Connectivity(args) => connectivity::run(args),
            Command::Service(args) => service::run(args),
            Command::Explain(args) => service::explain(args),
            Command::Dns(args) => dns::run(args),
            Command::Policy(args) => policy::run(args),
            Command::Ingress(args) => ingress::run(args),
            Command::Ca(args) => ca::run(args),
            Command::Ipam(args) => ipam::run(args),
            Command::Manifests(args) => manifests::run(&args),
            Command::Lab(args) => lab::run(args),
            Command::Wireguard(args) => wireguard::run(args),
            Command::DnsSockets(args) => sockets::run(warren_dns::KEEPER, args),
            Command::IngressSockets(args) => sockets::run(warren_ingress::KEEPER, args),
            Command::Install(args) => install::run(args, &Cli::command()),
            Command::Upgrade(args) => upgrade::run(args),
            Command::Uninstall(args) => uninstall::run(args),
            Command::Completion(args) => completion::run(args, &Cli::command()),
            Command::Version(VersionArgs { output: status::Output::Json }) => {
                status::print_json(&warren_install::upgrade::VersionReport::own())?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Version(_) => {
                output::line(format_args!("warren {}", env!("CARGO_PKG_VERSION")));
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn main() -> ExitCode {
    if std::env::var_os("CNI_COMMAND").is_some() {
        return warren_cni::plugin::main();
    }
    let words = match server::with_file(&Cli::command(), std::env::args_os().collect()) {
        Ok(words) => words,
        Err(error) => return failure::report(&error),
    };
    let cli = match Cli::command().try_get_matches_from(words).and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    if cli.command.is_daemon() {
        warren_netlink::memory::bound_arenas();
    }
    if let Err(error) = cli.logging.init(cli.command.is_daemon()) {
        return failure::report(&error);
    }
    // One process-wide choice of cryptography, before any TLS is spoken; a second install is harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match cli.command.run() {
        Ok(code) => code,
        Err(error) => failure::report(&error),
    }
}

/// Prints what clap has to say: help and version to stdout with 0, faults to stderr with 2.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(failure::EXIT_USAGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server of this process, and a node that joins it: what each says fits what the other expects.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_node_joins_with_a_made_token_and_renews_its_certificate() {
        use warren_source::join::{Identity, JoinToken, join, renew};
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = dir.path().join("kubeconfig");
        let config = warren_apiserver::ServerConfig {
            data_dir: dir.path().to_owned(),
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise_address: None,
            tls_sans: Vec::new(),
            cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
            service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
            node_prefix_v4: 24,
            node_prefix_v6: 64,
            token_file: None,
            kubeconfig: Some(kubeconfig.clone()),
            host_routes: Vec::new(),
            audit_log: None,
            certificate_life: warren_apiserver::CERTIFICATE_LIFE,
            limits: warren_apiserver::Limits::default(),
            allocate_node_cidrs: true,
            issue_certificates: true,
            node_ports: 30_000..=32_767,
            default_ingress_class: false,
            node_life: warren_apiserver::NodeLife::default(),
        };
        let server = warren_apiserver::Server::open(config).await.unwrap();
        let url = format!("https://{}", server.address());
        let stop = tokio_util::sync::CancellationToken::new();
        let mut running = tokio::task::JoinSet::new();
        running.spawn(server.run(warren_types::HealthCell::default(), stop.clone()));

        #[derive(Parser)]
        struct Only {
            #[command(flatten)]
            args: api::ApiArgs,
        }
        let only = Only::parse_from(["x", "--kubeconfig", kubeconfig.to_str().unwrap()]);
        let api = only.args.api().await.unwrap();
        let wanted = br#"{"role": "node", "ttlSeconds": 60}"#.to_vec();
        let made = api.json(http::Method::POST, "/v1-warren/tokens", &[], wanted).await.unwrap();
        let token = JoinToken::parse(made["token"].as_str().unwrap()).unwrap();
        let name = warren_types::NodeName::new("n1").unwrap();
        let identity =
            join(&url, &token, &name, &warren_types::Secret::new("0123456789abcdef")).await.unwrap();
        let identity = Identity::from_kubeconfig(identity.kubeconfig().expose()).unwrap();
        let day = 24 * 3600;
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs()
            .cast_signed();
        let days = identity.seconds_left(now) / day;
        assert!((i64::from(warren_types::defaults::CERTIFICATE_DAYS) - days).abs() <= 1, "{days}");
        assert!(identity.seconds_left(now + 11 * 366 * day) < 0);
        let next = renew(&identity, &name).await.unwrap();
        assert!(
            next.cert_pem != identity.cert_pem
                && next.key_pem != identity.key_pem
                && next.ca_pem == identity.ca_pem
        );
        let again = renew(&next, &name).await.unwrap();
        assert_ne!(again.cert_pem, next.cert_pem);

        let resources = api.resources().await.unwrap();
        let nodes = api::by_word(&resources, "no").unwrap();
        assert_eq!((nodes.kind.as_str(), nodes.namespaced), ("Node", false));
        let missing =
            api.json(http::Method::GET, &nodes.path(None, Some("x")), &[], Vec::new()).await.unwrap_err();
        assert!(api::is_missing(&missing), "{missing:#}");
        stop.cancel();
        running.join_next().await.unwrap().unwrap().unwrap();
    }

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_wrong_flag_is_a_usage_error() {
        let error = Cli::try_parse_from(["warren", "agent", "--no-such-flag"]).err().map(|e| e.exit_code());
        assert_eq!(error, Some(i32::from(failure::EXIT_USAGE)));
    }
}
