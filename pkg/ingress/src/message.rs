//! Bodies on their way, whichever version of HTTP carries them.

use crate::error::Broken;
use crate::fields::{Fields, Known};
use crate::h1::head::{Framing, trim};
use crate::h1::io::{Body, Writer};
use crate::patience::within;
use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// Where a body comes from.
pub(crate) enum Source<'a> {
    H1(Body<'a>),
    H2(H2Source),
}

/// A body on a stream of HTTP/2.
pub(crate) struct H2Source {
    stream: RecvStream,
    current: Bytes,
    trailers: Fields,
    patience: Duration,
}

impl Source<'_> {
    pub(crate) fn h2(stream: RecvStream, patience: Duration) -> Self {
        let (current, trailers) = (Bytes::new(), Fields::default());
        Self::H2(H2Source { stream, current, trailers, patience })
    }

    /// Whether nothing is to come; of HTTP/1 also when all of it was consumed.
    pub(crate) fn is_done(&self) -> bool {
        match self {
            Self::H1(body) => body.decoder.is_done(),
            Self::H2(source) => source.stream.is_end_stream(),
        }
    }

    fn is_ready(&mut self) -> Result<bool, Broken> {
        match self {
            Self::H1(body) => body.is_ready(),
            Self::H2(_) => Ok(false),
        }
    }

    /// The next piece; nothing in it at the end.
    async fn next(&mut self) -> Result<&[u8], Broken> {
        match self {
            Self::H1(body) => body.next().await,
            Self::H2(source) => source.next().await,
        }
    }

    /// Reads on, for nothing, until the end or so many bytes.
    pub(crate) async fn discard(&mut self, most: usize) -> Result<(), Broken> {
        let mut seen = 0;
        while seen < most {
            match self.next().await?.len() {
                0 => break,
                count => seen += count,
            }
        }
        Ok(())
    }

    fn trailers(&self) -> &Fields {
        match self {
            Self::H1(body) => body.decoder.trailers(),
            Self::H2(source) => &source.trailers,
        }
    }

    /// Returns when the peer has gone, once its body is done.
    pub(crate) async fn gone(&mut self) {
        if let Self::H1(body) = self {
            // What it says ahead of time waits; of that there is one buffer.
            if body.reader.bytes().is_empty() && !matches!(body.reader.fill().await, Ok(1..)) {
                return;
            }
        }
        pending().await
    }
}

impl H2Source {
    /// The next piece, however long it takes; nothing at the end.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, Broken> {
        Ok(self.stream.data().await.transpose()?)
    }

    /// Lets the client send as much again.
    pub(crate) fn release(&mut self, length: usize) -> Result<(), Broken> {
        Ok(self.stream.flow_control().release_capacity(length)?)
    }

    async fn next(&mut self) -> Result<&[u8], Broken> {
        // What was handed out has been written by now, and as much may come again.
        let consumed = std::mem::take(&mut self.current).len();
        if consumed > 0 {
            self.stream.flow_control().release_capacity(consumed)?;
        }
        // From piece to piece, since frames may be empty.
        let mut until = None;
        while self.current.is_empty() {
            let until = *until.get_or_insert_with(|| Instant::now() + self.patience);
            match timeout_at(until, self.stream.data()).await.map_err(|_| Broken::Slow)? {
                Some(data) => self.current = data?,
                None => {
                    let trailers = timeout_at(until, self.stream.trailers()).await;
                    if let Some(trailers) = trailers.map_err(|_| Broken::Slow)?? {
                        take_headers(&trailers, &mut self.trailers);
                        self.trailers.remove(|known, _| known != Known::Other);
                    }
                    return Ok(&[]);
                }
            }
        }
        Ok(&self.current)
    }
}

/// Where a body goes.
pub(crate) enum Sink<'a> {
    H1 {
        writer: &'a mut Writer,
        framing: Framing,
        patience: Duration,
    },
    H2 {
        stream: SendStream<Bytes>,
        patience: Duration,
        /// How much is still to come, when that is known: the last piece of it ends the stream.
        left: Option<u64>,
    },
    /// To nowhere: the head has said it all.
    Nowhere,
}

