//! Addresses at which something is served, brought to the `status.loadBalancer` of its object.
//!
//! Desired: a table whose rows are there while it is this node's turn to write. Observed: the status that the objects' own
//! table shows. Level-triggered: the difference is computed anew from both whenever one changes.

use crate::convert::MAX_INGRESS;
use crate::follow::Observer;
use crate::work::{MIN_GAP, Work};
use crate::{Object, SourceError, SourceStatus, status_code};
use kube::api::{Api, ApiResource, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use warren_store::{Record, Rows, Store, StoreError, Table};

/// After the first list: rows of an earlier run may be older than what the API shows, and their writers need a moment to
/// correct them.
const GRACE: Duration = Duration::from_secs(2);

/// Says when a kind has been listed in this run: until then its table may show what an earlier run knew.
pub(crate) struct Listed(pub(crate) watch::Sender<bool>);

impl Observer for Listed {
    fn seen(&mut self, _: &Object) {}
    fn gone(&mut self, _: &Object) {}
    fn begin(&mut self) {}
    fn listed(&mut self) {
        self.0.send_replace(true);
    }
}

/// Waits until what the tables hold of a kind can be trusted; false when it is time to stop.
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
    pub(crate) uid: String,
    pub(crate) addresses: Vec<IpAddr>,
}

impl Write {
    /// The write that turns `shown` into `wanted`; none when they are the same.
    pub(crate) fn between(uid: &str, wanted: &[IpAddr], shown: &[IpAddr]) -> Option<Self> {
        let sorted = |addresses: &[IpAddr]| {
            let mut sorted = addresses.to_vec();
            sorted.sort_unstable();
            sorted.dedup();
            // The door lets no more of them in, so more would never be seen to match.
            sorted.truncate(MAX_INGRESS);
            sorted
        };
        let addresses = sorted(wanted);
        (addresses != sorted(shown)).then(|| Self { uid: uid.to_owned(), addresses })
    }
}

/// A kind of object that tells at which addresses it is served. Both tables have `namespace/name` as their key.
pub(crate) trait Served: 'static {
    /// Its name.
    const KIND: &'static str;
    /// What it should tell.
    type Want: Record;
    /// What it tells.
    type Row: Record;
    /// How the API names the kind.
    fn resource() -> ApiResource;
    /// The status of one object, when it differs.
    fn write(want: &Self::Want, row: &Self::Row) -> Option<Write>;
    /// One address in the status.
    fn entry(ip: &IpAddr) -> Value;
}

/// What to do so that the API shows `desired`.
fn plan<S: Served>(desired: &Rows<S::Want>, shown: &Rows<S::Row>) -> BTreeMap<String, Write> {
    desired.iter().filter_map(|(key, want)| Some((key.clone(), S::write(want, shown.get(key)?)?))).collect()
}

pub(crate) fn patch<S: Served>(write: &Write) -> Value {
    let ingress = match write.addresses.as_slice() {
        [] => Value::Null, // A merge patch removes it.
        some => some.iter().map(S::entry).collect(),
    };
    // The uid keeps it from a namesake that was made a moment ago.
    json!({"metadata": {"uid": write.uid}, "status": {"loadBalancer": {"ingress": ingress}}})
}

/// Brings the table of one kind's addresses to the API.
pub(crate) struct Publisher<S: Served> {
    client: kube::Client,
    desired: Table<S::Want>,
    shown: Table<S::Row>,
    listed: watch::Receiver<bool>,
    status: SourceStatus,
}

impl<S: Served> Publisher<S> {
    pub(crate) fn new(
        client: kube::Client,
        store: &Store,
        listed: watch::Receiver<bool>,
        status: SourceStatus,
    ) -> Self {
        Self { client, desired: store.table(), shown: store.table(), listed, status }
    }

    /// Publishes until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), SourceError> {
        let (mut desired, mut shown) = (self.desired.watch(), self.shown.watch());
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            first = desired.loaded() => drop(first.ok_or(StoreError::Closed)?),
        }
        if !settled(&mut self.listed, &stop).await {
            return Ok(());
        }
        let mut work = Work::new(S::KIND, self.status.clone());
        loop {
            let todo = plan::<S>(&self.desired.snapshot().rows, &self.shown.snapshot().rows);
            let due = work.once(todo, &stop, |key, write| self.write(key, write)).await;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                update = desired.next() => drop(update.ok_or(StoreError::Closed)?),
                update = shown.next() => drop(update.ok_or(StoreError::Closed)?),
                () = tokio::time::sleep(due) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(MIN_GAP) => {}
            }
        }
    }

    async fn write(&self, key: String, write: Write) -> Result<(), kube::Error> {
        let (namespace, name) = key.split_once('/').unwrap_or_default();
        let api: Api<Object> = Api::namespaced_with(self.client.clone(), namespace, &S::resource());
        let body = Patch::Merge(patch::<S>(&write));
        match api.patch_status(name, &PatchParams::default(), &body).await {
            Ok(_) => {
                tracing::debug!(kind = S::KIND, object = %key, addresses = ?write.addresses, "addresses written");
                Ok(())
            }
            // It is gone, or another one; the watch says so in a moment.
            Err(e) if matches!(status_code(&e), Some(404 | 409)) => Ok(()),
            Err(e) => Err(e),
        }
    }
}
