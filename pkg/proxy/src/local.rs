//! What userspace serves for Services: health checks of load balancers, and node ports on loopback.
//!
//! A node port on 127.0.0.1 cannot be translated: the packets would need `route_localnet`, which lets neighbours reach what
//! listens on loopback (CVE-2020-8558). So a small relay accepts there and dials the node's own address.

use crate::engine::Engine;
use crate::plan::{Origin, Route};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use warren_types::{Protocol, ServiceKey};

/// Connections at once, of each listener.
const CONNECTIONS: usize = 1024;
/// A request for health must come within this time.
const REQUEST: Duration = Duration::from_secs(5);
/// Bytes of a request for health.
const REQUEST_BYTES: usize = 8 * 1024;
/// How long the node's own address may take to answer.
const DIAL: Duration = Duration::from_secs(10);
/// After a port could not be bound.
const RETRY: Duration = Duration::from_secs(5);

/// What is served at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Server {
    /// Answers how many endpoints of a Service are ready here.
    Health {
        /// The Service.
        service: ServiceKey,
        /// How many.
        local_endpoints: usize,
    },
    /// Relays to one of these addresses.
    Relay(Vec<SocketAddr>),
}

/// The listeners.
#[derive(Default)]
pub(crate) struct LocalServers {
    running: BTreeMap<SocketAddr, Running>,
}

struct Running {
    server: watch::Sender<Server>,
    /// Dropping it ends the listener and its connections.
    _tasks: JoinSet<()>,
}

impl LocalServers {
    /// What should be served.
    pub(crate) fn wanted(engine: &Engine) -> BTreeMap<SocketAddr, Server> {
        let mut wanted = BTreeMap::new();
        for (row, plan, refused) in engine.services() {
            if let Some(health) = &plan.health {
                let server =
                    Server::Health { service: row.key.clone(), local_endpoints: health.local_endpoints };
                for address in &engine.node().node_port_addresses {
                    wanted.insert(SocketAddr::new(*address, health.port), server.clone());
                }
            }
            for front in &plan.fronts {
                let relayed = front.origin == Origin::NodePort
                    && front.key.protocol == Protocol::Tcp
                    && !refused.contains(&front.key)
                    && front.inside.as_ref().unwrap_or(&front.route) != &Route::Reject;
                if relayed {
                    relay(&mut wanted, SocketAddr::new(front.key.address, front.key.port), front.key.port);
                }
            }
        }
        for pod in engine.attachments() {
            for port in pod.host_ports.iter().filter(|port| port.protocol == Protocol::Tcp) {
                for address in &pod.addresses {
                    let here = port.host_ip.is_none_or(|host| host == loopback(*address));
                    if here {
                        let to = SocketAddr::new(*address, port.container_port);
                        relay(&mut wanted, to, port.host_port);
                    }
                }
            }
        }
        wanted
    }

    /// Serves this, and nothing else. Connections of what goes on being served stay.
    pub(crate) fn ensure(&mut self, wanted: BTreeMap<SocketAddr, Server>) {
        self.running.retain(|at, running| {
            matches!(
                (wanted.get(at), &*running.server.borrow()),
                (Some(Server::Health { .. }), Server::Health { .. })
                    | (Some(Server::Relay(_)), Server::Relay(_))
            )
        });
        for (at, server) in wanted {
            match self.running.get(&at) {
                Some(running) => drop(running.server.send_if_modified(|before| {
                    let changed = *before != server;
                    *before = server;
                    changed
                })),
                None => {
                    let (sender, receiver) = watch::channel(server);
                    let mut tasks = JoinSet::new();
                    tasks.spawn(listen(at, receiver));
                    self.running.insert(at, Running { server: sender, _tasks: tasks });
                }
            }
        }
    }
}

fn loopback(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

fn relay(wanted: &mut BTreeMap<SocketAddr, Server>, to: SocketAddr, port: u16) {
    let at = SocketAddr::new(loopback(to.ip()), port);
    match wanted.entry(at).or_insert_with(|| Server::Relay(Vec::new())) {
        Server::Relay(targets) => targets.push(to),
        Server::Health { .. } => {}
    }
}

/// Listens until it is dropped. A port that somebody holds is asked for again: the holder may go.
async fn listen(at: SocketAddr, server: watch::Receiver<Server>) {
    let mut said = false;
    let listener = loop {
        match TcpListener::bind(at).await {
            Ok(listener) => break listener,
            Err(error) if !said => {
                tracing::warn!(address = %at, %error, "a port of a Service cannot be served here; trying again");
                said = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, _)) => {
                while connections.try_join_next().is_some() {}
                let server = server.borrow().clone();
                connections.spawn(async move {
                    if let Err(error) = serve(client, server).await {
                        tracing::trace!(address = %at, %error, "connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(address = %at, %error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(mut client: TcpStream, server: Server) -> io::Result<()> {
    match server {
        Server::Relay(targets) => {
            let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
            for target in targets {
                match tokio::time::timeout(DIAL, TcpStream::connect(target)).await {
                    Ok(Ok(mut upstream)) => {
                        client.set_nodelay(true)?;
                        upstream.set_nodelay(true)?;
                        return tokio::io::copy_bidirectional(&mut client, &mut upstream).await.map(drop);
                    }
                    Ok(Err(error)) => last = error,
                    Err(_) => last = io::ErrorKind::TimedOut.into(),
                }
            }
            Err(last)
        }
        Server::Health { service, local_endpoints } => {
            tokio::time::timeout(REQUEST, answer(client, &service, local_endpoints)).await?
        }
    }
}

/// One request, one answer, in the words of kube-proxy, so that load balancers understand it.
async fn answer(mut client: TcpStream, service: &ServiceKey, local_endpoints: usize) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut part = [0; 1024];
        let length = client.read(&mut part).await?;
        request.extend_from_slice(&part[..length]);
        if length == 0 || request.len() > REQUEST_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let body = serde_json::json!({
        "service": { "namespace": service.namespace.as_str(), "name": service.name.as_str() },
        "localEndpoints": local_endpoints,
        "serviceProxyHealthy": true,
    });
    let body = serde_json::to_string_pretty(&body)?;
    let status = if local_endpoints == 0 { "503 Service Unavailable" } else { "200 OK" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
         X-Load-Balancing-Endpoint-Weight: {local_endpoints}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes()).await?;
    if !request.starts_with(b"HEAD ") {
        client.write_all(body.as_bytes()).await?;
    }
    client.shutdown().await
}
