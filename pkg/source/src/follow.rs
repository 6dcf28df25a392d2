//! Following one kind of object: list, watch, relist, for ever.

use crate::backoff::Backoff;
use crate::client::chain;
use crate::status::{Refusal, SourceStatus};
use crate::{SourceError, convert::Converted};
use futures::{FutureExt as _, StreamExt as _};
use kube::api::Api;
use kube::core::DynamicObject;
use kube::runtime::watcher::{self, Event, watcher};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use warren_store::{Change, Durability, Record, Table};

/// Most events that one commit carries.
const BATCH: usize = 256;
/// Seconds after which the server ends a watch and it is begun again; five more and the client gives it up.
const WATCH_SECONDS: u32 = 60;
/// Longest wait while the API cannot be reached: short, because a healed network must be found within seconds.
pub(crate) const CEILING_UNREACHABLE: Duration = Duration::from_secs(2);
/// Longest wait while the API answers with errors.
pub(crate) const CEILING_REFUSED: Duration = Duration::from_secs(30);

/// How a watch is asked for; of one object alone when it is named.
pub(crate) fn config(only: Option<&str>) -> watcher::Config {
    let config = watcher::Config::default().timeout(WATCH_SECONDS).page_size(500);
    match only {
        Some(name) => config.fields(&format!("metadata.name={name}")),
        None => config,
    }
}

/// What sees every raw object of a kind besides the table: the write-back side compares with it.
pub(crate) trait Observer: Send + Sync {
    /// An object exists like this.
    fn seen(&mut self, object: &DynamicObject);
    /// The object with this namespace and name is gone.
    fn gone(&mut self, object: &DynamicObject);
    /// A list begins: what is seen until [`Observer::listed`] is all there is.
    fn begin(&mut self);
    /// The list is complete.
    fn listed(&mut self);
}

/// An observer that does not care.
pub(crate) struct Nobody;
impl Observer for Nobody {
    fn seen(&mut self, _: &DynamicObject) {}
    fn gone(&mut self, _: &DynamicObject) {}
    fn begin(&mut self) {}
    fn listed(&mut self) {}
}

/// One kind of object on its way into one table.
pub(crate) struct Follow<R: Record, O> {
    pub(crate) kind: &'static str,
    pub(crate) api: Api<DynamicObject>,
    pub(crate) table: Table<R>,
    pub(crate) convert: fn(&DynamicObject) -> Converted<R>,
    /// The table's key of an object that has no row (deleted, or refused as a whole).
    pub(crate) key: fn(&DynamicObject) -> Option<String>,
    pub(crate) observer: O,
    pub(crate) status: SourceStatus,
    /// The kind's group, when an API may do without it: one that does not serve it has no such objects.
    pub(crate) optional: Option<&'static str>,
    /// The one object that is asked for; none: every one.
    pub(crate) only: Option<&'static str>,
}

/// What has been heard and not yet committed.
struct Pending<R> {
    /// While a list comes in: its rows are committed as they come, so that no second table stands beside the one that there is.
    list: Option<Listed>,
    changes: Vec<Change<R>>,
}

/// What a list has named so far.
#[derive(Default)]
struct Listed {
    /// Keys of rows.
    keys: BTreeSet<String>,
    /// Objects, as [`identity`] calls them.
    objects: BTreeSet<String>,
}

/// What the door made of an object.
enum Passed<R> {
    Row(R),
    /// Refused as a whole.
    Unreadable,
    /// Nothing is wrong with it; it has no row (any more).
    NotOurs,
}

