//! The release binary: static, for the machine's own architecture.

use crate::run::{cargo, root, run};
use anyhow::{Context as _, Result, bail, ensure};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

/// The target triple of the toolchain in use.
pub(crate) fn host_triple() -> Result<String> {
    let out = Command::new("rustc").arg("-vV").output().context("rustc -vV: is Rust installed?")?;
    let text = String::from_utf8_lossy(&out.stdout);
    let host = text.lines().find_map(|l| l.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV printed no host line")
}

/// The packages of static release builds. Naming both each time makes cargo choose the same features of what both stand
/// on, so that it is built once.
pub(crate) fn static_packages() -> [&'static str; 4] {
    ["--package", "warren", "--package", "warren-e2e"]
}

/// `cargo` set up for static release builds of the binary and of the end-to-end programs. Naming the target keeps the
/// flags off build scripts.
pub(crate) fn static_cargo(verb: &str) -> Result<Command> {
    let mut command = cargo();
    command.arg(verb).args(["--release", "--target", &host_triple()?]);
    command.args(static_packages());
    command.env("RUSTFLAGS", static_flags()?);
    Ok(command)
}

/// Flags of static release builds: no libraries of the system, and neutral names in place of this machine's directories,
/// which else were in the messages of panics. The registry's name differs with mirrors, so its directory is asked for.
fn static_flags() -> Result<String> {
    let metadata = metadata(&host_triple()?)?;
    let registries = metadata.packages.iter().filter(|p| p.source.is_some());
    let registries = registries.filter_map(|p| p.manifest_path.parent()?.parent());
    let mut names: BTreeMap<PathBuf, &str> = registries.map(|r| (r.into(), "/crates")).collect();
    names.insert(target_dir(), "/target");
    names.insert(root(), "/warren");
    let mut flags = "-C target-feature=+crt-static".to_owned();
    // Generic code for many kinds of objects comes out the same: one copy of each function is kept. The linker that Rust has for
    // this target can do that.
    if host_triple()? == "x86_64-unknown-linux-gnu" {
        flags.push_str(" -C link-arg=-Wl,--icf=all");
    }
    // Where one directory is in another the last flag wins: sorted, the longer path comes later.
    for (place, name) in names {
        let place = place.display().to_string();
        ensure!(
            !place.contains(char::is_whitespace),
            "{place}: build in a directory without blanks in its path"
        );
        flags.push_str(&format!(" --remap-path-prefix={place}={name}"));
    }
    Ok(flags)
}

/// What cargo knows of the packages that this workspace needs on `triple`. Cargo.lock stays as it is.
pub(crate) fn metadata(triple: &str) -> Result<cargo_metadata::Metadata> {
    let mut command = cargo_metadata::MetadataCommand::new();
    command.current_dir(root());
    command.other_options(["--locked", "--filter-platform", triple].map(str::to_owned));
    command.exec().context("cargo metadata")
}

/// Cargo's own directory, with the sources of packages.
pub(crate) fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME") {
        return Ok(home.into());
    }
    std::env::home_dir().map(|home| home.join(".cargo")).context("neither CARGO_HOME nor HOME is set")
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Builds the release binary; returns its path.
pub(crate) fn release() -> Result<PathBuf> {
    built("build the release binary", "--bin", "warren", "warren")
}

/// Builds the benchmarks that start the release binary, as it is built; returns their path.
pub(crate) fn benchmarks() -> Result<PathBuf> {
    built("build the benchmarks", "--example", "bench", "examples/bench")
}

fn built(step: &str, kind: &str, name: &str, place: &str) -> Result<PathBuf> {
    run(step, static_cargo("build")?.args([kind, name]))?;
    let program = target_dir().join(host_triple()?).join("release").join(place);
    if !program.is_file() {
        bail!("the build left no {}", program.display());
    }
    Ok(program)
}

/// `cargo xtask lab`: build, then `warren lab up`.
pub(crate) fn lab(args: &[String]) -> Result<()> {
    crate::needs::root()?;
    let binary = release()?;
    run("bring up the lab", Command::new(&binary).args(["lab", "up"]).args(args))
}
