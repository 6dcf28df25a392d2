//! The proxy's runner: rows in, transactions out.
//!
//! A change of rows becomes a change of elements, made from what the kernel is known to have; nothing is listed for it. The
//! kernel is compared as a whole at the start, when somebody else touched the table, when a change was refused, and every
//! few minutes.

use crate::config::{Deps, ProxyConfig};
use crate::engine::{Committed, Engine};
use crate::error::ProxyError;
use crate::flows::Served;
use crate::local::LocalServers;
use crate::node::{NodeContext, Rows};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use warren_netlink::NetlinkError;
use warren_netlink::nft::{Applied, Isolation, Section};
use warren_store::tables::{ONLY, service_key};
use warren_store::{Change, Durability, Update, Watch};
use warren_types::{
    Attachment, EndpointSlice, HealthCell, HealthState, Protocol, Service, ServiceFaults, ServiceKey,
    SliceKey,
};

/// Changes are at least this far apart; the first after a pause is made at once.
const GAP: Duration = Duration::from_millis(10);
/// The kernel is compared at least this often.
const COMPARE: Duration = Duration::from_secs(180);
/// After a failed comparison.
const RETRY: Duration = Duration::from_millis(500);
/// So many failures in a row end the subsystem, and the supervisor starts it anew.
const FAILURES_MAX: u32 = 20;

/// Keeps Services working until `stop`; then leaves everything as it is.
///
/// # Errors
/// When the store is closed, or the kernel refuses again and again; the supervisor starts it anew.
pub async fn run(
    config: ProxyConfig,
    deps: Deps,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), ProxyError> {
    let mut follow = Follow {
        services: deps.tables.services.watch(),
        slices: deps.tables.slices.watch(),
        attachments: deps.tables.attachments.watch(),
    };
    let mut nodes = deps.tables.nodes.watch();
    let mut cluster = deps.tables.cluster.watch();
    let mut local = deps.tables.local_node.watch();
    let mut links = deps.netlink.changes().await?;
    let mut rules = deps.nft.changes().await?;
    let mut runner = Runner {
        config,
        deps,
        health,
        servers: LocalServers::default(),
        unproven: BTreeSet::new(),
        failures: 0,
    };
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        ready = runner.load(&mut follow) => ready?,
    }
    let mut compare = Some(Why::Own);
    let mut since = Instant::now();
    loop {
        let begun = tokio::time::Instant::now();
        let wait = runner.pass(compare, since).await?;
        compare = None;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep_until(begun + GAP) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            rows = follow.services.next() => runner.take_services(rows.ok_or(ProxyError::StoreClosed)?),
            rows = follow.slices.next() => runner.take_slices(rows.ok_or(ProxyError::StoreClosed)?),
            rows = follow.attachments.next() => runner.take_attachments(rows.ok_or(ProxyError::StoreClosed)?),
            row = nodes.next() => { row.ok_or(ProxyError::StoreClosed)?; compare = runner.renew().await?.then_some(Why::Own); }
            row = cluster.next() => { row.ok_or(ProxyError::StoreClosed)?; compare = runner.renew().await?.then_some(Why::Own); }
            row = local.next() => { row.ok_or(ProxyError::StoreClosed)?; compare = runner.renew().await?.then_some(Why::Own); }
            change = links.changed(), if !runner.config.node_port_addresses.is_empty() => {
                if change.is_err() {
                    links = runner.deps.netlink.changes().await?;
                }
                compare = runner.renew().await?.then_some(Why::Own);
            }
            change = rules.changed() => {
                if change.is_err() {
                    rules = runner.deps.nft.changes().await?;
                }
                compare = Some(Why::Others);
            }
            () = tokio::time::sleep(wait) => compare = Some(Why::Others),
        }
        since = Instant::now();
        // What came together goes into one transaction.
        while let Some(update) = follow.services.try_next() {
            runner.take_services(update);
        }
        while let Some(update) = follow.slices.try_next() {
            runner.take_slices(update);
        }
    }
}

struct Follow {
    services: Watch<Service>,
    slices: Watch<EndpointSlice>,
    attachments: Watch<Attachment>,
}

struct Runner {
    config: ProxyConfig,
    deps: Deps,
    health: HealthCell,
    servers: LocalServers,
    /// Services that changed since the kernel last accepted everything.
    unproven: BTreeSet<ServiceKey>,
    failures: u32,
}

/// Why the kernel is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The node, or what was known to be there, has changed.
    Own,
    /// Somebody may have touched the table.
    Others,
}

