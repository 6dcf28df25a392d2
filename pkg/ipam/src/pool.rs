//! The pool: the allocator over the tables.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use warren_store::tables::attachment_key;
use warren_store::{Change, Durability, Record, Store, Table};
use warren_types::{Attachment, AttachmentKey, AttachmentPhase, BootId, Family, LeaseRequest, PodCidrs};

use crate::engine::{FamilyPool, Refusal};
use crate::{Finding, IpamError, PoolStatus, PrefixStatus, Settings};

/// An address that was released in this boot and may still rest. Table `quarantine`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The address.
    pub address: IpAddr,
    /// The boot of the release: a reboot ends every rest.
    pub boot_id: BootId,
}

impl Record for Quarantined {
    const TABLE: &'static str = "quarantine";
    fn key(&self) -> String {
        self.address.to_string()
    }
}

/// The addresses of this node's pods; clones share it.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    settings: Settings,
    attachments: Table<Attachment>,
    quarantine: Table<Quarantined>,
    /// Held only over memory, never over a write.
    state: Mutex<State>,
}

struct State {
    v4: FamilyPool,
    v6: FamilyPool,
    cidrs: PodCidrs,
    /// Every lease: those on disk, and those on their way there.
    leases: BTreeMap<AttachmentKey, Attachment>,
    /// Attachments with a request on its way.
    busy: BTreeSet<AttachmentKey>,
    /// When `quarantine` was last looked through for rows that are no longer needed.
    swept: Duration,
}

impl State {
    fn family(&mut self, addr: IpAddr) -> &mut FamilyPool {
        if addr.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }

    fn resting(&self, addr: IpAddr, now: Duration) -> bool {
        if addr.is_ipv4() { self.v4.resting(addr, now) } else { self.v6.resting(addr, now) }
    }

    fn undo(&mut self, addresses: &[IpAddr]) {
        for a in addresses {
            self.family(*a).undo(*a);
        }
    }

    /// Whether no other pod that is attached has one of the host ports asked for. An attachment that comes or goes does
    /// not count, nor does another sandbox of the same pod: which of them lives on is not certain.
    fn host_ports_free(&self, req: &LeaseRequest) -> Result<(), IpamError> {
        for wanted in &req.host_ports {
            let holds = |lease: &&Attachment| {
                let same_pod = lease.pod.is_some() && lease.pod == req.pod;
                let live = lease.phase == AttachmentPhase::Live && !same_pod;
                live && lease.host_ports.iter().any(|held| held.overlaps(wanted))
            };
            if let Some(lease) = self.leases.values().find(holds) {
                let holder =
                    lease.pod.as_ref().map_or_else(|| lease.key.to_string(), |pod| format!("pod {pod}"));
                return Err(IpamError::HostPortTaken { port: wanted.clone(), holder });
            }
        }
        Ok(())
    }

    /// One address per family that has a podCIDR, all or none.
    fn take(&mut self, requested: &[IpAddr], now: Duration) -> Result<Vec<IpAddr>, IpamError> {
        if self.cidrs.is_empty() {
            return Err(IpamError::NoPodCidr);
        }
        for (i, a) in requested.iter().enumerate() {
            if requested[..i].iter().any(|b| a.is_ipv4() == b.is_ipv4()) {
                let reason = "another address of the same family was requested too".to_owned();
                return Err(IpamError::Requested { address: *a, reason });
            }
        }
        let mut taken = Vec::new();
        for v4 in [true, false] {
            let pool = if v4 { &mut self.v4 } else { &mut self.v6 };
            let wanted = requested.iter().find(|a| a.is_ipv4() == v4);
            let result = match wanted {
                Some(a) => pool.take_this(*a, now).map(|()| *a).map_err(|e| requested_error(*a, e, pool)),
                None if pool.range().is_none() => continue,
                None => pool.take(now).map_err(|_| exhausted(pool, now)),
            };
            match result {
                Ok(a) => taken.push(a),
                Err(e) => {
                    self.undo(&taken);
                    return Err(e);
                }
            }
        }
        Ok(taken)
    }
}

