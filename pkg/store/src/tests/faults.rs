//! Damaged files, foreign files and engines that fail.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Item, item, open, runtime};
use crate::codec::{Stored, Write};
use crate::engine::{Engine, OpenError, Opener, SledOpener};
use crate::{Durability, Store, StoreError};

/// How a failing engine fails.
#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    /// The call does nothing and fails.
    Before,
    /// The call happens and then fails.
    After,
    /// The next openings find damaged files too.
    Damaged,
}

/// Wraps sled; the call number `at` fails, and so do the next `refusals` openings.
struct Faulty {
    calls: Arc<AtomicI64>,
    at: i64,
    how: How,
    refusals: AtomicU32,
    open_as_damaged: Arc<Mutex<bool>>,
}

struct FaultyEngine {
    inner: Box<dyn Engine>,
    calls: Arc<AtomicI64>,
    at: i64,
    how: How,
    open_as_damaged: Arc<Mutex<bool>>,
}

impl Opener for Faulty {
    fn open(&self, dir: &Path) -> Result<Box<dyn Engine>, OpenError> {
        let failed = self.calls.load(Ordering::SeqCst) > self.at;
        if failed
            && self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
        {
            return Err(OpenError::Io(std::io::ErrorKind::StorageFull.into()));
        }
        if std::mem::take(&mut *self.open_as_damaged.lock().unwrap()) {
            return Err(OpenError::Damaged("for the test".into()));
        }
        let (calls, at, how) = (Arc::clone(&self.calls), self.at, self.how);
        let open_as_damaged = Arc::clone(&self.open_as_damaged);
        Ok(Box::new(FaultyEngine { inner: SledOpener.open(dir)?, calls, at, how, open_as_damaged }))
    }
}

impl FaultyEngine {
    fn call(&mut self, f: impl FnOnce(&mut dyn Engine) -> Result<(), String>) -> Result<(), String> {
        if self.calls.fetch_add(1, Ordering::SeqCst) != self.at {
            return f(&mut *self.inner);
        }
        if self.how != How::Before {
            f(&mut *self.inner)?;
        }
        *self.open_as_damaged.lock().unwrap() = self.how == How::Damaged;
        Err("for the test".into())
    }
}

impl Engine for FaultyEngine {
    fn apply(&mut self, batch: Vec<Write>) -> Result<(), String> {
        self.call(|e| e.apply(batch))
    }
    fn flush(&mut self) -> Result<(), String> {
        self.call(|e| e.flush())
    }
    fn scan(&mut self) -> Result<Vec<Stored>, String> {
        self.inner.scan()
    }
    fn disk_bytes(&self) -> u64 {
        self.inner.disk_bytes()
    }
}

#[test]
fn a_failure_at_any_call_is_an_answer_to_one_write_and_poisons_none() {
    let rt = runtime();
    for how in [How::Before, How::After, How::Damaged] {
        // The first two calls make the empty store.
        for at in 2..14 {
            let dir = tempfile::tempdir().unwrap();
            let opener = Faulty {
                calls: Arc::default(),
                at,
                how,
                refusals: AtomicU32::new(u32::from(at % 3 == 0)),
                open_as_damaged: Arc::default(),
            };
            let store = Store::open_with(dir.path(), Arc::new(opener)).unwrap().store;
            let table = store.table::<Item>();
            let (mut model, mut failed) = (BTreeMap::new(), 0);
            rt.block_on(async {
                for n in 0..12u32 {
                    let row = item(&format!("k{}", n % 5), n);
                    let durability = if n % 4 == 1 { Durability::Cached } else { Durability::Flushed };
                    match table.put(row.clone(), durability).await {
                        Ok(_) => {
                            model.insert(row.name.clone(), row);
                        }
                        Err(StoreError::Engine(_)) => {
                            failed += 1;
                            tokio::time::sleep(Duration::from_millis(210)).await;
                        }
                        Err(e) => panic!("{e}"),
                    }
                    let now: BTreeMap<_, _> =
                        table.snapshot().rows.iter().map(|(k, v)| (k.clone(), (**v).clone())).collect();
                    assert_eq!(now, model, "{how:?} at {at}, after write {n}");
                }
                store.close().await.unwrap();
            });
            // A failure of the flush in the background is nobody's answer.
            assert!(failed <= 2, "{how:?} at {at}: {failed} failures");
            drop((store, table));
            let rows = open(dir.path()).table::<Item>().snapshot().rows;
            let now: BTreeMap<_, _> = rows.iter().map(|(k, v)| (k.clone(), (**v).clone())).collect();
            assert_eq!(now, model, "{how:?} at {at}, after opening again");
        }
    }
}

