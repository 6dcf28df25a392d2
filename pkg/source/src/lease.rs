//! The node's heartbeat: a Lease in `kube-node-lease`, renewed as a kubelet does.

use crate::client::chain;
use crate::{Object, SourceError, SourceStatus, resource, status_code};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use warren_types::NodeName;

/// Namespace of node heartbeats.
const NAMESPACE: &str = "kube-node-lease";
/// How often it is renewed.
const PERIOD: Duration = Duration::from_secs(10);
/// How long it holds, in seconds.
const DURATION_SECONDS: u32 = 40;
/// How soon a failed renewal is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Renews the Lease until `stop`.
pub(crate) async fn keep(
    client: kube::Client,
    name: NodeName,
    status: SourceStatus,
    stop: CancellationToken,
) -> Result<(), SourceError> {
    let api: Api<Object> =
        Api::namespaced_with(client, NAMESPACE, &resource::<k8s_openapi::api::coordination::v1::Lease>());
    let object = format!("Lease {NAMESPACE}/{name}");
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        let result = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            r = renew(&api, name.as_str()) => r,
        };
        match result {
            Ok(()) => status.write_result(&object, None),
            Err(error) => {
                tracing::debug!(%object, error = %chain(&error), "heartbeat failed");
                if status_code(&error).is_some() {
                    status.write_result(&object, Some(chain(&error)));
                } else {
                    tick.reset_after(RETRY);
                }
            }
        }
    }
}

async fn renew(api: &Api<Object>, name: &str) -> Result<(), kube::Error> {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    let spec = json!({"holderIdentity": name, "leaseDurationSeconds": DURATION_SECONDS, "renewTime": now});
    match api.patch(name, &PatchParams::default(), &Patch::Merge(json!({ "spec": spec }))).await {
        Err(e) if status_code(&e) == Some(404) => {
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec});
            let lease: Object = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
            api.create(&PostParams::default(), &lease).await.map(drop)
        }
        other => other.map(drop),
    }
}
