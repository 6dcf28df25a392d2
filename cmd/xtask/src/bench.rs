//! Benchmarks: Warren, and where there is one a named peer, in one run, on this machine.

use crate::{build, needs};
use anyhow::{Result, bail};
use std::process::Command;

/// What can be measured.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum What {
    /// Writes, reads, watches and memory of the API server, beside etcd-server.
    Api,
    /// CNI ADD and DEL, beside bridge + host-local + portmap.
    Cni,
    /// HTTP into the cluster: requests a second, processor time and latency, beside nginx and haproxy.
    Ingress,
    /// What a whole agent holds with 100 and with 10,000 Services of two endpoints.
    Memory,
    /// TCP, UDP and ping through the tunnel, beside wireguard-go.
    Overlay,
    /// Network policies: from a row to the kernel, memory, and what isolation costs a connection.
    Policy,
    /// DNS: questions a second, processor time, latency and memory, beside unbound and knot.
    Dns,
    /// Services: from a row to the kernel, memory, churn, connections, beside a full rewrite by nft.
    Proxy,
}

/// How figures are printed.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs; on stdout alone.
    Json,
}

/// Runs one benchmark. Those that start the real binary live among the end-to-end programs.
pub(crate) fn run(what: What, output: Output, args: &[String]) -> Result<()> {
    if !args.is_empty() && !matches!(what, What::Ingress) {
        bail!("only the benchmark of ingress takes arguments; leave out what is behind `--`");
    }
    needs::root()?;
    match what {
        What::Api => needs::for_api_benchmark()?,
        What::Cni => needs::for_cni_benchmark()?,
        What::Dns => needs::for_dns_benchmark()?,
        What::Ingress => needs::for_ingress_benchmark()?,
        What::Memory => {}
        What::Overlay => needs::for_overlay_benchmark()?,
        What::Policy | What::Proxy => needs::for_proxy_benchmark()?,
    }
    let output = match output {
        Output::Table => "table",
        Output::Json => "json",
    };
    let name = match what {
        What::Api => "api",
        What::Cni => "cni",
        What::Memory => "memory",
        What::Overlay => "overlay",
        // One server alone, without the rest of the agent.
        What::Dns => return example("dns", "warren-dns", output, args),
        What::Ingress => return example("ingress", "warren-ingress", output, args),
        // Their clocks start at a row in the store, inside the process.
        What::Policy => return example("policy", "warren-policy", output, args),
        What::Proxy => return example("proxy", "warren-proxy", output, args),
    };
    let binary = build::release()?;
    let mut bench = Command::new(build::benchmarks()?);
    crate::run::run(&format!("bench {name}"), bench.args([name, output]).env("WARREN_BIN", binary))
}

/// Runs the example `bench` of a crate.
fn example(name: &str, package: &str, output: &str, args: &[String]) -> Result<()> {
    let mut bench = crate::run::cargo();
    bench.args(["run", "--release", "--package", package, "--example", "bench", "--", output]).args(args);
    crate::run::run(&format!("bench {name}"), &mut bench)
}
