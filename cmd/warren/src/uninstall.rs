//! `warren uninstall`: take everything away again, and prove it.

use crate::failure::{Hinted, UsageError};
use crate::output;
use anyhow::Context as _;
use clap::Args;
use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;
use warren_install::uninstall::{Check, Scope, UninstallError, plan, stop_services, uninstall, verify};
use warren_types::defaults;

/// Arguments of `warren uninstall`.
#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    /// Only look whether anything of Warren's is on this node; exit code 1 if so.
    #[arg(long)]
    verify: bool,
    /// Keep data and configuration: keys, identity, the record of what the cluster looked like.
    #[arg(long)]
    keep_data: bool,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value = "table")]
    output: crate::status::Output,
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

fn hinted(error: UninstallError) -> anyhow::Error {
    match error.hint() {
        Some(hint) => Hinted::new(error.to_string(), hint).into(),
        None => error.into(),
    }
}

/// Removes, verifies, prints; exit code 1 when something is left.
pub(crate) fn run(args: UninstallArgs) -> anyhow::Result<ExitCode> {
    let scope = Scope {
        data_dir: args.data_dir,
        run_dir: args.run_dir,
        config_dir: PathBuf::from("/etc/warren"),
        cni_conf_dir: args.cni_conf_dir,
        cni_bin_dir: args.cni_bin_dir,
        keep_data: args.keep_data,
    };
    let json = args.output == crate::status::Output::Json;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if args.verify {
        return show(&runtime.block_on(verify(&scope)).map_err(hinted)?, json);
    }
    if !args.yes {
        let found = runtime.block_on(plan(&scope)).context("looking for what Warren made")?;
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
    let say = |text: String| {
        if !json {
            output::line(text);
        }
    };
    for service in stop_services(scope.keep_data).map_err(hinted)? {
        say(format!("stopped {service}"));
    }
    let report = runtime.block_on(uninstall(&scope)).map_err(hinted)?;
    for thing in &report.removed {
        say(format!("removed {thing}"));
    }
    for thing in &report.left {
        output::stderr(&format!("left: {thing}\n"));
    }
    show(&report.checks, json)
}

/// What was looked for, and what is there.
fn show(checks: &[Check], json: bool) -> anyhow::Result<ExitCode> {
    let clean = checks.iter().all(|c| c.found.is_empty());
    if json {
        crate::status::print_json(&checks)?;
    } else {
        let head = ["KIND", "FOUND", "LOOKED FOR"].map(str::to_owned).to_vec();
        let row = |c: &Check| vec![c.kind.to_owned(), c.found.len().to_string(), c.looked_for.to_owned()];
        output::text(&output::table(
            &std::iter::once(head).chain(checks.iter().map(row)).collect::<Vec<_>>(),
        ));
        for thing in checks.iter().flat_map(|c| &c.found) {
            output::line(format_args!("found {thing}"));
        }
        if clean {
            output::line("nothing of Warren's is left on this node");
        }
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::from(crate::failure::EXIT_FAILURE) })
}
