//! Parts of the table that different subsystems keep.
//!
//! A section is the objects whose names begin with its prefix; the base is what no prefix claims. A section never refers
//! to another's objects, so that each can be made anew while the others stay.

use super::batch::Batch;
use super::model::{Counts, Element, Rule, Ruleset, Set};
use super::plan::{self, CountsBySet, Kept, Plan};
use super::socket::{Connection, Failure};
use super::{Applied, Nft, TABLE, TABLE_NAME, attempts, reader, unspoilt};
use crate::NetlinkError;
use nix::libc;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A part of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// What every node has from the first moment on: source filter, guard, masquerading.
    Base,
    /// Services.
    Services,
    /// The way to the cluster's DNS address.
    Dns,
    /// Network policies.
    Policy,
}

impl Section {
    /// Whether an object of this name is part of it.
    #[must_use]
    pub fn owns(self, name: &str) -> bool {
        match self.prefix() {
            Some(prefix) => name.starts_with(prefix),
            None => [Self::Services, Self::Dns, Self::Policy].iter().all(|other| !other.owns(name)),
        }
    }

    /// What its names begin with.
    fn prefix(self) -> Option<&'static str> {
        match self {
            Self::Base => None,
            Self::Services => Some("svc_"),
            Self::Dns => Some("dns_"),
            Self::Policy => Some("pol_"),
        }
    }
}

/// A change of few things in a section, made from what is known to be in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Chains that others lead to, with all of their rules; they may be there.
    pub chains: BTreeMap<String, Vec<Rule>>,
    /// Elements to delete, which must be there, by set.
    pub remove: BTreeMap<String, Vec<Element>>,
    /// Elements to add, by set. An element of the same key must not be there, unless it is being removed.
    pub add: BTreeMap<String, Vec<Element>>,
    /// Keys, by set, of elements that are removed and added, and go on from what they have counted. What a packet counts
    /// between the reading and the change is lost.
    pub counting: BTreeMap<String, BTreeSet<Vec<u8>>>,
}

impl Change {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.remove.is_empty() && self.add.is_empty()
    }
}

impl Nft {
    /// Makes a section what is desired, comparing with the kernel, in one transaction; what nothing refers to any more
    /// goes in a second one. Sets of whose elements `desired` says nothing keep theirs.
    ///
    /// # Errors
    /// When the kernel refuses an operation, which the error names; then nothing has changed.
    pub async fn ensure_section(
        &self,
        section: Section,
        desired: Arc<Ruleset>,
    ) -> Result<Applied, NetlinkError> {
        self.run("ensure", move |connection| ensure(connection, section, &desired)).await
    }

    /// Whether a section is as desired.
    ///
    /// # Errors
    /// When the kernel's answer cannot be had.
    pub async fn section_matches(
        &self,
        section: Section,
        desired: Arc<Ruleset>,
    ) -> Result<bool, NetlinkError> {
        self.run("read", move |connection| {
            let (_, observed) = unspoilt(|| observe(connection, section, &desired))
                .map_err(|failure| failure.named("read", TABLE_NAME, None))?;
            Ok(is_as(&desired, observed.as_ref()))
        })
        .await
    }

    /// Makes a small change, in one transaction, without reading anything.
    ///
    /// # Errors
    /// When the kernel refuses, above all because it does not have what the change goes out from; then nothing has
    /// changed, and [`Nft::ensure_section`] helps.
    pub async fn change_section(&self, change: Change) -> Result<(), NetlinkError> {
        const OP: &str = "change";
        self.run(OP, move |connection| {
            let mut counts = CountsBySet::new();
            for (set, keys) in &change.counting {
                let counted = unspoilt(|| reader::counts(connection, TABLE, set, keys));
                counts.insert(set.clone(), counted.map_err(|f| super::named(f, OP, &Batch::new(TABLE)))?);
            }
            let none = Counts::new();
            let mut batch = Batch::new(TABLE);
            for (name, rules) in &change.chains {
                batch.ensure_chain(name);
                batch.flush_chain(name);
                batch.add_rules(name, rules);
            }
            for (set, elements) in &change.remove {
                batch.delete_elements(set, elements);
            }
            for (set, elements) in &change.add {
                batch.add_counting_elements(set, elements, counts.get(set).unwrap_or(&none));
            }
            connection.commit(&batch, None).map_err(|failure| super::named(failure, OP, &batch))
        })
        .await
    }

    /// The packets that each element of a counted set has seen: by key.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`] when there is no such set.
    pub async fn element_counts(&self, set: &'static str) -> Result<BTreeMap<Vec<u8>, u64>, NetlinkError> {
        const OP: &str = "count hits of";
        self.run(OP, move |connection| {
            unspoilt(|| reader::counted_elements(connection, TABLE, set))
                .map(|found| found.into_iter().map(|(element, n)| (element.key, n.packets)).collect())
                .map_err(|failure| super::named(failure, OP, &Batch::new(TABLE)))
        })
        .await
    }
}

