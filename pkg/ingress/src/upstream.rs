//! Connections to endpoints: made, kept and used again.

use crate::decide::Peer;
use crate::error::Broken;
use crate::fields::Known;
use crate::front_h2::SEND_BUFFER;
use crate::h1::body::Decoder;
use crate::h1::buffer::Buffer;
use crate::h1::head::{self, Framing, Request, Response, Version};
use crate::h1::io::{Body, Reader, Stream, Writer};
use crate::hash::QuickMap;
use crate::message::{Sink, Source, header_map, take_headers};
use crate::patience::within;
use crate::route::{ProxyHeader, Timeouts};
use crate::state::lock;
use crate::text;
use crate::worker::Worker;
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{Method, Uri, uri};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Requests at once of one connection of HTTP/2 to an endpoint; for more there are more connections.
const STREAMS: usize = 256;
/// What may wait in a stream of an endpoint for a client that does not read.
const STREAM_WINDOW: u32 = 128 << 10;
/// The window of a connection of HTTP/2 to an endpoint is no bound: clients share it, and those that do not read would keep
/// it from all others. The windows of the streams bound it.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// A connection of HTTP/1 to an endpoint.
pub(crate) struct Connection {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    address: SocketAddr,
    /// Whether it served before, and so may have been closed meanwhile.
    pub(crate) used: bool,
}

/// Idle connections of a thread.
#[derive(Default)]
pub(crate) struct Pool {
    idle: Mutex<QuickMap<SocketAddr, Vec<(Connection, Instant)>>>,
    shared: Mutex<QuickMap<SocketAddr, Vec<SharedConnection>>>,
}

/// A connection of HTTP/2 to an endpoint.
struct SharedConnection {
    send: SendRequest<Bytes>,
    /// Held once more by each request that is under way. h2 counts a stream only once it is sent.
    busy: Busy,
}

/// Counts as a request on a shared connection until it is dropped.
pub(crate) type Busy = Arc<()>;

impl SharedConnection {
    fn under_way(&self) -> usize {
        Arc::strong_count(&self.busy) - 1
    }

    /// Whether the endpoint takes one more, so that it does not wait for those of others to end.
    fn has_room(&self) -> bool {
        self.under_way() < self.send.current_max_send_streams().min(STREAMS)
    }
}

