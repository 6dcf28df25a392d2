//! From a request to what is done with it: the route, its filters, and the request that a backend sees. No I/O.

use crate::auth::Verdict;
use crate::fields::{Fields, Known};
use crate::h1::head::{Request, Version};
use crate::route::{
    Action, Backend, Forward, HeaderEdits, Matched, PathEdit, Redirect, RequestLine, Route, Scheme, Sticky,
};
use crate::state::{Admission, Exceeded, Live, RouteState};
use crate::text;
use crate::websocket;
use http::{Method, StatusCode};
use ipnet::IpNet;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// The client, or the proxy in front of us.
    pub(crate) address: SocketAddr,
    /// What it connected to.
    pub(crate) local: SocketAddr,
    pub(crate) scheme: Scheme,
    /// The name that it asked for in its handshake of TLS, in lower case.
    pub(crate) name: Option<Box<str>>,
}

/// For whom a request is, and how they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    pub(crate) secure: bool,
    /// Whether the peer may say who the client is.
    trusted: bool,
}

impl Client {
    /// What the peer is, or says when it may.
    pub(crate) fn of(peer: &Peer, fields: &Fields, trusted: &[IpNet]) -> Self {
        let trusts = |address: IpAddr| trusted.iter().any(|range| range.contains(&address.to_canonical()));
        let address = peer.address.ip().to_canonical();
        let secure = peer.scheme == Scheme::Https;
        if trusted.is_empty() || !trusts(address) {
            return Self { address, secure, trusted: false };
        }
        // The last one that no trusted proxy put there.
        let mut said: Vec<IpAddr> = Vec::new();
        for value in fields.values(Known::XForwardedFor) {
            for part in value.split(|byte| *byte == b',') {
                let parsed = std::str::from_utf8(part.trim_ascii()).ok().and_then(|part| part.parse().ok());
                match parsed {
                    Some(address) => said.push(address),
                    // What stands before something unreadable was said by nobody we know.
                    None => said.clear(),
                }
            }
        }
        let real = said.iter().rev().find(|address| !trusts(**address)).or(said.first());
        let address = real.map_or(address, IpAddr::to_canonical);
        let proto = fields.values(Known::XForwardedProto).last();
        let secure = proto.map_or(secure, |proto| proto.eq_ignore_ascii_case(b"https"));
        Self { address, secure, trusted: true }
    }
}

/// An answer of our own.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) fields: Fields,
}

impl Answer {
    pub(crate) fn new(status: StatusCode) -> Self {
        Self { status, fields: Fields::default() }
    }

    fn with(mut self, name: &str, value: &[u8]) -> Self {
        self.fields.push(name.as_bytes(), value);
        self
    }
}

/// What is done with a request.
pub(crate) enum Decision<'a> {
    Answer(Answer),
    Forward { route: &'a Arc<Route>, forward: &'a Forward, depth: usize, admission: Admission },
}

/// The route of a request that came at a port of this scheme.
pub(crate) fn find<'a>(
    live: &'a Live,
    scheme: Scheme,
    request: &Request,
) -> Option<(Matched<'a>, &'a Arc<RouteState>)> {
    let line = RequestLine {
        scheme,
        host: &request.host,
        method: &request.method,
        path: request.path(),
        query: request.query(),
        headers: &request.fields,
    };
    let matched = live.table.find(&line)?;
    Some((matched, &live.routes[matched.index]))
}

/// Asks the filters of a route. `length` is that of the body, when it is known.
pub(crate) async fn decide<'a>(
    live: &'a Live,
    (matched, state): (Matched<'a>, &'a Arc<RouteState>),
    request: &Request,
    client: Client,
    length: Option<u64>,
) -> Decision<'a> {
    let route = matched.route;
    let refuse = |status: StatusCode| Decision::Answer(Answer::new(status));
    if !route.sources.admits(client.address) {
        return refuse(StatusCode::FORBIDDEN);
    }
    if let (Some(status), false) = (route.https, client.secure) {
        let port = live.table.https_port();
        let to = Redirect { scheme: Some(Scheme::Https), host: None, port, path: None, status };
        return Decision::Answer(redirect(&to, request, client, 0));
    }
    let admission = match state.admit(&route.limits, client.address, Instant::now()) {
        Ok(admission) => admission,
        Err(Exceeded::Rate) => {
            return Decision::Answer(Answer::new(StatusCode::TOO_MANY_REQUESTS).with("retry-after", b"1"));
        }
        Err(Exceeded::Concurrent) => return refuse(StatusCode::TOO_MANY_REQUESTS),
    };
    if let Some(answer) = preflight(route, request) {
        return Decision::Answer(answer);
    }
    if let Some(auth) = &route.auth {
        let shown = request.fields.values(Known::Authorization).next();
        if auth.users.verify(shown).await != Verdict::Known {
            let realm: String = auth.realm.chars().filter(|c| *c != '"' && *c != '\\').collect();
            let challenge = format!("Basic realm=\"{realm}\", charset=\"UTF-8\"");
            let answer = Answer::new(StatusCode::UNAUTHORIZED).with("www-authenticate", challenge.as_bytes());
            return Decision::Answer(answer);
        }
    }
    if let (Some(most), Some(length)) = (route.body_limit, length)
        && length > most
    {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE);
    }
    match &route.action {
        Action::Answer(status) => refuse(*status),
        Action::Redirect(to) => Decision::Answer(redirect(to, request, client, matched.depth)),
        Action::Forward(forward) => Decision::Forward { route, forward, depth: matched.depth, admission },
    }
}

