//! Objects of the Gateway API (gateway.networking.k8s.io) as the cluster sees them, and what is said back of them.

use crate::{
    Fault, GatewayClassName, GatewayKey, GrantKey, HostPattern, Namespace, RouteKey, Selector, is_default,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// The API group.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// `spec.controllerName` of GatewayClasses that Warren serves.
pub const GATEWAY_CONTROLLER: &str = "warren.dev/gateway-controller";

/// A GatewayClass. Table `gateway_classes`, written by `source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayClass {
    /// Its name.
    pub name: GatewayClassName,
    /// `metadata.uid`, as opaque text.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// `spec.controllerName`; [`GATEWAY_CONTROLLER`] is ours. Empty when it could not be read.
    pub controller: String,
    /// Whether it names parameters, of which Warren knows none.
    pub has_parameters: bool,
}

/// A Gateway. Table `gateways`, written by `source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// Namespace and name.
    pub key: GatewayKey,
    /// `metadata.uid`, as opaque text.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// `spec.gatewayClassName`.
    pub class: GatewayClassName,
    /// `spec.listeners`.
    pub listeners: Vec<Listener>,
    /// What of the spec forbids to serve any of it, with the reason of condition `Accepted`.
    pub refused: Option<Fault>,
}

/// One of `spec.listeners`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// `name`, unique in its Gateway.
    pub name: String,
    /// `hostname`; none: every host.
    pub host: Option<HostPattern>,
    /// `port`.
    pub port: u16,
    /// `protocol`, as it was written.
    pub protocol: String,
    /// `tls.certificateRefs`.
    pub certificates: Vec<ObjectRef>,
    /// `allowedRoutes.namespaces`.
    pub from: AllowedNamespaces,
    /// `allowedRoutes.kinds`; empty: all that the protocol takes.
    pub kinds: Vec<GroupKind>,
    /// What of it forbids to serve it.
    pub refused: Option<String>,
}

/// `allowedRoutes.namespaces`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllowedNamespaces {
    /// That of the Gateway.
    Same,
    /// Every one.
    All,
    /// Those with these labels.
    Selector(Selector),
    /// None, also when it could not be read.
    None,
}

/// A kind of object in its API group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GroupKind {
    /// The group; empty: core.
    pub group: String,
    /// The kind.
    pub kind: String,
}

/// A reference to an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Group and kind.
    pub of: GroupKind,
    /// The namespace, that of the referring object where none was said.
    pub namespace: Namespace,
    /// The name, as opaque text: an object of that name need not be possible.
    pub name: String,
}

/// Which kind of route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RouteKind {
    /// HTTPRoute.
    Http,
    /// GRPCRoute.
    Grpc,
}

impl RouteKind {
    /// As the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
        }
    }
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An HTTPRoute. Table `http_routes`, written by `source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HttpRoute(pub GatewayRoute);

/// A GRPCRoute. Table `grpc_routes`, written by `source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GrpcRoute(pub GatewayRoute);

/// What routes of all kinds say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayRoute {
    /// Which kind.
    pub kind: RouteKind,
    /// Namespace and name.
    pub key: RouteKey,
    /// `metadata.uid`, as opaque text.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.creationTimestamp` in seconds since 1970; only ever compared with another's, to find the older.
    pub created: i64,
    /// `spec.parentRefs`.
    pub parents: Vec<ParentRef>,
    /// `spec.hostnames`; empty: those of the listeners.
    pub hosts: Vec<HostPattern>,
    /// Why `hostnames` cannot be used: then the route is for no host.
    pub hosts_refused: Option<String>,
    /// `spec.rules`.
    pub rules: Vec<RouteRule>,
}

/// One of `spec.parentRefs`, as it was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ParentRef {
    /// Group and kind.
    pub of: GroupKind,
    /// The namespace, when it was said.
    pub namespace: Option<Namespace>,
    /// The name.
    pub name: String,
    /// `sectionName`: one listener.
    pub section: Option<String>,
    /// `port`: listeners of that port.
    pub port: Option<u16>,
}

/// One of `spec.rules`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRule {
    /// `matches`: of these one must match. Empty only when none could be read.
    pub matches: Vec<RouteMatch>,
    /// `filters`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub filters: RouteFilters,
    /// `backendRefs`.
    pub backends: Vec<RouteBackend>,
    /// `timeouts.request` in milliseconds; none: no end.
    #[serde(default, skip_serializing_if = "is_default")]
    pub request_timeout: Option<u64>,
    /// `timeouts.backendRequest` in milliseconds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub backend_timeout: Option<u64>,
    /// What of it is not supported: then requests that it matches are refused.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unsupported: Option<String>,
}

/// One of `matches`: all of it must match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteMatch {
    /// The path, which begins with `/`.
    pub path: String,
    /// Whether the whole path is meant, and not its first elements.
    pub exact: bool,
    /// The method; none: any.
    pub method: Option<String>,
    /// Headers, their names in lower case, that must have these values.
    pub headers: Vec<(String, String)>,
    /// Parameters of the query that must have these values.
    pub query: Vec<(String, String)>,
}

/// `filters`, whose order is without meaning: each kind is there once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteFilters {
    /// RequestHeaderModifier.
    pub request: HeaderChange,
    /// ResponseHeaderModifier.
    pub response: HeaderChange,
    /// RequestRedirect.
    pub redirect: Option<RouteRedirect>,
    /// URLRewrite: the host that backends see.
    pub host: Option<HostPattern>,
    /// URLRewrite: what the path becomes.
    pub path: Option<PathChange>,
}

