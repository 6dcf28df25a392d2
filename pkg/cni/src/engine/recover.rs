//! After a start, and whenever somebody has changed the kernel: the journal and the kernel made to agree.

use super::attach::{TABLE_MAIN, is_ours, pod_route, sources};
use super::{Engine, Halt, identity, kernel, no_lease};
use crate::spec::Refusal;
use ipnet::IpNet;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use tokio::task::JoinSet;
use warren_netlink::{Link, Neighbour, NetlinkError, Route};
use warren_types::{Attachment, AttachmentPhase};

/// Attachments that are taken apart side by side.
const AT_ONCE: usize = 16;

/// What a recovery found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Attachments that live.
    pub live: usize,
    /// Of these, how many had lost something on the host, which they have again.
    pub repaired: usize,
    /// Of these, how many have no link on the host any more; their addresses wait for DEL or GC.
    pub gone: usize,
    /// ADDs that had not ended and were rolled back, DELs that were finished.
    pub finished: usize,
    /// Attachments of an earlier boot, whose addresses were released.
    pub earlier_boot: usize,
    /// Of the live, how many had no row: links of running pods, found in the kernel after the store was lost.
    pub adopted: usize,
    /// Links and filter entries that no attachment knows.
    pub orphans: usize,
    /// Attachments that could not be handled; the log names them.
    pub failed: usize,
}

/// What the kernel has of ours.
pub(super) struct Observed {
    pub(super) links: HashMap<String, Link>,
    pub(super) sources: HashSet<(String, IpAddr)>,
    /// Of the main table, with their protocol ours.
    pub(super) routes: HashMap<IpNet, Route>,
    pub(super) neighbours: HashMap<(u32, IpAddr), Neighbour>,
}

impl Engine {
    /// Brings journal and kernel together after a start: unfinished ADDs are rolled back, unfinished DELs finished,
    /// attachments of earlier boots released, running pods without a row given one, what live ones lost is put back, and
    /// leftovers are removed. Then the engine serves. Call it before anything else, after the base of the nftables table is in place.
    ///
    /// # Errors
    /// When the journal or the kernel cannot be read. Attachments that could not be handled are counted, not errors.
    pub async fn recover(&self) -> Result<Recovered, Refusal> {
        let rows = self.0.pool.list().await.map_err(|e| no_lease(&e))?;
        let mut report = Recovered::default();
        let (mut live, ended): (Vec<_>, Vec<_>) = rows
            .into_iter()
            .partition(|row| row.phase == AttachmentPhase::Live && row.boot_id == self.0.config.boot_id);
        {
            let mut names = self.names();
            names.clear();
            names.extend(live.iter().map(|row| (row.host_link.clone(), row.key.clone())));
        }
        self.end_all(ended, &mut report).await;
        let observed = self.observe().await.map_err(|e| kernel(&e))?;
        let spared = self.adopt(&mut live, &observed, &mut report).await;
        self.remove_orphans(&live, &spared, &observed, &mut report).await;
        self.put_back(&live, &observed, &mut report).await;
        self.0.recovered.store(true, Ordering::Release);
        tracing::info!(
            live = report.live,
            repaired = report.repaired,
            gone = report.gone,
            finished = report.finished,
            earlier_boot = report.earlier_boot,
            adopted = report.adopted,
            orphans = report.orphans,
            failed = report.failed,
            "attachments recovered"
        );
        Ok(report)
    }

    /// Puts back what live attachments have lost on the host, while calls are served: after somebody flushed the
    /// ruleset or the routes.
    ///
    /// # Errors
    /// When the journal or the kernel cannot be read.
    pub async fn repair(&self) -> Result<Recovered, Refusal> {
        // A row that is live now had everything before the kernel is looked at; one that changes meanwhile is looked at
        // again under its lock.
        let rows = self.0.pool.list().await.map_err(|e| no_lease(&e))?;
        let live: Vec<_> = rows.into_iter().filter(|row| row.phase == AttachmentPhase::Live).collect();
        let mut report = Recovered::default();
        if live.is_empty() {
            return Ok(report);
        }
        let observed = self.observe().await.map_err(|e| kernel(&e))?;
        self.put_back(&live, &observed, &mut report).await;
        if report.repaired > 0 {
            tracing::warn!(repaired = report.repaired, "put back what attachments had lost on the host");
        }
        Ok(report)
    }

