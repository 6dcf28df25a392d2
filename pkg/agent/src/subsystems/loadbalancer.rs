//! Starts `warren_loadbalancer`, and hands on what each host's own programs listen on.

use super::Shared;
use crate::supervisor::SubsystemError;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use warren_loadbalancer::{Deps, HeldPorts, LoadBalancerConfig, Tables};
use warren_store::StoreError;
use warren_types::{HealthCell, HeldPort, Node, NodeName};

/// How often the proxy's state is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Runs the load balancer.
pub(super) async fn run(
    shared: Shared,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), SubsystemError> {
    let config = LoadBalancerConfig {
        node_name: shared.config.node_name.clone(),
        mode: shared.config.services.load_balancer.clone(),
        interface: shared.config.services.load_balancer_interface.clone(),
    };
    let held = watch::Sender::new(BTreeMap::new());
    let serving = watch::Sender::new(false);
    let deps = Deps {
        tables: Tables::of(&shared.store),
        netlink: shared.netlink.clone(),
        held: held.subscribe(),
        held_here: shared.held_ports.clone(),
        serving: serving.subscribe(),
        status: shared.load_balancer.clone(),
    };
    tokio::select! {
        ended = warren_loadbalancer::run(config, deps, health, stop) => Ok(ended?),
        ended = follow_nodes(&shared, &held) => Ok(ended?),
        () = follow_proxy(&shared, &serving) => Ok(()),
    }
}

/// What each node says that its host holds.
async fn follow_nodes(
    shared: &Shared,
    held: &watch::Sender<BTreeMap<NodeName, HeldPorts>>,
) -> Result<(), StoreError> {
    let mut nodes = shared.store.table::<Node>().watch();
    while let Some(update) = nodes.next().await {
        let all = update.snapshot().rows.iter().map(|(_, node)| {
            let ports = node.held_ports.iter();
            let ports = ports.map(|held| ((held.protocol, held.port), held.holder.clone()));
            (node.name.clone(), ports.collect())
        });
        held.send_replace(all.collect());
    }
    Err(StoreError::Closed)
}

/// Whether packets to Services get where they should: the rules are there, and so is Warren's or another's proxy.
async fn follow_proxy(shared: &Shared, serving: &watch::Sender<bool>) {
    loop {
        let now = !shared.config.services.proxy || shared.proxy.figures().comparisons > 0;
        serving.send_if_modified(|before| std::mem::replace(before, now) != now);
        tokio::time::sleep(LOOK).await;
    }
}

/// As the node publishes it.
pub(super) fn published(held: &HeldPorts) -> Vec<HeldPort> {
    let all = held.iter();
    all.map(|((protocol, port), holder)| HeldPort {
        protocol: *protocol,
        port: *port,
        holder: holder.clone(),
    })
    .collect()
}
