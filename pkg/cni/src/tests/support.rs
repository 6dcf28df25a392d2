//! A node in a network namespace of its own, with a pool that lives in memory.

use crate::engine::{Engine, EngineConfig};
use crate::gate::PodGate;
use crate::plugin::{self, Reply};
use crate::pool::{AddressPool, BoxFuture, PoolError};
use crate::server::{CniConfig, serve};
use crate::spec::Call;
use crate::stats::CallStats;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use warren_netlink::nft::{BaseRules, Nft};
use warren_netlink::{NetNs, Netlink};
use warren_types::{
    Attachment, AttachmentKey, AttachmentPhase, BootId, ContainerId, HealthCell, HealthState, IfName,
    LeaseRequest,
};

/// Leases and journal in memory; it outlives engines, as the store outlives agents.
#[derive(Debug, Default)]
pub(super) struct MemoryPool {
    rows: Mutex<BTreeMap<AttachmentKey, Attachment>>,
    given: Mutex<u16>,
    pub(super) used: Mutex<Vec<IpAddr>>,
    pub(super) empty: Mutex<bool>,
    pub(super) boot: Mutex<Option<BootId>>,
}

pub(super) fn boot() -> BootId {
    BootId::new("00000000-0000-4000-8000-000000000001").unwrap()
}

impl MemoryPool {
    /// As if the store had been set aside: no rows, and addresses are given out from the first on.
    pub(super) fn lose(&self) {
        self.rows.lock().unwrap().clear();
        self.used.lock().unwrap().clear();
        *self.given.lock().unwrap() = 0;
    }

    /// As if an older store had come back: this row alone.
    pub(super) fn restore(&self, row: Attachment) {
        let mut rows = self.rows.lock().unwrap();
        rows.clear();
        rows.insert(row.key.clone(), row);
    }

    fn boot_id(&self) -> BootId {
        self.boot.lock().unwrap().clone().unwrap_or_else(boot)
    }

    pub(super) fn rows(&self) -> Vec<Attachment> {
        self.rows.lock().unwrap().values().cloned().collect()
    }
}

impl AddressPool for MemoryPool {
    fn allocate(&self, request: LeaseRequest) -> BoxFuture<'_, Result<Attachment, PoolError>> {
        Box::pin(async move {
            if *self.empty.lock().unwrap() {
                return Err(PoolError::Exhausted("all are held".into()));
            }
            let held: Vec<_> = self.rows().into_iter().flat_map(|row| row.host_ports).collect();
            if let Some(port) = request.host_ports.iter().find(|p| held.iter().any(|h| h.overlaps(p))) {
                return Err(PoolError::HostPortTaken(format!("{port} is another's")));
            }
            let leased: Vec<IpAddr> = self.rows().into_iter().flat_map(|row| row.addresses).collect();
            let mut addresses = loop {
                let n = {
                    let mut given = self.given.lock().unwrap();
                    *given += 1;
                    *given
                };
                let [hi, lo] = n.to_be_bytes();
                let pair: Vec<IpAddr> = vec![
                    Ipv4Addr::new(10, 42, hi, lo).into(),
                    Ipv6Addr::new(0xfd57, 0x4e00, 0x42, 0, 0, 0, 0, n).into(),
                ];
                if !pair.iter().any(|a| leased.contains(a)) {
                    break pair;
                }
            };
            for wish in &request.requested {
                addresses.retain(|a| a.is_ipv4() != wish.is_ipv4());
                addresses.push(*wish);
            }
            addresses.sort();
            let row = request.attachment(addresses, AttachmentPhase::Adding, self.boot_id());
            let mut rows = self.rows.lock().unwrap();
            for other in rows.values() {
                assert!(other.key != row.key && other.host_link != row.host_link, "{other:?} and {row:?}");
                assert!(!other.addresses.iter().any(|a| row.addresses.contains(a)), "{other:?} and {row:?}");
            }
            self.used.lock().unwrap().extend(&row.addresses);
            rows.insert(row.key.clone(), row.clone());
            Ok(row)
        })
    }
    fn adopt(&self, request: LeaseRequest) -> BoxFuture<'_, Result<Attachment, PoolError>> {
        Box::pin(async move {
            let addresses = request.requested.clone();
            let row = request.attachment(addresses, AttachmentPhase::Live, self.boot_id());
            assert!(self.rows.lock().unwrap().insert(row.key.clone(), row.clone()).is_none());
            Ok(row)
        })
    }
    fn set_phase<'a>(
        &'a self,
        key: &'a AttachmentKey,
        phase: AttachmentPhase,
    ) -> BoxFuture<'a, Result<(), PoolError>> {
        Box::pin(async move {
            let mut rows = self.rows.lock().unwrap();
            rows.get_mut(key).ok_or_else(|| PoolError::Store(format!("no row {key}")))?.phase = phase;
            Ok(())
        })
    }
    fn release<'a>(&'a self, key: &'a AttachmentKey) -> BoxFuture<'a, Result<(), PoolError>> {
        Box::pin(async move {
            self.rows.lock().unwrap().remove(key);
            Ok(())
        })
    }
    fn get<'a>(&'a self, key: &'a AttachmentKey) -> BoxFuture<'a, Result<Option<Attachment>, PoolError>> {
        Box::pin(async move { Ok(self.rows.lock().unwrap().get(key).cloned()) })
    }
    fn list(&self) -> BoxFuture<'_, Result<Vec<Attachment>, PoolError>> {
        Box::pin(async move { Ok(self.rows()) })
    }
    fn available(&self) -> BoxFuture<'_, Result<(), PoolError>> {
        Box::pin(async move {
            if *self.empty.lock().unwrap() {
                Err(PoolError::Exhausted("all are held".into()))
            } else {
                Ok(())
            }
        })
    }
}

