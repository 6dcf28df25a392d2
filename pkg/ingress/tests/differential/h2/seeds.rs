//! Requests of HTTP/2 written by hand: what is known to have become two behind some proxy, and what is made of them by chance.

use super::{Asked, lines};
use crate::case::Random;

pub(super) const PLAIN: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":path", "/a"), (":authority", "h")];
const POST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "https"), (":path", "/a"), (":authority", "h")];
const INNER: &str = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";

/// What is known to have become two requests behind some proxy.
pub(super) fn all() -> Vec<Asked> {
    let smuggle = format!("x\r\n\r\n{INNER}");
    let chunked = format!("0\r\n\r\n{INNER}");
    let mut seeds =
        vec![Asked::new("plain", &PLAIN, &[]), Asked::new("with a body", &POST, &["hello", " ", "world"])];
    let extra: &[(&str, &str)] = &[
        ("x", "y"),
        ("x", ""),
        ("x", " y "),
        ("x", "\ty"),
        ("x", "a\r\nb: c"),
        ("x", &smuggle),
        ("x", "a\nb: c"),
        ("x", "a\rb: c"),
        ("x", "a\0b"),
        ("x", "\r"),
        ("x", "\n"),
        ("x", "a\u{7f}"),
        ("x", "a\u{1}"),
        ("x", "\u{fc}"),
        ("x\r\ny", "z"),
        ("x: y\r\nz", "a"),
        ("x:", "y"),
        ("x y", "z"),
        ("", "y"),
        ("X", "y"),
        ("Transfer-Encoding", "chunked"),
        ("x\0", "y"),
        ("x\u{fc}", "y"),
        (":x", "y"),
        (":status", "200"),
        (":protocol", "websocket"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("transfer-encoding", "xchunked"),
        ("transfer_encoding", "chunked"),
        ("connection", "close"),
        ("connection", "x"),
        ("connection", "transfer-encoding"),
        ("connection", "upgrade"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "websocket"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABkAAQ"),
        ("te", "trailers"),
        ("te", "gzip"),
        ("te", "trailers, chunked"),
        ("host", "h"),
        ("host", "H"),
        ("host", "other"),
        ("host", ""),
        ("host", "h:80"),
        ("host", "h\r\nx: y"),
        ("content-length", "0"),
        ("content-length", "3"),
        ("content-length", "5"),
        ("content-length", "11"),
        ("content-length", "99"),
        ("content-length", "+5"),
        ("content-length", "-1"),
        ("content-length", "5, 5"),
        ("content-length", ""),
        ("content-length", "five"),
        ("content-length", "0x5"),
        ("content-length", "99999999999999999999"),
        ("content-length", "5\r\nx: y"),
        ("content_length", "5"),
        ("expect", "100-continue"),
        ("trailer", "x"),
        ("cookie", "a=b"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x_forwarded_for", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6"),
        ("x-http-method-override", "DELETE"),
        ("proxy-authorization", "x"),
    ];
    for (name, value) in extra {
        for (base, data) in
            [(&PLAIN, &[][..]), (&POST, &["hello"][..]), (&POST, &[&*chunked][..]), (&POST, &[""][..])]
        {
            let seed = Asked::new("one more header", base, data);
            for at in [0, 2, 4] {
                let mut seed = seed.clone();
                seed.headers.insert(at, (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
                seeds.push(seed);
            }
            let mut twice = seed.clone();
            twice.headers.extend([
                (name.as_bytes().to_vec(), value.as_bytes().to_vec()),
                (name.as_bytes().to_vec(), value.as_bytes().to_vec()),
            ]);
            seeds.push(twice);
            let mut behind = Asked { name: "in the trailers".into(), ..seed };
            behind.trailers = Some(lines(&[(name, value)]));
            seeds.push(behind);
        }
    }
    let pseudo: &[(usize, &[&str])] = &[
        (
            0,
            &[
                "get",
                "",
                "GET /x HTTP/1.1\r\nHost: h\r\n\r\nGET",
                "GET ",
                " GET",
                "G T",
                "G\r\nT",
                "G\0T",
                "CONNECT",
                "HEAD",
                "OPTIONS",
                "TRACE",
                "PRI",
                "G\u{fc}T",
            ],
        ),
        (1, &["http", "HTTPS", "", "ftp", "https://other/x", "https\r\nx: y", "x:y"]),
        (
            2,
            &[
                "",
                "*",
                "a",
                "?a",
                "//",
                "//other/a",
                "/a b",
                "/ HTTP/1.1\r\nHost: h\r\n\r\nGET /smuggled",
                "/\r\n",
                "/\n",
                "/\0",
                "/a%2fb",
                "/a%00",
                "/a/../b",
                "/./a",
                "/a/%2e%2e/b",
                "/a\\b",
                "/a#b",
                "/a?b#c",
                "/a?b=/../",
                "/\u{fc}",
                "/a?\u{fc}",
                "http://h/a",
                "https://other/a",
                "/a\tb",
                "/a%2",
                "/a?<b>",
                "/a|b",
                "/;a=b",
                "/a{b}",
            ],
        ),
        (
            3,
            &[
                "",
                "H",
                "h.",
                "h:443",
                "h:",
                "h:65536",
                "h:x",
                "a@h",
                "h/a",
                "h?a",
                "h#a",
                "h h",
                "h,i",
                "h\r\nx: y",
                "h\n",
                "h\0",
                "[::1]",
                "[::1",
                "*",
                "h\u{fc}",
                "..h",
                "http://h",
                "h\\a",
                "%68",
            ],
        ),
    ];
    for (at, values) in pseudo {
        for value in *values {
            for (base, data) in [(&PLAIN, &[][..]), (&POST, &["hello"][..])] {
                let mut seed = Asked::new("another pseudo-header", base, data);
                seed.headers[*at].1 = value.as_bytes().to_vec();
                seeds.push(seed.clone());
                // With a header that says the same.
                if *at == 3 {
                    seed.headers.push((b"host".to_vec(), value.as_bytes().to_vec()));
                    seeds.push(seed);
                }
            }
        }
    }
    for at in 0..4 {
        let mut without = Asked::new("a pseudo-header less", &PLAIN, &[]);
        let gone = without.headers.remove(at);
        seeds.push(without.clone());
        without.headers.push((b"host".to_vec(), b"h".to_vec()));
        seeds.push(without.clone());
        without.headers.push(gone.clone());
        seeds.push(Asked { name: "a pseudo-header behind others".into(), ..without });
        let mut twice = Asked::new("a pseudo-header twice", &PLAIN, &[]);
        twice.headers.push(gone);
        seeds.push(twice);
    }
    seeds
}

pub(super) fn mutated(random: &mut Random, seeds: &[Asked]) -> Asked {
    let mut asked = random.of(seeds).clone();
    asked.name.push_str(", changed");
    for _ in 0..=random.below(2) {
        let at = random.below(asked.headers.len());
        match random.below(6) {
            0 if asked.headers.len() > 1 => drop(asked.headers.remove(at)),
            1 => {
                let other = random.of(seeds);
                let line = random.of(&other.headers).clone();
                asked.headers.insert(at, line);
            }
            2 => {
                let other = random.below(asked.headers.len());
                asked.headers.swap(at, other);
            }
            kind => {
                let (name, value) = &mut asked.headers[at];
                let text = if kind == 3 { name } else { value };
                let place = random.below(text.len() + 1);
                let byte = match random.below(3) {
                    0 => random.below(256) as u8,
                    _ => *random.of(b"\r\n\0 \t:,;/%#?@AZ\x7f\x80\xff\x0b\x0c."),
                };
                text.insert(place, byte);
            }
        }
    }
    asked
}
