//! `warren status`: how this node is.

use crate::{failure::Hinted, output};
use clap::{Args, ValueEnum};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use warren_agent::client::{AskError, ask};
use warren_agent::status::{StatusReport, render};
use warren_types::defaults;

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Which agent is asked.
#[derive(Debug, Clone, Args)]
pub(crate) struct Target {
    /// Run directory of the agent.
    #[arg(long, value_name = "DIR", env = "WARREN_RUN_DIR", default_value = defaults::RUN_DIR)]
    run_dir: PathBuf,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

impl Target {
    pub(crate) fn socket(&self) -> PathBuf {
        self.run_dir.join(defaults::ADMIN_SOCKET)
    }
    pub(crate) fn json(&self) -> bool {
        self.output == Output::Json
    }
}

/// Arguments of `warren status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    target: Target,
    /// Show it anew every second, until interrupted.
    #[arg(long, short)]
    watch: bool,
}

/// Asks the agent at `socket`.
pub(crate) fn query<T: DeserializeOwned>(socket: &Path, path: &str) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(ask(socket, path)).map_err(|e: AskError| Hinted::new(e.to_string(), e.hint()).into())
}

/// Prints `value` as JSON.
pub(crate) fn print_json<T: serde::Serialize>(value: &T) -> anyhow::Result<bool> {
    Ok(output::text(&(serde_json::to_string_pretty(value)? + "\n")))
}

/// Exit code 0 when the node is ready, else 1.
pub(crate) fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let socket = args.target.socket();
    let show = |report: &StatusReport| -> anyhow::Result<bool> {
        if args.target.json() {
            print_json(report)
        } else {
            Ok(output::text(&render(report, output::colour())))
        }
    };
    if !args.watch {
        let report: StatusReport = query(&socket, "/status")?;
        show(&report)?;
        return Ok(if report.ready {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(crate::failure::EXIT_FAILURE)
        });
    }
    loop {
        // The screen is cleared only where there is one.
        if output::colour() && !args.target.json() {
            output::text("\x1b[H\x1b[2J");
        }
        let goes_on = match query::<StatusReport>(&socket, "/status") {
            Ok(report) => show(&report)?,
            Err(error) => {
                let (text, _) = crate::failure::describe(&error);
                output::stderr(&text);
                true
            }
        };
        if !goes_on {
            return Ok(ExitCode::SUCCESS);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(tokio::time::sleep(Duration::from_secs(1)));
    }
}
