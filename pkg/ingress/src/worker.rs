//! What the threads share, and what each has for itself.

use crate::bounds::Bounds;
use crate::observe::Observer;
use crate::route::{Backend, RouteTable};
use crate::state::{Live, Registry, lock, network};
use crate::tickets::Tickets;
use crate::upstream::Pool;
use ipnet::IpNet;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What all threads share.
pub(crate) struct Shared {
    pub(crate) bounds: Bounds,
    /// Peers who may say for whom a request is.
    pub(crate) trusted: Vec<IpNet>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) tickets: Arc<Tickets>,
    live: RwLock<Arc<Live>>,
    registry: Mutex<Registry>,
    pub(crate) connections: AtomicUsize,
    /// Of these, by client.
    clients: Mutex<HashMap<IpAddr, usize>>,
    /// Connections that were turned away since there were too many.
    pub(crate) turned_away: AtomicU64,
    pub(crate) handshakes_failed: AtomicU64,
    pub(crate) malformed: AtomicU64,
    draining: AtomicBool,
    drain: CancellationToken,
    end: CancellationToken,
}

impl Shared {
    pub(crate) fn new(
        bounds: Bounds,
        trusted: Vec<IpNet>,
        observer: Option<Arc<dyn Observer>>,
        table: Arc<RouteTable>,
    ) -> Self {
        let mut registry = Registry::default();
        let live = RwLock::new(Arc::new(registry.enliven(table)));
        Self {
            bounds,
            trusted,
            observer,
            tickets: Arc::new(Tickets::new()),
            live,
            registry: Mutex::new(registry),
            connections: AtomicUsize::new(0),
            clients: Mutex::default(),
            turned_away: AtomicU64::new(0),
            handshakes_failed: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            drain: CancellationToken::new(),
            end: CancellationToken::new(),
        }
    }

    /// The table of this moment.
    pub(crate) fn live(&self) -> Arc<Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn swap(&self, table: Arc<RouteTable>) {
        let mut registry = lock(&self.registry);
        let live = Arc::new(registry.enliven(table));
        let before =
            std::mem::replace(&mut *self.live.write().unwrap_or_else(PoisonError::into_inner), live.clone());
        if !live.table.certificates().keeps(before.table.certificates()) {
            self.tickets.renew();
        }
    }

    /// Takes the endpoints that these backends of the table have now.
    pub(crate) fn renew(&self, backends: &[Arc<Backend>]) {
        let mut registry = lock(&self.registry);
        let live = self.live();
        backends.iter().for_each(|backend| registry.renew(&live, backend));
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Relaxed);
        self.drain.cancel();
    }

    pub(crate) fn end(&self) {
        self.drain();
        self.end.cancel();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Returns when no new request is to be taken.
    pub(crate) async fn drained(&self) {
        self.drain.cancelled().await;
    }

    /// Returns when nothing may go on.
    pub(crate) async fn stopped(&self) {
        self.end.cancelled().await;
    }
}

/// What a thread has for itself.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Pool,
    pub(crate) tasks: TaskTracker,
    random: AtomicU64,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, seed: u64) -> Self {
        Self { shared, pool: Pool::default(), tasks: TaskTracker::new(), random: AtomicU64::new(seed | 1) }
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// A number below `most`, which is not 0. Who guesses it gains nothing.
    pub(crate) fn draw(&self, most: usize) -> usize {
        let mut x = self.random.load(Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.store(x, Relaxed);
        (x % most as u64) as usize
    }
}

/// A connection that is counted for as long as it lives.
pub(crate) struct Counted {
    shared: Arc<Shared>,
    client: Option<IpAddr>,
}

impl Counted {
    /// Counts a connection, unless there are too many of all, or of this client when it is one.
    pub(crate) fn new(shared: &Arc<Shared>, client: Option<IpAddr>) -> Option<Self> {
        let client = client.map(network);
        let before = shared.connections.fetch_add(1, Relaxed);
        let of_client = client.map_or(0, |client| {
            let mut clients = lock(&shared.clients);
            let count = clients.entry(client).or_default();
            *count += 1;
            *count
        });
        let counted = Self { shared: shared.clone(), client };
        if before >= shared.bounds.connections || of_client > shared.bounds.client_connections {
            shared.turned_away.fetch_add(1, Relaxed);
            return None;
        }
        Some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.shared.connections.fetch_sub(1, Relaxed);
        if let Some(client) = self.client {
            let mut clients = lock(&self.shared.clients);
            if let Entry::Occupied(mut known) = clients.entry(client) {
                *known.get_mut() -= 1;
                if *known.get() == 0 {
                    known.remove();
                }
            }
        }
    }
}
