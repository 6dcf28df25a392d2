//! Which endpoint a connection gets.

use crate::battery::{Ask, Battery, FAMILIES};
use anyhow::{Result, ensure};
use serde_json::json;
use std::collections::BTreeMap;

const CONNECTIONS: u64 = 600;
/// With two degrees of freedom chi square is above this once in 22,000 runs.
const BOUND: f64 = 20.0;

/// Every endpoint is as likely as the next, for connections and datagrams, in both families.
///
/// # Errors
/// When the shares are too far from even.
pub fn choice_is_even(b: &Battery) -> Result<()> {
    let scope = b.scope("choice")?;
    let service = scope.service("web", json!({}))?;
    let servers = ["n1a", "n2a", "n3a"];
    scope.members("web", &servers)?;
    for v6 in FAMILIES {
        for ask in [Ask::tcp("n1b", service.at(v6, 80)?), Ask::udp("node-2", service.at(v6, 80)?)] {
            b.expect(ask.clone()).reaches(&servers)?;
            let got = b.ask(&Ask { count: CONNECTIONS, threads: 4, ..ask.clone() })?;
            let mut counts: BTreeMap<&str, f64> = servers.iter().map(|s| (*s, 0.0)).collect();
            for got in &got {
                ensure!(got.result == "answer", "{got:?}");
                *counts.entry(&got.server).or_default() += 1.0;
            }
            #[expect(clippy::cast_precision_loss, reason = "hundreds")]
            let even = got.len() as f64 / counts.len() as f64;
            let chi: f64 = counts.values().map(|n| (n - even).powi(2) / even).sum();
            println!("choice: {} from {}: {counts:?}, chi square {chi:.2}", ask.target, ask.from);
            ensure!(chi < BOUND, "chi square {chi:.1} over {} connections: {counts:?}", got.len());
        }
    }
    Ok(())
}
