//! Addresses of load balancers, brought to the status of their Services.
//!
//! Desired: table `load_balancer_addresses`, whose rows are there while it is this node's turn to write. Observed: the
//! status that table `services` shows. Level-triggered: the difference is computed anew from both whenever one changes.

use crate::convert::MAX_INGRESS;
use crate::follow::Observer;
use crate::work::{MIN_GAP, Work};
use crate::{Object, SourceError, SourceStatus, resource, status_code};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use warren_store::{Rows, Store, StoreError, Table};
use warren_types::{LoadBalancerAddresses, Service, ServiceKey, ServiceKind};

/// After the first list: rows of an earlier run may be older than what the API shows, and their writers need a moment to
/// correct them.
const GRACE: Duration = Duration::from_secs(2);

/// Says when Services have been listed in this run: until then the table may show what an earlier run knew.
pub(crate) struct Listed(pub(crate) watch::Sender<bool>);

impl Observer for Listed {
    fn seen(&mut self, _: &Object) {}
    fn gone(&mut self, _: &Object) {}
    fn begin(&mut self) {}
    fn listed(&mut self) {
        self.0.send_replace(true);
    }
}

/// Waits until what the tables hold of Services can be trusted; false when it is time to stop.
pub(crate) async fn settled(listed: &mut watch::Receiver<bool>, stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => return false,
        seen = async { listed.wait_for(|l| *l).await.is_ok() } => if !seen {
            // Following has ended, and says why itself.
            stop.cancelled().await;
            return false;
        },
    }
    tokio::select! {
        () = stop.cancelled() => false,
        () = tokio::time::sleep(GRACE) => true,
    }
}

/// A status to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    uid: String,
    addresses: Vec<IpAddr>,
}

/// What to do so that the API shows `desired`.
fn plan(desired: &Rows<LoadBalancerAddresses>, services: &Rows<Service>) -> BTreeMap<ServiceKey, Write> {
    desired
        .iter()
        .filter_map(|(key, want)| Some((want.service.clone(), write(want, services.get(key)?)?)))
        .collect()
}

/// The status of one Service, when it differs. One that is no load balancer (any more) may only be cleared, and one that
/// another implementation takes care of is left alone.
fn write(want: &LoadBalancerAddresses, service: &Service) -> Option<Write> {
    let cleared = service.kind != ServiceKind::LoadBalancer && want.addresses.is_empty();
    if want.uid != service.uid || !(service.wants_load_balancer() || cleared) {
        return None;
    }
    let sorted = |addresses: &[IpAddr]| {
        let mut sorted = addresses.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        // The door lets no more of them in, so more would never be seen to match.
        sorted.truncate(MAX_INGRESS);
        sorted
    };
    let addresses = sorted(&want.addresses);
    (addresses != sorted(&service.load_balancer_ips)).then(|| Write { uid: want.uid.clone(), addresses })
}

fn patch(write: &Write) -> Value {
    let entry = |ip: &IpAddr| json!({"ip": ip.to_string(), "ipMode": "VIP"});
    let ingress = match write.addresses.as_slice() {
        [] => Value::Null, // A merge patch removes it.
        some => some.iter().map(entry).collect(),
    };
    // The uid keeps it from a namesake that was made a moment ago.
    json!({"metadata": {"uid": write.uid}, "status": {"loadBalancer": {"ingress": ingress}}})
}

/// Brings table `load_balancer_addresses` to the API.
pub(crate) struct Publisher {
    client: kube::Client,
    desired: Table<LoadBalancerAddresses>,
    services: Table<Service>,
    listed: watch::Receiver<bool>,
    status: SourceStatus,
}

impl Publisher {
    pub(crate) fn new(
        client: kube::Client,
        store: &Store,
        listed: watch::Receiver<bool>,
        status: SourceStatus,
    ) -> Self {
        Self { client, desired: store.table(), services: store.table(), listed, status }
    }

    /// Publishes until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), SourceError> {
        let (mut desired, mut services) = (self.desired.watch(), self.services.watch());
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            first = desired.loaded() => drop(first.ok_or(StoreError::Closed)?),
        }
        if !settled(&mut self.listed, &stop).await {
            return Ok(());
        }
        let mut work = Work::new("Service", self.status.clone());
        loop {
            let todo = plan(&self.desired.snapshot().rows, &self.services.snapshot().rows);
            let due = work.once(todo, &stop, |key, write| self.write(key, write)).await;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                update = desired.next() => drop(update.ok_or(StoreError::Closed)?),
                update = services.next() => drop(update.ok_or(StoreError::Closed)?),
                () = tokio::time::sleep(due) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(MIN_GAP) => {}
            }
        }
    }

    async fn write(&self, key: ServiceKey, write: Write) -> Result<(), kube::Error> {
        let api: Api<Object> = Api::namespaced_with(
            self.client.clone(),
            key.namespace.as_str(),
            &resource::<k8s_openapi::api::core::v1::Service>(),
        );
        let result =
            api.patch_status(key.name.as_str(), &PatchParams::default(), &Patch::Merge(patch(&write))).await;
        match result {
            Ok(_) => {
                tracing::debug!(service = %key, addresses = ?write.addresses, "load-balancer addresses written");
                Ok(())
            }
            // It is gone, or another one; the watch says so in a moment.
            Err(e) if matches!(status_code(&e), Some(404 | 409)) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests;
