//! A node is installed, its program is exchanged under load, comes back by itself when it is bad, and leaves nothing behind.
//!
//! The node's agent is one that `warren install` configured, started by hand: a lab has no service manager. `/usr/local` is a
//! memory disk of the node's own.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use warren_e2e::battery::{Ask, Battery, Scope, Svc};
use warren_e2e::lab::{netns_of, warren_bin};
use warren_e2e::probe::Probe;
use warren_e2e::scenario::dns::{Names, UPSTREAM};
use warren_e2e::{eventually, state};

const WHOAMI: &str = env!("CARGO_BIN_EXE_whoami");
const NODE: &str = "node-2";
/// The pods of this node.
const PODS: [&str; 2] = ["n2a", "n2b"];
/// One of them, and one of another node.
const POD: &str = "n2a";
const FAR: &str = "n3a";
const HOST: &str = "upgrade.test";
const PROGRAM: &str = "/usr/local/bin/warren";
const START: Duration = Duration::from_secs(60);
/// About as long as an upgrade takes.
const UNTOUCHED: Duration = Duration::from_secs(6);
/// How long a path may be cut: what a busy machine with a tunnel in userspace does by itself now and then.
const MAX_CUT: Duration = Duration::from_millis(100);

/// A Warren that answers for its version as any, and is a bad agent: it exits, hangs, or never finds its API.
const BAD: &str = r#"
use std::os::unix::process::CommandExt as _;
fn main() {
    let args: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    let mut real = std::process::Command::new(env!("REAL"));
    real.args(&args);
    if args.first().is_some_and(|a| a == "agent") {
        match env!("HOW") {
            "exits" => std::process::exit(3),
            "hangs" => loop { std::thread::park() },
            _ => { real.args(["--server", "https://127.0.0.1:1"]); }
        }
    }
    panic!("{}", real.exec());
}
"#;

/// Static, as a release is: another is refused at once.
fn bad_program(dir: &Path, how: &str) -> Result<PathBuf> {
    let (source, program) = (dir.join("bad.rs"), dir.join(how));
    std::fs::write(&source, BAD)?;
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = std::process::Command::new(rustc);
    command
        .env("REAL", warren_bin())
        .env("HOW", how)
        .args(["--edition", "2024", "-C", "target-feature=+crt-static", "-o"])
        .arg(&program)
        .arg(&source);
    warren_e2e::lab::succeeded("rustc", &command.output()?)?;
    Ok(program)
}

/// The same program as another file.
fn good_program(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("good");
    std::fs::copy(warren_bin(), &path)?;
    use std::io::Write as _;
    std::fs::OpenOptions::new().append(true).open(&path)?.write_all(b"\nanother\n")?;
    Ok(path)
}

#[derive(Clone, Copy)]
struct Node<'a> {
    b: &'a Battery,
}

impl Node<'_> {
    /// Takes the node's agent from the lab, removes what it left, and looks at the node as it is then.
    fn empty(self) -> Result<String> {
        let (b, bin) = (self.b, warren_bin().display().to_string());
        for pod in PODS {
            b.lab().lab(&["rm", pod])?;
        }
        b.lab().lab(&["service", NODE, "stop", "agent"])?;
        b.exec(NODE, &[&bin, "uninstall", "--yes"])?;
        // Its keys are gone, so the next agent is another node to the server.
        b.objects().delete("Node", "", NODE, None)?;
        b.exec(NODE, &["mount", "-t", "tmpfs", "none", "/usr/local"])?;
        self.look()
    }

    /// Kernel state, and every file of the node's own.
    fn look(self) -> Result<String> {
        let files = "find /etc/ /opt/ /var/lib/ /usr/local/ /run/ -xdev \\( -type f -o -type l -o -type s \\) ! -path '/run/agent.log' \
                     ! -path '/run/boot_id' -printf '%p %l %m\\n' | sort";
        Ok(state::dump(self.b.lab(), NODE)? + &self.b.exec(NODE, &["sh", "-c", files])?)
    }

    /// Installs; what it says.
    fn install(self) -> Result<String> {
        let url = format!("https://{}", SocketAddr::new(self.b.address("node-1", false)?, 6443));
        let bin = warren_bin().display().to_string();
        let words = [&*bin, "install", "agent", "--server", &url, "--token-file", "/etc/warren/token"];
        let more = ["--node-name", NODE, "--dns-upstream", UPSTREAM, "--init", "none"];
        self.b.exec(NODE, &[&words[..], &more].concat())
    }

    /// Starts the installed agent, and waits until it is ready.
    fn start(self) -> Result<()> {
        let script = format!("setsid {PROGRAM} agent >>/run/agent.log 2>&1 </dev/null &");
        self.b.exec(NODE, &["sh", "-c", &script])?;
        self.b.lab().agent_ready_within(NODE, START)?;
        self.settled()
    }

    /// Waits until every subsystem is ready and the API is reached.
    fn settled(self) -> Result<()> {
        eventually(START, || {
            let status = self.b.lab().agent_status(NODE)?;
            let all = status["subsystems"].as_array().context("no subsystems")?;
            let waiting: Vec<&Value> = all.iter().filter(|s| s["state"] != "ready").collect();
            ensure!(
                waiting.is_empty() && status["source"]["connected"] == true,
                "{waiting:?} {}",
                status["source"]
            );
            Ok(())
        })
        .map(drop)
    }

    /// Waits until no agent runs.
    fn gone(self) -> Result<()> {
        eventually(START, || {
            ensure!(self.b.lab().processes(NODE, &["warren agent"])?.is_empty(), "the agent still runs");
            Ok(())
        })
        .map(drop)
    }

    fn pid(self) -> Result<u64> {
        self.b.lab().agent_status(NODE)?["pid"].as_u64().context("no pid")
    }

    /// Upgrades; whether it succeeded, and what it said.
    fn upgrade(self, program: &Path, timeout: &str) -> Result<(bool, String)> {
        let path = program.display().to_string();
        let out = self.b.lab().try_exec(NODE, &[PROGRAM, "upgrade", &path, "--timeout", timeout])?;
        let text = [out.stdout, out.stderr].concat();
        Ok((out.status.success(), String::from_utf8_lossy(&text).into_owned()))
    }

    /// The tunnel and the keepers of sockets.
    fn outliving(self) -> Result<Vec<u32>> {
        let mut pids = self.b.lab().processes(NODE, &["--foreground"])?;
        pids.sort_unstable();
        Ok(pids)
    }

    fn runs(self, program: &Path) -> Result<()> {
        let exe = format!("/proc/{}/exe", self.pid()?);
        self.b.exec(NODE, &["cmp", &exe, &program.display().to_string()])?;
        self.b.exec(NODE, &["cmp", PROGRAM, &program.display().to_string()])?;
        self.b.exec(NODE, &["test", "!", "-e", "/var/lib/warren/upgrade.json"]).map(drop)
    }
}

