//! What network policy shows of itself.

use crate::engine::Engine;
use crate::rules::PolicyId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What it did so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Changes brought to the kernel.
    pub changes: u64,
    /// How long the last one took, from its row to the kernel's word.
    pub last_change: Duration,
    /// How often the kernel was compared as a whole.
    pub comparisons: u64,
    /// How often a comparison found that something had to be mended.
    pub repairs: u64,
    /// Connections ended because they were no longer allowed.
    pub flows_ended: u64,
    /// Packets denied to pods that a policy isolates: each counts for every such policy.
    pub denied: BTreeMap<PolicyId, u64>,
    /// Packets denied.
    pub denied_packets: u64,
}

/// A shared view. Clones share it; it outlives restarts of the subsystem.
#[derive(Clone, Default)]
pub struct PolicyStatus(Arc<Mutex<Shown>>);

#[derive(Default)]
struct Shown {
    figures: Figures,
    engine: Option<Engine>,
}

impl PolicyStatus {
    /// The figures.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.lock().figures.clone()
    }

    /// Looks at the engine; none before the first load.
    pub fn look<T>(&self, look: impl FnOnce(&Engine) -> T) -> Option<T> {
        self.lock().engine.as_ref().map(look)
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Figures)) {
        count(&mut self.lock().figures);
    }

    /// Works on the engine.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Option<Engine>) -> T) -> T {
        work(&mut self.lock().engine)
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
