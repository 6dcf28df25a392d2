//! The matcher, by examples of the specifications and against a naive one.

use super::*;
use http::{HeaderMap, Method, StatusCode};
use proptest::prelude::*;
use std::sync::Arc;

fn route(name: &str) -> Arc<Route> {
    Arc::new(Route::new(name, Action::Answer(StatusCode::OK)))
}

fn table(entries: &[(HostMatch, PathMatch)]) -> RouteTable {
    let mut builder = RouteTable::builder();
    for (at, (host, path)) in entries.iter().enumerate() {
        builder.route(Match::new(host.clone(), path.clone()), &route(&at.to_string()));
    }
    builder.build()
}

fn found(table: &RouteTable, host: &str, path: &str) -> Option<usize> {
    let request = RequestLine {
        scheme: Scheme::Http,
        host,
        method: &Method::GET,
        path: path.as_bytes(),
        query: None,
        headers: &HeaderMap::new(),
    };
    table.find(&request).map(|matched| matched.route.name.parse().unwrap())
}

/// The table of examples of the Kubernetes documentation on Ingress paths.
#[test]
fn paths_match_as_the_ingress_specification_says() {
    let exact = |path: &str| PathMatch::Exact(path.into());
    let prefix = |path: &str| PathMatch::Prefix(path.into());
    for (matching, path, matches) in [
        (prefix("/"), "/anything/at/all", true),
        (exact("/foo"), "/foo", true),
        (exact("/foo"), "/bar", false),
        (exact("/foo"), "/foo/", false),
        (exact("/foo/"), "/foo", false),
        (prefix("/foo"), "/foo", true),
        (prefix("/foo"), "/foo/", true),
        (prefix("/foo/"), "/foo", true),
        (prefix("/foo/"), "/foo/", true),
        (prefix("/aaa/bb"), "/aaa/bbb", false),
        (prefix("/aaa/bbb"), "/aaa/bbb", true),
        (prefix("/aaa/bbb/"), "/aaa/bbb", true),
        (prefix("/aaa/bbb"), "/aaa/bbb/", true),
        (prefix("/aaa/bbb"), "/aaa/bbb/ccc", true),
        (prefix("/aaa/bbb"), "/aaa/bbbxyz", false),
    ] {
        let table = table(&[(HostMatch::Any, matching.clone())]);
        assert_eq!(found(&table, "h", path).is_some(), matches, "{matching:?} {path}");
    }
}

#[test]
fn hosts_match_the_most_exact_first_and_a_wildcard_stands_for_one_label() {
    let all = || PathMatch::Prefix("/".into());
    let table = table(&[
        (HostMatch::Any, all()),
        (HostMatch::from_name("*.foo.com"), all()),
        (HostMatch::from_name("bar.foo.com"), all()),
    ]);
    assert_eq!(found(&table, "bar.foo.com", "/"), Some(2));
    assert_eq!(found(&table, "baz.foo.com", "/"), Some(1));
    assert_eq!(found(&table, "a.b.foo.com", "/"), Some(0));
    assert_eq!(found(&table, "foo.com", "/"), Some(0));
    assert_eq!(found(&table, "", "/"), Some(0));
}

#[test]
fn encoding_and_empty_elements_are_no_way_around_a_route() {
    let prefix = |path: &str| (HostMatch::Any, PathMatch::Prefix(path.into()));
    let table = table(&[prefix("/"), prefix("/admin"), (HostMatch::Any, PathMatch::Exact("/login".into()))]);
    for path in ["/admin", "/%61dmin", "//admin", "/a%64min/x", "/admin//x"] {
        assert_eq!(found(&table, "h", path), Some(1), "{path}");
    }
    assert_eq!(found(&table, "h", "//log%69n"), Some(2));
}

