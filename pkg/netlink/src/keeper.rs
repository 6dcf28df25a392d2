//! Processes that keep listening sockets while no agent runs, so that nothing that comes meanwhile is lost.
//!
//! It binds nothing and reads nothing: an agent deposits copies of its sockets here, and the next one takes them out. The
//! kernel queues what arrives on a socket for as long as anybody holds it open. It is what a service manager's store of
//! descriptors is, for machines that start Warren in any other way too.
//!
//! Both ends speak over a unix socket of root's: the length of a JSON text (4 bytes, the greatest first), the text, and the
//! descriptors with its first byte. A deposit replaces what was there.

use crate::detached::Detached;
use crate::handover;
use serde::{Deserialize, Serialize};
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Longest text.
const LONGEST: usize = 64 * 1024;
/// An exchange takes so long at most.
const PATIENCE: Duration = Duration::from_secs(2);
/// So many speak to it at once at most.
const SPEAKERS: usize = 8;

/// One of these processes, running or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process(&'static str);

impl Process {
    /// The process whose subcommand, and whose files, have this name.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0
    }

    /// Its files in `run_dir`, by which it is found and ended.
    #[must_use]
    pub fn detached(self, run_dir: &Path) -> Detached {
        Detached::new(self.0, run_dir)
    }

    fn socket_path(self, run_dir: &Path) -> PathBuf {
        run_dir.join(format!("{}.sock", self.0))
    }

    /// The arguments that `warren` is started with, to be it.
    fn args(self, run_dir: &Path) -> [OsString; 3] {
        [self.0.into(), "--run-dir".into(), run_dir.into()]
    }

    /// Connects to it.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn connect(self, run_dir: &Path) -> io::Result<Keeper> {
        Ok(Keeper(within(UnixStream::connect(self.socket_path(run_dir))).await?))
    }

    /// Connects to it, and starts it by `program` when it does not run.
    ///
    /// # Errors
    /// When it cannot be started.
    async fn find(self, run_dir: &Path, program: &OsString) -> io::Result<Keeper> {
        if let Ok(keeper) = self.connect(run_dir).await {
            return Ok(keeper);
        }
        let (program, args) = (program.clone(), self.args(run_dir));
        let start = move || Command::new(program).args(args).stdin(Stdio::null()).output();
        let started = tokio::task::spawn_blocking(start).await.map_err(io::Error::other)??;
        if !started.status.success() {
            let why = String::from_utf8_lossy(&started.stderr);
            return Err(io::Error::other(format!("{} did not start: {}", self.0, why.trim())));
        }
        crate::detached::pass_on(self.0, &started.stderr);
        self.connect(run_dir).await
    }

    /// Deposits `sockets` with it, which is started by `program` when it does not run.
    ///
    /// # Errors
    /// When it cannot be started, or does not answer.
    pub async fn entrust(
        self,
        run_dir: &Path,
        program: &OsString,
        sockets: &[Named<BorrowedFd<'_>>],
    ) -> io::Result<Keeper> {
        let keeper = self.find(run_dir, program).await?;
        if keeper.keep(sockets).await.is_ok() {
            return Ok(keeper);
        }
        // One that is being killed can be connected to for a moment; now it is gone.
        let keeper = self.find(run_dir, program).await?;
        keeper.keep(sockets).await?;
        Ok(keeper)
    }

    /// Starts the process, and returns when it serves. To be called in a process of its own, which ends then. Blocking.
    ///
    /// # Errors
    /// When it does not come to serve; its log says why.
    pub fn launch(self, run_dir: &Path, program: &OsString) -> io::Result<()> {
        let command: Vec<OsString> = std::iter::once(program.clone()).chain(self.args(run_dir)).collect();
        let level = std::env::var("WARREN_LOG").unwrap_or_else(|_| "info".into());
        self.detached(run_dir).launch(&command, &level)
    }

    /// Is the process, until SIGTERM or SIGINT. Blocking.
    ///
    /// # Errors
    /// When its socket cannot be made.
    pub fn serve(self, run_dir: &Path) -> io::Result<()> {
        // People who ask who has a port are to read more than the name of a link to the binary.
        nix::sys::prctl::set_name(&CString::new(self.0)?)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(keep_all(self, run_dir))
    }
}

/// A socket and what it is known by.
pub type Named<S> = (String, S);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Verb {
    /// Give me copies of what you have.
    Take,
    /// Have this, and nothing else.
    Keep,
}

#[derive(Debug, Serialize, Deserialize)]
struct Message {
    verb: Verb,
    /// One for each descriptor.
    names: Vec<String>,
}

