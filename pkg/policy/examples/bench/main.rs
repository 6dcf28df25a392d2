//! `cargo xtask bench policy`: how long changes of pods, labels and policies take to reach the kernel, and what isolation costs
//! a connection.
//!
//! Each size has a network namespace of its own, with a real store and the real runner: 5,000 pods elsewhere, 100 here.

mod cluster;
#[path = "../../../proxy/examples/bench/pods.rs"]
mod pods;

use anyhow::{Context as _, Result, ensure};
use cluster::Cluster;
use nix::sched::{CloneFlags, setns, unshare};
use pods::{PORTS, SERVER, connections, median, pair, serve, throughput};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

const SIZES: [u32; 4] = [0, 10, 100, 1_000];
const REPEATS: u32 = 60;
/// Between two changes, so that each is made at once.
const PAUSE: Duration = Duration::from_millis(25);
const ROUNDS: usize = 5;

/// Names and figures.
type Figures = Vec<(String, Value)>;

fn main() -> Result<()> {
    let as_json = std::env::args().nth(1).is_some_and(|output| output == "json");
    let mut all = serde_json::Map::new();
    for size in SIZES {
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).context("a network namespace needs root")?;
            sized(size)
        });
        for (name, value) in thread.join().map_err(|_| anyhow::anyhow!("a measurement panicked"))?? {
            let name = format!("{size} policies: {name}");
            if !as_json {
                println!("{name:<44} {value}");
            }
            all.insert(name, value);
        }
    }
    if as_json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(())
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100_000.0).round() / 100.0
}

/// Median and 99th of a hundred, in ms.
fn spread(mut times: Vec<Duration>) -> Value {
    times.sort();
    let last = times.len().saturating_sub(1);
    let at = |percent: usize| times.get(last * percent / 100).copied().unwrap_or_default();
    json!({ "p50_ms": ms(at(50)), "p99_ms": ms(at(99)) })
}

fn sized(size: u32) -> Result<Figures> {
    let (client, server) = pair()?;
    let before = resident()?;
    let cluster = Cluster::new(size)?;
    let rows = resident()?;
    let begun = Instant::now();
    cluster.start()?;
    let first = begun.elapsed();
    let loaded = resident()?;
    let mut out: Figures = vec![
        ("first full load, ms".into(), json!(ms(first))),
        ("elements".into(), json!(cluster.elements())),
        ("memory of rows, MiB".into(), json!(rows.saturating_sub(before) / (1 << 20))),
        ("memory of policy besides, MiB".into(), json!(loaded.saturating_sub(rows) / (1 << 20))),
    ];
    if size > 0 {
        let times = |change: &dyn Fn(u32) -> Result<()>| -> Result<Value> {
            let mut times = Vec::new();
            for turn in 0..REPEATS {
                std::thread::park_timeout(PAUSE);
                times.push(cluster.timed(|| change(turn))?);
            }
            Ok(spread(times))
        };
        // Of the app that the first policy lets in.
        out.push(("a pod elsewhere moves".into(), times(&|turn| cluster.move_pod(0, turn + 1))?));
        // To an app that the first policy isolates, and away.
        out.push(("a pod's label changes".into(), times(&|turn| cluster.label(50, (turn + 1) % 2 * 39))?));
        out.push(("a policy changes".into(), times(&|turn| cluster.change_policy(0, turn % 2 + 1))?));
        let repairs = cluster.figures().comparisons;
        ensure!(repairs <= 2, "the kernel was compared {repairs} times: changes were refused");
    }
    let received = Arc::new(AtomicU64::new(0));
    serve(server, received.clone())?;
    let thread = std::thread::spawn(move || {
        setns(&client, CloneFlags::CLONE_NEWNET)?;
        let at = SocketAddr::from((SERVER, PORTS[0]));
        let (mut rates, mut bytes) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            rates.push(connections(at)?);
            bytes.push(throughput(at, &received)?);
        }
        anyhow::Ok((median(rates), median(bytes)))
    });
    let (rate, bytes) = thread.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
    out.push(("connections a second to a pod of this node".into(), json!(rate.round())));
    out.push(("Mbit/s of one stream".into(), json!(bytes.round())));
    Ok(out)
}

/// Bytes of memory that this process holds.
fn resident() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}
