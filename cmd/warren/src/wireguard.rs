//! `warren wireguard`: a userspace WireGuard tunnel, in a process of its own.

use anyhow::Context as _;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use warren_overlay::process::{self, ProcessArgs};
use warren_types::{IfName, defaults};

/// Arguments of `warren wireguard`.
#[derive(Debug, clap::Args)]
pub(crate) struct WireguardArgs {
    /// Name of the link to make.
    #[arg(value_name = "IF")]
    link: IfName,
    /// MTU of the link.
    #[arg(long, value_name = "BYTES", default_value_t = 1420, value_parser = clap::value_parser!(u32).range(576..=65535))]
    mtu: u32,
    /// Directory of the pid file and the log.
    #[arg(long, value_name = "DIR", env = "WARREN_RUN_DIR", default_value = defaults::RUN_DIR)]
    run_dir: PathBuf,
    /// Be the tunnel, rather than start it and return.
    #[arg(long)]
    foreground: bool,
}

/// Runs the command.
pub(crate) fn run(args: WireguardArgs) -> anyhow::Result<ExitCode> {
    let process = ProcessArgs { link: args.link.to_string(), mtu: args.mtu, run_dir: args.run_dir };
    if args.foreground {
        process::serve(&process).with_context(|| format!("tunnel {}", process.link))?;
    } else {
        let program: [OsString; 2] = ["/proc/self/exe".into(), "wireguard".into()];
        process::launch(&process, &program).with_context(|| format!("tunnel {}", process.link))?;
    }
    Ok(ExitCode::SUCCESS)
}
