//! What the battery of service tests stands on: a lab with a fleet of pods that serve and ask, objects in its API, and
//! expectations of what a connection meets.
//!
//! The battery does not know who programs the Services. `WARREN_BATTERY_DATA_PLANE` chooses: nothing or `warren` is Warren's
//! own proxy; `none` starts the agents with `--proxy=off` and nothing in its place; anything else is a command of the
//! shell that is run on every node in its place, with `NODE_NAME` and `KUBECONFIG` in its environment. What only Warren
//! promises is left out then, and said so.

mod expect;
mod objects;

pub use expect::{Answer, Ask, Expect, Got};
pub use objects::{Member, Objects, Scope, Svc};

use crate::Lab;
use crate::lab::{Pod, succeeded, warren_bin};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The nodes of the lab.
pub const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
/// The pods of the fleet: two on every node, which serve TCP and UDP on 7080 and 7090.
pub const FLEET: [&str; 6] = ["n1a", "n1b", "n2a", "n2b", "n3a", "n3b"];
/// The first port of the fleet.
pub const PORT: u16 = 7080;
/// Its second.
pub const PORT_2: u16 = 7090;

/// Who programs the Services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataPlane {
    /// Warren's own proxy.
    Warren,
    /// Nobody, or somebody who is not of the battery's concern.
    Foreign,
    /// This command, on every node.
    Command(String),
}

impl DataPlane {
    fn from_environment() -> Self {
        match std::env::var("WARREN_BATTERY_DATA_PLANE").unwrap_or_default().as_str() {
            "" | "warren" => Self::Warren,
            "none" => Self::Foreign,
            command => Self::Command(command.to_owned()),
        }
    }
}

/// A program that ends with this.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).map(nix::unistd::Pid::from_raw);
        // `lab exec` passes this signal on to the program inside; killed itself, it would leave that one behind.
        if let Ok(pid) = pid {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.0.wait();
    }
}

impl Running {
    /// Ends a program of `lab exec` with this.
    pub(crate) fn of(child: Child) -> Self {
        Self(child)
    }

    /// Ends its standard input, waits for its end, and returns what it printed.
    ///
    /// # Errors
    /// When it failed.
    pub fn finish(mut self) -> Result<String> {
        drop(self.0.stdin.take());
        let mut stdout = self.0.stdout.take().context("it has no stdout")?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stdout, &mut text)?;
        let status = self.0.wait()?;
        ensure!(status.success(), "{status}: {text}");
        Ok(text)
    }
}

/// A lab with a fleet.
pub struct Battery {
    lab: Lab,
    plane: DataPlane,
    objects: Objects,
    whoami: String,
    pods: BTreeMap<String, Pod>,
    nodes: BTreeMap<String, Vec<IpAddr>>,
    addresses: Mutex<BTreeMap<String, BTreeSet<IpAddr>>>,
    scopes: AtomicUsize,
    planes: Vec<Running>,
}

