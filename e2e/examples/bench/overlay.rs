//! TCP, UDP and ping through the tunnel, beside wireguard-go on the same links.

use super::Running;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use warren_e2e::lab::{Lab, netns_of, succeeded};
use warren_e2e::{eventually, netns};

/// What one tunnel can do.
#[derive(Debug)]
struct Figures {
    tcp: f64,
    udp: f64,
    ping: String,
}

pub(super) fn run(as_json: bool) -> Result<()> {
    let lab = Lab::up("bench-overlay", &["--nodes", "2", "--pods", "1"])?;
    let ends = ["node-1", "node-2"].map(|n| lab.pods_on(n).map(|mut p| p.remove(0)));
    let [a, b] = ends;
    let (a, b) = (a?, b?);
    let (a_ns, b_ns) = (netns_of(a.pid.context("pod")?), netns_of(b.pid.context("pod")?));
    let target = b.ips.first().context("address")?.to_string();
    let warren = measure(&a_ns, &b_ns, &target)?;
    // The peer runs between the same two nodes, on the same links.
    let (x, y) = (lab.node_ns("node-1")?, lab.node_ns("node-2")?);
    let addresses = lab.status()?.nodes.iter().map(|n| n.addresses[0].to_string()).collect::<Vec<_>>();
    let peer = Peer::start([&x, &y], &addresses)?;
    let other = measure(&x, &y, "192.168.99.2")?;
    drop(peer);
    lab.done()?;
    if as_json {
        let line = |who: &str, f: &Figures| json!({"who": who, "tcp_gbit_s": f.tcp, "udp_gbit_s": f.udp, "ping": f.ping});
        println!("{:#}", json!([line("warren", &warren), line("wireguard-go", &other)]));
        return Ok(());
    }
    println!("overlay            TCP Gbit/s   UDP Gbit/s   ping");
    for (name, f) in [("warren", &warren), ("wireguard-go", &other)] {
        println!("  {name:<16} {:>10.2}   {:>10.2}   {}", f.tcp, f.udp, f.ping);
    }
    println!("  warren / wireguard-go: TCP {:.2}, UDP {:.2}", warren.tcp / other.tcp, warren.udp / other.udp);
    Ok(())
}

fn measure(from: &Path, to: &Path, target: &str) -> Result<Figures> {
    let server = Running(netns::run(to, || {
        Ok(Command::new("iperf3").args(["-s"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
    })?);
    let iperf = |args: &[&str]| -> Result<Value> {
        let mut all: Vec<String> = ["-c", target, "-J", "-t", "5"].map(str::to_owned).to_vec();
        all.extend(args.iter().map(|a| (*a).to_owned()));
        let text =
            netns::run(from, move || succeeded("iperf3", &Command::new("iperf3").args(all).output()?))?;
        let report: Value = serde_json::from_str(&text)?;
        // It has been seen to end well without figures, on a busy machine.
        ensure!(
            report.pointer("/end/sum").or(report.pointer("/end/sum_received")).is_some(),
            "iperf3: {report}"
        );
        Ok(report)
    };
    let gbits = |v: &Value, at: &str| {
        v.pointer(at)
            .and_then(Value::as_f64)
            .map(|b| b / 1e9)
            .with_context(|| format!("{at} is not in {}", v["end"]))
    };
    let (tcp, _) = eventually(Duration::from_secs(20), || iperf(&[]))?;
    let (udp, _) = eventually(Duration::from_secs(20), || iperf(&["-u", "-b", "2G", "-l", "1300"]))?;
    let lost = udp.pointer("/end/sum/lost_percent").and_then(Value::as_f64).unwrap_or(100.0);
    let (at, host) = (target.to_owned(), from.to_owned());
    let ping = netns::run(&host, move || {
        succeeded("ping", &Command::new("ping").args(["-q", "-c", "500", "-i", "0.002", &at]).output()?)
    })?;
    drop(server);
    Ok(Figures {
        tcp: gbits(&tcp, "/end/sum_received/bits_per_second")?,
        udp: gbits(&udp, "/end/sum/bits_per_second")? * (1.0 - lost / 100.0),
        ping: ping.lines().last().unwrap_or_default().to_owned(),
    })
}

/// wireguard-go between two namespaces.
struct Peer {
    _ends: Vec<Running>,
    _sockets: Vec<Socket>,
}

struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Peer {
    fn start(ends: [&Path; 2], addresses: &[String]) -> Result<Self> {
        ensure!(addresses.len() == 2, "two nodes have two addresses");
        let keys: Vec<(String, String)> = (0..2).map(|_| key_pair()).collect::<Result<_>>()?;
        let (mut running, mut sockets) = (Vec::new(), Vec::new());
        for n in 0..2 {
            // The control socket is a file of the machine: the name carries the process id, and it is removed at the end.
            let name = format!("peer{}-{n}", std::process::id() % 10_000);
            let socket = Socket(PathBuf::from(format!("/var/run/wireguard/{name}.sock")));
            let start = name.clone();
            running.push(Running(netns::run(ends[n], move || {
                let mut command = Command::new("wireguard-go");
                command.args(["-f", &start]).stdout(Stdio::null()).stderr(Stdio::null());
                Ok(command.spawn()?)
            })?));
            eventually(Duration::from_secs(5), || {
                ensure!(socket.0.exists(), "wireguard-go opened no {}", socket.0.display());
                Ok(())
            })?;
            sockets.push(socket);
            let (private, public) = (keys[n].0.clone(), keys[1 - n].1.clone());
            let endpoint = format!("{}:51999", addresses[1 - n]);
            let script = format!(
                "printf %s {private} | wg set {name} listen-port 51999 private-key /dev/stdin \
                   peer {public} endpoint {endpoint} allowed-ips 192.168.99.{}/32 && \
                 ip addr add 192.168.99.{}/24 dev {name} && ip link set {name} mtu 1420 up",
                2 - n,
                n + 1
            );
            netns::run(ends[n], move || {
                succeeded("wg set", &Command::new("sh").args(["-c", &script]).output()?)
            })?;
        }
        Ok(Self { _ends: running, _sockets: sockets })
    }
}

fn key_pair() -> Result<(String, String)> {
    let script = "k=$(wg genkey); echo $k; echo $k | wg pubkey";
    let text = succeeded("wg genkey", &Command::new("sh").args(["-c", script]).output()?)?;
    let (private, public) = text.trim().split_once('\n').context("wg genkey")?;
    Ok((private.to_owned(), public.to_owned()))
}
