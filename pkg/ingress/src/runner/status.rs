//! What the ingress shows of itself.

use crate::access::Dropped;
use crate::compile::Compiled;
use crate::server::{Figures, Meter};
use crate::sockets::Place;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A shared view of the ingress. Clones share it; it outlives restarts of the subsystem.
#[derive(Clone, Default)]
pub struct IngressStatus(Arc<Mutex<Option<Shown>>>);

struct Shown {
    compiled: Arc<Compiled>,
    listening: Listening,
    meter: Option<Meter>,
    unlogged: Option<Dropped>,
}

/// Where it listens, or should.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listening {
    /// Places, as `http://0.0.0.0:80`.
    pub at: Vec<String>,
    /// Why it does not listen everywhere.
    pub failed: Vec<String>,
}

/// What can be told at a moment.
#[derive(Debug, Clone)]
pub struct StatusSnapshot {
    /// The routes, and the Ingresses that they are made of.
    pub compiled: Arc<Compiled>,
    /// Where it listens.
    pub listening: Listening,
    /// What was counted; none while it does not serve.
    pub figures: Option<Figures>,
    /// Lines of the access log that were dropped; none while there is no such log.
    pub unlogged: Option<u64>,
}

impl IngressStatus {
    /// A status that shows this, of an ingress that does not run: for those who tell of it.
    #[must_use]
    pub fn of(compiled: Compiled, listening: Listening) -> Self {
        let shown = Shown { compiled: Arc::new(compiled), listening, meter: None, unlogged: None };
        Self(Arc::new(Mutex::new(Some(shown))))
    }

    /// What can be told now; none before the first table.
    #[must_use]
    pub fn get(&self) -> Option<StatusSnapshot> {
        let shown = self.lock();
        let shown = shown.as_ref()?;
        Some(StatusSnapshot {
            compiled: shown.compiled.clone(),
            listening: shown.listening.clone(),
            unlogged: shown.unlogged.as_ref().map(Dropped::get),
            figures: shown.meter.as_ref().map(Meter::figures),
        })
    }

    pub(super) fn show(
        &self,
        compiled: &Arc<Compiled>,
        places: impl Iterator<Item = Place>,
        failed: &[String],
        meter: Option<Meter>,
        unlogged: Option<Dropped>,
    ) {
        let listening =
            Listening { at: places.map(|place| place.to_string()).collect(), failed: failed.to_vec() };
        *self.lock() = Some(Shown { compiled: compiled.clone(), listening, meter, unlogged });
    }

    fn lock(&self) -> MutexGuard<'_, Option<Shown>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
