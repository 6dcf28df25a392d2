//! HTTP/1, strictly: what two parsers might read differently is refused, and the connection ended.

pub(crate) mod body;
pub(crate) mod buffer;
pub(crate) mod head;
pub(crate) mod io;
#[cfg(test)]
mod tests;

/// Why bytes are no message. The connection cannot be used any more: where the next message begins is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Bad {
    #[error("a line does not end with CR LF")]
    Line,
    #[error("the first line is malformed")]
    FirstLine,
    #[error("the version is not HTTP/1.0 or HTTP/1.1")]
    Version,
    #[error("a header is malformed")]
    Field,
    #[error("a header goes on in the next line")]
    Folded,
    #[error("there are too many headers, or they are too long")]
    TooLarge,
    #[error("Content-Length is malformed or there is more than one")]
    Length,
    #[error("Transfer-Encoding is not `chunked` alone, or is not allowed here")]
    TransferEncoding,
    #[error("both Content-Length and Transfer-Encoding")]
    Both,
    #[error("Host is missing, malformed, more than one, or not that of the target")]
    Host,
    #[error("the target is ambiguous or malformed")]
    Target,
    #[error("a chunk is malformed")]
    Chunk,
    #[error("the protocol of an extended CONNECT is not `websocket`")]
    Protocol,
}

impl Bad {
    /// The status that a client is told.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::TooLarge => 431,
            Self::Protocol => 501,
            Self::Version => 505,
            _ => 400,
        }
    }
}
