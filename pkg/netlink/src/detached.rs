//! Processes of this same program that outlive whoever starts them.
//!
//! A process is started twice: the first leaves its starter's session, starts the process proper (`--foreground`), and ends
//! when that one says that it serves. So the process proper has no parent that could take it along. Its pid is in a file, and
//! its words are in a log, both named after it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The argument by which the process proper is known.
pub const FOREGROUND: &str = "--foreground";
/// In the environment of an agent in a container: where the host's control groups are mounted. What the agent starts is to
/// outlive the container too, so it leaves that one's for them.
pub const HOST_CONTROL_GROUPS: &str = "WARREN_HOST_CGROUPS";
/// What it says on its standard output when it serves.
const READY: &str = "ready";
/// It must say so within this, on the slowest of cards too.
pub const START: Duration = Duration::from_secs(30);
/// A log larger than this is begun anew.
const LOG_MAX: u64 = 1 << 20;
/// How long it may take to go before it is made to.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked for meanwhile.
const LOOK: Duration = Duration::from_millis(5);

/// Passes on what the launch of `name` said although it succeeded: a warning, as that it will end with its container.
pub fn pass_on(name: &str, stderr: &[u8]) {
    let said = String::from_utf8_lossy(stderr);
    if !said.trim().is_empty() {
        tracing::warn!(
            process = name,
            said = said.trim(),
            "a process that outlives the agent was started with a warning"
        );
    }
}

/// Whether the process at the other end of this pipe says that it serves; no: it closed the pipe, which it does when it ends.
///
/// # Errors
/// When it does neither in time.
fn says_ready(out: impl io::Read + Send + 'static, limit: Duration) -> io::Result<bool> {
    let (send, said) = std::sync::mpsc::sync_channel(1);
    // It ends with the pipe, or with this process, whose last deed this is.
    std::thread::spawn(move || {
        let mut lines = BufReader::new(out).lines().map_while(Result::ok);
        let _ = send.send(lines.any(|line| line == READY));
    });
    said.recv_timeout(limit)
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("it did not serve within {limit:?}")))
}

/// A process of this kind, running or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detached {
    name: String,
    dir: PathBuf,
}

impl Detached {
    /// The process that has `name` among its arguments, and its files in `dir`.
    #[must_use]
    pub fn new(name: &str, dir: &Path) -> Self {
        Self { name: name.into(), dir: dir.into() }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its pid file.
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.dir.join(format!("{}.pid", self.name))
    }

    /// Its log.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.name))
    }

    /// The pid that its file names, if that process is alive and this one: pids are used again.
    #[must_use]
    pub fn running(&self) -> Option<i32> {
        let pid: i32 = std::fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        self.is(pid).then_some(pid)
    }

    /// Whether this process is alive and the one with this name.
    fn is(&self, pid: i32) -> bool {
        let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
        let mut words = line.split(|b| *b == 0);
        let named = words.clone().any(|word| word == self.name.as_bytes());
        named && words.any(|word| word == FOREGROUND.as_bytes())
    }

    /// Ends it, by force if it does not go, and waits for that. None running is success. Blocking.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn end(&self) -> io::Result<()> {
        // It takes its file away a moment before it is gone, so the pid is what is waited for.
        let Some(pid) = self.running() else { return Ok(()) };
        for hard in [false, true] {
            if self.is(pid) {
                self.signal(pid, hard)?;
            }
            let until = Instant::now() + PATIENCE;
            while self.is(pid) && Instant::now() < until {
                std::thread::park_timeout(LOOK);
            }
        }
        Ok(())
    }

    /// Tells it to end. None running is success.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn stop(&self, hard: bool) -> io::Result<()> {
        self.running().map_or(Ok(()), |pid| self.signal(pid, hard))
    }

    fn signal(&self, pid: i32, hard: bool) -> io::Result<()> {
        match kill(Pid::from_raw(pid), if hard { Signal::SIGKILL } else { Signal::SIGTERM }) {
            Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
            Err(e) => {
                let reason = format!("cannot end process {pid} ({}): {e}", self.name);
                Err(io::Error::new(io::Error::from(e).kind(), reason))
            }
        }
    }

    /// Starts the process proper in a session of its own, and returns when it serves. To be called in a process of its own,
    /// which ends then. `command` lacks [`FOREGROUND`] only. Blocking.
    ///
    /// # Errors
    /// When it does not come to serve; the log says why.
    pub fn launch(&self, command: &[OsString], log_filter: &str) -> io::Result<()> {
        let Some((executable, args)) = command.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no program to start"));
        };
        // Fails only where this process leads a session already, which is as good.
        let _ = nix::unistd::setsid();
        if let Some(host) = std::env::var_os(HOST_CONTROL_GROUPS)
            && let Err(error) = crate::control_group::leave(Path::new(&host))
        {
            tracing::warn!(process = %self.name, %error, "it will end with its container");
        }
        let mut child = Command::new(executable)
            .args(args)
            .arg(FOREGROUND)
            .env("WARREN_LOG", log_filter)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(self.open_log()?)
            .spawn()?;
        if let Some(out) = child.stdout.take() {
            match says_ready(out, START) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(late) => {
                    child.kill()?;
                    child.wait()?;
                    return Err(io::Error::new(late.kind(), format!("{late}: {}", self.last_words())));
                }
            }
        }
        let status = child.wait()?;
        Err(io::Error::other(format!("it ended with {status}: {}", self.last_words())))
    }

    /// Says, as the process proper, that it serves.
    ///
    /// # Errors
    /// When the pid file cannot be written.
    pub fn ready(&self) -> io::Result<()> {
        let path = self.pid_file();
        let new = path.with_extension("pid.new");
        std::fs::write(&new, format!("{}\n", std::process::id()))?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&new, &path)?;
        // The reader may have gone when this process is run by hand.
        let mut out = io::stdout();
        let _ = writeln!(out, "{READY}").and_then(|()| out.flush());
        Ok(())
    }

    /// Leaves, as the process proper, no pid file behind.
    pub fn ended(&self) {
        let _ = std::fs::remove_file(self.pid_file());
    }

    fn open_log(&self) -> io::Result<File> {
        let path = self.log_file();
        let named = |e: io::Error| io::Error::new(e.kind(), format!("log {}: {e}", path.display()));
        if std::fs::metadata(&path).is_ok_and(|m| m.len() > LOG_MAX) {
            std::fs::remove_file(&path).map_err(named)?;
        }
        OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(named)
    }

    /// What it said last.
    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing").trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_serves_says_so_and_what_is_silent_is_not_waited_for() {
        for (text, ready) in [("a word\nready\n", true), ("not ready\n", false)] {
            let (reader, mut writer) = io::pipe().unwrap();
            writer.write_all(text.as_bytes()).unwrap();
            drop(writer);
            assert_eq!(says_ready(reader, START).unwrap(), ready, "{text:?}");
        }
        let (reader, _silent) = io::pipe().unwrap();
        let late = says_ready(reader, Duration::from_millis(1)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }
}
