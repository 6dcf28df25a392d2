//! Questions of a user about itself, which kubectl asks: `auth can-i`, `auth whoami`. Nothing is stored.

use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::auth::{User, Verb};
use crate::error::{ApiError, ApiResult};
use crate::query::Target;
use crate::registry::KindId;
use crate::reply;
use crate::table::text;

/// A resource that can only be created, and whose object answers.
pub(crate) struct Review {
    pub(crate) group: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) kind: &'static str,
    /// How it is read from protobuf.
    pub(crate) proto: crate::proto::Schema,
}

/// Version of all of them.
pub(crate) const VERSION: &str = "v1";
/// All of them.
pub(crate) static REVIEWS: [Review; 3] = [
    Review {
        group: "authentication.k8s.io",
        plural: "selfsubjectreviews",
        kind: "SelfSubjectReview",
        proto: &[],
    },
    Review {
        group: "authorization.k8s.io",
        plural: "selfsubjectaccessreviews",
        kind: "SelfSubjectAccessReview",
        proto: crate::proto::ACCESS_REVIEW,
    },
    Review {
        group: "authorization.k8s.io",
        plural: "selfsubjectrulesreviews",
        kind: "SelfSubjectRulesReview",
        proto: crate::proto::RULES_REVIEW,
    },
];

/// The review that a path names.
pub(crate) fn at(path: &str) -> Option<&'static Review> {
    let rest = path.strip_prefix("/apis/")?;
    REVIEWS.iter().find(|r| {
        rest.strip_prefix(r.group).and_then(|p| p.strip_prefix("/v1/")).is_some_and(|p| p == r.plural)
    })
}

/// Answers a review.
pub(crate) fn answer(
    review: &Review,
    user: &User,
    body: &Value,
    permitted: impl Fn(Verb, &Target) -> ApiResult<()>,
) -> ApiResult<Response<Body>> {
    if !body.is_object() {
        return Err(ApiError::bad_request("the body is not an object"));
    }
    let status = match review.kind {
        "SelfSubjectReview" => {
            json!({ "userInfo": { "username": user.name(), "uid": "", "groups": user.groups() } })
        }
        "SelfSubjectRulesReview" => rules(user, permitted),
        _ => access(user, &body["spec"], permitted),
    };
    let spec = if body["spec"].is_object() { body["spec"].clone() } else { json!({}) };
    let answer = json!({
        "kind": review.kind, "apiVersion": format!("{}/{VERSION}", review.group),
        "metadata": { "creationTimestamp": null }, "spec": spec, "status": status,
    });
    Ok(reply::json(StatusCode::CREATED, &answer))
}

fn access(user: &User, spec: &Value, permitted: impl Fn(Verb, &Target) -> ApiResult<()>) -> Value {
    let no = |why: &str| json!({ "allowed": false, "reason": why });
    if matches!(user, User::Admin(_)) {
        return json!({ "allowed": true, "reason": "administrators may do everything" });
    }
    let Some(asked) = spec.get("resourceAttributes").filter(|a| a.is_object()) else {
        let path = text(spec, "/nonResourceAttributes/path");
        let reads = text(spec, "/nonResourceAttributes/verb") == "get";
        let open = ["/api", "/apis", "/openapi", "/version", "/livez", "/readyz", "/healthz"];
        let allowed = reads
            && open.iter().any(|o| path.strip_prefix(o).is_some_and(|r| r.is_empty() || r.starts_with('/')));
        return json!({ "allowed": allowed });
    };
    let field = |key: &str| text(asked, &format!("/{key}")).to_owned();
    let (resource, in_path) = match field("resource").split_once('/') {
        Some((r, s)) => (r.to_owned(), s.to_owned()),
        None => (field("resource"), field("subresource")),
    };
    if REVIEWS.iter().any(|r| r.group == field("group") && r.plural == resource) {
        return json!({ "allowed": field("verb") == "create" });
    }
    let kind = KindId::all().find(|k| k.get().group == field("group") && k.get().plural == resource);
    let (Some(kind), Some(verb)) = (kind, Verb::from_name(&field("verb"))) else {
        return no("this server has no such resource or verb for this user");
    };
    let some = |s: String| Some(s).filter(|s| !s.is_empty());
    let target = Target {
        kind,
        namespace: some(field("namespace")).filter(|_| kind.get().namespaced),
        name: some(field("name")),
        status: in_path == "status",
        finalize: in_path == "finalize",
    };
    match permitted(verb, &target) {
        Ok(()) => json!({ "allowed": true }),
        Err(e) => no(&e.message),
    }
}