impl Pool {
    fn take(&self, address: SocketAddr, worker: &Worker) -> Option<Connection> {
        let mut idle = lock(&self.idle);
        let kept = idle.get_mut(&address)?;
        while let Some((mut connection, since)) = kept.pop() {
            if since.elapsed() < worker.shared.bounds.pool_idle && connection.reader.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub(crate) fn give(&self, mut connection: Connection, most: usize) {
        connection.used = true;
        let mut idle = lock(&self.idle);
        let kept = idle.entry(connection.address).or_default();
        if kept.len() < most {
            kept.push((connection, Instant::now()));
        }
    }

    /// Closes all that is idle.
    pub(crate) fn close(&self) {
        lock(&self.idle).clear();
        lock(&self.shared).clear();
    }

    /// Closes what was idle for too long or leads to no endpoint any more.
    pub(crate) fn sweep(&self, worker: &Worker) {
        let live = worker.shared.live();
        let wanted: std::collections::HashSet<SocketAddr> = live
            .table
            .backends()
            .iter()
            .flat_map(|backend| {
                backend.endpoints.get().iter().map(|endpoint| endpoint.address).collect::<Vec<_>>()
            })
            .collect();
        lock(&self.idle).retain(|address, kept| {
            kept.retain_mut(|(connection, since)| {
                since.elapsed() < worker.shared.bounds.pool_idle && connection.reader.is_quiet()
            });
            wanted.contains(address) && !kept.is_empty()
        });
        // Streams that are under way hold the connection for as long as they need it. Of those that nobody uses one is kept.
        lock(&self.shared).retain(|address, kept| {
            let mut spare = 0;
            kept.retain(|connection| {
                spare += usize::from(connection.under_way() == 0);
                connection.under_way() > 0 || spare == 1
            });
            wanted.contains(address)
        });
    }
}

async fn dial(address: SocketAddr, timeouts: &Timeouts) -> Result<TcpStream, Broken> {
    let stream = timeout(timeouts.connect, TcpStream::connect(address)).await.map_err(|_| Broken::Slow)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection of HTTP/1: a kept one, or a new one.
pub(crate) async fn connect(
    worker: &Worker,
    address: SocketAddr,
    timeouts: &Timeouts,
    proxy: Option<(ProxyHeader, &Peer)>,
    fresh: bool,
) -> Result<Connection, Broken> {
    if !fresh
        && proxy.is_none()
        && let Some(connection) = worker.pool.take(address, worker)
    {
        return Ok(connection);
    }
    let mut stream = dial(address, timeouts).await?;
    if let Some((version, peer)) = proxy {
        let header = crate::proxy_header::write(version, peer.address, peer.local);
        timeout(timeouts.send, stream.write_all(&header)).await.map_err(|_| Broken::Slow)??;
    }
    let (reader, writer) = Stream::Plain(stream).split(Buffer::default());
    Ok(Connection { reader, writer, address, used: false })
}

/// A way to an endpoint by HTTP/2, shared by all requests of the thread for as long as there is room.
pub(crate) async fn connect_h2(
    worker: &Worker,
    address: SocketAddr,
    timeouts: &Timeouts,
) -> Result<(SendRequest<Bytes>, Busy), Broken> {
    let shared = &worker.pool.shared;
    let with_room = || {
        let shared = lock(shared);
        let found = shared.get(&address)?.iter().find(|connection| connection.has_room())?;
        Some((found.send.clone(), found.busy.clone()))
    };
    while let Some((send, busy)) = with_room() {
        if let Ok(Ok(ready)) = timeout(timeouts.connect, send.ready()).await {
            return Ok((ready, busy));
        }
        // It has ended.
        if let Some(kept) = lock(shared).get_mut(&address) {
            kept.retain(|connection| !Arc::ptr_eq(&connection.busy, &busy));
        }
    }
    let stream = dial(address, timeouts).await?;
    let bounds = &worker.shared.bounds;
    let shake = h2::client::Builder::new()
        .enable_push(false)
        .max_header_list_size(u32::try_from(bounds.head_bytes).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        // Until it says how many it takes: what is sent beyond that waits there, and cannot go elsewhere.
        .initial_max_send_streams(1)
        .handshake(stream);
    let (send, connection) = timeout(timeouts.connect, shake).await.map_err(|_| Broken::Slow)??;
    worker.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%address, %error, "a connection to a backend ended");
        }
    });
    let ready = timeout(timeouts.connect, send.ready()).await.map_err(|_| Broken::Slow)??;
    let busy = Busy::default();
    let connection = SharedConnection { send: ready.clone(), busy: busy.clone() };
    lock(shared).entry(address).or_default().push(connection);
    Ok((ready, busy))
}

