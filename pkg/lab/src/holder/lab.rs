//! A lab in memory: its nodes, their power, their pods, and the requests that change them.

use crate::check;
use crate::dir::LabDir;
use crate::fabric::Fabric;
use crate::node::{NodeOrder, socket};
use crate::plan::{LabConfig, NodePlan, addresses};
use crate::pods::receiver;
use crate::reaper::{Children, Process};
use crate::rpc::{self, Progress};
use crate::wire::{Hello, NodeRequest, NodeStatus, PodSpec, PodStatus};
use crate::{LabError, Role, own_command, random_id, sys};
use futures::future::join_all;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::AsyncBufReadExt as _;
use tokio::sync::watch;
use warren_netlink::NetNs;

/// How long a node may take to furnish its namespaces.
const BOOT_LIMIT: Duration = Duration::from_secs(15);
/// How long a pod may take to be attached.
const POD_LIMIT: Duration = Duration::from_secs(20);
/// How long a node may take to answer a simple question.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// The node with the server.
pub(super) const SERVER_NODE: u16 = 1;

/// A lab.
pub(crate) struct Lab {
    pub(super) config: LabConfig,
    pub(super) dir: LabDir,
    pub(super) pid: i32,
    pub(super) api_port: u16,
    pub(super) children: Children,
    pub(super) fabric: tokio::sync::Mutex<Fabric>,
    pub(super) outside: Process,
    pub(super) state: Mutex<State>,
    /// The process whose network namespace has the API.
    pub(super) server: watch::Sender<Option<i32>>,
}

pub(super) struct State {
    pub(super) nodes: BTreeMap<u16, Arc<Node>>,
    pub(super) partitions: BTreeSet<(u16, u16)>,
    /// How many nodes there ever were: numbers are not used again.
    pub(super) last_index: u16,
    /// How many address changes there were.
    pub(super) moves: u16,
}

pub(super) struct Node {
    pub(super) index: u16,
    pub(super) name: String,
    /// Held while the node is switched on or off.
    pub(super) power: tokio::sync::Mutex<()>,
    pub(super) facts: Mutex<Facts>,
}

pub(super) struct Facts {
    pub(super) plan: NodePlan,
    pub(super) running: Option<(Process, i32)>,
    pub(super) pods: BTreeMap<String, Wanted>,
}

/// A pod that is to run on a node, whenever that is on.
pub(super) struct Wanted {
    pub(super) spec: PodSpec,
    /// Why it does not; empty when it does.
    pub(super) failure: String,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn node_name(index: u16) -> String {
    format!("node-{index}")
}

/// The number in `node-3` or `3`.
pub(super) fn node_index(name: &str) -> Option<u16> {
    name.strip_prefix("node-").unwrap_or(name).parse().ok()
}

impl Node {
    pub(super) fn running(&self) -> Option<(Process, i32)> {
        locked(&self.facts).running.clone().filter(|(process, _)| process.ended().is_none())
    }
    pub(super) fn plan(&self) -> NodePlan {
        locked(&self.facts).plan.clone()
    }
}

impl Lab {
    /// The virtual LAN without nodes.
    pub(crate) async fn build(
        config: LabConfig,
        dir: LabDir,
        pid: i32,
        api_port: u16,
        children: Children,
    ) -> Result<Self, LabError> {
        let fabric = Fabric::build(&config).await?;
        let what = "start the outside host";
        let mut command = own_command(Role::Echo, check::OUTSIDE);
        let log = File::create(dir.logs().join("outside.log")).map_err(LabError::io(what))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let netns =
            std::os::fd::AsFd::as_fd(fabric.outside()).try_clone_to_owned().map_err(LabError::io(what))?;
        let spawned = children.spawn(|| sys::spawn_in_netns(&mut command, netns));
        let (outside, _) = spawned.map_err(LabError::io(what))?;
        let state = State { nodes: BTreeMap::new(), partitions: BTreeSet::new(), last_index: 0, moves: 0 };
        Ok(Self {
            config,
            dir,
            pid,
            api_port,
            children,
            fabric: fabric.into(),
            outside,
            state: state.into(),
            server: watch::Sender::new(None),
        })
    }

    /// Tells the process whose network namespace has the API.
    pub(crate) fn server(&self) -> watch::Receiver<Option<i32>> {
        self.server.subscribe()
    }

    pub(super) fn new_node(&self) -> Result<Arc<Node>, LabError> {
        let mut state = locked(&self.state);
        let index = state.last_index + 1;
        if index > crate::plan::MAX_NODES {
            let text =
                format!("this lab has had {} nodes; take it down and up again", crate::plan::MAX_NODES);
            return Err(LabError::Refused(text));
        }
        state.last_index = index;
        let facts = Facts { plan: self.config.node(index, 0), running: None, pods: BTreeMap::new() };
        let node = Arc::new(Node { index, name: node_name(index), power: ().into(), facts: facts.into() });
        state.nodes.insert(index, Arc::clone(&node));
        Ok(node)
    }

    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        locked(&self.state).nodes.values().cloned().collect()
    }

