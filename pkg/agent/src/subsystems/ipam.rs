//! Opens the address pool and keeps it on this node's podCIDRs; adapts it to what cni asks for.

use super::Shared;
use crate::board::Checker;
use crate::status::{CheckReport, PoolView};
use crate::supervisor::SubsystemError;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use warren_cni::{AddressPool, BoxFuture, PoolError};
use warren_ipam::{IpamError, Pool, PoolStatus};
use warren_netlink::route::RouteTarget;
use warren_netlink::{Netlink, NetlinkError};
use warren_store::tables::node_key;
use warren_types::{
    Attachment, AttachmentKey, AttachmentPhase, HealthCell, HealthState, LeaseRequest, Node, NodeName, marks,
};

/// How often the figures on the board are renewed.
const SHOW: Duration = Duration::from_secs(1);

/// How often addresses that are held without a lease are looked at again.
const LOOK: Duration = Duration::from_secs(10);

/// Runs the pool.
pub(super) async fn run(
    shared: Shared,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), SubsystemError> {
    let pool = open(&shared).await?;
    let mut nodes = shared.store.table::<Node>().watch();
    let own = node_key(&shared.config.node_name);
    let mut show = tokio::time::interval(SHOW);
    let mut looked = tokio::time::Instant::now();
    loop {
        // A row of an earlier run counts: this is what makes a cold boot without the API possible. A row without
        // podCIDRs (refused, or not allotted yet) takes nothing away.
        if let Some(node) = shared.store.table::<Node>().get(&own)
            && !node.pod_cidrs.is_empty()
            && pool.pod_cidrs() != node.pod_cidrs
        {
            let cidrs: Vec<String> = node.pod_cidrs.iter().map(|c| c.to_string()).collect();
            tracing::info!(pod_cidrs = cidrs.join(","), "addresses of pods come from here");
            pool.set_pod_cidrs(node.pod_cidrs);
        }
        if looked.elapsed() >= LOOK && pool.status().prefixes.iter().any(|p| p.held > 0) {
            looked = tokio::time::Instant::now();
            hold(&pool, &shared.netlink).await;
        }
        say(&pool, &shared.config.node_name, &health);
        shared.board.set_pools(views(&pool.status()));
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            update = nodes.next() => if update.is_none() { return Err("the store has closed".into()) },
            _ = show.tick() => {}
        }
    }
}

/// The one pool of this process: a second one over the same rows would give addresses twice.
async fn open(shared: &Shared) -> Result<Pool, SubsystemError> {
    let pool = shared
        .pool
        .get_or_try_init(|| async {
            let (pool, reclaimed) = Pool::open(&shared.store, shared.boot_id.clone()).await?;
            for a in reclaimed {
                tracing::debug!(attachment = %a.key, "released: it is from before the reboot");
            }
            hold(&pool, &shared.netlink).await;
            Ok::<_, IpamError>(pool)
        })
        .await?
        .clone();
    shared.board.set_checker(checker(pool.clone(), shared.netlink.clone()));
    Ok(pool)
}

/// Keeps addresses that the kernel shows in use from being given out, with or without a lease.
async fn hold(pool: &Pool, netlink: &Netlink) {
    match in_use(netlink).await {
        Ok(addresses) => pool.set_observed(&addresses),
        Err(error) => tracing::warn!(%error, "addresses in use without a lease cannot be seen"),
    }
}

/// Addresses that the kernel routes to links of pods.
async fn in_use(netlink: &Netlink) -> Result<Vec<IpAddr>, NetlinkError> {
    let routes = netlink.list_routes(Some(marks::ROUTE_PROTOCOL)).await?;
    let of_pods = routes.into_iter().filter(
        |r| matches!(&r.target, RouteTarget::Link { link, .. } if link.starts_with(marks::POD_LINK_PREFIX)),
    );
    Ok(of_pods.map(|r| r.dst.addr()).collect())
}

fn say(pool: &Pool, name: &NodeName, health: &HealthCell) {
    if pool.pod_cidrs().is_empty() {
        health.set(
            HealthState::Starting,
            format!("Node {name} has no podCIDR yet; it comes from Node.spec.podCIDRs"),
        );
        return;
    }
    match pool.status().prefixes.iter().find(|p| p.free == 0) {
        Some(p) => health
            .degraded(format!("{} has no free address; {} rest after a release", p.prefix, p.quarantined)),
        None => health.ready(),
    }
}

fn views(status: &PoolStatus) -> Vec<PoolView> {
    let small = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
    status
        .prefixes
        .iter()
        .map(|p| PoolView {
            prefix: p.prefix.to_string(),
            total: p.total.to_string(),
            used: small(p.used),
            quarantined: small(p.quarantined),
            held: small(p.held),
            free: p.free.to_string(),
        })
        .collect()
}

