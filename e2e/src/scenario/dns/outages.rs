//! The API is away, or never was there; and so the upstream.

use super::{EVIL, KUBERNETES, KUBERNETES_IP, Names, SERVERS, finished, specification};
use crate::dig::Dig;
use crate::eventually;
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A name of the file that is asked when the API is away.
const KNOWN: &str = "web.shop.svc.cluster.local";
const NOWHERE: &str = "nothing.shop.svc.cluster.local";
/// What a boot may take.
const BOOT: Duration = Duration::from_secs(20);
/// How much slower than at other times 99 of 100 answers of the cluster's names may be.
const SLOWER_US: u64 = 1_000;
/// It is measured so often at most: what others do on this machine may meet one node more than the other, on a busy one half of
/// the times. A server that is slower is so each time.
const MEASURED: usize = 12;

/// Asks until the right answer comes; any other must be none at all, or one that tells nothing. Returns what came before.
fn never_wrong(names: &Names<'_>, from: &str, limit: Duration) -> Result<(Duration, BTreeMap<String, u32>)> {
    let (start, mut before) = (Instant::now(), BTreeMap::new());
    loop {
        let dig = Dig { patience: 1, ..Dig::new(from, SERVERS[0].parse()?) };
        // The pod itself may not be there yet.
        let said = dig.ask(names.battery, KUBERNETES, "A");
        match said {
            Ok(reply) if reply.rcode == "NOERROR" && reply.data("A") == [KUBERNETES_IP] => {
                return Ok((start.elapsed(), before));
            }
            Ok(reply) => {
                let silent = ["TIMEOUT", "SERVFAIL", "REFUSED"].contains(&&*reply.rcode);
                ensure!(silent, "a name that exists: {reply:?}");
                *before.entry(reply.rcode).or_default() += 1;
            }
            Err(_) => *before.entry("no pod".into()).or_default() += 1,
        }
        ensure!(start.elapsed() < crate::patient(limit), "no answer within {limit:?}: {before:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// The API goes away: names stay, over restarts of the agent and of the node, and none is denied that exists.
///
/// # Errors
/// When one is.
pub fn api_away(names: &Names<'_>) -> Result<()> {
    let b = names.battery;
    let lab = b.lab();
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    b.objects().apply(&object)?;
    b.objects().apply(
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"clusterIP": "10.43.0.20", "ports": [{"port": 80}]}}),
    )?;
    for from in ["n1a", "n2a", "n3a"] {
        eventually(Duration::from_secs(5), || names.addresses(from, KNOWN))?;
    }
    lab.lab(&["service", "node-1", "stop", "server"])?;
    let outcome = without_api(names);
    lab.lab(&["service", "node-1", "start", "server"])?;
    outcome?;
    eventually(BOOT, || b.objects().list("Namespace", ""))?;
    b.objects().delete("Namespace", "", "shop", None)?;
    // What changed is known again.
    let denied = || {
        let reply = names.ask("n2a", KNOWN, "A")?;
        ensure!(reply.rcode == "NXDOMAIN", "{reply:?}");
        Ok(())
    };
    let (_, took) = eventually(BOOT, denied)?;
    println!("dns: API back: what was deleted is denied after {} ms", took.as_millis());
    Ok(())
}

fn without_api(names: &Names<'_>) -> Result<()> {
    let b = names.battery;
    let lab = b.lab();
    let load = names.during("n2a", 200, || {
        let denied = names.ask("n2a", NOWHERE, "A")?;
        ensure!(denied.rcode == "NXDOMAIN", "{denied:?}");
        lab.lab(&["service", "node-2", "stop", "agent"])?;
        lab.lab(&["service", "node-2", "start", "agent"])?;
        lab.agent_ready_within("node-2", BOOT).map(drop)
    })?;
    println!("dns: API away, agent restarted: {load}");
    load.all_right()?;
    // A power cut: what is known is on the disk.
    lab.lab(&["kill", "node-2"])?;
    let start = Instant::now();
    lab.lab(&["start", "node-2"])?;
    let (_, before) = never_wrong(names, "n2a", BOOT)?;
    println!(
        "dns: API away: names served {} ms after power-on, before that {before:?}",
        start.elapsed().as_millis()
    );
    for (server, tcp) in SERVERS.iter().flat_map(|s| [(s, false), (s, true)]) {
        let dig = Dig { tcp, ..Dig::new("n2a", server.parse()?) };
        specification::play_zone(b, dig, "what was known last is served", "")?;
    }
    // And of one that was never there, nothing is said either way.
    nothing_known(names)
}

