//! The plugin: what a container runtime starts. It carries words between the runtime and the agent, and knows what to
//! say when there is no agent. No store, no threads.

use crate::loopback;
use crate::queue::DelQueue;
use crate::spec::{Call, Code, MAX_CONFIG, Parsed, Refusal, Request, Settings, SpecVersion};
use crate::wire::{Incoming, frame};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use warren_netlink::{NetNs, handover};

pub use crate::wire::Reply;

/// Seconds to wait for a connection.
const CONNECT: i64 = 1;
/// How long a call may take in all. Runtimes give up after a minute or two.
const PATIENCE: Duration = Duration::from_secs(55);
const PATIENCE_STATUS: Duration = Duration::from_secs(5);
const PATIENCE_DEL: Duration = Duration::from_secs(25);

/// The whole of the plugin: environment and standard input in, standard output and exit code out.
#[must_use]
pub fn main() -> ExitCode {
    let reply = match read_call() {
        Ok(call) => run(&call),
        Err(refusal) => Reply::refusal(SpecVersion::NEWEST, &refusal),
    };
    let mut stdout = io::stdout().lock();
    let printed = if reply.stdout.is_empty() { Ok(()) } else { writeln!(stdout, "{}", reply.stdout) };
    match printed.and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::from(reply.exit),
        Err(_) => ExitCode::FAILURE,
    }
}

fn read_call() -> Result<Call, Refusal> {
    let mut call = Call::from_environment()?;
    let mut input = Vec::new();
    // One byte more than is allowed, so that more is noticed.
    let limit = u64::try_from(MAX_CONFIG).unwrap_or(u64::MAX).saturating_add(1);
    io::stdin()
        .lock()
        .take(limit)
        .read_to_end(&mut input)
        .map_err(|e| Refusal::new(Code::Io, format!("cannot read the network configuration: {e}")))?;
    call.config = String::from_utf8(input)
        .map_err(|_| Refusal::new(Code::Decode, "the network configuration is not UTF-8"))?;
    Ok(call)
}

/// One call, with its whole input known.
#[must_use]
pub fn run(call: &Call) -> Reply {
    let parsed = match call.parse() {
        Ok(parsed) => parsed,
        Err((version, refusal)) => return Reply::refusal(version, &refusal),
    };
    let done = if parsed.loopback { loopback::carry(&parsed) } else { carry(call, &parsed) };
    match done {
        Ok(reply) => reply,
        Err(refusal) => Reply::refusal(parsed.version, &refusal),
    }
}

fn carry(call: &Call, parsed: &Parsed) -> Result<Reply, Refusal> {
    let settings = &parsed.settings;
    match &parsed.request {
        Request::Version(asked) => Ok(Reply::success(Some(&SpecVersion::report(asked.as_deref())))),
        Request::Add(request) => {
            let ns = open_netns(&request.netns)?;
            // Opened here, where no thread is too good for a visit to the pod's namespace. Without it the agent sends
            // a thread of its own.
            let socket = ns.route_socket().ok();
            let fds: Vec<_> = std::iter::once(ns.as_fd()).chain(socket.as_ref().map(AsFd::as_fd)).collect();
            ask(settings, call, &fds, PATIENCE).map_err(Silence::try_again)
        }
        Request::Check(request) => {
            let ns = open_netns(&request.netns)?;
            ask(settings, call, &[ns.as_fd()], PATIENCE).map_err(Silence::try_again)
        }
        Request::Gc(_) => ask(settings, call, &[], PATIENCE).map_err(Silence::try_again),
        Request::Status => ask(settings, call, &[], PATIENCE_STATUS).map_err(|silence| {
            Refusal::new(Code::NotAvailable, silence.to_string()).with("start `warren agent`, see its log")
        }),
        Request::Del(key) => ask(settings, call, &[], PATIENCE_DEL).or_else(|silence| {
            DelQueue::new(&settings.queue_dir).push(key).map(|()| Reply::success(None)).map_err(|e| {
                let dir = settings.queue_dir.display();
                Refusal::new(Code::Io, format!("{silence}, and the deletion cannot be queued in {dir}: {e}"))
            })
        }),
    }
}

/// Opened once, here: the agent gets the descriptor and need not see the path.
pub(crate) fn open_netns(path: &Path) -> Result<NetNs, Refusal> {
    NetNs::open(path).map_err(|e| Refusal::new(Code::InvalidEnvironment, format!("CNI_NETNS: {e}")))
}

/// No answer.
#[derive(Debug)]
enum Silence {
    /// Nobody listens.
    Absent { socket: String, error: io::Error },
    /// The connection ended, or the answer took too long.
    Lost(io::Error),
}

impl Silence {
    fn try_again(self) -> Refusal {
        let details = match self {
            Self::Absent { .. } => "start `warren agent`, or wait until it has started",
            Self::Lost(_) => "the agent takes back what it had begun; see its log",
        };
        Refusal::new(Code::TryAgain, self.to_string()).with(details)
    }
}

impl std::fmt::Display for Silence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent { socket, error } => write!(f, "the agent is not running (yet): {socket}: {error}"),
            Self::Lost(error) => write!(f, "the agent did not answer: {error}"),
        }
    }
}

fn ask(
    settings: &Settings,
    call: &Call,
    fds: &[BorrowedFd<'_>],
    patience: Duration,
) -> Result<Reply, Silence> {
    let deadline = Instant::now() + patience;
    let stream = dial(&settings.socket)
        .map_err(|error| Silence::Absent { socket: settings.socket.display().to_string(), error })?;
    exchange(&stream, call, fds, deadline).map_err(Silence::Lost)
}

/// A connection, within a second: the send timeout of a unix socket also bounds the wait for a place in the queue.
fn dial(path: &Path) -> io::Result<UnixStream> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::seconds(CONNECT))?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(fd))
}

fn exchange(
    stream: &UnixStream,
    call: &Call,
    fds: &[BorrowedFd<'_>],
    deadline: Instant,
) -> io::Result<Reply> {
    let bytes = frame(call)?;
    let mut sent = 0;
    while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
        stream.set_write_timeout(Some(left(deadline)?))?;
        // The descriptors go with the first bytes.
        let with = if sent == 0 { fds } else { &[] };
        sent += handover::send(stream, rest, with)?;
    }
    let mut incoming = Incoming::default();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        let mut source = stream;
        match source.read(&mut chunk) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")),
            Ok(n) => {
                if incoming.push(chunk.get(..n).unwrap_or_default())? {
                    return incoming.message();
                }
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(e) => return Err(e),
        }
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    deadline
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
        .ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "it took too long"))
}
