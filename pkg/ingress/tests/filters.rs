//! Filters of routes, balance, and the PROXY protocol, over loopback.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod common;

use common::*;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use std::io::{BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use warren_ingress::Serving;
use warren_ingress::auth::Users;
use warren_ingress::route::*;

/// A route to an origin, changed.
fn route(origin: &Origin, change: impl FnOnce(&mut Route, &mut Forward)) -> Route {
    let mut forward = forward(backend(&[origin.address]));
    let mut route = Route::new("route", Action::Answer(StatusCode::OK));
    change(&mut route, &mut forward);
    route.action = Action::Forward(forward);
    route
}

fn trusting() -> Serving {
    Serving { trusted: vec!["127.0.0.1/32".parse().unwrap()], ..config() }
}

#[test]
fn plain_requests_are_sent_to_https() {
    let origin = Origin::hello();
    let front = Front::start(
        trusting(),
        table_of(route(&origin, |route, _| route.https = Some(StatusCode::PERMANENT_REDIRECT))),
    );
    let answer = front.connect().ask("GET //evil/a?b HTTP/1.1\r\nHost: example.org:80\r\n\r\n");
    assert_eq!(answer.line, "HTTP/1.1 308 Permanent Redirect");
    assert_eq!(answer.header("location"), Some("https://example.org//evil/a?b"));
    let answer = front.connect().ask("GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-Proto: https\r\n\r\n");
    assert_eq!(answer.body, b"hello", "whoever ends TLS before us has said so");
}

#[test]
fn redirects_change_what_they_say_and_keep_the_rest() {
    let redirect = |to: Redirect| {
        let mut builder = RouteTable::builder();
        let route = Arc::new(Route::new("route", Action::Redirect(to)));
        builder.route(Match::new(HostMatch::Any, PathMatch::Prefix("/a".into())), &route);
        let front = Front::start(config(), builder.build());
        let answer = front.connect().ask("GET /a/b?c HTTP/1.1\r\nHost: h:8080\r\n\r\n");
        answer.header("location").map(str::to_owned)
    };
    let same = Redirect { scheme: None, host: None, port: None, path: None, status: StatusCode::FOUND };
    let prefix = |path: &str| Some(PathEdit::Prefix(path.into()));
    assert_eq!(redirect(Redirect { path: prefix("/x/"), ..same.clone() }).unwrap(), "http://h:8080/x/b?c");
    assert_eq!(
        redirect(Redirect { host: Some("new.org".into()), ..same.clone() }).unwrap(),
        "http://new.org/a/b?c"
    );
    assert_eq!(
        redirect(Redirect { scheme: Some(Scheme::Https), port: Some(8443), ..same.clone() }).unwrap(),
        "https://h:8443/a/b?c"
    );
    assert_eq!(
        redirect(Redirect { path: Some(PathEdit::Full("/n?q".into())), ..same }).unwrap(),
        "http://h:8080/n?q"
    );
}

#[test]
fn the_prefix_of_a_path_is_rewritten_by_elements() {
    let origin = Origin::start(|seen| ok(&seen.line));
    let mut builder = RouteTable::builder();
    for (path, new) in [("/api", "/v1"), ("/strip", "/")] {
        let route = Arc::new(route(&origin, |_, forward| forward.path = Some(PathEdit::Prefix(new.into()))));
        builder.route(Match::new(HostMatch::Any, PathMatch::Prefix(path.into())), &route);
    }
    let front = Front::start(config(), builder.build());
    for (path, wanted) in [
        ("/api", "/v1"),
        ("/api/", "/v1/"),
        ("/api/x%20y?z", "/v1/x%20y?z"),
        ("//%61pi//x", "/v1//x"),
        ("/strip", "/"),
        ("/strip/", "/"),
        ("/strip/a/", "/a/"),
        ("/strip?q=/", "/?q=/"),
    ] {
        assert_eq!(front.get(path).body, format!("GET {wanted} HTTP/1.1").as_bytes(), "{path}");
    }
}

#[test]
fn headers_are_set_added_and_removed_but_not_the_framing() {
    let origin =
        Origin::start(|_| b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nserver: x\r\nx-a: 1\r\n\r\n".to_vec());
    let name = HeaderName::from_static;
    let value = HeaderValue::from_static;
    let edits = HeaderEdits {
        remove: vec![name("server"), name("x-gone"), name("content-length")],
        set: vec![(name("x-a"), value("2")), (name("transfer-encoding"), value("chunked"))],
        add: vec![(name("x-b"), value("3"))],
    };
    let front = Front::start(
        config(),
        table_of(route(&origin, |route, forward| {
            route.request_headers = edits.clone();
            route.response_headers = edits;
            forward.host = Some(value("inner.example"));
        })),
    );
    let answer = front.connect().ask("GET / HTTP/1.1\r\nHost: h\r\nX-Gone: 1\r\nX-A: 1\r\nX-A: 1\r\n\r\n");
    let seen = origin.last();
    for (who, found) in [("answer", &answer), ("request", &seen)] {
        assert_eq!(found.headers.iter().filter(|(name, _)| name == "x-a").count(), 1, "{who}");
        assert_eq!((found.header("x-a"), found.header("x-b")), (Some("2"), Some("3")), "{who}");
        assert_eq!((found.header("server"), found.header("x-gone")), (None, None), "{who}");
        assert_eq!(found.header("transfer-encoding"), None, "{who}");
    }
    assert_eq!(answer.header("content-length"), Some("0"));
    assert_eq!((seen.header("host"), seen.header("x-forwarded-host")), (Some("inner.example"), Some("h")));
}

#[test]
fn other_origins_are_told_what_they_may() {
    let origin = Origin::start(|_| {
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\naccess-control-allow-origin: *\r\n\r\n".to_vec()
    });
    let cors = Cors {
        origins: vec!["https://*.example.org".into(), "https://a.com".into()],
        methods: vec![Method::GET, Method::PUT],
        headers: vec![HeaderName::from_static("x-y")],
        expose: vec![HeaderName::from_static("x-z")],
        credentials: true,
        max_age: Duration::from_secs(60),
    };
    let users = Users::from_htpasswd(b"").unwrap();
    let front = Front::start(config(), table_of(route(&origin, |route, _| route.cors = Some(cors.clone()))));
    let ask =
        |from: &str| front.connect().ask(&format!("GET / HTTP/1.1\r\nHost: h\r\nOrigin: {from}\r\n\r\n"));
    for allowed in ["https://a.com", "https://b.example.org", "https://c.b.example.org"] {
        let answer = ask(allowed);
        assert_eq!(answer.header("access-control-allow-origin"), Some(allowed));
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
        assert_eq!(answer.header("access-control-expose-headers"), Some("x-z"));
        assert_eq!(answer.header("vary"), Some("Origin"));
    }
    for refused in [
        "http://a.com",
        "https://a.com.evil",
        "https://example.org",
        "https://evilexample.org",
        "https://e.com/.example.org",
        "null",
    ] {
        assert_eq!(ask(refused).header("access-control-allow-origin"), None, "{refused}");
    }
    // A preflight carries no credentials, and needs none.
    let front = Front::start(
        config(),
        table_of(route(&origin, |route, _| {
            route.cors = Some(cors);
            route.auth = Some(Arc::new(BasicAuth { realm: "r".into(), users: users.into() }));
        })),
    );
    let answer = front.connect().ask("OPTIONS / HTTP/1.1\r\nHost: h\r\nOrigin: https://a.com\r\nAccess-Control-Request-Method: PUT\r\n\r\n");
    assert_eq!(answer.line, "HTTP/1.1 204 No Content");
    assert_eq!(answer.header("access-control-allow-methods"), Some("GET, PUT"));
    assert_eq!(answer.header("access-control-allow-headers"), Some("x-y"));
    assert_eq!(answer.header("access-control-max-age"), Some("60"));
    assert_eq!(front.get("/").line, "HTTP/1.1 401 Unauthorized");
}

#[test]
fn users_are_asked_for_their_password() {
    let origin = Origin::hello();
    let users = Users::from_htpasswd(b"me:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=").unwrap();
    let auth = Arc::new(BasicAuth { realm: "a \"b\"".into(), users: users.into() });
    let front = Front::start(config(), table_of(route(&origin, |route, _| route.auth = Some(auth))));
    let answer = front.get("/");
    assert_eq!(answer.line, "HTTP/1.1 401 Unauthorized");
    assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"a b\", charset=\"UTF-8\""));
    let with = |shown: &str| {
        front.connect().ask(&format!("GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Basic {shown}\r\n\r\n"))
    };
    assert_eq!(with("bWU6c2VjcmV0").body, b"hello");
    assert_eq!(with("bWU6d3Jvbmc=").line, "HTTP/1.1 401 Unauthorized");
    assert_eq!(origin.count(), 1);
}