/// The end of an agent.
#[derive(Debug)]
pub struct Keeper(UnixStream);

impl Keeper {
    /// Copies of what it has.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn take(&self) -> io::Result<Vec<Named<OwnedFd>>> {
        let answer = within(async {
            send(&self.0, Message { verb: Verb::Take, names: Vec::new() }, &[]).await?;
            answered(&self.0).await
        });
        answer.await.map(|(_, sockets)| sockets)
    }

    /// Deposits copies of `sockets`, in place of what is there.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn keep(&self, sockets: &[Named<BorrowedFd<'_>>]) -> io::Result<()> {
        let (names, fds): (Vec<String>, Vec<BorrowedFd<'_>>) = sockets.iter().cloned().unzip();
        within(async {
            send(&self.0, Message { verb: Verb::Keep, names }, &fds).await?;
            answered(&self.0).await.map(drop)
        })
        .await
    }

    /// Waits until it is gone.
    pub async fn gone(&self) {
        // It says nothing that it is not asked; and a socket may count as readable from what was read before.
        let read = || handover::receive(self.0.as_fd(), &mut [0]);
        let _ = self.0.async_io(Interest::READABLE, read).await;
    }
}

async fn within<T>(exchange: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn send(stream: &UnixStream, message: Message, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = serde_json::to_vec(&message)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    let bytes = [&length.to_be_bytes()[..], &text].concat();
    let mut sent = 0;
    while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
        let with = if sent == 0 { fds } else { &[] };
        sent += stream.async_io(Interest::WRITABLE, || handover::send(stream.as_fd(), rest, with)).await?;
    }
    Ok(())
}

/// What came over the socket, with the descriptors.
type Received = (Verb, Vec<Named<OwnedFd>>);

async fn answered(stream: &UnixStream) -> io::Result<Received> {
    receive(stream).await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// None when the other end is gone.
async fn receive(stream: &UnixStream) -> io::Result<Option<Received>> {
    let (mut bytes, mut fds, mut chunk) = (Vec::new(), Vec::new(), vec![0; 4096]);
    loop {
        if let Some((length, text)) = bytes.split_first_chunk() {
            let length = u32::from_be_bytes(*length) as usize;
            if length > LONGEST || text.len() > length {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a text of {length} bytes")));
            }
            if text.len() == length {
                let message: Message = serde_json::from_slice(text)?;
                return match message.names.len() == fds.len() {
                    true => Ok(Some((message.verb, message.names.into_iter().zip(fds).collect()))),
                    false => {
                        Err(io::Error::new(io::ErrorKind::InvalidData, "not a descriptor for each name"))
                    }
                };
            }
        }
        let (length, more) =
            stream.async_io(Interest::READABLE, || handover::receive(stream.as_fd(), &mut chunk)).await?;
        match chunk.get(..length) {
            Some([]) if bytes.is_empty() => return Ok(None),
            Some([]) | None => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(part) => bytes.extend_from_slice(part),
        }
        fds.extend(more);
    }
}

type Store = Arc<Mutex<Vec<Named<Arc<OwnedFd>>>>>;

async fn keep_all(of: Process, run_dir: &Path) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let path = of.socket_path(run_dir);
    if UnixStream::connect(&path).await.is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("{} is served already", path.display()),
        ));
    }
    if let Err(e) = std::fs::remove_file(&path)
        && e.kind() != io::ErrorKind::NotFound
    {
        return Err(e);
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let own = of.detached(run_dir);
    own.ready()?;
    let (store, mut exchanges) = (Store::default(), JoinSet::new());
    loop {
        let stream = tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(_) = exchanges.join_next() => continue,
            accepted = listener.accept(), if exchanges.len() < SPEAKERS => accepted?.0,
        };
        let store = Arc::clone(&store);
        exchanges.spawn(async move {
            if let Err(error) = speak(&stream, &store).await {
                tracing::warn!(%error, "an exchange failed");
            }
        });
    }
    own.ended();
    let _ = std::fs::remove_file(&path);
    Ok(())
}