impl Runner {
    /// Waits for the first complete load of everything: before that, what is in the kernel serves.
    async fn load(&mut self, follow: &mut Follow) -> Result<(), ProxyError> {
        self.health.set(HealthState::Starting, "waiting for the first list of Services and EndpointSlices");
        follow.services.loaded().await.ok_or(ProxyError::StoreClosed)?;
        follow.slices.loaded().await.ok_or(ProxyError::StoreClosed)?;
        self.health
            .set(HealthState::Starting, "waiting for the first list of nodes, and this node's addresses");
        let mut nodes = self.deps.tables.nodes.watch();
        nodes.loaded().await.ok_or(ProxyError::StoreClosed)?;
        let mut local = self.deps.tables.local_node.watch();
        local.loaded().await.ok_or(ProxyError::StoreClosed)?;
        let mut cluster = self.deps.tables.cluster.watch();
        cluster.loaded().await.ok_or(ProxyError::StoreClosed)?;
        let mut engine = Engine::new(self.context().await?);
        for (_, row) in self.deps.tables.services.snapshot().rows.iter() {
            engine.set_service(&row.key, Some(row.clone()));
        }
        for (_, row) in self.deps.tables.slices.snapshot().rows.iter() {
            engine.set_slice(&row.key, Some(row.clone()));
        }
        for (key, row) in self.deps.tables.attachments.snapshot().rows.iter() {
            engine.set_attachment(key, Some(row.clone()));
        }
        self.deps.status.with(|slot| *slot = Some(engine));
        Ok(())
    }

    async fn context(&self) -> Result<NodeContext, ProxyError> {
        let nodes: Vec<_> =
            self.deps.tables.nodes.snapshot().rows.iter().map(|(_, row)| row.clone()).collect();
        let cluster = self.deps.tables.cluster.get(ONLY).unwrap_or_default();
        let local = self.deps.tables.local_node.get(ONLY).ok_or(ProxyError::StoreClosed)?;
        let addresses: Vec<IpAddr> = match self.config.node_port_addresses.is_empty() {
            true => Vec::new(),
            false => {
                let all = self.deps.netlink.list_addresses(None).await?;
                all.into_iter().map(|(_, net)| net.addr()).collect()
            }
        };
        let rows = Rows { local: &local, nodes: &nodes, cluster: &cluster };
        Ok(NodeContext::new(&rows, &self.config, &addresses))
    }

    /// The node may have changed. Whether it has.
    async fn renew(&mut self) -> Result<bool, ProxyError> {
        let context = self.context().await?;
        Ok(self.engine(|engine| engine.set_node(context)).unwrap_or(false))
    }

    fn engine<T>(&self, work: impl FnOnce(&mut Engine) -> T) -> Option<T> {
        self.deps.status.with(|slot| slot.as_mut().map(work))
    }

    fn take_services(&self, update: Update<Service>) {
        self.engine(|engine| {
            for (key, row) in update.rows_by_key(|| engine.known_services()) {
                if let Some(key) = row.as_ref().map(|row| row.key.clone()).or_else(|| ServiceKey::parse(&key))
                {
                    engine.set_service(&key, row);
                }
            }
        });
    }

    fn take_slices(&self, update: Update<EndpointSlice>) {
        self.engine(|engine| {
            for (key, row) in update.rows_by_key(|| engine.known_slices()) {
                if let Some(key) = row.as_ref().map(|row| row.key.clone()).or_else(|| SliceKey::parse(&key)) {
                    engine.set_slice(&key, row);
                }
            }
        });
    }

    fn take_attachments(&self, update: Update<Attachment>) {
        self.engine(|engine| {
            for (key, row) in update.rows_by_key(|| engine.known_attachments()) {
                engine.set_attachment(&key, row);
            }
        });
    }

    /// Brings the kernel up to date; returns when to compare at the latest.
    async fn pass(&mut self, compare: Option<Why>, since: Instant) -> Result<Duration, ProxyError> {
        let Some(committed) = self.engine(Engine::commit) else { return Ok(RETRY) };
        self.unproven.extend(committed.services.iter().cloned());
        let (mut flows, mut all) = (committed.flows, false);
        let outcome = match compare {
            None if committed.change.is_empty() => Ok(()),
            None => match self.change(&committed, since).await {
                Ok(()) => Ok(()),
                Err(error) => {
                    tracing::debug!(%error, "the kernel has not what it was known to have; comparing");
                    all = true;
                    self.compare(Why::Own).await
                }
            },
            Some(why) => {
                all = true;
                self.compare(why).await
            }
        };
        if let Err(error) = outcome {
            self.failures += 1;
            tracing::warn!(%error, failures = self.failures, "Services could not be brought up to date");
            if self.failures >= FAILURES_MAX {
                return Err(error);
            }
            self.health.degraded(error.to_string());
            return Ok(RETRY);
        }
        self.failures = 0;
        self.unproven.clear();
        flows |= all;
        if flows {
            self.end_flows().await?;
        }
        if all || !committed.services.is_empty() {
            self.tell(&committed, all).await?;
        }
        self.health.ready();
        Ok(COMPARE)
    }

