//! A lab in memory: its nodes, their power, their pods, and the requests that change them.

use super::super::node::{NodeOrder, socket};
use crate::check::{self, LiveNode};
use crate::dir::LabDir;
use crate::fabric::Fabric;
use crate::plan::{LabConfig, NodePlan, addresses};
use crate::pods::receiver;
use crate::reaper::{Children, Process};
use crate::rpc::{self, Handler, Progress};
use crate::wire::{
    CheckReport, CheckResult, Hello, LabStatus, NodeReport, NodeRequest, NodeStatus, Place, PodSpec,
    PodState, PodStatus, Request, Service, ServiceSpec,
};
use crate::{LabError, Role, own_command, random_id, sys};
use futures::future::{BoxFuture, join_all, try_join_all};
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
use tokio::time::Instant;
use warren_netlink::NetNs;
use warren_types::defaults::API_PORT;

/// How long a node may take to furnish its namespaces.
const BOOT_LIMIT: Duration = Duration::from_secs(15);
/// How long a service may take to write the file that says it is ready.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// How long a pod may take to be attached.
const POD_LIMIT: Duration = Duration::from_secs(20);
/// How long a node may take to answer a simple question.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// There is no notice of a file that another process writes: it is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A service that was started so often without getting ready will not.
const HOPELESS: u64 = 5;
/// The node with the server.
const SERVER_NODE: u16 = 1;

/// A lab.
pub(crate) struct Lab {
    config: LabConfig,
    dir: LabDir,
    pid: i32,
    api_port: u16,
    children: Children,
    fabric: tokio::sync::Mutex<Fabric>,
    outside: Process,
    state: Mutex<State>,
    /// The process whose network namespace has the API.
    server: watch::Sender<Option<i32>>,
}

struct State {
    nodes: BTreeMap<u16, Arc<Node>>,
    partitions: BTreeSet<(u16, u16)>,
    /// How many nodes there ever were: numbers are not used again.
    last_index: u16,
    /// How many address changes there were.
    moves: u16,
}

struct Node {
    index: u16,
    name: String,
    /// Held while the node is switched on or off.
    power: tokio::sync::Mutex<()>,
    facts: Mutex<Facts>,
}

struct Facts {
    plan: NodePlan,
    running: Option<(Process, i32)>,
    pods: BTreeMap<String, Wanted>,
}

