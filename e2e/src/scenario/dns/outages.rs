//! The API is away, or never was there; and so the upstream.

use super::{EVIL, KUBERNETES, KUBERNETES_IP, Load, Names, SERVERS, finished, specification};
use crate::dig::Dig;
use crate::eventually;
use anyhow::{Context as _, Result, ensure};
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
/// Each figure is the best of so many at most: others who work on this machine make figures only worse.
const MEASURED: usize = 5;

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
        specification::play_zone(b, dig, "what was known last is served")?;
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
    for (server, tcp) in SERVERS.iter().flat_map(|s| [(s, false), (s, true)]) {
        let dig = Dig { tcp, ..Dig::new(node, server.parse()?) };
        let asked = specification::play_zone(b, dig, "nothing is known yet")?;
        println!("dns: nothing known: {asked} questions at {server} as specified");
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
    let normal = measure(names, "normal", 0)?;
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
            trouble(names, mode, rcodes, &normal)?;
            names.upstream_is("normal")?;
            recovers(names, mode)?;
        }
        names.stop_upstream();
        trouble(names, "gone", &["SERVFAIL", "TIMEOUT"], &normal)?;
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

fn trouble(names: &Names<'_>, mode: &str, rcodes: &[&str], normal: &Load) -> Result<()> {
    let load = measure(names, mode, normal.p99_us + SLOWER_US)?;
    let slower = load.p99_us.saturating_sub(normal.p99_us);
    println!("dns: upstream {mode}: {load}; 99 of 100 {slower} µs later than normal");
    ensure!(
        slower <= SLOWER_US,
        "the cluster's names are slower by {slower} µs while the upstream is {mode}"
    );
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

/// Times of the cluster's names while others ask for outside names, each another one; not better than `enough`.
fn measure(names: &Names<'_>, mode: &str, enough: u64) -> Result<Load> {
    let mut best: Option<Load> = None;
    for round in 0..MEASURED {
        let outside: Vec<String> = (0..50).map(|n| format!("o{n}.{round}.{mode}-x.example")).collect();
        let target = format!("{}:53", SERVERS[0]);
        let words = ["dns", "load", &target, "--name", &outside.join(","), "--rate", "50"];
        let beside = names.battery.start("n1b", &words)?;
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
        let load = finished(names.battery.start("n1a", &words)?)?;
        drop(beside);
        load.all_right().with_context(|| format!("the cluster's names while the upstream is {mode}"))?;
        if best.as_ref().is_none_or(|best| load.p99_us < best.p99_us) {
            let last = load.p99_us <= enough;
            best = Some(load);
            if last {
                break;
            }
        }
    }
    best.context("nothing was measured")
}
