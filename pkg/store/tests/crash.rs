//! Kills a process that writes, at random points, and checks what it had been promised.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step is a failed test")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use warren_store::{Change, Durability, Record, Store};

const DIR: &str = "WARREN_STORE_CRASH_DIR";
const ROUNDS: &str = "WARREN_STORE_CRASH_ROUNDS";
const TASKS: u32 = 4;
/// So many of a task's numbered rows are kept.
const WINDOW: u64 = 40;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    key: String,
    n: u64,
    text: String,
}

impl Record for Row {
    const TABLE: &'static str = "rows";
    fn key(&self) -> String {
        self.key.clone()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Noise(String, u64);

impl Record for Noise {
    const TABLE: &'static str = "noise";
    fn key(&self) -> String {
        self.0.clone()
    }
}

fn row(key: String, n: u64) -> Row {
    // Some rows take several engine records.
    let len = if n.is_multiple_of(7) { 9000 } else { usize::try_from(n % 300).unwrap() };
    Row { key, n, text: "x".repeat(len) }
}

fn last(store: &Store, task: u32) -> u64 {
    store.table::<Row>().get(&format!("t{task}-head")).map_or(0, |r| r.n)
}

/// One step of a task: its head, its tail and a numbered row change together.
fn batch(task: u32, n: u64) -> Vec<Change<Row>> {
    let mut batch = vec![
        Change::Put(row(format!("t{task}-head"), n)),
        Change::Put(row(format!("t{task}-{n:08}"), n)),
        Change::Put(row(format!("t{task}-tail"), n)),
    ];
    if let Some(old) = n.checked_sub(WINDOW) {
        batch.push(Change::Delete(format!("t{task}-{old:08}")));
    }
    batch
}

fn say(line: std::fmt::Arguments<'_>) {
    // The parent is gone, or has heard enough.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// The child: writes until killed. Does nothing when run as an ordinary test.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let opened = Store::open(Path::new(&dir)).unwrap();
    if let Some(aside) = opened.set_aside {
        say(format_args!("set aside: {}", aside.reason));
        return;
    }
    let store = opened.store;
    say(format_args!("ready"));
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    rt.block_on(async {
        let mut set = tokio::task::JoinSet::new();
        for task in 0..TASKS {
            let store = store.clone();
            set.spawn(async move {
                let table = store.table::<Row>();
                let mut n = last(&store, task);
                loop {
                    n += 1;
                    let revision = table.commit(batch(task, n), Durability::Flushed).await.unwrap();
                    say(format_args!("ack {task} {n} {revision}"));
                }
            });
        }
        set.spawn(async move {
            let table = store.table::<Noise>();
            for n in 0.. {
                table.put(Noise(format!("n{}", n % 500), n), Durability::Cached).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        set.join_all().await;
    });
}

/// What one life of the child promised: per task the last acknowledged step, and the last revision.
fn live_and_die(dir: &Path, after: Duration, from_start: bool) -> (BTreeMap<u32, u64>, u64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let (tx, rx) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let (mut acks, mut revision) = (BTreeMap::new(), 0);
        for line in out.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8(line).unwrap();
            assert!(!line.contains("set aside"), "{line}");
            if line.ends_with("ready") {
                let _ = tx.send(());
            }
            if let Some(["ack", task, n, rev]) = line.split(' ').collect::<Vec<_>>().get(..) {
                acks.insert(task.parse().unwrap(), n.parse().unwrap());
                revision = revision.max(rev.parse().unwrap());
            }
        }
        (acks, revision)
    });
    if !from_start {
        rx.recv_timeout(Duration::from_secs(60)).expect("the child opens the store");
    }
    std::thread::park_timeout(after);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

fn check(dir: &Path, acks: &BTreeMap<u32, u64>, revision: u64) {
    let opened = Store::open(dir).unwrap();
    assert!(opened.set_aside.is_none(), "{:?}", opened.set_aside);
    let store = opened.store;
    assert!(store.revision() >= revision, "revision {} after {revision} was acknowledged", store.revision());
    let rows = store.table::<Row>().snapshot().rows;
    for task in 0..TASKS {
        let n = last(&store, task);
        let acked = acks.get(&task).copied().unwrap_or(0);
        assert!(n >= acked, "task {task}: step {acked} was acknowledged, {n} is there");
        assert!(
            n <= acked + 1,
            "task {task}: step {n} is there, only {acked} can have been asked for before"
        );
        let mut want = BTreeMap::new();
        if n > 0 {
            for step in n.saturating_sub(WINDOW - 1).max(1)..=n {
                let r = row(format!("t{task}-{step:08}"), step);
                want.insert(r.key.clone(), r);
            }
            for end in ["head", "tail"] {
                want.insert(format!("t{task}-{end}"), row(format!("t{task}-{end}"), n));
            }
        }
        let prefix = format!("t{task}-");
        let got: BTreeMap<_, _> =
            rows.iter_prefix(&prefix).map(|(k, v)| (k.clone(), (**v).clone())).collect();
        assert!(got == want, "task {task}: a torn batch: {:?}", got.keys().collect::<Vec<_>>());
    }
}

#[test]
fn every_acknowledged_write_outlives_kill_9() {
    let rounds: u32 = std::env::var(ROUNDS).map_or(24, |s| s.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let dir: PathBuf = dir.path().join("store");
    let (mut all, mut top) = (BTreeMap::new(), 0);
    for round in 0..rounds {
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), round);
        // Every fourth one dies while it opens, or soon after.
        let from_start = round % 4 == 3;
        let after = Duration::from_millis(random % if from_start { 40 } else { 200 });
        let (acks, revision) = live_and_die(&dir, after, from_start);
        all.extend(acks);
        top = top.max(revision);
        eprintln!("round {round}: killed after {after:?}, acknowledged {all:?}, revision {top}");
        check(&dir, &all, top);
        for task in 0..TASKS {
            // A step that was on its way when the child died may have happened.
            let store = Store::open(&dir).unwrap().store;
            all.insert(task, last(&store, task));
        }
    }
    assert!(top > 0, "no round wrote anything");
}
