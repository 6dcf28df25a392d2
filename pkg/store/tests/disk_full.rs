//! A disk that fills up: errors while it is full, nothing lost, and work again when there is room. Needs root: the
//! disk is a small tmpfs in a mount namespace of the test's own.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step is a failed test")]

use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};
use warren_store::{Durability, Record, Store, StoreError};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row(String, String);

impl Record for Row {
    const TABLE: &'static str = "rows";
    fn key(&self) -> String {
        self.0.clone()
    }
}

fn fill(path: &Path) {
    use std::io::Write;
    let mut f = std::fs::File::create(path).unwrap();
    while f.write_all(&[7; 4096]).is_ok() {}
}

#[test]
fn a_full_disk_fails_writes_and_a_freed_one_takes_them_again() {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().to_owned();
    // The engine's threads inherit the namespace of the thread that first opens it.
    let test = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("this test needs root");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some("size=8m")).unwrap();
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        rt.block_on(scenario(&path));
    });
    test.join().unwrap();
}

async fn scenario(disk: &Path) {
    let dir = disk.join("store");
    let text = |n: usize| format!("{n:04}").repeat(500);
    let mut acknowledged = Vec::new();
    let store = Store::open(&dir).unwrap().store;
    let table = store.table::<Row>();
    for round in 0..3 {
        fill(&disk.join("ballast"));
        let mut failed = 0;
        for n in 0..2000 {
            let row = Row(format!("{round}-{n}"), text(n));
            match table.put(row.clone(), Durability::Flushed).await {
                Ok(_) => {
                    assert_eq!(failed, 0, "a full disk took a write after it had refused one");
                    acknowledged.push(row);
                }
                Err(StoreError::Engine(_)) => {
                    assert!(table.get(&row.0).is_none(), "a refused write is visible");
                    failed += 1;
                }
                Err(e) => panic!("{e}"),
            }
            if failed > 3 {
                break;
            }
        }
        assert!(failed > 3, "the disk never filled");
        assert!(store.stats().failure.is_some());
        std::fs::remove_file(disk.join("ballast")).unwrap();
        // The pause after a failed revival.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        for n in 0..20 {
            let row = Row(format!("{round}-after-{n}"), text(n));
            table.put(row.clone(), Durability::Flushed).await.unwrap();
            acknowledged.push(row);
        }
        assert_eq!(store.stats().failure, None);
        // Make room again for the next round.
        let keep = acknowledged.split_off(acknowledged.len() - 20);
        table.replace(keep.clone(), Durability::Flushed).await.unwrap();
        acknowledged = keep;
    }
    store.close().await.unwrap();
    let opened = Store::open(&dir).unwrap();
    assert!(opened.set_aside.is_none(), "{:?}", opened.set_aside);
    let snapshot = opened.store.table::<Row>().snapshot();
    assert_eq!(snapshot.rows.len(), acknowledged.len());
    for row in acknowledged {
        assert_eq!(snapshot.rows.get(&row.0).map(|r| &**r), Some(&row));
    }
}
