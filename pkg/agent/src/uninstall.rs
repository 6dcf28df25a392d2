//! Taking everything away again, by the marks: needs no memory of what was made.
//!
//! What is found is removed in the reverse of the order in which it was made, then everything is looked for again: what
//! is still there is named. Nothing without a mark of ours is touched.

use crate::client::{AskError, ask};
use crate::status::StatusReport;
use crate::sysctls;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use warren_netlink::detached::Detached;
use warren_netlink::nft::Nft;
use warren_netlink::route::{Route, Rule};
use warren_netlink::{Netlink, NetlinkError, sysctl};
use warren_types::{defaults, marks};

/// Where Warren's files are on this node.
#[derive(Debug, Clone)]
pub struct Places {
    /// Data directory of agent and server.
    pub data_dir: PathBuf,
    /// Run directory of the agent.
    pub run_dir: PathBuf,
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
}

/// One thing with a mark of ours, in the order of removal.
#[derive(Debug, Clone, PartialEq)]
enum Found {
    /// The CNI configuration, first: no pod may be started any more.
    File(PathBuf),
    /// One that outlives the agent, and its pid.
    Process(Detached, i32),
    Link(String),
    Rule(Rule),
    Route(Box<Route>),
    Table,
    Sysctl {
        key: String,
        was: String,
    },
    Dir(PathBuf),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::File(p) => write!(f, "file {}", p.display()),
            Found::Process(process, pid) => write!(f, "process {pid} ({})", process.name()),
            Found::Link(name) => write!(f, "link {name}"),
            Found::Rule(r) => write!(f, "rule from {} lookup {}", r.from, r.table),
            Found::Route(r) => write!(f, "route {} table {}", r.dst, r.table),
            Found::Table => write!(f, "nftables table inet {}", marks::NFT_TABLE),
            Found::Sysctl { key, was } => write!(f, "setting of sysctl {key} (back to {was})"),
            Found::Dir(p) => write!(f, "directory {}", p.display()),
        }
    }
}

/// What would be removed.
///
/// # Errors
/// [`UninstallError`].
pub async fn plan(places: &Places) -> Result<Vec<String>, UninstallError> {
    let netlink = Netlink::current()?;
    Ok(observe(places, &netlink).await?.iter().map(ToString::to_string).collect())
}

/// Removes everything of Warren's in this network namespace, and looks again.
///
/// # Errors
/// [`UninstallError`]; then nothing was removed. What cannot be removed is no error but named in the report.
pub async fn uninstall(places: &Places) -> Result<UninstallReport, UninstallError> {
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
    let found = observe(places, &netlink).await?;
    for thing in &found {
        if let Err(reason) = remove(thing, places, &netlink).await {
            failed.push((thing.clone(), reason));
        }
    }
    let left = observe(places, &netlink).await?;
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

async fn observe(places: &Places, netlink: &Netlink) -> Result<Vec<Found>, UninstallError> {
    let mut out = Vec::new();
    let conflist = places.cni_conf_dir.join(defaults::CNI_CONFLIST);
    if fs::read_to_string(&conflist).is_ok_and(|text| is_our_conflist(&text)) {
        out.push(Found::File(conflist));
    }
    for name in [marks::TUNNEL_LINK, warren_dns::KEEPER.name(), warren_ingress::KEEPER.name()] {
        let process = Detached::new(name, &places.run_dir);
        out.extend(process.running().map(|pid| Found::Process(process, pid)));
    }
    for link in netlink.list_links().await? {
        if link.name.starts_with(marks::LINK_PREFIX) && link.alias.starts_with(marks::LINK_ALIAS_PREFIX) {
            out.push(Found::Link(link.name));
        }
    }
    out.extend(netlink.list_rules(marks::ROUTE_PROTOCOL).await?.into_iter().map(Found::Rule));
    let routes = netlink.list_routes(Some(marks::ROUTE_PROTOCOL)).await?;
    let local = netlink.list_local_routes(marks::ROUTE_PROTOCOL).await?;
    out.extend(routes.into_iter().chain(local).map(|r| Found::Route(Box::new(r))));
    if Nft::current()?.table_exists().await? {
        out.push(Found::Table);
    }
    let record = sysctls::load(&places.data_dir.join("agent")).unwrap_or_default();
    for (key, was) in record {
        if matches!(sysctl::get(&key), Ok(Some(now)) if now.trim() != was) {
            out.push(Found::Sysctl { key, was });
        }
    }
    let plugin = places.cni_bin_dir.join(defaults::CNI_PLUGIN);
    if fs::symlink_metadata(&plugin).is_ok_and(|m| !m.is_dir()) {
        out.push(Found::File(plugin));
    }
    if places.run_dir.is_dir() {
        out.push(Found::Dir(places.run_dir.clone()));
    }
    if !places.keep_data {
        out.extend(
            ["agent", "server"]
                .map(|d| places.data_dir.join(d))
                .into_iter()
                .filter(|d| d.is_dir())
                .map(Found::Dir),
        );
        if places.data_dir.is_dir() {
            out.push(Found::Dir(places.data_dir.clone()));
        }
    }
    Ok(out)
}

/// Whether a process holds the lock of the store in `dir`.
fn in_use(dir: &std::path::Path) -> bool {
    let lock = fs::File::open(dir.join("lock"));
    lock.is_ok_and(|f| matches!(f.try_lock(), Err(fs::TryLockError::WouldBlock)))
}

/// Whether a conflist names our plugin: one that somebody else put under our file name stays.
fn is_our_conflist(text: &str) -> bool {
    let json: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let plugins = json.get("plugins").and_then(|p| p.as_array());
    plugins.is_some_and(|p| p.iter().any(|p| p.get("type").is_some_and(|t| t == defaults::CNI_PLUGIN)))
}

async fn remove(thing: &Found, places: &Places, netlink: &Netlink) -> Result<(), String> {
    match thing {
        Found::File(path) => gone(fs::remove_file(path)),
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

    #[test]
    fn only_our_conflist_is_ours() {
        assert!(is_our_conflist(r#"{"plugins":[{"type":"warren"}]}"#));
        assert!(!is_our_conflist(r#"{"plugins":[{"type":"bridge"}]}"#));
        assert!(!is_our_conflist("not json"));
    }

    #[tokio::test]
    async fn nothing_is_taken_from_under_a_running_warren() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places {
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
        let places = Places {
            data_dir: "/var".into(),
            run_dir: "/run/warren".into(),
            cni_conf_dir: "/nowhere".into(),
            cni_bin_dir: "/nowhere".into(),
            keep_data: false,
        };
        assert!(matches!(uninstall(&places).await, Err(UninstallError::NotOurs(_))));
    }
}
