//! Requests and answers as lines of JSON over unix sockets: one request a connection, progress, then one result.

use crate::LabError;
use crate::wire::Event;
use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Longest request or answer line.
const MAX_LINE: u64 = 16 << 20;
/// Requests under way at most; further ones wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 128;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a handler says what it is doing.
#[derive(Debug, Clone)]
pub(crate) struct Progress(mpsc::Sender<String>);

impl Progress {
    pub(crate) fn to(sender: mpsc::Sender<String>) -> Self {
        Self(sender)
    }
    /// Says it; a listener that is too slow misses it.
    pub(crate) fn say(&self, text: impl Into<String>) {
        let _ = self.0.try_send(text.into());
    }
}

/// Answers requests of type `Q`.
pub(crate) trait Handler<Q>: Send + Sync + 'static {
    /// Carries out one request.
    fn handle(
        self: Arc<Self>,
        request: Q,
        progress: Progress,
    ) -> BoxFuture<'static, Result<serde_json::Value, LabError>>;
}

/// Binds a socket that only root may use.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, LabError> {
    UnixListener::bind(path).map_err(LabError::io(format!("bind {}", path.display())))
}

/// Accepts and answers until the process ends.
pub(crate) async fn serve<Q, H>(listener: UnixListener, handler: Arc<H>)
where
    Q: DeserializeOwned + Send + 'static,
    H: Handler<Q>,
{
    let mut connections = JoinSet::new();
    loop {
        if connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
            continue;
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let trusted = stream.peer_cred().is_ok_and(|c| c.uid() == nix::unistd::geteuid().as_raw());
                    if trusted {
                        connections.spawn(connection(stream, Arc::clone(&handler)));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "accept on a control socket");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn connection<Q: DeserializeOwned, H: Handler<Q>>(stream: UnixStream, handler: Arc<H>) {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(read).take(MAX_LINE);
    match tokio::time::timeout(REQUEST_TIMEOUT, reader.read_line(&mut line)).await {
        Ok(Ok(n)) if n > 0 => {}
        _ => return,
    }
    let (sender, mut progress) = mpsc::channel(64);
    let answer = async {
        match serde_json::from_str(&line) {
            Ok(request) => handler.handle(request, Progress::to(sender)).await,
            Err(e) => Err(LabError::Refused(format!(
                "the lab is of another version of warren than this command: {e}"
            ))),
        }
    };
    tokio::pin!(answer);
    let result = loop {
        tokio::select! {
            result = &mut answer => break result,
            Some(text) = progress.recv() => {
                // Whoever asked may be gone; the work is finished all the same.
                let _ = write_line(&mut write, &Event::Progress(text)).await;
            }
        }
    };
    let event = match result {
        Ok(value) => Event::Done(value),
        Err(error) => Event::Failed(error.to_string()),
    };
    let _ = write_line(&mut write, &event).await;
}

/// Says something to whoever started this process.
pub(crate) fn say(message: &impl Serialize) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()
}

pub(crate) async fn write_line<W>(write: &mut W, message: &impl Serialize) -> std::io::Result<()>
where
    W: tokio::io::AsyncWrite + Unpin,
{
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    write.write_all(&line).await
}

/// Asks the process behind `socket`, and returns its result.
pub(crate) async fn call<T: DeserializeOwned>(
    socket: PathBuf,
    request: &impl Serialize,
    limit: Duration,
    mut on_progress: impl FnMut(String),
) -> Result<T, LabError> {
    let shown = socket.display().to_string();
    let asked = async {
        let stream =
            UnixStream::connect(&socket).await.map_err(LabError::io(format!("connect to {shown}")))?;
        let (read, mut write) = stream.into_split();
        write_line(&mut write, request).await.map_err(LabError::io(format!("write to {shown}")))?;
        let mut lines = BufReader::new(read);
        let mut line = String::new();
        loop {
            line.clear();
            let got = (&mut lines).take(MAX_LINE).read_line(&mut line).await;
            if got.map_err(LabError::io(format!("read from {shown}")))? == 0 {
                return Err(LabError::Remote(format!(
                    "{shown}: the other end stopped before it had answered"
                )));
            }
            match serde_json::from_str(&line).map_err(LabError::message(format!("an answer from {shown}")))? {
                Event::Progress(text) => on_progress(text),
                Event::Failed(text) => return Err(LabError::Remote(text)),
                Event::Done(value) => {
                    return serde_json::from_value(value)
                        .map_err(LabError::message(format!("a result from {shown}")));
                }
            }
        }
    };
    match tokio::time::timeout(limit, asked).await {
        Ok(result) => result,
        Err(_) => {
            Err(LabError::Timeout { what: "an answer".into(), limit, log: socket.with_file_name("logs") })
        }
    }
}
