//! Errors of the overlay.

use std::io;
use std::path::PathBuf;

use warren_netlink::NetlinkError;
use warren_store::StoreError;

/// Why the overlay cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OverlayError {
    /// The kernel refused something.
    #[error(transparent)]
    Kernel(#[from] NetlinkError),
    /// The store refused something.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store was closed.
    #[error("the store was closed; the agent is stopping, or its disk failed")]
    StoreClosed,
    /// The kernel has no WireGuard, and no other backend was allowed.
    #[error(
        "this kernel has no WireGuard: load its module `wireguard`, or allow the userspace tunnel with \
         --tunnel-backend auto"
    )]
    NoKernelWireguard,
    /// A link has the tunnel's name and is somebody else's.
    #[error("link {name} is of kind {kind:?}, which Warren did not make; rename or remove it")]
    ForeignLink {
        /// The link.
        name: String,
        /// Its kind.
        kind: String,
    },
    /// The device could not be read or changed.
    #[error("{verb} WireGuard device {name}: {source}")]
    Device {
        /// What was tried.
        verb: &'static str,
        /// The device.
        name: String,
        /// The reason.
        source: io::Error,
    },
    /// The userspace tunnel did not start.
    #[error("the userspace tunnel for {name} did not start: {reason}; its log is {}", log.display())]
    Process {
        /// The link.
        name: String,
        /// Why not.
        reason: String,
        /// Where it logs.
        log: PathBuf,
    },
    /// A blocking call was lost.
    #[error("{0}: the call was lost; its thread panicked or the agent is stopping")]
    Lost(&'static str),
}
