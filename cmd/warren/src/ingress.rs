//! `warren ingress`: which Ingresses this node serves, and what would become of a URL.

use crate::failure::EXIT_FAILURE;
use crate::output;
use crate::status::{Target, print_json, query};
use clap::{Args, Subcommand};
use std::process::ExitCode;
use warren_agent::ingress::{IngressSummary, render_explain, render_list};
use warren_agent::services::Told;
use warren_ingress::explain::Explained;

/// Arguments of `warren ingress`.
#[derive(Debug, Args)]
pub(crate) struct IngressArgs {
    #[command(subcommand)]
    command: IngressCommand,
}

#[derive(Debug, Subcommand)]
enum IngressCommand {
    /// Show the Ingresses and routes of Gateways that are served here, and what is wrong with them.
    List {
        /// Only those of this namespace.
        #[arg(long, short)]
        namespace: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Say which certificate, rule, Service and endpoints would serve a URL, and what happens on the way.
    ///
    /// Exit code 0 when something would serve it, 1 when nothing would.
    #[command(after_help = "Examples:
  warren ingress explain https://shop.example/cart
  warren ingress explain shop.example")]
    Explain {
        /// The URL.
        #[arg(value_name = "URL")]
        url: String,
        #[command(flatten)]
        target: Target,
    },
}

/// Asks the agent and prints.
pub(crate) fn run(args: IngressArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        IngressCommand::List { namespace, target } => {
            let told: Told<Vec<IngressSummary>> = query(&target.socket(), "/ingress")?;
            let mut all = told.answer;
            if let Some(namespace) = namespace {
                all.retain(|ingress| ingress.namespace == namespace);
            }
            match target.json() {
                true => print_json(&all)?,
                false if all.is_empty() => output::text("no Ingress and no route is served here\n"),
                false => output::text(&render_list(&all, output::colour())),
            };
            Ok(ExitCode::SUCCESS)
        }
        IngressCommand::Explain { url, target } => {
            let path = format!("/ingress/explain?url={}", percent(&url));
            let told: Told<Explained> = query(&target.socket(), &path)?;
            match target.json() {
                true => print_json(&told.answer)?,
                false => output::text(&render_explain(&told.answer, output::colour())),
            };
            Ok(if told.answer.served { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURE) })
        }
    }
}

/// A text as the value of a query.
fn percent(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_url_goes_into_a_query() {
        assert_eq!(super::percent("https://a.b/ü?x=1&y"), "https%3A%2F%2Fa.b%2F%C3%BC%3Fx%3D1%26y");
    }
}
