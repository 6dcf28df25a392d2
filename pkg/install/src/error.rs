//! Why nothing was installed or upgraded, and what to do about it.

use std::path::PathBuf;
use warren_agent::files::FileError;

/// Why an installation or an upgrade stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// A file could not be read, written or put in place.
    #[error(transparent)]
    File(#[from] FileError),
    /// Somebody changed a file that an installation made, or made one in its place.
    #[error("{0} was changed, or made, by somebody else")]
    Edited(PathBuf),
    /// The configuration file says something else than the flags.
    #[error("{path} differs from the flags:{}", .differences.iter().map(|d| format!("\n  {d}")).collect::<String>())]
    Config {
        /// The file.
        path: PathBuf,
        /// A line each: key, what the file says, what the flag says.
        differences: Vec<String>,
    },
    /// The configuration file cannot be read.
    #[error("{path} cannot be read: {why}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The kubeconfig is where the service cannot see it.
    #[error("{0} is in a home directory, which the service cannot see")]
    Hidden(PathBuf),
    /// The service manager refused.
    #[error("`{command}` failed: {why}")]
    Service {
        /// What was run.
        command: String,
        /// What it said last.
        why: String,
    },
    /// Not a Warren for this machine.
    #[error("{path} cannot replace this program: {why}")]
    Program {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Another upgrade is under way.
    #[error("another upgrade is under way (process {0})")]
    Busy(u32),
    /// The program belongs to a package.
    #[error("{0} belongs to a package")]
    Packaged(PathBuf),
    /// No agent answers.
    #[error("no agent answers at {0}: an upgrade needs a running one to compare with")]
    NoAgent(PathBuf),
    /// A process could not be looked at, ended or started.
    #[error("{what}: {why}")]
    Process {
        /// What was tried.
        what: String,
        /// Why it failed.
        why: String,
    },
    /// The new program did not prove itself, and the old one runs again.
    #[error("the upgrade was taken back: {0}")]
    TakenBack(String),
    /// The new program did not prove itself, and the old one does not either.
    #[error("the upgrade was taken back ({why}), but the program before it is not healthy either: {then}")]
    Unhealthy {
        /// Why it was taken back.
        why: String,
        /// What is missing now.
        then: String,
    },
}

impl InstallError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::File(_) => "run this as root, on a file system that can be written".into(),
            Self::Edited(path) => format!(
                "put your changes elsewhere (a unit's into a drop-in by `systemctl edit`), or say --replace: the file is kept as {}.old",
                path.display()
            ),
            Self::Config { path, .. } => format!(
                "edit {}, or leave these flags out to keep it, or say --replace to write it anew (it is kept as {}.old)",
                path.display(),
                path.display()
            ),
            Self::Unreadable { .. } => "correct it, or say --replace to write it anew".into(),
            Self::Hidden(path) => {
                format!("copy it first: `install -m 600 {} /etc/warren/cluster.kubeconfig`, and name that", path.display())
            }
            Self::Service { .. } => {
                "`journalctl -u warren-agent -u warren-server` may say more; --init none leaves services alone".into()
            }
            Self::Program { .. } => "give the program of a release of Warren for this machine".into(),
            Self::Busy(_) => "wait until it has ended".into(),
            Self::Packaged(_) => "upgrade it by its package manager".into(),
            Self::NoAgent(_) => {
                "start the agent, or, where none is to run, put the new program in place by `warren install`".into()
            }
            Self::Process { .. } => "run this as root, on the node itself".into(),
            Self::TakenBack(_) => "the node runs as before; the agent's log tells more of the new program".into(),
            Self::Unhealthy { .. } => "`warren status` and the agent's log say more".into(),
        })
    }
}
