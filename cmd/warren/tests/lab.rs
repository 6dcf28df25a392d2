//! The lab's namespaces, as root: up and down, also after crashes; faults; topologies. Without agents: what is tried here
//! is the ground that those stand on.
#![allow(clippy::unwrap_used, reason = "a test says by panic what is wrong")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const WARREN: &str = env!("CARGO_BIN_EXE_warren");

/// A lab that is gone when the test ends.
struct Lab(String);

impl Lab {
    fn named(test: &str) -> Self {
        assert!(is_root(), "a lab needs root; run the tests with sudo");
        Self(format!("{test}-{}", std::process::id()))
    }
    fn up(test: &str, args: &[&str]) -> Self {
        let lab = Self::named(test);
        lab.ok(&[&["up", "--bare"], args].concat());
        lab
    }
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(WARREN);
        command.args(["lab", "--name", &self.0]).args(args).stdin(Stdio::null());
        command
    }
    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }
    fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{args:?}: {}\n{stdout}\n{stderr}", out.status);
        stdout.into_owned()
    }
    fn refused(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert!(!out.status.success(), "{args:?} succeeded");
        String::from_utf8_lossy(&out.stderr).into_owned()
    }
    fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(&[args, &["--output", "json"]].concat())).unwrap()
    }
    fn pings(&self, from: &str, to: &str) -> bool {
        self.run(&["exec", from, "--", "ping", "-c", "2", "-i", "0.2", "-W", "1", to]).status.success()
    }
    fn address(&self, node: &str, index: usize) -> String {
        let status = self.json(&["status"]);
        let nodes = status["nodes"].as_array().unwrap();
        let found = nodes.iter().find(|n| n["name"] == node).unwrap();
        found["addresses"][index].as_str().unwrap().to_owned()
    }
    fn dir(&self) -> PathBuf {
        Path::new("/run/warren-lab").join(&self.0)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.run(&["down"]);
    }
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").unwrap().lines().any(|l| l.starts_with("Uid:\t0\t"))
}

