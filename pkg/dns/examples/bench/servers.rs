//! The servers that are compared: each a process in a network namespace of its own, on one processor, with one thread.

use crate::names::{self, DOMAIN, SERVER};
use crate::serve::resident;
use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns, unshare};
use nix::unistd::Pid;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);
/// Where servers run; who asks runs on the last processor.
pub(crate) const SERVERS_ON: usize = 0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Warren,
    Unbound,
    Knot,
}

impl Who {
    pub(crate) const ALL: [Self; 3] = [Self::Warren, Self::Unbound, Self::Knot];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Warren => "Warren",
            Self::Unbound => "unbound",
            Self::Knot => "knot",
        }
    }
}

/// A server that answers.
pub(crate) struct Server {
    pub(crate) who: Who,
    process: Child,
    /// The namespace of who asks it.
    pub(crate) client: File,
    /// What Warren's process held before it served: the store with its rows.
    pub(crate) before: Option<u64>,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// Starts a server that knows so many Services, and waits until it answers.
    pub(crate) fn start(who: Who, services: usize) -> Result<Self> {
        // Its namespace lasts as long as a process is in it.
        std::thread::spawn(move || Self::start_here(who, services))
            .join()
            .map_err(|_| anyhow::anyhow!("starting {} panicked", who.name()))?
    }

    fn start_here(who: Who, services: usize) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let client = namespaces()?;
        if who != Who::Warren {
            ip(&format!("address add {SERVER}/32 dev lo"))?;
        }
        upstream()?;
        let mut command = command(who, services, dir.path())?;
        pin(SERVERS_ON)?;
        let mut process = command.spawn().with_context(|| format!("start {}", who.name()))?;
        let mut before = None;
        if let Some(out) = process.stdout.take() {
            // The keeper says that it is ready on the same stream.
            let mut lines = BufReader::new(out).lines().map_while(Result::ok);
            before = Some(lines.find_map(|line| line.parse().ok()).context("it ended at once")?);
        }
        let server = Self { who, process, client, before, _dir: dir };
        server.wait(services)?;
        Ok(server)
    }

    /// Waits for the answer to the last Service's name.
    fn wait(&self, services: usize) -> Result<()> {
        let question = question(&names::name(services - 1));
        let begun = Instant::now();
        self.asking(move || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            let mut answer = [0; 512];
            while begun.elapsed() < PATIENCE {
                let asked = socket.send_to(&question, (SERVER, 53)).and_then(|_| socket.recv(&mut answer));
                if asked.is_ok() && answer[3] & 0xf == 0 && answer[7] > 0 {
                    return Ok(());
                }
                std::thread::park_timeout(Duration::from_millis(20));
            }
            bail!("no answer after {PATIENCE:?}")
        })
        .with_context(|| self.who.name())
    }

    /// Runs in the namespace of who asks, on its processor.
    pub(crate) fn asking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let client = self.client.try_clone()?;
        let thread = std::thread::spawn(move || {
            setns(client, CloneFlags::CLONE_NEWNET)?;
            pin(processors() - 1)?;
            work()
        });
        thread.join().map_err(|_| anyhow::anyhow!("asking panicked"))?
    }

    fn proc(&self) -> PathBuf {
        Path::new("/proc").join(self.process.id().to_string())
    }

    /// Processor time of all its threads up to now, that of the kernel for it too.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(self.proc().join("stat"))?;
        let (_, fields) = stat.rsplit_once(") ").context("stat")?;
        let mut fields = fields.split(' ').skip(11);
        let mut next = || -> Result<u64> { Ok(fields.next().context("stat")?.parse()?) };
        // Ticks are of 10 ms on every machine that Linux has.
        Ok(Duration::from_millis((next()? + next()?) * 10))
    }

    /// KiB that it holds.
    pub(crate) fn memory(&self) -> Result<u64> {
        resident(&self.proc())
    }
}

pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Keeps this thread, and what it starts, on one processor.
fn pin(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

fn ip(args: &str) -> Result<()> {
    let status = Command::new("ip").args(args.split_whitespace()).status().context("iproute2 is needed")?;
    ensure!(status.success(), "ip {args}");
    Ok(())
}

/// Moves this thread into a new namespace, and gives one that is linked to it.
fn namespaces() -> Result<File> {
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace needs root")?;
    let here = File::open("/proc/thread-self/ns/net")?;
    unshare(CloneFlags::CLONE_NEWNET)?;
    let client = File::open("/proc/thread-self/ns/net")?;
    let place = format!("/proc/{}/fd/{}", std::process::id(), here.as_raw_fd());
    ip("link set lo up")?;
    ip(&format!("link add eth0 type veth peer name pod netns {place}"))?;
    ip(&format!("address add {}/24 dev eth0", names::CLIENT))?;
    ip("link set eth0 up")?;
    setns(&here, CloneFlags::CLONE_NEWNET)?;
    ip("link set lo up")?;
    ip(&format!("address add {GATEWAY}/24 dev pod"))?;
    ip("link set pod up")?;
    setns(&client, CloneFlags::CLONE_NEWNET)?;
    ip(&format!("route add default via {GATEWAY}"))?;
    setns(&here, CloneFlags::CLONE_NEWNET)?;
    Ok(client)
}

/// Knows one address for every name.
fn upstream() -> Result<()> {
    let socket = UdpSocket::bind(names::UPSTREAM)?;
    std::thread::spawn(move || {
        let mut packet = [0; 1_500];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            let end = packet[12..length].iter().position(|b| *b == 0).map_or(length, |root| 12 + root + 5);
            let mut answer = packet[..end.min(length)].to_vec();
            answer[2] |= 0x80;
            answer[3] = 0x80;
            answer[7] = 1;
            answer[9..12].fill(0);
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4, 192, 0, 2, 1]);
            let _ = socket.send_to(&answer, from);
        }
    });
    Ok(())
}

