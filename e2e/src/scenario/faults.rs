//! Partition, address change, leave and join: converged within 5 s, nothing stale left.

use super::pair;
use crate::{Lab, eventually};
use anyhow::{Result, ensure};
use std::time::Duration;

const CONVERGED: Duration = Duration::from_secs(5);

/// Two nodes are cut apart and joined again.
///
/// # Errors
/// When the cut does not cut, or healing takes longer than 5 s.
pub fn partition_and_heal(lab: &Lab) -> Result<()> {
    let [_, (_, remote)] = pair(lab, "node-2", "node-3")?;
    let (source, target) = (lab.pods_on("node-2")?.remove(0).name, remote.to_string());
    lab.lab(&["partition", "node-2", "node-3"])?;
    let ping = lab.try_exec(&source, &["ping", "-c", "2", "-i", "0.2", "-W", "1", &target])?;
    ensure!(!ping.status.success(), "a ping crossed the partition");
    lab.lab(&["heal"])?;
    let took = lab.check_within(CONVERGED)?;
    println!("partition healed: full connectivity after {} ms", took.as_millis());
    Ok(())
}

/// A node gets another address on its LAN.
///
/// # Errors
/// When the others do not follow within 5 s.
pub fn address_change(lab: &Lab) -> Result<()> {
    lab.lab(&["node", "readdress", "node-3"])?;
    let took = lab.check_within(CONVERGED)?;
    println!("address change: full connectivity after {} ms", took.as_millis());
    Ok(())
}

/// A node leaves for good, and a new one joins: no route, peer or guard of the old one is left on the others.
///
/// # Errors
/// When the cluster does not converge within 5 s, or something stale is left.
pub fn join_and_leave(lab: &Lab) -> Result<()> {
    let pod = lab.pods_on("node-3")?.remove(0).ips.remove(0);
    lab.lab(&["node", "remove", "node-3"])?;
    let stale = |node: &str| -> Result<()> {
        let get = lab.try_exec(node, &["ip", "route", "get", &pod.to_string()])?;
        let text = String::from_utf8_lossy(&get.stdout).into_owned();
        ensure!(!text.contains("wrn-wg"), "{node} still routes the pods of node-3: {text}");
        let status = lab.agent_status(node)?.to_string();
        ensure!(!status.contains("node-3"), "{node} still knows node-3: {status}");
        Ok(())
    };
    let (_, took) = eventually(CONVERGED, || ["node-1", "node-2"].into_iter().try_for_each(stale))?;
    println!("node removed: nothing stale after {} ms", took.as_millis());
    lab.lab(&["node", "add"])?;
    let took = lab.check_within(CONVERGED)?;
    println!("node joined: full connectivity after {} ms", took.as_millis());
    Ok(())
}
