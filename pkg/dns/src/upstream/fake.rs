//! Fake upstreams on loopback, for tests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use super::address::Address;

/// What came, and how.
pub(crate) struct Query<'q> {
    pub(crate) bytes: &'q [u8],
    /// How many came before.
    pub(crate) nth: usize,
    pub(crate) stream: bool,
}

/// Replies, each after a time; none closes a stream.
pub(crate) type Replies = Vec<(Duration, Vec<u8>)>;

type Handler = Arc<dyn Fn(Query<'_>) -> Replies + Send + Sync>;

/// A server that answers as it is told to, until it is dropped.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    count: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

impl Fake {
    pub(crate) async fn start(handler: impl Fn(Query<'_>) -> Replies + Send + Sync + 'static) -> Self {
        // An address of its own: nobody takes its port when it has stopped.
        static LAST: AtomicU16 = AtomicU16::new(0);
        let [high, low] = LAST.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        Self::start_at(([127, 1, high, low], 0).into(), handler).await
    }

    pub(crate) async fn start_at(
        at: SocketAddr,
        handler: impl Fn(Query<'_>) -> Replies + Send + Sync + 'static,
    ) -> Self {
        // Another program may have the port for TCP.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind(at).await.unwrap();
            match TcpListener::bind(udp.local_addr().unwrap()).await {
                Ok(tcp) => break (udp, tcp),
                Err(error) if at.port() != 0 => panic!("{error}"),
                Err(_) => {}
            }
        };
        let address = udp.local_addr().unwrap();
        let count = Arc::<AtomicUsize>::default();
        let handler: Handler = Arc::new(handler);
        let mut tasks = JoinSet::new();
        tasks.spawn(datagrams(Arc::new(udp), Arc::clone(&handler), Arc::clone(&count)));
        let counted = Arc::clone(&count);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = tcp.accept().await.unwrap();
                connections.spawn(messages(stream, Arc::clone(&handler), Arc::clone(&counted)));
            }
        });
        Self { address, count, tasks }
    }

    /// One that speaks TLS with this configuration.
    pub(crate) async fn start_tls(
        config: rustls::ServerConfig,
        connections: Arc<AtomicUsize>,
        handler: impl Fn(Query<'_>) -> Replies + Send + Sync + 'static,
    ) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let (count, handler): (Arc<AtomicUsize>, Handler) = (Arc::default(), Arc::new(handler));
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let mut tasks = JoinSet::new();
        let counted = Arc::clone(&count);
        tasks.spawn(async move {
            let mut running = JoinSet::new();
            loop {
                let (stream, _) = tcp.accept().await.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                let (acceptor, handler, counted) =
                    (acceptor.clone(), Arc::clone(&handler), Arc::clone(&counted));
                running.spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        messages(stream, handler, counted).await;
                    }
                });
            }
        });
        Self { address, count, tasks }
    }

    pub(crate) fn upstream(&self) -> Address {
        self.address.to_string().parse().unwrap()
    }

    /// How many queries came.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Ends it, and waits until its sockets are closed.
    pub(crate) async fn stop(mut self) -> SocketAddr {
        self.tasks.shutdown().await;
        self.address
    }
}

async fn datagrams(udp: Arc<UdpSocket>, handler: Handler, count: Arc<AtomicUsize>) {
    let mut buffer = [0; 1_500];
    let mut later = JoinSet::new();
    loop {
        // An error is "port unreachable" of a client that is gone.
        let Ok((length, client)) = udp.recv_from(&mut buffer).await else { continue };
        let nth = count.fetch_add(1, Ordering::SeqCst);
        for (after, reply) in handler(Query { bytes: &buffer[..length], nth, stream: false }) {
            let udp = Arc::clone(&udp);
            later.spawn(async move {
                tokio::time::sleep(after).await;
                let _ = udp.send_to(&reply, client).await;
            });
        }
    }
}

async fn messages(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    handler: Handler,
    count: Arc<AtomicUsize>,
) {
    while let Ok(length) = stream.read_u16().await {
        let mut query = vec![0; usize::from(length)];
        if stream.read_exact(&mut query).await.is_err() {
            return;
        }
        let nth = count.fetch_add(1, Ordering::SeqCst);
        let replies = handler(Query { bytes: &query, nth, stream: true });
        if replies.is_empty() {
            return;
        }
        for (after, reply) in replies {
            tokio::time::sleep(after).await;
            let length = u16::try_from(reply.len()).unwrap();
            if stream.write_all(&[&length.to_be_bytes()[..], &reply].concat()).await.is_err() {
                return;
            }
        }
    }
}
