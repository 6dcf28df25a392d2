//! The proxies that are compared, and the backend.

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const BACKEND: &str = "127.0.0.1:8100";
/// With [`PATHS`], what makes a thousand routes.
pub(crate) const HOSTS: usize = 50;
/// Of each host.
pub(crate) const PATHS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(20);
/// Open files of each process: 10,000 clients, and what comes with them.
const FILES: u64 = 12_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Warren,
    Nginx,
    Haproxy,
}

/// What a proxy is configured to do besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Setup {
    /// One route for everything, and no log.
    Plain,
    /// One route for each of the hosts and paths.
    Routes,
    /// A line to a file for each request.
    AccessLog,
}

impl Setup {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Routes => "routes",
            Self::AccessLog => "access-log",
        }
    }
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

    /// Without TLS; with it, a hundred above.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Warren => 8201,
            Self::Nginx => 8202,
            Self::Haproxy => 8203,
        }
    }

    fn command(self, dir: &Path, setup: Setup) -> Result<Command> {
        match self {
            Self::Warren => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("serve").arg(dir).arg(setup.name());
                Ok(command)
            }
            Self::Nginx => nginx(dir, "proxy", &nginx_proxy(dir, self.port(), setup)),
            Self::Haproxy => haproxy(dir, self.port(), setup),
        }
    }
}

/// As Warren does it: bodies are passed on as they come, and connections to the backend are kept.
fn nginx_proxy(dir: &Path, port: u16, setup: Setup) -> String {
    let pass = "proxy_pass http://backend;";
    let listen = |extra: &str| {
        format!(
            "listen 127.0.0.1:{port} {extra}; listen 127.0.0.1:{} ssl http2 {extra}; ssl_certificate {dir}/cert.pem;
             ssl_certificate_key {dir}/key.pem; ssl_protocols TLSv1.2 TLSv1.3;",
            port + 100,
            dir = dir.display()
        )
    };
    let servers: String = match setup {
        Setup::Routes => (0..HOSTS)
            .map(|host| {
                let paths = (0..PATHS).map(|path| format!("location /path-{path} {{ {pass} }}\n"));
                let extra = if host == 0 { "backlog=4096" } else { "" };
                let paths: String = paths.collect();
                format!("server {{ {} server_name host-{host}.example.org; {paths} }}\n", listen(extra))
            })
            .collect(),
        _ => format!("server {{ {} location / {{ {pass} }} }}", listen("backlog=4096")),
    };
    let log = match setup {
        Setup::AccessLog => format!("access_log {}/nginx.log combined;", dir.display()),
        _ => "access_log off;".to_owned(),
    };
    format!(
        "{log} upstream backend {{ server {BACKEND}; keepalive 256; keepalive_requests 1000000000; }}
         client_max_body_size 0; proxy_request_buffering off; proxy_max_temp_file_size 0; server_names_hash_bucket_size 64;
         proxy_http_version 1.1; proxy_set_header Connection \"\";
         proxy_set_header Host $host; proxy_set_header X-Real-IP $remote_addr;
         proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
         proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Forwarded-Port $server_port; {servers}"
    )
}

