//! `warren server`: not built in yet.

use std::process::ExitCode;

/// Arguments of `warren server`.
#[derive(Debug, clap::Args)]
pub(crate) struct ServerArgs {}

/// Runs the command.
pub(crate) fn run(_args: ServerArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("warren server is not built in yet")
}
