//! The first process of a node: furnishes the node's namespaces, then is its service manager and container runtime.

use crate::pods::Pods;
use crate::reaper::Children;
use crate::rpc::{self, Handler, Progress};
use crate::services::Services;
use crate::wire::{CheckResult, Hello, NodeReport, NodeRequest, ProbeOrder};
use crate::{LabError, Role, own_command, pid_in, root, runtime, sys};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use warren_netlink::{NetNs, Netlink, sysctl};

/// What a node's first process is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeOrder {
    pub(crate) name: String,
    /// Its disk, as the holder sees it.
    pub(crate) disk: PathBuf,
    /// The lab's log files, as the host sees them.
    pub(crate) logs: PathBuf,
    pub(crate) boot_id: String,
}

/// The socket of a node's first process, on its disk.
pub(crate) fn socket(disk: &Path) -> PathBuf {
    disk.join("init.sock")
}

/// Runs the process.
pub(crate) fn main(order: &str) -> Result<ExitCode, LabError> {
    let order: NodeOrder = serde_json::from_str(order).map_err(LabError::message("the node's order"))?;
    let host_pid = pid_in("/proc")?;
    let what = format!("boot {}", order.name);
    nix::unistd::sethostname(&order.name).map_err(LabError::errno(what.as_str()))?;
    let path = socket(&order.disk);
    std::fs::create_dir_all(&order.disk).map_err(LabError::io(what.as_str()))?;
    let _ = std::fs::remove_file(&path); // Of an earlier boot.
    let listener = std::os::unix::net::UnixListener::bind(&path).map_err(LabError::io(what.as_str()))?;
    listener.set_nonblocking(true).map_err(LabError::io(what.as_str()))?;
    root::enter_node(&order.disk, &order.boot_id)?;
    runtime()?.block_on(live(order, host_pid, listener))
}

async fn live(
    order: NodeOrder,
    host_pid: i32,
    listener: std::os::unix::net::UnixListener,
) -> Result<ExitCode, LabError> {
    let what = format!("boot {}", order.name);
    let listener = tokio::net::UnixListener::from_std(listener).map_err(LabError::io(what.as_str()))?;
    // A host that has booted is past looking for others with its address; a lab has none.
    sysctl::set("net/ipv6/conf/default/accept_dad", "0").map_err(LabError::io(what.as_str()))?;
    let netlink = Netlink::current().map_err(LabError::kernel(what.as_str()))?;
    netlink.set_up("lo", true).await.map_err(LabError::kernel(what.as_str()))?;
    drop(netlink);
    let logs = Path::new(root::HOST).join(order.logs.strip_prefix("/").unwrap_or(&order.logs));
    let children = Children::default();
    let node = Arc::new(Node {
        services: Services::new(children.clone(), &order.name, &logs),
        pods: Pods::new(children.clone(), &order.name, &logs),
        children: children.clone(),
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(children.reap());
    rpc::say(&Hello { host_pid }).map_err(LabError::io(what.as_str()))?;
    rpc::serve::<NodeRequest, _>(listener, node).await;
    Ok(ExitCode::SUCCESS)
}

struct Node {
    children: Children,
    services: Services,
    pods: Pods,
}

impl Handler<NodeRequest> for Node {
    fn handle(
        self: Arc<Self>,
        request: NodeRequest,
        _: Progress,
    ) -> BoxFuture<'static, Result<Value, LabError>> {
        Box::pin(async move {
            let done = Ok(Value::Null);
            match request {
                NodeRequest::Boot { services } => {
                    self.services.boot(services);
                    done
                }
                NodeRequest::Service { action, service } => {
                    self.services.set(service, action).await?;
                    done
                }
                NodeRequest::Kill { service } => {
                    self.services.kill(service).await?;
                    done
                }
                NodeRequest::Run { pod, patience_ms } => {
                    let status = self.pods.run(pod, Duration::from_millis(patience_ms)).await?;
                    serde_json::to_value(status).map_err(LabError::message("a pod's status"))
                }
                NodeRequest::Rm { name } => {
                    self.pods.rm(&name).await?;
                    done
                }
                NodeRequest::Report => {
                    let report = NodeReport { services: self.services.status(), pods: self.pods.status() };
                    serde_json::to_value(report).map_err(LabError::message("a node's report"))
                }
                NodeRequest::Probe { from, order } => self.probe(from, order).await,
            }
        })
    }
}

impl Node {
    async fn probe(&self, from: Option<String>, order: ProbeOrder) -> Result<Value, LabError> {
        let what = format!("probe from {}", order.source);
        let limit = Duration::from_millis(order.timeout_ms) * 2 + Duration::from_secs(10);
        let text = serde_json::to_string(&order).map_err(LabError::message("the order to probe"))?;
        let mut command = own_command(Role::Probe, "stdin");
        let netns = match from {
            None => None,
            Some(pod) => {
                let path = self
                    .pods
                    .netns(&pod)
                    .ok_or_else(|| LabError::Refused(format!("there is no pod {pod}")))?;
                let netns = NetNs::open(&path).map_err(LabError::kernel(what.as_str()))?;
                Some(netns.as_fd().try_clone_to_owned().map_err(LabError::io(what.as_str()))?)
            }
        };
        let start = |command: &mut Command| match netns {
            None => command.spawn(),
            Some(netns) => sys::spawn_in_netns(command, netns),
        };
        let (_, text) = self
            .children
            .converse(&mut command, start, text.as_bytes(), limit)
            .await
            .map_err(LabError::io(what.as_str()))?;
        let results: Vec<CheckResult> = serde_json::from_slice(&text).map_err(LabError::message(what))?;
        serde_json::to_value(results).map_err(LabError::message("the results"))
    }
}