#[test]
fn source_ranges_ask_for_the_real_client() {
    let origin = Origin::hello();
    let front = Front::start(
        trusting(),
        table_of(route(&origin, |route, _| {
            route.sources = SourceRanges {
                allow: vec!["10.0.0.0/8".parse().unwrap()],
                deny: vec!["10.6.6.6/32".parse().unwrap()],
            };
        })),
    );
    for (client, status) in [
        ("10.1.2.3", "200"),
        ("10.6.6.6", "403"),
        ("9.9.9.9", "403"),
        ("::ffff:10.1.2.3", "200"),
        ("nonsense", "403"),
    ] {
        let answer =
            front.connect().ask(&format!("GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: {client}\r\n\r\n"));
        assert!(answer.line.contains(status), "{client}: {}", answer.line);
    }
}

#[test]
fn a_client_has_its_rate_and_its_share() {
    let origin = Origin::hello();
    let limits = Limits {
        rate: Some(Rate { requests: 1, per: Duration::from_secs(3600) }),
        burst: 2,
        ..Limits::default()
    };
    let front = Front::start(trusting(), table_of(route(&origin, |route, _| route.limits = limits)));
    let ask = |client: &str| {
        front.connect().ask(&format!("GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: {client}\r\n\r\n"))
    };
    for client in ["9.9.9.9", "2001:db8::1"] {
        (0..3).for_each(|_| assert_eq!(ask(client).body, b"hello"));
        let refused = ask(client);
        assert_eq!(
            (refused.line.as_str(), refused.header("retry-after")),
            ("HTTP/1.1 429 Too Many Requests", Some("1"))
        );
    }
    assert!(ask("2001:db8::2").line.contains("429"), "an IPv6 client has a network");
    assert_eq!(ask("9.9.9.8").body, b"hello");

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut route = Route::new("route", Action::Forward(forward(backend(&[silent.local_addr().unwrap()]))));
    route.limits.concurrent = Some(1);
    let front = Front::start(config(), table_of(route));
    let mut first = front.connect();
    first.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let (mut stream, _) = silent.accept().unwrap();
    assert!(front.get("/").line.contains("429"));
    assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
    stream.write_all(&ok("hello")).unwrap();
    assert_eq!(first.answer().body, b"hello");
}