/// The section, with the elements that `desired` has a say in. What differs is read again while no commit is under way: in
/// one, the kernel tells the new generation's number already, but shows the old one's objects for a moment; and of a table
/// that is taken down and made again it lists the sets and chains but no rules, until the old one is gone. [`Failure::Stale`]
/// when changes come into that reading too.
fn observe(
    connection: &mut Connection,
    section: Section,
    desired: &Ruleset,
) -> Result<(u32, Option<Ruleset>), Failure> {
    let mine = |name: &str| section.owns(name);
    let with_elements = |set: &str| desired.elements.contains_key(set);
    match reader::observe(connection, TABLE, mine, with_elements) {
        Ok(first) if is_as(desired, first.1.as_ref()) => return Ok(first),
        Ok(_) | Err(Failure::Stale) => {}
        Err(failure) => return Err(failure),
    }
    let at_rest = reader::generation(connection)?;
    connection.wait_for_commit(at_rest)?;
    let again = reader::observe(connection, TABLE, mine, with_elements)?;
    match again.0 == at_rest {
        true => Ok(again),
        false => Err(Failure::Stale),
    }
}

/// Whether there is nothing to do.
fn is_as(desired: &Ruleset, observed: Option<&Ruleset>) -> bool {
    observed.is_some_and(|observed| {
        plan::plan(desired, Some(observed), &Kept::new(), &CountsBySet::new()).applied == Applied::Unchanged
    })
}

fn ensure(connection: &mut Connection, section: Section, desired: &Ruleset) -> Result<Applied, NetlinkError> {
    for () in attempts() {
        let (generation, Plan { main, sweep, applied }) = match prepare(connection, section, desired) {
            Ok(prepared) => prepared,
            Err(Failure::Stale) => continue,
            Err(failure) => return Err(failure.named("read", TABLE_NAME, None)),
        };
        match connection.commit(&main, Some(generation)) {
            Ok(()) => {}
            Err(Failure::Stale) => continue,
            Err(failure) if failure.is(libc::EBUSY) => begin_anew(connection, desired)?,
            Err(failure) => return Err(failure.named("ensure", TABLE_NAME, Some(&main))),
        }
        if let Err(failure) = connection.commit(&sweep, None) {
            // Packets do not meet what is left; the next comparison tries again.
            let error = failure.named("sweep", TABLE_NAME, Some(&sweep));
            tracing::debug!(%error, "some objects without use are still there");
        }
        if applied != Applied::Unchanged {
            tracing::debug!(?applied, ?section, "nftables table inet warren is in place");
        }
        return Ok(applied);
    }
    Err(Failure::Stale.named("ensure", TABLE_NAME, None))
}

/// Somebody's objects in the table hold on to ours: the table goes as a whole. The keepers of other sections hear of it.
fn begin_anew(connection: &mut Connection, desired: &Ruleset) -> Result<(), NetlinkError> {
    let mut batch = Batch::new(TABLE);
    batch.delete_table();
    batch.add_table();
    batch.add_ruleset(desired);
    connection.commit(&batch, None).map_err(|failure| failure.named("ensure", TABLE_NAME, Some(&batch)))
}

/// What was counted in sets some of whose elements are to be replaced.
fn counts(
    connection: &mut Connection,
    desired: &Ruleset,
    observed: Option<&Ruleset>,
) -> Result<CountsBySet, Failure> {
    let mut all = CountsBySet::new();
    for (name, have) in observed.into_iter().flat_map(|observed| &observed.elements) {
        let counted = desired.sets.get(name).is_some_and(Set::counts);
        let Some(wanted) = desired.elements.get(name).filter(|_| counted) else { continue };
        let gone: BTreeSet<&Vec<u8>> = have.difference(wanted).map(|element| &element.key).collect();
        let new = wanted.difference(have).map(|element| &element.key);
        let replaced: BTreeSet<Vec<u8>> = new.filter(|key| gone.contains(key)).cloned().collect();
        if !replaced.is_empty() {
            all.insert(name.clone(), reader::counts(connection, TABLE, name, &replaced)?);
        }
    }
    Ok(all)
}

/// Reads the section, and what brings it to what is desired.
fn prepare(connection: &mut Connection, section: Section, desired: &Ruleset) -> Result<(u32, Plan), Failure> {
    let (generation, observed) = observe(connection, section, desired)?;
    let mut kept = Kept::new();
    for (name, _) in desired.sets.iter().filter(|(name, set)| {
        !desired.elements.contains_key(*name)
            && !set.forgets()
            && observed.as_ref().is_some_and(|observed| observed.sets.get(*name) == Some(*set))
    }) {
        kept.insert(name.clone(), reader::elements(connection, TABLE, name)?);
    }
    let counts = counts(connection, desired, observed.as_ref())?;
    Ok((generation, plan::plan(desired, observed.as_ref(), &kept, &counts)))
}
