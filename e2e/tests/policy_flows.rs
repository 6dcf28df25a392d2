//! Connections that are there when a policy forbids them: they end with the change, on one node and across nodes, and do not
//! come back by answers that were on their way, nor by packets that begin nothing. What Kubernetes lets pass whatever policies say passes: ICMP errors of
//! allowed flows, and the pod's own node. A policy outlives its object while its namespace ends.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use warren_e2e::battery::Objects;
use warren_e2e::lab::{Lab, Pod, netns_of, warren_bin};
use warren_e2e::{eventually, netns, patient};

const PORT: u16 = 7000;
/// Nobody listens there.
const SHUT: u16 = 7009;
/// How long a server thinks: so many answers are on their way whenever a flow ends.
const THINKS: Duration = Duration::from_millis(300);
const BEAT: Duration = Duration::from_millis(20);
/// What has not been heard of for so long has ended.
const SILENCE: Duration = Duration::from_millis(600);
/// Longer than answers of an ended flow are held back.
const AFTERWARDS: Duration = Duration::from_secs(4);

/// A client's word arrives at the server: when last?
type Last = Arc<Mutex<Option<Instant>>>;

struct Talk {
    what: String,
    last: Last,
}

struct Talks {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
    all: Vec<Talk>,
}

fn is_pause(e: &std::io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn hear(last: &Last) {
    *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
}

fn netns_of_pod(pod: &Pod) -> Result<std::path::PathBuf> {
    Ok(netns_of(pod.pid.context("a pod does not run")?))
}

impl Talks {
    /// From each client to the server, over UDP and TCP, in both families.
    fn start(server: &Pod, clients: &[&Pod]) -> Result<Self> {
        let mut talks = Self { stop: Arc::default(), threads: Vec::new(), all: Vec::new() };
        for client in clients {
            for at in &server.ips {
                let (to, from) = (netns_of_pod(server)?, netns_of_pod(client)?);
                let what = format!("{} to {at}", client.name);
                talks.packets(&to, *at, &from, &what)?;
                talks.stream(&to, *at, &from, &what)?;
            }
        }
        Ok(talks)
    }

    fn packets(&mut self, server: &Path, at: IpAddr, client: &Path, what: &str) -> Result<()> {
        let last = Last::default();
        let socket = netns::run(server, move || Ok(UdpSocket::bind(SocketAddr::new(at, 0))?))?;
        socket.set_read_timeout(Some(BEAT))?;
        let to = socket.local_addr()?;
        let (stop, heard) = (self.stop.clone(), last.clone());
        self.threads.push(std::thread::spawn(move || {
            let (mut buffer, mut answers) = ([0; 8], VecDeque::new());
            while !stop.load(Ordering::Relaxed) {
                match socket.recv_from(&mut buffer) {
                    Ok((_, from)) => {
                        hear(&heard);
                        answers.push_back((Instant::now() + THINKS, from));
                    }
                    Err(e) if is_pause(&e) => {}
                    Err(e) => return Err(e.into()),
                }
                while answers.front().is_some_and(|(due, _)| *due <= Instant::now()) {
                    let Some((_, from)) = answers.pop_front() else { break };
                    let _ = socket.send_to(b"answer", from);
                }
            }
            Ok(())
        }));
        let stop = self.stop.clone();
        self.threads.push(netns::spawn(client, move || {
            let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
            socket.set_nonblocking(true)?;
            while !stop.load(Ordering::Relaxed) {
                let _ = socket.send_to(b"word", to);
                while socket.recv(&mut [0; 8]).is_ok() {}
                std::thread::park_timeout(BEAT);
            }
            Ok(())
        })?);
        self.all.push(Talk { what: format!("UDP {what}"), last });
        Ok(())
    }

    fn stream(&mut self, server: &Path, at: IpAddr, client: &Path, what: &str) -> Result<()> {
        let last = Last::default();
        let listener = netns::run(server, move || Ok(TcpListener::bind(SocketAddr::new(at, 0))?))?;
        let to = listener.local_addr()?;
        let mut sends =
            netns::run(client, move || Ok(TcpStream::connect_timeout(&to, Duration::from_secs(5))?))?;
        let (mut echoes, _) = listener.accept()?;
        for stream in [&sends, &echoes] {
            stream.set_read_timeout(Some(BEAT))?;
            stream.set_nodelay(true)?;
        }
        let (stop, heard) = (self.stop.clone(), last.clone());
        self.threads.push(std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                match echoes.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(_) => {
                        hear(&heard);
                        let _ = echoes.write(b"answer");
                    }
                    Err(e) if is_pause(&e) => {
                        // Whoever pushes of its own accord must not open the way again.
                        let _ = echoes.write(b"push");
                    }
                    Err(_) => break,
                }
            }
            Ok(())
        }));
        let stop = self.stop.clone();
        self.threads.push(std::thread::spawn(move || {
            sends.set_nonblocking(true)?;
            while !stop.load(Ordering::Relaxed) {
                let _ = sends.write(b"word");
                while matches!(sends.read(&mut [0; 64]), Ok(1..)) {}
                std::thread::park_timeout(BEAT);
            }
            Ok(())
        }));
        self.all.push(Talk { what: format!("TCP {what}"), last });
        Ok(())
    }

    /// Those that were heard of in the last moment.
    fn alive(&self, which: &str) -> Vec<&str> {
        let is_fresh = |talk: &&Talk| {
            let last = *talk.last.lock().unwrap_or_else(PoisonError::into_inner);
            talk.what.starts_with(which) && last.is_some_and(|at| at.elapsed() < SILENCE)
        };
        self.all.iter().filter(is_fresh).map(|talk| talk.what.as_str()).collect()
    }

    fn all_alive(&self, which: &str) -> Result<()> {
        let all = self.all.iter().filter(|talk| talk.what.starts_with(which)).count();
        eventually(Duration::from_secs(10), || {
            let alive = self.alive(which);
            ensure!(alive.len() == all, "only {alive:?} go on");
            Ok(())
        })
        .map(drop)
    }

    /// All of them end, and stay so.
    fn all_end(&self) -> Result<()> {
        eventually(patient(Duration::from_secs(2)), || {
            let alive = self.alive("");
            ensure!(alive.is_empty(), "{alive:?} go on");
            Ok(())
        })?;
        let until = Instant::now() + AFTERWARDS;
        while Instant::now() < until {
            std::thread::park_timeout(BEAT);
            let alive = self.alive("");
            ensure!(alive.is_empty(), "{alive:?} came back");
        }
        Ok(())
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().try_for_each(netns::join)
    }
}

