//! The pool against a model, over restarts and reboots.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use warren_store::Store;
use warren_types::Protocol::{Tcp, Udp};
use warren_types::{
    AttachmentKey, AttachmentPhase, BootId, ContainerId, HostPort, IfName, LeaseRequest, Namespace, PodCidrs,
    PodKey, PodName,
};

use crate::{Finding, IpamError, Pool, QUARANTINE, Settings};

const BOOT_A: &str = "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa";
const BOOT_B: &str = "bbbbbbbb-bbbb-bbbb-bbbb-bbbbbbbbbbbb";

fn key(n: u32) -> AttachmentKey {
    AttachmentKey {
        container_id: ContainerId::new(format!("c{n}")).unwrap(),
        if_name: IfName::new("eth0").unwrap(),
    }
}

fn request(n: u32, requested: &[&str]) -> LeaseRequest {
    LeaseRequest {
        key: key(n),
        pod: None,
        pod_uid: None,
        labels: BTreeMap::new(),
        netns: "/run/netns/x".into(),
        host_link: IfName::new(format!("wrnp{n}")).unwrap(),
        host_ports: Vec::new(),
        named_ports: Vec::new(),
        requested: requested.iter().map(|a| a.parse().unwrap()).collect(),
    }
}

/// A clock that tests move.
#[derive(Clone, Default)]
struct Clock(Arc<AtomicU64>);

