//! Bringing a lab up: nodes, server, agents, sample pods, each when what it needs is ready.

use super::lab::{ANSWER_LIMIT, Lab, Node, SERVER_NODE, node_name, tail};
use super::requests::to_value;
use crate::LabError;
use crate::rpc::Progress;
use crate::wire::{NodeReport, NodeRequest, PodSpec, Service, ServiceSpec};
use futures::future::try_join_all;
use serde_json::Value;
use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use warren_types::defaults::API_PORT;

/// How long a service may take to write the file that says it is ready.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// There is no notice of a file that another process writes: it is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A service that was started so often without getting ready will not.
const HOPELESS: u64 = 5;

impl Lab {
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
            try_join_all(samples.map(|(node, k)| self.run(node, PodSpec::sample(node.index, k)))).await?;
        }
        to_value(&self.status().await)
    }

    /// What runs on a node by itself; the agent only once the node has a token.
    pub(super) fn services(&self, node: &Node) -> Vec<ServiceSpec> {
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

    pub(super) fn server_address(&self) -> IpAddr {
        let plan = self.config.node(SERVER_NODE, 0);
        plan.switch.first().map_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), ipnet::IpNet::addr)
    }

    /// The token of the server, once it has made one.
    pub(super) async fn token(&self) -> Result<Vec<u8>, LabError> {
        let node = self.node(&node_name(SERVER_NODE))?;
        let path = self.dir.disk(&node.name).join("var/lib/warren/server/agent-token");
        let there = || path.exists();
        self.await_ready(&node, Service::Server, "the start of the server", there).await?;
        std::fs::read(&path).map_err(LabError::io(format!("read the token of {}", node.name)))
    }

    /// Gives a node the token, starts its agent, and waits until pods can be attached.
    pub(super) async fn join(&self, node: &Node) -> Result<(), LabError> {
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
    pub(super) async fn await_ready(
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
                let file = log.file_name().unwrap_or_default().display();
                let text =
                    format!("{name}: {what}: it {why} after {seconds} s; {file} ends with:\n{}", tail(&log));
                return Err(LabError::Refused(text));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    pub(super) async fn hopeless(&self, node: &Node, service: Service) -> bool {
        match self.ask::<NodeReport>(node, &NodeRequest::Report, ANSWER_LIMIT).await {
            Ok(report) => report.services.iter().any(|s| s.name == service && s.starts >= HOPELESS),
            Err(_) => node.running().is_none(),
        }
    }
}

fn has_conflist(dir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    entries.flatten().any(|e| e.path().extension().is_some_and(|x| x == "conflist"))
}
