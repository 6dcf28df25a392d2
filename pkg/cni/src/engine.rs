//! The attach engine: what the agent does for the plugin.
//!
//! One attachment is worked on by one call at a time; different attachments run side by side. The order of an ADD: lease
//! and link pair (together), the source filter, network policy and the pod's side (together), the host's side, the journal, the
//! answer. The host's side is raised after filter and policy are in the kernel, so that the link carries nothing before. A DEL runs from
//! the journal alone. Kernel objects need no journal to be found again: their names follow from the attachment's key and
//! carry Warren's marks.

mod adopt;
mod attach;
mod check;
mod identity;
mod locks;
mod recover;

pub use recover::Recovered;

use crate::gate::PodGate;
use crate::pool::{AddressPool, PoolError};
use crate::queue::DelQueue;
use crate::spec::{AddRequest, AddResult, Code, GcRequest, Refusal};
use locks::{KeyGuard, KeyLocks};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};
use tokio::task::JoinSet;
use warren_netlink::nft::Nft;
use warren_netlink::{NetNs, Netlink, NetlinkError};
use warren_types::{Attachment, AttachmentKey, AttachmentPhase, BootId, IfName};

/// Attachments that GC takes apart side by side.
const GC_AT_ONCE: usize = 16;

/// What the engine must know.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// `name` of the one network that this node offers; `warren` in the list that the agent writes.
    pub network: String,
    /// The MTU of pods, at this moment.
    pub mtu: watch::Receiver<u32>,
    /// Why pods cannot reach other nodes at this moment; none when they can.
    pub cut_off: watch::Receiver<Option<String>>,
    /// This boot.
    pub boot_id: BootId,
    /// Calls that are worked on side by side.
    pub at_once: usize,
}

/// The engine. Clones share it.
///
/// It writes sysctls of the host side, so the threads of the runtime it runs on must be in the network namespace of its
/// netlink handle.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    config: EngineConfig,
    host: Netlink,
    nft: Nft,
    pool: Arc<dyn AddressPool>,
    gate: Arc<dyn PodGate>,
    locks: KeyLocks,
    permits: Semaphore,
    /// Host links in use, and by whom.
    names: Mutex<HashMap<IfName, AttachmentKey>>,
    recovered: AtomicBool,
    repair: Notify,
    #[cfg(test)]
    crash: Mutex<Option<Step>>,
}

/// A successful ADD. As long as it lives no other call touches the attachment: the answer is delivered, or taken back
/// with [`Engine::abandon`].
#[derive(Debug)]
pub struct Added {
    /// What to answer.
    pub result: AddResult,
    key: AttachmentKey,
    _guard: KeyGuard,
}

/// Points at which a call can end for good; tests let it end there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    PairMade,
    Leased,
    Prepared,
    Raised,
    Live,
    Deleting,
    Removed,
    Released,
}

/// Why a call does not go on.
#[derive(Debug)]
pub(crate) enum Halt {
    Refused(Refusal),
    /// As if the process had died here: nothing is cleaned up.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests alone let a call die"))]
    Crash(Step),
}

impl From<Refusal> for Halt {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<NetlinkError> for Halt {
    fn from(error: NetlinkError) -> Self {
        Self::Refused(kernel(&error))
    }
}

impl From<PoolError> for Halt {
    fn from(error: PoolError) -> Self {
        Self::Refused(no_lease(&error))
    }
}

impl From<Halt> for Refusal {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Refused(refusal) => refusal,
            Halt::Crash(step) => Refusal::new(Code::Failed, format!("ended at {step:?}")),
        }
    }
}

fn kernel(error: &NetlinkError) -> Refusal {
    Refusal::new(Code::Failed, format!("the kernel refused: {error}"))
}

