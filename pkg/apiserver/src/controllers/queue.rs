//! Which keys a controller has to look at, and when. Pure: time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

use crate::registry::KindId;

/// An object: its kind and its key inside the kind.
pub(crate) type Key = (KindId, String);

/// A key that changes while it is looked at rests this long: what a controller's own writes bring about cannot make
/// it run without pause.
const REST: Duration = Duration::from_millis(50);
/// After the first failure; doubled with each more.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// Longest wait after failures.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// Keys, each at most once: those that are due, those that wait, those that are in work.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// When each waiting key is due.
    due: BTreeMap<Key, Due>,
    /// The same by time.
    order: BTreeSet<(Instant, Key)>,
    /// Keys in work, and whether they have changed since.
    working: BTreeMap<Key, bool>,
    /// How often keys have failed in a row.
    failures: BTreeMap<Key, u32>,
}

#[derive(Debug, Clone, Copy)]
struct Due {
    at: Instant,
    /// Whether a change may bring it forward.
    firm: bool,
}

impl Queue {
    /// `key` has changed.
    pub(crate) fn add(&mut self, key: Key, now: Instant) {
        if let Some(again) = self.working.get_mut(&key) {
            *again = true;
        } else if self.due.get(&key).is_none_or(|d| !d.firm && d.at > now) {
            self.put(key, Due { at: now, firm: false });
        }
    }

    fn put(&mut self, key: Key, due: Due) {
        if let Some(old) = self.due.insert(key.clone(), due) {
            self.order.remove(&(old.at, key.clone()));
        }
        self.order.insert((due.at, key));
    }

    /// A key to work on; it is in work until [`Queue::done`] or [`Queue::failed`].
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Key> {
        let (at, _) = self.order.first()?;
        if *at > now {
            return None;
        }
        let (_, key) = self.order.pop_first()?;
        self.due.remove(&key);
        self.working.insert(key.clone(), false);
        Some(key)
    }

    /// When the next key is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// The key was brought about; it is looked at again after `again_in`, or when it changes.
    pub(crate) fn done(&mut self, key: Key, again_in: Option<Duration>, now: Instant) {
        self.failures.remove(&key);
        let changed = self.working.remove(&key).unwrap_or(false);
        if changed {
            self.put(key, Due { at: now + REST, firm: true });
        } else if let Some(wait) = again_in {
            self.put(key, Due { at: now + wait.max(REST), firm: false });
        }
    }

    /// The key could not be brought about. Returns how often in a row.
    pub(crate) fn failed(&mut self, key: Key, now: Instant) -> u32 {
        self.working.remove(&key);
        let failures = self.failures.entry(key.clone()).or_insert(0);
        let wait = FIRST_RETRY.saturating_mul(1 << (*failures).min(16)).min(LONGEST_RETRY);
        *failures += 1;
        let count = *failures;
        self.put(key, Due { at: now + wait, firm: true });
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::POD;

    fn key(name: &str) -> Key {
        (POD, name.to_owned())
    }

    #[test]
    fn a_key_is_there_once_and_in_order() {
        let (mut q, now) = (Queue::default(), Instant::now());
        q.add(key("b"), now);
        q.add(key("a"), now);
        q.add(key("a"), now + REST);
        assert_eq!((q.pop(now), q.pop(now), q.pop(now)), (Some(key("a")), Some(key("b")), None));
    }

    #[test]
    fn what_changes_in_work_is_looked_at_again_after_a_rest() {
        let (mut q, now) = (Queue::default(), Instant::now());
        q.add(key("a"), now);
        assert_eq!(q.pop(now), Some(key("a")));
        q.add(key("a"), now);
        assert_eq!(q.pop(now), None, "never twice at once");
        q.done(key("a"), None, now);
        q.add(key("a"), now);
        assert_eq!((q.pop(now), q.next_due()), (None, Some(now + REST)));
        assert_eq!(q.pop(now + REST), Some(key("a")));
        q.done(key("a"), None, now + REST);
        assert_eq!(q.next_due(), None);
    }

    #[test]
    fn a_planned_look_comes_forward_with_a_change_and_a_retry_does_not() {
        let (mut q, now) = (Queue::default(), Instant::now());
        q.add(key("a"), now);
        q.pop(now);
        q.done(key("a"), Some(Duration::from_secs(9)), now);
        assert_eq!(q.pop(now), None);
        q.add(key("a"), now);
        assert_eq!(q.pop(now), Some(key("a")));
        assert_eq!(q.failed(key("a"), now), 1);
        q.add(key("a"), now);
        assert_eq!(q.pop(now), None);
        let mut at = now;
        for n in 2..40 {
            at = q.next_due().unwrap();
            assert_eq!(q.pop(at), Some(key("a")));
            assert_eq!(q.failed(key("a"), at), n);
        }
        assert_eq!(q.next_due(), Some(at + LONGEST_RETRY));
    }
}