fn checker(pool: Pool, netlink: Netlink) -> Checker {
    Arc::new(move || {
        let (pool, netlink) = (pool.clone(), netlink.clone());
        Box::pin(async move {
            let mut findings: Vec<String> = pool.check().iter().map(ToString::to_string).collect();
            // What is on its way is between the two for a moment: what is seen twice counts.
            match disagreements(&pool, &netlink).await {
                Ok(first) if first.is_empty() => {}
                Ok(first) => {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    let again = disagreements(&pool, &netlink).await.unwrap_or_default();
                    findings.extend(first.intersection(&again).cloned());
                }
                Err(error) => findings.push(format!("the kernel cannot be asked: {error}")),
            }
            CheckReport { findings }
        })
    })
}

/// Where leases and links of pods, or their routes, disagree.
async fn disagreements(pool: &Pool, netlink: &Netlink) -> Result<BTreeSet<String>, NetlinkError> {
    let links: BTreeSet<String> = netlink
        .list_links()
        .await?
        .into_iter()
        .filter(|l| {
            l.name.starts_with(marks::POD_LINK_PREFIX) && l.alias.starts_with(marks::LINK_ALIAS_PREFIX)
        })
        .map(|l| l.name)
        .collect();
    let routed: BTreeSet<IpAddr> = in_use(netlink).await?.into_iter().collect();
    let leases = pool.list();
    let by_link: BTreeMap<&str, &Attachment> = leases.iter().map(|a| (a.host_link.as_str(), a)).collect();
    let mut out = BTreeSet::new();
    for link in links.iter().filter(|l| !by_link.contains_key(l.as_str())) {
        out.insert(format!("link {link} has no attachment"));
    }
    for a in leases.iter().filter(|a| a.phase == AttachmentPhase::Live) {
        if !links.contains(a.host_link.as_str()) {
            out.insert(format!(
                "attachment {} has no link {}; the runtime has not deleted it",
                a.key, a.host_link
            ));
            continue;
        }
        for ip in a.addresses.iter().filter(|ip| !routed.contains(*ip)) {
            out.insert(format!("attachment {}: no route to {ip}", a.key));
        }
    }
    let leased: BTreeSet<IpAddr> = leases.iter().flat_map(|a| a.addresses.iter().copied()).collect();
    for ip in routed.difference(&leased) {
        out.insert(format!("route to {ip} has no attachment"));
    }
    Ok(out)
}

/// The pool as cni asks for it.
pub(super) struct Adapter(pub(super) Pool);

fn refusal(error: IpamError) -> PoolError {
    match error {
        IpamError::NoPodCidr => PoolError::NoPodCidr(error.to_string()),
        IpamError::Exhausted { .. } => PoolError::Exhausted(error.to_string()),
        IpamError::Requested { address, reason } => PoolError::Unavailable { addr: address, reason },
        IpamError::HostPortTaken { .. } => PoolError::HostPortTaken(error.to_string()),
        other => PoolError::Store(other.to_string()),
    }
}

impl AddressPool for Adapter {
    fn allocate(&self, request: LeaseRequest) -> BoxFuture<'_, Result<Attachment, PoolError>> {
        Box::pin(async move { self.0.allocate(request).await.map_err(refusal) })
    }
    fn adopt(&self, request: LeaseRequest) -> BoxFuture<'_, Result<Attachment, PoolError>> {
        Box::pin(async move { self.0.adopt(request).await.map_err(refusal) })
    }
    fn set_phase<'a>(
        &'a self,
        key: &'a AttachmentKey,
        phase: AttachmentPhase,
    ) -> BoxFuture<'a, Result<(), PoolError>> {
        Box::pin(async move { self.0.set_phase(key, phase).await.map(drop).map_err(refusal) })
    }
    fn release<'a>(&'a self, key: &'a AttachmentKey) -> BoxFuture<'a, Result<(), PoolError>> {
        Box::pin(async move { self.0.release(key).await.map(drop).map_err(refusal) })
    }
    fn get<'a>(&'a self, key: &'a AttachmentKey) -> BoxFuture<'a, Result<Option<Attachment>, PoolError>> {
        let row = self.0.get(key);
        Box::pin(async move { Ok(row) })
    }
    fn list(&self) -> BoxFuture<'_, Result<Vec<Attachment>, PoolError>> {
        let rows = self.0.list();
        Box::pin(async move { Ok(rows) })
    }
    fn available(&self) -> BoxFuture<'_, Result<(), PoolError>> {
        let status = self.0.status();
        Box::pin(async move {
            if status.prefixes.is_empty() {
                return Err(refusal(IpamError::NoPodCidr));
            }
            match status.prefixes.iter().find(|p| p.free == 0) {
                None => Ok(()),
                Some(p) => Err(refusal(IpamError::Exhausted {
                    prefix: p.prefix,
                    total: p.total,
                    used: p.used,
                    quarantined: p.quarantined,
                    held: p.held,
                })),
            }
        })
    }
}
