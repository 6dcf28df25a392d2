//! `warren dns-sockets`: the process that keeps the DNS sockets while no agent runs.

use anyhow::Context as _;
use std::path::PathBuf;
use std::process::ExitCode;
use warren_dns::keeper;
use warren_types::defaults;

/// Arguments of `warren dns-sockets`.
#[derive(Debug, clap::Args)]
pub(crate) struct SocketsArgs {
    /// Directory of its socket, pid file and log.
    #[arg(long, value_name = "DIR", env = "WARREN_RUN_DIR", default_value = defaults::RUN_DIR)]
    run_dir: PathBuf,
    /// Be the process, rather than start it and return.
    #[arg(long)]
    foreground: bool,
}

/// Runs the command.
pub(crate) fn sockets(args: SocketsArgs) -> anyhow::Result<ExitCode> {
    let outcome = match args.foreground {
        true => keeper::serve(&args.run_dir),
        false => keeper::launch(&args.run_dir, &"/proc/self/exe".into()),
    };
    outcome.context("the keeper of the DNS sockets")?;
    Ok(ExitCode::SUCCESS)
}
