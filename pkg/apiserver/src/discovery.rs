//! What there is: discovery documents, version, OpenAPI.

use axum::body::Body;
use http::{HeaderMap, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::error::ApiResult;
use crate::openapi::{self, Which};
use crate::registry::{KINDS, Kind};
use crate::reply::{self, Form, negotiate};

/// The Kubernetes version whose API this is.
const MINOR: &str = "36";

/// `/version`.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": MINOR,
        "gitVersion": format!("v1.{MINOR}.0+warren-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc", "platform": format!("linux/{}", std::env::consts::ARCH),
    })
}

/// Group versions, in the order of the registry.
fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut all: Vec<(&str, &str)> = Vec::new();
    for k in KINDS {
        if !all.contains(&(k.group, k.version)) {
            all.push((k.group, k.version));
        }
    }
    all
}

/// Groups with their versions, the preferred first, in the order of the registry.
fn groups() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
    for (group, version) in group_versions() {
        match all.iter_mut().find(|(known, _)| *known == group) {
            Some((_, versions)) => versions.push(version),
            None => all.push((group, vec![version])),
        }
    }
    all
}

fn in_group(group: &str, version: &str) -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(move |k| k.group == group && k.version == version)
}

/// Answers a discovery path; `None` when it is none.
pub(crate) fn answer(path: &str, headers: &HeaderMap) -> ApiResult<Option<Response<Body>>> {
    let path = path.trim_end_matches('/');
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let value = match segments.as_slice() {
        ["api" | "apis"] if negotiate(headers, &[Form::Discovery, Form::Object])? == Form::Discovery => {
            let mut response = reply::json(StatusCode::OK, &aggregated(segments == ["api"]));
            let media = http::HeaderValue::from_static(
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            );
            response.headers_mut().insert(header::CONTENT_TYPE, media);
            return Ok(Some(response));
        }
        ["api"] => json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] }),
        ["apis"] => {
            let groups: Vec<Value> =
                groups().iter().filter(|(g, _)| !g.is_empty()).map(|(g, v)| group(g, v)).collect();
            json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
        }
        ["apis", g] => match groups().into_iter().find(|(name, _)| name == g) {
            Some((g, v)) => {
                let mut one = group(g, &v);
                one["kind"] = "APIGroup".into();
                one["apiVersion"] = "v1".into();
                one
            }
            None => return Ok(None),
        },
        ["api", v] if in_group("", v).next().is_some() => resources("", v),
        ["apis", g, v] if !g.is_empty() && in_group(g, v).next().is_some() => resources(g, v),
        ["openapi", "v3"] => openapi::index(&group_versions()),
        ["openapi", "v3", "api", v] => return Ok(openapi_v3("", v, headers)),
        ["openapi", "v3", "apis", g, v] if !g.is_empty() => return Ok(openapi_v3(g, v, headers)),
        ["openapi", "v2"] => return Ok(Some(openapi_v2(headers)?)),
        _ => return Ok(None),
    };
    Ok(Some(reply::json(StatusCode::OK, &value)))
}

fn openapi_v3(group: &str, version: &str, headers: &HeaderMap) -> Option<Response<Body>> {
    let (g, v) = group_versions().into_iter().find(|gv| *gv == (group, version))?;
    Some(show_openapi(openapi::document(Which::V3(g, v)), "application/json", headers))
}

/// JSON, or protobuf for clients that take nothing else.
fn openapi_v2(headers: &HeaderMap) -> ApiResult<Response<Body>> {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if accept.contains(openapi::V2_PROTOBUF_ASKED) || accept.contains(openapi::V2_PROTOBUF) {
        return Ok(show_openapi(openapi::document(Which::V2Protobuf), openapi::V2_PROTOBUF, headers));
    }
    negotiate(headers, &[Form::Object])?;
    Ok(show_openapi(openapi::document(Which::V2), "application/json", headers))
}

/// Sends a document, or says that the client has it already.
fn show_openapi(document: openapi::Document, media: &'static str, headers: &HeaderMap) -> Response<Body> {
    let tag = format!("\"{}\"", document.hash);
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|t| t.as_bytes() == tag.as_bytes());
    let mut response = if known {
        reply::typed(StatusCode::NOT_MODIFIED, media, "")
    } else {
        reply::typed(StatusCode::OK, media, document.bytes)
    };
    if let Ok(tag) = http::HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

fn group(group: &str, versions: &[&str]) -> Value {
    let version = |v: &&str| json!({ "groupVersion": format!("{group}/{v}"), "version": v });
    let versions: Vec<Value> = versions.iter().map(version).collect();
    json!({ "name": group, "versions": versions, "preferredVersion": versions.first() })
}

fn resources(group: &str, version: &str) -> Value {
    let mut list = Vec::new();
    for k in in_group(group, version) {
        let mut r = json!({
            "name": k.plural, "singularName": k.singular, "namespaced": k.namespaced, "kind": k.kind, "verbs": Kind::verbs(),
        });
        if !k.short.is_empty() {
            r["shortNames"] = json!(k.short);
        }
        if !k.categories.is_empty() {
            r["categories"] = json!(k.categories);
        }
        list.push(r);
        if k.status {
            list.push(json!({
                "name": format!("{}/status", k.plural), "singularName": "", "namespaced": k.namespaced, "kind": k.kind,
                "verbs": ["get", "patch", "update"],
            }));
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list })
}

/// Aggregated discovery: the core group under `/api`, the others under `/apis`.
fn aggregated(core: bool) -> Value {
    let items: Vec<Value> = groups()
        .into_iter()
        .filter(|(g, _)| g.is_empty() == core)
        .map(|(g, versions)| {
            let version = |v: &&str| {
                let resources: Vec<Value> = in_group(g, v).map(aggregated_resource).collect();
                json!({ "version": v, "freshness": "Current", "resources": resources })
            };
            let versions: Vec<Value> = versions.iter().map(version).collect();
            json!({ "metadata": { "name": g, "creationTimestamp": null }, "versions": versions })
        })
        .collect();
    json!({ "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items })
}

fn aggregated_resource(k: &Kind) -> Value {
    let kind = json!({ "group": k.group, "version": k.version, "kind": k.kind });
    let mut r = json!({
        "resource": k.plural, "responseKind": kind, "scope": if k.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": k.singular, "verbs": Kind::verbs(),
    });
    if !k.short.is_empty() {
        r["shortNames"] = json!(k.short);
    }
    if !k.categories.is_empty() {
        r["categories"] = json!(k.categories);
    }
    if k.status {
        r["subresources"] =
            json!([{ "subresource": "status", "responseKind": kind, "verbs": ["get", "patch", "update"] }]);
    }
    r
}
