//! Cases written by hand: what is known to have been read differently by two parsers.

use crate::case::{Case, Wanted};

/// A request that must never be one.
pub(crate) const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";
/// What each case ends with, on the same connection.
pub(crate) const END: &str = "GET /end HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

/// Lines that say, or nearly say, that a body is chunked.
pub(crate) const ENCODINGS: &[&str] = &[
    "Transfer-Encoding: chunked",
    "transfer-encoding:chunked",
    "TRANSFER-ENCODING: CHUNKED",
    "Transfer-Encoding:\tchunked\t",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding\t: chunked",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunkedx",
    "Transfer-Encoding: chunked;q=1",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: chunked,",
    "Transfer-Encoding: , chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: identity, chunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: cow",
    "Transfer-Encoding: \"chunked\"",
    "Transfer-Encoding: 'chunked'",
    "Transfer-Encoding:",
    "Transfer-Encoding: chunk",
    "Transfer-Encoding: \u{b}chunked",
    "Transfer-Encoding: \u{c}chunked",
    "Transfer-Encoding: chunked\u{b}",
    "Transfer-Encoding: chun\0ked",
    "Transfer-Encoding: \0chunked",
    "Transfer-Encoding:\r\n chunked",
    "Transfer-Encoding:\n chunked",
    "Transfer-Encoding:\r\n\tchunked",
    "Transfer-Encoding: x\r\n chunked",
    "Transfer-Encoding\r\n : chunked",
    "Transfer-Encoding\n: chunked",
    "Transfer-Encoding: chunked\r",
    "\rTransfer-Encoding: chunked",
    " Transfer-Encoding: chunked",
    "\tTransfer-Encoding: chunked",
    "X: y\rTransfer-Encoding: chunked",
    "X: y\nTransfer-Encoding: chunked",
    "X: y\r\rTransfer-Encoding: chunked",
    "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\ntransfer-encoding: cow",
    "Transfer_Encoding: chunked",
    "Transfer Encoding: chunked",
    "Transfer-Encoding\0: chunked",
    "\0Transfer-Encoding: chunked",
    "Transfer\u{ad}-Encoding: chunked",
    "Transfer-Encod\u{131}ng: chunked",
    "Transfer-Encoding: chun\u{212a}ed",
    "Transfer-Encoding=chunked",
    "Transfer-Encoding:chunked:",
    ":Transfer-Encoding: chunked",
    "TE: chunked",
    "TE: trailers, chunked",
    "Content-Encoding: chunked",
    "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
    "Connection: close, Transfer-Encoding\r\nTransfer-Encoding: chunked",
];

/// Lines that say, or nearly say, how long a body is: of the body of `lengths`.
pub(crate) const LENGTHS: &[&str] = &[
    "Content-Length: 5",
    "content-length:5",
    "Content-Length: \t5 \t",
    "Content-Length : 5",
    "Content-Length\t: 5",
    "Content-Length: 05",
    "Content-Length: 0000000000000005",
    "Content-Length: 00000000000000000000005",
    "Content-Length: +5",
    "Content-Length: -5",
    "Content-Length: 5 5",
    "Content-Length: 5, 5",
    "Content-Length: 5,",
    "Content-Length: ,5",
    "Content-Length: 5;x",
    "Content-Length: 5.0",
    "Content-Length: 5e0",
    "Content-Length: 0x5",
    "Content-Length: 0o5",
    "Content-Length: 5_0",
    "Content-Length: \"5\"",
    "Content-Length:",
    "Content-Length: five",
    "Content-Length: \u{665}",
    "Content-Length: \u{c}5",
    "Content-Length: 5\u{b}",
    "Content-Length: 5\0",
    "Content-Length: 18446744073709551621",
    "Content-Length: 9223372036854775807",
    "Content-Length: 99999999999999999999999",
    "Content-Length: 5\r\nContent-Length: 5",
    "Content-Length: 5\r\nContent-Length: 0",
    "Content-Length: 0\r\nContent-Length: 5",
    "Content-Length: 5\r\nContent-length: 6",
    "Content-Length:\r\n 5",
    "Content-Length: 5\r\n 0",
    "X: y\nContent-Length: 5",
    "X: y\rContent-Length: 5",
    "Content_Length: 5",
    "Content Length: 5",
    "Content-Length\0: 5",
    "Connection: Content-Length\r\nContent-Length: 5",
    "Connection: keep-alive, content-length\r\nContent-Length: 5",
    "Content-Length: 0",
    "Content-Length: 00",
];

