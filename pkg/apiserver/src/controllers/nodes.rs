//! The life of nodes: one whose Lease is no longer renewed is marked, its pods leave their Services at once and are
//! deleted later; when it comes back, the marks go.
//!
//! Time is what passed here since a renewal was seen, never what a node's clock says. A server that was down or
//! asleep has seen nothing, so every node gets the whole grace again.

mod taints;

use futures::StreamExt as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

use super::api::{Api, Part, gone_is_well};
use super::queue::Key;
use super::runner::Controller;
use super::set_condition;
use crate::error::ApiResult;
use crate::registry::{KindId, LEASE, NODE, POD};
use crate::storage::{Event, Object, object_key};
use crate::table::{list, text};

/// Namespace of node heartbeats.
const LEASES: &str = "kube-node-lease";
/// Writes at once.
const AT_ONCE: usize = 32;
/// The key that keeps this controller's own time.
const PULSE: &str = "";

/// When nodes count as dead, and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeLife {
    /// How long a node may be silent.
    pub grace: Duration,
    /// How long pods of a dead node are kept that do not say it themselves.
    pub eviction: Duration,
}

impl Default for NodeLife {
    fn default() -> Self {
        Self { grace: Duration::from_secs(40), eviction: Duration::from_secs(300) }
    }
}

/// What is known of a node's heart.
struct Heart {
    /// What the last beat looked like.
    beat: String,
    /// When it was seen.
    at: Instant,
    /// Since when the node counts as dead.
    dead_since: Option<Instant>,
}

struct State {
    hearts: BTreeMap<String, Heart>,
    /// Since when pods name a node that is not there.
    missing: BTreeMap<String, Instant>,
    /// When this controller last ran.
    pulse: Instant,
}

/// Watches over nodes.
pub(crate) struct Nodes {
    api: Api,
    life: NodeLife,
    state: Mutex<State>,
}

/// The verdict on a node.
enum Verdict {
    /// It lives, and is looked at again after this.
    Lives(Duration),
    /// It is dead since then.
    Dead(Instant),
}

fn ready_condition(node: &Value) -> Option<&Value> {
    list(node, "/status/conditions").iter().find(|c| text(c, "/type") == "Ready")
}

