//! What would become of a URL, step by step, by the table that serves.

use crate::compile::Compiled;
use crate::route::{
    Action, Backend, Forward, HostMatch, Match, Matched, PathEdit, PathMatch, Protocol, Readiness, Redirect,
    RequestLine, Route, Scheme, ValueMatch,
};
use crate::target;
use http::{HeaderMap, Method, Uri};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

/// Endpoints that are named.
const ENDPOINTS: usize = 20;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What it is about, in one word.
    pub about: String,
    /// What happens, or is found.
    pub says: String,
}

/// What would become of a URL.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Explained {
    /// The URL.
    pub url: String,
    /// Step by step.
    pub steps: Vec<Step>,
    /// Whether a request can get to an endpoint, or to what was meant to answer it.
    pub served: bool,
}

/// Why a URL cannot be explained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no URL such as https://example.org/path")]
pub struct InvalidUrl(String);

/// Says what would become of a GET of `url`. Without a scheme, `http` is meant.
///
/// # Errors
/// When it is no URL.
pub fn explain(compiled: &Compiled, url: &str) -> Result<Explained, InvalidUrl> {
    let invalid = || InvalidUrl(url.chars().take(200).collect());
    let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let uri: Uri = full.parse().map_err(|_| invalid())?;
    let https = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(invalid()),
    };
    let authority = uri.authority().ok_or_else(invalid)?.as_str();
    let host = target::host_of(authority).ok_or_else(invalid)?.to_ascii_lowercase();
    let mut explained = Explained { url: full.clone(), steps: Vec::new(), served: false };
    if https {
        explained.say("certificate", certificate(compiled, &host));
    }
    let query = uri.query().map(str::as_bytes);
    if !target::is_acceptable(uri.path().as_bytes(), query) {
        explained.say("answer", "400: the path can be read in more than one way");
        return Ok(explained);
    }
    let headers = HeaderMap::new();
    let request = RequestLine {
        scheme: if https { Scheme::Https } else { Scheme::Http },
        host: &host,
        method: &Method::GET,
        path: uri.path().as_bytes(),
        query,
        headers: &headers,
    };
    match compiled.table.find(&request) {
        None => explained
            .say("route", "none: no rule takes this host and path, and there is no default backend; 404"),
        Some(found) => {
            explained.route(&found, https, authority);
            explained.others(compiled, &found);
        }
    }
    Ok(explained)
}

fn certificate(compiled: &Compiled, host: &str) -> String {
    let wildcard = host.split_once('.').map(|(_, parent)| format!("*.{parent}"));
    let of =
        |name: &str| compiled.certificates.get(name).map(|secret| format!("Secret {secret}, for {name}"));
    let own = of(host).or_else(|| wildcard.and_then(|name| of(&name)));
    let why = "no Ingress names a Secret for this host";
    let from = own.unwrap_or_else(|| match (&compiled.default, &compiled.default_fault) {
        (Some(secret), _) => format!("the default one, of Secret {secret}: {why}"),
        (None, Some(fault)) => {
            format!("the default one, which nobody vouches for: {why}, and {}", fault.message)
        }
        (None, None) => format!("the default one, which nobody vouches for: {why}"),
    });
    let shown = compiled.table.certificates().find(Some(host));
    format!("{from}{}", shown.and_then(|shown| issued(shown)).unwrap_or_default())
}

/// By whom a certificate was issued, and how long it is good.
fn issued(shown: &CertifiedKey) -> Option<String> {
    let (_, cert) = x509_parser::parse_x509_certificate(shown.end_entity_cert().ok()?).ok()?;
    let until = jiff::Timestamp::from_second(cert.validity().not_after.timestamp()).ok()?;
    let until = until.strftime("%Y-%m-%d");
    Some(match cert.issuer() == cert.subject() {
        true => format!("; signed by itself, good until {until}"),
        false => format!("; issued by {}, good until {until}", cert.issuer()),
    })
}

impl Explained {
    fn say(&mut self, about: &str, says: impl Into<String>) {
        self.steps.push(Step { about: about.into(), says: says.into() });
    }

    fn route(&mut self, found: &Matched<'_>, https: bool, authority: &str) {
        let route = found.route;
        let (kind, key) = object_of(route);
        let by = found.matching.map_or_else(
            || "default backend, since no rule takes this host and path".to_owned(),
            |matching| format!("host {}, {}", host(&matching.host), path(&matching.path)),
        );
        self.say("route", format!("{kind} {key}: {by}"));
        self.filters(route, https);
        match &route.action {
            Action::Answer(status) => {
                self.say(
                    "answer",
                    format!(
                        "{status}: `kubectl describe {}` says what is wrong with it",
                        kind.to_ascii_lowercase()
                    ),
                );
            }
            Action::Redirect(redirect) => {
                self.say(
                    "answer",
                    format!("{} to {}", redirect.status, location(redirect, https, authority)),
                );
                self.served = true;
            }
            Action::Forward(forward) => self.forward(forward),
        }
    }

    /// Who else takes requests of this host and path, under conditions that a plain GET does not meet.
    fn others(&mut self, compiled: &Compiled, found: &Matched<'_>) {
        let Some(by) = found.matching else { return };
        let same = |matching: &Match| {
            matching.host == by.host && matching.path == by.path && matching.scheme == by.scheme
        };
        for (matching, route) in compiled.table.entries().filter(|(matching, _)| same(matching)) {
            let asked = conditions(matching);
            if !std::ptr::eq(matching, by) && !asked.is_empty() {
                let (kind, key) = object_of(route);
                self.say("others", format!("with {}: {kind} {key}", asked.join(", ")));
            }
        }
    }

