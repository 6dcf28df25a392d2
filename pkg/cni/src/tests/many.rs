//! Many at once, and how long one takes.

use super::support::*;
use crate::plugin;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use warren_netlink::NetNs;

const AT_ONCE: usize = 32;
const PODS: usize = 200;

#[test]
fn two_hundred_come_and_go_thirty_two_at_once() {
    let node = Node::new();
    let agent = node.start();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let pod = fresh();
                loop {
                    let i = next.fetch_add(1, Ordering::SeqCst);
                    if i >= PODS {
                        break;
                    }
                    let id = format!("c{i}");
                    node.add(&id, &pod);
                    node.del(&id);
                    if i.is_multiple_of(7) {
                        node.del(&id);
                    }
                }
            });
        }
    });
    let used = node.pool.used.lock().unwrap().clone();
    assert_eq!(used.len(), 2 * PODS);
    assert_eq!(used.iter().collect::<BTreeSet<_>>().len(), 2 * PODS);
    node.assert_clean();
    drop(agent);
}

#[test]
fn gc_races_adds_and_takes_no_living_pod() {
    let node = Node::new();
    let agent = node.start();
    // The runtime knows of all of them before it starts them, so none may go.
    let valid: Vec<_> =
        (0..48).map(|i| json!({ "containerID": format!("c{i}"), "ifname": "eth0" })).collect();
    let gc = node.call_with("GC", "", None, json!({ "cni.dev/valid-attachments": valid }));
    let done = AtomicUsize::new(0);
    let pods: Vec<NetNs> = (0..48).map(|_| fresh()).collect();
    std::thread::scope(|scope| {
        for (worker, chunk) in pods.chunks(6).enumerate() {
            let (node, done) = (&node, &done);
            scope.spawn(move || {
                for (i, pod) in chunk.iter().enumerate() {
                    node.add(&format!("c{}", worker * 6 + i), pod);
                }
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        scope.spawn(|| {
            while done.load(Ordering::SeqCst) < 8 {
                assert_eq!(plugin::run(&gc).exit, 0);
            }
        });
    });
    assert_eq!(node.pool.rows().len(), 48);
    assert_eq!(node.kernel().0.len(), 48);
    drop(agent);
}

/// Printed, not judged: machines differ.
#[test]
fn how_long_add_and_del_take() {
    let node = Node::new();
    let agent = node.start();
    let (mut adds, mut dels) = (Vec::new(), Vec::new());
    let pods: Vec<NetNs> = (0..50).map(|_| fresh()).collect();
    for (i, pod) in pods.iter().enumerate() {
        let call = node.call("ADD", &format!("c{i}"), Some(pod));
        let start = Instant::now();
        ok(&plugin::run(&call));
        adds.push(start.elapsed());
    }
    for i in 0..pods.len() {
        let start = Instant::now();
        node.del(&format!("c{i}"));
        dels.push(start.elapsed());
    }
    for (what, mut times) in [("ADD", adds), ("DEL", dels)] {
        times.sort();
        let at = |share: usize| -> Duration { times[(times.len() - 1) * share / 100] };
        println!("{what} without process start: p50 {:?} p99 {:?}", at(50), at(99));
    }
    drop(agent);
}
