//! Packets in, packets out.
//!
//! UDP has threads of its own, so that nothing else that the agent does stands between a question and its answer. What has to
//! wait for others, and TCP, is the agent's runtime's.

use crate::desk::{Desk, Handled};
use crate::limits::Shares;
use crate::sockets::{Kind, Sockets};
use crate::wire::Transport;
use socket2::Socket;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// More threads than that do not help: the kernel's queue of a socket is one.
const THREADS_MAX: usize = 4;
/// Longer packets are no questions.
const LONGEST_QUESTION: usize = 4_096;
/// So many questions are answered before others get a turn.
const TURN: usize = 64;
/// A connection of TCP may be idle, or slow, for so long (RFC 7766 section 6.2.3 wants a few seconds).
const IDLE: Duration = Duration::from_secs(2);
/// Connections of TCP at once, of all and of one client.
const CONNECTIONS: usize = 512;
const CONNECTIONS_EACH: usize = 32;

/// A server that runs until it is dropped, or stopped.
#[derive(Debug)]
pub(crate) struct Server {
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
    listeners: JoinSet<()>,
}

impl Server {
    /// Starts to serve the sockets.
    pub(crate) fn start(desk: &Arc<Desk>, sockets: &Sockets) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let mut server = Self { stop, threads: Vec::new(), listeners: JoinSet::new() };
        let of =
            |kind| sockets.0.iter().filter(move |(place, _)| place.kind == kind).map(|(_, socket)| socket);
        let udp: Vec<&Arc<Socket>> = of(Kind::Udp).collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        for number in 0..threads {
            let sockets: Vec<StdUdpSocket> =
                udp.iter().map(|socket| Ok(socket.try_clone()?.into())).collect::<io::Result<_>>()?;
            let (desk, stop, others) = (Arc::clone(desk), server.stop.clone(), Handle::current());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            let thread = std::thread::Builder::new().name(format!("dns-{number}"));
            server
                .threads
                .push(thread.spawn(move || runtime.block_on(serve_all(desk, sockets, others, stop)))?);
        }
        let (places, shares) =
            (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Shares::new(CONNECTIONS_EACH)));
        for socket in of(Kind::Tcp) {
            let listener = TcpListener::from_std(StdTcpListener::from(socket.try_clone()?))?;
            let (desk, places, shares) = (Arc::clone(desk), Arc::clone(&places), Arc::clone(&shares));
            server.listeners.spawn(accept(desk, listener, places, shares));
        }
        Ok(server)
    }

    /// Stops to take questions, and returns when those that were taken are answered or handed on.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        let threads = std::mem::take(&mut self.threads);
        let ended = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join())));
        let _ = ended.await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve_all(desk: Arc<Desk>, sockets: Vec<StdUdpSocket>, others: Handle, stop: CancellationToken) {
    let mut tasks = JoinSet::new();
    for socket in sockets {
        let (desk, others, stop) = (Arc::clone(&desk), others.clone(), stop.clone());
        tasks.spawn(async move {
            if let Err(error) = serve(desk, socket, others, stop).await {
                tracing::error!(%error, "a DNS socket cannot be served");
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

async fn serve(
    desk: Arc<Desk>,
    socket: StdUdpSocket,
    others: Handle,
    stop: CancellationToken,
) -> io::Result<()> {
    let reply = Arc::new(socket.try_clone()?);
    let socket = UdpSocket::from_std(socket)?;
    let mut packet = vec![0; LONGEST_QUESTION];
    let mut out = Vec::with_capacity(LONGEST_QUESTION);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            ready = socket.readable() => ready?,
        }
        for _ in 0..TURN {
            // Errors here are of earlier answers whose clients are gone; or there is nothing more.
            let Ok((length, from)) = socket.try_recv_from(&mut packet) else { break };
            let question = packet.get(..length).unwrap_or_default();
            match desk.handle(question, from.ip(), Transport::Udp, &mut out) {
                Handled::Answered => send(&reply, &out, from),
                Handled::Silent => {}
                Handled::Waits(outcome) => {
                    let Ok(place) = Arc::clone(&desk.waiting).try_acquire_owned() else {
                        desk.figures.dropped.add();
                        continue;
                    };
                    let (desk, reply, question) = (Arc::clone(&desk), Arc::clone(&reply), question.to_vec());
                    others.spawn(async move {
                        let mut out = Vec::new();
                        desk.finish(&question, from.ip(), Transport::Udp, outcome, &mut out).await;
                        send(&reply, &out, from);
                        drop(place);
                    });
                }
            }
        }
    }
}

/// A packet that does not go out now is lost, like one that the network loses: clients ask again.
fn send(socket: &StdUdpSocket, out: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(out, to) {
        tracing::debug!(%error, %to, "an answer could not be sent");
    }
}

async fn accept(desk: Arc<Desk>, listener: TcpListener, places: Arc<Semaphore>, shares: Arc<Shares>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a DNS connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (desk, shares) = (Arc::clone(&desk), Arc::clone(&shares));
        connections.spawn(async move {
            if let Some(_share) = shares.take(desk.teller(from.ip())) {
                // Clients come and go as they like.
                let _ = converse(&desk, stream, from).await;
            }
            drop(place);
        });
    }
}

/// Questions and answers, one after the other, until the client is silent for too long.
async fn converse(desk: &Desk, mut stream: TcpStream, from: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut question, mut out) = (Vec::new(), Vec::new());
    loop {
        let read = async {
            let length = usize::from(stream.read_u16().await?);
            if length > LONGEST_QUESTION {
                return Err(io::ErrorKind::InvalidData.into());
            }
            question.resize(length, 0);
            stream.read_exact(&mut question).await.map(drop)
        };
        timeout(IDLE, read).await??;
        match desk.handle(&question, from.ip(), Transport::Tcp, &mut out) {
            Handled::Answered => {}
            Handled::Silent => return Ok(()),
            Handled::Waits(outcome) => {
                desk.finish(&question, from.ip(), Transport::Tcp, outcome, &mut out).await
            }
        }
        let length = u16::try_from(out.len()).map_err(io::Error::other)?;
        out.splice(0..0, length.to_be_bytes());
        timeout(IDLE, stream.write_all(&out)).await??;
    }
}
