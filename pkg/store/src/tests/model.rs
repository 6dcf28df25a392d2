//! The store against a reference model.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::{Item, Other, item, open, runtime};
use crate::{Change, Durability, Record, Revision, Store, StoreError};

#[derive(Debug, Clone)]
enum Op {
    Commit(Vec<(u8, Option<u32>, u16)>, bool),
    Replace(Vec<(u8, u32)>),
    Other(u32),
    Reopen,
    Drop,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let change = (0u8..40, prop::option::weighted(0.7, 0u32..3), 0u16..9000);
    let op = prop_oneof![
        8 => (prop::collection::vec(change, 1..5), any::<bool>()).prop_map(|(c, f)| Op::Commit(c, f)),
        1 => prop::collection::vec((0u8..40, 0u32..3), 0..30).prop_map(Op::Replace),
        1 => (0u32..5).prop_map(Op::Other),
        1 => Just(Op::Reopen),
        1 => Just(Op::Drop),
    ];
    prop::collection::vec(op, 1..40)
}

#[derive(Default)]
struct Model {
    rows: BTreeMap<String, (Item, Revision)>,
    others: BTreeMap<String, Other>,
    loaded: bool,
    revision: Revision,
}

fn check(store: &Store, model: &Model) {
    let table = store.table::<Item>();
    let snapshot = table.snapshot();
    assert_eq!(store.revision(), model.revision);
    assert_eq!(snapshot.loaded, model.loaded);
    assert_eq!(table.loaded(), model.loaded);
    let got: BTreeMap<_, _> =
        snapshot.rows.iter_with_revisions().map(|(k, v, r)| (k.clone(), ((**v).clone(), r))).collect();
    assert_eq!(got, model.rows);
    let (with, _) = table.snapshot_with_revisions();
    assert_eq!(with.len(), model.rows.len());
    for (key, (row, revision)) in &model.rows {
        assert_eq!(
            table.get_with_revision(key).map(|(a, b)| ((*a).clone(), b)),
            Some((row.clone(), *revision))
        );
    }
    let others: BTreeMap<_, _> =
        store.table::<Other>().snapshot().rows.iter().map(|(k, v)| (k.clone(), (**v).clone())).collect();
    assert_eq!(others, model.others);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn behaves_as_the_model_over_restarts(ops in ops()) {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("store");
        let rt = runtime();
        rt.block_on(async {
            let mut store = open(&dir);
            let mut model = Model::default();
            for op in ops {
                match op {
                    Op::Commit(changes, flushed) => {
                        let durability = if flushed { Durability::Flushed } else { Durability::Cached };
                        let mut net = BTreeMap::new();
                        let mut batch = Vec::new();
                        for (k, v, len) in changes {
                            let key = format!("k{k}");
                            let row = v.map(|v| Item { name: key.clone(), value: v, text: "x".repeat(len.into()) });
                            net.insert(key.clone(), row.clone());
                            batch.push(row.map_or(Change::Delete(key), Change::Put));
                        }
                        net.retain(|k, row| model.rows.get(k).map(|r| &r.0) != row.as_ref());
                        let revision = store.table().commit(batch, durability).await.unwrap();
                        if !net.is_empty() {
                            model.revision += 1;
                        }
                        prop_assert_eq!(revision, model.revision);
                        for (k, row) in net {
                            match row {
                                Some(row) => model.rows.insert(k, (row, revision)),
                                None => model.rows.remove(&k),
                            };
                        }
                    }
                    Op::Replace(rows) => {
                        let rows: BTreeMap<String, Item> = rows.into_iter().map(|(k, v)| {
                            let i = item(&format!("k{k}"), v);
                            (i.key(), i)
                        }).collect();
                        let same = model.loaded && model.rows.len() == rows.len()
                            && model.rows.iter().all(|(k, (r, _))| rows.get(k) == Some(r));
                        let revision = store.table().replace(rows.values().cloned().collect(), Durability::Cached).await.unwrap();
                        if !same {
                            model.revision += 1;
                        }
                        prop_assert_eq!(revision, model.revision);
                        model.loaded = true;
                        model.rows = rows.into_iter().map(|(k, r)| {
                            let old = model.rows.get(&k).filter(|o| o.0 == r).map(|o| o.1);
                            (k, (r, old.unwrap_or(revision)))
                        }).collect();
                    }
                    Op::Other(n) => {
                        let before = model.others.insert(n.to_string(), Other(n));
                        model.revision += u64::from(before.is_none());
                        prop_assert_eq!(store.table().put(Other(n), Durability::Flushed).await.unwrap(), model.revision);
                    }
                    Op::Reopen => {
                        store.close().await.unwrap();
                        prop_assert!(matches!(store.table().put(Other(1), Durability::Cached).await, Err(StoreError::Closed)));
                        drop(store);
                        store = open(&dir);
                    }
                    Op::Drop => {
                        drop(store);
                        store = open(&dir);
                    }
                }
                check(&store, &model);
            }
            store.close().await.unwrap();
            check(&open(&dir), &model);
            Ok(())
        })?;
    }
}

#[test]
fn a_second_opener_is_told_that_the_store_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    match Store::open(dir.path()) {
        Err(StoreError::Locked(d)) => assert_eq!(d, dir.path()),
        _ => panic!("a second opener got in"),
    }
    runtime().block_on(store.close()).unwrap();
    // Closed is closed, though a handle is still held.
    open(dir.path());
}

#[test]
fn nobody_else_can_read_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("a/b/store");
    let store = open(&dir);
    runtime().block_on(store.table().put(item("a", 1), Durability::Flushed)).unwrap();
    let mut queue = vec![dir];
    while let Some(path) = queue.pop() {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
        if path.is_dir() {
            queue.extend(std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
        }
    }
}

