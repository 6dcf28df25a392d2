//! A LAN in namespaces: nodes and a client on a bridge; each node runs the load balancer on a store of its own.

use nix::sched::{CloneFlags, unshare};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use warren_loadbalancer::{
    AddressState, Deps, HeldPorts, LoadBalancerConfig, LoadBalancerStatus, Mode, Pool, Tables, run,
};
use warren_netlink::{NetNs, Netlink};
use warren_store::{Durability, Store};
use warren_types::{
    Endpoint, EndpointSlice, Family, HealthCell, LocalNode, Namespace, Node, NodeId, NodeName, PodCidrs,
    Protocol, PublicKey, Service, ServiceKey, ServiceKind, ServiceName, ServicePort, SliceKey, SliceName,
    TrafficPolicy,
};

/// The addresses that the pool gives first.
pub(crate) const V4: &str = "192.0.2.200";
pub(crate) const V6: &str = "2001:db8::200";
/// The port of the Service, on which each node says its name.
pub(crate) const PORT: u16 = 9;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn pool() -> Mode {
    Mode::Pool(Pool::new(
        ["192.0.2.200-192.0.2.210", "2001:db8::200-2001:db8::210"].map(|r| r.parse().unwrap()).into(),
    ))
}

fn fresh() -> NetNs {
    let made = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("making a network namespace needs root");
        NetNs::current().unwrap()
    });
    made.join().unwrap()
}

pub(crate) fn on<T: Send + 'static>(ns: &NetNs, f: impl FnOnce() -> T + Send + 'static) -> T {
    ns.run(f).unwrap()
}