/// Bodies by chunks, well formed and not.
pub(crate) const CHUNKS: &[&str] = &[
    "0\r\n\r\n",
    "5\r\nhello\r\n0\r\n\r\n",
    "05\r\nhello\r\n000\r\n\r\n",
    "000000000000005\r\nhello\r\n0\r\n\r\n",
    "00000000000000000005\r\nhello\r\n0\r\n\r\n",
    "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
    "5;x=y\r\nhello\r\n0;z\r\n\r\n",
    "5 ;x=y\r\nhello\r\n0\r\n\r\n",
    "5; x = \"y;z\"\r\nhello\r\n0\r\n\r\n",
    "5;\"\r\nhello\r\n0\r\n\r\n",
    "5;x\nhello\r\n0\r\n\r\n",
    "5;x\ry\r\nhello\r\n0\r\n\r\n",
    "5;x\r\r\nhello\r\n0\r\n\r\n",
    "5;\0\r\nhello\r\n0\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    "5\t\r\nhello\r\n0\r\n\r\n",
    " 5\r\nhello\r\n0\r\n\r\n",
    "\t5\r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "-5\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "5h\r\nhello\r\n0\r\n\r\n",
    "5_\r\nhello\r\n0\r\n\r\n",
    "5\nhello\n0\n\n",
    "5\nhello\r\n0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5\r\nhello0\r\n\r\n",
    "5\r\nhello\r0\r\n\r\n",
    "5\r\nhello\r\r\n0\r\n\r\n",
    "5\r\nhelloXX0\r\n\r\n",
    "5\rXhello\r\n0\r\n\r\n",
    "4\r\nhello\r\n0\r\n\r\n",
    "6\r\nhello\r\n0\r\n\r\n",
    "\r\nhello\r\n0\r\n\r\n",
    "\r\n5\r\nhello\r\n0\r\n\r\n",
    "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "10000000000000005\r\nhello\r\n0\r\n\r\n",
    "100000005\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\n\n",
    "5\r\nhello\r\n0\r\n\n",
    "5\r\nhello\r\n0\r\r\n\r\n",
    "5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    "5\r\nhello\r\n0\r\nX: y\r\nX: z\r\n\r\n",
    "5\r\nhello\r\n0\r\nX: y\n\n",
    "5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n",
    "5\r\nhello\r\n0\r\n X: y\r\n\r\n",
    "5\r\nhello\r\n0\r\nX : y\r\n\r\n",
    "5\r\nhello\r\n0\r\nX\r\n\r\n",
    "5\r\nhello\r\n0\r\nContent-Length: 70\r\n\r\n",
    "5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "5\r\nhello\r\n0\r\nHost: other\r\nX-Forwarded-For: 6.6.6.6\r\nAuthorization: x\r\n\r\n",
    "5\r\nhello\r\n0\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
    "0\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
    "5\r\nhello\r\n0",
    "5\r\nhello\r\n0\r\n",
    "5\r\nhello\r\n",
    "5\r\nhel",
];

