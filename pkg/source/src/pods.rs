//! Pods of a node that has no kubelet: what the runtime attached, shown as Pod objects.
//!
//! Desired: the attachments in phase Live that name a pod. Observed: the API's Pods of this node. Level-triggered: the
//! difference is computed anew from both whenever one changes. Only Pods with our annotation are ever deleted.

use crate::follow::Observer;
use crate::work::{MIN_GAP, Work};
use crate::{Object, SourceConfig, SourceError, SourceStatus, convert, resource, status_code};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use warren_store::{StoreError, Table};
use warren_types::{Attachment, AttachmentPhase, NamedPort, NodeName, PodKey};

/// Marks a Pod as made from an attachment; its value is the container id.
pub const ANNOTATION_CONTAINER_ID: &str = "warren.dev/container-id";

/// A Pod as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DesiredPod {
    labels: BTreeMap<String, String>,
    ips: Vec<IpAddr>,
    container_id: String,
    named_ports: Vec<NamedPort>,
}

/// A Pod of this node as the API shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ObservedPod {
    uid: String,
    labels: BTreeMap<String, String>,
    ips: Vec<IpAddr>,
    container_id: Option<String>,
    running: bool,
    named_ports: Vec<NamedPort>,
    /// Whether it is being deleted.
    ending: bool,
}

/// What to do about one Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// There is none: create it, then write its status.
    Create(DesiredPod),
    /// Labels or annotation, or the status, differ.
    Update { want: DesiredPod, metadata: bool, status: bool },
    /// It is ours and has no attachment, or other ports, which no living Pod can change: then it is created anew.
    Delete { uid: String },
}

/// The Pods that the attachments call for. Of two live sandboxes of one pod the one that sorts last counts.
pub(crate) fn desired<'a>(
    attachments: impl IntoIterator<Item = &'a Attachment>,
) -> BTreeMap<PodKey, DesiredPod> {
    let mut out: BTreeMap<PodKey, DesiredPod> = BTreeMap::new();
    for a in attachments {
        let (Some(pod), AttachmentPhase::Live) = (&a.pod, a.phase) else { continue };
        let id = a.key.container_id.to_string();
        let new = || DesiredPod {
            labels: a.labels.clone(),
            ips: Vec::new(),
            container_id: id.clone(),
            named_ports: a.named_ports.clone(),
        };
        let entry = out.entry(pod.clone()).or_insert_with(new);
        if entry.container_id < id {
            *entry = DesiredPod { ips: a.addresses.clone(), ..new() };
        } else if entry.container_id == id {
            entry
                .ips
                .extend(a.addresses.iter().filter(|ip| !entry.ips.contains(ip)).copied().collect::<Vec<_>>());
        }
    }
    for pod in out.values_mut() {
        pod.ips.sort_by_key(|ip| ip.is_ipv6());
    }
    out
}

/// What to do so that the API shows `desired`.
pub(crate) fn plan(
    desired: &BTreeMap<PodKey, DesiredPod>,
    observed: &BTreeMap<PodKey, ObservedPod>,
) -> BTreeMap<PodKey, Action> {
    let mut out = BTreeMap::new();
    for (key, want) in desired {
        match observed.get(key) {
            None => drop(out.insert(key.clone(), Action::Create(want.clone()))),
            // Where the runtime named no ports, a Pod that somebody wrote beforehand may have its own.
            Some(have)
                if have.container_id.is_some()
                    && !want.named_ports.is_empty()
                    && have.named_ports != want.named_ports =>
            {
                out.insert(key.clone(), Action::Delete { uid: have.uid.clone() });
            }
            Some(have) => {
                let labelled = want.labels.iter().all(|(k, v)| have.labels.get(k) == Some(v));
                let metadata = !labelled || have.container_id.as_ref() != Some(&want.container_id);
                let status = have.ips != want.ips || !have.running;
                if metadata || status {
                    out.insert(key.clone(), Action::Update { want: want.clone(), metadata, status });
                }
            }
        }
    }
    for (key, have) in observed {
        // One that is being deleted waits for the word of its node that nothing of it is here.
        if !desired.contains_key(key) && (have.container_id.is_some() || have.ending) {
            out.insert(key.clone(), Action::Delete { uid: have.uid.clone() });
        }
    }
    out
}

