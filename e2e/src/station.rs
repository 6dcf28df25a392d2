//! A node that is this machine itself, for tests in which whole machines talk: its link, the server, the agent, a pod with
//! an echo in it, and a line to the test in the other machine. Nothing here may run anywhere but in a machine made for it.

use crate::lab::warren_bin;
use crate::runtime::{CONFLIST, Runtime};
use crate::scenario::BAD_LINE;
use crate::{eventually, netns, patient};
use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The link between the machines.
pub const LINK: &str = "eth0";
/// Port of the line between the two tests.
const LINE_PORT: u16 = 7000;
/// Port of the echo in the pod.
const ECHO_PORT: u16 = 7001;

/// Which of the two machines this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs the server too.
    First,
    /// Joins it.
    Second,
}

impl Role {
    /// What `cargo xtask vm` booted this machine as.
    ///
    /// # Errors
    /// When this is no machine of its own: there, nothing may be touched.
    pub fn of_this_machine() -> Result<Self> {
        let line = std::fs::read_to_string("/proc/cmdline")?;
        match line.split_whitespace().find_map(|w| w.strip_prefix("warren.role=")) {
            Some("first") => Ok(Self::First),
            Some("second") => Ok(Self::Second),
            _ => bail!("this test takes a machine of its own; run it by: cargo xtask vm"),
        }
    }

    /// Name of the node.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Second => "second",
        }
    }

    /// The machine's address on the link.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        match self {
            Self::First => Ipv4Addr::new(192, 168, 58, 1),
            Self::Second => Ipv4Addr::new(192, 168, 58, 2),
        }
    }
}

/// Sets up the link.
///
/// # Errors
/// When there is none.
pub fn configure(role: Role) -> Result<()> {
    succeed("ip", &["link", "set", LINK, "up"])?;
    succeed("ip", &["address", "add", &format!("{}/24", role.address()), "dev", LINK])
}

/// Makes the link a bad line: what this machine sends is lost, late, out of order and doubled at times.
///
/// # Errors
/// When the kernel has no netem.
pub fn worsen() -> Result<()> {
    let netem = ["qdisc", "add", "dev", LINK, "root", "netem"];
    succeed("tc", &[netem.as_slice(), BAD_LINE].concat())
}

/// Makes the bad line a good one again.
///
/// # Errors
/// When it was none.
pub fn mend() -> Result<()> {
    succeed("tc", &["qdisc", "del", "dev", LINK, "root"])
}

fn succeed(program: &str, args: &[&str]) -> Result<()> {
    let out = Command::new(program).args(args).output().with_context(|| format!("start {program}"))?;
    crate::lab::succeeded(&format!("{program} {}", args.join(" ")), &out).map(drop)
}

/// A line between the two tests: each says one thing, and hears one.
pub struct Line {
    read: BufReader<TcpStream>,
    write: TcpStream,
}

impl Line {
    /// Connects the two tests, whichever machine boots first.
    ///
    /// # Errors
    /// When the other machine does not come.
    pub fn open(role: Role) -> Result<Self> {
        let at = SocketAddr::from((Role::First.address(), LINE_PORT));
        let stream = match role {
            Role::First => {
                let listener = TcpListener::bind(at)?;
                listener.set_nonblocking(true)?;
                let (stream, _) = eventually(Duration::from_secs(10), || {
                    listener.accept().context("the second machine does not call").map(|(s, _)| s)
                })?;
                stream
            }
            Role::Second => {
                let limit = patient(Duration::from_millis(200));
                let call =
                    || TcpStream::connect_timeout(&at, limit).context("the first machine does not answer");
                eventually(Duration::from_secs(10), call)?.0
            }
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(patient(Duration::from_secs(15))))?;
        Ok(Self { read: BufReader::new(stream.try_clone()?), write: stream })
    }

    /// Says `word` and returns what the other said: neither goes on before both are here.
    ///
    /// # Errors
    /// When the other test has ended or is late.
    pub fn exchange<T: Serialize + DeserializeOwned>(&mut self, word: &T) -> Result<T> {
        writeln!(self.write, "{}", serde_json::to_string(word)?)?;
        let mut heard = String::new();
        self.read.read_line(&mut heard).context("the other machine says nothing")?;
        serde_json::from_str(&heard).with_context(|| format!("the other machine ended; it said {heard:?}"))
    }

    /// A point that both pass together.
    ///
    /// # Errors
    /// When the other test is elsewhere.
    pub fn meet(&mut self, place: &str) -> Result<()> {
        let theirs = self.exchange(&place.to_owned())?;
        ensure!(theirs == place, "this machine is at {place:?}, the other at {theirs:?}");
        eprintln!("both at {place:?}");
        Ok(())
    }
}

