//! The runner with a real store, on the ports of a network namespace of its own. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use common::{Client, Origin, Seen, ok};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustls::pki_types::ServerName;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use warren_ingress::{
    AccessLogConfig, AccessLogFormat, Deps, IngressConfig, IngressStatus, KEEPER, RunError, Tables,
};
use warren_netlink::{Netlink, Route};
use warren_store::{Durability, Record, Store};
use warren_types::ingress::INGRESS_CONTROLLER;
use warren_types::*;

const PLAIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 80);
const SECURE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 443);

/// A node: its store and, while it runs, its ingress.
struct Machine {
    store: Store,
    config: IngressConfig,
    deps: Deps,
    health: HealthCell,
    ports: watch::Receiver<Vec<u16>>,
    origin: Origin,
    stop: CancellationToken,
    life: JoinSet<Result<(), RunError>>,
    dir: tempfile::TempDir,
}

fn on_a_machine<F: Future<Output = ()>>(test: impl FnOnce(Machine) -> F) {
    unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        Netlink::current().unwrap().set_up("lo", true).await.unwrap();
        test(Machine::new()).await;
    });
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap().store;
        let (sender, ports) = watch::channel(Vec::new());
        let deps = Deps {
            tables: Tables::of(&store),
            status: IngressStatus::default(),
            ports: sender,
            run_dir: dir.path().to_owned(),
            // Where a test wants a keeper it starts one itself.
            program: "/bin/false".into(),
        };
        let config = IngressConfig {
            node_name: NodeName::new("here").unwrap(),
            http_port: 80,
            https_port: 443,
            class: IngressClassName::new("warren").unwrap(),
            nodes: Selector::default(),
            external_names: false,
            trusted: Vec::new(),
            proxy_from: Vec::new(),
            access_log: None,
            drain: Duration::from_secs(1),
        };
        let origin = Origin::start(|seen| ok(&seen.line));
        let (health, stop, life) = (HealthCell::default(), CancellationToken::new(), JoinSet::new());
        Self { store, config, deps, health, ports, origin, stop, life, dir }
    }

    fn start(&mut self) {
        self.stop = CancellationToken::new();
        let (config, deps) = (self.config.clone(), self.deps.clone());
        self.life.spawn(warren_ingress::run(config, deps, self.health.clone(), self.stop.clone()));
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        self.life.join_next().await.unwrap().unwrap().unwrap();
    }

    /// A keeper of sockets, for as long as this process lives.
    async fn keeper(&self) {
        let dir = self.dir.path().to_owned();
        std::thread::spawn(move || KEEPER.serve(&dir));
        eventually("a keeper", async || KEEPER.connect(self.dir.path()).await.is_ok()).await;
    }

    async fn write<R: Record>(&self, rows: Vec<R>) {
        self.store.table().replace(rows, Durability::Cached).await.unwrap();
    }

    async fn put<R: Record>(&self, row: R) {
        self.store.table().put(row, Durability::Cached).await.unwrap();
    }

    /// The API has been listed: this node, Warren's class, the Service `shop/web` with the origin as its endpoint.
    async fn hear(&self) {
        self.write(vec![node("here", "192.0.2.1")]).await;
        self.hear_but_the_node().await;
    }

    async fn hear_but_the_node(&self) {
        let name = IngressClassName::new("warren").unwrap();
        let controller = INGRESS_CONTROLLER.into();
        self.write(vec![IngressClass { name, controller, is_default: true, created: 1 }]).await;
        let mut service = Service::new(ServiceKey::parse("shop/web").unwrap());
        service.ports = vec![ServicePort::new(Protocol::Tcp, 80)];
        self.write(vec![service]).await;
        self.write(vec![self.slice(true)]).await;
        self.write(Vec::<Ingress>::new()).await;
    }

    fn slice(&self, with: bool) -> EndpointSlice {
        EndpointSlice {
            key: SliceKey::parse("shop/web-x").unwrap(),
            service: ServiceKey::parse("shop/web").unwrap(),
            family: Family::V4,
            ports: vec![EndpointPort {
                name: String::new(),
                protocol: Protocol::Tcp,
                port: self.origin.address.port(),
            }],
            endpoints: with.then(|| Endpoint::ready(self.origin.address.ip())).into_iter().collect(),
            foreign_proxy: false,
        }
    }

    /// Waits until a GET is answered by this status.
    async fn answers(&self, host: &str, status: &str) {
        eventually(status, async || {
            get(host, "/").is_some_and(|seen| seen.line.starts_with(&format!("HTTP/1.1 {status}")))
        })
        .await;
    }

    async fn is(&self, state: HealthState, message: &str) {
        eventually(message, async || {
            let now = self.health.get();
            now.state == state && now.message.contains(message)
        })
        .await;
    }

    /// Waits until a fault of some Ingress says this.
    async fn fault(&self, part: &str) {
        eventually(part, async || {
            let faults = self.rows::<IngressFaults>();
            faults.iter().flat_map(|row| &row.faults).any(|fault| fault.message.contains(part))
        })
        .await;
    }

    fn rows<R: Record>(&self) -> Vec<Arc<R>> {
        self.store.table::<R>().snapshot().rows.values().cloned().collect()
    }
}

