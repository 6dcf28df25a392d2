//! The ingress as a whole: threads, listening sockets, beginning and end.

use crate::bounds::Bounds;
use crate::decide::Peer;
use crate::error::{Broken, IngressError};
use crate::h1::io::Stream;
use crate::observe::Observer;
use crate::route::{Backend, RouteTable, Scheme};
use crate::standby::Standby;
use crate::tls;
use crate::worker::{Counted, Shared, Worker};
use crate::{front_h1, front_h2, proxy_header};
use ipnet::IpNet;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use warren_netlink::sockopt;

/// How often idle connections to endpoints are looked through.
const SWEEP: Duration = Duration::from_secs(5);
/// How long a listening socket rests after the process ran out of descriptors.
const REST: Duration = Duration::from_millis(50);

/// How long the kernel keeps a connection of which nothing has come: mostly the first request comes with the connection, and
/// is read without another turn of waiting. Who is silent for longer is bounded here.
const FIRST_BYTES: Duration = Duration::from_secs(1);

/// How many passwords each thread's helpers check at once.
const PASSWORDS_AT_ONCE: usize = 2;

/// A listening socket that the caller has made.
#[derive(Debug)]
pub struct Listener {
    /// The socket; it listens.
    pub socket: std::net::TcpListener,
    /// What is spoken there.
    pub scheme: Scheme,
    /// Peers whose connections must begin with a PROXY header; those of others must not.
    pub proxy_from: Vec<IpNet>,
}

/// How to serve.
#[derive(Default)]
pub struct Serving {
    /// Threads; one for each processor when 0.
    pub threads: usize,
    /// What clients and backends may take.
    pub bounds: Bounds,
    /// Peers that may say, in `X-Forwarded-For` and its like, for whom a request is.
    pub trusted: Vec<IpNet>,
    /// Who is told of each request.
    pub observer: Option<Arc<dyn Observer>>,
}

/// Counts since the beginning, and of this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Connections of clients, now.
    pub connections: usize,
    /// Connections that were turned away since there were too many, of all or of one client.
    pub turned_away: u64,
    /// Handshakes of TLS that came to nothing.
    pub handshakes_failed: u64,
    /// Requests that were refused since they were malformed or ambiguous.
    pub malformed: u64,
    /// Answers by route, and by hundred of their status: index 2 is 2xx.
    pub answers: Vec<(Arc<str>, [u64; 6])>,
}

/// An ingress that serves. When it is dropped it stops at once.
pub struct Ingress {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Closed when the last thread has ended.
    alive: mpsc::Receiver<()>,
}

/// Counts what an ingress does; it keeps nothing from ending.
#[derive(Clone)]
pub(crate) struct Meter(Arc<Shared>);

impl Meter {
    /// What was counted.
    pub(crate) fn figures(&self) -> Figures {
        figures(&self.0)
    }
}