/// A policy named `deny` for pods with this label, under which nothing passes in the direction.
fn deny(namespace: &str, name: &str, direction: &str) -> serde_json::Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "deny", "namespace": namespace},
        "spec": {"podSelector": {"matchLabels": {"role": name}}, "policyTypes": [direction]},
    })
}

struct Cluster {
    lab: Lab,
    objects: Objects,
}

impl Cluster {
    fn up(test: &str) -> Result<Self> {
        Self::up_with(test, &[])
    }

    fn up_with(test: &str, args: &[&str]) -> Result<Self> {
        let lab = Lab::up(test, &[&["--nodes", "2", "--pods", "0"], args].concat())?;
        let objects = Objects::of(&lab.lab(&["kubeconfig"])?)?;
        Ok(Self { lab, objects })
    }

    fn run(&self, name: &str, node: &str, role: &str, namespace: &str) -> Result<Pod> {
        let role = format!("role={role}");
        self.lab.lab(&["run", name, "--node", node, "--label", &role, "--namespace", namespace])?;
        let pod = self.lab.pods_on(node)?.into_iter().find(|pod| pod.name == name).context("no such pod")?;
        // The Pod is there a moment after its pod.
        eventually(Duration::from_secs(10), || self.objects.get("Pod", namespace, name))?;
        Ok(pod)
    }

    fn warren(&self, node: &str, args: &[&str]) -> Result<String> {
        let bin = warren_bin();
        let mut all = vec![bin.to_str().context("a path of text")?];
        all.extend(args);
        self.lab.exec(node, &all)
    }
}