fn no_lease(error: &PoolError) -> Refusal {
    match error {
        PoolError::Unavailable { .. } => Refusal::new(Code::AddressUnavailable, error.to_string()),
        PoolError::Exhausted(_) => Refusal::new(Code::TryAgain, error.to_string())
            .with("addresses of deleted pods rest before their next use; see `warren ipam status`"),
        PoolError::NoPodCidr(_) => Refusal::new(Code::TryAgain, error.to_string())
            .with("it comes from the Node object; see `warren status`"),
        PoolError::HostPortTaken(_) => Refusal::new(Code::HostPortTaken, error.to_string()),
        PoolError::Store(_) => {
            Refusal::new(Code::TryAgain, error.to_string()).with("is the disk full? see `warren status`")
        }
    }
}

impl Engine {
    /// An engine that works in the namespace of `host` and `nft`. It refuses ADD until [`Engine::recover`] has run.
    #[must_use]
    pub fn new(
        config: EngineConfig,
        host: Netlink,
        nft: Nft,
        pool: Arc<dyn AddressPool>,
        gate: Arc<dyn PodGate>,
    ) -> Self {
        let permits = Semaphore::new(config.at_once.clamp(1, 1024));
        Self(Arc::new(Inner {
            config,
            host,
            nft,
            pool,
            gate,
            permits,
            locks: KeyLocks::default(),
            names: Mutex::default(),
            recovered: AtomicBool::new(false),
            repair: Notify::new(),
            #[cfg(test)]
            crash: Mutex::default(),
        }))
    }

    /// ADD. `ns` is the pod's namespace, and `pod` a handle there if the caller has one.
    ///
    /// # Errors
    /// What to answer the runtime; nothing is left of the attachment then, or the journal knows it.
    pub async fn add(
        &self,
        request: &AddRequest,
        ns: &NetNs,
        pod: Option<Netlink>,
    ) -> Result<Added, Refusal> {
        let key = &request.key;
        if request.network != self.0.config.network {
            let msg = format!("network {:?} is not known here", request.network);
            let only = format!("this node offers one network, {:?}: use that as name", self.0.config.network);
            return Err(Refusal::new(Code::InvalidConfig, msg).with(only));
        }
        if ns.same(self.0.host.namespace()) {
            let msg = format!("CNI_NETNS {} is the node's own network namespace", request.netns.display());
            return Err(Refusal::new(Code::InvalidEnvironment, msg));
        }
        let _permit = self.permit().await?;
        let guard = self.0.locks.lock(key).await;
        if !self.0.recovered.load(Ordering::Acquire) {
            return Err(starting());
        }
        match self.0.pool.get(key).await.map_err(|e| no_lease(&e))? {
            None => {}
            Some(row) if row.phase == AttachmentPhase::Live => {
                return Err(attached(key));
            }
            // An ADD or DEL that did not end.
            Some(row) => self.dismantle(&row).await?,
        }
        if self.found(key).is_some() {
            return Err(attached(key));
        }
        let link = self.claim(key)?;
        let mut done = attach::Done::default();
        match self.attach(request, (ns, pod), &link, &mut done).await {
            Ok(result) => {
                tracing::debug!(%key, %link, "attached");
                Ok(Added { result, key: key.clone(), _guard: guard })
            }
            Err(Halt::Refused(refusal)) => {
                tracing::warn!(%key, %refusal, "ADD failed, rolling back");
                self.roll_back(key, &link, &done).await;
                Err(refusal)
            }
            Err(halt) => Err(halt.into()),
        }
    }

    /// Takes an ADD back whose answer could not be delivered: the runtime knows nothing of it.
    pub async fn abandon(&self, added: Added) {
        tracing::info!(key = %added.key, "nobody waits for the answer of ADD any more, taking it back");
        let outcome = match self.0.pool.get(&added.key).await {
            Ok(Some(row)) => self.dismantle(&row).await.map_err(Refusal::from),
            Ok(None) => Ok(()),
            Err(e) => Err(no_lease(&e)),
        };
        if let Err(refusal) = outcome {
            tracing::warn!(key = %added.key, %refusal, "cannot take ADD back; DEL or GC will");
        }
    }

