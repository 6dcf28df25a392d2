//! The lab: a multi-node cluster on one machine, in namespaces.
//!
//! Job: build a virtual LAN with nodes, routers and an outside host; boot nodes as process trees with namespaces and
//! disks of their own; be the container runtime of their pods; break things on request; check who reaches whom.
//! Inputs: a [`LabConfig`]; requests over a unix socket. Outputs: a running cluster, answers in JSON.
//! Owns: the directory `/run/warren-lab/NAME` and everything in the namespaces of the lab's first process. Nothing
//! else of the host is changed: killing that one process makes the kernel free all the rest.
//! Ordering: holder (first process of the lab) -> fabric -> nodes -> services -> pods.
//!
//! ```text
//!  warren lab up --starts--> holder: pid 1 of the lab; its network namespace is the switch (br0, br1)
//!                              |-- node-1: pid 1 of the node; services (server, agent, echo) and pods
//!                              |      `-- pod: pid 1 of the pod, attached by the CNI plugin of the node
//!                              |-- node-2 ...
//!                              `-- outside: an echo server behind the gateway
//!  warren lab VERB --control.sock--> holder --init.sock--> node
//!  warren lab exec enters the namespaces of its target directly
//! ```

mod check;
pub mod client;
mod cni;
mod dir;
mod error;
mod exec;
mod fabric;
mod firewall;
mod holder;
mod node;
mod plan;
mod pod;
mod pods;
mod probe;
mod proxy;
mod reaper;
mod root;
mod rpc;
mod services;
mod sys;
mod wire;

pub use dir::{LabDir, LabName};
pub use error::LabError;
pub use exec::exec;
pub use plan::{Families, LabConfig, Topology};
pub use wire::{
    CheckReport, CheckResult, ContainerPort, Event, HostPort, LabStatus, NodeStatus, PodState, PodStatus,
    Request, Service, ServiceAction, ServiceStatus,
};

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

/// What processes of the lab run: the file that this process runs, also when its path names another by now.
const SELF: &str = "/proc/self/exe";

/// A process of the lab, started by the lab itself from its own executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// First process of a lab.
    Holder,
    /// First process of a node.
    Node,
    /// First process of a pod.
    Pod,
    /// The echo server.
    Echo,
    /// The prober of the connectivity check.
    Probe,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Role::Holder => "holder",
            Role::Node => "node",
            Role::Pod => "pod",
            Role::Echo => "echo",
            Role::Probe => "probe",
        }
    }

    /// The role that this word names on the command line.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Role::Holder, Role::Node, Role::Pod, Role::Echo, Role::Probe].into_iter().find(|r| r.word() == word)
    }
}

/// Runs one of the lab's own processes; `argument` is what the process that started it passed on.
///
/// # Errors
/// What ended the process; its log says it too.
pub fn run_role(role: Role, argument: &str) -> Result<ExitCode, LabError> {
    match role {
        Role::Holder => holder::main(argument),
        Role::Node => node::main(argument),
        Role::Pod => pod::main(argument),
        Role::Echo => echo(argument),
        Role::Probe => probe::main(),
    }
}

/// Runs the echo server until it is killed.
fn echo(name: &str) -> Result<ExitCode, LabError> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().map_err(LabError::io("start the runtime"))?;
    runtime.block_on(warren_connectivity::echo::serve(name)).map_err(LabError::io("serve the echo"))?;
    Ok(ExitCode::SUCCESS)
}

/// A command that runs one of the lab's own processes.
fn own_command(role: Role, argument: &str) -> Command {
    let mut command = Command::new(SELF);
    command.arg0(format!("warren-lab-{}", role.word()));
    command.args(["--log", "info", "lab", "internal", role.word(), argument]);
    command.env_remove("CNI_COMMAND");
    command
}

/// The process id of this process as the process table at `proc` counts.
fn pid_in(proc: &str) -> Result<i32, LabError> {
    let what = || format!("read {proc}/self");
    let link = std::fs::read_link(format!("{proc}/self")).map_err(LabError::io(what()))?;
    let text = link.to_string_lossy().into_owned();
    text.parse().map_err(|e| LabError::io(what())(std::io::Error::other(format!("{text:?}: {e}"))))
}

/// A random identifier: 32 hexadecimal digits in groups, as the kernel gives it.
fn random_id() -> Result<String, LabError> {
    const PATH: &str = "/proc/sys/kernel/random/uuid";
    let text = std::fs::read_to_string(PATH).map_err(LabError::io(format!("read {PATH}")))?;
    Ok(text.trim().to_owned())
}

/// A runtime for one of the lab's first processes.
fn runtime() -> Result<tokio::runtime::Runtime, LabError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().map_err(LabError::io("start the runtime"))
}
