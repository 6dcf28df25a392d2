//! Two pods behind links of this namespace, and what goes between them. Also for the benchmark of network policy.

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Socket, Type};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 250);
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 251);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 42, 255, 1);
/// Where the server listens, for one way to it and for the other. One port for both would let the ends of the ones, which
/// connection tracking remembers for 10 s, stand in the way of the others with the same port of the client.
pub(crate) const PORTS: [u16; 2] = [8080, 8081];
const ROUND: Duration = Duration::from_secs(2);

/// Makes this namespace a node with both.
pub(crate) fn pair() -> Result<(File, File)> {
    ip("link set lo up")?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    Ok((pod("wrnpclient", CLIENT)?, pod("wrnpserver", SERVER)?))
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
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
pub(crate) fn serve(ns: File, received: Arc<AtomicU64>) -> Result<()> {
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
pub(crate) fn connections(at: SocketAddr) -> Result<f64> {
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

pub(crate) fn throughput(at: SocketAddr, received: &AtomicU64) -> Result<f64> {
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
