//! Cluster DNS, as clients meet it: from pods, by `dig` and by the C library, with a fake upstream outside of the cluster.
//!
//! `WARREN_BATTERY_DNS=ADDRESS[,ADDRESS]` has the specification asked of another server that knows the same cluster. What only
//! Warren promises is left out then, and said so.

mod libc;
mod outages;
mod refusals;
mod repair;
mod restart;
mod specification;

pub use libc::{libc_resolver, search_paths};
pub use outages::{api_away, upstream_trouble};
pub use refusals::{bad_clients, strangers_are_refused};
pub use repair::{foreign_changes, off_leaves_nothing};
pub use restart::{agent_is_killed, agent_restarts_in_order};
pub use specification::{domain_of_ones_own, specification};

use crate::battery::{Battery, Running};
use crate::dig::{Dig, Reply};
use crate::eventually;
use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where the fake upstream is: the place `outside` of a lab.
pub const UPSTREAM: &str = "203.0.113.10";
/// What it says of every name.
pub const OUTSIDE: &str = "192.0.2.53";
/// What nobody may be told.
pub const EVIL: &str = "203.0.113.66";
/// Cluster DNS of a lab.
pub const SERVERS: [&str; 2] = ["10.43.0.10", "fd57:4e00:43::a"];
/// A name of the cluster that every lab has.
pub const KUBERNETES: &str = "kubernetes.default.svc.cluster.local";
/// Its address.
pub const KUBERNETES_IP: &str = "10.43.0.1";

/// A battery with a fake upstream.
pub struct Names<'a> {
    /// The lab.
    pub battery: &'a Battery,
    upstream: Option<Running>,
    log: PathBuf,
}

/// What came of a steady asker.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Load {
    /// Questions.
    pub asked: u64,
    /// Of these, answered.
    pub answered: u64,
    /// Not answered, or too late.
    pub lost: u64,
    /// When those were asked.
    pub lost_at_ms: Vec<u64>,
    /// Questions that could not be sent.
    pub send_errors: u64,
    /// Answers that are not right, by what is wrong.
    pub wrong: BTreeMap<String, u64>,
    /// How long it asked.
    pub seconds: f64,
    /// Times of answers.
    pub p50_us: u64,
    /// See above.
    pub p99_us: u64,
    /// See above.
    pub slowest_us: Option<u64>,
}

impl Load {
    /// Every question has the right answer.
    ///
    /// # Errors
    /// When one has not.
    pub fn all_right(&self) -> Result<()> {
        ensure!(self.asked > 0, "nothing was asked");
        ensure!(self.lost == 0 && self.wrong.is_empty(), "{self:?}");
        Ok(())
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} questions in {:.1} s, {} lost, {} wrong; half within {} µs, 99 of 100 within {} µs, the slowest {} µs",
            self.asked,
            self.seconds,
            self.lost,
            self.wrong.values().sum::<u64>(),
            self.p50_us,
            self.p99_us,
            self.slowest_us.unwrap_or_default()
        )
    }
}

impl<'a> Names<'a> {
    /// Starts the upstream of a lab that is up.
    ///
    /// # Errors
    /// When it does not start.
    pub fn of(battery: &'a Battery) -> Result<Self> {
        let log = std::env::temp_dir().join(format!("{}-upstream.log", battery.lab().name()));
        let mut names = Self { battery, upstream: None, log };
        names.start_upstream()?;
        Ok(names)
    }

