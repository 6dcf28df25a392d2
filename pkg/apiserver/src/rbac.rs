//! What roles give whom: rbac.authorization.k8s.io, as the Kubernetes documentation of RBAC defines it. Rights only add up.
//!
//! Administrators, nodes and viewers have what `auth` gives them by their credential; roles add to that, for anybody.

use serde_json::Value;
use std::sync::Arc;

use crate::auth::{User, Verb};
use crate::error::{ApiError, ApiResult};
use crate::kinds::rbac::GROUP;
use crate::query::Target;
use crate::registry::{CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING};
use crate::storage::{Cache, Object, object_key};
use crate::table::{list, text};

/// Whether a role that is bound to the user allows this.
pub(crate) fn allows(cache: &Cache, user: &User, verb: Verb, target: &Target) -> bool {
    if *user == User::Anonymous || refuse_roles(user, verb, target).is_err() {
        return false;
    }
    let mut bound: Vec<Arc<Object>> = cache.list(CLUSTER_ROLE_BINDING).0.values().cloned().collect();
    if let Some(namespace) = &target.namespace {
        bound.extend(cache.list_in(ROLE_BINDING, namespace));
    }
    bound.retain(|b| list(&b.value, "/subjects").iter().any(|subject| is(user, subject, &b.namespace)));
    bound.iter().any(|binding| {
        let name = text(&binding.value, "/roleRef/name");
        let role = match text(&binding.value, "/roleRef/kind") {
            "ClusterRole" => cache.get(CLUSTER_ROLE, &object_key("", name)),
            // A binding of the whole cluster has no namespace where such a role could be.
            "Role" if !binding.namespace.is_empty() => cache.get(ROLE, &object_key(&binding.namespace, name)),
            _ => None,
        };
        role.is_some_and(|role| list(&role.value, "/rules").iter().any(|rule| gives(rule, verb, target)))
    })
}

/// Only administrators write roles and bindings: who could give rights that it has not got would have them all.
///
/// # Errors
/// Forbidden.
pub(crate) fn refuse_roles(user: &User, verb: Verb, target: &Target) -> ApiResult<()> {
    let kind = target.kind.get();
    if kind.group != GROUP || verb.reads() || matches!(user, User::Admin(_)) {
        return Ok(());
    }
    let name = target.name.as_deref().unwrap_or_default();
    Err(ApiError::forbidden_object(kind, name, "only administrators write roles and bindings"))
}

/// Whether a subject of a binding is this user.
fn is(user: &User, subject: &Value, namespace: &str) -> bool {
    let name = text(subject, "/name");
    match text(subject, "/kind") {
        "User" => user.name() == name,
        "Group" => user.groups().iter().any(|g| g == name),
        "ServiceAccount" => {
            let of = match text(subject, "/namespace") {
                "" => namespace,
                of => of,
            };
            user.name() == format!("system:serviceaccount:{of}:{name}")
        }
        _ => false,
    }
}

/// Whether a rule of a role covers a request.
fn gives(rule: &Value, verb: Verb, target: &Target) -> bool {
    let has = |key: &str, wanted: &str| list(rule, key).iter().any(|v| v == wanted || v == "*");
    let kind = target.kind.get();
    let part = match (target.status, target.finalize) {
        (true, _) => Some("status"),
        (_, true) => Some("finalize"),
        _ => None,
    };
    let resource = list(rule, "/resources").iter().filter_map(Value::as_str).any(|named| match part {
        None => named == "*" || named == kind.plural,
        Some(part) => {
            named == "*"
                || named.split_once('/').is_some_and(|(r, p)| (r == "*" || r == kind.plural) && p == part)
        }
    });
    let names = list(rule, "/resourceNames");
    let named =
        names.is_empty() || target.name.as_deref().is_some_and(|name| names.iter().any(|n| n == name));
    has("/verbs", verb.name()) && has("/apiGroups", kind.group) && resource && named
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{CONFIG_MAP, KindId, NODE, POD};
    use serde_json::json;

    fn target(kind: KindId, namespace: Option<&str>, name: Option<&str>, status: bool) -> Target {
        let text = |s: Option<&str>| s.map(str::to_owned);
        Target { kind, namespace: text(namespace), name: text(name), status, finalize: false }
    }

    #[test]
    fn what_a_rule_covers() {
        let rule =
            json!({"apiGroups": [""], "resources": ["pods", "nodes/status"], "verbs": ["get", "patch"]});
        let pods = |verb| gives(&rule, verb, &target(POD, Some("a"), Some("p"), false));
        assert!(pods(Verb::Get) && pods(Verb::Patch) && !pods(Verb::List));
        assert!(!gives(&rule, Verb::Get, &target(POD, Some("a"), Some("p"), true)));
        assert!(gives(&rule, Verb::Patch, &target(NODE, None, Some("n"), true)));
        assert!(!gives(&rule, Verb::Patch, &target(NODE, None, Some("n"), false)));
        let other = json!({"apiGroups": ["apps"], "resources": ["*"], "verbs": ["*"]});
        assert!(!gives(&other, Verb::Get, &target(POD, Some("a"), Some("p"), false)));
        let all = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]});
        assert!(gives(&all, Verb::DeleteCollection, &target(NODE, None, None, true)));
    }

    #[test]
    fn named_objects_only() {
        let rule =
            json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"], "resourceNames": ["c"]});
        let may = |name| gives(&rule, Verb::Get, &target(CONFIG_MAP, Some("a"), name, false));
        assert!(may(Some("c")) && !may(Some("d")) && !may(None));
    }

    #[test]
    fn subjects() {
        let account = User::Other("system:serviceaccount:a:s".into());
        let subject =
            |namespace: &str| json!({"kind": "ServiceAccount", "name": "s", "namespace": namespace});
        assert!(is(&account, &subject("a"), "") && !is(&account, &subject("b"), ""));
        assert!(is(&account, &subject(""), "a"), "a binding's own namespace is meant when none is said");
        let group = |name: &str| json!({"kind": "Group", "name": name});
        assert!(is(&account, &group("system:serviceaccounts"), ""));
        assert!(
            is(&account, &group("system:serviceaccounts:a"), "")
                && is(&account, &group("system:authenticated"), "")
        );
        assert!(
            !is(&account, &group("system:masters"), "")
                && !is(&User::Other("u".into()), &group("system:serviceaccounts"), "")
        );
        assert!(is(&User::Other("u".into()), &json!({"kind": "User", "name": "u"}), ""));
    }

    #[test]
    fn nobody_but_administrators_writes_roles() {
        let t = target(CLUSTER_ROLE, None, Some("r"), false);
        let other = User::Other("u".into());
        assert!(
            refuse_roles(&other, Verb::Patch, &t).is_err() && refuse_roles(&other, Verb::Get, &t).is_ok()
        );
        assert!(refuse_roles(&User::Admin("a".into()), Verb::Create, &t).is_ok());
    }
}
