//! Asking a running agent, through its admin socket.

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest answer.
const MAX_ANSWER: usize = 64 << 20;
/// Longest wait.
const LIMIT: Duration = Duration::from_secs(20);

/// Why the agent could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// Nobody listens.
    #[error("no agent answers at {0}")]
    NotRunning(PathBuf),
    /// Only root may ask.
    #[error("{0}: permission denied")]
    Denied(PathBuf),
    /// What was asked about is not there.
    #[error("{0}")]
    NotThere(String),
    /// Something else failed.
    #[error("{path}: {reason}")]
    Failed {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl AskError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotRunning(_) => {
                "start it with `warren agent` (or `systemctl start warren-agent`); --run-dir names another agent's directory"
            }
            Self::Denied(_) => "run this as root, for example with sudo",
            Self::NotThere(_) => {
                "`warren service list` names all Services, `warren policy list` all policies, `warren ipam status` this node's pods; --namespace says where names are looked up"
            }
            Self::Failed { .. } => "look at the agent's log; `warren status` again shows whether it lasts",
        }
    }
}

/// Asks for `path` on the agent's `socket`.
///
/// # Errors
/// [`AskError`].
pub async fn ask<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, AskError> {
    put(socket, http::Request::get(path), Bytes::new()).await
}

/// Asks for `path` on the agent's `socket`, with a question that is longer than an address can be.
///
/// # Errors
/// [`AskError`].
pub async fn ask_about<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    question: &impl Serialize,
) -> Result<T, AskError> {
    let question = serde_json::to_vec(question)
        .map_err(|e| AskError::Failed { path: socket.to_owned(), reason: e.to_string() })?;
    let request = http::Request::post(path).header(http::header::CONTENT_TYPE, "application/json");
    put(socket, request, question.into()).await
}

async fn put<T: DeserializeOwned>(
    socket: &Path,
    request: http::request::Builder,
    body: Bytes,
) -> Result<T, AskError> {
    let failed = |reason: String| AskError::Failed { path: socket.to_owned(), reason };
    match tokio::time::timeout(LIMIT, exchange(socket, request, body)).await {
        Ok(answer) => {
            serde_json::from_slice(&answer?).map_err(|e| failed(format!("the answer is not understood: {e}")))
        }
        Err(_) => Err(failed("the agent does not answer".into())),
    }
}

async fn exchange(socket: &Path, request: http::request::Builder, body: Bytes) -> Result<Bytes, AskError> {
    let failed = |reason: String| AskError::Failed { path: socket.to_owned(), reason };
    let stream = tokio::net::UnixStream::connect(socket).await.map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            AskError::NotRunning(socket.to_owned())
        }
        std::io::ErrorKind::PermissionDenied => AskError::Denied(socket.to_owned()),
        _ => failed(e.to_string()),
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| failed(e.to_string()))?;
    let request = request
        .header(http::header::HOST, "warren")
        .body(Full::new(body))
        .map_err(|e| failed(e.to_string()))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| failed(e.to_string()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|e| failed(e.to_string()))?.to_bytes();
        if status.is_success() {
            Ok(body)
        } else if status == http::StatusCode::NOT_FOUND && !body.is_empty() {
            Err(AskError::NotThere(String::from_utf8_lossy(&body).trim().to_owned()))
        } else {
            Err(failed(format!("{status}: {}", String::from_utf8_lossy(&body).trim())))
        }
    };
    tokio::pin!(connection);
    tokio::pin!(answer);
    tokio::select! {
        a = &mut answer => a,
        // The connection ends when the answer is complete; what is buffered is still read.
        _ = &mut connection => answer.await,
    }
}
