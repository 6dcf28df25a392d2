//! EndpointSlices of Services with selectors, as Kubernetes' own controller writes them, and the Endpoints beside them.

mod compile;
mod index;
mod legacy;
pub(crate) mod slices;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::ServiceKinds;
use super::api::Api;
use super::queue::Key;
use super::runner::Controller;
use crate::error::{ApiError, ApiResult};
use crate::registry::{KindId, NODE, POD};
use crate::storage::{Cache, Event, Object, object_key};
use crate::table::text;
use index::Index;
use slices::{Changes, MANAGED_BY_LABEL, SERVICE_LABEL};

pub(crate) use compile::{labels_of, selects};

/// Annotation of objects that are locks, not endpoints.
pub(crate) const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// Writes the endpoints of Services.
pub(crate) struct EndpointSlices {
    api: Api,
    kinds: ServiceKinds,
    /// Follows the events, so it is as old as these; the state decides.
    index: Mutex<Index>,
}

pub(crate) fn label<'a>(o: &'a Value, key: &str) -> &'a str {
    o.pointer("/metadata/labels").and_then(|l| l.get(key)).and_then(Value::as_str).unwrap_or_default()
}

/// The slices of a Service that `manager` writes. Their names begin with the Service's.
pub(crate) fn slices_of(
    cache: &Cache,
    kind: KindId,
    service: (&str, &str),
    manager: &str,
) -> Vec<Arc<Object>> {
    let prefix = format!("{}-", object_key(service.0, service.1));
    let mut slices = cache.list_from(kind, &prefix);
    slices.retain(|o| {
        label(&o.value, SERVICE_LABEL) == service.1
            && label(&o.value, MANAGED_BY_LABEL) == manager
            && text(&o.value, "/metadata/deletionTimestamp").is_empty()
    });
    slices
}

/// Writes what a plan of slices asks for.
pub(crate) async fn write(api: &Api, kind: KindId, namespace: &str, changes: Changes) -> ApiResult<()> {
    // New ones first: an endpoint that moves is never missing.
    for new in changes.create {
        match api.create(kind, namespace, new).await {
            // The namespace ends.
            Err(ApiError { reason: "Forbidden", .. }) => return Ok(()),
            other => drop(other?),
        }
    }
    for (old, new) in changes.update {
        api.replace(&old, new).await?;
    }
    for old in changes.delete {
        api.delete(&old).await?;
    }
    Ok(())
}

impl EndpointSlices {
    pub(crate) fn new(api: Api, kinds: ServiceKinds) -> Self {
        Self { api, kinds, index: Mutex::default() }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, namespace: &str, name: &str) -> Key {
        (self.kinds.service, object_key(namespace, name))
    }

    /// The Services that select one of these states of a pod.
    fn selecting(&self, namespace: &str, states: &[&Value]) -> Vec<Key> {
        let index = self.index();
        let candidates: BTreeSet<String> =
            states.iter().flat_map(|pod| index.services_of(namespace, pod)).collect();
        drop(index);
        let services = candidates.iter().filter_map(|key| self.api.cache().get(self.kinds.service, key));
        services
            .filter(|s| selects(&s.value) && states.iter().any(|p| compile::matches(&s.value, p)))
            .map(|s| self.key(namespace, &s.name))
            .collect()
    }

