//! Questions by dnsperf, and what an answer took.

use crate::names::{Kind, SERVER};
use crate::servers::{Server, Who};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

/// What one run showed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// Answers a second.
    pub(crate) rate: f64,
    /// Processor time of the server for one, in microseconds.
    pub(crate) cost: f64,
    /// Mean time to an answer, in microseconds.
    pub(crate) latency: f64,
    /// Questions without an answer.
    pub(crate) lost: u64,
}

impl Run {
    /// The median of each figure; losses are counted together.
    pub(crate) fn median(runs: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| {
            let mut all: Vec<f64> = runs.iter().map(figure).collect();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied().unwrap_or_default()
        };
        Self {
            rate: of(|run| run.rate),
            cost: of(|run| run.cost),
            latency: of(|run| run.latency),
            lost: runs.iter().map(|run| run.lost).sum(),
        }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let rounded = |value: f64| (value * 100.0).round() / 100.0;
        json!({
            "answers_per_second": self.rate.round(),
            "processor_us_per_answer": rounded(self.cost),
            "mean_latency_us": self.latency.round(),
            "lost": self.lost,
        })
    }
}

fn questions(kind: Kind, services: usize) -> Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(kind.questions(services).as_bytes())?;
    Ok(file)
}

fn dnsperf(file: &tempfile::NamedTempFile, seconds: u64, rate: Option<u64>) -> Command {
    let mut command = Command::new("dnsperf");
    command.args(["-s", &SERVER.to_string(), "-T", "1", "-c", "4", "-t", "2"]);
    command.arg("-d").arg(file.path()).args(["-l", &seconds.to_string()]);
    if let Some(rate) = rate {
        command.args(["-Q", &rate.to_string()]);
    }
    command.stderr(Stdio::null());
    command
}

/// Asks for so long, at a rate or as fast as it goes.
pub(crate) fn run(
    server: &Server,
    kind: Kind,
    services: usize,
    seconds: u64,
    rate: Option<u64>,
) -> Result<Run> {
    let file = questions(kind, services)?;
    let before = server.processor_time()?;
    let out = server.asking(move || Ok(dnsperf(&file, seconds, rate).output()?))?;
    let spent = server.processor_time()? - before;
    ensure!(out.status.success(), "dnsperf ended with {}", out.status);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let answers = figure(&text, "Queries completed:")?;
    let code = kind.code(server.who == Who::Warren);
    let codes = line(&text, "Response codes:")?;
    ensure!(codes.starts_with(code), "{} answers {codes}, not {code}", server.who.name());
    Ok(Run {
        rate: figure(&text, "Queries per second:")?,
        cost: spent.as_secs_f64() * 1e6 / answers,
        latency: figure(&text, "Average Latency (s):")? * 1e6,
        lost: figure(&text, "Queries lost:")? as u64,
    })
}

/// The time to an answer at a rate, of each one: median and 99th of a hundred, in microseconds.
pub(crate) fn latency(server: &Server, services: usize, seconds: u64, rate: u64) -> Result<(f64, f64)> {
    let file = questions(Kind::Cluster, services)?;
    let mut times = server.asking(move || {
        let mut process = dnsperf(&file, seconds, Some(rate)).arg("-v").stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(process.stdout.take().context("dnsperf")?).lines();
        let times: Vec<f64> = lines
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("> ")?.rsplit(' ').next()?.parse().ok())
            .collect();
        ensure!(process.wait()?.success(), "dnsperf failed");
        Ok(times)
    })?;
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times.get((times.len() as f64 * part) as usize).map_or(0.0, |time| time * 1e6);
    Ok((at(0.5).round(), at(0.99).round()))
}

fn line<'t>(text: &'t str, label: &str) -> Result<&'t str> {
    let found = text.lines().find_map(|line| line.trim().strip_prefix(label));
    Ok(found.with_context(|| format!("dnsperf said no {label:?}"))?.trim())
}

fn figure(text: &str, label: &str) -> Result<f64> {
    let word = line(text, label)?.split_whitespace().next().context("a figure")?;
    Ok(word.parse()?)
}