/// Waits until something holds, which it does soon.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let all = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all).await.unwrap_or_else(|_| panic!("not seen: {what}"));
}

fn get(host: &str, path: &str) -> Option<Seen> {
    TcpStream::connect(PLAIN).ok()?;
    Some(Client::connect(PLAIN).ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")))
}

fn is_open() -> bool {
    TcpStream::connect(PLAIN).is_ok()
}

fn node(name: &str, ip: &str) -> Node {
    Node {
        name: NodeName::new(name).unwrap(),
        uid: String::new(),
        node_id: None,
        public_key: None,
        endpoints: Vec::new(),
        observed: Default::default(),
        held_ports: Vec::new(),
        ingress: vec![80],
        internal_ips: vec![ip.parse().unwrap()],
        served_ips: Vec::new(),
        pod_cidrs: PodCidrs::parse(["10.42.0.0/24"]).unwrap(),
        labels: Labels::new(),
        ready: true,
    }
}

fn ingress(name: &str, host: &str, service: &str) -> Ingress {
    let backend =
        IngressBackend::Service { name: ServiceName::new(service).unwrap(), port: BackendPort::Number(80) };
    let paths = vec![IngressPath { path: "/".into(), kind: PathKind::Prefix, backend }];
    Ingress {
        key: IngressKey::parse(&format!("shop/{name}")).unwrap(),
        uid: format!("uid-{name}"),
        created: 1,
        class: Some("warren".into()),
        options: BTreeMap::new(),
        default_backend: None,
        rules: vec![IngressRule { host: Some(HostPattern::new(host).unwrap()), paths }],
        tls: Vec::new(),
        published: Vec::new(),
    }
}

#[test]
fn rows_become_answers_and_the_last_one_that_goes_closes_the_ports() {
    on_a_machine(|mut machine| async move {
        machine.keeper().await;
        machine.start();
        machine.is(HealthState::Starting, "first list").await;
        machine.hear().await;
        machine.is(HealthState::Ready, "").await;
        assert!(!is_open(), "nothing listens while there is nothing to serve");

        machine.put(ingress("one", "foo.test", "web")).await;
        machine.answers("foo.test", "200").await;
        assert_eq!(get("foo.test", "/x?y").unwrap().body, b"GET /x?y HTTP/1.1");
        machine.answers("bar.test", "404").await;
        eventually("its ports", async || *machine.ports.borrow() == [80, 443]).await;
        eventually("what it shows", async || {
            let Some(shown) = machine.deps.status.get() else { return false };
            shown.listening.at.contains(&"http://0.0.0.0:80".to_owned())
                && shown.figures.is_some_and(|f| f.answers.iter().any(|(_, counts)| counts[2] > 0))
        })
        .await;

        // What changes under it is followed.
        machine.write(vec![machine.slice(false)]).await;
        machine.answers("foo.test", "503").await;
        machine.write(vec![machine.slice(true)]).await;
        machine.answers("foo.test", "200").await;
        machine.put(ingress("two", "bar.test", "web")).await;
        machine.answers("bar.test", "200").await;
        machine.write(vec![ingress("two", "bar.test", "web")]).await;
        machine.answers("foo.test", "404").await;

        machine.write(Vec::<Ingress>::new()).await;
        eventually("a closed port", async || !is_open()).await;
        eventually("a port for others", async || TcpListener::bind(("0.0.0.0", 80)).is_ok()).await;
        eventually("no ports", async || machine.ports.borrow().is_empty()).await;
        machine.stop().await;
    });
}

#[test]
fn only_nodes_with_the_labels_serve() {
    on_a_machine(|mut machine| async move {
        machine.config.nodes = Selector::new([Requirement::Exists("edge".into())]);
        machine.start();
        machine.hear().await;
        machine.put(ingress("one", "foo.test", "web")).await;
        eventually("a table", async || {
            machine.deps.status.get().is_some_and(|shown| shown.compiled.served.len() == 1)
        })
        .await;
        assert!(!is_open());
        let mut labelled = node("here", "192.0.2.1");
        labelled.labels = [("edge".to_owned(), String::new())].into_iter().collect();
        machine.put(labelled).await;
        machine.answers("foo.test", "200").await;
        machine.put(node("here", "192.0.2.1")).await;
        eventually("a closed port", async || !is_open()).await;
        machine.stop().await;
    });
}

#[test]
fn what_the_api_is_to_know_is_written() {
    on_a_machine(|mut machine| async move {
        machine.start();
        machine.hear().await;
        machine.put(node("there", "192.0.2.2")).await;
        let mut wrong = ingress("wrong", "wrong.test", "gone");
        let secret = Some(SecretName::new("cert").unwrap());
        wrong.tls = vec![IngressTls { hosts: Vec::new(), secret }];
        machine.put(wrong).await;
        machine.put(ingress("fine", "fine.test", "web")).await;
        eventually("a wanted Secret", async || {
            let wanted = machine.rows::<WantedSecrets>();
            let wanted = wanted.iter().flat_map(|row| &row.secrets).map(ToString::to_string);
            wanted.eq(["kube-system/warren-ingress-default", "shop/cert"].map(str::to_owned))
        })
        .await;
        eventually("a fault", async || {
            let faults = machine.rows::<IngressFaults>();
            let reasons =
                |row: &IngressFaults| row.faults.iter().map(|f| f.reason.clone()).collect::<Vec<_>>();
            faults.len() == 1
                && faults[0].uid == "uid-wrong"
                && reasons(&faults[0]).contains(&"BackendMissing".to_owned())
        })
        .await;
        let addresses = async |expected: &[&str]| {
            eventually(&format!("addresses {expected:?}"), async || {
                let rows = machine.rows::<IngressAddresses>();
                let of = |row: &IngressAddresses| {
                    row.addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
                };
                rows.len() == if expected.is_empty() { 0 } else { 2 }
                    && rows.iter().all(|row| of(row) == expected)
            })
            .await;
        };
        addresses(&["192.0.2.1", "192.0.2.2"]).await;
        // One that is not ready gets no requests; and it is the first ready one that writes.
        machine.put(Node { ready: false, ..node("there", "192.0.2.2") }).await;
        addresses(&["192.0.2.1"]).await;
        machine.put(node("a-first", "192.0.2.3")).await;
        addresses(&[]).await;
        machine.stop().await;

        warren_ingress::clear(&machine.deps.tables, machine.dir.path()).await.unwrap();
        assert!(machine.rows::<WantedSecrets>().is_empty() && machine.rows::<IngressFaults>().is_empty());
    });
}

#[test]
fn names_of_services_are_served_where_they_lead_out_of_the_cluster() {
    on_a_machine(|mut machine| async move {
        // An address that this namespace takes for its own, but no interface has.
        let outside: IpAddr = "203.0.113.5".parse().unwrap();
        Netlink::current().unwrap().ensure_route(&Route::local(outside, 250)).await.unwrap();
        let origin = Origin::start_at("203.0.113.5:0", |_| ok("outside"));
        let leads_to = resolver(machine.dir.path());
        let leads = |to: Option<&str>| *leads_to.lock().unwrap() = to.map(|to| to.parse().unwrap());
        leads(Some("203.0.113.5"));

        machine.config.external_names = true;
        machine.start();
        machine.hear().await;
        let mut service = Service::new(ServiceKey::parse("shop/abroad").unwrap());
        service.kind = ServiceKind::ExternalName;
        service.external_name = Some("db.example.org".into());
        machine.put(service).await;
        let mut row = ingress("one", "foo.test", "abroad");
        if let IngressBackend::Service { port, .. } = &mut row.rules[0].paths[0].backend {
            *port = BackendPort::Number(origin.address.port());
        }
        machine.put(row).await;
        machine.answers("foo.test", "503").await;
        machine.fault("--cluster-cidr").await;
        let ranges = ClusterConfig {
            cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
            service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
        };
        machine.write(vec![ranges]).await;
        machine.answers("foo.test", "200").await;
        assert_eq!(get("foo.test", "/").unwrap().body, b"outside");
        assert_eq!(origin.last().header("host"), Some("foo.test"));

        // A node comes that has this address: the name leads into the cluster now.
        machine.put(node("other", "203.0.113.5")).await;
        machine.answers("foo.test", "503").await;
        machine.fault("is a node's").await;
        machine.put(node("other", "192.0.2.7")).await;
        machine.answers("foo.test", "200").await;
        machine.stop().await;

        for (to, part) in [(Some("127.0.0.1"), "loopback"), (None, "cannot be resolved")] {
            leads(to);
            machine.start();
            machine.fault(part).await;
            machine.answers("foo.test", "503").await;
            machine.stop().await;
        }
        machine.config.external_names = false;
        machine.start();
        machine.fault("--ingress-external-names").await;
        machine.answers("foo.test", "503").await;
        machine.stop().await;
    });
}

/// The system's resolver, for this thread and those that it starts: one that answers every question for IPv4 by an address,
/// or that there is no such name.
fn resolver(dir: &std::path::Path) -> Arc<Mutex<Option<std::net::Ipv4Addr>>> {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
    let file = dir.join("resolv.conf");
    std::fs::write(&file, "nameserver 127.0.0.1\n").unwrap();
    mount(Some(&file), "/etc/resolv.conf", nothing, MsFlags::MS_BIND, nothing).unwrap();
    let leads_to: Arc<Mutex<Option<std::net::Ipv4Addr>>> = Arc::default();
    let (socket, to) = (UdpSocket::bind("127.0.0.1:53").unwrap(), leads_to.clone());
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, asker)) = socket.recv_from(&mut buffer) {
            let end = 12 + buffer[12..length].iter().position(|byte| *byte == 0).unwrap() + 5;
            let is_v4 = buffer[end - 3] == 1;
            let (code, address) = match *to.lock().unwrap() {
                None => (3, None),
                Some(address) => (0, Some(address).filter(|_| is_v4)),
            };
            let count = u8::from(address.is_some());
            let mut answer = buffer[..end].to_vec();
            answer[2..12].copy_from_slice(&[0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
            if let Some(address) = address {
                answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
                answer.extend_from_slice(&address.octets());
            }
            let _ = socket.send_to(&answer, asker);
        }
    });
    leads_to
}

