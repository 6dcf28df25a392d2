//! Frames of HTTP/2 that cost an answer, or time, and are no work: counted below the crate h2, which bounds what it holds of
//! them but takes them for as long as they come.

use crate::h1::io::Stream;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a connection begins with.
const PREFACE: u32 = 24;
/// The head of a frame.
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// In which time frames are counted.
const TIME: Duration = Duration::from_secs(10);
/// For how many bytes of work one more frame is free: clients of gRPC measure the way by a ping for each piece of an answer.
/// The answer to a ping is far less.
const WORK: usize = 256;

/// Says that a connection has sent too many.
#[derive(Clone, Default)]
pub(crate) struct Flooded(Arc<AtomicBool>);

impl Flooded {
    pub(crate) fn is_so(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// A connection whose frames are counted. When there are too many nothing more is read.
pub(crate) struct Watched {
    stream: Stream,
    frames: Frames,
    flooded: Flooded,
}

impl Watched {
    /// `most` is for each 10 s.
    pub(crate) fn new(stream: Stream, most: usize) -> (Self, Flooded) {
        let flooded = Flooded::default();
        (Self { stream, frames: Frames::new(most), flooded: flooded.clone() }, flooded)
    }
}

/// Finds the frames in the bytes of a client.
struct Frames {
    /// Of the head that comes next, what has come.
    head: [u8; HEAD],
    came: usize,
    /// Bytes until the next head.
    left: u32,
    most: usize,
    count: usize,
    since: Instant,
    /// Bytes of work that no frame was free for yet.
    work: usize,
}

impl Frames {
    fn new(most: usize) -> Self {
        Self { head: [0; HEAD], came: 0, left: PREFACE, most, count: 0, since: Instant::now(), work: 0 }
    }

    /// Counts what has come; says whether that is too much.
    fn see(&mut self, mut bytes: &[u8]) -> bool {
        let mut flooded = false;
        while !bytes.is_empty() {
            let skipped = bytes.len().min(self.left as usize);
            self.left -= skipped as u32;
            bytes = &bytes[skipped..];
            let taken = bytes.len().min(HEAD - self.came);
            self.head[self.came..self.came + taken].copy_from_slice(&bytes[..taken]);
            self.came += taken;
            bytes = &bytes[taken..];
            if self.came == HEAD {
                self.came = 0;
                let [a, b, c, kind, ..] = self.head;
                self.left = u32::from_be_bytes([0, a, b, c]);
                flooded |= self.frame(kind);
            }
        }
        flooded
    }

    fn frame(&mut self, kind: u8) -> bool {
        match kind {
            DATA | HEADERS => self.work = self.work.saturating_add(self.left as usize),
            // They have bounds of their own, or ask for no answer and come as often as data goes.
            RST_STREAM | WINDOW_UPDATE | CONTINUATION => {}
            _ => self.count += 1,
        }
        self.count > self.most && self.is_flood()
    }

    fn is_flood(&mut self) -> bool {
        self.count = self.count.saturating_sub(std::mem::take(&mut self.work) / WORK);
        if self.since.elapsed() >= TIME {
            (self.since, self.count) = (Instant::now(), 0);
        }
        self.count > self.most
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Whoever polls looks whether it is so, next.
        if this.flooded.is_so() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if this.frames.see(&buf.filled()[before..]) {
            this.flooded.0.store(true, Relaxed);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = written {
            this.frames.work = this.frames.work.saturating_add(count);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: u8 = 4;
    const PING: u8 = 6;

    fn frame(kind: u8, length: u32) -> Vec<u8> {
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, 0, 0, 0, 0, 1]);
        frame.resize(HEAD + length as usize, 0xff);
        frame
    }

    fn begun(most: usize) -> Frames {
        let mut frames = Frames::new(most);
        assert!(!frames.see(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
        frames
    }

    #[test]
    fn frames_are_found_however_the_bytes_come() {
        let all =
            [frame(SETTINGS, 18), frame(DATA, 3), frame(PING, 8), frame(WINDOW_UPDATE, 4), frame(PING, 8)];
        let all = all.concat();
        for size in 1..all.len() {
            let mut frames = begun(100);
            for piece in all.chunks(size) {
                assert!(!frames.see(piece));
            }
            assert_eq!(
                (frames.count, frames.work, frames.left, frames.came),
                (3, 3, 0, 0),
                "pieces of {size}"
            );
        }
    }

    #[test]
    fn too_many_are_a_flood_unless_there_is_work_or_time_between() {
        let mut frames = begun(10);
        let ping = frame(PING, 8);
        assert!(!frames.see(&ping.repeat(10)));
        assert!(frames.see(&ping));

        // A ping for each piece of data.
        let mut frames = begun(10);
        for _ in 0..100 {
            assert!(!frames.see(&[frame(DATA, 256), ping.clone()].concat()));
        }
        // The answers to pings are no work.
        let mut frames = begun(10);
        let mut flooded = false;
        for _ in 0..20 {
            flooded |= frames.see(&ping);
            frames.work += 17;
        }
        assert!(flooded);

        let mut frames = begun(10);
        assert!(!frames.see(&ping.repeat(10)));
        frames.since -= TIME;
        assert!(!frames.see(&ping.repeat(10)));
    }
}
