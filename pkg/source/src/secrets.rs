//! Secrets that ingress wants, and no others.
//!
//! Each is listed and watched alone, by its name, so that the right to read just these is enough and no other Secret is
//! ever in this process. Lists are read here and not by the client, which logs an answer that it cannot read; what is
//! said of an answer never quotes it.

use crate::backoff::Backoff;
use crate::client::{ApiAccess, chain};
use crate::follow::{CEILING_REFUSED, CEILING_UNREACHABLE, identity, note_refused};
use crate::{Object, SourceError, SourceStatus, convert, resource};
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::Resource as _;
use kube::api::{Api, ListParams, ObjectList, Request, WatchEvent, WatchParams};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use warren_store::tables::{ONLY, secret_key};
use warren_store::{Change, Durability, Store, StoreError, Table};
use warren_types::{SecretContent, SecretObject, SecretRef, WantedSecrets};

/// At most this many Secrets are followed: each takes a watch of the API.
pub(crate) const MAX_SECRETS: usize = 500;
/// So many watches are begun on one connection: servers allow at least 100 at once (RFC 9113, section 6.5.2).
const WATCHES: usize = 100;
/// Seconds after which the server ends a watch and it is begun again.
const WATCH_SECONDS: u32 = 290;
/// A watch that lasted as long had begun well.
const LONG: Duration = Duration::from_secs(5);
/// Answers that wait to be written.
const PENDING: usize = 64;
/// What the status calls Secrets as a whole.
const KIND: &str = "Secret";

/// What is learned of one Secret.
enum Word {
    /// It is like this; or there is none.
    Is(Option<SecretContent>),
    /// The API does not say.
    Refused,
}

/// The watch of one Secret.
struct Followed {
    task: AbortHandle,
    /// By which of the clients.
    client: usize,
    /// Whether the API has said anything of it, be it that it does not say.
    answered: bool,
}

/// Brings the Secrets that table `wanted_secrets` names into table `secrets`.
pub(crate) struct Secrets {
    /// Each has a connection of its own.
    clients: Vec<kube::Client>,
    wanted: Table<WantedSecrets>,
    table: Table<SecretObject>,
    status: SourceStatus,
    followed: BTreeMap<SecretRef, Followed>,
    tasks: JoinSet<()>,
    tell: mpsc::Sender<(SecretRef, Word)>,
    words: mpsc::Receiver<(SecretRef, Word)>,
}

impl Secrets {
    /// Follows by clients of `access`; nothing is sent yet.
    ///
    /// # Errors
    /// As [`ApiAccess::client`].
    pub(crate) async fn new(
        access: &ApiAccess,
        store: &Store,
        status: SourceStatus,
    ) -> Result<Self, SourceError> {
        let mut clients = Vec::new();
        for _ in 0..MAX_SECRETS.div_ceil(WATCHES) {
            clients.push(access.shared_client(&status).await?.client);
        }
        let (tell, words) = mpsc::channel(PENDING);
        Ok(Self {
            clients,
            wanted: store.table(),
            table: store.table(),
            status,
            followed: BTreeMap::new(),
            tasks: JoinSet::new(),
            tell,
            words,
        })
    }

    /// Follows until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), SourceError> {
        let mut wanted = self.wanted.watch();
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            first = wanted.loaded() => drop(first.ok_or(StoreError::Closed)?),
        }
        self.adjust().await?;
        loop {
            self.say_loaded().await?;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                update = wanted.next() => {
                    drop(update.ok_or(StoreError::Closed)?);
                    self.adjust().await?;
                }
                word = self.words.recv() => if let Some((key, word)) = word {
                    self.hear(key, word).await?;
                },
                ended = self.tasks.join_next(), if !self.tasks.is_empty() => match ended {
                    Some(Err(e)) if !e.is_cancelled() => return Err(SourceError::Task(e.to_string())),
                    _ => {}
                },
            }
        }
    }

    /// Follows what is wanted, and forgets what is not any more.
    async fn adjust(&mut self) -> Result<(), SourceError> {
        let all = self.wanted.get(ONLY).map(|row| row.secrets.clone()).unwrap_or_default();
        let over = (all.len() > MAX_SECRETS)
            .then(|| format!("{} are wanted; the first {MAX_SECRETS} of them are followed", all.len()));
        self.status.write_result("Secrets", over);
        let wanted: BTreeSet<SecretRef> = all.into_iter().take(MAX_SECRETS).collect();
        let status = &self.status;
        self.followed.retain(|key, followed| {
            let stays = wanted.contains(key);
            if !stays {
                followed.task.abort();
                status.refuse(KIND, &key.to_string(), Vec::new());
                status.write_result(&name(key), None);
            }
            stays
        });
        let rows = self.table.snapshot().rows;
        let gone = rows.iter().filter(|(_, row)| !wanted.contains(&row.key));
        let gone: Vec<Change<SecretObject>> = gone.map(|(key, _)| Change::Delete(key.clone())).collect();
        if !gone.is_empty() {
            self.table.commit(gone, Durability::Cached).await?;
        }
        for key in wanted {
            if !self.followed.contains_key(&key) {
                let client = self.least_busy();
                let one = One {
                    client: self.clients[client].clone(),
                    key: key.clone(),
                    status: self.status.clone(),
                    tell: self.tell.clone(),
                };
                let task = self.tasks.spawn(one.follow());
                self.followed.insert(key, Followed { task, client, answered: false });
            }
        }
        Ok(())
    }

    /// The client that follows the fewest.
    fn least_busy(&self) -> usize {
        let mut busy = vec![0usize; self.clients.len()];
        for followed in self.followed.values() {
            busy[followed.client] += 1;
        }
        (0..busy.len()).min_by_key(|client| busy[*client]).unwrap_or(0)
    }

    async fn hear(&mut self, key: SecretRef, word: Word) -> Result<(), SourceError> {
        // What was said before nobody wanted it any more.
        let Some(followed) = self.followed.get_mut(&key) else { return Ok(()) };
        followed.answered = true;
        if let Word::Is(content) = word {
            let row = SecretObject { key, content };
            if self.table.get(&secret_key(&row.key)).as_deref() != Some(&row) {
                self.table.put(row, Durability::Cached).await?;
            }
        }
        Ok(())
    }

    /// The table is loaded once there was a word on each.
    async fn say_loaded(&self) -> Result<(), SourceError> {
        let all = self.followed.values().all(|f| f.answered);
        self.status.synced(KIND, all);
        if all && !self.table.loaded() {
            self.table.mark_loaded().await?;
        }
        Ok(())
    }
}

