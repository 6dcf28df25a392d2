//! A connection of HTTP/1 to a client.

use crate::decide::Peer;
use crate::error::Broken;
use crate::exchange::serve;
use crate::fields::Known;
use crate::front::{Front, H1Front, write_status};
use crate::h1::body::Decoder;
use crate::h1::head::{self, Framing, Request, Version};
use crate::h1::io::{Body, Reader, Stream, Writer};
use crate::message::Source;
use crate::patience::{REST, within};
use crate::spare;
use crate::worker::Worker;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::{Instant, Sleep, timeout};

/// How long a connection of which nothing was read yet may go on saying nothing while the ingress drains.
const NEWCOMER: Duration = Duration::from_millis(500);

/// Serves requests until either side has had enough.
pub(crate) async fn run(worker: &Worker, stream: Stream, peer: &Peer) {
    let is_tls = matches!(stream, Stream::Tls(_));
    let first = stream.at_hand();
    let (mut reader, mut writer) = stream.split(first);
    match requests(worker, &mut reader, &mut writer, peer).await {
        Ok(End::Clean) if reader.bytes().is_empty() => {
            // Without TLS, closing says as much.
            if is_tls {
                let _ = timeout(worker.shared.bounds.linger, writer.shutdown()).await;
            }
            return;
        }
        Ok(End::Broken) => return,
        Ok(_) => {}
        Err(Broken::Bad(bad)) => {
            worker.shared.malformed.fetch_add(1, Relaxed);
            tracing::debug!(client = %peer.address, %bad, "a malformed request was refused");
            refuse(worker, &mut writer, bad.status()).await;
        }
        Err(Broken::Slow) => refuse(worker, &mut writer, 408).await,
        Err(broken) => {
            tracing::debug!(client = %peer.address, %broken, "a connection broke");
            return;
        }
    }
    linger(worker, &mut reader, &mut writer).await;
}

/// How a connection came to its end.
enum End {
    /// Between two requests.
    Clean,
    /// Before all of a body was read.
    Unread,
    /// In the middle of an answer: nothing can be added to it.
    Broken,
}

async fn requests(
    worker: &Worker,
    reader: &mut Reader,
    writer: &mut Writer,
    peer: &Peer,
) -> Result<End, Broken> {
    let bounds = &worker.shared.bounds;
    // Both for all requests: moving a timer on costs less than another one.
    let silence = pin!(tokio::time::sleep(bounds.first_byte));
    let drained = pin!(worker.shared.drained());
    let mut calm = Calm { silence, drained, is_new: true };
    loop {
        match calm.until_bytes(reader).await? {
            Woken::Bytes => {}
            Woken::End | Woken::Silence => return Ok(End::Clean),
        }
        // On the heap, so that a connection that rests is small; and until then, so that the next request finds it there.
        let busy = Box::pin(busy(worker, reader, writer, peer, &mut calm)).await?;
        if let Some(end) = busy {
            return Ok(end);
        }
        calm.silence.as_mut().reset(Instant::now() + bounds.idle.saturating_sub(REST));
    }
}

/// Serves requests until the connection has come to its end, or rests: then there is nothing.
async fn busy(
    worker: &Worker,
    reader: &mut Reader,
    writer: &mut Writer,
    peer: &Peer,
    calm: &mut Calm<'_, impl Future<Output = ()>>,
) -> Result<Option<End>, Broken> {
    let bounds = &worker.shared.bounds;
    loop {
        let mut request = spare::take();
        let most = (bounds.head_bytes, bounds.head_fields);
        let framing = within(bounds.head, pin!(take_head(reader, &mut request, most))).await??;
        let Some(framing) = framing else { return Ok(Some(End::Clean)) };
        let mut keep = !worker.shared.is_draining()
            && !request.fields.has_token(Known::Connection, "close")
            && (request.version != Version::V10 || request.fields.has_token(Known::Connection, "keep-alive"));
        let mut decoder = Decoder::new(framing);
        let body = Body::new(reader, &mut decoder, bounds.body, bounds);
        let mut source = Source::H1(body);
        let mut front = Front::H1(H1Front {
            writer,
            version: request.version,
            keep: &mut keep,
            patience: bounds.body,
            begun: false,
        });
        let served = serve(worker, peer, &mut request, framing, &mut source, &mut front).await;
        if let Err(broken) = served {
            tracing::debug!(client = %peer.address, %broken, "a request broke off");
            return Ok(Some(End::Broken));
        }
        drop(source);
        spare::give(request);
        if !decoder.is_done() {
            return Ok(Some(End::Unread));
        }
        if !keep {
            return Ok(Some(End::Clean));
        }
        calm.is_new = false;
        if reader.bytes().is_empty() {
            calm.silence.as_mut().reset(Instant::now() + REST.min(bounds.idle));
        }
        match calm.until_bytes(reader).await? {
            Woken::Bytes => {}
            Woken::End => return Ok(Some(End::Clean)),
            Woken::Silence => return Ok(None),
        }
    }
}

