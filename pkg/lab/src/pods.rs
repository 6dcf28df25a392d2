//! The pods of a node: the container runtime's part.

use crate::cni::{self, CniError, Sandbox};
use crate::pod::{Ended, Go};
use crate::reaper::{Children, Process};
use crate::wire::{Hello, PodSpec, PodState, PodStatus};
use crate::{LabError, Role, own_command, random_id, sys};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::task::JoinSet;
use tokio::time::Instant;
use warren_types::cluster::dns_address;
use warren_types::defaults;

/// Where the network namespaces of pods are mounted, in the node.
const NETNS_DIR: &str = "/run/netns-lab";
/// How long a pod's first process may take to furnish its namespaces.
const START_LIMIT: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(50);

/// The pods of this node.
pub(crate) struct Pods {
    children: Children,
    node: String,
    logs: PathBuf,
    pods: Mutex<BTreeMap<String, Slot>>,
    listeners: Mutex<JoinSet<()>>,
}

enum Slot {
    /// Its name is taken; it is being started or removed.
    Busy,
    Pod(Arc<Pod>),
}

struct Pod {
    spec: PodSpec,
    sandbox: Sandbox,
    process: Process,
    host_pid: i32,
    ips: Vec<IpAddr>,
    result: Value,
    /// How its program ended, once it has.
    ended: Mutex<Option<String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What kubelet writes for a pod with these addresses: cluster DNS in their families, and the search path of its
/// namespace.
fn resolv_conf(namespace: &str, ips: &[IpAddr]) -> String {
    let domain = defaults::CLUSTER_DOMAIN;
    let ranges = [defaults::SERVICE_CIDR_V4, defaults::SERVICE_CIDR_V6];
    let servers = ranges.iter().filter_map(|range| dns_address(&range.parse().ok()?));
    let servers = servers.filter(|server| ips.iter().any(|ip| ip.is_ipv4() == server.is_ipv4()));
    let mut text: String = servers.map(|server| format!("nameserver {server}\n")).collect();
    text.push_str(&format!("search {namespace}.svc.{domain} svc.{domain} {domain}\noptions ndots:5\n"));
    text
}

/// A pod's first process with furnished namespaces.
struct Shell {
    process: Process,
    host_pid: i32,
    stdin: ChildStdin,
    stdout: BufReader<pipe::Receiver>,
}

impl Pods {
    pub(crate) fn new(children: Children, node: &str, logs: &Path) -> Self {
        Self {
            children,
            node: node.to_owned(),
            logs: logs.to_owned(),
            pods: Mutex::default(),
            listeners: Mutex::default(),
        }
    }

    /// Starts a pod; tries for `patience` while the plugin says that it may succeed later.
    pub(crate) async fn run(&self, spec: PodSpec, patience: Duration) -> Result<PodStatus, LabError> {
        let name = spec.name.clone();
        {
            let mut pods = locked(&self.pods);
            if pods.contains_key(&name) {
                return Err(LabError::Refused(format!("there is a pod {name} on {} already", self.node)));
            }
            pods.insert(name.clone(), Slot::Busy);
        }
        let started = self.start(spec, patience).await;
        let mut pods = locked(&self.pods);
        match started {
            Ok(pod) => {
                let status = self.describe(&pod);
                pods.insert(name, Slot::Pod(pod));
                Ok(status)
            }
            Err(error) => {
                pods.remove(&name);
                Err(error)
            }
        }
    }

    async fn start(&self, spec: PodSpec, patience: Duration) -> Result<Arc<Pod>, LabError> {
        let id = random_id()?;
        let sandbox = Sandbox {
            container_id: id.replace('-', ""),
            netns: Path::new(NETNS_DIR).join(&id),
            pod: spec.name.clone(),
            namespace: spec.namespace.clone(),
            uid: id,
            labels: spec.labels.clone(),
            host_ports: spec.host_ports.clone(),
            ports: spec.ports.clone(),
        };
        let shell = self.furnish(&spec.name).await?;
        let attached = async {
            mount_netns(&shell.process, &sandbox.netns)?;
            self.attach(&sandbox, patience).await
        };
        match attached.await {
            Ok((ips, result)) => self.go(spec, sandbox, shell, ips, result).await,
            Err(error) => {
                self.tear_down(&sandbox, &shell.process, None).await;
                Err(error)
            }
        }
    }

