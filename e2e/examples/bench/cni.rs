//! CNI ADD and DEL, at several concurrencies, beside the reference plugins bridge + host-local + portmap.

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use warren_e2e::lab::{Lab, succeeded};
use warren_e2e::netns;
use warren_e2e::runtime::{Latencies, Runtime, call, fresh_netns, timed};

const PODS: usize = 100;
const CONCURRENCIES: [usize; 3] = [1, 8, 32];

/// One line of the result.
struct Line {
    who: &'static str,
    verb: &'static str,
    concurrency: usize,
    took: Latencies,
}

pub(super) fn run(as_json: bool) -> Result<()> {
    // Room for all rounds: released addresses rest for a while.
    let lab = Lab::up("bench-cni", &["--nodes", "1", "--pods", "0", "--node-prefix-v4", "20"])?;
    let runtime = Runtime::new(&lab, "node-1")?;
    let mut lines = Vec::new();
    // A few to warm the page cache and the sockets, for either side.
    runtime.add_many(4, 2)?;
    runtime.del_many(4, 2)?;
    for concurrency in CONCURRENCIES {
        let (_, took) = runtime.add_many(PODS, concurrency)?;
        lines.push(Line { who: WARREN, verb: "ADD", concurrency, took });
        lines.push(Line {
            who: WARREN,
            verb: "DEL",
            concurrency,
            took: runtime.del_many(PODS, concurrency)?,
        });
    }
    lab.done()?;
    lines.extend(netns::join(std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        peer()
    }))?);
    if as_json {
        print_json(&lines)
    } else {
        print_table(&lines)
    }
    Ok(())
}

const WARREN: &str = "warren";
const PEER: &str = "bridge+host-local+portmap";

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}

fn print_json(lines: &[Line]) {
    let lines = lines.iter().map(|line| {
        json!({
            "who": line.who, "verb": line.verb, "concurrency": line.concurrency, "pods": PODS,
            "p50_ms": ms(line.took.quantile(0.5)), "p99_ms": ms(line.took.quantile(0.99)),
        })
    });
    println!("{:#}", lines.collect::<Value>());
}

fn print_table(lines: &[Line]) {
    println!("CNI, {PODS} pods, milliseconds     {WARREN:>16}      {PEER:>26}");
    println!("verb  at once                      p50      p99            p50      p99     faster (p50)");
    for own in lines.iter().filter(|l| l.who == WARREN) {
        let same = |l: &&Line| l.who == PEER && l.verb == own.verb && l.concurrency == own.concurrency;
        let Some(peer) = lines.iter().find(same) else { continue };
        let at = |line: &Line, q| ms(line.took.quantile(q));
        println!(
            "{:<5} {:>7}                  {:>7.1}  {:>7.1}        {:>7.1}  {:>7.1}     {:.1} times",
            own.verb,
            own.concurrency,
            at(own, 0.5),
            at(own, 0.99),
            at(peer, 0.5),
            at(peer, 0.99),
            at(peer, 0.5) / at(own, 0.5)
        );
    }
}

/// The reference plugins, in the calling thread's network namespace.
fn peer() -> Result<Vec<Line>> {
    let dir = tempfile::tempdir()?;
    let plugins = ["/usr/lib/cni", "/opt/cni/bin"].iter().map(Path::new).find(|d| d.join("bridge").is_file());
    let plugins =
        plugins.context("the reference plugins; type: apt-get install -y containernetworking-plugins")?;
    let bridge = json!({
        "cniVersion": "1.0.0", "name": "peer", "type": "bridge", "bridge": "peer0", "isGateway": true, "ipMasq": false,
        "ipam": {"type": "host-local", "dataDir": dir.path(), "ranges": [[{"subnet": "10.99.0.0/16"}]],
                 "routes": [{"dst": "0.0.0.0/0"}]}
    });
    let portmap = json!({"cniVersion": "1.0.0", "name": "peer", "type": "portmap", "snat": true});
    let chain = [(plugins.join("bridge"), bridge), (plugins.join("portmap"), portmap)];
    let own = File::open("/proc/thread-self/ns/net")?;
    let mut lines = Vec::new();
    // The first makes the bridge.
    round(&chain, plugins, &own, 1, 1)?;
    for concurrency in CONCURRENCIES {
        let (add, del) = round(&chain, plugins, &own, PODS, concurrency)?;
        lines.push(Line { who: PEER, verb: "ADD", concurrency, took: add });
        lines.push(Line { who: PEER, verb: "DEL", concurrency, took: del });
    }
    Ok(lines)
}

/// `count` pods come and go.
fn round(
    chain: &Chain,
    dir: &Path,
    own: &File,
    count: usize,
    concurrency: usize,
) -> Result<(Latencies, Latencies)> {
    let namespaces: Vec<File> = (0..count).map(|_| fresh_netns()).collect::<Result<_>>()?;
    let results: Mutex<Vec<Value>> = Mutex::new(vec![Value::Null; count]);
    let results = || results.lock().unwrap_or_else(PoisonError::into_inner);
    let added = timed(count, concurrency, |n| {
        nix::sched::setns(own, CloneFlags::CLONE_NEWNET)?;
        let result = one(chain, dir, n, namespaces.get(n).context("a namespace")?)?;
        if let Some(place) = results().get_mut(n) {
            *place = result;
        }
        Ok(())
    })?;
    let results = results().clone();
    let removed = timed(count, concurrency, |n| {
        nix::sched::setns(own, CloneFlags::CLONE_NEWNET)?;
        let (ns, result) = (namespaces.get(n).context("a namespace")?, results.get(n).context("a result")?);
        remove(chain, dir, n, ns, result)
    })?;
    let times = |all: Vec<((), Duration)>| -> Latencies {
        all.into_iter().map(|(_, took)| took).collect::<Vec<_>>().into()
    };
    Ok((times(added), times(removed)))
}

type Chain = [(PathBuf, Value)];

fn plugin(verb: &str, program: &Path, dir: &Path, n: usize, ns: &File, config: &Value) -> Result<String> {
    let (id, dir) = (format!("peer-{n}"), dir.display().to_string());
    let netns = format!("/proc/{}/fd/{}", std::process::id(), ns.as_raw_fd());
    let env = [
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", &id),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", &dir),
        ("CNI_NETNS", &netns),
        ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    ];
    succeeded(&format!("{} {verb}", program.display()), &call(program, &env, config.to_string().as_bytes())?)
}

/// ADD through the chain, each plugin with the result of the one before.
fn one(chain: &Chain, dir: &Path, n: usize, ns: &File) -> Result<Value> {
    let mut result = Value::Null;
    for (program, config) in chain {
        let mut config = config.clone();
        if !result.is_null() {
            config["prevResult"] = result;
        }
        result = serde_json::from_str(&plugin("ADD", program, dir, n, ns, &config)?)?;
    }
    ensure!(result["ips"].is_array(), "the reference plugins gave no address: {result}");
    Ok(result)
}

fn remove(chain: &Chain, dir: &Path, n: usize, ns: &File, result: &Value) -> Result<()> {
    for (program, config) in chain.iter().rev() {
        let mut config = config.clone();
        config["prevResult"] = result.clone();
        plugin("DEL", program, dir, n, ns, &config)?;
    }
    Ok(())
}
