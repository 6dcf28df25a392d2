//! The kernel: links, addresses, routes, rules, neighbours, namespaces, nftables. The only crate with `unsafe` and
//! the only one that talks to the kernel's configuration.
//!
//! Job: idempotent verbs (`ensure_*`, `remove_*`, `list_*`) over netlink, in a chosen network namespace.
//! Inputs: typed requests. Outputs: typed kernel state; errors that name the object.
//! Owns: no object of its own; callers mark what they make (`warren_types::marks`).
//! Ordering: each call is one request or one dump; dumps of one socket are serialised, interrupted dumps retried.

pub mod error;
pub mod link;
pub mod namespace;
pub mod nft;
pub mod route;
pub mod sysctl;

pub use error::NetlinkError;
pub use namespace::NetNs;

/// A route netlink handle bound to one network namespace for its life. Clones share the socket.
#[derive(Clone)]
pub struct Netlink(std::sync::Arc<()>);

impl Netlink {
    /// Opens a handle in the network namespace of the calling thread. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn current() -> Result<Self, NetlinkError> {
        todo!()
    }
    /// Opens a handle in `ns`: a short-lived thread enters it, opens the socket and hands it back. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the socket cannot be opened.
    pub async fn in_namespace(ns: &NetNs) -> Result<Self, NetlinkError> {
        let _ = ns;
        todo!()
    }
}