async fn speak(stream: &UnixStream, store: &Store) -> io::Result<()> {
    if stream.peer_cred()?.uid() != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "only root is spoken to"));
    }
    while let Some((verb, sockets)) = receive(stream).await? {
        let kept = {
            let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
            if let Verb::Keep = verb {
                *store = sockets.into_iter().map(|(name, fd)| (name, Arc::new(fd))).collect();
                tracing::info!(sockets = store.len(), "keeping the sockets of an agent");
            }
            store.clone()
        };
        let names = kept.iter().map(|(name, _)| name.clone()).collect();
        let fds: Vec<BorrowedFd<'_>> = kept.iter().map(|(_, fd)| fd.as_fd()).collect();
        let fds = if let Verb::Take = verb { &fds[..] } else { &[] };
        let names = if fds.is_empty() { Vec::new() } else { names };
        within(send(stream, Message { verb, names }, fds)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use std::net::UdpSocket;

    const OF: Process = Process::new("test-sockets");

    async fn started(dir: &Path) -> JoinSet<io::Result<()>> {
        let path = dir.to_owned();
        let mut serving = JoinSet::new();
        serving.spawn(async move { keep_all(OF, &path).await });
        while OF.connect(dir).await.is_err() {
            assert!(serving.try_join_next().is_none(), "it ended");
            tokio::task::yield_now().await;
        }
        serving
    }

    #[tokio::test]
    async fn what_an_agent_deposits_the_next_one_takes_and_nothing_that_came_meanwhile_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let _serving = started(dir.path()).await;
        let first = OF.connect(dir.path()).await.unwrap();
        assert!(first.take().await.unwrap().is_empty());
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        first.keep(&[("udp".into(), socket.as_fd())]).await.unwrap();
        drop((first, socket));
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"question", address).unwrap();

        let next = OF.connect(dir.path()).await.unwrap();
        let mut taken = next.take().await.unwrap();
        let (name, fd) = taken.pop().unwrap();
        let socket = UdpSocket::from(fd);
        let mut buffer = [0; 16];
        assert_eq!((name.as_str(), socket.recv(&mut buffer).unwrap()), ("udp", 8));

        // It is not taken for gone because it has answered.
        let gone = tokio::time::timeout(Duration::from_millis(50), next.gone());
        assert!(gone.await.is_err());

        // A deposit replaces what was there.
        next.keep(&[]).await.unwrap();
        assert!(next.take().await.unwrap().is_empty());
        drop(socket);
        // Another test that starts a program has a copy of every descriptor until the program runs.
        let free = async {
            while UdpSocket::bind(address).is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), free).await.unwrap();
    }

    #[tokio::test]
    async fn sockets_are_not_left_with_one_that_is_dying() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let dying = UnixListener::bind(OF.socket_path(&path)).unwrap();
        // As the kernel does it: what waits to be accepted is reset when the listener goes.
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            drop(dying.accept().await.unwrap());
            drop(dying);
            keep_all(OF, &path).await
        });
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let named = [("udp".to_owned(), socket.as_fd())];
        let program = OsString::from("true");
        let keeper = loop {
            // The program is no keeper here: until the other one serves there is nobody to connect to.
            match OF.entrust(dir.path(), &program, &named).await {
                Ok(keeper) => break keeper,
                Err(_) => assert!(serving.try_join_next().is_none(), "it ended"),
            }
        };
        assert_eq!(keeper.take().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn an_agent_sees_that_it_is_gone_and_not_before() {
        let (own, other) = UnixStream::pair().unwrap();
        let keeper = Keeper(own);
        let answer = async {
            receive(&other).await.unwrap();
            send(&other, Message { verb: Verb::Keep, names: Vec::new() }, &[]).await.unwrap();
        };
        let (kept, ()) = tokio::join!(keeper.keep(&[]), answer);
        kept.unwrap();
        assert!(keeper.gone().now_or_never().is_none());
        drop(other);
        keeper.gone().await;
    }

    #[tokio::test]
    async fn nonsense_ends_only_its_own_exchange() {
        let dir = tempfile::tempdir().unwrap();
        let _serving = started(dir.path()).await;
        for bytes in [
            &b"\xff\xff\xff\xff"[..],
            b"\0\0\0\x02{}",
            b"\0\0\0\x01",
            b"\0\0\0\x1d{\"verb\":\"keep\",\"names\":[\"x\"]}",
        ] {
            let stream = UnixStream::connect(OF.socket_path(dir.path())).await.unwrap();
            stream.writable().await.unwrap();
            stream.try_write(bytes).unwrap();
            if bytes.len() > 5 {
                stream.readable().await.unwrap();
                assert_eq!(stream.try_read(&mut [0; 8]).unwrap(), 0, "{bytes:?}");
            }
        }
        assert!(OF.connect(dir.path()).await.unwrap().take().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_second_one_does_not_take_the_firsts_place() {
        let dir = tempfile::tempdir().unwrap();
        let _serving = started(dir.path()).await;
        assert_eq!(keep_all(OF, dir.path()).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
