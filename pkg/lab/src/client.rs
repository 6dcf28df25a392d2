//! What the commands of `warren lab` do: start a lab, end it, and ask it.

use crate::dir::{HolderRecord, LabDir, LabName, start_time};
use crate::plan::LabConfig;
use crate::sys::{self, ProcessHandle};
use crate::wire::{Event, LabStatus, NodeStatus, Request};
use crate::{LabError, Role, own_command, rpc};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// How long a lab may take to come up, everything included.
const UP_LIMIT: Duration = Duration::from_secs(180);
/// How long a lab's processes may take to die.
const DOWN_LIMIT: Duration = Duration::from_secs(30);
/// How long any request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(180);
/// How long `up` may take until its first process has said who it is.
const RECORD_LIMIT: Duration = Duration::from_secs(5);

/// A lab in the list of labs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Whether it runs; else only files are left of it, which `lab down` removes.
    pub running: bool,
    /// Process id of its first process.
    pub pid: Option<i32>,
}

fn need_root() -> Result<(), LabError> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(LabError::Refused("a lab needs root for its namespaces; run this with sudo".into()))
}

/// The running first process of a lab. The handle is taken before the process is judged, so that both are one.
fn alive(record: &HolderRecord) -> Option<ProcessHandle> {
    let handle = ProcessHandle::open(record.pid).ok()?;
    (start_time(record.pid) == Some(record.start_time)).then_some(handle)
}

/// Brings up a lab; `on_progress` hears what is being done.
///
/// # Errors
/// When there is one of this name, or it does not come up: what there was of it is gone then.
pub async fn up(config: &LabConfig, on_progress: impl FnMut(String)) -> Result<LabStatus, LabError> {
    need_root()?;
    config.validate()?;
    let dir = LabDir::of(&config.name);
    if !dir.create()? {
        let unfinished = dir.read_record().is_none() && dir.lock()?.is_none();
        if unfinished || dir.read_record().as_ref().and_then(alive).is_some() {
            return Err(LabError::Exists(config.name.to_string()));
        }
        tracing::info!(lab = %config.name, "removing what is left of a lab that ended");
        dir.remove()?;
        dir.create()?;
    }
    let _lock = dir.lock()?;
    let (mut child, stream) = match start(config, &dir) {
        Ok(started) => started,
        Err(error) => {
            dir.remove()?;
            return Err(error);
        }
    };
    let result = match tokio::time::timeout(UP_LIMIT, listen(stream, on_progress)).await {
        Ok(result) => result,
        Err(_) => {
            Err(LabError::Timeout { what: "the start of the lab".into(), limit: UP_LIMIT, log: dir.logs() })
        }
    };
    if result.is_err() {
        let log = std::fs::read_to_string(dir.holder_log()).unwrap_or_default();
        // What it could say itself is not said again.
        if !matches!(result, Err(LabError::Remote(_))) && !log.trim().is_empty() {
            tracing::warn!("the log of the lab's first process:\n{log}");
        }
        let _ = child.kill();
        // It dies of the signal, or has died: this waits for all that it held.
        let _ = child.wait();
        dir.remove()?;
    }
    result
}

/// Starts the lab's first process.
fn start(config: &LabConfig, dir: &LabDir) -> Result<(std::process::Child, UnixStream), LabError> {
    let what = "start the lab's first process";
    let api =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(LabError::io("open a port on the loopback"))?;
    let (ours, theirs) = UnixStream::pair().map_err(LabError::io(what))?;
    let log = File::create(dir.holder_log()).map_err(LabError::io(what))?;
    let argument = serde_json::to_string(config).map_err(LabError::message("the lab's configuration"))?;
    let mut command = own_command(Role::Holder, &argument);
    command.current_dir("/");
    command.stdin(Stdio::from(OwnedFd::from(api))).stdout(Stdio::from(OwnedFd::from(theirs))).stderr(log);
    let child = sys::spawn_in_new(&mut command, sys::OWN).map_err(LabError::io(what))?;
    Ok((child, ours))
}

/// Listens to a lab that is coming up.
async fn listen(stream: UnixStream, mut on_progress: impl FnMut(String)) -> Result<LabStatus, LabError> {
    let what = "listen to the lab";
    stream.set_nonblocking(true).map_err(LabError::io(what))?;
    let stream = tokio::net::UnixStream::from_std(stream).map_err(LabError::io(what))?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await.map_err(LabError::io(what))? {
        match serde_json::from_str(&line).map_err(LabError::message("what the lab says"))? {
            Event::Progress(text) => on_progress(text),
            Event::Failed(text) => return Err(LabError::Remote(text)),
            Event::Done(value) => {
                return serde_json::from_value(value).map_err(LabError::message("the lab's status"));
            }
        }
    }
    Err(LabError::Refused("the lab's first process ended before the lab was up".into()))
}

