//! The runner: rows in, transactions out, and the end of connections that are no longer allowed.
//!
//! A change of rows becomes a change of elements, made from what the kernel is known to have; nothing is listed for it. The
//! kernel is compared as a whole at the start, when somebody else touched the table, when a change was refused, and every
//! few minutes.

use crate::config::{Deps, PolicyConfig};
use crate::decide::Flow;
use crate::engine::{Committed, Engine, Settings, Subject, Unknown};
use crate::error::PolicyError;
use crate::gate::{Admission, GateError};
use crate::rules::PolicyId;
use crate::{denials, held, late, ruleset};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use warren_netlink::NetlinkError;
use warren_netlink::conntrack;
use warren_netlink::nft::{Applied, Change, Isolation, Section};
use warren_store::tables::attachment_key;
use warren_store::{Update, Watch};
use warren_types::{
    Attachment, HealthCell, HealthState, Namespace, NamespaceState, NetworkPolicy, Pod, PodKey, PolicyKey,
};

/// Changes are at least this far apart; the first after a pause is made at once.
const GAP: Duration = Duration::from_millis(10);
/// The kernel is compared at least this often.
const COMPARE: Duration = Duration::from_secs(180);
/// After a failed comparison.
const RETRY: Duration = Duration::from_millis(500);
/// So many failures in a row end the subsystem, and the supervisor starts it anew.
const FAILURES_MAX: u32 = 20;
/// How long a pod waits for its row: the API tells its node and this agent of it at about the same time.
const UNSEEN: Duration = Duration::from_secs(5);
/// How often denied packets are looked at for the log.
const LOOK: Duration = Duration::from_secs(10);
/// Protocols without ports.
const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;

/// Keeps policies in force until `stop`; then leaves everything as it is.
///
/// # Errors
/// When the store is closed, or the kernel refuses again and again; the supervisor starts it anew.
pub async fn run(
    config: PolicyConfig,
    deps: Deps,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), PolicyError> {
    let tables = deps.tables.clone();
    let mut follow = Follow {
        pods: tables.pods.watch(),
        namespaces: tables.namespaces.watch(),
        policies: tables.policies.watch(),
        attachments: tables.attachments.watch(),
    };
    let mut rules = deps.nft.changes().await?;
    let mut runner = Runner {
        config,
        deps,
        health,
        waiting: Vec::new(),
        unproven: BTreeSet::new(),
        failures: 0,
        log: denials::Log::default(),
    };
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        ready = runner.load(&mut follow) => ready?,
    }
    let mut gate = runner.deps.gate.open();
    let mut compare = Some(Why::Own);
    let mut compare_at = tokio::time::Instant::now();
    // Not at once: what a start found removed is to be remembered for a while.
    let mut look = tokio::time::interval_at(tokio::time::Instant::now() + LOOK, LOOK);
    let mut since = Instant::now();
    loop {
        let begun = tokio::time::Instant::now();
        let wait = runner.pass(compare, since).await?;
        if compare.is_some() || wait != COMPARE {
            compare_at = begun + wait;
        }
        compare = None;
        runner.answer();
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep_until(begun + GAP) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            some = gate.recv() => runner.take_admission(some.ok_or(PolicyError::StoreClosed)?),
            rows = follow.attachments.next() => runner.take_attachments(rows.ok_or(PolicyError::StoreClosed)?),
            rows = follow.pods.next() => runner.take_pods(rows.ok_or(PolicyError::StoreClosed)?),
            rows = follow.namespaces.next() => runner.take_namespaces(rows.ok_or(PolicyError::StoreClosed)?),
            rows = follow.policies.next() => runner.take_policies(rows.ok_or(PolicyError::StoreClosed)?),
            change = rules.changed() => {
                if change.is_err() {
                    rules = runner.deps.nft.changes().await?;
                }
                compare = Some(Why::Others);
            }
            _ = look.tick() => runner.look().await,
            () = tokio::time::sleep_until(runner.first_deadline()) => {}
            () = tokio::time::sleep_until(compare_at) => compare = Some(Why::Others),
        }
        since = Instant::now();
        runner.take_what_is_there(&mut follow, &mut gate).await;
    }
}

struct Follow {
    pods: Watch<Pod>,
    namespaces: Watch<NamespaceState>,
    policies: Watch<NetworkPolicy>,
    attachments: Watch<Attachment>,
}

