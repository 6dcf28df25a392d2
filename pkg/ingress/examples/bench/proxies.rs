//! The proxies that are compared, and the backend.

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Pid;
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const BACKEND: &str = "127.0.0.1:8100";
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Warren,
    Nginx,
    Haproxy,
}

impl Who {
    pub(crate) const ALL: [Self; 3] = [Self::Warren, Self::Nginx, Self::Haproxy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Warren => "Warren",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Warren => 8201,
            Self::Nginx => 8202,
            Self::Haproxy => 8203,
        }
    }

    fn command(self, dir: &Path) -> Result<Command> {
        let mut command;
        match self {
            Self::Warren => {
                command = Command::new(std::env::current_exe()?);
                command.args(["serve", "1"]);
            }
            Self::Nginx => {
                command = nginx(dir, "proxy", &format!(
                    "upstream backend {{ server {BACKEND}; keepalive 128; keepalive_requests 1000000000; }}
                     server {{ listen 127.0.0.1:{} backlog=4096; location / {{
                       proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection \"\";
                       proxy_set_header Host $host; proxy_set_header X-Real-IP $remote_addr;
                       proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
                       proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Forwarded-Port $server_port; }} }}",
                    self.port()
                ))?;
            }
            Self::Haproxy => {
                let path = dir.join("haproxy.cfg");
                let text = format!(
                    "global\n nbthread 1\n maxconn 4096\ndefaults\n mode http\n timeout connect 5s\n timeout client 75s\n timeout server 60s\n\
                     frontend in\n bind 127.0.0.1:{} backlog 4096\n option forwardfor\n http-request set-header X-Forwarded-Proto http\n\
                     \x20http-request set-header X-Real-IP %[src]\n http-request set-header X-Forwarded-Host %[req.hdr(Host)]\n\
                     \x20http-request set-header X-Forwarded-Port %[dst_port]\n default_backend out\n\
                     backend out\n http-reuse always\n server a {BACKEND}\n",
                    self.port()
                );
                std::fs::write(&path, text)?;
                command = Command::new("haproxy");
                command.arg("-db").arg("-f").arg(path);
            }
        }
        Ok(command)
    }
}

/// A proxy that serves.
pub(crate) struct Proxy {
    pub(crate) who: Who,
    process: Running,
}

/// A process that ends with its holder.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It ends its workers too, which a kill would not.
        let _ = nix::sys::signal::kill(Pid::from_raw(self.0.id() as i32), nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

impl Proxy {
    pub(crate) fn start(who: Who, dir: &Path) -> Result<Self> {
        let process = start(who.command(dir)?, 0, who.port()).with_context(|| who.name())?;
        Ok(Self { who, process })
    }

    /// Its process, or the worker of it.
    fn worker(&self) -> Result<u32> {
        let id = self.process.0.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        Ok(children.split_whitespace().next().map_or(Ok(id), str::parse)?)
    }

    /// Processor time of all its threads up to now, that of the kernel for it too.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.worker()?))?;
        let (_, fields) = stat.rsplit_once(") ").context("stat")?;
        let mut fields = fields.split(' ').skip(11);
        let mut next = || -> Result<u64> { Ok(fields.next().context("stat")?.parse()?) };
        // Ticks are of 10 ms on every machine that Linux has.
        Ok(Duration::from_millis((next()? + next()?) * 10))
    }

    /// KiB that it holds.
    pub(crate) fn memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.worker()?))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
        Ok(line.split_whitespace().nth(1).context("a number")?.parse()?)
    }
}

/// Moves this process into a network namespace of its own, where loopback alone is.
pub(crate) fn isolate() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace needs root")?;
    let status =
        Command::new("ip").args(["link", "set", "lo", "up"]).status().context("iproute2 is needed")?;
    ensure!(status.success(), "loopback cannot be brought up");
    Ok(())
}

/// A backend that answers from memory.
pub(crate) fn backend(dir: &Path) -> Result<Running> {
    let server = format!(
        "server {{ listen {BACKEND} backlog=4096; location / {{ return 200 \"hello from the backend\\n\"; }} }}"
    );
    start(nginx(dir, "backend", &server)?, last(), 8100)
}

fn nginx(dir: &Path, name: &str, http: &str) -> Result<Command> {
    let (path, pid) = (dir.join(format!("{name}.conf")), dir.join(format!("{name}.pid")));
    let text = format!(
        "daemon off; worker_processes 1; pid {}; error_log stderr crit;
         events {{ worker_connections 8192; }}
         http {{ access_log off; keepalive_requests 1000000000; {http} }}",
        pid.display()
    );
    std::fs::write(&path, text)?;
    let mut command = Command::new("nginx");
    command.arg("-c").arg(path);
    Ok(command)
}

fn last() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from) - 1
}

fn start(command: Command, processor: usize, port: u16) -> Result<Running> {
    let mut command = pinned(&command, processor);
    let running = Running(command.spawn()?);
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Ok(running);
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    bail!("nobody listens after {PATIENCE:?}")
}

/// Runs a program on the last processor, and gives what it says.
pub(crate) fn on_last(command: Command) -> Result<String> {
    let output = pinned(&command, last()).stdout(Stdio::piped()).output().context("wrk is needed")?;
    ensure!(output.status.success(), "wrk failed");
    Ok(String::from_utf8(output.stdout)?)
}

/// The same program, on one processor.
fn pinned(command: &Command, processor: usize) -> Command {
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", &processor.to_string()]).arg(command.get_program()).args(command.get_args());
    pinned.process_group(0);
    pinned
}