    /// Starts the pod's first process and waits until its namespaces are furnished.
    async fn furnish(&self, name: &str) -> Result<Shell, LabError> {
        let log_path = self.log(name);
        let open = File::options().create(true).append(true).open(&log_path);
        let log = open.map_err(LabError::io(format!("open {}", log_path.display())))?;
        let mut command = own_command(Role::Pod, name);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let start = self.children.spawn(|| sys::spawn_in_new(&mut command, sys::OWN));
        let (process, mut child) = start.map_err(LabError::io(format!("start pod {name}")))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            process.kill().await;
            return Err(LabError::Refused(format!("start pod {name}: no pipes")));
        };
        let hello = async {
            let mut stdout = receiver(stdout)?;
            let mut line = String::new();
            stdout.read_line(&mut line).await?;
            let hello: Hello = serde_json::from_str(&line)?;
            Ok::<_, std::io::Error>((hello.host_pid, stdout))
        };
        match tokio::time::timeout(START_LIMIT, hello).await {
            Ok(Ok((host_pid, stdout))) => Ok(Shell { process, host_pid, stdin, stdout }),
            other => {
                process.kill().await;
                let log = log_path.display();
                Err(match other {
                    Ok(Err(e)) => LabError::Refused(format!("pod {name} did not start ({e}); see {log}")),
                    _ => LabError::Timeout {
                        what: format!("the start of pod {name}"),
                        limit: START_LIMIT,
                        log: log_path,
                    },
                })
            }
        }
    }