fn requested_error(address: IpAddr, why: Refusal, pool: &FamilyPool) -> IpamError {
    let net = pool.range().map_or_else(String::new, |r| r.net.to_string());
    let reason = match why {
        Refusal::NoRange => "this node has no podCIDR of that family".to_owned(),
        Refusal::OutOfRange => format!(
            "pods of this node have addresses from {net}, without its first two and, for IPv4, its last"
        ),
        Refusal::Leased => "another pod has it".to_owned(),
        Refusal::Held => "something on this node uses it".to_owned(),
        Refusal::Resting(left) => {
            format!("it was released a moment ago and is free in {} s", left.as_secs() + 1)
        }
        Refusal::Exhausted => "no address is free".to_owned(),
    };
    IpamError::Requested { address, reason }
}

fn exhausted(pool: &FamilyPool, now: Duration) -> IpamError {
    match pool.counts(now) {
        Some((prefix, c)) => IpamError::Exhausted {
            prefix,
            total: c.total,
            used: c.used,
            quarantined: c.quarantined,
            held: c.held,
        },
        None => IpamError::NoPodCidr,
    }
}

/// Marks an attachment as busy for as long as it lives. A request whose future is dropped in the middle leaves its
/// lease as it last was in memory: unfinished, for the next request to roll back.
struct Busy<'a> {
    inner: &'a Inner,
    key: AttachmentKey,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.inner.state().busy.remove(&self.key);
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn now(&self) -> Duration {
        (self.settings.clock)()
    }
    /// Addresses whose rows in `quarantine` are no longer needed; looked for now and then only.
    fn rested(&self, state: &mut State, now: Duration) -> Vec<IpAddr> {
        if now < state.swept + self.settings.quarantine / 2 {
            return Vec::new();
        }
        state.swept = now;
        let rows = self.quarantine.snapshot().rows;
        rows.values().map(|r| r.address).filter(|a| !state.resting(*a, now)).collect()
    }
    fn occupy<'a>(&'a self, state: &mut State, key: &AttachmentKey) -> Result<Busy<'a>, IpamError> {
        if !state.busy.insert(key.clone()) {
            return Err(IpamError::Busy(key.clone()));
        }
        Ok(Busy { inner: self, key: key.clone() })
    }
}

impl Pool {
    /// Opens the pool over the store's leases. Attachments of earlier boots are released, on disk too, and returned
    /// so that what is left of them can be cleaned; addresses that rested start to rest anew.
    ///
    /// # Errors
    /// [`IpamError::Store`].
    pub async fn open(
        store: &Store,
        settings: impl Into<Settings>,
    ) -> Result<(Self, Vec<Attachment>), IpamError> {
        let settings = settings.into();
        let (attachments, quarantine) = (store.table::<Attachment>(), store.table::<Quarantined>());
        let now = (settings.clock)();
        let (mut v4, mut v6) = (FamilyPool::new(true), FamilyPool::new(false));
        let mut leases = BTreeMap::new();
        let mut reclaimed = Vec::new();
        for row in attachments.snapshot().rows.values() {
            if row.boot_id == settings.boot_id {
                leases.insert(row.key.clone(), (**row).clone());
            } else {
                reclaimed.push((**row).clone());
            }
        }
        let gone: Vec<_> = reclaimed.iter().map(|a| Change::Delete(attachment_key(&a.key))).collect();
        attachments.commit(gone, Durability::Flushed).await?;
        attachments.mark_loaded().await?;
        for a in leases.values().flat_map(|l| &l.addresses) {
            if a.is_ipv4() { v4.adopt(*a) } else { v6.adopt(*a) }
        }
        // Nothing of an earlier boot is alive: these are free at once, but given out last.
        for a in reclaimed.iter().flat_map(|l| &l.addresses) {
            if a.is_ipv4() { v4.rest(*a, now, now) } else { v6.rest(*a, now, now) }
        }
        let mut stale = Vec::new();
        for row in quarantine.snapshot().rows.values() {
            if row.boot_id == settings.boot_id {
                let (a, until) = (row.address, now + settings.quarantine);
                if a.is_ipv4() { v4.rest(a, until, now) } else { v6.rest(a, until, now) }
            } else {
                stale.push(Change::Delete(row.key()));
            }
        }
        quarantine.commit(stale, Durability::Cached).await?;
        if !reclaimed.is_empty() {
            tracing::info!(count = reclaimed.len(), "released the attachments of earlier boots");
        }
        let state = Mutex::new(State {
            v4,
            v6,
            cidrs: PodCidrs::default(),
            leases,
            busy: BTreeSet::new(),
            swept: now,
        });
        Ok((Self(Arc::new(Inner { settings, attachments, quarantine, state })), reclaimed))
    }