/// What the user may do wherever it looks; what depends on objects is left out.
fn rules(user: &User, permitted: impl Fn(Verb, &Target) -> ApiResult<()>) -> Value {
    let all = || json!([{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }]);
    let (resources, incomplete) = match user {
        User::Admin(_) => (all(), false),
        _ => {
            let readable = |k: &KindId| permitted(Verb::List, &Target::all(*k, None)).is_ok();
            let mut rules: Vec<Value> = Vec::new();
            for k in KindId::all().filter(readable).map(KindId::get) {
                rules.push(json!({ "verbs": ["get", "list", "watch"], "apiGroups": [k.group], "resources": [k.plural] }));
            }
            (rules.into(), matches!(user, User::Node(_) | User::Other(_)))
        }
    };
    let urls = json!([{ "verbs": ["get"], "nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/openapi/*",
        "/version", "/livez", "/readyz", "/healthz"] }]);
    json!({ "resourceRules": resources, "nonResourceRules": urls, "incomplete": incomplete })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_role(user: &User) -> impl Fn(Verb, &Target) -> ApiResult<()> {
        move |verb, target| crate::auth::authorize(user, verb, target, |_, _| false)
    }

    fn may(user: &User, attributes: Value) -> bool {
        let spec = json!({ "resourceAttributes": attributes });
        access(user, &spec, by_role(user))["allowed"] == json!(true)
    }

    #[test]
    fn what_one_may_is_told() {
        let (admin, viewer) = (User::Admin("a".into()), User::Viewer("v".into()));
        let node = User::Node("n1".into());
        let pods = |verb: &str| json!({ "verb": verb, "resource": "pods", "namespace": "default" });
        assert!(may(&admin, json!({ "verb": "*", "resource": "*", "group": "*" })));
        assert!(may(&viewer, pods("list")) && !may(&viewer, pods("create")) && !may(&viewer, pods("*")));
        assert!(!may(&viewer, json!({ "verb": "get", "resource": "*" })));
        let patch = |name: &str| json!({ "verb": "patch", "resource": "nodes", "subresource": "status", "name": name });
        assert!(may(&node, patch("n1")) && !may(&node, patch("n2")));
        let path = |p: &str| {
            let spec = json!({"nonResourceAttributes": {"path": p, "verb": "get"}});
            access(&viewer, &spec, by_role(&viewer))
        };
        assert_eq!(path("/version")["allowed"], true);
        assert_eq!(path("/v1-warren/tokens")["allowed"], false);
        assert_eq!(rules(&admin, by_role(&admin))["resourceRules"][0]["verbs"][0], "*");
        assert!(!rules(&viewer, by_role(&viewer)).to_string().contains("secrets"));
    }

    #[test]
    fn paths_of_reviews() {
        assert_eq!(
            at("/apis/authentication.k8s.io/v1/selfsubjectreviews").map(|r| r.kind),
            Some("SelfSubjectReview")
        );
        for none in [
            "/apis/authentication.k8s.io/v1/pods",
            "/api/v1/selfsubjectreviews",
            "/apis/authentication.k8s.io/v2/selfsubjectreviews",
        ] {
            assert!(at(none).is_none(), "{none}");
        }
    }
}
