//! A thousand pods come and go on one node.

use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeSet;
use warren_e2e::lab::{Lab, warren_bin};
use warren_e2e::runtime::Runtime;

const PODS: usize = 1000;
const CONCURRENCY: usize = 32;

#[test]
fn a_thousand_pods_come_and_go() -> Result<()> {
    // One node's podCIDR must hold them all.
    let lab = Lab::up("churn", &["--nodes", "1", "--pods", "0", "--dual-stack", "--node-prefix-v4", "20"])?;
    let bin = warren_bin().display().to_string();
    let leftovers = |what: &str| -> Result<usize> {
        let command = match what {
            "links" => "ip -o link | grep -c wrnp",
            "routes" => "ip -4 route show proto 87 | grep -c wrnp",
            "routes6" => "ip -6 route show proto 87 | grep -c wrnp",
            "rules" => "nft list table inet warren | grep -c wrnp.......",
            other => anyhow::bail!("no count of {other}"),
        };
        let out = lab.try_exec("node-1", &["sh", "-c", command])?;
        String::from_utf8_lossy(&out.stdout).trim().parse().context(command)
    };
    let kinds = ["links", "routes", "routes6", "rules"];
    let before: Vec<usize> = kinds.iter().map(|k| leftovers(k)).collect::<Result<_>>()?;

    let runtime = Runtime::new(&lab, "node-1")?;
    let (results, added) = runtime.add_many(PODS, CONCURRENCY)?;
    let addresses: BTreeSet<_> = results.iter().flat_map(|r| r.ips.clone()).collect();
    ensure!(
        addresses.len() == PODS * 2,
        "{} different addresses for {PODS} dual-stack pods",
        addresses.len()
    );
    let used = lab.exec("node-1", &[&bin, "ipam", "check"])?;
    println!("{used}");
    let removed = runtime.del_many(PODS, CONCURRENCY)?;
    println!("ADD x{PODS} at concurrency {CONCURRENCY}: {added}");
    println!("DEL x{PODS} at concurrency {CONCURRENCY}: {removed}");
    // DEL again, and without the namespace: both must succeed.
    runtime.del_many(10, 10)?;

    let after: Vec<usize> = kinds.iter().map(|k| leftovers(k)).collect::<Result<_>>()?;
    ensure!(before == after, "{kinds:?} were {before:?}, are {after:?}");
    lab.exec("node-1", &[&bin, "ipam", "check"])?;
    let report: serde_json::Value =
        serde_json::from_str(&lab.exec("node-1", &[&bin, "ipam", "status", "--output", "json"])?)?;
    let attachments = report["attachments"].as_array().map(Vec::len);
    ensure!(attachments == Some(0), "leases left: {attachments:?}");
    lab.done()
}
