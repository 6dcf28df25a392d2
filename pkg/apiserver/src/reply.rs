//! Answers: JSON bodies, and what form of an object the client asked for.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::Value;

use crate::error::{ApiError, ApiResult};

/// How objects are to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they are.
    Object,
    /// As rows of a table for people (`as=Table`).
    Table,
    /// Metadata only (`as=PartialObjectMetadata`, `as=PartialObjectMetadataList`).
    Partial,
    /// Aggregated discovery.
    Discovery,
}

/// What one entry of an Accept header asks for; `None`: something that is not spoken here.
fn form(entry: &str) -> Option<Form> {
    let mut parts = entry.split(';').map(str::trim);
    let media = parts.next()?;
    if !matches!(media, "application/json" | "application/*" | "*/*") {
        return None;
    }
    let mut wanted = ("", "", "");
    for p in parts {
        match p.split_once('=') {
            Some(("as", v)) => wanted.0 = v,
            Some(("g", v)) => wanted.1 = v,
            Some(("v", v)) => wanted.2 = v,
            _ => {}
        }
    }
    match wanted {
        ("", ..) => Some(Form::Object),
        ("Table", "meta.k8s.io", "v1" | "v1beta1") => Some(Form::Table),
        ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => Some(Form::Partial),
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Some(Form::Discovery),
        _ => None,
    }
}

/// The first form of the Accept header that is among `offered`.
pub(crate) fn negotiate(headers: &HeaderMap, offered: &[Form]) -> ApiResult<Form> {
    let mut asked = false;
    for value in headers.get_all(header::ACCEPT) {
        let Ok(text) = value.to_str() else { continue };
        for entry in text.split(',').filter(|e| !e.trim().is_empty()) {
            asked = true;
            if let Some(f) = form(entry).filter(|f| offered.contains(f)) {
                return Ok(f);
            }
        }
    }
    if asked { Err(ApiError::not_acceptable()) } else { Ok(Form::Object) }
}

/// A JSON answer from bytes.
pub(crate) fn bytes(code: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    typed(code, "application/json", body)
}

/// An answer of a media type.
pub(crate) fn typed(code: StatusCode, media: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A JSON answer.
pub(crate) fn json(code: StatusCode, value: &Value) -> Response<Body> {
    bytes(code, value.to_string())
}

/// A text answer.
pub(crate) fn text(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    typed(code, "text/plain; charset=utf-8", text.into())
}

/// Adds a `Warning` header (RFC 9111) that clients show to their users.
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for w in warnings.iter().take(20) {
        let mut clean = String::new();
        for c in w.chars().filter(|c| !c.is_control()).take(300) {
            if matches!(c, '"' | '\\') {
                clean.push('\\');
            }
            clean.push(c);
        }
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{clean}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(accept: &str) -> Option<Form> {
        let mut h = HeaderMap::new();
        h.insert(header::ACCEPT, accept.parse().unwrap());
        negotiate(&h, &[Form::Object, Form::Table, Form::Partial]).ok()
    }

    #[test]
    fn accept_headers_of_known_clients() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(ask(kubectl), Some(Form::Table));
        assert_eq!(ask("application/vnd.kubernetes.protobuf,application/json"), Some(Form::Object));
        assert_eq!(
            ask("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
            Some(Form::Partial)
        );
        assert_eq!(ask("*/*"), Some(Form::Object));
        assert_eq!(
            ask("application/json;as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io,application/json"),
            Some(Form::Object)
        );
        assert_eq!(ask("text/html"), None);
        assert_eq!(negotiate(&HeaderMap::new(), &[Form::Object]).ok(), Some(Form::Object));
    }
}
