//! Children of a first process: every end is seen here, also that of orphans which it inherits.
//!
//! A first process must wait for any child. So nobody else in it may wait for a particular one: a child that is
//! awaited by its owner too could be another process by then.

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

type Exits = HashMap<i32, watch::Sender<Option<Exit>>>;

/// Most that a program may answer on stdout.
const MAX_ANSWER: u64 = 16 << 20;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal(Signal),
}

impl Exit {
    pub(crate) fn success(self) -> bool {
        self == Exit::Code(0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => write!(f, "killed by {signal}"),
        }
    }
}

/// The children of this process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Children(Arc<Mutex<Exits>>);

/// A child. Dropping it does not end it.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pid: i32,
    exit: watch::Receiver<Option<Exit>>,
}

impl Children {
    fn exits(&self) -> MutexGuard<'_, Exits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a child. Its end cannot be missed: the lock keeps the reaper away until it is known.
    pub(crate) fn spawn(&self, start: impl FnOnce() -> io::Result<Child>) -> io::Result<(Process, Child)> {
        let mut exits = self.exits();
        let child = start()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        let (sender, exit) = watch::channel(None);
        exits.insert(pid, sender);
        Ok((Process { pid, exit }, child))
    }

    /// Runs a program to its end, at most for `limit`: `input` goes to its stdin, its stdout is the answer.
    pub(crate) async fn converse(
        &self,
        command: &mut Command,
        start: impl FnOnce(&mut Command) -> io::Result<Child>,
        input: &[u8],
        limit: Duration,
    ) -> io::Result<(Exit, Vec<u8>)> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let (process, mut child) = self.spawn(|| start(command))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let exchange = async {
            let (stdin, stdout) = pipes.ok_or_else(|| io::Error::other("no pipes"))?;
            let mut stdin = pipe::Sender::from_owned_fd(OwnedFd::from(stdin))?;
            let stdout = pipe::Receiver::from_owned_fd(OwnedFd::from(stdout))?;
            // A program may end before it has read everything.
            let _ = stdin.write_all(input).await;
            drop(stdin);
            let mut answer = Vec::new();
            stdout.take(MAX_ANSWER).read_to_end(&mut answer).await?;
            Ok((process.wait().await, answer))
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(result) => result,
            Err(_) => {
                process.kill().await;
                let text = format!("no end within {} s", limit.as_secs());
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
        }
    }

    /// Waits for children until the process ends.
    pub(crate) async fn reap(self) -> io::Result<()> {
        let mut ended = signal(SignalKind::child())?;
        loop {
            self.reap_now();
            ended.recv().await;
        }
    }

    fn reap_now(&self) {
        let mut exits = self.exits();
        loop {
            let (pid, exit) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal)),
                Ok(WaitStatus::StillAlive) | Err(nix::Error::ECHILD) => return,
                Ok(_) | Err(nix::Error::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "wait for children");
                    return;
                }
            };
            if let Some(sender) = exits.remove(&pid.as_raw()) {
                sender.send_replace(Some(exit));
            }
        }
    }
}

impl Process {
    /// Its id, as this process counts.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Waits for its end.
    pub(crate) async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(value) => value.unwrap_or(Exit::Code(-1)),
            Err(_) => Exit::Code(-1),
        }
    }

    /// Sends a signal, unless it has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        // The id cannot be another process's: it is freed by the reaper, which says so first.
        if self.ended().is_none() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Kills it and waits for its end.
    pub(crate) async fn kill(&self) -> Exit {
        self.signal(Signal::SIGKILL);
        self.wait().await
    }
}
