//! The userspace tunnel: a process of its own from this same binary, so that it outlives the agent.
//!
//! The agent runs `warren wireguard IF`, which starts the tunnel proper as [`warren_netlink::detached`] says. What that one
//! needs to know it is told over the standard socket, by whoever the agent is at the time.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use gotatun::device::{Device, DeviceBuilder};
use gotatun::udp::socket::UdpSocketFactory;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use warren_netlink::detached::Detached;

use crate::{tun, uapi, udp};

/// Buffer of the UDP socket, so that bursts of 64 KiB segments from several peers fit. The kernel may grant less.
const SOCKET_BUFFER: usize = 4 << 20;

/// What a tunnel process is told on its command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessArgs {
    /// Name of the link to make.
    pub link: String,
    /// Its MTU.
    pub mtu: u32,
    /// Directory of its pid file and its log.
    pub run_dir: PathBuf,
}

impl ProcessArgs {
    /// The arguments after `warren wireguard`.
    #[must_use]
    pub fn to_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec![(&self.link).into(), "--mtu".into(), self.mtu.to_string().into()];
        args.extend(["--run-dir".into(), self.run_dir.clone().into()]);
        args
    }
}

/// The tunnel process of `link`.
#[must_use]
pub fn of(run_dir: &Path, link: &str) -> Detached {
    Detached::new(link, run_dir)
}

/// Starts the tunnel proper in a session of its own, and returns when it serves its socket. To be called in a process of
/// its own, which ends then. `program`: what to execute, and its first arguments. Blocking.
///
/// # Errors
/// When it does not come to serve; the log says why.
pub fn launch(args: &ProcessArgs, program: &[OsString]) -> io::Result<()> {
    // The device's own words come for each packet that cannot be sent.
    let filter = std::env::var("WARREN_LOG").unwrap_or_else(|_| "info".into()) + ",gotatun=off";
    of(&args.run_dir, &args.link).launch(&[program, &args.to_args()].concat(), &filter)
}

/// Is the tunnel: makes the link, serves its socket, carries packets until SIGTERM or SIGINT, or until the link is
/// removed. Blocking.
///
/// # Errors
/// When the link or the sockets cannot be made, or the link is lost.
pub fn serve(args: &ProcessArgs) -> io::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("wireguard").build()?;
    let result = runtime.block_on(carry(args));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

async fn carry(args: &ProcessArgs) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let listener = uapi::bind(&args.link)?;
    let (ip_send, ip_recv) = tun::open(&args.link, args.mtu).await?;
    let (answerer, server) = uapi::Answerer::new();
    let mut device: Device<_> = DeviceBuilder::new()
        .with_udp(udp::Factory(UdpSocketFactory {
            recv_buffer_size: Some(SOCKET_BUFFER),
            send_buffer_size: Some(SOCKET_BUFFER),
        }))
        .with_ip_pair(ip_send, ip_recv)
        .with_uapi(server)
        .build()
        .await
        .map_err(io::Error::other)?;
    let (requests, mut asked) = mpsc::channel(16);
    let mut tasks = JoinSet::new();
    tasks.spawn(uapi::accept(listener, requests));
    let own = of(&args.run_dir, &args.link);
    own.ready()?;
    tracing::info!(link = args.link, mtu = args.mtu, "the tunnel serves");
    let outcome = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = hangup.recv() => {}
            () = device.wait() => break Err(io::Error::other("the link or the UDP socket was lost")),
            request = asked.recv() => match request {
                Some(request) => answerer.answer(&device, request).await,
                None => break Err(io::Error::other("the configuration socket was lost")),
            },
        }
    };
    tasks.abort_all();
    device.stop().await;
    let _ = std::fs::remove_file(uapi::socket_path(&args.link));
    own.ended();
    outcome
}
