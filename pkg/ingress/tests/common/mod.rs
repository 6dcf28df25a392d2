//! An ingress over loopback, with backends that say what they saw and clients that send any bytes.
#![allow(dead_code, reason = "not every program of tests uses all of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is not as it must be"
)]

pub(crate) mod secure;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use warren_ingress::route::*;
use warren_ingress::{Bounds, Ingress, Listener, Serving};

pub(crate) type Answer = dyn Fn(&Seen) -> Vec<u8> + Send + Sync;

/// A request as a backend read it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// An address at which nobody listens, and that nobody else is given while this lives: a socket that is
/// bound and does not listen. A port that was only free a moment ago may be another test's by now.
pub(crate) struct Unreachable {
    pub(crate) address: SocketAddr,
    _socket: tokio::net::TcpSocket,
}

impl Unreachable {
    pub(crate) fn new() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Self { address: socket.local_addr().unwrap(), _socket: socket }
    }
}

/// A backend of other make: it reads lines and believes every header.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    pub(crate) connections: Arc<AtomicUsize>,
}

impl Origin {
    pub(crate) fn start(answer: impl Fn(&Seen) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", answer)
    }

    pub(crate) fn start_at(place: &str, answer: impl Fn(&Seen) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(place).unwrap();
        let origin = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            connections: Arc::default(),
        };
        let (seen, connections) = (origin.seen.clone(), origin.connections.clone());
        let answer: Arc<Answer> = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                connections.fetch_add(1, Ordering::SeqCst);
                let (seen, answer) = (seen.clone(), answer.clone());
                std::thread::spawn(move || Self::converse(stream.unwrap(), &seen, &*answer));
            }
        });
        origin
    }

    /// Says `hello` to everybody.
    pub(crate) fn hello() -> Self {
        Self::start(|_| ok("hello"))
    }

    fn converse(stream: TcpStream, seen: &Mutex<Vec<Seen>>, answer: &Answer) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut writer = stream;
        while let Some(request) = read_message(&mut reader) {
            seen.lock().unwrap().push(request.clone());
            let answer = answer(&request);
            writer.write_all(&answer).ok()?;
            if answer.is_empty() || String::from_utf8_lossy(&answer).contains("connection: close") {
                break;
            }
        }
        Some(())
    }

    pub(crate) fn last(&self) -> Seen {
        self.seen.lock().unwrap().last().cloned().expect("a request")
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

/// Reads a message, request or answer.
pub(crate) fn read_message(reader: &mut impl BufRead) -> Option<Seen> {
    let head = read_head(reader)?;
    read_body(reader, head)
}

/// Reads the head of a message.
pub(crate) fn read_head(reader: &mut impl BufRead) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let headers = read_headers(reader)?;
    Some(Seen { line: line.trim_end().to_owned(), headers, body: Vec::new() })
}

/// Reads the body of a message whose head was read.
pub(crate) fn read_body(reader: &mut impl BufRead, mut seen: Seen) -> Option<Seen> {
    if seen.header("transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok().filter(|count| *count > 0)?;
            let size = usize::from_str_radix(size.trim_end(), 16).ok()?;
            if size == 0 {
                seen.headers.extend(read_headers(reader)?);
                break;
            }
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            seen.body.extend_from_slice(&chunk[..size]);
        }
    } else if let Some(length) = seen.header("content-length") {
        let mut body = vec![0; length.parse().ok()?];
        reader.read_exact(&mut body).ok()?;
        seen.body = body;
    } else if seen.line.starts_with("HTTP/") && seen.header("connection") == Some("close") {
        reader.read_to_end(&mut seen.body).ok()?;
    }
    Some(seen)
}

fn read_headers(reader: &mut impl BufRead) -> Option<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        let line = line.trim_end();
        let Some((name, value)) = line.split_once(':') else { return Some(headers) };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

pub(crate) fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// An ingress on a port of its own.
pub(crate) struct Front {
    pub(crate) ingress: Ingress,
    pub(crate) address: SocketAddr,
    pub(crate) tls: SocketAddr,
}

pub(crate) fn config() -> Serving {
    Serving { threads: 1, ..Serving::default() }
}

/// Bounds that a test can wait for: this much for whatever a client has to do.
pub(crate) fn patience(limit: Duration) -> Bounds {
    Bounds {
        head: limit,
        first_byte: limit,
        idle: limit,
        handshake: limit,
        body: limit,
        linger: limit,
        ..Bounds::default()
    }
}

impl Front {
    pub(crate) fn start(config: Serving, table: RouteTable) -> Self {
        Self::with_proxy(config, table, Vec::new())
    }

    pub(crate) fn with_proxy(config: Serving, table: RouteTable, proxy_from: Vec<ipnet::IpNet>) -> Self {
        let (plain, tls) =
            (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let (address, tls_address) = (plain.local_addr().unwrap(), tls.local_addr().unwrap());
        let listeners = vec![
            Listener { socket: plain, scheme: Scheme::Http, proxy_from },
            Listener { socket: tls, scheme: Scheme::Https, proxy_from: Vec::new() },
        ];
        let ingress = Ingress::start(config, listeners, Arc::new(table)).unwrap();
        Self { ingress, address, tls: tls_address }
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// Sends bytes on a connection of their own, and reads until it is closed.
    pub(crate) fn raw(&self, bytes: &[u8]) -> String {
        let mut client = self.connect();
        let _ = client.stream.write_all(bytes);
        let mut all = Vec::new();
        let _ = client.reader.read_to_end(&mut all);
        String::from_utf8_lossy(&all).into_owned()
    }

    /// A GET.
    pub(crate) fn get(&self, path: &str) -> Seen {
        self.connect().ask(&format!("GET {path} HTTP/1.1\r\nHost: example.org\r\n\r\n"))
    }
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) reader: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    pub(crate) fn answer(&mut self) -> Seen {
        read_message(&mut self.reader).expect("an answer")
    }

    pub(crate) fn ask(&mut self, request: &str) -> Seen {
        self.send(request);
        self.answer()
    }
}

pub(crate) fn backend(endpoints: &[SocketAddr]) -> Backend {
    let ready = |address: &SocketAddr| Endpoint { address: *address, readiness: Readiness::Ready };
    let endpoints: Vec<Endpoint> = endpoints.iter().map(ready).collect();
    Backend { name: "backend".into(), endpoints: endpoints.into(), ..Backend::default() }
}

pub(crate) fn forward(backend: Backend) -> Forward {
    let backends = vec![Weighted { weight: 1, backend: Arc::new(backend) }];
    Forward { backends, ..Forward::default() }
}

/// Everything to one backend.
pub(crate) fn table_to(backend: Backend) -> RouteTable {
    table_of(Route::new("route", Action::Forward(forward(backend))))
}

/// Everything by one route.
pub(crate) fn table_of(route: Route) -> RouteTable {
    let mut builder = RouteTable::builder();
    builder.route(Match::new(HostMatch::Any, PathMatch::Prefix("/".into())), &Arc::new(route));
    builder.build()
}

/// Everything to one origin.
pub(crate) fn to(origin: &Origin) -> Front {
    Front::start(config(), table_to(backend(&[origin.address])))
}

/// Waits until something holds, which it does soon.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::yield_now();
    }
}
