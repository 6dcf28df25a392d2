//! A steady asker: each question once, and how long its answer took.

use super::{A, Heard, Load, has_address, question};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long the receiver waits before it looks around.
const TICK: Duration = Duration::from_millis(20);
/// The kernel's queue of answers: a pause of this process must not look like one of the server.
const BUFFER: usize = 4 << 20;
/// Lost questions that are told one by one.
const TOLD: usize = 10;

/// A question that was sent.
struct Sent {
    at: Instant,
    took: Option<Duration>,
}

pub(crate) fn run(order: &Load) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(order.target), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(BUFFER)?;
    socket.connect(&order.target.into())?;
    let socket: UdpSocket = socket.into();
    socket.set_read_timeout(Some(TICK))?;
    let timeout = Duration::from_millis(order.timeout);
    let (sent, stop, over) = (Mutex::new(Vec::<Sent>::new()), AtomicBool::new(false), AtomicBool::new(false));
    let wrong = Mutex::new(BTreeMap::<String, u64>::new());
    let errors = AtomicU64::new(0);
    let begun = Instant::now();
    thread::scope(|scope| {
        if order.count == 0 {
            let stop = &stop;
            // Nobody waits for this thread: a scope would.
            scope.spawn(|| {
                let _ = io::stdin().read_to_end(&mut Vec::new());
                stop.store(true, Ordering::Relaxed);
            });
        }
        scope.spawn(|| hear(order, &socket, &sent, &wrong, &over));
        let gap = Duration::from_secs(1) / u32::try_from(order.rate.max(1)).unwrap_or(1);
        let mut number = 0_u64;
        while !stop.load(Ordering::Relaxed) && (order.count == 0 || number < order.count) {
            let due = begun + gap * u32::try_from(number).unwrap_or(u32::MAX);
            thread::park_timeout(due.saturating_duration_since(Instant::now()));
            let name = &order.name[number as usize % order.name.len()];
            let packet = question((number & 0xffff) as u16, name, A);
            lock(&sent).push(Sent { at: Instant::now(), took: None });
            // A route that is away for a moment: that question is lost.
            errors.fetch_add(u64::from(socket.send(&packet).is_err()), Ordering::Relaxed);
            number += 1;
        }
        // The last may still come.
        let end = Instant::now() + timeout;
        while Instant::now() < end && lock(&sent).iter().any(|s| s.took.is_none()) {
            thread::park_timeout(TICK);
        }
        over.store(true, Ordering::Relaxed);
    });
    let sent = sent.into_inner().unwrap_or_else(PoisonError::into_inner);
    let lost: Vec<u128> = sent
        .iter()
        .filter(|s| s.took.is_none_or(|t| t > timeout))
        .map(|s| s.at.duration_since(begun).as_millis())
        .collect();
    let mut took: Vec<u128> = sent.iter().filter_map(|s| Some(s.took?.as_micros())).collect();
    took.sort_unstable();
    let part = |percent: usize| took.get(took.len() * percent / 100).or(took.last()).copied().unwrap_or(0);
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({"asked": sent.len(), "answered": took.len(), "lost": lost.len(), "lostAtMs": lost.iter().take(TOLD).collect::<Vec<_>>(),
               "sendErrors": errors.into_inner(), "wrong": *lock(&wrong), "seconds": seconds,
               "p50Us": part(50), "p99Us": part(99), "slowestUs": took.last()})
    );
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hear(
    order: &Load,
    socket: &UdpSocket,
    sent: &Mutex<Vec<Sent>>,
    wrong: &Mutex<BTreeMap<String, u64>>,
    over: &AtomicBool,
) {
    let mut buffer = [0; 4096];
    let complain = |what: String| *lock(wrong).entry(what).or_default() += 1;
    while !over.load(Ordering::Relaxed) {
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        let now = Instant::now();
        let packet = &buffer[..length];
        let Some(heard) = Heard::read(packet) else {
            complain("no message".into());
            continue;
        };
        let mut sent = lock(sent);
        // The latest question with this id.
        let behind = sent.len().wrapping_sub(1).wrapping_sub(usize::from(heard.id)) & 0xffff;
        let Some(number) = sent.len().checked_sub(1 + behind) else {
            complain("an id that was not asked".into());
            continue;
        };
        let question = &mut sent[number];
        if question.took.replace(now - question.at).is_some() {
            complain("answered twice".into());
        }
        drop(sent);
        let asked = &order.name[number % order.name.len()];
        if heard.name.trim_end_matches('.') != asked.trim_end_matches('.') || heard.qtype != A {
            complain(format!("an answer for {}", heard.name));
        } else if heard.rcode != 0 {
            complain(format!("rcode {} for {asked}", heard.rcode));
        } else if order.expect.is_some_and(|address| !has_address(packet, address)) {
            complain(format!("another address for {asked}"));
        }
    }
}
