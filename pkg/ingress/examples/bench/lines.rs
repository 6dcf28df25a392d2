//! What is measured: each line, and what makes its load.

use crate::proxies::{HOSTS, PATHS, Proxy, Setup, begin_on_last, on_last};
use anyhow::{Context as _, Result, ensure};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Connections that are idle.
pub(crate) const IDLE: usize = 10_000;
/// Connections that wrk holds.
const CONNECTIONS: &str = "32";

/// A line of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Line {
    /// Requests on connections that are kept.
    KeepAlive,
    /// The same with a line in a log for each.
    AccessLog,
    /// A connection for each request.
    Connect,
    /// Requests by TLS on connections that are kept.
    TlsKeepAlive,
    /// A connection with a full handshake of TLS 1.3, by ECDSA P-256, for each request.
    Tls,
    /// A connection with a handshake that is resumed by a ticket for each request.
    TlsResumed,
    /// HTTP/2 over TLS: 8 connections of 32 streams.
    H2,
    /// Answers of 1 MiB.
    Download,
    /// Answers of 1 MiB by TLS.
    DownloadTls,
    /// Requests of 1 MiB.
    Upload,
    /// Requests to 50 hosts of 20 paths that one route serves.
    Routes1,
    /// Requests to 50 hosts of 20 paths, each by a route of its own.
    Routes1000,
    /// Memory at 10,000 idle connections.
    Idle,
    /// Memory at 10,000 idle connections of TLS.
    IdleTls,
}

/// What one turn gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) per_second: f64,
    /// Processor time of the proxy for each request.
    pub(crate) micros_each: f64,
    pub(crate) p99_ms: f64,
    /// The part of the turn that the proxy had its processor for: well below 1, the load was what bounded it.
    pub(crate) busy: f64,
}

/// What a load says of itself.
struct Said {
    requests: f64,
    per_second: f64,
    p99_ms: f64,
}

impl Line {
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::KeepAlive => "GET, kept alive",
            Self::AccessLog => "GET, kept alive, access log",
            Self::Connect => "GET, a connection each",
            Self::TlsKeepAlive => "GET by TLS, kept alive",
            Self::Tls => "TLS 1.3, a full handshake each",
            Self::TlsResumed => "TLS 1.3, a resumed handshake each",
            Self::H2 => "HTTP/2 by TLS, 8 x 32 streams",
            Self::Download => "answers of 1 MiB",
            Self::DownloadTls => "answers of 1 MiB by TLS",
            Self::Upload => "requests of 1 MiB",
            Self::Routes1 => "50 hosts x 20 paths, 1 route",
            Self::Routes1000 => "50 hosts x 20 paths, 1,000 routes",
            Self::Idle => "10,000 idle connections",
            Self::IdleTls => "10,000 idle connections of TLS",
        }
    }

    pub(crate) fn setup(self) -> Setup {
        match self {
            Self::Routes1000 => Setup::Routes,
            Self::AccessLog => Setup::AccessLog,
            _ => Setup::Plain,
        }
    }

    pub(crate) fn is_memory(self) -> bool {
        matches!(self, Self::Idle | Self::IdleTls)
    }

    fn is_tls(self) -> bool {
        matches!(
            self,
            Self::TlsKeepAlive | Self::Tls | Self::TlsResumed | Self::H2 | Self::DownloadTls | Self::IdleTls
        )
    }

    fn port(self, proxy: &Proxy) -> u16 {
        proxy.who.port() + if self.is_tls() { 100 } else { 0 }
    }

    /// Puts load on a proxy for a time.
    pub(crate) fn turn(self, proxy: &Proxy, dir: &Path, seconds: u64) -> Result<Turn> {
        let before = proxy.processor_time()?;
        let begun = std::time::Instant::now();
        let said = self.load(self.port(proxy), dir, seconds).with_context(|| proxy.who.name())?;
        let took = begun.elapsed();
        let spent = proxy.processor_time()? - before;
        let Said { requests, per_second, p99_ms } = said;
        ensure!(requests > 0.0, "{}: no request was served", proxy.who.name());
        let micros_each = spent.as_secs_f64() * 1e6 / requests;
        Ok(Turn { per_second, micros_each, p99_ms, busy: spent.as_secs_f64() / took.as_secs_f64() })
    }

    fn load(self, port: u16, dir: &Path, seconds: u64) -> Result<Said> {
        let scheme = if self.is_tls() { "https" } else { "http" };
        let url = |path: &str| format!("{scheme}://127.0.0.1:{port}{path}");
        match self {
            Self::KeepAlive | Self::AccessLog | Self::TlsKeepAlive => wrk(seconds, &[&url("/hello?x=1")]),
            Self::Connect => wrk(seconds, &["-H", "Connection: close", &url("/hello?x=1")]),
            Self::Download | Self::DownloadTls => wrk(seconds, &[&url("/mib")]),
            Self::Upload => wrk(seconds, &["-s", &script(dir, "upload", UPLOAD)?, &url("/upload")]),
            Self::Routes1 | Self::Routes1000 => {
                let text = ROUTES.replace("HOSTS", &HOSTS.to_string()).replace("PATHS", &PATHS.to_string());
                wrk(seconds, &["-s", &script(dir, "routes", &text)?, &url("/")])
            }
            Self::H2 => h2load(dir, seconds, &url("/hello?x=1")),
            Self::Tls | Self::TlsResumed => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["client", "handshakes", &port.to_string(), &seconds.to_string()]);
                command.args((self == Self::TlsResumed).then_some("--resume"));
                let said: serde_json::Value = serde_json::from_str(&on_last(&command)?)?;
                let number = |name: &str| said[name].as_f64().context("a number");
                Ok(Said {
                    requests: number("requests")?,
                    per_second: number("per_second")?,
                    p99_ms: number("p99_ms")?,
                })
            }
            Self::Idle | Self::IdleTls => anyhow::bail!("memory has no turns"),
        }
    }

    /// KiB that a proxy has just begun with, and those that it has with all connections idle.
    pub(crate) fn memory(self, proxy: &Proxy) -> Result<(u64, u64)> {
        // Who listens may not have set up its worker yet; who has served once has.
        self.memory_at(proxy, 1)?;
        let begun = proxy.memory()?;
        Ok((begun, self.memory_at(proxy, IDLE)?))
    }

    /// KiB that it has with so many connections idle.
    fn memory_at(self, proxy: &Proxy, count: usize) -> Result<u64> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["client", "idle", &self.port(proxy).to_string(), &count.to_string()]);
        command.args((self == Self::IdleTls).then_some("--tls"));
        let mut clients = begin_on_last(&command)?;
        let mut said = String::new();
        BufReader::new(clients.stdout.take().context("its output")?).read_line(&mut said)?;
        let full = proxy.memory();
        drop(clients.stdin.take());
        clients.wait()?;
        ensure!(said.trim() == "ready", "{}: the clients could not connect", proxy.who.name());
        full
    }
}

