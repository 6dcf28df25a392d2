//! Looking for everything that Warren makes, by its marks: needs no memory of what was made.

use crate::install::installed;
use crate::places::{self, Places};
use crate::service::is_marked;
use crate::uninstall::{Scope, UninstallError};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use warren_netlink::detached::Detached;
use warren_netlink::nft::Nft;
use warren_netlink::route::{Route, Rule};
use warren_netlink::{Netlink, sysctl};
use warren_types::{defaults, marks};

/// One thing with a mark of ours, in the order of removal.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Found {
    /// The CNI configuration, first: no pod may be started any more.
    File(PathBuf),
    /// One that outlives the agent, and its pid.
    Process(Detached, i32),
    /// A daemon that is not known by a file, so that it is named and left to whoever started it.
    Stray(u32, String),
    Link(String),
    Rule(Rule),
    Route(Box<Route>),
    Table,
    Sysctl {
        key: String,
        was: String,
    },
    Dir(PathBuf),
    /// One that a process serves.
    Socket(PathBuf),
}

/// Kinds of things, and where each is looked for.
pub(crate) const KINDS: [(&str, &str); 8] = [
    ("files", "CNI, program, completions, services, configuration, sockets of WireGuard"),
    ("processes", "warren agent, server, wireguard, dns-sockets, ingress-sockets of this network namespace"),
    ("links", "names that begin with wrn, with an alias that begins with warren:"),
    ("rules", "protocol 87"),
    ("routes", "protocol 87, in every table"),
    ("nftables", "table inet warren"),
    ("sysctls", "those that the record names"),
    ("directories", "data and run directory, /etc/warren"),
];

impl Found {
    /// Which of [`KINDS`] it is.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Found::File(_) | Found::Socket(_) => "files",
            Found::Process(..) | Found::Stray(..) => "processes",
            Found::Link(_) => "links",
            Found::Rule(_) => "rules",
            Found::Route(_) => "routes",
            Found::Table => "nftables",
            Found::Sysctl { .. } => "sysctls",
            Found::Dir(_) => "directories",
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::File(p) => write!(f, "file {}", p.display()),
            Found::Process(process, pid) => write!(f, "process {pid} ({})", process.name()),
            Found::Stray(pid, words) => write!(f, "process {pid} (warren {words})"),
            Found::Socket(path) => write!(f, "socket {}", path.display()),
            Found::Link(name) => write!(f, "link {name}"),
            Found::Rule(r) => write!(f, "rule from {} lookup {}", r.from, r.table),
            Found::Route(r) => write!(f, "route {} table {}", r.dst, r.table),
            Found::Table => write!(f, "nftables table inet {}", marks::NFT_TABLE),
            Found::Sysctl { key, was } => write!(f, "setting of sysctl {key} (back to {was})"),
            Found::Dir(p) => write!(f, "directory {}", p.display()),
        }
    }
}