    /// DEL: from the journal alone, so it needs no namespace; what is missing is success.
    ///
    /// # Errors
    /// When the kernel or the journal refuses; the call may be repeated.
    pub async fn del(&self, key: &AttachmentKey) -> Result<(), Refusal> {
        let _permit = self.permit().await?;
        let _guard = self.0.locks.lock(key).await;
        self.del_locked(key).await
    }

    /// DEL from the queue. The file goes while the attachment is locked: an ADD that came meanwhile has carried the
    /// deletion out, and what it made must stay.
    pub(crate) async fn del_queued(&self, key: &AttachmentKey, queue: &DelQueue) -> Result<(), Refusal> {
        let _permit = self.permit().await?;
        let _guard = self.0.locks.lock(key).await;
        if !queue.contains(key) {
            return Ok(());
        }
        self.del_locked(key).await?;
        queue.remove(key).map_err(|e| Refusal::new(Code::Io, format!("cannot take it out of the queue: {e}")))
    }

    async fn del_locked(&self, key: &AttachmentKey) -> Result<(), Refusal> {
        match self.0.pool.get(key).await.map_err(|e| no_lease(&e))? {
            Some(row) => {
                self.dismantle(&row).await?;
                tracing::debug!(%key, "detached");
            }
            None => match self.found(key) {
                Some(found) => self.del_found(key, &found).await?,
                None => tracing::debug!(%key, "nothing to detach"),
            },
        }
        Ok(())
    }

    /// GC: takes apart what the runtime does not know any more. What changes meanwhile, an ADD that ends, is left alone.
    ///
    /// # Errors
    /// After all has been tried, naming what failed.
    pub async fn gc(&self, request: &GcRequest) -> Result<(), Refusal> {
        if request.network != self.0.config.network {
            tracing::debug!(network = request.network, "GC of another network");
            return Ok(());
        }
        let rows = self.0.pool.list().await.map_err(|e| no_lease(&e))?;
        let known = adopt::Known::new(&request.valid, &rows);
        let stale = rows.into_iter().filter(|row| !known.contains(row));
        let mut tasks: JoinSet<Option<String>> = JoinSet::new();
        let mut failed = Vec::new();
        for row in stale {
            if tasks.len() >= GC_AT_ONCE {
                failed.extend(tasks.join_next().await.and_then(told));
            }
            let engine = self.clone();
            tasks.spawn(async move { engine.collect(&row).await });
        }
        while let Some(outcome) = tasks.join_next().await {
            failed.extend(told(outcome));
        }
        if failed.is_empty() {
            return Ok(());
        }
        let msg = format!("{} attachments could not be removed", failed.len());
        failed.truncate(8);
        Err(Refusal::new(Code::Failed, msg).with(failed.join("; ")))
    }

    /// What went wrong with one row.
    async fn collect(&self, row: &Attachment) -> Option<String> {
        let _guard = self.0.locks.lock(&row.key).await;
        let outcome = match self.0.pool.get(&row.key).await {
            Ok(Some(now)) if now == *row => self.dismantle(row).await.map_err(Refusal::from),
            Ok(_) => return None,
            Err(e) => Err(no_lease(&e)),
        };
        match outcome {
            Ok(()) => {
                tracing::info!(key = %row.key, addresses = ?row.addresses, "removed, the runtime knows it no more");
                None
            }
            Err(refusal) => Some(format!("{}: {refusal}", row.key)),
        }
    }

