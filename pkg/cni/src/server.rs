//! The agent's end of the socket.

use crate::engine::Engine;
use crate::queue::{DelQueue, private_dir};
use crate::spec::{AddRequest, Call, Code, Parsed, Refusal, Request, SpecVersion};
use crate::stats::CallStats;
use crate::wire::{Incoming, Reply, frame};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use warren_netlink::{NetNs, Netlink};
use warren_types::{AttachmentKey, HealthCell};

/// Connections at once. More wait in the kernel's queue.
const CONNECTIONS: usize = 128;
/// How long a caller may take to say what it wants, and to take the answer.
const FRAME_DEADLINE: Duration = Duration::from_secs(5);
/// How often the queue of deletions is looked at; it is filled only while the agent cannot be reached.
const QUEUE_EVERY: Duration = Duration::from_secs(1);
/// How often the kernel is compared with the journal though nobody reported a change.
const REPAIR_EVERY: Duration = Duration::from_secs(30);
/// How soon after a look that failed: the table may be missing until its owner has made it anew.
const REPAIR_RETRY: Duration = Duration::from_secs(1);
/// How often at most.
const REPAIR_GAP: Duration = Duration::from_millis(500);
/// How long calls that are being worked on may take to end when the agent stops.
const LAST_CALLS: Duration = Duration::from_secs(10);

/// Where the agent listens.
#[derive(Debug, Clone)]
pub struct CniConfig {
    /// The socket; its directory is made with mode 0700 if it is missing.
    pub socket: PathBuf,
    /// Deletions that arrived while no agent ran.
    pub queue_dir: PathBuf,
    /// Where calls are counted.
    pub stats: CallStats,
}

/// Why the server cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CniError {
    /// The socket or the queue cannot be made.
    #[error("{path}: {source}")]
    Path {
        /// The socket, or a directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Another agent listens.
    #[error("{0}: another agent listens there; stop it, or give this one another --run-dir")]
    InUse(PathBuf),
    /// Journal and kernel could not be brought together.
    #[error("cannot recover the attachments: {0}")]
    Recover(Refusal),
    /// The kernel does not tell of changes.
    #[error(transparent)]
    Kernel(#[from] warren_netlink::NetlinkError),
}

/// Recovers the attachments, then serves the plugin until `stop`. The base of the nftables table must be in place.
///
/// # Errors
/// When the attachments cannot be recovered or the socket cannot be made or used.
pub async fn serve(
    config: CniConfig,
    engine: Engine,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), CniError> {
    let queue = DelQueue::new(&config.queue_dir);
    queue.prepare().map_err(|source| CniError::Path { path: config.queue_dir.clone(), source })?;
    engine.recover().await.map_err(CniError::Recover)?;
    drain(&engine, &queue).await;
    let listener = listen(&config.socket)?;
    tracing::info!(socket = %config.socket.display(), "serving CNI");
    health.ready();
    let mut calls = JoinSet::new();
    let outcome = tokio::select! {
        () = stop.cancelled() => Ok(()),
        outcome = accept(&listener, &config, &engine, &queue, &mut calls) => outcome,
        outcome = keep_whole(&engine, &health) => outcome,
        () = keep_drained(&engine, &queue) => Ok(()),
    };
    drop(listener);
    // What does not end in time is dropped half done, which the journal is for.
    let _ = timeout(LAST_CALLS, async { while calls.join_next().await.is_some() {} }).await;
    outcome
}

/// A socket for root alone. It takes the place of a dead one in one step.
fn listen(path: &Path) -> Result<UnixListener, CniError> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| CniError::Path { path, source }
    };
    let dir = path.parent().unwrap_or(Path::new("/"));
    private_dir(dir).map_err(fail(dir))?;
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(CniError::InUse(path.to_owned()));
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail(&new)(e)),
        _ => {}
    }
    let listener = UnixListener::bind(&new).map_err(fail(&new))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).map_err(fail(&new))?;
    fs::rename(&new, path).map_err(fail(path))?;
    Ok(listener)
}

async fn accept(
    listener: &UnixListener,
    config: &CniConfig,
    engine: &Engine,
    queue: &DelQueue,
    calls: &mut JoinSet<()>,
) -> Result<(), CniError> {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        while let Some(ended) = calls.try_join_next() {
            report(ended);
        }
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // No descriptor is free, or the caller has gone again: others may fare better, after a moment.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(nix::libc::EMFILE | nix::libc::ENFILE | nix::libc::ECONNABORTED)
                ) =>
            {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            Err(source) => return Err(CniError::Path { path: config.socket.clone(), source }),
        };
        let (engine, queue, stats) = (engine.clone(), queue.clone(), config.stats.clone());
        calls.spawn(async move {
            if let Err(error) = answer(stream, &engine, &queue, &stats).await {
                tracing::debug!(%error, "a call ended early");
            }
            drop(place);
        });
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a call failed; its attachment is in the journal, DEL or the next start ends it");
    }
}

