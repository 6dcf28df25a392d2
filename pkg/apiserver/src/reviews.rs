//! Reviews: a client asks who it is, and what it may do. Answered at once; nothing is kept.

use http::Method;
use serde_json::{Value, json};

use crate::auth::{Peer, Verb, authorize};
use crate::decode;
use crate::error::{ApiError, ApiResult};
use crate::query::Target;
use crate::registry::KindId;
use crate::table::text;

/// Which review.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Review {
    /// `SelfSubjectAccessReview`: may I do this?
    Access,
    /// `SelfSubjectReview`: who am I?
    Subject,
}

/// The review that a request asks for.
pub(crate) fn of(method: &Method, path: &str) -> Option<Review> {
    match path {
        _ if method != Method::POST => None,
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" => Some(Review::Access),
        "/apis/authentication.k8s.io/v1/selfsubjectreviews" => Some(Review::Subject),
        _ => None,
    }
}

/// Answers it.
pub(crate) fn answer(
    review: Review,
    peer: &Peer,
    headers: &http::HeaderMap,
    body: &[u8],
) -> ApiResult<Value> {
    match review {
        Review::Subject => Ok(json!({
            "kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1",
            "metadata": { "creationTimestamp": null },
            "status": { "userInfo": { "username": peer.user.name(), "groups": ["system:authenticated"] } },
        })),
        Review::Access => {
            let mut review = decode::body(headers, body, Some(crate::proto::ACCESS_REVIEW))?;
            let (allowed, reason) = judge(&review, peer);
            let Value::Object(map) = &mut review else {
                return Err(ApiError::bad_request("the body is not a SelfSubjectAccessReview"));
            };
            map.insert("kind".into(), "SelfSubjectAccessReview".into());
            map.insert("apiVersion".into(), "authorization.k8s.io/v1".into());
            map.insert("status".into(), json!({ "allowed": allowed, "reason": reason }));
            Ok(review)
        }
    }
}

fn judge(review: &Value, peer: &Peer) -> (bool, String) {
    let at = |key: &str| text(review, &format!("/spec/resourceAttributes/{key}"));
    if review.pointer("/spec/resourceAttributes").is_none() {
        // Paths that are no resources are open to whoever has a certificate, for reading.
        return (matches!(text(review, "/spec/nonResourceAttributes/verb"), "get" | "head"), String::new());
    }
    let verbs = [
        Verb::Get,
        Verb::List,
        Verb::Watch,
        Verb::Create,
        Verb::Update,
        Verb::Patch,
        Verb::Delete,
        Verb::DeleteCollection,
    ];
    let verbs: Vec<Verb> =
        verbs.into_iter().filter(|v| at("verb") == "*" || v.name() == at("verb")).collect();
    let kinds: Vec<KindId> = KindId::all()
        .filter(|k| {
            let k = k.get();
            let fits = |wanted: &str, name: &str| wanted == "*" || wanted == name;
            fits(at("resource"), k.plural) && fits(at("group"), k.group)
        })
        .collect();
    if verbs.is_empty() || kinds.is_empty() {
        return (false, "there is no such verb or resource".into());
    }
    let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    for (verb, kind) in verbs.iter().flat_map(|v| kinds.iter().map(move |k| (*v, *k))) {
        let namespace = some(at("namespace")).filter(|_| kind.get().namespaced);
        let target =
            Target { kind, namespace, name: some(at("name")), status: at("subresource") == "status" };
        if let Err(e) = authorize(&peer.user, verb, &target) {
            return (false, e.message);
        }
    }
    (true, String::new())
}