/// Everything that is there, in the order of its removal. `sysctls`: their values before Warren.
pub(crate) async fn observe(
    scope: &Scope,
    sysctls: &BTreeMap<String, String>,
    netlink: &Netlink,
) -> Result<Vec<Found>, UninstallError> {
    let mut out = Vec::new();
    let conflist = scope.cni_conf_dir.join(defaults::CNI_CONFLIST);
    if fs::read_to_string(&conflist).is_ok_and(|text| is_our_conflist(&text)) {
        out.push(Found::File(conflist));
    }
    for name in [marks::TUNNEL_LINK, warren_dns::KEEPER.name(), warren_ingress::KEEPER.name()] {
        let process = Detached::new(name, &scope.run_dir);
        out.extend(process.running().map(|pid| Found::Process(process, pid)));
    }
    out.extend(strays(&out));
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
    for (key, was) in sysctls {
        if matches!(sysctl::get(key), Ok(Some(now)) if now.trim() != was) {
            out.push(Found::Sysctl { key: key.clone(), was: was.clone() });
        }
    }
    let loopback = scope.cni_bin_dir.join(defaults::CNI_LOOPBACK);
    if fs::read_link(&loopback).is_ok_and(|target| target == Path::new(defaults::CNI_PLUGIN)) {
        out.push(Found::File(loopback));
    }
    let plugin = scope.cni_bin_dir.join(defaults::CNI_PLUGIN);
    if fs::symlink_metadata(&plugin).is_ok_and(|m| !m.is_dir()) {
        out.push(Found::File(plugin));
    }
    let uapi = Path::new("/var/run/wireguard").join(format!("{}.sock", marks::TUNNEL_LINK));
    out.extend(uapi.exists().then_some(Found::Socket(uapi)));
    out.extend(installed(&Places::below(Path::new("/"))).into_iter().map(Found::File));
    if scope.run_dir.is_dir() {
        out.push(Found::Dir(scope.run_dir.clone()));
    }
    if !scope.keep_data {
        out.extend(settings(&scope.config_dir));
        let files = [places::RECORD, places::JOURNAL, places::LOCK].map(|name| scope.data_dir.join(name));
        out.extend(files.into_iter().filter(|f| f.exists()).map(Found::File));
        out.extend(
            ["agent", "server"]
                .map(|d| scope.data_dir.join(d))
                .into_iter()
                .filter(|d| d.is_dir())
                .map(Found::Dir),
        );
        if scope.data_dir.is_dir() {
            out.push(Found::Dir(scope.data_dir.clone()));
        }
    }
    Ok(out)
}

/// Whether a conflist names our plugin: one that somebody else put under our file name stays.
fn is_our_conflist(text: &str) -> bool {
    let json: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let plugins = json.get("plugins").and_then(|p| p.as_array());
    plugins.is_some_and(|p| p.iter().any(|p| p.get("type").is_some_and(|t| t == defaults::CNI_PLUGIN)))
}

/// Configuration that an installation or a server made, and the directory when nothing else is in it.
fn settings(dir: &Path) -> Vec<Found> {
    let file = |name: &str| dir.join(name);
    let mut ours: Vec<PathBuf> = vec![file("config.yaml"), file("config.yaml.old")];
    ours.retain(|path| is_marked(path));
    ours.extend(Some(file("kubeconfig")).filter(|path| path.exists()));
    let entries = fs::read_dir(dir).map(|e| e.flatten().map(|e| e.path()).collect::<Vec<_>>());
    let own = entries.is_ok_and(|entries| entries.iter().all(|e| ours.contains(e)));
    ours.into_iter().map(Found::File).chain(own.then(|| Found::Dir(dir.to_owned()))).collect()
}

/// Daemons of this network namespace that are not among `known`.
fn strays(known: &[Found]) -> Vec<Found> {
    const DAEMONS: [&str; 5] = ["agent", "server", "wireguard", "dns-sockets", "ingress-sockets"];
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let own = namespace("self");
    let is_known =
        |pid: u32| known.iter().any(|f| matches!(f, Found::Process(_, p) if u32::try_from(*p) == Ok(pid)));
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<String> =
            line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
        let (Some(program), Some(daemon)) = (words.first(), words.get(1)) else { continue };
        let named = Path::new(program).file_name().is_some_and(|n| n.to_string_lossy().starts_with("warren"));
        // One with a verb of its own asks, and ends by itself.
        let asks = words.get(2).is_some_and(|w| !w.is_empty() && !w.starts_with('-')) && daemon == "server";
        if (named || program == "/proc/self/exe")
            && DAEMONS.contains(&daemon.as_str())
            && !asks
            && !is_known(pid)
            && namespace(&pid.to_string()) == own
        {
            found.push(Found::Stray(pid, daemon.clone()));
        }
    }
    found
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

    #[test]
    fn configuration_of_others_keeps_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("config.yaml", "# Warren: made by `warren install agent`.\n");
        write("kubeconfig", "");
        let found = |name: &str| settings(dir.path()).contains(&Found::File(dir.path().join(name)));
        assert!(found("config.yaml") && found("kubeconfig"));
        assert!(settings(dir.path()).contains(&Found::Dir(dir.path().to_owned())));
        write("mine", "");
        write("config.yaml", "node-name: written-by-hand\n");
        assert!(!found("config.yaml") && !settings(dir.path()).contains(&Found::Dir(dir.path().to_owned())));
    }
}
