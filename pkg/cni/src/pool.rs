//! What the attach engine needs of IPAM. IPAM is another subsystem; the agent passes an implementation.

use std::net::IpAddr;
use std::pin::Pin;
use warren_types::{Attachment, AttachmentKey, AttachmentPhase, LeaseRequest};

/// A boxed future, so that a pool can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a pool did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// No address is free now: all are held, or rest before their next use.
    #[error("no pod address is free: {0}")]
    Exhausted(String),
    /// The node has no podCIDR yet.
    #[error("this node has no podCIDR yet: {0}")]
    NoPodCidr(String),
    /// A requested address is held, or is not this node's to give.
    #[error("requested address {addr}: {reason}")]
    Unavailable {
        /// The address.
        addr: IpAddr,
        /// Why not.
        reason: String,
    },
    /// Another pod has a host port that was asked for.
    #[error("{0}")]
    HostPortTaken(String),
    /// The journal could not be read or written.
    #[error("journal of attachments: {0}")]
    Store(String),
}

/// Addresses and the journal of attachments, in one: a row is both, so that they cannot disagree.
///
/// What must be on disk when: the row of an attachment before `set_phase(.., Live)` returns, and its end before
/// `release` returns. All else must outlive the process when a call returns, but may come to disk later: a power cut
/// ends the attachment with its row, and the order of the journal makes Live imply all that was written before.
/// Two calls for one key never overlap.
pub trait AddressPool: Send + Sync {
    /// Leases addresses and writes the row, in phase Adding. There is no row of this key.
    fn allocate(&self, request: LeaseRequest) -> BoxFuture<'_, Result<Attachment, PoolError>>;
    /// Writes the row, in phase Live, of an attachment that has these addresses already: the kernel shows them, and no
    /// row knows them. There is no row of this key.
    fn adopt(&self, request: LeaseRequest) -> BoxFuture<'_, Result<Attachment, PoolError>>;
    /// Changes the phase of a row; a missing row is an error.
    fn set_phase<'a>(
        &'a self,
        key: &'a AttachmentKey,
        phase: AttachmentPhase,
    ) -> BoxFuture<'a, Result<(), PoolError>>;
    /// Removes the row; its addresses rest before they are given out again. Missing is success.
    fn release<'a>(&'a self, key: &'a AttachmentKey) -> BoxFuture<'a, Result<(), PoolError>>;
    /// One row.
    fn get<'a>(&'a self, key: &'a AttachmentKey) -> BoxFuture<'a, Result<Option<Attachment>, PoolError>>;
    /// All rows, those of earlier boots too.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Attachment>, PoolError>>;
    /// Whether an address could be given out now; else the reason (STATUS).
    fn available(&self) -> BoxFuture<'_, Result<(), PoolError>>;
}
