//! What a request is matched by.

use super::action::Scheme;
use http::{HeaderName, Method};

/// Which requests a route is for: all parts must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The host that the request names.
    pub host: HostMatch,
    /// The path.
    pub path: PathMatch,
    /// The scheme of the port at which it came; either when there is none.
    pub scheme: Option<Scheme>,
    /// The method; any when there is none.
    pub method: Option<Method>,
    /// Headers that must be there.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// Parameters of the query that must be there, as the bytes that the client sent. The first of a name counts.
    pub query: Vec<(String, ValueMatch)>,
}

impl Match {
    /// A match on host and path alone.
    pub fn new(host: HostMatch, path: PathMatch) -> Self {
        Self { host, path, scheme: None, method: None, headers: Vec::new(), query: Vec::new() }
    }
}

/// A match on the host of a request; the port does not count, nor does case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostMatch {
    /// This name, in lower case.
    Exact(Box<str>),
    /// One label, whatever it is, before this name: `*.example.org` is `Wildcard("example.org")`.
    Wildcard(Box<str>),
    /// One or more labels, whatever they are, before this name.
    Below(Box<str>),
    /// Any host.
    Any,
}

impl HostMatch {
    /// From `example.org` or `*.example.org`; the caller has validated the name.
    pub fn from_name(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        match name.strip_prefix("*.") {
            Some(parent) => Self::Wildcard(parent.into()),
            None => Self::Exact(name.into()),
        }
    }
}

/// A match on the path of a request.
///
/// Paths are compared element by element, after percent-decoding and with empty elements left out, so that `/a//%62` is not
/// a way around a route for `/a/b`. What is sent on are the bytes that the client sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// This path; a slash at the end counts.
    Exact(Box<str>),
    /// This path and all below it, by elements: `/a` matches `/a`, `/a/` and `/a/b`, not `/ab`. A slash at the end does not
    /// count.
    Prefix(Box<str>),
}

impl PathMatch {
    /// The path that was asked for.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Exact(path) | Self::Prefix(path) => path,
        }
    }
}

/// A match on a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// These bytes.
    Exact(Box<[u8]>),
    /// Any value.
    Present,
}

impl ValueMatch {
    /// Whether a value matches.
    pub fn accepts(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(wanted) => **wanted == *value,
            Self::Present => true,
        }
    }
}

/// What a request is, as far as routes ask.
#[derive(Clone, Copy)]
pub struct RequestLine<'a> {
    /// The scheme of the port at which it came.
    pub scheme: Scheme,
    /// The host, without port, in lower case; empty when a client of HTTP/1.0 names none.
    pub host: &'a str,
    /// The method.
    pub method: &'a Method,
    /// The path, as sent; it begins with a slash, or is `*`.
    pub path: &'a [u8],
    /// The query, as sent, without its question mark.
    pub query: Option<&'a [u8]>,
    /// The headers.
    pub headers: &'a dyn HeaderFields,
}

/// Headers of a request, however they are held.
pub trait HeaderFields {
    /// Whether a header of this name (in lower case) has a value that passes the test.
    fn any(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool;
}

impl HeaderFields for http::HeaderMap {
    fn any(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.get_all(name).iter().any(|value| test(value.as_bytes()))
    }
}

impl Match {
    /// Whether scheme, method, headers and query match. Host and path are found by the table.
    pub(super) fn accepts(&self, request: &RequestLine<'_>) -> bool {
        self.scheme.is_none_or(|scheme| scheme == request.scheme)
            && self.method.as_ref().is_none_or(|method| method == request.method)
            && self
                .headers
                .iter()
                .all(|(name, value)| request.headers.any(name.as_str(), &mut |found| value.accepts(found)))
            && self.query.iter().all(|(name, value)| {
                parameter(request.query.unwrap_or_default(), name.as_bytes())
                    .is_some_and(|found| value.accepts(found))
            })
    }

    /// What comes first among matches of one path: a method, then more headers, then more parameters. Smaller is earlier.
    pub(super) fn rank(&self) -> (bool, std::cmp::Reverse<usize>, std::cmp::Reverse<usize>) {
        use std::cmp::Reverse;
        (self.method.is_none(), Reverse(self.headers.len()), Reverse(self.query.len()))
    }
}

/// The value of the first parameter of a name.
fn parameter<'a>(query: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    query.split(|byte| *byte == b'&').find_map(|pair| {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        (parts.next() == Some(name)).then(|| parts.next().unwrap_or_default())
    })
}
