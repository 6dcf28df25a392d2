//! The board: what every part of the agent pins up, and what status, health and metrics read.
//!
//! Readers take short locks of their own and memory snapshots of the store; they never wait for a subsystem, so they
//! answer while the data side is stuck.

use crate::dns::DnsDesk;
use crate::ingress::IngressDesk;
use crate::policy::PolicyDesk;
use crate::services::Desk;
use crate::status::{
    AttachmentView, CallsView, CheckReport, ClusterNodeView, CniView, FailureView, IpamReport, NodeView,
    PoolView, StatusReport, StoreView, SubsystemView, TunnelView,
};
use crate::supervisor::Watched;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use warren_cni::CallStats;
use warren_source::SourceStatus;
use warren_store::tables::{ONLY, node_key};
use warren_store::{Record, Store};
use warren_types::{
    Attachment, AttachmentPhase, ClusterConfig, EndpointSlice, HealthState, LocalNode, NamespaceState,
    NetworkPolicy, Node, NodeName, PeerEndpoint, Pod, PodCidrs, PublicKey, Service,
};

/// Subsystems without which no pod can be attached.
const NEEDED: [&str; 3] = ["overlay", "ipam", "cni"];

/// Looks for disagreement between leases and kernel.
pub type Checker = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = CheckReport> + Send>> + Send + Sync>;

/// What is known of the tunnels, and when it was read.
#[derive(Debug, Clone, Default)]
pub struct Tunnels {
    /// Which WireGuard is used.
    pub backend: String,
    /// By the peer's key.
    pub peers: BTreeMap<PublicKey, TunnelView>,
}

/// The board. Clones share it.
#[derive(Clone)]
pub struct Board(Arc<Inner>);

struct Inner {
    started: Instant,
    node_name: NodeName,
    store: Store,
    store_path: PathBuf,
    set_aside: String,
    source: SourceStatus,
    watched: Mutex<Vec<Arc<Watched>>>,
    since: Mutex<BTreeMap<&'static str, (u64, Instant)>>,
    tunnels: Mutex<(Tunnels, Option<Instant>)>,
    pools: Mutex<Vec<PoolView>>,
    checker: Mutex<Option<Checker>>,
    calls: CallStats,
    desk: Mutex<Option<Desk>>,
    dns: Mutex<Option<DnsDesk>>,
    policy: Mutex<Option<PolicyDesk>>,
    ingress: Mutex<Option<IngressDesk>>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A copy: the lock is let go before anything else happens, also in the middle of a larger expression.
fn copy<T: Clone>(m: &Mutex<T>) -> T {
    lock(m).clone()
}

impl Board {
    /// An empty board for this node.
    #[must_use]
    pub fn new(
        node_name: NodeName,
        store: Store,
        store_path: PathBuf,
        set_aside: String,
        source: SourceStatus,
    ) -> Self {
        Self(Arc::new(Inner {
            started: Instant::now(),
            node_name,
            store,
            store_path,
            set_aside,
            source,
            watched: Mutex::default(),
            since: Mutex::default(),
            tunnels: Mutex::default(),
            pools: Mutex::default(),
            checker: Mutex::default(),
            calls: CallStats::default(),
            desk: Mutex::default(),
            dns: Mutex::default(),
            policy: Mutex::default(),
            ingress: Mutex::default(),
        }))
    }