/// A store with some rows in `dir`.
fn fill(dir: &Path) -> usize {
    let store = open(dir);
    runtime().block_on(async {
        let table = store.table();
        for n in 0..60 {
            let row = Item { text: "y".repeat(200), ..item(&format!("k{n}"), n) };
            table.put(row, Durability::Flushed).await.unwrap();
        }
        store.close().await.unwrap();
    });
    60
}

fn engine_dir(dir: &Path) -> PathBuf {
    dir.join("gen-1")
}

/// Opens whatever is there: it must work, and hold everything or say where that is; `lossy`, after damage to both
/// copies, it may also hold what there was at some earlier moment.
fn reopen(dir: &Path, rows: usize, lossy: bool) -> bool {
    let opened = Store::open(dir).unwrap();
    let snapshot = opened.store.table::<Item>().snapshot();
    let now = snapshot.rows.len();
    let aside = opened.set_aside.is_some();
    if let Some(aside) = &opened.set_aside {
        assert!(aside.copy.exists() && !aside.reason.is_empty());
        assert!(aside.copy.to_string_lossy().contains(".broken-"), "{:?}", aside.copy);
        assert_eq!(now, 0);
    } else if lossy {
        assert!((0..now).all(|n| snapshot.rows.contains_key(&format!("k{n}"))), "not a moment of the past");
    } else {
        assert_eq!(now, rows, "rows vanished without a word");
    }
    runtime().block_on(async {
        opened.store.table().put(item("new", 1), Durability::Flushed).await.unwrap();
        opened.store.close().await.unwrap();
    });
    drop(opened);
    let opened = Store::open(dir).unwrap();
    assert!(opened.set_aside.is_none(), "{:?}", opened.set_aside);
    assert!(opened.store.table::<Item>().get("new").is_some());
    aside
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Opens copies of a good store, each with another damage.
fn with_damage(images: usize, lossy: bool, damage: impl Fn(&Path, usize)) -> usize {
    let base = tempfile::tempdir().unwrap();
    let good = base.path().join("good");
    let rows = fill(&good);
    let mut aside = 0;
    for n in 0..images {
        let dir = base.path().join(format!("image-{n}"));
        copy(&good, &dir);
        damage(&dir, n);
        aside += usize::from(reopen(&dir, rows, lossy));
        let names = fs::read_dir(base.path()).unwrap().map(|e| e.unwrap().path());
        for path in names.filter(|p| p != &good) {
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
    }
    aside
}

/// How many images; the environment asks for more.
fn images(default: usize) -> usize {
    std::env::var("WARREN_STORE_IMAGES").map_or(default, |s| s.parse().unwrap())
}

/// The engine's log, and the journal.
fn both(dir: &Path) -> [PathBuf; 2] {
    [engine_dir(dir).join("db"), dir.join("journal")]
}

/// The end of what was written: sled fills the rest of a segment.
fn end(log: &[u8]) -> usize {
    log.iter().rposition(|&b| b != 0 && b != log[log.len() - 1]).unwrap_or(0) + 1
}

fn flip(path: &Path, n: usize, count: usize) {
    let mut log = fs::read(path).unwrap();
    let at = end(&log) * n / count;
    log[at] ^= 1 << (n % 8);
    fs::write(path, log).unwrap();
}

fn tear(path: &Path, n: usize, count: usize) {
    let mut log = fs::read(path).unwrap();
    log.truncate(end(&log) * n / count / 512 * 512);
    fs::write(path, log).unwrap();
}

#[test]
fn damage_to_one_copy_costs_nothing() {
    let count = images(12);
    for which in 0..2 {
        assert_eq!(with_damage(count, false, |dir, n| flip(&both(dir)[which], n, count)), 0);
        assert_eq!(with_damage(count, false, |dir, n| tear(&both(dir)[which], n, count)), 0);
    }
    let gone: [&dyn Fn(&Path); 6] = [
        &|dir| fs::remove_file(dir.join("journal")).unwrap(),
        &|dir| fs::write(dir.join("journal"), "not a journal").unwrap(),
        &|dir| fs::remove_dir_all(engine_dir(dir)).unwrap(),
        &|dir| fs::write(dir.join("FORMAT"), "warren-store\nschema 1\ngeneration 9\n").unwrap(),
        &|dir| {
            fs::write(
                engine_dir(dir).join("conf"),
                "segment_size: 7\nuse_compression: true\nversion: 9.9\n....",
            )
            .unwrap()
        },
        &|dir| fs::write(engine_dir(dir).join("db"), "not a log").unwrap(),
    ];
    assert_eq!(with_damage(gone.len(), false, |dir, n| gone[n](dir)), 0);
}

#[test]
fn damage_to_both_copies_is_set_aside_or_a_moment_of_the_past() {
    let count = images(12);
    with_damage(count, true, |dir, n| both(dir).iter().for_each(|p| flip(p, n, count)));
    let aside = with_damage(count, true, |dir, n| both(dir).iter().for_each(|p| tear(p, n, count)));
    assert!(aside > 0, "no torn store was noticed");
}

#[test]
fn half_written_and_flipped_snapshots_cost_nothing() {
    let aside = with_damage(6, true, |dir, n| {
        fs::remove_file(dir.join("journal")).unwrap();
        let dir = engine_dir(dir);
        let snapshot = crate::engine::snapshots(&dir).unwrap().pop();
        match n {
            0 => fs::write(dir.join("snap.FFFFFFFFFFFFFFFF.generating"), "half").unwrap(),
            1 => fs::write(dir.join("snap.0000000000000000.generating"), "").unwrap(),
            2 => fs::write(dir.join("snap.FFFFFFFFFFFFFFFF"), "half a snapshot, but named as a whole one")
                .unwrap(),
            3 => fs::write(dir.join("snap.FFFFFFFFFFFFFFFF"), "").unwrap(),
            _ => {
                if let Some(path) = snapshot {
                    let mut bytes = fs::read(&path).unwrap();
                    let at = bytes.len() * (n - 3) / 4;
                    bytes[at] ^= 4;
                    fs::write(path, bytes).unwrap();
                }
            }
        }
    });
    assert_eq!(aside, 0);
}

#[test]
fn foreign_and_mangled_directories_are_set_aside() {
    let damages: [&dyn Fn(&Path); 5] = [
        &|dir| fs::remove_file(dir.join("FORMAT")).unwrap(),
        &|dir| fs::write(dir.join("FORMAT"), "").unwrap(),
        &|dir| fs::write(dir.join("FORMAT"), b"\xff\xfe").unwrap(),
        &|dir| {
            fs::remove_dir_all(engine_dir(dir)).unwrap();
            fs::write(dir.join("journal"), "not a journal").unwrap();
        },
        &|dir| {
            fs::remove_dir_all(dir).unwrap();
            fs::write(dir, "a file in its place").unwrap();
        },
    ];
    let aside = with_damage(damages.len(), false, |dir, n| damages[n](dir));
    assert_eq!(aside, damages.len());
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("somebody's file"), "precious").unwrap();
    let opened = Store::open(dir.path()).unwrap();
    let aside = opened.set_aside.unwrap();
    assert_eq!(fs::read_to_string(aside.copy.join("somebody's file")).unwrap(), "precious");
    fs::remove_dir_all(aside.copy).unwrap();
}

#[test]
fn a_crash_while_the_store_is_made_leaves_an_empty_store() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("FORMAT"), "warren-store\nschema 1\ngeneration 0\n").unwrap();
    fs::create_dir(dir.path().join("gen-1")).unwrap();
    fs::write(dir.path().join("gen-1/db"), "half").unwrap();
    open(dir.path());
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    fs::write(dir.path().join("FORMAT"), "warren-store\nschema 2\nwhatever\n").unwrap();
    match Store::open(dir.path()) {
        Err(StoreError::Schema { found: 2, known: 1, .. }) => {}
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("a newer store was opened"),
    }
    assert!(engine_dir(dir.path()).exists());
}

#[test]
fn old_copies_do_not_pile_up() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("store");
    for _ in 0..8 {
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("FORMAT"), "garbage").unwrap();
        assert!(Store::open(&dir).unwrap().set_aside.is_some());
    }
    let mut names: Vec<_> =
        fs::read_dir(base.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(
        names,
        ["store", "store.broken-4", "store.broken-5", "store.broken-6", "store.broken-7", "store.broken-8"]
    );
}
