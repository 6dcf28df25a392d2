//! `warren wireguard`: not built in yet.

use std::process::ExitCode;

/// Arguments of `warren wireguard`.
#[derive(Debug, clap::Args)]
pub(crate) struct WireguardArgs {}

/// Runs the command.
pub(crate) fn run(_args: WireguardArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("warren wireguard is not built in yet")
}
