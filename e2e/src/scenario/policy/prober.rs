//! Many questions at once from one place: a thread in its network namespace that lives as long as the test.

use crate::{netns, patient};
use anyhow::{Context as _, Result};
use futures::future::join_all;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// How a question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum By {
    /// A connection of TCP.
    Tcp,
    /// A datagram.
    Udp,
    /// A datagram that asks a server of DNS.
    Dns,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// An answer: who gave it, and as whom it saw the asker, where a datagram says so.
    Answer(String, Option<IpAddr>),
    /// Nothing came.
    Silence,
    /// Something else, which no policy may do.
    Other(String),
}

/// A question.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) at: SocketAddr,
    pub(super) by: By,
    /// Whether an answer is expected: then it is awaited for longer, and not too many are under way at a time, since a machine
    /// with other work would be late with some. Questions that nobody should hear cost their silence, all of them together.
    pub(super) answered: bool,
}

/// So many questions that expect an answer are under way at a time.
const UNDER_WAY: usize = 16;
/// A question that goes unanswered for so long was denied.
const SILENCE: Duration = Duration::from_millis(300);
/// As long is an answer awaited that should come.
const ANSWER: Duration = Duration::from_millis(500);

/// Asks in a network namespace until it is dropped.
pub(super) struct Prober {
    orders: Sender<Vec<Target>>,
    answers: Receiver<Vec<Seen>>,
}

impl Prober {
    /// Starts to wait for orders in the namespace at `path`.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub(super) fn start(path: &Path) -> Result<Self> {
        let (orders, incoming) = channel::<Vec<Target>>();
        let (outgoing, answers) = channel();
        netns::spawn(path, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            while let Ok(targets) = incoming.recv() {
                let limit = Semaphore::new(UNDER_WAY);
                let asking = targets.into_iter().map(|target| ask(target, &limit));
                if outgoing.send(runtime.block_on(join_all(asking))).is_err() {
                    break;
                }
            }
            Ok(())
        })?;
        Ok(Self { orders, answers })
    }

    /// Asks all of these.
    ///
    /// # Errors
    /// When the thread has ended.
    pub(super) fn order(&self, targets: Vec<Target>) -> Result<()> {
        self.orders.send(targets).ok().context("the prober has ended")
    }

    /// What came of the last order.
    ///
    /// # Errors
    /// When the thread has ended.
    pub(super) fn answers(&self) -> Result<Vec<Seen>> {
        self.answers.recv().context("the prober has ended")
    }
}

async fn ask(target: Target, under_way: &Semaphore) -> Seen {
    let Target { at, by, answered } = target;
    // Nobody closes it.
    let _turn = if answered { under_way.acquire().await.ok() } else { None };
    let asked = async {
        match by {
            By::Tcp => tcp(at).await,
            By::Udp => udp(at, b"?").await,
            By::Dns => udp(at, QUESTION).await.map(|_| String::new()),
        }
    };
    match tokio::time::timeout(patient(if answered { ANSWER } else { SILENCE }), asked).await {
        Err(_) => Seen::Silence,
        Ok(Err(error)) => Seen::Other(error.to_string()),
        Ok(Ok(text)) => {
            let mut words = text.split_whitespace();
            let name = words.next().unwrap_or_default().to_owned();
            let client = words.next().and_then(|w| w.parse::<SocketAddr>().ok()).map(|peer| peer.ip());
            Seen::Answer(name, client)
        }
    }
}

/// That there is a connection is all that policies decide; it ends with a reset, which is one packet instead of three.
async fn tcp(to: SocketAddr) -> io::Result<String> {
    let stream = TcpStream::connect(to).await?;
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(String::new())
}

async fn udp(to: SocketAddr, text: &[u8]) -> io::Result<String> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    socket.send(text).await?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).await?;
    Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned())
}

/// What are the addresses of `kubernetes.default.svc.cluster.local`?
const QUESTION: &[u8] =
    b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x0akubernetes\x07default\x03svc\x07cluster\x05local\0\0\x01\0\x01";
