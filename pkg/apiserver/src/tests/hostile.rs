//! What a bad client may try. Whatever it is: a Status or a closed connection, and the next request is answered.

use base64::Engine as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::super::*;
use super::harness::{TestServer, request};
use crate::registry::{Kind, KindId};

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Bytes of a body that is just small enough.
const FULL: usize = (3 << 20) - 1000;

/// A connection to the server; with the administrator's certificate, or none.
async fn raw(s: &TestServer, admin: bool) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(s.ca_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = if admin {
        let text = std::fs::read(s.directory.path().join("kubeconfig")).unwrap();
        let user = serde_json::from_slice::<Value>(&text).unwrap()["users"][0]["user"].take();
        let pem = |key: &str| {
            base64::engine::general_purpose::STANDARD.decode(user[key].as_str().unwrap()).unwrap()
        };
        let cert = CertificateDer::from_pem_slice(&pem("client-certificate-data")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&pem("client-key-data")).unwrap();
        builder.with_client_auth_cert(vec![cert], key).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    let tcp = TcpStream::connect(address(s)).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
}

fn address(s: &TestServer) -> SocketAddr {
    s.url.trim_start_matches("https://").parse().unwrap()
}

/// What comes back until the connection ends; an end by reset is an end.
async fn rest(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await;
    assert!(read.is_ok(), "the server keeps the connection: {}", String::from_utf8_lossy(&bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn goes_on(s: &TestServer) {
    let asked = Instant::now();
    s.get("/api/v1/nodes").await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

/// Sends a body that must be refused, soon, by a Status.
async fn refused(s: &TestServer, method: &str, path: &str, media: &str, body: Vec<u8>) -> u16 {
    let asked = Instant::now();
    let send = ::http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media)
        .body(kube::client::Body::from(body))
        .unwrap();
    let response = s.client.send(send).await.unwrap();
    let code = response.status().as_u16();
    use http_body_util::BodyExt as _;
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let status: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((&status["kind"], &status["code"]), (&json!("Status"), &json!(code)), "{status}");
    assert!((400..500).contains(&code), "{code}: {status}");
    assert!(bytes.len() < 100_000, "an answer of {} bytes", bytes.len());
    assert!(asked.elapsed() < Duration::from_secs(20), "{method} {media} took {:?}", asked.elapsed());
    code
}

#[tokio::test]
async fn deep_bodies() {
    let s = TestServer::start().await;
    s.create(MAPS, json!({"metadata": {"name": "c"}})).await;
    let one = format!("{MAPS}/c");
    let half = FULL / 2;
    let nested = |open: &str, close: &str, n: usize| (open.repeat(n) + "1" + &close.repeat(n)).into_bytes();
    for body in [
        "[".repeat(FULL).into_bytes(),
        nested("[", "]", half),
        nested("{\"a\":", "}", FULL / 6),
        nested("{\"metadata\":", "}", 10_000),
        nested("[", "]", 129),
    ] {
        assert_eq!(refused(&s, "POST", MAPS, JSON, body.clone()).await, 400);
        assert_eq!(refused(&s, "PUT", &one, JSON, body.clone()).await, 400);
        assert_eq!(refused(&s, "DELETE", &one, JSON, body.clone()).await, 400);
        for media in patch::MEDIA_TYPES {
            refused(&s, "PATCH", &one, media, body.clone()).await;
        }
    }
    for body in [
        "[".repeat(FULL),
        "- ".repeat(half),
        "? ".repeat(half),
        "a: {".repeat(FULL / 4),
        "\n ".repeat(1000) + "- - - x",
    ] {
        refused(&s, "POST", MAPS, YAML, body.into_bytes()).await;
    }
    goes_on(&s).await;
}

#[tokio::test]
async fn huge_bodies() {
    let s = TestServer::start().await;
    assert_eq!(refused(&s, "POST", MAPS, JSON, vec![b' '; 4 << 20]).await, 413);
    assert_eq!(refused(&s, "POST", MAPS, YAML, vec![b'#'; 4 << 20]).await, 413);
    let text = "x".repeat(FULL - 100);
    let body = json!({"metadata": {"name": "c"}, "data": {"k": text}});
    assert_eq!(refused(&s, "POST", MAPS, JSON, body.to_string().into_bytes()).await, 422);
    let named = json!({"metadata": {"name": text}});
    assert_eq!(refused(&s, "POST", MAPS, JSON, named.to_string().into_bytes()).await, 422);
    let wrong_type = json!({"metadata": {"name": "c"}, "data": text});
    assert_eq!(refused(&s, "POST", MAPS, JSON, wrong_type.to_string().into_bytes()).await, 400);
    for unit in ["0", "[]", "{}", "\"\"", "{\"a\":0}", "{\"name\":\"a\"}"] {
        let list = vec![unit; FULL / (unit.len() + 1)].join(",");
        for body in
            [format!("[{list}]"), format!("{{\"metadata\":{{\"name\":\"x\",\"finalizers\":[{list}]}}}}")]
        {
            refused(&s, "POST", MAPS, JSON, body.into_bytes()).await;
        }
    }
    let wide = (0..FULL / 12).map(|i| format!("\"k{i:07}\":0")).collect::<Vec<_>>().join(",");
    refused(&s, "POST", MAPS, JSON, format!("{{{wide}}}").into_bytes()).await;
    goes_on(&s).await;
}

/// Lists of as many elements as fit, in every list of every kind that a body can name: no rule may look at each pair.
#[tokio::test]
async fn oversized_lists() {
    let s = TestServer::start().await;
    s.create("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await;
    let numbered = |n: usize, f: &dyn Fn(usize) -> Value| (0..n).map(f).collect::<Vec<_>>();
    let n = 40_000;
    let labels: serde_json::Map<String, Value> = (0..n).map(|i| (format!("l{i}"), "v".into())).collect();
    let containers = numbered(n, &|i| json!({"name": format!("c{i}"), "image": "i"}));
    let ports = numbered(n, &|i| json!({"name": format!("p{i}"), "containerPort": 1 + i % 65_535}));
    let owners = numbered(
        n / 2,
        &|i| json!({"apiVersion": "v1", "kind": "Pod", "name": format!("o{i}"), "uid": format!("u{i}")}),
    );
    let pod = |meta: Value, spec: Value| json!({"metadata": meta, "spec": spec});
    let plain = json!({"name": "p"});
    let tried = [
        (PODS, pod(plain.clone(), json!({"containers": containers}))),
        (PODS, pod(plain.clone(), json!({"containers": [{"name": "c", "image": "i", "ports": ports}]}))),
        (
            PODS,
            pod(json!({"name": "p", "labels": labels}), json!({"containers": [{"name": "c", "image": "i"}]})),
        ),
        (
            PODS,
            pod(
                json!({"name": "q", "ownerReferences": owners}),
                json!({"containers": [{"name": "c", "image": "i"}]}),
            ),
        ),
        (MAPS, json!({"metadata": {"name": "m", "finalizers": numbered(n, &|i| format!("a/f{i}").into())}})),
        (
            "/api/v1/nodes",
            json!({"metadata": {"name": "m"}, "spec": {"podCIDRs": numbered(n, &|i| format!("10.{}.{}.0/24", i / 256 % 256, i % 256).into()), "taints": numbered(n, &|i| json!({"key": format!("t{i}"), "effect": "NoSchedule"}))}}),
        ),
    ];
    for (path, body) in tried {
        let asked = Instant::now();
        let answer = s.ask("POST", path, body.clone()).await;
        eprintln!("{path} {} {:?} {:.100}", answer.code, asked.elapsed(), answer.body["message"].to_string());
        assert!(answer.code < 500, "{path}: {}", answer.body["message"]);
        assert!(asked.elapsed() < Duration::from_secs(20), "{path} took {:?}", asked.elapsed());
        if answer.code == 201 {
            let asked = Instant::now();
            let one = format!("{path}/{}", answer.body["metadata"]["name"].as_str().unwrap());
            let again = s.patch(&one, "application/strategic-merge-patch+json", body).await;
            assert!(again.code < 500, "{one}: {}", again.body["message"]);
            assert!(asked.elapsed() < Duration::from_secs(20), "a patch of {one} took {:?}", asked.elapsed());
        }
    }
    goes_on(&s).await;
}

#[tokio::test]
async fn yaml_bombs() {
    let s = TestServer::start().await;
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..30 {
        let refs = vec![format!("*a{}", i - 1); 10].join(", ");
        laughs.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
    }
    let mut merges = String::from("m0: &m0 {k: v}\n");
    for i in 1..40 {
        merges.push_str(&format!("m{i}: &m{i}\n  <<: [*m{0}, *m{0}]\n  k{i}: v\n", i - 1));
    }
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 500_000].join(","));
    let rest = [
        "a: &a [*a]".to_owned(),
        "&a a: *a".repeat(1000),
        "---\n".repeat(FULL / 4),
        "%YAML 9.9\n---\nx".to_owned(),
        "a: !!binary '".to_owned() + &"A".repeat(1000),
        "\u{feff}\u{0}".to_owned(),
        "\"\\x00".to_owned(),
        "#".repeat(FULL),
    ];
    for bomb in [laughs, merges, long].into_iter().chain(rest) {
        refused(&s, "POST", MAPS, YAML, bomb.into_bytes()).await;
    }
    goes_on(&s).await;
}

#[tokio::test]
async fn text_that_is_not_utf_8() {
    let s = TestServer::start().await;
    s.create(MAPS, json!({"metadata": {"name": "c"}})).await;
    let one = format!("{MAPS}/c");
    let json = b"{\"metadata\":{\"name\":\"\xff\xfe\"}}".to_vec();
    assert_eq!(refused(&s, "POST", MAPS, JSON, json.clone()).await, 400);
    assert_eq!(refused(&s, "POST", MAPS, YAML, b"metadata: {name: \xc0\xaf}".to_vec()).await, 400);
    assert_eq!(
        refused(&s, "POST", MAPS, "application/vnd.kubernetes.protobuf", b"k8s\0\xff\xff\xff".to_vec()).await,
        400
    );
    assert_eq!(refused(&s, "POST", MAPS, "text/\u{e9}", json.clone()).await, 415);
    for media in patch::MEDIA_TYPES {
        assert_eq!(refused(&s, "PATCH", &one, media, json.clone()).await, 400);
    }
    for surrogate in ["\\ud800", "\\udfff\\ud800", "\\u12"] {
        let body = format!("{{\"metadata\":{{\"name\":\"{surrogate}\"}}}}").into_bytes();
        refused(&s, "POST", MAPS, JSON, body).await;
    }
    for path in [
        "/api/v1/nodes/%ff",
        "/api/v1/namespaces/%c0%af/pods",
        "/api/v1/nodes/%zz",
        "/api/v1/nodes/%e",
        "/apis/%ff/v1/x",
    ] {
        refused(&s, "GET", path, JSON, Vec::new()).await;
    }
    let selector = s.ask("GET", "/api/v1/nodes?labelSelector=%ff%fe", Value::Null).await;
    assert!(selector.code == 400 || selector.body["items"] == json!([]), "{}", selector.body);
    goes_on(&s).await;
}

#[tokio::test]
async fn paths_that_try_to_leave_their_place() {
    let s = TestServer::start().await;
    s.create("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await;
    let deep = "/a".repeat(10_000);
    let long = format!("/api/v1/nodes/{}", "x".repeat(40_000));
    let selector = format!("/api/v1/nodes?labelSelector={}", "a=b,".repeat(10_000));
    let paths = [
        "/api/v1/../../etc/passwd",
        "/api/v1/namespaces/../nodes/n",
        "/api/v1/namespaces/%2e%2e/pods",
        "/api/v1/nodes/..",
        "/api/v1/nodes/n%00",
        "/api/v1/nodes/a%2fb",
        "/api/v1/pods/default%2fx",
        "/api/v1/namespaces/default/pods/%2e%2e%2fx",
        "/api/v1/nodes/n/../../../v1-warren/tokens",
        "/v1-warren/tokens/../backup",
        "/v1-warren/tokens//",
        "/v1-warren/tokens/%2e%2e",
        "/v1-warren",
        "/v1-warren/",
        "/v1-warren/tokensx",
        "/V1-WARREN/tokens",
        "/API/v1/nodes",
        "/api//v1/nodes",
        "/api/v1//nodes",
        "/api/v1/nodes/n/proxy",
        "/api/v1/nodes/n/status/x",
        "/apis//v1/nodes",
        "/apis/./v1/nodes",
        "/api/v1/nodes;x=y",
        "/api/v1/nodes%3flimit=1",
        "/api/v1/nodes?limit=-1",
        "/api/v1/nodes?limit=99999999999999999999999",
        "/api/v1/nodes?continue=%00",
        "/api/v1/nodes?continue=eyJydiI6",
        "/api/v1/nodes?resourceVersion=18446744073709551616",
        "/api/v1/nodes?watch=1&resourceVersion=x",
        "/api/v1/nodes?fieldSelector==",
        &deep,
        &long,
        &selector,
    ];
    for path in paths {
        let answer = s.ask("GET", path, Value::Null).await;
        assert!((400..500).contains(&answer.code), "{}: {}", &path[..path.len().min(80)], answer.code);
        assert_eq!(answer.body["kind"], "Status", "{}: {}", &path[..path.len().min(80)], answer.body);
    }
    // What no library sends: each line on a connection of its own.
    for line in [
        "GET http://other.example/api/v1/secrets-of-others HTTP/1.1\r\nHost: x",
        "GET /api/v1/nodes/n HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 5",
        "GET /api/v1/nodes/%",
        "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x",
        "TRACE /api/v1/nodes HTTP/1.1\r\nHost: x",
        "OPTIONS * HTTP/1.1\r\nHost: x",
        "GET\u{0}/ HTTP/1.1\r\nHost: x",
        "POST /api/v1/nodes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4",
        "GET / HTTP/9.9\r\nHost: x",
        "\u{16}\u{3}\u{1}",
    ] {
        let mut stream = raw(&s, true).await;
        let text = format!("{line}\r\nConnection: close\r\n\r\nzz\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.0 4"),
            "{line:?}: {answer}"
        );
    }
    let mut stream = raw(&s, true).await;
    let _ =
        stream.write_all(format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(1 << 20)).as_bytes()).await;
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 431"));
    goes_on(&s).await;
}

#[tokio::test]
async fn slow_headers_and_bodies() {
    let mut limits =
        Limits { body: Duration::from_secs(3), header: Duration::from_millis(600), ..Limits::default() };
    limits.anonymous_header = Duration::from_millis(600);
    limits.large = 2;
    let s = TestServer::start_with(tempfile::tempdir().unwrap(), |c| c.limits = limits).await;
    let mut header = raw(&s, true).await;
    header.write_all(b"GET /api/v1/nodes HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
    let (mut silent, mut stranger) = (raw(&s, true).await, raw(&s, false).await);
    let mut bodies = Vec::new();
    for length in [
        "Content-Length: 3000000",
        "Content-Length: 100",
        "Transfer-Encoding: chunked",
        "Content-Length: 2999999",
    ] {
        let mut body = raw(&s, true).await;
        let head = format!("POST {MAPS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{length}\r\n\r\n");
        body.write_all(head.as_bytes()).await.unwrap();
        if length.starts_with('C') {
            body.write_all(b"{\"metadata\":").await.unwrap();
        }
        bodies.push(body);
    }
    // Others write meanwhile, and do not wait for places that large bodies hold.
    let asked = Instant::now();
    s.create(MAPS, json!({"metadata": {"name": "quick"}})).await;
    assert!(asked.elapsed() < Duration::from_millis(2500), "{:?}", asked.elapsed());
    for body in &mut bodies {
        let answer = rest(body).await;
        let timely = answer.starts_with("HTTP/1.1 408") || answer.starts_with("HTTP/1.1 429");
        assert!(timely && answer.contains("\"kind\":\"Status\""), "{answer}");
    }
    rest(&mut header).await;
    rest(&mut silent).await;
    rest(&mut stranger).await;
    goes_on(&s).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections() {
    let s = TestServer::start().await;
    let to = address(&s);
    let mut idle = Vec::new();
    // A hundred hosts, as the server sees them: no bound for one address is of help.
    for i in 0..10_000u32 {
        let from = SocketAddr::from(([127, 1, u8::try_from(i % 100).unwrap(), 1], 0));
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(from).unwrap();
        let connect = tokio::time::timeout(Duration::from_secs(20), socket.connect(to)).await;
        idle.push(connect.unwrap().unwrap());
        if i % 2000 == 1999 {
            // A client that is new, and one that has its connection.
            drop(raw(&s, true).await);
            goes_on(&s).await;
        }
    }
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert!(tasks < 3000, "{tasks} tasks for connections that say nothing");
    let mut alive = 0;
    for stream in &mut idle {
        let mut byte = [0];
        match stream.try_read(&mut byte) {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => alive += 1,
            _ => {}
        }
    }
    assert!(alive <= 1000, "{alive} idle connections are kept");
    goes_on(&s).await;
}

#[tokio::test]
async fn idle_strangers_behind_tls_make_room_for_tokens() {
    let mut limits = Limits { anonymous_connections: 4, ..Limits::default() };
    limits.anonymous_header = Duration::from_millis(500);
    let s = TestServer::start_with(tempfile::tempdir().unwrap(), |c| c.limits = limits).await;
    let made = s.create("/v1-warren/tokens", json!({"role": "viewer"})).await;
    let headers = [("authorization", format!("Bearer {}", made["token"].as_str().unwrap()))];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
    // Six clients with tokens, on connections that stay: more than strangers may have.
    let mut clients = Vec::new();
    for _ in 0..6 {
        let client = super::joining::client_with(&s, None).await;
        assert_eq!(request(&client, "GET", "/api/v1/nodes", &headers, Value::Null).await.code, 200);
        clients.push(client);
    }
    let mut strangers = Vec::new();
    for _ in 0..4 {
        strangers.push(raw(&s, false).await);
    }
    for stranger in &mut strangers {
        rest(stranger).await;
    }
    let client = super::joining::client_with(&s, None).await;
    assert_eq!(request(&client, "GET", "/api/v1/nodes", &headers, Value::Null).await.code, 200);
}

#[tokio::test]
async fn every_kind_survives_bodies_of_every_shape() {
    let s = TestServer::start().await;
    let shapes = [
        "null",
        "0",
        "-1e999",
        "\"\"",
        "[]",
        "{}",
        "{\"metadata\":null}",
        "{\"metadata\":[]}",
        "{\"spec\":0}",
        "{\"spec\":null,\"metadata\":{\"name\":\"x\"}}",
        "{\"metadata\":{\"name\":\"x\",\"name\":\"y\"}}",
        "{\"apiVersion\":\"v9\"}",
        "{\"kind\":\"List\",\"items\":[{}]}",
        "{\"metadata\":{\"creationTimestamp\":\"never\"}}",
        "{",
        "{\"metadata\":{\"name\":\"x\",\"labels\":{\"a\":null}}}",
        "\u{0}",
        "{\"metadata\":{\"generateName\":\"x\",\"managedFields\":[{}]}}",
    ];
    for kind in KindId::all() {
        let k: &Kind = kind.get();
        let base =
            if k.group.is_empty() { "/api/v1".into() } else { format!("/apis/{}/{}", k.group, k.version) };
        let path = if k.namespaced {
            format!("{base}/namespaces/default/{}", k.plural)
        } else {
            format!("{base}/{}", k.plural)
        };
        for shape in shapes {
            for (method, path) in [
                ("POST", path.clone()),
                ("PUT", format!("{path}/x")),
                ("PATCH", format!("{path}/x")),
                ("DELETE", format!("{path}/none")),
            ] {
                let headers: &[_] =
                    if method == "PATCH" { &[("content-type", "application/merge-patch+json")] } else { &[] };
                let answer = request(&s.client, method, &path, headers, Value::String(shape.into())).await;
                assert!(answer.code < 500, "{method} {path} {shape}: {}", answer.body);
            }
        }
    }
    goes_on(&s).await;
}