    /// Allocates from these podCIDRs from now on. Leases outside of them stay, and [`Pool::check`] names them.
    pub fn set_pod_cidrs(&self, cidrs: PodCidrs) {
        let mut state = self.0.state();
        if state.cidrs == cidrs {
            return;
        }
        state.cidrs = cidrs;
        state.v4.set_range(cidrs.v4.map(IpNet::V4));
        state.v6.set_range(cidrs.v6.map(IpNet::V6));
        let outside =
            state.leases.values().flat_map(|l| &l.addresses).filter(|a| !cidrs.contains(**a)).count();
        if outside > 0 {
            tracing::warn!(?cidrs, outside, "the podCIDRs changed; some leases lie outside of them");
        }
    }

    /// The podCIDRs it allocates from.
    #[must_use]
    pub fn pod_cidrs(&self) -> PodCidrs {
        self.0.state().cidrs
    }

    /// Addresses that the kernel shows in use for pods. Those without a lease (after the store was lost) are not given
    /// out until the next call no longer names them.
    pub fn set_observed(&self, addresses: &[IpAddr]) {
        let mut state = self.0.state();
        state.v4.set_held(addresses.iter().copied().filter(IpAddr::is_ipv4));
        state.v6.set_held(addresses.iter().copied().filter(IpAddr::is_ipv6));
    }

    /// Leases one address per family that has a podCIDR. The lease, in phase Adding, survives the end of this process
    /// when this returns, but not yet a power cut, after which nothing of the attachment would be left to know: the
    /// journal is written in order, so what [`Pool::set_phase`] brings to disk later has this before it.
    ///
    /// # Errors
    /// [`IpamError::AlreadyLive`] and [`IpamError::Leftover`] carry what is there; [`IpamError::Busy`],
    /// [`IpamError::NoPodCidr`], [`IpamError::Exhausted`], [`IpamError::Requested`], [`IpamError::HostPortTaken`],
    /// [`IpamError::Store`]: nothing was leased.
    pub async fn allocate(&self, req: LeaseRequest) -> Result<Attachment, IpamError> {
        let inner = &*self.0;
        let (busy, attachment) = {
            let mut state = inner.state();
            let busy = inner.occupy(&mut state, &req.key);
            let busy = busy?;
            if let Some(have) = state.leases.get(&req.key) {
                let have = Box::new(have.clone());
                drop(state);
                let live = have.phase == AttachmentPhase::Live;
                return Err(if live { IpamError::AlreadyLive(have) } else { IpamError::Leftover(have) });
            }
            let taken = match state.host_ports_free(&req) {
                Ok(()) => state.take(&req.requested, inner.now()),
                Err(e) => Err(e),
            };
            let addresses = match taken {
                Ok(addresses) => addresses,
                Err(e) => {
                    // `busy` takes the lock when it goes.
                    drop(state);
                    return Err(e);
                }
            };
            let boot_id = inner.settings.boot_id.clone();
            let attachment = req.attachment(addresses, AttachmentPhase::Adding, boot_id);
            state.leases.insert(attachment.key.clone(), attachment.clone());
            (busy, attachment)
        };
        let written = inner.attachments.put(attachment.clone(), Durability::Cached).await;
        if let Err(e) = written {
            let mut state = inner.state();
            state.leases.remove(&attachment.key);
            state.undo(&attachment.addresses);
            drop(state);
            return Err(e.into());
        }
        drop(busy);
        Ok(attachment)
    }

