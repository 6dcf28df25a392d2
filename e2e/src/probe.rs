//! A probe at 1 kHz between two namespaces, over UDP sockets of the test's own: how long was nothing heard? In the emulated
//! machine it asks less often: a thousand encrypted packets a second are more than its processor does.

use crate::{netns, patient};
use anyhow::{Context as _, Result};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// What a probe measured.
#[derive(Debug, Clone, Copy)]
pub struct Gap {
    /// Datagrams sent.
    pub sent: u64,
    /// Answers heard.
    pub heard: u64,
    /// The longest time between two answers. A machine with other work makes it longer without losing anything.
    pub longest: Duration,
    /// How long the most datagrams in a row went unanswered: so long was the path cut.
    pub cut: Duration,
    /// When the longest time ended, by the machine's clock: to find what the logs tell of it.
    pub ended: SystemTime,
}

impl Gap {
    /// Datagrams without an answer.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.heard)
    }
}

/// A running probe.
pub struct Probe {
    stop: Arc<AtomicBool>,
    asker: JoinHandle<Result<Gap>>,
    answerer: JoinHandle<Result<()>>,
}

impl Probe {
    /// Starts an answerer on `to` in the namespace `to_ns`, and an asker in `from_ns` bound to `from`.
    ///
    /// # Errors
    /// When a namespace or a socket cannot be had, or the first answer does not come within 5 s.
    pub fn start(from_ns: &Path, from: IpAddr, to_ns: &Path, to: IpAddr) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let bind = |addr: IpAddr| {
            move || {
                let socket =
                    UdpSocket::bind(SocketAddr::new(addr, 0)).with_context(|| format!("bind {addr}"))?;
                socket.set_read_timeout(Some(Duration::from_millis(50)))?;
                Ok(socket)
            }
        };
        let server = netns::run(to_ns, bind(to))?;
        let target = server.local_addr()?;
        let client = netns::run(from_ns, bind(from))?;
        client.connect(target)?;
        let (stop_answerer, stop_asker) = (Arc::clone(&stop), Arc::clone(&stop));
        let answerer = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !stop_answerer.load(Ordering::Relaxed) {
                if let Ok((length, peer)) = server.recv_from(&mut buffer) {
                    // Unreachable routes answer with an error while a node is away: that is a loss, not an end.
                    let _ = server.send_to(buffer.get(..length).unwrap_or_default(), peer);
                }
            }
            Ok(())
        });
        crate::eventually(Duration::from_secs(30), || {
            client.send(&u64::MAX.to_be_bytes())?;
            client.recv(&mut [0; 64]).context("no answer from the other end")
        })?;
        let asker = std::thread::spawn(move || ask(&client, &stop_asker));
        Ok(Self { stop, asker, answerer })
    }

    /// Stops and returns what was measured.
    ///
    /// # Errors
    /// When a thread of the probe failed.
    pub fn finish(self) -> Result<Gap> {
        self.stop.store(true, Ordering::Relaxed);
        let gap = netns::join(self.asker)?;
        netns::join(self.answerer)?;
        Ok(gap)
    }
}

fn ask(socket: &UdpSocket, stop: &AtomicBool) -> Result<Gap> {
    let tick = patient(Duration::from_millis(1));
    socket.set_nonblocking(true)?;
    let (mut next, mut last) = (Instant::now(), Instant::now());
    let mut gap =
        Gap { sent: 0, heard: 0, longest: Duration::ZERO, cut: Duration::ZERO, ended: SystemTime::now() };
    let mut answered: Vec<bool> = Vec::new();
    let mut buffer = [0; 64];
    let mut hear = |gap: &mut Gap, answered: &mut Vec<bool>| {
        while let Ok(length) = socket.recv(&mut buffer) {
            let number = buffer.get(..length).and_then(|b| Some(u64::from_be_bytes(b.try_into().ok()?)));
            // Those from before the start have no place.
            let Some(place) = number.and_then(|n| answered.get_mut(usize::try_from(n).ok()?)) else {
                continue;
            };
            *place = true;
            gap.heard += 1;
            if last.elapsed() > gap.longest {
                (gap.longest, gap.ended) = (last.elapsed(), SystemTime::now());
            }
            last = Instant::now();
        }
    };
    while !stop.load(Ordering::Relaxed) {
        let _ = socket.send(&gap.sent.to_be_bytes());
        gap.sent += 1;
        answered.push(false);
        next += tick;
        std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
        hear(&mut gap, &mut answered);
    }
    // The last answers are still under way; how long this wait is says nothing about the path.
    let (longest, ended) = (gap.longest, gap.ended);
    std::thread::park_timeout(Duration::from_millis(300));
    hear(&mut gap, &mut answered);
    (gap.longest, gap.ended) = (longest, ended);
    let lost = answered.split(|answered| *answered).map(<[bool]>::len).max().unwrap_or_default();
    gap.cut = tick * u32::try_from(lost)?;
    Ok(gap)
}
