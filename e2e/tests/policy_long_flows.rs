//! Flows that last, with words in both directions, when a policy forbids them: to a pod itself and through a Service, on one
//! node and on two, of TCP and UDP, in both families. Nothing arrives any more at either end, also not after the agent was
//! killed, and neighbours that stay allowed notice nothing.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use warren_e2e::battery::Objects;
use warren_e2e::lab::{Lab, Pod, netns_of};
use warren_e2e::{eventually, netns, patient};

const PORT: u16 = 7000;
const BEAT: Duration = Duration::from_millis(40);
/// How long a server thinks of its answers: so many are on their way whenever a flow ends.
const THINKS: Duration = Duration::from_millis(300);
/// What is forbidden arrives no longer than this.
const LATE: Duration = Duration::from_secs(1);
/// Longer than answers of an ended flow are held back.
const AFTERWARDS: Duration = Duration::from_secs(5);
/// A neighbour that hears nothing for so long was disturbed.
const GAP: Duration = Duration::from_millis(1500);
const SERVER: usize = 0;
const CLIENT: usize = 1;

/// What one end hears of the other.
#[derive(Default)]
struct Ear {
    last: Option<Instant>,
    /// The longest silence.
    gap: Duration,
    /// How long after it was forbidden something arrived.
    late: Duration,
}

struct Flow {
    what: String,
    /// Whether it stays allowed.
    is_friend: bool,
    ears: [Mutex<Ear>; 2],
    forbidden: Arc<Mutex<Option<Instant>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_pause(e: &std::io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

impl Flow {
    fn hear(&self, end: usize) {
        let (now, since) = (Instant::now(), *lock(&self.forbidden));
        let mut ear = lock(&self.ears[end]);
        ear.gap = ear.last.map_or(ear.gap, |last| ear.gap.max(now - last));
        ear.late = since.map_or(ear.late, |since| ear.late.max(now.saturating_duration_since(since)));
        ear.last = Some(now);
    }

    fn is_alive(&self) -> bool {
        let is_fresh = |ear: &Mutex<Ear>| lock(ear).last.is_some_and(|last| last.elapsed() < GAP);
        self.ears.iter().all(is_fresh)
    }
}

/// Whether a server only answers, or has words of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Answers,
    Pushes,
}

struct Flows {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
    /// Open until every thread has ended: an end closed with words unread resets the other, which may still read.
    streams: Vec<TcpStream>,
    all: Vec<Arc<Flow>>,
    forbidden: Arc<Mutex<Option<Instant>>>,
}

struct Place {
    name: &'static str,
    netns: PathBuf,
    is_friend: bool,
}

impl Flows {
    /// From each client to each address, over UDP and TCP.
    fn start(server: &Pod, kind: Server, clients: &[Place], targets: &[IpAddr]) -> Result<Self> {
        let mut flows = Self {
            stop: Arc::default(),
            threads: Vec::new(),
            streams: Vec::new(),
            all: Vec::new(),
            forbidden: Arc::default(),
        };
        let netns = netns_of(server.pid.context("the server does not run")?);
        let mut listeners = BTreeMap::new();
        let mut sockets = Vec::new();
        for at in server.ips.clone() {
            let listener = netns::run(&netns, move || Ok(TcpListener::bind(SocketAddr::new(at, PORT))?))?;
            listeners.insert(at.is_ipv4(), listener);
            sockets.push(netns::run(&netns, move || Ok(UdpSocket::bind(SocketAddr::new(at, PORT))?))?);
        }
        for client in clients {
            for target in targets {
                let to = SocketAddr::new(*target, PORT);
                let listener = listeners.get(&target.is_ipv4()).context("a server of each family")?;
                flows.stream(client, to, listener)?;
                flows.words(client, to)?;
            }
        }
        for socket in sockets {
            flows.serve(socket, kind)?;
        }
        Ok(flows)
    }

    fn add(&mut self, protocol: &str, client: &Place, to: SocketAddr) -> (u8, Arc<Flow>) {
        let flow = Arc::new(Flow {
            what: format!("{protocol} {} to {to}", client.name),
            is_friend: client.is_friend,
            ears: Default::default(),
            forbidden: self.forbidden.clone(),
        });
        self.all.push(flow.clone());
        (u8::try_from(self.all.len() - 1).unwrap_or(u8::MAX), flow)
    }