/// What clients met.
#[derive(Debug, Default)]
struct Met {
    cut: Duration,
    dns_lost: u64,
    ingress_failed: u64,
    service_failed: u64,
}

/// Clients of every kind, while `work` is done.
fn under_load(
    names: &Names<'_>,
    service: &Svc,
    what: &str,
    work: impl FnOnce() -> Result<()>,
) -> Result<Met> {
    let b = names.battery;
    let client = |from: &str, target| Ask {
        count: 0,
        gap: 20,
        timeout: 5000,
        summary: true,
        ..Ask::tcp(from, target)
    };
    let at = SocketAddr::new(b.address(NODE, false)?, 80);
    let ingress = |keep| Ask { http: Some(HOST.to_owned()), keep, ..client("node-3", at) };
    let stream = Ask { keep: true, ..client(POD, service.at(false, 80)?) };
    let fresh = client(POD, service.at(false, 80)?);
    let asks =
        [("ingress", ingress(false)), ("ingress", ingress(true)), ("stream", stream), ("service", fresh)];
    let (from, to) = (b.pod(POD)?, b.pod(FAR)?);
    let (from_ns, to_ns) = (netns_of(from.pid.context("off")?), netns_of(to.pid.context("off")?));
    let (from_ip, to_ip) = (b.address(POD, false)?, b.address(FAR, false)?);
    let running = asks.iter().map(|(what, ask)| Ok((*what, b.asking(ask)?))).collect::<Result<Vec<_>>>()?;
    let probe = Probe::start(&from_ns, from_ip, &to_ns, to_ip)?;
    let dns = names.during(POD, 200, work)?;
    let gap = probe.finish()?;
    let mut met = Met { cut: gap.cut, dns_lost: dns.lost, ..Met::default() };
    println!(
        "upgrade: {what}: {} of {} packets lost, at most {} in a row",
        gap.lost(),
        gap.sent,
        gap.cut.as_millis()
    );
    println!("upgrade: {what}: dns: {} of {} questions lost, wrong: {:?}", dns.lost, dns.asked, dns.wrong);
    for (kind, client) in running {
        let text = client.finish()?;
        let last: Value = serde_json::from_str(text.lines().last().context("a client says nothing")?)?;
        let count = |key: &str| last[key].as_u64().with_context(|| format!("no {key} in {last}"));
        let (asked, failed) = (count("asked")?, count("asked")? - count("answered")?);
        println!(
            "upgrade: {what}: {kind}: {failed} of {asked} failed, the slowest took {} ms",
            count("slowest")?
        );
        ensure!(asked > 20, "{kind} asked only {asked} times");
        match kind {
            "ingress" => met.ingress_failed += failed,
            _ => met.service_failed += failed,
        }
    }
    Ok(met)
}

