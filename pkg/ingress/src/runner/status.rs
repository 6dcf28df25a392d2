//! What the ingress shows of itself.

use crate::compile::Compiled;
use crate::server::Figures;
use crate::sockets::Place;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A shared view of the ingress. Clones share it; it outlives restarts of the subsystem.
#[derive(Clone, Default)]
pub struct IngressStatus(Arc<Mutex<Option<StatusSnapshot>>>);

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
}

impl IngressStatus {
    /// What can be told now; none before the first table.
    #[must_use]
    pub fn get(&self) -> Option<StatusSnapshot> {
        self.lock().clone()
    }

    pub(super) fn show(
        &self,
        compiled: &Arc<Compiled>,
        places: impl Iterator<Item = Place>,
        failed: &[String],
        figures: Option<Figures>,
    ) {
        let listening =
            Listening { at: places.map(|place| place.to_string()).collect(), failed: failed.to_vec() };
        *self.lock() = Some(StatusSnapshot { compiled: compiled.clone(), listening, figures });
    }

    fn lock(&self) -> MutexGuard<'_, Option<StatusSnapshot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
