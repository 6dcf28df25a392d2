//! Running programs: the command is shown, a failure names it.

use anyhow::{Context as _, Result, bail};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

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

/// The same command, which leaves the processor to whoever wants it.
pub(crate) fn yielding(command: &Command) -> Command {
    let mut nice = Command::new("nice");
    nice.args(["-n", "19"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => nice.env(name, value),
            None => nice.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        nice.current_dir(dir);
    }
    nice
}

/// A command that runs beside others. It is ended when they fail.
pub(crate) struct Beside {
    step: String,
    again: String,
    child: Child,
    /// Where its output is, when nobody has seen it.
    said: Option<PathBuf>,
}

impl Beside {
    /// Starts `command`, which speaks between the others.
    pub(crate) fn start(step: &str, command: &mut Command) -> Result<Self> {
        eprintln!("==> {step}");
        let child =
            command.spawn().with_context(|| format!("{step}: cannot start {:?}", command.get_program()))?;
        Ok(Self { step: step.to_owned(), again: line(command), child, said: None })
    }

    /// Starts `command`; what it has to say is shown at its end, and is in the file `said` until then.
    pub(crate) fn start_quietly(step: &str, command: &mut Command, said: &Path) -> Result<Self> {
        let file = File::create(said).with_context(|| said.display().to_string())?;
        let again = file.try_clone().context("duplicate a descriptor")?;
        let step = format!("{step}, see {}", said.display());
        let mut started = Self::start(&step, command.stdout(file).stderr(again))?;
        started.said = Some(said.to_owned());
        Ok(started)
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Result<()> {
        let status = self.child.wait().with_context(|| self.step.clone())?;
        if let Some(said) = &self.said {
            let mut said = File::open(said).with_context(|| said.display().to_string())?;
            eprintln!("==> {} said", self.step);
            std::io::copy(&mut said, &mut std::io::stdout()).context("show what it said")?;
        }
        match status.success() {
            true => Ok(()),
            false => bail!("{}: {status}; repeat it with: {}", self.step, self.again),
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // Nothing to do about a failure: it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command as one could type it.
fn line(command: &Command) -> String {
    let envs = command
        .get_envs()
        .filter_map(|(k, v)| v.map(|v| format!("{}={:?} ", k.to_string_lossy(), v.to_string_lossy())));
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    envs.collect::<String>() + &words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
