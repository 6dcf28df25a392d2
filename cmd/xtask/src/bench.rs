//! Benchmarks: Warren and a named peer, in one run, on this machine.

use crate::{build, needs};
use anyhow::Result;

/// What can be measured.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum What {
    /// CNI ADD and DEL, beside bridge + host-local + portmap.
    Cni,
    /// TCP, UDP and ping through the tunnel, beside wireguard-go.
    Overlay,
}

/// Runs one benchmark, which lives among the end-to-end programs because it starts the real binary.
pub(crate) fn run(what: What) -> Result<()> {
    needs::root()?;
    needs::for_benchmarks()?;
    let binary = build::release()?;
    let name = match what {
        What::Cni => "cni",
        What::Overlay => "overlay",
    };
    let mut bench = build::static_cargo("run")?;
    bench
        .args(["--quiet", "--package", "warren-e2e", "--bin", "bench", "--", name])
        .env("WARREN_BIN", binary);
    crate::run::run(&format!("bench {name}"), &mut bench)
}
