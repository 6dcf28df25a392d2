//! Connections: bounded, with a deadline for everything that a stranger can delay.

use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::auth::{Peer, User};
use crate::authority::subject_of;

/// Bounds on connections and deadlines.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections that have shown a client certificate or a token.
    pub connections: usize,
    /// Connections that have shown neither that nor a token: joins and probes.
    pub anonymous_connections: usize,
    /// Connections that have not finished their TLS handshake; one more ends the oldest of them.
    pub handshakes: usize,
    /// Connections of one address (IPv6: one /64) that have shown no credential, or not yet.
    pub unknown_of_one_address: usize,
    /// Longest TLS handshake.
    pub handshake: Duration,
    /// Longest wait for a request's header, and for the next request on a connection.
    pub header: Duration,
    /// The same on a connection that has shown no credential.
    pub anonymous_header: Duration,
    /// Longest a request's body may take to arrive.
    pub body: Duration,
    /// Writes at a time; more are told to come again.
    pub writes: usize,
    /// Requests at a time whose body, or answer, is large; more wait for a place.
    pub large: usize,
    /// How long requests may go on after the server was told to stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 2048,
            anonymous_connections: 256,
            handshakes: 512,
            unknown_of_one_address: 128,
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(95),
            anonymous_header: Duration::from_secs(20),
            body: Duration::from_secs(30),
            writes: 512,
            large: 4,
            drain: Duration::from_secs(5),
        }
    }
}

struct Shared {
    router: Router,
    tls: TlsAcceptor,
    limits: Limits,
    known: Arc<Semaphore>,
    anonymous: Arc<Semaphore>,
    unknown: Arc<Unknown>,
    handshakes: Arc<Handshakes>,
}

/// Handshakes in progress. A good one takes milliseconds, so the oldest is the one to end when there are too many:
/// however many connections say nothing, they keep nobody out.
#[derive(Default)]
struct Handshakes(Mutex<(u64, BTreeMap<u64, CancellationToken>)>);

struct Handshake {
    all: Arc<Handshakes>,
    number: u64,
    ended: CancellationToken,
}

impl Handshakes {
    fn begin(self: &Arc<Self>, most: usize) -> Handshake {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.1.len() >= most
            && let Some((_, oldest)) = inner.1.pop_first()
        {
            oldest.cancel();
        }
        inner.0 += 1;
        let (number, ended) = (inner.0, CancellationToken::new());
        inner.1.insert(number, ended.clone());
        Handshake { all: self.clone(), number, ended }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&self.number);
    }
}

/// How many connections without a client certificate each address has: one stranger cannot keep out the others.
#[derive(Debug, Default)]
struct Unknown(Mutex<BTreeMap<IpAddr, usize>>);

#[derive(Debug)]
struct UnknownPermit(Arc<Unknown>, IpAddr);

impl Unknown {
    fn acquire(self: &Arc<Self>, address: IpAddr, most: usize) -> Option<UnknownPermit> {
        let address = crate::join::source(address);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_insert(0);
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(UnknownPermit(self.clone(), address))
    }
}

