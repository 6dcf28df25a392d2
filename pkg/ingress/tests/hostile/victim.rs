//! The ingress in a process of its own, backends of all manners, and a client that is served meanwhile.

use crate::common::*;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use rustls::pki_types::CertificateDer;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use warren_ingress::route::*;
use warren_ingress::tls::{Certificates, certified};
use warren_ingress::{Bounds, Serving};

/// Says to the test program that it is to serve: where the backend is, and whether its patience is short.
const SERVE: &str = "WARREN_TEST_HOSTILE";

/// What a request asks of the backend is in its path: `/hold` is never answered, `/drip` gets a head and one byte, `/big` an
/// answer without an end, `/deaf` is not read beyond its head, `/large` is
/// answered by 20,000 bytes, `/socket` switches to a WebSocket and sends 300,000 bytes. All else is read and answered.
#[derive(Clone)]
pub(crate) struct Manners {
    pub(crate) address: SocketAddr,
    /// Connections on which something is held, now and at most, and requests of all times.
    pub(crate) held: Arc<AtomicUsize>,
    pub(crate) peak: Arc<AtomicUsize>,
    pub(crate) asked: Arc<AtomicUsize>,
    hears: Arc<(Mutex<bool>, Condvar)>,
}

impl Manners {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let manners = Self {
            address: listener.local_addr().unwrap(),
            held: Arc::default(),
            peak: Arc::default(),
            asked: Arc::default(),
            hears: Arc::default(),
        };
        let kept = manners.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let manners = kept.clone();
                std::thread::spawn(move || manners.converse(stream.unwrap()));
            }
        });
        manners
    }

    /// Has what was not read until now read.
    pub(crate) fn hear(&self) {
        *self.hears.0.lock().unwrap() = true;
        self.hears.1.notify_all();
    }

    fn converse(&self, mut stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        loop {
            let head = read_head(&mut reader)?;
            let path = head.line.split(' ').nth(1)?.to_owned();
            if ["/hold", "/drip", "/big", "/deaf", "/socket"].contains(&&*path) {
                self.asked.fetch_add(1, SeqCst);
                self.peak.fetch_max(self.held.fetch_add(1, SeqCst) + 1, SeqCst);
                if path == "/socket" {
                    let key =
                        head.header("sec-websocket-key")?.to_owned() + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
                    let accept = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, key.as_bytes()));
                    let switch = "HTTP/1.1 101 \r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ";
                    stream.write_all(format!("{switch}{accept}\r\n\r\n").as_bytes()).ok()?;
                }
                hold(&path, &mut reader, &mut stream, &self.hears);
                self.held.fetch_sub(1, SeqCst);
                return None;
            }
            read_body(&mut reader, head)?;
            let body = if path == "/large" { "x".repeat(20_000) } else { "hello".to_owned() };
            stream.write_all(&ok(&body)).ok()?;
        }
    }
}

/// Returns when the ingress has closed.
fn hold(path: &str, reader: &mut impl Read, stream: &mut TcpStream, hears: &(Mutex<bool>, Condvar)) {
    let chunk = |size: usize| format!("{size:x}\r\n{}\r\n", "x".repeat(size));
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    match path {
        "/drip" => drop(stream.write_all((head.to_owned() + &chunk(1)).as_bytes())),
        "/big" => {
            let chunk = chunk(60_000);
            let mut written = stream.write_all(head.as_bytes());
            while written.is_ok() {
                written = stream.write_all(chunk.as_bytes());
            }
        }
        "/socket" => drop(stream.write_all(&[0x82; 300_000])),
        "/deaf" => drop(hears.1.wait_while(hears.0.lock().unwrap(), |hears| !*hears)),
        _ => {}
    }
    let _ = std::io::copy(reader, &mut std::io::sink());
}

/// A process that serves.
pub(crate) struct Victim {
    process: Child,
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) manners: Manners,
    before: usize,
}

impl Victim {
    /// With the bounds that are served by.
    pub(crate) fn start() -> Self {
        Self::with("default")
    }

    /// With a patience of two seconds.
    pub(crate) fn impatient() -> Self {
        Self::with("impatient")
    }

    /// With a backend that is spoken to by HTTP/2, so that all clients share one connection to it.
    pub(crate) fn before_h2c(address: SocketAddr) -> Self {
        let manners = Manners { address, ..Manners::start() };
        Self::serving(manners, "h2c")
    }

    fn with(bounds: &str) -> Self {
        Self::serving(Manners::start(), bounds)
    }

