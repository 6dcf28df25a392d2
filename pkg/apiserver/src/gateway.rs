//! What objects of the Gateway API have to do with each other, with agents, and with Secrets.

use serde_json::Value;
use warren_types::gateway::{GATEWAY_CONTROLLER, GATEWAY_GROUP};

use crate::registry::{GATEWAY, GATEWAY_CLASS, KindId, REFERENCE_GRANT};
use crate::storage::Cache;
use crate::table::{list, or, text};

/// Whether agents serve a Gateway: its class is Warren's.
fn is_ours(cache: &Cache, gateway: &Value) -> bool {
    let class = cache.get(GATEWAY_CLASS, text(gateway, "/spec/gatewayClassName"));
    class.is_some_and(|class| text(&class.value, "/spec/controllerName") == GATEWAY_CONTROLLER)
}

/// Whether agents say something of an object of the Gateway API: a class of Warren's, a Gateway of one, a route that names
/// such a Gateway, or of which they have said something.
pub(crate) fn is_served(cache: &Cache, kind: KindId, o: &Value) -> bool {
    match kind {
        GATEWAY_CLASS => text(o, "/spec/controllerName") == GATEWAY_CONTROLLER,
        GATEWAY => is_ours(cache, o),
        _ => {
            is_spoken_of(o)
                || list(o, "/spec/parentRefs").iter().any(|parent| {
                    let namespace = or(text(parent, "/namespace"), text(o, "/metadata/namespace"));
                    let gateway = cache.get(GATEWAY, &format!("{namespace}/{}", text(parent, "/name")));
                    gateway.is_some_and(|gateway| is_ours(cache, &gateway.value))
                })
        }
    }
}

/// Whether Warren has said something of a route already, which it may take back.
fn is_spoken_of(route: &Value) -> bool {
    let mut parents = list(route, "/status/parents").iter();
    parents.any(|parent| text(parent, "/controllerName") == GATEWAY_CONTROLLER)
}

/// What other controllers say of a route.
pub(crate) fn said_by_others(route: &Value) -> Vec<&Value> {
    let parents = list(route, "/status/parents").iter();
    parents.filter(|parent| text(parent, "/controllerName") != GATEWAY_CONTROLLER).collect()
}

/// Whether agents need the Secret `name` of a namespace: a listener of a Gateway that they serve names it, and may.
pub(crate) fn is_shown(cache: &Cache, namespace: &str, name: &str) -> bool {
    let (gateways, _) = cache.list(GATEWAY);
    gateways.values().any(|gateway| {
        let own = text(&gateway.value, "/metadata/namespace");
        let named = list(&gateway.value, "/spec/listeners")
            .iter()
            .flat_map(|listener| list(listener, "/tls/certificateRefs"))
            .any(|reference| {
                text(reference, "/group").is_empty()
                    && or(text(reference, "/kind"), "Secret") == "Secret"
                    && text(reference, "/name") == name
                    && or(text(reference, "/namespace"), own) == namespace
            });
        named
            && is_ours(cache, &gateway.value)
            && (own == namespace || is_granted(cache, own, namespace, name))
    })
}

/// Whether a ReferenceGrant lets Gateways of a namespace refer to a Secret.
fn is_granted(cache: &Cache, from: &str, namespace: &str, name: &str) -> bool {
    cache.list_in(REFERENCE_GRANT, namespace).iter().any(|grant| {
        let from_gateways = |of: &Value| {
            text(of, "/group") == GATEWAY_GROUP
                && text(of, "/kind") == "Gateway"
                && text(of, "/namespace") == from
        };
        let to_it = |of: &Value| {
            let only = text(of, "/name");
            text(of, "/group").is_empty()
                && text(of, "/kind") == "Secret"
                && (only.is_empty() || only == name)
        };
        list(&grant.value, "/spec/from").iter().any(from_gateways)
            && list(&grant.value, "/spec/to").iter().any(to_it)
    })
}
