//! What a run found: cells for programs, tables for people.

use crate::output;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use warren_types::NodeName;
use warren_types::connectivity::{Check, CheckKind, ConnectivityAnswer, Outcome, RunPhase};

/// Failures that are shown with their reason; all are in the JSON.
const SHOWN: usize = 20;

/// What is known of one node's part.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// Why nothing (more) is known of it.
    pub(super) absent: Option<String>,
    /// Addresses of its pod that asks.
    pub(super) asker: Vec<IpAddr>,
    checks: Vec<Check>,
}

impl Part {
    pub(super) fn take(&mut self, answer: ConnectivityAnswer) {
        if !answer.error.is_empty() {
            self.absent = Some(answer.error);
        }
        if answer.phase >= RunPhase::Attach {
            self.asker = answer.asker;
        }
        self.checks.extend(answer.checks);
    }
}

/// A column of the table: checks that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
enum Column {
    Pod,
    Service,
    NodePort,
    Dns,
    Policy,
    Ingress,
    Encryption,
    Mtu,
}

const COLUMNS: [(Column, &str); 8] = [
    (Column::Pod, "POD"),
    (Column::Service, "SERVICE"),
    (Column::NodePort, "NODE PORT"),
    (Column::Dns, "DNS"),
    (Column::Policy, "POLICY"),
    (Column::Ingress, "INGRESS"),
    (Column::Encryption, "ENCRYPTION"),
    (Column::Mtu, "MTU"),
];

fn column(kind: CheckKind) -> Column {
    match kind {
        CheckKind::Tcp | CheckKind::Udp => Column::Pod,
        CheckKind::Service => Column::Service,
        CheckKind::NodePort => Column::NodePort,
        CheckKind::Dns | CheckKind::DnsOutside => Column::Dns,
        CheckKind::Ingress => Column::Ingress,
        CheckKind::Mtu => Column::Mtu,
        CheckKind::Encryption => Column::Encryption,
        CheckKind::Open | CheckKind::Allowed | CheckKind::Denied => Column::Policy,
    }
}

/// What a check is called in a sentence.
fn words(kind: CheckKind) -> &'static str {
    match kind {
        CheckKind::Tcp => "pod, TCP",
        CheckKind::Udp => "pod, UDP",
        CheckKind::Service => "Service",
        CheckKind::NodePort => "node port",
        CheckKind::Dns => "name of the cluster",
        CheckKind::DnsOutside => "outside name",
        CheckKind::Ingress => "ingress",
        CheckKind::Mtu => "MTU",
        CheckKind::Encryption => "encryption",
        CheckKind::Open => "pod, HTTP",
        CheckKind::Allowed => "what the policy allows",
        CheckKind::Denied => "what the policy denies",
    }
}

/// What to type next.
fn advice(column: Column, from: &NodeName, to: Option<&NodeName>) -> String {
    let there = to.unwrap_or(from);
    match column {
        Column::Pod | Column::Encryption if there == from => format!("on {from}: warren doctor"),
        Column::Pod | Column::Encryption => format!("on {from} and {there}: warren doctor"),
        Column::Service | Column::NodePort => {
            format!("on {from}: warren status, warren explain node svc/default/kubernetes:443")
        }
        Column::Dns => {
            format!("on {from}: warren dns query kubernetes.default.svc.cluster.local, warren doctor")
        }
        Column::Policy => format!("on {there}: warren policy denials, warren status"),
        Column::Ingress => format!("on {there}: warren ingress list, warren status"),
        Column::Mtu => format!("on {from} and {there}: warren doctor; a smaller --mtu for warren agent"),
    }
}

/// One check, with who made it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cell {
    from: NodeName,
    column: Column,
    #[serde(flatten)]
    check: Check,
    /// What to type next; only where it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl Cell {
    fn failed(&self) -> bool {
        self.check.outcome == Outcome::Failed
    }
}

/// The whole run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// Whether everything held.
    pub(super) ok: bool,
    nodes: Vec<NodeName>,
    /// Nodes that took no part, or not to the end, and why.
    absent: BTreeMap<NodeName, String>,
    cells: Vec<Cell>,
}

impl Report {
    pub(super) fn new(parts: BTreeMap<NodeName, Part>) -> Self {
        let mut cells = Vec::new();
        let mut absent = BTreeMap::new();
        let nodes: Vec<NodeName> = parts.keys().cloned().collect();
        for (from, part) in parts {
            let reached: BTreeSet<_> = held(&part.checks, CheckKind::Open);
            for mut check in part.checks {
                // What nobody reaches anyway proves no policy.
                if check.kind == CheckKind::Denied
                    && check.outcome == Outcome::Held
                    && !reached.contains(&(check.to.clone(), check.address))
                {
                    check.outcome = Outcome::NotChecked;
                    check.why = "it was not reached before there was a policy either".into();
                }
                let column = column(check.kind);
                let failed = check.outcome == Outcome::Failed;
                let next = failed.then(|| advice(column, &from, check.to.as_ref()));
                cells.push(Cell { from: from.clone(), column, check, next });
            }
            absent.extend(part.absent.map(|why| (from, why)));
        }
        let ok = absent.is_empty() && !cells.iter().any(Cell::failed);
        Self { ok, nodes, absent, cells }
    }

