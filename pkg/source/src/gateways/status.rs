//! What is said in the status of objects of the Gateway API.
//!
//! Desired: table `gateway_statuses`, whose rows are there while it is this node's turn to write. Observed: the status of
//! each object, as the watch last showed it. What others say in the same status stays; a write that meets a change of
//! somebody else is refused by the API, and made anew from what the watch then shows.

use super::{Kind, VERSIONS, plural, resource};
use crate::addresses::settled;
use crate::follow::{Observer, identity};
use crate::work::{MIN_GAP, Work};
use crate::{Object, SourceError, SourceStatus, status_code};
use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use warren_store::{Store, StoreError, Table};
use warren_types::gateway::GATEWAY_CONTROLLER;
use warren_types::{
    Condition, GatewayObject, GatewayStatus, GatewayTold, ListenerTold, ParentRef, RouteKind,
};

/// Addresses that the API takes in the status of a Gateway.
const MAX_ADDRESSES: usize = 16;

/// What the watch showed of an object.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    uid: String,
    version: String,
    status: Value,
}

#[derive(Default)]
struct Inner {
    /// By the keys of table `gateway_statuses`.
    seen: BTreeMap<String, Seen>,
    /// The kinds of which a list has completed.
    listed: Vec<Kind>,
}

/// The status of each object, and whether all kinds have been listed.
#[derive(Clone)]
pub(super) struct Shown {
    inner: Arc<Mutex<Inner>>,
    changed: watch::Sender<u64>,
    all_listed: watch::Sender<bool>,
}

impl Default for Shown {
    fn default() -> Self {
        Self { inner: Arc::default(), changed: watch::Sender::new(0), all_listed: watch::Sender::new(false) }
    }
}

impl Shown {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn observer(&self, kind: Kind) -> Watching {
        Watching { kind, shown: self.clone() }
    }
}

/// Sees the objects of one kind.
pub(super) struct Watching {
    kind: Kind,
    shown: Shown,
}

impl Watching {
    fn key(&self, object: &Object) -> Option<String> {
        match self.kind {
            Kind::Told(kind) => Some(format!("{}/{}", kind.as_str(), identity(object))),
            Kind::Grant => None,
        }
    }

    fn tell(&self) {
        self.shown.changed.send_modify(|n| *n += 1);
    }
}

impl Observer for Watching {
    fn seen(&mut self, object: &Object) {
        let Some(key) = self.key(object) else { return };
        let seen = Seen {
            uid: object.metadata.uid.clone().unwrap_or_default(),
            version: object.metadata.resource_version.clone().unwrap_or_default(),
            status: object.data.get("status").cloned().unwrap_or_default(),
        };
        self.shown.lock().seen.insert(key, seen);
        self.tell();
    }

    fn gone(&mut self, object: &Object) {
        let Some(key) = self.key(object) else { return };
        self.shown.lock().seen.remove(&key);
        self.tell();
    }

    fn begin(&mut self) {
        if let Kind::Told(kind) = self.kind {
            let prefix = format!("{}/", kind.as_str());
            self.shown.lock().seen.retain(|key, _| !key.starts_with(&prefix));
        }
    }

    fn listed(&mut self) {
        let mut inner = self.shown.lock();
        if !inner.listed.contains(&self.kind) {
            inner.listed.push(self.kind);
        }
        let all = super::KINDS.iter().all(|kind| inner.listed.contains(kind));
        drop(inner);
        self.shown.all_listed.send_replace(all);
        self.tell();
    }
}

/// A status to be written.
#[derive(Debug, Clone, PartialEq)]
struct Write {
    kind: GatewayObject,
    object: String,
    uid: String,
    version: String,
    status: Value,
}

/// Brings table `gateway_statuses` to the API.
pub(super) struct Publisher {
    client: kube::Client,
    desired: Table<GatewayStatus>,
    shown: Shown,
    status: SourceStatus,
}