/// A fresh network namespace, alive as long as the value.
pub(super) fn fresh() -> NetNs {
    NetNs::fresh().expect("making a network namespace needs root")
}

/// A path that leads to a namespace held by this process.
pub(super) fn path_of(ns: &NetNs) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), ns.as_fd().as_raw_fd())
}

pub(super) fn base() -> BaseRules {
    BaseRules {
        pod_ranges: vec!["10.42.0.0/16".parse().unwrap(), "fd57:4e00:42::/56".parse().unwrap()],
        local_pod_cidrs: vec!["10.42.0.0/16".parse().unwrap(), "fd57:4e00:42::/64".parse().unwrap()],
        service_ranges: Vec::new(),
        tunnel_port: 51840,
    }
}

/// Links, addresses with routes, filter entries, neighbours.
pub(super) type Kernel = (BTreeSet<String>, BTreeSet<IpAddr>, BTreeSet<(String, IpAddr)>, BTreeSet<IpAddr>);

/// A node. Its agent can be stopped and started.
pub(super) struct Node {
    pub(super) ns: NetNs,
    pub(super) dir: tempfile::TempDir,
    pub(super) pool: Arc<MemoryPool>,
    pub(super) stats: CallStats,
}

/// A running agent side; dropping the value stops it.
pub(super) struct Agent {
    pub(super) engine: Engine,
    pub(super) health: HealthCell,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

impl Node {
    pub(super) fn new() -> Self {
        let ns = fresh();
        ns.run(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        })
        .unwrap();
        let node =
            Self { ns, dir: tempfile::tempdir().unwrap(), pool: Arc::default(), stats: CallStats::default() };
        node.run(async |_, nft| {
            nft.ensure_base(&base()).await.unwrap();
        });
        node
    }

    fn config(&self) -> CniConfig {
        CniConfig { socket: self.socket(), queue_dir: self.dir.path().join("del"), stats: self.stats.clone() }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir.path().join("cni.sock")
    }