#[test]
fn a_cookie_keeps_a_client_at_its_endpoint_while_that_is_ready() {
    let origins: Vec<Origin> = (0..3).map(|at| Origin::start(move |_| ok(&at.to_string()))).collect();
    let sticky = Sticky {
        cookie: "at".into(),
        path: "/".into(),
        max_age: Some(Duration::from_secs(60)),
        same_site: Some(SameSite::Lax),
        secure: false,
    };
    let of = |origins: &[&Origin]| {
        let addresses: Vec<_> = origins.iter().map(|origin| origin.address).collect();
        table_to(Backend { sticky: Some(sticky.clone()), ..backend(&addresses) })
    };
    let front = Front::start(config(), of(&origins.iter().collect::<Vec<_>>()));
    let first = front.get("/");
    let set = first.header("set-cookie").unwrap();
    assert!(set.starts_with("at=") && set.ends_with("; Path=/; HttpOnly; Max-Age=60; SameSite=Lax"), "{set}");
    let pair = set.split(';').next().unwrap().to_owned();
    let again = || front.connect().ask(&format!("GET / HTTP/1.1\r\nHost: h\r\nCookie: x=y; {pair}\r\n\r\n"));
    for _ in 0..20 {
        let answer = again();
        assert_eq!((answer.body.as_slice(), answer.header("set-cookie")), (first.body.as_slice(), None));
    }
    let gone: usize = String::from_utf8_lossy(&first.body).parse().unwrap();
    let left: Vec<&Origin> =
        origins.iter().enumerate().filter(|(at, _)| *at != gone).map(|(_, origin)| origin).collect();
    front.ingress.swap(Arc::new(of(&left)));
    let moved = again();
    assert_ne!(moved.body, first.body);
    assert!(moved.header("set-cookie").is_some());
}

