//! Errors of the proxy.

use warren_netlink::NetlinkError;
use warren_store::StoreError;

/// Why the proxy cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
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
