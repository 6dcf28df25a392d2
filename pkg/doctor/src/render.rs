//! The report for people.

use crate::engine::{Report, Status, catalogue};
use std::fmt::Write as _;
use warren_agent::status::age;

fn painted(status: Status, colour: bool, width: usize) -> String {
    let word = format!("{:width$}", status.word());
    let code = match status {
        Status::Failure => "31",
        Status::Warning => "33",
        Status::Note => "36",
        Status::Skipped => "2",
        Status::Ok => "32",
    };
    if colour { format!("\x1b[{code}m{word}\x1b[0m") } else { word }
}

fn counted(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// The text of `warren doctor`: what was found, the worst first, each with what to do; with `all`, also what was skipped or
/// is well.
#[must_use]
pub fn render(report: &Report, all: bool, colour: bool) -> String {
    // Status, check, what, and what to do.
    let mut rows: Vec<(Status, &str, String, Option<&str>)> = Vec::new();
    for check in &report.checks {
        for f in &check.findings {
            rows.push((f.status, check.id, f.finding.clone(), Some(&f.fix)));
        }
        if all && check.findings.is_empty() {
            let what = check.reason.clone().unwrap_or_else(|| check.about.to_owned());
            rows.push((check.status, check.id, what, None));
        }
    }
    rows.sort_by_key(|(status, ..)| *status);
    let id_width = rows.iter().map(|(_, id, ..)| id.len()).max().unwrap_or(0).max("CHECK".len());
    let status_width = Status::Failure.word().len();
    let mut out = String::new();
    let node = if report.node.is_empty() { "this node" } else { &report.node };
    let _ = writeln!(
        out,
        "node {node}  warren {}  kernel {}  booted {} ago",
        report.version,
        report.kernel,
        age(report.booted_seconds_ago)
    );
    if !rows.is_empty() {
        let _ = writeln!(out, "\n{:status_width$}  {:id_width$}  FINDING", "STATUS", "CHECK");
    }
    for (status, id, what, fix) in rows {
        let _ = writeln!(out, "{}  {id:id_width$}  {what}", painted(status, colour, status_width));
        if let Some(fix) = fix {
            let _ = writeln!(out, "{:status_width$}  {:id_width$}  fix: {fix}", "", "");
        }
    }
    let s = report.summary;
    let skipped = if s.skipped == 0 {
        String::new()
    } else {
        format!(", {} skipped{}", s.skipped, if all { "" } else { " (--all says why)" })
    };
    let _ = writeln!(
        out,
        "\n{}, {}, {}; {} found nothing{skipped}",
        counted(s.failure, "failure"),
        counted(s.warning, "warning"),
        counted(s.note, "note"),
        counted(s.ok, "check"),
    );
    out
}

/// The text of `warren doctor --list`.
#[must_use]
pub fn list() -> String {
    let ids = catalogue().iter().flat_map(|g| g.checks).map(|c| c.id.len());
    let width = ids.max().unwrap_or(0);
    let mut out = String::new();
    for group in catalogue() {
        let _ = writeln!(out, "{}", group.name);
        for check in group.checks {
            let _ = writeln!(out, "  {:width$}  {}", check.id, check.about);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::diagnose;
    use crate::testing::healthy;

    #[test]
    fn the_worst_comes_first_in_aligned_columns() {
        let mut facts = healthy();
        facts.clock_kept = Ok(false);
        facts.disk.as_mut().unwrap().read_only = true;
        facts.memory_kib = Err("not told".into());
        let report =
            diagnose(&facts, &["clock-sync", "data-dir-writable", "memory", "ip-forward"].map(str::to_owned));
        let text = render(&report, false, false);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].starts_with("STATUS   CHECK              FINDING"), "{text}");
        assert!(lines[3].starts_with("failure  data-dir-writable  "), "{text}");
        assert!(lines[4].starts_with("                            fix: "), "{text}");
        assert!(lines[5].starts_with("note     clock-sync         "), "{text}");
        assert_eq!(
            lines.last(),
            Some(&"1 failure, 0 warnings, 1 note; 1 check found nothing, 1 skipped (--all says why)")
        );
        assert!(render(&report, true, false).contains("skipped  memory             not told"));
        assert!(render(&report, false, true).contains("\x1b[31mfailure\x1b[0m"));
    }

    #[test]
    fn the_list_names_every_check() {
        let text = list();
        assert!(catalogue().iter().flat_map(|g| g.checks).all(|c| text.contains(c.id)));
    }
}
