//! `warren uninstall`: take everything away again, and prove it.

use crate::failure::{Hinted, UsageError};
use crate::output;
use anyhow::Context as _;
use clap::Args;
use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;
use warren_agent::uninstall::{Places, plan, uninstall};
use warren_types::defaults;

/// Arguments of `warren uninstall`.
#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    /// Keep the data directory: keys, identity, the record of what the cluster looked like.
    #[arg(long)]
    keep_data: bool,
    /// Data directory of agent and server.
    #[arg(long, value_name = "DIR", env = "WARREN_DATA_DIR", default_value = defaults::DATA_DIR)]
    data_dir: PathBuf,
    /// Run directory of the agent.
    #[arg(long, value_name = "DIR", env = "WARREN_RUN_DIR", default_value = defaults::RUN_DIR)]
    run_dir: PathBuf,
    /// Where runtimes look for CNI configuration.
    #[arg(long, value_name = "DIR", env = "WARREN_CNI_CONF_DIR", default_value = defaults::CNI_CONF_DIR)]
    cni_conf_dir: PathBuf,
    /// Where runtimes look for CNI plugins.
    #[arg(long, value_name = "DIR", env = "WARREN_CNI_BIN_DIR", default_value = defaults::CNI_BIN_DIR)]
    cni_bin_dir: PathBuf,
}

/// Removes, verifies, prints; exit code 1 when something is left.
pub(crate) fn run(args: UninstallArgs) -> anyhow::Result<ExitCode> {
    let places = Places {
        data_dir: args.data_dir,
        run_dir: args.run_dir,
        cni_conf_dir: args.cni_conf_dir,
        cni_bin_dir: args.cni_bin_dir,
        keep_data: args.keep_data,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if !args.yes {
        let found = runtime.block_on(plan(&places)).context("looking for what Warren made")?;
        if found.is_empty() {
            output::line("nothing of Warren's is here");
            return Ok(ExitCode::SUCCESS);
        }
        output::line("This removes:");
        for thing in &found {
            output::line(format_args!("  {thing}"));
        }
        if !std::io::stdin().is_terminal() {
            return Err(UsageError("nobody is there to ask; add --yes to remove it".into()).into());
        }
        output::text("Remove it? [y/N] ");
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            output::line("nothing was changed");
            return Ok(ExitCode::from(crate::failure::EXIT_FAILURE));
        }
    }
    let report = runtime.block_on(uninstall(&places)).map_err(|e| match e.hint() {
        Some(hint) => anyhow::Error::new(Hinted::new(e.to_string(), hint)),
        None => anyhow::Error::new(e),
    })?;
    for thing in &report.removed {
        output::line(format_args!("removed {thing}"));
    }
    for thing in &report.left {
        output::stderr(&format!("left: {thing}\n"));
    }
    if report.left.is_empty() {
        output::line("nothing of Warren's is left on this node");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(crate::failure::EXIT_FAILURE))
}
