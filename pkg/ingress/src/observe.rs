//! What was served, for logs and metrics.

use crate::h1::head::Version;
use http::Method;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A request that has come to its end.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The client: the peer, or whom a trusted peer named.
    pub client: IpAddr,
    /// The method.
    pub method: &'a Method,
    /// The version of HTTP, as `HTTP/1.1`.
    pub protocol: &'static str,
    /// The host, in lower case, without port.
    pub host: &'a str,
    /// Path and query as the client sent them.
    pub target: &'a [u8],
    /// The route; none was found otherwise.
    pub route: Option<&'a str>,
    /// The endpoint that answered.
    pub endpoint: Option<SocketAddr>,
    /// The status; 499 when client or backend broke off.
    pub status: u16,
    /// Bytes of the answer's body.
    pub sent: u64,
    /// From the end of the request's head to the end of the answer.
    pub took: Duration,
}

/// How logs name a version.
pub(crate) fn protocol(version: Version) -> &'static str {
    match version {
        Version::V10 => "HTTP/1.0",
        Version::V11 => "HTTP/1.1",
        Version::V2 => "HTTP/2.0",
    }
}

/// Who is told of each request. It is called on the thread that serves, so it must be quick.
pub trait Observer: Send + Sync {
    /// A request has come to its end.
    fn done(&self, record: &Record<'_>);
}
