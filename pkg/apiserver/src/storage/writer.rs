//! The one writer: takes writes in order, gives each its revision, commits many at once with one flush, publishes them
//! in order, then acknowledges.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use warren_store::{Change, Durability};

use super::{ApiObject, Cache, Disk, Event, Object, REVISION_ROW, keep_managers, object_key, row_key};
use crate::alloc::Allocators;
use crate::error::Causes;
use crate::registry::{KindId, NAMESPACE};
use crate::table::text;

/// Most writes in one commit.
const BATCH: usize = 256;

/// A write. Objects are complete but for the resourceVersion.
#[derive(Debug)]
pub(crate) enum Op {
    /// A new object.
    Create { kind: KindId, value: Value },
    /// A new state, in place of the state with this revision.
    Replace { kind: KindId, expect: u64, value: Value },
    /// The end of the object that has this revision.
    Delete { kind: KindId, key: String, expect: u64 },
    /// What another write would do; nothing is kept of it.
    Dry(Box<Op>),
}

/// Why a write was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There is one of this name.
    Exists,
    /// There is none of this name.
    Missing,
    /// It has another revision now.
    Changed,
    /// The namespace does not exist.
    NoNamespace(String),
    /// The namespace is being deleted.
    NamespaceEnds(String),
    /// The podCIDRs cannot be had.
    PodCidr(String),
    /// The object breaks rules that only the writer can see, such as an address that another has.
    Invalid(Causes),
    /// Nothing is left to give.
    Full(String),
    /// The disk or the engine failed.
    Failed(String),
}

type Reply = Result<Arc<Object>, Refused>;
type Request = (Op, oneshot::Sender<Reply>);

/// Hands writes to the writer task; clones share it.
#[derive(Clone)]
pub(crate) struct Writer(mpsc::Sender<Request>);

impl Writer {
    /// Does one write; returns when it is on disk and visible.
    pub(crate) async fn write(&self, op: Op) -> Reply {
        let stopping = || Refused::Failed("the server is stopping".into());
        let (tx, rx) = oneshot::channel();
        self.0.send((op, tx)).await.map_err(|_| stopping())?;
        rx.await.map_err(|_| stopping())?
    }
}

/// The writer task.
pub(crate) struct WriterTask {
    requests: mpsc::Receiver<Request>,
    cache: Arc<Cache>,
    disk: Disk,
    revision: u64,
    alloc: Allocators,
}

impl WriterTask {
    /// The task, and the handle to it.
    pub(crate) fn new(cache: Arc<Cache>, disk: Disk, mut alloc: Allocators) -> (Self, Writer) {
        let (tx, requests) = mpsc::channel(1024);
        alloc.rebuild(&cache);
        let revision = cache.revision();
        (Self { requests, cache, disk, revision, alloc }, Writer(tx))
    }

    /// Writes until every [`Writer`] is gone, or `stop`; what was taken is finished.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut taken = Vec::with_capacity(BATCH);
        loop {
            let n = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.requests.close();
                    self.requests.recv_many(&mut taken, BATCH).await
                }
                n = self.requests.recv_many(&mut taken, BATCH) => n,
            };
            if n == 0 {
                return;
            }
            self.commit(std::mem::take(&mut taken)).await;
        }
    }

    async fn commit(&mut self, requests: Vec<Request>) {
        let mut batch = Batch { task: self, overlay: BTreeMap::new(), events: Vec::new() };
        let mut answers = Vec::with_capacity(requests.len());
        for (op, reply) in requests {
            answers.push((batch.apply(op), reply));
        }
        let (overlay, events) = (batch.overlay, batch.events);
        if let Err(reason) = self.to_disk(overlay, !events.is_empty()).await {
            tracing::error!(%reason, writes = answers.len(), "objects could not be written");
            // Addresses taken by writes that did not happen are free again. Revisions are not given twice.
            self.alloc.rebuild(&self.cache);
            for (answer, reply) in answers {
                let _ = reply.send(answer.and(Err(Refused::Failed(reason.clone()))));
            }
            return;
        }
        if !events.is_empty() {
            self.cache.publish(events, self.revision);
        }
        for (answer, reply) in answers {
            let _ = reply.send(answer);
        }
    }

    async fn to_disk(&self, overlay: Overlay, any: bool) -> Result<(), String> {
        let table = match &self.disk {
            Disk::Store(table) if any => table,
            _ => return Ok(()),
        };
        let mut changes: Vec<Change<ApiObject>> = overlay
            .into_iter()
            .map(|((kind, key), object)| {
                let key = row_key(kind, &key);
                match object {
                    Some(o) => {
                        let json = String::from_utf8_lossy(&o.json).into_owned();
                        Change::Put(ApiObject { key, revision: o.revision, json })
                    }
                    None => Change::Delete(key),
                }
            })
            .collect();
        changes.push(Change::Put(ApiObject {
            key: REVISION_ROW.into(),
            revision: self.revision,
            json: String::new(),
        }));
        table.commit(changes, Durability::Flushed).await.map(drop).map_err(|e| e.to_string())
    }
}

