//! One nftables socket, and one request on it at a time.
//!
//! The kernel carries a batch out inside `sendmsg` and has queued every answer when that returns; a request is two or
//! three system calls on the calling thread.

use super::TABLE;
use super::batch::Batch;
use super::wire::{self, FAMILY_INET, HEADER, Received, SUBSYSTEM, Writer};
use crate::NetlinkError;
use crate::error::KernelAnswer;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes read at a time. The kernel makes the parts of a dump as large as the reader's buffer, up to 32 KiB.
/// `NFPROTO_UNSPEC`: objects of every family.
pub(crate) const ANY_FAMILY: u8 = 0;
const READ_BUFFER: usize = 64 * 1024;
/// Seconds to wait for an answer that should be there already.
const ANSWER_TIMEOUT: i64 = 10;
/// Bytes of a batch that fit the default send buffer (212,992) for sure.
const DEFAULT_SEND: usize = 128 * 1024;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// The ruleset generation that a batch was made for.
const BATCH_GENERATION: u16 = 1;
const ERROR_TEXT: u16 = 1;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const DUMP_INTERRUPTED: u16 = 0x10;
const ERROR_CAPPED: u16 = 0x100;
const ERROR_HAS_ATTRIBUTES: u16 = 0x200;

/// Why a request failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The ruleset changed while it was read, or between reading it and committing. Begin again.
    Stale,
    /// The kernel refused operations of a batch, and so all of it; or a question.
    Refused(Vec<Refusal>),
    /// The socket failed, or the answer made no sense.
    Broken(String),
}

/// One operation that the kernel refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Which operation of the batch; `None` for the batch as a whole.
    pub(crate) operation: Option<usize>,
    pub(crate) errno: i32,
    pub(crate) text: Option<String>,
}

impl Failure {
    fn errno(errno: i32, text: Option<String>) -> Self {
        Self::Refused(vec![Refusal { operation: None, errno, text }])
    }

    fn io(what: &str, error: &io::Error) -> Self {
        Self::Broken(format!("{what}: {error}"))
    }

    /// Whether the kernel refused for this reason alone.
    pub(super) fn is(&self, errno: i32) -> bool {
        match self {
            Self::Refused(refusals) => refusals.iter().all(|r| r.errno == errno),
            _ => false,
        }
    }

    /// Whether what was asked about is missing.
    pub(crate) fn is_not_found(&self) -> bool {
        self.is(libc::ENOENT)
    }

    /// The error for the caller: names the first refused operation, or `object`.
    pub(crate) fn named(self, op: &'static str, object: &str, batch: Option<&Batch>) -> NetlinkError {
        match self {
            Self::Stale => NetlinkError::Protocol {
                op,
                reason: format!("{object}: other programs change the ruleset without a pause; try again"),
            },
            Self::Broken(reason) => NetlinkError::Protocol { op, reason: format!("{object}: {reason}") },
            Self::Refused(refusals) => {
                let more = refusals.len().saturating_sub(1);
                let Some(first) = refusals.into_iter().next() else {
                    return NetlinkError::Protocol {
                        op,
                        reason: format!("{object}: refused without a reason"),
                    };
                };
                let operation = first.operation.and_then(|index| batch?.describe(index));
                let object = match operation {
                    Some(operation) if more > 0 => format!("{object}: {operation} (and {more} more)"),
                    Some(operation) => format!("{object}: {operation}"),
                    None => object.to_owned(),
                };
                NetlinkError::Kernel { op, object, source: KernelAnswer::into_io(first.errno, first.text) }
            }
        }
    }
}

/// The socket with its buffers.
pub(crate) struct Connection {
    socket: Socket,
    sequence: u32,
    request: Vec<u8>,
    answer: Vec<u8>,
    send_limit: usize,
    port: u32,
}