impl Clock {
    fn wait(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
    fn now(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
    fn settings(&self, boot: &str) -> Settings {
        let clock = self.clone();
        let boot_id = BootId::new(boot).unwrap();
        Settings { boot_id, quarantine: QUARANTINE, clock: Arc::new(move || clock.now()) }
    }
}

fn open(dir: &Path) -> Store {
    let opened = Store::open(dir).unwrap();
    assert!(opened.set_aside.is_none());
    opened.store
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn cidrs(list: &[&str]) -> PodCidrs {
    PodCidrs::parse(list.iter()).unwrap()
}

#[derive(Debug, Clone)]
enum Op {
    Allocate(u32),
    Live(u32),
    Release(u32),
    Retain(BTreeSet<u32>),
    Wait(u64),
    Restart,
    Reboot,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(
        prop_oneof![
            6 => (0u32..20).prop_map(Op::Allocate),
            3 => (0u32..20).prop_map(Op::Live),
            4 => (0u32..20).prop_map(Op::Release),
            1 => prop::collection::btree_set(0u32..20, 5..20).prop_map(Op::Retain),
            3 => (0u64..25).prop_map(Op::Wait),
            1 => Just(Op::Restart),
            1 => Just(Op::Reboot),
        ],
        0..50,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn leases_are_unique_rest_after_release_and_outlive_restarts(ops in ops()) {
        let dir = tempfile::tempdir().unwrap();
        let net = cidrs(&["10.1.0.0/28", "fd00:1::/124"]);
        runtime().block_on(async {
            let clock = Clock::default();
            let mut boots = [BOOT_A, BOOT_B].into_iter().cycle();
            let mut boot = boots.next().unwrap();
            let mut store = open(dir.path());
            let (mut pool, _) = Pool::open(&store, clock.settings(boot)).await.unwrap();
            pool.set_pod_cidrs(net);
            let mut leases: BTreeMap<u32, (Vec<IpAddr>, AttachmentPhase)> = BTreeMap::new();
            let mut rests: BTreeMap<IpAddr, Duration> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Allocate(n) => match pool.allocate(request(n, &[])).await {
                        Ok(a) => {
                            prop_assert!(!leases.contains_key(&n));
                            prop_assert_eq!(a.addresses.len(), 2);
                            for addr in &a.addresses {
                                prop_assert!(net.contains(*addr));
                                prop_assert!(leases.values().all(|l| !l.0.contains(addr)), "{addr} twice");
                                prop_assert!(rests.get(addr).is_none_or(|t| *t <= clock.now()), "{addr} too early");
                                rests.remove(addr);
                            }
                            prop_assert_eq!(a.phase, AttachmentPhase::Adding);
                            leases.insert(n, (a.addresses, a.phase));
                        }
                        Err(IpamError::AlreadyLive(a)) => prop_assert_eq!(&leases[&n], &(a.addresses, AttachmentPhase::Live)),
                        Err(IpamError::Leftover(a)) => {
                            prop_assert_eq!(&leases[&n], &(a.addresses, a.phase));
                            prop_assert!(a.phase != AttachmentPhase::Live);
                        }
                        Err(IpamError::Exhausted { total, used, quarantined, held, .. }) => {
                            let resting = rests.iter().filter(|(a, t)| a.is_ipv4() && **t > clock.now()).count();
                            prop_assert_eq!((total, used), (13, leases.len() as u128));
                            prop_assert_eq!((quarantined, held), (resting as u128, 0));
                            prop_assert_eq!(leases.len() + resting, 13);
                        }
                        Err(e) => prop_assert!(false, "{e}"),
                    },
                    Op::Live(n) => match pool.set_phase(&key(n), AttachmentPhase::Live).await {
                        Ok(_) => leases.get_mut(&n).unwrap().1 = AttachmentPhase::Live,
                        Err(IpamError::NotFound(_)) => prop_assert!(!leases.contains_key(&n)),
                        Err(e) => prop_assert!(false, "{e}"),
                    },
                    Op::Release(n) => {
                        let released = pool.release(&key(n)).await.unwrap();
                        prop_assert_eq!(released.map(|a| a.addresses), leases.get(&n).map(|l| l.0.clone()));
                        for a in leases.remove(&n).into_iter().flat_map(|l| l.0) {
                            rests.insert(a, clock.now() + QUARANTINE);
                        }
                    }
                    Op::Retain(valid) => {
                        let gone = pool.retain(&valid.iter().map(|n| key(*n)).collect()).await.unwrap();
                        let want: BTreeSet<_> = leases.keys().filter(|n| !valid.contains(n)).map(|n| key(*n)).collect();
                        prop_assert_eq!(gone.into_iter().map(|a| a.key).collect::<BTreeSet<_>>(), want);
                        for (n, lease) in &mut leases {
                            if !valid.contains(n) {
                                lease.1 = AttachmentPhase::Deleting;
                            }
                        }
                    }
                    Op::Wait(s) => clock.wait(s),
                    Op::Restart | Op::Reboot => {
                        let reboot = matches!(op, Op::Reboot);
                        drop(pool);
                        drop(store);
                        store = open(dir.path());
                        if reboot {
                            boot = boots.next().unwrap();
                            clock.0.store(3, Ordering::SeqCst);
                        }
                        let reclaimed;
                        (pool, reclaimed) = Pool::open(&store, clock.settings(boot)).await.unwrap();
                        pool.set_pod_cidrs(net);
                        if reboot {
                            prop_assert_eq!(reclaimed.len(), leases.len());
                            leases.clear();
                            rests.clear();
                        } else {
                            prop_assert!(reclaimed.is_empty());
                            // What rested rests anew; what had rested may do so too.
                            let until = clock.now() + QUARANTINE;
                            for (a, t) in &mut rests {
                                let rows = store.table::<crate::Quarantined>().snapshot().rows;
                                prop_assert!(*t <= clock.now() || rows.contains_key(&a.to_string()));
                                if rows.contains_key(&a.to_string()) {
                                    *t = until;
                                }
                            }
                        }
                    }
                }
                let listed: BTreeMap<_, _> = pool.list().into_iter().map(|a| (a.key.clone(), (a.addresses, a.phase))).collect();
                prop_assert_eq!(listed, leases.iter().map(|(n, l)| (key(*n), l.clone())).collect::<BTreeMap<_, _>>());
                prop_assert_eq!(pool.check(), vec![]);
                prop_assert_eq!(store.table::<warren_types::Attachment>().snapshot().rows.len(), leases.len());
                let v4 = pool.status().prefixes[0];
                prop_assert_eq!(v4.used + v4.quarantined + v4.free, v4.total);
            }
            Ok(())
        })?;
    }
}

#[test]
fn many_at_once_get_an_address_each_and_give_all_back() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let clock = Clock::default();
        let store = open(dir.path());
        let (pool, _) = Pool::open(&store, clock.settings(BOOT_A)).await.unwrap();
        assert!(matches!(pool.allocate(request(0, &[])).await, Err(IpamError::NoPodCidr)));
        pool.set_pod_cidrs(cidrs(&["10.1.0.0/24", "fd00:1::/64"]));
        let mut set = tokio::task::JoinSet::new();
        for n in 0..300 {
            let pool = pool.clone();
            set.spawn(async move {
                let got = pool.allocate(request(n, &[])).await;
                if got.is_ok() {
                    pool.set_phase(&key(n), AttachmentPhase::Live).await.unwrap();
                }
                got
            });
        }
        let results = set.join_all().await;
        let given: Vec<IpAddr> = results.iter().flatten().flat_map(|a| a.addresses.clone()).collect();
        assert_eq!(given.len(), 2 * 253);
        assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), given.len());
        let refused = results.iter().find_map(|r| r.as_ref().err()).unwrap().to_string();
        assert!(refused.contains("10.1.0.0/24") && refused.contains("253 are leased"), "{refused}");
        let flushes = store.stats().flushes;
        assert!(flushes < 2 * 253, "{flushes} flushes for {} writes", 2 * 253);
        assert_eq!(pool.check(), vec![]);
        let mut set = tokio::task::JoinSet::new();
        for a in results.into_iter().flatten() {
            let pool = pool.clone();
            set.spawn(async move { pool.release(&a.key).await.unwrap().unwrap() });
        }
        assert_eq!(set.join_all().await.len(), 253);
        let v4 = pool.status().prefixes[0];
        assert_eq!((v4.used, v4.quarantined, v4.free), (0, 253, 0));
        assert!(matches!(
            pool.allocate(request(1, &[])).await,
            Err(IpamError::Exhausted { quarantined: 253, .. })
        ));
        clock.wait(31);
        assert_eq!(pool.status().prefixes[0].free, 253);
        pool.allocate(request(1, &[])).await.unwrap();
        assert_eq!(pool.check(), vec![]);
        // The rows of what has rested go with the next release.
        pool.release(&key(1)).await.unwrap();
        assert_eq!(store.table::<crate::Quarantined>().snapshot().rows.len(), 2);
    });
}