/// A pod that is to run on a node, whenever that is on.
struct Wanted {
    spec: PodSpec,
    /// Why it does not; empty when it does.
    failure: String,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn node_name(index: u16) -> String {
    format!("node-{index}")
}

/// The number in `node-3` or `3`.
fn node_index(name: &str) -> Option<u16> {
    name.strip_prefix("node-").unwrap_or(name).parse().ok()
}

impl Node {
    fn running(&self) -> Option<(Process, i32)> {
        locked(&self.facts).running.clone().filter(|(process, _)| process.ended().is_none())
    }
    fn plan(&self) -> NodePlan {
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

    /// Boots the nodes of the configuration, the control plane, and the sample pods.
    pub(crate) async fn bring_up(&self, progress: Progress) -> Result<Value, LabError> {
        let nodes: Vec<Arc<Node>> =
            (0..self.config.nodes).map(|_| self.new_node()).collect::<Result<_, _>>()?;
        progress.say(format!("booting {} nodes", nodes.len()));
        try_join_all(nodes.iter().map(|node| self.boot(node))).await?;
        if !self.config.bare {
            progress.say("starting the server on node-1");
            self.token().await?;
            progress.say("joining the nodes");
            try_join_all(nodes.iter().map(|node| async {
                self.join(node).await?;
                progress.say(format!("{} has joined", node.name));
                Ok::<_, LabError>(())
            }))
            .await?;
            if self.config.pods > 0 {
                progress.say("starting sample pods");
            }
            let samples = nodes.iter().flat_map(|node| (1..=self.config.pods).map(move |k| (node, k)));
            try_join_all(samples.map(|(node, k)| {
                let labels = BTreeMap::from([("app".to_owned(), "sample".to_owned())]);
                let name = format!("pod-{}-{k}", node.index);
                self.run(node, PodSpec { name, labels, command: Vec::new() })
            }))
            .await?;
        }
        to_value(&self.status().await)
    }

    fn new_node(&self) -> Result<Arc<Node>, LabError> {
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

    fn nodes(&self) -> Vec<Arc<Node>> {
        locked(&self.state).nodes.values().cloned().collect()
    }

    fn node(&self, name: &str) -> Result<Arc<Node>, LabError> {
        let state = locked(&self.state);
        let found = node_index(name).and_then(|index| state.nodes.get(&index).cloned());
        found.ok_or_else(|| {
            let names: Vec<&str> = state.nodes.values().map(|n| n.name.as_str()).collect();
            LabError::Refused(format!("there is no node {name:?}; there are {}", names.join(", ")))
        })
    }

    /// Switches a node on: new namespaces, new links, its old disk; its services if it had any.
    async fn boot(&self, node: &Node) -> Result<(), LabError> {
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

    /// What runs on a node by itself; the agent only once the node has a token.
    fn services(&self, node: &Node) -> Vec<ServiceSpec> {
        let spec = |name: Service, args: Vec<String>| ServiceSpec {
            name,
            args,
            log_filter: self.config.log.clone(),
        };
        let words = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<String>>();
        let echo = ["lab", "internal", "echo", &node.name];
        let mut all = vec![spec(Service::Echo, words(&echo))];
        if self.config.bare {
            return all;
        }
        if node.index == SERVER_NODE {
            let address = self.server_address().to_string();
            let listen = if self.server_address().is_ipv4() && self.config.cluster_cidrs().len() == 1 {
                format!("0.0.0.0:{API_PORT}")
            } else {
                format!("[::]:{API_PORT}")
            };
            let (cluster, service) =
                (self.config.cluster_cidrs().join(","), self.config.service_cidrs().join(","));
            let mut args = words(&["server", "--advertise-address", &address, "--listen", &listen]);
            args.extend(words(&[
                "--tls-san",
                "127.0.0.1",
                "--cluster-cidr",
                &cluster,
                "--service-cidr",
                &service,
            ]));
            let prefixes = [
                ("--node-prefix-v4", self.config.node_prefix_v4),
                ("--node-prefix-v6", self.config.node_prefix_v6),
            ];
            args.extend(
                prefixes
                    .into_iter()
                    .filter_map(|(flag, bits)| Some([flag.to_owned(), bits?.to_string()]))
                    .flatten(),
            );
            all.push(spec(Service::Server, args));
        }
        if self.dir.disk(&node.name).join("etc/warren/token").exists() {
            let url = format!("https://{}", std::net::SocketAddr::new(self.server_address(), API_PORT));
            let mut args = words(&[
                "agent",
                "--server",
                &url,
                "--token-file",
                "/etc/warren/token",
                "--node-name",
                &node.name,
            ]);
            args.extend(self.config.agent_args.iter().cloned());
            all.push(spec(Service::Agent, args));
        }
        all
    }

    fn server_address(&self) -> IpAddr {
        let plan = self.config.node(SERVER_NODE, 0);
        plan.switch.first().map_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), ipnet::IpNet::addr)
    }

    /// The token of the server, once it has made one.
    async fn token(&self) -> Result<Vec<u8>, LabError> {
        let node = self.node(&node_name(SERVER_NODE))?;
        let path = self.dir.disk(&node.name).join("var/lib/warren/server/agent-token");
        let there = || path.exists();
        self.await_ready(&node, Service::Server, "the start of the server", there).await?;
        std::fs::read(&path).map_err(LabError::io(format!("read the token of {}", node.name)))
    }

    /// Gives a node the token, starts its agent, and waits until pods can be attached.
    async fn join(&self, node: &Node) -> Result<(), LabError> {
        let disk = self.dir.disk(&node.name);
        let path = disk.join("etc/warren/token");
        let write = |token: Vec<u8>| -> std::io::Result<()> {
            use std::os::unix::fs::OpenOptionsExt as _;
            let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&path)?;
            std::io::Write::write_all(&mut file, &token)
        };
        write(self.token().await?).map_err(LabError::io(format!("write the token of {}", node.name)))?;
        let services = self.services(node);
        self.ask::<Value>(node, &NodeRequest::Boot { services }, ANSWER_LIMIT).await?;
        let there = || has_conflist(&disk.join("etc/cni/net.d"));
        self.await_ready(node, Service::Agent, "the start of the agent", there).await
    }

