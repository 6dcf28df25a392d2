//! Services of a node: started, kept running, stopped, as a service manager of a host would.

use crate::reaper::{Children, Exit, Process};
use crate::sys;
use crate::wire::{Service, ServiceAction, ServiceSpec, ServiceStatus};
use crate::{LabError, SELF};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// A service that ran for so long starts afresh with the shortest pause.
const STEADY: Duration = Duration::from_secs(10);
/// Between asking a service to end and killing it.
const GRACE: Duration = Duration::from_secs(5);

/// The services of this node.
pub(crate) struct Services {
    children: Children,
    node: String,
    logs: PathBuf,
    units: Mutex<BTreeMap<Service, Arc<Unit>>>,
    keepers: Mutex<JoinSet<()>>,
}

struct Unit {
    spec: ServiceSpec,
    log: PathBuf,
    wanted: watch::Sender<bool>,
    state: watch::Sender<State>,
}

#[derive(Default)]
struct State {
    process: Option<Process>,
    starts: u64,
    last_exit: String,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Services {
    pub(crate) fn new(children: Children, node: &str, logs: &Path) -> Self {
        Self {
            children,
            node: node.to_owned(),
            logs: logs.to_owned(),
            units: Mutex::default(),
            keepers: Mutex::default(),
        }
    }

    /// Starts these services, those that are not there yet.
    pub(crate) fn boot(&self, specs: Vec<ServiceSpec>) {
        for spec in specs {
            let name = spec.name;
            let mut units = locked(&self.units);
            if units.contains_key(&name) {
                continue;
            }
            let log = self.logs.join(format!("{}-{}.log", self.node, name.word()));
            let unit = Arc::new(Unit {
                spec,
                log,
                wanted: watch::Sender::new(true),
                state: watch::Sender::new(State::default()),
            });
            units.insert(name, Arc::clone(&unit));
            locked(&self.keepers).spawn(keep(unit, self.children.clone()));
        }
    }

    fn unit(&self, name: Service) -> Result<Arc<Unit>, LabError> {
        let found = locked(&self.units).get(&name).cloned();
        found.ok_or_else(|| LabError::Refused(format!("{} has no service {}", self.node, name.word())))
    }

    /// Stops or starts one, and waits until that is so.
    pub(crate) async fn set(&self, name: Service, action: ServiceAction) -> Result<(), LabError> {
        let unit = self.unit(name)?;
        let run = action == ServiceAction::Start;
        let mut state = unit.state.subscribe();
        unit.wanted.send_replace(run);
        let limit = GRACE * 2;
        let done =
            tokio::time::timeout(limit, state.wait_for(|s| s.process.is_some() == run)).await.map(drop);
        let what = if run { "starts" } else { "stops" };
        let what = format!("that service {} of {} {what}", name.word(), self.node);
        done.map_err(|_| LabError::Timeout { what, limit, log: unit.log.clone() })
    }

    /// Kills the process of one; it is started again.
    pub(crate) async fn kill(&self, name: Service) -> Result<(), LabError> {
        let unit = self.unit(name)?;
        let process = unit.state.borrow().process.clone();
        let Some(process) = process else {
            return Err(LabError::Refused(format!("service {} of {} does not run", name.word(), self.node)));
        };
        process.kill().await;
        Ok(())
    }

    pub(crate) fn status(&self) -> Vec<ServiceStatus> {
        let units = locked(&self.units);
        let status = |(name, unit): (&Service, &Arc<Unit>)| {
            let state = unit.state.borrow();
            ServiceStatus {
                name: *name,
                pid: state.process.as_ref().map(Process::pid),
                wanted: *unit.wanted.borrow(),
                starts: state.starts,
                last_exit: state.last_exit.clone(),
            }
        };
        units.iter().map(status).collect()
    }
}

/// Keeps one service as it is wanted.
async fn keep(unit: Arc<Unit>, children: Children) {
    let mut wanted = unit.wanted.subscribe();
    let mut pause = FIRST_PAUSE;
    loop {
        if wanted.wait_for(|w| *w).await.is_err() {
            return;
        }
        let begin = Instant::now();
        let end = match start(&unit, &children) {
            Ok(process) => {
                unit.state.send_modify(|s| {
                    s.process = Some(process.clone());
                    s.starts += 1;
                });
                let exit = tokio::select! {
                    exit = process.wait() => exit,
                    () = unwanted(&mut wanted) => stop(&process).await,
                };
                exit.to_string()
            }
            Err(error) => error.to_string(),
        };
        tracing::info!(service = unit.spec.name.word(), end, "service ended");
        unit.state.send_modify(|s| {
            s.process = None;
            s.last_exit = end;
        });
        if begin.elapsed() > STEADY || !*wanted.borrow() {
            pause = FIRST_PAUSE;
        }
        if *wanted.borrow() {
            // Whoever stops and starts it does not wait for the pause.
            let _ = tokio::time::timeout(pause, unwanted(&mut wanted)).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }
}

async fn unwanted(wanted: &mut watch::Receiver<bool>) {
    let _ = wanted.wait_for(|w| !*w).await;
}

async fn stop(process: &Process) -> Exit {
    process.signal(Signal::SIGTERM);
    match tokio::time::timeout(GRACE, process.wait()).await {
        Ok(exit) => exit,
        Err(_) => process.kill().await,
    }
}

fn start(unit: &Unit, children: &Children) -> std::io::Result<Process> {
    let log = File::options().create(true).append(true).open(&unit.log)?;
    let name = std::env::current_exe().unwrap_or_else(|_| SELF.into());
    let mut command = Command::new(SELF);
    command.arg0(name).args(&unit.spec.args);
    command.env_clear().envs(environment()).env("WARREN_LOG", &unit.spec.log_filter);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let (process, _) = children.spawn(|| sys::spawn_session(&mut command))?;
    Ok(process)
}

/// What a service gets of this process's environment: nothing that could configure it.
pub(crate) fn environment() -> impl Iterator<Item = (&'static str, std::ffi::OsString)> {
    const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let backtrace = std::env::var_os("RUST_BACKTRACE").map(|v| ("RUST_BACKTRACE", v));
    [("PATH", path), ("HOME", "/root".into())].into_iter().chain(backtrace)
}
