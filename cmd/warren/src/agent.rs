//! `warren agent`: not built in yet.

use std::process::ExitCode;

/// Arguments of `warren agent`.
#[derive(Debug, clap::Args)]
pub(crate) struct AgentArgs {}

/// Runs the command.
pub(crate) fn run(_args: AgentArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("warren agent is not built in yet")
}
