//! The controllers: each brings objects about from other objects, over the same verbs as clients use.
//!
//! Job: EndpointSlices and Endpoints of Services, certificates of Ingresses, the life of nodes, owner garbage collection, the
//! end of namespaces, what every namespace has.
//! Inputs: the committed state. Outputs: writes like any client's.
//! Owns: nothing in memory that it could not learn again; all of them start from a list.
//! Failure modes: an object that cannot be brought about is tried again, ever slower; the others go on. A controller
//! that panics is started anew.
//! A reviewer asks: does a controller decide by the state, not by the event? can two of them undo each other's writes
//! without end? is anything written when nothing has changed?

mod api;
mod certificates;
mod defaults;
mod endpoints;
mod garbage;
mod mirror;
mod namespaces;
mod nodes;
mod queue;
mod runner;
#[cfg(test)]
pub(crate) mod testing;

use jiff::Timestamp;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use crate::ops::Objects;
use crate::registry::{KindId, lookup};
use crate::table::{list, text};

use api::Api;
pub use nodes::NodeLife;
use runner::Controller;

/// A controller that has panicked is started again after this.
const RESTART: Duration = Duration::from_secs(1);

/// How often history that is too old is dropped.
const COMPACTION: Duration = Duration::from_secs(60);

/// Runs every controller until `stop`; that of certificates when there is an authority to issue them by.
pub(crate) async fn run(
    objects: Objects,
    ca_pem: String,
    ingress: Option<Arc<warren_ca::Authority>>,
    life: NodeLife,
    stop: CancellationToken,
) {
    let api = Api::new(objects);
    let services = async {
        let Some(kinds) = service_kinds() else { return };
        futures::join!(
            keep(|| endpoints::EndpointSlices::new(api.clone(), kinds), &api, &stop),
            keep(|| mirror::Mirror::new(api.clone(), kinds), &api, &stop),
        );
    };
    let certificates = async {
        let (Some(secret), Some(ingress)) = (secret_kind(), ingress) else { return };
        let make = || certificates::Certificates::new(api.clone(), secret, ingress.clone(), Timestamp::now);
        keep(make, &api, &stop).await;
    };
    let history = async {
        let mut tick = tokio::time::interval(COMPACTION);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            api.cache().compact();
        }
    };
    futures::join!(
        services,
        certificates,
        history,
        keep(|| nodes::Nodes::new(api.clone(), life), &api, &stop),
        keep(|| defaults::Defaults::new(api.clone(), ca_pem.clone()), &api, &stop),
        keep(|| garbage::Garbage::new(api.clone()), &api, &stop),
        keep(|| namespaces::Namespaces::new(api.clone()), &api, &stop),
    );
}

/// Runs one controller, anew when it panics.
async fn keep<C: Controller>(make: impl Fn() -> C, api: &Api, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        let mut task = tokio::task::JoinSet::new();
        let controller = Arc::new(make());
        let name = controller.name();
        task.spawn(runner::run(controller, api.cache().clone(), stop.clone()));
        if let Some(Err(error)) = task.join_next().await {
            tracing::error!(controller = name, %error, "the controller failed; it is started again");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RESTART) => {}
        }
    }
}

/// The kinds around Services.
#[derive(Debug, Clone, Copy)]
struct ServiceKinds {
    service: KindId,
    slice: KindId,
    endpoints: KindId,
}

fn service_kinds() -> Option<ServiceKinds> {
    Some(ServiceKinds {
        service: lookup("", "v1", "services")?,
        slice: lookup("discovery.k8s.io", "v1", "endpointslices")?,
        endpoints: lookup("", "v1", "endpoints")?,
    })
}

fn secret_kind() -> Option<KindId> {
    lookup("", "v1", "secrets")
}

fn service_account_kind() -> Option<KindId> {
    lookup("", "v1", "serviceaccounts")
}

/// Puts a condition into `status.conditions`; its time changes with its status. Returns whether anything changed.
fn set_condition(o: &mut Value, mut condition: Value, now: &Value) -> bool {
    let kind = text(&condition, "/type").to_owned();
    let old = list(o, "/status/conditions").iter().find(|c| text(c, "/type") == kind).cloned();
    let since =
        old.as_ref().filter(|c| c["status"] == condition["status"]).and_then(|c| c.get("lastTransitionTime"));
    condition["lastTransitionTime"] = since.unwrap_or(now).clone();
    if let Some(beat) = old.as_ref().and_then(|c| c.get("lastHeartbeatTime")) {
        condition["lastHeartbeatTime"] = beat.clone();
    }
    if old.as_ref() == Some(&condition) {
        return false;
    }
    let status = crate::kinds::object(o, "status");
    match status.get_mut("conditions") {
        Some(Value::Array(all)) => match all.iter_mut().find(|c| text(c, "/type") == kind) {
            Some(slot) => *slot = condition,
            None => all.push(condition),
        },
        _ => drop(status.insert("conditions".into(), vec![condition].into())),
    }
    true
}
