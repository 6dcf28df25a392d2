//! The committed state in memory, and each kind's recent history. Watches read the history by position: there is no
//! queue a watcher, and one that falls behind the history is told to list again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Object;
use crate::registry::KindId;

/// One change of one object.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) revision: u64,
    /// The object after the change; after a deletion its last state.
    pub(crate) object: Arc<Object>,
    /// The object before the change; none when it is new.
    pub(crate) previous: Option<Arc<Object>>,
    pub(crate) deleted: bool,
}

/// Objects of one kind, by key.
pub(crate) type Objects = Arc<BTreeMap<String, Arc<Object>>>;

/// How much history a kind keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct History {
    /// Most events.
    pub(crate) events: usize,
    /// Most bytes of objects in them.
    pub(crate) bytes: usize,
    /// How long an event is kept.
    pub(crate) age: Duration,
}

impl Default for History {
    fn default() -> Self {
        Self { events: 10_000, bytes: 64 << 20, age: Duration::from_secs(600) }
    }
}

/// Most snapshots of a kind that are kept for `continue`.
const SNAPSHOTS: usize = 8;

struct KindState {
    objects: Objects,
    /// Events, each with when it became visible.
    log: VecDeque<(Instant, Event)>,
    log_bytes: usize,
    /// Events up to this revision are no longer in the log.
    compacted: u64,
    /// States that a paged list goes on reading.
    snapshots: VecDeque<Snapshot>,
}

struct Snapshot {
    at: Instant,
    revision: u64,
    objects: Objects,
}

struct Inner {
    revision: u64,
    kinds: Vec<KindState>,
}

/// The committed state.
pub(crate) struct Cache {
    inner: RwLock<Inner>,
    changed: Vec<watch::Sender<u64>>,
    history: History,
}

/// What a watcher finds after its position.
pub(crate) enum Since {
    /// Events, and the revision up to which they are complete.
    Events(Vec<Event>, u64),
    /// The history no longer reaches back that far.
    Gone { oldest: u64 },
}

impl Cache {
    pub(crate) fn new(objects: Vec<Arc<Object>>, revision: u64, history: History) -> Self {
        let mut maps: Vec<BTreeMap<String, Arc<Object>>> = KindId::all().map(|_| BTreeMap::new()).collect();
        for o in objects {
            maps[o.kind.0].insert(o.key(), o);
        }
        let kinds = maps
            .into_iter()
            .map(|m| KindState {
                objects: Arc::new(m),
                log: VecDeque::new(),
                log_bytes: 0,
                compacted: revision,
                snapshots: VecDeque::new(),
            })
            .collect();
        let changed = KindId::all().map(|_| watch::Sender::new(revision)).collect();
        Self { inner: RwLock::new(Inner { revision, kinds }), changed, history }
    }

    fn read<R>(&self, f: impl FnOnce(&Inner) -> R) -> R {
        f(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The last committed revision.
    pub(crate) fn revision(&self) -> u64 {
        self.read(|i| i.revision)
    }
    /// One object.
    pub(crate) fn get(&self, kind: KindId, key: &str) -> Option<Arc<Object>> {
        self.read(|i| i.kinds[kind.0].objects.get(key).cloned())
    }
    /// Every object of a kind, and the revision this shows.
    pub(crate) fn list(&self, kind: KindId) -> (Objects, u64) {
        self.read(|i| (i.kinds[kind.0].objects.clone(), i.revision))
    }
    /// The objects of a kind whose keys begin with `prefix`, in the order of their keys.
    pub(crate) fn list_from(&self, kind: KindId, prefix: &str) -> Vec<Arc<Object>> {
        let objects = self.list(kind).0;
        let range = objects.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        range.map(|(_, o)| o.clone()).collect()
    }
    /// The objects of a kind in a namespace.
    pub(crate) fn list_in(&self, kind: KindId, namespace: &str) -> Vec<Arc<Object>> {
        self.list_from(kind, &format!("{namespace}/"))
    }
    /// Keeps a state for a later `continue`.
    pub(crate) fn keep_snapshot(&self, kind: KindId, revision: u64, objects: Objects) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut inner.kinds[kind.0].snapshots;
        if kept.iter().all(|s| s.revision != revision) {
            kept.push_back(Snapshot { at: Instant::now(), revision, objects });
            kept.drain(..kept.len().saturating_sub(SNAPSHOTS));
        }
    }
    /// A state that was kept.
    pub(crate) fn snapshot(&self, kind: KindId, revision: u64) -> Option<Objects> {
        self.read(|i| {
            i.kinds[kind.0].snapshots.iter().find(|s| s.revision == revision).map(|s| s.objects.clone())
        })
    }
    /// Wakes with each change of a kind.
    pub(crate) fn subscribe(&self, kind: KindId) -> watch::Receiver<u64> {
        self.changed[kind.0].subscribe()
    }
    /// At most `most` events after `position`.
    pub(crate) fn since(&self, kind: KindId, position: u64, most: usize) -> Since {
        self.read(|i| {
            let k = &i.kinds[kind.0];
            if position < k.compacted {
                return Since::Gone { oldest: k.compacted };
            }
            let start = k.log.partition_point(|(_, e)| e.revision <= position);
            let events: Vec<Event> = k.log.iter().skip(start).take(most).map(|(_, e)| e.clone()).collect();
            let complete = if start + events.len() == k.log.len() {
                i.revision
            } else {
                events.last().map_or(position, |e| e.revision)
            };
            Since::Events(events, complete)
        })
    }

    /// Drops history that is too old, also of kinds that nobody writes.
    pub(crate) fn compact(&self) {
        let now = Instant::now();
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        for kind in &mut inner.kinds {
            kind.compact(now, self.history);
        }
    }

    /// Makes a committed batch visible, in order.
    pub(super) fn publish(&self, events: Vec<Event>, revision: u64) {
        let (mut touched, now) = (Vec::new(), Instant::now());
        {
            let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
            for event in events {
                let kind = event.object.kind;
                if !touched.contains(&kind) {
                    touched.push(kind);
                }
                inner.kinds[kind.0].apply(event, now, self.history);
            }
            inner.revision = revision;
        }
        for kind in touched {
            self.changed[kind.0].send_replace(revision);
        }
    }
}

impl KindState {
    fn apply(&mut self, event: Event, now: Instant, history: History) {
        let objects = Arc::make_mut(&mut self.objects);
        if event.deleted {
            objects.remove(&event.object.key());
        } else {
            objects.insert(event.object.key(), event.object.clone());
        }
        self.log_bytes += event.object.json.len();
        self.log.push_back((now, event));
        self.compact(now, history);
    }

    /// Drops what is too much or too old.
    fn compact(&mut self, now: Instant, history: History) {
        let old = |at: Instant| now.saturating_duration_since(at) > history.age;
        while let Some((at, _)) = self.log.front()
            && (self.log.len() > history.events
                || (self.log_bytes > history.bytes && self.log.len() > 1)
                || old(*at))
        {
            let Some((_, event)) = self.log.pop_front() else { break };
            self.log_bytes -= event.object.json.len();
            self.compacted = event.revision;
        }
        self.snapshots.retain(|s| !old(s.at));
    }
}
