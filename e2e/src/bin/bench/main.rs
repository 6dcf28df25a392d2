//! Benchmarks beside a named peer, in one run on one machine: `cargo xtask bench cni|overlay`.

mod cni;
mod overlay;

use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        Some("cni") => cni::run(),
        Some("overlay") => overlay::run(),
        _ => Err(anyhow::anyhow!("name a benchmark: cni or overlay")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
