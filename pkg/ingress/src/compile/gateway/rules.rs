//! Rules of routes: matches, filters, and backends by weight.

use super::{Parts, Rows, may_refer};
use crate::compile::options::Options;
use crate::route::{
    Action, Backend, Forward, HeaderEdits, HostMatch, Match, PathEdit, PathMatch, Protocol, Redirect, Route,
    RouteTableBuilder, Scheme, Timeouts, ValueMatch, Weighted,
};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use warren_types::{
    BackendPort, GatewayRoute, HeaderChange, PathChange, RouteBackend, RouteFilters, RouteKind, RouteMatch,
    RouteRedirect, RouteRule, ServiceKey, ServiceName,
};

/// What is said of requests that a rule matches and whose way is not as it should be (HTTPRoute, `backendRefs`).
const BROKEN: StatusCode = StatusCode::INTERNAL_SERVER_ERROR;

/// The rules of one route.
pub(super) struct Rules {
    made: Vec<(Vec<Match>, Arc<Route>)>,
    /// How many rules there are.
    count: usize,
    /// What of each rule is not supported.
    pub(super) unsupported: Vec<String>,
    /// The rules of which that is said.
    broken: usize,
    /// The first reference that leads nowhere: reason and message.
    pub(super) unresolved: Option<(&'static str, String)>,
    /// The Services that it names.
    pub(super) services: BTreeSet<ServiceKey>,
}

impl Rules {
    pub(super) fn of(rows: &Rows, route: &GatewayRoute, parts: &mut Parts<'_, '_>) -> Self {
        let mut rules = Self {
            made: Vec::new(),
            count: route.rules.len(),
            unsupported: Vec::new(),
            broken: 0,
            unresolved: None,
            services: BTreeSet::new(),
        };
        for (at, rule) in route.rules.iter().enumerate() {
            let name = format!("{}/{} rule {at}", route.kind, route.key);
            let made = rules.rule(rows, route, at, rule, &name, parts);
            let matches = rule.matches.iter().filter_map(matching).collect();
            rules.made.push((matches, Arc::new(made)));
        }
        rules
    }

    /// Whether there is a rule that is served as it was written. A route without rules has nothing to refuse.
    pub(super) fn is_accepted(&self) -> bool {
        self.broken < self.count || self.count == 0
    }

    /// Puts every match of every rule into the table, at each of these places.
    pub(super) fn put(&self, places: &[(Scheme, HostMatch)], table: &mut RouteTableBuilder) {
        for (matches, route) in &self.made {
            for matching in matches {
                for (scheme, host) in places {
                    let (scheme, host) = (Some(*scheme), host.clone());
                    table.route(Match { host, scheme, ..matching.clone() }, route);
                }
            }
        }
    }

    fn rule(
        &mut self,
        rows: &Rows,
        route: &GatewayRoute,
        at: usize,
        rule: &RouteRule,
        name: &str,
        parts: &mut Parts<'_, '_>,
    ) -> Route {
        let filters = filters(&rule.filters);
        let wrong = rule.unsupported.clone().or(filters.as_ref().err().cloned());
        let (Ok((request, response, host)), None) = (filters, &wrong) else {
            self.broken += 1;
            self.unsupported.push(format!("rules[{at}]: {}", wrong.unwrap_or_default()));
            return Route::new(name, Action::Answer(BROKEN));
        };
        let action = match &rule.filters.redirect {
            Some(to) => Action::Redirect(redirect(to)),
            None => self.forward(rows, route, rule, host, name, parts),
        };
        let mut made = Route::new(name, action);
        made.request_headers = request;
        made.response_headers = response;
        made
    }

    fn forward(
        &mut self,
        rows: &Rows,
        route: &GatewayRoute,
        rule: &RouteRule,
        host: Option<HeaderValue>,
        name: &str,
        parts: &mut Parts<'_, '_>,
    ) -> Action {
        let mut backends = Vec::new();
        let mut good = 0u64;
        for wanted in &rule.backends {
            let backend = match self.backend(rows, route, wanted, parts) {
                Ok(backend) => {
                    good += u64::from(wanted.weight);
                    backend
                }
                Err(why) => {
                    self.unresolved.get_or_insert(why);
                    // Its share of requests is not for the others.
                    Arc::new(Backend { name: format!("{name}: nothing").into(), ..Backend::default() })
                }
            };
            backends.push(Weighted { weight: wanted.weight, backend });
        }
        if good == 0 {
            return Action::Answer(BROKEN);
        }
        let (usual, ms) = (Timeouts::default(), Duration::from_millis);
        let timeouts = Timeouts {
            read: rule.backend_timeout.map_or(usual.read, ms),
            request: rule.request_timeout.map(ms),
            ..usual
        };
        let path = rule.filters.path.as_ref().map(path_edit);
        Action::Forward(Forward { backends, path, host, timeouts, ..Forward::default() })
    }