/// Somebody at the gate, and until when its pod may be unknown.
struct Waiting {
    admission: Admission,
    until: tokio::time::Instant,
}

struct Runner {
    config: PolicyConfig,
    deps: Deps,
    health: HealthCell,
    waiting: Vec<Waiting>,
    /// Policies with elements that the kernel has not taken yet.
    unproven: BTreeSet<PolicyId>,
    failures: u32,
    log: denials::Log,
}

/// Why the kernel is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// What was known to be there has changed.
    Own,
    /// Somebody may have touched the table.
    Others,
}

impl Runner {
    /// Waits for the first complete load of everything: before that, what is in the kernel serves.
    async fn load(&mut self, follow: &mut Follow) -> Result<(), PolicyError> {
        self.health
            .set(HealthState::Starting, "waiting for the first list of NetworkPolicies, Namespaces and Pods");
        follow.policies.loaded().await.ok_or(PolicyError::StoreClosed)?;
        follow.namespaces.loaded().await.ok_or(PolicyError::StoreClosed)?;
        follow.pods.loaded().await.ok_or(PolicyError::StoreClosed)?;
        self.health.set(HealthState::Starting, "waiting for the list of this node's attachments");
        follow.attachments.loaded().await.ok_or(PolicyError::StoreClosed)?;
        let settings = Settings { unknown: self.config.unknown, node: Some(self.config.node_name.clone()) };
        let mut engine = Engine::new(settings);
        let tables = &self.deps.tables;
        tables
            .namespaces
            .snapshot()
            .rows
            .values()
            .for_each(|row| engine.set_namespace(&row.name, Some(row.clone())));
        tables.pods.snapshot().rows.values().for_each(|row| engine.set_pod(&row.key, Some(row.clone())));
        tables
            .policies
            .snapshot()
            .rows
            .values()
            .for_each(|row| engine.set_policy(&row.key, Some(row.clone())));
        for (key, row) in tables.attachments.snapshot().rows.iter() {
            engine.set_subject(key, self.subject(row));
        }
        held::restore(&mut engine, tables);
        self.deps.status.with(|slot| *slot = Some(engine));
        Ok(())
    }

    /// The pod of an attachment; none when it is nobody's that policies could speak of.
    fn subject(&self, row: &Attachment) -> Option<Subject> {
        Some(Subject {
            pod: row.pod.clone()?,
            // Where there is no kubelet, the uid of the Pod object is not the runtime's.
            uid: row.pod_uid.clone().filter(|_| !self.config.labels_from_attachments),
            addresses: row.addresses.clone(),
            labels: self.config.labels_from_attachments.then(|| row.labels.clone()),
        })
    }

    fn engine<T>(&self, work: impl FnOnce(&mut Engine) -> T) -> Option<T> {
        self.deps.status.with(|slot| slot.as_mut().map(work))
    }

    fn take_pods(&self, update: Update<Pod>) {
        self.engine(|engine| {
            for (key, row) in update.rows_by_key(|| engine.known_pods().map(ToString::to_string).collect()) {
                if let Some(key) = PodKey::parse(&key) {
                    engine.set_pod(&key, row);
                }
            }
        });
    }

    fn take_namespaces(&self, update: Update<NamespaceState>) {
        self.engine(|engine| {
            for (key, row) in
                update.rows_by_key(|| engine.known_namespaces().map(ToString::to_string).collect())
            {
                if let Ok(name) = Namespace::new(key) {
                    engine.set_namespace(&name, row);
                }
            }
        });
    }

    fn take_policies(&self, update: Update<NetworkPolicy>) {
        self.engine(|engine| {
            for (key, row) in
                update.rows_by_key(|| engine.known_policies().map(|key| key.to_string()).collect())
            {
                if let Some(key) = PolicyKey::parse(&key) {
                    engine.set_policy(&key, row);
                }
            }
        });
    }

    fn take_attachments(&self, update: Update<Attachment>) {
        self.engine(|engine| {
            for (key, row) in update.rows_by_key(|| engine.known_subjects().map(ToOwned::to_owned).collect())
            {
                engine.set_subject(&key, row.and_then(|row| self.subject(&row)));
            }
        });
    }