/// Takes a lab down, in whatever state it is; returns when nothing of it is left.
///
/// # Errors
/// When there is none, or its processes do not die.
pub async fn down(name: &LabName) -> Result<(), LabError> {
    need_root()?;
    let dir = LabDir::of(name);
    if !dir.path().exists() {
        return Err(LabError::NoLab(name.to_string()));
    }
    let begin = tokio::time::Instant::now();
    loop {
        // An `up` that has just begun has not said yet whom to kill.
        while dir.read_record().is_none() && dir.path().exists() && begin.elapsed() < RECORD_LIMIT {
            if dir.lock()?.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if let Some(handle) = dir.read_record().as_ref().and_then(alive) {
            handle.kill().map_err(LabError::io(format!("end the lab {name}")))?;
            let ended = handle.wait(DOWN_LIMIT).await;
            if !ended.map_err(LabError::io("wait for the end of the lab"))? {
                let what = format!("the end of the lab {name}");
                return Err(LabError::Timeout { what, limit: DOWN_LIMIT, log: dir.holder_log() });
            }
        }
        match dir.remove() {
            // The first process that a killed `up` leaves behind writes there, and can be killed once it has said who it is.
            Err(LabError::Io { source, .. })
                if source.kind() == ErrorKind::DirectoryNotEmpty && begin.elapsed() < RECORD_LIMIT =>
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            removed => return removed,
        }
    }
}

/// All labs of this machine.
///
/// # Errors
/// When their directory cannot be read.
pub fn list() -> Result<Vec<Listed>, LabError> {
    let names = LabDir::names()?;
    let entry = |name: LabName| {
        let record = LabDir::of(&name).read_record();
        let running = record.as_ref().and_then(alive).is_some();
        Listed { name: name.to_string(), running, pid: record.filter(|_| running).map(|r| r.pid) }
    };
    Ok(names.into_iter().map(entry).collect())
}

/// Asks a running lab.
///
/// # Errors
/// When there is none of this name, or what it answered.
pub async fn request<T: DeserializeOwned>(
    name: &LabName,
    request: &Request,
    on_progress: impl FnMut(String),
) -> Result<T, LabError> {
    need_root()?;
    let dir = LabDir::of(name);
    match dir.read_record() {
        Some(record) if alive(&record).is_some() => {}
        _ => return Err(LabError::NoLab(name.to_string())),
    }
    rpc::call(dir.control(), request, REQUEST_LIMIT, on_progress).await
}

/// Removes a node from a lab for good: the node first, then what the API knows of it.
///
/// # Errors
/// When the lab refuses, or its API does.
pub async fn remove_node(
    name: &LabName,
    node: &str,
    on_progress: impl FnMut(String),
) -> Result<(), LabError> {
    let status: LabStatus = request(name, &Request::Status, |_| {}).await?;
    let wanted = |n: &&NodeStatus| n.name == node || n.name.strip_prefix("node-") == Some(node);
    let full = status.nodes.iter().find(wanted).map_or(node, |n| n.name.as_str()).to_owned();
    request::<serde_json::Value>(name, &Request::NodeRemove { node: full.clone() }, on_progress).await?;
    let Ok(kubeconfig) = request::<String>(name, &Request::Kubeconfig, |_| {}).await else {
        return Ok(()); // A lab without a server.
    };
    let forgotten = tokio::time::timeout(Duration::from_secs(10), forget(&kubeconfig, &full)).await;
    let refused = |why: String| {
        LabError::Refused(format!("{full} is gone, but its Node object could not be removed: {why}"))
    };
    match forgotten {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(refused(e.to_string())),
        Err(_) => Err(refused("the API does not answer".into())),
    }
}

/// Deletes a Node and the Pods on it.
async fn forget(kubeconfig: &str, node: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    use k8s_openapi::api::core::v1::{Node, Pod};
    use kube::api::{Api, DeleteParams, ListParams};
    let kubeconfig = kube::config::Kubeconfig::from_yaml(kubeconfig)?;
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await?;
    let client = kube::Client::try_from(config)?;
    let gone = |result: Result<(), kube::Error>| match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    };
    let nodes: Api<Node> = Api::all(client.clone());
    gone(nodes.delete(node, &DeleteParams::default()).await.map(drop))?;
    let pods: Api<Pod> = Api::all(client.clone());
    for pod in pods.list(&ListParams::default()).await? {
        let there = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node);
        if let (true, Some(namespace), Some(name)) = (there, &pod.metadata.namespace, &pod.metadata.name) {
            let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
            gone(pods.delete(name, &DeleteParams::default().grace_period(0)).await.map(drop))?;
        }
    }
    Ok(())
}
