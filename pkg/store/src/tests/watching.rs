//! Change streams against a model: whatever a reader does, what it has been told adds up to the table.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::{Item, item, open, runtime};
use crate::watch::PENDING_MAX;
use crate::{Change, Durability, Update, Watch};

type View = BTreeMap<String, Arc<Item>>;

fn take(view: &mut View, update: Update<Item>) -> bool {
    match update {
        Update::Snapshot(s) => {
            *view = s.rows.iter().map(|(k, v)| (k.clone(), Arc::clone(v))).collect();
            true
        }
        Update::Delta { changes, snapshot } => {
            for (k, v) in changes {
                match v {
                    Some(v) => view.insert(k, v),
                    None => view.remove(&k),
                };
            }
            assert!(view.iter().eq(snapshot.rows.iter()), "a delta and its snapshot disagree");
            false
        }
    }
}

/// What the watch says without waiting.
async fn now(watch: &mut Watch<Item>) -> Option<Update<Item>> {
    tokio::time::timeout(Duration::ZERO, watch.next()).await.ok().flatten()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn readers_of_any_speed_end_with_the_table(
        steps in prop::collection::vec((0u16..60, prop::option::of(0u32..4), any::<[bool; 3]>()), 1..80),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        runtime().block_on(async {
            let table = store.table::<Item>();
            let mut readers: Vec<_> = (0..3).map(|_| (table.watch(), View::new())).collect();
            for (key, value, reads) in steps {
                let key = format!("k{key}");
                match value {
                    Some(v) => table.put(item(&key, v), Durability::Cached).await.unwrap(),
                    None => table.delete(&key, Durability::Cached).await.unwrap(),
                };
                for ((watch, view), read) in readers.iter_mut().zip(reads) {
                    if read && let Some(update) = now(watch).await {
                        take(view, update);
                    }
                }
            }
            let rows = table.snapshot().rows;
            for (watch, view) in &mut readers {
                while let Some(update) = now(watch).await {
                    take(view, update);
                }
                prop_assert!(view.iter().eq(rows.iter()));
            }
            Ok(())
        })?;
    }
}

#[test]
fn a_reader_too_far_behind_gets_a_snapshot_and_a_dropped_one_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    runtime().block_on(async {
        let table = store.table::<Item>();
        let (mut watch, dropped) = (table.watch(), table.watch());
        assert!(matches!(watch.next().await, Some(Update::Snapshot(_))));
        let total = u32::try_from(PENDING_MAX).unwrap() + 10;
        for chunk in (0..total).collect::<Vec<_>>().chunks(500) {
            let batch = chunk.iter().map(|i| Change::Put(item(&format!("k{i:05}"), *i))).collect();
            table.commit(batch, Durability::Cached).await.unwrap();
        }
        drop(dropped);
        assert_eq!(table.state.hub().followers(), 1);
        let Some(Update::Snapshot(s)) = now(&mut watch).await else { panic!("expected a snapshot") };
        assert_eq!(s.rows.len(), PENDING_MAX + 10);
        assert!(now(&mut watch).await.is_none());
        table.delete("k00000", Durability::Cached).await.unwrap();
        let Some(Update::Delta { changes, .. }) = now(&mut watch).await else { panic!("expected a delta") };
        assert_eq!(changes, BTreeMap::from([("k00000".to_owned(), None)]));
        drop(watch);
        assert_eq!(table.state.hub().followers(), 0);
    });
}

#[test]
fn loaded_wakes_its_waiters_and_close_ends_streams_after_the_last_change() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    runtime().block_on(async {
        let table = store.table::<Item>();
        let (mut gate, mut follower) = (table.watch(), table.watch());
        assert!(matches!(follower.next().await, Some(Update::Snapshot(s)) if !s.loaded));
        assert!(tokio::time::timeout(Duration::from_millis(20), gate.loaded()).await.is_err());
        let (snapshot, done) = tokio::join!(gate.loaded(), table.mark_loaded());
        done.unwrap();
        assert!(snapshot.unwrap().loaded);
        assert!(matches!(gate.next().await, Some(Update::Snapshot(_))), "the first update stays a snapshot");
        let Some(Update::Delta { changes, snapshot }) = follower.next().await else {
            panic!("expected a delta")
        };
        assert!(changes.is_empty() && snapshot.loaded);
        table.put(item("last", 1), Durability::Flushed).await.unwrap();
        let (ended, closed) = tokio::join!(
            async {
                assert!(matches!(follower.next().await, Some(Update::Delta { .. })));
                follower.next().await
            },
            store.close()
        );
        closed.unwrap();
        assert!(ended.is_none());
        drop((store, table));
    });
    assert!(open(dir.path()).table::<Item>().loaded(), "the flag is kept");
}