#[test]
fn connections_end_with_the_change_that_forbids_them() -> Result<()> {
    let cluster = Cluster::up("policy-flows")?;
    let server = cluster.run("server", "node-1", "server", "default")?;
    let near = cluster.run("near", "node-1", "client", "default")?;
    let far = cluster.run("far", "node-2", "client", "default")?;
    for (role, direction) in [("server", "Ingress"), ("client", "Egress")] {
        let talks = Talks::start(&server, &[&near, &far])?;
        talks.all_alive("")?;
        cluster.objects.apply(&deny("default", role, direction))?;
        talks.all_end().with_context(|| format!("under a policy of {direction}"))?;
        cluster.objects.delete("NetworkPolicy", "default", "deny", None)?;
        // Packets that need no connection pass again, from sockets that were there all the time.
        talks.all_alive("UDP")?;
        talks.end()?;
    }
    cluster.lab.done()
}

#[test]
fn errors_of_allowed_flows_and_the_own_node_pass() -> Result<()> {
    let cluster = Cluster::up("policy-passes")?;
    let server = cluster.run("server", "node-1", "server", "default")?;
    let client = cluster.run("client", "node-2", "client", "default")?;
    // The client may send to the server, and nobody may send to the client.
    cluster.objects.apply(&deny("default", "client", "Ingress"))?;
    let isolated = client.ips.clone();
    let listener = netns::run(&netns_of_pod(&client)?, move || {
        Ok(TcpListener::bind(SocketAddr::new(isolated[0], PORT))?)
    })?;
    let to = listener.local_addr()?;
    let dial = move || Ok(TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok());
    let from_pod = || netns::run(&netns_of_pod(&server)?, dial);
    eventually(Duration::from_secs(10), || {
        ensure!(!from_pod()?, "the policy is not in force");
        Ok(())
    })?;
    ensure!(netns::run(&cluster.lab.node_ns("node-2")?, dial)?, "the pod's own node is not let in");
    for at in server.ips.clone() {
        let refused = netns::run(&netns_of_pod(&client)?, move || {
            let any: IpAddr = if at.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
            socket.connect(SocketAddr::new(at, SHUT))?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            socket.send(b"word")?;
            Ok(socket.recv(&mut [0; 8]).map_err(|e| e.kind()))
        })?;
        ensure!(refused == Err(ErrorKind::ConnectionRefused), "{at}: {refused:?} in place of a refusal");
    }
    cluster.lab.done()
}

/// A packet for a raw socket: SCTP with one chunk (RFC 9260), or ICMP; `mark` is its source port or its identifier.
fn sctp(mark: u16, chunk: &[u8]) -> Vec<u8> {
    // An INIT goes without a verification tag, and only that.
    let tag: u32 = if chunk[0] == 1 { 0 } else { 7 };
    let ports = [mark.to_be_bytes(), PORT.to_be_bytes()].concat();
    let mut packet = [&ports[..], &tag.to_be_bytes(), &[0; 4], chunk].concat();
    let crc = !packet.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    });
    packet[8..12].copy_from_slice(&crc.to_le_bytes());
    packet
}

fn icmp(mark: u16, kind: u8) -> Vec<u8> {
    let [high, low] = mark.to_be_bytes();
    let sum = !(u16::from_be_bytes([kind, 0]) + mark);
    let [sum_high, sum_low] = sum.to_be_bytes();
    vec![kind, 0, sum_high, sum_low, high, low, 0, 0]
}

/// Sends packets of a protocol from one pod to another; tells the marks of those that arrive until the last does, which
/// has to. `at`: where a packet has its mark.
fn arriving(from: &Pod, to: &Pod, protocol: i32, at: usize, packets: Vec<Vec<u8>>) -> Result<Vec<u16>> {
    let raw = move || Ok(Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(protocol)))?);
    let mut ear = netns::run(&netns_of_pod(to)?, raw)?;
    ear.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mouth = netns::run(&netns_of_pod(from)?, raw)?;
    let address = SocketAddr::new(to.ips[0], 0).into();
    let mark_of = |packet: &[u8]| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    let last = packets.last().and_then(|packet| mark_of(packet)).context("no packets")?;
    for packet in &packets {
        mouth.send_to(packet, &address)?;
    }
    let mut arrived = Vec::new();
    while arrived.last() != Some(&last) {
        let mut buffer = [0; 256];
        let length = ear.read(&mut buffer).with_context(|| format!("only {arrived:?} arrived"))?;
        // Behind the header of IPv4, which has no options here.
        arrived.extend(buffer[..length].get(20..).and_then(mark_of));
    }
    Ok(arrived)
}

