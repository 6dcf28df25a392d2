//! Certificates of Warren's own authority: for hosts that have none of their own, and for Ingresses that ask for them.
//!
//! What is to be written is planned by `warren-ca`; here it is read and written.

use jiff::Timestamp;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use warren_ca::{Authority, Found, Plan, Told, Wish, Write};
use warren_types::ingress::{
    ANNOTATION_CERTIFICATE, ANNOTATION_ISSUED, AUTHORITY_CONFIG_MAP, DEFAULT_CERTIFICATE,
};

use super::api::{Api, Part, gone_is_well};
use super::defaults::made;
use super::queue::Key;
use super::runner::Controller;
use crate::error::{ApiError, ApiResult};
use crate::ingress::{annotation, is_served};
use crate::registry::{CONFIG_MAP, EVENT, INGRESS, INGRESS_CLASS, KindId, NODE};
use crate::storage::{Event, Object, object_key};
use crate::table::text;

/// The key of its ConfigMap's certificate.
const CA_KEY: &str = "ca.crt";
/// So long an Event of something that stays is left as it is.
const TOLD: i64 = 3000;

/// Keeps them, and the authority's certificate where everybody can read it.
pub(crate) struct Certificates<C> {
    api: Api,
    secret: KindId,
    authority: Arc<Authority>,
    clock: C,
}

fn whole_namespace(namespace: &str) -> Key {
    (INGRESS, namespace.to_owned())
}

fn of_nodes() -> Key {
    (NODE, String::new())
}

fn of_root() -> Key {
    (CONFIG_MAP, String::new())
}

impl<C: Fn() -> Timestamp + Send + Sync + 'static> Certificates<C> {
    pub(crate) fn new(api: Api, secret: KindId, authority: Arc<Authority>, clock: C) -> Self {
        Self { api, secret, authority, clock }
    }

    /// The namespaces where there is something of ours.
    fn namespaces(&self) -> Vec<Key> {
        let of = |kind, annotated: &'static str| {
            let all = self.api.cache().list(kind).0;
            let keys = all.values().filter(move |o| annotation(&o.value, annotated).is_some());
            keys.map(|o| whole_namespace(&o.namespace)).collect::<Vec<_>>()
        };
        let mut keys = of(INGRESS, ANNOTATION_CERTIFICATE);
        keys.extend(of(self.secret, ANNOTATION_ISSUED));
        keys
    }

    async fn keep_root(&self) -> ApiResult<Option<Duration>> {
        let (namespace, name) = AUTHORITY_CONFIG_MAP;
        let pem = &self.authority.root().pem;
        let Some(found) = self.api.cache().get(CONFIG_MAP, &object_key(namespace, name)) else {
            let about =
                "The certificate of Warren's authority for ingress: who trusts it can verify what it issued.";
            let metadata = json!({"name": name, "annotations": {"kubernetes.io/description": about}});
            let body = json!({"metadata": metadata, "data": {CA_KEY: pem}});
            made(self.api.create(CONFIG_MAP, namespace, body).await)?;
            return Ok(None);
        };
        if found.value["data"][CA_KEY] != pem.as_str() {
            let changed = self.api.change(&found, Part::Main, |o| o["data"] = json!({CA_KEY: pem}));
            gone_is_well(changed.await)?;
        }
        Ok(None)
    }

    async fn keep_default(&self) -> ApiResult<Option<Duration>> {
        let (namespace, name) = DEFAULT_CERTIFICATE;
        let found = self.api.cache().get(self.secret, &object_key(namespace, name));
        let found = found.map(|secret| Found::read(&secret.value));
        let nodes = self.api.cache().list(NODE).0;
        let names = nodes.values().map(|node| warren_ca::node_names(&node.value));
        let plan = warren_ca::of_default(names, found.as_ref(), self.authority.root(), (self.clock)());
        self.carry_out(namespace, plan).await
    }

    async fn keep_namespace(&self, namespace: &str) -> ApiResult<Option<Duration>> {
        let cache = self.api.cache();
        let ingresses = cache.list_in(INGRESS, namespace);
        let wish =
            |ingress: &Arc<Object>| Wish::read(&ingress.value).filter(|_| is_served(cache, &ingress.value));
        let wishes: Vec<Wish> = ingresses.iter().filter_map(wish).collect();
        let concerns = |secret: &Object| {
            annotation(&secret.value, ANNOTATION_ISSUED).is_some()
                || wishes.iter().flat_map(Wish::secrets).any(|name| name == secret.name)
        };
        let secrets: BTreeMap<String, Found> = cache
            .list_in(self.secret, namespace)
            .iter()
            .filter(|secret| concerns(secret))
            .map(|secret| (secret.name.clone(), Found::read(&secret.value)))
            .collect();
        let now = (self.clock)();
        let plan = warren_ca::of_namespace(namespace, &wishes, &secrets, self.authority.root(), now);
        self.carry_out(namespace, plan).await
    }

    /// Does all that can be done; tells the first failure.
    async fn carry_out(&self, namespace: &str, plan: Plan) -> ApiResult<Option<Duration>> {
        let mut result = Ok(plan.look);
        for write in plan.writes {
            if let Err(error) = self.write(namespace, write).await {
                result = result.and(Err(error));
            }
        }
        for told in plan.told {
            if let Err(error) = self.tell(&told).await {
                result = result.and(Err(error));
            }
        }
        result
    }

    async fn write(&self, namespace: &str, write: Write) -> ApiResult<()> {
        let found = |name: &str| self.api.cache().get(self.secret, &object_key(namespace, name));
        match write {
            Write::Issue { secret, names, owners } => {
                let (root, now) = (self.authority.root(), (self.clock)());
                let leaf = self.authority.issue(&names, now).map_err(ApiError::internal)?;
                match found(&secret) {
                    None => {
                        let body = warren_ca::body(&secret, &leaf, root, &owners);
                        made(self.api.create(self.secret, namespace, body).await)?;
                    }
                    Some(there) => {
                        self.replace(&there, |o| warren_ca::set(o, Some((&leaf, root)), &owners)).await?;
                    }
                }
                tracing::info!(secret, namespace, names = names.len(), "a certificate was issued");
                Ok(())
            }
            Write::Own { secret, owners } => match found(&secret) {
                None => Ok(()),
                Some(there) => self.replace(&there, |o| warren_ca::set(o, None, &owners)).await,
            },
            Write::Delete { secret } => match found(&secret) {
                None => Ok(()),
                Some(there) => self.api.delete(&there).await,
            },
        }
    }

    /// Changes a Secret, if it still is what was looked at: what somebody puts there meanwhile is theirs.
    async fn replace(&self, there: &Object, change: impl Fn(&mut serde_json::Value)) -> ApiResult<()> {
        let mut new = there.value.clone();
        change(&mut new);
        self.api.replace(there, new).await.map(drop)
    }

    async fn tell(&self, told: &Told) -> ApiResult<()> {
        let now = (self.clock)();
        let Some(event) = self.api.cache().get(EVENT, &object_key(&told.namespace, &told.name())) else {
            return made(self.api.create(EVENT, &told.namespace, told.body(now)).await);
        };
        let last: Option<Timestamp> = text(&event.value, "/lastTimestamp").parse().ok();
        if last.is_some_and(|last| (0..TOLD).contains(&now.duration_since(last).as_secs())) {
            return Ok(());
        }
        gone_is_well(self.api.change(&event, Part::Main, |o| Told::renew(o, now)).await)
    }
}