impl Ingress {
    /// Begins to serve on these sockets by a table.
    pub fn start(
        config: Serving,
        listeners: Vec<Listener>,
        table: Arc<RouteTable>,
    ) -> Result<Self, IngressError> {
        let Serving { threads, bounds, trusted, observer } = config;
        let shared = Arc::new(Shared::new(bounds, trusted, observer, table));
        let count = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        };
        let acceptor = tls::acceptor(&shared).map_err(IngressError::Tls)?;
        let listeners: Vec<Arc<Listener>> = listeners.into_iter().map(Arc::new).collect();
        let (living, alive) = mpsc::channel(1);
        let mut ingress = Self { shared: shared.clone(), threads: Vec::new(), alive };
        for at in 0..count {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                // Passwords are checked there.
                .max_blocking_threads(PASSWORDS_AT_ONCE)
                .build()
                .map_err(IngressError::Thread)?;
            let mut own = Vec::new();
            for listener in &listeners {
                let _entered = runtime.enter();
                own.push((listener.clone(), listen(listener)?));
            }
            let worker = Arc::new(Worker::new(shared.clone(), seed()));
            let acceptor = acceptor.clone();
            let thread = std::thread::Builder::new()
                .name(format!("http-{at}"))
                .spawn({
                    let living = living.clone();
                    move || {
                        runtime.block_on(serve(worker, own, acceptor));
                        drop(living);
                    }
                })
                .map_err(IngressError::Thread)?;
            ingress.threads.push(thread);
        }
        Ok(ingress)
    }

    /// Serves new requests by another table; those under way keep theirs.
    pub fn swap(&self, table: Arc<RouteTable>) {
        self.shared.swap(table);
    }

    /// Backends of its table have other endpoints.
    pub(crate) fn renew(&self, backends: &[Arc<Backend>]) {
        self.shared.renew(backends);
    }

    /// What was counted.
    pub fn figures(&self) -> Figures {
        figures(&self.shared)
    }

    /// Whoever counts.
    pub(crate) fn meter(&self) -> Meter {
        Meter(self.shared.clone())
    }

    /// Takes no new connections, ends those that are idle, and lets requests that are under way come to their end within a
    /// budget. The listening sockets stay open for as long as the caller holds copies of them.
    pub async fn drain(mut self, budget: Duration) {
        self.shared.drain();
        if timeout(budget, self.alive.recv()).await.is_err() {
            tracing::info!(
                connections = self.figures().connections,
                "connections are ended after the budget"
            );
        }
    }
}

impl Drop for Ingress {
    fn drop(&mut self) {
        self.shared.end();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread for HTTP panicked");
            }
        }
    }
}

fn figures(shared: &Shared) -> Figures {
    let live = shared.live();
    let answers = live.table.routes().iter().zip(&live.routes).map(|(route, state)| {
        (route.name.clone(), std::array::from_fn(|at| state.answers[at].load(Relaxed)))
    });
    Figures {
        connections: shared.connections.load(Relaxed),
        turned_away: shared.turned_away.load(Relaxed),
        handshakes_failed: shared.handshakes_failed.load(Relaxed),
        malformed: shared.malformed.load(Relaxed),
        answers: answers.collect(),
    }
}

fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

fn listen(listener: &Listener) -> Result<TcpListener, IngressError> {
    let name = || listener.socket.local_addr().map_or("?".to_owned(), |address| address.to_string());
    let socket = listener.socket.try_clone().and_then(|socket| {
        socket.set_nonblocking(true)?;
        sockopt::defer_accept(&socket, FIRST_BYTES)?;
        // What is accepted inherits it.
        socket2::SockRef::from(&socket).set_tcp_nodelay(true)?;
        TcpListener::from_std(socket)
    });
    socket.map_err(|source| IngressError::Listener { name: name(), source })
}

/// One thread.
async fn serve(worker: Arc<Worker>, listeners: Vec<(Arc<Listener>, TcpListener)>, acceptor: TlsAcceptor) {
    let standby = Arc::new(Standby::new());
    for (listener, socket) in listeners {
        let accepting = accept(worker.clone(), standby.clone(), listener, socket, acceptor.clone());
        worker.spawn(accepting);
    }
    let sweeping = async {
        loop {
            tokio::time::sleep(SWEEP).await;
            worker.pool.sweep(&worker);
            worker.shared.tickets.tick();
        }
    };
    tokio::select! {
        () = sweeping => {}
        () = worker.shared.drained() => {}
    }
    worker.pool.close();
    standby.close();
    worker.tasks.close();
    tokio::select! {
        () = worker.tasks.wait() => {}
        () = worker.shared.stopped() => {}
    }
}

/// A connection that was accepted.
struct Arrival {
    stream: TcpStream,
    /// From where, and to where when that is known.
    ends: (SocketAddr, Option<SocketAddr>),
    listener: Arc<Listener>,
    acceptor: TlsAcceptor,
    counted: Counted,
}

