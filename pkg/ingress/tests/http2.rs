//! TLS and HTTP/2, towards clients and towards backends, over loopback.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod common;

use bytes::Bytes;
use common::secure::*;
use common::*;
use h2::{client, server};
use http::{HeaderMap, Request, Response};
use rustls::pki_types::CertificateDer;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use warren_ingress::route::*;
use warren_ingress::tls::Certificates;

/// A backend of HTTP/2 in clear text that echoes body and trailers, as gRPC does.
async fn echo(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.spawn(async move {
                let mut connection = server::handshake(stream).await.unwrap();
                let mut streams = JoinSet::new();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    streams.spawn(async move {
                        let te = request.headers().get("te").cloned();
                        let mut answer = Response::new(());
                        answer.headers_mut().insert("x-te", te.unwrap_or("none".parse().unwrap()));
                        let authority = request.uri().authority().unwrap().as_str().parse().unwrap();
                        answer.headers_mut().insert("x-authority", authority);
                        let mut out = respond.send_response(answer, false).unwrap();
                        let (body, trailers) = whole(request.into_body()).await;
                        send(&mut out, body.into()).await;
                        let mut trailers = trailers.unwrap_or_default();
                        trailers.insert("grpc-status", "0".parse().unwrap());
                        out.send_trailers(trailers).unwrap();
                    });
                }
            });
        }
    });
    address
}

fn post(path: &str) -> Request<()> {
    let uri = format!("https://example.org{path}");
    Request::post(uri)
        .header("te", "trailers")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(())
        .unwrap()
}

#[test]
fn certificates_are_shown_by_name_and_swapped_while_it_serves() {
    let origin = Origin::hello();
    let (exact, exact_der) = certificate(&["a.example.org"]);
    let (wildcard, wildcard_der) = certificate(&["*.example.org"]);
    let (default, default_der) = certificate(&["elsewhere.org"]);
    let mut certificates = Certificates::default();
    certificates.add("A.example.org", exact).add("*.example.org", wildcard);
    let front = Front::start(config(), secure(backend(&[origin.address]), certificates.clone()));
    runtime().block_on(async {
        let shown = async |name: &str, trusted: &CertificateDer<'static>| {
            handshake(front.tls, name, &["http/1.1"], trusted).await.map(|stream| {
                let (_, session) = stream.get_ref();
                assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
                session.peer_certificates().unwrap()[0].clone()
            })
        };
        assert_eq!(shown("a.example.org", &exact_der).await.unwrap(), exact_der);
        assert_eq!(shown("b.example.org", &wildcard_der).await.unwrap(), wildcard_der);
        assert!(shown("elsewhere.org", &default_der).await.is_err(), "there is no default yet");
        certificates.set_default(default);
        front.ingress.swap(Arc::new(secure(backend(&[origin.address]), certificates)));
        assert_eq!(shown("elsewhere.org", &default_der).await.unwrap(), default_der);
    });
    until("one failed", || front.ingress.figures().handshakes_failed == 1);
}

