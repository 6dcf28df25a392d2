//! The routes of all Ingresses, the oldest first.

use super::backends::{Backends, Fed};
use super::options::{Options, ToHttps};
use super::rewrite::{Prefixed, prefixed};
use super::secrets::Secrets;
use super::values::shown as shown_text;
use super::{Compiled, Faults, Read, Served, Settings, fault, gateway};
use crate::route::{
    Action, BasicAuth, Forward, HostMatch, Match, PathEdit, PathMatch, Retry, Route, RouteTable,
    RouteTableBuilder, Weighted,
};
use crate::tls::Certificates;
use http::StatusCode;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use warren_types::ingress::DEFAULT_CERTIFICATE;
use warren_types::{
    HostPattern, Ingress, IngressBackend, IngressKey, IngressPath, IngressRule, PathKind, SecretName,
    SecretRef,
};

/// Compiles them, and Gateways after them, and says which backends EndpointSlices feed; the oldest are to come first.
pub(super) fn compile(
    ours: &[&Read],
    gateways: &gateway::Rows,
    backends: Backends<'_>,
    secrets: &Secrets,
    settings: &Settings,
) -> (Compiled, Vec<Fed>) {
    let mut all = Compiler {
        table: RouteTable::builder(),
        certificates: Certificates::default(),
        sources: BTreeMap::new(),
        backends,
        secrets,
        holders: HashMap::new(),
        wanted: BTreeSet::new(),
    };
    let mut served: Vec<(&Read, Faults)> = ours.iter().map(|read| (*read, read.faults.clone())).collect();
    for (read, faults) in &mut served {
        all.ingress(read, faults);
    }
    // Whatever a host's own paths do not take, in any Ingress, goes to the default backend of those that name the host.
    for (read, faults) in &mut served {
        all.rest_of_hosts(read, faults);
    }
    let without_rules = served.iter_mut().filter(|(read, _)| read.row.rules.is_empty());
    for (read, faults) in without_rules {
        all.rest(read, faults);
    }
    for (read, faults) in &mut served {
        all.rest(read, faults);
    }
    if let Some(certificate) = &settings.certificate {
        all.certificates.set_default(certificate.clone());
    }
    let (mut default, mut default_fault) = (None, None);
    let (namespace, name) = DEFAULT_CERTIFICATE;
    let key = SecretRef::parse(&format!("{namespace}/{name}")).filter(|_| !served.is_empty());
    if let Some(key) = key {
        match secrets.certificate(&key).filter(|_| !secrets.is_missing(&key)) {
            None => {}
            Some(Ok(certificate)) => {
                all.certificates.set_default(certificate);
                default = Some(key.clone());
            }
            Some(Err(fault)) => default_fault = Some(fault),
        }
        all.wanted.insert(key);
    }
    let parts = gateway::Parts {
        table: &mut all.table,
        certificates: &mut all.certificates,
        sources: &mut all.sources,
        default: &mut default,
        wanted: &mut all.wanted,
        backends: &mut all.backends,
        secrets,
    };
    let told = gateway::compile(gateways, settings, parts);
    let mut table = all.table;
    table.certificates(all.certificates).https_port(settings.https_port);
    let served = served.into_iter().map(|(read, mut faults)| {
        faults.sort();
        faults.dedup();
        let rules = &read.row.rules;
        let hosts = rules.iter().filter_map(|rule| rule.host.as_ref()).map(ToString::to_string);
        let served = Served {
            uid: read.row.uid.clone(),
            hosts: hosts.collect(),
            paths: rules.iter().map(|rule| rule.paths.len()).sum(),
            tls: !read.row.tls.is_empty(),
            faults,
        };
        (read.row.key.clone(), served)
    });
    let (names, fed) = all.backends.into_sources();
    let compiled = Compiled {
        table: Arc::new(table.build()),
        served: Arc::new(served.collect()),
        gateways: Arc::new(told),
        wanted: all.wanted,
        certificates: all.sources,
        default,
        default_fault,
        names,
    };
    (compiled, fed)
}

struct Compiler<'a> {
    table: RouteTableBuilder,
    certificates: Certificates,
    /// From which Secret they are.
    sources: BTreeMap<String, SecretRef>,
    backends: Backends<'a>,
    secrets: &'a Secrets,
    /// Who has a path of a host.
    holders: HashMap<(HostMatch, PathMatch), IngressKey>,
    wanted: BTreeSet<SecretRef>,
}

/// One Ingress, as its routes see it.
struct Context<'a> {
    row: &'a Ingress,
    options: &'a Options,
    auth: Option<Arc<BasicAuth>>,
    /// Nobody is let in.
    shut: bool,
}

