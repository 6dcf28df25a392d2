use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::*;
use super::harness::{TestServer, config};

async fn ends(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn strangers_who_stall_or_babble_are_cut_off_and_others_served() {
    let mut limits = Limits { handshake: Duration::from_millis(500), ..Limits::default() };
    limits.unknown_of_one_address = 3;
    let s = TestServer::start_with(tempfile::tempdir().unwrap(), |c| c.limits = limits).await;
    let address = s.url.trim_start_matches("https://").to_owned();
    let mut silent = TcpStream::connect(&address).await.unwrap();
    let mut babbling = TcpStream::connect(&address).await.unwrap();
    babbling.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(ends(&mut babbling).await);
    let mut others = Vec::new();
    for _ in 0..6 {
        others.push(TcpStream::connect(&address).await.unwrap());
    }
    assert!(ends(others.last_mut().unwrap()).await, "one address has only so many places");
    assert!(ends(&mut silent).await);
    assert!(s.get("/version").await["gitVersion"].as_str().unwrap().starts_with("v1.36"));
}

#[tokio::test]
async fn ranges_in_use_and_busy_addresses_are_refused_with_nothing_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut c = config(dir.path());
    c.host_routes = vec!["10.42.7.0/24".parse().unwrap()];
    let error = Server::open(c).await.err().unwrap().to_string();
    assert!(
        error.contains("--cluster-cidr 10.42.0.0/16 overlaps 10.42.7.0/24") && error.contains("for example"),
        "{error}"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let s = TestServer::start().await;
    let mut c = config(dir.path());
    c.listen = s.url.trim_start_matches("https://").parse().unwrap();
    assert!(matches!(Server::open(c).await, Err(ServerError::Listen { .. })));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(node_token(dir.path()).is_err());
    assert_eq!(node_token(s.directory.path()).unwrap(), s.token);
    let mode = |file: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::metadata(s.directory.path().join(file)).unwrap().permissions().mode() & 0o777
    };
    for file in ["kubeconfig", "server/token", "server/agent-token", "server/tls/ca.key"] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
}
