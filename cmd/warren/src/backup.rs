//! `warren server backup` and `warren server restore`.

use crate::api::{self, ApiArgs};
use crate::failure::UsageError;
use crate::output;
use clap::Subcommand;
use http::Method;
use http_body_util::BodyExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use warren_apiserver::ServerError;
use warren_types::defaults;

/// Where a running server gives its rows.
const PATH: &str = "/v1-warren/backup";

/// What `warren server` does besides serving.
#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Write everything that the running server of this machine holds to a file; it goes on serving.
    Backup {
        /// The file (mode 0600). It holds the keys of the cluster: keep it as you keep those.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Where the server keeps its state.
        #[arg(long, value_name = "DIR", env = "WARREN_DATA_DIR", default_value = defaults::DATA_DIR)]
        data_dir: PathBuf,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Make the state of a server from a backup. The server must not run.
    Restore {
        /// The file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Where the server is to keep its state.
        #[arg(long, value_name = "DIR", env = "WARREN_DATA_DIR", default_value = defaults::DATA_DIR)]
        data_dir: PathBuf,
        /// Move state that is there aside.
        #[arg(long)]
        force: bool,
    },
}

/// Runs the command.
pub(crate) fn run(command: BackupCommand) -> anyhow::Result<ExitCode> {
    match command {
        BackupCommand::Backup { file, data_dir, api } => api::block_on(backup(&file, &data_dir, &api))?,
        BackupCommand::Restore { file, data_dir, force } => api::block_on(restore(&file, &data_dir, force))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn backup(file: &Path, data_dir: &Path, api: &ApiArgs) -> anyhow::Result<()> {
    let mut rows = api.api().await?.send(Method::GET, PATH, &[], Vec::new()).await?.into_body();
    let failed = |e: kube::Error| ServerError::Backup(format!("the server stopped sending: {e}"));
    let next = async || match rows.frame().await {
        Some(frame) => Ok(frame.map_err(failed)?.into_data().ok()),
        None => Ok(None),
    };
    warren_apiserver::write_backup(file, data_dir, next).await?;
    output::line(format_args!("backup written to {}", file.display()));
    Ok(())
}

async fn restore(file: &Path, data_dir: &Path, force: bool) -> anyhow::Result<()> {
    let restored = warren_apiserver::restore(file, data_dir, force).await.map_err(|e| match e {
        ServerError::Backup(why) => anyhow::Error::new(UsageError(why)),
        e => e.into(),
    })?;
    if let Some(aside) = &restored.set_aside {
        output::line(format_args!("the state that was there is in {}", aside.display()));
    }
    output::line(format_args!(
        "restored {} objects as of {}; start `warren server --data-dir {}`",
        restored.objects,
        restored.created,
        data_dir.display()
    ));
    Ok(())
}