    /// Adds a subsystem, in start order.
    pub fn watch(&self, watched: Arc<Watched>) {
        lock(&self.0.watched).push(watched);
    }
    /// Pins up the tunnels.
    pub fn set_tunnels(&self, tunnels: Tunnels) {
        *lock(&self.0.tunnels) = (tunnels, Some(Instant::now()));
    }
    /// Pins up the pools.
    pub fn set_pools(&self, pools: Vec<PoolView>) {
        *lock(&self.0.pools) = pools;
    }
    /// Says how addresses are checked.
    pub fn set_checker(&self, checker: Checker) {
        *lock(&self.0.checker) = Some(checker);
    }
    /// Says who tells of Services.
    pub fn set_desk(&self, desk: Desk) {
        *lock(&self.0.desk) = Some(desk);
    }
    /// Who tells of Services; none while the agent starts.
    #[must_use]
    pub fn desk(&self) -> Option<Desk> {
        copy(&self.0.desk)
    }
    /// Who tells of cluster DNS from now on.
    pub fn set_dns(&self, desk: DnsDesk) {
        *lock(&self.0.dns) = Some(desk);
    }
    /// Who tells of cluster DNS.
    #[must_use]
    pub fn dns(&self) -> Option<DnsDesk> {
        copy(&self.0.dns)
    }
    /// Who tells of network policies from now on.
    pub fn set_policy(&self, desk: PolicyDesk) {
        *lock(&self.0.policy) = Some(desk);
    }
    /// Who tells of network policies; none while the agent starts.
    #[must_use]
    pub fn policy(&self) -> Option<PolicyDesk> {
        copy(&self.0.policy)
    }
    /// Who tells of ingress from now on.
    pub fn set_ingress(&self, desk: IngressDesk) {
        *lock(&self.0.ingress) = Some(desk);
    }
    /// Who tells of ingress; none while the agent starts.
    #[must_use]
    pub fn ingress(&self) -> Option<IngressDesk> {
        copy(&self.0.ingress)
    }
    /// Where CNI counts its calls.
    #[must_use]
    pub fn calls(&self) -> &CallStats {
        &self.0.calls
    }
    /// Why a subsystem has failed, for as long as it is not up again.
    #[must_use]
    pub fn failure_of(&self, name: &str) -> Option<String> {
        let watched = copy(&self.0.watched).into_iter().find(|w| w.name == name)?;
        let health = watched.health.get();
        let down = match health.state {
            HealthState::Failed => true,
            HealthState::Starting => watched.restarts() > 0,
            HealthState::Ready | HealthState::Degraded => false,
        };
        down.then_some(health.message)
    }
    /// Why a subsystem is not as it should be, while it is not.
    #[must_use]
    pub fn trouble_of(&self, name: &str) -> Option<String> {
        let watched = copy(&self.0.watched).into_iter().find(|w| w.name == name)?;
        let health = watched.health.get();
        (health.state != HealthState::Ready).then_some(health.message)
    }
    /// Runs the check; none before the pool is open, or when it takes longer than `limit`.
    pub async fn check(&self, limit: Duration) -> Option<CheckReport> {
        let checker = copy(&self.0.checker)?;
        tokio::time::timeout(limit, checker()).await.ok()
    }

    /// Notes when a state was first seen. Called often; a state is never older than it looks by more than that.
    pub fn observe(&self) {
        let watched = copy(&self.0.watched);
        let mut since = lock(&self.0.since);
        for w in watched {
            let changes = w.health.get().changes;
            let entry = since.entry(w.name).or_insert((changes, Instant::now()));
            if entry.0 != changes {
                *entry = (changes, Instant::now());
            }
        }
    }

    /// What keeps pods from being attached: subsystems that are needed and not up. Empty: ready.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let watched = copy(&self.0.watched);
        NEEDED
            .iter()
            .filter_map(|name| match watched.iter().find(|w| w.name == *name).map(|w| w.health.get()) {
                None => Some(format!("{name}: not started")),
                Some(h) if matches!(h.state, HealthState::Ready | HealthState::Degraded) => None,
                Some(h) => Some(format!("{name}: {}", h.message)),
            })
            .collect()
    }

    fn subsystems(&self) -> Vec<SubsystemView> {
        self.observe();
        let watched = copy(&self.0.watched);
        let since = copy(&self.0.since);
        watched
            .iter()
            .map(|w| {
                let health = w.health.get();
                SubsystemView {
                    name: w.name.into(),
                    state: health.state,
                    message: health.message,
                    since_seconds: since.get(w.name).map_or(0, |(_, t)| t.elapsed().as_secs()),
                    restarts: w.restarts(),
                    last_failure: w
                        .last_failure()
                        .map(|(t, reason)| FailureView { seconds_ago: t.as_secs(), reason }),
                }
            })
            .collect()
    }

    fn nodes(&self) -> Vec<ClusterNodeView> {
        let (tunnels, read) = copy(&self.0.tunnels);
        let stale = read.map_or(0, |t| t.elapsed().as_secs());
        let rows = self.0.store.table::<Node>().snapshot().rows;
        rows.values()
            .map(|n| {
                let own = n.name == self.0.node_name;
                let tunnel = n.public_key.filter(|_| !own).map(|key| match tunnels.peers.get(&key) {
                    Some(t) => {
                        TunnelView { handshake_seconds: t.handshake_seconds.map(|s| s + stale), ..t.clone() }
                    }
                    None => TunnelView { note: "not set up yet".into(), ..TunnelView::default() },
                });
                ClusterNodeView {
                    name: n.name.to_string(),
                    own,
                    ready: n.ready,
                    addresses: texts(&n.internal_ips),
                    pod_cidrs: cidrs(&n.pod_cidrs),
                    id: n.node_id.as_ref().map(ToString::to_string).unwrap_or_default(),
                    public_key: n.public_key.map(|key| key.to_string()).unwrap_or_default(),
                    tunnel,
                }
            })
            .collect()
    }

    fn store(&self) -> StoreView {
        let mut view = StoreView {
            path: self.0.store_path.display().to_string(),
            revision: self.0.store.revision(),
            set_aside: self.0.set_aside.clone(),
            ..StoreView::default()
        };
        self.count::<Node>(&mut view);
        self.count::<Pod>(&mut view);
        self.count::<ClusterConfig>(&mut view);
        self.count::<LocalNode>(&mut view);
        self.count::<Attachment>(&mut view);
        self.count::<PeerEndpoint>(&mut view);
        self.count::<Service>(&mut view);
        self.count::<EndpointSlice>(&mut view);
        self.count::<NamespaceState>(&mut view);
        self.count::<NetworkPolicy>(&mut view);
        view
    }

