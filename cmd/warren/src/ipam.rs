//! `warren ipam`: the addresses of this node's pods.

use crate::output;
use crate::status::{Target, print_json, query};
use clap::{Args, Subcommand};
use std::process::ExitCode;
use warren_agent::status::{CheckReport, IpamReport, render_ipam};

/// Arguments of `warren ipam`.
#[derive(Debug, Args)]
pub(crate) struct IpamArgs {
    #[command(subcommand)]
    command: IpamCommand,
}

#[derive(Debug, Subcommand)]
enum IpamCommand {
    /// Show pools and attachments.
    Status(Target),
    /// Look for leases, links and routes that disagree; exit code 1 when there are any.
    Check(Target),
}

/// Asks the agent and prints.
pub(crate) fn run(args: IpamArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        IpamCommand::Status(target) => {
            let report: IpamReport = query(&target.socket(), "/ipam")?;
            if target.json() {
                print_json(&report)?;
            } else {
                output::text(&render_ipam(&report, output::colour()));
            }
            Ok(ExitCode::SUCCESS)
        }
        IpamCommand::Check(target) => {
            let report: CheckReport = query(&target.socket(), "/ipam/check")?;
            if target.json() {
                print_json(&report)?;
            } else if report.findings.is_empty() {
                output::line("leases and kernel agree");
            } else {
                for finding in &report.findings {
                    output::line(finding);
                }
            }
            let clean = report.findings.is_empty();
            Ok(if clean { ExitCode::SUCCESS } else { ExitCode::from(crate::failure::EXIT_FAILURE) })
        }
    }
}