fn name(key: &SecretRef) -> String {
    format!("{KIND} {key}")
}

/// Lists the Secret of this name, and no other.
pub(crate) async fn list_one(
    client: &kube::Client,
    namespace: &str,
    name: &str,
) -> Result<ObjectList<Object>, kube::Error> {
    let list = ListParams::default().fields(&format!("metadata.name={name}"));
    let request = Request::new(Secret::url_path(&(), Some(namespace))).list(&list);
    let text = client.request_text(request.map_err(kube::Error::BuildRequest)?).await?;
    serde_json::from_str(&text).map_err(kube::Error::SerdeError)
}

/// Follows one Secret.
struct One {
    client: kube::Client,
    key: SecretRef,
    status: SourceStatus,
    tell: mpsc::Sender<(SecretRef, Word)>,
}

/// Why following has to pause.
enum Pause {
    /// The server ended the watch.
    Ended,
    /// The API answered with this.
    Refused(String),
    /// The API did not answer.
    Away,
}

impl One {
    /// Follows for ever.
    async fn follow(self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), CEILING_REFUSED);
        let mut from = None;
        loop {
            let begun = Instant::now();
            let pause = match self.once(&mut from, &mut backoff).await {
                Ok(()) => Pause::Ended,
                Err(kube::Error::Api(status)) => {
                    if matches!(status.code, 400 | 404 | 410 | 504) {
                        from = None;
                    }
                    match status.code {
                        410 => Pause::Ended,
                        _ => Pause::Refused(chain(&kube::Error::Api(status))),
                    }
                }
                Err(kube::Error::SerdeError(_)) => {
                    from = None;
                    Pause::Refused("the API's answer cannot be read".into())
                }
                Err(e) => {
                    tracing::debug!(secret = %self.key, error = %chain(&e), "watch failed");
                    Pause::Away
                }
            };
            if begun.elapsed() >= LONG {
                backoff.reset();
            }
            let ceiling = if matches!(pause, Pause::Away) { CEILING_UNREACHABLE } else { CEILING_REFUSED };
            if let Pause::Refused(reason) = pause {
                self.status.write_result(&name(&self.key), Some(reason));
                self.say(Word::Refused).await;
            }
            tokio::time::sleep(backoff.next_wait_below(ceiling)).await;
        }
    }

    /// Lists it, when it is not known from where to go on, and watches it until the server ends that.
    async fn once(&self, from: &mut Option<String>, backoff: &mut Backoff) -> Result<(), kube::Error> {
        let fields = format!("metadata.name={}", self.key.name);
        let api: Api<Object> =
            Api::namespaced_with(self.client.clone(), self.key.namespace.as_str(), &resource::<Secret>());
        let version = match from {
            Some(version) => version.clone(),
            None => {
                let list =
                    list_one(&self.client, self.key.namespace.as_str(), self.key.name.as_str()).await?;
                let version = list.metadata.resource_version.clone().unwrap_or_default();
                let found = list.items.iter().find(|object| self.is_meant(object));
                self.seen(found).await;
                backoff.reset();
                from.insert(version).clone()
            }
        };
        let params = WatchParams::default().fields(&fields).timeout(WATCH_SECONDS);
        let mut events = std::pin::pin!(api.watch(&params, &version).await?);
        while let Some(event) = events.try_next().await? {
            backoff.reset();
            let (object, there) = match &event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, true),
                WatchEvent::Deleted(object) => (object, false),
                WatchEvent::Bookmark(mark) => {
                    *from = Some(mark.metadata.resource_version.clone());
                    continue;
                }
                WatchEvent::Error(status) => return Err(kube::Error::Api(status.clone())),
            };
            if let Some(version) = &object.metadata.resource_version {
                *from = Some(version.clone());
            }
            // An API that knows no selector of fields may speak of others.
            if self.is_meant(object) {
                self.seen(there.then_some(object)).await;
            }
        }
        Ok(())
    }

    fn is_meant(&self, object: &Object) -> bool {
        identity(object) == self.key.to_string()
    }

    async fn seen(&self, object: Option<&Object>) {
        let converted = object.map(|o| convert::secret(&o.metadata, &o.data));
        let (row, refused) = converted.map(|c| (c.row, c.refused)).unwrap_or_default();
        note_refused(&self.status, KIND, &self.key.to_string(), refused);
        self.status.write_result(&name(&self.key), None);
        self.say(Word::Is(row.and_then(|row| row.content))).await;
    }

    async fn say(&self, word: Word) {
        // Nobody hears it when the source ends, and this task with it.
        let _ = self.tell.send((self.key.clone(), word)).await;
    }
}
