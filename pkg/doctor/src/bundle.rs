//! The support archive: what was found, and the state of agent and kernel, for people who help. Secrets are taken out twice:
//! by what they are (values read from this node's own files), and by how they look.

mod redact;

use crate::engine::Report;
use crate::facts::Facts;
use crate::probe::{Asked, HostTables, host_tables};
use flate2::Compression;
use flate2::write::GzEncoder;
use redact::Redactor;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use warren_agent::status::IpamReport;

/// So much of the end of a log is taken.
const LOG_BYTES: u64 = 256 * 1024;
/// Longest answer of the metrics endpoint that is taken.
const METRICS_BYTES: u64 = 4 << 20;
const METRICS_LIMIT: Duration = Duration::from_secs(5);

/// Writes the archive, mode 0600. A file that is there is replaced when the new one is whole.
///
/// # Errors
/// When it cannot be written. What cannot be read of the node is named in the archive.
pub async fn write(file: &Path, asked: &Asked, facts: &Facts, report: &Report) -> io::Result<()> {
    let redactor = Redactor::of(asked, facts);
    let entries = collect(asked, facts, report).await;
    let work = (file.to_owned(), move |to: &Path| pack(to, &entries, &redactor));
    let (file, pack) = work;
    let result = tokio::task::spawn_blocking(move || {
        let mut beside = file.clone().into_os_string();
        beside.push(".part");
        let beside = PathBuf::from(beside);
        let done = pack(&beside).and_then(|()| std::fs::rename(&beside, &file));
        if done.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        done
    });
    result.await.map_err(io::Error::other)?
}

/// What goes in: a name, and a text or a value.
enum Content {
    Json(Value),
    Text(String),
}

async fn collect(asked: &Asked, facts: &Facts, report: &Report) -> Vec<(String, Content)> {
    let value =
        |v: serde_json::Result<Value>| Content::Json(v.unwrap_or_else(|e| json!({"error": e.to_string()})));
    let known = |v: Result<Value, String>| Content::Json(v.unwrap_or_else(|e| json!({"error": e})));
    let ipam = warren_agent::client::ask::<IpamReport>(&asked.socket(), "/ipam").await;
    let ipam =
        ipam.map_err(|e| e.to_string()).and_then(|r| serde_json::to_value(r).map_err(|e| e.to_string()));
    let status = facts.status().and_then(|s| serde_json::to_value(s).map_err(|e| e.to_string()));
    let mut all: Vec<(String, Content)> = vec![
        ("doctor.json".into(), value(serde_json::to_value(report))),
        ("status.json".into(), known(status)),
        ("ipam.json".into(), known(ipam)),
        ("versions.json".into(), Content::Json(versions(facts))),
        ("sysctls.json".into(), value(serde_json::to_value(&facts.sysctls))),
        ("configuration.txt".into(), Content::Text(format!("{:#?}", asked.config))),
    ];
    match host_tables().await {
        Ok(tables) => all.extend(kernel(&tables)),
        Err(e) => all.push(("kernel.json".into(), Content::Json(json!({"error": e.to_string()})))),
    }
    let health = asked.config.health_address;
    let metrics = tokio::task::spawn_blocking(move || metrics(health)).await;
    all.push(("metrics.txt".into(), Content::Text(metrics.unwrap_or_else(|e| e.to_string()))));
    for (name, path) in files(asked) {
        all.push((name, Content::Text(tail(&path).unwrap_or_else(|e| format!("{}: {e}", path.display())))));
    }
    all
}

fn versions(facts: &Facts) -> Value {
    json!({
        "warren": env!("CARGO_PKG_VERSION"),
        "agent": facts.status().map(|s| s.version.clone()).unwrap_or_default(),
        "kernel": facts.kernel_release,
        "architecture": std::env::consts::ARCH,
        "system": std::fs::read_to_string("/etc/os-release").unwrap_or_default().lines().collect::<Vec<_>>(),
        "bootedSecondsAgo": facts.booted_seconds_ago,
    })
}

