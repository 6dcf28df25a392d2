//! The two ways to have a WireGuard device, behind one face: the kernel's, and the userspace process. `wireguard-control`
//! reads and changes either; netlink makes the link, or the process does.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::libc::EOPNOTSUPP;
use warren_netlink::{Link, NetNs, Netlink};
use warren_types::marks::{LINK_ALIAS_PREFIX, TUNNEL_LINK};
use warren_types::{PublicKey, SecretKey};
use wireguard_control::{AllowedIp, Backend, Device, DeviceUpdate, InterfaceName, Key, PeerConfigBuilder};

use crate::device::{DeviceChange, ObservedDevice};
use crate::error::OverlayError;
use crate::process::{self, ProcessArgs};
use crate::uapi;

/// A device that does not answer for so long is stuck.
const ANSWER: Duration = Duration::from_secs(5);
/// Whoever starts the tunnel process says within this what became of it.
const START: Duration = Duration::from_secs(5).saturating_add(warren_netlink::detached::START);
/// A process that ends sooner than this after its start is started again only after a pause.
const STABLE: Duration = Duration::from_secs(10);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Which WireGuard to use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// The kernel's where making such a link succeeds, else the userspace process.
    #[default]
    Auto,
    /// The kernel's, or fail.
    Kernel,
    /// The userspace process.
    Userspace,
}

/// Which WireGuard is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendKind {
    /// The kernel's.
    Kernel,
    /// The userspace process.
    Userspace,
}

impl std::fmt::Display for BackendKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
        })
    }
}

impl BackendKind {
    /// The largest MTU it carries: the userspace tunnel's packet buffers have 4 KiB.
    #[must_use]
    pub fn max_mtu(self) -> u32 {
        match self {
            Self::Kernel => 65_535 - 80,
            Self::Userspace => 3_920,
        }
    }
    fn control(self) -> Backend {
        match self {
            Self::Kernel => Backend::Kernel,
            Self::Userspace => Backend::Userspace,
        }
    }
}

/// The tunnel link and its device.
pub(crate) struct Tunnel {
    netlink: Netlink,
    choice: BackendChoice,
    run_dir: PathBuf,
    program: Vec<OsString>,
    kind: Option<BackendKind>,
    started: Option<Instant>,
    pause: Duration,
}

/// The link as [`Tunnel::ensure`] leaves it.
pub(crate) struct Ensured {
    pub(crate) link: Link,
    pub(crate) kind: BackendKind,
    /// Whether it was made just now, so that the device knows nothing.
    pub(crate) new: bool,
}

impl Tunnel {
    pub(crate) fn new(
        netlink: Netlink,
        choice: BackendChoice,
        run_dir: PathBuf,
        program: Vec<OsString>,
    ) -> Self {
        Self { netlink, choice, run_dir, program, kind: None, started: None, pause: Duration::ZERO }
    }

    /// Which backend is in use; none before the first [`Tunnel::ensure`].
    pub(crate) fn kind(&self) -> Option<BackendKind> {
        self.kind
    }

    /// Finds the link of an earlier run, or makes one.
    pub(crate) async fn ensure(&mut self, mtu: u32) -> Result<Ensured, OverlayError> {
        if let Some(link) = self.netlink.get_link(TUNNEL_LINK).await?
            && let Some(kind) = self.adopt(&link).await?
        {
            self.kind = Some(kind);
            return Ok(Ensured { link, kind, new: false });
        }
        let kind = self.make(mtu).await?;
        self.kind = Some(kind);
        let link = self.netlink.get_link(TUNNEL_LINK).await?;
        let link = link.ok_or_else(|| warren_netlink::NetlinkError::NotFound {
            op: "find link",
            object: TUNNEL_LINK.into(),
        })?;
        tracing::info!(link = TUNNEL_LINK, backend = %kind, mtu, "tunnel link made");
        Ok(Ensured { link, kind, new: true })
    }

    /// The backend of a link that is there; none when it had to be removed.
    async fn adopt(&mut self, link: &Link) -> Result<Option<BackendKind>, OverlayError> {
        let foreign = || OverlayError::ForeignLink { name: link.name.clone(), kind: link.kind.clone() };
        match link.kind.as_str() {
            "wireguard" if self.choice != BackendChoice::Userspace => Ok(Some(BackendKind::Kernel)),
            "wireguard" if link.alias.starts_with(LINK_ALIAS_PREFIX) => {
                tracing::info!(
                    link = link.name,
                    "the kernel's tunnel link makes way for the userspace tunnel"
                );
                self.netlink.remove_link(TUNNEL_LINK).await?;
                Ok(None)
            }
            "tun" if self.choice != BackendChoice::Kernel && self.serves().await => {
                Ok(Some(BackendKind::Userspace))
            }
            "tun" if process::of(&self.run_dir, TUNNEL_LINK).running().is_some() => {
                tracing::warn!(
                    link = link.name,
                    "the tunnel process does not answer, or is not wanted; ending it"
                );
                self.end_process().await?;
                Ok(None)
            }
            _ => Err(foreign()),
        }
    }

