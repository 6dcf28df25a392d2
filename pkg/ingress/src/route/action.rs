//! What happens to a request: filters, and where it goes.

use crate::auth::Users;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// A route: the filters of a request in the order in which they are asked, and what is done with it then.
///
/// State that outlives a table (rates, counts) is kept by `name`.
#[derive(Debug)]
pub struct Route {
    /// Who it is, for logs, metrics and `explain`; unique in a table.
    pub name: Arc<str>,
    /// Who may come.
    pub sources: SourceRanges,
    /// Plain requests are sent to HTTPS by this status.
    pub https: Option<StatusCode>,
    /// Limits for each client address.
    pub limits: Limits,
    /// Users who may come.
    pub auth: Option<Arc<BasicAuth>>,
    /// Answers for other origins.
    pub cors: Option<Cors>,
    /// The largest body of a request, in bytes; any size when there is none.
    pub body_limit: Option<u64>,
    /// Edits of the request's headers.
    pub request_headers: HeaderEdits,
    /// Edits of the answer's headers.
    pub response_headers: HeaderEdits,
    /// What is done.
    pub action: Action,
}

impl Route {
    /// A route without filters.
    pub fn new(name: impl Into<Arc<str>>, action: Action) -> Self {
        Self {
            name: name.into(),
            sources: SourceRanges::default(),
            https: None,
            limits: Limits::default(),
            auth: None,
            cors: None,
            body_limit: None,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            action,
        }
    }

    /// The backends that it may go to.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        let weighted = match &self.action {
            Action::Forward(forward) => forward.backends.as_slice(),
            Action::Redirect(_) | Action::Answer(_) => &[],
        };
        weighted.iter().map(|weighted| &weighted.backend)
    }
}

/// What is done with a request that passed the filters.
#[derive(Debug)]
pub enum Action {
    /// To a backend.
    Forward(Forward),
    /// Elsewhere, by the client.
    Redirect(Redirect),
    /// Answered at once by this status, without more: 404 where nothing is meant to be, 503 where a backend cannot be served.
    Answer(StatusCode),
}

/// To a backend.
#[derive(Debug, Default)]
pub struct Forward {
    /// Drawn by weight. When all weights are 0, or there is none, the answer is 503.
    pub backends: Vec<Weighted>,
    /// What the path becomes.
    pub path: Option<PathEdit>,
    /// The `Host` that the backend sees; the client's own when there is none.
    pub host: Option<HeaderValue>,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// When another endpoint is tried.
    pub retry: Retry,
}

/// A backend and its share.
#[derive(Clone, Debug)]
pub struct Weighted {
    /// The share among all weights.
    pub weight: u32,
    /// The backend.
    pub backend: Arc<Backend>,
}

/// What the path of a request becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    /// The matched prefix is replaced by this path.
    Prefix(Box<str>),
    /// The whole path is replaced.
    Full(Box<str>),
}

/// How long a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection to an endpoint stands.
    pub connect: Duration,
    /// Between two writes to an endpoint.
    pub send: Duration,
    /// Until an endpoint begins its answer, and between two reads of it.
    pub read: Duration,
    /// The whole request, when it is bounded.
    pub request: Option<Duration>,
}

impl Default for Timeouts {
    /// 5 s to connect; 60 s between reads and writes; no end as a whole.
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { connect: Duration::from_secs(5), send: minute, read: minute, request: None }
    }
}

/// When another endpoint is tried: nothing of the request may have reached the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How many more endpoints are tried.
    pub attempts: u8,
}

impl Default for Retry {
    /// Two more.
    fn default() -> Self {
        Self { attempts: 2 }
    }
}

/// Endpoints that serve the same.
#[derive(Debug, Default)]
pub struct Backend {
    /// Who it is, for logs and metrics, and what its state is kept by: unique in a table.
    pub name: Arc<str>,
    /// What it speaks.
    pub protocol: Protocol,
    /// Where it is.
    pub endpoints: Endpoints,
    /// Keeps a client at one endpoint.
    pub sticky: Option<Sticky>,
    /// Tells an endpoint the client's address before the first request. Such connections are not shared among clients.
    pub proxy_header: Option<ProxyHeader>,
    /// When an endpoint that fails is left alone for a while.
    pub ejection: Ejection,
}

/// The endpoints of a backend. They come and go while the table that holds the backend stays: the one thing of a table that
/// is replaced in place, as a whole.
#[derive(Debug, Default)]
pub struct Endpoints(RwLock<Arc<[Endpoint]>>);

