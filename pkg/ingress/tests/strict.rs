//! What two parsers might read differently is refused, and its connection ended.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod common;

use common::*;
use std::io::Read;

const HEAD: &str = "GET / HTTP/1.1\r\nHost: h\r\n";

/// Requests that are refused, each whole but for what is wrong with it. What comes behind must not become a request.
fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    let with = |headers: &str| format!("POST / HTTP/1.1\r\nHost: h\r\n{headers}\r\n0\r\n\r\n").into_bytes();
    let target = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes();
    let chunks = |body: &str| {
        format!("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{body}").into_bytes()
    };
    vec![
        ("both lengths", with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n")),
        ("two lengths", with("Content-Length: 5\r\nContent-Length: 6\r\n")),
        ("the same length twice", with("Content-Length: 5\r\nContent-Length: 5\r\n")),
        ("a list of lengths", with("Content-Length: 5, 5\r\n")),
        ("a signed length", with("Content-Length: +5\r\n")),
        ("a negative length", with("Content-Length: -1\r\n")),
        ("no length", with("Content-Length: \r\n")),
        ("a length in hex", with("Content-Length: 0x5\r\n")),
        ("an endless length", with("Content-Length: 99999999999999999999\r\n")),
        ("a length with a form feed", with("Content-Length: \x0c5\r\n")),
        ("an unknown encoding", with("Transfer-Encoding: gzip\r\n")),
        ("chunked and more", with("Transfer-Encoding: gzip, chunked\r\n")),
        ("chunked twice", with("Transfer-Encoding: chunked, chunked\r\n")),
        ("two encodings", with("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n")),
        ("a quoted encoding", with("Transfer-Encoding: \"chunked\"\r\n")),
        ("chunked and a vertical tab", with("Transfer-Encoding: \x0bchunked\r\n")),
        ("a space before the colon", with("Transfer-Encoding : chunked\r\n")),
        ("a tab before the colon", with("Content-Length\t: 5\r\n")),
        ("a folded header", with("X: a\r\n b\r\n")),
        ("a folded encoding", with("Transfer-Encoding:\r\n chunked\r\n")),
        ("a first header that is folded", b"GET / HTTP/1.1\r\n Host: h\r\n\r\n".to_vec()),
        ("an empty name", with(": x\r\n")),
        ("no colon", with("nothing\r\n")),
        ("a name with a NUL", with("X\0: y\r\n")),
        ("a name that is no token", with("X(y): z\r\n")),
        ("a name outside of ASCII", with("Ü: z\r\n")),
        ("a value with a NUL", with("X: a\0b\r\n")),
        ("a value with a bare CR", with("X: a\rContent-Length: 5\r\n")),
        ("a bare LF in the head", b"GET / HTTP/1.1\nHost: h\n\n".to_vec()),
        ("a bare LF between headers", b"GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n".to_vec()),
        ("a bare LF at the end", b"GET / HTTP/1.1\r\nHost: h\r\n\n".to_vec()),
        ("a bare CR in the first line", b"GET / HTTP/1.1\rHost: h\r\n\r\n".to_vec()),
        ("CR CR LF", b"GET / HTTP/1.1\r\nHost: h\r\r\n\r\n".to_vec()),
        ("no host", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("two hosts", b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n".to_vec()),
        ("an empty host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n".to_vec()),
        ("a host with a path", b"GET / HTTP/1.1\r\nHost: h/x\r\n\r\n".to_vec()),
        ("a host with a user", b"GET / HTTP/1.1\r\nHost: a@h\r\n\r\n".to_vec()),
        ("a host with two ports", b"GET / HTTP/1.1\r\nHost: h:1:2\r\n\r\n".to_vec()),
        ("a host with a large port", b"GET / HTTP/1.1\r\nHost: h:65536\r\n\r\n".to_vec()),
        ("a host of a dot", b"GET / HTTP/1.1\r\nHost: .\r\n\r\n".to_vec()),
        ("a host that begins with a dot", b"GET / HTTP/1.1\r\nHost: .h\r\n\r\n".to_vec()),
        ("a host with an empty label", b"GET / HTTP/1.1\r\nHost: h..i\r\n\r\n".to_vec()),
        ("a list of hosts", b"GET / HTTP/1.1\r\nHost: h, i\r\n\r\n".to_vec()),
        ("another host in the target", b"GET http://i/ HTTP/1.1\r\nHost: h\r\n\r\n".to_vec()),
        ("another port in the target", b"GET http://h:81/ HTTP/1.1\r\nHost: h\r\n\r\n".to_vec()),
        ("a foreign scheme", b"GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n".to_vec()),
        ("no slash", target("a")),
        ("an encoded slash", target("/a%2fb")),
        ("an encoded slash in capitals", target("/a%2Fb")),
        ("an encoded backslash", target("/a%5cb")),
        ("a backslash", target("/a\\b")),
        ("an encoded NUL", target("/a%00")),
        ("two dots", target("/a/../b")),
        ("two dots at the end", target("/a/..")),
        ("one dot", target("/./a")),
        ("encoded dots", target("/a/%2e%2E/b")),
        ("half-encoded dots", target("/a/.%2e/b")),
        ("dots with parameters", target("/a/..;x=1/b")),
        ("half an encoding", target("/a%2")),
        ("no encoding", target("/a%zz")),
        ("a fragment", target("/a#b")),
        ("a fragment in the query", target("/a?b#c")),
        ("a byte outside of ASCII", "GET /\u{fc} HTTP/1.1\r\nHost: h\r\n\r\n".into()),
        ("a tab in the target", target("/a\tb")),
        ("two spaces", b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n".to_vec()),
        ("a space at the end of the line", b"GET / HTTP/1.1 \r\nHost: h\r\n\r\n".to_vec()),
        ("no version", b"GET /\r\nHost: h\r\n\r\n".to_vec()),
        ("a version of three parts", b"GET / HTTP/1.1.1\r\nHost: h\r\n\r\n".to_vec()),
        ("version 1.2", b"GET / HTTP/1.2\r\nHost: h\r\n\r\n".to_vec()),
        ("version 2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("a small version", b"GET / http/1.1\r\nHost: h\r\n\r\n".to_vec()),
        ("a method that is no token", b"G(T / HTTP/1.1\r\nHost: h\r\n\r\n".to_vec()),
        ("a tunnel", b"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n".to_vec()),
        ("a beginning of HTTP/2", b"PRI / HTTP/1.1\r\nHost: h\r\n\r\n".to_vec()),
        ("an asterisk", target("*")),
        (
            "chunks of HTTP/1.0",
            b"POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
        ),
        ("a size in no hex", chunks("g\r\nx\r\n0\r\n\r\n")),
        ("a signed size", chunks("+1\r\nx\r\n0\r\n\r\n")),
        ("a size with 0x", chunks("0x1\r\nx\r\n0\r\n\r\n")),
        ("an endless size", chunks("fffffffffffffffff\r\nx\r\n0\r\n\r\n")),
        ("an empty size", chunks("\r\nx\r\n0\r\n\r\n")),
        ("a space before the size", chunks(" 1\r\nx\r\n0\r\n\r\n")),
        ("a size ended by LF", chunks("1\nx\r\n0\r\n\r\n")),
        ("an extension with a CR", chunks("1;a\rb\r\nx\r\n0\r\n\r\n")),
        ("an extension with a LF", chunks("1;a\nx\r\n0\r\n\r\n")),
        ("a long extension", chunks(&format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(300)))),
        ("a chunk that is longer than it says", chunks("1\r\nxy\r\n0\r\n\r\n")),
        ("a chunk ended by LF", chunks("1\r\nx\n0\r\n\r\n")),
        ("a folded trailer", chunks("0\r\nX: y\r\n z\r\n\r\n")),
        ("a malformed trailer", chunks("0\r\nX y\r\n\r\n")),
    ]
}

#[test]
fn what_is_ambiguous_is_refused_and_nothing_behind_it_is_read() {
    let origin = Origin::hello();
    let front = to(&origin);
    for (what, mut bytes) in malformed() {
        bytes.extend_from_slice(b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n");
        let answer = front.raw(&bytes);
        let refused = answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.1 505 ");
        assert!(refused, "{what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{what}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{what}: {answer}");
    }
    assert_eq!(origin.count(), 0, "{:?}", origin.seen.lock().unwrap());
}

#[test]
fn what_is_well_formed_if_strange_is_served() {
    let origin = Origin::start(|seen| ok(&seen.line));
    let front = to(&origin);
    for request in [
        "\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET http://H:80/?a HTTP/1.1\r\nHost: h:80\r\n\r\n",
        "GET /a/...;b/.c/%41%2e%20?x=/../%2f&y=[1] HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
        "G!T / HTTP/1.1\r\nhOsT:h\t \r\nconnection: Close\r\nX:\r\nY: \t a b\t\r\nZ: \u{fc}\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\ntransfer-encoding: Chunked\r\n\r\n0000001;a=\"b\"\r\nx\r\n0\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
    ] {
        let answer = front.raw(request.replacen("\r\nHost", "\r\nConnection: close\r\nHost", 1).as_bytes());
        // The asterisk is nobody's path; all others reach the origin.
        let wanted = if request.contains('*') { "404" } else { "200" };
        assert!(answer.contains(&format!("HTTP/1.1 {wanted} ")), "{request}: {answer}");
    }
    let seen = origin.seen.lock().unwrap();
    assert_eq!(seen[1].line, "GET /?a HTTP/1.1");
    assert_eq!(seen[2].line, "GET /a/...;b/.c/%41%2e%20?x=/../%2f&y=[1] HTTP/1.1");
    assert_eq!(seen[4].body, b"x");
}

#[test]
fn who_asks_by_http_1_0_is_taken_at_their_word() {
    let origin = Origin::hello();
    let front = to(&origin);
    // Who says both wants the connection closed, and no host is the address that was asked.
    let answer = front.raw(b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\nGET /2 HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer}");
    assert_eq!((origin.count(), origin.last().header("host")), (1, Some(&*front.address.to_string())));
}

#[test]
fn underscores_do_not_make_a_header_of_ours() {
    let origin = Origin::hello();
    let front = to(&origin);
    let mut client = front.connect();
    client.ask(&format!(
        "{HEAD}X_Forwarded_For: 6.6.6.6\r\nX_REAL-IP: 6.6.6.6\r\nContent_Length: 5\r\nTransfer_Encoding: chunked\r\nx_y: z\r\n\r\n"
    ));
    let seen = origin.last();
    let names: Vec<&str> =
        seen.headers.iter().map(|(name, _)| &**name).filter(|name| name.contains('_')).collect();
    assert_eq!(names, ["x_y"]);
}

#[test]
fn heads_are_bounded() {
    let origin = Origin::hello();
    let front = to(&origin);
    let many = format!("{HEAD}{}\r\n", "X: y\r\n".repeat(200));
    assert!(front.raw(many.as_bytes()).starts_with("HTTP/1.1 431 "));
    let long = format!("{HEAD}X: {}\r\n\r\n", "y".repeat(40 << 10));
    assert!(front.raw(long.as_bytes()).starts_with("HTTP/1.1 431 "));
    let fits = format!("{HEAD}Connection: close\r\nX: {}\r\n\r\n", "y".repeat(30 << 10));
    assert!(front.raw(fits.as_bytes()).starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let origin = Origin::hello();
    let front = to(&origin);
    let mut client = front.connect();
    for byte in
        b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n"
    {
        client.send([*byte]);
    }
    assert_eq!(client.answer().body, b"hello");
    assert_eq!(origin.last().body, b"hello");
    assert_eq!(origin.last().header("x"), Some("y"));
}

/// What passes is read alike by the origin, which believes everything: each request of a connection is one there.
#[test]
fn bytes_behind_a_body_are_the_next_request() {
    let origin = Origin::start(|seen| ok(&seen.line));
    let front = to(&origin);
    let mut client = front.connect();
    client.send("POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 36\r\n\r\nGET /inner HTTP/1.1\r\nHost: inner\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!(client.answer().body, b"POST /1 HTTP/1.1");
    assert_eq!(client.answer().body, b"GET /2 HTTP/1.1");
    assert_eq!(client.reader.read(&mut [0]).unwrap(), 0);
    assert_eq!(origin.count(), 2);
}
