//! Bytes from and to a connection. A connection that waits holds no buffer.

use super::body::{Decoder, Step};
use super::buffer::{Buffer, SMALL};
use super::head::{self, Framing};
use crate::bounds::Bounds;
use crate::error::Broken;
use crate::fields::Fields;
use crate::patience::within;
use crate::text;
use nix::sys::socket::{MsgFlags, recv};
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd as _;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::TcpStream;

/// Bytes from which on a piece is not copied to what is kept, but written beside it.
const MUCH: usize = SMALL / 2;
/// Bytes that are read of a new connection at once; most heads are shorter.
const FIRST: usize = 2 << 10;
/// The longest line that begins a chunk of ours.
const CHUNK_LINE: usize = 18;

/// A connection, in clear text or not.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

impl Stream {
    /// What has come already, also when the runtime has not heard of it yet: that takes it a turn. Nothing from TLS.
    pub(crate) fn at_hand(&self) -> Buffer {
        let mut data = Buffer::default();
        if let Self::Plain(stream) = self {
            data = Buffer::small();
            data.resize(FIRST, 0);
            // What there is to say of a failure the next read says too.
            let count = recv(stream.as_raw_fd(), &mut data, MsgFlags::MSG_DONTWAIT).unwrap_or(0);
            data.truncate(count);
            if count == 0 {
                data.give_back();
            }
        }
        data
    }

    /// Both directions of it, and what was read already.
    pub(crate) fn split(self, data: Buffer) -> (Reader, Writer) {
        let (read, write) = tokio::io::split(self);
        let reader = Reader { io: read, data, start: 0, comes_fast: false };
        (reader, Writer { io: write, out: Buffer::default(), start: 0, is_flushed: true })
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

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    /// Both do.
    fn is_write_vectored(&self) -> bool {
        true
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
    data: Buffer,
    start: usize,
    /// Whether the last read brought as much as a small buffer takes.
    comes_fast: bool,
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
        if self.data.is_empty() && (self.data.is_none() || self.comes_fast) {
            self.data.give_back();
            self.data = if self.comes_fast { Buffer::large() } else { Buffer::small() };
        }
        if self.start > 0 {
            self.data.drain(..self.start);
            self.start = 0;
        }
        if self.data.len() == self.data.capacity() {
            self.data.reserve(SMALL);
        }
        let read = pin!(self.io.read_buf(&mut *self.data)).poll(cx);
        match &read {
            Poll::Ready(read) => self.comes_fast = matches!(read, Ok(SMALL..)),
            Poll::Pending if self.data.is_empty() => self.data.give_back(),
            Poll::Pending => {}
        }
        read
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
    /// What is kept for the next write, from `start` on.
    out: Buffer,
    start: usize,
    /// Whether nothing was written that TLS may still hold.
    is_flushed: bool,
}

impl Writer {
    /// Where to put bytes that the next write takes along.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        if self.out.is_none() {
            self.out = Buffer::small();
        }
        &mut self.out
    }

    /// Takes back what was kept and not yet written.
    pub(crate) fn discard(&mut self) {
        self.out.give_back();
        self.start = 0;
    }

    /// Takes of some bytes as many as it can without waiting twice, and says how many: few are kept for the next write, many
    /// are written behind what was kept.
    pub(crate) async fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() < MUCH && bytes.len() <= self.room() {
            self.buffer().extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        self.write(bytes).await
    }

    /// How much can be kept; a buffer that grew would be no spare one any more.
    fn room(&self) -> usize {
        if self.out.is_none() { SMALL } else { self.out.capacity() - self.out.len() }
    }

    /// One write of what was kept and of more; says how many bytes of the latter went along.
    async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let kept = &self.out[self.start..];
        let before = kept.len();
        let written = match (kept, bytes) {
            (some, []) | ([], some) => self.io.write(some).await?,
            _ => self.io.write_vectored(&[IoSlice::new(kept), IoSlice::new(bytes)]).await?,
        };
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.is_flushed = false;
        match written.checked_sub(before) {
            None => {
                self.start += written;
                Ok(0)
            }
            Some(more) => {
                self.discard();
                Ok(more)
            }
        }
    }

    /// Writes all that was kept.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        while self.start < self.out.len() {
            self.write(&[]).await?;
        }
        self.discard();
        if !self.is_flushed {
            self.io.flush().await?;
            self.is_flushed = true;
        }
        Ok(())
    }

    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.io.shutdown().await
    }

    /// Writes a piece of a body. `patience` is the longest time from one write to the next.
    pub(crate) async fn body(
        &mut self,
        framing: Framing,
        bytes: &[u8],
        patience: Duration,
    ) -> Result<(), Broken> {
        if framing != Framing::Chunked {
            return self.all(bytes, patience).await;
        }
        if self.room() < CHUNK_LINE {
            within(patience, pin!(self.flush())).await??;
        }
        let buffer = self.buffer();
        text::hex(buffer, bytes.len() as u64);
        buffer.extend_from_slice(b"\r\n");
        self.all(bytes, patience).await?;
        self.all(b"\r\n", patience).await
    }

    async fn all(&mut self, mut bytes: &[u8], patience: Duration) -> Result<(), Broken> {
        while !bytes.is_empty() {
            let taken = within(patience, pin!(self.take(bytes))).await??;
            bytes = &bytes[taken..];
        }
        Ok(())
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