#[test]
fn requested_addresses_are_honoured_or_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let clock = Clock::default();
        let store = open(dir.path());
        let (pool, _) = Pool::open(&store, clock.settings(BOOT_A)).await.unwrap();
        pool.set_pod_cidrs(cidrs(&["10.1.0.0/24", "fd00:1::/64"]));
        let got = pool.allocate(request(1, &["10.1.0.77"])).await.unwrap();
        assert_eq!(got.addresses, ["10.1.0.77".parse::<IpAddr>().unwrap(), "fd00:1::2".parse().unwrap()]);
        let bad: [(&[&str], &str); 7] = [
            (&["10.1.0.77"], "another pod"),
            (&["10.1.0.0"], "without its first two"),
            (&["10.1.0.1"], "without its first two"),
            (&["10.1.0.255"], "without its first two"),
            (&["10.2.0.5"], "without its first two"),
            (&["10.1.0.5", "10.1.0.6"], "same family"),
            (&["10.1.0.5", "fd00:2::1"], "fd00:1::/64"),
        ];
        for (addrs, why) in bad {
            let e = pool.allocate(request(2, addrs)).await.unwrap_err().to_string();
            assert!(e.contains(why), "{addrs:?}: {e}");
        }
        // A refusal leaves nothing behind.
        pool.allocate(request(2, &["10.1.0.5", "fd00:1::5"])).await.unwrap();
        pool.release(&key(2)).await.unwrap();
        clock.wait(10);
        let e = pool.allocate(request(2, &["10.1.0.5"])).await.unwrap_err().to_string();
        assert!(e.contains("free in 21 s"), "{e}");
        clock.wait(20);
        pool.allocate(request(2, &["10.1.0.5"])).await.unwrap();
        assert_eq!(pool.check(), vec![]);
    });
}

