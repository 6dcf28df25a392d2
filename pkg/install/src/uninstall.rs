//! Taking everything away again, by the marks: needs no memory of what was made.
//!
//! What is found is removed in the reverse of the order in which it was made, then everything is looked for again: what
//! is still there is named. Nothing without a mark of ours is touched.

use crate::observe::{Found, KINDS, observe};
use crate::service::{Daemon, Init};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use warren_agent::client::{AskError, ask};
use warren_agent::status::StatusReport;
use warren_agent::sysctls;
use warren_netlink::nft::Nft;
use warren_netlink::{Netlink, NetlinkError, sysctl};
use warren_types::defaults;

/// Where Warren's files are on this node.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Data directory of agent and server.
    pub data_dir: PathBuf,
    /// Run directory of the agent.
    pub run_dir: PathBuf,
    /// Where the configuration is.
    pub config_dir: PathBuf,
    /// Where the conflist is.
    pub cni_conf_dir: PathBuf,
    /// Where the plugin is.
    pub cni_bin_dir: PathBuf,
    /// Keep the data directory.
    pub keep_data: bool,
}

/// Why nothing was removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UninstallError {
    /// An agent runs and would make everything anew.
    #[error("the agent is running (pid {0})")]
    Running(u32),
    /// A store is open: an agent or a server runs.
    #[error("{0} is in use by a running warren")]
    InUse(PathBuf),
    /// A directory that cannot be ours.
    #[error("{0} is not a directory that Warren could own")]
    NotOurs(PathBuf),
    /// The kernel could not be asked.
    #[error(transparent)]
    Kernel(#[from] NetlinkError),
    /// The service manager refused.
    #[error(transparent)]
    Service(#[from] crate::error::InstallError),
}

impl UninstallError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Running(pid) => {
                Some(format!("stop it first: `systemctl stop warren-agent`, or `kill {pid}`"))
            }
            Self::InUse(_) => {
                Some("stop it first: `systemctl stop warren-agent warren-server`; --keep-data leaves a server alone".into())
            }
            Self::NotOurs(_) => Some("give the directory that the agent was started with".into()),
            Self::Kernel(_) => Some("run this as root, in the network namespace of the node".into()),
            Self::Service(error) => error.hint(),
        }
    }
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UninstallReport {
    /// What was there and is gone.
    pub removed: Vec<String>,
    /// What is still there, and why.
    pub left: Vec<String>,
    /// What was looked for afterwards.
    pub checks: Vec<Check>,
}

/// One kind of things that was looked for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// The kind.
    pub kind: &'static str,
    /// Where it was looked for.
    pub looked_for: &'static str,
    /// What was found.
    pub found: Vec<String>,
}

fn checks(found: &[Found]) -> Vec<Check> {
    let of = |kind| found.iter().filter(|f| f.kind() == kind).map(ToString::to_string).collect();
    KINDS.map(|(kind, looked_for)| Check { kind, looked_for, found: of(kind) }).into()
}

/// Looks for everything of Warren's, and removes nothing.
///
/// # Errors
/// [`UninstallError`].
pub async fn verify(places: &Scope) -> Result<Vec<Check>, UninstallError> {
    Ok(checks(&observe(places, &record(places), &Netlink::current()?).await?))
}

/// The sysctls that Warren changed, and their values before.
fn record(places: &Scope) -> BTreeMap<String, String> {
    sysctls::load(&places.data_dir.join("agent")).unwrap_or_default()
}

/// Stops the services of this machine that run; what is not there is not stopped.
///
/// # Errors
/// [`UninstallError::Service`].
pub fn stop_services(keep_server: bool) -> Result<Vec<&'static str>, UninstallError> {
    let init = Init::detect(&crate::places::Places::below(Path::new("/")));
    let mut stopped = Vec::new();
    for daemon in [Daemon::Agent, Daemon::Server] {
        if init.is_active(daemon) && !(keep_server && daemon == Daemon::Server) {
            init.act("stop", daemon)?;
            stopped.push(daemon.service());
        }
    }
    Ok(stopped)
}

/// What would be removed.
///
/// # Errors
/// [`UninstallError`].
pub async fn plan(places: &Scope) -> Result<Vec<String>, UninstallError> {
    let netlink = Netlink::current()?;
    Ok(observe(places, &record(places), &netlink).await?.iter().map(ToString::to_string).collect())
}