#[test]
fn methods_headers_and_parameters_come_before_a_bare_path() {
    let path = || PathMatch::Prefix("/a".into());
    let mut matches = vec![Match::new(HostMatch::Any, path()); 5];
    matches[1].query = vec![("version".into(), ValueMatch::Exact((*b"2").into()))];
    matches[2].headers = vec![(http::header::ACCEPT, ValueMatch::Present)];
    matches[3].method = Some(Method::POST);
    let mut builder = RouteTable::builder();
    for (at, matching) in matches.iter().enumerate() {
        builder.route(matching.clone(), &route(&at.to_string()));
    }
    builder.fallback(&route("9"));
    let table = builder.build();
    let mut headers = HeaderMap::new();
    let ask = |method: &Method, query: &str, headers: &HeaderMap| -> usize {
        let (scheme, query) = (Scheme::Http, Some(query.as_bytes()));
        let request = RequestLine { scheme, host: "h", method, path: b"/a", query, headers };
        table.find(&request).unwrap().route.name.parse().unwrap()
    };
    assert_eq!(ask(&Method::GET, "version=1&version=2", &headers), 0, "the first of a name counts");
    assert_eq!(ask(&Method::GET, "a=b&version=2", &headers), 1);
    headers.insert("accept", "x".parse().unwrap());
    assert_eq!(ask(&Method::GET, "version=2", &headers), 2);
    assert_eq!(ask(&Method::POST, "version=2", &headers), 3);
    assert_eq!(found(&table, "h", "/b"), Some(9), "the fallback takes the rest");
}

#[test]
fn a_table_knows_each_route_and_backend_once() {
    let backend = Arc::new(Backend::default());
    let weighted = |weight| Weighted { weight, backend: backend.clone() };
    let forward = Forward { backends: vec![weighted(1), weighted(2)], ..Forward::default() };
    let shared = Arc::new(Route::new("shared", Action::Forward(forward)));
    let mut builder = RouteTable::builder();
    builder.route(Match::new(HostMatch::Any, PathMatch::Prefix("/a".into())), &shared);
    builder.route(Match::new(HostMatch::Any, PathMatch::Prefix("/b".into())), &shared);
    let table = builder.build();
    assert_eq!((table.routes().len(), table.backends().len(), table.entries().count()), (1, 1, 2));
}

/// The rules of the specification, said as plainly as can be, over all entries.
fn naive(entries: &[(HostMatch, PathMatch)], host: &str, path: &str) -> Option<usize> {
    let pieces = |path: &str| -> Vec<String> {
        path.split('/').filter(|piece| !piece.is_empty()).map(str::to_owned).collect()
    };
    let mut best: Option<((u8, usize, bool, usize), usize)> = None;
    for (at, (host_match, path_match)) in entries.iter().enumerate() {
        let above = |parent: &str| host.strip_suffix(parent).and_then(|rest| rest.strip_suffix('.'));
        let (host_rank, depth) = match host_match {
            HostMatch::Exact(name) if **name == *host => (3, 0),
            HostMatch::Wildcard(parent) if above(parent).is_some_and(|label| !label.contains('.')) => (2, 0),
            HostMatch::Below(parent) if above(parent).is_some() => (1, parent.len()),
            HostMatch::Any => (0, 0),
            _ => continue,
        };
        let (exact, matches, length) = match path_match {
            PathMatch::Exact(wanted) => (
                true,
                pieces(wanted) == pieces(path) && wanted.ends_with('/') == path.ends_with('/'),
                pieces(wanted).len(),
            ),
            PathMatch::Prefix(wanted) => {
                (false, pieces(path).starts_with(&pieces(wanted)), pieces(wanted).len())
            }
        };
        let rank = (host_rank, depth, exact, length);
        if matches && best.is_none_or(|(other, _)| rank > other) {
            best = Some((rank, at));
        }
    }
    best.map(|(_, at)| at)
}

fn any_host() -> impl Strategy<Value = HostMatch> {
    prop_oneof![
        Just(HostMatch::Any),
        "(\\*\\.)?([ab]\\.){0,2}[ab]".prop_map(|name| HostMatch::from_name(&name)),
        "([ab]\\.){0,2}[ab]".prop_map(|name| HostMatch::Below(name.into())),
    ]
}

fn any_path() -> impl Strategy<Value = String> {
    "(/[ab]{0,2}){1,4}"
}

fn any_path_match() -> impl Strategy<Value = PathMatch> {
    (any_path(), any::<bool>()).prop_map(|(path, exact)| match exact {
        true => PathMatch::Exact(path.into()),
        false => PathMatch::Prefix(path.into()),
    })
}

proptest! {
    #[test]
    fn the_table_agrees_with_a_naive_matcher(
        entries in prop::collection::vec((any_host(), any_path_match()), 0..12),
        host in "([ab]\\.){0,3}[ab]",
        path in any_path(),
    ) {
        prop_assert_eq!(found(&table(&entries), &host, &path), naive(&entries, &host, &path));
    }

    #[test]
    fn any_bytes_are_a_path(path in prop::collection::vec(any::<u8>(), 0..64)) {
        elements(&path).for_each(drop);
    }
}
