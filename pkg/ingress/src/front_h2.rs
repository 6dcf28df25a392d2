//! A connection of HTTP/2 to a client.

use crate::decide::Peer;
use crate::error::Broken;
use crate::exchange::serve;
use crate::fields::Known;
use crate::flood::Watched;
use crate::front::{Front, H2Front};
use crate::h1::Bad;
use crate::h1::head::{Framing, Request, Version, trim};
use crate::h1::io::Stream;
use crate::hands::Hands;
use crate::message::{Source, take_headers};
use crate::patience::REST;
use crate::spare;
use crate::target;
use crate::websocket;
use crate::worker::Worker;
use bytes::Bytes;
use h2::RecvStream;
use h2::ext::Protocol;
use h2::server::SendResponse;
use http::{Method, StatusCode, request};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use tokio::time::{Instant, sleep, timeout};

/// What waits in each stream for a client that does not read: with the buffers of its backend and of TLS,
/// less than 16 MiB for a connection of 128.
pub(crate) const SEND_BUFFER: usize = 64 << 10;

/// Serves streams until either side has had enough.
pub(crate) async fn run(worker: &Arc<Worker>, stream: Stream, peer: Arc<Peer>) {
    if let Err(broken) = streams(worker, stream, &peer).await {
        tracing::debug!(client = %peer.address, %broken, "a connection of HTTP/2 broke");
    }
}

async fn streams(worker: &Arc<Worker>, stream: Stream, peer: &Arc<Peer>) -> Result<(), Broken> {
    let bounds = &worker.shared.bounds;
    let (stream, flooded) = Watched::new(stream, bounds.control_frames);
    let shake = h2::server::Builder::new()
        .max_concurrent_streams(bounds.streams)
        .max_header_list_size(u32::try_from(bounds.head_bytes).unwrap_or(u32::MAX))
        .initial_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(32)
        .max_pending_accept_reset_streams(32)
        .enable_connect_protocol()
        .max_local_error_reset_streams(Some(bounds.resets))
        .handshake::<_, Bytes>(stream);
    let mut connection = timeout(bounds.handshake, shake).await.map_err(|_| Broken::Slow)??;
    let mut hands = Hands::new();
    let mut taken_back = 0;
    let mut minute = Instant::now();
    let (mut ending, mut calmed, mut ready) = (false, false, false);
    // Both for all streams: moving a timer on costs less than another one.
    let mut drained = pin!(worker.shared.drained());
    let mut silence = pin!(sleep(bounds.idle));
    loop {
        // What the client took back counts until the backend knows of it. Until then nothing new is taken.
        let has_room = hands.busy() < bounds.streams as usize;
        tokio::select! {
            accepted = poll_fn(|cx| {
                let polled = match has_room {
                    true => connection.poll_accept(cx),
                    false => connection.poll_closed(cx).map(|closed| closed.err().map(Err)),
                };
                // It may be found out by this very look, after which nothing else wakes us.
                match polled.is_pending() && flooded.is_so() && !calmed {
                    true => Poll::Ready(None),
                    false => polled.map(Some),
                }
            }) => {
                let accepted = match accepted {
                    Some(None) => return Ok(()),
                    Some(Some(accepted)) => accepted,
                    // It sends more control frames than it may.
                    None => {
                        (calmed, ending) = (true, true);
                        worker.shared.malformed.fetch_add(1, Relaxed);
                        connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                        silence.as_mut().reset(Instant::now() + bounds.handshake);
                        continue;
                    }
                };
                let (worker, peer) = (worker.clone(), peer.clone());
                hands.give(accepted?, move |(request, respond)| {
                    let (worker, peer) = (worker.clone(), peer.clone());
                    async move { one(&worker, &peer, request, respond).await.is_ok() }
                });
            }
            ended = hands.ended() => {
                if minute.elapsed().as_secs() >= 60 {
                    (minute, taken_back) = (Instant::now(), 0);
                }
                taken_back += ended.badly;
                if taken_back > bounds.resets {
                    worker.shared.malformed.fetch_add(1, Relaxed);
                    connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                }
                if hands.busy() == 0 {
                    let patience = if ending { bounds.handshake } else { REST.min(bounds.idle) };
                    silence.as_mut().reset(Instant::now() + patience);
                    ready = true;
                }
            }
            () = silence.as_mut(), if hands.busy() == 0 => {
                if ending {
                    return Ok(());
                }
                if std::mem::take(&mut ready) {
                    hands.rest();
                    silence.as_mut().reset(Instant::now() + bounds.idle.saturating_sub(REST));
                    continue;
                }
                ending = true;
                connection.graceful_shutdown();
                silence.as_mut().reset(Instant::now() + bounds.handshake);
            }
            () = drained.as_mut(), if !ending => {
                ending = true;
                connection.graceful_shutdown();
                silence.as_mut().reset(Instant::now() + bounds.handshake);
            }
        }
    }
}