/// What a lab could leave on the host: links, addresses, routes, rules, mounts.
fn host() -> Vec<String> {
    let run = |args: &str| {
        let out = Command::new("ip").args(args.split(' ')).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let mut all: Vec<String> =
        ["-o link", "-o addr show permanent", "route show table all", "rule"].map(run).to_vec();
    all.push(std::fs::read_to_string("/proc/self/mountinfo").unwrap());
    all
}

/// Processes that carry the name of a lab in their arguments, and their namespaces.
fn processes(lab: &Lab) -> BTreeSet<u32> {
    let named = |pid: &u32| {
        let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.contains("warren-lab-") && text.contains(&lab.0)
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(named).collect()
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !check() {
        assert!(begin.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn assert_gone(lab: &Lab, before: &[String]) {
    assert!(!lab.dir().exists(), "{} is still there", lab.dir().display());
    assert_eq!(processes(lab), BTreeSet::new(), "processes are left");
    for (was, is) in before.iter().zip(host()) {
        assert_eq!(*was, is, "the host has changed");
    }
}

fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

#[test]
fn down_leaves_nothing_and_up_works_again() {
    let before = host();
    let lab = Lab::up("again", &["--dual-stack"]);
    assert_eq!(host(), before, "a running lab shows on the host");
    assert!(lab.pings("node-1", &lab.address("node-3", 0)) && lab.pings("node-1", &lab.address("node-3", 1)));
    assert!(lab.pings("node-2", "203.0.113.10") && lab.pings("node-2", "2001:db8:57::10"));
    assert!(lab.refused(&["up", "--bare"]).contains("runs already"));
    let list = lab.json(&["list"]);
    assert!(list.as_array().unwrap().iter().any(|l| l["name"] == lab.0.as_str() && l["running"] == true));
    lab.ok(&["down"]);
    assert_gone(&lab, &before);
    assert!(lab.refused(&["status"]).contains("no lab"));
    assert!(lab.refused(&["down"]).contains("no lab"));
    lab.ok(&["up", "--bare", "--nodes", "1"]);
    lab.ok(&["down"]);
    assert_gone(&lab, &before);
}

#[test]
fn a_lab_whose_first_process_was_killed_is_cleaned_up() {
    let before = host();
    let lab = Lab::up("crash", &["--nodes", "2"]);
    let pid = u32::try_from(lab.json(&["status"])["switch_pid"].as_u64().unwrap()).unwrap();
    kill(pid);
    eventually("all processes of the lab die with the first", || processes(&lab).is_empty());
    assert!(lab.refused(&["status"]).contains("no lab"));
    let list = lab.json(&["list"]);
    assert!(list.as_array().unwrap().iter().any(|l| l["name"] == lab.0.as_str() && l["running"] == false));
    lab.ok(&["down"]);
    assert_gone(&lab, &before);
}

#[test]
fn an_up_that_dies_midway_leaves_nothing() {
    let before = host();
    let lab = Lab::named("midway");
    for pause in [0, 2, 5, 10, 20, 40, 80] {
        let mut up: Child = lab
            .command(&["up", "--bare", "--nodes", "8"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::park_timeout(Duration::from_millis(pause));
        kill(up.id());
        up.wait().unwrap();
        // Whatever there was: either `down` takes it down, or it has gone by itself.
        let _ = lab.run(&["down"]);
        eventually("nothing is left", || !lab.dir().exists() && processes(&lab).is_empty());
        assert_gone(&lab, &before);
    }
}

#[test]
fn a_stale_record_kills_no_stranger() {
    let lab = Lab::named("stale");
    let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
    std::fs::create_dir_all(lab.dir()).unwrap();
    let record = serde_json::json!({"version": "0", "pid": stranger.id(), "start_time": 1});
    std::fs::write(lab.dir().join("holder.json"), record.to_string()).unwrap();
    lab.ok(&["down"]);
    assert!(stranger.try_wait().unwrap().is_none(), "a process that is not of the lab was killed");
    assert!(!lab.dir().exists());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn two_labs_do_not_see_each_other() {
    let (one, two) = (Lab::up("one", &["--nodes", "2"]), Lab::up("two", &["--nodes", "2"]));
    let address = one.address("node-2", 0);
    assert_eq!(address, two.address("node-2", 0), "the same plan");
    two.ok(&["kill", "node-2"]);
    assert!(one.pings("node-1", &address) && !two.pings("node-1", &address));
    one.ok(&["down"]);
    two.ok(&["start", "node-2"]);
    assert!(two.pings("node-1", &address));
}

#[test]
fn partitions_cut_and_heal() {
    let lab = Lab::up("cut", &["--dual-stack"]);
    let to = |n: &str| [lab.address(n, 0), lab.address(n, 1)];
    lab.ok(&["partition", "node-1", "2"]);
    for address in to("node-2") {
        assert!(!lab.pings("node-1", &address), "{address} is reached across the partition");
    }
    assert!(lab.pings("node-1", &to("node-3")[0]) && lab.pings("node-3", &to("node-2")[1]));
    assert_eq!(lab.json(&["status"])["partitions"], serde_json::json!([["node-1", "node-2"]]));
    // A moved node is still cut off.
    lab.ok(&["node", "readdress", "node-2"]);
    assert!(!lab.pings("node-1", &to("node-2")[0]));
    lab.ok(&["heal"]);
    for address in to("node-2") {
        assert!(lab.pings("node-1", &address), "{address} is not reached after healing");
    }
    assert!(lab.refused(&["partition", "node-1", "node-9"]).contains("node-9"));
}

#[test]
fn a_power_cut_loses_run_and_keeps_the_disk() {
    let lab = Lab::up("power", &["--nodes", "2"]);
    let boot_id = || lab.ok(&["exec", "node-2", "--", "cat", "/proc/sys/kernel/random/boot_id"]);
    let before = boot_id();
    assert_eq!(before, boot_id());
    let write = "echo kept > /var/lib/warren/x; echo kept > /etc/warren/x; echo lost > /run/x; sleep 600 &";
    lab.ok(&["exec", "node-2", "--", "sh", "-c", &format!("({write}) >/dev/null 2>&1")]);
    assert!(!Path::new("/var/lib/warren/x").exists() && !Path::new("/etc/warren/x").exists());
    lab.ok(&["kill", "node-2"]);
    assert!(lab.refused(&["exec", "node-2", "--", "true"]).contains("does not run"));
    assert!(lab.refused(&["kill", "node-2"]).contains("off already"));
    lab.ok(&["start", "node-2"]);
    let read = "cat /var/lib/warren/x /etc/warren/x; test ! -e /run/x && echo clean; pgrep -c sleep";
    assert_eq!(lab.run(&["exec", "node-2", "--", "sh", "-c", read]).stdout, b"kept\nkept\nclean\n0\n");
    assert_ne!(before, boot_id(), "a boot has an id of its own");
}

#[test]
fn services_are_kept_running_until_stopped() {
    let lab = Lab::up("service", &["--nodes", "1"]);
    let echo = || lab.json(&["status"])["nodes"][0]["services"][0].clone();
    let first = echo();
    lab.ok(&["kill", "node-1", "--process", "echo"]);
    eventually("the service is restarted", || echo()["pid"].is_u64() && echo()["pid"] != first["pid"]);
    lab.ok(&["service", "node-1", "stop", "echo"]);
    assert_eq!((&echo()["pid"], &echo()["wanted"]), (&serde_json::Value::Null, &false.into()));
    lab.ok(&["service", "node-1", "start", "echo"]);
    assert!(echo()["pid"].is_u64());
    assert!(lab.refused(&["service", "node-1", "stop", "agent"]).contains("agent"));
}

#[test]
fn behind_routers_addresses_are_hidden() {
    let lab = Lab::up("nat", &["--topology", "nat", "--dual-stack"]);
    let (first, second) = (lab.address("node-1", 0), lab.address("node-2", 0));
    assert!(lab.pings("node-2", &first) && lab.pings("node-2", &lab.address("node-1", 1)));
    assert!(!lab.pings("node-1", &second), "a node behind a router is reached from outside");
    assert!(lab.pings("node-3", "203.0.113.10"));
    // What an echo server on the first node sees of the second.
    let script = format!("exec 3<>/dev/tcp/{first}/8080; echo hi >&3; read -r line <&3; echo $line");
    let heard = lab.ok(&["exec", "node-2", "--", "bash", "-c", &script]);
    assert_eq!(heard, "node-1 192.168.57.12 hi\n");
}

#[test]
fn sites_are_joined_by_a_router() {
    let lab = Lab::up("sites", &["--topology", "sites", "--nodes", "4", "--dual-stack"]);
    let second = lab.address("node-2", 0);
    assert!(second.starts_with("192.168.58."), "{second}");
    assert!(lab.pings("node-1", &second) && lab.pings("node-3", &lab.address("node-4", 1)));
    let trace = lab.ok(&["exec", "node-1", "--", "ping", "-c", "1", &second]);
    assert!(trace.contains("ttl=63"), "no router on the way: {trace}");
    lab.ok(&["partition", "node-1", "node-2"]);
    assert!(!lab.pings("node-1", &second) && lab.pings("node-1", &lab.address("node-4", 0)));
}

#[test]
fn exec_passes_exit_codes_output_and_input() {
    let lab = Lab::up("exec", &["--nodes", "1"]);
    assert_eq!(lab.run(&["exec", "node-1", "--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(lab.run(&["exec", "node-1", "--", "sh", "-c", "kill -9 $$"]).status.code(), Some(137));
    assert_eq!(lab.ok(&["exec", "node-1", "--", "hostname"]), "node-1\n");
    assert_eq!(lab.ok(&["exec", "switch", "--", "ls", "/sys/class/net/br0/brif"]), "gateway0\nnode-1\n");
    let mut child = lab
        .command(&["exec", "node-1", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"through").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"through");
    for (target, words) in [("node-7", "no node or pod"), ("web", "no node or pod")] {
        assert!(lab.refused(&["exec", target, "--", "true"]).contains(words));
    }
    assert!(lab.refused(&["exec", "node-1", "--", "no-such-program"]).contains("no-such-program"));
}

#[test]
fn nodes_come_and_go() {
    let lab = Lab::up("nodes", &["--nodes", "2"]);
    assert_eq!(lab.json(&["node", "add"])["name"], "node-3");
    let address = lab.address("node-3", 0);
    assert!(lab.pings("node-1", &address));
    lab.ok(&["node", "readdress", "3"]);
    let moved = lab.address("node-3", 0);
    assert!(moved != address && lab.pings("node-1", &moved) && !lab.pings("node-1", &address));
    assert!(lab.pings("node-3", "203.0.113.10"), "the default route was lost with the address");
    lab.ok(&["node", "remove", "node-3"]);
    assert!(!lab.pings("node-1", &moved));
    // Numbers are not used twice.
    assert_eq!(lab.json(&["node", "add"])["name"], "node-4");
    assert!(lab.refused(&["node", "remove", "node-1"]).contains("server"));
}