#[test]
fn a_host_port_of_a_pod_that_lives_is_refused_to_another() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = open(dir.path());
        let (pool, _) = Pool::open(&store, Clock::default().settings(BOOT_A)).await.unwrap();
        pool.set_pod_cidrs(cidrs(&["10.1.0.0/24"]));
        let asking = |n: u32, pod: &str, protocol, host_port, host_ip: Option<&str>| {
            let host_ip = host_ip.map(|ip| ip.parse().unwrap());
            let pod =
                PodKey { namespace: Namespace::new("default").unwrap(), name: PodName::new(pod).unwrap() };
            let port = HostPort { protocol, host_port, container_port: 1, host_ip };
            LeaseRequest { pod: Some(pod), host_ports: vec![port], ..request(n, &[]) }
        };
        pool.allocate(asking(1, "web", Tcp, 80, Some("192.0.2.1"))).await.unwrap();
        pool.set_phase(&key(1), AttachmentPhase::Live).await.unwrap();
        for (n, ip) in [(2, None), (3, Some("192.0.2.1"))] {
            let e = pool.allocate(asking(n, "b", Tcp, 80, ip)).await.unwrap_err().to_string();
            assert!(e.contains("TCP") && e.contains("port 80 is pod default/web's"), "{e}");
        }
        // Another port, protocol or address, and another sandbox of the same pod.
        pool.allocate(asking(4, "c", Tcp, 81, None)).await.unwrap();
        pool.allocate(asking(5, "d", Udp, 80, None)).await.unwrap();
        pool.allocate(asking(6, "e", Tcp, 80, Some("192.0.2.2"))).await.unwrap();
        pool.allocate(asking(7, "web", Tcp, 80, None)).await.unwrap();
        pool.release(&key(7)).await.unwrap();
        // What is on its way out holds nothing, nor does what is gone; the refused left nothing behind.
        pool.set_phase(&key(1), AttachmentPhase::Deleting).await.unwrap();
        pool.allocate(asking(2, "b", Tcp, 80, Some("192.0.2.1"))).await.unwrap();
        pool.release(&key(1)).await.unwrap();
        pool.allocate(asking(3, "b", Tcp, 80, Some("192.0.2.1"))).await.unwrap();
        assert_eq!(pool.check(), vec![]);
    });
}

#[test]
fn a_new_pod_cidr_keeps_old_leases_and_names_them() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let clock = Clock::default();
        let store = open(dir.path());
        let (pool, _) = Pool::open(&store, clock.settings(BOOT_A)).await.unwrap();
        pool.set_pod_cidrs(cidrs(&["10.1.0.0/24"]));
        let old = pool.allocate(request(1, &[])).await.unwrap();
        pool.set_pod_cidrs(cidrs(&["10.2.0.0/24"]));
        assert_eq!(pool.check(), [Finding::OutOfRange { key: key(1), address: old.addresses[0] }]);
        assert_eq!(pool.get(&key(1)), Some(old.clone()));
        let new = pool.allocate(request(2, &[])).await.unwrap();
        assert_eq!(new.addresses, ["10.2.0.2".parse::<IpAddr>().unwrap()]);
        pool.release(&key(1)).await.unwrap();
        assert_eq!(pool.check(), vec![]);
        pool.set_pod_cidrs(cidrs(&["10.1.0.0/24"]));
        let again = pool.allocate(request(3, &[])).await.unwrap();
        assert_ne!(again.addresses, old.addresses);
    });
}

#[test]
fn addresses_seen_in_the_kernel_without_a_lease_are_not_given_out() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = open(dir.path());
        let (pool, _) = Pool::open(&store, Clock::default().settings(BOOT_A)).await.unwrap();
        pool.set_pod_cidrs(cidrs(&["10.1.0.0/29"]));
        let seen: Vec<IpAddr> = vec!["10.1.0.2".parse().unwrap(), "10.1.0.3".parse().unwrap()];
        pool.set_observed(&seen);
        let got = pool.allocate(request(1, &[])).await.unwrap();
        assert_eq!(got.addresses, ["10.1.0.4".parse::<IpAddr>().unwrap()]);
        assert_eq!(pool.check(), seen.iter().map(|a| Finding::NoLease { address: *a }).collect::<Vec<_>>());
        pool.set_observed(&got.addresses);
        assert_eq!(pool.check(), vec![]);
        assert_eq!(pool.status().prefixes[0].free, 4);
    });
}