    /// Somebody came to the gate. Its row is in the table, and the watch may not have told of it yet.
    fn take_admission(&mut self, admission: Admission) {
        let key = attachment_key(&admission.key);
        if let Some(row) = self.deps.tables.attachments.get(&key) {
            self.engine(|engine| engine.set_subject(&key, self.subject(&row)));
        }
        self.waiting.push(Waiting { admission, until: tokio::time::Instant::now() + UNSEEN });
    }

    /// What came together goes into one transaction.
    async fn take_what_is_there(&mut self, follow: &mut Follow, gate: &mut mpsc::Receiver<Admission>) {
        while let Ok(admission) = gate.try_recv() {
            self.take_admission(admission);
        }
        while let Some(update) = follow.attachments.try_next() {
            self.take_attachments(update);
        }
        while let Some(update) = follow.pods.try_next() {
            self.take_pods(update);
        }
        while let Some(update) = follow.namespaces.try_next() {
            self.take_namespaces(update);
        }
        while let Some(update) = follow.policies.try_next() {
            self.take_policies(update);
        }
    }

    /// Lets in whom the last transaction isolated, and refuses those whose pod stayed unknown.
    fn answer(&mut self) {
        let now = tokio::time::Instant::now();
        for Waiting { admission, until } in std::mem::take(&mut self.waiting) {
            let key = attachment_key(&admission.key);
            let pod = self.deps.tables.attachments.get(&key).map(|row| row.pod.clone());
            let known = self.engine(|engine| engine.is_known(&key)).unwrap_or(false);
            let answer = match pod {
                None => Err(GateError::NoRules("the attachment is gone".into())),
                // Whom no policy can speak of.
                Some(None) => Ok(()),
                Some(Some(_)) if self.failures > 0 => Err(GateError::NoRules(self.health.get().message)),
                Some(Some(_)) if known || self.config.unknown == Unknown::Open => Ok(()),
                Some(Some(pod)) if now >= until => Err(GateError::UnknownPod(pod)),
                Some(Some(_)) => {
                    self.waiting.push(Waiting { admission, until });
                    continue;
                }
            };
            // Who does not wait any more has gone by itself.
            let _ = admission.answer.send(answer);
        }
    }

    /// When the first of those who wait is refused.
    fn first_deadline(&self) -> tokio::time::Instant {
        let far = tokio::time::Instant::now() + COMPARE;
        self.waiting.iter().map(|waiting| waiting.until).min().unwrap_or(far)
    }

    /// Brings the kernel up to date; returns when to compare at the latest.
    async fn pass(&mut self, compare: Option<Why>, since: Instant) -> Result<Duration, PolicyError> {
        let Some(committed) = self.engine(Engine::commit) else { return Ok(RETRY) };
        let kept = self.engine(Engine::take_kept).unwrap_or_default();
        held::keep(&self.deps.tables, kept).await?;
        self.unproven.extend(self.engine(|engine| engine.suspects(&committed)).unwrap_or_default());
        let mut all = compare.is_some();
        let outcome = match compare {
            None if committed.is_empty() => return Ok(COMPARE),
            None => match self.change(&committed, since).await {
                Ok(()) => Ok(()),
                Err(error) => {
                    tracing::debug!(%error, "the kernel has not what it was known to have; comparing");
                    all = true;
                    self.compare(Why::Own).await
                }
            },
            Some(why) => self.compare(why).await,
        };
        if let Err(error) = outcome {
            self.failures += 1;
            tracing::warn!(%error, failures = self.failures, "network policies could not be brought up to date");
            if self.failures >= FAILURES_MAX {
                return Err(error);
            }
            self.health.degraded(error.to_string());
            return Ok(RETRY);
        }
        self.failures = 0;
        self.unproven.clear();
        if committed.tightened || all {
            self.end_flows().await?;
        }
        self.health.ready();
        Ok(COMPARE)
    }

    async fn change(&self, committed: &Committed, since: Instant) -> Result<(), PolicyError> {
        let change = ruleset::change(&committed.add, &committed.remove);
        self.deps.nft.change_section(change).await?;
        self.deps.status.count(|figures| {
            figures.changes += 1;
            figures.last_change = since.elapsed();
        });
        Ok(())
    }

