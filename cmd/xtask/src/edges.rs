//! Dependency edges: ARCHITECTURE.md says who may use whom; `cargo metadata` says who does.

use crate::run::root;
use anyhow::{Context as _, Result, bail};
use std::collections::{BTreeMap, BTreeSet};

type Edges = BTreeMap<String, BTreeSet<String>>;

/// Fails on an edge that the table does not list, and on a crate that it does not name.
pub(crate) fn check() -> Result<()> {
    eprintln!("==> dependency edges");
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    let faults = compare(&parse(&text)?, &actual()?);
    if !faults.is_empty() {
        bail!("dependency edges: {}", faults.join("; "));
    }
    Ok(())
}

/// Reads the table between the `edges` comments.
fn parse(text: &str) -> Result<Edges> {
    let table = text.split("<!-- edges -->").nth(1).and_then(|t| t.split("<!-- /edges -->").next());
    let table = table.context("ARCHITECTURE.md has no table between <!-- edges --> and <!-- /edges -->")?;
    let mut edges = Edges::new();
    for row in table.lines().filter(|l| l.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').collect();
        let names =
            |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
        let Some(name) = cells.get(1).and_then(|c| names(c).pop_first()) else { continue };
        let uses = cells.get(2).copied().unwrap_or_default();
        let uses =
            if uses.contains("all of the above") { edges.keys().cloned().collect() } else { names(uses) };
        edges.insert(name, uses);
    }
    Ok(edges)
}

/// The workspace's own edges, test and build dependencies included.
fn actual() -> Result<Edges> {
    let metadata = cargo_metadata::MetadataCommand::new().current_dir(root()).no_deps().exec()?;
    let own: BTreeSet<String> = metadata.packages.iter().map(|p| p.name.to_string()).collect();
    let edges = metadata.packages.iter().map(|p| {
        let uses = p.dependencies.iter().map(|d| d.name.clone()).filter(|d| own.contains(d));
        (p.name.to_string(), uses.collect())
    });
    Ok(edges.collect())
}

fn compare(allowed: &Edges, actual: &Edges) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, uses) in actual {
        match allowed.get(name) {
            None => faults.push(format!("{name} is not in ARCHITECTURE.md")),
            Some(may) => {
                faults.extend(uses.difference(may).map(|d| format!("{name} must not use {d}")));
            }
        }
    }
    faults.extend(allowed.keys().filter(|n| !actual.contains_key(*n)).map(|n| format!("{n} does not exist")));
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "x\n<!-- edges -->\n| Crate | May use |\n|---|---|\n| `a` | |\n| `b` | `a` |\n| `c` | all of the above |\n<!-- /edges -->";

    #[test]
    fn an_unlisted_edge_and_an_unknown_crate_are_faults() {
        let allowed = parse(TABLE).unwrap();
        assert_eq!(allowed["c"].len(), 2);
        let actual: Edges = [
            ("a".into(), BTreeSet::from(["b".into()])),
            ("b".into(), BTreeSet::from(["a".into()])),
            ("d".into(), BTreeSet::new()),
        ]
        .into();
        assert_eq!(
            compare(&allowed, &actual),
            ["a must not use b", "d is not in ARCHITECTURE.md", "c does not exist"]
        );
    }
}