    async fn make(&mut self, mtu: u32) -> Result<BackendKind, OverlayError> {
        if self.choice != BackendChoice::Userspace {
            let alias = format!("{LINK_ALIAS_PREFIX}tunnel");
            match self.netlink.add_wireguard(TUNNEL_LINK, mtu, &alias).await {
                Ok(()) => return Ok(BackendKind::Kernel),
                Err(e) if e.errno() == Some(EOPNOTSUPP) && self.choice == BackendChoice::Kernel => {
                    return Err(OverlayError::NoKernelWireguard);
                }
                Err(e) if e.errno() == Some(EOPNOTSUPP) => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.start_process(mtu).await?;
        self.netlink.set_alias(TUNNEL_LINK, &format!("{LINK_ALIAS_PREFIX}tunnel")).await?;
        Ok(BackendKind::Userspace)
    }

    async fn start_process(&mut self, mtu: u32) -> Result<(), OverlayError> {
        if let Some(started) = self.started {
            if started.elapsed() < STABLE {
                tokio::time::sleep(self.pause).await;
                self.pause = (self.pause * 2).clamp(Duration::from_millis(100), PAUSE_MAX);
            } else {
                self.pause = Duration::ZERO;
            }
        }
        self.started = Some(Instant::now());
        // One whose link was taken away may still run.
        self.end_process().await?;
        let args = ProcessArgs { link: TUNNEL_LINK.into(), mtu, run_dir: self.run_dir.clone() };
        let failed = |reason: String| OverlayError::Process {
            name: TUNNEL_LINK.into(),
            reason,
            log: process::of(&self.run_dir, TUNNEL_LINK).log_file(),
        };
        std::fs::create_dir_all(&self.run_dir)
            .map_err(|e| failed(format!("{}: {e}", self.run_dir.display())))?;
        let program = self.program.clone();
        let run = move || {
            let (executable, first) = program.split_first()?;
            Some(Command::new(executable).args(first).args(args.to_args()).stdin(Stdio::null()).output())
        };
        let launched =
            in_namespace(self.netlink.namespace(), "start the userspace tunnel", START, run).await?;
        match launched {
            Some(Ok(out)) if out.status.success() => {
                warren_netlink::detached::pass_on(TUNNEL_LINK, &out.stderr);
                Ok(())
            }
            Some(Ok(out)) => Err(failed(String::from_utf8_lossy(&out.stderr).trim().replace('\n', "; "))),
            Some(Err(e)) => Err(failed(e.to_string())),
            None => Err(failed("no program is configured".into())),
        }
    }

    async fn end_process(&self) -> Result<(), OverlayError> {
        let own = process::of(&self.run_dir, TUNNEL_LINK);
        let ended = tokio::task::spawn_blocking(move || own.end()).await.map_err(io::Error::other);
        ended.flatten().map_err(device_error("end"))
    }

    /// Whether the userspace process takes connections.
    async fn serves(&self) -> bool {
        let connect = || UnixStream::connect(uapi::socket_path(TUNNEL_LINK)).is_ok();
        in_namespace(self.netlink.namespace(), "ask the userspace tunnel", ANSWER, connect)
            .await
            .unwrap_or(false)
    }

    fn control(&self) -> Backend {
        self.kind.unwrap_or(BackendKind::Kernel).control()
    }

    /// Reads the device.
    pub(crate) async fn read(&self) -> Result<ObservedDevice, OverlayError> {
        read(self.netlink.namespace(), self.control()).await
    }

    /// Makes the changes.
    pub(crate) async fn apply(&self, change: &DeviceChange) -> Result<(), OverlayError> {
        let (update, backend) = (update(change), self.control());
        let userspace = backend == Backend::Userspace;
        let apply = move || {
            // Where nobody serves, the library would start a program of its own choice.
            if userspace {
                UnixStream::connect(uapi::socket_path(TUNNEL_LINK))?;
            }
            update.apply(&name()?, backend)
        };
        in_namespace(self.netlink.namespace(), "change the WireGuard device", ANSWER, apply)
            .await?
            .map_err(device_error("change"))
    }
}

/// The private key that the device of an earlier run still uses: for an agent whose store was set aside.
///
/// The key of the store wins over it; this is only for when there is none. `None` when there is no device, or it has no
/// key, or cannot be read.
pub async fn read_existing_key(netlink: &Netlink) -> Option<SecretKey> {
    let link = netlink.get_link(TUNNEL_LINK).await.ok()??;
    let backend = match link.kind.as_str() {
        "wireguard" => Backend::Kernel,
        "tun" => Backend::Userspace,
        _ => return None,
    };
    let device = read(netlink.namespace(), backend).await.ok()?;
    device.private_key.filter(|key| *key.expose() != [0; 32])
}

fn device_error(verb: &'static str) -> impl Fn(io::Error) -> OverlayError {
    move |source| OverlayError::Device { verb, name: TUNNEL_LINK.into(), source }
}

fn name() -> io::Result<InterfaceName> {
    TUNNEL_LINK.parse().map_err(io::Error::from)
}

async fn read(ns: &NetNs, backend: Backend) -> Result<ObservedDevice, OverlayError> {
    let get = move || Device::get(&name()?, backend);
    let device = in_namespace(ns, "read the WireGuard device", ANSWER, get).await?;
    device.map(observed).map_err(device_error("read"))
}

/// Runs blocking work on a thread inside the namespace.
pub(crate) async fn in_namespace<T: Send + 'static>(
    ns: &NetNs,
    what: &'static str,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, OverlayError> {
    let ns = ns.try_clone()?;
    let thread = tokio::task::spawn_blocking(move || ns.run(work));
    match tokio::time::timeout(limit, thread).await {
        Ok(Ok(result)) => Ok(result?),
        Ok(Err(_)) => Err(OverlayError::Lost(what)),
        Err(_) => Err(OverlayError::Device {
            verb: "reach",
            name: TUNNEL_LINK.into(),
            source: io::Error::new(io::ErrorKind::TimedOut, format!("{what}: no answer within {limit:?}")),
        }),
    }
}

fn observed(device: Device) -> ObservedDevice {
    let mut out = ObservedDevice {
        private_key: device.private_key.map(|k| SecretKey::from_bytes(k.0)),
        listen_port: device.listen_port,
        fwmark: device.fwmark,
        ..ObservedDevice::default()
    };
    for peer in device.peers {
        // The kernel splits a peer with many allowed-ips over several messages.
        let entry = out.peers.entry(PublicKey(peer.config.public_key.0)).or_default();
        entry.endpoint = peer.config.endpoint.or(entry.endpoint);
        entry.keepalive = peer.config.persistent_keepalive_interval.unwrap_or(entry.keepalive);
        entry.last_handshake = peer.stats.last_handshake_time.or(entry.last_handshake);
        entry.rx_bytes = entry.rx_bytes.max(peer.stats.rx_bytes);
        entry.tx_bytes = entry.tx_bytes.max(peer.stats.tx_bytes);
        entry.allowed_ips.extend(
            peer.config
                .allowed_ips
                .iter()
                .filter_map(|ip| Some(IpNet::new(ip.address, ip.cidr).ok()?.trunc())),
        );
    }
    out
}

fn update(change: &DeviceChange) -> DeviceUpdate {
    let mut update = DeviceUpdate::new();
    if let Some(key) = &change.private_key {
        update = update.set_private_key(Key(*key.expose()));
    }
    if let Some(port) = change.listen_port {
        update = update.set_listen_port(port);
    }
    if let Some(mark) = change.fwmark {
        update = update.set_fwmark(mark);
    }
    for (key, peer) in &change.peers {
        let mut builder = PeerConfigBuilder::new(&Key(key.0));
        if let Some(endpoint) = peer.endpoint {
            builder = builder.set_endpoint(endpoint);
        }
        if let Some(keepalive) = peer.keepalive {
            builder = builder.set_persistent_keepalive_interval(keepalive);
        }
        if let Some(ips) = &peer.allowed_ips {
            builder = builder.replace_allowed_ips().add_allowed_ips(&allowed(ips));
        }
        update = update.add_peer(builder);
    }
    for key in &change.removed {
        update = update.remove_peer_by_key(&Key(key.0));
    }
    update
}

fn allowed(ips: &BTreeSet<IpNet>) -> Vec<AllowedIp> {
    ips.iter().map(|net| AllowedIp { address: net.addr(), cidr: net.prefix_len() }).collect()
}
