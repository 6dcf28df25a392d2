//! Benchmarks: Warren and a named peer, in one run, on this machine.

use crate::{build, needs};
use anyhow::Result;
use std::process::Command;

/// What can be measured.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum What {
    /// Writes, reads, watches and memory of the API server, beside etcd-server.
    Api,
    /// CNI ADD and DEL, beside bridge + host-local + portmap.
    Cni,
    /// TCP, UDP and ping through the tunnel, beside wireguard-go.
    Overlay,
}

/// How figures are printed.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs; on stdout alone.
    Json,
}

/// Runs one benchmark, which lives among the end-to-end programs because it starts the real binary.
pub(crate) fn run(what: What, output: Output) -> Result<()> {
    needs::root()?;
    match what {
        What::Api => needs::for_api_benchmark()?,
        What::Cni => needs::for_cni_benchmark()?,
        What::Overlay => needs::for_overlay_benchmark()?,
    }
    let binary = build::release()?;
    let name = match what {
        What::Api => "api",
        What::Cni => "cni",
        What::Overlay => "overlay",
    };
    let output = match output {
        Output::Table => "table",
        Output::Json => "json",
    };
    let mut bench = Command::new(build::binary("build the benchmarks", "bench")?);
    crate::run::run(&format!("bench {name}"), bench.args([name, output]).env("WARREN_BIN", binary))
}