impl Publisher {
    pub(super) fn new(client: kube::Client, store: &Store, shown: Shown, status: SourceStatus) -> Self {
        Self { client, desired: store.table(), shown, status }
    }

    /// Publishes until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) -> Result<(), SourceError> {
        let mut desired = self.desired.watch();
        let mut changed = self.shown.changed.subscribe();
        let mut listed = self.shown.all_listed.subscribe();
        if !settled(&mut listed, &stop).await {
            return Ok(());
        }
        let mut work = Work::new("status of", self.status.clone());
        loop {
            changed.mark_unchanged();
            let todo = self.plan(Timestamp::now());
            let due = work.once(todo, &stop, |_, write| self.write(write)).await;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                update = desired.next() => drop(update.ok_or(StoreError::Closed)?),
                // The sender lives as long as this.
                _ = changed.changed() => {}
                () = tokio::time::sleep(due) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(MIN_GAP) => {}
            }
        }
    }

    /// What is to be written so that the API shows what is desired.
    fn plan(&self, now: Timestamp) -> BTreeMap<String, Write> {
        let desired = self.desired.snapshot().rows;
        let inner = self.shown.lock();
        let write = |(key, want): (&String, &Arc<GatewayStatus>)| {
            let seen = inner.seen.get(key).filter(|seen| seen.uid == want.uid)?;
            let status = status(&want.told, &seen.status, now)?;
            let write = Write {
                kind: want.kind,
                object: want.object.clone(),
                uid: want.uid.clone(),
                version: seen.version.clone(),
                status,
            };
            Some((key.clone(), write))
        };
        let mut todo: BTreeMap<String, Write> = desired.iter().filter_map(write).collect();
        if !desired.is_empty() {
            // It is this node's turn: what was said of routes of Gateways that are gone is taken back.
            let left = inner.seen.iter().filter(|(key, _)| !desired.contains_key(key));
            todo.extend(left.filter_map(|(key, seen)| Some((key.clone(), forgotten(key, seen, now)?))));
        }
        todo
    }

    async fn write(&self, write: Write) -> Result<(), kube::Error> {
        let resource = resource(write.kind.as_str(), plural(write.kind), VERSIONS[0]);
        let client = self.client.clone();
        let (api, name): (Api<Object>, &str) = match write.object.split_once('/') {
            Some((namespace, name)) => (Api::namespaced_with(client, namespace, &resource), name),
            None => (Api::all_with(client, &resource), &write.object),
        };
        // The uid keeps it from a namesake, the version from what somebody else wrote meanwhile.
        let body =
            json!({"metadata": {"uid": write.uid, "resourceVersion": write.version}, "status": write.status});
        match api.patch_status(name, &PatchParams::default(), &Patch::Merge(body)).await {
            Ok(_) => {
                tracing::debug!(kind = write.kind.as_str(), object = %write.object, "status written");
                Ok(())
            }
            // It is gone, or changed; the watch says so in a moment.
            Err(e) if matches!(status_code(&e), Some(404 | 409)) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// What takes back all that Warren said of a route, if there is anything.
fn forgotten(key: &str, seen: &Seen, now: Timestamp) -> Option<Write> {
    let (kind, object) = key.split_once('/')?;
    let kind = [RouteKind::Http, RouteKind::Grpc].into_iter().find(|known| known.as_str() == kind)?;
    let status = status(&GatewayTold::Route { parents: Vec::new() }, &seen.status, now)?;
    Some(Write {
        kind: GatewayObject::Route(kind),
        object: object.to_owned(),
        uid: seen.uid.clone(),
        version: seen.version.clone(),
        status,
    })
}

/// The status as a merge patch; none when what is shown says the same already.
fn status(told: &GatewayTold, shown: &Value, now: Timestamp) -> Option<Value> {
    let made = match told {
        GatewayTold::Class { conditions } => json!({"conditions": merged(conditions, shown, now)}),
        GatewayTold::Gateway { addresses, conditions, listeners } => {
            let addresses: Vec<Value> = addresses
                .iter()
                .take(MAX_ADDRESSES)
                .map(|ip| json!({"type": "IPAddress", "value": ip.to_string()}))
                .collect();
            let of =
                |name: &str| shown["listeners"].as_array().into_iter().flatten().find(|l| l["name"] == name);
            let listeners: Vec<Value> = listeners
                .iter()
                .map(|told| listener(told, of(&told.name).unwrap_or(&Value::Null), now))
                .collect();
            json!({"addresses": addresses, "conditions": merged(conditions, shown, now), "listeners": listeners})
        }
        GatewayTold::Route { parents } => {
            let (ours, mut all): (Vec<&Value>, Vec<&Value>) = shown["parents"]
                .as_array()
                .into_iter()
                .flatten()
                .partition(|p| p["controllerName"] == GATEWAY_CONTROLLER);
            let own: Vec<Value> = parents
                .iter()
                .map(|(parent, conditions)| {
                    let reference = reference(parent);
                    let before = ours.iter().find(|p| same_parent(&p["parentRef"], &reference));
                    let conditions = merged(conditions, before.copied().unwrap_or(&Value::Null), now);
                    json!({"parentRef": reference, "controllerName": GATEWAY_CONTROLLER, "conditions": conditions})
                })
                .collect();
            all.extend(&own);
            json!({"parents": all})
        }
    };
    let same = made.as_object().into_iter().flatten().all(|(field, value)| {
        let there = &shown[field];
        there == value || (there.is_null() && value.as_array().is_some_and(Vec::is_empty))
    });
    (!same).then_some(made)
}

fn listener(told: &ListenerTold, shown: &Value, now: Timestamp) -> Value {
    let kinds: Vec<Value> = told
        .kinds
        .iter()
        .map(|kind| json!({"group": warren_types::gateway::GATEWAY_GROUP, "kind": kind.as_str()}))
        .collect();
    json!({
        "name": told.name, "supportedKinds": kinds, "attachedRoutes": told.attached,
        "conditions": merged(&told.conditions, shown, now),
    })
}

/// Conditions; those that hold as before since when they did, and those of others as they are.
fn merged(wanted: &[Condition], shown: &Value, now: Timestamp) -> Vec<Value> {
    let before: Vec<&Value> = shown["conditions"].as_array().into_iter().flatten().collect();
    let others = before.iter().filter(|c| wanted.iter().all(|w| c["type"] != w.kind.as_str()));
    let mut out: Vec<Value> = wanted
        .iter()
        .map(|condition| {
            let word = if condition.holds { "True" } else { "False" };
            let same = before.iter().find(|c| c["type"] == condition.kind.as_str() && c["status"] == word);
            let since = same.map(|c| c["lastTransitionTime"].clone()).filter(Value::is_string);
            json!({
                "type": condition.kind, "status": word, "reason": condition.reason, "message": condition.message,
                "observedGeneration": condition.generation,
                "lastTransitionTime": since.unwrap_or_else(|| now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()),
            })
        })
        .collect();
    out.extend(others.map(|c| (*c).clone()).filter(|c| !OWN.iter().any(|own| c["type"] == *own)));
    out
}

/// Conditions that go when they are not said any more.
const OWN: [&str; 3] = ["Conflicted", "PartiallyInvalid", "OverlappingTLSConfig"];

fn reference(parent: &ParentRef) -> Value {
    let mut out = json!({"group": parent.of.group, "kind": parent.of.kind, "name": parent.name});
    if let Some(namespace) = &parent.namespace {
        out["namespace"] = namespace.as_str().into();
    }
    if let Some(section) = &parent.section {
        out["sectionName"] = section.as_str().into();
    }
    if let Some(port) = parent.port {
        out["port"] = port.into();
    }
    out
}

fn same_parent(a: &Value, b: &Value) -> bool {
    ["group", "kind", "name", "namespace", "sectionName", "port"].iter().all(|field| a[field] == b[field])
}

#[cfg(test)]
mod tests;
