//! This node as it presents itself: table `local_node`.

use super::Shared;
use crate::address::{self, LinkAddress};
use crate::config::ApiChoice;
use crate::identity::public_key;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use warren_netlink::NetlinkError;
use warren_store::tables::{ONLY, node_key};
use warren_store::{Durability, StoreError};
use warren_types::{Attachment, AttachmentPhase, HealthCell, HealthState, LocalNode, Node};

/// How often readiness is looked at, and how soon after a change of links the addresses are.
const TICK: Duration = Duration::from_millis(250);
/// How often the API's name is resolved again.
const RESOLVE: Duration = Duration::from_secs(60);
/// Even without a hint the addresses are looked at this often.
const RESYNC: Duration = Duration::from_secs(30);

/// Why this node cannot be presented.
#[derive(Debug, thiserror::Error)]
pub(super) enum NodeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Kernel(#[from] NetlinkError),
}

/// Keeps the row of this node true, until `stop`.
pub(super) async fn run(
    shared: Shared,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), NodeError> {
    let table = shared.store.table::<LocalNode>();
    let mut changes = shared.netlink.changes().await?;
    let mut access = shared.access.subscribe();
    let mut api: Vec<IpAddr> = Vec::new();
    let mut resolved: Option<Instant> = None;
    let mut looked: Option<Instant> = None;
    let mut ips: Vec<IpAddr> = Vec::new();
    let mut machine: Vec<LinkAddress> = Vec::new();
    loop {
        if access.has_changed().unwrap_or(false) {
            access.mark_unchanged();
            resolved = None;
        }
        if resolved.is_none_or(|t| t.elapsed() >= RESOLVE) {
            let found = api_addresses(&shared).await;
            if found != api && !found.is_empty() {
                api = found;
                looked = None;
            }
            resolved = Some(Instant::now());
        }
        if changes.has_changed().unwrap_or(true) || looked.is_none_or(|t| t.elapsed() >= RESYNC) {
            changes.mark_unchanged();
            machine = address::list(&shared.netlink).await?;
            let given = &shared.config.node_ips;
            let found = address::observe(&shared.netlink, given, &api, &machine, &registered(&shared)).await;
            if found.is_empty() {
                let kept = table.get(ONLY).map(|row| row.internal_ips.clone()).unwrap_or_default();
                if ips.is_empty() {
                    ips = kept;
                }
                health.degraded(
                    "this node has no address that others could reach; bring a link up, or give --node-ip",
                );
            } else {
                if found != ips {
                    tracing::info!(addresses = ?found, "this node's addresses");
                }
                ips = found;
                health.ready();
            }
            looked = Some(Instant::now());
        }
        publish(&shared, &table, &ips, served(&shared, &machine, &ips)).await?;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(TICK) => {}
            // Coalesced: a burst of changes is looked at once.
            changed = changes.changed() => if changed.is_ok() {
                changes.mark_changed();
                tokio::time::sleep(TICK / 5).await;
            } else {
                health.set(HealthState::Failed, "the kernel's change messages ended");
                return Err(NetlinkError::Protocol { op: "watch addresses", reason: "the stream ended".into() }.into());
            }
        }
    }
}

/// The addresses that the Node object has, where this agent does not write them itself.
fn registered(shared: &Shared) -> Vec<IpAddr> {
    let own = || shared.store.table::<Node>().get(&node_key(&shared.config.node_name));
    (!shared.config.register_node).then(own).flatten().map(|n| n.internal_ips.clone()).unwrap_or_default()
}

/// The addresses besides `ips` on which this node serves ports.
fn served(shared: &Shared, machine: &[LinkAddress], ips: &[IpAddr]) -> Vec<IpAddr> {
    let services = &shared.config.services;
    if !services.proxy {
        return Vec::new();
    }
    let pods = shared.store.table::<Attachment>().snapshot().rows;
    let here = pods.values().filter(|pod| pod.phase != AttachmentPhase::Deleting);
    let named = here.flat_map(|pod| &pod.host_ports).filter_map(|port| port.host_ip).collect();
    address::served(machine, ips, &services.node_port_addresses, &named)
}

async fn publish(
    shared: &Shared,
    table: &warren_store::Table<LocalNode>,
    ips: &[IpAddr],
    served_ips: Vec<IpAddr>,
) -> Result<(), StoreError> {
    let missing = shared.board.missing();
    let row = LocalNode {
        name: shared.config.node_name.clone(),
        node_id: shared.keys.node_id.clone(),
        public_key: public_key(&shared.keys.private_key),
        endpoints: ips.iter().map(|ip| SocketAddr::new(*ip, shared.config.tunnel_port)).collect(),
        held_ports: super::loadbalancer::published(&shared.held_ports.borrow()),
        ingress: shared.ingress_ports.borrow().clone(),
        internal_ips: ips.to_vec(),
        served_ips,
        ready: missing.is_empty() && !ips.is_empty(),
        message: if ips.is_empty() {
            "no address that others could reach".into()
        } else {
            missing.join("; ")
        },
    };
    if table.get(ONLY).as_deref() != Some(&row) {
        table.put(row, Durability::Flushed).await?;
        table.mark_loaded().await?;
    }
    Ok(())
}

/// The API's addresses: of the server to join, or of the kubeconfig.
async fn api_addresses(shared: &Shared) -> Vec<IpAddr> {
    let url = match &shared.config.api {
        ApiChoice::Join { server: Some(url), .. } => Some(url.clone()),
        _ => {
            let known = shared.access.borrow().clone();
            match known {
                Some(access) => access.url().await.ok(),
                None => None,
            }
        }
    };
    match url {
        Some(url) => address::resolve(&url).await,
        None => Vec::new(),
    }
}