fn redirect(to: &Redirect, request: &Request, client: Client, depth: usize) -> Answer {
    let asked = if client.secure { Scheme::Https } else { Scheme::Http };
    let scheme = to.scheme.unwrap_or(asked);
    let (asked_host, asked_port) = split_port(&request.authority);
    let host = to.host.as_deref().unwrap_or(asked_host);
    if host.is_empty() {
        return Answer::new(StatusCode::BAD_REQUEST);
    }
    let kept = if to.scheme.is_none() && to.host.is_none() { asked_port } else { None };
    let port = to.port.or(kept).filter(|port| *port != scheme.port());
    let mut location = format!("{}://{host}", scheme.as_str()).into_bytes();
    if let Some(port) = port {
        location.extend_from_slice(format!(":{port}").as_bytes());
    }
    location.extend_from_slice(&edited(request, to.path.as_ref(), depth));
    Answer::new(to.status).with("location", &location)
}

/// Host and port of an authority that was found valid.
fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

/// Path and query after an edit.
fn edited(request: &Request, edit: Option<&PathEdit>, depth: usize) -> Vec<u8> {
    let mut target = Vec::with_capacity(request.target.len() + 16);
    match edit {
        None => target.extend_from_slice(request.path()),
        Some(PathEdit::Full(path)) => target.extend_from_slice(path.as_bytes()),
        Some(PathEdit::Prefix(prefix)) => {
            target.extend_from_slice(prefix.trim_end_matches('/').as_bytes());
            target.extend_from_slice(after(request.path(), depth));
            if target.first() != Some(&b'/') {
                target.insert(0, b'/');
            }
        }
    }
    if let Some(query) = request.query()
        && !target.contains(&b'?')
    {
        target.push(b'?');
        target.extend_from_slice(query);
    }
    target
}

/// What is left of a path after so many elements: nothing, or something that begins with a slash.
fn after(path: &[u8], depth: usize) -> &[u8] {
    let mut rest = path;
    for _ in 0..depth {
        let begin = rest.iter().position(|byte| *byte != b'/').unwrap_or(rest.len());
        rest = &rest[begin..];
        let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
        rest = &rest[end..];
    }
    rest
}

/// The origin of a request, when the route lets it in.
fn origin<'a>(route: &Route, request: &'a Request) -> Option<&'a [u8]> {
    let cors = route.cors.as_ref()?;
    let origin = request.fields.values(Known::Origin).next()?;
    let fits = |wanted: &str| match wanted.split_once("://*.") {
        _ if wanted == "*" => true,
        Some((scheme, parent)) => std::str::from_utf8(origin).ok().is_some_and(|origin| {
            let label = origin
                .strip_prefix(scheme)
                .and_then(|rest| rest.strip_prefix("://"))
                .and_then(|rest| rest.strip_suffix(parent))
                .and_then(|rest| rest.strip_suffix('.'));
            label.is_some_and(|label| {
                !label.is_empty()
                    && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
            })
        }),
        None => wanted.as_bytes().eq_ignore_ascii_case(origin),
    };
    cors.origins.iter().any(|wanted| fits(wanted)).then_some(origin)
}

fn preflight(route: &Route, request: &Request) -> Option<Answer> {
    let cors = route.cors.as_ref()?;
    if request.method != Method::OPTIONS || request.fields.get("access-control-request-method").is_none() {
        return None;
    }
    let mut answer = Answer::new(StatusCode::NO_CONTENT);
    if origin(route, request).is_some() {
        allow_origin(route, request, &mut answer.fields);
        let methods: Vec<&str> = cors.methods.iter().map(Method::as_str).collect();
        let headers: Vec<&str> = cors.headers.iter().map(http::HeaderName::as_str).collect();
        let fields = &mut answer.fields;
        fields.push(b"access-control-allow-methods", methods.join(", ").as_bytes());
        if !headers.is_empty() {
            fields.push(b"access-control-allow-headers", headers.join(", ").as_bytes());
        }
        fields.push(b"access-control-max-age", cors.max_age.as_secs().to_string().as_bytes());
    }
    Some(answer)
}