impl Drop for UnknownPermit {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

/// What a connection counts as.
#[derive(Debug)]
pub(crate) struct Standing {
    known: Arc<Semaphore>,
    held: Mutex<Held>,
}

#[derive(Debug)]
enum Held {
    Anonymous { _place: OwnedSemaphorePermit, _unknown: UnknownPermit },
    Known { _place: OwnedSemaphorePermit },
}

impl Standing {
    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// A good token came: the connection no longer counts as a stranger's.
    pub(crate) fn promote(&self) {
        let mut held = self.held();
        if matches!(*held, Held::Anonymous { .. })
            && let Ok(place) = self.known.clone().try_acquire_owned()
        {
            *held = Held::Known { _place: place };
        }
    }
    fn is_known(&self) -> bool {
        matches!(*self.held(), Held::Known { .. })
    }
}

/// Accepts and serves until `stop`, then lets requests finish within [`Limits::drain`].
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Arc<rustls::ServerConfig>,
    limits: Limits,
    stop: CancellationToken,
) {
    let shared = Arc::new(Shared {
        router,
        tls: TlsAcceptor::from(tls),
        limits,
        known: Arc::new(Semaphore::new(limits.connections)),
        anonymous: Arc::new(Semaphore::new(limits.anonymous_connections)),
        unknown: Arc::default(),
        handshakes: Arc::default(),
    });
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                let (shared, stop) = (shared.clone(), stop.clone());
                let handshake = shared.handshakes.begin(limits.handshakes);
                let Some(unknown) = shared.unknown.acquire(from.ip(), limits.unknown_of_one_address) else {
                    tracing::debug!(%from, "too many unknown connections from this address");
                    continue;
                };
                connections.spawn(async move {
                    if let Err(reason) = connection(shared, stream, from, (handshake, unknown), stop).await {
                        tracing::debug!(%from, reason, "connection ended");
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors or memory: wait for connections to end.
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let drained =
        tokio::time::timeout(limits.drain, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::info!(connections = connections.len(), "connections cut after waiting for their requests");
    }
    connections.shutdown().await;
}

/// Requests in progress on a connection, and since when there are none.
struct Activity {
    active: AtomicUsize,
    idle_since: Mutex<Instant>,
}

impl Activity {
    fn idle(&self) -> Option<Duration> {
        let since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        (self.active.load(Ordering::Acquire) == 0).then(|| since.elapsed())
    }
}

struct InProgress(Arc<Activity>);

impl InProgress {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.active.fetch_add(1, Ordering::AcqRel);
        Self(activity.clone())
    }
}
impl Drop for InProgress {
    fn drop(&mut self) {
        *self.0.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.active.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn connection(
    shared: Arc<Shared>,
    stream: TcpStream,
    from: SocketAddr,
    (handshake, unknown): (Handshake, UnknownPermit),
    stop: CancellationToken,
) -> Result<(), String> {
    let limits = shared.limits;
    let _ = stream.set_nodelay(true);
    let stream = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = handshake.ended.cancelled() => return Err("too many TLS handshakes at a time".into()),
        done = tokio::time::timeout(limits.handshake, shared.tls.accept(stream)) => {
            done.map_err(|_| "the TLS handshake took too long".to_owned())?.map_err(|e| format!("TLS: {e}"))?
        }
    };
    drop(handshake);
    let certificate = stream.get_ref().1.peer_certificates().and_then(|c| c.first());
    let user = match certificate.map(|c| subject_of(c)) {
        None => User::Anonymous,
        Some(Some((name, groups))) => {
            User::from_certificate(&name, &groups.iter().map(String::as_str).collect::<Vec<_>>())
        }
        Some(None) => return Err("the client certificate has no readable subject".into()),
    };
    let class = if user == User::Anonymous { &shared.anonymous } else { &shared.known };
    let place = class.clone().try_acquire_owned().map_err(|_| "too many connections".to_owned())?;
    let held = if user == User::Anonymous {
        Held::Anonymous { _place: place, _unknown: unknown }
    } else {
        drop(unknown);
        Held::Known { _place: place }
    };
    let standing = Arc::new(Standing { known: shared.known.clone(), held: Mutex::new(held) });
    let peer = Peer { user, address: from.ip(), standing: standing.clone() };

    let activity = Arc::new(Activity { active: AtomicUsize::new(0), idle_since: Mutex::new(Instant::now()) });
    let service = {
        let (router, activity) = (shared.router.clone(), activity.clone());
        tower::service_fn(move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            let router = router.clone();
            let guard = InProgress::begin(&activity);
            async move {
                let response = router.oneshot(request.map(axum::body::Body::new)).await?;
                // A watch is in progress until its body ends.
                Ok::<_, std::convert::Infallible>(response.map(|body| hold(body, guard)))
            }
        })
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.header).max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(250)
        .max_header_list_size(64 << 10)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut served = pin!(served);
    let mut check =
        tokio::time::interval(limits.anonymous_header.min(limits.header).min(Duration::from_secs(5)));
    let mut told = false;
    loop {
        tokio::select! {
            ended = served.as_mut() => return ended.map_err(|e| e.to_string()),
            () = stop.cancelled(), if !told => {
                told = true;
                served.as_mut().graceful_shutdown();
            }
            _ = check.tick(), if !told => {
                let most = if standing.is_known() { limits.header } else { limits.anonymous_header };
                if activity.idle().is_some_and(|idle| idle >= most) {
                    told = true;
                    served.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Keeps `guard` until the body has ended or is dropped.
fn hold(body: axum::body::Body, guard: InProgress) -> axum::body::Body {
    axum::body::Body::new(Guarded { body, _guard: guard })
}

struct Guarded {
    body: axum::body::Body,
    _guard: InProgress,
}

impl hyper::body::Body for Guarded {
    type Data = bytes::Bytes;
    type Error = axum::Error;
    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_every_place() {
        let unknown = Arc::new(Unknown::default());
        let (a, b) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let held = (unknown.acquire(a, 2), unknown.acquire(a, 2));
        assert!(unknown.acquire(a, 2).is_none() && unknown.acquire(b, 2).is_some());
        let (c, d) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let other = unknown.acquire(c, 1);
        assert!(other.is_some() && unknown.acquire(d, 1).is_none(), "one /64 is one host");
        drop((held, other));
        assert!(unknown.acquire(a, 2).is_some());
        assert!(unknown.0.lock().unwrap().is_empty());
    }

    #[test]
    fn silent_handshakes_give_way_to_new_ones() {
        let all = Arc::new(Handshakes::default());
        let (first, second) = (all.begin(2), all.begin(2));
        assert!(!first.ended.is_cancelled());
        let third = all.begin(2);
        assert!(first.ended.is_cancelled() && !second.ended.is_cancelled() && !third.ended.is_cancelled());
        drop((first, second, third));
        assert!(all.0.lock().unwrap().1.is_empty());
    }
}