fn question(name: &str) -> Vec<u8> {
    let mut packet = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).unwrap_or(0));
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    packet
}

fn command(who: Who, services: usize, dir: &Path) -> Result<Command> {
    let mut command = match who {
        Who::Warren => {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("serve").arg(services.to_string()).arg(dir).stdout(Stdio::piped());
            return Ok(command);
        }
        Who::Unbound => {
            let path = dir.join("unbound.conf");
            std::fs::write(&path, unbound(services)?)?;
            let mut command = Command::new("unbound");
            command.args(["-d", "-c"]).arg(path);
            command
        }
        Who::Knot => {
            let path = dir.join("knot.conf");
            std::fs::write(&path, knot(services, dir)?)?;
            let mut command = Command::new("knotd");
            command.arg("-c").arg(path);
            command
        }
    };
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

/// What a server of files has to know of a Service: its address, its port, and whose the address is.
fn records(number: usize) -> [(String, String); 3] {
    let (name, address) = (names::name(number), names::address(number));
    let [a, b, c, d] = address.octets();
    [
        (format!("{name}."), format!("5 IN A {address}")),
        (format!("_http._tcp.{name}."), format!("5 IN SRV 0 100 80 {name}.")),
        (format!("{d}.{c}.{b}.{a}.in-addr.arpa."), format!("5 IN PTR {name}.")),
    ]
}

fn soa(zone: &str) -> String {
    format!("{zone} 5 IN SOA ns.dns.{DOMAIN}. hostmaster.{DOMAIN}. 1 7200 1800 86400 5")
}

fn unbound(services: usize) -> Result<String> {
    let (host, port) = names::UPSTREAM.split_once(':').context("an upstream")?;
    let mut all = format!(
        "server:\n verbosity: 0\n num-threads: 1\n interface: {SERVER}\n access-control: 0.0.0.0/0 allow\n do-daemonize: no\n \
         username: \"\"\n chroot: \"\"\n directory: \"/\"\n pidfile: \"\"\n use-syslog: no\n module-config: \"iterator\"\n \
         do-not-query-localhost: no\n minimal-responses: yes\n so-rcvbuf: 4m\n outgoing-range: 512\n local-zone: \"{DOMAIN}.\" static\n \
         local-data: \"{}\"\n local-zone: \"43.10.in-addr.arpa.\" static\n",
        soa(&format!("{DOMAIN}."))
    );
    for (name, data) in (0..services).flat_map(records) {
        writeln!(all, " local-data: \"{name} {data}\"")?;
    }
    write!(
        all,
        "remote-control:\n control-enable: no\nforward-zone:\n name: \".\"\n forward-addr: {host}@{port}\n"
    )?;
    Ok(all)
}

fn knot(services: usize, dir: &Path) -> Result<String> {
    let mut forward = format!(
        "{}\n{DOMAIN}. 5 IN NS ns.dns.{DOMAIN}.\nns.dns.{DOMAIN}. 5 IN A {SERVER}\n",
        soa(&format!("{DOMAIN}."))
    );
    let zone = "43.10.in-addr.arpa.";
    let mut reverse = format!("{}\n{zone} 5 IN NS ns.dns.{DOMAIN}.\n", soa(zone));
    for (name, data) in (0..services).flat_map(records) {
        let file = if name.ends_with(zone) { &mut reverse } else { &mut forward };
        writeln!(file, "{name} {data}")?;
    }
    let at = dir.display();
    std::fs::write(dir.join("forward.zone"), forward)?;
    std::fs::write(dir.join("reverse.zone"), reverse)?;
    Ok(format!(
        "server:\n  rundir: {at}\n  listen: {SERVER}@53\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n  \
         udp-max-payload: 1232\ndatabase:\n  storage: {at}/db\nlog:\n  - target: stderr\n    any: error\nzone:\n  - domain: {DOMAIN}.\n    \
         file: {at}/forward.zone\n    zonefile-load: whole\n  - domain: {zone}\n    file: {at}/reverse.zone\n"
    ))
}
