//! Mirrors Endpoints that somebody wrote for a Service without selector into EndpointSlices: readers look at slices only.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

use super::ServiceKinds;
use super::api::Api;
use super::endpoints::slices::{
    self, Frame, Group, MANAGED_BY_LABEL, SERVICE_LABEL, Wanted, address_type, ports_key,
};
use super::endpoints::{LEADER, label, labels_of, selects, slices_of, write};
use super::queue::Key;
use super::runner::Controller;
use crate::error::ApiResult;
use crate::registry::KindId;
use crate::storage::{Event, Object, object_key};
use crate::table::{list, text};

/// Who writes mirrored slices.
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Label that asks to be left alone.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Most addresses of a subset that are mirrored, and most endpoints of a slice.
const MOST: usize = 1000;
/// Annotations that say nothing of a slice.
const PRIVATE: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];

/// Mirrors custom Endpoints.
pub(crate) struct Mirror {
    api: Api,
    kinds: ServiceKinds,
}

/// Whether Endpoints ask to be mirrored.
fn wants_mirror(endpoints: &Value) -> bool {
    label(endpoints, SKIP) != "true"
        && text(endpoints, "/metadata/deletionTimestamp").is_empty()
        && endpoints["metadata"].get("annotations").is_none_or(|a| a.get(LEADER).is_none())
}

fn wanted(endpoints: &Value) -> Wanted {
    let mut groups: BTreeMap<(&'static str, String), Group> = BTreeMap::new();
    for subset in list(endpoints, "/subsets") {
        let ports: Vec<Value> = list(subset, "/ports").iter().map(port).collect();
        let ready = list(subset, "/addresses").iter().map(|a| (a, true));
        let others = list(subset, "/notReadyAddresses").iter().map(|a| (a, false));
        for (address, ready) in ready.chain(others).take(MOST) {
            let Some(kind) = address_type(text(address, "/ip")) else { continue };
            let group = groups.entry((kind, ports_key(&ports))).or_default();
            group.ports.clone_from(&ports);
            group.endpoints.push(endpoint(address, ready));
        }
    }
    let mut wanted: Wanted = [("IPv4", Vec::new()), ("IPv6", Vec::new())].into();
    for ((kind, _), group) in groups {
        wanted.entry(kind).or_default().push(group);
    }
    wanted
}

fn port(port: &Value) -> Value {
    let protocol = Some(text(port, "/protocol")).filter(|p| !p.is_empty()).unwrap_or("TCP");
    let mut out = json!({"name": text(port, "/name"), "port": port["port"], "protocol": protocol});
    if let Some(app) = port.get("appProtocol").filter(|a| a.is_string()) {
        out["appProtocol"] = app.clone();
    }
    out
}

fn endpoint(address: &Value, ready: bool) -> Value {
    let mut out = json!({"addresses": [text(address, "/ip")], "conditions": {"ready": ready}});
    for key in ["targetRef", "nodeName", "hostname"] {
        if let Some(value) = address.get(key).filter(|v| !v.is_null() && **v != Value::String(String::new()))
        {
            out[key] = value.clone();
        }
    }
    out
}

fn frame(endpoints: &Object) -> Frame {
    let mut labels = labels_of(&endpoints.value, &[SERVICE_LABEL, MANAGED_BY_LABEL]);
    labels.insert(SERVICE_LABEL.into(), endpoints.name.clone().into());
    labels.insert(MANAGED_BY_LABEL.into(), MANAGER.into());
    let annotations = endpoints.value.pointer("/metadata/annotations").and_then(Value::as_object);
    let annotations: Map<String, Value> = annotations
        .into_iter()
        .flatten()
        .filter(|(k, _)| !PRIVATE.contains(&k.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let owner = json!({"apiVersion": "v1", "kind": "Endpoints", "name": endpoints.name, "uid": endpoints.uid(),
        "controller": true, "blockOwnerDeletion": true});
    Frame { service: endpoints.name.clone(), labels, annotations, owner, most: MOST, placeholder: false }
}

impl Mirror {
    pub(crate) fn new(api: Api, kinds: ServiceKinds) -> Self {
        Self { api, kinds }
    }
    fn key(&self, namespace: &str, name: &str) -> Key {
        (self.kinds.endpoints, object_key(namespace, name))
    }
}

impl Controller for Mirror {
    fn name(&self) -> &'static str {
        "endpoints-mirror"
    }
    fn kinds(&self) -> Vec<KindId> {
        vec![self.kinds.endpoints, self.kinds.service, self.kinds.slice]
    }
    fn all(&self) -> Vec<Key> {
        let endpoints = self.api.cache().list(self.kinds.endpoints).0;
        endpoints.values().map(|o| self.key(&o.namespace, &o.name)).collect()
    }
    fn concerned(&self, event: &Event) -> Vec<Key> {
        let o = &event.object;
        if o.kind != self.kinds.slice {
            return vec![self.key(&o.namespace, &o.name)];
        }
        let states = [Some(o), event.previous.as_ref()].into_iter().flatten();
        let ours = states.filter(|s| label(&s.value, MANAGED_BY_LABEL) == MANAGER);
        ours.map(|s| self.key(&o.namespace, label(&s.value, SERVICE_LABEL))).collect()
    }

    async fn reconcile(&self, (kind, key): &Key) -> ApiResult<Option<Duration>> {
        let cache = self.api.cache();
        // Without Endpoints the slices go with their owner.
        let Some(endpoints) = cache.get(*kind, key) else { return Ok(None) };
        let service = cache.get(self.kinds.service, key);
        let mirrored = service.is_some_and(|s| !has_selector(&s.value)) && wants_mirror(&endpoints.value);
        let wanted = if mirrored { wanted(&endpoints.value) } else { Wanted::new() };
        let existing = slices_of(cache, self.kinds.slice, (&endpoints.namespace, &endpoints.name), MANAGER);
        let changes = slices::plan(&frame(&endpoints), &wanted, &existing);
        write(&self.api, self.kinds.slice, &endpoints.namespace, changes).await?;
        Ok(None)
    }
}

fn has_selector(service: &Value) -> bool {
    selects(service)
        || service.pointer("/spec/selector").and_then(Value::as_object).is_some_and(|s| !s.is_empty())
}