#[test]
fn packets_that_begin_nothing_leave_no_isolated_pod() -> Result<()> {
    // The proxy has a rule of its own against what connection tracking cannot place.
    let cluster = Cluster::up_with("policy-strays", &["--agent-arg=--proxy=off"])?;
    let server = cluster.run("server", "node-1", "server", "default")?;
    let near = cluster.run("near", "node-1", "client", "default")?;
    let far = cluster.run("far", "node-2", "client", "default")?;
    let init = [&[1, 0, 0, 20][..], &[0, 0, 0, 9], &[0, 1, 0, 0], &[0, 1, 0, 1], &[0, 0, 0, 1]].concat();
    let heartbeat = [4, 0, 0, 8, 0, 1, 0, 4];
    let data = [&[0, 3, 0, 17][..], &[0; 12], b"x\0\0\0"].concat();
    let ask = |first: u16, from: &Pod, to: &Pod| -> Result<[Vec<u16>; 2]> {
        let associations = vec![sctp(first, &heartbeat), sctp(first + 1, &data), sctp(first + 2, &init)];
        let pings = vec![icmp(first, 0), icmp(first + 1, 8)];
        Ok([arriving(from, to, 132, 0, associations)?, arriving(from, to, 1, 4, pings)?])
    };
    // Nobody is isolated: all pass.
    let all = ask(100, &server, &near)?;
    ensure!(all == [vec![100, 101, 102], vec![100, 101]], "only {all:?} arrived");
    // What the server begins is allowed; its policy is about what is sent to it.
    cluster.objects.apply(&deny("default", "server", "Ingress"))?;
    let mut first = 200;
    eventually(Duration::from_secs(10), || {
        first += 10;
        let arrived = ask(first, &server, &near)?;
        ensure!(arrived == [vec![first + 2], vec![first + 1]], "{arrived:?} of {first} arrived");
        Ok(())
    })?;
    for (first, to) in [(1000, &near), (1010, &far)] {
        let arrived = ask(first, &server, to)?;
        ensure!(arrived == [vec![first + 2], vec![first + 1]], "{arrived:?} arrived at {}", to.name);
    }
    let others = ask(1020, &near, &far)?;
    ensure!(others == [vec![1020, 1021, 1022], vec![1020, 1021]], "only {others:?} of others arrived");
    cluster.lab.done()
}

#[test]
fn a_policy_outlives_its_object_while_its_namespace_ends() -> Result<()> {
    let cluster = Cluster::up("policy-held")?;
    cluster
        .objects
        .apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ending"}}))?;
    let server = cluster.run("server", "node-1", "server", "ending")?;
    let client = cluster.run("client", "node-2", "client", "default")?;
    cluster.objects.apply(&deny("ending", "server", "Ingress"))?;
    let at = server.ips[0];
    let listener =
        netns::run(&netns_of_pod(&server)?, move || Ok(TcpListener::bind(SocketAddr::new(at, PORT))?))?;
    let to = listener.local_addr()?;
    let dial = || {
        netns::run(&netns_of_pod(&client)?, move || {
            Ok(TcpStream::connect_timeout(&to, Duration::from_millis(300)).is_ok())
        })
    };
    eventually(Duration::from_secs(10), || {
        ensure!(!dial()?, "the policy is not in force");
        Ok(())
    })?;
    // Kubernetes before 1.33 deletes what is in a namespace in any order, and so may its user.
    cluster.objects.delete("Namespace", "", "ending", None)?;
    cluster.objects.delete("NetworkPolicy", "ending", "deny", None)?;
    let held = || {
        let list = cluster.warren("node-1", &["policy", "list"])?;
        ensure!(list.contains("held"), "{list}");
        Ok(())
    };
    eventually(Duration::from_secs(20), held)?;
    ensure!(!dial()?, "the pod is reached though its policy was never lifted");
    cluster.lab.lab(&["kill", "node-1", "--process", "agent"])?;
    cluster.lab.agent_ready_within("node-1", Duration::from_secs(30))?;
    ensure!(!dial()?, "the pod is reached after its node's agent died");
    eventually(Duration::from_secs(20), held)?;
    cluster.lab.lab(&["rm", "server"])?;
    eventually(Duration::from_secs(20), || {
        let list = cluster.warren("node-1", &["policy", "list"])?;
        ensure!(!list.contains("deny"), "{list}");
        Ok(())
    })?;
    cluster.lab.done()
}