    pub(super) fn queued(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("del")).map(Iterator::count).unwrap_or_default()
    }

    pub(super) fn start(&self) -> Agent {
        let agent = self.start_unready();
        let begun = std::time::Instant::now();
        while agent.health.get().state != HealthState::Ready {
            assert!(begun.elapsed().as_secs() < 20, "{:?}", agent.health.get());
            pause();
        }
        agent
    }

    fn start_unready(&self) -> Agent {
        let (config, pool, health, stop) =
            (self.config(), Arc::clone(&self.pool), HealthCell::default(), CancellationToken::new());
        let (send, receive) = std::sync::mpsc::channel();
        let ns = self.ns.try_clone().unwrap();
        let thread = std::thread::spawn({
            let (health, stop) = (health.clone(), stop.clone());
            move || {
                ns.run(move || {
                    runtime().block_on(async {
                        let engine = engine(Netlink::current().unwrap(), Nft::current().unwrap(), pool);
                        send.send(engine.clone()).unwrap();
                        serve(config, engine, health, stop).await.unwrap();
                    });
                })
                .unwrap();
            }
        });
        Agent { engine: receive.recv().unwrap(), health, stop, thread: Some(thread) }
    }

    /// Runs something in the node's namespace.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl AsyncFnOnce(Netlink, Nft) -> T + Send + 'static,
    ) -> T {
        self.ns
            .run(move || {
                runtime().block_on(async { work(Netlink::current().unwrap(), Nft::current().unwrap()).await })
            })
            .unwrap()
    }

    /// An engine without a server.
    pub(super) fn engine<T: Send + 'static>(
        &self,
        work: impl AsyncFnOnce(Engine) -> T + Send + 'static,
    ) -> T {
        let pool = Arc::clone(&self.pool);
        self.run(async move |host, nft| work(engine(host, nft, pool)).await)
    }

    pub(super) fn call(&self, command: &str, id: &str, pod: Option<&NetNs>) -> Call {
        self.call_with(command, id, pod, json!({}))
    }

    pub(super) fn call_with(&self, command: &str, id: &str, pod: Option<&NetNs>, more: Value) -> Call {
        let mut config = json!({
            "cniVersion": "1.1.0", "name": "warren", "type": "warren",
            "socket": self.socket(), "queueDir": self.dir.path().join("del"),
        });
        if let Value::Object(more) = more {
            for (name, value) in more {
                config[name] = value;
            }
        }
        Call {
            command: command.into(),
            container_id: id.into(),
            if_name: "eth0".into(),
            netns: pod.map(path_of).unwrap_or_default(),
            args: String::new(),
            config: config.to_string(),
        }
    }

    pub(super) fn add(&self, id: &str, pod: &NetNs) -> Value {
        ok(&plugin::run(&self.call("ADD", id, Some(pod))))
    }

    pub(super) fn del(&self, id: &str) {
        assert_eq!(plugin::run(&self.call("DEL", id, None)), Reply { exit: 0, stdout: String::new() });
    }

    /// What the node's kernel has of pods.
    pub(super) fn kernel(&self) -> Kernel {
        self.run(async |host, nft| {
            let links = host.list_links().await.unwrap().into_iter().map(|l| l.name);
            let routes = host.list_routes(Some(87)).await.unwrap().into_iter().map(|r| r.dst.addr());
            let neighbours = host.list_neighbours(None).await.unwrap();
            (
                links.filter(|name| name.starts_with("wrnp")).collect(),
                routes.collect(),
                nft.list_pod_sources().await.unwrap().into_iter().collect(),
                neighbours.into_iter().filter(|n| n.permanent).map(|n| n.addr).collect(),
            )
        })
    }

    /// Nothing of any pod is left.
    pub(super) fn assert_clean(&self) {
        assert_eq!(self.pool.rows(), []);
        assert_eq!(self.kernel(), Default::default());
    }
}

pub(super) fn engine(host: Netlink, nft: Nft, pool: Arc<MemoryPool>) -> Engine {
    // The sender may go: the last value stays readable.
    let (_, mtu) = watch::channel(1420);
    let (_, cut_off) = watch::channel(None);
    engine_with(host, nft, pool, mtu, cut_off)
}

pub(super) fn engine_with(
    host: Netlink,
    nft: Nft,
    pool: Arc<MemoryPool>,
    mtu: watch::Receiver<u32>,
    cut_off: watch::Receiver<Option<String>>,
) -> Engine {
    let config = EngineConfig { network: "warren".into(), mtu, cut_off, boot_id: boot(), at_once: 64 };
    Engine::new(config, host, nft, pool, Arc::new(Everyone))
}

/// Lets everyone in.
struct Everyone;

impl PodGate for Everyone {
    fn admit<'a>(&'a self, _: &'a AttachmentKey) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

pub(super) fn key(id: &str) -> AttachmentKey {
    AttachmentKey { container_id: ContainerId::new(id).unwrap(), if_name: IfName::new("eth0").unwrap() }
}

pub(super) fn ok(reply: &Reply) -> Value {
    assert_eq!(reply.exit, 0, "{}", reply.stdout);
    serde_json::from_str(&reply.stdout).unwrap()
}

/// The error object's code and message.
pub(super) fn refused(reply: &Reply) -> (u64, String) {
    assert_eq!(reply.exit, 1, "{}", reply.stdout);
    let object: Value = serde_json::from_str(&reply.stdout).unwrap();
    assert!(object["cniVersion"].is_string(), "{object}");
    (object["code"].as_u64().unwrap(), object["msg"].as_str().unwrap().to_owned())
}

/// What a program prints in a namespace; `Err` when it fails.
pub(super) fn exec(ns: &NetNs, command: &str) -> Result<String, String> {
    let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    ns.run(move || {
        let out = Command::new(&words[0]).args(&words[1..]).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if out.status.success() { Ok(text(&out.stdout)) } else { Err(text(&out.stderr) + &text(&out.stdout)) }
    })
    .unwrap()
}

/// A moment between two looks at something that will happen.
#[expect(clippy::disallowed_methods, reason = "the test's own thread, outside of any runtime")]
pub(super) fn pause() {
    std::thread::sleep(std::time::Duration::from_millis(2));
}

pub(super) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed().as_secs() < 10, "{what}");
        pause();
    }
}
