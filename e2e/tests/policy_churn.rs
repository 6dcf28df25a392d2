//! Labels and policies change all the time, under probes: nothing that was forbidden a second ago arrives, and nothing at all
//! of it while an agent is killed. `WARREN_BATTERY_POLICY_CHURN` says for how many seconds; without it, it is ten, and what is
//! forbidden may arrive for three seconds, since other tests and builds may be at work beside.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use warren_e2e::battery::Objects;
use warren_e2e::lab::{Lab, Pod, netns_of};
use warren_e2e::{eventually, netns};

const NODE: &str = "node-1";
const PORT: u16 = 7000;
const CLIENTS: [&str; 4] = ["c0", "c1", "c2", "c3"];
/// The first two are opened to a client by a label of its own, the others by a list in their policy.
const SERVERS: [&str; 4] = ["s0", "s1", "s2", "s3"];
const BY_LABEL: usize = 2;
/// How often each client sends to each server.
const BEAT: Duration = Duration::from_millis(20);
/// So long after it was forbidden nothing may arrive: the target, and beside other work.
const LATE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
const BATTERY: &str = "WARREN_BATTERY_POLICY_CHURN";
/// Changes a second; of these, so many concern those who send.
const CHANGES: u32 = 100;
const TRACKED: u32 = 8;

/// What is forbidden, and since when; none: allowed, or about to be.
type Forbidden = Arc<Mutex<BTreeMap<(usize, usize), Instant>>>;

/// A server's account.
#[derive(Default)]
struct Heard {
    packets: u64,
    /// The longest time after which something forbidden arrived.
    latest: Duration,
    /// Arrived after [`late`], or whenever nothing at all may.
    wrong: Vec<String>,
}

struct Probes {
    stop: Arc<AtomicBool>,
    /// Whether everything forbidden is wrong at once.
    strict: Arc<AtomicBool>,
    forbidden: Forbidden,
    heard: Arc<Mutex<Heard>>,
    threads: Vec<std::thread::JoinHandle<Result<()>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Probes {
    fn start(clients: &[Pod], servers: &[Pod]) -> Result<Self> {
        let mut probes = Self {
            stop: Arc::default(),
            strict: Arc::default(),
            forbidden: Arc::default(),
            heard: Arc::default(),
            threads: Vec::new(),
        };
        let addresses: Vec<IpAddr> = servers.iter().map(|pod| pod.ips[0]).collect();
        for (s, server) in servers.iter().enumerate() {
            let (stop, strict) = (probes.stop.clone(), probes.strict.clone());
            let (forbidden, heard, at) = (probes.forbidden.clone(), probes.heard.clone(), server.ips[0]);
            let netns = netns_of(server.pid.context("a server does not run")?);
            probes.threads.push(netns::spawn(&netns, move || {
                let socket = UdpSocket::bind(SocketAddr::new(at, PORT))?;
                socket.set_read_timeout(Some(Duration::from_millis(100)))?;
                let (mut buffer, late) = ([0; 8], late());
                while !stop.load(Ordering::Relaxed) {
                    let (length, from) = match socket.recv_from(&mut buffer) {
                        Ok(heard) => heard,
                        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                        Err(e) => return Err(e.into()),
                    };
                    // An answer may be on its way when its flow is ended, and must not begin it anew from here.
                    let _ = socket.send_to(&buffer[..length], from);
                    let pair = (usize::from(buffer[0]), s);
                    let since = lock(&forbidden).get(&pair).map(Instant::elapsed);
                    let mut heard = lock(&heard);
                    heard.packets += 1;
                    let Some(since) = since else { continue };
                    heard.latest = heard.latest.max(since);
                    if since > late || strict.load(Ordering::Relaxed) {
                        heard.wrong.push(format!("{} to {} after {since:?}", CLIENTS[pair.0], SERVERS[s]));
                    }
                }
                Ok(())
            })?);
        }
        for (c, client) in clients.iter().enumerate() {
            let (stop, addresses) = (probes.stop.clone(), addresses.clone());
            let netns = netns_of(client.pid.context("a client does not run")?);
            probes.threads.push(netns::spawn(&netns, move || {
                // One port for all: its flows are as old as the test.
                let socket = UdpSocket::bind(SocketAddr::new([0; 4].into(), 0))?;
                socket.set_nonblocking(true)?;
                while !stop.load(Ordering::Relaxed) {
                    for address in &addresses {
                        // A server that is not there for a moment is no fault of the client.
                        let _ = socket.send_to(&[u8::try_from(c)?], SocketAddr::new(*address, PORT));
                    }
                    while socket.recv(&mut [0; 8]).is_ok() {}
                    std::thread::park_timeout(BEAT);
                }
                Ok(())
            })?);
        }
        Ok(probes)
    }

    fn end(self) -> Result<Heard> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().try_for_each(netns::join)?;
        Ok(std::mem::take(&mut *lock(&self.heard)))
    }
}