type Overlay = BTreeMap<(KindId, String), Option<Arc<Object>>>;

/// Writes of one commit: what they see is the committed state and each other.
struct Batch<'a> {
    task: &'a mut WriterTask,
    overlay: Overlay,
    events: Vec<Event>,
}

impl Batch<'_> {
    fn get(&self, kind: KindId, key: &str) -> Option<Arc<Object>> {
        match self.overlay.get(&(kind, key.to_owned())) {
            Some(found) => found.clone(),
            None => self.task.cache.get(kind, key),
        }
    }

    fn next_revision(&mut self) -> u64 {
        self.task.revision += 1;
        self.task.revision
    }

    fn put(&mut self, kind: KindId, value: Value, previous: Option<Arc<Object>>) -> Arc<Object> {
        let revision = self.next_revision();
        let object = Arc::new(Object::new(kind, value, revision));
        self.overlay.insert((kind, object.key()), Some(object.clone()));
        self.events.push(Event { revision, object: object.clone(), previous, deleted: false });
        object
    }

    fn remove(&mut self, object: &Arc<Object>) -> Arc<Object> {
        let revision = self.next_revision();
        self.overlay.insert((object.kind, object.key()), None);
        let last = Arc::new(Object::new(object.kind, object.full(), revision));
        self.events.push(Event {
            revision,
            object: last.clone(),
            previous: Some(object.clone()),
            deleted: true,
        });
        self.task.alloc.release(object);
        last
    }

    fn apply(&mut self, op: Op) -> Reply {
        match op {
            Op::Create { kind, value } => self.create(kind, value),
            Op::Replace { kind, expect, value } => self.replace(kind, expect, value),
            Op::Delete { kind, key, expect } => self.delete(kind, &key, expect),
            Op::Dry(op) => self.dry(*op),
        }
    }

    /// Does a write and takes it back.
    fn dry(&mut self, op: Op) -> Reply {
        let (alloc, revision) = (self.task.alloc.clone(), self.task.revision);
        let (overlay, events) = (self.overlay.clone(), self.events.len());
        let reply = self.apply(op);
        self.task.alloc = alloc;
        self.task.revision = revision;
        self.overlay = overlay;
        self.events.truncate(events);
        reply
    }

    fn create(&mut self, kind: KindId, mut value: Value) -> Reply {
        let (ns, name) = (text(&value, "/metadata/namespace"), text(&value, "/metadata/name"));
        if self.get(kind, &object_key(ns, name)).is_some() {
            return Err(Refused::Exists);
        }
        if !ns.is_empty() {
            admit(self.get(NAMESPACE, ns).as_deref(), ns)?;
        }
        self.task.alloc.create(kind, &mut value)?;
        Ok(self.put(kind, value, None))
    }

    fn replace(&mut self, kind: KindId, expect: u64, mut value: Value) -> Reply {
        let key = object_key(text(&value, "/metadata/namespace"), text(&value, "/metadata/name"));
        let current = self.get(kind, &key).ok_or(Refused::Missing)?;
        if current.revision != expect {
            return Err(Refused::Changed);
        }
        self.task.alloc.replace(kind, &current, &mut value)?;
        // A write that changes nothing keeps its resourceVersion and tells nobody.
        keep_managers(&mut value, &current);
        let managers = "/metadata/managedFields";
        if same(&current.value, &value) && current.full().pointer(managers) == value.pointer(managers) {
            return Ok(current);
        }
        Ok(self.put(kind, value, Some(current)))
    }

    fn delete(&mut self, kind: KindId, key: &str, expect: u64) -> Reply {
        let current = self.get(kind, key).ok_or(Refused::Missing)?;
        if current.revision != expect {
            return Err(Refused::Changed);
        }
        Ok(self.remove(&current))
    }
}

/// Whether a namespace takes new objects: it is there, and it does not end.
fn admit(namespace: Option<&Object>, name: &str) -> Result<(), Refused> {
    let Some(namespace) = namespace else { return Err(Refused::NoNamespace(name.to_owned())) };
    let ends = !text(&namespace.value, "/metadata/deletionTimestamp").is_empty()
        || text(&namespace.value, "/status/phase") == "Terminating";
    if ends { Err(Refused::NamespaceEnds(name.to_owned())) } else { Ok(()) }
}

/// Whether two states differ in nothing but the resourceVersion and the owners of fields.
fn same(a: &Value, b: &Value) -> bool {
    let (Value::Object(a), Value::Object(b)) = (a, b) else { return a == b };
    let strip = |v: Option<&Value>| {
        let mut v = v.cloned().unwrap_or_default();
        if let Value::Object(m) = &mut v {
            for key in ["resourceVersion", "managedFields"] {
                m.shift_remove(key);
            }
        }
        v
    };
    a.len() == b.len()
        && a.iter().all(
            |(k, v)| if k == "metadata" { strip(Some(v)) == strip(b.get(k)) } else { b.get(k) == Some(v) },
        )
}
