//! Clients that mean no good.

use super::{A, Kind, question};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Packets at once.
const BATCH: u32 = 32;

/// Runs `work` until standard input ends.
fn until_told(work: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::stdin().read_to_end(&mut Vec::new());
            stop.store(true, Ordering::Relaxed);
        });
        while !stop.load(Ordering::Relaxed) {
            work()?;
        }
        Ok(())
    })
}

pub(crate) fn flood(target: SocketAddr, kind: Kind, rate: u32) -> io::Result<()> {
    let any = match target {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(target)?;
    let seed = RandomState::new();
    let packets: Vec<Vec<u8>> = (0..256_u64)
        .map(|n| match kind {
            Kind::Garbage => (0..20 + n % 100).map(|byte| seed.hash_one((n, byte)) as u8).collect(),
            Kind::Answers => {
                let mut packet = question(n as u16, "kubernetes.default.svc.cluster.local", A);
                packet[2] |= 0x80;
                packet
            }
            Kind::Questions => question(n as u16, "kubernetes.default.svc.cluster.local", A),
        })
        .collect();
    let (sent, begun, turn) =
        (AtomicU64::new(0), Instant::now(), Duration::from_secs(1) / rate.max(1) * BATCH);
    let turns = AtomicU32::new(0);
    until_told(|| {
        let number = turns.fetch_add(1, Ordering::Relaxed);
        thread::park_timeout((begun + turn * number).saturating_duration_since(Instant::now()));
        let first = number as usize * BATCH as usize;
        for packet in (first..first + BATCH as usize).filter_map(|n| packets.get(n % packets.len())) {
            // The kernel may have no more room for a moment.
            sent.fetch_add(u64::from(socket.send(packet).is_ok()), Ordering::Relaxed);
        }
        Ok(())
    })?;
    println!("{}", sent.into_inner());
    Ok(())
}

pub(crate) fn idle(target: SocketAddr, connections: usize) -> io::Result<()> {
    let open = || TcpStream::connect_timeout(&target, Duration::from_millis(200)).ok();
    let held = std::sync::Mutex::new((0..connections).map(|_| open()).collect::<Vec<_>>());
    let opened = AtomicU64::new(0);
    until_told(|| {
        for place in held.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter_mut() {
            let closed = place.as_mut().is_none_or(|stream| {
                let none = stream.set_nonblocking(true).is_ok()
                    && matches!(stream.read(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock);
                !none
            });
            if closed {
                *place = open();
                opened.fetch_add(u64::from(place.is_some()), Ordering::Relaxed);
            }
        }
        thread::park_timeout(Duration::from_millis(5));
        Ok(())
    })?;
    println!("{}", opened.into_inner());
    Ok(())
}
