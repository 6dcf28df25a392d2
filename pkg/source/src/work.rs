//! Writes to the API that follow from a difference: several at once, each object with a backoff of its own, and none
//! repeated before the watch had time to show it.

use crate::backoff::Backoff;
use crate::client::chain;
use crate::{SourceStatus, status_code};
use futures::StreamExt as _;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Writes under way at once.
const CONCURRENCY: usize = 8;
/// Least time between two looks at the difference.
pub(crate) const MIN_GAP: Duration = Duration::from_millis(50);
/// How long a write may take to show in the watch before it is tried again.
const SETTLE: Duration = Duration::from_secs(3);
/// How long nothing to do is nothing to do, without a change.
const IDLE: Duration = Duration::from_secs(60);

/// When one object may be written again.
struct Hold<A> {
    action: A,
    until: Instant,
    backoff: Backoff,
}

/// What was written of one kind of object, by key, and when it may be written again.
pub(crate) struct Work<K, A> {
    kind: &'static str,
    status: SourceStatus,
    holds: BTreeMap<K, Hold<A>>,
}

impl<K: Ord + Clone + Display, A: Clone + PartialEq> Work<K, A> {
    /// `kind` names the objects in the status.
    pub(crate) fn new(kind: &'static str, status: SourceStatus) -> Self {
        Self { kind, status, holds: BTreeMap::new() }
    }

    /// Does what can be done now of all there is `todo`; returns when to look again at the latest.
    pub(crate) async fn once<F: Future<Output = Result<(), kube::Error>>>(
        &mut self,
        todo: BTreeMap<K, A>,
        stop: &CancellationToken,
        act: impl Fn(K, A) -> F,
    ) -> Duration {
        let prefix = format!("{} ", self.kind);
        self.holds.retain(|key, _| todo.contains_key(key));
        let names: BTreeSet<String> = todo.keys().map(|k| format!("{prefix}{k}")).collect();
        self.status.retain_write_errors(|name| !name.starts_with(&prefix) || names.contains(name));
        let now = Instant::now();
        let ready: Vec<(K, A)> = todo
            .into_iter()
            .filter(|(key, action)| self.holds.get(key).is_none_or(|h| h.until <= now || h.action != *action))
            .collect();
        let results: Vec<(K, A, Result<(), kube::Error>)> = tokio::select! {
            () = stop.cancelled() => return Duration::ZERO,
            r = futures::stream::iter(ready)
                .map(|(key, action)| {
                    let result = act(key.clone(), action.clone());
                    async move { (key, action, result.await) }
                })
                .buffer_unordered(CONCURRENCY)
                .collect() => r,
        };
        for (key, action, result) in results {
            let name = format!("{prefix}{key}");
            let hold = self.holds.entry(key).or_insert_with(|| Hold {
                action: action.clone(),
                until: now,
                backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(10)),
            });
            hold.action = action;
            match result {
                Ok(()) => {
                    hold.backoff.reset();
                    hold.until = Instant::now() + SETTLE;
                    self.status.write_result(&name, None);
                }
                Err(error) => {
                    hold.until = Instant::now() + hold.backoff.next_wait();
                    tracing::debug!(object = %name, error = %chain(&error), "publishing failed");
                    if status_code(&error).is_some() {
                        self.status.write_result(&name, Some(chain(&error)));
                    }
                }
            }
        }
        let next = self.holds.values().map(|h| h.until).min();
        next.map_or(IDLE, |t| t.saturating_duration_since(Instant::now()).max(MIN_GAP))
    }
}
