//! Gateways and the routes that attach to them: the Gateway API (v1), compiled into the same table as Ingresses.
//!
//! Gateways are at the addresses of the nodes, all of them at the same, so their listeners are taken together: a request is
//! for the listener of its port whose host is the most exact, whichever Gateway it is of. What is wrong with an object is
//! said in its status, by the reasons that the API has for it.

mod attach;
mod hosts;
mod listeners;
mod rules;

use super::backends::Backends;
use super::secrets::Secrets;
use super::{Engine, Settings};
use crate::route::{Action, HostMatch, Match, PathMatch, Route, RouteTableBuilder, Scheme};
use crate::tls::Certificates;
use http::StatusCode;
use listeners::{Heard, Hearing};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use warren_types::gateway::{GATEWAY_CONTROLLER, GATEWAY_GROUP};
use warren_types::{
    Condition, Gateway, GatewayClass, GatewayObject, GatewayRoute, GatewayStatus, GatewayTold, GroupKind,
    GrpcRoute, HttpRoute, NamespaceState, ObjectRef, ReferenceGrant, RouteKind, SecretRef, ServiceKey,
};

/// The rows of the Gateway API, and the namespaces that their selectors choose from, by the keys of their tables.
#[derive(Debug, Default)]
pub struct Rows {
    classes: Of<GatewayClass>,
    gateways: Of<Gateway>,
    http: Of<HttpRoute>,
    grpc: Of<GrpcRoute>,
    grants: Of<ReferenceGrant>,
    namespaces: Of<NamespaceState>,
}

type Of<R> = BTreeMap<String, Arc<R>>;

/// A row that Gateways are made of.
pub trait GatewayRow: Sized {
    /// All rows of its table.
    fn among(rows: &mut Rows) -> &mut BTreeMap<String, Arc<Self>>;
    /// Whether a change of one may matter.
    fn matters(_rows: &Rows) -> bool {
        true
    }
}

impl GatewayRow for GatewayClass {
    fn among(rows: &mut Rows) -> &mut Of<Self> {
        &mut rows.classes
    }
}
impl GatewayRow for Gateway {
    fn among(rows: &mut Rows) -> &mut Of<Self> {
        &mut rows.gateways
    }
}
impl GatewayRow for HttpRoute {
    fn among(rows: &mut Rows) -> &mut Of<Self> {
        &mut rows.http
    }
}
impl GatewayRow for GrpcRoute {
    fn among(rows: &mut Rows) -> &mut Of<Self> {
        &mut rows.grpc
    }
}
impl GatewayRow for ReferenceGrant {
    fn among(rows: &mut Rows) -> &mut Of<Self> {
        &mut rows.grants
    }
}
impl GatewayRow for NamespaceState {
    fn among(rows: &mut Rows) -> &mut Of<Self> {
        &mut rows.namespaces
    }
    fn matters(rows: &Rows) -> bool {
        !rows.gateways.is_empty()
    }
}

impl Engine {
    /// A row of the Gateway API, or a namespace, is like this now, or gone.
    pub fn set_gateway_row<R: GatewayRow>(&mut self, key: &str, row: Option<Arc<R>>) {
        self.changed |= R::matters(&self.gateways);
        let rows = R::among(&mut self.gateways);
        match row {
            None => drop(rows.remove(key)),
            Some(row) => drop(rows.insert(key.to_owned(), row)),
        }
    }

    /// The keys of all rows of one such kind: what a whole list replaces.
    pub fn known_gateway_rows<R: GatewayRow>(&mut self) -> Vec<String> {
        R::among(&mut self.gateways).keys().cloned().collect()
    }
}

/// What there is to say of Gateways and routes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Gateways {
    /// The status of each object of Warren's, as if nodes served it; without addresses.
    pub statuses: Vec<GatewayStatus>,
    /// The routes that are attached somewhere, for people.
    pub routes: Vec<ServedRoute>,
    /// Whether there is a listener to be served.
    pub is_served: bool,
    /// The Services that routes name.
    pub(super) services: BTreeSet<ServiceKey>,
}

/// A route that is attached to a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedRoute {
    /// Which kind.
    pub kind: RouteKind,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The hosts for which it is asked; empty: every one.
    pub hosts: Vec<String>,
    /// How many matches its rules have.
    pub matches: usize,
    /// Whether a listener of it has TLS.
    pub tls: bool,
    /// What is wrong with it.
    pub faults: Vec<String>,
}

