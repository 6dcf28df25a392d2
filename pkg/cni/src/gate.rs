//! What the attach engine needs of network policy. That is another subsystem; the agent passes an implementation.

use crate::pool::BoxFuture;
use warren_types::AttachmentKey;

/// Lets pods in once the kernel isolates them as the cluster's policies want.
pub trait PodGate: Send + Sync {
    /// Waits for it. The attachment has a row in the journal, and its link is down.
    ///
    /// # Errors
    /// Why the pod must not be connected now, for people.
    fn admit<'a>(&'a self, key: &'a AttachmentKey) -> BoxFuture<'a, Result<(), String>>;
}