    fn serving(manners: Manners, bounds: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim::serves", "--nocapture"])
            .env(SERVE, format!("{} {bounds}", manners.address))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = lines.map(Result::unwrap).find_map(|line| Some(line.split_once("SERVES ")?.1.to_owned()));
        let line = line.unwrap();
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap();
        let (plain, tls) = (word().parse().unwrap(), word().parse().unwrap());
        let hex = word();
        let der = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
        let certificate = CertificateDer::from(der.collect::<Vec<u8>>());
        let mut victim = Self { process, plain, tls, certificate, manners, before: 0 };
        // What is made once is made by the first.
        assert_eq!(Client::connect(plain).ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n").body, b"hello");
        victim.before = victim.memory("VmRSS");
        victim
    }

    /// KiB.
    fn memory(&self, what: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(what)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Asserts that it never held more than so many MiB beyond what it held at first.
    pub(crate) fn held_at_most(&self, mib: usize) {
        let grown = self.memory("VmHWM").saturating_sub(self.before);
        println!("memory grew by {grown} KiB at most, from {} KiB", self.before);
        assert!(grown <= mib << 10, "{grown} KiB, but {mib} MiB are allowed");
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// No test: what the process of its own does.
#[test]
fn serves() {
    let Ok(told) = std::env::var(SERVE) else { return };
    let (address, manner) = told.split_once(' ').unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["example.org".to_owned()]).unwrap();
    let key = certified(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes()).unwrap();
    let mut certificates = Certificates::default();
    certificates.set_default(key);
    let protocol = if manner == "h2c" { Protocol::H2c } else { Protocol::Http1 };
    let backend = Backend { protocol, ..backend(&[address.parse().unwrap()]) };
    let route = Arc::new(Route::new("route", Action::Forward(forward(backend))));
    let mut builder = RouteTable::builder();
    builder.route(Match::new(HostMatch::Any, PathMatch::Prefix("/".into())), &route);
    builder.certificates(certificates);
    let bounds = match manner {
        // Longer than a busy machine may keep the neighbour from its next request.
        "impatient" => patience(Duration::from_secs(2)),
        _ => Bounds::default(),
    };
    let front = Front::start(Serving { bounds, ..config() }, builder.build());
    let hex: String = made.cert.der().iter().map(|byte| format!("{byte:02x}")).collect();
    println!("SERVES {} {} {hex}", front.address, front.tls);
    // Until the test has ended, however it did.
    let _ = std::io::stdin().read(&mut [0]);
}

/// Asks without an end, now on a connection that it keeps, now on a new one.
pub(crate) struct Neighbour {
    stop: Sender<()>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// How long each took.
    took: Arc<Mutex<Vec<Duration>>>,
}

impl Neighbour {
    pub(crate) fn of(victim: &Victim) -> Self {
        let (stop, stopped) = std::sync::mpsc::channel();
        let took = Arc::<Mutex<Vec<Duration>>>::default();
        let (times, address) = (took.clone(), victim.plain);
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(Duration::from_millis(1)) == Err(RecvTimeoutError::Timeout) {
                let mut client = Client::connect(address);
                for _ in 0..2 {
                    let begun = Instant::now();
                    let answer = client.ask("GET / HTTP/1.1\r\nHost: example.org\r\n\r\n");
                    assert_eq!((&*answer.line, &*answer.body), ("HTTP/1.1 200 OK", &b"hello"[..]));
                    times.lock().unwrap().push(begun.elapsed());
                }
            }
        });
        Self { stop, thread: Some(thread), took }
    }

    /// Asserts that it was served all the time, and is once more after all that was done.
    pub(crate) fn was_served(self) {
        self.was_served_times(2);
    }

    /// Asserts that it was served all the time, and still is.
    pub(crate) fn was_served_often(self) {
        self.was_served_times(500);
    }

    fn was_served_times(mut self, more: usize) {
        let before = self.took.lock().unwrap().len();
        until("the neighbour is served", || self.took.lock().unwrap().len() > before + more);
        self.stop.send(()).unwrap();
        self.thread.take().unwrap().join().unwrap();
        let took = self.took.lock().unwrap();
        let worst = took.iter().max().unwrap();
        println!("{} requests of others meanwhile, the slowest took {worst:?}", took.len());
        assert!(*worst < Duration::from_secs(10), "{worst:?}");
    }
}

/// Sends a byte every 50 ms until the other side has closed. Says after how long.
pub(crate) fn trickle(mut stream: &TcpStream, mut bytes: impl Iterator<Item = u8>) -> Duration {
    let begun = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    while begun.elapsed() < Duration::from_secs(10) && stream.write_all(&[bytes.next().unwrap()]).is_ok() {
        match stream.read(&mut [0; 4096]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            // What it says before it closes.
            Ok(1..) => {}
            Ok(0) | Err(_) => break,
        }
    }
    begun.elapsed()
}
