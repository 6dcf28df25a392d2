//! What every namespace has: the certificate of the API's authority, and the ServiceAccount `default`.

use serde_json::{Value, json};
use std::time::Duration;

use super::api::{Api, Part};
use super::queue::Key;
use super::runner::Controller;
use super::service_account_kind;
use crate::error::{ApiError, ApiResult};
use crate::registry::{CONFIG_MAP, KindId, NAMESPACE};
use crate::storage::{Event, object_key};
use crate::table::text;

/// The ConfigMap with the authority's certificate.
const ROOT_CA: &str = "kube-root-ca.crt";
/// Its key.
const CA_KEY: &str = "ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the API server of this cluster.";
/// The ServiceAccount of pods that name none.
const ACCOUNT: &str = "default";

/// Keeps them in every namespace.
pub(crate) struct Defaults {
    api: Api,
    ca_pem: String,
}

impl Defaults {
    pub(crate) fn new(api: Api, ca_pem: String) -> Self {
        Self { api, ca_pem }
    }

    async fn keep_ca(&self, namespace: &str) -> ApiResult<()> {
        let data = json!({ CA_KEY: self.ca_pem });
        let Some(found) = self.api.cache().get(CONFIG_MAP, &object_key(namespace, ROOT_CA)) else {
            let body = json!({"metadata": {"name": ROOT_CA, "annotations": {"kubernetes.io/description": DESCRIPTION}},
                "data": data});
            return made(self.api.create(CONFIG_MAP, namespace, body).await);
        };
        if found.value.get("data") == Some(&data)
            || !text(&found.value, "/metadata/deletionTimestamp").is_empty()
        {
            return Ok(());
        }
        self.api.change(&found, Part::Main, |o| o["data"] = data.clone()).await.map(drop)
    }

    async fn keep_account(&self, kind: KindId, namespace: &str) -> ApiResult<()> {
        if self.api.cache().get(kind, &object_key(namespace, ACCOUNT)).is_some() {
            return Ok(());
        }
        made(self.api.create(kind, namespace, json!({"metadata": {"name": ACCOUNT}})).await)
    }
}

/// It is well when another was faster, or when the namespace ends.
pub(super) fn made<T>(result: ApiResult<T>) -> ApiResult<()> {
    match result {
        Err(ApiError { reason: "AlreadyExists" | "Forbidden" | "NotFound", .. }) => Ok(()),
        other => other.map(drop),
    }
}

impl Controller for Defaults {
    fn name(&self) -> &'static str {
        "namespace-defaults"
    }
    fn kinds(&self) -> Vec<KindId> {
        [Some(NAMESPACE), Some(CONFIG_MAP), service_account_kind()].into_iter().flatten().collect()
    }
    fn all(&self) -> Vec<Key> {
        self.api.cache().list(NAMESPACE).0.keys().map(|name| (NAMESPACE, name.clone())).collect()
    }
    fn concerned(&self, event: &Event) -> Vec<Key> {
        let o = &event.object;
        let name = match o.name.as_str() {
            _ if o.kind == NAMESPACE => &o.name,
            ROOT_CA if o.kind == CONFIG_MAP => &o.namespace,
            ACCOUNT if Some(o.kind) == service_account_kind() => &o.namespace,
            _ => return Vec::new(),
        };
        vec![(NAMESPACE, name.clone())]
    }

    async fn reconcile(&self, (_, name): &Key) -> ApiResult<Option<Duration>> {
        let namespace = self.api.cache().get(NAMESPACE, name);
        let lives = |n: &Value| text(n, "/metadata/deletionTimestamp").is_empty();
        if !namespace.is_some_and(|n| lives(&n.value)) {
            return Ok(None);
        }
        self.keep_ca(name).await?;
        if let Some(kind) = service_account_kind() {
            self.keep_account(kind, name).await?;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::testing::World;

    #[tokio::test(start_paused = true)]
    async fn every_namespace_has_them_and_keeps_them() {
        let mut w = World::new().await;
        w.start(Defaults::new(w.api.clone(), "PEM".into()));
        w.settle().await;
        let map = w.get(CONFIG_MAP, "default", ROOT_CA);
        assert_eq!(map.value["data"], json!({"ca.crt": "PEM"}));
        w.create(NAMESPACE, "", json!({"metadata": {"name": "new"}})).await;
        w.until(CONFIG_MAP, "one in the new namespace", |w| w.find(CONFIG_MAP, "new", ROOT_CA).is_some())
            .await;
        w.change(&map, Part::Main, |o| o["data"] = json!({"ca.crt": "other"})).await;
        w.settle().await;
        assert_eq!(w.get(CONFIG_MAP, "default", ROOT_CA).value["data"], json!({"ca.crt": "PEM"}));
        w.api.delete(&map).await.unwrap();
        w.settle().await;
        assert!(w.find(CONFIG_MAP, "default", ROOT_CA).is_some());
        if let Some(kind) = service_account_kind() {
            assert!(w.find(kind, "new", "default").is_some());
        }
    }
}
