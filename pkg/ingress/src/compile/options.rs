//! Options of an Ingress, from its annotations: Warren's own (`ingress.warren.dev/`) and, with the meaning that they have
//! there, the common ones of ingress-nginx. What is not understood is said, never ignored; where it was to keep somebody
//! out, nobody is let in.

use super::values::{self as value, Parsed};
use super::{nginx, rewrite::Rewrite};
use crate::route::{
    Cors, HeaderEdits, Limits, Protocol, ProxyHeader, Redirect, SourceRanges, Sticky, Timeouts,
};
use http::{HeaderValue, Method, StatusCode};
use std::collections::BTreeMap;
use std::time::Duration;
use warren_types::ingress::{CERTIFICATE_PRIVATE, PREFIX_NGINX, PREFIX_OPTIONS};
use warren_types::{Fault, HostPattern, Ingress, Namespace, SecretName};

/// `Access-Control-Max-Age` when nothing is said: a day.
const CORS_MAX_AGE: Duration = Duration::from_secs(86_400);

/// When plain requests are sent to HTTPS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum ToHttps {
    /// Never.
    #[default]
    Never,
    /// Where the host has TLS in this Ingress.
    WithTls,
    /// Always.
    Always,
}

/// Who may come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Users {
    /// The Secret, in the Ingress's namespace, with entry `auth`.
    pub(super) secret: SecretName,
    pub(super) realm: Box<str>,
}

/// What the annotations of one Ingress say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) sources: SourceRanges,
    pub(super) to_https: ToHttps,
    pub(super) https_status: Option<StatusCode>,
    pub(super) redirect: Option<Redirect>,
    pub(super) app_root: Option<Redirect>,
    pub(super) rewrite: Option<Rewrite>,
    pub(super) limits: Limits,
    pub(super) users: Option<Users>,
    pub(super) cors: Option<Cors>,
    pub(super) body_limit: Option<u64>,
    pub(super) request_headers: HeaderEdits,
    pub(super) response_headers: HeaderEdits,
    pub(super) host: Option<HeaderValue>,
    pub(super) timeouts: Timeouts,
    pub(super) retries: Option<u8>,
    pub(super) sticky: Option<Sticky>,
    pub(super) proxy_header: Option<ProxyHeader>,
    pub(super) protocol: Option<Protocol>,
    /// Other names of every host.
    pub(super) aliases: Vec<HostPattern>,
    /// Whether paths are regular expressions where the kind of path allows it.
    pub(super) regular: bool,
    /// Nobody is let in, because something that keeps others out could not be understood.
    pub(super) shut: bool,
}

/// Reads annotations by name, and remembers which were.
pub(super) struct Reader<'a> {
    prefix: &'static str,
    left: BTreeMap<&'a str, &'a str>,
    namespace: &'a Namespace,
    pub(super) faults: Vec<Fault>,
    pub(super) shut: bool,
}

impl<'a> Reader<'a> {
    fn new(prefix: &'static str, of: &'a Ingress) -> Self {
        let all = &of.options;
        let left = all.iter().filter_map(|(name, text)| Some((name.strip_prefix(prefix)?, text.trim())));
        Self { prefix, left: left.collect(), namespace: &of.key.namespace, faults: Vec::new(), shut: false }
    }

