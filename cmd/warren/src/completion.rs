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
pub(crate) fn run(args: CompletionArgs, tree: &clap::Command) -> anyhow::Result<ExitCode> {
    crate::output::text(&String::from_utf8_lossy(&script(args.shell, tree)));
    Ok(ExitCode::SUCCESS)
}

fn script(shell: Shell, tree: &clap::Command) -> Vec<u8> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut tree.clone(), "warren", &mut script);
    script
}

/// The scripts of bash, zsh and fish.
pub(crate) fn scripts(tree: &clap::Command) -> [Vec<u8>; 3] {
    [Shell::Bash, Shell::Zsh, Shell::Fish].map(|shell| script(shell, tree))
}