/// What `ip ARGS` prints in the namespace of the calling thread.
pub(crate) fn iproute(args: &str) -> String {
    let out = Command::new("ip").args(args.split_whitespace()).output().expect("iproute2 is needed");
    assert!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn nft(script: &str) {
    let mut child =
        Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft is needed");
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{script}");
}

/// A node of the LAN. Its kernel sends what comes to the Service's addresses to a server that says the node's name.
pub(crate) struct LanNode {
    pub(crate) number: u8,
    pub(crate) ns: NetNs,
    pub(crate) store: Store,
    pub(crate) status: LoadBalancerStatus,
    pub(crate) health: HealthCell,
    pub(crate) serving: watch::Sender<bool>,
    pub(crate) held: watch::Sender<BTreeMap<NodeName, HeldPorts>>,
    pub(crate) held_here: watch::Sender<HeldPorts>,
    pub(crate) stop: CancellationToken,
    task: Option<AbortHandle>,
    _dir: tempfile::TempDir,
}

impl LanNode {
    /// What this node is to an address.
    pub(crate) fn state(&self, address: IpAddr) -> Option<AddressState> {
        self.status.get().addresses.get(&address).map(|status| status.state)
    }

    /// Dies: its link and its agent at once.
    pub(crate) fn die(&mut self) {
        on(&self.ns, || iproute("link set eth0 down"));
        self.abort();
    }

    /// Its agent is killed; its kernel works on.
    pub(crate) fn abort(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        // Nobody is left to say otherwise.
        self.status = LoadBalancerStatus::default();
    }
}

pub(crate) struct Lan {
    pub(crate) nodes: Vec<LanNode>,
    pub(crate) client: NetNs,
    tasks: JoinSet<()>,
    _bridge: NetNs,
}

impl Lan {
    /// Nodes `n1`..., whose hardware addresses end in their numbers; `n1` has 192.0.2.1 and 2001:db8::1.
    pub(crate) async fn new(count: u8, mode: &Mode) -> Self {
        let bridge = fresh();
        on(&bridge, || {
            iproute("link add br0 type bridge mcast_snooping 0");
            iproute("link set br0 up");
        });
        let client = fresh();
        join(&bridge, &client, 100);
        let mut lan = Self { nodes: Vec::new(), client, tasks: JoinSet::new(), _bridge: bridge };
        for number in 1..=count {
            let ns = fresh();
            join(&lan._bridge, &ns, number);
            let server = on(&ns, move || {
                nft(&format!(
                    "table inet t {{
                        chain c {{
                            type nat hook prerouting priority -100
                            ip daddr {V4} udp dport {PORT} dnat ip to 192.0.2.{number}
                            ip6 daddr {V6} udp dport {PORT} dnat ip6 to 2001:db8::{number}
                        }}
                    }}"
                ));
                let server = UdpSocket::bind(("::", PORT)).unwrap();
                server.set_nonblocking(true).unwrap();
                server
            });
            let server = tokio::net::UdpSocket::from_std(server).unwrap();
            lan.tasks.spawn(async move {
                let mut packet = [0; 64];
                while let Ok((_, from)) = server.recv_from(&mut packet).await {
                    let _ = server.send_to(format!("n{number}").as_bytes(), from).await;
                }
            });
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path()).unwrap().store;
            let node = LanNode {
                number,
                ns,
                store,
                status: LoadBalancerStatus::default(),
                health: HealthCell::default(),
                serving: watch::Sender::new(true),
                held: watch::Sender::default(),
                held_here: watch::Sender::default(),
                stop: CancellationToken::new(),
                task: None,
                _dir: dir,
            };
            lan.nodes.push(node);
            lan.start(number, mode).await;
        }
        lan
    }

    /// Starts the load balancer of a node.
    pub(crate) async fn start(&mut self, number: u8, mode: &Mode) {
        let node = self.nodes.iter_mut().find(|node| node.number == number).unwrap();
        let config = LoadBalancerConfig { node_name: node_name(number), mode: mode.clone(), interface: None };
        node.stop = CancellationToken::new();
        let deps = Deps {
            tables: Tables::of(&node.store),
            netlink: Netlink::in_namespace(&node.ns).await.unwrap(),
            held: node.held.subscribe(),
            held_here: node.held_here.clone(),
            serving: node.serving.subscribe(),
            status: node.status.clone(),
        };
        let (health, stop) = (node.health.clone(), node.stop.clone());
        let task = self.tasks.spawn(async move { run(config, deps, health, stop).await.unwrap() });
        node.task = Some(task);
    }

    /// Every store is told of the same cluster.
    pub(crate) async fn tell(&self, services: &[Service], slices: &[EndpointSlice]) {
        let nodes: Vec<Node> = self.nodes.iter().map(|node| row(node.number)).collect();
        for node in &self.nodes {
            node.store.table().put(local(node.number), Durability::Cached).await.unwrap();
            node.store.table().replace(nodes.clone(), Durability::Cached).await.unwrap();
            node.store.table().replace(services.to_vec(), Durability::Cached).await.unwrap();
            node.store.table().replace(slices.to_vec(), Durability::Cached).await.unwrap();
        }
    }

    /// The nodes that hold an address, as they say.
    pub(crate) fn holders(&self, address: IpAddr) -> BTreeSet<u8> {
        let holds = |node: &&LanNode| node.state(address) == Some(AddressState::Holder);
        self.nodes.iter().filter(holds).map(|node| node.number).collect()
    }

    /// Waits until exactly one node holds the address and the others know it.
    pub(crate) async fn settled(&self, address: IpAddr, within: Duration) -> u8 {
        let mut seen: Vec<_> = self.nodes.iter().map(|node| node.status.subscribe()).collect();
        let search = async {
            loop {
                let holders = self.holders(address);
                let listens = self.nodes.iter().any(|n| n.state(address) == Some(AddressState::Listening));
                if let (1, Some(holder), false) = (holders.len(), holders.first(), listens) {
                    return *holder;
                }
                let changes = seen.iter_mut().map(|status| Box::pin(status.changed()));
                let _ = first(changes.collect()).await;
            }
        };
        tokio::time::timeout(within, search)
            .await
            .unwrap_or_else(|_| panic!("{address}: {:?}", self.holders(address)))
    }

    pub(crate) fn node(&mut self, number: u8) -> &mut LanNode {
        self.nodes.iter_mut().find(|node| node.number == number).unwrap()
    }
}