#[test]
fn a_secret_that_comes_is_shown_and_one_that_goes_is_not() {
    on_a_machine(|mut machine| async move {
        machine.start();
        machine.hear().await;
        let mut row = ingress("tls", "foo.test", "web");
        row.tls = vec![IngressTls { hosts: Vec::new(), secret: Some(SecretName::new("cert").unwrap()) }];
        machine.put(row).await;
        machine.answers("foo.test", "200").await;
        for _ in 0..2 {
            let made = rcgen::generate_simple_self_signed(["foo.test".to_owned()]).unwrap();
            assert!(!verifies(made.cert.der()).await, "nobody has this certificate yet");
            let data = [
                ("tls.crt".to_owned(), SecretBytes::new(made.cert.pem().into_bytes())),
                ("tls.key".to_owned(), SecretBytes::new(made.signing_key.serialize_pem().into_bytes())),
            ];
            let content = SecretContent { kind: "kubernetes.io/tls".into(), data: data.into() };
            let key = SecretRef::parse("shop/cert").unwrap();
            machine.put(SecretObject { key: key.clone(), content: Some(content) }).await;
            eventually("the new certificate", async || verifies(made.cert.der()).await).await;
            machine.put(SecretObject { key, content: None }).await;
            eventually("another certificate", async || !verifies(made.cert.der()).await).await;
        }
        machine.stop().await;
    });
}