impl Sink<'_> {
    async fn data(&mut self, piece: &[u8]) -> Result<(), Broken> {
        match self {
            Self::H1 { writer, framing, patience } => writer.body(*framing, piece, *patience).await,
            Self::H2 { stream, patience, left } => {
                let mut rest = piece;
                while !rest.is_empty() {
                    stream.reserve_capacity(rest.len());
                    let capacity = timeout(*patience, poll_fn(|cx| stream.poll_capacity(cx)));
                    let granted = capacity.await.map_err(|_| Broken::Slow)?.ok_or(Broken::Closed)??;
                    let (part, later) = rest.split_at(granted.min(rest.len()));
                    *left = left.and_then(|left| left.checked_sub(part.len() as u64));
                    stream.send_data(Bytes::copy_from_slice(part), *left == Some(0))?;
                    rest = later;
                }
                Ok(())
            }
            Self::Nowhere => Ok(()),
        }
    }

    pub(crate) async fn flush(&mut self) -> Result<(), Broken> {
        match self {
            Self::H1 { writer, patience, .. } => Ok(within(*patience, pin!(writer.flush())).await??),
            Self::H2 { .. } | Self::Nowhere => Ok(()),
        }
    }

    async fn end(&mut self, trailers: &Fields) -> Result<(), Broken> {
        match self {
            Self::H1 { writer, framing, .. } => writer.end(*framing, trailers),
            Self::H2 { left: Some(0), .. } => {}
            Self::H2 { stream, .. } if trailers.is_empty() => stream.send_data(Bytes::new(), true)?,
            Self::H2 { stream, .. } => stream.send_trailers(header_map(trailers))?,
            Self::Nowhere => {}
        }
        self.flush().await
    }

    /// Sends a whole body.
    pub(crate) async fn whole(&mut self, body: &[u8]) -> Result<(), Broken> {
        self.data(body).await?;
        self.end(&Fields::default()).await
    }

    /// Returns when the other side wants no more of it.
    async fn taken_back(&mut self) {
        match self {
            Self::H2 { stream, .. } => {
                let _ = poll_fn(|cx| stream.poll_reset(cx)).await;
            }
            // There it is the connection that ends.
            Self::H1 { .. } | Self::Nowhere => pending().await,
        }
    }

    /// Says that what was sent is not all there was to be.
    pub(crate) fn abort(&mut self) {
        if let Self::H2 { stream, .. } = self {
            stream.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    }
}

/// Which side of a body broke.
#[derive(Debug)]
pub(crate) enum Side {
    Source(Broken),
    Sink(Broken),
}

/// Carries a body, and counts it. What comes without waiting is written together.
pub(crate) async fn carry(
    source: &mut Source<'_>,
    sink: &mut Sink<'_>,
    most: Option<u64>,
    count: &AtomicU64,
) -> Result<(), Side> {
    let mut length = 0;
    loop {
        if !source.is_ready().map_err(Side::Source)? {
            sink.flush().await.map_err(Side::Sink)?;
        }
        let piece = tokio::select! {
            biased;
            piece = source.next() => piece.map_err(Side::Source)?,
            // Whoever takes a request back while its answer is made would else have one more under way.
            () = sink.taken_back() => return Err(Side::Sink(Broken::Closed)),
        };
        if piece.is_empty() {
            break;
        }
        length += piece.len() as u64;
        if most.is_some_and(|most| length > most) {
            return Err(Side::Source(Broken::TooLarge));
        }
        sink.data(piece).await.map_err(Side::Sink)?;
        count.store(length, Relaxed);
    }
    sink.end(source.trailers()).await.map_err(Side::Sink)
}

/// Headers as HTTP/2 has them; what is between neighbours of HTTP/1 alone is left out.
pub(crate) fn header_map(fields: &Fields) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(fields.len());
    for (known, name, value) in fields.iter_shared() {
        if matches!(
            known,
            Known::Connection | Known::Hop | Known::TransferEncoding | Known::Upgrade | Known::Host
        ) {
            continue;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_maybe_shared(value)) {
            map.append(name, value);
        }
    }
    map
}

/// Headers of HTTP/2. Crumbs of a cookie become one.
pub(crate) fn take_headers(map: &HeaderMap, into: &mut Fields) {
    for (name, value) in map {
        if name != http::header::COOKIE {
            // White space at either end is no part of a value in HTTP/1.
            into.push(name.as_str().as_bytes(), trim(value.as_bytes()));
        }
    }
    let crumbs: Vec<&[u8]> = map.get_all(http::header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if !crumbs.is_empty() {
        into.push(b"cookie", &crumbs.join(&b"; "[..]));
    }
}
