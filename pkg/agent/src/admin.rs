//! The admin socket and the health endpoint, on a thread and a runtime of their own.
//!
//! `RUN_DIR/admin.sock` (0600 in a 0700 directory; peers must be root or the agent's own user): `/status`, `/ipam`,
//! `/ipam/check`, `/services`, `/services/NAMESPACE/NAME`, `/explain`,
//! `/dns/query`, `/policy`, `/policy/show/NAMESPACE/NAME`, `/policy/denials`, `/ingress`, `/ingress/explain`, `/policy/check` (a question too long for an
//! address, so it is posted), JSON, read-only. On loopback TCP: `/livez`, `/readyz`, `/metrics`. Both answer from the [`Board`].

use crate::board::Board;
use crate::dns::{DnsQuestion, NoDnsAnswer};
use crate::ingress::NoIngressAnswer;
use crate::policy::{CheckQuery, NoPolicyAnswer, PolicyDesk};
use crate::services::{ExplainQuery, NoAnswer, Told};
use crate::{files, metrics};
use axum::extract::{DefaultBodyLimit, Path as UrlPath, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use warren_dns::ask::InquiryError;

/// Connections served at once, on each of the two listeners.
const CONNECTIONS: usize = 32;
/// Longest life of a connection: these are short questions.
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);
/// How long the address check may take.
const CHECK_LIMIT: Duration = Duration::from_secs(15);

/// Longest question that is posted.
const MAX_QUESTION: usize = 8 << 20;

/// Where the two listeners are.
#[derive(Debug, Clone)]
pub struct AdminConfig {
    /// The admin socket.
    pub socket: PathBuf,
    /// Health and metrics.
    pub health: SocketAddr,
}

/// Starts the thread. It ends when `stop` fires.
///
/// # Errors
/// When no thread or runtime can be made.
pub fn start(config: AdminConfig, board: Board, stop: CancellationToken) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("admin".into()).spawn(move || {
        runtime.block_on(async move {
            let mut tasks = JoinSet::new();
            tasks.spawn(admin(config.socket, board.clone(), stop.clone()));
            tasks.spawn(health(config.health, board.clone(), stop.clone()));
            let mut tick = tokio::time::interval(Duration::from_millis(500));
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = tick.tick() => board.observe(),
                }
            }
        });
    })
}

/// The admin socket.
async fn admin(path: PathBuf, board: Board, stop: CancellationToken) {
    let router = Router::new()
        .route("/status", get(|State(b): State<Board>| async move { Json(b.report()) }))
        .route("/ipam", get(|State(b): State<Board>| async move { Json(b.ipam()) }))
        .route("/ipam/check", get(check))
        .route("/services", get(services))
        .route("/services/{namespace}/{name}", get(service))
        .route("/explain", get(explain))
        .route("/dns/query", get(dns_query))
        .route("/policy", get(policies))
        .route("/policy/show/{namespace}/{name}", get(policy))
        .route("/policy/denials", get(denials))
        .route("/policy/check", post(check_policy).layer(DefaultBodyLimit::max(MAX_QUESTION)))
        .route("/ingress", get(ingresses))
        .route("/ingress/explain", get(explain_url))
        .with_state(board);
    keep_open(Place::Admin(path), router, stop).await;
}

/// The health endpoint.
async fn health(address: SocketAddr, board: Board, stop: CancellationToken) {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .with_state(board);
    keep_open(Place::Health(address), router, stop).await;
}

/// Where a listener is.
enum Place {
    /// A unix socket for root and this user.
    Admin(PathBuf),
    /// TCP.
    Health(SocketAddr),
}

enum Listener {
    Admin(UnixListener, Option<u32>),
    Health(TcpListener),
}

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Place {
    async fn bind(&self) -> io::Result<Listener> {
        match self {
            Self::Admin(path) => bind_unix(path).map(|listener| Listener::Admin(listener, own_uid())),
            Self::Health(address) => TcpListener::bind(address).await.map(Listener::Health),
        }
    }

    fn say(&self, error: &io::Error) {
        match self {
            Self::Admin(path) => {
                let path = path.display();
                tracing::error!(%path, %error, "the admin socket cannot be opened; trying again");
            }
            Self::Health(address) => tracing::error!(
                %address, %error,
                "the health endpoint cannot be opened; trying again (--health-address names another)"
            ),
        }
    }
}

impl Listener {
    /// The next connection; none when it is not to be served.
    async fn next(&self) -> io::Result<Option<Box<dyn Stream>>> {
        let (listener, own) = match self {
            Self::Health(listener) => return Ok(Some(Box::new(listener.accept().await?.0))),
            Self::Admin(listener, own) => (listener, *own),
        };
        let (stream, _) = listener.accept().await?;
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == 0 || Some(peer.uid()) == own => return Ok(Some(Box::new(stream))),
            Ok(peer) => tracing::warn!(uid = peer.uid(), "refused a connection to the admin socket"),
            Err(error) => tracing::debug!(%error, "a peer without credentials was refused"),
        }
        Ok(None)
    }
}