/// Writes the head of a request into the buffer of a connection.
pub(crate) fn write_request(
    buffer: &mut Vec<u8>,
    request: &Request,
    framing: Framing,
    upgrade: Option<&[u8]>,
) {
    buffer.extend_from_slice(request.method.as_str().as_bytes());
    buffer.push(b' ');
    buffer.extend_from_slice(&request.target);
    buffer.extend_from_slice(b" HTTP/1.1\r\n");
    match framing {
        Framing::Length(length) => {
            let says = length > 0 || matches!(request.method, Method::POST | Method::PUT | Method::PATCH);
            if says {
                text::content_length(buffer, length);
            }
        }
        Framing::Chunked | Framing::Close => buffer.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    if let Some(protocol) = upgrade {
        buffer.extend_from_slice(b"connection: upgrade\r\nupgrade: ");
        buffer.extend_from_slice(protocol);
        buffer.extend_from_slice(b"\r\n");
    } else if request.fields.values(Known::Te).next().is_some() {
        buffer.extend_from_slice(b"connection: te\r\n");
    }
    request.fields.write(buffer);
}

/// A request as HTTP/2 has it; nothing when its target cannot be said there.
pub(crate) fn h2_request(request: &Request, framing: Framing) -> Option<http::Request<()>> {
    let host = request.fields.values(Known::Host).next()?;
    let target = std::str::from_utf8(&request.target).ok()?;
    let uri = Uri::builder()
        .scheme(uri::Scheme::HTTP)
        .authority(uri::Authority::try_from(host).ok()?)
        .path_and_query(target)
        .build()
        .ok()?;
    let mut made = http::Request::builder().method(request.method.clone()).uri(uri).body(()).ok()?;
    *made.headers_mut() = header_map(&request.fields);
    if let Framing::Length(length @ 1..) = framing {
        made.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    }
    Some(made)
}

/// Where an answer comes from.
pub(crate) enum Answering<'a> {
    H1 { reader: &'a mut Reader, decoder: &'a mut Decoder, method: Method },
    H2(ResponseFuture),
}

impl<'a> Answering<'a> {
    /// The head of the answer, the body of which is then what is left. Interim answers are passed over; 101 is final.
    pub(crate) async fn head(
        self,
        worker: &Worker,
        response: &mut Response,
        timeouts: &Timeouts,
    ) -> Result<(Framing, Source<'a>), Unanswered> {
        let bounds = &worker.shared.bounds;
        match self {
            Self::H1 { reader, decoder, method } => loop {
                let head = within(timeouts.read, pin!(reader.head(bounds.head_bytes))).await;
                let end = match head {
                    Err(slow) => return Err(Unanswered { broken: slow, silent: false }),
                    Ok(Ok(Some(end))) => end,
                    Ok(Ok(None)) => return Err(Unanswered { broken: Broken::Closed, silent: true }),
                    Ok(Err(broken)) => {
                        let silent = matches!(broken, Broken::Io(_)) && reader.bytes().is_empty();
                        return Err(Unanswered { broken, silent });
                    }
                };
                let framing = head::response(&reader.bytes()[..end], response, bounds.head_fields, &method)
                    .map_err(|bad| Unanswered { broken: bad.into(), silent: false })?;
                reader.consume(end);
                if matches!(response.status, 100 | 102..=199) {
                    continue;
                }
                *decoder = Decoder::new(framing);
                return Ok((framing, Source::H1(Body::new(reader, decoder, timeouts.read, bounds))));
            },
            Self::H2(future) => {
                let answer = match timeout(timeouts.read, future).await {
                    Err(_) => return Err(Unanswered { broken: Broken::Slow, silent: false }),
                    Ok(Ok(answer)) => answer,
                    Ok(Err(error)) => {
                        let silent = error.reason() == Some(h2::Reason::REFUSED_STREAM);
                        return Err(Unanswered { broken: error.into(), silent });
                    }
                };
                let (parts, stream) = answer.into_parts();
                response.status = parts.status.as_u16();
                response.version = Version::V2;
                response.fields.clear();
                take_headers(&parts.headers, &mut response.fields);
                let framing = if stream.is_end_stream() { Framing::NONE } else { Framing::Chunked };
                Ok((framing, Source::h2(stream, timeouts.read)))
            }
        }
    }
}

/// Why there is no answer.
pub(crate) struct Unanswered {
    pub(crate) broken: Broken,
    /// Whether the backend closed without a byte of an answer, as it does with a connection that was idle for too long.
    pub(crate) silent: bool,
}

/// Where the body of a request goes, by HTTP/1.
pub(crate) fn sink<'a>(writer: &'a mut Writer, framing: Framing, timeouts: &Timeouts) -> Sink<'a> {
    let framing = if framing == Framing::Close { Framing::Chunked } else { framing };
    Sink::H1 { writer, framing, patience: timeouts.send }
}
