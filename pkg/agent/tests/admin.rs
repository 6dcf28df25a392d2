//! The admin socket and the health endpoint, asked as a user and a scraper ask them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use warren_agent::admin::{AdminConfig, start};
use warren_agent::board::Board;
use warren_agent::client::{AskError, ask};
use warren_agent::services::{Desk, Told};
use warren_agent::status::{CheckReport, IpamReport, StatusReport};
use warren_agent::supervisor::Watched;
use warren_loadbalancer::{LoadBalancerStatus, Mode};
use warren_netlink::nft::Nft;
use warren_proxy::ProxyStatus;
use warren_proxy::explain::Explanation;
use warren_proxy::view::ServiceSummary;
use warren_source::SourceStatus;
use warren_store::Store;
use warren_types::NodeName;

fn get(address: SocketAddr, path: &str) -> String {
    let begin = Instant::now();
    let mut stream = loop {
        match TcpStream::connect(address) {
            Ok(s) => break s,
            Err(_) if begin.elapsed() < Duration::from_secs(30) => std::thread::yield_now(),
            Err(e) => panic!("{address}: {e}"),
        }
    };
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut out = String::new();
    stream.read_to_string(&mut out).unwrap();
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn status_health_and_metrics_answer_from_a_thread_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap().store;
    let name = NodeName::new("a").unwrap();
    let shared = store.clone();
    let board = Board::new(name, store, "/s".into(), String::new(), SourceStatus::default());
    let (overlay, ipam, cni) = (Watched::new("overlay"), Watched::new("ipam"), Watched::new("cni"));
    for w in [&overlay, &ipam, &cni] {
        board.watch(w.clone());
    }
    let health = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let socket = dir.path().join("run/admin.sock");
    let gone = ask::<StatusReport>(&socket, "/status").await.unwrap_err();
    assert!(matches!(gone, AskError::NotRunning(_)) && gone.hint().contains("warren agent"));
    // A socket that a killed agent left behind is no obstacle.
    std::fs::create_dir(dir.path().join("run")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let stop = CancellationToken::new();
    let config = AdminConfig { socket: socket.clone(), health };
    let thread = start(config, board.clone(), stop.clone()).unwrap();

    assert!(get(health, "/livez").ends_with("ok\n"));
    let answer = get(health, "/readyz");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("cni: starting"), "{answer}");
    let mode = |p: &std::path::Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o600, 0o700));
    let report: StatusReport = ask(&socket, "/status").await.unwrap();
    assert_eq!((report.node.name.as_str(), report.ready, report.subsystems.len()), ("a", false, 3));
    assert_eq!(ask::<IpamReport>(&socket, "/ipam").await.unwrap(), IpamReport::default());
    assert!(
        matches!(ask::<CheckReport>(&socket, "/ipam/check").await, Err(AskError::Failed { .. })),
        "no pool yet"
    );
    board.set_checker(Arc::new(|| Box::pin(async { CheckReport { findings: vec!["x".into()] } })));
    assert_eq!(ask::<CheckReport>(&socket, "/ipam/check").await.unwrap().findings, ["x"]);
    let unloaded = ask::<Told<Vec<ServiceSummary>>>(&socket, "/services").await.unwrap_err();
    assert!(unloaded.to_string().contains("--proxy=off"), "{unloaded}");
    board.set_desk(Desk {
        proxy: Some(ProxyStatus::default()),
        dns: None,
        load_balancer: LoadBalancerStatus::default(),
        mode: Mode::Nodes,
        nft: Nft::current().unwrap(),
        store: shared.clone(),
        node: NodeName::new("a").unwrap(),
    });
    for (path, says) in [
        ("/services", "has not loaded Services yet"),
        ("/services/default/web", "has not loaded Services yet"),
        ("/services/default/WEB", "there is no Service default/WEB"),
        ("/explain?from=node&service=default/web&port=80", "has not loaded Services yet"),
        ("/explain?from=default/x&service=default/web&port=80", "there is no pod default/x"),
        ("/explain?from=outside:x&service=default/web&port=80", "is no sender"),
        ("/explain?from=node&service=web&port=80", "there is no Service web"),
        ("/explain?from=node", "400"),
    ] {
        let error = ask::<Told<Explanation>>(&socket, path).await.unwrap_err();
        assert!(error.to_string().contains(says), "{path}: {error}");
    }
    let services = ask::<StatusReport>(&socket, "/status").await.unwrap().services;
    assert_eq!(services.load_balancer.map(|view| view.mode).as_deref(), Some("nodes"));
    for w in [&overlay, &ipam, &cni] {
        w.health.ready();
    }
    assert!(get(health, "/readyz").starts_with("HTTP/1.1 200"));
    assert!(get(health, "/metrics").contains("warren_ready{} 1.0"));
    assert!(get(health, "/nothing").starts_with("HTTP/1.1 404"));
    // Peers that say nothing, or nonsense, keep nobody else from being answered.
    let _silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(health).unwrap()).collect();
    let mut nonsense = TcpStream::connect(health).unwrap();
    nonsense.write_all(&[0xff; 4096]).unwrap();
    assert!(get(health, "/livez").ends_with("ok\n"));
    stop.cancel();
    tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
}