fn haproxy(dir: &Path, port: u16, setup: Setup) -> Result<Command> {
    let (path, map) = (dir.join(format!("haproxy-{}.cfg", setup.name())), dir.join("routes.map"));
    let routes: String = (0..HOSTS * PATHS)
        .map(|at| format!("host-{}.example.org/path-{} out\n", at / PATHS, at % PATHS))
        .collect();
    std::fs::write(&map, routes)?;
    let backend = match setup {
        Setup::Routes => format!("use_backend %[base,lower,map_beg({})]", map.display()),
        _ => "default_backend out".to_owned(),
    };
    let log = match setup {
        Setup::AccessLog => " log stdout format raw local0\n option httplog\n",
        _ => "",
    };
    let text = format!(
        "global\n nbthread 1\n maxconn 10500\n no strict-limits\n\
         defaults\n mode http\n timeout connect 5s\n timeout client 75s\n timeout server 60s\n timeout http-keep-alive 75s\n\
         frontend in\n bind 127.0.0.1:{port} backlog 4096\n\
         \x20bind 127.0.0.1:{} ssl crt {} alpn h2,http/1.1 ssl-min-ver TLSv1.2 backlog 4096\n{log} option forwardfor\n\
         \x20http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}\n\
         \x20http-request set-header X-Forwarded-Proto http if !{{ ssl_fc }}\n\
         \x20http-request set-header X-Real-IP %[src]\n http-request set-header X-Forwarded-Host %[req.hdr(Host)]\n\
         \x20http-request set-header X-Forwarded-Port %[dst_port]\n {backend}\n\
         backend out\n http-reuse always\n server a {BACKEND}\n",
        port + 100,
        dir.join("both.pem").display(),
    );
    std::fs::write(&path, text)?;
    let mut command = Command::new("haproxy");
    command.args(["-q", "-db", "-f"]).arg(path);
    Ok(command)
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
    pub(crate) fn start(who: Who, dir: &Path, setup: Setup) -> Result<Self> {
        let said = std::fs::File::create(dir.join(format!("{}.out", who.name())))?;
        let mut command = pinned(&who.command(dir, setup)?, 0);
        command.stdout(said);
        let process = start(command, who.port()).with_context(|| who.name())?;
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
        let mut sum = 0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.worker()?))? {
            let said = std::fs::read_to_string(thread?.path().join("schedstat")).context("schedstat")?;
            // Nanoseconds; `stat` has ticks of 10 ms alone.
            let nanos: u64 = said.split(' ').next().context("schedstat")?.parse()?;
            sum += nanos;
        }
        Ok(Duration::from_nanos(sum))
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
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(most >= FILES, "the limit of open files is {most}; raise it to {FILES} (`ulimit -Hn`)");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raising the limit of open files")?;
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace needs root")?;
    let status =
        Command::new("ip").args(["link", "set", "lo", "up"]).status().context("iproute2 is needed")?;
    ensure!(status.success(), "loopback cannot be brought up");
    Ok(())
}

/// A certificate of ECDSA P-256 for all of them.
pub(crate) fn certificate(dir: &Path) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    std::fs::write(dir.join("cert.pem"), &certificate)?;
    std::fs::write(dir.join("key.pem"), &key)?;
    Ok(std::fs::write(dir.join("both.pem"), certificate + &key)?)
}

/// A backend that answers from memory, or by a file of 1 MiB, and that reads all of a request before it answers at `/upload`.
pub(crate) fn backend(dir: &Path) -> Result<Running> {
    std::fs::write(dir.join("mib"), vec![b'x'; 1 << 20])?;
    let hello = "return 200 \"hello from the backend\\n\";";
    let server = format!(
        "access_log off; server {{ listen {BACKEND} backlog=4096; location / {{ {hello} }}
           location = /mib {{ root {}; sendfile on; }}
           location = /upload {{ client_max_body_size 0; client_body_buffer_size 2m; proxy_pass http://{BACKEND}/;
             proxy_pass_request_body off; proxy_set_header Content-Length \"\"; }} }}",
        dir.display()
    );
    start(pinned(&nginx(dir, "backend", &server)?, last()), 8100)
}

fn nginx(dir: &Path, name: &str, http: &str) -> Result<Command> {
    let (path, pid) = (dir.join(format!("{name}.conf")), dir.join(format!("{name}.pid")));
    let text = format!(
        "daemon off; user root; worker_processes 1; pid {}; error_log stderr crit;
         events {{ worker_connections 16384; }}
         http {{ keepalive_requests 1000000000; {http} }}",
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

fn start(mut command: Command, port: u16) -> Result<Running> {
    let running = Running(command.spawn()?);
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Ok(running);
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    bail!("nobody listens on port {port} after {PATIENCE:?}")
}

/// Runs a program on the last processor, and gives what it says.
pub(crate) fn on_last(command: &Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = pinned(command, last()).stdout(Stdio::piped()).output();
    let output = output.with_context(|| format!("{name} is needed"))?;
    ensure!(output.status.success(), "{name} failed: {}", String::from_utf8_lossy(&output.stdout));
    Ok(String::from_utf8(output.stdout)?)
}

/// Starts a program on the last processor. It is told to end by the end of its standard input.
pub(crate) fn begin_on_last(command: &Command) -> Result<Child> {
    Ok(pinned(command, last()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?)
}

/// The same program, on one processor. It ends with this process, however that ends.
fn pinned(command: &Command, processor: usize) -> Command {
    let mut pinned = Command::new("setpriv");
    pinned.args(["--pdeathsig", "TERM", "taskset", "-c", &processor.to_string()]);
    pinned.arg(command.get_program()).args(command.get_args());
    pinned.process_group(0);
    pinned
}