    pub(super) fn node(&self, name: &str) -> Result<Arc<Node>, LabError> {
        let state = locked(&self.state);
        let found = node_index(name).and_then(|index| state.nodes.get(&index).cloned());
        found.ok_or_else(|| {
            let names: Vec<&str> = state.nodes.values().map(|n| n.name.as_str()).collect();
            LabError::Refused(format!("there is no node {name:?}; there are {}", names.join(", ")))
        })
    }

    /// Switches a node on: new namespaces, new links, its old disk; its services if it had any.
    pub(super) async fn boot(&self, node: &Node) -> Result<(), LabError> {
        let _power = node.power.lock().await;
        if node.running().is_some() {
            return Err(LabError::Refused(format!("{} is on already", node.name)));
        }
        let order = NodeOrder {
            name: node.name.clone(),
            disk: self.dir.disk(&node.name),
            logs: self.dir.logs(),
            boot_id: random_id()?,
        };
        let argument = serde_json::to_string(&order).map_err(LabError::message("a node's order"))?;
        let log_path = self.dir.logs().join(format!("{}.log", node.name));
        let log = File::options().create(true).append(true).open(&log_path);
        let log = log.map_err(LabError::io(format!("open {}", log_path.display())))?;
        let mut command = own_command(Role::Node, &argument);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let what = format!("boot {}", node.name);
        let spawned = self.children.spawn(|| sys::spawn_in_new(&mut command, sys::OWN));
        let (process, mut child) = spawned.map_err(LabError::io(what.as_str()))?;
        let hello = async {
            let stdout = child.stdout.take().ok_or_else(|| std::io::Error::other("no pipe"))?;
            let mut line = String::new();
            receiver(stdout)?.read_line(&mut line).await?;
            Ok::<Hello, std::io::Error>(serde_json::from_str(&line)?)
        };
        let host_pid = match tokio::time::timeout(BOOT_LIMIT, hello).await {
            Ok(Ok(hello)) => hello.host_pid,
            _ => {
                process.kill().await;
                return Err(LabError::Refused(format!("{what}: it did not come up\n{}", tail(&log_path))));
            }
        };
        let connected = async {
            let netns = PathBuf::from(format!("/proc/{host_pid}/ns/net"));
            let netns = NetNs::open(&netns).map_err(LabError::kernel(what.as_str()))?;
            self.fabric.lock().await.plug(&node.name, &node.plan(), &netns).await
        };
        if let Err(error) = connected.await {
            process.kill().await;
            return Err(error);
        }
        locked(&node.facts).running = Some((process, host_pid));
        if node.index == SERVER_NODE {
            self.server.send_replace(Some(host_pid));
        }
        let services = self.services(node);
        self.ask::<Value>(node, &NodeRequest::Boot { services }, ANSWER_LIMIT).await.map(drop)
    }

    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        node: &Node,
        request: &NodeRequest,
        limit: Duration,
    ) -> Result<T, LabError> {
        if node.running().is_none() {
            let name = &node.name;
            return Err(LabError::Refused(format!("{name} is off; `warren lab start {name}` boots it")));
        }
        rpc::call(socket(&self.dir.disk(&node.name)), request, limit, |_| {}).await
    }

    pub(super) async fn run(&self, node: &Node, spec: PodSpec) -> Result<PodStatus, LabError> {
        let taken = |name: &str| self.nodes().iter().any(|n| locked(&n.facts).pods.contains_key(name));
        if taken(&spec.name) {
            return Err(LabError::Refused(format!("there is a pod {} already", spec.name)));
        }
        let patience_ms = u64::try_from(POD_LIMIT.as_millis()).unwrap_or(u64::MAX);
        let request = NodeRequest::Run { pod: spec.clone(), patience_ms };
        let status: PodStatus = self.ask(node, &request, POD_LIMIT * 3).await?;
        let wanted = Wanted { spec: spec.clone(), failure: String::new() };
        locked(&node.facts).pods.insert(spec.name, wanted);
        Ok(status)
    }

    pub(super) async fn rm(&self, name: &str) -> Result<(), LabError> {
        let holds = |node: &Arc<Node>| locked(&node.facts).pods.contains_key(name);
        let Some(node) = self.nodes().into_iter().find(holds) else {
            return Err(LabError::Refused(format!(
                "there is no pod {name:?}; `warren lab status` shows those there are"
            )));
        };
        let failed = locked(&node.facts).pods.get(name).is_some_and(|w| !w.failure.is_empty());
        // On a node that is off there is nothing to remove: it forgets its pods with its power.
        if node.running().is_some() && !failed {
            self.ask::<Value>(&node, &NodeRequest::Rm { name: name.to_owned() }, POD_LIMIT * 3).await?;
        }
        locked(&node.facts).pods.remove(name);
        Ok(())
    }

    /// Cuts a node's power.
    pub(super) async fn cut(&self, node: &Node) -> Result<(), LabError> {
        let _power = node.power.lock().await;
        let Some((process, _)) = node.running() else {
            return Err(LabError::Refused(format!("{} is off already", node.name)));
        };
        if node.index == SERVER_NODE {
            self.server.send_replace(None);
        }
        process.kill().await;
        locked(&node.facts).running = None;
        self.fabric.lock().await.unplug(&node.name).await
    }

    /// Boots a node that was off, and starts its pods again, with new sandboxes.
    pub(super) async fn start(&self, node: &Node, progress: &Progress) -> Result<(), LabError> {
        progress.say(format!("booting {}", node.name));
        self.boot(node).await?;
        let specs: Vec<PodSpec> = {
            let mut facts = locked(&node.facts);
            facts.pods.values_mut().for_each(|w| "it is being started".clone_into(&mut w.failure));
            facts.pods.values().map(|w| w.spec.clone()).collect()
        };
        progress.say(format!("starting {} pods", specs.len()));
        let patience_ms = u64::try_from(POD_LIMIT.as_millis()).unwrap_or(u64::MAX);
        let started = join_all(specs.into_iter().map(|spec| async move {
            let request = NodeRequest::Run { pod: spec.clone(), patience_ms };
            (spec.name, self.ask::<PodStatus>(node, &request, POD_LIMIT * 3).await)
        }));
        let mut failures = Vec::new();
        for (name, result) in started.await {
            let failure = result.err().map(|e| e.to_string()).unwrap_or_default();
            if !failure.is_empty() {
                failures.push(failure.clone());
            }
            if let Some(wanted) = locked(&node.facts).pods.get_mut(&name) {
                wanted.failure = failure;
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(LabError::Refused(failures.join("\n"))) }
    }

    pub(super) async fn add_node(&self, progress: &Progress) -> Result<NodeStatus, LabError> {
        let node = self.new_node()?;
        progress.say(format!("booting {}", node.name));
        let joined = async {
            self.boot(&node).await?;
            if !self.config.bare {
                progress.say(format!("joining {}", node.name));
                self.join(&node).await?;
            }
            Ok(())
        };
        if let Err(error) = joined.await {
            let _ = self.remove_node(&node).await;
            return Err(error);
        }
        for k in 1..=self.config.pods {
            self.run(&node, PodSpec::sample(node.index, k)).await?;
        }
        Ok(self.node_status(&node).await.0)
    }

    pub(super) async fn remove_node(&self, node: &Node) -> Result<(), LabError> {
        if node.index == SERVER_NODE {
            return Err(LabError::Refused(format!("{} has the server; the lab ends with it", node.name)));
        }
        if node.running().is_some() {
            self.cut(node).await?;
        }
        {
            let mut state = locked(&self.state);
            state.nodes.remove(&node.index);
            state.partitions.retain(|(a, b)| *a != node.index && *b != node.index);
        }
        self.apply_partitions().await?;
        let disk = self.dir.disk(&node.name);
        std::fs::remove_dir_all(&disk).map_err(LabError::io(format!("remove the disk of {}", node.name)))
    }

    pub(super) async fn readdress(&self, node: &Node) -> Result<NodeStatus, LabError> {
        if node.index == SERVER_NODE {
            let text = format!(
                "{} has the server, whose address the other nodes joined; take another node",
                node.name
            );
            return Err(LabError::Refused(text));
        }
        let moves = {
            let mut state = locked(&self.state);
            state.moves += 1;
            state.moves
        };
        let (old, new) = (node.plan(), self.config.node(node.index, moves));
        let netns = match node.running() {
            Some((_, pid)) => {
                let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
                Some(NetNs::open(&path).map_err(LabError::kernel(format!("find {}", node.name)))?)
            }
            None => None,
        };
        self.fabric.lock().await.readdress(&node.name, &old, &new, netns.as_ref()).await?;
        locked(&node.facts).plan = new;
        self.apply_partitions().await?;
        Ok(self.node_status(node).await.0)
    }

    pub(super) async fn partition(&self, a: &Node, b: &Node) -> Result<(), LabError> {
        if a.index == b.index {
            return Err(LabError::Refused(format!("{} cannot be cut from itself", a.name)));
        }
        locked(&self.state).partitions.insert((a.index.min(b.index), a.index.max(b.index)));
        self.apply_partitions().await
    }

    pub(super) async fn apply_partitions(&self) -> Result<(), LabError> {
        // The lock orders changes, and what is applied is what holds then.
        let fabric = self.fabric.lock().await;
        let pairs: Vec<(Vec<IpAddr>, Vec<IpAddr>)> = {
            let state = locked(&self.state);
            let seen = |index: &u16| Some(addresses(&state.nodes.get(index)?.plan().switch));
            state.partitions.iter().filter_map(|(a, b)| Some((seen(a)?, seen(b)?))).collect()
        };
        fabric.partition(&pairs).await
    }
}

/// The last lines of a log file.
pub(super) fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(8)).map(|l| format!("  {l}\n")).collect()
}