/// The API's Pods of this node, shared between the watch and the publisher.
pub(crate) struct OwnPods {
    node: String,
    state: Mutex<(bool, BTreeMap<PodKey, ObservedPod>)>,
    changed: Notify,
}

impl OwnPods {
    pub(crate) fn new(node: &NodeName) -> Self {
        Self { node: node.to_string(), state: Mutex::default(), changed: Notify::new() }
    }
    fn lock(&self) -> MutexGuard<'_, (bool, BTreeMap<PodKey, ObservedPod>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// The Pods; none before the first complete list.
    fn get(&self) -> Option<BTreeMap<PodKey, ObservedPod>> {
        let state = self.lock();
        state.0.then(|| state.1.clone())
    }
}

/// Feeds [`OwnPods`].
pub(crate) struct PodObserver {
    own: Arc<OwnPods>,
    listing: Option<BTreeMap<PodKey, ObservedPod>>,
}

impl PodObserver {
    pub(crate) fn new(own: Arc<OwnPods>) -> Self {
        Self { own, listing: None }
    }
    fn put(&mut self, key: PodKey, pod: Option<ObservedPod>) {
        if let Some(listing) = &mut self.listing {
            listing.extend(pod.map(|p| (key, p)));
            return;
        }
        let mut state = self.own.lock();
        let changed = match pod {
            Some(pod) => state.1.get(&key) != Some(&pod) && state.1.insert(key, pod).is_none_or(|_| true),
            None => state.1.remove(&key).is_some(),
        };
        drop(state);
        if changed {
            self.own.changed.notify_one();
        }
    }
}

fn observe(object: &Object, node: &str) -> Option<(PodKey, Option<ObservedPod>)> {
    let row = convert::pod(&object.metadata, &object.data).row?;
    let annotation =
        object.metadata.annotations.as_ref().and_then(|a| a.get(ANNOTATION_CONTAINER_ID)).cloned();
    // A server that did not hear this node for a while has marked its pods as not ready.
    let unready = |c: &Value| c["type"] == "Ready" && c["status"] != "True";
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
    let running = object.data.pointer("/status/phase").is_some_and(|p| p == "Running")
        && !conditions.into_iter().flatten().any(unready);
    let own = row.node.as_ref().is_some_and(|n| n.as_str() == node);
    let pod = own.then(|| ObservedPod {
        uid: row.uid,
        labels: convert::labels(&object.metadata),
        ips: row.ips,
        named_ports: row.named_ports,
        container_id: annotation,
        running,
        ending: object.metadata.deletion_timestamp.is_some(),
    });
    Some((row.key, pod))
}

impl Observer for PodObserver {
    fn seen(&mut self, object: &Object) {
        if let Some((key, pod)) = observe(object, &self.own.node) {
            self.put(key, pod);
        }
    }
    fn gone(&mut self, object: &Object) {
        if let Some((key, _)) = observe(object, "") {
            self.put(key, None);
        }
    }
    fn begin(&mut self) {
        self.listing = Some(BTreeMap::new());
    }
    fn listed(&mut self) {
        if let Some(pods) = self.listing.take() {
            *self.own.lock() = (true, pods);
            self.own.changed.notify_one();
        }
    }
}

/// Brings the attachments to Pod objects.
pub(crate) struct Publisher {
    client: kube::Client,
    node: NodeName,
    table: Table<Attachment>,
    own: Arc<OwnPods>,
    status: SourceStatus,
}