#[test]
fn a_host_that_the_certificate_of_the_connection_does_not_cover_is_misdirected() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let origin = Origin::hello();
    let (own, own_der) = certificate(&["a.example.org", "alias.example.org"]);
    let (other, other_der) = certificate(&["b.example.org"]);
    let (wide, wide_der) = certificate(&["*.wide.org", "wide.org"]);
    let (odd, odd_der) = certificate(&["odd.org"]);
    let (default, default_der) = certificate(&["unknown.org"]);
    let mut certificates = Certificates::default();
    certificates.add("a.example.org", own);
    certificates.add("b.example.org", other);
    certificates.add("*.wide.org", wide);
    // Two hosts that share a certificate which names but one of them.
    certificates.add("odd.org", odd.clone()).add("odder.org", odd);
    certificates.set_default(default);
    let table = || secure(backend(&[origin.address]), certificates.clone());
    let front = Front::start(config(), table());
    let trusted = vec!["127.0.0.0/8".parse().unwrap()];
    let trusting = Front::start(warren_ingress::Serving { trusted, ..config() }, table());
    let told = async |front: &Front, name: &str, der: &CertificateDer<'static>, host: &str| {
        let mut stream = handshake(front.tls, name, &[], der).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        all[9..12].to_owned()
    };
    runtime().block_on(async {
        for (name, der, host, status) in [
            ("a.example.org", &own_der, "a.example.org", "200"),
            ("a.example.org", &own_der, "A.Example.org:443", "200"),
            ("A.EXAMPLE.org", &own_der, "a.example.org.", "200"),
            // Its certificate covers it, though it is nobody's here.
            ("a.example.org", &own_der, "alias.example.org", "200"),
            ("a.example.org", &own_der, "b.example.org", "421"),
            ("b.example.org", &other_der, "a.example.org", "421"),
            ("a.example.org", &own_der, "nobody.org", "421"),
            ("a.example.org", &own_der, "127.0.0.1", "421"),
            ("a.example.org", &own_der, "[::1]:443", "421"),
            ("x.wide.org", &wide_der, "y.wide.org", "200"),
            ("x.wide.org", &wide_der, "wide.org", "200"),
            ("x.wide.org", &wide_der, "x.y.wide.org", "421"),
            ("odd.org", &odd_der, "odder.org", "200"),
            // The default certificate says nothing of the name.
            ("unknown.org", &default_der, "a.example.org", "200"),
        ] {
            assert_eq!(told(&front, name, der, host).await, status, "{name}: {host}");
            assert_eq!(told(&trusting, name, der, host).await, "200", "{name}: {host} by a trusted peer");
        }
        // And by HTTP/2, where browsers come again.
        let stream = handshake(front.tls, "a.example.org", &["h2"], &own_der).await.unwrap();
        let (mut send, connection) = client::handshake(stream).await.unwrap();
        let mut driving = JoinSet::new();
        driving.spawn(connection);
        for (host, status) in [("b.example.org", 421), ("alias.example.org", 200), ("a.example.org", 200)] {
            let request = Request::get(format!("https://{host}/")).body(()).unwrap();
            let (answer, _) = send.send_request(request, true).unwrap();
            assert_eq!(answer.await.unwrap().status(), status, "{host}");
        }
    });
}

#[test]
fn http1_over_tls_is_served_and_said_to_be_secure() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let origin = Origin::hello();
    let (key, der) = certificate(&["example.org"]);
    let mut certificates = Certificates::default();
    certificates.add("example.org", key);
    let front = Front::start(config(), secure(backend(&[origin.address]), certificates));
    runtime().block_on(async {
        let mut stream = handshake(front.tls, "example.org", &[], &der).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        assert!(all.starts_with("HTTP/1.1 200 OK\r\n") && all.ends_with("hello"), "{all}");
    });
    assert_eq!(origin.last().header("x-forwarded-proto"), Some("https"));
}

#[test]
fn http2_goes_to_a_backend_of_http1() {
    let origin = Origin::start(|seen| {
        if seen.line.contains("/trailers") {
            return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-end: 1\r\n\r\n"
                .to_vec();
        }
        ok(&format!("{} {}", seen.line, seen.body.len()))
    });
    let (key, der) = certificate(&["example.org"]);
    let mut certificates = Certificates::default();
    certificates.set_default(key);
    let front = Front::start(config(), secure(backend(&[origin.address]), certificates));
    runtime().block_on(async {
        let mut tasks = JoinSet::new();
        let mut client = h2_client(&front, &der, &mut tasks).await.ready().await.unwrap();
        let (answer, _) =
            client.send_request(Request::get("https://example.org/a?b").body(()).unwrap(), true).unwrap();
        let (head, body) = answer.await.unwrap().into_parts();
        assert_eq!(head.status, 200);
        assert_eq!(whole(body).await.0, b"GET /a?b HTTP/1.1 0");
        // More than a window.
        let (answer, mut out) = client.send_request(post("/up"), false).unwrap();
        send(&mut out, vec![7; 900_000].into()).await;
        out.send_data(Bytes::new(), true).unwrap();
        assert_eq!(whole(answer.await.unwrap().into_body()).await.0, b"POST /up HTTP/1.1 900000");
        let (answer, _) = client.send_request(post("/trailers"), true).unwrap();
        let (body, trailers) = whole(answer.await.unwrap().into_body()).await;
        assert_eq!(body, b"hi");
        assert_eq!(trailers.unwrap()["x-end"], "1");
        for (path, status) in [("/a%2fb", 400), ("/a/%2e%2e/b", 400), ("/fine", 200)] {
            let uri = format!("https://example.org{path}");
            let (answer, _) = client.send_request(Request::get(uri).body(()).unwrap(), true).unwrap();
            assert_eq!(answer.await.unwrap().status(), status, "{path}");
        }
    });
    let seen = origin.seen.lock().unwrap();
    let up = seen.iter().find(|seen| seen.line.contains("/up")).unwrap();
    assert_eq!(up.header("host"), Some("example.org"));
    assert_eq!(up.header("cookie"), Some("a=1; b=2"));
    assert_eq!(up.header("transfer-encoding"), Some("chunked"));
    assert_eq!(up.header("x-forwarded-proto"), Some("https"));
}

