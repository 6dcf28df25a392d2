//! Connections and bytes through a ClusterIP, beside the same pod dialled directly, with 10,000 Services loaded.

use crate::Figures;
use crate::cluster::Cluster;
use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::json;
use socket2::{Domain, Socket, Type};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 250);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 251);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 42, 255, 1);
/// Where the server listens: for the Service, and for who dials it directly. One port for both would let the ends of the
/// ones, which connection tracking remembers for 10 s, stand in the way of the others with the same port of the client.
const PORTS: [u16; 2] = [8080, 8081];
const ROUND: Duration = Duration::from_secs(2);
const ROUNDS: usize = 7;

pub(crate) fn measure() -> Result<Figures> {
    ip("link set lo up")?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    let (client, server) = (pod("wrnpclient", CLIENT)?, pod("wrnpserver", SERVER)?);
    let cluster = Cluster::new(10_000)?;
    cluster.start();
    cluster.loaded()?;
    let service = SocketAddr::new(cluster.serve(20_000, SERVER)?, 80);
    let direct = SocketAddr::new(IpAddr::V4(SERVER), PORTS[1]);
    let received = Arc::new(AtomicU64::new(0));
    serve(server, received.clone())?;
    let thread = std::thread::spawn(move || {
        setns(&client, CloneFlags::CLONE_NEWNET)?;
        let mut rates = [Vec::new(), Vec::new()];
        let mut bytes = [Vec::new(), Vec::new()];
        for round in 0..ROUNDS {
            // In turns, and each first as often as the other.
            for turn in 0..2 {
                let which = (round + turn) % 2;
                let at = [direct, service][which];
                rates[which].push(connections(at)?);
                bytes[which].push(throughput(at, &received)?);
            }
        }
        anyhow::Ok([rates, bytes])
    });
    let [rates, bytes] = thread.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
    let compare = |[direct, service]: [Vec<f64>; 2]| {
        let (direct, service) = (median(direct), median(service));
        json!({ "direct": direct.round(), "cluster_ip": service.round(), "ratio": (service / direct * 1000.0).round() / 1000.0 })
    };
    Ok(vec![
        ("connections a second, 10,000 Services".into(), compare(rates)),
        ("Mbit/s of one stream, 10,000 Services".into(), compare(bytes)),
    ])
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn ip(args: &str) -> Result<()> {
    let status = Command::new("ip").args(args.split_whitespace()).status().context("iproute2 is needed")?;
    ensure!(status.success(), "ip {args}");
    Ok(())
}

/// A namespace behind a link of this one, with this address.
fn pod(link: &str, address: Ipv4Addr) -> Result<File> {
    let (ready, made) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let inner = format!("{link}-in");
    let name = inner.clone();
    let thread = std::thread::spawn(move || -> Result<File> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let ns = File::open("/proc/thread-self/ns/net")?;
        ready.send(ns.try_clone()?)?;
        wait.recv()?;
        ip("link set lo up")?;
        ip(&format!("link set {name} name eth0"))?;
        ip(&format!("address add {address}/32 dev eth0"))?;
        ip("link set eth0 up")?;
        ip(&format!("route add {GATEWAY} dev eth0"))?;
        ip(&format!("route add default via {GATEWAY}"))?;
        Ok(ns)
    });
    let ns = made.recv()?;
    ip(&format!("link add {link} type veth peer name {inner}"))?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&ns);
    ip(&format!("link set {inner} netns /proc/{}/fd/{fd}", std::process::id()))?;
    ip(&format!("address add {GATEWAY}/32 dev {link}"))?;
    ip(&format!("link set {link} up"))?;
    ip(&format!("route add {address}/32 dev {link}"))?;
    go.send(())?;
    thread.join().map_err(|_| anyhow::anyhow!("a pod panicked"))?
}

/// One byte back for the first byte; everything else is counted.
fn serve(ns: File, received: Arc<AtomicU64>) -> Result<()> {
    let (ready, listening) = mpsc::channel();
    for port in PORTS {
        let (ns, ready, received) = (ns.try_clone()?, ready.clone(), received.clone());
        std::thread::spawn(move || -> Result<()> {
            setns(&ns, CloneFlags::CLONE_NEWNET)?;
            let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            listener.bind(&SocketAddr::from((SERVER, port)).into())?;
            listener.listen(1024)?;
            ready.send(())?;
            for client in TcpListener::from(listener).incoming() {
                answer(client?, &received);
            }
            Ok(())
        });
    }
    for _ in PORTS {
        listening.recv().context("the server does not listen")?;
    }
    Ok(())
}

fn answer(mut client: TcpStream, received: &Arc<AtomicU64>) {
    let received = received.clone();
    let mut first = [0; 1];
    if client.read_exact(&mut first).is_err() || client.write_all(&first).is_err() || first != *b"s" {
        return;
    }
    std::thread::spawn(move || {
        let mut buffer = vec![0; 256 * 1024];
        while let Ok(length @ 1..) = client.read(&mut buffer) {
            received.fetch_add(length as u64, Ordering::Relaxed);
        }
    });
}

/// Connections a second: each asks once, and ends by a reset, so that ports do not run out.
fn connections(at: SocketAddr) -> Result<f64> {
    let (begun, mut made) = (Instant::now(), 0u32);
    while begun.elapsed() < ROUND {
        let mut stream = TcpStream::connect(at).with_context(|| format!("connect {at}"))?;
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        stream.write_all(b"c")?;
        stream.read_exact(&mut [0; 1])?;
        made += 1;
    }
    Ok(f64::from(made) / begun.elapsed().as_secs_f64())
}

fn throughput(at: SocketAddr, received: &AtomicU64) -> Result<f64> {
    let mut stream = TcpStream::connect(at)?;
    stream.write_all(b"s")?;
    stream.read_exact(&mut [0; 1])?;
    let buffer = vec![7; 256 * 1024];
    let (begun, before) = (Instant::now(), received.load(Ordering::Relaxed));
    while begun.elapsed() < ROUND {
        stream.write_all(&buffer)?;
    }
    let bytes = received.load(Ordering::Relaxed) - before;
    Ok(bytes as f64 * 8.0 / begun.elapsed().as_secs_f64() / 1e6)
}