#[test]
fn two_handles_of_a_table_share_it_and_a_name_has_one_type() {
    #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Impostor(u32);
    impl Record for Impostor {
        const TABLE: &'static str = Item::TABLE;
        fn key(&self) -> String {
            "x".into()
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let rt = runtime();
    let (a, b) = (store.table::<Item>(), store.clone().table::<Item>());
    rt.block_on(a.put(item("a", 1), Durability::Cached)).unwrap();
    assert_eq!(b.get("a").as_deref(), Some(&item("a", 1)));
    let error = rt.block_on(store.table().put(Impostor(1), Durability::Cached)).unwrap_err().to_string();
    assert!(error.contains("items"), "{error}");
    assert_eq!(b.snapshot().rows.len(), 1);
}

#[test]
fn a_row_too_large_or_of_an_older_shape_stops_no_other() {
    #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Newer {
        name: String,
        value: String,
    }
    impl Record for Newer {
        const TABLE: &'static str = Item::TABLE;
        fn key(&self) -> String {
            self.name.clone()
        }
    }
    let newer = |n: &str| Newer { name: n.into(), value: "v".into() };
    let dir = tempfile::tempdir().unwrap();
    let rt = runtime();
    rt.block_on(async {
        let store = open(dir.path());
        let table = store.table();
        assert!(table.put(item(&"k".repeat(441), 1), Durability::Flushed).await.is_err());
        let big = Item { text: "x".repeat(9 << 20), ..item("big", 1) };
        assert!(table.put(big, Durability::Flushed).await.is_err());
        for n in ["a", "b", "c"] {
            table.put(item(n, 1), Durability::Flushed).await.unwrap();
        }
        store.close().await.unwrap();
        drop((store, table));
        let store = open(dir.path());
        let table = store.table::<Newer>();
        assert!(table.snapshot().rows.is_empty());
        assert_eq!(store.stats().tables, [("items".to_owned(), 0, 3)]);
        table.put(newer("a"), Durability::Flushed).await.unwrap();
        table.delete("b", Durability::Flushed).await.unwrap();
        store.close().await.unwrap();
        drop((store, table));
        let store = open(dir.path());
        assert_eq!(store.table::<Item>().snapshot().rows.keys().collect::<Vec<_>>(), ["c"]);
        drop(store);
        let store = open(dir.path());
        let table = store.table::<Newer>();
        assert_eq!(table.snapshot().rows.keys().collect::<Vec<_>>(), ["a"]);
        table.put(newer("z"), Durability::Flushed).await.unwrap();
        table.retain(BTreeSet::from(["z".to_owned()]), Durability::Flushed).await.unwrap();
        drop((store, table));
        let store = open(dir.path());
        assert!(store.table::<Item>().snapshot().rows.is_empty());
        assert_eq!(store.stats().tables, [("items".to_owned(), 0, 1)]);
    });
}

/// A list that comes in steps.
async fn relist(table: &crate::Table<Item>, rows: impl IntoIterator<Item = Item>) {
    let rows: Vec<Item> = rows.into_iter().collect();
    for step in rows.chunks(256) {
        let puts = step.iter().cloned().map(Change::Put).collect();
        table.commit(puts, Durability::Cached).await.unwrap();
    }
    table.retain(rows.iter().map(Record::key).collect(), Durability::Cached).await.unwrap();
}

#[test]
fn a_list_in_steps_ends_as_a_replacement_does() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = open(dir.path());
        let table = store.table();
        let old: Vec<Item> = (0..300).map(|n| item(&format!("old{n}"), 1)).collect();
        relist(&table, old).await;
        let kept = (0..600).map(|n| item(&format!("new{n}"), 2)).chain([item("old7", 1), item("old8", 3)]);
        let revision = store.revision();
        let mut watch = table.watch();
        assert!(watch.next().await.is_some());
        relist(&table, kept.clone()).await;
        // Three steps, and the end of what is not in the list; what did not change keeps its revision.
        assert_eq!(store.revision(), revision + 4);
        assert!(table.get_with_revision("old7").unwrap().1 <= revision);
        let wanted: BTreeMap<String, Item> = kept.map(|row| (row.key(), row)).collect();
        let rows = |table: &crate::Table<Item>| -> BTreeMap<String, Item> {
            table.snapshot().rows.iter().map(|(key, row)| (key.clone(), (**row).clone())).collect()
        };
        assert_eq!(rows(&table), wanted);
        assert!(watch.next().await.is_some_and(|update| update.snapshot().loaded));
        relist(&table, wanted.values().cloned()).await;
        assert_eq!(store.revision(), revision + 4, "nothing changed");
        store.close().await.unwrap();
        drop((store, table, watch));
        let store = open(dir.path());
        assert_eq!(rows(&store.table()), wanted);
        assert!(store.table::<Item>().loaded());
    });
}

#[test]
fn concurrent_flushed_writes_share_flushes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let before = store.stats().flushes;
    runtime().block_on(async {
        let table = store.table();
        let writes = (0..64).map(|i| {
            let table = table.clone();
            async move { table.put(item(&format!("k{i}"), i), Durability::Flushed).await.unwrap() }
        });
        let mut set = tokio::task::JoinSet::new();
        for w in writes {
            set.spawn(w);
        }
        let mut revisions = set.join_all().await;
        revisions.sort_unstable();
        assert_eq!(revisions, (1..=64).collect::<Vec<_>>());
    });
    let flushes = store.stats().flushes - before;
    assert!(flushes < 64, "{flushes} flushes for 64 concurrent writes");
}