/// Whether who trusts only this certificate reaches `foo.test`.
async fn verifies(trusted: &rustls::pki_types::CertificateDer<'static>) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(SECURE).await.unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("foo.test").unwrap(), stream)
        .await
        .is_ok()
}

#[test]
fn a_port_that_somebody_holds_is_said_and_taken_once_it_is_free() {
    on_a_machine(|mut machine| async move {
        machine.keeper().await;
        let holder = TcpListener::bind(("0.0.0.0", 80)).unwrap();
        machine.start();
        machine.hear().await;
        machine.put(ingress("one", "foo.test", "web")).await;
        machine.is(HealthState::Degraded, "http://0.0.0.0:80 cannot be listened on").await;
        // What is shown is set before the health is.
        assert_eq!(machine.deps.status.get().unwrap().listening.failed.len(), 1);
        // Meanwhile the other ports serve.
        tokio::net::TcpStream::connect(SECURE).await.unwrap();
        drop(holder);
        let begun = std::time::Instant::now();
        machine.is(HealthState::Ready, "").await;
        assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
        machine.answers("foo.test", "200").await;
        assert!(machine.deps.status.get().unwrap().listening.failed.is_empty());
        machine.stop().await;
    });
}

#[test]
fn a_service_that_had_the_port_first_is_named() {
    on_a_machine(|mut machine| async move {
        machine.keeper().await;
        machine.start();
        machine.hear().await;
        machine.put(ingress("one", "foo.test", "web")).await;
        machine.is(HealthState::Ready, "").await;
        let mut service = Service::new(ServiceKey::parse("old/proxy").unwrap());
        service.kind = ServiceKind::LoadBalancer;
        service.ports = machine.rows::<Service>()[0].ports.clone();
        service.ports[0].port = 80;
        service.load_balancer_ips = vec!["192.0.2.1".parse().unwrap()];
        machine.put(service.clone()).await;
        machine.is(HealthState::Degraded, "belongs to the Service old/proxy").await;
        assert_eq!(machine.deps.status.get().unwrap().listening.failed.len(), 1);
        service.load_balancer_ips = vec!["192.0.2.2".parse().unwrap()];
        machine.put(service).await;
        machine.is(HealthState::Ready, "").await;
        machine.stop().await;
    });
}