/// The cluster's objects, and who may reach whom by them.
struct Cluster<'l> {
    objects: Objects,
    lab: &'l Lab,
    allowed: [[bool; SERVERS.len()]; CLIENTS.len()],
    forbidden: Forbidden,
    made: u32,
}

impl Cluster<'_> {
    fn policy(&self, server: usize) -> Result<()> {
        let peer = if server < BY_LABEL {
            json!({"podSelector": {"matchLabels": {format!("to-{}", SERVERS[server]): "yes"}}})
        } else {
            let listed = (0..CLIENTS.len()).filter(|c| self.allowed[*c][server]).map(|c| CLIENTS[c]);
            let mut names: Vec<&str> = listed.collect();
            // An empty list is none that the API takes.
            names.push("nobody");
            json!({"podSelector": {"matchExpressions": [{"key": "name", "operator": "In", "values": names}]}})
        };
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": SERVERS[server], "namespace": "default"},
            "spec": {
                "podSelector": {"matchLabels": {"name": SERVERS[server]}},
                "ingress": [{"from": [peer], "ports": [{"port": PORT, "protocol": "UDP"}]}],
            },
        });
        self.objects.apply(&policy).map(drop)
    }

    /// Opens or closes a server to a client. What is closed counts from when the API has said that it is.
    fn turn(&mut self, client: usize, server: usize) -> Result<()> {
        let open = !self.allowed[client][server];
        self.allowed[client][server] = open;
        if open {
            lock(&self.forbidden).remove(&(client, server));
        }
        if server < BY_LABEL {
            let value = if open { json!("yes") } else { json!(null) };
            let labels = json!({"metadata": {"labels": {format!("to-{}", SERVERS[server]): value}}});
            self.objects.merge("Pod", "default", CLIENTS[client], &labels)?;
        } else {
            self.policy(server)?;
        }
        if !open {
            lock(&self.forbidden).insert((client, server), Instant::now());
        }
        Ok(())
    }

    /// Changes that concern nobody who sends: labels and policies of others.
    fn noise(&mut self, n: u32) -> Result<()> {
        let value = (n / 8 % 5).to_string();
        if n % 4 < 3 {
            let labels = json!({"metadata": {"labels": {"noise": value}}});
            return self.objects.merge("Pod", "default", &format!("o{}", n % 4), &labels);
        }
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": format!("noise-{}", n / 4 % 8), "namespace": "default"},
            "spec": {
                "podSelector": {"matchLabels": {"noise": value}},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"noise": value}}}]}],
            },
        });
        self.objects.apply(&policy).map(drop)
    }

    /// One of the changes that are made all the time.
    fn change(&mut self) -> Result<()> {
        let n = self.made;
        self.made += 1;
        if !n.is_multiple_of(CHANGES / TRACKED) {
            return self.noise(n);
        }
        // Each pair in its turn, and never in the order of the pairs.
        let pair = (n / (CHANGES / TRACKED)) as usize * 7 % (CLIENTS.len() * SERVERS.len());
        self.turn(pair / SERVERS.len(), pair % SERVERS.len())
    }

    fn run(&self, name: &str, node: &str) -> Result<Pod> {
        self.lab.lab(&["run", name, "--node", node, "--label", &format!("name={name}")])?;
        self.lab.pods_on(node)?.into_iter().find(|pod| pod.name == name).context("no such pod")
    }
}

fn late() -> Duration {
    LATE[usize::from(std::env::var_os(BATTERY).is_none())]
}