    async fn end_all(&self, rows: Vec<Attachment>, report: &mut Recovered) {
        let mut tasks: JoinSet<Result<bool, String>> = JoinSet::new();
        let mut count = |outcome: Option<Result<Result<bool, String>, tokio::task::JoinError>>| match outcome
        {
            Some(Ok(Ok(true))) => report.finished += 1,
            Some(Ok(Ok(false))) => report.earlier_boot += 1,
            Some(Ok(Err(why))) => {
                tracing::warn!(why, "an attachment could not be ended");
                report.failed += 1;
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "ending an attachment failed");
                report.failed += 1;
            }
            None => {}
        };
        for row in rows {
            if tasks.len() >= AT_ONCE {
                count(tasks.join_next().await);
            }
            let engine = self.clone();
            tasks.spawn(async move {
                let _guard = engine.0.locks.lock(&row.key).await;
                let this_boot = row.boot_id == engine.0.config.boot_id;
                let ended = engine.dismantle(&row).await;
                ended.map(|()| this_boot).map_err(|halt| format!("{}: {}", row.key, Refusal::from(halt)))
            });
        }
        while let Some(outcome) = tasks.join_next().await {
            count(Some(outcome));
        }
    }

    async fn observe(&self) -> Result<Observed, NetlinkError> {
        let host = &self.0.host;
        let (links, sources, routes, neighbours) = tokio::try_join!(
            host.list_links(),
            self.0.nft.list_pod_sources(),
            host.list_routes(Some(warren_types::marks::ROUTE_PROTOCOL)),
            host.list_neighbours(None)
        )?;
        Ok(Observed {
            links: links.into_iter().filter(is_ours).map(|link| (link.name.clone(), link)).collect(),
            sources: sources.into_iter().collect(),
            routes: routes.into_iter().filter(|r| r.table == TABLE_MAIN).map(|r| (r.dst, r)).collect(),
            neighbours: neighbours.into_iter().map(|n| ((n.index, n.addr), n)).collect(),
        })
    }

    async fn remove_orphans(
        &self,
        live: &[Attachment],
        spared: &HashSet<String>,
        observed: &Observed,
        report: &mut Recovered,
    ) {
        let rows = live.iter().map(|row| row.host_link.as_str());
        let known: HashSet<&str> = rows.chain(spared.iter().map(String::as_str)).collect();
        for name in observed.links.keys().filter(|name| !known.contains(name.as_str())) {
            tracing::warn!(link = name, "removing a link that no attachment knows");
            match self.0.host.remove_link(name).await {
                Ok(_) => report.orphans += 1,
                Err(error) => {
                    tracing::warn!(link = name, %error, "cannot remove it");
                    report.failed += 1;
                }
            }
        }
        let wanted: HashSet<(String, IpAddr)> =
            live.iter().flat_map(|row| sources(&row.host_link, &row.addresses)).collect();
        let stale = observed.sources.difference(&wanted).filter(|(link, _)| !spared.contains(link));
        let stale: Vec<_> = stale.cloned().collect();
        if stale.is_empty() {
            return;
        }
        match self.0.nft.remove_pod_sources(&stale).await {
            Ok(()) => report.orphans += stale.len(),
            Err(error) => {
                tracing::warn!(%error, "cannot remove filter entries that no attachment knows");
                report.failed += 1;
            }
        }
    }

    async fn put_back(&self, live: &[Attachment], observed: &Observed, report: &mut Recovered) {
        for row in live {
            report.live += 1;
            if !observed.links.contains_key(row.host_link.as_str()) {
                report.gone += 1;
                tracing::debug!(key = %row.key, link = %row.host_link, "a live attachment has no link");
                continue;
            }
            if is_whole(row, observed) {
                continue;
            }
            match self.restore(row).await {
                Ok(restored) => report.repaired += usize::from(restored),
                Err(halt) => {
                    let refusal = Refusal::from(halt);
                    tracing::warn!(key = %row.key, %refusal, "cannot put back what it lost on the host");
                    report.failed += 1;
                }
            }
        }
    }

    /// Puts a live attachment's host side right; false when it is not live any more, or is being worked on.
    async fn restore(&self, row: &Attachment) -> Result<bool, Halt> {
        let Some(_guard) = self.0.locks.try_lock(&row.key) else { return Ok(false) };
        if self.0.pool.get(&row.key).await?.as_ref() != Some(row) {
            return Ok(false);
        }
        let Some(link) = self.0.host.get_link(row.host_link.as_str()).await? else { return Ok(false) };
        // The filter before the link, as in ADD.
        self.0.nft.add_pod_sources(&sources(&row.host_link, &row.addresses)).await?;
        let macs = identity::macs(&row.host_link);
        self.raise(&row.host_link, link.index, macs.pod, &row.addresses).await?;
        Ok(true)
    }
}

fn is_whole(row: &Attachment, observed: &Observed) -> bool {
    let Some(link) = observed.links.get(row.host_link.as_str()).filter(|link| link.up) else { return false };
    let pod_mac = identity::macs(&row.host_link).pod;
    row.addresses.iter().all(|addr| {
        let wish = pod_route(*addr, &row.host_link);
        let neighbour = observed.neighbours.get(&(link.index, *addr));
        observed.sources.contains(&(row.host_link.to_string(), *addr))
            && neighbour.is_some_and(|n| n.permanent && n.mac == pod_mac)
            && observed.routes.get(&wish.dst).is_some_and(|r| r.target == wish.target)
    })
}