    /// For people.
    pub(super) fn render(&self, colour: bool) -> String {
        let mut text = String::from("Pod to pod, round trip (shortest / median):\n\n");
        text.push_str(&self.latencies());
        text.push_str("\nChecks that held, of all that were made:\n\n");
        text.push_str(&self.columns());
        let paint = |code: &str, words: &str| {
            if colour { format!("\x1b[{code}m{words}\x1b[0m") } else { words.to_owned() }
        };
        text.push('\n');
        for (node, why) in &self.absent {
            let _ = writeln!(
                text,
                "{} {node}: {why}\n       next: on {node}: warren status, warren doctor",
                paint("31", "FAILED")
            );
        }
        let failed: Vec<&Cell> = self.cells.iter().filter(|c| c.failed()).collect();
        for cell in failed.iter().take(SHOWN) {
            let to = cell.check.to.as_ref().map(|to| format!(" -> {to}")).unwrap_or_default();
            let at = cell.check.address.map(|a| format!(" {a}")).unwrap_or_default();
            let (from, what, why) = (&cell.from, words(cell.check.kind), &cell.check.why);
            let _ = writeln!(text, "{} {from}{to}, {what}{at}: {why}", paint("31", "FAILED"));
            let _ = writeln!(text, "       next: {}", cell.next.as_deref().unwrap_or_default());
        }
        if failed.len() > SHOWN {
            let _ = writeln!(text, "... and {} more; --output json has them all", failed.len() - SHOWN);
        }
        let mut left_out: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for cell in self.cells.iter().filter(|c| c.check.outcome == Outcome::NotChecked) {
            *left_out.entry((words(cell.check.kind), &cell.check.why)).or_default() += 1;
        }
        for ((what, why), times) in left_out {
            let times = if times > 1 { format!(" ({times} times)") } else { String::new() };
            let _ = writeln!(text, "{} {what}{times}: {why}", paint("33", "not checked"));
        }
        let held = self.cells.iter().filter(|c| c.check.outcome == Outcome::Held).count();
        let all = held + failed.len();
        let word = if self.ok { paint("32", "Everything held") } else { paint("31", "Not everything held") };
        let _ = writeln!(text, "{word}: {held} of {all} checks, {} nodes.", self.nodes.len());
        text
    }

    /// Who reaches whom, and how fast; the slower of two families.
    fn latencies(&self) -> String {
        let head = std::iter::once("FROM".to_owned()).chain(self.nodes.iter().map(|n| format!("TO {n}")));
        let mut rows = vec![head.collect::<Vec<_>>()];
        for from in &self.nodes {
            let cell = |to: &NodeName| {
                let of =
                    |c: &&Cell| c.from == *from && c.check.to.as_ref() == Some(to) && c.column == Column::Pod;
                let cells: Vec<&Cell> = self.cells.iter().filter(of).collect();
                if cells.is_empty() {
                    return "-".to_owned();
                }
                if cells.iter().any(|c| c.failed()) {
                    return "FAILED".to_owned();
                }
                let slowest =
                    cells.iter().filter_map(|c| c.check.latency_micros).max_by_key(|(_, median)| *median);
                slowest.map_or_else(
                    || "ok".to_owned(),
                    |(least, median)| format!("{} / {} ms", ms(least), ms(median)),
                )
            };
            rows.push(std::iter::once(from.to_string()).chain(self.nodes.iter().map(cell)).collect());
        }
        output::table(&rows)
    }

    /// How many checks of each kind held.
    fn columns(&self) -> String {
        let head = std::iter::once("FROM").chain(COLUMNS.map(|(_, name)| name));
        let mut rows = vec![head.map(str::to_owned).collect::<Vec<_>>()];
        for from in &self.nodes {
            let cell = |column: Column| {
                let of = |c: &&Cell| {
                    c.from == *from && c.column == column && c.check.outcome != Outcome::NotChecked
                };
                let made = self.cells.iter().filter(of).count();
                let held = self.cells.iter().filter(of).filter(|c| !c.failed()).count();
                if made == 0 { "-".to_owned() } else { format!("{held}/{made}") }
            };
            rows.push(std::iter::once(from.to_string()).chain(COLUMNS.map(|(c, _)| cell(c))).collect());
        }
        output::table(&rows)
    }
}

/// Where checks of this kind held.
fn held(checks: &[Check], kind: CheckKind) -> BTreeSet<(Option<NodeName>, Option<IpAddr>)> {
    let of = |c: &&Check| c.kind == kind && c.outcome == Outcome::Held;
    checks.iter().filter(of).map(|c| (c.to.clone(), c.address)).collect()
}

/// Microseconds as milliseconds.
fn ms(micros: u64) -> String {
    format!("{}.{:02}", micros / 1000, micros % 1000 / 10)
}

#[cfg(test)]
mod tests;
