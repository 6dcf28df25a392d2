//! Warren's ingress beside nginx and haproxy: `cargo xtask bench ingress`.
//!
//! Each proxy is a process with one thread or worker on the first processor; the load and the backend, which is an nginx that
//! answers from memory, run on the last one. All of it is in a network namespace of its own, over loopback. The proxies are
//! measured in turns, round by round, and the median of the rounds counts. Processor time is that of the proxy's process, in
//! the kernel too: other work on the machine changes it least.

mod clients;
mod lines;
mod proxies;
mod serve;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use lines::{Line, Turn};
use proxies::{Proxy, Setup, Who};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Warren's ingress beside nginx and haproxy.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    /// How figures are printed.
    #[arg(value_enum, default_value = "table")]
    output: Output,
    /// These lines alone, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Line>,
    /// Rounds, in each of which every proxy has a turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Seconds of a turn.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// What other processes of the benchmark do.
#[derive(clap::Subcommand)]
enum Part {
    /// Serves as Warren does.
    #[command(hide = true)]
    Serve {
        /// Where the certificate is.
        dir: PathBuf,
        /// What it does besides.
        setup: Setup,
    },
    /// Makes load.
    #[command(hide = true, subcommand)]
    Client(clients::Client),
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.part {
        Some(Part::Serve { dir, setup }) => return serve::serve(&dir, setup),
        Some(Part::Client(client)) => return clients::run(client),
        None => {}
    }
    proxies::isolate()?;
    let dir = tempfile::tempdir()?;
    proxies::certificate(dir.path())?;
    let _backend = proxies::backend(dir.path())?;
    let mut bench = Bench { cli, dir: dir.path(), all: Vec::new() };
    bench.head();
    for line in Line::value_variants() {
        if bench.cli.only.is_empty() || bench.cli.only.contains(line) {
            if line.is_memory() { bench.memory(*line)? } else { bench.speed(*line)? }
        }
    }
    if bench.cli.output == Output::Json {
        println!("{}", serde_json::to_string_pretty(&bench.all)?);
    }
    Ok(())
}

struct Bench<'a> {
    cli: Cli,
    dir: &'a Path,
    all: Vec<serde_json::Value>,
}

impl Bench<'_> {
    fn is_table(&self) -> bool {
        self.cli.output == Output::Table
    }

    fn head(&self) {
        if self.is_table() {
            println!(
                "{:<36} {:<8} {:>10} {:>12} {:>8} {:>8} {:>6}",
                "", "", "a second", "CPU us each", "x nginx", "p99 ms", "busy"
            );
        }
    }

    fn start(&self, setup: Setup) -> Result<Vec<Proxy>> {
        Who::ALL.into_iter().map(|who| Proxy::start(who, self.dir, setup)).collect()
    }

    fn speed(&mut self, line: Line) -> Result<()> {
        let proxies = self.start(line.setup())?;
        for proxy in &proxies {
            line.turn(proxy, self.dir, 1)?;
        }
        let mut rounds = Vec::new();
        for _ in 0..self.cli.rounds {
            let turns = proxies.iter().map(|proxy| line.turn(proxy, self.dir, self.cli.seconds));
            rounds.push(turns.collect::<Result<Vec<Turn>>>()?);
        }
        let nginx = proxies.iter().position(|proxy| proxy.who == Who::Nginx).unwrap_or_default();
        for (at, proxy) in proxies.iter().enumerate() {
            let of = |figure: fn(&Turn) -> f64| median(rounds.iter().map(|turns| figure(&turns[at])));
            let (per_second, each) = (of(|turn| turn.per_second), of(|turn| turn.micros_each));
            let (p99, busy) = (of(|turn| turn.p99_ms), of(|turn| turn.busy));
            // Of each round, since what else the machine does changes from round to round.
            let ratio = median(rounds.iter().map(|turns| turns[at].micros_each / turns[nginx].micros_each));
            let who = proxy.who.name();
            if self.is_table() {
                println!(
                    "{:<36} {who:<8} {per_second:>10.0} {each:>12.1} {ratio:>8.2} {p99:>8.2} {busy:>6.2}",
                    line.what()
                );
            }
            self.all.push(json!({
                "line": line.what(),
                "proxy": who,
                "per_second": round(per_second, 0),
                "processor_us_each": round(each, 2),
                "processor_to_nginx": round(ratio, 3),
                "p99_ms": round(p99, 2),
                "busy": round(busy, 2),
            }));
        }
        Ok(())
    }

    fn memory(&mut self, line: Line) -> Result<()> {
        for who in Who::ALL {
            // Each has all that it has because of these connections.
            let proxy = Proxy::start(who, self.dir, line.setup())?;
            let (begun, full) = line.memory(&proxy)?;
            let each = full.saturating_sub(begun) as f64 / lines::IDLE as f64;
            let (begun, full) = (begun as f64 / 1024.0, full as f64 / 1024.0);
            if self.is_table() {
                println!(
                    "{:<36} {:<8} {each:.2} KiB each: from {begun:.1} to {full:.1} MiB",
                    line.what(),
                    who.name()
                );
            }
            self.all.push(json!({
                "line": line.what(),
                "proxy": who.name(),
                "kib_each": round(each, 2),
                "mib_begun": round(begun, 1),
                "mib_full": round(full, 1),
            }));
        }
        Ok(())
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn round(value: f64, places: i32) -> f64 {
    let scale = 10f64.powi(places);
    (value * scale).round() / scale
}