fn objects(b: &Battery, scope: &Scope<'_>) -> Result<Svc> {
    let service = scope.service("web", json!({}))?;
    scope.members("web", &[FAR, "n2b"])?;
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let path = json!({"path": "/", "pathType": "Prefix", "backend": backend});
    b.objects().apply(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "web", "namespace": scope.namespace()},
        "spec": {"ingressClassName": "warren", "rules": [{"host": HOST, "http": {"paths": [path]}}]},
    }))?;
    b.tcp(POD, service.at(false, 80)?).within(START).reaches_one_of(&[FAR, "n2b"])?;
    let at = SocketAddr::new(b.address(NODE, false)?, 80);
    let ask = Ask { http: Some(HOST.to_owned()), ..Ask::tcp("node-3", at) };
    b.expect(ask).within(START).reaches_one_of(&[FAR, "n2b"])?;
    Ok(service)
}

#[test]
fn a_program_is_exchanged_under_load_a_bad_one_comes_back_and_nothing_is_left() -> Result<()> {
    let mut battery = Battery::up("upgrade", WHOAMI, &[&format!("--agent-arg=--dns-upstream={UPSTREAM}")])?;
    let dir = tempfile::tempdir()?;
    let node = Node { b: &battery };
    let before = node.empty()?;
    println!("{}", node.install()?);
    let again = node.install()?;
    ensure!(again.contains("no file was changed"), "{again}");
    node.start()?;
    for pod in PODS {
        battery.run_pod(pod, NODE, &[])?;
    }
    let (b, node) = (&battery, Node { b: &battery });
    {
        let names = Names::of(b)?;
        let scope = b.scope("upgrade")?;
        let service = objects(b, &scope)?;
        node.settled()?;

        // What this machine itself loses under this load, to compare with.
        let own = under_load(&names, &service, "untouched", || {
            std::thread::park_timeout(UNTOUCHED);
            Ok(())
        })?;
        let max_cut = MAX_CUT.max(own.cut);
        let good = good_program(dir.path())?;
        let (first, outliving) = (node.pid()?, node.outliving()?);
        let met = under_load(&names, &service, "graceful", || {
            let (done, said) = node.upgrade(&good, "60")?;
            println!("{said}");
            ensure!(done, "{said}");
            node.runs(&good)
        })?;
        ensure!(node.pid()? != first && node.outliving()? == outliving, "tunnel or keepers are others");
        let failed = met.dns_lost + met.ingress_failed + met.service_failed;
        ensure!(failed == 0 && met.cut <= max_cut, "{met:?}");
        let (done, said) = node.upgrade(&good, "60")?;
        ensure!(done && said.contains("nothing was changed"), "{said}");

        for how in ["exits", "hangs", "lost"] {
            let bad = bad_program(dir.path(), how)?;
            let met = under_load(&names, &service, how, || {
                let (done, said) = node.upgrade(&bad, "10")?;
                println!("{said}");
                ensure!(!done && said.contains("the upgrade was taken back"), "{how}: {said}");
                node.runs(&good)
            })?;
            // Who resolves names or asks by ingress meets an agent that is away; packets and connections do not.
            ensure!(met.cut <= max_cut && met.service_failed == 0, "{how}: {met:?}");
            ensure!(node.outliving()? == outliving, "{how}: tunnel or keepers are others");
        }
    }
    cut_off(node, dir.path())?;

    for pod in PODS {
        b.lab().lab(&["rm", pod])?;
    }
    b.exec(NODE, &["kill", &node.pid()?.to_string()])?;
    node.gone()?;
    println!("{}", b.exec(NODE, &[PROGRAM, "uninstall", "--yes"])?);
    let bin = warren_bin().display().to_string();
    println!("{}", b.exec(NODE, &[&bin, "uninstall", "--verify"])?);
    let after = node.look()?;
    let difference = before.lines().zip(after.lines()).find(|(b, a)| b != a);
    ensure!(before == after, "something is left or gone, the first: {difference:?}");
    battery.done()
}

/// Who upgrades is killed while the new agent runs: a bad one puts the program from before back and ends, a good one confirms
/// itself.
fn cut_off(node: Node<'_>, dir: &Path) -> Result<()> {
    let (b, good) = (node.b, dir.join("good"));
    for (program, last) in [(dir.join("lost"), &good), (warren_bin(), &warren_bin())] {
        let first = node.pid()?;
        let script = format!("exec {PROGRAM} upgrade {} --timeout 10", program.display());
        let mut upgrader = std::process::Command::new(warren_bin())
            .args(["lab", "exec", "--name", b.lab().name(), NODE, "--", "sh", "-c", &script])
            .spawn()?;
        eventually(START, || {
            ensure!(node.pid()? != first, "the agent from before still runs");
            Ok(())
        })?;
        b.lab().kill_process(NODE, &["warren upgrade"])?;
        upgrader.wait()?;
        eventually(START, || b.exec(NODE, &["test", "!", "-e", "/var/lib/warren/upgrade.json"]))?;
        if last == &good {
            node.gone()?;
            node.start()?;
        }
        node.runs(last)?;
        node.settled()?;
    }
    Ok(())
}
