//! Tables of the lab, for people.

use super::UpReport;
use std::collections::BTreeMap;
use std::fmt::Display;
use warren_lab::client::Listed;
use warren_lab::{CheckReport, CheckResult, LabStatus};

/// Columns as wide as their widest cell, two spaces between.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

fn joined<T: Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    if items.is_empty() { "-".into() } else { items.join(",") }
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// Nodes and pods.
pub(super) fn status(lab: &LabStatus) -> String {
    let mut nodes = vec![row(["NODE", "POWER", "ADDRESSES", "SEEN AS", "SERVICES"])];
    for node in &lab.nodes {
        let services: Vec<String> = node
            .services
            .iter()
            .map(|s| {
                let word = s.name.word();
                match (s.pid, s.starts) {
                    (Some(_), 0..=1) => word.to_owned(),
                    (Some(_), n) => format!("{word} (restarted {} times)", n - 1),
                    (None, _) if !s.wanted => format!("{word} (stopped)"),
                    (None, _) => format!("{word} (failed: {})", s.last_exit),
                }
            })
            .collect();
        let seen =
            if node.switch_addresses == node.addresses { "-".into() } else { joined(&node.switch_addresses) };
        let power = if node.pid.is_some() { "on" } else { "off" };
        let services = if services.is_empty() { "-".into() } else { services.join(", ") };
        nodes.push(vec![node.name.clone(), power.into(), joined(&node.addresses), seen, services]);
    }
    let mut text = columns(&nodes);
    if !lab.pods.is_empty() {
        let mut pods = vec![row(["POD", "NODE", "STATE", "ADDRESSES", "RUNS"])];
        for pod in &lab.pods {
            let state = format!("{:?}", pod.state).to_lowercase();
            let state = if pod.message.is_empty() { state } else { format!("{state} ({})", pod.message) };
            let runs = if pod.command.is_empty() { "echo server".into() } else { pod.command.join(" ") };
            pods.push(vec![pod.name.clone(), pod.node.clone(), state, joined(&pod.ips), runs]);
        }
        text += &format!("\n{}", columns(&pods));
    }
    for (a, b) in &lab.partitions {
        text += &format!("\n{a} and {b} are cut apart; `warren lab heal` joins all nodes\n");
    }
    text
}

/// The labs of this machine.
pub(super) fn list(labs: &[Listed]) -> String {
    if labs.is_empty() {
        return "there is no lab; `warren lab up` makes one\n".into();
    }
    let mut rows = vec![row(["LAB", "STATE"])];
    for lab in labs {
        let state = if lab.running { "running" } else { "ended; `warren lab down` removes its files" };
        rows.push(row([&lab.name, state]));
    }
    columns(&rows)
}

/// Sources as rows, targets as columns; what failed, below.
pub(super) fn check(report: &CheckReport) -> String {
    let mut targets: Vec<&str> = Vec::new();
    let mut sources: Vec<&str> = Vec::new();
    let mut cells: BTreeMap<(&str, &str), Vec<&CheckResult>> = BTreeMap::new();
    for result in &report.results {
        for (list, name) in [(&mut sources, &result.source), (&mut targets, &result.target)] {
            if !list.contains(&name.as_str()) {
                list.push(name);
            }
        }
        cells.entry((&result.source, &result.target)).or_default().push(result);
    }
    let mut rows = vec![row(["FROM \\ TO"])];
    rows[0].extend(targets.iter().map(|t| (*t).to_owned()));
    for source in &sources {
        let cell = |target: &&str| match cells.get(&(*source, *target)) {
            Some(results) => summary(results),
            None => "-".into(),
        };
        let mut row = vec![(*source).to_owned()];
        row.extend(targets.iter().map(cell));
        rows.push(row);
    }
    let mut text = columns(&rows);
    const SHOWN: usize = 20;
    let failed: Vec<&CheckResult> = report.results.iter().filter(|r| !r.ok).collect();
    for result in failed.iter().take(SHOWN) {
        let method = format!("{:?}", result.method).to_uppercase();
        text += &format!(
            "failed: {} to {} ({}) {method}: {}\n",
            result.source, result.target, result.address, result.error
        );
    }
    if failed.len() > SHOWN {
        text += &format!("and {} more; `--output json` shows all\n", failed.len() - SHOWN);
    }
    text + &format!("{} of {} checks passed (TCP, UDP, HTTP, ICMP)\n", report.passed, report.total)
}

/// One cell: the slowest answer, or what failed.
fn summary(results: &[&CheckResult]) -> String {
    let failed: Vec<String> =
        results.iter().filter(|r| !r.ok).map(|r| format!("{:?}", r.method).to_lowercase()).collect();
    if failed.is_empty() {
        let slowest = results.iter().map(|r| r.ms).fold(0.0, f64::max);
        return format!("ok {slowest:.0} ms");
    }
    let mut kinds = failed;
    kinds.sort();
    kinds.dedup();
    format!("FAIL {}", kinds.join(","))
}

/// The end of `up`.
pub(super) fn up(report: &UpReport) -> String {
    let name = &report.lab.name;
    let option = if name == "lab" { String::new() } else { format!(" --name {name}") };
    let mut text = status(&report.lab);
    if let Some(report) = &report.check {
        text += &format!("\n{}", check(report));
    }
    text += &format!("\nThe lab {name:?} is up after {:.1} s. Try:\n", report.seconds);
    let pod = report.lab.pods.first();
    let mut tries = vec![
        ("status", "nodes, pods, services"),
        ("run web --node 2", "one more pod: a TCP, UDP and HTTP echo"),
        ("exec node-1 -- warren status", "how a node is"),
        ("kill node-2", "pull its plug; `start node-2` boots it again"),
        ("partition node-1 node-2", "cut two nodes apart; `heal` joins them"),
        ("check", "who reaches whom"),
        ("kubeconfig", "for kubectl on this machine"),
        ("down", "takes it down, leaves nothing"),
    ];
    let ping = pod.and_then(|p| p.ips.first()).map(|ip| format!("exec node-1 -- ping -c 1 {ip}"));
    if let Some(ping) = &ping {
        tries.insert(2, (ping, "a pod, from a node"));
    }
    let rows =
        tries.iter().map(|(verb, what)| vec![format!("  warren lab{option} {verb}"), format!("# {what}")]);
    text + &columns(&rows.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        assert_eq!(columns(&[row(["a", "b"]), row(["long", "c"])]), "a     b\nlong  c\n");
    }

    #[test]
    fn a_failed_check_stands_out() {
        let json = serde_json::json!({"passed": 1, "total": 2, "results": [
            {"source": "a", "target": "b", "address": "10.0.0.1", "method": "tcp", "ok": true, "ms": 1.0, "error": ""},
            {"source": "a", "target": "b", "address": "10.0.0.1", "method": "icmp", "ok": false, "ms": 1.0, "error": "no answer"}
        ]});
        let text = check(&serde_json::from_value(json).unwrap());
        assert!(
            text.contains("FAIL icmp") && text.contains("failed: a to b (10.0.0.1) ICMP: no answer"),
            "{text}"
        );
        assert!(text.contains("1 of 2 checks passed"));
    }
}