async fn one(
    worker: &Worker,
    peer: &Peer,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), Broken> {
    let bounds = &worker.shared.bounds;
    let (parts, stream) = request.into_parts();
    let mut request = spare::take();
    let length = match take_head(&parts, bounds.head_fields, &mut request) {
        Ok(length) => length,
        Err(bad) => {
            worker.shared.malformed.fetch_add(1, Relaxed);
            let mut answer = http::Response::new(());
            *answer.status_mut() = StatusCode::from_u16(bad.status()).unwrap_or(StatusCode::BAD_REQUEST);
            respond.send_response(answer, true)?;
            return Ok(());
        }
    };
    let framing = match length {
        // What it sends is no body.
        _ if request.websocket => Framing::NONE,
        Some(length) => Framing::Length(length),
        None if stream.is_end_stream() => Framing::NONE,
        None => Framing::Chunked,
    };
    let mut source = Source::h2(stream, bounds.body);
    let mut front = Front::H2(H2Front { send: &mut respond, patience: bounds.body, begun: false });
    let served = serve(worker, peer, &mut request, framing, &mut source, &mut front).await;
    if served.is_ok() && !source.is_done() {
        // A stream that is reset behind its answer makes some clients forget the answer.
        let _ = timeout(bounds.linger, source.discard(bounds.linger_bytes)).await;
    }
    if served.is_err() {
        respond.send_reset(h2::Reason::INTERNAL_ERROR);
    }
    spare::give(request);
    served
}

/// Puts a request into the form that all requests have. Returns the length of its body when that is known.
fn take_head(parts: &request::Parts, most: usize, request: &mut Request) -> Result<Option<u64>, Bad> {
    if parts.headers.len() > most {
        return Err(Bad::TooLarge);
    }
    (request.method, request.version) = (parts.method.clone(), Version::V2);
    if let Some(protocol) = parts.extensions.get::<Protocol>() {
        take_websocket(parts, protocol)?;
        (request.method, request.websocket) = (Method::GET, true);
    }
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let asterisk = target == "*" && parts.method == Method::OPTIONS;
    request.set_target(target.as_bytes());
    if !target::is_method(&request.method)
        || !(asterisk || target::is_acceptable(request.path(), request.query()))
    {
        return Err(Bad::Target);
    }
    let mut hosts = parts.headers.get_all(http::header::HOST).iter();
    let named = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = match (named, hosts.next(), hosts.next()) {
        (Some(named), None, _) => named,
        (None, Some(host), None) => host.as_bytes(),
        (Some(named), Some(host), None) if named.eq_ignore_ascii_case(host.as_bytes()) => named,
        _ => return Err(Bad::Host),
    };
    let host = std::str::from_utf8(host).map_err(|_| Bad::Host)?;
    request.host.push_str(target::host_of(host).ok_or(Bad::Host)?);
    request.host.make_ascii_lowercase();
    request.authority.push_str(host);
    // White space there is malformed (RFC 9113, 8.2.1), and would be gone behind HTTP/1.
    if parts.headers.values().any(|value| value.as_bytes() != trim(value.as_bytes())) {
        return Err(Bad::Field);
    }
    take_headers(&parts.headers, &mut request.fields);
    if request.websocket && !websocket::ask(&mut request.fields) {
        return Err(Bad::Protocol);
    }
    request.expects = request.fields.has_token(Known::Expect, "100-continue");
    let length = parts.headers.get(http::header::CONTENT_LENGTH);
    let length =
        length.map(|value| value.to_str().ok().and_then(|value| value.parse().ok()).ok_or(Bad::Length));
    length.transpose()
}

/// Whether an extended CONNECT is one for a WebSocket (RFC 8441). h2 has seen to it that scheme and path are there.
fn take_websocket(parts: &request::Parts, protocol: &Protocol) -> Result<(), Bad> {
    if !protocol.as_str().as_bytes().eq_ignore_ascii_case(websocket::PROTOCOL) {
        return Err(Bad::Protocol);
    }
    if !matches!(parts.uri.scheme_str(), Some("http" | "https")) {
        return Err(Bad::Target);
    }
    // A tunnel has no body that could have a length (RFC 9113, 8.5).
    match parts.headers.contains_key(http::header::CONTENT_LENGTH) {
        true => Err(Bad::Length),
        false => Ok(()),
    }
}
