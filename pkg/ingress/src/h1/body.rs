//! Bodies: where they end.

use super::Bad;
use super::head::{self, Framing};
use crate::fields::{Fields, Known};

/// The longest line that begins a chunk, extensions included.
const LINE: usize = 256;

/// Finds a body in the bytes of a connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
    trailers: Fields,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    Close,
    ChunkLine,
    Chunk(u64),
    ChunkEnd,
    /// How far the lines of the trailers were looked at.
    Trailers(usize),
    Done,
}

/// What the bytes are, so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// So many bytes are framing: to be skipped.
    Skip(usize),
    /// So many bytes are of the body.
    Data(usize),
    /// More bytes are needed.
    More,
    /// The body is at its end.
    Done,
}

impl Decoder {
    pub(crate) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkLine,
            Framing::Close => State::Close,
        };
        Self { state, trailers: Fields::default() }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the end of the connection is the end of the body.
    pub(crate) fn ends_by_close(&self) -> bool {
        self.state == State::Close
    }

    /// The trailers, once the body is at its end.
    pub(crate) fn trailers(&self) -> &Fields {
        &self.trailers
    }

    /// What the next bytes are.
    pub(crate) fn step(&mut self, bytes: &[u8], most: (usize, usize)) -> Result<Step, Bad> {
        if self.is_done() {
            return Ok(Step::Done);
        }
        if bytes.is_empty() {
            return Ok(Step::More);
        }
        match &mut self.state {
            State::Done => Ok(Step::Done),
            State::Close => Ok(Step::Data(bytes.len())),
            State::Length(left) | State::Chunk(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= length as u64;
                if *left == 0 {
                    let chunk = matches!(self.state, State::Chunk(_));
                    self.state = if chunk { State::ChunkEnd } else { State::Done };
                }
                Ok(Step::Data(length))
            }
            State::ChunkEnd => match bytes {
                [b'\r', b'\n', ..] => {
                    self.state = State::ChunkLine;
                    Ok(Step::Skip(2))
                }
                [b'\r'] => Ok(Step::More),
                _ => Err(Bad::Chunk),
            },
            State::ChunkLine => {
                let Some(end) = memchr::memchr(b'\n', &bytes[..bytes.len().min(LINE)]) else {
                    return if bytes.len() < LINE { Ok(Step::More) } else { Err(Bad::Chunk) };
                };
                let size = chunk_size(&bytes[..end])?;
                self.state = if size == 0 { State::Trailers(0) } else { State::Chunk(size) };
                Ok(Step::Skip(end + 1))
            }
            State::Trailers(scanned) => {
                let end = if bytes.starts_with(b"\r\n") { Some(2) } else { head::find_end(bytes, scanned)? };
                let Some(end) = end else {
                    return if bytes.len() < most.0 { Ok(Step::More) } else { Err(Bad::TooLarge) };
                };
                head::fields(&bytes[..end], &mut self.trailers, most.1)?;
                // What says how a message is framed, for whom it is or who sent it does not come after it.
                self.trailers.remove(|known, _| known != Known::Other);
                self.state = State::Done;
                Ok(Step::Skip(end))
            }
        }
    }
}

/// The size of a chunk, from its line up to the line feed. Extensions say nothing to anybody and are left out.
fn chunk_size(line: &[u8]) -> Result<u64, Bad> {
    let line = line.strip_suffix(b"\r").ok_or(Bad::Chunk)?;
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (size, extensions) = line.split_at(digits);
    let extended = extensions.first().is_none_or(|byte| *byte == b';');
    let printable = extensions.iter().all(|byte| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t'));
    if size.is_empty() || size.len() > 15 || !extended || !printable {
        return Err(Bad::Chunk);
    }
    let digit = |byte: &u8| u64::from(char::from(*byte).to_digit(16).unwrap_or_default());
    Ok(size.iter().fold(0, |sum, byte| sum * 16 + digit(byte)))
}
