//! The table itself: from a request to its route.

use super::action::{Backend, Route};
use super::matching::{HostMatch, Match, PathMatch, RequestLine};
use super::tree::Tree;
use crate::tls::Certificates;
use std::collections::HashMap;
use std::sync::Arc;

/// All routes and certificates, as of one moment. It is made by a [`RouteTableBuilder`], not changed but for the endpoints of its backends, and swapped as a
/// whole.
///
/// The order in which routes are asked: an exact host, then a wildcard of one label, then those of any number of
/// labels, the longest first, then any host; on one host an exact path, then the
/// longest prefix; on one path the route that names a method, then the one with more headers, then with more parameters;
/// then the one that was put in first. When a host has routes but none for the path, those of the wildcard and of any host
/// are asked too. What no route matches goes to the fallback.
#[derive(Debug, Default)]
pub struct RouteTable {
    exact: HashMap<Box<str>, Tree<usize>>,
    wildcard: HashMap<Box<str>, Tree<usize>>,
    below: HashMap<Box<str>, Tree<usize>>,
    any: Tree<usize>,
    entries: Vec<Entry>,
    routes: Vec<Arc<Route>>,
    backends: Vec<Arc<Backend>>,
    fallback: Option<usize>,
    certificates: Certificates,
    https_port: Option<u16>,
}

#[derive(Debug)]
struct Entry {
    matching: Match,
    route: usize,
}

/// A route that was found.
#[derive(Clone, Copy, Debug)]
pub struct Matched<'a> {
    /// The route.
    pub route: &'a Arc<Route>,
    /// Its place in [`RouteTable::routes`].
    pub index: usize,
    /// What matched; nothing for the fallback.
    pub matching: Option<&'a Match>,
    /// How many elements of the path were matched: what a rewrite of the prefix replaces.
    pub depth: usize,
}

impl RouteTable {
    /// Begins a table.
    pub fn builder() -> RouteTableBuilder {
        RouteTableBuilder::default()
    }

    /// The route of a request.
    pub fn find(&self, request: &RequestLine<'_>) -> Option<Matched<'_>> {
        if request.path.first() != Some(&b'/') {
            return self.by_fallback();
        }
        let exact = self.exact.get(request.host);
        let wildcard = || request.host.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
        let found = exact
            .and_then(|tree| self.find_in(tree, request))
            .or_else(|| wildcard().and_then(|tree| self.find_in(tree, request)))
            .or_else(|| self.find_below(request))
            .or_else(|| self.find_in(&self.any, request));
        found.or_else(|| self.by_fallback())
    }

    /// The route of a wildcard of any number of labels.
    fn find_below<'a>(&'a self, request: &RequestLine<'_>) -> Option<Matched<'a>> {
        if self.below.is_empty() {
            return None;
        }
        let parents = std::iter::successors(Some(request.host), |host| Some(host.split_once('.')?.1)).skip(1);
        parents.filter_map(|parent| self.below.get(parent)).find_map(|tree| self.find_in(tree, request))
    }

    fn by_fallback(&self) -> Option<Matched<'_>> {
        let index = self.fallback?;
        Some(Matched { route: &self.routes[index], index, matching: None, depth: 0 })
    }

    fn find_in<'a>(&'a self, tree: &Tree<usize>, request: &RequestLine<'_>) -> Option<Matched<'a>> {
        let accept = |entry: &usize| self.entries[*entry].matching.accepts(request);
        let (entry, depth) = tree.find(request.path, accept)?;
        let Entry { matching, route } = &self.entries[*entry];
        Some(Matched { route: &self.routes[*route], index: *route, matching: Some(matching), depth })
    }

    /// All routes, each once.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// All backends of all routes, each once.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// What each route is reached by.
    pub fn entries(&self) -> impl Iterator<Item = (&Match, &Arc<Route>)> {
        self.entries.iter().map(|entry| (&entry.matching, &self.routes[entry.route]))
    }

    /// The certificates.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// The port that a redirect to HTTPS names, when it is not 443.
    pub fn https_port(&self) -> Option<u16> {
        self.https_port.filter(|port| *port != 443)
    }
}

/// A table in the making.
#[derive(Debug, Default)]
pub struct RouteTableBuilder {
    table: RouteTable,
    known_routes: HashMap<*const Route, usize>,
    known_backends: HashMap<*const Backend, usize>,
}

impl RouteTableBuilder {
    /// Adds a route for a match. Of two equal matches the first wins, so the oldest object is to come first. One route may
    /// have several matches: share it.
    pub fn route(&mut self, matching: Match, route: &Arc<Route>) -> &mut Self {
        let route = self.know(route);
        let entry = self.table.entries.len();
        let tree = match &matching.host {
            HostMatch::Exact(name) => self.table.exact.entry(name.clone()).or_default(),
            HostMatch::Wildcard(parent) => self.table.wildcard.entry(parent.clone()).or_default(),
            HostMatch::Below(parent) => self.table.below.entry(parent.clone()).or_default(),
            HostMatch::Any => &mut self.table.any,
        };
        match &matching.path {
            PathMatch::Exact(path) => tree.insert_exact(path.as_bytes(), entry),
            PathMatch::Prefix(path) => tree.insert_prefix(path.as_bytes(), entry),
        }
        self.table.entries.push(Entry { matching, route });
        self
    }

    /// The route of what nothing else matches; of several the first counts.
    pub fn fallback(&mut self, route: &Arc<Route>) -> &mut Self {
        let route = self.know(route);
        self.table.fallback.get_or_insert(route);
        self
    }

    /// The certificates to serve by.
    pub fn certificates(&mut self, certificates: Certificates) -> &mut Self {
        self.table.certificates = certificates;
        self
    }

    /// The port on which clients reach HTTPS; 443 when it is not said.
    pub fn https_port(&mut self, port: u16) -> &mut Self {
        self.table.https_port = Some(port);
        self
    }

    /// The table.
    pub fn build(self) -> RouteTable {
        let mut table = self.table;
        let entries = &table.entries;
        let wildcards = table.wildcard.values_mut().chain(table.below.values_mut());
        let trees = table.exact.values_mut().chain(wildcards).chain([&mut table.any]);
        for tree in trees {
            tree.sort_by_key(|entry| entries[*entry].matching.rank());
        }
        table
    }

    fn know(&mut self, route: &Arc<Route>) -> usize {
        let table = &mut self.table;
        for backend in route.backends() {
            self.known_backends.entry(Arc::as_ptr(backend)).or_insert_with(|| {
                table.backends.push(backend.clone());
                table.backends.len() - 1
            });
        }
        *self.known_routes.entry(Arc::as_ptr(route)).or_insert_with(|| {
            table.routes.push(route.clone());
            table.routes.len() - 1
        })
    }
}
