//! The client: what came of each attempt.

use crate::{Ask, http};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Counts of a run, shared by its threads.
#[derive(Default)]
struct Tally {
    asked: AtomicU64,
    answered: AtomicU64,
    /// The longest that an answer took, in milliseconds.
    slowest: AtomicU64,
    stop: AtomicBool,
}

/// Asks as often as it is told.
pub(crate) fn run(order: &Ask) -> io::Result<()> {
    let tally = Tally::default();
    thread::scope(|scope| {
        if order.count == 0 {
            scope.spawn(|| {
                let _ = io::stdin().read_to_end(&mut Vec::new());
                tally.stop.store(true, Ordering::Relaxed);
            });
        }
        let begun = Instant::now();
        for _ in 0..order.threads {
            let tally = &tally;
            scope.spawn(move || asker(order, tally, begun));
        }
    });
    if order.summary {
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        println!(
            "{}",
            json!({"asked": count(&tally.asked), "answered": count(&tally.answered), "slowest": count(&tally.slowest)})
        );
    }
    Ok(())
}

fn asker(order: &Ask, tally: &Tally, first: Instant) {
    let mut line = None;
    let mut begun = first;
    while !tally.stop.load(Ordering::Relaxed) {
        let number = tally.asked.fetch_add(1, Ordering::Relaxed);
        if order.count > 0 && number >= order.count {
            tally.asked.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        if let Some(rate) = order.rate {
            // All threads share its times.
            wait_until(first + Duration::from_secs(1).mul_f64(number as f64 / f64::from(rate.get())));
        }
        let start = Instant::now();
        let result = attempt(order, &mut line, number);
        report(order, tally, number, start, result);
        // At a steady pace: what an attempt takes is not waited for again.
        begun = (begun + Duration::from_millis(order.gap)).max(start);
        wait_until(begun);
    }
}

fn wait_until(time: Instant) {
    let rest = time.saturating_duration_since(Instant::now());
    if !rest.is_zero() {
        thread::park_timeout(rest);
    }
}

/// One attempt; `line` is the connection or socket that is kept.
fn attempt(order: &Ask, line: &mut Option<Line>, number: u64) -> io::Result<(String, SocketAddr)> {
    if let Some(host) = &order.http {
        return said(&over_http(order, host, line, number)?);
    }
    let mut own = match line.take() {
        Some(kept) => kept,
        None => Line::open(order)?,
    };
    let answer = own.ask(order, number);
    // A socket outlives what became of a datagram; a connection does not outlive a failure, and is not opened again.
    if order.keep && (order.udp || answer.is_ok()) {
        *line = Some(own);
    } else if order.keep {
        *line = Some(Line::Broken);
    }
    said(&answer?)
}

/// Who answered, and whom it saw.
fn said(answer: &str) -> io::Result<(String, SocketAddr)> {
    let mut words = answer.split_whitespace();
    let parsed =
        words.next().zip(words.next()).and_then(|(name, peer)| Some((name.to_owned(), peer.parse().ok()?)));
    parsed.ok_or_else(|| io::Error::other(format!("this is no answer: {answer:?}")))
}

/// One request. A server may close a kept connection whenever it is idle, so a request that it met like this is asked anew.
fn over_http(order: &Ask, host: &str, line: &mut Option<Line>, number: u64) -> io::Result<String> {
    let kept = line.take();
    let reused = kept.is_some();
    let mut own = match kept {
        Some(kept) => kept,
        None => Line::open(order)?,
    };
    let reply = match own.get(order, host, number) {
        Err(error)
            if reused
                && matches!(
                    error.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
                ) =>
        {
            own = Line::open(order)?;
            own.get(order, host, number)?
        }
        other => other?,
    };
    if order.keep && !reply.last {
        *line = Some(own);
    }
    match reply.status {
        200 => Ok(reply.body),
        status => Err(io::Error::other(format!("status {status}: {}", reply.body))),
    }
}

fn report(order: &Ask, tally: &Tally, number: u64, start: Instant, result: io::Result<(String, SocketAddr)>) {
    let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).saturating_sub(ms);
    match result {
        Ok((server, client)) => {
            tally.answered.fetch_add(1, Ordering::Relaxed);
            tally.slowest.fetch_max(ms, Ordering::Relaxed);
            if !order.summary {
                println!(
                    "{}",
                    json!({"n": number, "at": at, "result": "answer", "server": server, "client": client, "ms": ms})
                );
            }
        }
        Err(e) => {
            if order.fail_fast {
                tally.stop.store(true, Ordering::Relaxed);
            }
            println!(
                "{}",
                json!({"n": number, "at": at, "result": word(&e), "why": e.to_string(), "ms": ms})
            );
        }
    }
}

/// What an error is to a test.
fn word(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused",
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => "reset",
        // What an ICMP message says: no route, no port, forbidden.
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "unreachable",
        ErrorKind::PermissionDenied => "denied",
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "timeout",
        _ => "error",
    }
}

/// A connection or a socket.
enum Line {
    Tcp(TcpStream, BufReader<TcpStream>),
    Udp(UdpSocket),
    /// A kept connection that has failed.
    Broken,
}

impl Line {
    fn open(order: &Ask) -> io::Result<Self> {
        let limit = Duration::from_millis(order.timeout);
        let domain = Domain::for_address(order.target);
        let (kind, protocol) =
            if order.udp { (Type::DGRAM, Protocol::UDP) } else { (Type::STREAM, Protocol::TCP) };
        let socket = Socket::new(domain, kind, Some(protocol))?;
        if order.from.is_some() || order.from_port != 0 {
            let any: IpAddr = match order.target {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::new(order.from.unwrap_or(any), order.from_port).into())?;
        }
        if order.udp {
            socket.connect(&order.target.into())?;
            return Ok(Self::Udp(socket.into()));
        }
        socket.connect_timeout(&order.target.into(), limit)?;
        let stream: TcpStream = socket.into();
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream.try_clone()?, BufReader::new(stream)))
    }

    fn get(&mut self, order: &Ask, host: &str, number: u64) -> io::Result<http::Reply> {
        let Self::Tcp(write, read) = self else { return Err(io::Error::other("HTTP runs over TCP")) };
        read.get_ref().set_read_timeout(Some(Duration::from_millis(order.timeout)))?;
        http::get(write, read, host, &format!("/?{number}"), order.keep)
    }

    fn ask(&mut self, order: &Ask, number: u64) -> io::Result<String> {
        let limit = Duration::from_millis(order.timeout);
        match self {
            Self::Tcp(write, read) => {
                read.get_ref().set_read_timeout(Some(limit))?;
                write.write_all(format!("{number}\n").as_bytes())?;
                let mut answer = String::new();
                if read.read_line(&mut answer)? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                Ok(answer)
            }
            Self::Udp(socket) => {
                let end = Instant::now() + limit;
                socket.send(number.to_string().as_bytes())?;
                let mut buffer = [0; 2048];
                loop {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(ErrorKind::TimedOut.into());
                    }
                    socket.set_read_timeout(Some(left))?;
                    let length = socket.recv(&mut buffer)?;
                    let answer =
                        String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
                    // The answer to an earlier datagram came late.
                    if answer.split_whitespace().nth(2) == Some(&number.to_string()) {
                        return Ok(answer);
                    }
                }
            }
            Self::Broken => Err(io::Error::new(ErrorKind::ConnectionReset, "the connection failed before")),
        }
    }
}
