//! Warren's DNS server beside unbound and knot: `cargo xtask bench dns`.
//!
//! Each server is a process with one thread for questions, on one processor, in a network namespace of its own; dnsperf asks
//! from another namespace over a veth pair, on another processor. All know the same Services: Warren as rows in its store, the
//! others as zone files. They are measured in turns, and the median of the turns counts. Processor time is that of the server's
//! process, in the kernel too.

mod load;
mod names;
mod serve;
mod servers;

use anyhow::{Context as _, Result};
use load::Run;
use names::Kind;
use serde_json::json;
use servers::{Server, Who};
use std::path::PathBuf;
use std::time::Duration;

const SIZES: [usize; 2] = [1_000, 10_000];
/// Questions a second where the rate is fixed, and where every answer is looked at.
const RATE: u64 = 60_000;
const LATENCY_RATE: u64 = 10_000;
const IDLE: Duration = Duration::from_secs(5);

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let output = args.next().unwrap_or_default();
    if output == "serve" {
        let services = args.next().context("Services")?.parse()?;
        return serve::serve(services, &PathBuf::from(args.next().context("a directory")?));
    }
    let mut bench = Bench {
        as_json: output == "json",
        seconds: args.next().map_or(Ok(3), |text| text.parse()).context("seconds of a turn")?,
        turns: args.next().map_or(Ok(3), |text| text.parse()).context("turns")?,
        all: serde_json::Map::new(),
    };
    let one = servers::processors() == 1;
    bench.show(
        "server and dnsperf".into(),
        json!(if one { "share a processor" } else { "on a processor each" }),
    );
    for services in SIZES {
        let servers =
            Who::ALL.into_iter().map(|who| Server::start(who, services)).collect::<Result<Vec<_>>>()?;
        bench.cluster(&servers, services)?;
        if Some(&services) == SIZES.last() {
            bench.others(&servers, services)?;
            bench.idle(&servers)?;
        }
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

impl Bench {
    fn show(&mut self, name: String, value: serde_json::Value) {
        if !self.as_json {
            println!("{name:<64} {}", words(&value));
        }
        self.all.insert(name, value);
    }

    /// All servers in turns.
    fn measure(
        &mut self,
        what: &str,
        servers: &[&Server],
        kind: Kind,
        services: usize,
        rate: Option<u64>,
    ) -> Result<()> {
        let mut runs = vec![Vec::new(); servers.len()];
        for server in servers {
            load::run(server, kind, services, 1, rate)?;
        }
        for _ in 0..self.turns {
            for (server, runs) in servers.iter().zip(&mut runs) {
                runs.push(load::run(server, kind, services, self.seconds, rate)?);
            }
        }
        for (server, runs) in servers.iter().zip(&runs) {
            self.show(
                format!("{services} Services, {what}: {}", server.who.name()),
                Run::median(runs).json(),
            );
        }
        Ok(())
    }

    fn cluster(&mut self, servers: &[Server], services: usize) -> Result<()> {
        let all: Vec<&Server> = servers.iter().collect();
        self.measure(&format!("A at {RATE}/s"), &all, Kind::Cluster, services, Some(RATE))?;
        self.measure("A at full speed", &all, Kind::Cluster, services, None)?;
        for server in servers {
            let (p50, p99) = load::latency(server, services, self.seconds, LATENCY_RATE)?;
            self.show(
                format!("{services} Services, A at {LATENCY_RATE}/s: {}", server.who.name()),
                json!({ "p50_us": p50, "p99_us": p99 }),
            );
        }
        for server in servers {
            let mut memory = json!({ "memory_mib": server.memory()? / 1024 });
            if let Some(before) = server.before {
                memory["of_it_store_and_rows_mib"] = json!(before / 1024);
            }
            self.show(format!("{services} Services: {}", server.who.name()), memory);
        }
        Ok(())
    }

    fn others(&mut self, servers: &[Server], services: usize) -> Result<()> {
        let all: Vec<&Server> = servers.iter().collect();
        let resolvers: Vec<&Server> = servers.iter().filter(|server| server.who != Who::Knot).collect();
        let rate = Some(RATE);
        self.measure(&format!("no such name at {RATE}/s"), &all, Kind::Missing, services, rate)?;
        self.measure(
            &format!("outside name, cached, at {RATE}/s"),
            &resolvers,
            Kind::Outside,
            services,
            rate,
        )?;
        // The others deny the step, and are asked three times more for the same answer.
        self.measure(&format!("first step to it at {RATE}/s"), &resolvers, Kind::Search, services, rate)
    }

    /// What they take when nobody asks.
    fn idle(&mut self, servers: &[Server]) -> Result<()> {
        let times = || servers.iter().map(Server::processor_time).collect::<Result<Vec<Duration>>>();
        let before = times()?;
        std::thread::park_timeout(IDLE);
        for ((server, before), after) in servers.iter().zip(before).zip(times()?) {
            let spent = (after - before).as_millis();
            self.show(
                format!("idle for {} s: {}", IDLE.as_secs(), server.who.name()),
                json!({ "processor_ms": spent }),
            );
        }
        Ok(())
    }
}

/// Figures for people.
fn words(value: &serde_json::Value) -> String {
    let serde_json::Value::Object(fields) = value else {
        return value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    };
    let words: Vec<String> =
        fields.iter().map(|(name, figure)| format!("{} {figure}", name.replace('_', " "))).collect();
    words.join(", ")
}
