//! Faults of Services and Ingresses, shown as Events, so that `kubectl describe` tells them.
//!
//! Desired: the faults in tables `service_faults`, `load_balancer_addresses` and `ingress_faults`, and, on one node of the
//! cluster, what the door refused of the objects, since each node refuses the same. One fault is one Event, whose name
//! follows from it: it is made when the fault appears, and renewed now and then while it stays. Best effort: what
//! cannot be written is tried again and never stops anything.

use crate::addresses::settled;
use crate::backoff::Backoff;
use crate::client::chain;
use crate::work::MIN_GAP;
use crate::{Object, SourceError, resource, status_code};
use futures::StreamExt as _;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use warren_store::{Store, StoreError, Table};
use warren_types::{Fault, IngressKey, Namespace, Node, NodeName, ServiceKey};

mod sources;
pub(crate) use sources::{OfIngresses, OfServices};

/// Writes under way at once.
const CONCURRENCY: usize = 4;
/// At most this many faults are remembered; what is beyond them has no Event until others end.
const MAX_FAULTS: usize = 1000;
/// How often the Event of a fault that stays is renewed.
const RENEW: Duration = Duration::from_secs(300);
/// How often what the door refused is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// Longest reason and message that the API takes.
const MAX_REASON: usize = 128;
const MAX_MESSAGE: usize = 1024;
/// So much of an object's name is in the name of its Events, whose length is limited too.
const MAX_NAME: usize = 200;

/// What an Event is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct About {
    api_version: &'static str,
    kind: &'static str,
    namespace: Namespace,
    name: String,
}

impl From<&ServiceKey> for About {
    fn from(key: &ServiceKey) -> Self {
        let (namespace, name) = (key.namespace.clone(), key.name.to_string());
        Self { api_version: "v1", kind: "Service", namespace, name }
    }
}
impl From<&IngressKey> for About {
    fn from(key: &IngressKey) -> Self {
        let (namespace, name) = (key.namespace.clone(), key.name.to_string());
        Self { api_version: "networking.k8s.io/v1", kind: "Ingress", namespace, name }
    }
}

/// What one Event says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Subject {
    about: About,
    uid: String,
    fault: Fault,
}

impl Subject {
    fn new(about: impl Into<About>, uid: &str, fault: &Fault) -> Self {
        let fault =
            Fault { reason: cut(&fault.reason, MAX_REASON), message: cut(&fault.message, MAX_MESSAGE) };
        Self { about: about.into(), uid: uid.to_owned(), fault }
    }

    /// The same of the same fault on the same node, so that a restart finds its Event again.
    fn name(&self, node: &NodeName) -> String {
        let parts = [node.as_str(), &self.uid, &self.fault.reason, &self.fault.message];
        let digest = ring::digest::digest(&ring::digest::SHA256, parts.join("\0").as_bytes());
        let start = cut(&self.about.name, MAX_NAME);
        let mut name = format!("{}.", start.trim_end_matches(['.', '-']));
        for byte in digest.as_ref().iter().take(8) {
            let _ = write!(name, "{byte:02x}"); // Writing to a String cannot fail.
        }
        name
    }

    fn body(&self, node: &NodeName, now: &str) -> Value {
        let About { api_version, kind, namespace, name } = &self.about;
        json!({"apiVersion": "v1", "kind": "Event", "type": "Warning",
            "metadata": {"name": self.name(node), "namespace": namespace.as_str()},
            "involvedObject": {"apiVersion": api_version, "kind": kind, "name": name,
                "namespace": namespace.as_str(), "uid": self.uid},
            "reason": self.fault.reason, "message": self.fault.message,
            "source": {"component": "warren", "host": node.as_str()},
            "reportingComponent": "warren", "reportingInstance": node.as_str(),
            "firstTimestamp": now, "lastTimestamp": now, "count": 1})
    }
}

/// The longest beginning of `text` of at most `most` bytes.
fn cut(text: &str, most: usize) -> String {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default().to_owned()
}

/// What is known of the Event of one fault.
#[derive(Debug)]
struct Told {
    /// Whether the fault is still there.
    stays: bool,
    /// Its count as last written; 0: nothing was written in this run.
    count: u64,
    due: Instant,
    backoff: Backoff,
}

/// The faults that have Events, or are to have them.
#[derive(Debug, Default)]
pub(crate) struct Memory(BTreeMap<Subject, Told>);

