//! `warren uninstall` leaves a node as it was.

use anyhow::{Context as _, Result, ensure};
use warren_e2e::lab::warren_bin;
use warren_e2e::{Lab, state};

#[test]
fn uninstall_restores_the_node_byte_for_byte() -> Result<()> {
    let lab = Lab::up("uninstall", &["--dual-stack", "--pods", "0", "--nodes", "2"])?;
    // Before: the node as it boots without an agent. A lab starts the agent at power-on, so it is stopped first and
    // uninstalled; then foreign objects are added, and the real comparison begins.
    let bin = warren_bin().display().to_string();
    lab.lab(&["service", "node-2", "stop", "agent"])?;
    lab.exec("node-2", &[&bin, "uninstall", "--yes", "--keep-data"])?;
    for foreign in [
        "ip route add 198.51.100.0/24 via 127.0.0.1 dev lo",
        "ip rule add from 198.51.100.1 lookup 77 priority 777",
        "nft add table inet foreign",
        "nft add chain inet foreign c { type filter hook forward priority 0 ; }",
    ] {
        lab.exec("node-2", &foreign.split(' ').collect::<Vec<_>>())?;
    }
    let before = state::dump(&lab, "node-2")?;

    lab.lab(&["service", "node-2", "start", "agent"])?;
    lab.lab(&["run", "one", "--node", "node-2"])?;
    let during = state::dump(&lab, "node-2")?;
    ensure!(during != before && during.contains("wrn-wg"), "the agent changed nothing: the test is blind");
    // Cluster DNS has routes, rules and a process of its own.
    ensure!(
        during.contains("local 10.43.0.10 dev lo") && during.contains("dns_servers4"),
        "no DNS: {during}"
    );
    let keepers = || lab.processes("node-2", &["dns-sockets", "--foreground"]);
    ensure!(keepers()?.len() == 1, "the DNS sockets have {:?} keepers", keepers()?);

    lab.lab(&["service", "node-2", "stop", "agent"])?;
    let out = lab.exec("node-2", &[&bin, "uninstall", "--yes"])?;
    println!("{out}");
    let after = state::dump(&lab, "node-2")?;
    let difference = before.lines().zip(after.lines()).find(|(b, a)| b != a);
    ensure!(before == after, "uninstall left a difference, the first: {difference:?}");
    ensure!(keepers()?.is_empty(), "the keeper of the DNS sockets is left: {:?}", keepers()?);
    for path in
        ["/var/lib/warren/agent", "/run/warren", "/etc/cni/net.d/10-warren.conflist", "/opt/cni/bin/warren"]
    {
        let test = lab.try_exec("node-2", &["test", "-e", path])?;
        ensure!(!test.status.success(), "{path} is still there");
    }
    lab.exec("node-2", &["nft", "list", "table", "inet", "foreign"]).context("the foreign table")?;
    lab.done()
}
