//! A LAN of nodes: each a thread in a network and mount namespace of its own, with a real runner, store and device.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use warren_netlink::nft::Nft;
use warren_netlink::{NetNs, Netlink, VethSpec};
use warren_overlay::process::{self, ProcessArgs};
use warren_overlay::{BackendChoice, Deps, OverlayConfig, OverlayStatus, Tables};
use warren_store::{Durability, Store};
use warren_types::{
    ClusterConfig, HealthCell, LocalNode, Node, NodeId, NodeName, PodCidrs, PublicKey, SecretKey,
};

pub(crate) const PORT: u16 = 51840;

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The arguments behind `--`, when this test binary was started as a tunnel process.
pub(crate) fn tunnel_process() {
    let mut args = std::env::args().skip_while(|a| a != "--").skip(1);
    let Some(link) = args.next() else { return };
    let (mut mtu, mut run_dir, mut foreground) = (1420, PathBuf::new(), false);
    while let Some(flag) = args.next() {
        match flag.as_str() {
            "--mtu" => mtu = args.next().unwrap().parse().unwrap(),
            "--run-dir" => run_dir = args.next().unwrap().into(),
            "--foreground" => foreground = true,
            other => panic!("{other}"),
        }
    }
    let args = ProcessArgs { link, mtu, run_dir };
    if foreground { process::serve(&args).unwrap() } else { process::launch(&args, &program()).unwrap() }
}

pub(crate) fn program() -> Vec<OsString> {
    // With one thread, as on a host with one processor, the harness would begin the line on which it says that it is ready.
    let threads = "--test-threads=2";
    let args = ["--ignored", "--exact", "be_the_tunnel_process", "--nocapture", threads, "--"];
    std::iter::once(std::env::current_exe().unwrap().into()).chain(args.map(OsString::from)).collect()
}

/// A thread in fresh namespaces; it ends with the sender of `done`.
fn in_fresh<T: Send + 'static>(
    make: impl FnOnce() -> T + Send + 'static,
    stay: impl FnOnce() + Send + 'static,
) -> (T, JoinHandle<()>) {
    let (send, made) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("making namespaces needs root");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        send.send(make()).unwrap();
        stay();
    });
    (made.recv().unwrap(), thread)
}

pub(crate) fn sh(ns: &NetNs, line: &str) -> String {
    let (text, ok) = try_sh(ns, line);
    assert!(ok, "{line}: {text}");
    text
}

pub(crate) fn try_sh(ns: &NetNs, line: &str) -> (String, bool) {
    let line = line.to_owned();
    ns.run(move || {
        let out = Command::new("sh").arg("-c").arg(&line).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        (text, out.status.success())
    })
    .unwrap()
}