/// One connection, one call.
async fn answer(stream: UnixStream, engine: &Engine, queue: &DelQueue, stats: &CallStats) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    if uid != 0 {
        tracing::warn!(uid, "a connection from a user other than root is refused");
        return Ok(());
    }
    let (call, fds) = timeout(FRAME_DEADLINE, receive(&stream)).await??;
    let mut fds = fds.into_iter();
    let (fd, socket) = (fds.next(), fds.next());
    let Parsed { version, request, .. } = match call.parse() {
        Ok(parsed) => parsed,
        Err((version, refusal)) => return send(stream, &Reply::refusal(version, &refusal)).await,
    };
    let begun = std::time::Instant::now();
    let count = |success| stats.count(&request, success, begun.elapsed());
    let outcome = match &request {
        Request::Add(request) => {
            return add(stream, engine, queue, version, request, (fd, socket), count).await;
        }
        Request::Status => engine.status().await,
        Request::Del(key) => engine.del(key).await,
        Request::Check(request) => match namespace(fd, &request.netns) {
            Ok(ns) => engine.check(request, &ns).await,
            Err(refusal) => Err(refusal),
        },
        Request::Gc(request) => engine.gc(request).await,
        Request::Version(asked) => {
            let report = SpecVersion::report(asked.as_deref());
            count(true);
            return send(stream, &Reply::success(Some(&report))).await;
        }
    };
    count(outcome.is_ok());
    let reply = match outcome {
        Ok(()) => Reply::success(None),
        Err(refusal) => Reply::refusal(version, &refusal),
    };
    send(stream, &reply).await
}

/// ADD holds its attachment until the answer is delivered; one that nobody takes is taken back.
async fn add(
    stream: UnixStream,
    engine: &Engine,
    queue: &DelQueue,
    version: SpecVersion,
    request: &AddRequest,
    (fd, socket): (Option<OwnedFd>, Option<OwnedFd>),
    count: impl Fn(bool),
) -> io::Result<()> {
    if queue.contains(&request.key) {
        delete(engine, queue, &request.key).await;
    }
    let added = match namespace(fd, &request.netns) {
        Ok(ns) => engine.add(request, &ns, socket.and_then(|socket| handle(socket, &ns))).await,
        Err(refusal) => Err(refusal),
    };
    count(added.is_ok());
    let added = match added {
        Ok(added) => added,
        Err(refusal) => return send(stream, &Reply::refusal(version, &refusal)).await,
    };
    let result = added.result.render(version, request.prev_result.as_ref());
    let delivered = send(stream, &Reply::success(Some(&result))).await;
    if delivered.is_err() {
        engine.abandon(added).await;
    }
    delivered
}

/// The namespace that came as a descriptor, else the path; verified either way.
fn namespace(fd: Option<OwnedFd>, path: &Path) -> Result<NetNs, Refusal> {
    let opened = match &fd {
        Some(fd) => NetNs::open(Path::new(&format!("/proc/self/fd/{}", fd.as_raw_fd()))),
        None => NetNs::open(path),
    };
    opened.map_err(|e| Refusal::new(Code::InvalidEnvironment, format!("CNI_NETNS {}: {e}", path.display())))
}

/// The plugin's socket in the pod's namespace; one that is of no use is done without.
fn handle(socket: OwnedFd, ns: &NetNs) -> Option<Netlink> {
    let handle = ns.try_clone().and_then(|ns| Netlink::over_socket(socket, ns));
    handle
        .inspect_err(|error| tracing::warn!(%error, "opening a netlink socket in a pod's namespace anew"))
        .ok()
}

async fn receive(stream: &UnixStream) -> io::Result<(Call, Vec<OwnedFd>)> {
    let mut incoming = Incoming::default();
    let mut chunk = vec![0; 16 * 1024];
    let mut received = Vec::new();
    loop {
        let read = || warren_netlink::handover::receive(stream, &mut chunk);
        let (n, fds) = stream.async_io(Interest::READABLE, read).await?;
        received.extend(fds);
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if incoming.push(chunk.get(..n).unwrap_or_default())? {
            return Ok((incoming.message()?, received));
        }
    }
}

async fn send(mut stream: UnixStream, reply: &Reply) -> io::Result<()> {
    let bytes = frame(reply)?;
    timeout(FRAME_DEADLINE, stream.write_all(&bytes)).await?
}

async fn keep_drained(engine: &Engine, queue: &DelQueue) {
    let mut ticks = interval(QUEUE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        drain(engine, queue).await;
    }
}

async fn drain(engine: &Engine, queue: &DelQueue) {
    let keys = match queue.list() {
        Ok(keys) => keys,
        Err(error) => {
            tracing::warn!(%error, "cannot read the queue of deletions");
            return;
        }
    };
    for key in keys {
        delete(engine, queue, &key).await;
    }
}

async fn delete(engine: &Engine, queue: &DelQueue, key: &AttachmentKey) {
    match engine.del_queued(key, queue).await {
        Ok(()) => tracing::info!(%key, "carried out a queued deletion"),
        Err(refusal) => tracing::warn!(%key, %refusal, "a queued deletion failed; it stays in the queue"),
    }
}

/// Puts back what others remove from the kernel: soon after nftables told of a change or the agent asked, and now and
/// then anyway.
async fn keep_whole(engine: &Engine, health: &HealthCell) -> Result<(), CniError> {
    let mut changes = engine.nft().changes().await?;
    let mut pause = REPAIR_EVERY;
    loop {
        let next = Instant::now() + pause;
        tokio::select! {
            () = sleep_until(next) => {}
            () = engine.repair_requested() => {}
            changed = changes.changed() => if changed.is_err() { sleep_until(next).await },
        }
        changes.mark_unchanged();
        let trouble = match engine.repair().await {
            Ok(report) if report.failed == 0 => None,
            Ok(report) => Some(format!("{} attachments cannot be repaired; see the log", report.failed)),
            Err(refusal) => Some(refusal.to_string()),
        };
        pause = if trouble.is_some() { REPAIR_RETRY } else { REPAIR_EVERY };
        match trouble {
            Some(why) => health.degraded(why),
            None => health.ready(),
        }
        tokio::time::sleep(REPAIR_GAP).await;
    }
}
