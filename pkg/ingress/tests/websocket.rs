//! WebSockets on streams of HTTP/2 (RFC 8441), towards backends of HTTP/1.1, over loopback.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use common::secure::*;
use common::*;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use warren_ingress::route::{Protocol as Spoken, *};
use warren_ingress::tls::Certificates;

/// A backend of WebSockets that reads no frames: bytes are bytes. What it does is in the path: `/echo` sends everything back,
/// and `bye` when the client has closed; `/close` closes behind one piece; `/wrong` has not read the key; `/plain` and
/// `/forbidden` answer as to any request; `/pour` sends without an end. `told` hears how each connection ended.
struct Sockets {
    address: SocketAddr,
    heads: Receiver<Seen>,
    told: mpsc::Receiver<&'static str>,
}

impl Sockets {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ((head, heads), (tell, told)) = (channel(), mpsc::channel(16));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (head, tell) = (head.clone(), tell.clone());
                std::thread::spawn(move || converse(stream.unwrap(), &head, &tell));
            }
        });
        Self { address, heads, told }
    }
}

fn converse(mut stream: TcpStream, heads: &Sender<Seen>, tell: &mpsc::Sender<&'static str>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(head) = read_head(&mut reader) {
        let _ = heads.send(head.clone());
        let path = head.line.split(' ').nth(1).unwrap().to_owned();
        match path.as_str() {
            "/plain" => stream.write_all(&ok("plain")).unwrap(),
            "/forbidden" => {
                stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").unwrap();
            }
            _ => {
                let mut key = head.header("sec-websocket-key").unwrap().to_owned();
                key.push_str(if path == "/wrong" { "" } else { "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" });
                let accept = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, key.as_bytes()));
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
                );
                stream.write_all(answer.as_bytes()).unwrap();
                let _ = tell.blocking_send(switched(&path, &mut reader, &mut stream));
                return;
            }
        }
    }
}

fn switched(path: &str, reader: &mut impl Read, stream: &mut TcpStream) -> &'static str {
    let mut buffer = vec![0; 16 << 10];
    loop {
        if path == "/pour" {
            match stream.write_all(&buffer) {
                Ok(()) => continue,
                Err(_) => return "broken",
            }
        }
        match reader.read(&mut buffer) {
            Ok(0) => {
                let _ = stream.write_all(b"bye");
                return "closed";
            }
            Ok(count) if stream.write_all(&buffer[..count]).is_ok() => {}
            _ => return "broken",
        }
        if path == "/close" {
            stream.shutdown(Shutdown::Write).unwrap();
        }
    }
}

struct World {
    sockets: Sockets,
    front: Front,
    client: SendRequest<Bytes>,
    _tasks: JoinSet<()>,
}

impl World {
    async fn with(spoken: Spoken, edit: impl FnOnce(&mut Route)) -> Self {
        let sockets = Sockets::start();
        let backend = Backend { protocol: spoken, ..backend(&[sockets.address]) };
        let (key, der) = certificate(&["example.org"]);
        let mut certificates = Certificates::default();
        certificates.set_default(key);
        let mut route = Route::new("route", Action::Forward(forward(backend)));
        edit(&mut route);
        let mut builder = RouteTable::builder();
        builder.route(Match::new(HostMatch::Any, PathMatch::Prefix("/".into())), &std::sync::Arc::new(route));
        builder.certificates(certificates);
        let front = Front::start(config(), builder.build());
        let mut tasks = JoinSet::new();
        let mut client = h2_client(&front, &der, &mut tasks).await;
        // It is said in the first frame of settings.
        while !client.is_extended_connect_protocol_enabled() {
            client = client.ready().await.unwrap();
            tokio::task::yield_now().await;
        }
        Self { sockets, front, client, _tasks: tasks }
    }

    async fn start() -> Self {
        Self::with(Spoken::Http1, |_| {}).await
    }

    async fn send(
        &mut self,
        request: Request<()>,
    ) -> (Result<Response<RecvStream>, h2::Error>, SendStream<Bytes>) {
        let mut client = self.client.clone().ready().await.unwrap();
        let (answer, out) = client.send_request(request, false).unwrap();
        (answer.await, out)
    }

    async fn open(&mut self, path: &str) -> (Response<RecvStream>, SendStream<Bytes>) {
        let (answer, out) = self.send(connect(path, "websocket")).await;
        (answer.unwrap(), out)
    }

    async fn ended(&mut self) -> &'static str {
        timeout(Duration::from_secs(10), self.sockets.told.recv()).await.unwrap().unwrap()
    }
}

fn connect(path: &str, protocol: &str) -> Request<()> {
    Request::builder()
        .method(Method::CONNECT)
        .uri(format!("https://example.org{path}"))
        .extension(Protocol::from(protocol))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat, other")
        .header("origin", "https://example.org")
        .body(())
        .unwrap()
}