    /// Waits until a service has done what says that it is ready.
    async fn await_ready(
        &self,
        node: &Node,
        service: Service,
        what: &str,
        there: impl Fn() -> bool,
    ) -> Result<(), LabError> {
        let log = self.dir.logs().join(format!("{}-{}.log", node.name, service.word()));
        let begin = Instant::now();
        let mut looks = 0_u32;
        while !there() {
            looks += 1;
            let late = begin.elapsed() > READY_LIMIT;
            if late || (looks.is_multiple_of(25) && self.hopeless(node, service).await) {
                let why = if late { "is not ready" } else { "fails again and again" };
                let (name, seconds) = (&node.name, begin.elapsed().as_secs());
                let text =
                    format!("{name}: {what}: it {why} after {seconds} s; {}\n{}", log.display(), tail(&log));
                return Err(LabError::Refused(text));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    async fn hopeless(&self, node: &Node, service: Service) -> bool {
        match self.ask::<NodeReport>(node, &NodeRequest::Report, ANSWER_LIMIT).await {
            Ok(report) => report.services.iter().any(|s| s.name == service && s.starts >= HOPELESS),
            Err(_) => node.running().is_none(),
        }
    }

    async fn ask<T: DeserializeOwned>(
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

    async fn run(&self, node: &Node, spec: PodSpec) -> Result<PodStatus, LabError> {
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

    async fn rm(&self, name: &str) -> Result<(), LabError> {
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
    async fn cut(&self, node: &Node) -> Result<(), LabError> {
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
    async fn start(&self, node: &Node, progress: &Progress) -> Result<(), LabError> {
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

    async fn add_node(&self, progress: &Progress) -> Result<NodeStatus, LabError> {
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
            let labels = BTreeMap::from([("app".to_owned(), "sample".to_owned())]);
            let name = format!("pod-{}-{k}", node.index);
            self.run(&node, PodSpec { name, labels, command: Vec::new() }).await?;
        }
        Ok(self.node_status(&node).await.0)
    }

    async fn remove_node(&self, node: &Node) -> Result<(), LabError> {
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

    async fn readdress(&self, node: &Node) -> Result<NodeStatus, LabError> {
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

    async fn partition(&self, a: &Node, b: &Node) -> Result<(), LabError> {
        if a.index == b.index {
            return Err(LabError::Refused(format!("{} cannot be cut from itself", a.name)));
        }
        locked(&self.state).partitions.insert((a.index.min(b.index), a.index.max(b.index)));
        self.apply_partitions().await
    }

    async fn apply_partitions(&self) -> Result<(), LabError> {
        // The lock orders changes, and what is applied is what holds then.
        let _fabric = self.fabric.lock().await;
        let pairs: Vec<(Vec<IpAddr>, Vec<IpAddr>)> = {
            let state = locked(&self.state);
            let seen = |index: &u16| Some(addresses(&state.nodes.get(index)?.plan().switch));
            state.partitions.iter().filter_map(|(a, b)| Some((seen(a)?, seen(b)?))).collect()
        };
        crate::firewall::partition(&pairs).await
    }

    async fn node_status(&self, node: &Node) -> (NodeStatus, Vec<PodStatus>) {
        let running = node.running();
        let report: Option<NodeReport> = match &running {
            Some(_) => self.ask(node, &NodeRequest::Report, ANSWER_LIMIT).await.ok(),
            None => None,
        };
        let plan = node.plan();
        let (services, mut pods) = report.map(|r| (r.services, r.pods)).unwrap_or_default();
        let status = NodeStatus {
            name: node.name.clone(),
            pid: running.map(|(_, pid)| pid),
            addresses: addresses(&plan.node),
            switch_addresses: addresses(&plan.switch),
            services,
        };
        for (name, wanted) in &locked(&node.facts).pods {
            if pods.iter().any(|p| p.name == *name) {
                continue;
            }
            let off = "its node is off".to_owned();
            pods.push(PodStatus {
                name: name.clone(),
                node: node.name.clone(),
                pid: None,
                ips: Vec::new(),
                state: PodState::Dead,
                message: if status.pid.is_none() { off } else { wanted.failure.clone() },
                labels: wanted.spec.labels.clone(),
                command: wanted.spec.command.clone(),
                container_id: String::new(),
            });
        }
        (status, pods)
    }

    async fn status(&self) -> LabStatus {
        let nodes = self.nodes();
        let (nodes, pods): (Vec<_>, Vec<_>) =
            join_all(nodes.iter().map(|n| self.node_status(n))).await.into_iter().unzip();
        let partitions =
            locked(&self.state).partitions.iter().map(|(a, b)| (node_name(*a), node_name(*b))).collect();
        LabStatus {
            name: self.config.name.to_string(),
            topology: self.config.topology,
            families: self.config.families,
            switch_pid: self.pid,
            api_port: self.api_port,
            nodes,
            pods: pods.into_iter().flatten().collect(),
            partitions,
            outside: addresses(&self.config.outside()),
        }
    }

    async fn check(&self, timeout_ms: u64) -> Result<CheckReport, LabError> {
        let status = self.status().await;
        let live = status.nodes.iter().filter(|n| n.pid.is_some()).map(|n| LiveNode {
            name: n.name.clone(),
            addresses: n.addresses.clone(),
            switch_addresses: n.switch_addresses.clone(),
        });
        let errands = check::errands(&live.collect::<Vec<_>>(), &status.pods, &status.outside, timeout_ms);
        let limit = Duration::from_millis(timeout_ms) * 8 + ANSWER_LIMIT;
        let asked = errands.into_iter().map(|errand| async move {
            let node = self.node(&errand.node)?;
            let request = NodeRequest::Probe { from: errand.pod, order: errand.order };
            self.ask::<Vec<CheckResult>>(&node, &request, limit).await
        });
        let results = try_join_all(asked).await?.concat();
        Ok(CheckReport { passed: results.iter().filter(|r| r.ok).count(), total: results.len(), results })
    }

    async fn kubeconfig(&self) -> Result<String, LabError> {
        let path = self.dir.disk(&node_name(SERVER_NODE)).join("etc/warren/kubeconfig");
        let text = std::fs::read_to_string(&path).map_err(LabError::io("read the kubeconfig of node-1"))?;
        Ok(redirect(&text, self.api_port))
    }

    async fn place(&self, name: &str) -> Result<Place, LabError> {
        if name == "switch" {
            return Ok(Place { pid: self.pid, netns: None });
        }
        if name == check::OUTSIDE && self.outside.ended().is_some() {
            return Err(LabError::Refused("the outside host has stopped".into()));
        }
        if let Some(netns) = self.fabric.lock().await.place(name, self.pid) {
            return Ok(Place { pid: self.pid, netns: Some(netns) });
        }
        let status = self.status().await;
        let pods = status.pods.iter().map(|p| (&p.name, p.pid));
        let found = status.nodes.iter().map(|n| (&n.name, n.pid)).chain(pods).find(|(n, _)| *n == name);
        match found {
            Some((_, Some(pid))) => Ok(Place { pid, netns: None }),
            Some((_, None)) => Err(LabError::Refused(format!("{name} does not run"))),
            None => Err(LabError::Refused(format!(
                "{name:?} is no node or pod of this lab, nor switch, gateway, outside or router-N; \
                 `warren lab status` shows them"
            ))),
        }
    }
}

/// The kubeconfig `text` with its server at the lab's port on the host.
fn redirect(text: &str, port: u16) -> String {
    let line = |line: &str| match line.find("server:") {
        Some(at) => format!("{}server: https://127.0.0.1:{port}\n", line.get(..at).unwrap_or_default()),
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

fn has_conflist(dir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    entries.flatten().any(|e| e.path().extension().is_some_and(|x| x == "conflist"))
}

/// The last lines of a log file.
fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(12)).map(|l| format!("  {l}\n")).collect()
}

fn to_value(value: &impl serde::Serialize) -> Result<Value, LabError> {
    serde_json::to_value(value).map_err(LabError::message("an answer"))
}

/// Whether a pod of this name could be told from the other targets of `exec`.
fn check_pod_name(name: &str) -> Result<(), LabError> {
    warren_types::PodName::new(name).map_err(|e| LabError::Refused(e.to_string()))?;
    let fixed = matches!(name, "switch" | "gateway" | check::OUTSIDE);
    let numbered =
        ["node-", "router-"].iter().any(|p| name.strip_prefix(p).is_some_and(|n| n.parse::<u16>().is_ok()));
    if fixed || numbered {
        return Err(LabError::Refused(format!("{name} names a part of the lab; give the pod another name")));
    }
    Ok(())
}

impl Handler<Request> for Lab {
    fn handle(
        self: Arc<Self>,
        request: Request,
        progress: Progress,
    ) -> BoxFuture<'static, Result<Value, LabError>> {
        Box::pin(async move {
            match request {
                Request::Status => to_value(&self.status().await),
                Request::Run { name, node, labels, command } => {
                    check_pod_name(&name)?;
                    let node = self.node(&node)?;
                    to_value(&self.run(&node, PodSpec { name, labels, command }).await?)
                }
                Request::Rm { name } => to_value(&self.rm(&name).await?),
                Request::Kill { node, process: None } => to_value(&self.cut(&*self.node(&node)?).await?),
                Request::Kill { node, process: Some(service) } => {
                    self.ask(&*self.node(&node)?, &NodeRequest::Kill { service }, ANSWER_LIMIT).await
                }
                Request::Start { node } => to_value(&self.start(&*self.node(&node)?, &progress).await?),
                Request::Service { node, action, service } => {
                    self.ask(&*self.node(&node)?, &NodeRequest::Service { action, service }, ANSWER_LIMIT)
                        .await
                }
                Request::NodeAdd => to_value(&self.add_node(&progress).await?),
                Request::NodeRemove { node } => to_value(&self.remove_node(&*self.node(&node)?).await?),
                Request::Readdress { node } => to_value(&self.readdress(&*self.node(&node)?).await?),
                Request::Partition { a, b } => {
                    to_value(&self.partition(&*self.node(&a)?, &*self.node(&b)?).await?)
                }
                Request::Heal => {
                    locked(&self.state).partitions.clear();
                    to_value(&self.apply_partitions().await?)
                }
                Request::Check { timeout_ms } => to_value(&self.check(timeout_ms).await?),
                Request::Kubeconfig => to_value(&self.kubeconfig().await?),
                Request::Target { name } => to_value(&self.place(&name).await?),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_goes_by_name_or_number() {
        assert_eq!((node_index("node-3"), node_index("3"), node_index("web")), (Some(3), Some(3), None));
    }

    #[test]
    fn pods_cannot_take_the_names_of_other_targets() {
        for bad in ["switch", "outside", "gateway", "node-1", "router-2", "../x", "A", ""] {
            assert!(check_pod_name(bad).is_err(), "{bad:?}");
        }
        assert!(check_pod_name("node-x").is_ok() && check_pod_name("web").is_ok());
    }

    #[test]
    fn a_kubeconfig_is_led_to_the_host() {
        let text = "clusters:\n- cluster:\n    server: https://192.168.57.11:6443\n  name: warren\n";
        assert!(redirect(text, 4711).contains("    server: https://127.0.0.1:4711\n  name: warren\n"));
    }
}
