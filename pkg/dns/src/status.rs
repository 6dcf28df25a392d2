//! What cluster DNS shows of itself.

use crate::desk::Desk;
use crate::figures::Figures;
use crate::resolv::HostResolver;
use crate::upstream::{ForwardState, figures::ForwardFigures};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A shared view of the server. Clones share it; it outlives restarts of the subsystem.
#[derive(Clone, Default)]
pub struct DnsStatus(Arc<Mutex<Shown>>);

#[derive(Default)]
struct Shown {
    desk: Option<Arc<Desk>>,
    addresses: BTreeSet<IpAddr>,
    resolver: Option<HostResolver>,
    taken_over: usize,
}

/// What can be told at a moment.
pub struct StatusSnapshot {
    /// Where it listens.
    pub addresses: BTreeSet<IpAddr>,
    /// The cluster's domain.
    pub domain: String,
    /// Services that have names.
    pub services: usize,
    /// Whether the cluster is known at all; else its names are SERVFAIL.
    pub known: bool,
    /// The node's resolvers.
    pub resolver: Option<HostResolver>,
    /// Upstreams and cache.
    pub forward: ForwardState,
    /// Sockets that the agent before had left.
    pub taken_over: usize,
}

impl DnsStatus {
    /// What can be told now; none before it serves.
    #[must_use]
    pub fn get(&self) -> Option<StatusSnapshot> {
        let shown = self.lock();
        let desk = Arc::clone(shown.desk.as_ref()?);
        let (addresses, resolver, taken_over) =
            (shown.addresses.clone(), shown.resolver.clone(), shown.taken_over);
        drop(shown);
        let world = desk.world();
        Some(StatusSnapshot {
            addresses,
            domain: world.zone.domain().to_string(),
            services: world.zone.services(),
            known: world.zone.knowledge() != crate::zone::Knowledge::Nothing,
            resolver,
            forward: desk.forwarder.status(),
            taken_over,
        })
    }

    /// Looks at the counts; none before it serves.
    pub fn count<T>(&self, look: impl FnOnce(&Figures, &ForwardFigures) -> T) -> Option<T> {
        let desk = Arc::clone(self.lock().desk.as_ref()?);
        Some(look(&desk.figures, desk.forwarder.figures()))
    }

    /// The desk, for questions that people ask.
    pub(crate) fn desk(&self) -> Option<Arc<Desk>> {
        self.lock().desk.clone()
    }

    pub(crate) fn serves(&self, desk: &Arc<Desk>, addresses: &BTreeSet<IpAddr>, taken_over: usize) {
        let mut shown = self.lock();
        shown.desk = Some(Arc::clone(desk));
        shown.addresses.clone_from(addresses);
        shown.taken_over = taken_over;
    }

    pub(crate) fn resolves(&self, resolver: &HostResolver) {
        self.lock().resolver = Some(resolver.clone());
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