    /// Compares the whole section. When the kernel refuses it, the policies to blame are found.
    async fn compare(&self, why: Why) -> Result<(), PolicyError> {
        let applied = match self.ensure().await {
            Err(error @ PolicyError::Kernel(NetlinkError::Kernel { .. })) if !self.unproven.is_empty() => {
                self.isolate(error).await?
            }
            outcome => outcome?,
        };
        self.deps.status.count(|figures| {
            figures.comparisons += 1;
            figures.repairs += u64::from(applied != Applied::Unchanged && why == Why::Others);
        });
        if applied != Applied::Unchanged {
            tracing::info!(?applied, "rules of network policies are in place");
        }
        Ok(())
    }

    /// Makes the section what the engine says.
    async fn ensure(&self) -> Result<Applied, PolicyError> {
        let Some(items) = self.engine(|engine| engine.items()) else { return Ok(Applied::Unchanged) };
        Ok(self.deps.nft.ensure_section(Section::Policy, Arc::new(ruleset::ruleset(&items))).await?)
    }

    /// Takes what they allow from the policies that the kernel refuses, which are among those with new elements.
    async fn isolate(&self, error: PolicyError) -> Result<Applied, PolicyError> {
        let suspects = &self.unproven;
        let take_from = |out: &BTreeSet<PolicyId>| {
            self.engine(|engine| {
                engine.quarantine(suspects, out);
                engine.commit();
            });
        };
        let mut search = Isolation::new(suspects);
        loop {
            take_from(search.attempt());
            let accepted = self.ensure().await.is_ok();
            if !search.tell(accepted) {
                break;
            }
        }
        let Some(guilty) = search.guilty() else {
            take_from(&BTreeSet::new());
            return Err(error);
        };
        for policy in &guilty {
            tracing::error!(%policy, %error, "the kernel refuses a policy; it isolates, and allows nothing until it changes");
        }
        take_from(&guilty);
        self.ensure().await
    }

    /// Ends connections that are no longer allowed. What the node itself has to do with its pods is not judged.
    async fn end_flows(&self) -> Result<(), PolicyError> {
        let status = self.deps.status.clone();
        let forbidden = move |flow: &conntrack::Flow| {
            let (from, to) = (flow.original.source.ip(), flow.reply.source);
            let port = if matches!(flow.protocol, ICMP | ICMP_V6) { 0 } else { to.port() };
            let flow = Flow { source: from, destination: to.ip(), protocol: flow.protocol, port };
            status.look(|engine| !engine.is_allowed(&flow)).unwrap_or(false)
        };
        let mut found = self.deps.conntrack.all_flows_where(forbidden).await?;
        if !found.complete {
            tracing::debug!("the list of connections was interrupted; the next change looks again");
        }
        if found.flows.is_empty() {
            return Ok(());
        }
        let own: BTreeSet<IpAddr> =
            self.deps.netlink.list_addresses(None).await?.into_iter().map(|(_, net)| net.addr()).collect();
        found.flows.retain(|flow| {
            !own.contains(&flow.original.source.ip()) && !own.contains(&flow.reply.source.ip())
        });
        self.hold_back(late::hold(&found.flows)).await;
        let mut ended = 0;
        for flow in &found.flows {
            ended += u64::from(self.deps.conntrack.delete(flow).await?);
        }
        if ended > 0 {
            tracing::info!(ended, "connections that are no longer allowed");
            self.deps.status.count(|figures| figures.flows_ended += ended);
        }
        // There is time until the others pass again.
        self.hold_back(late::part(&found.flows, |flow| self.is_forbidden_elsewhere(flow))).await;
        Ok(())
    }

    async fn hold_back(&self, late: Change) {
        if late.is_empty() {
            return;
        }
        // Without it answers may begin a flow anew; to leave the flow as it is would be worse.
        if let Err(error) = self.deps.nft.change_section(late).await {
            tracing::warn!(%error, "late answers of ended flows are not held back");
        }
    }

    fn is_forbidden_elsewhere(&self, flow: &Flow) -> bool {
        self.deps.status.look(|engine| late::is_forbidden_elsewhere(engine, flow)).unwrap_or(true)
    }

    /// What is to be done every few seconds: counts what was denied, and logs what is new of it.
    async fn look(&mut self) {
        self.engine(Engine::forget_removed);
        if let Err(error) = self.log.look(&self.deps.nft, &self.deps.status).await {
            tracing::debug!(%error, "denied packets could not be read");
        }
        if let Err(error) = late::review(&self.deps.nft, |flow| self.is_forbidden_elsewhere(flow)).await {
            tracing::debug!(%error, "ways of ended flows could not be looked through");
        }
    }
}
