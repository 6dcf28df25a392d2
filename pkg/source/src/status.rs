//! What the source knows of itself: is the API there, how old is its last word, what was refused.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// At most this many refusals are kept for show.
const MAX_REFUSED: usize = 200;

/// A field, or a whole object, that was not let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// `Node`, `Pod`, `ConfigMap`.
    pub kind: String,
    /// Name, with the namespace where there is one.
    pub object: String,
    /// The field.
    pub field: String,
    /// Why.
    pub reason: String,
}

/// A view of the source at one moment. Table of `warren status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SourceReport {
    /// Address of the API; empty before it is known.
    pub api: String,
    /// Whether the last request was answered.
    pub connected: bool,
    /// Seconds since `connected` last changed.
    pub since_seconds: u64,
    /// Seconds since the API last said anything; none before the first word.
    pub last_contact_seconds: Option<u64>,
    /// Why the API is not there; empty when it is.
    pub error: String,
    /// Per kind: whether a first list has completed in this run.
    pub synced: BTreeMap<String, bool>,
    /// What was refused of the objects that exist now.
    pub refused: Vec<Refusal>,
    /// Writes to the API that were answered with an error, by object.
    pub write_errors: BTreeMap<String, String>,
}

#[derive(Default)]
struct Inner {
    report: SourceReport,
    since: Option<Instant>,
    contact: Option<Instant>,
    refused: BTreeMap<(String, String), Vec<Refusal>>,
}

/// The shared cell behind [`SourceReport`]. Clones share it; it outlives restarts of the source.
#[derive(Clone, Default)]
pub struct SourceStatus(Arc<Mutex<Inner>>);

impl SourceStatus {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The view now.
    #[must_use]
    pub fn report(&self) -> SourceReport {
        let inner = self.lock();
        let mut report = inner.report.clone();
        report.since_seconds = inner.since.map_or(0, |t| t.elapsed().as_secs());
        report.last_contact_seconds = inner.contact.map(|t| t.elapsed().as_secs());
        report.refused = inner.refused.values().flatten().take(MAX_REFUSED).cloned().collect();
        report
    }

    pub(crate) fn set_api(&self, api: &str) {
        self.lock().report.api = api.to_owned();
    }

    /// The API answered. True when it had been away.
    pub(crate) fn contact(&self) -> bool {
        let mut inner = self.lock();
        let now = Instant::now();
        inner.contact = Some(now);
        let back = !inner.report.connected;
        if back {
            inner.report.connected = true;
            inner.report.error.clear();
            inner.since = Some(now);
        }
        back
    }

    /// A request found no answer. True when the API had been there.
    pub(crate) fn lost(&self, error: &str) -> bool {
        let mut inner = self.lock();
        let gone = inner.report.connected || inner.since.is_none();
        if gone {
            inner.report.connected = false;
            inner.since = Some(Instant::now());
        }
        inner.report.error = error.chars().take(300).collect();
        gone
    }

    pub(crate) fn synced(&self, kind: &str, done: bool) {
        self.lock().report.synced.insert(kind.to_owned(), done);
    }

    /// Replaces what is refused of one object; returns what is new, for the log.
    pub(crate) fn refuse(&self, kind: &str, object: &str, refused: Vec<Refusal>) -> Vec<Refusal> {
        let mut inner = self.lock();
        let key = (kind.to_owned(), object.to_owned());
        let before = inner.refused.remove(&key).unwrap_or_default();
        let news = refused.iter().filter(|r| !before.contains(r)).cloned().collect();
        if !refused.is_empty() && inner.refused.len() < MAX_REFUSED {
            inner.refused.insert(key, refused);
        }
        news
    }

    /// Forgets the refusals of a kind whose objects are not in `alive` (after a relist).
    pub(crate) fn retain_refusals(&self, kind: &str, alive: &std::collections::BTreeSet<String>) {
        self.lock().refused.retain(|(k, object), _| k != kind || alive.contains(object));
    }

    pub(crate) fn write_result(&self, object: &str, error: Option<String>) {
        let errors = &mut self.lock().report.write_errors;
        match error {
            None => drop(errors.remove(object)),
            Some(e) if errors.len() < MAX_REFUSED || errors.contains_key(object) => {
                errors.insert(object.to_owned(), e.chars().take(300).collect());
            }
            Some(_) => {}
        }
    }

    pub(crate) fn retain_write_errors(&self, keep: impl Fn(&str) -> bool) {
        self.lock().report.write_errors.retain(|k, _| keep(k));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_news_once_and_ends_with_its_object() {
        let s = SourceStatus::default();
        let r = Refusal { kind: "Node".into(), object: "n".into(), field: "f".into(), reason: "r".into() };
        assert_eq!(s.refuse("Node", "n", vec![r.clone()]).len(), 1);
        assert_eq!(s.refuse("Node", "n", vec![r.clone()]).len(), 0);
        assert_eq!(s.report().refused, [r]);
        s.retain_refusals("Node", &std::collections::BTreeSet::new());
        assert_eq!(s.report().refused, []);
    }

    #[test]
    fn contact_and_loss_are_edges() {
        let s = SourceStatus::default();
        assert!(s.lost("refused"));
        assert!(!s.lost("refused"));
        assert!(s.contact());
        assert!(!s.contact());
        assert!(s.report().connected);
        assert!(s.lost("gone"));
        assert_eq!(s.report().error, "gone");
    }
}
