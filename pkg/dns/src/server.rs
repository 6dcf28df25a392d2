//! Packets in, packets out.
//!
//! UDP has threads of its own, so that nothing else that the agent does stands between a question and its answer. What has to
//! wait for others, and TCP, is the agent's runtime's.

use crate::desk::{Desk, Handled};
use crate::limits::Shares;
use crate::sockets::{Kind, Sockets};
use crate::wire::Transport;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};
use socket2::Socket;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener as StdTcpListener, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// More threads than that do not help: the kernel's queue of a socket is one.
const THREADS_MAX: usize = 4;
/// Longer packets are no questions.
const LONGEST_QUESTION: usize = 4_096;
/// So many questions of a socket are read at once, and answered before other sockets get a turn.
const TURN: usize = 32;
/// What the event of the end is known by.
const STOP: u64 = u64::MAX;
/// Sends no packets, and is sent none.
const NOBODY: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
/// A connection of TCP may be idle, or slow, for so long (RFC 7766 section 6.2.3 wants a few seconds).
const IDLE: Duration = Duration::from_secs(2);
/// Connections of TCP at once, of all and of one client.
const CONNECTIONS: usize = 512;
const CONNECTIONS_EACH: usize = 32;

/// A server that runs until it is dropped, or stopped.
#[derive(Debug)]
pub(crate) struct Server {
    stop: Arc<EventFd>,
    threads: Vec<JoinHandle<()>>,
    listeners: JoinSet<()>,
}

impl Server {
    /// Starts to serve the sockets.
    pub(crate) fn start(desk: &Arc<Desk>, sockets: &Sockets) -> io::Result<Self> {
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let mut server = Self { stop: Arc::new(stop), threads: Vec::new(), listeners: JoinSet::new() };
        let of =
            |kind| sockets.0.iter().filter(move |(place, _)| place.kind == kind).map(|(_, socket)| socket);
        let udp: Vec<&Arc<Socket>> = of(Kind::Udp).collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        for number in 0..threads {
            let sockets: Vec<Arc<UdpSocket>> = udp
                .iter()
                .map(|socket| Ok(Arc::new(socket.try_clone()?.into())))
                .collect::<io::Result<_>>()?;
            let (desk, stop, others) = (Arc::clone(desk), Arc::clone(&server.stop), Handle::current());
            let thread = std::thread::Builder::new().name(format!("dns-{number}"));
            server.threads.push(thread.spawn(move || {
                if let Err(error) = serve(&desk, &sockets, &others, &stop) {
                    tracing::error!(%error, "DNS sockets cannot be served");
                }
            })?);
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
        self.end();
        let threads = std::mem::take(&mut self.threads);
        let ended = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join())));
        let _ = ended.await;
    }

    /// Lets the threads end. It stays readable, for each of them.
    fn end(&self) {
        let _ = self.stop.write(1);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// Answers what comes on the sockets until `stop` can be read.
fn serve(desk: &Arc<Desk>, sockets: &[Arc<UdpSocket>], others: &Handle, stop: &EventFd) -> io::Result<()> {
    let poll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    poll.add(stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
    for (number, socket) in (0..).zip(sockets) {
        // A packet wakes one thread, not all.
        let events = EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE;
        poll.add(socket, EpollEvent::new(events, number))?;
    }
    // One for each socket: the kernel notes the length of its addresses in it.
    let mut batches: Vec<Batch> = sockets.iter().map(|_| Batch::new()).collect();
    let mut out = Vec::with_capacity(LONGEST_QUESTION);
    let mut events = [EpollEvent::empty(); 8];
    loop {
        let count = match poll.wait(&mut events, EpollTimeout::NONE) {
            Ok(count) => count,
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let ready = events.get(..count).unwrap_or_default();
        if ready.iter().any(|event| event.data() == STOP) {
            return Ok(());
        }
        for event in ready {
            let number = usize::try_from(event.data()).unwrap_or(usize::MAX);
            if let (Some(socket), Some(batch)) = (sockets.get(number), batches.get_mut(number)) {
                // All that is read is answered before anything else is looked at, a stop too.
                for (question, from) in batch.receive(socket) {
                    respond(desk, socket, others, question, from, &mut out);
                }
            }
        }
    }
}

fn respond(
    desk: &Arc<Desk>,
    socket: &Arc<UdpSocket>,
    others: &Handle,
    question: &[u8],
    from: SocketAddr,
    out: &mut Vec<u8>,
) {
    match desk.handle(question, from.ip(), Transport::Udp, out) {
        Handled::Answered => send(socket, out, from),
        Handled::Silent => {}
        Handled::Waits(outcome) => {
            let Ok(place) = Arc::clone(&desk.waiting).try_acquire_owned() else {
                desk.figures.dropped.add();
                return;
            };
            let (desk, socket, question) = (Arc::clone(desk), Arc::clone(socket), question.to_vec());
            others.spawn(async move {
                let mut out = Vec::new();
                desk.finish(&question, from.ip(), Transport::Udp, outcome, &mut out).await;
                send(&socket, &out, from);
                drop(place);
            });
        }
    }
}

/// Room for questions that are read at once.
struct Batch {
    headers: MultiHeaders<SockaddrStorage>,
    packets: Vec<u8>,
    read: Vec<(usize, SocketAddr)>,
}

impl Batch {
    fn new() -> Self {
        Self {
            headers: MultiHeaders::preallocate(TURN, None),
            packets: vec![0; TURN * LONGEST_QUESTION],
            read: Vec::with_capacity(TURN),
        }
    }

    /// Takes what is there, and who sent it.
    fn receive(&mut self, socket: &UdpSocket) -> impl Iterator<Item = (&[u8], SocketAddr)> {
        self.read.clear();
        let mut packets = self.packets.chunks_mut(LONGEST_QUESTION);
        let mut slices: [_; TURN] =
            std::array::from_fn(|_| [IoSliceMut::new(packets.next().unwrap_or_default())]);
        let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        // Errors are of earlier answers whose clients are gone; or another thread was faster.
        if let Ok(messages) = recvmmsg(fd, &mut self.headers, &mut slices, flags, None) {
            let noted = messages.map(|message| (message.bytes, message.address.as_ref().and_then(address)));
            self.read.extend(noted.map(|(length, from)| (length, from.unwrap_or(NOBODY))));
        }
        let packets = self.packets.chunks(LONGEST_QUESTION);
        packets
            .zip(&self.read)
            .map(|(packet, &(length, from))| (packet.get(..length).unwrap_or_default(), from))
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::V4((*v4).into()));
    }
    storage.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into()))
}

/// A packet that does not go out now is lost, like one that the network loses: clients ask again.
fn send(socket: &UdpSocket, out: &[u8], to: SocketAddr) {
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