/// A running `warren server` or `warren agent`; killed with SIGKILL when dropped.
pub struct Service {
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Starts the binary with `args`; what it logs is appended to `/tmp/NAME.log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, args: &[&str]) -> Result<Self> {
        let log = PathBuf::from(format!("/tmp/{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(warren_bin());
        command.args(args).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Ok(Self { child: command.spawn().with_context(|| format!("start {name}"))?, log })
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(40)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the agent is ready to attach pods, and its tunnel is the kernel's.
///
/// # Errors
/// When it is not ready in time, with the end of its log.
pub fn agent_ready(agent: &Service) -> Result<Duration> {
    let ready = || -> Result<()> {
        ensure!(Path::new(CONFLIST).exists(), "the agent has written no {CONFLIST}");
        let out = Command::new(warren_bin()).args(["status", "--output", "json"]).output()?;
        let status: serde_json::Value = serde_json::from_str(&crate::lab::succeeded("warren status", &out)?)?;
        let tunnel = status.pointer("/node/tunnel").and_then(|t| t.as_str()).unwrap_or_default();
        ensure!(tunnel.starts_with("kernel"), "the tunnel is {tunnel:?}");
        Ok(())
    };
    let (_, took) = eventually(Duration::from_secs(15), ready).with_context(|| agent.log())?;
    Ok(took)
}

/// A pod of this machine, attached by the plugin, with an echo over TCP and UDP that tells the address it saw.
pub struct EchoPod {
    /// Its network namespace.
    pub netns: PathBuf,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Holds the namespace.
    _runtime: Runtime,
}

impl EchoPod {
    /// Attaches the pod and starts its echo, which ends with the test.
    ///
    /// # Errors
    /// When ADD fails.
    pub fn add(role: Role) -> Result<Self> {
        let runtime = Runtime::here(role.name())?;
        let (mut added, took) = runtime.add_many(1, 1)?;
        println!("CNI ADD: {took}");
        let ips = added.pop().context("ADD answered nothing")?.ips;
        let netns = runtime.netns(0)?;
        for ip in ips.clone() {
            let at = SocketAddr::new(ip, ECHO_PORT);
            let bind = move || Ok((TcpListener::bind(at)?, UdpSocket::bind(at)?));
            let (listener, socket) = netns::run(&netns, bind).with_context(|| format!("bind {at}"))?;
            std::thread::spawn(move || {
                listener.incoming().flatten().for_each(|s| drop(std::thread::spawn(|| echo(s))))
            });
            std::thread::spawn(move || {
                while let Ok((_, peer)) = socket.recv_from(&mut [0; 64]) {
                    let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
                }
            });
        }
        Ok(Self { netns, ips, _runtime: runtime })
    }

    /// Reaches the other pod at `theirs` by TCP, UDP and ICMP; the other must see this pod's own address.
    ///
    /// # Errors
    /// When it is not reached, or sees another address.
    pub fn reach(&self, theirs: IpAddr) -> Result<()> {
        let own = self.ips.iter().find(|ip| ip.is_ipv4() == theirs.is_ipv4());
        let own = *own.with_context(|| format!("no address of the family of {theirs}"))?;
        let seen_by = |what: &str, answer: &str| -> Result<()> {
            ensure!(answer.trim() == own.to_string(), "{what} {theirs}: saw {answer:?} instead of {own}");
            Ok(())
        };
        eventually(Duration::from_secs(5), || seen_by("TCP", &self.call(theirs)?.ask()?))?;
        eventually(Duration::from_secs(5), || {
            let answer = netns::run(&self.netns, move || {
                let socket = UdpSocket::bind(SocketAddr::new(own, 0))?;
                socket.set_read_timeout(Some(patient(Duration::from_millis(200))))?;
                socket.send_to(b"ask", SocketAddr::new(theirs, ECHO_PORT))?;
                let mut buffer = [0; 64];
                let (length, _) = socket.recv_from(&mut buffer).context("UDP: no answer")?;
                Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned())
            })?;
            seen_by("UDP", &answer)
        })?;
        eventually(Duration::from_secs(5), || {
            netns::run(&self.netns, move || succeed("ping", &["-c", "1", "-W", "2", &theirs.to_string()]))
        })?;
        Ok(())
    }

    /// A connection to the echo of the other pod.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn call(&self, theirs: IpAddr) -> Result<Call> {
        let limit = patient(Duration::from_secs(1));
        let at = SocketAddr::new(theirs, ECHO_PORT);
        let stream = netns::run(&self.netns, move || {
            TcpStream::connect_timeout(&at, limit).with_context(|| format!("TCP: connect {at}"))
        })?;
        stream.set_read_timeout(Some(patient(Duration::from_secs(5))))?;
        Ok(Call { read: BufReader::new(stream.try_clone()?), write: stream })
    }
}

/// A connection to an echo.
pub struct Call {
    read: BufReader<TcpStream>,
    write: TcpStream,
}

impl Call {
    /// Asks once which address the other end sees.
    ///
    /// # Errors
    /// When the connection broke.
    pub fn ask(&mut self) -> Result<String> {
        self.write.write_all(b"ask\n").context("TCP: send")?;
        let mut answer = String::new();
        self.read.read_line(&mut answer).context("TCP: no answer")?;
        Ok(answer)
    }
}

/// Answers each line with the address of the caller.
fn echo(stream: TcpStream) -> Result<()> {
    let (peer, mut write) = (stream.peer_addr()?.ip(), stream.try_clone()?);
    for line in BufReader::new(stream).lines() {
        line?;
        writeln!(write, "{peer}")?;
    }
    Ok(())
}