    fn stream(&mut self, client: &Place, to: SocketAddr, listener: &TcpListener) -> Result<()> {
        let (_, flow) = self.add("TCP", client, to);
        let dial = move || Ok(TcpStream::connect_timeout(&to, Duration::from_secs(5))?);
        // A Service has its endpoints a moment after them.
        let (near, _) = eventually(Duration::from_secs(10), || netns::run(&client.netns, dial))
            .with_context(|| flow.what.clone())?;
        let (far, _) = listener.accept()?;
        for (mut stream, end) in [(near, CLIENT), (far, SERVER)] {
            stream.set_read_timeout(Some(BEAT))?;
            stream.set_write_timeout(Some(BEAT))?;
            stream.set_nodelay(true)?;
            self.streams.push(stream.try_clone()?);
            let (stop, flow) = (self.stop.clone(), flow.clone());
            self.threads.push(std::thread::spawn(move || {
                let mut buffer = [0; 256];
                while !stop.load(Ordering::Relaxed) {
                    match stream.write(b"word") {
                        Ok(_) => {}
                        Err(e) if is_pause(&e) => {}
                        Err(e) => return Err(e).with_context(|| flow.what.clone()),
                    }
                    match stream.read(&mut buffer) {
                        Ok(0) => break,
                        Ok(_) => flow.hear(end),
                        Err(e) if is_pause(&e) => {}
                        Err(e) => return Err(e).with_context(|| flow.what.clone()),
                    }
                    std::thread::park_timeout(BEAT / 2);
                }
                Ok(())
            }));
        }
        Ok(())
    }

    fn words(&mut self, client: &Place, to: SocketAddr) -> Result<()> {
        let (id, flow) = self.add("UDP", client, to);
        let stop = self.stop.clone();
        self.threads.push(netns::spawn(&client.netns, move || {
            let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
            socket.set_nonblocking(true)?;
            while !stop.load(Ordering::Relaxed) {
                let _ = socket.send_to(&[id], to);
                while socket.recv(&mut [0; 8]).is_ok() {
                    flow.hear(CLIENT);
                }
                std::thread::park_timeout(BEAT);
            }
            Ok(())
        })?);
        Ok(())
    }

    fn serve(&mut self, socket: UdpSocket, kind: Server) -> Result<()> {
        socket.set_read_timeout(Some(BEAT))?;
        let (stop, all) = (self.stop.clone(), self.all.clone());
        self.threads.push(std::thread::spawn(move || {
            let (mut buffer, mut answers) = ([0; 8], VecDeque::new());
            let (mut clients, mut pushed) = (BTreeMap::new(), Instant::now());
            while !stop.load(Ordering::Relaxed) {
                match socket.recv_from(&mut buffer) {
                    Ok((_, from)) => {
                        all.get(usize::from(buffer[0])).context("a word of nobody")?.hear(SERVER);
                        answers.push_back((Instant::now() + THINKS, from));
                        clients.insert(buffer[0], from);
                    }
                    Err(e) if is_pause(&e) => {}
                    Err(e) => return Err(e.into()),
                }
                while answers.front().is_some_and(|(due, _)| *due <= Instant::now()) {
                    let Some((_, from)) = answers.pop_front() else { break };
                    let _ = socket.send_to(b"answer", from);
                }
                if kind == Server::Pushes && pushed.elapsed() > BEAT {
                    pushed = Instant::now();
                    for from in clients.values() {
                        let _ = socket.send_to(b"push", from);
                    }
                }
            }
            Ok(())
        }));
        Ok(())
    }

    fn are_alive(&self, which: impl Fn(&Flow) -> bool) -> Result<()> {
        eventually(Duration::from_secs(15), || {
            let silent = self.all.iter().filter(|flow| which(flow) && !flow.is_alive());
            let silent: Vec<&str> = silent.map(|flow| flow.what.as_str()).collect();
            ensure!(silent.is_empty(), "{silent:?} are silent");
            Ok(())
        })
        .map(drop)
    }

    /// From now on all but friends are forbidden.
    fn forbid(&self) {
        *lock(&self.forbidden) = Some(Instant::now());
    }

    /// Nothing forbidden has arrived late until now, and friends hear each other all the time.
    fn judge(&self, when: &str) -> Result<()> {
        let (late, gap) = (patient(LATE), patient(GAP));
        let (mut latest, mut longest, mut wrong) = (Duration::ZERO, Duration::ZERO, Vec::new());
        for flow in &self.all {
            for (end, ear) in ["server", "client"].into_iter().zip(&flow.ears) {
                let ear = lock(ear);
                let silence = ear.gap.max(ear.last.map_or(Duration::MAX, |last| last.elapsed()));
                if flow.is_friend {
                    longest = longest.max(silence);
                    if silence > gap {
                        wrong.push(format!("{}: the {end} heard nothing for {silence:?}", flow.what));
                    }
                } else {
                    latest = latest.max(ear.late);
                    if ear.late > late {
                        wrong.push(format!("{}: the {end} heard it after {:?}", flow.what, ear.late));
                    }
                }
            }
        }
        println!(
            "policy: {when}: {} flows, the last forbidden word {} ms after the change, neighbours silent for {} ms at most",
            self.all.len(),
            latest.as_millis(),
            longest.as_millis()
        );
        ensure!(wrong.is_empty(), "{when}: {}", wrong.join("; "));
        Ok(())
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().try_for_each(netns::join)
    }
}

struct Cluster {
    lab: Lab,
    objects: Objects,
}

impl Cluster {
    fn run(&self, name: &str, node: &str, role: &str) -> Result<Pod> {
        self.lab.lab(&["run", name, "--node", node, "--label", &format!("role={role}")])?;
        self.lab.pods_on(node)?.into_iter().find(|pod| pod.name == name).context("no such pod")
    }