/// Links, routes, rules and tables, as far as their records say.
fn kernel(tables: &HostTables) -> Vec<(String, Content)> {
    let name = |index: u32| tables.links.iter().find(|l| l.index == index).map_or("?", |l| &l.name);
    let links: Vec<Value> = tables
        .links
        .iter()
        .map(|l| json!({"index": l.index, "name": l.name, "kind": l.kind, "mtu": l.mtu, "up": l.up, "alias": l.alias}))
        .collect();
    let addresses: Vec<Value> = tables
        .addresses
        .iter()
        .map(|(i, net)| json!({"link": name(*i), "address": net.to_string()}))
        .collect();
    let routes: Vec<Value> = tables
        .routes
        .iter()
        .map(|r| json!({"route": r.to_string(), "protocol": r.protocol, "mtu": r.mtu, "source": r.src}))
        .collect();
    let rules: Vec<String> = tables.rules.iter().map(ToString::to_string).collect();
    let nftables: Vec<Value> = tables
        .nftables
        .iter()
        .map(|t| {
            let chains = t.chains.iter().map(|(name, chain)| {
                let base = chain.base.as_ref().map(|b| json!({"type": b.kind, "hook": b.hook, "priority": b.priority, "policy": b.policy}));
                let rules: Vec<Value> = chain
                    .rules
                    .iter()
                    .map(|r| json!({"handle": r.handle, "comment": r.comment, "expressions": r.exprs.iter().map(|e| format!("{e:?}")).collect::<Vec<_>>()}))
                    .collect();
                (name.clone(), json!({"base": base, "rules": rules}))
            });
            let chains: serde_json::Map<String, Value> = chains.collect();
            json!({"table": t.to_string(), "dormant": t.dormant, "chains": chains, "sets": t.sets.keys().collect::<Vec<_>>()})
        })
        .collect();
    let all = [
        ("links.json", json!(links)),
        ("addresses.json", json!(addresses)),
        ("routes.json", json!(routes)),
        ("rules.json", json!(rules)),
        ("nftables.json", json!(nftables)),
    ];
    all.into_iter().map(|(name, v)| (name.to_owned(), Content::Json(v))).collect()
}

/// What the agent serves at /metrics.
fn metrics(address: SocketAddr) -> String {
    let read = || -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, METRICS_LIMIT)?;
        stream.set_read_timeout(Some(METRICS_LIMIT))?;
        stream.write_all(
            format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
        )?;
        let mut bytes = Vec::new();
        stream.take(METRICS_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|e| format!("{address}: {e}\n"))
}

/// Logs of the run directory, CNI configurations, the resolvers, the configuration file.
fn files(asked: &Asked) -> Vec<(String, PathBuf)> {
    let mut found = vec![
        ("resolv.conf".to_owned(), PathBuf::from("/etc/resolv.conf")),
        ("config.yaml".to_owned(), PathBuf::from(warren_types::defaults::CONFIG_FILE)),
    ];
    let config = &asked.config;
    for (place, dir, kinds) in [
        ("logs", &config.run_dir, &["log"][..]),
        ("cni", &config.cni_conf_dir, &["conf", "conflist", "json"][..]),
    ] {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|e| e.path()).filter(|p| p.is_file()).collect();
        paths.retain(|p| p.extension().and_then(|e| e.to_str()).is_some_and(|e| kinds.contains(&e)));
        paths.sort();
        let named =
            |p: PathBuf| (format!("{place}/{}", p.file_name().unwrap_or_default().to_string_lossy()), p);
        found.extend(paths.into_iter().map(named));
    }
    found.retain(|(_, path)| path.exists());
    found
}

/// The end of a file.
fn tail(path: &Path) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn pack(to: &Path, entries: &[(String, Content)], redactor: &Redactor) -> io::Result<()> {
    match std::fs::remove_file(to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    for (name, content) in entries {
        let text = match content {
            Content::Json(value) => redactor.json(value),
            Content::Text(text) => redactor.text(text),
        };
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        archive.append_data(&mut header, format!("warren-doctor/{name}"), text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.sync_all()
}