/// Says to the browser that the origin may read the answer; in place of what a backend says.
fn allow_origin(route: &Route, request: &Request, fields: &mut Fields) {
    let Some(cors) = &route.cors else { return };
    fields.remove(|_, name| name.len() > 15 && name[..15].eq_ignore_ascii_case(b"access-control-"));
    let Some(origin) = origin(route, request) else { return };
    let anybody = cors.origins.iter().any(|origin| **origin == *"*") && !cors.credentials;
    if anybody {
        fields.push(b"access-control-allow-origin", b"*");
    } else {
        fields.push(b"access-control-allow-origin", origin);
        fields.push(b"vary", b"Origin");
    }
    if cors.credentials {
        fields.push(b"access-control-allow-credentials", b"true");
    }
    if !cors.expose.is_empty() {
        let expose: Vec<&str> = cors.expose.iter().map(http::HeaderName::as_str).collect();
        fields.push(b"access-control-expose-headers", expose.join(", ").as_bytes());
    }
}

/// Makes a request what the backend is to see. What the route cannot change any more: for whom it is, and its length.
pub(crate) fn prepare(
    request: &mut Request,
    peer: &Peer,
    client: Client,
    forward: &Forward,
    route: &Route,
    depth: usize,
) {
    // Whether trailers may come back is asked of each neighbour anew, and gRPC asks it of all.
    let trailers = request.fields.has_token(Known::Te, "trailers");
    request.fields.remove_hop_by_hop();
    let mut chain = Vec::new();
    if client.trusted {
        for value in request.fields.values(Known::XForwardedFor) {
            if std::str::from_utf8(value).is_ok() {
                chain.extend_from_slice(value);
                chain.extend_from_slice(b", ");
            }
        }
    }
    request.fields.remove(|known, name| {
        let ours = matches!(known, Known::Host | Known::Expect | Known::ContentLength);
        ours || known.is_forwarded() || Known::is_disguised(name)
    });
    edit(&mut request.fields, &route.request_headers);
    let fields = &mut request.fields;
    let host = forward.host.as_ref().map_or(request.authority.as_bytes(), |host| host.as_bytes());
    match host {
        // A request of HTTP/1.0 may name no host, and goes on as one of HTTP/1.1, which must: then it is where it came to.
        [] => fields.push(b"host", peer.local.to_string().as_bytes()),
        host => fields.push_known(Known::Host, b"host", |out| out.extend_from_slice(host)),
    }
    let peer_ip = peer.address.ip().to_canonical();
    let scheme = if client.secure { Scheme::Https } else { Scheme::Http };
    fields.push_known(Known::XForwardedFor, b"x-forwarded-for", |out| {
        out.extend_from_slice(&chain);
        text::address(out, peer_ip);
    });
    fields.push_known(Known::XForwardedProto, b"x-forwarded-proto", |out| {
        out.extend_from_slice(scheme.as_str().as_bytes());
    });
    if !request.authority.is_empty() {
        fields.push_known(Known::XForwardedHost, b"x-forwarded-host", |out| {
            out.extend_from_slice(request.authority.as_bytes());
        });
    }
    let port = split_port(&request.authority).1.unwrap_or(match scheme {
        _ if client.trusted => scheme.port(),
        _ => peer.local.port(),
    });
    fields.push_known(Known::XForwardedPort, b"x-forwarded-port", |out| text::number(out, port.into()));
    fields.push_known(Known::XForwarded, b"x-real-ip", |out| text::address(out, client.address));
    fields.push_known(Known::Forwarded, b"forwarded", |out| {
        forwarded(out, client.address, scheme, &request.authority);
    });
    if trailers {
        fields.push(b"te", b"trailers");
    }
    if forward.path.is_some() {
        let target = edited(request, forward.path.as_ref(), depth);
        request.set_target(&target);
    }
}

/// `Forwarded` as RFC 7239 has it, in one element: for whom the request is, by all that is known. What came of it is replaced
/// also when the peer is trusted: most balancers know `X-Forwarded-For` alone, and pass on what their clients say here.
fn forwarded(out: &mut Vec<u8>, client: IpAddr, scheme: Scheme, authority: &str) {
    // Colons and brackets are no part of a token.
    let (begin, end) = if client.is_ipv6() { ("\"[", "]\"") } else { ("", "") };
    let quote = if authority.contains(':') { "\"" } else { "" };
    let put = |out: &mut Vec<u8>, parts: &[&str]| {
        parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    };
    put(out, &["for=", begin]);
    text::address(out, client);
    put(out, &[end, ";proto=", scheme.as_str()]);
    if !authority.is_empty() {
        put(out, &[";host=", quote, authority, quote]);
    }
}

