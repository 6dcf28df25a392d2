//! Numbers, on request: `cargo test -p warren-store --test measure -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step is a failed test")]

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use warren_store::{Change, Durability, Record, Store};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row(String, String);

impl Record for Row {
    const TABLE: &'static str = "rows";
    fn key(&self) -> String {
        self.0.clone()
    }
}

fn row(n: u64, salt: u64) -> Row {
    Row(format!("default/pod-{n:06}"), format!("{salt:016}").repeat(20))
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn disk_kib(dir: &std::path::Path) -> u64 {
    let mut sum = 0;
    for e in std::fs::read_dir(dir).unwrap() {
        let e = e.unwrap();
        let m = e.metadata().unwrap();
        sum += if m.is_dir() { disk_kib(&e.path()) } else { std::os::unix::fs::MetadataExt::blocks(&m) / 2 };
    }
    sum
}

#[test]
#[ignore = "takes a while and prints numbers"]
fn measure() {
    let dir =
        tempfile::tempdir_in(std::env::var_os("WARREN_STORE_MEASURE_DIR").unwrap_or("/tmp".into())).unwrap();
    let dir = dir.path().join("store");
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    rt.block_on(async {
        let store = Store::open(&dir).unwrap().store;
        let table = store.table::<Row>();
        let before = resident_kib();
        let begun = Instant::now();
        table.replace((0..10_000).map(|n| row(n, 0)).collect(), Durability::Flushed).await.unwrap();
        println!(
            "replace with 10,000 rows: {:?}, {} KiB more resident",
            begun.elapsed(),
            resident_kib() - before
        );
        for tasks in [1u64, 32] {
            let (begun, flushes) = (Instant::now(), store.stats().flushes);
            let mut set = tokio::task::JoinSet::new();
            for t in 0..tasks {
                let table = table.clone();
                set.spawn(async move {
                    let mut times = Vec::new();
                    while begun.elapsed() < Duration::from_secs(3) {
                        let one = Instant::now();
                        let n = u64::try_from(times.len()).unwrap() * tasks + t;
                        table
                            .put(row(n % 10_000, n + tasks * 1_000_000 + 1), Durability::Flushed)
                            .await
                            .unwrap();
                        times.push(one.elapsed());
                    }
                    times
                });
            }
            let mut times: Vec<_> = set.join_all().await.into_iter().flatten().collect();
            times.sort();
            println!(
                "{tasks} writers: {:.0} flushed commits/s, {} flushes/s, p50 {:?}, p99 {:?}",
                times.len() as f64 / begun.elapsed().as_secs_f64(),
                (store.stats().flushes - flushes) / begun.elapsed().as_secs(),
                times[times.len() / 2],
                times[times.len() * 99 / 100]
            );
        }
        let begun = Instant::now();
        for n in 0..20_000 {
            table.put(row(n % 10_000, n + 7), Durability::Cached).await.unwrap();
        }
        println!(
            "cached: {:.0} commits/s in a table of 10,000 rows",
            20_000.0 / begun.elapsed().as_secs_f64()
        );
        let mut watch = table.watch();
        watch.next().await;
        let begun = Instant::now();
        for n in 0..2000 {
            table
                .commit(vec![Change::Put(row(n % 10_000, n + 9_000_000))], Durability::Cached)
                .await
                .unwrap();
            watch.next().await;
        }
        println!("put, then read from a watch: {:?}", begun.elapsed() / 2000);
        println!("resident {} KiB, disk {} KiB", resident_kib(), disk_kib(&dir));
        store.close().await.unwrap();
        drop((store, table, watch));
        let begun = Instant::now();
        let store = Store::open(&dir).unwrap().store;
        assert_eq!(store.table::<Row>().snapshot().rows.len(), 10_000);
        println!("open with 10,000 rows: {:?}, disk {} KiB", begun.elapsed(), disk_kib(&dir));
    });
}
