//! A model of watches: writers at random, watchers that are slow, leave and come back, history that is cut by count and
//! by age. Time is paused, so that a seed is a whole run.

use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::alloc::Allocators;
use crate::query::Params;
use crate::registry::{CONFIG_MAP, NAMESPACE, POD};
use crate::reply::Form;
use crate::selector::Selector;
use crate::storage::{Cache, Disk, History, Op, Writer, WriterTask, object_key};
use crate::table::{Include, text};
use crate::watch::{self, Shape};

const WATCHERS: u64 = 24;
const WRITES: u64 = 1500;
/// The last object that is written: who has seen it has seen everything.
const END: &str = "zz-end";

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }
    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

async fn write(cache: Arc<Cache>, writer: Writer, mut dice: Dice) {
    for n in 0..WRITES {
        let name = format!("o{}", dice.roll(30));
        let app = if dice.one_in(2) { "a" } else { "b" };
        let value = json!({"metadata": {"name": name, "namespace": "d", "uid": format!("{n}"), "labels": {"app": app}}, "n": n});
        let op = match cache.get(CONFIG_MAP, &object_key("d", &name)) {
            None => Op::Create { kind: CONFIG_MAP, value },
            Some(o) if dice.one_in(3) => Op::Delete { kind: CONFIG_MAP, key: o.key(), expect: o.revision },
            Some(o) => Op::Replace { kind: CONFIG_MAP, expect: o.revision, value },
        };
        // Another writer may have been faster; that is part of it.
        let _ = writer.write(op).await;
        if dice.one_in(5) {
            // Another kind takes revisions too.
            let value =
                json!({"metadata": {"name": format!("p{n}-{}", dice.roll(u64::MAX)), "namespace": "d"}});
            let _ = writer.write(Op::Create { kind: POD, value }).await;
        }
        if dice.one_in(20) {
            cache.compact();
        }
        if dice.one_in(10) {
            tokio::time::sleep(Duration::from_millis(dice.roll(200))).await;
        }
    }
}

/// What one watcher knows.
struct Watcher {
    cache: Arc<Cache>,
    dice: Dice,
    labels: &'static str,
    slow: bool,
    state: BTreeMap<String, Value>,
    /// The last resourceVersion that it was told.
    seen: u64,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    events: u64,
    resumed: u64,
    gone: u64,
    lists: u64,
}

type Lines = futures::stream::BoxStream<'static, Value>;

impl Watcher {
    fn selector(&self) -> Selector {
        Selector::parse(CONFIG_MAP.get(), Some("d"), self.labels, "").unwrap()
    }

    fn open(&self, mut params: Params) -> Lines {
        params.watch = true;
        let shape = Shape { kind: CONFIG_MAP, form: Form::Object, include: Include::Metadata };
        let stop = CancellationToken::new();
        let response = watch::start(self.cache.clone(), self.selector(), shape, &params, stop).unwrap();
        let chunks = response.into_body().into_data_stream().map(|c| c.unwrap());
        let lines = |chunk: Bytes| {
            let lines: Vec<Value> = chunk
                .split(|b| *b == b'\n')
                .filter(|l| !l.is_empty())
                .map(|l| serde_json::from_slice(l).unwrap())
                .collect();
            futures::stream::iter(lines)
        };
        chunks.flat_map(lines).boxed()
    }

    /// Lists as a client does.
    fn list(&mut self) {
        self.counts.lists += 1;
        let (objects, revision) = self.cache.list(CONFIG_MAP);
        let selector = self.selector();
        let shown = objects.values().filter(|o| selector.matches(&o.value, &o.namespace));
        self.state = shown.map(|o| (o.name.clone(), o.value.clone())).collect();
        self.seen = revision;
    }

    /// Watches until the end was seen.
    async fn run(mut self) -> Self {
        let mut stream = None;
        while !self.state.contains_key(END) {
            let mut lines = match stream.take() {
                Some(lines) => lines,
                None => {
                    // The list that it begins with may show the end already.
                    stream = Some(self.connect().await);
                    continue;
                }
            };
            match lines.next().await {
                None => continue,
                Some(event) if self.take(&event) => {}
                Some(_) => {
                    self.counts.gone += 1;
                    self.list();
                    continue;
                }
            }
            if self.slow && self.dice.one_in(4) {
                tokio::time::sleep(Duration::from_millis(self.dice.roll(1500))).await;
            }
            if !self.dice.one_in(25) {
                stream = Some(lines);
            } else if self.dice.one_in(3) {
                tokio::time::sleep(Duration::from_millis(self.dice.roll(4000))).await;
            }
        }
        self
    }

