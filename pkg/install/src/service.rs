//! Service managers: their files, which are part of this program, and their commands.

use crate::error::InstallError;
use crate::places::Places;
use std::path::Path;
use std::process::{Command, Stdio};

/// The first words of every file that an installation makes and a person may read.
pub(crate) const MARK: &str = "# Warren: ";

/// Who starts services on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// systemd.
    Systemd,
    /// OpenRC.
    Openrc,
    /// Nobody that Warren knows.
    None,
}

/// A daemon of Warren's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Daemon {
    /// `warren server`.
    Server,
    /// `warren agent`.
    Agent,
}

impl Daemon {
    /// Its name as a service.
    #[must_use]
    pub fn service(self) -> &'static str {
        match self {
            Self::Server => "warren-server",
            Self::Agent => "warren-agent",
        }
    }
}

/// A file of a service manager.
pub(crate) struct UnitFile {
    pub(crate) path: String,
    pub(crate) text: &'static str,
    pub(crate) mode: u32,
    /// The link by which the service is started at boot.
    pub(crate) enabled_by: String,
}

impl Init {
    /// Who it is in the system below `places`; in the running one: who runs now.
    #[must_use]
    pub fn detect(places: &Places) -> Self {
        let any = |paths: &[&str]| paths.iter().any(|p| places.at(p).exists());
        if places.is_live() {
            match (any(&["/run/systemd/system"]), any(&["/run/openrc/softlevel"])) {
                (true, _) => Self::Systemd,
                (_, true) => Self::Openrc,
                _ => Self::None,
            }
        } else if any(&["/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/etc/systemd/system"]) {
            Self::Systemd
        } else if any(&["/sbin/openrc-run", "/usr/sbin/openrc-run"]) {
            Self::Openrc
        } else {
            Self::None
        }
    }

    pub(crate) fn unit(self, daemon: Daemon) -> Option<UnitFile> {
        let name = daemon.service();
        let unit = |path: String, text, mode, enabled_by| Some(UnitFile { path, text, mode, enabled_by });
        match self {
            Self::Systemd => unit(
                format!("/etc/systemd/system/{name}.service"),
                match daemon {
                    Daemon::Server => include_str!("../../../packaging/systemd/warren-server.service"),
                    Daemon::Agent => include_str!("../../../packaging/systemd/warren-agent.service"),
                },
                0o644,
                format!("/etc/systemd/system/multi-user.target.wants/{name}.service"),
            ),
            Self::Openrc => unit(
                format!("/etc/init.d/{name}"),
                match daemon {
                    Daemon::Server => include_str!("../../../packaging/openrc/warren-server"),
                    Daemon::Agent => include_str!("../../../packaging/openrc/warren-agent"),
                },
                0o755,
                format!("/etc/runlevels/default/{name}"),
            ),
            Self::None => None,
        }
    }

    /// The command by which a person does `verb` to the service of `daemon`.
    #[must_use]
    pub fn command(self, verb: &str, daemon: Daemon) -> Option<String> {
        self.words(verb, daemon).map(|words| words.join(" "))
    }

    fn words(self, verb: &str, daemon: Daemon) -> Option<Vec<String>> {
        let words: &[&str] = match self {
            Self::Systemd => &["systemctl", verb, daemon.service()],
            Self::Openrc => &["rc-service", daemon.service(), verb],
            Self::None => return None,
        };
        Some(words.iter().map(|w| (*w).to_owned()).collect())
    }

    /// Reads the files of services anew, where that has to be said.
    ///
    /// # Errors
    /// [`InstallError::Service`].
    pub fn reload(self) -> Result<(), InstallError> {
        match self {
            Self::Systemd => run(&["systemctl".into(), "daemon-reload".into()]),
            Self::Openrc | Self::None => Ok(()),
        }
    }

    /// Does `verb` (`start`, `stop`, `restart`) to the service of `daemon`; nothing without a service manager.
    ///
    /// # Errors
    /// [`InstallError::Service`].
    pub fn act(self, verb: &str, daemon: Daemon) -> Result<(), InstallError> {
        self.words(verb, daemon).map_or(Ok(()), |words| run(&words))
    }

    /// Whether the service of `daemon` is installed and runs, or is being started again.
    #[must_use]
    pub fn is_active(self, daemon: Daemon) -> bool {
        let words = match self {
            Self::Systemd => self.words("is-active", daemon),
            Self::Openrc => self.words("status", daemon),
            Self::None => None,
        };
        let Some((program, args)) = words.as_ref().and_then(|w| w.split_first()) else { return false };
        let out = Command::new(program).args(args).stdin(Stdio::null()).output();
        out.is_ok_and(|o| o.status.success() || o.stdout.starts_with(b"activating"))
    }
}

/// Whether the text at `path` is one that an installation made.
pub(crate) fn is_marked(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.lines().take(3).any(|l| l.starts_with(MARK)))
}

fn run(words: &[String]) -> Result<(), InstallError> {
    let failed = |why: String| InstallError::Service { command: words.join(" "), why };
    let Some((program, args)) = words.split_first() else { return Ok(()) };
    let out = Command::new(program).args(args).stdin(Stdio::null()).output();
    match out {
        Ok(out) if out.status.success() => Ok(()),
        Ok(out) => {
            let said = String::from_utf8_lossy(&out.stderr);
            Err(failed(
                said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it failed").trim().into(),
            ))
        }
        Err(error) => Err(failed(error.to_string())),
    }
}
