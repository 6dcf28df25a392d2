//! The provisioning scripts of vagrant/ make a cluster of bare nodes from the air-gap bundle, without any network but
//! their own, where all have one address on the interface of their default route.

use anyhow::{Context as _, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;
use warren_e2e::{Lab, eventually};

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// What VirtualBox gives to every machine.
const SHARED: &str = "10.0.2.15";

/// The bundle that `cargo xtask dist` made.
fn bundle() -> Result<PathBuf> {
    let path =
        std::env::var_os("WARREN_BUNDLE").context("WARREN_BUNDLE names no bundle; run: cargo xtask e2e")?;
    Ok(path.into())
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../vagrant/provision")
}

/// Makes a node what a virtual machine is: its own `/usr/local`, an interface that leads nowhere, copies of the files.
fn machine(lab: &Lab, node: &str) -> Result<String> {
    let (bundle, scripts) = (bundle()?.display().to_string(), scripts().display().to_string());
    let script = format!(
        "mount -t tmpfs none /usr/local && mkdir -m 700 /run/share && cp {bundle} /run/share/bundle.tar.gz && \
         cp -r {scripts} /run/share/provision && \
         ip link add nat0 type veth peer name nat1 && ip link set nat1 up && ip address add {SHARED}/24 dev nat0 && ip link set nat0 up && \
         ip route replace default via 10.0.2.2 dev nat0"
    );
    lab.exec(node, &["sh", "-c", &script])
}

/// Its address on the private network.
fn address(lab: &Lab, node: &str) -> Result<String> {
    let status = lab.status()?;
    let found = status.nodes.into_iter().find(|n| n.name == node).context("no such node")?;
    Ok(found.addresses.first().context("no address")?.to_string())
}

/// Fails unless every pod and node reaches every pod and node; the outside is out of reach.
fn all_reach_all(lab: &Lab) -> Result<()> {
    let out = lab.try_lab(&["check"])?;
    let (table, faults) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let failed: Vec<&str> =
        table.lines().chain(faults.lines()).filter(|l| l.starts_with("failed: ")).collect();
    ensure!(table.contains("pod-node-1"), "no table: {table}{faults}");
    ensure!(failed.iter().all(|line| line.contains(" to outside ")), "{table}{faults}");
    ensure!(!failed.is_empty(), "the outside is in reach: these are no machines without a network");
    Ok(())
}

#[test]
fn the_bundle_makes_a_cluster_of_machines_without_a_network() -> Result<()> {
    let lab = Lab::up("vagrant", &["--bare"])?;
    let server = address(&lab, NODES[0])?;
    for node in NODES {
        machine(&lab, node)?;
        let own = address(&lab, node)?;
        let role = if node == NODES[0] {
            "standalone-server.sh"
        } else {
            // As the Vagrantfile does: by way of the host, since the server has the token only once it runs.
            let made = || lab.exec(NODES[0], &["cat", "/var/lib/warren/server/agent-token"]);
            let (token, _) = eventually(Duration::from_secs(60), made)?;
            let write = format!("umask 077 && echo '{}' > /run/share/token", token.trim());
            lab.exec(node, &["sh", "-c", &write])?;
            "standalone-agent.sh"
        };
        let script = format!("/run/share/provision/{role}");
        println!("{}", lab.exec(node, &["sh", &script, "/run/share", &own, &server])?);
    }
    println!("{}", lab.exec(NODES[0], &["sh", "/run/share/provision/connectivity.sh", "3"])?);
    for node in NODES {
        lab.agent_ready_within(node, Duration::from_secs(60))?;
        let status = lab.agent_status(node)?;
        let addresses = status.pointer("/node/addresses").map(ToString::to_string).unwrap_or_default();
        ensure!(!addresses.contains(SHARED), "{node} is reached by {addresses}, which all nodes have");
        ensure!(addresses.contains(&address(&lab, node)?), "{node} is reached by {addresses}");
        let token = lab.try_exec(node, &["test", "-e", "/run/share/token"])?;
        ensure!(!token.status.success(), "{node}: the token is still in the share");
        lab.lab(&["run", &format!("pod-{node}"), "--node", node])?;
    }
    eventually(Duration::from_secs(60), || all_reach_all(&lab))?;

    // Once more, as `vagrant provision` does: the agents are replaced, and nothing else.
    let tunnels = |node: &str| lab.processes(node, &["wireguard", "--foreground"]);
    let before = tunnels(NODES[0])?;
    ensure!(before.len() == 1, "{} has the tunnel processes {before:?}", NODES[0]);
    lab.exec(NODES[0], &["sh", "/run/share/provision/standalone-server.sh", "/run/share", &server, &server])?;
    lab.agent_ready_within(NODES[0], Duration::from_secs(60))?;
    ensure!(before == tunnels(NODES[0])?, "the tunnel of {} was started again", NODES[0]);
    eventually(Duration::from_secs(60), || all_reach_all(&lab))?;
    lab.done()
}