    /// The value of an annotation that is there.
    pub(super) fn take<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Parsed<T>) -> Option<T> {
        let text = self.left.remove(name)?;
        parse(text).map_err(|why| self.invalid(name, text, &why)).ok()
    }

    /// The same, for one that keeps somebody out: when it cannot be read, nobody is let in.
    pub(super) fn guard<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Parsed<T>) -> Option<T> {
        let there = self.left.contains_key(name);
        let taken = self.take(name, parse);
        self.shut |= there && taken.is_none();
        taken
    }

    /// The name of a Secret that keeps somebody out. It may come with its namespace, which is the Ingress's own: others' Secrets
    /// are not for it to use.
    pub(super) fn secret(&mut self, name: &str) -> Option<SecretName> {
        let own = self.namespace;
        self.guard(name, |text| {
            let secret = match text.split_once('/') {
                None => text,
                Some((namespace, secret)) if namespace == own.as_ref() => secret,
                Some(_) => return Err(format!("only Secrets of namespace {own} are read for it")),
            };
            SecretName::new(secret).map_err(|e| e.to_string())
        })
    }

    /// Says that an annotation is not understood.
    pub(super) fn foreign(&mut self, name: &str, why: &str) {
        if self.left.remove(name).is_some() {
            self.fault("AnnotationNotUnderstood", format!("{}{name}: {why}", self.prefix));
        }
    }

    /// The same, for one that keeps somebody out.
    pub(super) fn foreign_guard(&mut self, name: &str, why: &str) {
        self.shut |= self.left.contains_key(name);
        self.foreign(name, &format!("{why}; nobody is let in while it is there"));
    }

    /// Whether some annotation is still unread.
    pub(super) fn is_left(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    fn invalid(&mut self, name: &str, text: &str, why: &str) {
        self.fault("AnnotationInvalid", format!("{}{name}: {}: {why}", self.prefix, value::shown(text)));
    }

    fn fault(&mut self, reason: &str, message: String) {
        self.faults.push(Fault { reason: reason.into(), message });
    }

    /// Says of all that is left that it is not understood.
    fn finish(mut self) -> (Vec<Fault>, bool) {
        for (name, _) in std::mem::take(&mut self.left) {
            let message = format!("{}{name} is not understood and has no effect", self.prefix);
            self.fault("AnnotationNotUnderstood", message);
        }
        (self.faults, self.shut)
    }
}

