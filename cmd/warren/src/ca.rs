//! `warren ca`: the authority whose certificates ingress shows.

use crate::api::{self, Api, ApiArgs, is_missing};
use crate::failure::Hinted;
use crate::output;
use anyhow::Context as _;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;
use warren_types::ingress::AUTHORITY_CONFIG_MAP;

/// Arguments of `warren ca`.
#[derive(Debug, Args)]
pub(crate) struct CaArgs {
    #[command(subcommand)]
    command: CaCommand,
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    /// Print the certificate of the authority, PEM: who trusts it can verify what it issued.
    #[command(after_help = "Examples:
  warren ca export -o /usr/local/share/ca-certificates/warren.crt && update-ca-certificates
  curl --cacert <(warren ca export) https://shop.example/")]
    Export {
        /// Write it to this file instead.
        #[arg(long, short, value_name = "FILE")]
        output_file: Option<PathBuf>,
        /// Read it from the state of the server of this machine, which need not run.
        #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
        data_dir: Option<PathBuf>,
        #[command(flatten)]
        api: ApiArgs,
    },
}

/// Runs the command.
pub(crate) fn run(args: CaArgs) -> anyhow::Result<ExitCode> {
    let CaCommand::Export { output_file, data_dir, api } = args.command;
    let pem = match data_dir {
        Some(data_dir) => warren_apiserver::ingress_root(&data_dir)?,
        None => api::block_on(async { root(&api.api().await?).await })?,
    };
    match output_file {
        Some(path) => std::fs::write(&path, pem).with_context(|| format!("write {}", path.display()))?,
        None => drop(output::text(&pem)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks an API for it.
async fn root(api: &Api) -> anyhow::Result<String> {
    let (namespace, name) = AUTHORITY_CONFIG_MAP;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
    let none = |why: &str| {
        Hinted::new(
            format!("{why} ConfigMap {namespace}/{name}"),
            "`warren server` keeps the certificate of its authority there, and agents that issue certificates (`warren manifests \
             --certificates`) that of theirs, once there is an Ingress; others have none",
        )
    };
    let found = match api.json(Method::GET, &path, &[], Vec::new()).await {
        Err(error) if is_missing(&error) => return Err(none("there is no").into()),
        other => other?,
    };
    let pem = found.pointer("/data/ca.crt").and_then(Value::as_str);
    pem.map(str::to_owned).ok_or_else(|| none("no ca.crt is in").into())
}
