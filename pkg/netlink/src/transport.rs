//! One route netlink socket, and one request on it at a time.
//!
//! The kernel carries a request out inside `sendmsg`, and its answer is in the receive queue when that returns; the
//! parts of a dump are made as they are read. So an exchange is two system calls on the caller's thread: no reader
//! task, no wake-up. (A task that owns the socket costs two thread switches a request, which is most of the time of a
//! small request.) What the kernel does at length, dumps and the removal of links, the callers put on a thread for
//! blocking work.

use crate::NetlinkError;
use crate::error::KernelAnswer;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use std::fmt::Display;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

/// Bytes read at a time. The kernel makes the parts of a dump as large as the reader's buffer, up to 32 KiB.
const READ_BUFFER: usize = 64 * 1024;
/// Bytes of a large dump's buffer that are kept for the next.
const KEPT_BUFFER: usize = 256 * 1024;
/// How often a dump is read until none of the readings was interrupted by a change.
const DUMP_ATTEMPTS: usize = 8;
/// Seconds to wait for an answer that should be there already.
const ANSWER_TIMEOUT: i64 = 10;
const NLMSG_HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// What ends the answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// An acknowledgement, after any echoed messages.
    Ack,
    /// One message.
    One,
    /// Any number of messages, up to the end mark.
    Dump,
}

/// A message of an answer.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Flags of its header.
    pub(crate) flags: u16,
    /// The message.
    pub(crate) message: RouteNetlinkMessage,
}

/// A request that failed, not yet named.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The kernel refused it.
    Errno { code: i32, text: Option<String> },
    /// The socket failed, or the answer made no sense.
    Broken(String),
}

impl Failure {
    /// The errno.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Errno { code, .. } => Some(*code),
            Self::Broken(_) => None,
        }
    }

    /// The error for the caller. A missing device is [`NetlinkError::NotFound`].
    pub(crate) fn named(self, op: &'static str, object: impl Display) -> NetlinkError {
        match self {
            Self::Errno { code: libc::ENODEV, .. } => {
                NetlinkError::NotFound { op, object: object.to_string() }
            }
            Self::Errno { code, text } => NetlinkError::Kernel {
                op,
                object: object.to_string(),
                source: KernelAnswer::into_io(code, text),
            },
            Self::Broken(reason) => NetlinkError::Protocol { op, reason: format!("{object}: {reason}") },
        }
    }

    fn io(what: &str, error: &io::Error) -> Self {
        Self::Broken(format!("{what}: {error}"))
    }
}

/// The socket with its buffers.
pub(crate) struct Channel {
    socket: Socket,
    sequence: u32,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Channel {
    /// Opens a socket in the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        Self::over(Socket::new(NETLINK_ROUTE)?)
    }

    /// Over a route netlink socket that somebody has opened.
    #[expect(unsafe_code, reason = "the socket type takes its descriptor as a number only")]
    pub(crate) fn of(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is open and is given away here, so nobody else closes or uses it.
        Self::over(unsafe { Socket::from_raw_fd(fd.into_raw_fd()) })
    }

    fn over(mut socket: Socket) -> io::Result<Self> {
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Explanations with errors, without a copy of the request; filters of dumps are honoured or refused.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        socket.set_netlink_get_strict_chk(true)?;
        set_receive_timeout(&socket)?;
        Ok(Self { socket, sequence: 0, request: Vec::new(), answer: Vec::with_capacity(READ_BUFFER) })
    }