    /// Writes the row of an attachment that lives already and has no row: it has the addresses that `req` names,
    /// wherever they lie, in phase Live. For what is found in the kernel after the store was lost.
    ///
    /// # Errors
    /// [`IpamError::AlreadyLive`], [`IpamError::Busy`], [`IpamError::Store`]: nothing changed.
    pub async fn adopt(&self, req: LeaseRequest) -> Result<Attachment, IpamError> {
        let inner = &*self.0;
        let (busy, attachment) = {
            let mut state = inner.state();
            let busy = inner.occupy(&mut state, &req.key)?;
            if let Some(have) = state.leases.get(&req.key) {
                let have = Box::new(have.clone());
                drop(state);
                return Err(IpamError::AlreadyLive(have));
            }
            let addresses = req.requested.clone();
            for address in &addresses {
                state.family(*address).adopt(*address);
            }
            let attachment = req.attachment(addresses, AttachmentPhase::Live, inner.settings.boot_id.clone());
            state.leases.insert(attachment.key.clone(), attachment.clone());
            (busy, attachment)
        };
        // Whatever loses this row, a power cut, ends the attachment too.
        let written = inner.attachments.put(attachment.clone(), Durability::Cached).await;
        if let Err(e) = written {
            // The address stays out of reach all the same: it is held, as the kernel shows.
            let mut state = inner.state();
            state.leases.remove(&attachment.key);
            state.undo(&attachment.addresses);
            drop(state);
            return Err(e.into());
        }
        drop(busy);
        Ok(attachment)
    }

    /// Notes how far an attachment has come. On disk when this returns, except for Deleting, which a power cut may
    /// forget: it takes the attachment too.
    ///
    /// # Errors
    /// [`IpamError::NotFound`], [`IpamError::Busy`], [`IpamError::Store`]: nothing changed.
    pub async fn set_phase(
        &self,
        key: &AttachmentKey,
        phase: AttachmentPhase,
    ) -> Result<Attachment, IpamError> {
        let inner = &*self.0;
        let (busy, mut row) = {
            let mut state = inner.state();
            let row = state.leases.get(key).cloned().ok_or_else(|| IpamError::NotFound(key.clone()))?;
            (inner.occupy(&mut state, key)?, row)
        };
        row.phase = phase;
        let durability =
            if phase == AttachmentPhase::Live { Durability::Flushed } else { Durability::Cached };
        inner.attachments.put(row.clone(), durability).await?;
        inner.state().leases.insert(key.clone(), row.clone());
        drop(busy);
        Ok(row)
    }

    /// Ends a lease; its addresses rest. `None`: there was none, which is no error.
    ///
    /// # Errors
    /// [`IpamError::Busy`], [`IpamError::Store`]: the lease stays.
    pub async fn release(&self, key: &AttachmentKey) -> Result<Option<Attachment>, IpamError> {
        let inner = &*self.0;
        let now = inner.now();
        let (busy, row, rested) = {
            let mut state = inner.state();
            let Some(row) = state.leases.get(key).cloned() else { return Ok(None) };
            let busy = inner.occupy(&mut state, key)?;
            (busy, row, inner.rested(&mut state, now))
        };
        let boot_id = &inner.settings.boot_id;
        let rest = |address: IpAddr| Quarantined { address, boot_id: boot_id.clone() };
        let mut changes: Vec<_> = rested.into_iter().map(|a| Change::Delete(rest(a).key())).collect();
        changes.extend(row.addresses.iter().map(|a| Change::Put(rest(*a))));
        // Asked for in this order and at once, they share a flush; a crash between them leaves a rest for a leased
        // address, which means nothing.
        let (rest, gone) = futures::future::join(
            inner.quarantine.commit(changes, Durability::Cached),
            inner.attachments.delete(&attachment_key(key), Durability::Flushed),
        )
        .await;
        gone?;
        if let Err(e) = rest {
            tracing::warn!(%key, error = %e, "the rest of released addresses is kept in memory alone");
        }
        let mut state = inner.state();
        state.leases.remove(key);
        // Counted from now: the release took effect only now.
        let now = inner.now();
        for a in &row.addresses {
            state.family(*a).give_back(*a, now + inner.settings.quarantine, now);
        }
        drop(state);
        drop(busy);
        Ok(Some(row))
    }

