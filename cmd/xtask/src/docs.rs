//! What people read: pages that the code writes, and links that lead somewhere.

use crate::run::{cargo, root, run};
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// Directories of this repository; a word of a page that begins with one is a path.
const PLACES: [&str; 8] =
    ["docs/", "e2e/", "pkg/", "cmd/", "packaging/", "vagrant/", "embedded-manifests/", ".ci/"];

/// Writes the parts of docs/ that the code makes. The tests of `warren` compare them.
pub(crate) fn write() -> Result<()> {
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--bin", "warren", "--", "manual::"]).env("WARREN_UPDATE_DOCS", "1");
    run("write the references", &mut tests)
}

/// Fails on a link or a path that leads nowhere, and on a page of docs/ that its index does not name.
pub(crate) fn check() -> Result<()> {
    eprintln!("==> links and paths in pages");
    let root = root();
    let mut pages = Vec::new();
    collect(&root, &mut pages)?;
    let mut faults = Vec::new();
    for page in &pages {
        let text = fs::read_to_string(page).with_context(|| page.display().to_string())?;
        let shown = page.strip_prefix(&root).unwrap_or(page).display();
        let lost = links(&text).filter(|link| !leads(page, link));
        faults.extend(lost.map(|link| format!("{shown}: ({link}) leads nowhere")));
        let lost = paths(&text).filter(|path| !root.join(path).exists());
        faults.extend(lost.map(|path| format!("{shown}: there is no {path}")));
    }
    let docs = root.join("docs");
    let index = fs::read_to_string(docs.join("README.md")).context("docs/README.md")?;
    for page in pages.iter().filter_map(|page| page.strip_prefix(&docs).ok()) {
        let name = page.display().to_string();
        if name != "README.md" && !links(&index).any(|link| link == name) {
            faults.push(format!("docs/README.md does not name {name}"));
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// The pages below a directory, but for what is built and what is hidden.
fn collect(dir: &Path, pages: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            if !name.starts_with('.') && name != "target" && name != "node_modules" {
                collect(&entry.path(), pages)?;
            }
        } else if name.ends_with(".md") {
            pages.push(entry.path());
        }
    }
    Ok(())
}

/// Targets of `[text](target)` that are in this repository.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    targets.filter(|target| !target.contains("://") && !target.contains(char::is_whitespace))
}

fn leads(page: &Path, link: &str) -> bool {
    let (file, heading) = link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
    let target = match file {
        "" => page.to_owned(),
        _ => page.with_file_name(file),
    };
    let Some(heading) = heading else { return target.exists() };
    let Ok(text) = fs::read_to_string(target) else { return false };
    text.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == heading)
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Paths of this repository that a text names; those with a pattern in them are left out.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_alphanumeric() || "._-/*{},$<>".contains(c);
    let words = text.split(move |c| !is_part(c));
    let named = words.filter(|word| PLACES.iter().any(|place| word.starts_with(place)));
    named
        .filter(|word| !word.contains(['*', '{', '$', '<']))
        .map(|word| word.trim_end_matches(['.', ',', '/']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_paths_and_anchors_are_found() {
        let text = "See [a](b.md), [c](https://x.example/) and [d](e/f.md#g-h). By `cmd/xtask/src`, docs/lab.md, \
                    e2e/tests/services*.rs, /usr/docs/x and vagrant/.";
        assert_eq!(links(text).collect::<Vec<_>>(), ["b.md", "e/f.md#g-h"]);
        assert_eq!(paths(text).collect::<Vec<_>>(), ["cmd/xtask/src", "docs/lab.md", "vagrant"]);
        assert_eq!(anchor("## `warren lab`: what, and why"), "warren-lab-what-and-why");
    }

    #[test]
    fn a_link_that_leads_nowhere_is_a_fault() {
        let dir = tempfile::tempdir().unwrap();
        let page = dir.path().join("a.md");
        fs::write(&page, "# One thing\n").unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        for (link, well) in [
            ("a.md", true),
            ("b", true),
            ("#one-thing", true),
            ("a.md#one-thing", true),
            ("c.md", false),
            ("#two", false),
        ] {
            assert_eq!(leads(&page, link), well, "{link}");
        }
    }
}