/// First lines: of requests without a body.
pub(crate) const LINES: &[&str] = &[
    "GET / HTTP/1.1",
    "HEAD / HTTP/1.1",
    "OPTIONS / HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "DELETE /a HTTP/1.1",
    "TRACE / HTTP/1.1",
    "get / HTTP/1.1",
    "G!#$%&'*+-.^_`|~T / HTTP/1.1",
    "GET,POST / HTTP/1.1",
    "G\u{e9}T / HTTP/1.1",
    "PRI * HTTP/2.0",
    "CONNECT h:80 HTTP/1.1",
    "CONNECT /a HTTP/1.1",
    "GET /  HTTP/1.1",
    "GET  / HTTP/1.1",
    " GET / HTTP/1.1",
    "\tGET / HTTP/1.1",
    "\r\nGET / HTTP/1.1",
    "\r\n\r\nGET / HTTP/1.1",
    "\nGET / HTTP/1.1",
    "\rGET / HTTP/1.1",
    "\0GET / HTTP/1.1",
    "GET\t/ HTTP/1.1",
    "GET /\tHTTP/1.1",
    "GET / HTTP/1.1 ",
    "GET / HTTP/1.1\t",
    "GET / HTTP/1.1 x",
    "GET / HTTP/1.1\0",
    "GET / x HTTP/1.1",
    "GET /",
    "GET / HTTP/0.9",
    "GET / HTTP/1.0",
    "GET / HTTP/1.2",
    "GET / HTTP/1.10",
    "GET / HTTP/01.1",
    "GET / HTTP/1.01",
    "GET / HTTP/2",
    "GET / HTTP/2.0",
    "GET / HTTP/3.0",
    "GET / HTTP/-1.1",
    "GET / HTTP/1,1",
    "GET / HTTP 1.1",
    "GET / http/1.1",
    "GET / HTTPS/1.1",
    "GET / XTTP/1.1",
    "GET / SHTTP/1.1",
    "GET /HTTP/1.1",
    "GET a HTTP/1.1",
    "GET * HTTP/1.1",
    "GET ?a HTTP/1.1",
    "GET // HTTP/1.1",
    "GET //h/a HTTP/1.1",
    "GET ///a//b/// HTTP/1.1",
    "GET http://h/ HTTP/1.1",
    "GET HTTP://H/a?b HTTP/1.1",
    "GET http://h HTTP/1.1",
    "GET http://h?a HTTP/1.1",
    "GET http://h:80/ HTTP/1.1",
    "GET http://other/ HTTP/1.1",
    "GET http://h@other/ HTTP/1.1",
    "GET http://other@h/ HTTP/1.1",
    "GET http:///a HTTP/1.1",
    "GET http:/a HTTP/1.1",
    "GET http:a HTTP/1.1",
    "GET https://h/ HTTP/1.1",
    "GET ftp://h/ HTTP/1.1",
    "GET file:///etc/passwd HTTP/1.1",
    "GET h:80 HTTP/1.1",
    "GET /a%2fb HTTP/1.1",
    "GET /a%2Fb HTTP/1.1",
    "GET /a%5cb HTTP/1.1",
    "GET /a\\b HTTP/1.1",
    "GET /a%00b HTTP/1.1",
    "GET /a%0d%0ab HTTP/1.1",
    "GET /a%25%32%66b HTTP/1.1",
    "GET /a%252fb HTTP/1.1",
    "GET /a%c0%afb HTTP/1.1",
    "GET /a/../b HTTP/1.1",
    "GET /a/./b HTTP/1.1",
    "GET /a/.. HTTP/1.1",
    "GET /.. HTTP/1.1",
    "GET /a/%2e%2e/b HTTP/1.1",
    "GET /a/.%2e/b HTTP/1.1",
    "GET /a/%252e%252e/b HTTP/1.1",
    "GET /a/..;/b HTTP/1.1",
    "GET /a/..%3b/b HTTP/1.1",
    "GET /a/...//b HTTP/1.1",
    "GET /a;b=c/d HTTP/1.1",
    "GET /a%2 HTTP/1.1",
    "GET /a% HTTP/1.1",
    "GET /a%zz HTTP/1.1",
    "GET /a#b HTTP/1.1",
    "GET /a?b#c HTTP/1.1",
    "GET /a?b?c=/../%2f HTTP/1.1",
    "GET /a?b=\" HTTP/1.1",
    "GET /a?<b> HTTP/1.1",
    "GET /a?b=%00%0d%0a HTTP/1.1",
    "GET /a\u{fc} HTTP/1.1",
    "GET /a?\u{fc} HTTP/1.1",
    "GET /a\0 HTTP/1.1",
    "GET /a\rb HTTP/1.1",
    "GET /a\nb HTTP/1.1",
    "GET /a|b HTTP/1.1",
    "GET /a\"b HTTP/1.1",
    "GET /a{b} HTTP/1.1",
    "GET /a^b` HTTP/1.1",
    "GET /[::1] HTTP/1.1",
    "GET / HTTP/1.1\r\nGET /smuggled HTTP/1.1",
    "GET / HTTP/1.1\rHost: h",
    "GET / HTTP/1.1\nHost: h",
];

/// What says the host, in place of `Host: h`.
pub(crate) const HOSTS: &[&str] = &[
    "Host: h",
    "host:h",
    "Host:\th\t",
    "Host: H",
    "Host: h.",
    "Host: h:80",
    "Host: h:",
    "Host: h:080",
    "Host: h:65536",
    "Host: h:-1",
    "Host: h:80:80",
    "Host: h: 80",
    "Host : h",
    "Host:",
    "Host: ",
    "X: y",
    "Host: h\r\nHost: h",
    "Host: h\r\nHost: other",
    "Host: other\r\nhost: h",
    "Host: h\r\n other",
    " Host: h",
    "Host: h, other",
    "Host: h other",
    "Host: h/a",
    "Host: h?a",
    "Host: h#a",
    "Host: a@h",
    "Host: h\\a",
    "Host: h\0a",
    "Host: h%00",
    "Host: http://h/",
    "Host: [::1]",
    "Host: [::1]:80",
    "Host: [::1",
    "Host: ::1",
    "Host: [h]",
    "Host: [::1]x",
    "Host: 127.0.0.1",
    "Host: 0x7f.1",
    "Host: h\u{fc}",
    "Host: *",
    "Host: .",
    "Host: -h_",
    "Host\0: h",
    "Connection: Host\r\nHost: h",
    "X-Forwarded-Host: other\r\nHost: h",
];