    /// Sends a request and reads the whole answer.
    ///
    /// Interrupted dumps are begun again. Where changes never cease, all the readings together are the answer, the last
    /// first: what was there all the time is in it, perhaps several times.
    pub(crate) fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        answer: Answer,
    ) -> Result<Vec<Reply>, Failure> {
        let mut packet = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
        packet.header.flags = NLM_F_REQUEST
            | flags
            | match answer {
                Answer::Ack => NLM_F_ACK,
                Answer::One => 0,
                Answer::Dump => NLM_F_DUMP,
            };
        let mut readings: Vec<Vec<Reply>> = Vec::new();
        while readings.len() < DUMP_ATTEMPTS {
            self.send(&mut packet)?;
            self.read_answer(answer)?;
            let (replies, whole) = parse(&self.answer, self.sequence, answer)?;
            if whole {
                return Ok(replies);
            }
            readings.push(replies);
        }
        tracing::debug!(
            readings = DUMP_ATTEMPTS,
            "the kernel's table changed during each reading, taking them together"
        );
        Ok(readings.into_iter().rev().flatten().collect())
    }

    fn send(&mut self, packet: &mut NetlinkMessage<RouteNetlinkMessage>) -> Result<(), Failure> {
        self.sequence = self.sequence.wrapping_add(1);
        packet.header.sequence_number = self.sequence;
        packet.finalize();
        self.request.clear();
        self.request.resize(packet.buffer_len(), 0);
        packet.serialize(&mut self.request);
        loop {
            match self.socket.send(&self.request, 0) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Failure::io("cannot send to the kernel", &e)),
            }
        }
    }

    /// Reads the answer to the last request to its end. It is looked into later: the faster a dump is read, the less
    /// can change meanwhile.
    fn read_answer(&mut self, expected: Answer) -> Result<(), Failure> {
        self.answer.clear();
        self.answer.shrink_to(KEPT_BUFFER);
        loop {
            let start = self.answer.len();
            self.read()?;
            for message in Messages(&self.answer[start..]) {
                let (head, _) = message?;
                let last = match head.kind {
                    NLMSG_ERROR | NLMSG_DONE => true,
                    _ => expected == Answer::One,
                };
                if head.sequence == self.sequence && last {
                    return Ok(());
                }
            }
        }
    }

    /// Appends what one read gives.
    fn read(&mut self) -> Result<(), Failure> {
        self.answer.reserve(READ_BUFFER);
        let start = self.answer.len();
        loop {
            match self.socket.recv(&mut self.answer, libc::MSG_TRUNC) {
                Ok(length) if length == self.answer.len() - start => return Ok(()),
                Ok(length) => {
                    return Err(Failure::Broken(format!(
                        "an answer of {length} bytes is larger than the buffer"
                    )));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Failure::Broken(format!("no answer from the kernel in {ANSWER_TIMEOUT} s")));
                }
                Err(e) => return Err(Failure::io("cannot read the kernel's answer", &e)),
            }
        }
    }
}

/// What matters of a message's header here.
struct Head {
    kind: u16,
    sequence: u32,
}

/// The messages of a buffer, each with its header.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Result<(Head, &'a [u8]), Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.0);
        let buffer = match NetlinkBuffer::new_checked(rest) {
            Ok(buffer) => buffer,
            Err(e) => return Some(Err(Failure::Broken(format!("malformed answer: {e}")))),
        };
        let head = Head { kind: buffer.message_type(), sequence: buffer.sequence_number() };
        let length = buffer.length() as usize;
        self.0 = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok((head, &rest[..length])))
    }
}

/// The messages of an answer, and whether they are a whole: false for a dump that a change interrupted.
fn parse(bytes: &[u8], sequence: u32, expected: Answer) -> Result<(Vec<Reply>, bool), Failure> {
    let mut replies = Vec::new();
    let mut whole = true;
    for message in Messages(bytes) {
        let (head, message) = message?;
        if head.sequence != sequence {
            continue; // Left over from a request that was given up.
        }
        let parsed = match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
            Ok(parsed) => parsed,
            Err(e) if expected != Answer::One => {
                // Somebody's exotic object must not hide all the others, nor an echo its acknowledgement.
                tracing::debug!(error = %e, "skipping a netlink message that cannot be decoded");
                continue;
            }
            Err(e) => return Err(Failure::Broken(format!("the answer cannot be decoded: {e}"))),
        };
        let flags = parsed.header.flags;
        whole &= expected != Answer::Dump || flags & NLM_F_DUMP_INTR == 0;
        let refused = match parsed.payload {
            NetlinkPayload::InnerMessage(message) => {
                replies.push(Reply { flags, message });
                continue;
            }
            NetlinkPayload::Error(error) => (error.raw_code(), explanation(flags, &error.header)),
            NetlinkPayload::Done(done) => (done.code, attribute_text(&done.extended_ack)),
            NetlinkPayload::Overrun(_) => {
                return Err(Failure::Broken("the kernel dropped the answer".into()));
            }
            _ => continue,
        };
        match refused {
            (0.., _) => {}
            (code, _) if expected == Answer::Dump && code == -libc::EINTR => whole = false,
            (code, text) => return Err(Failure::Errno { code: code.saturating_neg(), text }),
        }
    }
    Ok((replies, whole))
}