fn seconds() -> Result<u64> {
    let text = std::env::var(BATTERY).unwrap_or_else(|_| "10".into());
    text.parse().with_context(|| format!("{BATTERY}={text}"))
}

#[test]
fn what_changes_is_in_force_within_a_second() -> Result<()> {
    let lab = Lab::up("policy-churn", &["--nodes", "2", "--pods", "0"])?;
    let objects = Objects::of(&lab.lab(&["kubeconfig"])?)?;
    let allowed = [[true; SERVERS.len()]; CLIENTS.len()];
    let mut cluster = Cluster { objects, lab: &lab, allowed, forbidden: Forbidden::default(), made: 0 };
    let servers = SERVERS.map(|name| cluster.run(name, NODE)).into_iter().collect::<Result<Vec<_>>>()?;
    let clients = CLIENTS.iter().enumerate();
    let clients = clients
        .map(|(n, name)| cluster.run(name, if n % 2 == 0 { NODE } else { "node-2" }))
        .collect::<Result<Vec<_>>>()?;
    for n in 0..3 {
        cluster.run(&format!("o{n}"), NODE)?;
    }
    // A Pod is there a moment after its pod.
    eventually(Duration::from_secs(10), || {
        let pods = cluster.objects.list("Pod", "default")?.len();
        ensure!(pods == SERVERS.len() + CLIENTS.len() + 3, "{pods} Pods");
        Ok(())
    })?;
    for server in 0..SERVERS.len() {
        cluster.policy(server)?;
    }
    for (client, _) in CLIENTS.iter().enumerate() {
        for server in &SERVERS[..BY_LABEL] {
            let labels = json!({"metadata": {"labels": {format!("to-{server}"): "yes"}}});
            cluster.objects.merge("Pod", "default", CLIENTS[client], &labels)?;
        }
    }
    let probes = Probes::start(&clients, &servers)?;
    cluster.forbidden = probes.forbidden.clone();
    eventually(Duration::from_secs(10), || {
        let packets = lock(&probes.heard).packets;
        ensure!(packets > 100, "{packets} packets arrived");
        Ok(())
    })?;

    let (begun, seconds) = (Instant::now(), seconds()?);
    while begun.elapsed() < Duration::from_secs(seconds) {
        cluster.change()?;
        let due = begun + Duration::from_secs(1) * cluster.made / CHANGES;
        std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
    }
    let rate = f64::from(cluster.made) / begun.elapsed().as_secs_f64();
    let (packets, latest, wrong) = {
        let heard = lock(&probes.heard);
        (heard.packets, heard.latest, heard.wrong.clone())
    };
    println!(
        "policy: {} changes, {rate:.0} a second, {packets} packets arrived; the last forbidden one {} ms after its change",
        cluster.made,
        latest.as_millis()
    );
    ensure!(wrong.is_empty(), "{} packets arrived late: {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);

    // Half is forbidden, and stays so; the agent dies and comes again.
    for client in 0..CLIENTS.len() {
        for server in 0..SERVERS.len() {
            if cluster.allowed[client][server] == ((client + server) % 2 == 0) {
                cluster.turn(client, server)?;
            }
        }
    }
    let settled = || lock(&probes.forbidden).values().all(|since| since.elapsed() > late());
    eventually(Duration::from_secs(10), || {
        ensure!(settled(), "not yet");
        Ok(())
    })?;
    probes.strict.store(true, Ordering::Relaxed);
    let before = lock(&probes.heard).packets;
    for _ in 0..3 {
        lab.lab(&["kill", NODE, "--process", "agent"])?;
        std::thread::park_timeout(Duration::from_millis(500));
        lab.agent_ready_within(NODE, Duration::from_secs(30))?;
    }
    let heard = probes.end()?;
    println!(
        "policy: {} packets arrived while an agent was killed 3 times, none forbidden",
        heard.packets - before
    );
    ensure!(heard.packets > before, "nothing arrived any more");
    ensure!(
        heard.wrong.is_empty(),
        "{} forbidden packets arrived: {:?}",
        heard.wrong.len(),
        &heard.wrong[..heard.wrong.len().min(5)]
    );
    lab.done()
}
