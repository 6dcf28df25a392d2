//! The first process of a pod: furnishes its namespaces, waits until it is attached, runs its program, and holds the
//! namespaces until it is killed.

use crate::reaper::Children;
use crate::wire::Hello;
use crate::{LabError, Role, own_command, pid_in, root, rpc, runtime, sys};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::unix::pipe;
use warren_netlink::Netlink;

/// What a pod's first process is told once the pod is attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Go {
    pub(crate) name: String,
    /// Empty for the echo server.
    pub(crate) command: Vec<String>,
    pub(crate) log: PathBuf,
    /// What its `/etc/resolv.conf` says, as kubelet writes it.
    pub(crate) resolv_conf: String,
}

/// What it says when its program has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) how: String,
}

/// Runs the process; `name` is the pod's.
pub(crate) fn main(name: &str) -> Result<ExitCode, LabError> {
    let host_pid = pid_in(&format!("{}/proc", root::HOST))?;
    // A host name has at most 64 bytes.
    nix::unistd::sethostname(name.get(..63).unwrap_or(name))
        .map_err(LabError::errno("set the pod's host name"))?;
    root::enter_pod()?;
    runtime()?.block_on(live(host_pid))
}

async fn live(host_pid: i32) -> Result<ExitCode, LabError> {
    let children = Children::default();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(children.clone().reap());
    let netlink = Netlink::current().map_err(LabError::kernel("configure a pod"))?;
    netlink.set_up("lo", true).await.map_err(LabError::kernel("configure a pod"))?;
    let said = "talk to the node";
    rpc::say(&Hello { host_pid }).map_err(LabError::io(said))?;
    let mut line = String::new();
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().and_then(pipe::Receiver::from_owned_fd);
    let stdin = stdin.map_err(LabError::io(said))?;
    let read = BufReader::new(stdin).read_line(&mut line).await.map_err(LabError::io(said))?;
    if read == 0 {
        return Ok(ExitCode::SUCCESS); // Never attached.
    }
    let go: Go = serde_json::from_str(&line).map_err(LabError::message("the order to start"))?;
    // Where the machine has no such file, or one that leads out of the lab, pods have none.
    if let Err(error) = root::show_file("/etc/resolv.conf", &go.resolv_conf) {
        tracing::warn!(%error, "the pod has no resolver");
    }
    let how = match start(&go, &children).await {
        Ok(how) => how,
        Err(error) => error.to_string(),
    };
    rpc::say(&Ended { how }).map_err(LabError::io(said))?;
    // The pod's namespaces and addresses stay until it is removed.
    while tasks.join_next().await.is_some() {}
    Ok(ExitCode::SUCCESS)
}

/// Runs the pod's program to its end.
async fn start(go: &Go, children: &Children) -> Result<String, LabError> {
    let log = || File::options().create(true).append(true).open(&go.log);
    let opened = || format!("open {}", go.log.display());
    let mut command = match go.command.split_first() {
        Some((program, args)) => {
            let mut command = Command::new(program);
            command.args(args);
            command
        }
        None => own_command(Role::Echo, &go.name),
    };
    command.stdin(Stdio::null());
    command.stdout(log().map_err(LabError::io(opened()))?).stderr(log().map_err(LabError::io(opened()))?);
    let what = go.command.first().map_or("the echo server", String::as_str);
    let spawned = children.spawn(|| sys::spawn_session(&mut command));
    let (process, _) = spawned.map_err(LabError::io(format!("start {what}")))?;
    Ok(process.wait().await.to_string())
}
