//! Bodies that are larger than any buffer, to clients and backends of every pace.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod common;

use common::secure::*;
use common::*;
use socket2::{Domain, Socket, Type};
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;
use warren_ingress::tls::Certificates;

/// Around the sizes of the buffers, and far beyond them.
const LENGTHS: [usize; 9] = [1, 8191, 16_384, 16_385, 32_768, 65_537, 262_144, 300_001, 3 << 20];

/// Bytes of which none is where another is.
fn body(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// Sends as many bytes as the path says, by length or by chunks, and those of the request back when there are any.
fn origin() -> Origin {
    Origin::start(|seen| {
        let path = seen.line.split(' ').nth(1).unwrap_or_default();
        let (kind, length) = path[1..].split_once('/').unwrap();
        let body = if seen.body.is_empty() { body(length.parse().unwrap()) } else { seen.body.clone() };
        let mut answer = b"HTTP/1.1 200 OK\r\n".to_vec();
        if kind == "length" {
            answer.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
            answer.extend_from_slice(&body);
            return answer;
        }
        answer.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
        for chunk in body.chunks(70_000) {
            answer.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            answer.extend_from_slice(chunk);
            answer.extend_from_slice(b"\r\n");
        }
        answer.extend_from_slice(b"0\r\n\r\n");
        answer
    })
}

/// A client into whose kernel little goes.
fn narrow(address: std::net::SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.into()
}

#[test]
fn every_length_passes_both_ways() {
    let origin = origin();
    let front = to(&origin);
    let mut client = front.connect();
    for length in LENGTHS {
        for kind in ["length", "chunks"] {
            let sent = body(length);
            let answer = client.ask(&format!("GET /{kind}/{length} HTTP/1.1\r\nHost: h\r\n\r\n"));
            assert!(answer.body == sent, "{kind} {length}: {}", answer.body.len());
            client.send(format!("PUT /{kind}/0 HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"));
            client.send(&sent);
            assert!(client.answer().body == sent, "sent: {kind} {length}");
        }
    }
    assert_eq!(
        client.ask("GET /length/5 HTTP/1.1\r\nHost: h\r\n\r\n").body,
        body(5),
        "one connection for all"
    );
}

#[test]
fn more_slow_clients_than_large_buffers_are_served() {
    let origin = origin();
    let front = to(&origin);
    let mut clients: Vec<TcpStream> = (0..40).map(|_| narrow(front.address)).collect();
    for client in &mut clients {
        client.write_all(b"GET /length/700000 HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    }
    // While none of them reads on, another one is served.
    let firsts: Vec<u8> = clients
        .iter_mut()
        .map(|client| {
            let mut first = [0];
            client.read_exact(&mut first).unwrap();
            first[0]
        })
        .collect();
    assert_eq!(front.get("/length/300001").body, body(300_001));
    for (first, client) in firsts.into_iter().zip(clients) {
        let answer = read_message(&mut BufReader::new([first].chain(client))).unwrap();
        assert!(answer.body == body(700_000));
    }
}

#[test]
fn the_end_of_an_answer_by_tls_comes_to_who_reads_slowly() {
    let origin = origin();
    let (key, trusted) = certificate(&["example.org"]);
    let mut certificates = Certificates::default();
    certificates.set_default(key);
    let front = Front::start(config(), secure(backend(&[origin.address]), certificates));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("example.org").unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(tls), name).unwrap();
    let mut client = rustls::StreamOwned::new(connection, narrow(front.tls));
    for length in LENGTHS {
        for kind in ["length", "chunks"] {
            write!(client, "GET /{kind}/{length} HTTP/1.1\r\nHost: example.org\r\n\r\n").unwrap();
            let answer = read_message(&mut BufReader::with_capacity(512, &mut client)).unwrap();
            assert!(answer.body == body(length), "{kind} {length}: {}", answer.body.len());
        }
    }
}