fn set_receive_timeout(socket: &Socket) -> io::Result<()> {
    let fd = borrow(socket);
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_TIMEOUT)).map_err(io::Error::from)
}

/// The descriptor of a netlink socket, for as long as the socket is borrowed.
#[expect(unsafe_code, reason = "the socket type offers its descriptor as a number only")]
fn borrow(socket: &Socket) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as `socket` lives, and the result borrows `socket`; it is not -1, since
    // the socket was opened.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

/// The text of an extended acknowledgement. `rest` is what follows the error code: the header of the request, its body
/// unless capped, then attributes.
fn explanation(flags: u16, rest: &[u8]) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let body = if flags & NLM_F_CAPPED != 0 {
        NLMSG_HEADER
    } else {
        u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize
    };
    attribute_text(rest.get(body.next_multiple_of(4)..)?)
}

fn attribute_text(mut attributes: &[u8]) -> Option<String> {
    while let Some(head) = attributes.get(..4) {
        let length = u16::from_ne_bytes([head[0], head[1]]) as usize;
        let kind = u16::from_ne_bytes([head[2], head[3]]) & 0x3fff;
        let value = attributes.get(4..length)?;
        if kind == NLMSGERR_ATTR_MSG {
            let text = String::from_utf8_lossy(value);
            return Some(text.trim_end_matches('\0').to_owned());
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_kernels_explanation_is_found_behind_the_request() {
        let mut rest = vec![0u8; NLMSG_HEADER];
        rest.extend([8, 0, 2, 0, 1, 2, 3, 4]); // another attribute
        rest.extend([9, 0, 1, 0, b'o', b'o', b'p', b's', 0, 0, 0, 0]);
        assert_eq!(explanation(NLM_F_CAPPED | NLM_F_ACK_TLVS, &rest).as_deref(), Some("oops"));
        assert_eq!(explanation(NLM_F_CAPPED, &rest), None);
    }

    #[test]
    fn a_dump_interrupted_by_a_change_is_told_from_a_whole_one() {
        let message = |kind: u16, flags: u16, body: &[u8]| {
            let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(flags.to_ne_bytes());
            bytes.extend(7u32.to_ne_bytes());
            bytes.extend(0u32.to_ne_bytes());
            bytes.extend(body);
            bytes
        };
        let parse =
            |bytes: &[u8]| parse(bytes, 7, Answer::Dump).map(|(replies, whole)| (replies.len(), whole));
        let link = message(16, 0, &[0; 16]);
        let exotic = message(16, 0, &[0; 12]);
        let done = |code: i32, flags| message(NLMSG_DONE, flags, &code.to_ne_bytes());
        assert_eq!(parse(&[link.clone(), exotic, done(0, 0)].concat()).unwrap(), (1, true));
        assert_eq!(parse(&[link.clone(), done(0, NLM_F_DUMP_INTR)].concat()).unwrap(), (1, false));
        assert_eq!(parse(&[link.clone(), done(-libc::EINTR, 0)].concat()).unwrap(), (1, false));
        assert_eq!(parse(&[link, done(-libc::EPERM, 0)].concat()).unwrap_err().errno(), Some(libc::EPERM));
    }

    proptest! {
        #[test]
        fn any_bytes_as_an_answer_are_harmless(bytes: Vec<u8>, kind in 0u16..40, wrong_length: Option<u16>) {
            let length = wrong_length.map_or(16 + bytes.len() as u32, u32::from);
            let mut message = length.to_ne_bytes().to_vec();
            message.extend(kind.to_ne_bytes());
            message.extend([0; 10]);
            message.extend(&bytes);
            for expected in [Answer::Ack, Answer::One, Answer::Dump] {
                let _ = parse(&message, 0, expected);
                let _ = parse(&bytes, 0, expected);
            }
        }

        #[test]
        fn any_bytes_as_an_explanation_are_harmless(flags: u16, rest: Vec<u8>) {
            let _ = explanation(flags, &rest);
        }
    }
}