async fn read(body: &mut RecvStream, length: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < length {
        let data = body.data().await.unwrap().unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    all
}

#[test]
fn a_websocket_of_http2_is_an_upgrade_to_its_backend() {
    runtime().block_on(async {
        let mut world = World::start().await;
        let (answer, mut out) = world.open("/echo").await;
        let (head, mut body) = answer.into_parts();
        assert_eq!(head.status, StatusCode::OK);
        assert_eq!(head.headers["sec-websocket-protocol"], "chat");
        for name in ["sec-websocket-accept", "upgrade", "connection"] {
            assert!(!head.headers.contains_key(name), "{name}");
        }
        let seen = world.sockets.heads.recv().unwrap();
        assert_eq!(seen.line, "GET /echo HTTP/1.1");
        for (name, value) in [
            ("host", "example.org"),
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "chat, other"),
            ("origin", "https://example.org"),
            ("x-forwarded-proto", "https"),
        ] {
            assert_eq!(seen.header(name), Some(value), "{name}");
        }
        assert!(seen.header("transfer-encoding").is_none() && seen.header("content-length").is_none());

        out.send_data("hello".into(), false).unwrap();
        assert_eq!(read(&mut body, 5).await, b"hello");
        // More than all windows together, both ways at once.
        let many = Bytes::from((0..8u32 << 20).map(|at| (at % 251) as u8).collect::<Vec<u8>>());
        let ((), echoed) = tokio::join!(send(&mut out, many.clone()), read(&mut body, many.len()));
        assert!(echoed == many, "{} bytes", echoed.len());
        // What one side closes, the other may still answer.
        out.send_data(Bytes::new(), true).unwrap();
        assert_eq!(whole(body).await.0, b"bye");
        assert_eq!(world.ended().await, "closed");
    });
}

#[test]
fn a_backend_that_closes_first_may_still_be_told_something() {
    runtime().block_on(async {
        let mut world = World::start().await;
        let (answer, mut out) = world.open("/close").await;
        out.send_data("last".into(), false).unwrap();
        assert_eq!(whole(answer.into_body()).await.0, b"last");
        out.send_data(Bytes::new(), true).unwrap();
        assert_eq!(world.ended().await, "closed");
    });
}

#[test]
fn a_stream_that_is_reset_closes_the_connection_to_the_backend() {
    runtime().block_on(async {
        let mut world = World::start().await;
        for path in ["/echo", "/pour"] {
            let (answer, mut out) = world.open(path).await;
            assert_eq!(answer.status(), StatusCode::OK);
            out.send_reset(Reason::CANCEL);
            let ended = world.ended().await;
            assert!(["closed", "broken"].contains(&ended), "{ended}");
        }
        // Others of the connection go on.
        let (answer, mut out) = world.open("/echo").await;
        out.send_data("on".into(), false).unwrap();
        assert_eq!(read(&mut answer.into_body(), 2).await, b"on");
    });
}

#[test]
fn a_client_that_does_not_read_holds_no_other_up_and_is_given_up() {
    runtime().block_on(async {
        let short = |route: &mut Route| {
            if let Action::Forward(forward) = &mut route.action {
                forward.timeouts.read = Duration::from_millis(500);
            }
        };
        let mut world = World::with(Spoken::Http1, short).await;
        let (unread, _out) = world.open("/pour").await;
        let (answer, mut out) = world.open("/echo").await;
        out.send_data("beside".into(), false).unwrap();
        assert_eq!(read(&mut answer.into_body(), 6).await, b"beside");
        assert!(["closed", "broken"].contains(&world.ended().await));
        // It is told by a reset, behind what it was sent before.
        let mut body = unread.into_body();
        let error = loop {
            match body.data().await.unwrap() {
                Ok(data) => body.flow_control().release_capacity(data.len()).unwrap(),
                Err(error) => break error,
            }
        };
        assert_eq!(error.reason(), Some(Reason::CANCEL));
    });
}

#[test]
fn a_backend_that_does_not_switch_answers_for_itself_but_never_by_a_success() {
    runtime().block_on(async {
        let mut world = World::start().await;
        for (path, status, text) in [
            ("/forbidden", 403, "no"),
            ("/plain", 502, "502 Bad Gateway\n"),
            ("/wrong", 502, "502 Bad Gateway\n"),
        ] {
            let (answer, _out) = world.open(path).await;
            assert_eq!(answer.status(), status, "{path}");
            assert_eq!(whole(answer.into_body()).await.0, text.as_bytes(), "{path}");
        }
        // A GET of the same connection is none of that.
        let request = Request::get("https://example.org/plain").body(()).unwrap();
        let (answer, mut out) = world.send(request).await;
        out.send_data(Bytes::new(), true).unwrap();
        assert_eq!(whole(answer.unwrap().into_body()).await.0, b"plain");
    });
}

#[test]
fn backends_of_http2_have_no_websockets() {
    runtime().block_on(async {
        let mut world = World::with(Spoken::H2c, |_| {}).await;
        assert_eq!(world.open("/echo").await.0.status(), StatusCode::NOT_IMPLEMENTED);
    });
}

#[test]
fn the_filters_of_the_path_hold_for_websockets() {
    runtime().block_on(async {
        let deny = |route: &mut Route| route.sources.deny = vec!["127.0.0.0/8".parse().unwrap()];
        let mut world = World::with(Spoken::Http1, deny).await;
        assert_eq!(world.open("/echo").await.0.status(), StatusCode::FORBIDDEN);
        assert!(world.sockets.heads.try_recv().is_err());
    });
}

#[test]
fn what_is_no_websocket_is_refused() {
    runtime().block_on(async {
        let mut world = World::start().await;
        let with_length = || {
            let mut request = connect("/echo", "websocket");
            request.headers_mut().insert("content-length", "0".parse().unwrap());
            request
        };
        let plain = Request::builder().method(Method::CONNECT).uri("example.org:443").body(()).unwrap();
        for (what, request, status) in [
            ("another protocol", connect("/echo", "connect-udp"), 501),
            ("a length", with_length(), 400),
            ("dots", connect("/a/../echo", "websocket"), 400),
            ("a tunnel to anywhere", plain, 400),
        ] {
            let (answer, _out) = world.send(request).await;
            assert_eq!(answer.unwrap().status(), status, "{what}");
        }
        assert!(world.sockets.heads.try_recv().is_err(), "nothing came to the backend");
        assert_eq!(world.front.ingress.figures().malformed, 4);
    });
}