/// Headers that want something special, and such that are malformed.
pub(crate) const HEADERS: &[&str] = &[
    "X: y",
    "X:",
    "X:y\u{fc}",
    "X: \u{80}",
    "X: a, b\r\nX: c",
    "x: a\r\nX: b\r\nx: c",
    "X : y",
    "X\t: y",
    "X y",
    "X",
    ": y",
    ":",
    "X\0: y",
    "X(: y",
    "X\u{fc}: y",
    "X: a\0b",
    "X: a\rb",
    "X: a\nb",
    "X: a\u{7f}b",
    "X: a\u{1}b",
    "X: a\r\n b",
    "X: a\r\n\tb",
    "X: a\r\n \r\n b",
    "X: a\r\n ",
    "X: a\r\n\r",
    "X: a\r",
    "X: a\r\r",
    "Connection: close",
    "Connection: keep-alive",
    "Connection: Keep-Alive, close",
    "Connection: x\r\nX: hidden",
    "Connection: x-forwarded-for, host, x-real-ip, cookie, authorization\r\nCookie: a=b\r\nAuthorization: b",
    "Connection: forwarded,x-forwarded-proto,,,x-forwarded-host",
    "Connection: close\r\nConnection: keep-alive",
    "Connection: \u{fc}",
    "Connection:",
    "Keep-Alive: timeout=1\r\nProxy-Connection: close\r\nProxy-Authorization: x",
    "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13",
    "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 777",
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    "Connection: upgrade\r\nUpgrade: h2c, websocket",
    "Connection: upgrade\r\nUpgrade: TLS/1.0\r\nUpgrade: x",
    "Upgrade: websocket",
    "Connection: upgrade",
    "Expect: 100-continue",
    "Expect: 100-Continue, x",
    "Expect: 200-ok",
    "Expect:",
    "Expect: 100-continue\r\nExpect: 100-continue",
    "X-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-Proto: https",
    "x-forwarded-for: 6.6.6.6\r\nX-FORWARDED-FOR: 127.0.0.1",
    "X-Forwarded-For : 6.6.6.6",
    "X_Forwarded_For: 6.6.6.6",
    "Trailer: X\r\nTE: trailers",
    "TE: trailers\r\nConnection: te",
    "Accept-Encoding: gzip\r\nRange: bytes=0-1",
    "Cookie: a=b\r\nCookie: c=d",
    "X-HTTP-Method-Override: DELETE",
    "Content-Length: 0\r\nTransfer-Encoding: identity",
];

fn case(what: &str, text: &str, wanted: Wanted) -> Case {
    Case::new(what.to_owned(), text.as_bytes().to_vec(), wanted)
}