    /// For GC: every attachment that `valid` does not name is marked Deleting, on disk, and returned, to be taken down
    /// and released. Attachments with a request on its way are left alone.
    ///
    /// # Errors
    /// [`IpamError::Store`]: nothing changed.
    pub async fn retain(&self, valid: &BTreeSet<AttachmentKey>) -> Result<Vec<Attachment>, IpamError> {
        let inner = &*self.0;
        let (mut rows, mut busy) = (Vec::new(), Vec::new());
        {
            let mut state = inner.state();
            let gone =
                state.leases.values().filter(|l| !valid.contains(&l.key) && !state.busy.contains(&l.key));
            rows.extend(gone.cloned());
            for row in &mut rows {
                row.phase = AttachmentPhase::Deleting;
                busy.extend(inner.occupy(&mut state, &row.key));
            }
        }
        inner
            .attachments
            .commit(rows.iter().cloned().map(Change::Put).collect(), Durability::Flushed)
            .await?;
        let mut state = inner.state();
        for row in &rows {
            state.leases.insert(row.key.clone(), row.clone());
        }
        drop(state);
        drop(busy);
        Ok(rows)
    }

    /// One attachment.
    #[must_use]
    pub fn get(&self, key: &AttachmentKey) -> Option<Attachment> {
        self.0.state().leases.get(key).cloned()
    }

    /// Every attachment, by key.
    #[must_use]
    pub fn list(&self) -> Vec<Attachment> {
        self.0.state().leases.values().cloned().collect()
    }

    /// How the podCIDRs are used.
    #[must_use]
    pub fn status(&self) -> PoolStatus {
        let now = self.0.now();
        let state = self.0.state();
        let prefixes =
            [(Family::V4, &state.v4), (Family::V6, &state.v6)].into_iter().filter_map(|(family, pool)| {
                let (prefix, c) = pool.counts(now)?;
                let (total, used, quarantined, held, free) = (c.total, c.used, c.quarantined, c.held, c.free);
                Some(PrefixStatus { family, prefix, total, used, quarantined, held, free })
            });
        PoolStatus { prefixes: prefixes.collect(), attachments: state.leases.len() }
    }

    /// Looks for what is not as it should be. Empty: all is well.
    #[must_use]
    pub fn check(&self) -> Vec<Finding> {
        let inner = &*self.0;
        let state = inner.state();
        let rows = inner.attachments.snapshot().rows;
        let mut findings = Vec::new();
        let mut holders: BTreeMap<IpAddr, Vec<AttachmentKey>> = BTreeMap::new();
        for lease in state.leases.values() {
            let key = || lease.key.clone();
            for a in &lease.addresses {
                holders.entry(*a).or_default().push(key());
                let pool = if a.is_ipv4() { &state.v4 } else { &state.v6 };
                if !state.cidrs.is_empty() && !pool.range().is_some_and(|r| r.usable(*a)) {
                    findings.push(Finding::OutOfRange { key: key(), address: *a });
                }
            }
            let v4 = lease.addresses.iter().filter(|a| a.is_ipv4()).count();
            if lease.addresses.is_empty() || v4 > 1 || lease.addresses.len() - v4 > 1 {
                findings.push(Finding::Malformed { key: key() });
            }
            if lease.boot_id != inner.settings.boot_id {
                findings.push(Finding::OldBoot { key: key() });
            }
            let same = rows.get(&attachment_key(&lease.key)).is_some_and(|row| **row == *lease);
            if !same && !state.busy.contains(&lease.key) {
                findings.push(Finding::Disagreement { key: key() });
            }
        }
        for row in rows.values() {
            if !state.leases.contains_key(&row.key) && !state.busy.contains(&row.key) {
                findings.push(Finding::Disagreement { key: row.key.clone() });
            }
        }
        let unowned = state.v4.leased().chain(state.v6.leased()).filter(|a| !holders.contains_key(a));
        findings.extend(unowned.map(|address| Finding::Unowned { address }));
        findings.extend(state.v4.held().chain(state.v6.held()).map(|address| Finding::NoLease { address }));
        let several = holders.into_iter().filter(|(_, keys)| keys.len() > 1);
        findings.extend(several.map(|(address, keys)| Finding::Duplicate { address, keys }));
        findings
    }
}