/// Waits until `check` says yes; how long it took.
pub(crate) fn eventually(what: &str, limit: Duration, mut check: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !check() {
        assert!(begun.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    begun.elapsed()
}

pub(crate) struct TestNode {
    pub(crate) name: NodeName,
    pub(crate) ns: NetNs,
    pub(crate) address: IpAddr,
    pub(crate) public: PublicKey,
    pub(crate) cidrs: PodCidrs,
    pub(crate) run_dir: PathBuf,
    pub(crate) status: OverlayStatus,
    pub(crate) health: HealthCell,
    pub(crate) store: Store,
    pub(crate) sysctls: Arc<Mutex<Vec<(String, String)>>>,
    commands: Option<tokio::sync::mpsc::Sender<CancellationToken>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

pub(crate) struct Lan {
    pub(crate) rt: Runtime,
    pub(crate) switch: NetNs,
    pub(crate) nodes: Vec<TestNode>,
    pub(crate) cluster: ClusterConfig,
    v6_underlay: bool,
    backend: BackendChoice,
    _hold: mpsc::Sender<()>,
}

impl Lan {
    pub(crate) fn new(v6_underlay: bool) -> Self {
        let (hold, held) = mpsc::channel::<()>();
        let (switch, _thread) = in_fresh(
            || NetNs::current().unwrap(),
            move || {
                let _ = held.recv();
            },
        );
        sh(&switch, "ip link set lo up; ip link add lan type bridge; ip link set lan up");
        let cluster = ClusterConfig {
            cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap(), "fd00:42::/56".parse().unwrap()],
            service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
        };
        let backend = match std::env::var("WARREN_TEST_BACKEND").as_deref() {
            Ok("kernel") => BackendChoice::Kernel,
            _ => BackendChoice::Userspace,
        };
        Self { rt: runtime(), switch, nodes: Vec::new(), cluster, v6_underlay, backend, _hold: hold }
    }

    pub(crate) fn address(&self, host: u8) -> IpAddr {
        let text = if self.v6_underlay { format!("fd99::{host}") } else { format!("192.0.2.{host}") };
        text.parse().unwrap()
    }

    /// Adds a node, its overlay running; nobody knows of it yet.
    pub(crate) fn add(&mut self) -> usize {
        let number = u8::try_from(self.nodes.len() + 1).unwrap();
        let address = self.address(number);
        let secret = x25519_dalek::StaticSecret::from([number; 32]);
        let public = PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes());
        let dir = tempfile::tempdir().unwrap();
        let run_dir = dir.path().join("run");
        let name = NodeName::new(format!("n{number}")).unwrap();
        let config = OverlayConfig {
            node_name: name.clone(),
            listen_port: PORT,
            backend: self.backend,
            mtu: None,
            run_dir: run_dir.clone(),
            private_key: SecretKey::from_bytes([number; 32]),
            program: program(),
        };
        let store = Store::open(&dir.path().join("store")).unwrap().store;
        let (status, health) = (OverlayStatus::default(), HealthCell::default());
        let sysctls = Arc::new(Mutex::new(Vec::new()));
        let noted = sysctls.clone();
        let (commands, mut starts) = tokio::sync::mpsc::channel::<CancellationToken>(1);
        let (tables, shown, cell) = (Tables::of(&store), status.clone(), health.clone());
        let (ns, thread) = in_fresh(
            || NetNs::current().unwrap(),
            move || {
                runtime().block_on(async {
                    while let Some(stop) = starts.recv().await {
                        let noted = noted.clone();
                        let deps = Deps {
                            tables: tables.clone(),
                            netlink: Netlink::current().unwrap(),
                            nft: Nft::current().unwrap(),
                            status: shown.clone(),
                            note_sysctl: Arc::new(move |key, old| {
                                noted.lock().unwrap().push((key.to_owned(), old.to_owned()));
                                Ok(())
                            }),
                        };
                        if let Err(e) = warren_overlay::run(config.clone(), deps, cell.clone(), stop).await {
                            panic!("the overlay ended: {e}");
                        }
                    }
                });
            },
        );
        sh(&ns, "ip link set lo up");
        self.plug(&ns, number, "eth0");
        let len = if self.v6_underlay { "64 nodad" } else { "24" };
        sh(&ns, &format!("ip addr add {address}/{len} dev eth0"));
        let cidrs =
            PodCidrs::parse([format!("10.42.{number}.0/24"), format!("fd00:42:0:{number}::/64")]).unwrap();
        let node = TestNode {
            name,
            ns,
            address,
            public,
            cidrs,
            run_dir,
            status,
            health,
            store,
            sysctls,
            commands: Some(commands),
            stop: CancellationToken::new(),
            thread: Some(thread),
            _dir: dir,
        };
        self.nodes.push(node);
        let index = self.nodes.len() - 1;
        self.rt.block_on(async {
            let store = &self.nodes[index].store;
            store.table().put(self.cluster.clone(), Durability::Cached).await.unwrap();
        });
        self.present(index);
        self.start(index);
        index
    }

    /// A cable from a namespace to the switch.
    fn plug(&self, ns: &NetNs, number: u8, link: &str) {
        let port = format!("port{number}");
        let switch = self.switch.try_clone().unwrap();
        let ns = ns.try_clone().unwrap();
        let (name, link) = (port.clone(), link.to_owned());
        self.rt.block_on(async move {
            let netlink = Netlink::in_namespace(&switch).await.unwrap();
            let spec = VethSpec {
                name: &name,
                peer_name: &link,
                peer_ns: Some(&ns),
                mtu: 1500,
                macs: None,
                alias: "",
            };
            netlink.add_veth(&spec).await.unwrap();
            netlink.set_master(&name, "lan").await.unwrap();
            netlink.set_up(&name, true).await.unwrap();
            Netlink::in_namespace(&ns).await.unwrap().set_up(&link, true).await.unwrap();
        });
    }

    /// Writes the node's own row.
    pub(crate) fn present(&self, index: usize) {
        let node = &self.nodes[index];
        let local = LocalNode {
            name: node.name.clone(),
            node_id: NodeId::new("0".repeat(32)).unwrap(),
            public_key: node.public,
            endpoints: vec![SocketAddr::new(node.address, PORT)],
            held_ports: Vec::new(),
            ingress: Vec::new(),
            internal_ips: vec![node.address],
            served_ips: Vec::new(),
            ready: true,
            message: String::new(),
        };
        self.rt.block_on(node.store.table().put(local, Durability::Cached)).unwrap();
    }

    pub(crate) fn row(&self, index: usize) -> Node {
        let node = &self.nodes[index];
        Node {
            name: node.name.clone(),
            uid: node.name.to_string(),
            node_id: None,
            public_key: Some(node.public),
            endpoints: vec![SocketAddr::new(node.address, PORT)],
            observed: Default::default(),
            held_ports: Vec::new(),
            ingress: Vec::new(),
            internal_ips: vec![node.address],
            served_ips: Vec::new(),
            pod_cidrs: node.cidrs,
            labels: Default::default(),
            ready: true,
        }
    }

    /// Tells every node of these nodes, and of no others.
    pub(crate) fn tell(&self, members: &[usize]) {
        let rows: Vec<Node> = members.iter().map(|i| self.row(*i)).collect();
        self.tell_rows(&rows);
    }

    pub(crate) fn tell_rows(&self, rows: &[Node]) {
        for node in &self.nodes {
            self.rt.block_on(node.store.table::<Node>().replace(rows.to_vec(), Durability::Cached)).unwrap();
        }
    }

    pub(crate) fn start(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.stop = CancellationToken::new();
        node.commands.as_ref().unwrap().blocking_send(node.stop.clone()).unwrap();
    }

    pub(crate) fn stop(&mut self, index: usize) {
        self.nodes[index].stop.cancel();
    }

    pub(crate) fn ready(&self, index: usize) -> Duration {
        let node = &self.nodes[index];
        eventually(&format!("{} ready, says {:?}", node.name, node.health), Duration::from_secs(15), || {
            node.health.get().state == warren_types::HealthState::Ready
        })
    }

    /// Waits until these nodes, and no others, are what each of them says it has for peers.
    pub(crate) fn settled(&self, nodes: &[usize]) {
        for node in nodes.iter().map(|index| &self.nodes[*index]) {
            eventually(
                &format!("{} has its peers, says {:?}", node.name, node.health),
                Duration::from_secs(15),
                || node.status.mtu().is_some() && node.status.get().peers.len() + 1 == nodes.len(),
            );
        }
    }

    /// Whether one packet from the node arrives at `to` and comes back within a second.
    pub(crate) fn ping(&self, from: usize, to: &str) -> bool {
        try_sh(&self.nodes[from].ns, &format!("ping -n -c1 -W1 {to}")).1
    }

    pub(crate) fn reaches(&self, from: usize, to: &str, limit: Duration) -> Duration {
        eventually(&format!("n{} reaches {to}", from + 1), limit, || self.ping(from, to))
    }

    /// A pod on a node: a namespace with a routed veth pair, as CNI makes it. Its addresses end in `host`.
    pub(crate) fn pod(&self, index: usize, host: u8) -> NetNs {
        let node = &self.nodes[index];
        let pod = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            NetNs::current().unwrap()
        })
        .join()
        .unwrap();
        let link = format!("wrnp{host:011x}");
        let (v4, v6) = (format!("10.42.{}.{host}", index + 1), format!("fd00:42:0:{}::{host:x}", index + 1));
        eventually(&format!("{} tells its MTU", node.name), Duration::from_secs(15), || {
            node.status.mtu().is_some()
        });
        let mtu = node.status.mtu().unwrap();
        self.rt.block_on(async {
            let nft = Nft::in_namespace(&node.ns).await.unwrap();
            let sources = [(link.clone(), v4.parse().unwrap()), (link.clone(), v6.parse().unwrap())];
            nft.add_pod_sources(&sources).await.unwrap();
            let netlink = Netlink::in_namespace(&node.ns).await.unwrap();
            let macs = Some(([2, 0, 0, 0, 1, host], [2, 0, 0, 0, 2, host]));
            let spec = VethSpec { name: &link, peer_name: "eth0", peer_ns: Some(&pod), mtu, macs, alias: "" };
            netlink.add_veth(&spec).await.unwrap();
        });
        sh(
            &node.ns,
            &format!(
                "set -e; ip link set {link} up; ip route add {v4}/32 dev {link} proto 87; ip -6 route add {v6}/128 dev {link} proto 87
                 ip neigh replace {v4} lladdr 02:00:00:00:02:{host:02x} dev {link} nud permanent
                 ip neigh replace {v6} lladdr 02:00:00:00:02:{host:02x} dev {link} nud permanent"
            ),
        );
        sh(
            &pod,
            &format!(
                "set -e; ip link set lo up; ip addr add {v4}/32 dev eth0; ip addr add {v6}/128 dev eth0 nodad; ip link set eth0 up
                 ip route add 169.254.1.1 dev eth0 scope link; ip route add default via 169.254.1.1 dev eth0
                 ip -6 route add default via fe80::1 dev eth0
                 ip neigh replace 169.254.1.1 lladdr 02:00:00:00:01:{host:02x} dev eth0 nud permanent
                 ip neigh replace fe80::1 lladdr 02:00:00:00:01:{host:02x} dev eth0 nud permanent"
            ),
        );
        pod
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.stop.cancel();
            node.commands = None;
            if let Some(thread) = node.thread.take() {
                let _ = thread.join();
            }
            if std::thread::panicking() {
                eprintln!("{}: {:?} {:?}", node.name, node.health.get(), node.status.get());
                let log = std::fs::read_to_string(process::of(&node.run_dir, "wrn-wg").log_file());
                eprintln!("{}", log.unwrap_or_default());
                let state =
                    "ip a; ip route show table all proto 87; ip -6 route show table all proto 87; ip rule";
                eprintln!("{}", try_sh(&node.ns, state).0);
            }
            let _ = process::of(&node.run_dir, "wrn-wg").stop(true);
        }
    }
}

/// Everything on the switch, as tcpdump prints it, while it lives.
pub(crate) struct Capture(std::process::Child, PathBuf, tempfile::TempDir);

impl Capture {
    pub(crate) fn start(switch: &NetNs) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("capture");
        let out = std::fs::File::create(&file).unwrap();
        let err = std::fs::File::create(dir.path().join("err")).unwrap();
        let child = switch
            .run(move || {
                Command::new("tcpdump")
                    .args(["-n", "-l", "-U", "--immediate-mode", "-i", "lan"])
                    .stdout(out)
                    .stderr(err)
                    .spawn()
                    .unwrap()
            })
            .unwrap();
        let err = dir.path().join("err");
        eventually("tcpdump listens", Duration::from_secs(5), || {
            std::fs::read_to_string(&err).unwrap().contains("listening")
        });
        Self(child, file, dir)
    }

    /// Ends it: the lines.
    pub(crate) fn lines(mut self) -> Vec<String> {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.0.id() as i32),
            nix::sys::signal::Signal::SIGINT,
        )
        .unwrap();
        self.0.wait().unwrap();
        let _ = &self.2;
        std::fs::read_to_string(&self.1).unwrap().lines().map(str::to_owned).collect()
    }
}
