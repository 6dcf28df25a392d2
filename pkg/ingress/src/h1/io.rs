//! Bytes from and to a connection. A connection that waits holds no buffer.

use super::body::{Decoder, Step};
use super::head::{self, Framing};
use crate::bounds::Bounds;
use crate::error::Broken;
use crate::fields::Fields;
use crate::text;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::TcpStream;

/// The size of a buffer. Heads may grow it.
const BUFFER: usize = 16 << 10;
/// The longest line that begins a chunk of ours.
const CHUNK_LINE: usize = 18;
/// How many unused buffers a thread keeps.
const SPARE: usize = 256;

thread_local! {
    static SPARES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn take_buffer() -> Vec<u8> {
    SPARES.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(BUFFER))
}

fn give_buffer(mut buffer: Vec<u8>) {
    SPARES.with_borrow_mut(|spares| {
        if buffer.capacity() == BUFFER && spares.len() < SPARE {
            buffer.clear();
            spares.push(buffer);
        }
    });
}

/// A connection, in clear text or not.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

impl Stream {
    /// Both directions of it.
    pub(crate) fn split(self) -> (Reader, Writer) {
        let (read, write) = tokio::io::split(self);
        let reader = Reader { io: read, data: Vec::new(), start: 0 };
        (reader, Writer { io: write, out: Vec::new() })
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// What comes in.
pub(crate) struct Reader {
    io: ReadHalf<Stream>,
    data: Vec<u8>,
    start: usize,
}

impl Reader {
    /// What has come and was not consumed.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.data[self.start..]
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.data.len() {
            self.data.clear();
            self.start = 0;
        }
    }

    /// Reads more; 0 is the end.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.data.capacity() == 0 {
            self.data = take_buffer();
        }
        if self.start > 0 {
            self.data.drain(..self.start);
            self.start = 0;
        }
        if self.data.len() == self.data.capacity() {
            self.data.reserve(BUFFER);
        }
        let read = std::pin::pin!(self.io.read_buf(&mut self.data)).poll(cx);
        match read {
            Poll::Ready(read) => Poll::Ready(read),
            Poll::Pending => {
                if self.data.is_empty() {
                    give_buffer(std::mem::take(&mut self.data));
                }
                Poll::Pending
            }
        }
    }

    /// Whether the peer has neither closed nor said anything.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.bytes().is_empty() && self.poll_fill(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Reads until a whole head is there, and says how long it is; nothing when the peer closes before its first byte.
    pub(crate) async fn head(&mut self, most: usize) -> Result<Option<usize>, Broken> {
        let mut scanned = 0;
        loop {
            if let Some(end) = head::find_end(self.bytes(), &mut scanned)? {
                return if end > most { Err(super::Bad::TooLarge.into()) } else { Ok(Some(end)) };
            }
            if self.bytes().len() >= most {
                return Err(super::Bad::TooLarge.into());
            }
            if self.fill().await? == 0 {
                return if self.bytes().is_empty() { Ok(None) } else { Err(Broken::Closed) };
            }
        }
    }
}

/// What goes out. Small pieces are collected and written at once.
pub(crate) struct Writer {
    io: WriteHalf<Stream>,
    out: Vec<u8>,
}

impl Writer {
    /// Where to put bytes that the next write takes along.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        if self.out.capacity() == 0 {
            self.out = take_buffer();
        }
        &mut self.out
    }

    /// Writes, or keeps for the next write what is little.
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let buffer = self.buffer();
        if buffer.len() + bytes.len() <= buffer.capacity() {
            buffer.extend_from_slice(bytes);
            return Ok(());
        }
        self.flush().await?;
        if bytes.len() < BUFFER / 2 {
            self.buffer().extend_from_slice(bytes);
            return Ok(());
        }
        self.io.write_all(bytes).await
    }

    /// Writes all that was kept.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.io.write_all(&self.out).await?;
            self.io.flush().await?;
        }
        if self.out.capacity() > 0 {
            give_buffer(std::mem::take(&mut self.out));
        }
        Ok(())
    }

    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.io.shutdown().await
    }

    /// Writes a piece of a body.
    pub(crate) async fn body(&mut self, framing: Framing, bytes: &[u8]) -> io::Result<()> {
        if framing != Framing::Chunked {
            return self.write(bytes).await;
        }
        // Grown it would be no spare one any more.
        if self.out.capacity() - self.out.len() < CHUNK_LINE {
            self.flush().await?;
        }
        let buffer = self.buffer();
        text::hex(buffer, bytes.len() as u64);
        buffer.extend_from_slice(b"\r\n");
        self.write(bytes).await?;
        self.write(b"\r\n").await
    }

    /// Ends a body.
    pub(crate) fn end(&mut self, framing: Framing, trailers: &Fields) {
        if framing == Framing::Chunked {
            let buffer = self.buffer();
            buffer.extend_from_slice(b"0\r\n");
            trailers.write(buffer);
        }
    }
}

/// A body on its way in.
pub(crate) struct Body<'a> {
    pub(crate) reader: &'a mut Reader,
    pub(crate) decoder: &'a mut Decoder,
    /// What comes next, when it was looked for and not yet handed out.
    ahead: Option<usize>,
    /// Bytes that were handed out and are consumed by the next call.
    lent: usize,
    /// The longest time from one piece of it to the next.
    patience: Duration,
    /// Bytes and headers of trailers, at most.
    most: (usize, usize),
}

impl<'a> Body<'a> {
    pub(crate) fn new(
        reader: &'a mut Reader,
        decoder: &'a mut Decoder,
        patience: Duration,
        bounds: &Bounds,
    ) -> Self {
        let most = (bounds.head_bytes, bounds.head_fields);
        Self { reader, decoder, ahead: None, lent: 0, patience, most }
    }

    /// Whether the next piece comes without waiting.
    pub(crate) fn is_ready(&mut self) -> Result<bool, Broken> {
        if self.ahead.is_none() {
            self.reader.consume(std::mem::take(&mut self.lent));
            self.ahead = self.look()?;
        }
        Ok(self.ahead.is_some())
    }

    /// The length of the next piece among the bytes that are here; 0 at the end.
    fn look(&mut self) -> Result<Option<usize>, Broken> {
        loop {
            match self.decoder.step(self.reader.bytes(), self.most)? {
                Step::Skip(count) => self.reader.consume(count),
                Step::Data(count) => return Ok(Some(count)),
                Step::Done => return Ok(Some(0)),
                Step::More => return Ok(None),
            }
        }
    }

    /// The next piece; nothing in it at the end.
    pub(crate) async fn next(&mut self) -> Result<&[u8], Broken> {
        // From piece to piece, since framing and trailers can come byte by byte too.
        let mut until = None;
        while !self.is_ready()? {
            let until = *until.get_or_insert_with(|| tokio::time::Instant::now() + self.patience);
            let read = tokio::time::timeout_at(until, self.reader.fill()).await;
            match read.map_err(|_| Broken::Slow)?? {
                0 if self.decoder.ends_by_close() => return Ok(&[]),
                0 => return Err(Broken::Closed),
                _ => {}
            }
        }
        self.lent = self.ahead.take().unwrap_or_default();
        Ok(&self.reader.bytes()[..self.lent])
    }
}

impl Drop for Body<'_> {
    /// What was handed out is consumed, also when nobody asks for more.
    fn drop(&mut self) {
        self.reader.consume(self.lent);
    }
}
