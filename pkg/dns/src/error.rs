//! Errors of cluster DNS.

use warren_netlink::NetlinkError;

/// Why cluster DNS cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DnsError {
    /// The kernel refused something.
    #[error(transparent)]
    Kernel(#[from] NetlinkError),
    /// Sockets or threads.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The cluster's domain.
    #[error("--cluster-domain: {0}")]
    Domain(#[from] crate::wire::InvalidName),
    /// The store was closed.
    #[error("the store was closed; the agent is stopping, or its disk failed")]
    StoreClosed,
}
