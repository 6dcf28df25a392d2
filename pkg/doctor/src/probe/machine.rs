//! The kernel's state: links, routes, rules of all programs, sysctls, processes, listeners, clock, memory.

use crate::facts::{Facts, Held, Proc};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use warren_netlink::nft::Nft;
use warren_netlink::nft::ruleset::AnyTable;
use warren_netlink::{Link, Netlink, NetlinkError, Route, Rule, host, listeners, sysctl};
use warren_types::marks::ROUTE_PROTOCOL;

/// Keys that are read; `*` stands for every link.
const SYSCTLS: &[&str] = &[
    "net/ipv4/ip_forward",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_local_reserved_ports",
    "net/ipv4/conf/*/rp_filter",
    "net/ipv4/conf/*/route_localnet",
    "net/ipv6/conf/all/disable_ipv6",
    "net/ipv6/conf/*/forwarding",
    "net/ipv6/conf/*/accept_ra",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_count",
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "fs/inotify/max_user_instances",
    "fs/inotify/max_user_watches",
];

/// What netlink tells of the host.
#[derive(Debug)]
pub(crate) struct HostTables {
    pub(crate) links: Vec<Link>,
    pub(crate) addresses: Vec<(u32, IpNet)>,
    pub(crate) routes: Vec<Route>,
    /// Routing rules of Warren.
    pub(crate) rules: Vec<Rule>,
    pub(crate) nftables: Vec<AnyTable>,
}

/// Reads it.
pub(crate) async fn host_tables() -> Result<HostTables, NetlinkError> {
    let netlink = Netlink::current()?;
    Ok(HostTables {
        links: netlink.list_links().await?,
        addresses: netlink.list_addresses(None).await?,
        routes: netlink.list_routes(None).await?,
        rules: netlink.list_rules(ROUTE_PROTOCOL).await?,
        nftables: Nft::current()?.list_all().await?,
    })
}

pub(super) async fn gather(facts: &mut Facts) {
    let word = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    facts.hostname = word("/proc/sys/kernel/hostname");
    facts.kernel_release = word("/proc/sys/kernel/osrelease");
    facts.booted_seconds_ago = host::boottime().map(|t| t.as_secs()).unwrap_or(0);
    facts.now = jiff::Timestamp::now().as_second();
    facts.clock_kept = host::clock_is_synchronised().map_err(|e| e.to_string());
    facts.sysctls = sysctls();
    facts.memory_kib = memory();
    match host_tables().await {
        Ok(tables) => {
            facts.wireless = tables.links.iter().map(|l| l.name.clone()).filter(|l| is_wireless(l)).collect();
            facts.links = Ok(tables.links);
            facts.addresses = tables.addresses;
            facts.routes = Ok(tables.routes);
            facts.ruleset = Ok(tables.nftables);
        }
        Err(e) => {
            facts.links = Err(e.to_string());
            facts.routes = Err(e.to_string());
            facts.ruleset = Err(e.to_string());
        }
    }
    facts.legacy_tables = ["/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"]
        .into_iter()
        .flat_map(|path| word(path).split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    facts.processes = Ok(processes());
    facts.held = held(facts);
}

fn is_wireless(link: &str) -> bool {
    let dir = Path::new("/sys/class/net").join(link);
    dir.join("wireless").exists() || dir.join("phy80211").exists()
}

fn sysctls() -> BTreeMap<String, String> {
    let links = |key: &str| -> Vec<String> {
        let dir = Path::new("/proc/sys").join(key);
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().into_string().ok()).collect()
    };
    let mut found = BTreeMap::new();
    for pattern in SYSCTLS {
        let keys = match pattern.split_once('*') {
            None => vec![(*pattern).to_owned()],
            Some((dir, rest)) => links(dir).into_iter().map(|link| format!("{dir}{link}{rest}")).collect(),
        };
        for key in keys {
            if let Ok(Some(value)) = sysctl::get(&key) {
                found.insert(key, value);
            }
        }
    }
    found
}

fn memory() -> Result<u64, String> {
    let text = std::fs::read_to_string("/proc/meminfo").map_err(|e| e.to_string())?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let number = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| "the kernel does not say".into())
}

/// Those in this network namespace: a cluster's own programs run in pods' and are nobody's rivals.
fn processes() -> Vec<Proc> {
    let Ok(own) = std::fs::metadata("/proc/thread-self/ns/net") else { return Vec::new() };
    let here = |pid: u32| {
        std::fs::metadata(format!("/proc/{pid}/ns/net"))
            .is_ok_and(|m| (m.dev(), m.ino()) == (own.dev(), own.ino()))
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse().ok());
    let mut found: Vec<Proc> = pids.filter(|pid| here(*pid)).filter_map(process).collect();
    found.sort_by_key(|p| p.pid);
    found
}

fn process(pid: u32) -> Option<Proc> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned();
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let args = line.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
    Some(Proc { pid, name, args })
}

/// Listeners on ports that Warren wants, and who has them.
fn held(facts: &Facts) -> Result<Vec<Held>, String> {
    let s = &facts.settings;
    let mut ports = BTreeSet::from([53, s.tunnel_port, s.health_port]);
    ports.extend(s.ingress.into_iter().flatten());
    let mut found = listeners::current().map_err(|e| e.to_string())?;
    found.retain(|l| ports.contains(&l.address.port()));
    let holders = listeners::processes_of(&found.iter().map(|l| l.inode).collect());
    let held = found.into_iter().map(|listener| {
        let process = holders.get(&listener.inode);
        let holder = process.map_or_else(|| "a process that cannot be seen".into(), ToString::to_string);
        let name = process.map(|p| program(p.pid).unwrap_or_else(|| p.name.clone())).unwrap_or_default();
        Held { listener, holder, name }
    });
    Ok(held.collect())
}

/// The name of the program that a process runs: its short name is `exe` where it was started through `/proc/self/exe`.
fn program(pid: u32) -> Option<String> {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(path.file_name()?.to_string_lossy().into_owned())
}
