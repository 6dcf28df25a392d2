//! One lock for each attachment that is being worked on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OwnedMutexGuard;
use warren_types::AttachmentKey;

type Held = Arc<tokio::sync::Mutex<()>>;

/// Locks by key; those nobody holds or waits for take no memory.
#[derive(Debug, Clone, Default)]
pub(super) struct KeyLocks(Arc<Mutex<HashMap<AttachmentKey, Held>>>);

/// Holds a key; dropping it lets the next one in.
#[derive(Debug)]
pub(crate) struct KeyGuard {
    locks: KeyLocks,
    key: AttachmentKey,
    guard: Option<OwnedMutexGuard<()>>,
}

impl KeyLocks {
    pub(super) async fn lock(&self, key: &AttachmentKey) -> KeyGuard {
        // Made before the wait: its drop clears up, also when the caller gives up waiting.
        let mut guard = KeyGuard { locks: self.clone(), key: key.clone(), guard: None };
        guard.guard = Some(self.of(key).lock_owned().await);
        guard
    }

    /// `None` when somebody holds it.
    pub(super) fn try_lock(&self, key: &AttachmentKey) -> Option<KeyGuard> {
        let guard = self.of(key).try_lock_owned().ok()?;
        Some(KeyGuard { locks: self.clone(), key: key.clone(), guard: Some(guard) })
    }

    fn of(&self, key: &AttachmentKey) -> Held {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(map.entry(key.clone()).or_default())
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        let mut map = self.locks.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.guard = None;
        // Only the map holds it: nobody waits, and nobody can begin to while the map is locked.
        if map.get(&self.key).is_some_and(|held| Arc::strong_count(held) == 1) {
            map.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use warren_types::{ContainerId, IfName};

    fn key(id: &str) -> AttachmentKey {
        AttachmentKey { container_id: ContainerId::new(id).unwrap(), if_name: IfName::new("eth0").unwrap() }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_at_a_time_and_nothing_left() {
        let locks = KeyLocks::default();
        let inside = Arc::new(AtomicUsize::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..32 {
            let (locks, inside) = (locks.clone(), Arc::clone(&inside));
            tasks.spawn(async move {
                for _ in 0..50 {
                    let _guard = locks.lock(&key("a")).await;
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        assert_eq!(locks.len(), 0);
    }

    #[tokio::test]
    async fn keys_are_apart_and_waiters_may_give_up() {
        let locks = KeyLocks::default();
        let held = locks.lock(&key("a")).await;
        let _other = locks.lock(&key("b")).await;
        assert!(locks.try_lock(&key("a")).is_none());
        let a = key("a");
        let wait = tokio::time::timeout(std::time::Duration::from_millis(5), locks.lock(&a));
        assert!(wait.await.is_err());
        drop(held);
        assert!(locks.try_lock(&key("a")).is_some());
        assert_eq!(locks.len(), 1);
    }
}
