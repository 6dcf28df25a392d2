//! The way from what a table has to what it should have: a pure function.

use super::batch::Batch;
use super::model::{Counts, Element, Ruleset};
use super::{Applied, TABLE};
use std::collections::{BTreeMap, BTreeSet};

/// The elements of sets that others than the plan fill.
pub(super) type Kept = BTreeMap<String, BTreeSet<Element>>;

/// What elements of counted sets have counted, by set. One that is replaced goes on from there.
pub(super) type CountsBySet = BTreeMap<String, Counts>;

/// Transactions, in order.
pub(super) struct Plan {
    /// Brings everything about that packets can meet.
    pub(super) main: Batch,
    /// Removes what nothing refers to any more. Kernels before 6.2 take such objects for used until `main` is through.
    pub(super) sweep: Batch,
    pub(super) applied: Applied,
}

/// Compares, within one section. `desired` says which sets' elements matter; the others stay as they are.
pub(super) fn plan(desired: &Ruleset, observed: Option<&Ruleset>, kept: &Kept, counts: &CountsBySet) -> Plan {
    let (mut main, mut sweep) = (Batch::new(TABLE), Batch::new(TABLE));
    let Some(observed) = observed else {
        main.add_table();
        main.add_ruleset(desired);
        return Plan { main, sweep, applied: Applied::Created };
    };
    if !keeps_shape(desired, observed) {
        remove(observed, &mut main);
        main.add_table();
        main.add_ruleset(desired);
        for (set, elements) in kept {
            main.add_elements(set, elements);
        }
        return Plan { main, sweep, applied: Applied::Rebuilt };
    }
    if observed.flags != desired.flags {
        main.add_table();
    }
    for counter in desired.counters.difference(&observed.counters) {
        main.add_counter(counter);
    }
    for (name, set) in desired.sets.iter().filter(|(name, _)| !observed.sets.contains_key(*name)) {
        main.add_set(name, set);
    }
    for (name, chain) in desired.chains.iter().filter(|(name, _)| !observed.chains.contains_key(*name)) {
        main.add_chain(name, chain);
    }
    for (chain, rules) in &desired.rules {
        let have = observed.rules.get(chain);
        if have.map_or(&[][..], Vec::as_slice) != rules {
            if have.is_some() {
                main.flush_chain(chain);
            }
            main.add_rules(chain, rules);
        }
    }
    let none = Counts::new();
    for (set, elements) in &desired.elements {
        let counts = counts.get(set).unwrap_or(&none);
        fill(set, desired, elements, (observed.elements.get(set), counts), &mut main);
    }
    for chain in observed.chains.keys().filter(|chain| !desired.chains.contains_key(*chain)) {
        main.flush_chain(chain);
        sweep.delete_chain(chain);
    }
    for set in observed.sets.keys().filter(|set| !desired.sets.contains_key(*set)) {
        // Its elements may lead to chains that go too.
        main.flush_set(set);
        sweep.delete_set(set);
    }
    for counter in observed.counters.difference(&desired.counters) {
        sweep.delete_counter(counter);
    }
    let unchanged = main.is_empty() && sweep.is_empty();
    Plan { main, sweep, applied: if unchanged { Applied::Unchanged } else { Applied::Updated } }
}

/// Whether sets and chains of the same name are of the same kind.
fn keeps_shape(desired: &Ruleset, observed: &Ruleset) -> bool {
    let sets = desired.sets.iter().all(|(name, set)| observed.sets.get(name).is_none_or(|have| have == set));
    let same = |(name, chain)| observed.chains.get(name).is_none_or(|have| have == chain);
    sets && desired.chains.iter().all(same)
}

fn remove(observed: &Ruleset, batch: &mut Batch) {
    for chain in observed.chains.keys() {
        batch.flush_chain(chain);
    }
    for set in observed.sets.keys() {
        batch.flush_set(set);
    }
    for chain in observed.chains.keys() {
        batch.delete_chain(chain);
    }
    for set in observed.sets.keys() {
        batch.delete_set(set);
    }
    for counter in &observed.counters {
        batch.delete_counter(counter);
    }
}

/// Makes the elements of a set what is wanted.
fn fill(
    set: &str,
    desired: &Ruleset,
    wanted: &BTreeSet<Element>,
    (have, counts): (Option<&BTreeSet<Element>>, &Counts),
    batch: &mut Batch,
) {
    let none = BTreeSet::new();
    let have = have.unwrap_or(&none);
    if wanted == have {
        return;
    }
    if desired.sets.get(set).is_some_and(super::model::Set::is_plain_ranges) {
        // Ends of ranges mean nothing each for itself.
        batch.flush_set(set);
        batch.add_elements(set, wanted);
    } else {
        batch.delete_elements(set, have.difference(wanted));
        batch.add_counting_elements(set, wanted.difference(have), counts);
    }
}
