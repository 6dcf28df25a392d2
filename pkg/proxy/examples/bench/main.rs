//! `cargo xtask bench proxy`: how long changes of Services take to reach the kernel, and what connections to them cost.
//!
//! Each size has a network namespace of its own, with a real store and the real runner. The peer is `nft -f` with the rules
//! that one chain a Service and one an endpoint come to: what a proxy does that writes the whole table.

mod cluster;
mod packets;
mod peer;
mod pods;

use anyhow::{Context as _, Result, ensure};
use cluster::Cluster;
use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use std::time::{Duration, Instant};

const SIZES: [usize; 3] = [100, 1_000, 10_000];
const REPEATS: usize = 60;
/// Between two changes, so that each is made at once.
const PAUSE: Duration = Duration::from_millis(25);

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let as_json = args.next().is_some_and(|output| output == "json");
    let seconds = args.next().map_or(Ok(60), |text| text.parse()).context("seconds of churn")?;
    // For whoever looks at one thing: without it, all is measured.
    let packets_alone = args.next().is_some_and(|what| what == "packets");
    let mut all = serde_json::Map::new();
    let mut show = |name: String, value: serde_json::Value| {
        if !as_json {
            println!("{name:<46} {value}");
        }
        all.insert(name, value);
    };
    for size in SIZES.into_iter().filter(|_| !packets_alone) {
        for (name, value) in in_namespace(move || sized(size))? {
            show(format!("{size} Services: {name}"), value);
        }
    }
    if !packets_alone {
        for (name, value) in in_namespace(move || churn(seconds))? {
            show(name, value);
        }
    }
    for (name, value) in in_namespace(packets::measure)? {
        show(name, value);
    }
    if as_json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(())
}

/// Names and figures.
type Figures = Vec<(String, serde_json::Value)>;

/// Runs on a thread in a network namespace of its own.
fn in_namespace(work: impl FnOnce() -> Result<Figures> + Send + 'static) -> Result<Figures> {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace needs root")?;
        work()
    });
    thread.join().map_err(|_| anyhow::anyhow!("a measurement panicked"))?
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100_000.0).round() / 100.0
}

/// Median and 99th of a hundred, in ms.
fn spread(mut times: Vec<Duration>) -> serde_json::Value {
    times.sort();
    let at = |part: f64| {
        times.get(((times.len() - 1) as f64 * part).round() as usize).copied().unwrap_or_default()
    };
    json!({ "p50_ms": ms(at(0.5)), "p99_ms": ms(at(0.99)) })
}

fn sized(size: usize) -> Result<Figures> {
    let before = resident()?;
    let cluster = Cluster::new(size)?;
    let rows = resident()?;
    let begun = Instant::now();
    cluster.start();
    cluster.loaded()?;
    let first = begun.elapsed();
    let loaded = resident()?;
    let mut endpoints = Vec::new();
    for turn in 0..REPEATS {
        std::thread::park_timeout(PAUSE);
        endpoints.push(cluster.timed(|| cluster.move_endpoint(turn * 7 % size, turn))?);
    }
    let mut services = Vec::new();
    for turn in 0..REPEATS {
        std::thread::park_timeout(PAUSE);
        cluster.put_slice(size + turn, turn)?;
        services.push(cluster.timed(|| cluster.put_service(size + turn))?);
    }
    let repairs = cluster.figures().comparisons;
    ensure!(repairs <= 2, "the kernel was compared {repairs} times: changes were refused");
    let rewrite = peer::write(size)?;
    Ok(vec![
        ("first full load, ms".into(), json!(ms(first))),
        ("one endpoint change".into(), spread(endpoints)),
        ("one Service added".into(), spread(services)),
        ("full load by nft -f, ms".into(), json!(ms(rewrite))),
        ("memory of rows, MiB".into(), json!(rows.saturating_sub(before) / (1 << 20))),
        ("memory of the proxy besides, MiB".into(), json!(loaded.saturating_sub(rows) / (1 << 20))),
    ])
}

/// 1,000 changes a second of endpoints among 1,000 Services.
fn churn(seconds: u64) -> Result<Figures> {
    const RATE: u64 = 1_000;
    let cluster = Cluster::new(1_000)?;
    cluster.start();
    cluster.loaded()?;
    let (cpu, figures, begun) = (processor_time()?, cluster.figures(), Instant::now());
    for turn in 0..RATE * seconds {
        let due = begun + Duration::from_micros(turn * 1_000_000 / RATE);
        if let Some(rest) = due.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(rest);
        }
        let turn = usize::try_from(turn)?;
        cluster.move_endpoint(turn * 7 % 1_000, turn)?;
    }
    let took = begun.elapsed().as_secs_f64();
    let spent = (processor_time()? - cpu).as_secs_f64();
    let after = cluster.figures();
    let name = format!("1,000 changes a second for {seconds} s");
    Ok(vec![(
        name,
        json!({
            "changes_per_second": (RATE as f64 * seconds as f64 / took).round(),
            "transactions_per_second": ((after.changes - figures.changes) as f64 / took).round(),
            "processor_percent_of_a_core": (spent / took * 1000.0).round() / 10.0,
            "comparisons": after.comparisons - figures.comparisons,
        }),
    )])
}

/// Bytes of memory that this process holds.
fn resident() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// Of all threads, in the kernel too.
fn processor_time() -> Result<Duration> {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)?;
    let of = |time: nix::sys::time::TimeVal| -> Result<Duration> {
        Ok(Duration::new(time.tv_sec().try_into()?, u32::try_from(time.tv_usec())? * 1000))
    };
    Ok(of(usage.user_time())? + of(usage.system_time())?)
}
