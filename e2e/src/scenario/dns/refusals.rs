//! Those who are told nothing, and those who mean no good.

use super::{KUBERNETES, KUBERNETES_IP, Load, Names, SERVERS};
use crate::battery::NODES;
use crate::dig::Dig;
use crate::eventually;
use anyhow::{Context as _, Result, ensure};
use std::time::Duration;

/// Those outside of the cluster learn nothing of its names, by whatever way they come; nodes and pods do.
///
/// # Errors
/// When one learns something.
pub fn strangers_are_refused(names: &Names<'_>) -> Result<()> {
    let b = names.battery;
    for from in NODES.iter().chain(&["n1a", "n2b", "n3a"]) {
        for server in SERVERS {
            let reply = Dig::new(from, server.parse()?).ask(b, KUBERNETES, "A")?;
            ensure!(reply.data("A") == [KUBERNETES_IP], "{from} at {server}: {reply:?}");
        }
    }
    // A way that a LAN may have: the router sends the range of Services to a node.
    let ways = [
        ("outside", "ip route replace 10.43.0.0/16 via 203.0.113.1"),
        ("gateway", "ip route replace 10.43.0.0/16 via 192.168.57.11"),
    ];
    for (place, way) in ways {
        b.exec(place, &way.split(' ').collect::<Vec<_>>())?;
    }
    let mut said = Vec::new();
    for server in [SERVERS[0], "192.168.57.11", "192.168.57.12"] {
        for tcp in [false, true] {
            for name in [KUBERNETES, "www.example.com"] {
                let dig = Dig { tcp, patience: 1, ..Dig::new("outside", server.parse()?) };
                let reply = dig.ask(b, name, "A")?;
                let refused = ["REFUSED", "TIMEOUT"].contains(&&*reply.rcode) && reply.records.is_empty();
                ensure!(refused, "outside learns of {name} at {server}: {reply:?}");
                said.push(format!("{server} {}: {}", if tcp { "TCP" } else { "UDP" }, reply.rcode));
            }
        }
    }
    for (place, way) in ways {
        b.exec(place, &way.replace("replace", "del").split(' ').collect::<Vec<_>>())?;
    }
    // That the question came there at all: else this would say nothing.
    ensure!(
        said.iter().any(|s| s.starts_with(SERVERS[0]) && s.ends_with("REFUSED")),
        "the way is blind: {said:?}"
    );
    println!("dns: outside: {}", said.join(", "));
    Ok(())
}

/// Packets a second of a pod that means no good: less than what fills the kernel's queue of a socket faster than a debug build
/// empties it, and ten times what one client is granted.
const FLOOD: &str = "20000";

/// Pods that send rubbish, answers, too many questions, or open connections and say nothing: others are answered.
///
/// # Errors
/// When they are not.
pub fn bad_clients(names: &Names<'_>) -> Result<()> {
    let b = names.battery;
    for server in SERVERS {
        let target = std::net::SocketAddr::new(server.parse()?, 53).to_string();
        for kind in ["garbage", "answers", "questions"] {
            let flood = b.start("n1b", &["dns", "flood", &target, "--kind", kind, "--rate", FLOOD])?;
            let load = asked(names, server)?;
            let sent: u64 = flood.finish()?.trim().parse()?;
            println!("dns: beside {sent} packets of {kind} at {server}: {load}");
            ensure!(sent > 10_000, "a flood of {sent} packets");
            load.all_right().with_context(|| format!("beside a flood of {kind} at {server}"))?;
        }
        let idle = b.start("n1b", &["dns", "idle", &target, "--connections", "700"])?;
        let load = asked(names, server)?;
        let by_tcp = || {
            let dig = Dig { tcp: true, ..Dig::new("n1a", server.parse()?) };
            let reply = dig.ask(b, KUBERNETES, "A")?;
            ensure!(reply.data("A") == [KUBERNETES_IP], "{reply:?}");
            Ok(())
        };
        let (_, took) = eventually(Duration::from_secs(3), by_tcp)?;
        let opened: u64 = idle.finish()?.trim().parse()?;
        println!(
            "dns: beside {opened} idle connections at {server}: TCP within {} ms; {load}",
            took.as_millis()
        );
        ensure!(opened >= 700, "only {opened} connections were opened");
        load.all_right().with_context(|| format!("beside idle connections at {server}"))?;
    }
    Ok(())
}

fn asked(names: &Names<'_>, server: &str) -> Result<Load> {
    let target = std::net::SocketAddr::new(server.parse()?, 53).to_string();
    let words = [
        "dns",
        "load",
        &target,
        "--name",
        KUBERNETES,
        "--expect",
        KUBERNETES_IP,
        "--rate",
        "200",
        "--count",
        "300",
    ];
    super::finished(names.battery.start("n1a", &words)?)
}
