//! rbac.authorization.k8s.io/v1: roles, and who has them. What they mean is `crate::rbac`.

use jiff::Timestamp;
use serde_json::Value;

use super::{default_text, each, immutable};
use crate::error::Causes;
use crate::registry::{Kind, PLAIN, typed};
use crate::table::{Column, age, list, text};

/// Group of these kinds.
pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";

const ROLES: Kind = Kind {
    group: GROUP,
    validate: validate_role,
    columns: &[Column::NAME, Column::AGE],
    cells: role_cells,
    ..PLAIN
};
const BINDINGS: Kind = Kind {
    group: GROUP,
    default: defaults,
    validate: validate_binding,
    validate_update: |new, old, causes| immutable(new, old, "/roleRef", causes),
    columns: &[Column::NAME, Column::text("Role", "The role that is given."), Column::AGE],
    cells: binding_cells,
    ..PLAIN
};

/// ClusterRole.
pub(crate) const CLUSTER_ROLE: Kind = Kind {
    plural: "clusterroles",
    singular: "clusterrole",
    kind: "ClusterRole",
    namespaced: false,
    typed: typed::<k8s_openapi::api::rbac::v1::ClusterRole>,
    ..ROLES
};
/// Role.
pub(crate) const ROLE: Kind = Kind {
    plural: "roles",
    singular: "role",
    kind: "Role",
    typed: typed::<k8s_openapi::api::rbac::v1::Role>,
    ..ROLES
};
/// ClusterRoleBinding.
pub(crate) const CLUSTER_ROLE_BINDING: Kind = Kind {
    plural: "clusterrolebindings",
    singular: "clusterrolebinding",
    kind: "ClusterRoleBinding",
    namespaced: false,
    typed: typed::<k8s_openapi::api::rbac::v1::ClusterRoleBinding>,
    ..BINDINGS
};
/// RoleBinding.
pub(crate) const ROLE_BINDING: Kind = Kind {
    plural: "rolebindings",
    singular: "rolebinding",
    kind: "RoleBinding",
    typed: typed::<k8s_openapi::api::rbac::v1::RoleBinding>,
    ..BINDINGS
};

fn defaults(value: &mut Value) {
    if let Some(role) = value.get_mut("roleRef").and_then(Value::as_object_mut) {
        default_text(role, "apiGroup", GROUP);
    }
    let Some(binding) = value.as_object_mut() else { return };
    for subject in each(binding, "subjects") {
        if subject.get("kind").is_some_and(|k| k != "ServiceAccount") {
            default_text(subject, "apiGroup", GROUP);
        }
    }
}

fn validate_role(o: &Value, causes: &mut Causes) {
    for (n, rule) in list(o, "/rules").iter().enumerate() {
        let at = format!("rules[{n}]");
        if list(rule, "/verbs").is_empty() {
            causes.required(&format!("{at}.verbs"), "verbs must contain at least one value");
        }
        let urls = !list(rule, "/nonResourceURLs").is_empty();
        if urls && !list(rule, "/resources").is_empty() {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            causes.forbidden(&format!("{at}.nonResourceURLs"), why);
        }
        if !urls {
            for key in ["apiGroups", "resources"] {
                if list(rule, &format!("/{key}")).is_empty() {
                    causes.required(&format!("{at}.{key}"), "must supply at least one value");
                }
            }
        }
    }
}

fn validate_binding(o: &Value, causes: &mut Causes) {
    match text(o, "/roleRef/kind") {
        "Role" | "ClusterRole" => {}
        other => causes.unsupported("roleRef.kind", other, &["ClusterRole", "Role"]),
    }
    if text(o, "/roleRef/name").is_empty() {
        causes.required("roleRef.name", "");
    }
    for (n, subject) in list(o, "/subjects").iter().enumerate() {
        let at = format!("subjects[{n}]");
        if text(subject, "/name").is_empty() {
            causes.required(&format!("{at}.name"), "");
        }
        match text(subject, "/kind") {
            "ServiceAccount" if text(subject, "/namespace").is_empty() => {
                causes.required(&format!("{at}.namespace"), "");
            }
            "ServiceAccount" | "User" | "Group" => {}
            other => {
                causes.unsupported(&format!("{at}.kind"), other, &["Group", "ServiceAccount", "User"]);
            }
        }
    }
}

fn role_cells(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![text(o, "/metadata/name").into(), age(o, now)]
}

fn binding_cells(o: &Value, now: Timestamp) -> Vec<Value> {
    let role = format!("{}/{}", text(o, "/roleRef/kind"), text(o, "/roleRef/name"));
    vec![text(o, "/metadata/name").into(), role.into(), age(o, now)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn causes(check: fn(&Value, &mut Causes), o: &Value) -> Vec<String> {
        let mut causes = Causes::default();
        check(o, &mut causes);
        causes.0.into_iter().map(|c| format!("{} {}", c.field, c.reason)).collect()
    }

    #[test]
    fn rules_of_roles() {
        let good = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
        assert_eq!(causes(validate_role, &good), Vec::<String>::new());
        let bad =
            json!({"rules": [{}, {"verbs": ["get"], "resources": ["pods"], "nonResourceURLs": ["/x"]}]});
        assert_eq!(
            causes(validate_role, &bad),
            [
                "rules[0].verbs FieldValueRequired",
                "rules[0].apiGroups FieldValueRequired",
                "rules[0].resources FieldValueRequired",
                "rules[1].nonResourceURLs FieldValueForbidden"
            ]
        );
    }

    #[test]
    fn rules_of_bindings() {
        let mut good = json!({"roleRef": {"kind": "ClusterRole", "name": "r"},
            "subjects": [{"kind": "ServiceAccount", "name": "s", "namespace": "n"}, {"kind": "User", "name": "u"}]});
        defaults(&mut good);
        assert_eq!(causes(validate_binding, &good), Vec::<String>::new());
        assert_eq!(
            (&good["roleRef"]["apiGroup"], &good["subjects"][1]["apiGroup"]),
            (&GROUP.into(), &GROUP.into())
        );
        assert!(good["subjects"][0]["apiGroup"].is_null());
        let bad = json!({"roleRef": {"kind": "X"}, "subjects": [{"kind": "ServiceAccount"}, {"kind": "Y", "name": "y"}]});
        assert_eq!(
            causes(validate_binding, &bad),
            [
                "roleRef.kind FieldValueNotSupported",
                "roleRef.name FieldValueRequired",
                "subjects[0].name FieldValueRequired",
                "subjects[0].namespace FieldValueRequired",
                "subjects[1].kind FieldValueNotSupported"
            ]
        );
    }
}
