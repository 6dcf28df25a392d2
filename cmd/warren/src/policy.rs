//! `warren policy`: which network policies are in force on this node, what they make of a connection, and what they deny.

mod follow;
mod question;
#[cfg(test)]
mod tests;

use crate::failure::{EXIT_FAILURE, Hinted, UsageError};
use crate::output;
use crate::status::{Target, print_json};
use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::process::ExitCode;
use warren_agent::client::{AskError, ask, ask_about};
use warren_agent::policy::{Check, DenialView, PolicyDetail, PolicySummary};
use warren_agent::policy::{render_check, render_denials, render_list, render_show};
use warren_agent::services::Told;

/// Arguments of `warren policy`.
#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Show all NetworkPolicies in force: which pods of this node they select, and what they denied here.
    List {
        /// Only those of this namespace.
        #[arg(long, short)]
        namespace: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Show one NetworkPolicy: whom it selects, its rules in words, what it costs in the kernel.
    Show {
        /// The policy: NAME or NAMESPACE/NAME.
        #[arg(value_name = "[NAMESPACE/]NAME")]
        name: String,
        /// Its namespace.
        #[arg(long, short, default_value = "default")]
        namespace: String,
        #[command(flatten)]
        target: Target,
    },
    /// Say whether a connection is allowed, and which policy and rule, or what default, decides at each end.
    ///
    /// Exit code 0 when it is allowed, 1 when it is denied, 2 when the question is about something that is not there.
    Check(CheckArgs),
    /// Show which packets were denied in the last minute: from whom, to whom, by which policies.
    Denials {
        /// Go on, and print what is denied as it happens, until interrupted.
        #[arg(long, short)]
        follow: bool,
        /// Only those from or to pods of this namespace.
        #[arg(long, short)]
        namespace: Option<String>,
        #[command(flatten)]
        target: Target,
    },
}

/// Arguments of `warren policy check`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  warren policy check shop/client shop/db:5432
  warren policy check client svc/web:http
  warren policy check 203.0.113.9 shop/web:443
  warren policy check client [2001:db8::5]:53/udp
  warren policy check client db:5432 --file new-policy.yaml
  warren policy check client db:5432 --delete shop/default-deny")]
struct CheckArgs {
    /// Who sends: a pod, or an address.
    #[arg(value_name = "[NAMESPACE/]POD|ADDRESS")]
    from: String,
    /// To whom: a pod, a Service (each of its endpoints), or an address; and a port by number or name. Without a port, ICMP is
    /// judged. Without a namespace, the sender's is meant.
    #[arg(value_name = "[svc/][NAMESPACE/]NAME|ADDRESS[:PORT[/PROTOCOL]]")]
    to: String,
    /// Answer as if the NetworkPolicies in this file had been applied; `-` is standard input.
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Answer as if this NetworkPolicy had been deleted; may be given again.
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    delete: Vec<String>,
    /// Namespace of names that come without one.
    #[arg(long, short, default_value = "default")]
    namespace: String,
    #[command(flatten)]
    target: Target,
}

/// Asks the agent and prints.
pub(crate) fn run(args: PolicyArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        PolicyCommand::List { namespace, target } => {
            let mut all: Vec<PolicySummary> = told(&target, "/policy")?;
            if let Some(namespace) = namespace {
                all.retain(|policy| policy.namespace == namespace);
            }
            match target.json() {
                true => print_json(&all)?,
                false => output::text(&render_list(&all, output::colour())),
            };
        }
        PolicyCommand::Show { name, namespace, target } => {
            let key = question::policy(&name, &namespace)?;
            let policy: PolicyDetail = told(&target, &format!("/policy/show/{key}"))?;
            match target.json() {
                true => print_json(&policy)?,
                false => output::text(&render_show(&policy, output::colour())),
            };
        }
        PolicyCommand::Check(args) => return check(&args),
        PolicyCommand::Denials { follow: true, namespace, target } => {
            return follow::run(&target, namespace.as_deref());
        }
        PolicyCommand::Denials { follow: false, namespace, target } => {
            let mut all: Vec<DenialView> = told(&target, "/policy/denials")?;
            all.retain(|denial| is_of(denial, namespace.as_deref()));
            match target.json() {
                true => print_json(&all)?,
                false if all.is_empty() => output::text("nothing was denied in the last minute\n"),
                false => output::text(&render_denials(&all, output::colour())),
            };
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let query = question::read(args)?;
    let socket = args.target.socket();
    let answer: Told<Check> = blocking(ask_about(&socket, "/policy/check", &query))?;
    let check = answered(answer);
    match args.target.json() {
        true => print_json(&check)?,
        false => output::text(&render_check(&check, output::colour())),
    };
    Ok(if check.allowed { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURE) })
}

/// Whether a pod of the namespace is at either end.
fn is_of(denial: &DenialView, namespace: Option<&str>) -> bool {
    let Some(namespace) = namespace else { return true };
    let pods = [&denial.source_pod, &denial.destination_pod];
    pods.into_iter().flatten().any(|pod| pod.split_once('/').is_some_and(|(of, _)| of == namespace))
}

fn told<T: DeserializeOwned>(target: &Target, path: &str) -> anyhow::Result<T> {
    Ok(answered(blocking(ask(&target.socket(), path))?))
}

/// The answer; says on stderr when the kernel may not do yet what it says.
fn answered<T>(Told { behind, answer }: Told<T>) -> T {
    if !behind.is_empty() {
        output::stderr(&format!("warning: the kernel may not have this yet: {behind}\n"));
    }
    answer
}

fn blocking<T>(question: impl Future<Output = Result<T, AskError>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(question).map_err(failure)
}

/// What the agent says is not there has been asked for wrongly, and says itself what to do: it must not look like a denial.
fn failure(error: AskError) -> anyhow::Error {
    match error {
        AskError::NotThere(text) => UsageError(text).into(),
        error => Hinted::new(error.to_string(), error.hint()).into(),
    }
}
