//! `warren lab`: not built in yet.

use std::process::ExitCode;

/// Arguments of `warren lab`.
#[derive(Debug, clap::Args)]
pub(crate) struct LabArgs {}

/// Runs the command.
pub(crate) fn run(_args: LabArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("warren lab is not built in yet")
}