/// All of them, by themselves and by twos.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    let chunked = "Transfer-Encoding: chunked";
    for encoding in ENCODINGS {
        let head = "POST /te HTTP/1.1\r\nHost: h\r\n";
        let said = |more: &str| {
            let both = encoding.to_ascii_lowercase().starts_with("transfer-encoding");
            match both || more.is_empty() {
                true => Wanted::Refused,
                false => Wanted::Any,
            }
        };
        let wanted = match *encoding {
            "Transfer-Encoding: chunked"
            | "transfer-encoding:chunked"
            | "TRANSFER-ENCODING: CHUNKED"
            | "Transfer-Encoding:\tchunked\t" => Wanted::Served,
            _ => Wanted::Any,
        };
        cases.push(case("encoding", &format!("{head}{encoding}\r\n\r\n0\r\n\r\n"), wanted));
        cases.push(case(
            "encoding and request",
            &format!("{head}{encoding}\r\n\r\n0\r\n\r\n{SMUGGLED}"),
            wanted,
        ));
        let (long, whole) = (SMUGGLED.len() + 5, 5);
        for length in [0, 3, whole, long] {
            let length = format!("Content-Length: {length}");
            let wanted = said(&length);
            cases.push(case(
                "TE.CL",
                &format!("{head}{encoding}\r\n{length}\r\n\r\n0\r\n\r\n{SMUGGLED}"),
                wanted,
            ));
            cases.push(case(
                "CL.TE",
                &format!("{head}{length}\r\n{encoding}\r\n\r\n0\r\n\r\n{SMUGGLED}"),
                wanted,
            ));
        }
        let old = head.replace("1.1", "1.0");
        cases.push(case(
            "1.0",
            &format!("{old}Connection: keep-alive\r\n{encoding}\r\n\r\n0\r\n\r\n"),
            Wanted::Any,
        ));
        cases.push(case(
            "twice",
            &format!("{head}{chunked}\r\n{encoding}\r\n\r\n0\r\n\r\n{SMUGGLED}"),
            Wanted::Any,
        ));
    }
    for length in LENGTHS {
        for (head, more) in [
            ("POST /cl HTTP/1.1", ""),
            ("GET /cl HTTP/1.1", ""),
            ("POST /cl HTTP/1.0", "Connection: keep-alive\r\n"),
        ] {
            let head = format!("{head}\r\nHost: h\r\n{more}{length}\r\n");
            cases.push(case("length", &format!("{head}\r\nhello"), Wanted::Any));
            let wanted = if length.contains('_') { Wanted::Any } else { Wanted::Refused };
            cases.push(case(
                "two lengths",
                &format!("{head}Content-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len()),
                wanted,
            ));
        }
    }
    let whole =
        format!("POST /cl HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len());
    cases.push(case("a request as a body", &whole, Wanted::Served));
    for chunks in CHUNKS {
        for (what, head) in [
            ("chunks", ""),
            ("chunks and trailers", "TE: trailers\r\nTrailer: X\r\n"),
            ("chunks expected", "Expect: 100-continue\r\n"),
        ] {
            let text = format!("POST /chunks HTTP/1.1\r\nHost: h\r\n{head}{chunked}\r\n\r\n{chunks}");
            cases.push(case(what, &text, Wanted::Any));
            cases.push(case(what, &format!("{text}{SMUGGLED}"), Wanted::Any));
        }
    }
    for line in LINES {
        cases.push(case("line", &format!("{line}\r\nHost: h\r\n\r\n"), Wanted::Any));
        cases.push(case(
            "line and length",
            &format!("{line}\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"),
            Wanted::Any,
        ));
        cases.push(case(
            "line and chunks",
            &format!("{line}\r\nHost: h\r\n{chunked}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            Wanted::Any,
        ));
        cases.push(case(
            "second line",
            &format!("GET /first HTTP/1.1\r\nHost: h\r\n\r\n{line}\r\nHost: h\r\n\r\n"),
            Wanted::Any,
        ));
    }
    for host in HOSTS {
        for line in ["GET / HTTP/1.1", "GET http://h/ HTTP/1.1", "GET / HTTP/1.0", "GET http://h/ HTTP/1.0"] {
            cases.push(case("host", &format!("{line}\r\n{host}\r\n\r\n"), Wanted::Any));
        }
    }
    for header in HEADERS {
        for line in ["GET / HTTP/1.1", "GET / HTTP/1.0"] {
            cases.push(case("header", &format!("{line}\r\nHost: h\r\n{header}\r\n\r\n"), Wanted::Any));
            cases.push(case("first header", &format!("{line}\r\n{header}\r\nHost: h\r\n\r\n"), Wanted::Any));
        }
        let body = format!("POST / HTTP/1.1\r\nHost: h\r\n{header}\r\nContent-Length: 5\r\n\r\nhello");
        cases.push(case("header and body", &body, Wanted::Any));
        let chunks =
            format!("POST / HTTP/1.1\r\nHost: h\r\n{header}\r\n{chunked}\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        cases.push(case("header and chunks", &chunks, Wanted::Any));
    }
    for text in [
        "GET /\r\n",
        "GET /\r\n\r\n",
        "GET /\n\n",
        "/\r\n\r\n",
        "\r\n",
        "\n",
        "\r\n\r\n\r\n",
        "\r",
        "\0",
        " ",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\n\n",
        "GET / HTTP/1.1\nHost: h\n\n",
        "GET / HTTP/1.1\r\nHost: h\r\n\n",
        "GET / HTTP/1.1\r\nHost: h\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}",
        "PROXY TCP4 6.6.6.6 6.6.6.6 1 1\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        cases.push(case("start", text, Wanted::Any));
    }
    cases
}
