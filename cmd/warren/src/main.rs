//! `warren`: one binary for the node agent, the embedded control plane, the lab, and the CNI plugin.
//!
//! Job: look at argv and the environment, hand over to one subcommand, turn its result into an exit code.
//! Exit codes: 0 done; 1 the run failed; 2 usage or configuration. The CNI plugin has its own (CNI specification).
//! A container runtime starts the same file as its plugin: `CNI_COMMAND` in the environment decides, before
//! anything else is set up.

mod agent;
mod api;
mod backup;
mod completion;
mod failure;
mod ipam;
mod lab;
mod logging;
mod objects;
mod output;
mod server;
mod status;
mod token;
mod uninstall;
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
    /// Look at the addresses of this node's pods.
    Ipam(ipam::IpamArgs),
    /// Bring up and take apart whole clusters inside this machine.
    Lab(lab::LabArgs),
    /// Run a userspace WireGuard tunnel (the agent starts this where the kernel has none).
    #[command(hide = true)]
    Wireguard(wireguard::WireguardArgs),
    /// Remove everything that Warren put on this node, and prove it.
    Uninstall(uninstall::UninstallArgs),
    /// Print a shell's completion script.
    Completion(completion::CompletionArgs),
    /// Print the version.
    Version,
}

impl Command {
    /// Daemons log what they do; the other commands print their result and log only trouble.
    fn is_daemon(&self) -> bool {
        match self {
            Command::Server(args) => args.is_daemon(),
            Command::Agent(_) | Command::Wireguard(_) => true,
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
            Command::Ipam(args) => ipam::run(args),
            Command::Lab(args) => lab::run(args),
            Command::Wireguard(args) => wireguard::run(args),
            Command::Uninstall(args) => uninstall::run(args),
            Command::Completion(args) => completion::run(args, Cli::command()),
            Command::Version => {
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
    let cli = match Cli::command().try_get_matches().and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
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