    fn backend(
        &mut self,
        rows: &Rows,
        route: &GatewayRoute,
        wanted: &RouteBackend,
        parts: &mut Parts<'_, '_>,
    ) -> Result<Arc<Backend>, (&'static str, String)> {
        let target = &wanted.target;
        if !target.of.group.is_empty() || target.of.kind != "Service" {
            let why =
                format!("a {} of group {:?} is not served; name a Service", target.of.kind, target.of.group);
            return Err(("InvalidKind", why));
        }
        if !may_refer(rows, route.kind.as_str(), &route.key.namespace, target) {
            let (namespace, name) = (&target.namespace, &target.name);
            let why = format!(
                "no ReferenceGrant in namespace {namespace} lets this {} refer to Service {name}",
                route.kind
            );
            return Err(("RefNotPermitted", why));
        }
        let missing = |why: String| ("BackendNotFound", why);
        let name = ServiceName::new(target.name.clone()).map_err(|e| missing(e.to_string()))?;
        let service = ServiceKey { namespace: target.namespace.clone(), name };
        self.services.insert(service.clone());
        let port = wanted.port.ok_or_else(|| missing(format!("the port of Service {service} is missing")))?;
        let (protocol, mut faults) = (grpc(route.kind), Vec::new());
        let options = Options { protocol, ..Options::default() };
        let owner = format!("{} {}", route.kind, route.key);
        let found =
            parts.backends.service(&owner, service, &BackendPort::Number(port), &options, &mut faults);
        found.map_err(|fault| match fault.reason.as_str() {
            "BackendMissing" => missing(fault.message),
            _ => ("UnsupportedProtocol", fault.message),
        })
    }
}

/// What endpoints of a kind of route speak, when it says so.
fn grpc(kind: RouteKind) -> Option<Protocol> {
    (kind == RouteKind::Grpc).then_some(Protocol::H2c)
}

/// A match, for any host and port. None when nothing can match it.
fn matching(row: &RouteMatch) -> Option<Match> {
    let path = row.path.as_str().into();
    let path = if row.exact { PathMatch::Exact(path) } else { PathMatch::Prefix(path) };
    let mut out = Match::new(HostMatch::Any, path);
    let exactly = |value: &str| ValueMatch::Exact(value.as_bytes().into());
    out.method = row.method.as_deref().map(|m| Method::from_bytes(m.as_bytes())).transpose().ok()?;
    for (name, value) in &row.headers {
        out.headers.push((HeaderName::from_bytes(name.as_bytes()).ok()?, exactly(value)));
    }
    out.query = row.query.iter().map(|(name, value)| (name.clone(), exactly(value))).collect();
    Some(out)
}

type Edits = (HeaderEdits, HeaderEdits, Option<HeaderValue>);

fn filters(filters: &RouteFilters) -> Result<Edits, String> {
    let host = filters.host.as_ref().map(|host| value(host.as_str())).transpose()?;
    Ok((edits(&filters.request)?, edits(&filters.response)?, host))
}

fn edits(change: &HeaderChange) -> Result<HeaderEdits, String> {
    let pair = |(key, text): &(String, String)| Ok((name(key)?, value(text)?));
    Ok(HeaderEdits {
        remove: change.remove.iter().map(|key| name(key)).collect::<Result<_, String>>()?,
        set: change.set.iter().map(pair).collect::<Result<_, String>>()?,
        add: change.add.iter().map(pair).collect::<Result<_, String>>()?,
    })
}

fn name(text: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("{text:?} is not the name of a header"))
}

fn value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| format!("{text:?} is not the value of a header"))
}

fn path_edit(change: &PathChange) -> PathEdit {
    match change {
        PathChange::Full(path) => PathEdit::Full(path.as_str().into()),
        PathChange::Prefix(path) => PathEdit::Prefix(path.as_str().into()),
    }
}

fn redirect(to: &RouteRedirect) -> Redirect {
    Redirect {
        scheme: to.https.map(|https| if https { Scheme::Https } else { Scheme::Http }),
        host: to.host.as_ref().map(|host| host.as_str().into()),
        port: to.port,
        path: to.path.as_ref().map(path_edit),
        status: StatusCode::from_u16(to.status).unwrap_or(StatusCode::FOUND),
    }
}
