//! A container runtime's part of CNI: namespaces, and calls of the real plugin with environment and stdin.

use crate::lab::{Lab, warren_bin};
use crate::netns;
use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use serde::Deserialize;
use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Runs the plugin for containers of one node, whose sockets it reaches through the node's file system.
pub struct Runtime {
    plugin: PathBuf,
    config: String,
    prefix: String,
    /// One network namespace a container, held open by the descriptor.
    namespaces: Mutex<Vec<Option<File>>>,
}

/// What ADD answered.
#[derive(Debug, Clone)]
pub struct Added {
    /// The addresses given.
    pub ips: Vec<IpAddr>,
}

/// Latencies of many calls.
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// The duration below which `share` (0 to 1) of the calls stayed.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let at = ((self.0.len() as f64 - 1.0) * share) as usize;
        self.0.get(at).copied().unwrap_or_default()
    }
}

impl From<Vec<Duration>> for Latencies {
    fn from(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self(all)
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |q| self.quantile(q).as_secs_f64() * 1000.0;
        write!(f, "p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms", ms(0.5), ms(0.99), ms(1.0))
    }
}

#[derive(Deserialize)]
struct CniResult {
    ips: Vec<CniIp>,
}

#[derive(Deserialize)]
struct CniIp {
    address: ipnet::IpNet,
}

/// Where the agent writes the node's network.
pub const CONFLIST: &str = "/etc/cni/net.d/10-warren.conflist";

/// What the first plugin of a list gets on its stdin.
fn plugin_config(conflist: &str) -> Result<serde_json::Value> {
    let list: serde_json::Value = serde_json::from_str(conflist)?;
    let mut config = list.pointer("/plugins/0").context("an empty conflist")?.clone();
    for field in ["cniVersion", "name"] {
        config[field] = list[field].clone();
    }
    Ok(config)
}

/// Runs a CNI plugin once, with `config` on its stdin.
///
/// # Errors
/// When it cannot be started.
pub fn call(plugin: &Path, env: &[(&str, &str)], config: &[u8]) -> Result<Output> {
    let mut command = Command::new(plugin);
    command.env_clear().envs(env.iter().copied());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // A plugin may refuse before it has read everything: a broken pipe is its right.
    let _ = child.stdin.take().context("the plugin has no stdin")?.write_all(config);
    Ok(child.wait_with_output()?)
}

impl Runtime {
    /// A runtime on `node`.
    ///
    /// # Errors
    /// When the node does not run or has no CNI configuration.
    pub fn new(lab: &Lab, node: &str) -> Result<Self> {
        let status = lab.status()?;
        let pid = status
            .nodes
            .iter()
            .find(|n| n.name == node)
            .and_then(|n| n.pid)
            .context("the node does not run")?;
        let mut config = plugin_config(&lab.exec(node, &["cat", CONFLIST])?)?;
        // The test runs outside of the node's mount namespace: it names the node's files through /proc.
        for field in ["socket", "queueDir"] {
            if let Some(path) = config[field].as_str() {
                config[field] = format!("/proc/{pid}/root{path}").into();
            }
        }
        let prefix = "churn".to_owned();
        Ok(Self { plugin: warren_bin(), config: config.to_string(), prefix, namespaces: Mutex::default() })
    }

    /// A runtime of this machine itself, with the plugin that its agent has installed. Containers, and their pods, are
    /// named after `prefix`.
    ///
    /// # Errors
    /// When there is no CNI configuration.
    pub fn here(prefix: &str) -> Result<Self> {
        let config = plugin_config(&std::fs::read_to_string(CONFLIST).context(CONFLIST)?)?;
        let kind = config["type"].as_str().context("a plugin without a type")?;
        let plugin = Path::new("/opt/cni/bin").join(kind);
        Ok(Self { plugin, config: config.to_string(), prefix: prefix.into(), namespaces: Mutex::default() })
    }

