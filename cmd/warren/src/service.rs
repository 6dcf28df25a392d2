//! `warren service` and `warren explain`: what this node does with packets to Services, and why.

use crate::failure::UsageError;
use crate::output;
use crate::status::{Target, print_json, query};
use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;
use std::net::IpAddr;
use std::process::ExitCode;
use warren_agent::services::{Told, render_explanation, render_list, render_show};
use warren_proxy::explain::{Explanation, Outcome};
use warren_proxy::view::{ServiceSummary, ServiceView};
use warren_types::{Namespace, PodName, Protocol, ServiceName};

/// Arguments of `warren service`.
#[derive(Debug, Args)]
pub(crate) struct ServiceArgs {
    #[command(subcommand)]
    command: ServiceCommand,
}

#[derive(Debug, Subcommand)]
enum ServiceCommand {
    /// Show all Services, with their endpoints and new connections by this node.
    List {
        /// Only those of this namespace.
        #[arg(long, short)]
        namespace: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Show one Service: where packets arrive, where this node sends them, and why not elsewhere.
    Show {
        /// The Service: NAME or NAMESPACE/NAME.
        #[arg(value_name = "[NAMESPACE/]NAME")]
        name: String,
        /// Its namespace.
        #[arg(long, short, default_value = "default")]
        namespace: String,
        #[command(flatten)]
        target: Target,
    },
}

/// Arguments of `warren explain`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  warren explain client svc/web:80
  warren explain shop/client svc/db/postgres:5432
  warren explain node svc/web:http
  warren explain outside:203.0.113.9 svc/web:80")]
pub(crate) struct ExplainArgs {
    /// Who sends: a pod of this node, `node` for the node itself, or `outside:ADDRESS` for a host outside of the cluster.
    #[arg(value_name = "[NAMESPACE/]POD")]
    from: String,
    /// To which Service: its name, and a port by number or name, such as `80`, `53/udp`, `http`. Without a namespace, the
    /// pod's is meant.
    #[arg(value_name = "svc/[NAMESPACE/]NAME:PORT[/PROTOCOL]")]
    to: String,
    /// To which of its addresses [default: its cluster addresses; from outside all others].
    #[arg(long, value_name = "ADDRESS")]
    via: Option<IpAddr>,
    /// Namespace of names that come without one.
    #[arg(long, short, default_value = "default")]
    namespace: String,
    #[command(flatten)]
    target: Target,
}

/// Asks the agent and prints.
pub(crate) fn run(args: ServiceArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        ServiceCommand::List { namespace, target } => {
            let mut all: Vec<ServiceSummary> = told(&target, "/services")?;
            if let Some(namespace) = namespace {
                all.retain(|service| service.namespace == namespace);
            }
            if target.json() {
                print_json(&all)?;
            } else {
                output::text(&render_list(&all, output::colour()));
            }
        }
        ServiceCommand::Show { name, namespace, target } => {
            let service = service(&name, &namespace)?;
            let view: ServiceView = told(&target, &format!("/services/{service}"))?;
            if target.json() {
                print_json(&view)?;
            } else {
                output::text(&render_show(&view, output::colour()));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the agent and prints. Exit code 1 when the packet comes to no endpoint.
pub(crate) fn explain(args: ExplainArgs) -> anyhow::Result<ExitCode> {
    let (path, target) = (path(&args)?, args.target);
    let answer: Explanation = told(&target, &path)?;
    if target.json() {
        print_json(&answer)?;
    } else {
        output::text(&render_explanation(&answer, output::colour()));
    }
    let delivered = answer.paths.iter().any(|path| path.outcome == Outcome::Delivered);
    Ok(if delivered { ExitCode::SUCCESS } else { ExitCode::from(crate::failure::EXIT_FAILURE) })
}

/// Asks, and says on stderr when the kernel may not do yet what the answer says.
fn told<T: DeserializeOwned>(target: &Target, path: &str) -> anyhow::Result<T> {
    let Told { behind, answer } = query(&target.socket(), path)?;
    if !behind.is_empty() {
        output::stderr(&format!("warning: the kernel may not have this yet: {behind}\n"));
    }
    Ok(answer)
}

/// The question, as the agent takes it. Every part is checked here: it becomes part of a request.
fn path(args: &ExplainArgs) -> anyhow::Result<String> {
    let (from, namespace) = sender(&args.from, &args.namespace)?;
    let wrong = || {
        UsageError(format!("{:?} is no Service and port, such as svc/web:80 or svc/shop/web:http", args.to))
    };
    let (name, port) = args.to.strip_prefix("svc/").and_then(|to| to.rsplit_once(':')).ok_or_else(wrong)?;
    let known = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let (number, protocol) = port.split_once('/').map_or((port, None), |(n, p)| (n, Some(p)));
    let is_port = (1..=63).contains(&number.len()) && number.chars().all(known);
    if !is_port || protocol.is_some_and(|protocol| Protocol::from_name(protocol).is_none()) {
        return Err(wrong().into());
    }
    let service = service(name, &namespace)?;
    let mut path = format!("/explain?from={from}&service={service}&port={port}");
    if let Some(at) = args.via {
        path.push_str(&format!("&at={at}"));
    }
    Ok(path)
}

/// The sender, and the namespace that a Service without one is in.
fn sender(text: &str, namespace: &str) -> anyhow::Result<(String, String)> {
    if text == "node" {
        return Ok((text.into(), namespace.into()));
    }
    if let Some(address) = text.strip_prefix("outside:") {
        let address: IpAddr = address.parse().map_err(|_| {
            UsageError(format!("{address:?} is no address; write outside:203.0.113.9, for example"))
        })?;
        return Ok((format!("outside:{address}"), namespace.into()));
    }
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    let fault = |e: warren_types::InvalidName| UsageError(e.to_string());
    let (namespace, name) = (Namespace::new(namespace).map_err(fault)?, PodName::new(name).map_err(fault)?);
    Ok((format!("{namespace}/{name}"), namespace.to_string()))
}

/// `NAMESPACE/NAME` from that, or from a name alone.
fn service(text: &str, namespace: &str) -> anyhow::Result<String> {
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    let fault = |e: warren_types::InvalidName| UsageError(e.to_string());
    let (namespace, name) =
        (Namespace::new(namespace).map_err(fault)?, ServiceName::new(name).map_err(fault)?);
    Ok(format!("{namespace}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Only {
        #[command(flatten)]
        args: ExplainArgs,
    }

    fn asked(words: &[&str]) -> anyhow::Result<String> {
        path(&Only::parse_from(["x"].iter().chain(words)).args)
    }

    #[test]
    fn a_question_names_its_parts_in_full() {
        for (words, asks) in [
            (&["a", "svc/web:80"][..], "/explain?from=default/a&service=default/web&port=80"),
            (&["-n", "s", "a", "svc/web:80"], "/explain?from=s/a&service=s/web&port=80"),
            (&["s/a", "svc/web:http"], "/explain?from=s/a&service=s/web&port=http"),
            (&["a", "svc/dns:53/udp"], "/explain?from=default/a&service=default/dns&port=53/udp"),
            (&["s/a", "svc/t/web:1"], "/explain?from=s/a&service=t/web&port=1"),
            (
                &["node", "svc/web:1", "--via", "fd00::1"],
                "/explain?from=node&service=default/web&port=1&at=fd00::1",
            ),
            (&["outside:fd00::9", "svc/web:1"], "/explain?from=outside:fd00::9&service=default/web&port=1"),
        ] {
            assert_eq!(asked(words).unwrap(), asks);
        }
    }

    #[test]
    fn what_is_no_question_is_a_usage_error() {
        for words in [
            ["a", "web:80"],
            ["a", "svc/web"],
            ["a", "svc/web:"],
            ["a", "svc/web:8&from=b"],
            ["a", "svc/a/b/c:80"],
            ["a", "svc/web:80/icmp"],
            ["A", "svc/web:80"],
            ["outside:here", "svc/web:80"],
            ["a?", "svc/web:80"],
        ] {
            let error = asked(&words).unwrap_err();
            assert_eq!(crate::failure::describe(&error).1, crate::failure::EXIT_USAGE, "{words:?}");
        }
    }
}
