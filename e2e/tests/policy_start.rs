//! Pods that send from before their first moment on, under a default deny: nothing forbidden arrives, and what is allowed does
//! at the first try. `WARREN_BATTERY_POLICY_PODS` says how many.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use warren_e2e::battery::Objects;
use warren_e2e::lab::{Lab, netns_of};
use warren_e2e::runtime::Runtime;
use warren_e2e::{eventually, netns};

const ALLOWED: u16 = 7000;
const FORBIDDEN: u16 = 7001;
/// Pods that start side by side, and calls of the plugin at once.
const BATCH: usize = 50;
const AT_ONCE: usize = 8;
/// A first packet that was dropped comes again after a second.
const FIRST_TRY: Duration = Duration::from_millis(900);

/// Counts what arrives in a pod that may be reached by anyone.
struct Sink {
    stop: Arc<AtomicBool>,
    forbidden: Arc<AtomicU64>,
    threads: Vec<Thread<()>>,
}

impl Sink {
    fn start(pid: u32, at: IpAddr) -> Result<Self> {
        let (stop, forbidden) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, count) = (stop.clone(), forbidden.clone());
        let packets = netns::spawn(&netns_of(pid), move || {
            let socket = UdpSocket::bind(SocketAddr::new(at, FORBIDDEN))?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            let mut buffer = [0; 64];
            while !ended.load(Ordering::Relaxed) {
                match socket.recv(&mut buffer) {
                    Ok(_) => drop(count.fetch_add(1, Ordering::Relaxed)),
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            Ok(())
        })?;
        let listener =
            netns::run(&netns_of(pid), move || Ok(TcpListener::bind(SocketAddr::new(at, ALLOWED))?))?;
        let ended = stop.clone();
        let connections = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                drop(listener.accept()?);
            }
            Ok(())
        });
        Ok(Self { stop, forbidden, threads: vec![packets, connections] })
    }

    fn end(self, pid: u32, at: IpAddr) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let wakes =
            netns::run(&netns_of(pid), move || Ok(TcpStream::connect(SocketAddr::new(at, ALLOWED))?))?;
        drop(wakes);
        self.threads.into_iter().try_for_each(netns::join)?;
        Ok(self.forbidden.load(Ordering::Relaxed))
    }
}

type Thread<T> = std::thread::JoinHandle<Result<T>>;

/// Sends what is forbidden, from before the pod has a link until a moment after it can; how much was sent.
fn flood(netns: &Path, to: IpAddr) -> Result<Thread<u64>> {
    netns::spawn(netns, move || {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        let begun = Instant::now();
        let (mut sent, mut first) = (0, None);
        while first.is_none_or(|at: Instant| at.elapsed() < Duration::from_millis(300)) {
            ensure!(begun.elapsed() < Duration::from_secs(60), "no way out of the pod for a minute");
            // Without a route it is refused at once.
            if socket.send_to(b"forbidden", SocketAddr::new(to, FORBIDDEN)).is_ok() {
                sent += 1;
                first.get_or_insert_with(Instant::now);
            }
            std::thread::park_timeout(Duration::from_micros(500));
        }
        Ok(sent)
    })
}

/// The first connection of a pod that was added, which is allowed; how long it took.
fn connect(netns: &Path, to: IpAddr) -> Result<Thread<Duration>> {
    netns::spawn(netns, move || {
        let start = Instant::now();
        TcpStream::connect_timeout(&SocketAddr::new(to, ALLOWED), Duration::from_secs(5))
            .context("the first connection, which is allowed")?;
        Ok(start.elapsed())
    })
}

fn many() -> Result<usize> {
    let text = std::env::var("WARREN_BATTERY_POLICY_PODS").unwrap_or_else(|_| "100".into());
    text.parse().with_context(|| format!("WARREN_BATTERY_POLICY_PODS={text}"))
}

#[test]
fn pods_are_isolated_before_their_first_packet() -> Result<()> {
    let many = many()?;
    let args = ["--nodes", "2", "--pods", "0", "--dual-stack", "--node-prefix-v4", "20"];
    let lab = Lab::up("policy-start", &args)?;
    lab.lab(&["run", "sink", "--node", "node-2", "--label", "app=sink"])?;
    let pod = lab.pods_on("node-2")?.into_iter().find(|pod| pod.name == "sink").context("no sink")?;
    let pid = pod.pid.context("the sink does not run")?;
    let v4 = *pod.ips.iter().find(|ip| ip.is_ipv4()).context("no IPv4 address")?;
    let v6 = *pod.ips.iter().find(|ip| ip.is_ipv6()).context("no IPv6 address")?;
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "deny", "namespace": "default"},
        "spec": {
            "podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["sink"]}]},
            "policyTypes": ["Ingress", "Egress"],
            "egress": [{
                // Once by its address, once by its labels.
                "to": [{"ipBlock": {"cidr": format!("{v4}/32")}}, {"podSelector": {"matchLabels": {"app": "sink"}}}],
                "ports": [{"port": ALLOWED}],
            }],
        },
    });
    Objects::of(&lab.lab(&["kubeconfig"])?)?.apply(&policy)?;
    eventually(Duration::from_secs(10), || {
        let status = lab.agent_status("node-1")?;
        ensure!(status["store"]["rows"]["network_policies"] == 1, "{}", status["store"]);
        Ok(())
    })?;
    let runtime = Runtime::new(&lab, "node-1")?;
    let sinks = [v4, v6].map(|at| Sink::start(pid, at));
    let [sink4, sink6] = sinks;
    let (sink4, sink6) = (sink4?, sink6?);
    let to = |n: usize| if n.is_multiple_of(2) { v4 } else { v6 };
    let (mut sent, mut slowest, mut started) = (0, Duration::ZERO, 0);
    while started < many {
        let batch = BATCH.min(many - started);
        runtime.prepare(batch)?;
        let (mut floods, mut connections) = (Vec::new(), Vec::new());
        for n in 0..batch {
            floods.push(flood(&runtime.netns(n)?, to(n))?);
        }
        runtime.add_prepared(batch, AT_ONCE)?;
        for n in 0..batch {
            connections.push(connect(&runtime.netns(n)?, to(n))?);
        }
        for connection in connections {
            slowest = slowest.max(netns::join(connection)?);
        }
        for flood in floods {
            sent += netns::join(flood)?;
        }
        runtime.del_many(batch, AT_ONCE)?;
        started += batch;
    }
    let arrived = sink4.end(pid, v4)? + sink6.end(pid, v6)?;
    println!(
        "policy: {started} pods sent {sent} forbidden packets from before their first moment, {arrived} arrived; \
         first connections were allowed, the slowest in {} ms",
        slowest.as_millis()
    );
    ensure!(arrived == 0, "{arrived} forbidden packets arrived");
    ensure!(
        slowest < FIRST_TRY,
        "a first connection took {} ms: its first packet was lost",
        slowest.as_millis()
    );
    lab.done()
}
