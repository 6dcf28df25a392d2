//! A lab of the real binary, taken down when the test ends, however it ends.

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

/// A running lab. Dropping it takes it down, and prints its logs unless [`Lab::done`] said that all is well.
pub struct Lab {
    name: String,
    passed: bool,
}

/// `warren lab status --output json`, as far as the tests read it.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The pods of all nodes.
    pub pods: Vec<Pod>,
    /// Process id, as this namespace counts, of a process in the switch's namespaces.
    pub switch_pid: u32,
}

/// A node of the lab.
#[derive(Debug, Clone, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Process id, as this namespace counts, of the node's first process; none while it is off.
    pub pid: Option<u32>,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
}

/// A pod of the lab.
#[derive(Debug, Clone, Deserialize)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: String,
    /// Process id, as this namespace counts, of the pod's first process; none while it is off.
    pub pid: Option<u32>,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

/// The network namespace of a process.
#[must_use]
pub fn netns_of(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

/// The binary under test.
///
/// # Panics
/// When `WARREN_BIN` is not set: a test that cannot run must not pass.
#[must_use]
pub fn warren_bin() -> PathBuf {
    let Some(path) = std::env::var_os("WARREN_BIN") else {
        panic!("WARREN_BIN names no binary; run these tests by: cargo xtask e2e")
    };
    path.into()
}

/// Fails, naming the program and what it said, unless it succeeded.
///
/// # Errors
/// When the program failed.
pub fn succeeded(what: &str, out: &Output) -> Result<String> {
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    ensure!(out.status.success(), "{what}: {}\n{stdout}\n{stderr}", out.status);
    Ok(stdout.into_owned())
}

impl Lab {
    /// Brings up a lab named after the test; `args` go to `warren lab up`.
    ///
    /// # Errors
    /// When it does not come up; what there was of it is gone then.
    pub fn up(test: &str, args: &[&str]) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root; run the tests with sudo");
        let lab = Self { name: format!("{test}-{}", std::process::id()), passed: false };
        let mut all = vec!["up", "--no-check"];
        all.extend(args);
        lab.lab(&all)?;
        Ok(lab)
    }

    /// The test passed: takes the lab down, which must succeed too.
    ///
    /// # Errors
    /// When `lab down` failed.
    pub fn done(mut self) -> Result<()> {
        self.passed = true;
        self.lab(&["down"]).map(|_| ())
    }

    /// The lab's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `warren lab VERB --name NAME ARGS` to success and returns what it printed.
    ///
    /// # Errors
    /// When it failed.
    pub fn lab(&self, args: &[&str]) -> Result<String> {
        succeeded(&format!("warren lab {}", args.join(" ")), &self.try_lab(args)?)
    }

    /// As [`Lab::lab`], whatever comes of it.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn try_lab(&self, args: &[&str]) -> Result<Output> {
        let (verb, rest) = args.split_first().context("a verb of `warren lab`")?;
        let mut command = Command::new(warren_bin());
        command.args(["lab", verb, "--name", &self.name]).args(rest);
        command.output().with_context(|| format!("start {}", warren_bin().display()))
    }

    /// Runs a command in a node, a pod or the switch, to success.
    ///
    /// # Errors
    /// When it failed.
    pub fn exec(&self, target: &str, command: &[&str]) -> Result<String> {
        succeeded(&format!("{target}: {}", command.join(" ")), &self.try_exec(target, command)?)
    }

    /// As [`Lab::exec`], whatever comes of it.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn try_exec(&self, target: &str, command: &[&str]) -> Result<Output> {
        let mut all = vec!["exec", target, "--"];
        all.extend(command);
        self.try_lab(&all)
    }

    /// What the lab says of itself.
    ///
    /// # Errors
    /// When the lab does not answer.
    pub fn status(&self) -> Result<Status> {
        let text = self.lab(&["status", "--output", "json"])?;
        serde_json::from_str(&text).with_context(|| format!("warren lab status: {text}"))
    }

    /// The pods on `node`.
    ///
    /// # Errors
    /// When the lab does not answer.
    pub fn pods_on(&self, node: &str) -> Result<Vec<Pod>> {
        Ok(self.status()?.pods.into_iter().filter(|p| p.node == node).collect())
    }

    /// The network namespace of a running node.
    ///
    /// # Errors
    /// When there is no such node or it is off.
    pub fn node_ns(&self, node: &str) -> Result<PathBuf> {
        let status = self.status()?;
        let found = status.nodes.iter().find(|n| n.name == node).and_then(|n| n.pid);
        found.map(netns_of).with_context(|| format!("node {node} does not run"))
    }

    /// The connectivity check of the lab, to full success within `limit`.
    ///
    /// # Errors
    /// The table of the last check, when `limit` has passed.
    pub fn check_within(&self, limit: Duration) -> Result<Duration> {
        let probe = crate::patient(Duration::from_millis(2000)).as_millis().to_string();
        Ok(crate::eventually(limit, || self.lab(&["check", "--timeout", &probe]))?.1)
    }

    /// `warren status --output json` of a node's agent.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn agent_status(&self, node: &str) -> Result<serde_json::Value> {
        let bin = warren_bin();
        let text = self.exec(node, &[&bin.to_string_lossy(), "status", "--output", "json"])?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Waits until a node's agent answers and is ready.
    ///
    /// # Errors
    /// What its status says, when `limit` has passed.
    pub fn agent_ready_within(&self, node: &str, limit: Duration) -> Result<Duration> {
        Ok(crate::eventually(limit, || self.agent_status(node))?.1)
    }

    /// Process ids, as the node counts, of processes on `node` whose command line contains every one of `words`.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn processes(&self, node: &str, words: &[&str]) -> Result<Vec<u32>> {
        let list = self.exec(node, &["ps", "-eo", "pid=,args="])?;
        let ours = list.lines().filter(|l| words.iter().all(|w| l.contains(w)) && !l.contains("lab-"));
        ours.filter_map(|l| l.split_whitespace().next()).map(|p| Ok(p.parse()?)).collect()
    }

    /// Kills the one process on `node` that matches `words`, with SIGKILL.
    ///
    /// # Errors
    /// When there is not exactly one.
    pub fn kill_process(&self, node: &str, words: &[&str]) -> Result<()> {
        let found = self.processes(node, words)?;
        let [pid] = found.as_slice() else { bail!("{node}: {words:?} matches {} processes", found.len()) };
        self.exec(node, &["kill", "-9", &pid.to_string()]).map(|_| ())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.passed {
            return;
        }
        for node in self.status().map(|s| s.nodes).unwrap_or_default() {
            if let Ok(out) = self.try_lab(&["logs", &node.name]) {
                let text = String::from_utf8_lossy(&out.stdout);
                let lines: Vec<&str> = text.lines().collect();
                eprintln!("--- {}: last lines of its log", node.name);
                lines.iter().skip(lines.len().saturating_sub(60)).for_each(|line| eprintln!("{line}"));
            }
        }
        match self.try_lab(&["down"]) {
            Ok(out) if out.status.success() => {}
            other => eprintln!("warren lab down --name {}: {other:?}", self.name),
        }
    }
}
