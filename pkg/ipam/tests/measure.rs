//! Numbers, on request: `cargo test -p warren-ipam --test measure -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step is a failed test")]

use std::time::{Duration, Instant};

use warren_ipam::{Pool, Settings};
use warren_store::Store;
use warren_types::{AttachmentKey, AttachmentPhase, BootId, ContainerId, IfName, LeaseRequest, PodCidrs};

fn key(n: u32) -> AttachmentKey {
    AttachmentKey {
        container_id: ContainerId::new(format!("c{n}")).unwrap(),
        if_name: IfName::new("eth0").unwrap(),
    }
}

fn request(n: u32) -> LeaseRequest {
    LeaseRequest {
        key: key(n),
        pod: None,
        pod_uid: None,
        labels: Default::default(),
        netns: "/run/netns/x".into(),
        host_link: IfName::new(format!("wrnp{n}")).unwrap(),
        requested: Vec::new(),
    }
}

fn report(what: &str, mut times: Vec<Duration>, all: Duration) {
    times.sort();
    let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("{what}: {} in {all:?}, p50 {p50:?}, p99 {p99:?}", times.len());
}

#[test]
#[ignore = "prints numbers"]
fn measure() {
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for tasks in [1u32, 32] {
        let dir = tempfile::tempdir_in(std::env::var_os("WARREN_STORE_MEASURE_DIR").unwrap_or("/tmp".into()))
            .unwrap();
        rt.block_on(async {
            let store = Store::open(dir.path()).unwrap().store;
            let boot = BootId::new("aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa").unwrap();
            let (pool, _) = Pool::open(&store, Settings::new(boot)).await.unwrap();
            pool.set_pod_cidrs(PodCidrs::parse(["10.1.0.0/20", "fd00:1::/64"]).unwrap());
            let begun = Instant::now();
            let mut set = tokio::task::JoinSet::new();
            for t in 0..tasks {
                let pool = pool.clone();
                set.spawn(async move {
                    let (mut adds, mut dels) = (Vec::new(), Vec::new());
                    for n in (t..1000).step_by(tasks as usize) {
                        let one = Instant::now();
                        pool.allocate(request(n)).await.unwrap();
                        adds.push(one.elapsed());
                        pool.set_phase(&key(n), AttachmentPhase::Live).await.unwrap();
                    }
                    for n in (t..1000).step_by(tasks as usize) {
                        let one = Instant::now();
                        pool.release(&key(n)).await.unwrap().unwrap();
                        dels.push(one.elapsed());
                    }
                    (adds, dels)
                });
            }
            let (adds, dels): (Vec<_>, Vec<_>) = set.join_all().await.into_iter().unzip();
            let all = begun.elapsed();
            assert_eq!(pool.check(), vec![]);
            report(&format!("{tasks} at once, allocate"), adds.concat(), all);
            report(&format!("{tasks} at once, release"), dels.concat(), all);
        });
    }
}
