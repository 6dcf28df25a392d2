//! What can go wrong.

use crate::h1::Bad;
use std::io;

/// Why the ingress cannot begin to serve.
#[derive(Debug, thiserror::Error)]
pub enum IngressError {
    /// A listening socket cannot be used.
    #[error("the listening socket {name} cannot be used: {source}")]
    Listener {
        /// Which one.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A thread cannot be started.
    #[error("a thread for HTTP cannot be started: {0}; raise the limit of tasks of the service")]
    Thread(io::Error),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(rustls::Error),
}

/// Why a connection cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("malformed: {0}")]
    Bad(#[from] Bad),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("closed in the middle of a message")]
    Closed,
    #[error("silent for too long")]
    Slow,
    #[error("HTTP/2: {0}")]
    H2(#[from] h2::Error),
    #[error("the body is larger than the route allows")]
    TooLarge,
}