/// Whether a request for this host came by a connection that was made for another one (RFC 9110, 7.4).
///
/// nginx, HAProxy and Envoy serve it; Apache and Traefik answer 421 when the two hosts differ in how TLS is done. Browsers
/// send requests for several hosts by one connection when its certificate covers all of them, so that must be served: the
/// host is right when the name that the client asked for has the host's own certificate, or one whose names cover the host.
/// It is right too when that name has no certificate of its own: who took the default one asked for no name of ours. And a
/// trusted proxy, which speaks for many, may name what it likes. What is left no browser does; whoever does it hides from
/// something on the way to which host they talk. A browser that is told 421 comes again by a connection of its own.
pub(crate) fn is_misdirected(live: &Live, peer: &Peer, request: &Request, client: Client) -> bool {
    let Some(name) = &peer.name else { return false };
    let same = request.host.is_empty() || request.host == **name;
    !same && !client.trusted && !live.table.certificates().is_shared(name, &request.host)
}

/// Makes an answer's headers what the client is to see.
pub(crate) fn finish(fields: &mut Fields, request: &Request, route: &Route, cookie: Option<&[u8]>) {
    fields.remove_hop_by_hop();
    if route.cors.is_some() {
        allow_origin(route, request, fields);
    }
    edit(fields, &route.response_headers);
    if let Some(cookie) = cookie {
        fields.push(b"set-cookie", cookie);
    }
}

fn edit(fields: &mut Fields, edits: &HeaderEdits) {
    if edits.is_empty() {
        return;
    }
    // How a message is framed is nobody's to edit.
    let free = |name: &http::HeaderName| {
        !matches!(
            Known::of(name.as_str().as_bytes()),
            Known::ContentLength | Known::TransferEncoding | Known::Connection | Known::Upgrade | Known::Host
        )
    };
    for name in edits.remove.iter().filter(|name| free(name)) {
        fields.remove(|_, found| found.eq_ignore_ascii_case(name.as_str().as_bytes()));
    }
    for (name, value) in edits.set.iter().filter(|(name, _)| free(name)) {
        fields.set(name.as_str().as_bytes(), value.as_bytes());
    }
    for (name, value) in edits.add.iter().filter(|(name, _)| free(name)) {
        fields.push(name.as_str().as_bytes(), value.as_bytes());
    }
}

/// The value of a cookie.
pub(crate) fn cookie<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    let pairs = fields.values(Known::Cookie).flat_map(|value| value.split(|byte| *byte == b';'));
    pairs
        .filter_map(|pair| std::str::from_utf8(pair.trim_ascii()).ok()?.split_once('='))
        .find_map(|(found, value)| (found == name).then_some(value))
}

/// The cookie that keeps a client at an endpoint.
pub(crate) fn set_cookie(sticky: &Sticky, token: &str, secure: bool) -> String {
    let mut cookie = format!("{}={token}; Path={}; HttpOnly", sticky.cookie, sticky.path);
    if let Some(age) = sticky.max_age {
        let _ = write!(cookie, "; Max-Age={}", age.as_secs());
    }
    if let Some(same_site) = sticky.same_site {
        let _ = write!(cookie, "; SameSite={same_site:?}");
    }
    if sticky.secure || secure {
        cookie.push_str("; Secure");
    }
    cookie
}

/// The backend of a request, by weight.
pub(crate) fn backend(forward: &Forward, mut draw: impl FnMut(usize) -> usize) -> Option<&Arc<Backend>> {
    if let [only] = forward.backends.as_slice() {
        return (only.weight > 0).then_some(&only.backend);
    }
    let total: usize = forward.backends.iter().map(|weighted| weighted.weight as usize).sum();
    if total == 0 {
        return None;
    }
    let mut drawn = draw(total);
    forward.backends.iter().find_map(|weighted| {
        let weight = weighted.weight as usize;
        match drawn < weight {
            true => Some(&weighted.backend),
            false => {
                drawn -= weight;
                None
            }
        }
    })
}

/// The protocol that a client wants to go on with, when a backend is to be asked for it.
pub(crate) fn upgrade(request: &Request) -> Option<Vec<u8>> {
    if request.websocket {
        return Some(websocket::PROTOCOL.to_vec());
    }
    let wanted = request.version == Version::V11
        && request.method == Method::GET
        && request.fields.has_token(Known::Connection, "upgrade");
    let mut protocols = request.fields.values(Known::Upgrade);
    match (wanted, protocols.next(), protocols.next()) {
        // HTTP/2 in clear text is no stream of somebody else's.
        (true, Some(protocol), None) if !protocol.is_empty() && !protocol.eq_ignore_ascii_case(b"h2c") => {
            Some(protocol.to_vec())
        }
        _ => None,
    }
}