/// Keeps a listener open and serves its connections: a failure to bind is said once and tried again.
async fn keep_open(place: Place, router: Router, stop: CancellationToken) {
    let mut said = false;
    loop {
        match place.bind().await {
            Ok(listener) => {
                said = false;
                let permits = Arc::new(Semaphore::new(CONNECTIONS));
                let mut tasks = JoinSet::new();
                loop {
                    let Ok(permit) = permits.clone().acquire_owned().await else { return };
                    let stream = tokio::select! {
                        () = stop.cancelled() => return,
                        s = listener.next() => s,
                        Some(_) = tasks.join_next() => continue,
                    };
                    match stream {
                        Ok(Some(stream)) => drop(tasks.spawn(serve(stream, router.clone(), permit))),
                        Ok(None) => {}
                        Err(error) => {
                            tracing::warn!(%error, "a listener failed; opening it anew");
                            break;
                        }
                    }
                }
            }
            Err(error) if !said => {
                said = true;
                place.say(&error);
            }
            Err(_) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// The user this process runs as.
fn own_uid() -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").ok().map(|m| m.uid())
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        files::private_dir(dir).map_err(io::Error::other)?;
    }
    // The store's lock says that no other agent runs here, so a socket that is there is a leftover.
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn serve(stream: Box<dyn Stream>, router: Router, permit: OwnedSemaphorePermit) {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(5))
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A peer that goes away in the middle is its own affair.
    let _ = tokio::time::timeout(CONNECTION_LIMIT, connection).await;
    drop(permit);
}

async fn check(State(board): State<Board>) -> Response {
    match board.check(CHECK_LIMIT).await {
        Some(report) => Json(report).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the address pool is not open yet, or does not answer\n")
            .into_response(),
    }
}

/// An answer about Services, or why there is none.
fn tell<T: serde::Serialize>(board: &Board, answer: Result<T, NoAnswer>) -> Response {
    match answer {
        Ok(answer) => {
            Json(Told { behind: board.trouble_of("proxy").unwrap_or_default(), answer }).into_response()
        }
        Err(error @ NoAnswer::NotLoaded) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response()
        }
        Err(error) => (StatusCode::NOT_FOUND, format!("{error}\n")).into_response(),
    }
}

async fn services(State(board): State<Board>) -> Response {
    let answer = match board.desk() {
        Some(desk) => desk.list().await,
        None => Err(NoAnswer::NotLoaded),
    };
    tell(&board, answer)
}

async fn service(State(board): State<Board>, UrlPath(name): UrlPath<(String, String)>) -> Response {
    let answer = match board.desk() {
        Some(desk) => desk.show(&name.0, &name.1).await,
        None => Err(NoAnswer::NotLoaded),
    };
    tell(&board, answer)
}

async fn explain(State(board): State<Board>, Query(query): Query<ExplainQuery>) -> Response {
    tell(&board, board.desk().ok_or(NoAnswer::NotLoaded).and_then(|desk| desk.explain(&query)))
}

async fn dns_query(State(board): State<Board>, Query(question): Query<DnsQuestion>) -> Response {
    let answer = match board.dns() {
        Some(desk) => desk.ask(&question).await,
        None => Err(InquiryError::NotServing.into()),
    };
    match answer {
        Ok(told) => Json(told).into_response(),
        Err(error @ NoDnsAnswer::NoPod(_)) => (StatusCode::NOT_FOUND, format!("{error}\n")).into_response(),
        Err(error @ NoDnsAnswer::Inquiry(InquiryError::NotServing)) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

/// An answer about network policies, or why there is none.
fn tell_policy<T: serde::Serialize>(board: &Board, answer: Result<T, NoPolicyAnswer>) -> Response {
    match answer {
        Ok(answer) => {
            Json(Told { behind: board.trouble_of("policy").unwrap_or_default(), answer }).into_response()
        }
        Err(error @ (NoPolicyAnswer::Off | NoPolicyAnswer::NotLoaded | NoPolicyAnswer::Kernel(_))) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response()
        }
        Err(error) => (StatusCode::NOT_FOUND, format!("{error}\n")).into_response(),
    }
}

/// An answer about ingress, or why there is none.
fn tell_ingress<T: serde::Serialize>(board: &Board, answer: Result<T, NoIngressAnswer>) -> Response {
    match answer {
        Ok(answer) => {
            Json(Told { behind: board.trouble_of("ingress").unwrap_or_default(), answer }).into_response()
        }
        Err(error @ NoIngressAnswer::Url(_)) => {
            (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response()
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

async fn ingresses(State(board): State<Board>) -> Response {
    let desk = board.ingress().ok_or(NoIngressAnswer::NotLoaded);
    tell_ingress(&board, desk.and_then(|desk| desk.list()))
}

#[derive(serde::Deserialize)]
struct UrlQuery {
    url: String,
}

async fn explain_url(State(board): State<Board>, Query(asked): Query<UrlQuery>) -> Response {
    let desk = board.ingress().ok_or(NoIngressAnswer::NotLoaded);
    tell_ingress(&board, desk.and_then(|desk| desk.explain(&asked.url)))
}

fn policy_desk(board: &Board) -> Result<PolicyDesk, NoPolicyAnswer> {
    board.policy().ok_or(NoPolicyAnswer::NotLoaded)
}

async fn policies(State(board): State<Board>) -> Response {
    tell_policy(&board, policy_desk(&board).and_then(|desk| desk.list()))
}

async fn policy(State(board): State<Board>, UrlPath(name): UrlPath<(String, String)>) -> Response {
    tell_policy(&board, policy_desk(&board).and_then(|desk| desk.show(&name.0, &name.1)))
}

async fn denials(State(board): State<Board>) -> Response {
    let answer = match policy_desk(&board) {
        Ok(desk) => desk.denials().await,
        Err(error) => Err(error),
    };
    tell_policy(&board, answer)
}

async fn check_policy(State(board): State<Board>, Json(query): Json<CheckQuery>) -> Response {
    let desk = policy_desk(&board);
    // It may be about a long policy: this thread answers health checks too.
    let answer = tokio::task::spawn_blocking(move || desk.and_then(|desk| desk.check(&query))).await;
    match answer {
        Ok(answer) => tell_policy(&board, answer),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn readyz(State(board): State<Board>) -> Response {
    let missing = board.missing();
    if missing.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n").into_response()
}

async fn metrics_text(State(board): State<Board>) -> Response {
    match metrics::text(&board.report()) {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
                .into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