impl<C: Fn() -> Timestamp + Send + Sync + 'static> Controller for Certificates<C> {
    fn name(&self) -> &'static str {
        "certificates"
    }
    fn kinds(&self) -> Vec<KindId> {
        vec![INGRESS, INGRESS_CLASS, self.secret, NODE, CONFIG_MAP]
    }
    fn all(&self) -> Vec<Key> {
        let mut keys = self.namespaces();
        keys.extend([of_nodes(), of_root()]);
        keys
    }
    fn concerned(&self, event: &Event) -> Vec<Key> {
        let o = &event.object;
        let was = event.previous.as_ref().map(|previous| &previous.value);
        match o.kind {
            INGRESS => {
                let asks = |o| annotation(o, ANNOTATION_CERTIFICATE).is_some();
                if asks(&o.value) || was.is_some_and(asks) {
                    vec![whole_namespace(&o.namespace)]
                } else {
                    vec![]
                }
            }
            INGRESS_CLASS => self.namespaces(),
            // Nodes write themselves often, and mostly something else.
            NODE => {
                let same = |was| warren_ca::node_names(was) == warren_ca::node_names(&o.value);
                if !event.deleted && was.is_some_and(same) { vec![] } else { vec![of_nodes()] }
            }
            CONFIG_MAP if (o.namespace.as_str(), o.name.as_str()) == AUTHORITY_CONFIG_MAP => vec![of_root()],
            kind if kind == self.secret => {
                let default = (o.namespace.as_str(), o.name.as_str()) == DEFAULT_CERTIFICATE;
                let mut keys = vec![whole_namespace(&o.namespace)];
                keys.extend(default.then(of_nodes));
                keys
            }
            _ => vec![],
        }
    }

    async fn reconcile(&self, (kind, name): &Key) -> ApiResult<Option<Duration>> {
        match *kind {
            CONFIG_MAP => self.keep_root().await,
            NODE => self.keep_default().await,
            _ => self.keep_namespace(name).await,
        }
    }
}

#[cfg(test)]
mod tests;
