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

/// `cargo` set up for static release builds. Naming the target keeps the flag off build scripts.
pub(crate) fn static_cargo(verb: &str) -> Result<Command> {
    let mut command = cargo();
    command.arg(verb).args(["--release", "--target", &host_triple()?]);
    command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    Ok(command)
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Builds the release binary; returns its path.
pub(crate) fn release() -> Result<PathBuf> {
    run("build the release binary", static_cargo("build")?.args(["--package", "warren"]))?;
    let binary = target_dir().join(host_triple()?).join("release/warren");
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