    fn count<R: Record>(&self, view: &mut StoreView) {
        let snapshot = self.0.store.table::<R>().snapshot();
        view.rows.insert(R::TABLE.into(), snapshot.rows.len() as u64);
        if snapshot.loaded {
            view.loaded.push(R::TABLE.into());
        }
    }

    /// Everything, now.
    #[must_use]
    pub fn report(&self) -> StatusReport {
        let local = self.0.store.table::<LocalNode>().get(ONLY);
        let own = self.0.store.table::<Node>().get(&node_key(&self.0.node_name));
        let cluster = self.0.store.table::<ClusterConfig>().get(ONLY);
        StatusReport {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_seconds: self.0.started.elapsed().as_secs(),
            ready: self.missing().is_empty(),
            node: NodeView {
                name: self.0.node_name.to_string(),
                id: local.as_ref().map(|l| l.node_id.to_string()).unwrap_or_default(),
                public_key: local.as_ref().map(|l| l.public_key.to_string()).unwrap_or_default(),
                addresses: local.as_ref().map(|l| texts(&l.internal_ips)).unwrap_or_default(),
                pod_cidrs: own.map(|n| cidrs(&n.pod_cidrs)).unwrap_or_default(),
                tunnel: copy(&self.0.tunnels).0.backend,
                cluster_cidrs: cluster.as_ref().map(|c| texts(&c.cluster_cidrs)).unwrap_or_default(),
                service_cidrs: cluster.as_ref().map(|c| texts(&c.service_cidrs)).unwrap_or_default(),
            },
            subsystems: self.subsystems(),
            source: self.0.source.report(),
            nodes: self.nodes(),
            pools: copy(&self.0.pools),
            store: self.store(),
            cni: self.cni(),
            services: self.desk().map(|desk| desk.report()).unwrap_or_default(),
            dns: self.dns().and_then(|desk| desk.report()),
            policy: self.policy().and_then(|desk| desk.report()),
            ingress: self.ingress().and_then(|desk| desk.report()),
        }
    }

    fn cni(&self) -> CniView {
        let rows = self.0.store.table::<Attachment>().snapshot().rows;
        let in_phase = |phase| rows.values().filter(|a| a.phase == phase).count() as u64;
        let phases = [AttachmentPhase::Adding, AttachmentPhase::Live, AttachmentPhase::Deleting];
        CniView {
            attachments: phases.into_iter().map(|phase| (word(phase).into(), in_phase(phase))).collect(),
            calls: self
                .0
                .calls
                .snapshot()
                .into_iter()
                .map(|c| CallsView {
                    verb: c.verb.into(),
                    result: c.result.into(),
                    micros: c.micros,
                    classes: c.classes,
                })
                .collect(),
        }
    }

    /// Pools and attachments, now.
    #[must_use]
    pub fn ipam(&self) -> IpamReport {
        let rows = self.0.store.table::<Attachment>().snapshot().rows;
        let attachments = rows
            .values()
            .map(|a| AttachmentView {
                container_id: a.key.container_id.to_string(),
                if_name: a.key.if_name.to_string(),
                pod: a.pod.as_ref().map(ToString::to_string),
                addresses: texts(&a.addresses),
                phase: word(a.phase).into(),
                host_link: a.host_link.to_string(),
            })
            .collect();
        IpamReport { pools: copy(&self.0.pools), attachments }
    }
}

fn word(phase: AttachmentPhase) -> &'static str {
    match phase {
        AttachmentPhase::Adding => "adding",
        AttachmentPhase::Live => "live",
        AttachmentPhase::Deleting => "deleting",
    }
}

fn texts<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn cidrs(c: &PodCidrs) -> Vec<String> {
    c.iter().map(|n| n.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_can_be_made_from_an_empty_board() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap().store;
        let name = NodeName::new("a").unwrap();
        let board = Board::new(name, store, dir.path().into(), String::new(), SourceStatus::default());
        board.watch(Watched::new("overlay"));
        let report = board.report();
        assert!(!report.ready);
        assert_eq!(report.subsystems.len(), 1);
        assert_eq!(board.missing(), ["overlay: starting", "ipam: not started", "cni: not started"]);
        assert_eq!(board.ipam(), IpamReport::default());
        assert_eq!(report.cni.attachments["live"], 0);
        // What starts for the first time has not failed.
        assert_eq!(board.failure_of("overlay"), None);
        let overlay = copy(&board.0.watched).remove(0);
        overlay.health.set(HealthState::Failed, "no tunnel");
        assert_eq!(board.failure_of("overlay").as_deref(), Some("no tunnel"));
        overlay.health.ready();
        assert_eq!(board.failure_of("overlay"), None);
    }
}
