//! The release binary: static, for the machine's own architecture.

use crate::run::{cargo, root, run};
use anyhow::{Context as _, Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// The target triple of the toolchain in use.
pub(crate) fn host_triple() -> Result<String> {
    let out = Command::new("rustc").arg("-vV").output().context("rustc -vV: is Rust installed?")?;
    let text = String::from_utf8_lossy(&out.stdout);
    let host = text.lines().find_map(|l| l.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV printed no host line")
}

/// `cargo` set up for static release builds of the binary and of the end-to-end programs. Naming the target keeps the
/// flag off build scripts; naming both packages each time makes cargo choose the same features of what both stand on, so
/// that it is built once.
pub(crate) fn static_cargo(verb: &str) -> Result<Command> {
    let mut command = cargo();
    command.arg(verb).args(["--release", "--target", &host_triple()?]);
    command.args(["--package", "warren", "--package", "warren-e2e"]);
    command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    Ok(command)
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Builds the release binary; returns its path.
pub(crate) fn release() -> Result<PathBuf> {
    binary("build the release binary", "warren")
}

/// Builds a program as the release binary is built; returns its path.
pub(crate) fn binary(step: &str, name: &str) -> Result<PathBuf> {
    run(step, static_cargo("build")?.args(["--bin", name]))?;
    let binary = target_dir().join(host_triple()?).join("release").join(name);
    if !binary.is_file() {
        bail!("the build left no {}", binary.display());
    }
    Ok(binary)
}

/// `cargo xtask lab`: build, then `warren lab up`.
pub(crate) fn lab(args: &[String]) -> Result<()> {
    crate::needs::root()?;
    let binary = release()?;
    run("bring up the lab", Command::new(&binary).args(["lab", "up"]).args(args))
}
