//! Developers' verbs: `cargo xtask check | docs | build | test | e2e | vm | bench | lab | dist`.

mod bench;
mod build;
mod check;
mod dist;
mod docs;
mod edges;
mod needs;
mod run;
mod test;
mod vm;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Developers' verbs of Warren.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Builds the release binary (static) and prints its path.
    Build,
    /// Builds the release binary and brings up a three-node cluster on this machine.
    Lab {
        /// Passed on to `warren lab up`, for example `--nodes 5 --topology nat --dual-stack`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Every test: unit, property, end to end in namespaces, `dist --verify`, and `vm`. Needs root.
    Test,
    /// The end-to-end tests only. Needs root.
    E2e {
        /// Passed on to the test runner, for example a test's name.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// The end-to-end tests of the kernel WireGuard backend: a lab inside a QEMU machine, then two machines. Needs root.
    Vm,
    /// fmt, clippy, docs, links, dependency edges.
    Check,
    /// Writes the references of docs/ that the code makes: commands, configuration, metrics, checks of the doctor.
    Docs,
    /// Builds the release binary and packs it: binary, .deb, .rpm, container image, air-gap bundle, list of components,
    /// licences.
    Dist(dist::DistArgs),
    /// A benchmark beside its peer, in one run. Needs root.
    Bench {
        /// What to measure.
        what: bench::What,
        /// How figures are printed.
        #[arg(long, value_enum, default_value = "table")]
        output: bench::Output,
        /// Passed on to the benchmark of ingress, for example `-- --only tls,h2 --rounds 1 --seconds 1`.
        #[arg(last = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Build => build::release().map(|p| println!("{}", p.display())),
        Verb::Lab { args } => build::lab(&args),
        Verb::Test => test::all(),
        Verb::E2e { args } => test::e2e(&args),
        Verb::Vm => vm::run_tests(),
        Verb::Check => check::all(),
        Verb::Docs => docs::write(),
        Verb::Dist(args) => dist::run(&args),
        Verb::Bench { what, output, args } => bench::run(what, output, &args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