/// What ends the wait between two requests.
enum Woken {
    Bytes,
    /// The client has closed, or is to go elsewhere.
    End,
    /// Nothing came for as long as was waited.
    Silence,
}

/// What a connection waits with.
struct Calm<'a, D> {
    silence: Pin<&'a mut Sleep>,
    drained: Pin<&'a mut D>,
    /// Whether nothing was served on it yet.
    is_new: bool,
}

impl<D: Future<Output = ()>> Calm<'_, D> {
    async fn until_bytes(&mut self, reader: &mut Reader) -> Result<Woken, Broken> {
        if !reader.bytes().is_empty() {
            return Ok(Woken::Bytes);
        }
        tokio::select! {
            biased;
            filled = reader.fill() => Ok(if filled? == 0 { Woken::End } else { Woken::Bytes }),
            () = rested(self.drained.as_mut(), self.is_new) => Ok(Woken::End),
            () = self.silence.as_mut() => Ok(Woken::Silence),
        }
    }
}

/// Returns when an idle connection is to be closed since no new request is to be taken. Who has just connected does not
/// expect that, and is about to ask.
async fn rested(drained: Pin<&mut impl Future<Output = ()>>, is_new: bool) {
    drained.await;
    if is_new {
        tokio::time::sleep(NEWCOMER).await;
    }
}

/// Reads the head of a request; nothing when the client has closed instead.
async fn take_head(
    reader: &mut Reader,
    request: &mut Request,
    (most_bytes, most_fields): (usize, usize),
) -> Result<Option<Framing>, Broken> {
    // An empty line before a request is left over from bodies that end with one.
    while matches!(reader.bytes(), [b'\r']) {
        if reader.fill().await? == 0 {
            return Ok(None);
        }
    }
    if reader.bytes().starts_with(b"\r\n") {
        reader.consume(2);
    }
    let Some(end) = reader.head(most_bytes).await? else { return Ok(None) };
    let framing = head::request(&reader.bytes()[..end], request, most_fields)?;
    reader.consume(end);
    Ok(Some(framing))
}

/// Says why nothing more is read.
async fn refuse(worker: &Worker, writer: &mut Writer, status: u16) {
    // What was begun of another answer would make this one a part of it.
    writer.discard();
    let buffer = writer.buffer();
    write_status(buffer, status);
    buffer.extend_from_slice(b"connection: close\r\ncontent-length: 0\r\n\r\n");
    let _ = timeout(worker.shared.bounds.body, writer.flush()).await;
}

/// Closes so that the client reads the answer, also when it is still sending: a connection that is closed with unread bytes
/// is reset.
async fn linger(worker: &Worker, reader: &mut Reader, writer: &mut Writer) {
    let rest = async {
        writer.shutdown().await?;
        let mut seen = reader.bytes().len();
        reader.consume(seen);
        while seen < worker.shared.bounds.linger_bytes {
            let count = reader.fill().await?;
            if count == 0 {
                break;
            }
            reader.consume(count);
            seen += count;
        }
        Ok::<_, std::io::Error>(())
    };
    let _ = timeout(worker.shared.bounds.linger, rest).await;
}
