//! `warren status`: not built in yet.

use std::process::ExitCode;

/// Arguments of `warren status`.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {}

/// Runs the command.
pub(crate) fn run(_args: StatusArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("warren status is not built in yet")
}
