//! Faults of Services, shown as Events, so that `kubectl describe service` tells them.
//!
//! Desired: the faults in tables `service_faults` and `load_balancer_addresses`, and, on one node of the cluster, what the
//! door refused of Services and their slices, since each node refuses the same. One fault is one Event, whose name
//! follows from it: it is made when the fault appears, and renewed now and then while it stays. Best effort: what
//! cannot be written is tried again and never stops anything.

use crate::backoff::Backoff;
use crate::client::chain;
use crate::services::settled;
use crate::work::MIN_GAP;
use crate::{Object, Refusal, SourceError, SourceStatus, resource, status_code};
use futures::StreamExt as _;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use warren_store::{Snapshot, Store, StoreError, Table};
use warren_types::{
    EndpointSlice, Fault, LoadBalancerAddresses, Node, NodeName, Service, ServiceFaults, ServiceKey,
};

/// Writes under way at once.
const CONCURRENCY: usize = 4;
/// At most this many faults are remembered; what is beyond them has no Event until others end.
const MAX_FAULTS: usize = 1000;
/// How often the Event of a fault that stays is renewed.
const RENEW: Duration = Duration::from_secs(300);
/// How often what the door refused is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// The reason of Events of what the door refused.
const REFUSED: &str = "FieldRefused";
/// Longest reason and message that the API takes.
const MAX_REASON: usize = 128;
const MAX_MESSAGE: usize = 1024;

/// What one Event says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Subject {
    service: ServiceKey,
    uid: String,
    fault: Fault,
}

impl Subject {
    fn new(service: &ServiceKey, uid: &str, fault: &Fault) -> Self {
        let fault =
            Fault { reason: cut(&fault.reason, MAX_REASON), message: cut(&fault.message, MAX_MESSAGE) };
        Self { service: service.clone(), uid: uid.to_owned(), fault }
    }

    /// The same of the same fault on the same node, so that a restart finds its Event again.
    fn name(&self, node: &NodeName) -> String {
        let parts = [node.as_str(), &self.uid, &self.fault.reason, &self.fault.message];
        let digest = ring::digest::digest(&ring::digest::SHA256, parts.join("\0").as_bytes());
        let mut name = format!("{}.", self.service.name);
        for byte in digest.as_ref().iter().take(8) {
            let _ = write!(name, "{byte:02x}"); // Writing to a String cannot fail.
        }
        name
    }

    fn body(&self, node: &NodeName, now: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Event", "type": "Warning",
            "metadata": {"name": self.name(node), "namespace": self.service.namespace.as_str()},
            "involvedObject": {"apiVersion": "v1", "kind": "Service", "name": self.service.name.as_str(),
                "namespace": self.service.namespace.as_str(), "uid": self.uid},
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

/// Brings faults to the API.
pub(crate) struct Publisher {
    client: kube::Client,
    node: NodeName,
    proxy: Table<ServiceFaults>,
    balancer: Table<LoadBalancerAddresses>,
    nodes: Table<Node>,
    services: Table<Service>,
    slices: Table<EndpointSlice>,
    listed: watch::Receiver<bool>,
    status: SourceStatus,
}

impl Publisher {
    pub(crate) fn new(
        client: kube::Client,
        node: NodeName,
        store: &Store,
        listed: watch::Receiver<bool>,
        status: SourceStatus,
    ) -> Self {
        let (proxy, balancer) = (store.table(), store.table());
        let (nodes, services, slices) = (store.table(), store.table(), store.table());
        Self { client, node, proxy, balancer, nodes, services, slices, listed, status }
    }

    /// Publishes until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), SourceError> {
        if !settled(&mut self.listed, &stop).await {
            return Ok(());
        }
        let (mut proxy, mut balancer) = (self.proxy.watch(), self.balancer.watch());
        let mut memory = Memory::default();
        let this = &self;
        loop {
            let mut faults = faults(&self.proxy.snapshot(), &self.balancer.snapshot());
            if self.speaks() {
                faults.extend(self.refusals());
            }
            let due = memory.take(faults, Instant::now());
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
                    tracing::debug!(service = %subject.service, error = %chain(error), "no Event of a fault");
                }
                memory.told(&subject, result.ok(), Instant::now());
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                update = proxy.next() => drop(update.ok_or(StoreError::Closed)?),
                update = balancer.next() => drop(update.ok_or(StoreError::Closed)?),
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

    /// What the door refused of Services, and of slices of Services.
    fn refusals(&self) -> Vec<Subject> {
        let fault = |r: Refusal| {
            let (service, of) = match r.kind.as_str() {
                "Service" => (r.object, String::new()),
                "EndpointSlice" => {
                    let slice = self.slices.get(&r.object)?;
                    (slice.service.to_string(), format!("EndpointSlice {}: ", slice.key.name))
                }
                _ => return None,
            };
            let service = self.services.get(&service)?;
            let message = format!("{of}{}: {}; the rest of the object is used", r.field, r.reason);
            Some(Subject::new(&service.key, &service.uid, &Fault { reason: REFUSED.into(), message }))
        };
        self.status.report().refused.into_iter().filter_map(fault).collect()
    }

    /// Makes or renews an Event; returns its count.
    async fn tell(&self, subject: &Subject, count: u64) -> Result<u64, kube::Error> {
        let api: Api<Object> = Api::namespaced_with(
            self.client.clone(),
            subject.service.namespace.as_str(),
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

/// All faults, of tables that have been loaded.
fn faults(proxy: &Snapshot<ServiceFaults>, balancer: &Snapshot<LoadBalancerAddresses>) -> Vec<Subject> {
    let proxy = proxy.loaded.then_some(&proxy.rows).into_iter().flat_map(|rows| rows.values());
    let balancer = balancer.loaded.then_some(&balancer.rows).into_iter().flat_map(|rows| rows.values());
    let of_proxy = proxy.flat_map(|r| r.faults.iter().map(|f| Subject::new(&r.service, &r.uid, f)));
    let of_balancer = balancer.flat_map(|r| r.faults.iter().map(|f| Subject::new(&r.service, &r.uid, f)));
    of_proxy.chain(of_balancer).collect()
}

#[cfg(test)]
mod tests;