#[test]
fn connections_wait_from_one_agent_to_the_next() {
    on_a_machine(|mut machine| async move {
        machine.keeper().await;
        machine.start();
        machine.hear().await;
        machine.put(ingress("one", "foo.test", "web")).await;
        machine.answers("foo.test", "200").await;
        machine.is(HealthState::Ready, "").await;
        machine.stop().await;
        let mut client = Client::connect(PLAIN);
        client.send("GET /waited HTTP/1.1\r\nHost: foo.test\r\n\r\n");
        machine.start();
        let answer = tokio::task::spawn_blocking(move || client.answer()).await.unwrap();
        assert_eq!(answer.body, b"GET /waited HTTP/1.1");
        machine.stop().await;
    });
}

#[test]
fn without_a_keeper_it_serves_and_says_so() {
    on_a_machine(|mut machine| async move {
        machine.start();
        machine.hear().await;
        machine.put(ingress("one", "foo.test", "web")).await;
        machine.answers("foo.test", "200").await;
        machine.is(HealthState::Degraded, "nobody keeps the ingress sockets").await;
        machine.keeper().await;
        machine.is(HealthState::Ready, "").await;
        machine.stop().await;
    });
}

#[test]
fn requests_are_in_the_access_log_when_it_has_stopped() {
    on_a_machine(|mut machine| async move {
        let file: PathBuf = machine.dir.path().join("access.log");
        let log = AccessLogConfig { format: AccessLogFormat::Json, file: Some(file.clone()) };
        machine.config.access_log = Some(log);
        machine.start();
        machine.hear().await;
        machine.put(ingress("one", "foo.test", "web")).await;
        machine.answers("foo.test", "200").await;
        get("foo.test", "/a?b=%22&c").unwrap();
        get("bar.test", "/nobody").unwrap();
        // The first answers may come before what is shown.
        eventually("no line is dropped", async || {
            machine.deps.status.get().is_some_and(|shown| shown.unlogged == Some(0))
        })
        .await;
        machine.stop().await;
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of = |path: &str| {
            let mut found = lines.iter().filter(|line| line["path"] == path);
            (found.next().cloned().unwrap_or_else(|| panic!("no {path} in {text}")), found.count())
        };
        let (served, more) = of("/a?b=%22&c");
        assert_eq!(more, 0, "{text}");
        assert_eq!(
            (&served["host"], &served["status"], &served["method"]),
            (&"foo.test".into(), &200.into(), &"GET".into())
        );
        assert_eq!(
            (&served["route"], &served["client"]),
            (&"shop/one foo.test /".into(), &"127.0.0.1".into())
        );
        assert_eq!(served["endpoint"], machine.origin.address.to_string());
        assert_eq!(served["bytes"], "GET /a?b=%22&c HTTP/1.1".len());
        let (nobody, _) = of("/nobody");
        assert_eq!(
            (&nobody["status"], nobody["route"].is_null(), nobody["endpoint"].is_null()),
            (&404.into(), true, true)
        );
    });
}
