//! `warren connectivity`: green on a healthy cluster, and red in exactly the cells that a planted fault touches.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;
use warren_e2e::eventually;
use warren_e2e::lab::{Lab, warren_bin};

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
const UNDO: &str = "nft delete table inet planted";

/// Column, from, to; no `to`: nobody's in particular.
type Red = (String, String, Option<String>);

struct Run {
    code: Option<i32>,
    report: Value,
}

/// Runs it on the node of the server.
fn run(lab: &Lab, args: &[&str]) -> Result<Run> {
    let bin = warren_bin().display().to_string();
    let out =
        lab.try_exec("node-1", &[&[bin.as_str(), "connectivity", "--output", "json"], args].concat())?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let report = serde_json::from_str(&text)
        .with_context(|| format!("{text}\n{}", String::from_utf8_lossy(&out.stderr)))?;
    Ok(Run { code: out.status.code(), report })
}

impl Run {
    fn cells(&self) -> impl Iterator<Item = &Value> {
        self.report["cells"].as_array().into_iter().flatten()
    }

    fn reds(&self) -> BTreeSet<Red> {
        let text = |v: &Value| v.as_str().map(str::to_owned);
        let red = |c: &Value| {
            (text(&c["column"]).unwrap_or_default(), text(&c["from"]).unwrap_or_default(), text(&c["to"]))
        };
        self.cells().filter(|c| c["outcome"] == "failed").map(red).collect()
    }

    fn is_green(&self) -> Result<()> {
        ensure!(
            self.code == Some(0) && self.report["ok"] == true,
            "{:?} {:?} {}",
            self.code,
            self.reds(),
            self.report["absent"]
        );
        Ok(())
    }

    /// Fails unless these cells are red and no others.
    fn is_red_in(&self, what: &str, expected: &BTreeSet<Red>) -> Result<()> {
        let found = self.reds();
        let absent = &self.report["absent"];
        ensure!(self.code == Some(1) && *absent == serde_json::json!({}), "{what}: {:?} {absent}", self.code);
        let (more, fewer): (Vec<_>, Vec<_>) =
            (found.difference(expected).collect(), expected.difference(&found).collect());
        let why: Vec<&Value> = self.cells().filter(|c| c["outcome"] == "failed").collect();
        ensure!(
            more.is_empty() && fewer.is_empty(),
            "{what}: red besides: {more:?}; not red: {fewer:?}\n{why:?}"
        );
        let advised = self.cells().filter(|c| c["outcome"] == "failed").all(|c| c["next"].is_string());
        ensure!(advised, "{what}: a failure without a next step");
        println!("{what}: {} cells of {} are red, as they should be", found.len(), self.cells().count());
        Ok(())
    }
}

fn red(columns: &[&str], from: &[&str], to: &[&str]) -> BTreeSet<Red> {
    let mut out = BTreeSet::new();
    for column in columns {
        for from in from {
            out.extend(
                to.iter().map(|to| ((*column).to_owned(), (*from).to_owned(), Some((*to).to_owned()))),
            );
        }
    }
    out
}

/// Nothing of a run is left: no pod's link, no object, no lease.
/// Waits for it: a namespace ends some time after it was told to.
fn nothing_left(lab: &Lab) -> Result<()> {
    let bin = warren_bin().display().to_string();
    let found = || {
        for node in NODES {
            let links = lab.exec(node, &["sh", "-c", "ip -o link | grep -c wrnp || true"])?;
            ensure!(links.trim() == "0", "{node}: {} links of pods", links.trim());
        }
        for words in [
            ["get", "configmaps", "-n", "kube-system"],
            ["get", "pods", "-n", "warren-connectivity"],
            ["get", "namespaces", "-n", "default"],
        ] {
            let shown = lab.exec("node-1", &[&[bin.as_str()], &words[..]].concat())?;
            ensure!(!shown.contains("connectivity"), "{words:?}: {shown}");
        }
        Ok(())
    };
    eventually(Duration::from_secs(10), found).map(drop)
}

fn plant(lab: &Lab, node: &str, script: &str) -> Result<()> {
    lab.exec(node, &["sh", "-c", script]).map(drop)
}

