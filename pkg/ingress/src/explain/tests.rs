use super::*;
use crate::auth::Users;
use crate::route::{BasicAuth, Endpoint, Limits, Match, Rate, RouteTable, Scheme, SourceRanges, Weighted};
use http::StatusCode;
use std::sync::Arc;
use std::time::Duration;
use warren_types::SecretRef;

fn endpoint(last: u8, readiness: Readiness) -> Endpoint {
    Endpoint { address: ([10, 42, 0, last], 8080).into(), readiness }
}

fn forward(endpoints: Vec<Endpoint>) -> Forward {
    let backend = Backend { name: "shop/web:80".into(), endpoints: endpoints.into(), ..Backend::default() };
    Forward { backends: vec![Weighted { weight: 1, backend: Arc::new(backend) }], ..Forward::default() }
}

fn one() -> Forward {
    forward(vec![endpoint(1, Readiness::Ready)])
}

/// A table with this route at a match.
fn at(host: HostMatch, path: PathMatch, route: Route) -> Compiled {
    let mut builder = RouteTable::builder();
    builder.route(Match::new(host, path), &Arc::new(route));
    Compiled { table: Arc::new(builder.build()), ..Compiled::default() }
}

/// The same for everything at `foo.test`.
fn foo(route: Route) -> Compiled {
    at(HostMatch::from_name("foo.test"), PathMatch::Prefix("/".into()), route)
}

fn steps(compiled: &Compiled, url: &str) -> (bool, Vec<String>) {
    let explained = explain(compiled, url).unwrap();
    let steps = explained.steps.iter().map(|step| format!("{}: {}", step.about, step.says));
    (explained.served, steps.collect())
}

const ROUTE: &str = "route: Ingress shop/web: host foo.test, path / and below";
const BACKEND: &str = "backend: Service shop/web:80, by HTTP/1.1";
const ENDPOINT: &str = "endpoints: 10.42.0.1:8080";

#[test]
fn the_way_to_an_endpoint_is_told() {
    let compiled = foo(Route::new("shop/web foo.test /", Action::Forward(one())));
    let told = (true, vec![ROUTE.to_owned(), BACKEND.to_owned(), ENDPOINT.to_owned()]);
    for url in ["http://foo.test/x?y=1", "foo.test", "FOO.test:8080/x", "http://foo.test./"] {
        assert_eq!(steps(&compiled, url), told, "{url}");
    }
    assert_eq!(explain(&compiled, "foo.test/x").unwrap().url, "http://foo.test/x");
    let nobody = "route: none: no rule takes this host and path, and there is no default backend; 404";
    assert_eq!(steps(&compiled, "http://bar.test/"), (false, vec![nobody.to_owned()]));
}

#[test]
fn what_is_no_url_is_said() {
    for url in
        ["", "://x", "http://", "ftp://foo.test/", "http://a b/", "http://foo.test:99999/", "http://a@b/"]
    {
        let error = explain(&Compiled::default(), url).unwrap_err().to_string();
        assert!(error.ends_with("is no URL such as https://example.org/path"), "{url}: {error}");
    }
    let long = explain(&Compiled::default(), &" ".repeat(10_000)).unwrap_err().to_string();
    assert!(long.len() < 300, "{}", long.len());
}

#[test]
fn what_is_refused_as_ambiguous_is_not_explained_as_served() {
    let compiled = foo(Route::new("shop/web foo.test /", Action::Forward(one())));
    for path in ["/a/..%2fb", "/a/../b", "/%00", "/a%zz", "/x/%2e"] {
        let (served, told) = steps(&compiled, &format!("http://foo.test{path}"));
        assert!(
            !served && told == ["answer: 400: the path can be read in more than one way"],
            "{path}: {told:?}"
        );
    }
}

