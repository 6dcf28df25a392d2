//! `warren dns-sockets` and `warren ingress-sockets`: the processes that keep listening sockets while no agent runs.

use anyhow::Context as _;
use std::path::PathBuf;
use std::process::ExitCode;
use warren_netlink::keeper::Process;
use warren_types::defaults;

/// Arguments of all of them.
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
pub(crate) fn run(process: Process, args: SocketsArgs) -> anyhow::Result<ExitCode> {
    let outcome = match args.foreground {
        true => process.serve(&args.run_dir),
        false => process.launch(&args.run_dir, &"/proc/self/exe".into()),
    };
    outcome.with_context(|| format!("the process {}", process.name()))?;
    Ok(ExitCode::SUCCESS)
}
