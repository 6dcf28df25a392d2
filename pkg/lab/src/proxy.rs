//! The way from the host to the lab's API: a socket on the host's loopback, made before the lab left the host's
//! network, whose connections are carried on inside the lab.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use warren_netlink::NetNs;
use warren_types::defaults::API_PORT;

const MAX_CONNECTIONS: usize = 64;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Carries connections until the process ends; `server` tells the process whose network namespace has the API.
pub(crate) async fn serve(listener: TcpListener, server: watch::Receiver<Option<i32>>) {
    let mut connections = JoinSet::new();
    loop {
        if connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if let Some(pid) = *server.borrow() {
                        connections.spawn(carry(stream, pid));
                    }
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn carry(mut outer: TcpStream, pid: i32) {
    let connect = move || -> std::io::Result<std::net::TcpStream> {
        let ns = NetNs::open(&PathBuf::from(format!("/proc/{pid}/ns/net"))).map_err(std::io::Error::other)?;
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), API_PORT);
        let inner = ns.run(move || std::net::TcpStream::connect_timeout(&address, CONNECT_LIMIT));
        let inner = inner.map_err(std::io::Error::other)??;
        inner.set_nonblocking(true)?;
        Ok(inner)
    };
    // A connection that cannot be carried on is closed, which the client shows.
    let Ok(Ok(inner)) = tokio::task::spawn_blocking(connect).await else { return };
    if let Ok(mut inner) = TcpStream::from_std(inner) {
        let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
    }
}