#[test]
fn the_match_is_named_as_it_was_written() {
    let route = || Route::new("shop/web * /", Action::Forward(one()));
    for (host, path, expected) in [
        (HostMatch::Any, PathMatch::Exact("/x".into()), "host *, path /x, exactly"),
        (HostMatch::from_name("*.test"), PathMatch::Prefix("/x".into()), "host *.test, path /x and below"),
    ] {
        let (_, told) = steps(&at(host, path, route()), "http://foo.test/x");
        assert_eq!(told[0], format!("route: Ingress shop/web: {expected}"));
    }
    let mut builder = RouteTable::builder();
    builder.fallback(&Arc::new(Route::new("shop/web", Action::Forward(one()))));
    let compiled = Compiled { table: Arc::new(builder.build()), ..Compiled::default() };
    let (served, told) = steps(&compiled, "http://foo.test/x");
    assert!(served);
    assert_eq!(told[0], "route: Ingress shop/web: default backend, since no rule takes this host and path");
}

#[test]
fn the_certificate_is_that_of_the_host_or_of_its_wildcard_or_none() {
    let mut compiled = foo(Route::new("shop/web foo.test /", Action::Forward(one())));
    let said = |compiled: &Compiled, host: &str| steps(compiled, &format!("https://{host}/")).1[0].clone();
    assert!(said(&compiled, "foo.test").contains("the default one, which nobody vouches for"));
    compiled.certificates.insert("*.test".into(), SecretRef::parse("shop/wild").unwrap());
    assert_eq!(said(&compiled, "foo.test"), "certificate: Secret shop/wild, for *.test");
    compiled.certificates.insert("foo.test".into(), SecretRef::parse("shop/exact").unwrap());
    assert_eq!(said(&compiled, "FOO.test"), "certificate: Secret shop/exact, for foo.test");
    assert!(said(&compiled, "a.b.test").contains("default one"));
    // There is none by plain HTTP.
    assert_eq!(steps(&compiled, "http://foo.test/").1[0], ROUTE);
}

#[test]
fn each_filter_is_told() {
    let range = |text: &str| vec![text.parse().unwrap()];
    let auth = BasicAuth { realm: "staff".into(), users: Arc::new(Users::default()) };
    let compiled = foo(Route {
        sources: SourceRanges { allow: range("10.0.0.0/8"), deny: range("10.1.0.0/16") },
        https: Some(StatusCode::PERMANENT_REDIRECT),
        limits: Limits {
            rate: Some(Rate { requests: 10, per: Duration::from_secs(1) }),
            burst: 50,
            concurrent: Some(4),
            exempt: Vec::new(),
        },
        auth: Some(Arc::new(auth)),
        body_limit: Some(1_024),
        ..Route::new("shop/web foo.test /", Action::Forward(one()))
    });
    let filters = [
        "filter: only clients in 10.0.0.0/8; 403 for others",
        "filter: no clients in 10.1.0.0/16; 403 for them",
        "filter: 308 Permanent Redirect to https, since the request is plain",
        "filter: 10 requests in 1s for each client, 50 more at once",
        "filter: 4 requests at once for each client",
        "filter: users of \"staff\" only; 401 for others",
        "filter: bodies of up to 1024 bytes; 413 for larger ones",
    ];
    assert_eq!(steps(&compiled, "http://foo.test/").1[1..8], filters);
    let (served, secure) = steps(&compiled, "https://foo.test/");
    assert!(served && secure.len() == 1 + 1 + 6 + 2, "{secure:?}");
    assert!(!secure.iter().any(|step| step.contains("since the request is plain")), "{secure:?}");
}

#[test]
fn answers_that_need_no_endpoint_are_told() {
    let compiled = foo(Route::new("shop/web foo.test /", Action::Answer(StatusCode::SERVICE_UNAVAILABLE)));
    let (served, told) = steps(&compiled, "http://foo.test/");
    assert!(!served);
    assert_eq!(
        told[1],
        "answer: 503 Service Unavailable: `kubectl describe ingress` says what is wrong with it"
    );
    let to = Redirect { scheme: None, host: None, port: None, path: None, status: StatusCode::FOUND };
    let full = |path: &str| Some(PathEdit::Full(path.into()));
    for (to, expected) in [
        (
            Redirect {
                scheme: Some(Scheme::Https),
                host: Some("x.test".into()),
                path: full("/a"),
                ..to.clone()
            },
            "https://x.test/a",
        ),
        (Redirect { path: full("/a"), ..to.clone() }, "http://foo.test/a"),
        (
            Redirect { host: Some("x.test".into()), port: Some(81), ..to.clone() },
            "http://x.test:81 and the path",
        ),
        (
            Redirect {
                scheme: Some(Scheme::Https),
                port: Some(443),
                path: Some(PathEdit::Prefix("/b".into())),
                ..to
            },
            "https://foo.test/b and the rest of the path",
        ),
    ] {
        let (served, told) = steps(&foo(Route::new("shop/web", Action::Redirect(to))), "http://foo.test/");
        assert!(served);
        assert_eq!(told[1], format!("answer: 302 Found to {expected}"));
    }
}