/// Waits for the first of several futures.
async fn first<F: Future + Unpin>(mut all: Vec<F>) -> F::Output {
    std::future::poll_fn(move |context| {
        for one in &mut all {
            if let std::task::Poll::Ready(done) = std::pin::Pin::new(one).poll(context) {
                return std::task::Poll::Ready(done);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

fn join(bridge: &NetNs, ns: &NetNs, number: u8) {
    let path = format!("/proc/{}/fd/{}", std::process::id(), ns.as_fd().as_raw_fd());
    on(bridge, move || {
        let peer = format!("address 02:00:00:00:00:{number:02x} netns {path}");
        iproute(&format!("link add p{number} type veth peer eth0 {peer}"));
        iproute(&format!("link set p{number} master br0 up"));
    });
    on(ns, move || {
        iproute("link set lo up");
        std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0").unwrap();
        iproute("link set eth0 up");
        iproute(&format!("addr add 192.0.2.{number}/24 dev eth0"));
        iproute(&format!("addr add 2001:db8::{number}/64 dev eth0 nodad"));
    });
}

/// A client that calls the Service every 20 ms and notes who answered when.
pub(crate) struct Caller {
    pub(crate) answers: watch::Receiver<Vec<(Instant, String)>>,
    _tasks: JoinSet<()>,
}

impl Caller {
    pub(crate) fn new(client: &NetNs, address: IpAddr) -> Self {
        let socket = on(client, move || {
            let any: IpAddr = if address.is_ipv4() { ip("0.0.0.0") } else { ip("::") };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        });
        let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
        let (sender, answers) = watch::channel(Vec::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(20));
            let mut packet = [0; 64];
            loop {
                tokio::select! {
                    _ = tick.tick() => {
                        let _ = socket.send_to(b"?", SocketAddr::new(address, PORT)).await;
                    }
                    Ok(length) = socket.recv(&mut packet) => {
                        let name = String::from_utf8_lossy(&packet[..length]).into_owned();
                        sender.send_modify(|all| all.push((Instant::now(), name)));
                    }
                }
            }
        });
        Self { answers, _tasks: tasks }
    }

    /// Waits for an answer of a node that `wanted` picks, given after `since`.
    pub(crate) async fn answer(
        &mut self,
        since: Instant,
        wanted: impl Fn(&str) -> bool,
    ) -> (Instant, String) {
        let search = self.answers.wait_for(|all| all.iter().any(|(at, name)| *at > since && wanted(name)));
        let all =
            tokio::time::timeout(Duration::from_secs(10), search).await.expect("nobody answers").unwrap();
        all.iter().find(|(at, name)| *at > since && wanted(name)).unwrap().clone()
    }

    /// The longest time without an answer.
    pub(crate) fn longest_gap(&self) -> Duration {
        let all = self.answers.borrow();
        all.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or_default()
    }
}

pub(crate) fn node_name(number: u8) -> NodeName {
    NodeName::new(format!("n{number}")).unwrap()
}

fn addresses(number: u8) -> Vec<IpAddr> {
    vec![ip(&format!("192.0.2.{number}")), ip(&format!("2001:db8::{number}"))]
}

fn row(number: u8) -> Node {
    Node {
        name: node_name(number),
        uid: String::new(),
        node_id: None,
        public_key: None,
        endpoints: vec![],
        observed: BTreeMap::new(),
        held_ports: vec![],
        ingress: Vec::new(),
        internal_ips: addresses(number),
        served_ips: Vec::new(),
        pod_cidrs: PodCidrs::default(),
        labels: BTreeMap::new(),
        ready: true,
    }
}

fn local(number: u8) -> LocalNode {
    LocalNode {
        name: node_name(number),
        node_id: NodeId::new(format!("{number:032x}")).unwrap(),
        public_key: PublicKey([number; 32]),
        endpoints: vec![],
        held_ports: vec![],
        ingress: Vec::new(),
        internal_ips: addresses(number),
        served_ips: Vec::new(),
        ready: true,
        message: String::new(),
    }
}

/// A Service of both families.
pub(crate) fn service(policy: TrafficPolicy, status: &[&str]) -> Service {
    let port = ServicePort::new(Protocol::Udp, PORT);
    Service {
        uid: "uid".into(),
        created: 1,
        kind: ServiceKind::LoadBalancer,
        load_balancer_ips: status.iter().map(|text| ip(text)).collect(),
        families: vec![Family::V4, Family::V6],
        ports: vec![port],
        external_policy: policy,
        ..Service::new(ServiceKey {
            namespace: Namespace::new("default").unwrap(),
            name: ServiceName::new("web").unwrap(),
        })
    }
}

/// Slices of both families with a ready endpoint on each of these nodes.
pub(crate) fn slices(nodes: &[u8]) -> Vec<EndpointSlice> {
    let endpoint =
        |number: &u8| Endpoint { node: Some(node_name(*number)), ..Endpoint::ready(ip("10.42.0.9")) };
    let slice = |(family, name): (Family, &str)| EndpointSlice {
        key: SliceKey { namespace: Namespace::new("default").unwrap(), name: SliceName::new(name).unwrap() },
        service: service(TrafficPolicy::Cluster, &[]).key,
        family,
        ports: vec![],
        endpoints: nodes.iter().map(endpoint).collect(),
        foreign_proxy: false,
    };
    [(Family::V4, "web-4"), (Family::V6, "web-6")].map(slice).into()
}