fn hosts_of<'r>(rule: &'r IngressRule, options: &'r Options) -> Vec<Option<&'r HostPattern>> {
    let aliases = options.aliases.iter().map(Some).filter(|_| rule.host.is_some());
    std::iter::once(rule.host.as_ref()).chain(aliases).collect()
}

fn host_match(host: Option<&HostPattern>) -> HostMatch {
    host.map_or(HostMatch::Any, |host| HostMatch::from_name(host.as_str()))
}

fn shown(host: Option<&HostPattern>) -> &str {
    host.map_or("*", HostPattern::as_str)
}

impl<'a> Compiler<'a> {
    fn ingress(&mut self, read: &Read, faults: &mut Faults) {
        let row = &read.row;
        self.tls(row, faults);
        let context = self.context(read, faults);
        for rule in &row.rules {
            let tls = has_tls(row, rule.host.as_ref());
            for host in hosts_of(rule, &read.options) {
                for path in &rule.paths {
                    self.path(&context, host, path, tls, faults);
                }
            }
            if let (Some(root), Some(_)) = (&read.options.app_root, &rule.host) {
                for host in hosts_of(rule, &read.options) {
                    let name = format!("{} {} app-root", row.key, shown(host));
                    let route = context.route(name, tls, Action::Redirect(root.clone()));
                    self.put(&context, host, PathMatch::Exact("/".into()), &Arc::new(route), None);
                }
            }
        }
    }

    fn want(&mut self, row: &Ingress, secret: &SecretName) -> SecretRef {
        let key = SecretRef { namespace: row.key.namespace.clone(), name: secret.clone() };
        self.wanted.insert(key.clone());
        key
    }

    fn tls(&mut self, row: &Ingress, faults: &mut Faults) {
        for tls in &row.tls {
            let Some(secret) = &tls.secret else { continue };
            let key = self.want(row, secret);
            let certificate = match self.secrets.certificate(&key) {
                None => continue,
                Some(Err(fault)) => {
                    faults.push(fault);
                    continue;
                }
                Some(Ok(certificate)) => certificate,
            };
            let of_rules = row.rules.iter().filter_map(|rule| rule.host.as_ref());
            let hosts: Vec<&HostPattern> =
                if tls.hosts.is_empty() { of_rules.collect() } else { tls.hosts.iter().collect() };
            for host in hosts {
                self.certificates.add(host.as_str(), certificate.clone());
                self.sources.entry(host.to_string()).or_insert_with(|| key.clone());
            }
        }
    }