/// Serves a connection, and others after it.
async fn attend(worker: Arc<Worker>, standby: Arc<Standby<Arrival>>, first: Arrival) {
    let mut next = Some(first);
    while let Some(Arrival { stream, ends, listener, acceptor, counted }) = next {
        connection(&worker, stream, ends, &listener, acceptor).await;
        drop((counted, listener));
        next = standby.next().await;
    }
}

async fn accept(
    worker: Arc<Worker>,
    standby: Arc<Standby<Arrival>>,
    listener: Arc<Listener>,
    socket: TcpListener,
    acceptor: TlsAcceptor,
) {
    // Where connections arrive, when it is one address.
    let bound = socket.local_addr().ok().filter(|address| !address.ip().is_unspecified());
    let mut drained = pin!(worker.shared.drained());
    loop {
        let accepted = tokio::select! {
            biased;
            () = drained.as_mut() => return,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let ip = address.ip().to_canonical();
                // Who speaks for others has as many as they all need.
                let mut proxies = listener.proxy_from.iter().chain(&worker.shared.trusted);
                let client = (!proxies.any(|range| range.contains(&ip))).then_some(ip);
                let Some(counted) = Counted::new(&worker.shared, client) else { continue };
                let (listener, acceptor) = (listener.clone(), acceptor.clone());
                let arrival = Arrival { stream, ends: (address, bound), listener, acceptor, counted };
                if let Some(arrival) = standby.hand(arrival) {
                    worker.spawn(attend(worker.clone(), standby.clone(), arrival));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted; is the limit of open files too low?");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// What few connections need, or need for a moment, is on the heap: an idle one is as large as the largest of its states.
async fn connection(
    worker: &Arc<Worker>,
    mut stream: TcpStream,
    (address, bound): (SocketAddr, Option<SocketAddr>),
    listener: &Listener,
    acceptor: TlsAcceptor,
) {
    let bounds = &worker.shared.bounds;
    let Some(local) = bound.or_else(|| stream.local_addr().ok()) else { return };
    let mut peer = Peer { address, local, scheme: listener.scheme, name: None };
    let ip = address.ip().to_canonical();
    if listener.proxy_from.iter().any(|range| range.contains(&ip)) {
        let read = Box::pin(timeout(bounds.handshake, proxy_header::read(&mut stream))).await;
        match read.map_err(|_| Broken::Slow) {
            Ok(Ok(Some((address, local)))) => (peer.address, peer.local) = (address, local),
            Ok(Ok(None)) => {}
            Ok(Err(broken)) | Err(broken) => {
                tracing::debug!(client = %address, %broken, "a connection without PROXY header was closed");
                return;
            }
        }
    }
    if listener.scheme == Scheme::Http {
        return front_h1::run(worker, Stream::Plain(stream), &peer).await;
    }
    let Some((stream, is_h2)) = Box::pin(secured(worker, stream, &mut peer, acceptor)).await else { return };
    match is_h2 {
        true => Box::pin(front_h2::run(worker, stream, Arc::new(peer))).await,
        false => front_h1::run(worker, stream, &peer).await,
    }
}

/// Takes a handshake. Says whether HTTP/2 is spoken from there on.
async fn secured(
    worker: &Worker,
    stream: TcpStream,
    peer: &mut Peer,
    acceptor: TlsAcceptor,
) -> Option<(Stream, bool)> {
    let stream = match timeout(worker.shared.bounds.handshake, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        failed => {
            worker.shared.handshakes_failed.fetch_add(1, Relaxed);
            let error = failed.err().map_or("malformed or refused", |_| "too slow");
            tracing::debug!(client = %peer.address, error, "a handshake came to nothing");
            return None;
        }
    };
    peer.name = stream.get_ref().1.server_name().map(|name| name.to_ascii_lowercase().into());
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Some((Stream::Tls(Box::new(stream)), is_h2))
}
