//! The life of the probe pods: attached for a run, asked step by step, and taken away with it.

use crate::clear::{self, Aim};
use crate::round::Round;
use crate::{BoxFuture, echo};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use warren_netlink::{NetNs, Netlink, NetlinkError};
use warren_store::tables::ONLY;
use warren_store::{Durability, Store, StoreError, Table};
use warren_types::connectivity::{
    Check, ConnectivityAnswer, ConnectivityRun, LABEL_NODE, LABEL_ROLE, NAMESPACE, RunPhase, answerer, asker,
};
use warren_types::{Attachment, AttachmentPhase, HealthCell, NodeName};

/// What container IDs of probe pods begin with.
pub const CONTAINER_PREFIX: &str = "warren-connectivity-";
/// How long the pods of a run live at most, whatever becomes of the command.
pub const LIFE: Duration = Duration::from_secs(900);
/// The link of a pod, in its own namespace.
pub const LINK: &str = "eth0";
/// The wait before a refused attachment is tried again.
const AGAIN: Duration = Duration::from_millis(200);

/// A pod to be attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRequest {
    /// Its container ID.
    pub container_id: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: &'static str,
    /// Its labels.
    pub labels: BTreeMap<&'static str, String>,
}

/// What is known of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whether the agent makes Pod objects of what is attached.
    pub registers: bool,
    /// The port on which it serves Ingresses; none when it does not.
    pub ingress_port: Option<u16>,
    /// Where cluster DNS answers.
    pub dns: Vec<IpAddr>,
    /// The cluster's domain.
    pub domain: String,
    /// Whether outside names are denied by configuration.
    pub offline: bool,
    /// Where packets of the tunnels may be sent, by node.
    pub endpoints: BTreeMap<NodeName, BTreeSet<SocketAddr>>,
}

/// What the agent lends: pods are attached by the same way as those of a container runtime.
pub trait Node: Send + Sync {
    /// Attaches a pod; returns its addresses.
    ///
    /// # Errors
    /// Why not, for people.
    fn attach<'a>(&'a self, pod: &'a PodRequest, ns: &'a NetNs)
    -> BoxFuture<'a, Result<Vec<IpAddr>, String>>;
    /// Detaches the pod with this container ID; one that is not attached is no failure.
    ///
    /// # Errors
    /// Why not, for people.
    fn detach<'a>(&'a self, container_id: &'a str) -> BoxFuture<'a, Result<(), String>>;
    /// What is known of this node now.
    fn facts(&self) -> Facts;
}

/// What the runner works with.
pub struct Deps {
    /// This node.
    pub node_name: NodeName,
    /// The agent.
    pub node: Arc<dyn Node>,
    /// The node's own network namespace.
    pub netlink: Netlink,
    /// Rows of runs, answers and attachments.
    pub store: Store,
}

/// Why the runner cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectivityError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Takes part in runs until `stop`.
///
/// # Errors
/// The store's only.
pub async fn run(deps: Deps, health: HealthCell, stop: CancellationToken) -> Result<(), ConnectivityError> {
    let runs: Table<ConnectivityRun> = deps.store.table();
    let mut changes = runs.watch();
    sweep(&deps).await;
    health.ready();
    let mut part: Option<Part> = None;
    loop {
        let wanted = runs.get(ONLY).filter(|run| run.targets.contains_key(&deps.node_name));
        let over = |p: &Part| p.begun.elapsed() >= LIFE || wanted.as_ref().is_none_or(|run| run.id != p.id);
        if let Some(ended) = part.take_if(|p| over(p)) {
            ended.end(&deps).await;
        }
        if let Some(run) = &wanted {
            // A run that went on while no agent was here, or longer than it may, is not joined in the middle.
            if part.is_none() && run.phase == RunPhase::Hello {
                part = Some(Part::new(&run.id));
            }
            let answer = tokio::select! {
                () = stop.cancelled() => None,
                answer = next(&deps, part.as_mut(), run) => answer,
            };
            if let Some(answer) = answer {
                deps.store.table().put(answer, Durability::Cached).await?;
            }
        }
        let end = part.as_ref().map(|p| p.begun + LIFE);
        tokio::select! {
            () = stop.cancelled() => {
                if let Some(part) = part {
                    part.end(&deps).await;
                }
                return Ok(());
            }
            update = changes.next() => drop(update.ok_or(StoreError::Closed)?),
            () = tokio::time::sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => {}
        }
    }
}

