//! `warren ipam`: not built in yet.

use std::process::ExitCode;

/// Arguments of `warren ipam`.
#[derive(Debug, clap::Args)]
pub(crate) struct IpamArgs {}

/// Runs the command.
pub(crate) fn run(_args: IpamArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("warren ipam is not built in yet")
}