#[test]
fn what_lives_already_keeps_its_addresses_and_they_rest_when_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = open(dir.path());
        let settings = || Clock::default().settings(BOOT_A);
        let (pool, _) = Pool::open(&store, settings()).await.unwrap();
        pool.set_pod_cidrs(cidrs(&["10.1.0.0/29"]));
        let seen: Vec<IpAddr> = vec!["10.1.0.2".parse().unwrap(), "10.9.0.2".parse().unwrap()];
        pool.set_observed(&seen);
        // One that the kernel shows, and one outside of the podCIDR: it changed.
        let found = pool.adopt(request(1, &["10.1.0.2", "10.9.0.2"])).await.unwrap();
        assert_eq!((found.phase, &found.addresses), (AttachmentPhase::Live, &seen));
        assert!(matches!(pool.adopt(request(1, &["10.1.0.2"])).await, Err(IpamError::AlreadyLive(_))));
        let got = pool.allocate(request(2, &[])).await.unwrap();
        assert_eq!(got.addresses, ["10.1.0.3".parse::<IpAddr>().unwrap()]);
        // It is a row like others: the next process has it too.
        drop(pool);
        let (pool, _) = Pool::open(&store, settings()).await.unwrap();
        pool.set_pod_cidrs(cidrs(&["10.1.0.0/29"]));
        assert_eq!(pool.get(&key(1)), Some(found));
        pool.release(&key(1)).await.unwrap().unwrap();
        let rests = pool.allocate(request(3, &["10.1.0.2"])).await;
        assert!(matches!(rests, Err(IpamError::Requested { .. })), "{rests:?}");
    });
}

#[test]
fn an_attach_and_a_release_cost_one_flush_each() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = open(dir.path());
        let (pool, _) = Pool::open(&store, Clock::default().settings(BOOT_A)).await.unwrap();
        pool.set_pod_cidrs(cidrs(&["10.1.0.0/24"]));
        let before = store.stats().flushes;
        for n in 0..20 {
            pool.allocate(request(n, &[])).await.unwrap();
            pool.set_phase(&key(n), AttachmentPhase::Live).await.unwrap();
            pool.set_phase(&key(n), AttachmentPhase::Deleting).await.unwrap();
            pool.release(&key(n)).await.unwrap();
        }
        // And what a slow machine flushes by the clock.
        let flushes = store.stats().flushes - before;
        assert!((40..60).contains(&flushes), "{flushes}");
        assert_eq!(pool.check(), vec![]);
    });
}

#[test]
fn a_dropped_request_leaves_something_to_roll_back_and_a_failed_one_nothing() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = open(dir.path());
        let (pool, _) = Pool::open(&store, Clock::default().settings(BOOT_A)).await.unwrap();
        pool.set_pod_cidrs(cidrs(&["10.1.0.0/29"]));
        {
            let mut dropped = Box::pin(pool.allocate(request(1, &[])));
            // Polled once: the lease is on its way.
            let _ = futures_poll_once(&mut dropped).await;
        }
        match pool.allocate(request(1, &[])).await {
            Err(IpamError::Leftover(a)) => assert_eq!(a.phase, AttachmentPhase::Adding),
            other => panic!("{other:?}"),
        }
        pool.release(&key(1)).await.unwrap().unwrap();
        assert_eq!(pool.check(), vec![]);
        pool.allocate(request(1, &[])).await.unwrap();
        store.close().await.unwrap();
        assert!(matches!(pool.allocate(request(2, &[])).await, Err(IpamError::Store(_))));
        assert!(matches!(pool.release(&key(1)).await, Err(IpamError::Store(_))));
        assert_eq!(pool.list().len(), 1);
        assert_eq!(pool.status().prefixes[0].used, 1);
    });
}

async fn futures_poll_once<F: Future + Unpin>(f: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *f).poll(cx) {
            std::task::Poll::Ready(v) => Some(v),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