    async fn connect(&mut self) -> Lines {
        let bookmarks = self.dice.one_in(2);
        match self.dice.roll(6) {
            // A list through the watch itself.
            0 => {
                let params = Params {
                    send_initial_events: Some(true),
                    resource_version_match: "NotOlderThan".into(),
                    bookmarks: true,
                    ..Params::default()
                };
                self.counts.lists += 1;
                let mut lines = self.open(params);
                let mut state = BTreeMap::new();
                loop {
                    let event = lines.next().await.unwrap();
                    let o = &event["object"];
                    if event["type"] == "BOOKMARK" {
                        assert_eq!(o["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
                        self.seen = text(o, "/metadata/resourceVersion").parse().unwrap();
                        self.state = state;
                        return lines;
                    }
                    assert_eq!(event["type"], "ADDED");
                    assert!(state.insert(text(o, "/metadata/name").to_owned(), o.clone()).is_none());
                }
            }
            1 => self.list(),
            _ if self.seen == 0 => self.list(),
            _ => self.counts.resumed += 1,
        }
        self.open(Params { resource_version: self.seen.to_string(), bookmarks, ..Params::default() })
    }

    /// Takes an event in; `false`: list again.
    fn take(&mut self, event: &Value) -> bool {
        let (kind, o) = (text(event, "/type"), &event["object"]);
        if kind == "ERROR" {
            assert_eq!((&o["code"], &o["reason"]), (&json!(410), &json!("Expired")));
            return false;
        }
        let revision: u64 = text(o, "/metadata/resourceVersion").parse().unwrap();
        if kind == "BOOKMARK" {
            assert!(revision >= self.seen);
            self.seen = revision;
            return true;
        }
        self.counts.events += 1;
        assert!(revision > self.seen, "{revision} after {}: twice or out of order", self.seen);
        self.seen = revision;
        let name = text(o, "/metadata/name").to_owned();
        let had = match kind {
            "DELETED" => self.state.remove(&name),
            _ => self.state.insert(name, o.clone()),
        };
        assert_eq!(had.is_some(), kind != "ADDED", "{kind} does not fit what was known");
        true
    }
}

async fn run(seed: u64) -> Counts {
    let history = History { events: 60, bytes: 1 << 20, age: Duration::from_millis(2500) };
    let cache = Arc::new(Cache::new(Vec::new(), 1, history));
    let (task, writer) = WriterTask::new(cache.clone(), Disk::Memory, Allocators::of_ten());
    let mut background = JoinSet::new();
    background.spawn(task.run(CancellationToken::new()));
    let namespace = json!({"metadata": {"name": "d"}});
    writer.write(Op::Create { kind: NAMESPACE, value: namespace }).await.unwrap();

    let mut watchers = JoinSet::new();
    for n in 0..WATCHERS {
        let labels = ["", "app=a", "app!=a", "app"][usize::try_from(n % 4).unwrap()];
        let watcher = Watcher {
            cache: cache.clone(),
            dice: Dice(seed * 1000 + n + 1),
            labels,
            slow: n % 3 == 0,
            state: BTreeMap::new(),
            seen: 0,
            counts: Counts::default(),
        };
        watchers.spawn(watcher.run());
    }
    let mut writers = JoinSet::new();
    for n in 0..3 {
        writers.spawn(write(cache.clone(), writer.clone(), Dice(seed * 77 + n + 1)));
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    // In and out of every selection at once: shown to all, with and without the label.
    let last = |name: &str, app: &str| {
        let value = json!({"metadata": {"name": name, "namespace": "d", "labels": {"app": app}}});
        Op::Create { kind: CONFIG_MAP, value }
    };
    writer.write(last(END, "a")).await.unwrap();
    let marked = cache.get(CONFIG_MAP, &object_key("d", END)).unwrap();
    let mut total = Counts::default();
    let mut waiting = WATCHERS;
    // Those that select `a` and those that select all but `a` see the end one after the other.
    for app in ["a", "b"] {
        if app == "b" {
            let mut value = marked.value.clone();
            value["metadata"]["labels"]["app"] = "b".into();
            writer.write(Op::Replace { kind: CONFIG_MAP, expect: marked.revision, value }).await.unwrap();
        }
        let expected = |labels: &str| {
            let selector = Selector::parse(CONFIG_MAP.get(), Some("d"), labels, "").unwrap();
            let objects = cache.list(CONFIG_MAP).0;
            let shown = objects.values().filter(|o| selector.matches(&o.value, &o.namespace));
            shown.map(|o| (o.name.clone(), o.value.clone())).collect::<BTreeMap<_, _>>()
        };
        while waiting > if app == "a" { WATCHERS / 4 } else { 0 } {
            let done = tokio::time::timeout(Duration::from_secs(600), watchers.join_next()).await;
            let w = done
                .unwrap_or_else(|_| panic!("seed {seed}: {waiting} watchers wait for ever"))
                .unwrap()
                .unwrap();
            assert_eq!(w.state, expected(w.labels), "seed {seed}: {:?}", w.labels);
            waiting -= 1;
            total.events += w.counts.events;
            total.resumed += w.counts.resumed;
            total.gone += w.counts.gone;
            total.lists += w.counts.lists;
        }
    }
    total
}

#[tokio::test(start_paused = true)]
async fn every_watcher_ends_with_what_a_list_shows_and_sees_nothing_twice() {
    let seeds = std::env::var("WARREN_WATCH_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(3);
    for seed in 1..=seeds {
        let seen = run(seed).await;
        println!(
            "seed {seed}: {} events, {} resumed, {} too old, {} lists",
            seen.events, seen.resumed, seen.gone, seen.lists
        );
        // A run in which nothing of this happened has tried nothing.
        assert!(seen.events > 5_000 && seen.resumed > 50 && seen.gone > 10, "seed {seed}");
    }
}