impl Connection {
    /// Opens a socket in the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        let own = socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Explanations with errors, without a copy of the request.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        let timeout = TimeVal::seconds(ANSWER_TIMEOUT);
        setsockopt(&borrow(&socket), sockopt::ReceiveTimeout, &timeout)?;
        Ok(Self {
            socket,
            sequence: 0,
            request: Vec::new(),
            answer: Vec::with_capacity(READ_BUFFER),
            send_limit: DEFAULT_SEND,
            port: own.port_number(),
        })
    }

    /// The number that the kernel's messages about this socket's changes carry.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Commits a batch: all of it or nothing. With a `generation`, only if the ruleset is still at it
    /// ([`Failure::Stale`]).
    pub(super) fn commit(&mut self, batch: &Batch, generation: Option<u32>) -> Result<(), Failure> {
        match batch.is_empty() {
            true => Ok(()),
            false => self.transact(batch, generation),
        }
    }

    /// Waits for the end of a commit that is under way. [`Failure::Stale`] when the ruleset is not at `generation` then: if it
    /// is, and still after a reading, no commit was under way during that reading.
    pub(super) fn wait_for_commit(&mut self, generation: u32) -> Result<(), Failure> {
        // The kernel carries out one batch at a time, also one without operations, which leaves the generation.
        self.transact(&Batch::new(TABLE), Some(generation))
    }

    fn transact(&mut self, batch: &Batch, generation: Option<u32>) -> Result<(), Failure> {
        let begin = self.sequence.wrapping_add(1);
        self.request.clear();
        let mut mark = Writer::default();
        if let Some(generation) = generation {
            mark.u32(BATCH_GENERATION, generation);
        }
        let (mark, _) = mark.finish();
        wire::append_message(&mut self.request, BATCH_BEGIN, REQUEST, begin, (0, SUBSYSTEM.into()), &mark);
        let mut sequence = begin;
        for (index, operation) in batch.operations().enumerate() {
            if !operation.fits {
                return Err(Failure::Broken(format!("{} is too long for a message", operation.object)));
            }
            sequence = sequence.wrapping_add(1);
            // Acknowledging the last one says that all were committed.
            let ack = if index + 1 == batch.len() { ACK } else { 0 };
            let flags = REQUEST | ack | operation.flags;
            let kind = wire::kind_of(operation.message);
            wire::append_message(
                &mut self.request,
                kind,
                flags,
                sequence,
                (batch.family() as u8, 0),
                &operation.attributes,
            );
        }
        let last = sequence;
        self.sequence = sequence.wrapping_add(1);
        wire::append_message(
            &mut self.request,
            BATCH_END,
            REQUEST,
            self.sequence,
            (0, SUBSYSTEM.into()),
            &[],
        );
        self.send()?;

        let mut refusals = Vec::new();
        // Kernels before 6.10 do not acknowledge a batch but in its operations.
        let mut acknowledged = batch.is_empty();
        while self.read(libc::MSG_DONTWAIT)? {
            for message in wire::messages(&self.answer) {
                let index = message.sequence.wrapping_sub(begin);
                if index > self.sequence.wrapping_sub(begin) {
                    continue; // Left over from a request that was given up.
                }
                let Some(errno) = error_of(&message) else { continue };
                if errno == 0 {
                    acknowledged |= message.sequence == last;
                } else {
                    let operation = usize::try_from(index).ok().and_then(|index| index.checked_sub(1));
                    let operation = operation.filter(|index| *index < batch.len());
                    refusals.push(Refusal { operation, errno, text: explanation(&message) });
                }
            }
        }
        if refusals.iter().any(|refusal| refusal.errno == libc::ERESTART) {
            return Err(Failure::Stale);
        }
        match (refusals.is_empty(), acknowledged) {
            (true, true) => Ok(()),
            (true, false) => Err(Failure::Broken("the kernel did not answer the batch".into())),
            (false, _) => Err(Failure::Refused(refusals)),
        }
    }

    /// Asks for one object: the attributes of the answer.
    pub(super) fn get(&mut self, message: u8, attributes: Writer) -> Result<Vec<u8>, Failure> {
        self.ask(wire::kind_of(message), 0, FAMILY_INET, attributes)?;
        self.answer()?.ok_or_else(|| Failure::Broken("the kernel answered without an object".into()))
    }

    /// Asks for all objects of a kind; calls `each` with the attributes of each one of the family `inet`.
    /// [`Failure::Stale`] when the ruleset changed meanwhile.
    pub(super) fn dump(
        &mut self,
        message: u8,
        attributes: Writer,
        each: impl FnMut(&[u8]),
    ) -> Result<(), Failure> {
        match self.dump_of(wire::kind_of(message), FAMILY_INET, attributes, each)? {
            true => Ok(()),
            false => Err(Failure::Stale),
        }
    }

    /// Asks for all objects of a kind of any subsystem; calls `each` with the attributes of each one of `family`, as
    /// they are read. False when the dump was interrupted, so that some may have been missed or come twice.
    pub(crate) fn dump_of(
        &mut self,
        kind: u16,
        family: u8,
        attributes: Writer,
        mut each: impl FnMut(&[u8]),
    ) -> Result<bool, Failure> {
        self.ask(kind, DUMP, family, attributes)?;
        let mut interrupted = false;
        loop {
            self.read(0)?;
            for message in wire::messages(&self.answer).filter(|m| m.sequence == self.sequence) {
                interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                let done = i32::from(message.kind) == libc::NLMSG_DONE;
                match error_of(&message).or_else(|| done.then(|| status(message.body).unwrap_or(0))) {
                    Some(0) => return Ok(!interrupted),
                    Some(libc::EINTR) => return Ok(false),
                    Some(errno) => return Err(Failure::errno(errno, explanation(&message))),
                    None => {}
                }
                let (its, attributes) = message.attributes();
                if family == ANY_FAMILY || its == family {
                    each(attributes);
                }
            }
        }
    }

    /// One change outside of batches, in any subsystem.
    pub(crate) fn change(&mut self, kind: u16, family: u8, attributes: Writer) -> Result<(), Failure> {
        self.ask(kind, ACK, family, attributes)?;
        match self.answer()? {
            None => Ok(()),
            Some(_) => Err(Failure::Broken("the kernel did not acknowledge the request".into())),
        }
    }

    /// The attributes of the first message of the answer; `None` when it is an acknowledgement.
    fn answer(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            self.read(0)?;
            let Some(message) = wire::messages(&self.answer).find(|m| m.sequence == self.sequence) else {
                continue; // Left over from a request that was given up.
            };
            return match error_of(&message) {
                Some(0) => Ok(None),
                Some(errno) => Err(Failure::errno(errno, explanation(&message))),
                None => Ok(Some(message.attributes().1.to_vec())),
            };
        }
    }

    fn ask(&mut self, kind: u16, flags: u16, family: u8, attributes: Writer) -> Result<(), Failure> {
        self.sequence = self.sequence.wrapping_add(1);
        self.request.clear();
        let (attributes, _) = attributes.finish();
        let flags = REQUEST | flags;
        wire::append_message(&mut self.request, kind, flags, self.sequence, (family, 0), &attributes);
        self.send()
    }

    fn send(&mut self) -> Result<(), Failure> {
        if self.request.len() > self.send_limit {
            // The limit of what may wait in the socket; the kernel takes a batch from it at once.
            let (socket, wanted) = (borrow(&self.socket), self.request.len().saturating_mul(2));
            setsockopt(&socket, sockopt::SndBufForce, &wanted)
                .or_else(|_| setsockopt(&socket, sockopt::SndBuf, &wanted))
                .map_err(|e| Failure::io("cannot enlarge the send buffer", &e.into()))?;
            self.send_limit = self.request.len();
        }
        loop {
            match self.socket.send(&self.request, 0) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Failure::io("cannot send to the kernel", &e)),
            }
        }
    }

    /// Reads a datagram into the buffer. `false` when nothing waits (only with `MSG_DONTWAIT`).
    fn read(&mut self, flags: libc::c_int) -> Result<bool, Failure> {
        loop {
            self.answer.clear();
            match self.socket.recv(&mut self.answer, flags | libc::MSG_TRUNC) {
                Ok(length) if length <= self.answer.len() => return Ok(true),
                Ok(length) => {
                    return Err(Failure::Broken(format!(
                        "an answer of {length} bytes does not fit the buffer"
                    )));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && flags & libc::MSG_DONTWAIT != 0 => {
                    return Ok(false);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Failure::Broken(format!("no answer from the kernel in {ANSWER_TIMEOUT} s")));
                }
                Err(e) => return Err(Failure::io("cannot read the kernel's answer", &e)),
            }
        }
    }
}