impl Battery {
    /// Brings up a dual-stack lab of three nodes with the fleet; `args` go to `warren lab up` too. `whoami` is the program
    /// of this name.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn up(test: &str, whoami: &str, args: &[&str]) -> Result<Self> {
        let plane = DataPlane::from_environment();
        let mut all = vec!["--dual-stack", "--pods", "0"];
        if plane != DataPlane::Warren {
            all.push("--agent-arg=--proxy=off");
        }
        all.extend(args);
        let lab = Lab::up(test, &all)?;
        let objects = Objects::of(&lab.lab(&["kubeconfig"])?)?;
        let status = lab.status()?;
        let mut battery = Self {
            nodes: status.nodes.into_iter().map(|n| (n.name, n.addresses)).collect(),
            lab,
            plane,
            objects,
            whoami: whoami.to_owned(),
            pods: BTreeMap::new(),
            addresses: Mutex::default(),
            scopes: AtomicUsize::new(0),
            planes: Vec::new(),
        };
        if let DataPlane::Command(command) = battery.plane.clone() {
            for node in NODES {
                battery.planes.push(battery.start_plane(node, &command)?);
            }
        }
        for name in FLEET {
            battery.run_pod(name, &Battery::node_of(name), &[])?;
        }
        Ok(battery)
    }

    fn start_plane(&self, node: &str, command: &str) -> Result<Running> {
        let config = self.lab.exec("node-1", &["cat", "/etc/warren/kubeconfig"])?;
        let path = std::env::temp_dir().join(format!("{}-kubeconfig", self.lab.name()));
        std::fs::write(&path, config)?;
        let script = format!("export NODE_NAME={node} KUBECONFIG={}; exec {command}", path.display());
        let mut lab = self.exec_command(node, &["sh", "-c", &script]);
        let log = std::fs::File::create(
            std::env::temp_dir().join(format!("{}-{node}-plane.log", self.lab.name())),
        )?;
        let child = lab.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        Ok(Running(child.with_context(|| format!("start {command} on {node}"))?))
    }

    /// The node that a pod of the fleet is on.
    #[must_use]
    pub fn node_of(pod: &str) -> String {
        format!("node-{}", pod.get(1..2).unwrap_or_default())
    }

    /// The lab is done with, and the test passed.
    ///
    /// # Errors
    /// When the lab does not go down.
    pub fn done(self) -> Result<()> {
        drop(self.planes);
        self.lab.done()
    }

    /// The lab.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The program that asks and serves.
    #[must_use]
    pub fn whoami(&self) -> &str {
        &self.whoami
    }

    /// The objects of its API.
    #[must_use]
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Whether this is Warren's own proxy; else says that `what` is left out.
    #[must_use]
    pub fn is_warren(&self, what: &str) -> bool {
        let own = self.plane == DataPlane::Warren;
        if !own {
            println!("battery: {what}: left out, only Warren promises it");
        }
        own
    }

    /// A namespace of the API for a scenario, which ends with it.
    ///
    /// # Errors
    /// When the API refuses.
    pub fn scope(&self, name: &str) -> Result<Scope<'_>> {
        Scope::new(self, &format!("{name}-{}", self.scopes.fetch_add(1, Ordering::Relaxed)))
    }

    /// Starts one more serving pod; `args` go to `warren lab run`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn run_pod(&mut self, name: &str, node: &str, args: &[&str]) -> Result<()> {
        let pod = self.start_pod(name, node, args)?;
        self.pods.insert(name.to_owned(), pod);
        Ok(())
    }

    /// As [`Battery::run_pod`], for a pod that the battery does not keep in mind.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_pod(&self, name: &str, node: &str, args: &[&str]) -> Result<Pod> {
        let ports = format!("{PORT},{PORT_2}");
        let mut all = vec!["run", name, "--node", node, "--output", "json"];
        all.extend(args);
        all.extend(["--", &self.whoami, "serve", "--name", name, "--tcp", &ports, "--udp", &ports]);
        let text = self.lab.lab(&all)?;
        serde_json::from_str(&text).with_context(|| format!("warren lab run: {text}"))
    }

    /// Starts a server on a node itself, or outside; its name is `name`.
    ///
    /// # Errors
    /// When it does not start to listen.
    pub fn serve(&self, place: &str, name: &str, args: &[&str]) -> Result<Running> {
        self.start_server(place, &[&["serve", "--name", name], args].concat())
    }

    /// Starts the program as a server that says `ready` when it is.
    ///
    /// # Errors
    /// When it does not start to listen.
    pub fn start_server(&self, place: &str, args: &[&str]) -> Result<Running> {
        let all = [&[self.whoami.as_str()], args].concat();
        let mut child = self.exec_command(place, &all).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("the server has no stdout")?;
        let running = Running(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line.trim() == "ready", "{place}: {} says {line:?}", all.join(" "));
        Ok(running)
    }

    /// Starts the program with these arguments; it prints when it is told to finish.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, place: &str, args: &[&str]) -> Result<Running> {
        let mut command = self.exec_command(place, &[&[self.whoami.as_str()], args].concat());
        Ok(Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?))
    }

    /// Starts a client that asks until it is told to finish.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn asking(&self, ask: &Ask) -> Result<Running> {
        let words = ask.words(&self.whoami);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.start(&ask.from, words.get(1..).unwrap_or_default())
    }

    /// Asks, and tells what came of each attempt.
    ///
    /// # Errors
    /// When the client could not be run.
    pub fn ask(&self, ask: &Ask) -> Result<Vec<Got>> {
        let words = ask.words(&self.whoami);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let text = self.exec(&ask.from, &words)?;
        let parse = |line: &str| serde_json::from_str(line).with_context(|| line.to_owned());
        text.lines().map(parse).collect()
    }

    /// Asks over HTTP: status and body.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn get(&self, from: &str, target: &str, path: &str) -> Result<(u64, Value)> {
        let text = self.exec(from, &[&self.whoami, "get", target, path])?;
        let answer: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let body = answer["body"].as_str().unwrap_or_default();
        let status = answer["status"].as_u64().with_context(|| format!("no status in {answer}"))?;
        Ok((status, serde_json::from_str(body).unwrap_or_else(|_| body.into())))
    }

    /// Runs a program in a place, to success.
    ///
    /// # Errors
    /// When it failed.
    pub fn exec(&self, place: &str, words: &[&str]) -> Result<String> {
        let out: Output = self.exec_command(place, words).output()?;
        succeeded(&format!("{place}: {}", words.join(" ")), &out)
    }

    fn exec_command(&self, place: &str, words: &[&str]) -> Command {
        let mut command = Command::new(warren_bin());
        command.args(["lab", "exec", "--name", self.lab.name(), place, "--"]).args(words);
        command
    }

    /// A pod of the fleet.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        self.pods.get(name).with_context(|| format!("there is no pod {name}"))
    }

    /// The address of a pod of the fleet, or of a node.
    ///
    /// # Errors
    /// When it has none of this family.
    pub fn address(&self, place: &str, v6: bool) -> Result<IpAddr> {
        let all = self.pods.get(place).map(|p| &p.ips).or_else(|| self.nodes.get(place));
        let found = all.into_iter().flatten().find(|ip| ip.is_ipv6() == v6).copied();
        found.with_context(|| format!("{place} has no address of {}", family(v6)))
    }

    /// All addresses of a place.
    ///
    /// # Errors
    /// When they cannot be asked for.
    pub fn addresses(&self, place: &str) -> Result<BTreeSet<IpAddr>> {
        if let Some(known) = locked(&self.addresses).get(place) {
            return Ok(known.clone());
        }
        let found: BTreeSet<IpAddr> = serde_json::from_str(&self.exec(place, &[&self.whoami, "addresses"])?)?;
        locked(&self.addresses).insert(place.to_owned(), found.clone());
        Ok(found)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The word of the API for a family.
#[must_use]
pub fn family(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}

/// Both families, IPv4 first.
pub const FAMILIES: [bool; 2] = [false, true];