/// Removes everything of Warren's in this network namespace, and looks again.
///
/// # Errors
/// [`UninstallError`]; then nothing was removed. What cannot be removed is no error but named in the report.
pub async fn uninstall(places: &Scope) -> Result<UninstallReport, UninstallError> {
    for dir in [&places.data_dir, &places.run_dir] {
        if !dir.is_absolute() || dir.components().count() < 3 {
            return Err(UninstallError::NotOurs(dir.clone()));
        }
    }
    match ask::<StatusReport>(&places.run_dir.join(defaults::ADMIN_SOCKET), "/status").await {
        Ok(report) => return Err(UninstallError::Running(report.pid)),
        Err(AskError::NotRunning(_)) => {}
        Err(error) => tracing::warn!(%error, "cannot tell whether an agent runs; going on"),
    }
    for who in if places.keep_data { &["agent"][..] } else { &["agent", "server"][..] } {
        let store = places.data_dir.join(who).join("store");
        if in_use(&store) {
            return Err(UninstallError::InUse(store));
        }
    }
    let netlink = Netlink::current()?;
    let mut report = UninstallReport::default();
    let mut failed: Vec<(Found, String)> = Vec::new();
    let record = record(places);
    let found = observe(places, &record, &netlink).await?;
    for thing in &found {
        if let Err(reason) = remove(thing, places, &netlink).await {
            failed.push((thing.clone(), reason));
        }
    }
    if let Err(error) = Init::detect(&crate::places::Places::below(Path::new("/"))).reload() {
        tracing::warn!(%error, "the service manager still remembers the services");
    }
    let left = observe(places, &record, &netlink).await?;
    report.checks = checks(&left);
    report.removed = found.iter().filter(|f| !left.contains(f)).map(ToString::to_string).collect();
    report.left = left
        .iter()
        .map(|l| match failed.iter().find(|(f, _)| f == l) {
            Some((_, reason)) => format!("{l}: {reason}"),
            None => l.to_string(),
        })
        .collect();
    Ok(report)
}

/// Whether a process holds the lock of the store in `dir`.
fn in_use(dir: &Path) -> bool {
    let lock = fs::File::open(dir.join("lock"));
    lock.is_ok_and(|f| matches!(f.try_lock(), Err(fs::TryLockError::WouldBlock)))
}

async fn remove(thing: &Found, places: &Scope, netlink: &Netlink) -> Result<(), String> {
    match thing {
        Found::File(path) | Found::Socket(path) => gone(fs::remove_file(path)),
        Found::Stray(..) => Err("somebody started it by hand: end it".into()),
        Found::Process(process, _) => {
            let process = process.clone();
            let ended = tokio::task::spawn_blocking(move || process.end()).await.map_err(io::Error::other);
            ended.flatten().map_err(|e| e.to_string())
        }
        Found::Link(name) => netlink.remove_link(name).await.map(drop).map_err(|e| e.to_string()),
        Found::Rule(rule) => netlink.remove_rule(rule).await.map_err(|e| e.to_string()),
        Found::Route(route) => netlink.remove_route(route).await.map_err(|e| e.to_string()),
        Found::Table => match Nft::current() {
            Ok(nft) => nft.remove_table().await.map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        },
        Found::Sysctl { key, was } => sysctl::set(key, was).map(drop).map_err(|e| e.to_string()),
        // The data directory itself may hold what others put there: it goes only when it is empty.
        Found::Dir(path) if *path == places.data_dir => match fs::remove_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {
                Err("not empty: something else is in it".into())
            }
            other => gone(other),
        },
        Found::Dir(path) => gone(fs::remove_dir_all(path)),
    }
}

fn gone(result: io::Result<()>) -> Result<(), String> {
    match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e.to_string()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_taken_from_under_a_running_warren() {
        let dir = tempfile::tempdir().unwrap();
        let places = Scope {
            config_dir: dir.path().join("etc"),
            data_dir: dir.path().join("data"),
            run_dir: dir.path().join("run"),
            cni_conf_dir: dir.path().join("conf"),
            cni_bin_dir: dir.path().join("bin"),
            keep_data: false,
        };
        fs::create_dir(&places.data_dir).unwrap();
        let store = warren_store::Store::open(&places.data_dir.join("server/store")).unwrap().store;
        assert!(
            matches!(uninstall(&places).await, Err(UninstallError::InUse(p)) if p.ends_with("server/store"))
        );
        assert!(places.data_dir.join("server/store").is_dir());
        store.close().await.unwrap();
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_ours_is_refused() {
        let places = Scope {
            config_dir: "/nowhere".into(),
            data_dir: "/var".into(),
            run_dir: "/run/warren".into(),
            cni_conf_dir: "/nowhere".into(),
            cni_bin_dir: "/nowhere".into(),
            keep_data: false,
        };
        assert!(matches!(uninstall(&places).await, Err(UninstallError::NotOurs(_))));
    }
}