    /// STATUS: whether an ADD could succeed now, and its pod reach the others.
    ///
    /// # Errors
    /// Code 50 with the reason; code 51 when pods that are attached cannot reach other nodes either.
    pub async fn status(&self) -> Result<(), Refusal> {
        let not_now = |msg: String| Refusal::new(Code::NotAvailable, msg);
        if !self.0.recovered.load(Ordering::Acquire) {
            return Err(not_now(starting().msg));
        }
        let cut_off = self.0.config.cut_off.borrow().clone();
        if let Some(why) = cut_off {
            let rows = self.0.pool.list().await.map_err(|e| not_now(e.to_string()))?;
            let attached = rows.iter().any(|row| row.phase == AttachmentPhase::Live);
            let code = if attached { Code::LimitedConnectivity } else { Code::NotAvailable };
            return Err(Refusal::new(code, format!("pods cannot reach other nodes: {why}"))
                .with("the agent tries again by itself; see `warren status`"));
        }
        self.0.pool.available().await.map_err(|e| {
            let refusal = no_lease(&e);
            not_now(refusal.msg).with(refusal.details)
        })?;
        match self.0.nft.table_exists().await {
            Ok(true) => Ok(()),
            Ok(false) => Err(not_now("nftables table inet warren is missing".into())
                .with("the agent makes it anew; see `warren status`")),
            Err(e) => Err(not_now(e.to_string())),
        }
    }

    /// Asks for a look at the kernel soon: whether everything of the live attachments is still there.
    pub fn request_repair(&self) {
        self.0.repair.notify_one();
    }

    /// Waits for [`Engine::request_repair`].
    pub(crate) async fn repair_requested(&self) {
        self.0.repair.notified().await;
    }

    pub(crate) fn nft(&self) -> &Nft {
        &self.0.nft
    }

    /// Removes everything of a row, the row last. Whoever calls holds its lock.
    async fn dismantle(&self, row: &Attachment) -> Result<(), Halt> {
        if row.phase != AttachmentPhase::Deleting {
            self.0.pool.set_phase(&row.key, AttachmentPhase::Deleting).await?;
        }
        self.step(Step::Deleting)?;
        // Its neighbours and routes go with the link.
        let sources = attach::sources(&row.host_link, &row.addresses);
        let (link, sources) = tokio::join!(
            self.0.host.remove_link(row.host_link.as_str()),
            self.0.nft.remove_pod_sources(&sources)
        );
        link?;
        sources?;
        self.step(Step::Removed)?;
        self.0.pool.release(&row.key).await?;
        self.step(Step::Released)?;
        let mut names = self.names();
        if names.get(&row.host_link) == Some(&row.key) {
            names.remove(&row.host_link);
        }
        Ok(())
    }

    /// A name for the host side that no other attachment has.
    fn claim(&self, key: &AttachmentKey) -> Result<IfName, Refusal> {
        let mut names = self.names();
        for name in identity::host_links(key) {
            match names.get(&name) {
                Some(holder) if holder != key => {}
                _ => {
                    names.insert(name.clone(), key.clone());
                    return Ok(name);
                }
            }
        }
        Err(Refusal::new(Code::TryAgain, format!("no name is free for the link of {key}")))
    }

    fn names(&self) -> MutexGuard<'_, HashMap<IfName, AttachmentKey>> {
        self.0.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        self.0.permits.acquire().await.map_err(|_| starting())
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "tests let a call end here")]
    fn step(&self, _: Step) -> Result<(), Halt> {
        Ok(())
    }

    #[cfg(test)]
    fn step(&self, step: Step) -> Result<(), Halt> {
        let mut crash = self.0.crash.lock().unwrap();
        if *crash == Some(step) {
            *crash = None;
            return Err(Halt::Crash(step));
        }
        Ok(())
    }

    /// The next call that comes to `step` ends there, as if the process had died.
    #[cfg(test)]
    pub(crate) fn crash_at(&self, step: Step) {
        *self.0.crash.lock().unwrap() = Some(step);
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("config", &self.0.config).finish_non_exhaustive()
    }
}

fn attached(key: &AttachmentKey) -> Refusal {
    Refusal::new(Code::Exists, format!("{key} is attached already"))
        .with("the runtime must DEL it before it may ADD it again")
}

fn starting() -> Refusal {
    Refusal::new(Code::TryAgain, "the agent is starting")
}

/// What a task of GC has to say.
fn told(outcome: Result<Option<String>, tokio::task::JoinError>) -> Option<String> {
    outcome.unwrap_or_else(|e| {
        let mut text = String::new();
        let _ = write!(text, "a task failed: {e}");
        Some(text)
    })
}
