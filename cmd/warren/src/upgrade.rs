//! `warren upgrade BINARY`: exchange the program under a running node, with a way back.

use crate::failure::{Hinted, UsageError};
use crate::output;
use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use warren_agent::config::AgentConfig;
use warren_install::disk::RealDisk;
use warren_install::upgrade::{Outcome, Upgrade, recover, watch};
use warren_types::defaults;

/// Arguments of `warren upgrade`.
#[derive(Debug, clap::Args)]
pub(crate) struct UpgradeArgs {
    /// The new program.
    #[arg(value_name = "BINARY", required_unless_present = "recover")]
    binary: Option<PathBuf>,
    /// The program that is replaced.
    #[arg(long, value_name = "FILE", default_value = "/usr/local/bin/warren")]
    program: PathBuf,
    /// Seconds until the node must be as well as before; else the upgrade is taken back.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Look at the new program and the node, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Take an upgrade back that was cut off (services do this before they start).
    #[arg(long, conflicts_with_all = ["binary", "dry_run"])]
    recover: bool,
    /// Data directory of the agent.
    #[arg(long, value_name = "DIR", env = "WARREN_DATA_DIR", default_value = defaults::DATA_DIR)]
    data_dir: PathBuf,
    /// Run directory of the agent.
    #[arg(long, value_name = "DIR", env = "WARREN_RUN_DIR", default_value = defaults::RUN_DIR)]
    run_dir: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: UpgradeArgs) -> anyhow::Result<ExitCode> {
    let hinted = |error: warren_install::InstallError| match error.hint() {
        Some(hint) => anyhow::Error::new(Hinted::new(error.to_string(), hint)),
        None => error.into(),
    };
    let Some(binary) = args.binary else {
        if recover(&args.data_dir, &RealDisk).map_err(hinted)? {
            output::line("an upgrade was cut off; the program from before is in place again");
        }
        return Ok(ExitCode::SUCCESS);
    };
    let new = std::path::absolute(&binary).with_context(|| binary.display().to_string())?;
    if !new.is_file() {
        return Err(UsageError(format!("{} is not a file", binary.display())).into());
    }
    let upgrade = Upgrade {
        new,
        program: args.program,
        data_dir: args.data_dir,
        run_dir: args.run_dir,
        timeout: Duration::from_secs(args.timeout),
        dry_run: args.dry_run,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(upgrade.run(&mut |text| output::line(text))).map_err(hinted)? {
        Outcome::Same => output::line("this is the program that runs already: nothing was changed"),
        Outcome::Possible(said) => {
            output::line(format_args!("it can be upgraded to {}; nothing was changed", said.version));
        }
        Outcome::Done(said, took) => {
            let seconds = took.as_secs_f64();
            output::line(format_args!(
                "upgraded to {} in {seconds:.1} s; the node is as well as before",
                said.version
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the agent, and with it the watch over an upgrade that was cut off. `Some`: that one failed, and why.
pub(crate) async fn watched(config: AgentConfig) -> Result<Option<String>, warren_agent::AgentError> {
    let (data_dir, run_dir) = (config.data_dir.clone(), config.run_dir.clone());
    tokio::select! {
        ended = warren_agent::run(config) => ended.map(|()| None),
        why = watch(&data_dir, &run_dir) => Ok(Some(why)),
    }
}

/// Takes such an upgrade back before the agent ends; whoever keeps the agent starts the program from before. In the sandbox of
/// a service it cannot be done, and is done before the next start.
pub(crate) fn take_back(data_dir: &Path, why: &str) -> anyhow::Error {
    let what = format!("an upgrade was cut off, and this program does not serve the node: {why}");
    match recover(data_dir, &RealDisk) {
        Ok(_) => Hinted::new(what, "the program from before is in place again: start the agent").into(),
        Err(error) => Hinted::new(
            format!("{what}; taking it back: {error}"),
            "a service does so before its next start; elsewhere: `warren.previous upgrade --recover`",
        )
        .into(),
    }
}