/// The errno of an error message, positive; 0 is an acknowledgement. `None` for other messages.
fn error_of(message: &Received<'_>) -> Option<i32> {
    if i32::from(message.kind) != libc::NLMSG_ERROR {
        return None;
    }
    Some(status(message.body).unwrap_or(libc::EIO))
}

/// The status that a message begins with, as a positive errno.
fn status(body: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(body.get(..4)?.try_into().ok()?).saturating_neg())
}

/// The kernel's text with an error: behind the status comes the header of the request, its body unless capped, then
/// attributes.
fn explanation(message: &Received<'_>) -> Option<String> {
    if message.flags & ERROR_HAS_ATTRIBUTES == 0 {
        return None;
    }
    let request = message.body.get(4..)?;
    let length = if message.flags & ERROR_CAPPED != 0 {
        HEADER
    } else {
        usize::try_from(u32::from_ne_bytes(request.get(..4)?.try_into().ok()?)).ok()?
    };
    wire::find_text(request.get(length.checked_next_multiple_of(4)?..)?, ERROR_TEXT)
}

/// The descriptor of a netlink socket, for as long as the socket is borrowed.
#[expect(unsafe_code, reason = "the socket type offers its descriptor as a number only")]
fn borrow(socket: &Socket) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as `socket` lives, and the result borrows `socket`; it is not -1, since
    // the socket was opened.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}
