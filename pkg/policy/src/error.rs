//! Errors of network policy.

use warren_netlink::NetlinkError;
use warren_store::StoreError;

/// Why policies cannot be kept in force any longer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The kernel refused something.
    #[error(transparent)]
    Kernel(#[from] NetlinkError),
    /// The store refused something.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store was closed.
    #[error("the store was closed; the agent is stopping, or its disk failed")]
    StoreClosed,
}