    /// Starts the upstream, unless it runs.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_upstream(&mut self) -> Result<()> {
        if self.upstream.is_none() {
            let at = format!("{UPSTREAM}:53");
            let log = self.log.to_string_lossy();
            let running = self.battery.start_server("outside", &["dns", "serve", &at, "--log", &log])?;
            self.upstream = Some(running);
        }
        Ok(())
    }

    /// Ends the upstream: its port is closed then.
    pub fn stop_upstream(&mut self) {
        self.upstream = None;
    }

    /// Has the upstream answer everything so.
    ///
    /// # Errors
    /// When it does not hear.
    pub fn upstream_is(&self, mode: &str) -> Result<()> {
        let reply = Dig::new("outside", UPSTREAM.parse()?).ask(
            self.battery,
            &format!("{mode}.mode.control"),
            "TXT",
        )?;
        ensure!(reply.rcode == "NOERROR", "{reply:?}");
        Ok(())
    }

    /// What the upstream was asked until now: protocol, number of the type, name.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn upstream_heard(&self) -> Result<Vec<String>> {
        Ok(std::fs::read_to_string(&self.log)?.lines().map(str::to_owned).collect())
    }

    /// Asks cluster DNS from a pod by UDP over IPv4.
    ///
    /// # Errors
    /// When dig could not be run.
    pub fn ask(&self, from: &str, name: &str, kind: &str) -> Result<Reply> {
        Dig::new(from, SERVERS[0].parse()?).ask(self.battery, name, kind)
    }

    /// The addresses of a name, of which there are some.
    ///
    /// # Errors
    /// When there are none.
    pub fn addresses(&self, from: &str, name: &str) -> Result<Vec<IpAddr>> {
        let reply = self.ask(from, name, "A")?;
        let found = reply.data("A").iter().map(|data| Ok(data.parse()?)).collect::<Result<Vec<_>>>()?;
        ensure!(reply.rcode == "NOERROR" && !found.is_empty(), "{name}: {reply:?}");
        Ok(found)
    }

    /// Starts a steady asker for the name of the API, until it is finished.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn load(&self, from: &str, rate: u64) -> Result<Running> {
        self.load_of(from, SERVERS[0].parse()?, rate)
    }

    /// As [`Names::load`], at one of the addresses.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn load_of(&self, from: &str, server: IpAddr, rate: u64) -> Result<Running> {
        let (target, rate) = (std::net::SocketAddr::new(server, 53).to_string(), rate.to_string());
        let words =
            ["dns", "load", &target, "--name", KUBERNETES, "--expect", KUBERNETES_IP, "--rate", &rate];
        self.battery.start(from, &words)
    }

    /// Asks steadily for as long as `work` takes.
    ///
    /// # Errors
    /// When `work` failed, or the asker could not be run.
    pub fn during(&self, from: &str, rate: u64, work: impl FnOnce() -> Result<()>) -> Result<Load> {
        let running = self.load(from, rate)?;
        work()?;
        finished(running)
    }

    /// Runs a shell's script in a pod that has a resolv.conf as kubelet writes it.
    ///
    /// # Errors
    /// When it could not be run.
    pub fn libc(&self, from: &str, namespace: &str, script: &str) -> Result<(bool, String)> {
        let file = tempfile::NamedTempFile::new()?;
        let servers = SERVERS.map(|server| format!("nameserver {server}\n")).concat();
        let search = format!("search {namespace}.svc.cluster.local svc.cluster.local cluster.local\n");
        std::fs::write(file.path(), format!("{search}{servers}options ndots:5\n"))?;
        let script = format!("mount --bind {} /etc/resolv.conf && {{ {script} ; }}", file.path().display());
        let out = self.battery.lab().try_exec(from, &["unshare", "-m", "sh", "-c", &script])?;
        let text = [out.stdout, out.stderr].concat();
        Ok((out.status.success(), String::from_utf8_lossy(&text).into_owned()))
    }

    /// Has the agent of a node started anew with these lines in its configuration file, and waits until it serves.
    ///
    /// # Errors
    /// When it does not start.
    pub fn configure(&self, node: &str, lines: &str) -> Result<()> {
        let lab = self.battery.lab();
        lab.lab(&["service", node, "stop", "agent"])?;
        let write = format!("cat > /etc/warren/config.yaml <<'END'\n{lines}END\n");
        lab.exec(node, &["sh", "-c", &write])?;
        lab.lab(&["service", node, "start", "agent"])?;
        lab.agent_ready_within(node, Duration::from_secs(20))?;
        self.is_ready(node)
    }

    /// Waits until a node's agent says that its DNS is ready.
    ///
    /// # Errors
    /// When it does not.
    pub fn is_ready(&self, node: &str) -> Result<()> {
        let ready = || {
            let status = self.battery.lab().agent_status(node)?;
            let all = status.pointer("/subsystems").and_then(|s| s.as_array()).context("no subsystems")?;
            let dns = all.iter().find(|s| s["name"] == "dns").context("no dns")?;
            ensure!(dns["state"] == "ready", "{dns}");
            Ok(())
        };
        eventually(Duration::from_secs(10), ready).map(drop)
    }

    /// Figures of the node's agent whose name begins so.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self, node: &str, prefix: &str) -> Result<BTreeMap<String, f64>> {
        let (status, body) = self.battery.get(node, "127.0.0.1:9457", "/metrics")?;
        ensure!(status == 200, "status {status}");
        let Some(text) = body.as_str() else { bail!("{body}") };
        let lines =
            text.lines().filter(|line| line.starts_with(prefix)).filter_map(|line| line.rsplit_once(' '));
        lines.map(|(name, value)| Ok((name.to_owned(), value.parse()?))).collect()
    }
}

/// What came of an asker.
///
/// # Errors
/// When it failed.
pub fn finished(running: Running) -> Result<Load> {
    let text = running.finish()?;
    serde_json::from_str(&text).with_context(|| text.clone())
}