#[test]
fn rewrites_and_protocols_are_told() {
    for (edit, expected) in [
        (PathEdit::Prefix("/b".into()), "rewrite: what the rule matched becomes /b"),
        (PathEdit::Full("/b".into()), "rewrite: the path becomes /b"),
    ] {
        let compiled = foo(Route::new("shop/web", Action::Forward(Forward { path: Some(edit), ..one() })));
        assert_eq!(steps(&compiled, "http://foo.test/").1[1], expected);
    }
    let backend = Backend { name: "shop/grpc:80".into(), protocol: Protocol::H2c, ..Backend::default() };
    let mut to = one();
    to.backends.push(Weighted { weight: 1, backend: Arc::new(backend) });
    let (served, told) = steps(&foo(Route::new("shop/web", Action::Forward(to))), "http://foo.test/");
    assert!(served, "one of both can");
    assert_eq!(
        told[1..],
        [
            BACKEND,
            ENDPOINT,
            "backend: Service shop/grpc:80, by HTTP/2 in clear text",
            "endpoints: none is ready; 503"
        ]
    );
}

#[test]
fn endpoints_are_told_as_they_are_chosen() {
    let told = |endpoints: Vec<Endpoint>| {
        let (served, mut told) =
            steps(&foo(Route::new("shop/web", Action::Forward(forward(endpoints)))), "http://foo.test/");
        (served, told.pop().unwrap())
    };
    assert_eq!(told(Vec::new()), (false, "endpoints: none is ready; 503".into()));
    let (ready, ends) = (Readiness::Ready, Readiness::Terminating);
    assert_eq!(
        told(vec![endpoint(1, ready), endpoint(2, ready)]),
        (
            true,
            "endpoints: 10.42.0.1:8080, 10.42.0.2:8080: of two drawn ones that with fewer requests".into()
        )
    );
    assert_eq!(
        told(vec![endpoint(1, ready), endpoint(2, ends)]),
        (true, "endpoints: 10.42.0.1:8080, 10.42.0.2:8080 (ends, gets nothing new)".into())
    );
    assert_eq!(
        told(vec![endpoint(2, ends)]),
        (true, "endpoints: 10.42.0.2:8080 (ends, but there is no other)".into())
    );
    let (_, many) = told((1..=30).map(|n| endpoint(n, ready)).collect());
    assert!(many.contains("10.42.0.20:8080, and 10 more: of two") && !many.contains("10.42.0.21"), "{many}");
}

#[test]
fn routes_of_gateways_are_told_with_who_else_takes_the_path() {
    let mut builder = RouteTable::builder();
    let place = |scheme| Match {
        scheme: Some(scheme),
        ..Match::new(HostMatch::Below("test".into()), PathMatch::Prefix("/".into()))
    };
    let of = |name: &str| Arc::new(Route::new(name, Action::Forward(one())));
    builder.route(place(Scheme::Http), &of("HTTPRoute/shop/web rule 0"));
    let version = (http::HeaderName::from_static("version"), ValueMatch::Exact((*b"2").into()));
    let next = Match { headers: vec![version], method: Some(Method::PUT), ..place(Scheme::Http) };
    builder.route(next, &of("HTTPRoute/shop/next rule 0"));
    builder.route(place(Scheme::Https), &of("HTTPRoute/shop/secure rule 0"));
    let compiled = Compiled { table: Arc::new(builder.build()), ..Compiled::default() };
    let (served, told) = steps(&compiled, "http://a.b.test/x");
    let others = "others: with method PUT, header version: 2: HTTPRoute shop/next";
    assert!(served);
    assert_eq!(told, ["route: HTTPRoute shop/web: host *.test, path / and below", BACKEND, ENDPOINT, others]);
    assert!(steps(&compiled, "https://a.test/").1[1].starts_with("route: HTTPRoute shop/secure:"));
}
