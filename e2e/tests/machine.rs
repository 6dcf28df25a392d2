//! What only a machine with WireGuard and netem in its kernel can show: `cargo xtask vm` runs these inside QEMU.

use anyhow::{Result, ensure};
use std::time::Duration;
use warren_e2e::{Lab, patient, scenario};

fn kernel_lab(test: &str) -> Result<Lab> {
    let lab = Lab::up(test, &["--dual-stack", "--pods", "1"])?;
    for node in ["node-1", "node-2", "node-3"] {
        let status = lab.agent_status(node)?;
        let backend = status.pointer("/node/tunnel").and_then(|b| b.as_str());
        ensure!(backend.is_some_and(|b| b.starts_with("kernel")), "{node} runs the backend {backend:?}");
    }
    scenario::connectivity(&lab)?;
    Ok(lab)
}

#[test]
#[ignore = "needs a machine with WireGuard and netem in its kernel: cargo xtask vm"]
fn kernel_wireguard_connects_and_leaks_nothing() -> Result<()> {
    let lab = kernel_lab("vm-leak")?;
    scenario::sources_are_kept(&lab)?;
    scenario::no_clear_packet(&lab)?;
    scenario::no_tunnel_no_packet(&lab)?;
    lab.done()
}

#[test]
#[ignore = "needs a machine with WireGuard and netem in its kernel: cargo xtask vm"]
fn kernel_wireguard_outlives_agents_and_server() -> Result<()> {
    let lab = kernel_lab("vm-restart")?;
    // An agent is away for ten seconds and more here: a data plane that needed it would show a gap of that length.
    scenario::agent_restarts(&lab, 2, patient(Duration::from_millis(100)))?;
    scenario::server_loss(&lab)?;
    scenario::cold_boot_without_the_api(&lab)?;
    lab.done()
}

#[test]
#[ignore = "needs a machine with WireGuard and netem in its kernel: cargo xtask vm"]
fn a_bad_line_slows_but_does_not_stop() -> Result<()> {
    let lab = kernel_lab("vm-netem")?;
    for node in ["node-2", "node-3"] {
        let netem = ["tc", "qdisc", "add", "dev", "eth0", "root", "netem"];
        lab.exec(node, &[netem.as_slice(), scenario::BAD_LINE].concat())?;
    }
    let took = lab.check_within(Duration::from_secs(60))?;
    println!("5 % loss, 40 ms delay, 25 % reorder: full connectivity after {} ms", took.as_millis());
    lab.done()
}