/// Takes away what an agent before this one left attached: its pods ended with it.
async fn sweep(deps: &Deps) {
    let attachments: Table<Attachment> = deps.store.table();
    for row in attachments.snapshot().rows.values() {
        let id = row.key.container_id.as_str();
        if id.starts_with(CONTAINER_PREFIX) && row.phase != AttachmentPhase::Deleting {
            detach(deps, id).await;
        }
    }
}

async fn detach(deps: &Deps, id: &str) {
    if let Err(error) = deps.node.detach(id).await {
        tracing::warn!(container = id, %error, "a probe pod stays attached; the next start tries again");
    }
}

/// The answer to the step that the run is at; none when it was given already.
async fn next(deps: &Deps, part: Option<&mut Part>, run: &ConnectivityRun) -> Option<ConnectivityAnswer> {
    let facts = deps.node.facts();
    let mut answer = ConnectivityAnswer {
        id: run.id.clone(),
        phase: run.phase,
        error: String::new(),
        registers: facts.registers,
        ingress_port: facts.ingress_port,
        offline: facts.offline,
        asker: Vec::new(),
        answerer: Vec::new(),
        checks: Vec::new(),
    };
    let Some(part) = part else {
        answer.error = "its agent was started in the middle of the run".into();
        return Some(answer);
    };
    if part.answered.replace(run.phase) == Some(run.phase) {
        return None;
    }
    let done = match run.phase {
        RunPhase::Hello => Ok(Vec::new()),
        RunPhase::Attach => part.attach(deps, run).await.map(|()| Vec::new()),
        RunPhase::Ask | RunPhase::Policy => part.ask(deps, run, &facts).await,
    };
    match done {
        Ok(checks) => answer.checks = checks,
        Err(error) => answer.error = error,
    }
    let ips = |pod: &Option<Pod>| pod.as_ref().map(|p| p.ips.clone()).unwrap_or_default();
    (answer.asker, answer.answerer) = (ips(&part.asker), ips(&part.answerer));
    Some(answer)
}

/// This node's part in a run.
struct Part {
    id: String,
    begun: Instant,
    answered: Option<RunPhase>,
    asker: Option<Pod>,
    answerer: Option<Pod>,
    /// The echo server of the pod that answers; it ends with this.
    serving: JoinSet<()>,
    served: CancellationToken,
    _ends_with_us: DropGuard,
}

struct Pod {
    container_id: String,
    ns: NetNs,
    ips: Vec<IpAddr>,
}

impl Part {
    fn new(id: &str) -> Self {
        let served = CancellationToken::new();
        Self {
            id: id.to_owned(),
            begun: Instant::now(),
            answered: None,
            asker: None,
            answerer: None,
            serving: JoinSet::new(),
            served: served.clone(),
            _ends_with_us: served.drop_guard(),
        }
    }

