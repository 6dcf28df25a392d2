//! Running programs: the command is shown, a failure names it.

use anyhow::{Context as _, Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// The workspace's root directory.
pub(crate) fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).map_or(here.clone(), PathBuf::from)
}

/// `cargo`, the one that runs this.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs `command` to its end, showing what is run.
pub(crate) fn run(step: &str, command: &mut Command) -> Result<()> {
    eprintln!("==> {step}");
    let status =
        command.status().with_context(|| format!("{step}: cannot start {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{step}: {status}; repeat it with: {}", line(command));
    }
    Ok(())
}

/// The command as one could type it.
fn line(command: &Command) -> String {
    let envs = command
        .get_envs()
        .filter_map(|(k, v)| v.map(|v| format!("{}={:?} ", k.to_string_lossy(), v.to_string_lossy())));
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    envs.collect::<String>() + &words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
