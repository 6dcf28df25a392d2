//! Warren's ingress beside nginx and haproxy: `cargo xtask bench ingress`.
//!
//! Each proxy is a process with one thread or worker on the first processor; wrk and the backend, which is an nginx that
//! answers from memory, run on the last one. All of it is in a network namespace of its own, over loopback. The proxies are
//! measured in turns, and the median of the turns counts. Processor time is that of the proxy's process, in the kernel too.

mod proxies;
mod serve;

use anyhow::{Context as _, Result};
use proxies::{Proxy, Who};
use serde_json::json;
use std::process::Command;
use std::time::Duration;

/// Connections that wrk holds.
const CONNECTIONS: &str = "32";

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let output = args.next().unwrap_or_default();
    if output == "serve" {
        return serve::serve(args.next().context("routes")?.parse()?);
    }
    let mut bench = Bench {
        as_json: output == "json",
        seconds: args.next().map_or(Ok(4), |text| text.parse()).context("seconds of a turn")?,
        turns: args.next().map_or(Ok(3), |text| text.parse()).context("turns")?,
        all: serde_json::Map::new(),
    };
    proxies::isolate()?;
    let dir = tempfile::tempdir()?;
    let _backend = proxies::backend(dir.path())?;
    let started = Who::ALL.into_iter().map(|who| Proxy::start(who, dir.path()));
    let proxies = started.collect::<Result<Vec<_>>>()?;
    bench.compare("GET, kept alive", &proxies, &[])?;
    bench.compare("GET, a connection each", &proxies, &["-H", "Connection: close"])?;
    for proxy in &proxies {
        bench
            .show(format!("memory after it: {}", proxy.who.name()), json!({ "mib": proxy.memory()? / 1024 }));
    }
    if bench.as_json {
        println!("{}", serde_json::to_string_pretty(&bench.all)?);
    }
    Ok(())
}

struct Bench {
    as_json: bool,
    seconds: u64,
    turns: usize,
    all: serde_json::Map<String, serde_json::Value>,
}

/// What one turn gave.
#[derive(Clone, Copy, Debug)]
struct Turn {
    per_second: f64,
    micros_each: f64,
    p99_ms: f64,
}

impl Bench {
    fn show(&mut self, name: String, value: serde_json::Value) {
        if !self.as_json {
            println!("{name:<48} {value}");
        }
        self.all.insert(name, value);
    }

    fn compare(&mut self, what: &str, proxies: &[Proxy], wrk: &[&str]) -> Result<()> {
        let mut turns = vec![Vec::new(); proxies.len()];
        for proxy in proxies {
            turn(proxy, 1, wrk)?;
        }
        for _ in 0..self.turns {
            for (proxy, turns) in proxies.iter().zip(&mut turns) {
                turns.push(turn(proxy, self.seconds, wrk)?);
            }
        }
        for (proxy, turns) in proxies.iter().zip(&mut turns) {
            turns.sort_by(|a, b| a.micros_each.total_cmp(&b.micros_each));
            let Turn { per_second, micros_each, p99_ms } = turns[turns.len() / 2];
            let value = json!({
                "requests_per_s": per_second.round(),
                "processor_us_each": (micros_each * 10.0).round() / 10.0,
                "p99_ms": (p99_ms * 100.0).round() / 100.0,
            });
            self.show(format!("{what}: {}", proxy.who.name()), value);
        }
        Ok(())
    }
}

fn turn(proxy: &Proxy, seconds: u64, wrk: &[&str]) -> Result<Turn> {
    let before = proxy.processor_time()?;
    let mut command = Command::new("wrk");
    command.args(["-t1", "--latency", "-c", CONNECTIONS, "-d", &format!("{seconds}s")]).args(wrk);
    command.arg(format!("http://127.0.0.1:{}/hello?x=1", proxy.who.port()));
    let said = proxies::on_last(command)?;
    let spent = proxy.processor_time()? - before;
    let word = |line: &str, at: usize| -> Result<String> {
        let line =
            said.lines().find(|found| found.contains(line)).with_context(|| format!("{line}: {said}"))?;
        Ok(line.split_whitespace().nth(at).context("a word")?.to_owned())
    };
    anyhow::ensure!(!said.contains("Non-2xx"), "{}: {said}", proxy.who.name());
    let requests: f64 = word("requests in", 0)?.parse()?;
    Ok(Turn {
        per_second: word("Requests/sec:", 1)?.parse()?,
        micros_each: spent.as_secs_f64() * 1e6 / requests,
        p99_ms: millis(&word("99%", 1)?)?,
    })
}

/// wrk's way to write times.
fn millis(text: &str) -> Result<f64> {
    let end = text.find(|c: char| c.is_ascii_alphabetic()).context("a unit")?;
    let number: f64 = text[..end].parse()?;
    let unit = match &text[end..] {
        "us" => Duration::from_micros(1),
        "ms" => Duration::from_millis(1),
        _ => Duration::from_secs(1),
    };
    Ok(number * unit.as_secs_f64() * 1e3)
}
