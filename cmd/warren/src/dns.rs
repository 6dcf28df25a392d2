//! `warren dns query`: ask this node's DNS as a pod would, and see why it answers so.

use crate::failure::{EXIT_FAILURE, UsageError};
use crate::output;
use crate::status::{Target, print_json, query};
use clap::{Args, Subcommand};
use std::net::IpAddr;
use std::process::ExitCode;
use warren_agent::dns::render_told;
use warren_dns::ask::Told;
use warren_types::{Namespace, PodName};

/// Arguments of `warren dns`.
#[derive(Debug, Args)]
pub(crate) struct DnsArgs {
    #[command(subcommand)]
    command: DnsCommand,
}

#[derive(Debug, Subcommand)]
enum DnsCommand {
    /// Ask for a name as a pod, or this node, would; and see which names are tried, and where each answer comes from.
    #[command(after_help = "Examples:
  warren dns query web.default.svc.cluster.local
  warren dns query web --from shop/client
  warren dns query _http._tcp.web.default.svc.cluster.local --type SRV
  warren dns query example.org --from client --type AAAA")]
    Query {
        /// The name; with a dot at its end, no search path is walked.
        name: String,
        /// Who asks: a pod, by NAME or NAMESPACE/NAME, or an address [default: this node].
        #[arg(long, value_name = "[NAMESPACE/]POD|ADDRESS")]
        from: Option<String>,
        /// Type of the records: A, AAAA, SRV, PTR, TXT, CNAME, SOA, NS, MX, HTTPS, or a number.
        #[arg(long = "type", short = 't', default_value = "A")]
        rtype: String,
        /// Namespace of a pod that comes without one.
        #[arg(long, short, default_value = "default")]
        namespace: String,
        #[command(flatten)]
        target: Target,
    },
}

/// Asks the agent and prints. Exit code 1 when there are no records.
pub(crate) fn run(args: DnsArgs) -> anyhow::Result<ExitCode> {
    let DnsCommand::Query { name, from, rtype, namespace, target } = args.command;
    let from = from.map(|text| client(&text, &namespace)).transpose()?;
    let path = path(&name, &rtype, from.as_deref())?;
    let told: Told = query(&target.socket(), &path)?;
    if target.json() {
        print_json(&told)?;
    } else {
        output::text(&render_told(&told, output::colour()));
    }
    Ok(if told.answers.is_empty() { ExitCode::from(EXIT_FAILURE) } else { ExitCode::SUCCESS })
}

/// Who asks, as the agent takes it.
fn client(text: &str, namespace: &str) -> anyhow::Result<String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    let fault = |e: warren_types::InvalidName| UsageError(e.to_string());
    Ok(format!("{}/{}", Namespace::new(namespace).map_err(fault)?, PodName::new(name).map_err(fault)?))
}

/// The question, as the agent takes it. Every part is checked here: it becomes part of a request.
fn path(name: &str, rtype: &str, from: Option<&str>) -> anyhow::Result<String> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '*');
    if name.is_empty() || !name.chars().all(known) {
        return Err(UsageError(format!("{name:?} is no name: letters, digits, '-', '_' and '.' are")).into());
    }
    if rtype.is_empty() || !rtype.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(UsageError(format!("{rtype:?} is no type of records, such as A or SRV")).into());
    }
    let from = from.map(|from| format!("&from={from}")).unwrap_or_default();
    Ok(format!("/dns/query?name={name}&type={rtype}{from}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_names_its_parts_in_full() {
        let from = client("web", "shop").unwrap();
        assert_eq!(path("db", "A", Some(&from)).unwrap(), "/dns/query?name=db&type=A&from=shop/web");
        assert_eq!(client("a/b", "shop").unwrap(), "a/b");
        assert_eq!(client("fd00::1", "shop").unwrap(), "fd00::1");
        assert_eq!(path("_x._tcp.db.", "SRV", None).unwrap(), "/dns/query?name=_x._tcp.db.&type=SRV");
    }

    #[test]
    fn what_is_no_question_is_a_usage_error() {
        for (name, rtype) in [("", "A"), ("a&b", "A"), ("a b", "A"), ("a", ""), ("a", "A&x")] {
            assert!(path(name, rtype, None).unwrap_err().is::<UsageError>(), "{name} {rtype}");
        }
        assert!(client("a/B", "shop").unwrap_err().is::<UsageError>());
    }
}
