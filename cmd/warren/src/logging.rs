//! Logs: to stderr, as text or JSON, filtered by `--log`.

use crate::failure::UsageError;
use clap::{Args, ValueEnum};
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// One readable line an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// Logging, for every command.
#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// Form of the log lines on stderr.
    #[arg(
        long,
        global = true,
        value_enum,
        env = "WARREN_LOG_FORMAT",
        default_value = "text",
        help_heading = "Logging"
    )]
    log_format: LogFormat,
    /// What to log: a level (error, warn, info, debug, trace), or a list such as `info,warren_overlay=debug`.
    #[arg(long, global = true, value_name = "FILTER", env = "WARREN_LOG", help_heading = "Logging")]
    log: Option<String>,
}

impl LogArgs {
    /// Sets the process's logging up; once.
    pub(crate) fn init(&self, daemon: bool) -> anyhow::Result<()> {
        let wanted = self.log.as_deref().unwrap_or(if daemon { "info" } else { "warn" });
        let filter = EnvFilter::try_new(wanted).map_err(|e| {
            UsageError(format!("--log {wanted:?} is not a log filter: {e}; try `--log debug`"))
        })?;
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        // A second subscriber in one process is a programming error, not worth failing a node for.
        let _ = match self.log_format {
            LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
        };
        Ok(())
    }
}
