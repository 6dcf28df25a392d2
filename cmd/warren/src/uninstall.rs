//! `warren uninstall`: not built in yet.

use std::process::ExitCode;

/// Arguments of `warren uninstall`.
#[derive(Debug, clap::Args)]
pub(crate) struct UninstallArgs {}

/// Runs the command.
pub(crate) fn run(_args: UninstallArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("warren uninstall is not built in yet")
}
