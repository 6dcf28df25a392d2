//! `warren completion SHELL`: the completion script of a shell.

use clap::ValueEnum;
use std::process::ExitCode;

/// Shells with a completion script.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    /// GNU Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// Fish.
    Fish,
}

/// Arguments of `warren completion`.
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(args: CompletionArgs, mut tree: clap::Command) -> anyhow::Result<ExitCode> {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut tree, "warren", &mut script);
    crate::output::text(&String::from_utf8_lossy(&script));
    Ok(ExitCode::SUCCESS)
}