impl<R: Record, O: Observer> Follow<R, O> {
    /// Follows until `stop`.
    ///
    /// # Errors
    /// Only the store's: an API that is away is waited for.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), SourceError> {
        self.status.synced(self.kind, false);
        let mut backoff = Backoff::new(Duration::from_millis(200), CEILING_REFUSED);
        while !stop.is_cancelled() {
            self.once(&stop, &mut backoff).await?;
        }
        Ok(())
    }

    /// One life of a watcher: from a list until it cannot go on from where it was.
    async fn once(&mut self, stop: &CancellationToken, backoff: &mut Backoff) -> Result<(), SourceError> {
        let mut events = watcher(self.api.clone(), config(self.only)).boxed();
        let mut pending = Pending { list: None, changes: Vec::new() };
        loop {
            let mut next = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                e = events.next() => e,
            };
            let mut failed = None;
            for _ in 0..BATCH {
                match next {
                    Some(Ok(event)) => {
                        // The beginning of a list is said before anything was asked.
                        if !matches!(event, Event::Init) {
                            backoff.reset();
                            self.status.contact();
                        }
                        self.take(event, &mut pending).await?;
                    }
                    Some(Err(e)) => {
                        failed = Some(e);
                        break;
                    }
                    None => return Ok(()),
                }
                match events.next().now_or_never() {
                    Some(more) => next = more,
                    None => break,
                }
            }
            self.flush(&mut pending).await?;
            let Some(error) = failed else { continue };
            let relist = must_relist(&error);
            let ceiling = if unreachable(&error) { CEILING_UNREACHABLE } else { CEILING_REFUSED };
            let wait = backoff.next_wait_below(ceiling);
            tracing::debug!(kind = self.kind, error = %chain(&error), ?wait, relist, "watch failed");
            if list_not_found(&error) && self.is_not_served().await {
                self.none_of_this_kind().await?;
            } else if !unreachable(&error) && !relist {
                self.status.write_result(&format!("watch {}", self.kind), Some(chain(&error)));
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
            if relist {
                return Ok(());
            }
        }
    }

    /// Whether the API knows nothing of this kind. A list that was not found is no proof: whoever stands before the API
    /// may have said so. The API has to say which groups it serves, and the kind's must not be one of them.
    async fn is_not_served(&self) -> bool {
        let Some(group) = self.optional else { return false };
        match self.api.clone().into_client().list_api_groups().await {
            Ok(list) => !list.groups.is_empty() && list.groups.iter().all(|g| g.name != group),
            Err(_) => false,
        }
    }

    /// The API does not serve this kind: then there are no objects of it. What is known from when it did stays.
    async fn none_of_this_kind(&self) -> Result<(), SourceError> {
        let count = self.table.snapshot().rows.len();
        let left = (count != 0).then(|| {
            format!("the API does not serve {} (any more); the {count} last known stay in force", self.kind)
        });
        self.status.write_result(&format!("watch {}", self.kind), left);
        self.status.synced(self.kind, true);
        if !self.table.loaded() {
            tracing::info!(kind = self.kind, "the API does not serve this kind");
            self.table.mark_loaded().await?;
        }
        Ok(())
    }

    async fn take(
        &mut self,
        event: Event<DynamicObject>,
        pending: &mut Pending<R>,
    ) -> Result<(), SourceError> {
        match event {
            Event::Init => {
                self.flush(pending).await?;
                pending.list = Some(Listed::default());
                self.observer.begin();
            }
            Event::InitApply(object) => {
                self.observer.seen(&object);
                let (id, passed) = self.door(&object);
                if let Some(Listed { keys, objects }) = &mut pending.list {
                    objects.insert(id);
                    match passed {
                        Passed::Row(row) => {
                            keys.insert(row.key());
                            pending.changes.push(Change::Put(row));
                        }
                        // An edit that went wrong must not take the cluster down: the row that it had stays.
                        Passed::Unreadable => keys.extend((self.key)(&object)),
                        Passed::NotOurs => {}
                    }
                }
            }
            Event::InitDone => {
                self.flush(pending).await?;
                let Listed { keys, objects } = pending.list.take().unwrap_or_default();
                let count = keys.len();
                self.table.retain(keys, Durability::Cached).await?;
                self.status.retain_refusals(self.kind, &objects);
                self.status.synced(self.kind, true);
                self.status.write_result(&format!("watch {}", self.kind), None);
                self.observer.listed();
                tracing::debug!(kind = self.kind, count, "list complete");
            }
            Event::Apply(object) => {
                self.observer.seen(&object);
                match self.door(&object).1 {
                    Passed::Row(row) => pending.changes.push(Change::Put(row)),
                    Passed::Unreadable => {}
                    Passed::NotOurs => pending.changes.extend((self.key)(&object).map(Change::Delete)),
                }
            }
            Event::Delete(object) => {
                self.observer.gone(&object);
                self.status.refuse(self.kind, &identity(&object), Vec::new());
                if let Some(key) = (self.key)(&object) {
                    pending.changes.push(Change::Delete(key));
                }
            }
        }
        Ok(())
    }

    /// Converts, and notes what is refused.
    fn door(&self, object: &DynamicObject) -> (String, Passed<R>) {
        let Converted { row, refused } = (self.convert)(object);
        let id = identity(object);
        let passed = match row {
            Some(row) => Passed::Row(row),
            None if refused.is_empty() => Passed::NotOurs,
            None => Passed::Unreadable,
        };
        note_refused(&self.status, self.kind, &id, refused);
        (id, passed)
    }

    async fn flush(&self, pending: &mut Pending<R>) -> Result<(), SourceError> {
        if !pending.changes.is_empty() {
            self.table.commit(std::mem::take(&mut pending.changes), Durability::Cached).await?;
        }
        Ok(())
    }
}

/// Notes what is refused of an object, and logs what is new of it.
pub(crate) fn note_refused(status: &SourceStatus, kind: &str, object: &str, refused: Vec<Refusal>) {
    for Refusal { kind, object, field, reason } in status.refuse(kind, object, refused) {
        tracing::warn!(%kind, %object, %field, %reason, "refused; the rest of the object is used");
    }
}

/// `namespace/name`, or the name.
pub(crate) fn identity(object: &DynamicObject) -> String {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    object.metadata.namespace.as_deref().map_or_else(|| name.to_owned(), |ns| format!("{ns}/{name}"))
}

/// Whether a watch cannot be continued from its resourceVersion: it is too old (410), unknown or ahead of a server
/// that was restored (400, 504).
fn must_relist(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(s)) => matches!(s.code, 400 | 404 | 410 | 504),
        watcher::Error::WatchError(s) => matches!(s.code, 400 | 410 | 504),
        watcher::Error::NoResourceVersion => true,
        _ => false,
    }
}

fn list_not_found(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(s)) if s.code == 404)
}

fn unreachable(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(e)
        | watcher::Error::WatchStartFailed(e)
        | watcher::Error::WatchFailed(e) => !matches!(e, kube::Error::Api(_)),
        _ => false,
    }
}