/// Reads the annotations of one prefix.
type Reading = fn(&mut Options, &mut Reader<'_>);

/// What annotations say, and what is wrong with them.
pub(super) fn read(of: &Ingress) -> (Options, Vec<Fault>) {
    let mut options = Options::default();
    let mut faults = Vec::new();
    let mut shut = false;
    // Warren's own are read last: what they say counts.
    let readers: [(&'static str, Reading); 2] = [(PREFIX_NGINX, nginx::read), (PREFIX_OPTIONS, own)];
    for (prefix, read) in readers {
        let mut reader = Reader::new(prefix, of);
        read(&mut options, &mut reader);
        let (found, closed) = reader.finish();
        faults.extend(found);
        shut |= closed;
    }
    options.shut = shut;
    (options, faults)
}

/// Puts a value where there is one.
pub(super) fn put<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

/// The same, for a place that may be empty.
pub(super) fn fill<T>(place: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *place = value;
    }
}

fn own(options: &mut Options, from: &mut Reader<'_>) {
    let always = from.take("redirect-to-https", value::boolean);
    put(&mut options.to_https, always.map(|on| if on { ToHttps::Always } else { ToHttps::Never }));
    let status = from.take("redirect-code", value::redirect_status);
    options.https_status = status.or(options.https_status);
    let redirects =
        [("permanent-redirect", StatusCode::MOVED_PERMANENTLY), ("temporary-redirect", StatusCode::FOUND)];
    for (name, usual) in redirects {
        let redirect = from.take(name, |text| value::redirect(text, status.unwrap_or(usual)));
        fill(&mut options.redirect, redirect);
    }
    fill(&mut options.rewrite, from.take("rewrite-prefix", |text| value::path(text).map(Rewrite::Prefix)));
    fill(&mut options.host, from.take("upstream-host", value::authority));

    let limits = &mut options.limits;
    fill(&mut limits.rate, from.guard("rate-limit", value::rate));
    put(&mut limits.burst, from.guard("rate-limit-burst", value::number));
    fill(&mut limits.concurrent, from.guard("connection-limit", value::positive));
    put(&mut limits.exempt, from.take("rate-limit-exempt", value::ranges));
    if let Some(limit) = from.guard("body-limit", value::size) {
        options.body_limit = limit;
    }
    put(&mut options.sources.allow, from.guard("allow-source-ranges", value::ranges));
    put(&mut options.sources.deny, from.guard("deny-source-ranges", value::ranges));

    put(&mut options.timeouts.connect, from.take("connect-timeout", value::duration));
    put(&mut options.timeouts.send, from.take("send-timeout", value::duration));
    put(&mut options.timeouts.read, from.take("read-timeout", value::duration));
    fill(&mut options.timeouts.request, from.take("request-timeout", value::duration));
    let retries =
        |text: &str| value::number(text).and_then(|n| u8::try_from(n).map_err(|_| "too many".into()));
    fill(&mut options.retries, from.take("retries", retries));

    let secret = from.secret("auth-secret");
    let realm = from.take("auth-realm", value::realm);
    let users = secret.map(|secret| Users { secret, realm: realm.unwrap_or_else(|| "restricted".into()) });
    fill(&mut options.users, users);

    let (set, remove) = ("request-headers-set", "request-headers-remove");
    let edits = value::edits(from.take(set, value::headers), from.take(remove, value::header_removals));
    put(&mut options.request_headers, Some(edits).filter(|edits| !edits.is_empty()));
    let (set, remove) = ("response-headers-set", "response-headers-remove");
    let edits = value::edits(from.take(set, value::headers), from.take(remove, value::header_removals));
    put(&mut options.response_headers, Some(edits).filter(|edits| !edits.is_empty()));

    own_cors(options, from);
    let cookie = from.take("sticky-cookie", value::token);
    let max_age = from.take("sticky-max-age", value::duration);
    fill(&mut options.sticky, cookie.map(|cookie| sticky(cookie, max_age)));
    let version = |text: &str| match text {
        "v1" => Ok(ProxyHeader::V1),
        "v2" => Ok(ProxyHeader::V2),
        _ => Err("use v1 or v2".into()),
    };
    fill(&mut options.proxy_header, from.take("proxy-protocol", version));
    let protocol = |text: &str| match text {
        "http" => Ok(Protocol::Http1),
        "h2c" | "grpc" => Ok(Protocol::H2c),
        _ => Err("use http, h2c or grpc".into()),
    };
    fill(&mut options.protocol, from.take("backend-protocol", protocol));
    put(&mut options.aliases, from.take("aliases", value::hosts));
    // Who has the authority's key reads it; here is seen what comes of it.
    from.take("certificate", |text| match text {
        CERTIFICATE_PRIVATE => Ok(()),
        _ => Err(format!("use {CERTIFICATE_PRIVATE}, or bring a Secret of your own and leave it out")),
    });
}

fn own_cors(options: &mut Options, from: &mut Reader<'_>) {
    let on = from.take("cors", value::boolean);
    let mut cors = usual_cors();
    put(&mut cors.origins, from.guard("cors-origins", value::origins));
    put(&mut cors.methods, from.take("cors-methods", value::methods));
    put(&mut cors.headers, from.take("cors-headers", value::header_names));
    put(&mut cors.expose, from.take("cors-expose-headers", value::header_names));
    put(&mut cors.credentials, from.take("cors-credentials", value::boolean));
    put(&mut cors.max_age, from.take("cors-max-age", value::duration));
    match on {
        Some(true) => options.cors = Some(cors),
        Some(false) => options.cors = None,
        None => {}
    }
}

/// What other origins are told when nothing else is said: whoever shows no credentials may use the common methods.
pub(super) fn usual_cors() -> Cors {
    Cors {
        origins: vec!["*".into()],
        methods: vec![Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::PATCH, Method::OPTIONS],
        headers: Vec::new(),
        expose: Vec::new(),
        credentials: false,
        max_age: CORS_MAX_AGE,
    }
}

/// A cookie that keeps a client at its endpoint, with nothing unusual about it.
pub(super) fn sticky(cookie: Box<str>, max_age: Option<Duration>) -> Sticky {
    Sticky { cookie, path: "/".into(), max_age, same_site: None, secure: false }
}
