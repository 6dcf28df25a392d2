//! What the binary is made of on its target: the packages that cargo links into it, as cargo resolves them for the release
//! build, and what the toolchain adds. Build scripts, procedural macros and tests are not in the binary and not here.

use super::release::output;
use crate::build::{metadata, static_packages};
use crate::run::{cargo, root};
use anyhow::{Context as _, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Name and version: one version of a package is once in a binary.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) name: String,
    pub(super) version: String,
}

/// A package from a registry, or one of Warren's own.
pub(super) struct Component {
    /// The manifest's SPDX expression.
    pub(super) license: String,
    pub(super) authors: Vec<String>,
    /// Where its source is on this machine.
    pub(super) source: PathBuf,
    /// SHA-256 of its archive, as Cargo.lock has it; Warren's own have none.
    pub(super) checksum: Option<String>,
    /// What it is linked with.
    pub(super) uses: BTreeSet<Id>,
}

/// A library that the toolchain links in.
pub(super) struct Runtime {
    pub(super) name: &'static str,
    pub(super) version: String,
    pub(super) license: &'static str,
    /// The file with its copyrights and licences.
    pub(super) text: PathBuf,
}

/// Everything in the binary.
pub(super) struct Components {
    /// Warren's version.
    pub(super) version: String,
    pub(super) packages: BTreeMap<Id, Component>,
    pub(super) runtime: Vec<Runtime>,
    /// The package that the authorities in the container image come from; it is not in the binary.
    pub(super) roots: (Id, Component),
}

/// The package that the authorities in the container image come from.
const ROOTS: &str = "webpki-root-certs";

/// Reads them for `triple`.
pub(super) fn of_the_binary(triple: &str) -> Result<Components> {
    let metadata = metadata(triple)?;
    let checksums = checksums(&fs::read_to_string(root().join("Cargo.lock")).context("Cargo.lock")?);
    let component = |id: &Id, uses: BTreeSet<Id>| -> Result<Component> {
        let same =
            |p: &&cargo_metadata::Package| p.name.as_str() == id.name && p.version.to_string() == id.version;
        let package = metadata.packages.iter().find(same).with_context(|| format!("no package {id:?}"))?;
        Ok(Component {
            license: package.license.clone().unwrap_or_default(),
            authors: package.authors.clone(),
            source: package.manifest_path.parent().map(Into::into).unwrap_or_default(),
            checksum: checksums.get(id).cloned(),
            uses,
        })
    };
    let mut tree = cargo();
    tree.args(["tree", "--locked", "--target", triple, "--edges", "normal,no-proc-macro"]);
    tree.args(["--prefix", "depth", "--format", " {p}", "--charset", "ascii"]).args(static_packages());
    let text = String::from_utf8(output(&mut tree)?).context("cargo tree")?;
    let edges = parse(&text)?;
    let warren = edges.keys().find(|id| id.name == "warren").context("cargo tree names no warren")?.clone();
    let mut packages = BTreeMap::new();
    let mut ahead = vec![warren.clone()];
    while let Some(id) = ahead.pop() {
        if packages.contains_key(&id) {
            continue;
        }
        let uses = edges.get(&id).cloned().unwrap_or_default();
        ahead.extend(uses.iter().cloned());
        packages.insert(id.clone(), component(&id, uses)?);
    }
    let roots = metadata.packages.iter().find(|p| p.name.as_str() == ROOTS).context(ROOTS)?;
    let roots = Id { name: ROOTS.into(), version: roots.version.to_string() };
    let data = component(&roots, BTreeSet::new())?;
    Ok(Components { version: warren.version, packages, runtime: runtime()?, roots: (roots, data) })
}

/// Reads the lines of `cargo tree --prefix depth`: who uses whom. A package that was shown before is shown again without
/// what it uses.
fn parse(text: &str) -> Result<BTreeMap<Id, BTreeSet<Id>>> {
    let mut edges: BTreeMap<Id, BTreeSet<Id>> = BTreeMap::new();
    let mut above: Vec<Id> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let mut words = line.split_whitespace();
        let (Some(depth), Some(name), Some(version)) = (words.next(), words.next(), words.next()) else {
            bail!("cargo tree: {line:?}");
        };
        let depth: usize = depth.parse().with_context(|| format!("cargo tree: {line:?}"))?;
        let version = version.strip_prefix('v').unwrap_or(version).to_owned();
        let id = Id { name: name.to_owned(), version };
        above.truncate(depth);
        if let Some(user) = above.last() {
            edges.entry(user.clone()).or_default().insert(id.clone());
        }
        edges.entry(id.clone()).or_default();
        above.push(id);
    }
    Ok(edges)
}

/// The checksums of Cargo.lock.
fn checksums(lock: &str) -> BTreeMap<Id, String> {
    let value = |part: &str, key: &str| {
        let line = part.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""))?;
        line.strip_suffix('"').map(str::to_owned)
    };
    let one = |part| {
        let id = Id { name: value(part, "name")?, version: value(part, "version")? };
        Some((id, value(part, "checksum")?))
    };
    lock.split("[[package]]").filter_map(one).collect()
}

/// What a static program of Rust has besides packages: Rust's standard library, the C library, and GCC's unwinder.
fn runtime() -> Result<Vec<Runtime>> {
    let line = |command: &mut Command| -> Result<String> {
        Ok(String::from_utf8_lossy(&output(command)?).trim().to_owned())
    };
    let sysroot = PathBuf::from(line(Command::new("rustc").args(["--print", "sysroot"]))?);
    let rust = line(Command::new("rustc").arg("--version"))?;
    let gcc = line(Command::new("cc").arg("-dumpversion"))?;
    let gcc = format!("libgcc-{gcc}-dev");
    let debian = |package: &str| {
        let version = line(Command::new("dpkg-query").args(["--show", "--showformat=${Version}", package]));
        version.context(
            "releases are built on Debian: the package that the C library comes from names its version",
        )
    };
    let copyright = |package: &str| PathBuf::from(format!("/usr/share/doc/{package}/copyright"));
    Ok(vec![
        Runtime {
            name: "rust-standard-library",
            version: rust.split(' ').nth(1).context("rustc --version")?.to_owned(),
            license: "MIT OR Apache-2.0",
            text: sysroot.join("share/doc/rust/COPYRIGHT-library.html"),
        },
        Runtime {
            name: "glibc",
            version: debian("libc6-dev")?,
            license: "LGPL-2.1-or-later",
            text: copyright("libc6-dev"),
        },
        Runtime {
            name: "libgcc",
            version: debian(&gcc)?,
            license: "GPL-3.0-or-later WITH GCC-exception-3.1",
            text: copyright(&gcc),
        },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str, version: &str) -> Id {
        Id { name: name.into(), version: version.into() }
    }

    #[test]
    fn a_package_shown_twice_keeps_what_it_uses() {
        let text = "0 e v1 (/e)\n1 b v2\n2 c v3\n\n0 warren v1 (/w)\n1 b v2 (*)\n1 d v4\n";
        let edges = parse(text).unwrap();
        assert_eq!(edges[&id("warren", "1")], BTreeSet::from([id("b", "2"), id("d", "4")]));
        assert_eq!(edges[&id("b", "2")], BTreeSet::from([id("c", "3")]));
        assert!(edges[&id("c", "3")].is_empty());
    }

    #[test]
    fn checksums_are_those_of_the_lock() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"ab\"\n\n\
                    [[package]]\nname = \"own\"\nversion = \"0.1.0\"\n";
        assert_eq!(checksums(lock), BTreeMap::from([(id("a", "1.0.0"), "ab".to_owned())]));
    }
}