/// A node whose agent knows nothing of the cluster says nothing of its names, and answers when it knows.
fn nothing_known(names: &Names<'_>) -> Result<()> {
    let b = names.battery;
    let lab = b.lab();
    let node = "node-3";
    lab.lab(&["service", node, "stop", "agent"])?;
    let addresses = SERVERS.join(",");
    let script = format!(
        "rm -rf /var/lib/warren/agent/store && echo 'cluster-dns: \"{addresses}\"' > /etc/warren/config.yaml"
    );
    lab.exec(node, &["sh", "-c", &script])?;
    lab.lab(&["service", node, "start", "agent"])?;
    let served = || {
        let reply = names.ask("n3a", KUBERNETES, "A")?;
        ensure!(reply.rcode == "SERVFAIL", "{reply:?}");
        Ok(reply.rcode)
    };
    let (rcode, took) = eventually(BOOT, served)?;
    println!("dns: nothing known: {rcode} after {} ms", took.as_millis());
    for tcp in [false, true] {
        // Of a range that it does not know, the reverse names are the upstream's. A question from the address of the server
        // itself is the node's own; all others are of nobody who is known.
        let dig = Dig { tcp, ..Dig::new(node, SERVERS[0].parse()?) };
        let asked = specification::play_zone(b, dig, "nothing is known yet", "1.0.43.10.in-addr.arpa")?;
        for (from, server) in [("n3a", SERVERS[0]), ("n3a", SERVERS[1]), (node, SERVERS[1])] {
            let reply = Dig { tcp, ..Dig::new(from, server.parse()?) }.ask(b, KUBERNETES, "A")?;
            ensure!(reply.rcode == "SERVFAIL", "{from} at {server}: {reply:?}");
        }
        println!("dns: nothing known: {asked} questions as specified");
    }
    lab.lab(&["service", "node-1", "start", "server"])?;
    let (took, before) = never_wrong(names, "n3a", BOOT)?;
    println!("dns: nothing known: right {} ms after the API came, before that {before:?}", took.as_millis());
    names.configure(node, "")
}

/// The upstream is slow, silent, hostile or gone: the cluster's names are as fast as ever, nobody is told a lie, and of names that
/// nobody speaks of, nothing is said.
///
/// # Errors
/// When the cluster's names are slower, or an answer is wrong.
pub fn upstream_trouble(names: &mut Names<'_>) -> Result<()> {
    measure(names, "normal")?;
    let outcome = (|| {
        for (mode, rcodes) in [
            ("slow", &["NOERROR"][..]),
            ("silent", &["SERVFAIL", "TIMEOUT"]),
            ("wrongid", &["SERVFAIL", "TIMEOUT"]),
            ("wrongname", &["SERVFAIL", "TIMEOUT"]),
            ("garbage", &["SERVFAIL", "TIMEOUT"]),
            ("late", &["NOERROR"]),
            ("poison", &["NOERROR", "SERVFAIL"]),
            ("servfail", &["SERVFAIL"]),
            ("refused", &["SERVFAIL", "REFUSED"]),
        ] {
            names.upstream_is(mode)?;
            trouble(names, mode, rcodes)?;
            names.upstream_is("normal")?;
            recovers(names, mode)?;
        }
        names.stop_upstream();
        trouble(names, "gone", &["SERVFAIL", "TIMEOUT"])?;
        names.start_upstream()?;
        recovers(names, "gone")
    })();
    names.start_upstream()?;
    names.upstream_is("normal")?;
    outcome?;
    let reply = names.ask("n1a", "victim.example", "A")?;
    ensure!(reply.data("A") != [EVIL], "a record that nobody asked for was kept: {reply:?}");
    Ok(())
}

fn trouble(names: &Names<'_>, mode: &str, rcodes: &[&str]) -> Result<()> {
    measure(names, mode)?;
    let dig = Dig { patience: 5, ..Dig::new("n1b", SERVERS[0].parse()?) };
    let name = format!("last.with-{mode}.example");
    let reply = dig.ask(names.battery, &name, "A")?;
    ensure!(rcodes.contains(&&*reply.rcode), "{name}: {reply:?} instead of {rcodes:?}");
    ensure!(!format!("{reply:?}").contains(EVIL), "{name}: {reply:?}");
    Ok(())
}

/// A new name is answered soon after the upstream is well again.
fn recovers(names: &Names<'_>, mode: &str) -> Result<()> {
    let mut tries = 0;
    let (_, took) = eventually(Duration::from_secs(10), || {
        tries += 1;
        names.addresses("n1b", &format!("again-{tries}.after-{mode}.example"))
    })?;
    println!("dns: upstream {mode}: names are resolved {} ms after it is well", took.as_millis());
    Ok(())
}

/// The cluster's names are as fast on a node whose pods ask for outside names, each another one, as at the same time on one whose
/// pods do not.
fn measure(names: &Names<'_>, mode: &str) -> Result<()> {
    let target = format!("{}:53", SERVERS[0]);
    let steady = |from: &str| {
        let words = ["dns", "load", &target, "--name", KUBERNETES, "--expect", KUBERNETES_IP];
        names.battery.start(from, &[&words[..], &["--rate", "200", "--count", "300"]].concat())
    };
    let mut least = u64::MAX;
    for round in 0..MEASURED {
        let outside: Vec<String> = (0..50).map(|n| format!("o{n}.{round}.{mode}-x.example")).collect();
        let words = ["dns", "load", &target, "--name", &outside.join(","), "--rate", "50"];
        let beside = names.battery.start("n1b", &words)?;
        let (here, elsewhere) = (steady("n1a")?, steady("n2a")?);
        let (here, elsewhere) = (finished(here)?, finished(elsewhere)?);
        drop(beside);
        here.all_right().with_context(|| format!("the cluster's names while the upstream is {mode}"))?;
        let slower = here.p99_us.saturating_sub(elsewhere.p99_us);
        least = least.min(slower);
        println!("dns: upstream {mode}: {here}; {slower} µs more than on another node");
        if least <= SLOWER_US {
            return Ok(());
        }
    }
    bail!("the cluster's names are slower by {least} µs while the upstream is {mode}")
}
