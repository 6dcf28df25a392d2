//! Objects that are there from the first start.

use jiff::Timestamp;
use serde_json::{Value, json};
use warren_types::ClusterConfig;
use warren_types::cluster::{CONFIG_MAP_KEY, CONFIG_MAP_NAME, CONFIG_MAP_NAMESPACE};

use crate::ServerError;
use crate::auth::User;
use crate::error::ApiError;
use crate::ops::{Objects, WriteOptions};
use crate::patch::Patch;
use crate::query::{FieldValidation, Target};
use crate::registry::{CONFIG_MAP, KindId, NAMESPACE};

/// Makes the first namespaces, and brings the cluster's ConfigMap up to the configuration.
pub(crate) async fn objects(
    objects: &Objects,
    cluster: &ClusterConfig,
    now: Timestamp,
) -> Result<(), ServerError> {
    let options = WriteOptions {
        user: User::Admin("system:warren".into()),
        manager: "warren".into(),
        dry_run: false,
        validation: FieldValidation::Strict,
        now,
    };
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        ensure(objects, NAMESPACE, None, name, json!({ "metadata": { "name": name } }), &options).await?;
    }
    let config = serde_json::to_string(cluster).map_err(|e| failed(CONFIG_MAP_NAME, e))?;
    let data = json!({ CONFIG_MAP_KEY: config });
    let map =
        json!({ "metadata": { "name": CONFIG_MAP_NAME, "namespace": CONFIG_MAP_NAMESPACE }, "data": data });
    ensure(objects, CONFIG_MAP, Some(CONFIG_MAP_NAMESPACE), CONFIG_MAP_NAME, map, &options).await?;
    let target = Target {
        kind: CONFIG_MAP,
        namespace: Some(CONFIG_MAP_NAMESPACE.into()),
        name: None,
        status: false,
        finalize: false,
    };
    let patch = Patch::Merge(json!({ "data": data }));
    let patched = objects.patch(&target, CONFIG_MAP_NAME, &patch, &options).await;
    patched.map(drop).map_err(|e| failed(CONFIG_MAP_NAME, e.message))
}

fn failed(object: &str, reason: impl std::fmt::Display) -> ServerError {
    ServerError::Bootstrap { object: object.into(), reason: reason.to_string() }
}

async fn ensure(
    objects: &Objects,
    kind: KindId,
    namespace: Option<&str>,
    name: &str,
    body: Value,
    options: &WriteOptions,
) -> Result<(), ServerError> {
    let target =
        Target { kind, namespace: namespace.map(Into::into), name: None, status: false, finalize: false };
    match objects.create(&target, body, options).await {
        Ok(_) => Ok(()),
        Err(ApiError { reason: "AlreadyExists", .. }) => Ok(()),
        Err(e) => Err(failed(&format!("{} {name}", kind.get().singular), e.message)),
    }
}
