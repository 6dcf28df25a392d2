//! The sysctls that forwarding between pods needs, and what connections through Services want of connection tracking.

use std::io;
use std::sync::Arc;

use warren_netlink::sysctl::{self, SysctlOutcome};
use warren_types::marks::TUNNEL_LINK;

/// Is told a sysctl and its value before it is changed, so that it can be put back. When it fails, nothing is changed.
pub type NoteSysctl = Arc<dyn Fn(&str, &str) -> io::Result<()> + Send + Sync>;

const FORWARD_V4: &str = "net/ipv4/ip_forward";
const FORWARD_V6: &str = "net/ipv6/conf/all/forwarding";
/// Seconds that connection tracking remembers a connection one side of which has ended (`CLOSE_WAIT`).
const HALF_CLOSED: &str = "net/netfilter/nf_conntrack_tcp_timeout_close_wait";
/// What kube-proxy sets it to. By the kernel's own minute, the side that still sends loses its connection to a Service.
const HALF_CLOSED_SECONDS: u32 = 3600;

/// Lets this host forward packets of the families that pods have. What could not be had, in words. Blocking, and in the
/// namespace of the calling thread.
pub(crate) fn forwarding(v4: bool, v6: bool, note: &NoteSysctl) -> Vec<String> {
    let mut missing = Vec::new();
    if v4 {
        missing.extend(set(FORWARD_V4, "1", Some(note)));
    }
    if v6 && sysctl::get(FORWARD_V6).ok().flatten().as_deref() != Some("1") {
        // A host that forwards does not take routes from router advertisements any more, unless told to (2).
        for link in links_of_v6() {
            let key = format!("net/ipv6/conf/{link}/accept_ra");
            if sysctl::get(&key).ok().flatten().as_deref() == Some("1") {
                missing.extend(set(&key, "2", Some(note)));
            }
        }
        missing.extend(set(FORWARD_V6, "1", Some(note)));
    }
    remember_half_closed(note);
    missing
}

/// Only ever raised. Forwarding does not depend on it, so a host that does not let it be written is none the worse.
fn remember_half_closed(note: &NoteSysctl) {
    let now = sysctl::get(HALF_CLOSED).ok().flatten().and_then(|text| text.trim().parse::<u32>().ok());
    if now.is_some_and(|seconds| seconds < HALF_CLOSED_SECONDS)
        && let Some(reason) = set(HALF_CLOSED, &HALF_CLOSED_SECONDS.to_string(), Some(note))
    {
        tracing::debug!(reason, "half-closed connections are forgotten sooner");
    }
}

/// Fits the tunnel link for packets whose sender has another way back: replies of a node's own addresses. These go with
/// the link, so nobody has to put them back.
pub(crate) fn tunnel_link() -> Vec<String> {
    let v4 = |key: &str| format!("net/ipv4/conf/{TUNNEL_LINK}/{key}");
    let v6 = |key: &str| format!("net/ipv6/conf/{TUNNEL_LINK}/{key}");
    let mut missing: Vec<String> = set(&v4("rp_filter"), "2", None).into_iter().collect();
    missing.extend(set(&v4("forwarding"), "1", None));
    for (key, value) in [("accept_ra", "0"), ("accept_redirects", "0")] {
        missing.extend(set(&v6(key), value, None));
    }
    missing.extend(set(&v4("accept_redirects"), "0", None));
    missing.extend(set(&v4("send_redirects"), "0", None));
    missing
}

/// Links, and `default` for those to come. Warren's own take no router advertisements at all.
fn links_of_v6() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc/sys/net/ipv6/conf") else { return Vec::new() };
    let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|n| n != "all" && !n.starts_with("wrn")).collect();
    names.sort();
    names
}

/// `None` when it has the value, or does not exist (a kernel without IPv6); else what is wrong.
fn set(key: &str, value: &str, note: Option<&NoteSysctl>) -> Option<String> {
    let before = match sysctl::get(key) {
        Ok(Some(before)) => before,
        Ok(None) => return None,
        Err(e) => return Some(e.to_string()),
    };
    if before == value {
        return None;
    }
    if let Some(note) = note
        && let Err(e) = note(key, &before)
    {
        return Some(format!("{key} stays {before}: its value cannot be noted down for uninstall: {e}"));
    }
    match sysctl::set(key, value) {
        Ok(SysctlOutcome::Unavailable) => {
            Some(format!("{key} is {before}, should be {value}, and is read-only here"))
        }
        Ok(_) => {
            tracing::info!(key, before, value, "sysctl set");
            None
        }
        Err(e) => Some(e.to_string()),
    }
}