    fn context<'r>(&mut self, read: &'r Read, faults: &mut Faults) -> Context<'r> {
        let (row, options) = (&*read.row, &read.options);
        let mut context = Context { row, options, auth: None, shut: options.shut };
        if let Some(users) = &options.users {
            let key = self.want(row, &users.secret);
            match self.secrets.users(&key) {
                None => context.shut = true,
                Some(Err(fault)) => {
                    faults.push(fault);
                    context.shut = true;
                }
                Some(Ok(known)) => {
                    context.auth = Some(Arc::new(BasicAuth { realm: users.realm.clone(), users: known }));
                }
            }
        }
        context
    }

    fn path(
        &mut self,
        context: &Context<'_>,
        host: Option<&HostPattern>,
        path: &IngressPath,
        tls: bool,
        faults: &mut Faults,
    ) {
        let options = context.options;
        let regular = options.regular && path.kind == PathKind::ImplementationSpecific;
        let (matching, edit) = if regular {
            let Some(found) = prefixed(&path.path) else {
                let message = format!(
                    "path {} is a regular expression that is more than a prefix",
                    shown_text(&path.path)
                );
                faults.push(fault("PathNotServed", message));
                return;
            };
            match edit_of(options, &found) {
                Ok(edit) => (PathMatch::Prefix(found.prefix.into()), edit),
                Err(why) => {
                    faults.push(fault("PathNotServed", format!("path {}: {why}", shown_text(&path.path))));
                    return;
                }
            }
        } else {
            let text = if path.path.is_empty() { "/" } else { &path.path };
            let matching = match path.kind {
                PathKind::Exact => PathMatch::Exact(text.into()),
                PathKind::Prefix | PathKind::ImplementationSpecific => PathMatch::Prefix(text.into()),
            };
            (matching, options.rewrite.as_ref().map(super::rewrite::Rewrite::edit))
        };
        let action = self.action(context, &path.backend, edit, faults);
        let name = format!("{} {} {}", context.row.key, shown(host), matching.as_str());
        let route = Arc::new(context.route(name, tls, action));
        self.put(context, host, matching, &route, Some(faults));
    }

    fn action(
        &mut self,
        context: &Context<'_>,
        backend: &IngressBackend,
        path: Option<PathEdit>,
        faults: &mut Faults,
    ) -> Action {
        let (row, options) = (context.row, context.options);
        if let Some(redirect) = &options.redirect {
            return Action::Redirect(redirect.clone());
        }
        match self.backends.find(&row.key, backend, options, faults) {
            Ok(backend) => Action::Forward(Forward {
                backends: vec![Weighted { weight: 1, backend }],
                path,
                host: options.host.clone(),
                timeouts: options.timeouts,
                retry: options.retries.map_or_else(Retry::default, |attempts| Retry { attempts }),
            }),
            Err(fault) => {
                faults.push(fault);
                Action::Answer(StatusCode::SERVICE_UNAVAILABLE)
            }
        }
    }

    /// Puts a route into the table, unless somebody older has that path; `faults` says so.
    fn put(
        &mut self,
        context: &Context<'_>,
        host: Option<&HostPattern>,
        path: PathMatch,
        route: &Arc<Route>,
        faults: Option<&mut Faults>,
    ) {
        let place = (host_match(host), path);
        if let Some(holder) = self.holders.get(&place) {
            if let Some(faults) = faults {
                let of = if *holder == context.row.key {
                    "twice in this Ingress".to_owned()
                } else {
                    format!("of Ingress {holder}")
                };
                let message =
                    format!("{}{} is {of} already, which came first", shown(host), place.1.as_str());
                faults.push(fault("PathTaken", message));
            }
            return;
        }
        self.table.route(Match::new(place.0.clone(), place.1.clone()), route);
        self.holders.insert(place, context.row.key.clone());
    }

    /// The default backend, as a route; nothing when there is none.
    fn default(
        &mut self,
        read: &Read,
        host: Option<&HostPattern>,
        faults: &mut Faults,
    ) -> Option<(Arc<Route>, bool)> {
        let backend = read.row.default_backend.as_ref()?;
        let context = self.context(read, faults);
        let action = self.action(&context, backend, None, faults);
        let tls = has_tls(&read.row, host);
        let name = format!("{} {} default backend", read.row.key, shown(host));
        Some((Arc::new(context.route(name, tls, action)), context.shut))
    }

    fn rest_of_hosts(&mut self, read: &Read, faults: &mut Faults) {
        let named = read.row.rules.iter().filter(|rule| rule.host.is_some());
        for rule in named {
            for host in hosts_of(rule, &read.options) {
                let Some((route, shut)) = self.default(read, host, faults) else { return };
                let context = Context { row: &read.row, options: &read.options, auth: None, shut };
                self.put(&context, host, PathMatch::Prefix("/".into()), &route, None);
            }
        }
    }

    fn rest(&mut self, read: &Read, faults: &mut Faults) {
        if let Some((route, _)) = self.default(read, None, faults) {
            self.table.fallback(&route);
        }
    }
}

fn edit_of(options: &Options, path: &Prefixed<'_>) -> Result<Option<PathEdit>, &'static str> {
    let Some(rewrite) = &options.rewrite else { return Ok(None) };
    rewrite.edit_of(path).map(Some).ok_or("the target asks for a group that is not what is below the prefix")
}

/// Whether a host has TLS in this Ingress.
fn has_tls(row: &Ingress, host: Option<&HostPattern>) -> bool {
    row.tls.iter().any(|tls| match host {
        None => true,
        Some(host) => {
            tls.hosts.is_empty() || tls.hosts.iter().any(|of| of == host || of.matches(host.as_str()))
        }
    })
}

impl Context<'_> {
    fn route(&self, name: String, tls: bool, action: Action) -> Route {
        let options = self.options;
        let action = if self.shut { Action::Answer(StatusCode::SERVICE_UNAVAILABLE) } else { action };
        let mut route = Route::new(name, action);
        let to_https = match options.to_https {
            ToHttps::Never => false,
            ToHttps::WithTls => tls,
            ToHttps::Always => true,
        };
        route.https = to_https.then(|| options.https_status.unwrap_or(StatusCode::PERMANENT_REDIRECT));
        route.sources = options.sources.clone();
        route.limits = options.limits.clone();
        route.auth = self.auth.clone();
        route.cors = options.cors.clone();
        route.body_limit = options.body_limit;
        route.request_headers = options.request_headers.clone();
        route.response_headers = options.response_headers.clone();
        route
    }
}