impl Publisher {
    pub(crate) fn new(
        config: &SourceConfig,
        client: kube::Client,
        table: Table<Attachment>,
        own: Arc<OwnPods>,
        status: SourceStatus,
    ) -> Self {
        Self { client, node: config.node_name.clone(), table, own, status }
    }

    /// Publishes until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), SourceError> {
        let mut attachments = self.table.watch();
        let mut work = Work::new("Pod", self.status.clone());
        // Nothing is deleted before the journal has been read.
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            first = attachments.loaded() => drop(first.ok_or(StoreError::Closed)?),
        };
        loop {
            let due = match self.own.get() {
                None => Duration::from_secs(60),
                Some(observed) => {
                    let rows = self.table.snapshot().rows;
                    let todo = plan(&desired(rows.values().map(AsRef::as_ref)), &observed);
                    work.once(todo, &stop, |key, action| self.act(key, action)).await
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.own.changed.notified() => {}
                update = attachments.next() => drop(update.ok_or(StoreError::Closed)?),
                () = tokio::time::sleep(due) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(MIN_GAP) => {}
            }
        }
    }

    async fn act(&self, key: PodKey, action: Action) -> Result<(), kube::Error> {
        let api: Api<Object> = Api::namespaced_with(
            self.client.clone(),
            key.namespace.as_str(),
            &resource::<k8s_openapi::api::core::v1::Pod>(),
        );
        let name = key.name.as_str();
        match &action {
            Action::Create(want) => {
                let ports: Vec<Value> = want
                    .named_ports
                    .iter()
                    .map(|p| {
                        json!({"name": p.name, "containerPort": p.port, "protocol": p.protocol.to_string()})
                    })
                    .collect();
                let container = json!({"name": "main", "image": "unknown", "ports": ports});
                let body = json!({"apiVersion": "v1", "kind": "Pod",
                    "metadata": {"name": name, "namespace": key.namespace.as_str(), "labels": want.labels,
                                 "annotations": {ANNOTATION_CONTAINER_ID: want.container_id}},
                    "spec": {"nodeName": self.node.as_str(), "containers": [container]}});
                let object: Object = serde_json::from_value(body).map_err(kube::Error::SerdeError)?;
                api.create(&PostParams::default(), &object).await?;
                tracing::debug!(pod = %key, "created");
                self.write_status(&api, name, want).await
            }
            Action::Update { want, metadata, status } => {
                if *metadata {
                    let patch = json!({"metadata": {"labels": want.labels,
                        "annotations": {ANNOTATION_CONTAINER_ID: want.container_id}}});
                    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
                }
                if *status {
                    self.write_status(&api, name, want).await?;
                }
                Ok(())
            }
            Action::Delete { uid } => {
                let precondition = Preconditions { uid: Some(uid.clone()), resource_version: None };
                let params = DeleteParams {
                    preconditions: Some(precondition),
                    grace_period_seconds: Some(0),
                    ..DeleteParams::default()
                };
                match api.delete(name, &params).await {
                    Ok(_) => Ok(()),
                    Err(e) if matches!(status_code(&e), Some(404 | 409)) => Ok(()),
                    Err(e) => Err(e),
                }
            }
        }
    }

    async fn write_status(
        &self,
        api: &Api<Object>,
        name: &str,
        want: &DesiredPod,
    ) -> Result<(), kube::Error> {
        let ips: Vec<_> = want.ips.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
        let now = crate::node::now();
        let started = json!({"name": "main", "image": "unknown", "imageID": "", "ready": true, "started": true,
            "restartCount": 0, "containerID": format!("cni://{}", want.container_id),
            "state": {"running": {"startedAt": now}}});
        let patch = json!({"status": {"phase": "Running", "podIP": want.ips.first().map(ToString::to_string),
            "podIPs": ips, "startTime": now, "containerStatuses": [started],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}]}});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    }
}

#[cfg(test)]
mod tests;
