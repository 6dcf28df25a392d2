//! Errors of the lab, for the person who typed the command.

use std::io;
use std::path::PathBuf;
use std::time::Duration;
use warren_netlink::NetlinkError;

/// Why a verb of the lab failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// A file, process or namespace could not be had.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused a link, address, route or rule of the virtual LAN.
    #[error("{what}: {source}")]
    Kernel {
        /// What was being built.
        what: String,
        /// The refused request.
        source: NetlinkError,
    },
    /// Something that should have happened did not.
    #[error("{what} did not happen within {} s; see {}", limit.as_secs(), log.display())]
    Timeout {
        /// What was awaited.
        what: String,
        /// For how long.
        limit: Duration,
        /// Where the reason may be.
        log: PathBuf,
    },
    /// There is no such lab.
    #[error(
        "there is no lab {0:?}; `warren lab up --name {0}` makes one, `warren lab list` shows those there are"
    )]
    NoLab(String),
    /// There is a lab of this name already.
    #[error(
        "the lab {0:?} runs already; `warren lab down --name {0}` takes it down, `--name` makes another beside it"
    )]
    Exists(String),
    /// The request cannot be carried out; the text says why.
    #[error("{0}")]
    Refused(String),
    /// What another process of the lab answered.
    #[error("{0}")]
    Remote(String),
    /// A message between processes of the lab could not be read or written.
    #[error("{what}: {source}")]
    Message {
        /// Which message.
        what: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl LabError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
    pub(crate) fn errno(what: impl Into<String>) -> impl FnOnce(nix::Error) -> Self {
        let what = what.into();
        move |e| Self::Io { what, source: e.into() }
    }
    pub(crate) fn kernel(what: impl Into<String>) -> impl FnOnce(NetlinkError) -> Self {
        let what = what.into();
        move |source| Self::Kernel { what, source }
    }
    pub(crate) fn message(what: impl Into<String>) -> impl FnOnce(serde_json::Error) -> Self {
        let what = what.into();
        move |source| Self::Message { what, source }
    }
}
