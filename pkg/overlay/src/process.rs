//! The userspace tunnel: a process of its own from this same binary, so that it outlives the agent.
//!
//! The agent runs `warren wireguard IF`, which leaves the agent's session, starts the tunnel proper (`--foreground`) and
//! ends when that one serves its socket: the tunnel has no parent that could take it along. What it needs to know it is
//! told over the standard socket, by whoever the agent is at the time.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gotatun::device::{Device, DeviceBuilder};
use gotatun::udp::socket::UdpSocketFactory;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::{tun, uapi, udp};

/// What the tunnel proper says on its standard output when it serves.
const READY: &str = "ready";
/// A log larger than this is begun anew.
const LOG_MAX: u64 = 1 << 20;
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
    pub fn to_args(&self, foreground: bool) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec![(&self.link).into(), "--mtu".into(), self.mtu.to_string().into()];
        args.extend(["--run-dir".into(), self.run_dir.clone().into()]);
        if foreground {
            args.push("--foreground".into());
        }
        args
    }
}

/// The pid file of the tunnel process of `link`.
#[must_use]
pub fn pid_file(run_dir: &Path, link: &str) -> PathBuf {
    run_dir.join(format!("{link}.pid"))
}

/// The log of the tunnel process of `link`.
#[must_use]
pub fn log_file(run_dir: &Path, link: &str) -> PathBuf {
    run_dir.join(format!("{link}.log"))
}

/// The process that the pid file names, if it is alive and a tunnel process of `link`: pids are used again.
#[must_use]
pub fn running(run_dir: &Path, link: &str) -> Option<i32> {
    let pid: i32 = std::fs::read_to_string(pid_file(run_dir, link)).ok()?.trim().parse().ok()?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line.split(|b| *b == 0);
    (words.clone().any(|w| w == link.as_bytes()) && words.any(|w| w == b"--foreground")).then_some(pid)
}

/// Ends the tunnel process of `link`. The link goes with it. None running is success.
///
/// # Errors
/// When it cannot be signalled.
pub fn stop(run_dir: &Path, link: &str, hard: bool) -> io::Result<()> {
    let Some(pid) = running(run_dir, link) else { return Ok(()) };
    match kill(Pid::from_raw(pid), if hard { Signal::SIGKILL } else { Signal::SIGTERM }) {
        Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
        Err(e) => {
            Err(io::Error::new(io::Error::from(e).kind(), format!("cannot end tunnel process {pid}: {e}")))
        }
    }
}

/// Starts the tunnel proper in a session of its own, and returns when it serves its socket. To be called in a process of
/// its own, which ends then. `program`: what to execute, and its first arguments. Blocking.
///
/// # Errors
/// When it does not come to serve; the log says why.
pub fn launch(args: &ProcessArgs, program: &[OsString]) -> io::Result<()> {
    let Some((executable, first)) = program.split_first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no program to start"));
    };
    // Fails only where this process leads a session already, which is as good.
    let _ = nix::unistd::setsid();
    let path = log_file(&args.run_dir, &args.link);
    let log = open_log(&path)?;
    // The device's own words come for each packet that cannot be sent.
    let filter = std::env::var("WARREN_LOG").unwrap_or_else(|_| "info".into()) + ",gotatun=off";
    let mut child = Command::new(executable)
        .args(first)
        .args(args.to_args(true))
        .env("WARREN_LOG", filter)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()?;
    let lines = child.stdout.take().map(|out| BufReader::new(out).lines());
    if lines.into_iter().flatten().map_while(Result::ok).any(|line| line == READY) {
        return Ok(());
    }
    let status = child.wait()?;
    Err(io::Error::other(format!("it ended with {status}: {}", last_line(&path))))
}

fn open_log(path: &Path) -> io::Result<File> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("log {}: {e}", path.display()));
    if std::fs::metadata(path).is_ok_and(|m| m.len() > LOG_MAX) {
        std::fs::remove_file(path).map_err(named)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(named)
}

/// What a process said last.
fn last_line(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing").trim().to_owned()
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
    write_pid(args)?;
    let (requests, mut asked) = mpsc::channel(16);
    let mut tasks = JoinSet::new();
    tasks.spawn(uapi::accept(listener, requests));
    {
        // The reader may have gone when this process is run by hand.
        let mut out = io::stdout();
        let _ = writeln!(out, "{READY}").and_then(|()| out.flush());
    }
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
    let _ = std::fs::remove_file(pid_file(&args.run_dir, &args.link));
    outcome
}

fn write_pid(args: &ProcessArgs) -> io::Result<()> {
    let path = pid_file(&args.run_dir, &args.link);
    let new = path.with_extension("pid.new");
    std::fs::write(&new, format!("{}\n", std::process::id()))?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&new, &path)
}