    async fn attach(&self, sandbox: &Sandbox, patience: Duration) -> Result<(Vec<IpAddr>, Value), LabError> {
        let deadline = Instant::now() + patience;
        loop {
            match cni::add(&self.children, sandbox).await {
                Ok(attached) => return Ok(attached),
                Err(CniError::TryAgain(_)) if Instant::now() < deadline => {
                    // A failed ADD may have come to its end unheard: the agent died before it could answer. The
                    // specification has runtimes DEL what failed.
                    if let Err(error) = cni::del(&self.children, sandbox, None).await {
                        tracing::info!(pod = sandbox.pod, %error, "detach what failed to attach");
                    }
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => {
                    let log = self.logs.join(format!("{}-agent.log", self.node));
                    return Err(LabError::Refused(format!("{}: {error}; see {}", self.node, log.display())));
                }
            }
        }
    }

    /// Lets an attached pod run its program, and listens for that one's end.
    async fn go(
        &self,
        spec: PodSpec,
        sandbox: Sandbox,
        mut shell: Shell,
        ips: Vec<IpAddr>,
        result: Value,
    ) -> Result<Arc<Pod>, LabError> {
        use std::io::Write as _;
        let order = Go {
            name: spec.name.clone(),
            command: spec.command.clone(),
            log: self.log(&spec.name),
            resolv_conf: resolv_conf(&spec.namespace, &ips),
        };
        let mut line = serde_json::to_vec(&order).map_err(LabError::message("the order to start"))?;
        line.push(b'\n');
        // The pod reads it at once, or has ended.
        if let Err(e) = shell.stdin.write_all(&line) {
            self.tear_down(&sandbox, &shell.process, Some(&result)).await;
            return Err(LabError::io(format!("start pod {}", spec.name))(e));
        }
        let (process, host_pid) = (shell.process, shell.host_pid);
        let pod = Arc::new(Pod { spec, sandbox, process, host_pid, ips, result, ended: Mutex::default() });
        let listener = Arc::clone(&pod);
        let mut listeners = locked(&self.listeners);
        while listeners.try_join_next().is_some() {}
        listeners.spawn(async move {
            let mut line = String::new();
            let read = shell.stdout.read_line(&mut line).await;
            let how = match read.map(|_| serde_json::from_str::<Ended>(&line)) {
                Ok(Ok(ended)) => ended.how,
                _ => "its first process ended".into(),
            };
            *locked(&listener.ended) = Some(how);
        });
        Ok(pod)
    }

    /// Removes a pod.
    pub(crate) async fn rm(&self, name: &str) -> Result<(), LabError> {
        let pod = {
            let mut pods = locked(&self.pods);
            match pods.get(name) {
                Some(Slot::Pod(pod)) => {
                    let pod = Arc::clone(pod);
                    pods.insert(name.to_owned(), Slot::Busy);
                    pod
                }
                Some(Slot::Busy) => {
                    return Err(LabError::Refused(format!("pod {name} is being started or removed")));
                }
                None => return Err(LabError::Refused(format!("there is no pod {name} on {}", self.node))),
            }
        };
        self.tear_down(&pod.sandbox, &pod.process, Some(&pod.result)).await;
        locked(&self.pods).remove(name);
        Ok(())
    }

    async fn tear_down(&self, sandbox: &Sandbox, process: &Process, result: Option<&Value>) {
        process.kill().await;
        if let Err(error) = cni::del(&self.children, sandbox, result).await {
            tracing::warn!(pod = sandbox.pod, %error, "detach");
        }
        if sandbox.netns.exists() {
            let gone = umount2(&sandbox.netns, MntFlags::MNT_DETACH).map_err(std::io::Error::from);
            if let Err(error) = gone.and_then(|()| fs::remove_file(&sandbox.netns)) {
                tracing::warn!(path = %sandbox.netns.display(), %error, "remove a network namespace");
            }
        }
    }

    pub(crate) fn status(&self) -> Vec<PodStatus> {
        let pods = locked(&self.pods);
        let live = pods.values().filter_map(|slot| match slot {
            Slot::Pod(pod) => Some(pod),
            Slot::Busy => None,
        });
        live.map(|pod| self.describe(pod)).collect()
    }

    fn describe(&self, pod: &Pod) -> PodStatus {
        let ended = locked(&pod.ended).clone();
        PodStatus {
            name: pod.spec.name.clone(),
            node: self.node.clone(),
            pid: pod.process.ended().is_none().then_some(pod.host_pid),
            ips: pod.ips.clone(),
            state: if ended.is_none() { PodState::Running } else { PodState::Exited },
            message: ended.unwrap_or_default(),
            labels: pod.spec.labels.clone(),
            command: pod.spec.command.clone(),
            container_id: pod.sandbox.container_id.clone(),
        }
    }

    /// The network namespace of a pod.
    pub(crate) fn netns(&self, name: &str) -> Option<PathBuf> {
        match locked(&self.pods).get(name)? {
            Slot::Pod(pod) => Some(pod.sandbox.netns.clone()),
            Slot::Busy => None,
        }
    }

    fn log(&self, pod: &str) -> PathBuf {
        self.logs.join(format!("{}-pod-{pod}.log", self.node))
    }
}

/// A pipe from a child, without stopping the thread that reads it.
pub(crate) fn receiver(stdout: ChildStdout) -> std::io::Result<BufReader<pipe::Receiver>> {
    Ok(BufReader::new(pipe::Receiver::from_owned_fd(OwnedFd::from(stdout))?))
}

/// Gives the network namespace of `process` a path of its own.
fn mount_netns(process: &Process, path: &Path) -> Result<(), LabError> {
    let what = || format!("make {}", path.display());
    fs::create_dir_all(NETNS_DIR).map_err(LabError::io(what()))?;
    File::create(path).map_err(LabError::io(what()))?;
    let source = format!("/proc/{}/ns/net", process.pid());
    const NONE: Option<&str> = None;
    mount(Some(source.as_str()), path, NONE, MsFlags::MS_BIND, NONE).map_err(LabError::errno(what()))
}