impl Memory {
    /// Takes the faults that there are now; returns whose Events are due, with their counts.
    fn take(&mut self, faults: impl IntoIterator<Item = Subject>, now: Instant) -> Vec<(Subject, u64)> {
        for told in self.0.values_mut() {
            told.stays = false;
        }
        for subject in faults {
            if let Some(told) = self.0.get_mut(&subject) {
                told.stays = true;
            } else if self.0.len() < MAX_FAULTS {
                let backoff = Backoff::new(Duration::from_secs(1), RENEW);
                self.0.insert(subject, Told { stays: true, count: 0, due: now, backoff });
            }
        }
        // One that comes and goes is not told each time.
        self.0.retain(|_, told| told.stays || (told.count > 0 && told.due > now));
        let due = self.0.iter().filter(|(_, told)| told.stays && told.due <= now);
        due.map(|(subject, told)| (subject.clone(), told.count)).collect()
    }

    /// Notes that an Event was written, with its count, or was not.
    fn told(&mut self, subject: &Subject, count: Option<u64>, now: Instant) {
        let Some(told) = self.0.get_mut(subject) else { return };
        match count {
            Some(count) => {
                told.count = count;
                told.due = now + RENEW;
                told.backoff.reset();
            }
            None => told.due = now + told.backoff.next_wait(),
        }
    }

    /// When to look again at the latest.
    fn next(&self, now: Instant) -> Duration {
        let next = self.0.values().map(|t| t.due).min();
        next.map_or(LOOK, |t| t.saturating_duration_since(now).clamp(MIN_GAP, LOOK))
    }
}

/// Where the faults of one kind of object are.
pub(crate) trait Faults: Send + Sync + 'static {
    /// All there are now, of tables that have been loaded.
    fn now(&self) -> Vec<Subject>;
    /// What the door refused of objects of this kind.
    fn refused(&self) -> Vec<Subject>;
    /// Waits for a change of the tables; false when there will be none.
    fn changed(&mut self) -> impl Future<Output = bool> + Send;
}

/// Brings faults to the API.
pub(crate) struct Publisher<F> {
    client: kube::Client,
    node: NodeName,
    nodes: Table<Node>,
    faults: F,
    listed: watch::Receiver<bool>,
}

impl<F: Faults> Publisher<F> {
    /// `listed`: see [`settled`].
    pub(crate) fn new(
        client: kube::Client,
        node: NodeName,
        store: &Store,
        faults: F,
        listed: watch::Receiver<bool>,
    ) -> Self {
        Self { client, node, nodes: store.table(), faults, listed }
    }

    /// Publishes until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), SourceError> {
        if !settled(&mut self.listed, &stop).await {
            return Ok(());
        }
        let mut memory = Memory::default();
        loop {
            let mut faults = self.faults.now();
            if self.speaks() {
                faults.extend(self.faults.refused());
            }
            let due = memory.take(faults, Instant::now());
            let this = &self;
            let results: Vec<_> = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                r = futures::stream::iter(due)
                    .map(|(subject, count)| async move {
                        let result = this.tell(&subject, count).await;
                        (subject, result)
                    })
                    .buffer_unordered(CONCURRENCY)
                    .collect() => r,
            };
            for (subject, result) in results {
                if let Err(error) = &result {
                    tracing::debug!(about = ?subject.about, error = %chain(error), "no Event of a fault");
                }
                memory.told(&subject, result.ok(), Instant::now());
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                more = self.faults.changed() => if !more { return Err(StoreError::Closed.into()) },
                () = tokio::time::sleep(memory.next(Instant::now())) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(MIN_GAP) => {}
            }
        }
    }

    /// Whether this node is the one that tells what all nodes see: the first that is ready, by name.
    fn speaks(&self) -> bool {
        self.nodes.snapshot().rows.values().find(|n| n.ready).is_some_and(|n| n.name == self.node)
    }

    /// Makes or renews an Event; returns its count.
    async fn tell(&self, subject: &Subject, count: u64) -> Result<u64, kube::Error> {
        let api: Api<Object> = Api::namespaced_with(
            self.client.clone(),
            subject.about.namespace.as_str(),
            &resource::<k8s_openapi::api::core::v1::Event>(),
        );
        let (name, now) = (subject.name(&self.node), crate::node::now());
        let renew = async |patch: Value| {
            let renewed = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            Ok(renewed.data.get("count").and_then(Value::as_u64).unwrap_or(1).max(1))
        };
        if count > 0 {
            match renew(json!({"count": count.saturating_add(1), "lastTimestamp": now})).await {
                // The API forgets Events after a while.
                Err(e) if status_code(&e) == Some(404) => {}
                other => return other,
            }
        }
        let object: Object =
            serde_json::from_value(subject.body(&self.node, &now)).map_err(kube::Error::SerdeError)?;
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => Ok(1),
            // Of an earlier run of this agent; the answer tells its count.
            Err(e) if status_code(&e) == Some(409) => renew(json!({"lastTimestamp": now})).await,
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests;
