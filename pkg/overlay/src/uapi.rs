//! The userspace tunnel's configuration socket: WireGuard's cross-platform protocol, text over a unix socket.
//!
//! gotatun's own server takes a peer apart and puts it together again for each change of it, and its session is lost;
//! this one changes peers in place. gotatun parses the requests and prints the answers.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gotatun::device::uapi::command::{Get, Request, Set, SetUnset};
use gotatun::device::uapi::{UapiClient, UapiServer};
use gotatun::device::{Device, DeviceTransports, Peer};
use gotatun::x25519::{PublicKey, StaticSecret};
use nix::errno::Errno;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// Where WireGuard's tools look for sockets.
pub(crate) const SOCKET_DIR: &str = "/var/run/wireguard";
/// Connections served at once; more wait.
const CONNECTIONS: usize = 16;
/// Longest request: thousands of peers.
const REQUEST_MAX: usize = 8 << 20;
/// For how long a handshake is waited for before the next request is looked at; retries are the device's.
const GREETING: Duration = Duration::from_millis(50);

/// The socket of the device `link`.
pub(crate) fn socket_path(link: &str) -> PathBuf {
    Path::new(SOCKET_DIR).join(format!("{link}.sock"))
}

/// Binds the socket of `link`: 0600, in a directory of 0700. One that a dead process left is replaced.
pub(crate) fn bind(link: &str) -> io::Result<UnixListener> {
    let path = socket_path(link);
    let named = |e: io::Error| io::Error::new(e.kind(), format!("socket {}: {e}", path.display()));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(SOCKET_DIR).map_err(named)?;
    if std::os::unix::net::UnixStream::connect(&path).is_ok() {
        return Err(named(io::Error::new(io::ErrorKind::AddrInUse, "a tunnel process already serves it")));
    }
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(named(e)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(named)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(named)?;
    Ok(listener)
}

/// A request and where its answer goes.
pub(crate) type Asked = (Request, oneshot::Sender<String>);

/// Takes connections and passes their requests on, until dropped.
pub(crate) async fn accept(listener: UnixListener, requests: mpsc::Sender<Asked>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS {
            let _ = connections.join_next().await;
            continue;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(converse(stream, requests.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "the configuration socket does not accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, requests: mpsc::Sender<Asked>) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let mut text = String::new();
    while let Ok(Some(line)) = lines.next_line().await {
        if !line.is_empty() {
            text.push_str(&line);
            text.push('\n');
            if text.len() > REQUEST_MAX {
                return;
            }
            continue;
        }
        if text.is_empty() {
            continue;
        }
        let answer = match text.parse::<Request>() {
            Ok(request) => {
                let (reply, answer) = oneshot::channel();
                if requests.send((request, reply)).await.is_err() {
                    return;
                }
                match answer.await {
                    Ok(answer) => answer,
                    Err(_) => return,
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a request that cannot be understood");
                answer_of(Err(Errno::EINVAL))
            }
        };
        text.clear();
        if write.write_all(format!("{answer}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

fn answer_of(result: Result<(), Errno>) -> String {
    format!("errno={}\n", result.err().map_or(0, |errno| errno as i32))
}

/// Answers requests for one device.
pub(crate) struct Answerer {
    reader: UapiClient,
}

impl Answerer {
    /// The second half goes into the device, where readings are made.
    pub(crate) fn new() -> (Self, UapiServer) {
        let (reader, server) = UapiServer::new();
        (Self { reader }, server)
    }

    /// Carries out one request. New peers are greeted after the answer: a handshake now, not with the first packet, so
    /// that a peer which still holds a session of an earlier life learns of this one.
    pub(crate) async fn answer<T: DeviceTransports>(&self, device: &Device<T>, asked: Asked) {
        let (request, reply) = asked;
        match request {
            Request::Get(_) => match self.reader.send(Request::Get(Get::default())).await {
                Ok(answer) => {
                    let _ = reply.send(answer.to_string());
                }
                Err(error) => tracing::error!(%error, "the device cannot be read"),
            },
            Request::Set(set) => {
                let result = change(device, set).await;
                let _ = reply.send(answer_of(result.as_ref().map(|_| ()).map_err(|errno| *errno)));
                let new = result.unwrap_or_default();
                let greetings = futures::future::join_all(new.iter().map(|key| device.force_handshake(key)));
                let _ = tokio::time::timeout(GREETING, greetings).await;
            }
        }
    }
}

/// Makes the changes that `set` asks for; the new peers that have an endpoint.
async fn change<T: DeviceTransports>(device: &Device<T>, set: Set) -> Result<Vec<PublicKey>, Errno> {
    if set.protocol_version.as_deref().is_some_and(|v| v != "1") {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let has_key = set.private_key.is_some() || device.read(async |d| d.private_key().is_some()).await;
    if !has_key && !set.peers.is_empty() {
        return Err(Errno::ENOKEY);
    }
    let settings = device.write(async |d| {
        if set.replace_peers {
            d.clear_peers();
        }
        if let Some(port) = set.listen_port {
            d.set_listen_port(port);
        }
        let marked = match &set.fwmark {
            Some(SetUnset::Set(mark)) => d.set_fwmark(u32::from(*mark)),
            Some(SetUnset::Unset) => d.set_fwmark(0),
            None => Ok(()),
        };
        if let Some(key) = &set.private_key {
            d.set_private_key(StaticSecret::from(key.0)).await;
        }
        marked
    });
    settings.await.and_then(|marked| marked).map_err(|error| {
        tracing::error!(%error, "the socket cannot be set up");
        Errno::EADDRINUSE
    })?;
    let mut greet = Vec::new();
    let peers = device.write(async |d| {
        for wanted in set.peers {
            let key = PublicKey::from(wanted.peer.public_key.0);
            if wanted.remove {
                d.remove_peer(&key).await;
                continue;
            }
            let psk = wanted.peer.preshared_key.map(|psk| match psk {
                SetUnset::Set(key) => Some(key.0),
                SetUnset::Unset => None,
            });
            let keepalive = wanted.peer.persistent_keepalive_interval.map(|s| (s > 0).then_some(s));
            let present = d
                .modify_peer(&key, |peer| {
                    if let Some(endpoint) = wanted.peer.endpoint {
                        peer.set_endpoint(Some(endpoint));
                    }
                    if let Some(keepalive) = keepalive {
                        peer.set_keepalive(keepalive);
                    }
                    if let Some(psk) = psk {
                        peer.set_preshared_key(psk);
                    }
                    if wanted.replace_allowed_ips {
                        peer.clear_allowed_ips();
                    }
                    peer.add_allowed_ips(wanted.peer.allowed_ip.iter().copied());
                })
                .await;
            if present || wanted.update_only {
                continue;
            }
            let mut peer = Peer::new(key);
            peer.endpoint = wanted.peer.endpoint;
            peer.keepalive = keepalive.flatten();
            peer.preshared_key = psk.flatten();
            peer.allowed_ips = wanted.peer.allowed_ip;
            if peer.endpoint.is_some() {
                greet.push(key);
            }
            d.add_peer(peer);
        }
    });
    peers.await.map_err(|error| {
        tracing::error!(%error, "the peers cannot be changed");
        Errno::EINVAL
    })?;
    Ok(greet)
}