    /// The same, with containers, and their pods, that are named after `prefix`.
    #[must_use]
    pub fn named(self, prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), ..self }
    }

    /// The network namespace of the container `n`.
    ///
    /// # Errors
    /// When there is none.
    pub fn netns(&self, n: usize) -> Result<PathBuf> {
        let namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        let file = namespaces.get(n).and_then(Option::as_ref);
        let fd = file.with_context(|| format!("there is no container {n}"))?.as_raw_fd();
        Ok(PathBuf::from(format!("/proc/{}/fd/{fd}", std::process::id())))
    }

    /// The network configuration of this node, as a plugin gets it on stdin.
    #[must_use]
    pub fn config(&self) -> &str {
        &self.config
    }

    /// Makes the network namespaces of `count` containers.
    ///
    /// # Errors
    /// Without root.
    pub fn prepare(&self, count: usize) -> Result<()> {
        let fresh: Vec<Option<File>> = (0..count).map(|_| fresh_netns().map(Some)).collect::<Result<_>>()?;
        *self.namespaces.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Makes and adds `count` containers, `concurrency` at a time.
    ///
    /// # Errors
    /// The first failed ADD.
    pub fn add_many(&self, count: usize, concurrency: usize) -> Result<(Vec<Added>, Latencies)> {
        self.prepare(count)?;
        self.add_prepared(count, concurrency)
    }

    /// Adds the `count` containers whose namespaces were made, `concurrency` at a time.
    ///
    /// # Errors
    /// The first failed ADD.
    pub fn add_prepared(&self, count: usize, concurrency: usize) -> Result<(Vec<Added>, Latencies)> {
        let answers = self.many("ADD", count, concurrency)?;
        let (outputs, times): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
        let parse = |out: &String| -> Result<Added> {
            let result: CniResult = serde_json::from_str(out).with_context(|| out.clone())?;
            Ok(Added { ips: result.ips.iter().map(|ip| ip.address.addr()).collect() })
        };
        Ok((outputs.iter().map(parse).collect::<Result<_>>()?, times.into()))
    }

    /// Deletes the first `count` containers, `concurrency` at a time, and lets their namespaces go.
    ///
    /// # Errors
    /// The first failed DEL.
    pub fn del_many(&self, count: usize, concurrency: usize) -> Result<Latencies> {
        let answers = self.many("DEL", count, concurrency)?;
        self.namespaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter_mut()
            .take(count)
            .for_each(|n| *n = None);
        Ok(answers.into_iter().map(|(_, took)| took).collect::<Vec<_>>().into())
    }

    fn many(&self, verb: &str, count: usize, concurrency: usize) -> Result<Vec<(String, Duration)>> {
        timed(count, concurrency, |n| self.one(verb, n))
    }

    fn one(&self, verb: &str, n: usize) -> Result<String> {
        let netns = self.netns(n).map(|p| p.display().to_string()).unwrap_or_default();
        let id = format!("{}-{n}", self.prefix);
        let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={id}");
        let env = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", &id),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
            ("CNI_ARGS", &args),
            ("CNI_NETNS", &netns),
        ];
        let out = call(&self.plugin, &env, self.config.as_bytes())?;
        let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(
            out.status.success(),
            "{verb} {id}: {}: {stdout}{}",
            out.status,
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(stdout)
    }
}

/// Does `work` for the numbers below `count`, `concurrency` at a time, and tells how long each took.
///
/// # Errors
/// The first that failed.
pub fn timed<T: Send>(
    count: usize,
    concurrency: usize,
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<(T, Duration)>> {
    let next = AtomicUsize::new(0);
    let worker = || -> Result<Vec<(T, Duration)>> {
        let mut done = Vec::new();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                return Ok(done);
            }
            let start = Instant::now();
            let out = work(n)?;
            done.push((out, start.elapsed()));
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..concurrency).map(|_| scope.spawn(worker)).collect();
        let mut all = Vec::new();
        for worker in workers {
            match worker.join() {
                Ok(done) => all.extend(done?),
                Err(_) => bail!("a worker panicked"),
            }
        }
        Ok(all)
    })
}

/// A new network namespace that lives as long as the file.
///
/// # Errors
/// Without root.
pub fn fresh_netns() -> Result<File> {
    let made = std::thread::spawn(|| -> Result<File> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(File::open("/proc/thread-self/ns/net")?)
    });
    netns::join(made)
}