#[test]
fn weights_share_requests_and_the_least_busy_of_two_serves() {
    let (many, few) = (Origin::hello(), Origin::hello());
    let to = |name: &str, origin: &Origin, weight| {
        let backend = Backend { name: name.into(), ..backend(&[origin.address]) };
        Weighted { weight, backend: Arc::new(backend) }
    };
    let backends = vec![to("many", &many, 9), to("few", &few, 1), to("none", &few, 0)];
    let front = Front::start(
        config(),
        table_of(Route::new("r", Action::Forward(Forward { backends, ..Forward::default() }))),
    );
    let mut client = front.connect();
    (0..500).for_each(|_| assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n").body, b"hello"));
    assert!((10..150).contains(&few.count()), "{}", few.count());

    // One endpoint hangs with a request each time it is drawn: the other takes what comes after.
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let front = Front::start(config(), table_to(backend(&[hanging.local_addr().unwrap(), many.address])));
    let mut busy: Vec<Client> = Vec::new();
    hanging.set_nonblocking(true).unwrap();
    let mut held = Vec::new();
    while held.is_empty() {
        let mut client = front.connect();
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        client.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut byte = [0];
        if client.reader.read(&mut byte).is_err() {
            busy.push(client);
            held.push(hanging.accept().unwrap());
        }
    }
    (0..30).for_each(|_| assert_eq!(front.get("/").body, b"hello"));
}

#[test]
fn an_endpoint_that_fails_is_left_alone_for_a_while() {
    let (good, bad) = (Origin::hello(), Origin::start(|_| b"nonsense\r\n\r\n".to_vec()));
    let ejection =
        Ejection { failures: 2, base: Duration::from_secs(600), longest: Duration::from_secs(600) };
    let front =
        Front::start(config(), table_to(Backend { ejection, ..backend(&[good.address, bad.address]) }));
    let failed = (0..50).filter(|_| front.get("/").line.contains("502")).count();
    assert_eq!(failed, 2);
    let alone = Front::start(config(), table_to(Backend { ejection, ..backend(&[bad.address]) }));
    assert_eq!(
        (0..5).filter(|_| alone.get("/").line.contains("502")).count(),
        5,
        "the last one is asked again and again"
    );
}

#[test]
fn the_proxy_protocol_says_who_the_client_is_both_ways() {
    let origin = Origin::hello();
    let from = vec!["127.0.0.1/32".parse().unwrap()];
    let front = Front::with_proxy(config(), table_to(backend(&[origin.address])), from.clone());
    let request = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut v2 =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\x0a\x01\x02\x03\x0a\0\0\x01\x12\x34\0\x50\x04\0\0".to_vec();
    let mut client = front.connect();
    v2.extend_from_slice(request.as_bytes());
    client.send(&v2);
    assert_eq!(client.answer().body, b"hello");
    assert_eq!(origin.last().header("x-real-ip"), Some("10.1.2.3"));
    let mut client = front.connect();
    assert_eq!(client.ask(&format!("PROXY TCP6 2001:db8::1 2001:db8::2 1 443\r\n{request}")).body, b"hello");
    assert_eq!(origin.last().header("x-real-ip"), Some("2001:db8::1"));
    assert_eq!(origin.last().header("x-forwarded-port"), Some("443"));
    let mut client = front.connect();
    assert_eq!(client.ask(&format!("PROXY UNKNOWN\r\n{request}")).body, b"hello");
    assert_eq!(origin.last().header("x-real-ip"), Some("127.0.0.1"));
    for bad in [
        request.as_bytes(),
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\nGET / HTTP/1.1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 99999 1\r\n12345",
    ] {
        assert_eq!(front.raw(bad), "", "it is closed without a word");
    }

    for (version, wanted) in [
        (ProxyHeader::V1, b"PROXY TCP4 10.1.2.3 10.0.0.1 4660 80\r\n".to_vec()),
        (
            ProxyHeader::V2,
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\x01\x02\x03\x0a\0\0\x01\x12\x34\0\x50".to_vec(),
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let told = Backend { proxy_header: Some(version), ..backend(&[listener.local_addr().unwrap()]) };
        let front = Front::with_proxy(config(), table_to(told), from.clone());
        let mut client = front.connect();
        client.send(&v2);
        let (mut stream, _) = listener.accept().unwrap();
        let mut header = vec![0; wanted.len()];
        stream.read_exact(&mut header).unwrap();
        assert_eq!(header, wanted);
        assert!(read_message(&mut BufReader::new(stream.try_clone().unwrap())).is_some());
        stream.write_all(&ok("told")).unwrap();
        assert_eq!(client.answer().body, b"told");
        // The connection is this client's, and is used for nobody else.
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
}