    /// The server's policy: it is reached by these.
    fn allow(&self, roles: &[&str]) -> Result<()> {
        let expression = json!({"key": "role", "operator": "In", "values": roles});
        self.policy("server", json!([{"from": [{"podSelector": {"matchExpressions": [expression]}}]}]))
    }

    fn policy(&self, role: &str, ingress: Value) -> Result<()> {
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": role, "namespace": "default"},
            "spec": {
                "podSelector": {"matchLabels": {"role": role}},
                "policyTypes": ["Ingress"],
                "ingress": ingress,
            },
        });
        self.objects.apply(&policy).map(drop)
    }

    /// The addresses of a Service in front of the server.
    fn service(&self) -> Result<Vec<IpAddr>> {
        let ports = ["TCP", "UDP"].map(|p| json!({"name": p.to_lowercase(), "protocol": p, "port": PORT}));
        let service = self.objects.apply(&json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "server", "namespace": "default"},
            "spec": {"ipFamilyPolicy": "RequireDualStack", "selector": {"role": "server"}, "ports": ports},
        }))?;
        let addresses = service["spec"]["clusterIPs"].as_array().context("no addresses")?;
        let addresses = addresses.iter().map(|ip| Ok(ip.as_str().context("no address")?.parse()?));
        addresses.collect()
    }

    fn kill_agents(&self) -> Result<()> {
        ["node-1", "node-2"]
            .iter()
            .try_for_each(|node| self.lab.lab(&["kill", node, "--process", "agent"]).map(drop))
    }

    fn agents_are_ready(&self) -> Result<()> {
        ["node-1", "node-2"]
            .iter()
            .try_for_each(|node| self.lab.agent_ready_within(node, Duration::from_secs(30)).map(drop))
    }
}

fn wait(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
    }
}

fn long_flows_end(test: &str, kind: Server) -> Result<()> {
    let lab = Lab::up(test, &["--nodes", "2", "--dual-stack", "--pods", "0"])?;
    let objects = Objects::of(&lab.lab(&["kubeconfig"])?)?;
    let cluster = Cluster { lab, objects };
    let server = cluster.run("server", "node-1", "server")?;
    let mut clients = Vec::new();
    for (name, node, role) in [
        ("near", "node-1", "client"),
        ("far", "node-2", "client"),
        ("near-friend", "node-1", "friend"),
        ("far-friend", "node-2", "friend"),
    ] {
        let pid = cluster.run(name, node, role)?.pid.context("a client does not run")?;
        clients.push(Place { name, netns: netns_of(pid), is_friend: role == "friend" });
    }
    let targets = [server.ips.clone(), cluster.service()?].concat();
    cluster.allow(&["client", "friend"])?;
    if kind == Server::Pushes {
        // What the server has to say of its own accord is forbidden by the client's end alone.
        cluster.policy("client", json!([]))?;
    }
    for killed in [false, true] {
        let flows = Flows::start(&server, kind, &clients, &targets)?;
        flows.are_alive(|_| true)?;
        if killed {
            cluster.kill_agents()?;
        }
        cluster.allow(&["friend"])?;
        if killed {
            cluster.agents_are_ready()?;
        }
        flows.forbid();
        wait(AFTERWARDS);
        let when = if killed { "changed while the agents were killed" } else { "changed" };
        flows.judge(when)?;
        cluster.kill_agents()?;
        cluster.agents_are_ready()?;
        wait(LATE);
        flows.judge("after the agents were killed")?;
        cluster.allow(&["client", "friend"])?;
        // Packets that need no connection pass again, from sockets that were there all the time.
        flows.are_alive(|flow| flow.is_friend || flow.what.starts_with("UDP"))?;
        flows.end()?;
    }
    cluster.lab.done()
}

#[test]
fn flows_with_answers_end_at_both_ends() -> Result<()> {
    long_flows_end("policy-long", Server::Answers)
}

#[test]
fn flows_in_which_the_server_pushes_end_at_both_ends() -> Result<()> {
    long_flows_end("policy-push", Server::Pushes)
}