impl Endpoints {
    /// Those of this moment.
    pub fn get(&self) -> Arc<[Endpoint]> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It has these from now on. A data path that serves by the table is to be told.
    pub(crate) fn set(&self, endpoints: Vec<Endpoint>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = endpoints.into();
    }
}

impl From<Vec<Endpoint>> for Endpoints {
    fn from(endpoints: Vec<Endpoint>) -> Self {
        Self(RwLock::new(endpoints.into()))
    }
}

/// What a backend speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, WebSocket and other upgrades included.
    #[default]
    Http1,
    /// HTTP/2 in clear text, known beforehand; gRPC.
    H2c,
}

/// One endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it takes requests.
    pub readiness: Readiness,
}

/// Whether an endpoint takes requests. One that takes none is not listed at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It does.
    Ready,
    /// It ends, and still serves: used when nothing is ready.
    Terminating,
}

/// A cookie that keeps a client at one endpoint for as long as that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sticky {
    /// The name of the cookie; a token.
    pub cookie: Box<str>,
    /// Its path.
    pub path: Box<str>,
    /// How long the client keeps it; until it is closed when there is none.
    pub max_age: Option<Duration>,
    /// What other sites may do with it.
    pub same_site: Option<SameSite>,
    /// Set `Secure`, whatever the request came by.
    pub secure: bool,
}

/// The attribute `SameSite` of a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// `Strict`.
    Strict,
    /// `Lax`.
    Lax,
    /// `None`.
    None,
}

/// The PROXY protocol, towards an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The text form.
    V1,
    /// The binary form.
    V2,
}

/// When an endpoint that fails is left alone for a while. The last one is never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// After how many failures in a row; never when 0.
    pub failures: u32,
    /// For how long at first; twice as long each time after.
    pub base: Duration,
    /// For how long at most.
    pub longest: Duration,
}

impl Default for Ejection {
    /// After 3 failures, for 1 s to 60 s.
    fn default() -> Self {
        Self { failures: 3, base: Duration::from_secs(1), longest: Duration::from_secs(60) }
    }
}

/// An answer that sends the client elsewhere. What is not said stays as the client asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The scheme.
    pub scheme: Option<Scheme>,
    /// The host.
    pub host: Option<Box<str>>,
    /// The port; that of the scheme when scheme or host are said.
    pub port: Option<u16>,
    /// The path. A `Full` one may hold a query, and then the client's is left out.
    pub path: Option<PathEdit>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// A scheme of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In clear text.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that an address of this scheme need not name.
    pub fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Which client addresses may come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceRanges {
    /// Only these, when there are any.
    pub allow: Vec<IpNet>,
    /// Not these, whatever is allowed.
    pub deny: Vec<IpNet>,
}

impl SourceRanges {
    /// Whether an address may come. An IPv4 address in its IPv6 form is the IPv4 address.
    pub fn admits(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        let within = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(&client));
        (self.allow.is_empty() || within(&self.allow)) && !within(&self.deny)
    }
}

/// Limits for each client address, on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// How often requests may come.
    pub rate: Option<Rate>,
    /// How many requests may come at once above the rate.
    pub burst: u32,
    /// Requests under way at once.
    pub concurrent: Option<u32>,
    /// Who is not limited.
    pub exempt: Vec<IpNet>,
}

/// So many in so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub requests: u32,
    /// In how much time.
    pub per: Duration,
}

/// Users and passwords, as in `Authorization: Basic`.
#[derive(Debug)]
pub struct BasicAuth {
    /// What the client shows to whom it asks.
    pub realm: Box<str>,
    /// The users.
    pub users: Arc<Users>,
}

/// What other origins are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Origins that may come: `*`, or `https://example.org`, or `https://*.example.org`.
    pub origins: Vec<Box<str>>,
    /// Methods that they may use.
    pub methods: Vec<Method>,
    /// Headers that they may send.
    pub headers: Vec<HeaderName>,
    /// Headers that they may read.
    pub expose: Vec<HeaderName>,
    /// Whether they may send credentials.
    pub credentials: bool,
    /// How long the answer to a preflight holds.
    pub max_age: Duration,
}

/// Edits of headers, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Taken away.
    pub remove: Vec<HeaderName>,
    /// In place of what was there.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Beside what was there.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderEdits {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}
