//! HTTP/1.1 on both sides, over loopback.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod common;

use common::*;
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use warren_ingress::route::*;
use warren_ingress::{Observer, Record, Serving};

#[test]
fn a_request_is_served_and_connections_are_kept_on_both_sides() {
    let origin = Origin::hello();
    let front = to(&origin);
    let mut client = front.connect();
    for _ in 0..3 {
        let answer = client.ask("GET /a?b=c HTTP/1.1\r\nHost: Example.org:80\r\nX-Own: 1\r\n\r\n");
        assert_eq!((answer.line.as_str(), answer.body.as_slice()), ("HTTP/1.1 200 OK", &b"hello"[..]));
    }
    let seen = origin.last();
    assert_eq!(seen.line, "GET /a?b=c HTTP/1.1");
    assert_eq!(seen.header("host"), Some("Example.org:80"));
    assert_eq!(seen.header("x-own"), Some("1"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-host"), Some("Example.org:80"));
    assert_eq!(seen.header("x-forwarded-port"), Some("80"));
    assert_eq!(seen.header("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(seen.header("forwarded"), Some("for=127.0.0.1;proto=http;host=\"Example.org:80\""));
    assert_eq!(origin.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::start(|seen| ok(&seen.line));
    let front = to(&origin);
    let mut client = front.connect();
    client.send("GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\nGET /3 HTTP/1.1\r\nHost: h\r\n\r\n");
    for at in 1..=3 {
        assert_eq!(client.answer().body, format!("GET /{at} HTTP/1.1").as_bytes());
    }
}

#[test]
fn bodies_pass_both_ways_by_length_and_by_chunks() {
    let origin = Origin::start(|seen| {
        let mut answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for chunk in seen.body.chunks(1000) {
            answer.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            answer.extend_from_slice(chunk);
            answer.extend_from_slice(b"\r\n");
        }
        answer.extend_from_slice(b"0\r\nx-checksum: 7\r\n\r\n");
        answer
    });
    let front = to(&origin);
    let body: Vec<u8> = (0..300_000u32).map(|at| (at % 251) as u8).collect();
    let mut client = front.connect();
    let mut writer = client.stream.try_clone().unwrap();
    let sent = body.clone();
    let sender = std::thread::spawn(move || {
        use std::io::Write;
        let head = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", sent.len());
        writer.write_all(head.as_bytes()).unwrap();
        writer.write_all(&sent).unwrap();
        writer.write_all(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        for chunk in sent.chunks(7000) {
            writer.write_all(format!("{:X};ext=1\r\n", chunk.len()).as_bytes()).unwrap();
            writer.write_all(chunk).unwrap();
            writer.write_all(b"\r\n").unwrap();
        }
        writer.write_all(b"0\r\nX-Trailer: end\r\nHost: evil\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n").unwrap();
    });
    for _ in 0..2 {
        let answer = client.answer();
        assert!(answer.body == body);
        assert_eq!(answer.header("x-checksum"), Some("7"), "trailers come through");
    }
    sender.join().unwrap();
    let seen = origin.last();
    assert_eq!(seen.header("x-trailer"), Some("end"));
    assert_eq!(seen.headers.iter().filter(|(name, _)| name == "host").count(), 1);
    assert!(!seen.headers.iter().any(|(_, value)| value == "9.9.9.9"));
}

#[test]
fn an_answer_without_length_ends_with_its_connection() {
    let origin = Origin::start(|_| b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end".to_vec());
    let front = to(&origin);
    let mut client = front.connect();
    let answer = client.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    assert_eq!(answer.body, b"until the end");
    // A client of HTTP/1.0 knows no chunks.
    let old = front.raw(b"GET / HTTP/1.0\r\nHost: h\r\n\r\n");
    assert!(old.contains("connection: close\r\n") && old.ends_with("\r\n\r\nuntil the end"), "{old}");
}

#[test]
fn an_answer_that_breaks_off_is_not_made_whole() {
    let origin = Origin::start(|_| {
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nhello\r\n".to_vec()
    });
    let front = to(&origin);
    let answer = front.raw(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(answer.contains("5\r\nhello") && !answer.ends_with("0\r\n\r\n"), "{answer}");
}

#[test]
fn head_and_bodiless_answers_keep_their_framing() {
    let origin = Origin::start(|seen| match seen.line.split(' ').nth(1) {
        Some("/304") => b"HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\n\r\n".to_vec(),
        Some("/204") => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n".to_vec(),
    });
    let front = to(&origin);
    let mut client = front.connect();
    for (request, status) in [("HEAD /", "200"), ("GET /304", "304"), ("GET /204", "204"), ("HEAD /", "200")]
    {
        client.send(format!("{request} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.reader.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.contains(status) && !head.contains("chunked"), "{head}");
        assert_eq!(head.contains("content-length: 99"), status != "204");
    }
}

#[test]
fn a_client_that_waits_is_told_to_go_on_only_when_its_body_is_wanted() {
    let origin = Origin::hello();
    let mut route = Route::new("route", Action::Forward(forward(backend(&[origin.address]))));
    route.body_limit = Some(10);
    let front = Front::start(config(), table_of(route));
    let mut client = front.connect();
    let head = |length| {
        format!("PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n")
    };
    assert_eq!(client.ask(&head(5)).line, "HTTP/1.1 100 Continue");
    assert_eq!(client.ask("12345").body, b"hello");
    assert_eq!(origin.last().body, b"12345");
    assert_eq!(origin.last().header("expect"), None);
    assert_eq!(client.ask(&head(11)).line, "HTTP/1.1 413 Payload Too Large");
    assert_eq!(client.reader.read(&mut [0]).unwrap(), 0, "what it may send now is no request");
}

#[test]
fn a_body_by_chunks_is_bounded_too() {
    let origin = Origin::hello();
    let mut route = Route::new("route", Action::Forward(forward(backend(&[origin.address]))));
    route.body_limit = Some(10);
    let front = Front::start(config(), table_of(route));
    let mut client = front.connect();
    let answer = client.ask("PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n12345678\r\n8\r\n12345678\r\n0\r\n\r\n");
    assert_eq!(answer.line, "HTTP/1.1 413 Payload Too Large");
    assert_eq!(origin.count(), 0, "the backend never saw a whole request");
}

#[test]
fn events_pass_as_they_come() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let front = Front::start(config(), table_to(backend(&[listener.local_addr().unwrap()])));
    let mut client = front.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let (mut stream, _) = listener.accept().unwrap();
    let mut head = [0; 4096];
    assert!(stream.read(&mut head).unwrap() > 0);
    use std::io::Write;
    stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    let mut read = |wanted: &str| {
        let mut got = String::new();
        while !got.ends_with(wanted) {
            let mut byte = [0];
            client.reader.read_exact(&mut byte).unwrap();
            got.push(char::from(byte[0]));
        }
    };
    read("\r\n\r\n");
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        // The last byte of a chunk is held back: what is before it passes nevertheless.
        stream.write_all(format!("9\r\n{event}\r").as_bytes()).unwrap();
        read(event);
        stream.write_all(b"\n").unwrap();
    }
}

#[test]
fn a_web_socket_is_carried_only_after_the_backend_agreed() {
    let origin = Origin::start(|seen| {
        match seen.header("upgrade") {
            Some("websocket") => b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n".to_vec(),
            // From then on what comes looks like requests to this origin, and it echoes.
            _ if seen.line.starts_with("FRAME") => ok("framed"),
            _ => ok("no upgrade"),
        }
    });
    let front = to(&origin);
    let mut client = front.connect();
    let answer = client.ask("GET /ws HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n");
    assert_eq!(answer.line, "HTTP/1.1 101 Switching Protocols");
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(answer.header("sec-websocket-accept"), Some("x"));
    assert_eq!(client.ask("FRAME x y\r\n\r\n").body, b"framed");
    drop(client);
    // Sent early, it is a request like any other when the backend does not agree.
    let refusing = Origin::hello();
    let front = to(&refusing);
    let mut client = front.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /admin HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.answer().body, b"hello");
    assert_eq!(client.answer().body, b"hello");
    assert_eq!(
        refusing.last().header("x-real-ip"),
        Some("127.0.0.1"),
        "it went through the whole of the proxy"
    );
}

#[test]
fn what_is_between_neighbours_stays_there_and_connection_takes_nothing_else_away() {
    let origin = Origin::start(|_| {
        b"HTTP/1.1 200 OK\r\nConnection: x-inner\r\nX-Inner: 1\r\nKeep-Alive: timeout=5\r\ncontent-length: 0\r\n\r\n".to_vec()
    });
    let front = to(&origin);
    let answer = front.connect().ask(
        "GET / HTTP/1.1\r\nHost: h\r\nConnection: x-mine, cookie, host, authorization, x-forwarded-for, x-real-ip\r\nX-Mine: 1\r\n\
         Cookie: a=b\r\nAuthorization: Basic x\r\nKeep-Alive: 5\r\nProxy-Authorization: y\r\nTE: trailers, deflate\r\n\
         X-Forwarded-For: 9.9.9.9\r\nX-Real-Ip: 9.9.9.9\r\nForwarded: for=9.9.9.9\r\nX-Forwarded-Prefix: /x\r\n\r\n",
    );
    assert!(answer.header("x-inner").is_none() && answer.header("keep-alive").is_none());
    let seen = origin.last();
    for gone in ["x-mine", "keep-alive", "proxy-authorization", "x-forwarded-prefix"] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
    assert_eq!(seen.header("cookie"), Some("a=b"));
    assert_eq!(seen.header("authorization"), Some("Basic x"));
    assert_eq!(seen.header("te"), Some("trailers"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(seen.header("forwarded"), Some("for=127.0.0.1;proto=http;host=h"), "ours alone");
}

#[test]
fn a_trusted_peer_says_for_whom_a_request_is() {
    let origin = Origin::hello();
    let trusted = vec!["127.0.0.0/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
    let config = warren_ingress::Serving { trusted, ..config() };
    let front = Front::start(config, table_to(backend(&[origin.address])));
    front.connect().ask("GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 6.6.6.6, 9.9.9.9, 10.0.0.1\r\nX-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\n\r\n");
    let seen = origin.last();
    assert_eq!(seen.header("x-real-ip"), Some("9.9.9.9"), "the last that no trusted peer said");
    assert_eq!(seen.header("forwarded"), Some("for=9.9.9.9;proto=https;host=h"));
    assert_eq!(seen.header("x-forwarded-for"), Some("6.6.6.6, 9.9.9.9, 10.0.0.1, 127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    front.connect().ask("GET / HTTP/1.1\r\nHost: [fd00::1]:8443\r\nX-Forwarded-For: fd00::9\r\n\r\n");
    let forwarded = "for=\"[fd00::9]\";proto=http;host=\"[fd00::1]:8443\"";
    assert_eq!(origin.last().header("forwarded"), Some(forwarded));
}

#[test]
fn what_cannot_be_served_has_a_status_of_its_own() {
    let empty = Front::start(config(), RouteTable::default());
    assert_eq!(empty.get("/").line, "HTTP/1.1 404 Not Found");
    let nobody = Front::start(config(), table_to(backend(&[])));
    assert_eq!(nobody.get("/").line, "HTTP/1.1 503 Service Unavailable");
    let gone = Unreachable::new();
    let to_gone = Front::start(config(), table_to(backend(&[gone.address])));
    assert_eq!(to_gone.get("/").line, "HTTP/1.1 502 Bad Gateway");
    for answer in [
        &b"nonsense\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\nx: y\n\n",
        b"",
    ] {
        let bad = Origin::start(move |_| answer.to_vec());
        assert_eq!(to(&bad).get("/").line, "HTTP/1.1 502 Bad Gateway", "{answer:?}");
    }
}

#[test]
fn another_endpoint_is_tried_when_one_cannot_be_reached() {
    let origin = Origin::hello();
    let gone = Unreachable::new();
    let front = Front::start(config(), table_to(backend(&[gone.address, origin.address])));
    for _ in 0..20 {
        assert_eq!(
            front.connect().ask("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi").body,
            b"hello"
        );
    }
    assert_eq!(origin.count(), 20);
}

#[test]
fn a_kept_connection_that_died_costs_an_idempotent_request_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let front = Front::start(config(), table_to(backend(&[listener.local_addr().unwrap()])));
    let server = std::thread::spawn(move || {
        use std::io::Write;
        // Each connection serves one request, and then reads the next one and closes without a word.
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 4096];
            assert!(stream.read(&mut head).unwrap() > 0);
            stream.write_all(&ok("hello")).unwrap();
            let _ = stream.read(&mut head);
        }
    });
    let mut client = front.connect();
    for _ in 0..3 {
        assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n").body, b"hello");
    }
    assert_eq!(
        client.ask("POST / HTTP/1.1\r\nHost: h\r\n\r\n").line,
        "HTTP/1.1 502 Bad Gateway",
        "a POST is asked once"
    );
    drop(client);
    server.join().unwrap();
}

#[test]
fn endpoints_that_end_serve_only_when_nothing_is_ready() {
    let (ready, ending) = (Origin::hello(), Origin::hello());
    let endpoint = |origin: &Origin, readiness| Endpoint { address: origin.address, readiness };
    let of = |endpoints: Vec<Endpoint>| Backend { endpoints: endpoints.into(), ..backend(&[]) };
    let front = Front::start(
        config(),
        table_to(of(vec![endpoint(&ready, Readiness::Ready), endpoint(&ending, Readiness::Terminating)])),
    );
    (0..10).for_each(|_| assert_eq!(front.get("/").body, b"hello"));
    assert_eq!((ready.count(), ending.count()), (10, 0));
    front.ingress.swap(Arc::new(table_to(of(vec![endpoint(&ending, Readiness::Terminating)]))));
    assert_eq!(front.get("/").body, b"hello");
    assert_eq!(ending.count(), 1);
}

#[test]
fn slow_clients_are_ended_and_nobody_waits_for_them() {
    let origin = Origin::hello();
    let bounds = patience(Duration::from_millis(300));
    let config = warren_ingress::Serving { bounds, ..config() };
    let front = Front::start(config, table_to(backend(&[origin.address])));
    assert_eq!(front.raw(b""), "", "no first byte");
    assert!(front.raw(b"GET / HTTP/1.1\r\nHos").starts_with("HTTP/1.1 408 "), "no whole head");
    assert!(
        front.raw(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n123").starts_with("HTTP/1.1 408 ")
    );
    let mut kept = front.connect();
    kept.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(kept.reader.read(&mut [0]).unwrap(), 0, "no second request");
}

#[test]
fn a_backend_that_is_silent_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut forward = forward(backend(&[listener.local_addr().unwrap()]));
    forward.timeouts.read = Duration::from_millis(200);
    let front = Front::start(config(), table_of(Route::new("route", Action::Forward(forward))));
    assert_eq!(front.get("/").line, "HTTP/1.1 504 Gateway Timeout");
}

#[test]
fn a_client_that_leaves_takes_its_request_along() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let front = Front::start(config(), table_to(backend(&[listener.local_addr().unwrap()])));
    let mut client = front.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let (mut stream, _) = listener.accept().unwrap();
    let mut head = [0; 4096];
    assert!(stream.read(&mut head).unwrap() > 0);
    drop(client);
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(stream.read(&mut head).unwrap(), 0);
}

#[test]
fn who_has_just_connected_is_answered_although_it_drains() {
    let origin = Origin::hello();
    let front = to(&origin);
    let mut kept = front.connect();
    assert_eq!(kept.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n").body, b"hello");
    let mut client = front.connect();
    until("accepted", || front.ingress.figures().connections == 2);
    let ingress = front.ingress;
    let drain = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(ingress.drain(Duration::from_secs(10)));
    });
    assert_eq!(kept.reader.read(&mut [0]).unwrap(), 0, "who was answered before is not waited for");
    let seen = client.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((seen.line.as_str(), seen.header("connection")), ("HTTP/1.1 200 OK", Some("close")));
    drain.join().unwrap();
}

#[test]
fn draining_lets_a_request_end_and_takes_no_other() {
    use std::io::Write;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let front = Front::start(config(), table_to(backend(&[listener.local_addr().unwrap()])));
    let (mut idle, mut client) = (front.connect(), front.connect());
    idle.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let (mut stream, _) = listener.accept().unwrap();
    let mut head = [0; 4096];
    assert!(stream.read(&mut head).unwrap() > 0);
    stream.write_all(&ok("first")).unwrap();
    assert_eq!(idle.answer().body, b"first");
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(stream.read(&mut head).unwrap() > 0);
    let ingress = front.ingress;
    let drain = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(ingress.drain(Duration::from_secs(10)));
    });
    assert_eq!(idle.reader.read(&mut [0]).unwrap(), 0, "an idle connection is ended soon");
    stream.write_all(&ok("done")).unwrap();
    let answer = client.answer();
    assert_eq!(answer.body, b"done");
    assert_eq!(answer.header("connection"), Some("close"));
    drain.join().unwrap();
}

#[test]
fn too_many_connections_are_turned_away() {
    let origin = Origin::hello();
    let bounds = warren_ingress::Bounds { connections: 2, ..Default::default() };
    let config = warren_ingress::Serving { bounds, ..config() };
    let front = Front::start(config, table_to(backend(&[origin.address])));
    let mut kept: Vec<Client> = (0..2).map(|_| front.connect()).collect();
    for client in &mut kept {
        assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n").body, b"hello");
    }
    assert_eq!(front.connect().reader.read(&mut [0]).unwrap_or(0), 0);
    assert_eq!(front.ingress.figures().turned_away, 1);
    kept.clear();
    until("they are forgotten", || front.ingress.figures().connections == 0);
    assert_eq!(front.get("/").body, b"hello");
    until("they are counted", || front.ingress.figures().answers[0].1[2] == 3);
}

#[test]
fn an_answer_that_was_begun_is_never_followed_by_another() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut forward = forward(backend(&[listener.local_addr().unwrap()]));
    forward.timeouts.request = Some(Duration::from_millis(300));
    let front = Front::start(config(), table_of(Route::new("route", Action::Forward(forward))));
    let server = std::thread::spawn(move || {
        use std::io::Write;
        for begun in [&b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhel"[..], b""] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 4096];
            assert!(stream.read(&mut head).unwrap() > 0);
            stream.write_all(begun).unwrap();
            assert_eq!(stream.read(&mut head).unwrap_or(0), 0, "the request is over");
        }
    });
    let answer = front.raw(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nhel"), "{answer}");
    assert_eq!(front.get("/").line, "HTTP/1.1 504 Gateway Timeout");
    server.join().unwrap();
    // The same when the client's own body goes wrong in the middle.
    let early = Origin::start(|_| ok("never"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let front = to(&Origin { address: listener.local_addr().unwrap(), ..early });
    let mut client = front.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n");
    let (mut stream, _) = listener.accept().unwrap();
    use std::io::Write;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhel").unwrap();
    let mut begun = [0; 4];
    client.reader.read_exact(&mut begun).unwrap();
    client.send("nonsense\r\n");
    let mut rest = String::new();
    let _ = client.reader.read_to_string(&mut rest);
    assert!(!rest.contains("400"), "{rest}");
}

/// Remembers what is told of each request.
#[derive(Default)]
struct Told(Mutex<Vec<(u16, u64, Option<SocketAddr>)>>);

impl Observer for Told {
    fn done(&self, record: &Record<'_>) {
        self.0.lock().unwrap().push((record.status, record.sent, record.endpoint));
    }
}

#[test]
fn what_is_told_of_a_request_says_how_far_its_answer_came() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let told = Arc::new(Told::default());
    let serving = Serving { observer: Some(told.clone()), ..config() };
    let front = Front::start(serving, table_to(backend(&[address])));
    let server = std::thread::spawn(move || {
        for answer in ["content-length: 5\r\n\r\nhello", "content-length: 9\r\n\r\nhello"] {
            let (mut stream, _) = listener.accept().unwrap();
            read_head(&mut BufReader::new(stream.try_clone().unwrap())).unwrap();
            stream.write_all(format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{answer}").as_bytes()).unwrap();
        }
    });
    for _ in 0..2 {
        front.raw(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    }
    server.join().unwrap();
    until("both were told", || told.0.lock().unwrap().len() == 2);
    assert_eq!(*told.0.lock().unwrap(), [(200, 5, Some(address)), (499, 5, Some(address))]);
}