/// What a table is made of, in the making.
pub(super) struct Parts<'p, 'a> {
    pub(super) table: &'p mut RouteTableBuilder,
    pub(super) certificates: &'p mut Certificates,
    /// From which Secrets certificates are.
    pub(super) sources: &'p mut BTreeMap<String, SecretRef>,
    /// From which Secret the certificate of all other hosts is.
    pub(super) default: &'p mut Option<SecretRef>,
    pub(super) wanted: &'p mut BTreeSet<SecretRef>,
    pub(super) backends: &'p mut Backends<'a>,
    pub(super) secrets: &'p Secrets,
}

/// Puts the routes of all Gateways into the table.
pub(super) fn compile(rows: &Rows, settings: &Settings, mut parts: Parts<'_, '_>) -> Gateways {
    let mut out = Gateways::default();
    let ours = rows.classes.values().filter(|class| class.controller == GATEWAY_CONTROLLER);
    for class in ours {
        out.statuses.push(class_status(class));
    }
    let mut heard = Heard::default();
    for gateway in rows.gateways.values() {
        let class = rows.classes.get(gateway.class.as_str());
        if let Some(class) = class.filter(|class| class.controller == GATEWAY_CONTROLLER) {
            heard.gateway(rows, class, gateway, settings, &mut parts);
        }
    }
    if heard.gateways.is_empty() {
        return out;
    }
    let http = rows.http.values().map(|route| &route.0);
    let mut routes: Vec<&GatewayRoute> = http.chain(rows.grpc.values().map(|route| &route.0)).collect();
    // The oldest comes first where two match alike, then the first by namespace and name.
    routes.sort_by_key(|route| (route.created, &route.key, route.kind));
    for route in routes {
        attach::route(rows, &mut heard, route, &mut parts, &mut out);
    }
    close(&heard.listeners, parts.table);
    out.is_served = heard.listeners.iter().any(|listener| listener.usable);
    out.statuses.extend(heard.statuses());
    out
}

fn class_status(class: &GatewayClass) -> GatewayStatus {
    let accepted = match class.has_parameters {
        false => condition("Accepted", true, "Accepted", String::new(), class.generation),
        true => {
            let why = "no parameters are known; leave spec.parametersRef out".into();
            condition("Accepted", false, "InvalidParameters", why, class.generation)
        }
    };
    GatewayStatus {
        kind: GatewayObject::Class,
        object: class.name.to_string(),
        uid: class.uid.clone(),
        told: GatewayTold::Class { conditions: vec![accepted] },
    }
}

/// What no route of a listener takes is not for the listener of a wider host: there it ends.
fn close(listeners: &[Hearing<'_>], table: &mut RouteTableBuilder) {
    let usable = || listeners.iter().filter(|listener| listener.usable);
    let mut closed: BTreeSet<(bool, &str)> = BTreeSet::new();
    for listener in usable() {
        let Some(host) = &listener.row.host else { continue };
        let wider = usable().any(|other| {
            other.scheme == listener.scheme && hosts::is_narrower(Some(host), other.row.host.as_ref())
        });
        if wider && closed.insert((listener.scheme == Scheme::Https, host.as_str())) {
            let name = format!("Gateway/{} listener {}", listener.gateway.key, listener.row.name);
            let route = Arc::new(Route::new(name, Action::Answer(StatusCode::NOT_FOUND)));
            let mut all = Match::new(hosts::host_match(Some(host)), PathMatch::Prefix("/".into()));
            all.scheme = Some(listener.scheme);
            table.route(all, &route);
        }
    }
}

fn condition(kind: &str, holds: bool, reason: &str, message: String, generation: i64) -> Condition {
    Condition { kind: kind.into(), holds, reason: reason.into(), message, generation }
}

/// A kind of the Gateway API.
fn own_kind(kind: &str) -> GroupKind {
    GroupKind { group: GATEWAY_GROUP.into(), kind: kind.into() }
}

/// Whether an object of a kind and namespace may refer to another: one of its own namespace, or one that is granted.
fn may_refer(rows: &Rows, from: &str, namespace: &warren_types::Namespace, target: &ObjectRef) -> bool {
    *namespace == target.namespace || {
        let from = own_kind(from);
        rows.grants.values().any(|grant| grant.permits(&from, namespace, target))
    }
}

/// Hosts as text.
fn names(hosts: &[HostMatch]) -> Vec<String> {
    let name = |host: &HostMatch| match host {
        HostMatch::Exact(name) => Some(name.to_string()),
        HostMatch::Wildcard(parent) | HostMatch::Below(parent) => Some(format!("*.{parent}")),
        HostMatch::Any => None,
    };
    hosts.iter().filter_map(name).collect()
}