impl Nodes {
    pub(crate) fn new(api: Api, life: NodeLife) -> Self {
        let state = State { hearts: BTreeMap::new(), missing: BTreeMap::new(), pulse: Instant::now() };
        Self { api, life, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who does not run hears no hearts: after a pause of its own it forgives everybody the pause.
    fn pulse(&self, now: Instant) {
        let mut state = self.state();
        let pause = now.saturating_duration_since(state.pulse);
        if pause > self.life.grace / 2 {
            tracing::info!(
                pause_seconds = pause.as_secs(),
                "the server was asleep; nodes get their grace again"
            );
            for heart in state.hearts.values_mut().filter(|h| h.dead_since.is_none()) {
                heart.at = now;
            }
        }
        state.pulse = now;
    }

    fn judge(&self, node: &Object, now: Instant) -> Verdict {
        let lease = self.api.cache().get(LEASE, &object_key(LEASES, &node.name));
        let renewed = lease.as_ref().map_or("", |l| text(&l.value, "/spec/renewTime"));
        // What a node says of itself is a sign of life too; what this controller says of it is not.
        let said = ready_condition(&node.value).map_or("", |c| text(c, "/lastHeartbeatTime"));
        let beat = format!("{} {renewed} {said}", node.uid());
        let mut state = self.state();
        let heart = state.hearts.entry(node.name.clone()).or_insert_with(|| Heart {
            beat: beat.clone(),
            at: now,
            dead_since: None,
        });
        if heart.beat != beat {
            *heart = Heart { beat, at: now, dead_since: None };
        }
        let silent = now.saturating_duration_since(heart.at);
        match self.life.grace.checked_sub(silent).filter(|left| !left.is_zero()) {
            Some(left) => Verdict::Lives(left),
            None => Verdict::Dead(*heart.dead_since.get_or_insert(now)),
        }
    }

    /// Whether any node lives. When none does, it is the server that is cut off.
    fn any_lives(&self) -> bool {
        self.state().hearts.values().any(|h| h.dead_since.is_none())
    }

    fn pods_on(&self, node: &str) -> Vec<Arc<Object>> {
        let pods = self.api.cache().list(POD).0;
        pods.values().filter(|p| text(&p.value, "/spec/nodeName") == node).cloned().collect()
    }

    async fn mark_unknown(&self, node: &Object) -> ApiResult<()> {
        let ready = ready_condition(&node.value);
        if ready.is_some_and(|c| text(c, "/status") == "Unknown") {
            return Ok(());
        }
        let (reason, message) = match ready {
            Some(_) => ("NodeStatusUnknown", "The node's agent stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "The node's agent never posted node status."),
        };
        tracing::warn!(node = %node.name, reason, "node is silent");
        let now = crate::meta::time(jiff::Timestamp::now());
        let beat = node.revision;
        let changed = self.api.change(node, Part::Status, |o| {
            // Somebody else has written since: it will be looked at again.
            if text(o, "/metadata/resourceVersion") == beat.to_string() {
                let condition =
                    json!({"type": "Ready", "status": "Unknown", "reason": reason, "message": message});
                set_condition(o, condition, &now);
            }
        });
        gone_is_well(changed.await)
    }

    async fn keep_taints(&self, node: &Object) -> ApiResult<()> {
        let now = crate::meta::time(jiff::Timestamp::now());
        if taints::wanted(&node.value, &now).is_none() {
            return Ok(());
        }
        let changed = self.api.change(node, Part::Main, |o| {
            if let Some(taints) = taints::wanted(o, &now) {
                crate::kinds::object(o, "spec").insert("taints".into(), taints.into());
            }
        });
        gone_is_well(changed.await)
    }

    /// Makes the pods leave their Services.
    async fn mark_not_ready(&self, pods: &[Arc<Object>]) -> ApiResult<()> {
        let ready = |o: &Value| {
            list(o, "/status/conditions")
                .iter()
                .find(|c| text(c, "/type") == "Ready" && c["status"] == "True")
                .cloned()
        };
        let now = crate::meta::time(jiff::Timestamp::now());
        let now = &now;
        let work = pods.iter().filter(|p| ready(&p.value).is_some()).cloned().map(|p| async move {
            let changed = self.api.change(&p, Part::Status, |o| {
                if let Some(mut condition) = ready(o) {
                    condition["status"] = "False".into();
                    set_condition(o, condition, now);
                }
            });
            gone_is_well(changed.await)
        });
        all(work.collect()).await
    }

    /// Deletes the pods whose time is over; says when the next one's is.
    async fn evict(&self, pods: &[Arc<Object>], since: Instant, now: Instant) -> ApiResult<Option<Duration>> {
        let mut next: Option<Duration> = None;
        let mut over = Vec::new();
        for pod in pods.iter().filter(|p| !held(p)) {
            let Some(kept) = taints::tolerated(&pod.value, self.life.eviction) else { continue };
            match kept.checked_sub(now.saturating_duration_since(since)).filter(|left| !left.is_zero()) {
                Some(left) => next = Some(next.map_or(left, |n| n.min(left))),
                None => over.push(pod.clone()),
            }
        }
        if !over.is_empty() && !self.any_lives() {
            return Ok(Some(self.life.grace));
        }
        let work = over.into_iter().map(|pod| async move {
            tracing::info!(pod = %pod.key(), node = text(&pod.value, "/spec/nodeName"), "evicted: its node is dead");
            self.api.delete_now(&pod).await
        });
        all(work.collect()).await?;
        Ok(next)
    }

    async fn dead(&self, node: &Object, since: Instant, now: Instant) -> ApiResult<Option<Duration>> {
        self.mark_unknown(node).await?;
        if let Some(node) = self.api.cache().get(NODE, &node.name) {
            self.keep_taints(&node).await?;
        }
        let pods = self.pods_on(&node.name);
        self.mark_not_ready(&pods).await?;
        self.evict(&pods, since, now).await
    }

    /// Pods of a node that is not there are deleted, but not before a node that is just coming has had its time.
    async fn orphans(&self, node: &str, now: Instant) -> ApiResult<Option<Duration>> {
        let pods = self.pods_on(node);
        let since = {
            let mut state = self.state();
            state.hearts.remove(node);
            if pods.is_empty() {
                state.missing.remove(node);
                return Ok(None);
            }
            *state.missing.entry(node.to_owned()).or_insert(now)
        };
        let waited = now.saturating_duration_since(since);
        if let Some(left) = self.life.grace.checked_sub(waited).filter(|left| !left.is_zero()) {
            return Ok(Some(left));
        }
        let work = pods.into_iter().filter(|p| !held(p)).map(|pod| async move {
            tracing::info!(pod = %pod.key(), node, "deleted: its node does not exist");
            self.api.delete_now(&pod).await
        });
        all(work.collect()).await?;
        Ok(None)
    }
}

/// Whether the pod is being deleted and waits for a finalizer: nothing more can be done.
fn held(pod: &Object) -> bool {
    let some = |pointer: &str| !list(&pod.value, pointer).is_empty();
    !text(&pod.value, "/metadata/deletionTimestamp").is_empty() && some("/metadata/finalizers")
}

/// Does all, some at once; tells the first failure.
async fn all<F: Future<Output = ApiResult<()>>>(work: Vec<F>) -> ApiResult<()> {
    let results: Vec<ApiResult<()>> = futures::stream::iter(work).buffer_unordered(AT_ONCE).collect().await;
    results.into_iter().collect()
}

impl Controller for Nodes {
    fn name(&self) -> &'static str {
        "nodes"
    }
    fn kinds(&self) -> Vec<KindId> {
        vec![NODE, LEASE, POD]
    }
    fn all(&self) -> Vec<Key> {
        let (nodes, pods) = (self.api.cache().list(NODE).0, self.api.cache().list(POD).0);
        let named = pods.values().map(|p| text(&p.value, "/spec/nodeName")).filter(|n| !n.is_empty());
        let names = nodes.keys().map(String::as_str).chain(named).chain([PULSE]);
        names.map(|n| (NODE, n.to_owned())).collect()
    }
    fn concerned(&self, event: &Event) -> Vec<Key> {
        let o = &event.object;
        let name = match o.kind {
            NODE => &o.name,
            LEASE if o.namespace == LEASES => &o.name,
            POD => text(&o.value, "/spec/nodeName"),
            _ => "",
        };
        if name.is_empty() { Vec::new() } else { vec![(NODE, name.to_owned())] }
    }

    async fn reconcile(&self, (_, name): &Key) -> ApiResult<Option<Duration>> {
        let now = Instant::now();
        self.pulse(now);
        if name == PULSE {
            return Ok(Some(self.life.grace / 4));
        }
        let Some(node) = self.api.cache().get(NODE, name) else { return self.orphans(name, now).await };
        self.state().missing.remove(name);
        match self.judge(&node, now) {
            Verdict::Lives(left) => {
                self.keep_taints(&node).await?;
                Ok(Some(left))
            }
            Verdict::Dead(since) => self.dead(&node, since, now).await,
        }
    }
}

#[cfg(test)]
mod tests;
