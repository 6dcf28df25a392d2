//! What Ingresses have to do with their classes and with Secrets.

use serde_json::Value;
use std::cmp::Reverse;

use crate::registry::{INGRESS, INGRESS_CLASS, KindId};
use crate::storage::Cache;
use crate::table::{list, or, text};
use warren_types::ingress::{
    ANNOTATION_DEFAULT_CLASS, ANNOTATION_INGRESS_CLASS, DEFAULT_CERTIFICATE, INGRESS_CONTROLLER,
    PREFIX_NGINX, PREFIX_OPTIONS, SECRET_OPTIONS,
};

/// The value of an annotation.
pub(crate) fn annotation<'a>(o: &'a Value, key: &str) -> Option<&'a str> {
    o.pointer("/metadata/annotations")?.get(key)?.as_str()
}

/// Gives a new Ingress that names no class the default one, as the admission plugin `DefaultIngressClass` does: of several
/// the newest, and of those the first by name.
pub(crate) fn admit(cache: &Cache, kind: KindId, new: &mut Value) {
    if kind != INGRESS
        || new.pointer("/spec/ingressClassName").is_some_and(|name| !name.is_null())
        || annotation(new, ANNOTATION_INGRESS_CLASS).is_some()
    {
        return;
    }
    let (classes, _) = cache.list(INGRESS_CLASS);
    let defaults =
        classes.values().filter(|c| annotation(&c.value, ANNOTATION_DEFAULT_CLASS) == Some("true"));
    let newest =
        defaults.max_by_key(|c| (text(&c.value, "/metadata/creationTimestamp"), Reverse(c.name.as_str())));
    if let Some(class) = newest {
        crate::kinds::object(new, "spec").insert("ingressClassName".into(), class.name.clone().into());
    }
}

/// Whether agents serve an Ingress: its class is Warren's.
pub(crate) fn is_served(cache: &Cache, ingress: &Value) -> bool {
    let annotated = annotation(ingress, ANNOTATION_INGRESS_CLASS).unwrap_or_default();
    let class = cache.get(INGRESS_CLASS, or(text(ingress, "/spec/ingressClassName"), annotated));
    class.is_some_and(|class| text(&class.value, "/spec/controller") == INGRESS_CONTROLLER)
}

/// Whether agents need the Secret `name` of a namespace: an Ingress there that they serve names it, or it is the one with
/// the certificate of hosts that have none of their own, while they serve any.
pub(crate) fn is_shown(cache: &Cache, namespace: &str, name: &str) -> bool {
    if (namespace, name) == DEFAULT_CERTIFICATE {
        return cache.list(INGRESS).0.values().any(|o| is_served(cache, &o.value));
    }
    let all = cache.list_in(INGRESS, namespace);
    all.iter().any(|o| names_secret(&o.value, name) && is_served(cache, &o.value))
}

/// Whether `ingress` names the Secret `name`, for its TLS or in an option that takes one. Those of other namespaces are
/// nothing to it.
fn names_secret(ingress: &Value, name: &str) -> bool {
    let in_option = |option: &str| {
        [PREFIX_OPTIONS, PREFIX_NGINX].iter().any(|prefix| {
            let value = annotation(ingress, &format!("{prefix}{option}")).unwrap_or_default();
            match value.split_once('/') {
                None => value == name,
                Some((namespace, value)) => {
                    value == name && namespace == text(ingress, "/metadata/namespace")
                }
            }
        })
    };
    !name.is_empty()
        && (list(ingress, "/spec/tls").iter().any(|t| text(t, "/secretName") == name)
            || SECRET_OPTIONS.iter().any(|option| in_option(option)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_ingress_names_secrets_of_its_own_namespace() {
        let tls = json!({"metadata": {"namespace": "shop"}, "spec": {"tls": [{"hosts": ["a"]}, {"secretName": "x"}]}});
        assert!(names_secret(&tls, "x") && !names_secret(&tls, "y") && !names_secret(&tls, ""));
        let with = |key: &str, value: &str| json!({"metadata": {"namespace": "shop", "annotations": {key: value}}, "spec": {"tls": [{}]}});
        for (key, value, named) in [
            ("nginx.ingress.kubernetes.io/auth-secret", "x", true),
            ("nginx.ingress.kubernetes.io/auth-secret", "shop/x", true),
            ("ingress.warren.dev/auth-tls-secret", "shop/x", true),
            ("nginx.ingress.kubernetes.io/auth-secret", "kube-system/x", false),
            ("nginx.ingress.kubernetes.io/auth-secret", "shop/x/y", false),
            ("nginx.ingress.kubernetes.io/auth-realm", "x", false),
            ("example.org/auth-secret", "x", false),
        ] {
            assert_eq!(names_secret(&with(key, value), "x"), named, "{key}: {value}");
            assert!(!names_secret(&with(key, value), ""));
        }
    }
}
