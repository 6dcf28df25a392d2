//! The engine: facts in, findings out. Pure, so the same facts always give the same report.

use crate::checks;
use crate::facts::Facts;
use serde::Serialize;
use std::fmt::Write as _;

/// How a check ended, or how much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Something does not work, or will not.
    Failure,
    /// Something may not work, or stops working when nobody acts.
    Warning,
    /// Good to know; nothing has to be done.
    Note,
    /// What the check needs is not known.
    Skipped,
    /// Nothing was found.
    Ok,
}

impl Status {
    /// The word for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Warning => "warning",
            Self::Note => "note",
            Self::Skipped => "skipped",
            Self::Ok => "ok",
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// How much it matters.
    pub status: Status,
    /// What is so, with the names of what it is about.
    pub finding: String,
    /// What to type or do next.
    pub fix: String,
}

pub(crate) fn failure(finding: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { status: Status::Failure, finding: finding.into(), fix: fix.into() }
}
pub(crate) fn warning(finding: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { status: Status::Warning, finding: finding.into(), fix: fix.into() }
}
pub(crate) fn note(finding: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { status: Status::Note, finding: finding.into(), fix: fix.into() }
}

/// What a check says: its findings, none when all is well; or why it could not look.
pub(crate) type Verdict = Result<Vec<Finding>, String>;

/// A check.
pub struct Check {
    /// Its name, which stays.
    pub id: &'static str,
    /// What it looks at.
    pub about: &'static str,
    /// What it says when it finds something: `failure`, `warning`, `note`, or several of them.
    pub says: &'static str,
    pub(crate) run: fn(&Facts) -> Verdict,
}

/// Checks that belong together.
pub struct Group {
    /// Heading.
    pub name: &'static str,
    /// In the order in which they are told.
    pub checks: &'static [Check],
}

/// Every check, by group.
#[must_use]
pub fn catalogue() -> &'static [Group] {
    checks::ALL
}

/// What one check said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckResult {
    /// The check.
    pub id: &'static str,
    /// Its group.
    pub group: &'static str,
    /// The worst of its findings.
    pub status: Status,
    /// What it looks at.
    pub about: &'static str,
    /// Why it was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it found.
    pub findings: Vec<Finding>,
}

/// How many checks ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Failed.
    pub failure: usize,
    /// Warned.
    pub warning: usize,
    /// Noted something.
    pub note: usize,
    /// Could not look.
    pub skipped: usize,
    /// Found nothing.
    pub ok: usize,
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The node.
    pub node: String,
    /// Version of this program.
    pub version: &'static str,
    /// Release of the kernel.
    pub kernel: String,
    /// Seconds since the machine booted.
    pub booted_seconds_ago: u64,
    /// Counts.
    pub summary: Summary,
    /// The checks, in the order of the catalogue.
    pub checks: Vec<CheckResult>,
}

/// Runs those checks that `selected` names; all when it is empty.
#[must_use]
pub fn diagnose(facts: &Facts, selected: &[String]) -> Report {
    let mut checks = Vec::new();
    let mut summary = Summary::default();
    let wanted = |id: &str| selected.is_empty() || selected.iter().any(|s| s == id);
    for group in catalogue() {
        for check in group.checks.iter().filter(|c| wanted(c.id)) {
            let (findings, reason) = match (check.run)(facts) {
                Ok(findings) => (findings, None),
                Err(reason) => (Vec::new(), Some(reason)),
            };
            let worst = findings.iter().map(|f| f.status).min();
            let status = match &reason {
                Some(_) => Status::Skipped,
                None => worst.unwrap_or(Status::Ok),
            };
            *match status {
                Status::Failure => &mut summary.failure,
                Status::Warning => &mut summary.warning,
                Status::Note => &mut summary.note,
                Status::Skipped => &mut summary.skipped,
                Status::Ok => &mut summary.ok,
            } += 1;
            let (id, about) = (check.id, check.about);
            checks.push(CheckResult { id, group: group.name, status, about, reason, findings });
        }
    }
    Report {
        node: facts.node_name(),
        version: env!("CARGO_PKG_VERSION"),
        kernel: facts.kernel_release.clone(),
        booted_seconds_ago: facts.booted_seconds_ago,
        summary,
        checks,
    }
}

/// The table of all checks for docs/doctor.md.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::new();
    for group in catalogue() {
        let _ = writeln!(out, "### {}\n\n| Check | Looks at | Says |\n|---|---|---|", group.name);
        for check in group.checks {
            let _ = writeln!(out, "| `{}` | {} | {} |", check.id, check.about, check.says);
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::healthy;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_kebab_case_and_each_is_there_once() {
        let all: Vec<&str> = catalogue().iter().flat_map(|g| g.checks).map(|c| c.id).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        for id in all {
            assert!(id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{id}");
        }
        assert!(catalogue().iter().flat_map(|g| g.checks).all(|c| !c.about.contains('|')));
    }

    #[test]
    fn a_healthy_node_has_no_findings_and_nothing_is_skipped() {
        let report = diagnose(&healthy(), &[]);
        let odd: Vec<_> = report.checks.iter().filter(|c| c.status != Status::Ok).collect();
        assert!(odd.is_empty(), "{odd:#?}");
    }

    #[test]
    fn nothing_known_is_nothing_found() {
        let report = diagnose(&Facts::default(), &[]);
        let odd: Vec<_> = report.checks.iter().filter(|c| c.status < Status::Note).collect();
        assert!(odd.is_empty(), "{odd:#?}");
    }

    #[test]
    fn only_selected_checks_run() {
        let report = diagnose(&healthy(), &["ip-forward".into()]);
        assert_eq!(report.checks.iter().map(|c| c.id).collect::<Vec<_>>(), ["ip-forward"]);
        assert_eq!(report.summary, Summary { ok: 1, ..Summary::default() });
    }
}
