//! The kernel: links, addresses, routes, rules, neighbours, namespaces, nftables. The only crate with `unsafe` and
//! the only one that talks to the kernel's configuration.
//!
//! Job: idempotent verbs (`ensure_*`, `remove_*`, `list_*`) over netlink, in a chosen network namespace.
//! Inputs: typed requests. Outputs: typed kernel state; errors that name the object.
//! Owns: no object of its own; callers mark what they make (`warren_types::marks`).
//! Ordering: each call is one request or one dump; dumps of one socket are serialised, interrupted dumps retried.

mod address;
pub mod error;
pub mod host;
pub mod link;
pub mod namespace;
pub mod nft;
pub mod route;
mod rule;
pub mod sysctl;
mod transport;
mod watch;

#[cfg(test)]
mod tests;

pub use address::Neighbour;
pub use error::NetlinkError;
pub use link::{Link, LinkChange, VethPair, VethSpec};
pub use namespace::NetNs;
pub use route::{Route, RouteLookup, RouteTarget, Rule};

use netlink_packet_route::RouteNetlinkMessage;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use transport::{Answer, Channel, Failure, Reply};

/// Dumps and removals that one handle has under way at most.
const SLOW_AT_ONCE: usize = 16;
/// Sockets for them that are kept open in between.
const SLOW_KEPT: usize = 4;

/// A route netlink handle bound to one network namespace for its life. Clones share the socket.
#[derive(Clone)]
pub struct Netlink(Arc<Shared>);

/// What the clones share; it ends with the last of them, its tasks too.
struct Shared {
    /// Requests that the kernel carries out at once.
    quick: tokio::sync::Mutex<Channel>,
    /// Sockets for dumps and removals, which take their time on threads for blocking work and keep nobody else
    /// waiting. Opened as needed: the handle of a pod's namespace lives for a few quick requests.
    idle: Mutex<Vec<Channel>>,
    /// How many of them may be at work. Removals mostly wait inside the kernel, and their waits overlap.
    at_work: Semaphore,
    /// The namespace, for further sockets and for resolving what is relative to it.
    namespace: NetNs,
    /// Readers of [`Netlink::changes`]; dropping the set ends them.
    watchers: Mutex<JoinSet<()>>,
}

impl Netlink {
    /// Opens a handle in the network namespace of the calling thread. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn current() -> Result<Self, NetlinkError> {
        Ok(Self::over(open()?, NetNs::current()?))
    }

    /// Opens a handle in `ns`: a short-lived thread enters it, opens the socket and hands it back. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the socket cannot be opened.
    pub async fn in_namespace(ns: &NetNs) -> Result<Self, NetlinkError> {
        Ok(Self::over(ns.run_async(open).await??, ns.try_clone()?))
    }

    /// The network namespace this handle works in.
    #[must_use]
    pub fn namespace(&self) -> &NetNs {
        &self.0.namespace
    }

    fn over(quick: Channel, namespace: NetNs) -> Self {
        Self(Arc::new(Shared {
            quick: tokio::sync::Mutex::new(quick),
            idle: Mutex::default(),
            at_work: Semaphore::new(SLOW_AT_ONCE),
            namespace,
            watchers: Mutex::new(JoinSet::new()),
        }))
    }

    /// A request that is acknowledged; echoed messages are the result.
    async fn change(&self, message: RouteNetlinkMessage, flags: u16) -> Result<Vec<Reply>, Failure> {
        self.0.quick.lock().await.exchange(message, flags, Answer::Ack)
    }

    /// A change that may take the kernel milliseconds.
    async fn change_slowly(&self, message: RouteNetlinkMessage) -> Result<(), Failure> {
        self.blocking(message, Answer::Ack).await.map(drop)
    }

    /// A question with one message for an answer.
    async fn ask(&self, message: RouteNetlinkMessage) -> Result<RouteNetlinkMessage, Failure> {
        let replies = self.0.quick.lock().await.exchange(message, 0, Answer::One)?;
        let first = replies.into_iter().next().map(|reply| reply.message);
        first.ok_or_else(|| Failure::Broken("an empty answer".into()))
    }

    /// Everything that a table holds.
    async fn dump(&self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Failure> {
        let replies = self.blocking(message, Answer::Dump).await?;
        Ok(replies.into_iter().map(|reply| reply.message).collect())
    }

    async fn blocking(&self, message: RouteNetlinkMessage, answer: Answer) -> Result<Vec<Reply>, Failure> {
        let lost = |e: &dyn std::error::Error| Failure::Broken(format!("the request was lost: {e}"));
        let _permit = self.0.at_work.acquire().await.map_err(|e| lost(&e))?;
        let kept = self.idle().pop();
        let mut channel = match kept {
            Some(channel) => channel,
            None => {
                let opened = self.0.namespace.run_async(open).await.and_then(|opened| opened);
                opened.map_err(|e| Failure::Broken(e.to_string()))?
            }
        };
        let exchange = move || (channel.exchange(message, 0, answer), channel);
        let (result, channel) = tokio::task::spawn_blocking(exchange).await.map_err(|e| lost(&e))?;
        let mut idle = self.idle();
        if idle.len() < SLOW_KEPT && !matches!(result, Err(Failure::Broken(_))) {
            idle.push(channel);
        }
        result
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Channel>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netlink").field("namespace", &self.0.namespace.identity()).finish_non_exhaustive()
    }
}

fn open() -> Result<Channel, NetlinkError> {
    let object = "route netlink socket";
    Channel::open().map_err(|source| NetlinkError::Kernel { op: "open", object: object.into(), source })
}