    async fn change(&self, committed: &Committed, since: Instant) -> Result<(), ProxyError> {
        self.deps.nft.change_section(committed.change.clone()).await?;
        self.deps.status.count(|figures| {
            figures.changes += 1;
            figures.last_change = since.elapsed();
        });
        Ok(())
    }

    /// Compares the whole section. When the kernel refuses it, the Services to blame are left out.
    async fn compare(&self, why: Why) -> Result<(), ProxyError> {
        let applied = match self.ensure().await {
            Ok(applied) => applied,
            Err(error @ ProxyError::Kernel(NetlinkError::Kernel { .. })) if !self.unproven.is_empty() => {
                self.isolate(error).await?
            }
            Err(error) => return Err(error),
        };
        self.deps.status.count(|figures| {
            figures.comparisons += 1;
            figures.repairs += u64::from(applied != Applied::Unchanged && why == Why::Others);
        });
        if applied != Applied::Unchanged {
            tracing::info!(?applied, "rules of Services are in place");
        }
        Ok(())
    }

    /// Leaves out the Services that the kernel refuses, which are among those that changed.
    async fn isolate(&self, error: ProxyError) -> Result<Applied, ProxyError> {
        let suspects = &self.unproven;
        let leave_out = |out: &BTreeSet<ServiceKey>| {
            self.engine(|engine| {
                engine.quarantine(suspects, out);
                engine.commit();
            });
        };
        let mut search = Isolation::new(suspects);
        loop {
            leave_out(search.attempt());
            let accepted = self.ensure().await.is_ok();
            if !search.tell(accepted) {
                break;
            }
        }
        let Some(guilty) = search.guilty() else {
            leave_out(&BTreeSet::new());
            return Err(error);
        };
        for service in &guilty {
            tracing::error!(%service, %error, "the kernel refuses a Service; it is left out until it changes");
        }
        leave_out(&guilty);
        self.ensure().await
    }

    /// Makes the section what the engine says.
    async fn ensure(&self) -> Result<Applied, ProxyError> {
        let Some(ruleset) = self.engine(|engine| engine.ruleset()) else { return Ok(Applied::Unchanged) };
        Ok(self.deps.nft.ensure_section(Section::Services, Arc::new(ruleset)).await?)
    }

    /// Ends UDP flows that lead nowhere.
    async fn end_flows(&self) -> Result<(), ProxyError> {
        let Some(served) = self.engine(|engine| Served::of(engine)) else { return Ok(()) };
        let stale = move |flow: &warren_netlink::conntrack::Flow| served.is_stale(flow);
        let found = self.deps.conntrack.flows_where(Protocol::Udp.number(), stale).await?;
        let mut ended = 0;
        for flow in &found.flows {
            ended += u64::from(self.deps.conntrack.delete(flow).await?);
        }
        if ended > 0 {
            tracing::debug!(ended, "UDP flows that led nowhere");
            self.deps.status.count(|figures| figures.flows_ended += ended);
        }
        if !found.complete {
            tracing::debug!("the list of flows was interrupted; the next change looks again");
        }
        Ok(())
    }

    /// Writes down what is wrong with Services, and serves what userspace serves.
    async fn tell(&mut self, committed: &Committed, all: bool) -> Result<(), ProxyError> {
        let Some((faults, wanted, services)) = self.engine(|engine| {
            let keys: Vec<ServiceKey> = match all {
                true => engine.services().map(|(row, ..)| row.key.clone()).collect(),
                false => committed.services.iter().cloned().collect(),
            };
            let faults: Vec<_> = keys
                .into_iter()
                .map(|key| {
                    let uid = engine.service(&key).map(|(row, ..)| row.uid.clone());
                    (engine.faults(&key), uid, key)
                })
                .collect();
            let with_fronts = engine.services().filter(|(_, plan, _)| !plan.fronts.is_empty()).count();
            (faults, LocalServers::wanted(engine), with_fronts)
        }) else {
            return Ok(());
        };
        self.deps.status.count(|figures| figures.services = services);
        self.servers.ensure(wanted);
        let mut changes = Vec::new();
        let mut known = BTreeSet::new();
        for (faults, uid, service) in faults {
            known.insert(service_key(&service));
            match uid.filter(|_| !faults.is_empty()) {
                Some(uid) => {
                    for fault in &faults {
                        tracing::debug!(%service, reason = fault.reason, message = fault.message, "fault");
                    }
                    changes.push(Change::Put(ServiceFaults { service, uid, faults }));
                }
                None => changes.push(Change::Delete(service_key(&service))),
            }
        }
        let table = &self.deps.tables.faults;
        if all {
            let rows = table.snapshot().rows;
            let gone = rows.keys().filter(|key| !known.contains(*key)).cloned();
            changes.extend(gone.map(Change::Delete));
        }
        table.commit(changes, Durability::Cached).await?;
        if all {
            table.mark_loaded().await?;
        }
        Ok(())
    }
}
