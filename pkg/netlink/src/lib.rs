//! The kernel: links, addresses, routes, rules, neighbours, namespaces, nftables, tracked connections, listeners, packet
//! sockets; and what a process keeps of memory. The only crate with `unsafe` and the only one that talks to the kernel's configuration.
//!
//! Job: idempotent verbs (`ensure_*`, `remove_*`, `list_*`) over netlink, in a chosen network namespace.
//! Inputs: typed requests. Outputs: typed kernel state; errors that name the object.
//! Owns: no object of its own; callers mark what they make (`warren_types::marks`).
//! Ordering: each call is one request or one dump; dumps of one socket are serialised, interrupted dumps retried.
//!
//! ```no_run
//! # use std::path::Path;
//! # use warren_netlink::{LinkChange, NetNs, Netlink, NetlinkError, VethSpec};
//! # async fn example() -> Result<(), NetlinkError> {
//! let host = Netlink::current()?;
//! let pod_ns = NetNs::open(Path::new("/run/netns/pod"))?;
//! let spec = VethSpec {
//!     name: "wrnp0a1b2c3d4e5",
//!     peer_name: "eth0",
//!     peer_ns: Some(&pod_ns),
//!     mtu: 1420,
//!     macs: None,
//!     alias: "warren:pod:default/web",
//! };
//! let ends = host.create_veth(&spec).await?;
//! // The verbs that end in `_at` take the index, which saves looking the name up.
//! let up = LinkChange { up: Some(true), ..LinkChange::default() };
//! let pod = Netlink::in_namespace(&pod_ns).await?;
//! pod.set_link_at(ends.peer_index, &up).await?;
//! host.set_link_at(ends.index, &LinkChange { noarp: Some(true), ..up }).await?;
//! # Ok(())
//! # }
//! ```

mod address;
pub mod conntrack;
mod control_group;
pub mod detached;
pub mod error;
pub mod handover;
pub mod host;
pub mod keeper;
pub mod link;
pub mod listeners;
pub mod memory;
pub mod namespace;
pub mod nft;
pub mod packet;
pub mod route;
mod rule;
pub mod sockopt;
pub mod sysctl;
mod transport;
pub mod tun;
mod watch;

#[cfg(test)]
mod tests;

pub use address::Neighbour;
pub use error::NetlinkError;
pub use link::{Link, LinkChange, VethPair, VethSpec};
pub use namespace::NetNs;
pub use route::{Route, RouteLookup, RouteTarget, Rule};

use netlink_packet_route::RouteNetlinkMessage;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use transport::{Answer, Channel, Failure, Reply};

/// Dumps and removals that one handle has under way at most.
const SLOW_AT_ONCE: usize = 16;
/// Sockets for them that are kept open in between.
const SLOW_KEPT: usize = 4;

/// A route netlink handle bound to one network namespace for its life. Clones share the socket.
///
/// Lists and removals need a tokio runtime, with time and I/O enabled; so does [`Netlink::changes`]. Every other verb
/// makes its system calls while it is polled.
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
    at_work: Arc<Semaphore>,
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

    /// A handle over a route netlink socket of `ns` that another process has opened ([`NetNs::route_socket`]): no
    /// thread has to go there.
    ///
    /// # Errors
    /// When it is no netlink socket of that namespace, or cannot be set up.
    pub fn over_socket(socket: OwnedFd, ns: NetNs) -> Result<Self, NetlinkError> {
        let failed = |source| NetlinkError::Kernel {
            op: "use",
            object: "route netlink socket of another process".into(),
            source,
        };
        if !ns.holds(&socket) {
            let reason = "it is no netlink socket of that network namespace";
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, reason)));
        }
        Ok(Self::over(Channel::of(socket).map_err(failed)?, ns))
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
            at_work: Arc::new(Semaphore::new(SLOW_AT_ONCE)),
            namespace,
            watchers: Mutex::new(JoinSet::new()),
        }))
    }

    /// A request that is acknowledged; echoed messages are the result.
    async fn change(&self, message: RouteNetlinkMessage, flags: u16) -> Result<Vec<Reply>, Failure> {
        self.0.quick.lock().await.exchange(message, flags, Answer::Ack)
    }

    /// A question with one message for an answer.
    async fn ask(&self, message: RouteNetlinkMessage) -> Result<RouteNetlinkMessage, Failure> {
        let replies = self.0.quick.lock().await.exchange(message, 0, Answer::One)?;
        let first = replies.into_iter().next().map(|reply| reply.message);
        first.ok_or_else(|| Failure::Broken("an empty answer".into()))
    }

    /// Everything that a table holds.
    async fn dump(&self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Failure> {
        let replies = finished(self.start(message, Answer::Dump).await?.await)?;
        Ok(replies.into_iter().map(|reply| reply.message).collect())
    }

    /// Begins a request on a thread for blocking work. It ends there, also when nobody waits for it any more.
    async fn start(&self, message: RouteNetlinkMessage, answer: Answer) -> Result<Exchange, Failure> {
        let permit = Arc::clone(&self.0.at_work).acquire_owned().await;
        let permit = permit.map_err(|e| Failure::Broken(e.to_string()))?;
        let kept = self.idle().pop();
        let mut channel = match kept {
            Some(channel) => channel,
            None => {
                let opened = self.0.namespace.run_async(open).await.and_then(|opened| opened);
                opened.map_err(|e| Failure::Broken(e.to_string()))?
            }
        };
        let own = self.clone();
        Ok(tokio::task::spawn_blocking(move || {
            let result = channel.exchange(message, 0, answer);
            let mut idle = own.idle();
            if idle.len() < SLOW_KEPT && !matches!(result, Err(Failure::Broken(_))) {
                idle.push(channel);
            }
            drop(permit);
            result
        }))
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

/// The first of each key: a dump may hold several readings of a table, the last first.
fn distinct<T, K: Ord>(all: impl IntoIterator<Item = T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = BTreeSet::new();
    all.into_iter().filter(|one| seen.insert(key(one))).collect()
}

/// A request under way.
type Exchange = JoinHandle<Result<Vec<Reply>, Failure>>;

fn finished(outcome: Result<Result<Vec<Reply>, Failure>, JoinError>) -> Result<Vec<Reply>, Failure> {
    outcome.map_err(|e| Failure::Broken(format!("the request was lost: {e}")))?
}

fn open() -> Result<Channel, NetlinkError> {
    let object = "route netlink socket";
    Channel::open().map_err(|source| NetlinkError::Kernel { op: "open", object: object.into(), source })
}
