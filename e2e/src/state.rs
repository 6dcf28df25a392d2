//! A namespace's configuration as text, to compare before and after.

use crate::Lab;
use anyhow::Result;

/// Links, addresses, routes, rules, nftables and the sysctls that Warren may set, of one node of a lab. Counters, timers
/// and indices that change by themselves are left out.
///
/// # Errors
/// When the node does not answer.
pub fn dump(lab: &Lab, node: &str) -> Result<String> {
    let mut text = String::new();
    let commands: &[&[&str]] = &[
        &["ip", "-o", "link", "show"],
        &["ip", "-o", "addr", "show", "permanent"],
        &["ip", "-4", "route", "show", "table", "all"],
        &["ip", "-6", "route", "show", "table", "all"],
        &["ip", "-4", "rule", "show"],
        &["ip", "-6", "rule", "show"],
        &["nft", "-s", "list", "ruleset"],
    ];
    for command in commands {
        text += &format!("# {}\n{}\n", command.join(" "), lab.exec(node, command)?);
    }
    for tree in ["/proc/sys/net/ipv4", "/proc/sys/net/ipv6"] {
        let find = format!(
            "find {tree} -type f \\( -name ip_forward -o -name forwarding -o -name rp_filter -o -name accept_ra \
             -o -name src_valid_mark -o -name proxy_arp -o -name disable_ipv6 \\) | sort | xargs grep -H ."
        );
        text += &lab.exec(node, &["sh", "-c", &find])?;
    }
    Ok(text)
}