/// Changes of headers, their names in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderChange {
    /// In place of what was there.
    pub set: Vec<(String, String)>,
    /// Beside what was there.
    pub add: Vec<(String, String)>,
    /// Taken away.
    pub remove: Vec<String>,
}

/// RequestRedirect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRedirect {
    /// Whether to HTTPS, or to HTTP; none: as it was.
    pub https: Option<bool>,
    /// The host.
    pub host: Option<HostPattern>,
    /// The path.
    pub path: Option<PathChange>,
    /// The port.
    pub port: Option<u16>,
    /// The status: 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// What a path becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathChange {
    /// This path.
    Full(String),
    /// This, in place of what matched.
    Prefix(String),
}

/// One of `backendRefs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteBackend {
    /// What it refers to.
    pub target: ObjectRef,
    /// The port of a Service.
    pub port: Option<u16>,
    /// Its share among all.
    pub weight: u32,
}

/// A ReferenceGrant. Table `reference_grants`, written by `source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceGrant {
    /// Namespace and name; only objects of that namespace are granted.
    pub key: GrantKey,
    /// `spec.from`: who may refer.
    pub from: Vec<(GroupKind, Namespace)>,
    /// `spec.to`: to what; without a name to all of the kind.
    pub to: Vec<(GroupKind, Option<String>)>,
}

impl ReferenceGrant {
    /// Whether it lets an object of this kind and namespace refer to `target`.
    #[must_use]
    pub fn permits(&self, from: &GroupKind, namespace: &Namespace, target: &ObjectRef) -> bool {
        let named = |name: &Option<String>| name.as_ref().is_none_or(|name| *name == target.name);
        self.key.namespace == target.namespace
            && self.from.iter().any(|(of, from_namespace)| of == from && from_namespace == namespace)
            && self.to.iter().any(|(of, name)| *of == target.of && named(name))
    }
}

/// What is to be said in the status of an object of the Gateway API. Table `gateway_statuses`, written by `ingress` on the
/// node whose turn it is; `source` brings it to the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// Its kind.
    pub kind: GatewayObject,
    /// `namespace/name`, or the name.
    pub object: String,
    /// Its `metadata.uid`.
    pub uid: String,
    /// What is said.
    pub told: GatewayTold,
}

/// The kinds whose status is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum GatewayObject {
    /// GatewayClass.
    Class,
    /// Gateway.
    Gateway,
    /// A route.
    Route(RouteKind),
}

impl GatewayObject {
    /// As the API writes the kind.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Class => "GatewayClass",
            Self::Gateway => "Gateway",
            Self::Route(kind) => kind.as_str(),
        }
    }
}

/// What a status says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GatewayTold {
    /// Of a GatewayClass.
    Class {
        /// Its conditions.
        conditions: Vec<Condition>,
    },
    /// Of a Gateway.
    Gateway {
        /// Where it is served, sorted.
        addresses: Vec<IpAddr>,
        /// Its conditions.
        conditions: Vec<Condition>,
        /// Its listeners.
        listeners: Vec<ListenerTold>,
    },
    /// Of a route: what each Gateway of Warren makes of it. What other controllers say stays.
    Route {
        /// By reference, in the order of the spec.
        parents: Vec<(ParentRef, Vec<Condition>)>,
    },
}

/// What is said of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerTold {
    /// Its name.
    pub name: String,
    /// `supportedKinds`.
    pub kinds: Vec<RouteKind>,
    /// `attachedRoutes`.
    pub attached: u32,
    /// Its conditions.
    pub conditions: Vec<Condition>,
}

/// A condition, as in `status.conditions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// `type`.
    pub kind: String,
    /// `status`.
    pub holds: bool,
    /// `reason`, in CamelCase.
    pub reason: String,
    /// `message`: what is wrong and what to do.
    pub message: String,
    /// `observedGeneration`.
    pub generation: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_permits_what_it_names_and_nothing_else() {
        let kind = |group: &str, kind: &str| GroupKind { group: group.into(), kind: kind.into() };
        let (route, service) = (kind(GATEWAY_GROUP, "HTTPRoute"), kind("", "Service"));
        let space = |name: &str| Namespace::new(name).unwrap();
        let target = |of: &GroupKind, namespace: &str, name: &str| ObjectRef {
            of: of.clone(),
            namespace: space(namespace),
            name: name.into(),
        };
        let grant = |name: Option<&str>| ReferenceGrant {
            key: GrantKey::parse("store/grant").unwrap(),
            from: vec![(route.clone(), space("shop"))],
            to: vec![(service.clone(), name.map(str::to_owned))],
        };
        let all = grant(None);
        assert!(all.permits(&route, &space("shop"), &target(&service, "store", "a")));
        assert!(grant(Some("a")).permits(&route, &space("shop"), &target(&service, "store", "a")));
        assert!(!grant(Some("b")).permits(&route, &space("shop"), &target(&service, "store", "a")));
        assert!(!all.permits(&route, &space("other"), &target(&service, "store", "a")));
        assert!(!all.permits(&route, &space("shop"), &target(&service, "shop", "a")));
        assert!(!all.permits(
            &kind(GATEWAY_GROUP, "Gateway"),
            &space("shop"),
            &target(&service, "store", "a")
        ));
        assert!(!all.permits(&route, &space("shop"), &target(&kind("", "Secret"), "store", "a")));
    }
}