#[test]
fn the_right_cells_are_red_and_nothing_is_left() -> Result<()> {
    let lab = Lab::up("connectivity-run", &["--dual-stack", "--pods", "0"])?;
    for node in NODES {
        lab.agent_ready_within(node, Duration::from_secs(60))?;
    }
    // An agent may be ready a moment before the API has its node's addresses.
    let bin = warren_bin().display().to_string();
    eventually(Duration::from_secs(10), || {
        let nodes: Value = serde_json::from_str(&lab.exec("node-1", &[&bin, "get", "nodes", "-o", "json"])?)?;
        let of = |n: &Value| {
            n["status"]["addresses"]
                .as_array()
                .map_or(0, |a| a.iter().filter(|a| a["type"] == "InternalIP").count())
        };
        let counts: Vec<usize> = nodes["items"].as_array().into_iter().flatten().map(of).collect();
        ensure!(counts == [2; NODES.len()], "{counts:?} addresses of nodes");
        Ok(())
    })?;
    let healthy = run(&lab, &[])?;
    healthy.is_green()?;
    for column in ["pod", "service", "nodePort", "dns", "policy", "ingress", "encryption", "mtu"] {
        for from in NODES {
            for to in NODES.iter().filter(|to| column != "encryption" || **to != from) {
                let of = |c: &&Value| {
                    c["column"] == column && c["from"] == from && c["to"] == *to && c["outcome"] == "held"
                };
                let families: BTreeSet<bool> = healthy
                    .cells()
                    .filter(of)
                    .filter_map(|c| Some(c["address"].as_str()?.contains(':')))
                    .collect();
                ensure!(
                    families.len() == 2,
                    "{column} from {from} to {to} held in {} families",
                    families.len()
                );
            }
        }
    }
    let timed = healthy.cells().filter(|c| c["latencyMicros"][0].is_u64()).count();
    ensure!(timed == 18, "{timed} cells have a latency");
    let measured: BTreeSet<_> = healthy.cells().filter_map(|c| c["bytes"].as_u64()).collect();
    ensure!(measured.len() == 1, "largest packets: {measured:?}");
    nothing_left(&lab)?;
    let two = run(&lab, &["--nodes", "node-2,node-3"])?;
    two.is_green()?;
    ensure!(two.cells().all(|c| c["from"] != "node-1" && c["to"] != "node-1"), "node-1 was not asked for");

    // Packets of the tunnel between two nodes are lost.
    let far = ["pod", "service", "nodePort", "ingress", "encryption", "mtu", "policy"];
    let peer = lab.status()?.nodes.into_iter().find(|n| n.name == "node-2").context("no node-2")?.addresses;
    let rules: String = peer.iter().map(|ip| {
        let family = if ip.is_ipv4() { "ip" } else { "ip6" };
        format!("add rule inet planted out {family} daddr {ip} udp dport 51840 drop; add rule inet planted in {family} saddr {ip} udp dport 51840 drop; ")
    }).collect();
    plant(
        &lab,
        "node-1",
        &format!(
            "nft 'add table inet planted; add chain inet planted out {{ type filter hook output priority 0; }}; add chain inet planted in {{ type filter hook input priority 0; }}; {rules}'"
        ),
    )?;
    let mut expected = red(&far, &["node-1"], &["node-2"]);
    expected.extend(red(&far, &["node-2"], &["node-1"]));
    run(&lab, &[])?.is_red_in("tunnel", &expected)?;
    plant(&lab, "node-1", UNDO)?;
    // The tunnel may go on over IPv6 now, which leaves less room; the node says so.
    eventually(Duration::from_secs(60), || run(&lab, &["--nodes", "node-1,node-2"])?.is_green())?;

    // A path narrower than it says.
    plant(
        &lab,
        "node-1",
        "nft 'add table inet planted; add chain inet planted narrow { type filter hook forward priority 0; }; add rule inet planted narrow oifname wrn-wg meta length > 1300 drop'",
    )?;
    run(&lab, &[])?.is_red_in("narrow path", &red(&["mtu"], &["node-1"], &["node-2", "node-3"]))?;
    plant(&lab, "node-1", UNDO)?;

    // Cluster DNS of one node does not answer.
    plant(
        &lab,
        "node-3",
        "nft 'add table inet planted; add chain inet planted deaf { type filter hook input priority 0; }; add rule inet planted deaf udp dport 53 drop'",
    )?;
    let mut expected = red(&["dns"], &["node-3"], &NODES);
    expected.insert(("dns".into(), "node-3".into(), None));
    run(&lab, &[])?.is_red_in("DNS", &expected)?;
    plant(&lab, "node-3", UNDO)?;

    // A policy of somebody else denies what comes to one pod that answers, until the run's own allows some of it. A node may
    // always reach its own pods, and with it its ingress.
    let policy = "apiVersion: v1\nkind: Namespace\nmetadata: {name: warren-connectivity}\n---\n\
        apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
        metadata: {name: closed, namespace: warren-connectivity}\n\
        spec: {podSelector: {matchLabels: {warren.dev/connectivity-node: \"1\", warren.dev/connectivity: answer}}, policyTypes: [Ingress]}\n";
    lab.exec("node-1", &["sh", "-c", "printf '%s' \"$1\" | \"$0\" apply -f -", &bin, policy])?;
    let mut expected = red(&["pod", "service", "nodePort", "mtu", "policy"], &NODES, &["node-2"]);
    expected.extend(red(&["encryption"], &["node-1", "node-3"], &["node-2"]));
    run(&lab, &[])?.is_red_in("policy", &expected)?;
    let left = lab.exec("node-1", &[&bin, "get", "networkpolicies", "-n", "warren-connectivity"])?;
    ensure!(
        left.contains("closed") && !left.contains("\nconnectivity"),
        "somebody else's policy stays, alone: {left}"
    );
    lab.exec("node-1", &[&bin, "delete", "namespace", "warren-connectivity"])?;

    // The command dies in the middle; the next one takes away what it left.
    let cut =
        format!("timeout -s KILL 3 {bin} connectivity > /dev/null 2>&1; {bin} get configmaps -n kube-system");
    let shown = lab.exec("node-1", &["sh", "-c", &cut])?;
    println!("after a command that was killed: {shown}");
    // An agent dies with its probe pods, and takes them away when it comes back.
    lab.kill_process("node-2", &["warren agent"])?;
    for node in NODES {
        lab.agent_ready_within(node, Duration::from_secs(60))?;
    }
    eventually(Duration::from_secs(60), || run(&lab, &[])?.is_green())?;
    nothing_left(&lab)?;
    lab.done()
}
