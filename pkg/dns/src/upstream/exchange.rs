//! One question to one upstream.
//!
//! Each question by UDP has a socket of its own, with a port that the kernel picks at random and connected, so that only
//! datagrams of that upstream arrive and "port unreachable" is heard.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::address::{Address, NoSuchLink, Transport};
use super::message::{BadReply, Question, Reply};
use super::tls::{Roots, TlsClient, TlsError};
use crate::wire::{Name, Type};

/// Longest datagram that is read: some servers send more than they were asked to.
const DATAGRAM: usize = 4_096;
/// Datagrams that answer no question of ours before TCP is used, which can not be guessed into.
const FOREIGN: usize = 16;

/// Why an upstream gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// This node could not ask: it has no socket to spare, or no randomness.
    #[error("this node could not ask: {0}")]
    Here(io::Error),
    /// Its link is not there.
    #[error(transparent)]
    Link(#[from] NoSuchLink),
    /// It could not be reached.
    #[error("it could not be reached: {0}")]
    Unreachable(io::Error),
    /// No reply in time.
    #[error("no reply within {} ms", super::health::ATTEMPT.as_millis())]
    Silent,
    /// TLS failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Its reply is none.
    #[error("its reply can not be used: {0}")]
    Reply(BadReply),
}

/// An upstream with what is needed to ask it.
#[derive(Debug)]
pub(crate) struct Client {
    address: Address,
    tls: Option<TlsClient>,
}

impl Client {
    pub(crate) fn new(address: Address, roots: &Roots) -> Self {
        let tls = match &address.transport {
            Transport::Plain => None,
            Transport::Tls(name) => Some(TlsClient::new(address.ip, name.as_deref(), roots.clone())),
        };
        Self { address, tls }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Asks once; the caller bounds the time.
    pub(crate) async fn ask(&self, name: &Name, rtype: Type) -> Result<Reply, ExchangeError> {
        let question = Question { name: name.clone(), rtype, id: random_id()? };
        let to = self.address.socket()?;
        let mut edns = true;
        loop {
            let reply = match &self.tls {
                Some(tls) => tls.ask(to, &question, edns).await,
                None => match by_udp(to, &question, edns).await {
                    Err(ExchangeError::Reply(BadReply::Truncated | BadReply::Foreign)) => {
                        by_tcp(to, &question, edns).await
                    }
                    other => other,
                },
            };
            match reply {
                Err(ExchangeError::Reply(BadReply::NoEdns)) if edns => edns = false,
                other => return other,
            }
        }
    }
}

/// A number nobody can guess.
pub(crate) fn random_id() -> Result<u16, ExchangeError> {
    let mut bytes = [0; 2];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| ExchangeError::Here(io::Error::other("the system gives no random numbers")))?;
    Ok(u16::from_be_bytes(bytes))
}

async fn by_udp(to: SocketAddr, question: &Question, edns: bool) -> Result<Reply, ExchangeError> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await.map_err(ExchangeError::Here)?;
    socket.connect(to).await.map_err(ExchangeError::Unreachable)?;
    socket.send(&question.message(edns)).await.map_err(ExchangeError::Unreachable)?;
    let mut buffer = vec![0; DATAGRAM];
    for _ in 0..FOREIGN {
        let length = socket.recv(&mut buffer).await.map_err(ExchangeError::Unreachable)?;
        match question.read(&buffer[..length], edns) {
            Err(BadReply::Foreign) => {}
            other => return other.map_err(ExchangeError::Reply),
        }
    }
    Err(ExchangeError::Reply(BadReply::Foreign))
}

async fn by_tcp(to: SocketAddr, question: &Question, edns: bool) -> Result<Reply, ExchangeError> {
    let mut stream = TcpStream::connect(to).await.map_err(ExchangeError::Unreachable)?;
    by_stream(&mut stream, question, edns).await
}

/// Asks over a stream, with lengths before messages (RFC 1035 section 4.2.2).
pub(crate) async fn by_stream(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    question: &Question,
    edns: bool,
) -> Result<Reply, ExchangeError> {
    let message = question.message(edns);
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    // In one write: some servers take the first segment for the whole message.
    let framed = [&length.to_be_bytes()[..], &message].concat();
    stream.write_all(&framed).await.map_err(ExchangeError::Unreachable)?;
    stream.flush().await.map_err(ExchangeError::Unreachable)?;
    let length = stream.read_u16().await.map_err(ExchangeError::Unreachable)?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await.map_err(ExchangeError::Unreachable)?;
    match question.read(&buffer, edns) {
        Err(BadReply::Foreign | BadReply::Truncated) => Err(ExchangeError::Reply(BadReply::Malformed(
            "a stream carries an answer that is not to its question",
        ))),
        other => other.map_err(ExchangeError::Reply),
    }
}