    fn filters(&mut self, route: &Route, https: bool) {
        let ranges =
            |ranges: &[ipnet::IpNet]| ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if !route.sources.allow.is_empty() {
            self.say("filter", format!("only clients in {}; 403 for others", ranges(&route.sources.allow)));
        }
        if !route.sources.deny.is_empty() {
            self.say("filter", format!("no clients in {}; 403 for them", ranges(&route.sources.deny)));
        }
        if let Some(status) = route.https.filter(|_| !https) {
            self.say("filter", format!("{status} to https, since the request is plain"));
        }
        if let Some(rate) = route.limits.rate {
            let says = format!(
                "{} requests in {:?} for each client, {} more at once",
                rate.requests, rate.per, route.limits.burst
            );
            self.say("filter", says);
        }
        if let Some(most) = route.limits.concurrent {
            self.say("filter", format!("{most} requests at once for each client"));
        }
        if let Some(auth) = &route.auth {
            self.say("filter", format!("users of {:?} only; 401 for others", auth.realm));
        }
        if let Some(limit) = route.body_limit {
            self.say("filter", format!("bodies of up to {limit} bytes; 413 for larger ones"));
        }
    }

    fn forward(&mut self, forward: &Forward) {
        match &forward.path {
            None => {}
            Some(PathEdit::Prefix(to)) => self.say("rewrite", format!("what the rule matched becomes {to}")),
            Some(PathEdit::Full(to)) => self.say("rewrite", format!("the path becomes {to}")),
        }
        for weighted in &forward.backends {
            self.backend(&weighted.backend);
        }
    }

    fn backend(&mut self, backend: &Backend) {
        let protocol = match backend.protocol {
            Protocol::Http1 => "HTTP/1.1",
            Protocol::H2c => "HTTP/2 in clear text",
        };
        self.say("backend", format!("Service {}, by {protocol}", backend.name));
        let endpoints = backend.endpoints.get();
        if endpoints.is_empty() {
            return self.say("endpoints", "none is ready; 503");
        }
        self.served = true;
        let ready = endpoints.iter().filter(|e| e.readiness == Readiness::Ready).count();
        let shown = endpoints.iter().take(ENDPOINTS).map(|endpoint| match endpoint.readiness {
            Readiness::Ready => endpoint.address.to_string(),
            Readiness::Terminating if ready == 0 => {
                format!("{} (ends, but there is no other)", endpoint.address)
            }
            Readiness::Terminating => format!("{} (ends, gets nothing new)", endpoint.address),
        });
        let mut shown: Vec<String> = shown.collect();
        if endpoints.len() > ENDPOINTS {
            shown.push(format!("and {} more", endpoints.len() - ENDPOINTS));
        }
        let choice = if ready > 1 { ": of two drawn ones that with fewer requests" } else { "" };
        self.say("endpoints", format!("{}{choice}", shown.join(", ")));
    }
}

/// Kind and key of the object that a route is of. The key of an Ingress has one slash; others begin with their kind.
fn object_of(route: &Route) -> (&str, &str) {
    let (object, _) = route.name.split_once(' ').unwrap_or((&route.name, ""));
    match object.split_once('/') {
        Some((kind, key)) if key.contains('/') => (kind, key),
        _ => ("Ingress", object),
    }
}

/// What a match asks for besides host and path.
fn conditions(matching: &Match) -> Vec<String> {
    let value = |value: &ValueMatch| match value {
        ValueMatch::Exact(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        ValueMatch::Present => "anything".into(),
    };
    let method = matching.method.iter().map(|method| format!("method {method}"));
    let headers = matching.headers.iter().map(|(name, wanted)| format!("header {name}: {}", value(wanted)));
    let query = matching.query.iter().map(|(name, wanted)| format!("parameter {name}={}", value(wanted)));
    method.chain(headers).chain(query).collect()
}

fn host(host: &HostMatch) -> String {
    match host {
        HostMatch::Exact(name) => name.to_string(),
        HostMatch::Wildcard(parent) | HostMatch::Below(parent) => format!("*.{parent}"),
        HostMatch::Any => "*".into(),
    }
}

fn path(path: &PathMatch) -> String {
    match path {
        PathMatch::Exact(path) => format!("path {path}, exactly"),
        PathMatch::Prefix(path) => format!("path {path} and below"),
    }
}

/// Where a redirect leads, of a URL with this authority.
fn location(redirect: &Redirect, https: bool, authority: &str) -> String {
    let asked = if https { Scheme::Https } else { Scheme::Http };
    let scheme = redirect.scheme.unwrap_or(asked);
    let host = match &redirect.host {
        Some(host) => host,
        // The port stays only where the scheme does.
        None if redirect.scheme.is_none() && redirect.port.is_none() => authority,
        None => target::host_of(authority).unwrap_or(authority),
    };
    let port = redirect.port.filter(|port| *port != scheme.port()).map(|port| format!(":{port}"));
    let path = match &redirect.path {
        Some(PathEdit::Full(path)) => path.to_string(),
        Some(PathEdit::Prefix(path)) => format!("{path} and the rest of the path"),
        None => " and the path".into(),
    };
    format!("{}://{host}{}{path}", scheme.as_str(), port.unwrap_or_default())
}

#[cfg(test)]
mod tests;
