//! `warren server` as a process: killed without warning while it is written to. On loopback, without root.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by panic what is wrong")]

use futures::StreamExt as _;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent,
    WatchParams,
};
use kube::{Client, Config, ResourceExt as _};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const KILLS: usize = 5;
const WRITERS: usize = 4;
/// Writes that must be acknowledged before the next kill.
const BETWEEN_KILLS: usize = 150;
/// A server that is away for longer does not come back.
const AWAY: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(5);

/// The server's process; gone when the test ends.
struct Server {
    directory: tempfile::TempDir,
    address: SocketAddr,
    child: Mutex<Child>,
}

impl Server {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // The same one after each kill, so that clients find it again; of an address that no other test has,
        // so that nobody takes it meanwhile.
        static LAST: AtomicU8 = AtomicU8::new(1);
        let own = Ipv4Addr::new(127, 0, 1, LAST.fetch_add(1, Ordering::Relaxed));
        let address = TcpListener::bind((own, 0)).unwrap().local_addr().unwrap();
        let child = Mutex::new(spawn(directory.path().to_owned(), address));
        Self { directory, address, child }
    }
    fn kill_and_restart(&self) {
        let mut child = self.child.lock().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        *child = spawn(self.directory.path().to_owned(), self.address);
    }
    async fn client(&self) -> Client {
        let path = self.directory.path().join("kubeconfig");
        until("the kubeconfig is written", || path.exists()).await;
        let kubeconfig = kube::config::Kubeconfig::read_from(&path).unwrap();
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
        // What was not acknowledged is to be seen, not asked again.
        config.default_retry = false;
        Client::try_from(config).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn spawn(directory: PathBuf, address: SocketAddr) -> Child {
    // Ranges for benchmarks (RFC 2544): no machine has routes to them.
    Command::new(env!("CARGO_BIN_EXE_warren"))
        .arg("server")
        .args(["--listen", &address.to_string(), "--cluster-cidr", "198.18.0.0/16"])
        .args(["--service-cidr", "198.19.0.0/16", "--node-prefix-v4", "28"])
        .arg("--data-dir")
        .arg(directory.join("data"))
        .arg("--write-kubeconfig")
        .arg(directory.join("kubeconfig"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::options().create(true).append(true).open(directory.join("log")).unwrap())
        .spawn()
        .unwrap()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < AWAY, "not within {AWAY:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn resource(version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: String::new(),
        version: version.into(),
        api_version: version.into(),
        kind: kind.into(),
        plural: plural.into(),
    }
}

type Objects = Api<DynamicObject>;

/// The kinds that are written: objects alone, and objects that are given something.
struct Kinds {
    maps: Objects,
    nodes: Objects,
    services: Objects,
}

impl Kinds {
    fn new(client: Client) -> Self {
        Self {
            maps: Api::namespaced_with(client.clone(), "default", &resource("v1", "ConfigMap", "configmaps")),
            nodes: Api::all_with(client.clone(), &resource("v1", "Node", "nodes")),
            services: Api::namespaced_with(client, "default", &resource("v1", "Service", "services")),
        }
    }
}

fn object(body: Value) -> DynamicObject {
    serde_json::from_value(body).unwrap()
}

fn version(o: &DynamicObject) -> u64 {
    o.resource_version().unwrap().parse().unwrap()
}

/// What the server said it had done.
#[derive(Default)]
struct Told {
    /// Created and not deleted since: uid, version, and what it was given.
    there: BTreeMap<(String, String), (String, u64, Vec<String>)>,
    /// Deleted.
    gone: BTreeSet<String>,
    /// The last number in the counter of each writer.
    counts: BTreeMap<String, u64>,
}

/// Addresses and ranges that only one object may have.
fn given(o: &DynamicObject) -> Vec<String> {
    let all = [("podCIDRs", "/spec/podCIDRs"), ("clusterIPs", "/spec/clusterIPs")];
    let lists = all.iter().filter_map(|(_, p)| o.data.pointer(p)?.as_array());
    let mut given: Vec<String> =
        lists.flatten().filter_map(Value::as_str).filter(|v| *v != "None").map(str::to_owned).collect();
    let ports = o.data.pointer("/spec/ports").and_then(Value::as_array);
    given
        .extend(ports.into_iter().flatten().filter_map(|p| Some(format!("nodePort {}", p.get("nodePort")?))));
    given
}

async fn answered<T>(request: impl Future<Output = kube::Result<T>>) -> Option<T> {
    tokio::time::timeout(ANSWER, request).await.ok()?.ok()
}

struct Load {
    kinds: Kinds,
    told: Mutex<Told>,
    acknowledged: AtomicUsize,
    /// The highest version that was told.
    highest: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    fn note(&self, o: &DynamicObject) {
        self.acknowledged.fetch_add(1, Ordering::SeqCst);
        self.highest.fetch_max(version(o), Ordering::SeqCst);
    }

    async fn create(&self, api: &Objects, kind: &str, body: Value) -> Option<DynamicObject> {
        let before = self.highest.load(Ordering::SeqCst);
        let made = answered(api.create(&PostParams::default(), &object(body))).await?;
        assert!(version(&made) > before, "{} after {before} was told", version(&made));
        let key = (kind.to_owned(), made.name_any());
        let value = (made.uid().unwrap(), version(&made), given(&made));
        assert!(
            self.told.lock().unwrap().there.insert(key, value).is_none(),
            "the name {} twice",
            made.name_any()
        );
        self.note(&made);
        Some(made)
    }

    async fn write(&self, writer: usize) {
        let counter = format!("counter-{writer}");
        for n in 1u64.. {
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let text = format!("{n:07}-").repeat(100);
            let map = json!({"metadata": {"generateName": format!("w{writer}-")}, "data": {"text": text}});
            let made = self.create(&self.kinds.maps, "ConfigMap", map).await;
            let node = json!({"metadata": {"name": format!("node-{writer}-{n}")}});
            self.create(&self.kinds.nodes, "Node", node).await;
            let service = json!({"metadata": {"name": format!("s-{writer}-{n}")},
                "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
            self.create(&self.kinds.services, "Service", service).await;
            let patch = Patch::Merge(json!({"data": {"n": n.to_string()}}));
            match answered(self.kinds.maps.patch(&counter, &PatchParams::default(), &patch)).await {
                Some(o) => {
                    self.told.lock().unwrap().counts.insert(counter.clone(), n);
                    self.note(&o);
                }
                None => {
                    let new = json!({"metadata": {"name": counter}, "data": {"n": n.to_string()}});
                    let _ = answered(self.kinds.maps.create(&PostParams::default(), &object(new))).await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            if let Some(made) = made.filter(|_| n % 3 == 0) {
                let name = made.name_any();
                // From the moment it is asked for, nobody knows until the answer.
                self.told.lock().unwrap().there.remove(&("ConfigMap".to_owned(), name.clone()));
                if answered(self.kinds.maps.delete(&name, &DeleteParams::default())).await.is_some() {
                    self.told.lock().unwrap().gone.insert(name);
                    self.acknowledged.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    }
}

/// What a watcher saw.
#[derive(Default)]
struct Seen {
    state: BTreeMap<String, u64>,
    position: u64,
    resumed: usize,
    lists: usize,
}

/// Watches for ever: over lost connections from where it was, and with a list when that is too old.
async fn watch(api: &Objects, seen: &Mutex<Seen>) {
    loop {
        let position = seen.lock().unwrap().position;
        if position == 0 {
            let Some(list) = answered(api.list(&ListParams::default())).await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let mut seen = seen.lock().unwrap();
            seen.state = list.items.iter().map(|o| (o.name_any(), version(o))).collect();
            seen.position = list.metadata.resource_version.unwrap().parse().unwrap();
            seen.lists += 1;
            continue;
        }
        let Some(stream) =
            answered(api.watch(&WatchParams::default().timeout(200), &position.to_string())).await
        else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        seen.lock().unwrap().resumed += 1;
        let mut stream = stream.boxed();
        while let Some(Ok(event)) = stream.next().await {
            let mut seen = seen.lock().unwrap();
            let (o, gone, new) = match event {
                WatchEvent::Added(o) => (o, false, true),
                WatchEvent::Modified(o) => (o, false, false),
                WatchEvent::Deleted(o) => (o, true, false),
                WatchEvent::Bookmark(b) => {
                    seen.position = b.metadata.resource_version.parse().unwrap();
                    continue;
                }
                WatchEvent::Error(e) => {
                    assert_eq!(e.code, 410, "{e:?}");
                    seen.position = 0;
                    break;
                }
            };
            assert!(version(&o) > seen.position, "{} twice or out of order", o.name_any());
            seen.position = version(&o);
            let had = match gone {
                true => seen.state.remove(&o.name_any()),
                false => seen.state.insert(o.name_any(), version(&o)),
            };
            assert_eq!(had.is_none(), new, "{}: {had:?}", o.name_any());
        }
    }
}

async fn lists(kinds: &Kinds) -> Vec<(&'static str, Vec<DynamicObject>)> {
    let mut lists = Vec::new();
    for (kind, api) in [("ConfigMap", &kinds.maps), ("Node", &kinds.nodes), ("Service", &kinds.services)] {
        let list = answered(api.list(&ListParams::default())).await;
        lists.push((kind, list.unwrap_or_else(|| panic!("{kind}s cannot be listed")).items));
    }
    lists
}

/// What was told holds in what is there.
fn check(told: &Told, lists: Vec<(&'static str, Vec<DynamicObject>)>) -> usize {
    let mut found = BTreeMap::new();
    let (mut versions, mut uids, mut givens) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
    for (kind, list) in lists {
        for o in list {
            let name = format!("{kind} {}", o.name_any());
            assert!(uids.insert(o.uid().unwrap()), "{name}: a uid twice");
            if let Some(other) = versions.insert(version(&o), name.clone()) {
                panic!("{name} and {other} have the same version");
            }
            for what in given(&o) {
                if let Some(other) = givens.insert(what.clone(), name.clone()) {
                    panic!("{what} was given to {name} and to {other}");
                }
            }
            found.insert((kind.to_owned(), o.name_any()), o);
        }
    }
    for (key, (uid, version_told, given_told)) in &told.there {
        let o = found.get(key).unwrap_or_else(|| panic!("{key:?} was acknowledged and is gone"));
        assert_eq!((&o.uid().unwrap(), &given(o)), (uid, given_told), "{key:?}");
        assert!(version(o) >= *version_told, "{key:?} is older than what was acknowledged");
    }
    for name in &told.gone {
        assert!(
            !found.contains_key(&("ConfigMap".to_owned(), name.clone())),
            "{name} was deleted and is back"
        );
    }
    for (counter, n) in &told.counts {
        let o = &found[&("ConfigMap".to_owned(), counter.clone())];
        let now: u64 = o.data.pointer("/data/n").unwrap().as_str().unwrap().parse().unwrap();
        assert!(now >= *n, "{counter}: {n} was acknowledged, {now} is there");
    }
    println!(
        "{} objects acknowledged, {} deletions, {} addresses, ranges and ports, all of one object each",
        told.there.len(),
        told.gone.len(),
        givens.len()
    );
    told.there.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_under_writes_it_keeps_its_word() {
    let server = Server::start();
    let client = server.client().await;
    let load = Load {
        kinds: Kinds::new(client.clone()),
        told: Mutex::default(),
        acknowledged: AtomicUsize::new(0),
        highest: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let seen = Mutex::new(Seen::default());
    let watched = Kinds::new(client).maps;
    let writers = futures::future::join_all((0..WRITERS).map(|w| load.write(w)));
    let killing = async {
        for _ in 0..KILLS {
            let before = load.acknowledged.load(Ordering::SeqCst);
            until("writes are acknowledged", || {
                load.acknowledged.load(Ordering::SeqCst) >= before + BETWEEN_KILLS
            })
            .await;
            tokio::task::block_in_place(|| server.kill_and_restart());
        }
        let before = load.acknowledged.load(Ordering::SeqCst);
        until("the server takes writes again", || {
            load.acknowledged.load(Ordering::SeqCst) > before + BETWEEN_KILLS
        })
        .await;
        load.stop.store(true, Ordering::SeqCst);
    };
    let work = async {
        tokio::join!(killing, writers);
        let lists = lists(&load.kinds).await;
        assert!(check(&load.told.lock().unwrap(), lists) > KILLS * BETWEEN_KILLS / 2);
        let there = answered(watched.list(&ListParams::default())).await.unwrap();
        let there: BTreeMap<String, u64> = there.items.iter().map(|o| (o.name_any(), version(o))).collect();
        until("the watch ends with what is there", || seen.lock().unwrap().state == there).await;
        let seen = seen.lock().unwrap();
        println!(
            "the watch was opened {} times and listed {} times over {KILLS} kills",
            seen.resumed, seen.lists
        );
        assert!(seen.resumed > KILLS);
    };
    tokio::select! {
        () = work => {}
        () = watch(&watched, &seen) => {}
    }
}
