//! Starting the agent anew: by the service manager, else as the process that it was, with the same words, environment and
//! outputs.

use crate::error::InstallError;
use crate::service::{Daemon, Init};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long an agent may take to end.
const GRACE: Duration = Duration::from_secs(15);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(5);

/// How the agent of this node is started anew.
#[derive(Debug)]
pub(crate) enum Way {
    /// By the service manager, and the server with it where it runs here.
    Service { init: Init, server: bool },
    /// As this process.
    Process(Box<Process>),
}

/// A running agent, and how it was started.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    child: Option<Child>,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: PathBuf,
    outputs: [Option<File>; 2],
}

fn failed(what: impl Into<String>, why: impl ToString) -> InstallError {
    InstallError::Process { what: what.into(), why: why.to_string() }
}

/// The program that a process runs, though it may have been replaced since.
///
/// # Errors
/// [`InstallError::Process`].
pub(crate) fn program_of(pid: u32) -> Result<PathBuf, InstallError> {
    let link =
        fs::read_link(format!("/proc/{pid}/exe")).map_err(|e| failed(format!("look at process {pid}"), e))?;
    let text = link.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| link.clone(), PathBuf::from))
}

impl Way {
    /// By the service manager when the agent `pid` is its service, else by hand.
    pub(crate) fn of(init: Init, pid: u32, program: &Path) -> Result<Self, InstallError> {
        if init.is_active(Daemon::Agent) {
            return Ok(Self::Service { init, server: init.is_active(Daemon::Server) });
        }
        Process::of(pid, program).map(|process| Self::Process(Box::new(process)))
    }

    /// Ends what runs, in order, and starts what is in place now.
    pub(crate) async fn restart(&mut self) -> Result<(), InstallError> {
        match self {
            Self::Service { init, server } => {
                let (init, server) = (*init, *server);
                let acted = tokio::task::spawn_blocking(move || {
                    if server {
                        init.act("restart", Daemon::Server)?;
                    }
                    init.act("restart", Daemon::Agent)
                });
                acted.await.map_err(|e| failed("restart the services", e))?
            }
            Self::Process(process) => process.restart().await,
        }
    }

    /// How the process that was started last has ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<String> {
        let Self::Process(process) = self else { return None };
        let status = process.child.as_mut()?.try_wait().ok()??;
        Some(format!("the program ended with {status}"))
    }
}

impl Process {
    fn of(pid: u32, program: &Path) -> Result<Self, InstallError> {
        let look = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read(&path).map_err(|e| failed(format!("read {path}"), e))
        };
        let texts = |bytes: Vec<u8>| -> Vec<OsString> {
            let parts = bytes.split(|b| *b == 0).filter(|part| !part.is_empty());
            parts.map(|part| OsString::from_vec(part.to_vec())).collect()
        };
        let variable = |text: OsString| {
            let bytes = text.into_vec();
            let at = bytes.iter().position(|b| *b == b'=')?;
            let (name, value) = bytes.split_at(at);
            Some((OsString::from_vec(name.to_vec()), OsString::from_vec(value.get(1..)?.to_vec())))
        };
        let output = |n: u8| OpenOptions::new().append(true).open(format!("/proc/{pid}/fd/{n}")).ok();
        Ok(Self {
            pid,
            child: None,
            program: program.to_owned(),
            args: texts(look("cmdline")?).into_iter().skip(1).collect(),
            env: texts(look("environ")?).into_iter().filter_map(variable).collect(),
            dir: fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_else(|_| "/".into()),
            outputs: [output(1), output(2)],
        })
    }

    async fn restart(&mut self) -> Result<(), InstallError> {
        self.end().await?;
        let copy = |file: &Option<File>| {
            file.as_ref().and_then(|f| f.try_clone().ok()).map_or_else(Stdio::null, Stdio::from)
        };
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().envs(self.env.iter().cloned()).current_dir(&self.dir);
        // Apart from the terminal of who upgrades, whose interrupts are not the agent's.
        command.process_group(0).stdin(Stdio::null());
        let [out, err] = &self.outputs;
        let child = command.stdout(copy(out)).stderr(copy(err)).spawn();
        let child = child.map_err(|e| failed(format!("start {}", self.program.display()), e))?;
        self.pid = child.id();
        self.child = Some(child);
        Ok(())
    }

    async fn end(&mut self) -> Result<(), InstallError> {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let pid = i32::try_from(self.pid).map_err(|e| failed("end the agent", e))?;
            if !self.runs() {
                return Ok(());
            }
            match kill(Pid::from_raw(pid), signal) {
                Ok(()) | Err(nix::Error::ESRCH) => {}
                Err(e) => return Err(failed(format!("end process {pid}"), e)),
            }
            let until = Instant::now() + GRACE;
            while self.runs() && Instant::now() < until {
                tokio::time::sleep(LOOK).await;
            }
        }
        match self.runs() {
            true => Err(failed(format!("end process {}", self.pid), "it does not end")),
            false => Ok(()),
        }
    }

    /// Whether it runs; one that has ended and that nobody has asked about does not.
    fn runs(&mut self) -> bool {
        if let Some(child) = &mut self.child {
            return matches!(child.try_wait(), Ok(None));
        }
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
    }
}
