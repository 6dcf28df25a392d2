//! Lists: selection, paging over a kept state, and the forms of a list.

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut, BytesMut};
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::ops::Bound;
use std::sync::Arc;

use crate::error::{ApiError, ApiResult};
use crate::query::{Params, Target};
use crate::reply::{self, Form};
use crate::selector::Selector;
use crate::storage::{Cache, Object, object_key};
use crate::table::{partial, table};
use crate::watch::Shape;

/// Where a paged list goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Continue {
    /// The state that the list reads.
    rv: u64,
    /// The last key it has shown.
    after: String,
}

impl Continue {
    fn decode(text: &str) -> ApiResult<Self> {
        let bad = || ApiError::bad_request("continue key is not valid");
        let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
        serde_json::from_slice(&json).map_err(|_| bad())
    }
    fn encode(&self) -> ApiResult<String> {
        Ok(URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).map_err(ApiError::internal)?))
    }
}

/// More that a list has.
pub(crate) struct More {
    token: String,
    remaining: Option<usize>,
}

/// Answers a list.
pub(crate) fn list(
    cache: &Cache,
    target: &Target,
    params: &Params,
    shape: Shape,
    now: Timestamp,
) -> ApiResult<Response<Body>> {
    let selector = Selector::parse(
        target.kind.get(),
        target.namespace.as_deref(),
        &params.label_selector,
        &params.field_selector,
    )?;
    let (mut objects, mut revision) = cache.list(target.kind);
    let mut from = Bound::Unbounded;
    if params.send_initial_events.is_some() {
        return Err(ApiError::unprocessable(
            "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
        ));
    }
    if params.continue_token.is_empty() {
        let asked = params.revision()?;
        // A state of the past, if it is still there.
        match asked.filter(|n| params.resource_version_match == "Exact" && *n > 0 && *n < revision) {
            Some(past) => {
                objects = cache.snapshot(target.kind, past).ok_or_else(|| {
                    ApiError::expired(format!(
                        "The resourceVersion for the provided list is too old: {past} ({revision})"
                    ))
                })?;
                revision = past;
            }
            None => check_version(params, revision)?,
        }
    } else {
        if !params.resource_version_match.is_empty() {
            return Err(ApiError::unprocessable(
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        if params.revision()?.is_some_and(|n| n > 0) {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let token = Continue::decode(&params.continue_token)?;
        objects = cache.snapshot(target.kind, token.rv).ok_or_else(|| {
            ApiError::expired("The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue parameter.")
        })?;
        revision = token.rv;
        from = Bound::Excluded(token.after);
    }
    // A namespace's objects stand together; a single name is looked up.
    let mut page: Vec<Arc<Object>> = Vec::new();
    let mut more = None;
    if let (Some(name), true) =
        (selector.single_name(), target.namespace.is_some() || !target.kind.get().namespaced)
    {
        let key = object_key(target.namespace.as_deref().unwrap_or_default(), name);
        page.extend(objects.get(&key).filter(|o| selector.matches(&o.value, &o.namespace)).cloned());
        return Ok(render(shape, &page, revision, None, now));
    }
    let start = match (&target.namespace, from) {
        (Some(ns), Bound::Unbounded) => Bound::Included(format!("{ns}/")),
        (_, from) => from,
    };
    let in_namespace = |o: &&Arc<Object>| target.namespace.as_deref().is_none_or(|ns| o.namespace == ns);
    let mut rest = objects
        .range((start, Bound::Unbounded))
        .map(|(_, o)| o)
        .take_while(in_namespace)
        .filter(|o| selector.matches(&o.value, &o.namespace));
    let limit = if params.limit == 0 { usize::MAX } else { params.limit };
    page.extend(rest.by_ref().take(limit).cloned());
    if let (Some(last), Some(_)) = (page.last(), rest.next()) {
        let token = Continue { rv: revision, after: last.key() }.encode()?;
        // With selectors the rest is not counted, as in Kubernetes.
        let remaining = selector.is_everything().then(|| rest.count() + 1);
        more = Some(More { token, remaining });
        cache.keep_snapshot(target.kind, revision, objects.clone());
    }
    Ok(render(shape, &page, revision, more, now))
}

/// Whether the current state is what the client's resourceVersion allows.
pub(crate) fn check_version(params: &Params, current: u64) -> ApiResult<()> {
    let asked = params.revision()?;
    match (params.resource_version_match.as_str(), asked) {
        ("", _) | ("NotOlderThan", Some(_)) => match asked {
            Some(n) if n > current => Err(ApiError::version_too_large(n, current)),
            _ => Ok(()),
        },
        ("Exact", Some(n)) if n > current => Err(ApiError::version_too_large(n, current)),
        ("Exact", Some(0)) => Err(ApiError::unprocessable(
            "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        )),
        ("Exact", Some(n)) if n < current => {
            Err(ApiError::expired(format!("too old resource version: {n} ({current})")))
        }
        ("Exact", Some(_)) => Ok(()),
        (_, None) => Err(ApiError::unprocessable(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        )),
        (other, _) => {
            Err(ApiError::unprocessable(format!("resourceVersionMatch: Unsupported value: {other:?}")))
        }
    }
}

/// Writes a list in the form that was asked for.
pub(crate) fn render(
    shape: Shape,
    objects: &[Arc<Object>],
    revision: u64,
    more: Option<More>,
    now: Timestamp,
) -> Response<Body> {
    let kind = shape.kind.get();
    let mut metadata = json!({ "resourceVersion": revision.to_string() });
    if let Some(more) = more {
        metadata["continue"] = more.token.into();
        if let Some(n) = more.remaining {
            metadata["remainingItemCount"] = n.into();
        }
    }
    match shape.form {
        Form::Table => {
            let t = table(kind, objects.iter().map(|o| &o.value), metadata, shape.include, now);
            reply::json(StatusCode::OK, &t)
        }
        Form::Partial => {
            let items: Vec<_> = objects.iter().map(|o| partial(&o.full())).collect();
            let list = json!({ "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items });
            reply::json(StatusCode::OK, &list)
        }
        Form::Object | Form::Discovery => {
            let size: usize = objects.iter().map(|o| o.json.len() + 1).sum();
            let mut out = BytesMut::with_capacity(size + 200);
            let head = format!(
                "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
                kind.kind,
                kind.api_version()
            );
            out.put_slice(head.as_bytes());
            for (i, o) in objects.iter().enumerate() {
                if i > 0 {
                    out.put_u8(b',');
                }
                out.put_slice(&o.json);
            }
            out.put_slice(b"]}\n");
            reply::bytes(StatusCode::OK, out.freeze())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_continue_token_comes_back_and_any_other_text_is_refused(
            rv: u64, after in "\\PC{0,30}", noise in "\\PC{0,60}", at: prop::sample::Index, other in "[A-Za-z0-9_-]",
        ) {
            let token = Continue { rv, after };
            let text = token.encode().unwrap();
            prop_assert_eq!(Continue::decode(&text).unwrap(), token);
            let at = at.index(text.len());
            let mut mutated = text.clone();
            mutated.replace_range(at..=at, &other);
            for bad in [&mutated, &text[..at], &noise, &URL_SAFE_NO_PAD.encode(&noise)] {
                if let Err(e) = Continue::decode(bad) {
                    prop_assert_eq!(e.code, 400);
                }
            }
        }
    }
}
