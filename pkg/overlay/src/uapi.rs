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
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// Where WireGuard's tools look for sockets.
pub(crate) const SOCKET_DIR: &str = "/var/run/wireguard";
/// Connections served at once; more wait.
const CONNECTIONS: usize = 16;
/// Longest request: thousands of peers.
const REQUEST_MAX: u64 = 8 << 20;
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
    let mut reader = BufReader::new(read);
    let mut text = String::new();
    loop {
        let begun = text.len();
        // A line may be as long as the rest of a request, and no longer.
        let room = REQUEST_MAX.saturating_sub(u64::try_from(begun).unwrap_or(REQUEST_MAX));
        if !matches!((&mut reader).take(room).read_line(&mut text).await, Ok(1..)) {
            return;
        }
        if text.ends_with("\r\n") {
            text.truncate(text.len() - 2);
            text.push('\n');
        }
        if &text[begun..] != "\n" {
            continue;
        }
        text.truncate(begun);
        if text.is_empty() {
            continue;
        }
        // gotatun cuts keys by bytes, so what is not ASCII would panic there.
        let request = match text.is_ascii() {
            true => text.parse::<Request>().map_err(|error| error.to_string()),
            false => Err("it is not ASCII".to_owned()),
        };
        let answer = match request {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a client gets for `bytes`, from a device that answers every request it is asked.
    fn answers(bytes: &[u8]) -> String {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        rt.block_on(async {
            let (mut client, server) = UnixStream::pair().unwrap();
            let (requests, mut asked) = mpsc::channel::<Asked>(1);
            let device = async {
                while let Some((_, reply)) = asked.recv().await {
                    let _ = reply.send(answer_of(Ok(())));
                }
            };
            let client = async {
                let (mut read, mut write) = client.split();
                let mut text = String::new();
                let write = async {
                    // Refused when the other side has gone.
                    let _ = write.write_all(bytes).await;
                    let _ = write.shutdown().await;
                };
                let (_, read) = tokio::join!(write, read.read_to_string(&mut text));
                // A peer that leaves bytes unread resets the connection.
                let _ = read;
                text
            };
            tokio::join!(converse(server, requests), device, client).2
        })
    }

    const SET: &str = "set=1\nprivate_key=e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a\n\
        listen_port=51840\nfwmark=7\nreplace_peers=true\n\
        public_key=b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33\nreplace_allowed_ips=true\n\
        preshared_key=188515093e952f5f22e865cef3012e72f8b5f0b598ac0309d5dacce3b70fcf52\n\
        allowed_ip=10.42.1.0/24\nallowed_ip=fd00:42::/64\nendpoint=[2001:db8::1%1]:51840\n\
        persistent_keepalive_interval=25\n\n";

    #[test]
    fn requests_are_told_apart_and_a_bad_one_is_answered() {
        assert_eq!(answers(b"get=1\n\n\n\nget=1\r\n\r\nnonsense\n\n"), "errno=0\n\nerrno=0\n\nerrno=22\n\n");
        let set = SET.replace("[2001:db8::1%1]", "[2001:db8::1]");
        assert_eq!(answers(set.as_bytes()), "errno=0\n\n");
    }

    #[test]
    fn a_key_of_other_letters_is_refused() {
        let key = format!("set=1\nprivate_key={}\u{80}{}\n\n", "0".repeat(29), "0".repeat(33));
        assert_eq!(answers(key.as_bytes()), "errno=22\n\n");
    }

    #[test]
    fn a_line_without_an_end_is_not_kept() {
        let bytes = vec![b'a'; usize::try_from(REQUEST_MAX).unwrap() + 100_000];
        assert_eq!(answers(&bytes), "");
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_or_end_the_connection(
            noise in prop::collection::vec(any::<u8>(), 0..200), text in "([a-z_]{1,20}=[0-9a-f.:/\\[\\]-]{0,70}\n{1,2}){0,6}",
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), cut: prop::sample::Index,
        ) {
            let mut mutated = SET.as_bytes().to_vec();
            for (at, value) in flips {
                let at = at.index(mutated.len());
                mutated[at] = value;
            }
            let cut = [&SET.as_bytes()[..cut.index(SET.len())], b"\n\n"].concat();
            for bytes in [&noise[..], text.as_bytes(), &mutated, &cut] {
                let answers = answers(bytes);
                prop_assert!(answers.split_terminator("\n\n").all(|a| matches!(a, "errno=0" | "errno=22")), "{:?}", answers);
            }
        }
    }
}
