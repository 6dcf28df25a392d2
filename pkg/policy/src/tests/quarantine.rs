//! A kernel that refuses what comes from some policies, whatever the reason.

use super::check;
use super::kernel::Kernel;
use super::world::{World, flows, world};
use crate::engine::Engine;
use crate::rules::PolicyId;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use std::collections::BTreeSet;
use std::sync::Arc;
use warren_netlink::nft::Isolation;
use warren_types::NetworkPolicy;

/// What the runner does when the kernel refuses what a commit brought.
fn isolate(
    engine: &mut Engine,
    suspects: &BTreeSet<PolicyId>,
    accepts: impl Fn(&Engine) -> bool,
) -> Option<BTreeSet<PolicyId>> {
    let mut search = Isolation::new(suspects);
    loop {
        engine.quarantine(suspects, search.attempt());
        engine.commit();
        if !search.tell(accepts(engine)) {
            break;
        }
    }
    let guilty = search.guilty();
    engine.quarantine(suspects, &guilty.clone().unwrap_or_default());
    engine.commit();
    guilty
}

/// The cluster in which these policies allow nothing.
fn without(world: &World, guilty: &BTreeSet<PolicyId>) -> World {
    let mut out = world.clone();
    for (key, row) in &mut out.policies {
        if guilty.contains(&PolicyId::of(key)) {
            for rules in [&mut row.ingress, &mut row.egress] {
                *rules = rules.take().map(|_| Vec::new());
            }
        }
    }
    for (id, policy) in &mut out.tiers {
        if guilty.contains(id) {
            *policy = policy.withdrawn();
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn refused_policies_allow_nothing_and_others_are_unharmed(world in world(true), ports in super::ports()) {
        let mut engine = world.engine();
        let committed = engine.commit();
        let suspects = engine.suspects(&committed);
        let guilty: BTreeSet<PolicyId> =
            suspects.iter().filter(|id| id.name.as_str().ends_with('1')).cloned().collect();
        let found = isolate(&mut engine, &suspects, |engine| guilty.iter().all(|id| engine.is_refused(id)));
        prop_assert_eq!(found, Some(guilty.clone()));
        prop_assert_eq!(engine.counts().refused, guilty.len());
        let flows = flows(&ports);
        let kernel = Kernel { items: engine.items() };
        check(&without(&world, &guilty), &engine, &kernel, &flows)?;

        // It is the same policy when it is heard of again, and another when it has changed.
        for (key, row) in &world.policies {
            engine.set_policy(key, Some(Arc::new(row.clone())));
        }
        prop_assert!(engine.commit().is_empty());
        prop_assert_eq!(engine.counts().refused, guilty.len());
        for (key, row) in &world.policies {
            let rules = [&row.ingress, &row.egress].map(|rules| rules.as_ref().map_or(Some(Vec::new()), |_| None));
            let [ingress, egress] = rules;
            engine.set_policy(key, Some(Arc::new(NetworkPolicy { ingress, egress, ..row.clone() })));
        }
        for id in world.tiers.keys() {
            engine.set_rules(id, None);
        }
        engine.commit();
        prop_assert_eq!(engine.counts().refused, 0);
    }
}

#[test]
fn when_it_is_no_policys_fault_all_stay_as_they_are() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..20 {
        let world = world(false).new_tree(&mut runner).expect("a cluster").current();
        let mut engine = world.engine();
        let committed = engine.commit();
        let (suspects, items) = (engine.suspects(&committed), engine.items());
        assert_eq!(isolate(&mut engine, &suspects, |_| false), None);
        assert_eq!((engine.items().len(), engine.counts().refused), (items.len(), 0));
    }
}
