//! How a subsystem says how it is, without knowing who asks.

use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};

/// State of a subsystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// Works.
    Ready,
    /// Has not finished its first load or first apply.
    Starting,
    /// Works in part, or works from the last known state.
    Degraded,
    /// Does not work; the supervisor restarts it.
    Failed,
}

/// What a subsystem last said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    /// The state.
    pub state: HealthState,
    /// One line for a person: what is wrong and what to do; empty when ready.
    pub message: String,
    /// Changes with each change of state or message: lets a reader tell how old the state is.
    pub changes: u64,
}

/// A shared cell for one subsystem's health. Cloning shares the cell.
#[derive(Debug, Clone)]
pub struct HealthCell(Arc<Mutex<HealthReport>>);

impl Default for HealthCell {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(HealthReport {
            state: HealthState::Starting,
            message: "starting".into(),
            changes: 0,
        })))
    }
}

impl HealthCell {
    /// Sets state and message; a repeated report changes nothing.
    pub fn set(&self, state: HealthState, message: impl Into<String>) {
        let message = message.into();
        let mut cell = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cell.state != state || cell.message != message {
            *cell = HealthReport { state, message, changes: cell.changes + 1 };
        }
    }
    /// Works.
    pub fn ready(&self) {
        self.set(HealthState::Ready, "");
    }
    /// Works in part, for this reason.
    pub fn degraded(&self, why: impl Into<String>) {
        self.set(HealthState::Degraded, why);
    }
    /// The last report.
    #[must_use]
    pub fn get(&self) -> HealthReport {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