    fn on_node(&self, node: &str) -> Vec<Key> {
        let keys = self.index().pods_on(node);
        let on = keys.iter().filter_map(|key| self.api.cache().get(POD, key));
        let mut keys: Vec<Key> = on.flat_map(|p| self.selecting(&p.namespace, &[&p.value])).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    async fn write_endpoints(&self, service: &Object, pods: &[Arc<Object>]) -> ApiResult<()> {
        let wanted = legacy::wanted(&service.value, pods);
        let kind = self.kinds.endpoints;
        let Some(found) = self.api.cache().get(kind, &service.key()) else {
            let mut body = json!({"metadata": {"name": service.name}});
            wanted.put(&mut body);
            return match self.api.create(kind, &service.namespace, body).await {
                Err(ApiError { reason: "Forbidden", .. }) => Ok(()),
                other => other.map(drop),
            };
        };
        if wanted.is(&found.value) || !text(&found.value, "/metadata/deletionTimestamp").is_empty() {
            return Ok(());
        }
        let mut new = found.value.clone();
        wanted.put(&mut new);
        self.api.replace(&found, new).await.map(drop)
    }

    /// The Service is gone: its slices go with their owner, its Endpoints have none.
    async fn forget_endpoints(&self, key: &str) -> ApiResult<()> {
        match self.api.cache().get(self.kinds.endpoints, key) {
            Some(found)
                if found.value["metadata"].get("annotations").is_none_or(|a| a.get(LEADER).is_none()) =>
            {
                self.api.delete(&found).await
            }
            _ => Ok(()),
        }
    }
}

impl Controller for EndpointSlices {
    fn name(&self) -> &'static str {
        "endpoint-slices"
    }
    fn kinds(&self) -> Vec<KindId> {
        vec![self.kinds.service, POD, NODE, self.kinds.slice, self.kinds.endpoints]
    }
    fn forget(&self) {
        *self.index() = Index::default();
    }
    fn learn(&self, object: &Object) {
        if object.kind == POD || object.kind == self.kinds.service {
            self.index().add(object);
        }
    }
    fn all(&self) -> Vec<Key> {
        let services = self.api.cache().list(self.kinds.service).0;
        let endpoints = self.api.cache().list(self.kinds.endpoints).0;
        let ours =
            endpoints.values().filter(|e| label(&e.value, legacy::MANAGED_BY_LABEL) == legacy::MANAGER);
        services.values().chain(ours).map(|o| self.key(&o.namespace, &o.name)).collect()
    }
    fn concerned(&self, event: &Event) -> Vec<Key> {
        let o = &event.object;
        let mut states: Vec<&Value> = vec![&o.value];
        states.extend(event.previous.as_ref().map(|p| &p.value));
        if o.kind == POD || o.kind == self.kinds.service {
            let mut index = self.index();
            if let Some(previous) = &event.previous {
                index.forget(previous);
            }
            if !event.deleted {
                index.add(o);
            }
        }
        if o.kind == self.kinds.service {
            return vec![self.key(&o.namespace, &o.name)];
        }
        if o.kind == POD {
            return self.selecting(&o.namespace, &states);
        }
        if o.kind == NODE {
            let zones =
                event.previous.as_ref().map(|p| compile::zone(&p.value)) == Some(compile::zone(&o.value));
            return if zones && !event.deleted { Vec::new() } else { self.on_node(&o.name) };
        }
        if o.kind == self.kinds.slice {
            let ours = states.iter().filter(|s| label(s, MANAGED_BY_LABEL) == compile::MANAGER);
            return ours.map(|s| self.key(&o.namespace, label(s, SERVICE_LABEL))).collect();
        }
        let ours = states.iter().any(|s| label(s, legacy::MANAGED_BY_LABEL) == legacy::MANAGER);
        if ours { vec![self.key(&o.namespace, &o.name)] } else { Vec::new() }
    }

    async fn reconcile(&self, (kind, key): &Key) -> ApiResult<Option<Duration>> {
        let cache = self.api.cache();
        let Some(service) = cache.get(*kind, key) else {
            self.forget_endpoints(key).await?;
            return Ok(None);
        };
        if !selects(&service.value) || !text(&service.value, "/metadata/deletionTimestamp").is_empty() {
            return Ok(None);
        }
        let keys = self.index().pods_of(&service);
        let mut pods: Vec<Arc<Object>> = keys.iter().filter_map(|key| cache.get(POD, key)).collect();
        pods.retain(|p| compile::matches(&service.value, &p.value));
        let wanted = compile::wanted(&service.value, &pods, |n| cache.get(NODE, n));
        let existing =
            slices_of(cache, self.kinds.slice, (&service.namespace, &service.name), compile::MANAGER);
        let changes = slices::plan(&compile::frame(&service.value), &wanted, &existing);
        write(&self.api, self.kinds.slice, &service.namespace, changes).await?;
        self.write_endpoints(&service, &pods).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
