//! What packages put on a machine, and what they say of themselves. A package starts nothing: a node needs its role and
//! its server first.

use super::archive::gzip;
use super::release::Release;
use super::tree::Tree;
use crate::run::root;
use anyhow::{Context as _, Result};
use std::fs;

/// One line.
pub(super) const SUMMARY: &str = "complete cluster network in one binary";
/// Lines of the description.
pub(super) const DESCRIPTION: [&str; 4] = [
    "Warren attaches pods by CNI, connects nodes by WireGuard, and serves Services,",
    "cluster DNS, network policies, load-balancer addresses and ingress, on an",
    "embedded control plane or on any Kubernetes API. It needs no image and no",
    "program besides itself.",
];
/// Who is to be written to: nobody, by a name that can never exist (RFC 2606).
pub(super) const MAINTAINER: &str = "Warren <warren@warren.invalid>";

/// Files of a package; the licences go to the directory `licenses`.
pub(super) fn tree(release: &Release, licenses: &str) -> Result<Tree> {
    let mut tree = Tree::default();
    tree.file("usr/bin/warren", 0o755, release.binary.clone());
    for (path, script) in &release.completions {
        tree.file(path, 0o644, script.clone());
    }
    for (name, unit) in &release.units {
        tree.file(&format!("usr/lib/systemd/system/{name}"), 0o644, unit.clone());
    }
    for (path, text) in self::licenses(release, licenses)? {
        tree.file(&path, 0o644, text);
    }
    tree.file("usr/share/doc/warren/sbom.cdx.json.gz", 0o644, gzip(&release.sbom)?);
    Ok(tree)
}

/// Warren's own licence and those of its parts, as files of the directory `place`.
pub(super) fn licenses(release: &Release, place: &str) -> Result<[(String, Vec<u8>); 2]> {
    let license = fs::read_to_string(root().join("LICENSE")).context("LICENSE")?;
    let parts = "Warren is under the Apache License, Version 2.0, below.\n\
                 What is linked into it is under the licences in licenses.txt.gz beside this file.\n\n";
    Ok([
        (format!("{place}/LICENSE"), format!("{parts}{license}").into_bytes()),
        (format!("{place}/licenses.txt.gz"), gzip(&release.licenses)?),
    ])
}

/// A script of packaging that a package manager runs, with the names of the units in place of `@UNITS@`.
pub(super) fn script(release: &Release, name: &str) -> Result<String> {
    let path = root().join("packaging").join(name);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let units: Vec<&str> = release.units.iter().map(|(name, _)| name.as_str()).collect();
    Ok(text.replace("@UNITS@", &units.join(" ")))
}

/// Disk space in KiB, as Debian's policy counts it: files rounded up, one for each directory.
pub(super) fn installed_kibibytes(tree: &Tree) -> usize {
    tree.iter().map(|(_, entry)| entry.bytes().len().div_ceil(1024).max(1)).sum()
}