    async fn attach(&mut self, deps: &Deps, run: &ConnectivityRun) -> Result<(), String> {
        let number = run.targets.keys().position(|node| *node == deps.node_name).unwrap_or_default();
        let limit = Duration::from_millis(run.timeout_ms);
        let answering = answerer(number);
        self.answerer = Some(Pod::attach(deps, &answering, "answer", number, limit).await?);
        self.asker = Some(Pod::attach(deps, &asker(number), "ask", number, limit).await?);
        let Some(pod) = &self.answerer else { return Ok(()) };
        let (ns, served) = (pod.ns.try_clone().map_err(|e| e.to_string())?, self.served.clone());
        self.serving.spawn(async move {
            let serve = move || async move {
                tokio::select! {
                    () = served.cancelled() => Ok(()),
                    ended = echo::serve(&answering) => ended,
                }
            };
            match in_namespace(&ns, serve).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the probe pod does not answer"),
                Err(error) => tracing::warn!(%error, "the probe pod does not answer"),
            }
        });
        Ok(())
    }

    async fn ask(&self, deps: &Deps, run: &ConnectivityRun, facts: &Facts) -> Result<Vec<Check>, String> {
        let pod = self.asker.as_ref().ok_or("its pod is not attached")?;
        let said = |e: NetlinkError| e.to_string();
        let inside = Netlink::in_namespace(&pod.ns).await.map_err(said)?;
        let link = inside.get_link(LINK).await.map_err(said)?;
        let round = Round {
            run: run.clone(),
            own: pod.ips.clone(),
            mtu: link.ok_or("its pod has lost its link")?.mtu,
            dns: facts.dns.clone(),
            domain: facts.domain.clone(),
            offline: facts.offline,
        };
        let mut checks =
            in_namespace(&pod.ns, move || async move { round.ask().await }).await.map_err(said)?;
        if run.phase == RunPhase::Ask {
            let others = run.targets.iter().filter(|(node, _)| **node != deps.node_name);
            let aims: Vec<Aim> = others
                .flat_map(|(node, target)| {
                    target.pod.iter().map(|ip| Aim { node: node.clone(), address: *ip })
                })
                .filter(|aim| pod.ips.iter().any(|ip| ip.is_ipv4() == aim.address.is_ipv4()))
                .collect();
            let limit = Duration::from_millis(run.timeout_ms);
            let looked = clear::look(&deps.netlink, &pod.ns, &run.id, &aims, facts, limit).await;
            checks.extend(looked.map_err(said)?);
        }
        Ok(checks)
    }

    async fn end(mut self, deps: &Deps) {
        self.served.cancel();
        while self.serving.join_next().await.is_some() {}
        for pod in [self.asker.take(), self.answerer.take()].into_iter().flatten() {
            detach(deps, &pod.container_id).await;
        }
    }
}

impl Pod {
    async fn attach(
        deps: &Deps,
        name: &str,
        role: &str,
        number: usize,
        limit: Duration,
    ) -> Result<Self, String> {
        let ns = NetNs::fresh().map_err(|e| e.to_string())?;
        let request = PodRequest {
            container_id: format!("{CONTAINER_PREFIX}{name}"),
            name: name.to_owned(),
            namespace: NAMESPACE,
            labels: BTreeMap::from([(LABEL_ROLE, role.to_owned()), (LABEL_NODE, number.to_string())]),
        };
        let inside = Netlink::in_namespace(&ns).await.map_err(|e| e.to_string())?;
        inside.set_up("lo", true).await.map_err(|e| e.to_string())?;
        let end = Instant::now() + limit;
        loop {
            match deps.node.attach(&request, &ns).await {
                Ok(ips) => return Ok(Self { container_id: request.container_id, ns, ips }),
                // It may wait for the pod's object, or for this node's podCIDR.
                Err(_) if Instant::now() < end => tokio::time::sleep(AGAIN).await,
                Err(error) => return Err(format!("pod {name} was not attached: {error}")),
            }
        }
    }
}

/// Runs a future on a thread in the namespace, with a runtime of its own.
pub(crate) async fn in_namespace<T, F>(
    ns: &NetNs,
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<T, NetlinkError>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let ns = ns.try_clone()?;
    let thread = tokio::task::spawn_blocking(move || {
        ns.run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map(|runtime| runtime.block_on(work()))
        })
    });
    let failed = |source| NetlinkError::Kernel { op: "run in", object: "network namespace".into(), source };
    thread.await.map_err(|e| failed(std::io::Error::other(e)))??.map_err(failed)
}