const UPLOAD: &str = "wrk.method = 'POST'\nwrk.body = string.rep('x', 1048576)\n";
const ROUTES: &str = "
local requests, at = {}, 0
init = function(args)
  for host = 0, HOSTS - 1 do
    for path = 0, PATHS - 1 do
      local headers = { Host = 'host-' .. host .. '.example.org' }
      requests[#requests + 1] = wrk.format('GET', '/path-' .. path .. '/hello?x=1', headers)
    end
  end
end
request = function()
  at = at % #requests + 1
  return requests[at]
end
";

fn script(dir: &Path, name: &str, text: &str) -> Result<String> {
    let path = dir.join(format!("{name}.lua"));
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}

fn wrk(seconds: u64, args: &[&str]) -> Result<Said> {
    let mut command = Command::new("wrk");
    command.args(["-t1", "--latency", "-c", CONNECTIONS, "-d", &format!("{seconds}s")]).args(args);
    let said = on_last(&command)?;
    ensure!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "{said}");
    Ok(Said {
        requests: word(&said, "requests in", 0)?.parse()?,
        per_second: word(&said, "Requests/sec:", 1)?.parse()?,
        p99_ms: millis(&word(&said, "99%", 1)?)?,
    })
}

/// The word at a place of the line that has a mark.
fn word(said: &str, mark: &str, at: usize) -> Result<String> {
    let line = said.lines().find(|line| line.contains(mark)).with_context(|| format!("{mark}: {said}"))?;
    Ok(line.split_whitespace().nth(at).context("a word")?.to_owned())
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

fn h2load(dir: &Path, seconds: u64, url: &str) -> Result<Said> {
    let log = dir.join("h2load.log");
    let _ = std::fs::remove_file(&log);
    let mut command = Command::new("h2load");
    command.args(["-t1", "-c8", "-m32", "-D", &seconds.to_string()]);
    command.arg(format!("--log-file={}", log.display())).arg(url);
    let said = on_last(&command)?;
    // The begin of a request, its status, and the microseconds it took.
    let text = std::fs::read_to_string(&log)?;
    let mut took = Vec::new();
    for line in text.lines() {
        let mut fields = line.split('\t').skip(1);
        let (status, micros) = (fields.next().context("a status")?, fields.next().context("a time")?);
        ensure!(status == "200", "a request was answered by {status}: {said}");
        took.push(micros.parse::<u64>()?);
    }
    took.sort_unstable();
    let p99 = took.get(took.len() * 99 / 100).with_context(|| said.clone())?;
    Ok(Said {
        requests: took.len() as f64,
        per_second: took.len() as f64 / seconds as f64,
        p99_ms: *p99 as f64 / 1e3,
    })
}