#[test]
fn a_stream_of_grpc_passes_both_ways_with_its_trailers() {
    let (key, der) = certificate(&["example.org"]);
    let mut certificates = Certificates::default();
    certificates.set_default(key);
    runtime().block_on(async {
        let mut tasks = JoinSet::new();
        let address = echo(&mut tasks).await;
        let backend = Backend { protocol: Protocol::H2c, ..backend(&[address]) };
        let front = Front::start(config(), secure(backend, certificates));
        let mut client = h2_client(&front, &der, &mut tasks).await.ready().await.unwrap();
        for size in [0, 5, 700_000] {
            let (answer, mut out) = client.send_request(post("/echo"), false).unwrap();
            // The head of the answer comes before the body was sent: a stream in both directions.
            let (head, body) = answer.await.unwrap().into_parts();
            assert_eq!(
                (&head.headers["x-te"], &head.headers["x-authority"]),
                (&"trailers".parse().unwrap(), &"example.org".parse().unwrap())
            );
            let sent = vec![3; size];
            let sending = async {
                send(&mut out, sent.clone().into()).await;
                let mut trailers = HeaderMap::new();
                trailers.insert("x-client", "end".parse().unwrap());
                out.send_trailers(trailers).unwrap();
            };
            let ((), (body, trailers)) = tokio::join!(sending, whole(body));
            let trailers = trailers.unwrap();
            assert!(body == sent);
            assert_eq!(
                (trailers["grpc-status"].as_bytes(), trailers["x-client"].as_bytes()),
                (&b"0"[..], &b"end"[..])
            );
        }
        // A client of HTTP/1 is served by the same backend.
        let mut plain = tokio::task::spawn_blocking({
            let address = front.address;
            move || Client::connect(address).ask("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi")
        })
        .await
        .unwrap();
        assert_eq!(std::mem::take(&mut plain.body), b"hi");
        assert_eq!(plain.header("grpc-status"), Some("0"), "as a trailer");
    });
}

#[test]
fn a_client_that_takes_back_too_many_requests_is_ended() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (key, der) = certificate(&["example.org"]);
    let mut certificates = Certificates::default();
    certificates.set_default(key);
    let silent = backend(&[listener.local_addr().unwrap()]);
    let front = Front::start(config(), secure(silent, certificates));
    runtime().block_on(async {
        let mut tasks = JoinSet::new();
        let mut client = h2_client(&front, &der, &mut tasks).await;
        for at in 0..2000 {
            client = match client.ready().await {
                Ok(client) => client,
                Err(_) => {
                    // More than 32 that come and go before the first is looked at are too many already: how many are seen
                    // to be taken back here depends on who runs first.
                    assert!(at > 32, "{at}");
                    return;
                }
            };
            let Ok((_, mut out)) = client.send_request(post("/"), false) else { return };
            out.send_reset(h2::Reason::CANCEL);
            tokio::task::yield_now().await;
        }
        panic!("it went on");
    });
}

#[test]
fn an_answer_that_comes_before_all_of_the_body_arrives() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let early = backend(&[listener.local_addr().unwrap()]);
    let (key, der) = certificate(&["example.org"]);
    let mut certificates = Certificates::default();
    certificates.set_default(key);
    let front = Front::start(config(), secure(early, certificates));
    let server = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nearly")
                .unwrap();
            // It reads on for a while, as servers do lest their answer be lost.
            std::io::copy(&mut stream, &mut std::io::sink()).unwrap_or_default();
        }
    });
    runtime().block_on(async {
        let mut tasks = JoinSet::new();
        let mut client = h2_client(&front, &der, &mut tasks).await.ready().await.unwrap();
        for size in [3_000, 100_000] {
            let request =
                Request::post("https://example.org/").header("content-length", size).body(()).unwrap();
            let (answer, mut out) = client.send_request(request, false).unwrap();
            let sending = async {
                // It may be told to stop.
                out.reserve_capacity(size);
                while let Some(Ok(room)) = std::future::poll_fn(|cx| out.poll_capacity(cx)).await {
                    if room >= size {
                        let _ = out.send_data(vec![1; size].into(), true);
                        break;
                    }
                }
            };
            let ((), answer) = tokio::join!(sending, answer);
            let (head, body) = answer.unwrap().into_parts();
            assert_eq!(head.status, 200);
            assert_eq!(whole(body).await.0, b"early");
        }
    });
    server.join().unwrap();
}
