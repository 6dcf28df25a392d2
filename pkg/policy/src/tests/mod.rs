//! The whole engine against a plain reading of the documentation.

mod api;
mod gate;
mod keep;
mod kernel;
mod naive;
mod quarantine;
mod slices;
mod world;

use crate::decide::Flow;
use crate::engine::{Committed, Engine};
use kernel::Kernel;
use proptest::prelude::*;
use world::{Disk, Event, World, event, flows, settings, tell, world};

fn ports() -> impl Strategy<Value = Vec<(u8, u16)>> {
    let protocol = prop::sample::select(vec![6u8, 6, 6, 17, 132, 1]);
    prop::collection::vec((protocol, 78u16..87), 3)
}

/// What is compiled, what is told to people and what the documentation says are one.
fn check(world: &World, engine: &Engine, kernel: &Kernel, flows: &[Flow]) -> Result<(), TestCaseError> {
    let loaded = kernel.load();
    for flow in flows {
        let expected = naive::is_allowed(world, flow);
        prop_assert_eq!(loaded.is_allowed(flow), expected, "elements, {:?}", flow);
        prop_assert_eq!(engine.is_allowed(flow), expected, "classes, {:?}", flow);
        let judgement = engine.decide(flow);
        prop_assert_eq!(judgement.is_allowed(), expected, "rows, {:?}: {:?}", flow, judgement);
    }
    Ok(())
}

fn compiled(world: &World) -> (Engine, Kernel) {
    let mut engine = world.engine();
    let mut kernel = Kernel::default();
    kernel.apply(&engine.commit());
    assert_eq!(kernel.items, engine.items());
    (engine, kernel)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn network_policies_do_what_the_documentation_says(world in world(false), ports in ports()) {
        let (engine, kernel) = compiled(&world);
        check(&world, &engine, &kernel, &flows(&ports))?;
    }

    #[test]
    fn tiers_are_asked_in_their_order(world in world(true), ports in ports()) {
        let (engine, kernel) = compiled(&world);
        check(&world, &engine, &kernel, &flows(&ports))?;
    }

    #[test]
    fn a_history_ends_like_a_compilation_from_scratch(
        settings in settings(), events in prop::collection::vec(event(), 1..80), ports in ports(),
    ) {
        let flows = flows(&ports);
        let mut world = World { settings: settings.clone(), ..World::default() };
        let mut engine = Engine::new(settings);
        let mut kernel = Kernel::default();
        let mut allowed = vec![true; flows.len()];
        let mut disk = Disk::default();
        for event in events.iter().chain([&Event::Commit]) {
            tell(&mut engine, event);
            let committed = match event {
                Event::Commit | Event::Killed(_) => engine.commit(),
                _ => Committed::default(),
            };
            world.apply(event);
            match event {
                Event::Commit => {}
                Event::Killed(_) => {
                    disk.write(engine.take_kept());
                    engine = world.engine_after(&disk);
                    // Everything is compared, and judged anew.
                    kernel = Kernel::default();
                    kernel.apply(&engine.commit());
                    disk.write(engine.take_kept());
                    allowed.fill(false);
                    continue;
                }
                _ => continue,
            }
            disk.write(engine.take_kept());
            kernel.apply(&committed);
            let loaded = kernel.load();
            for (flow, before) in flows.iter().zip(&mut allowed) {
                let now = loaded.is_allowed(flow);
                prop_assert!(now || !*before || committed.tightened, "{:?} ends unnoticed", flow);
                *before = now;
            }
            prop_assert!(engine.commit().is_empty());
        }
        check(&world, &engine, &kernel, &flows)?;
        prop_assert_eq!(&kernel.items, &engine.items());
        let (_, scratch) = compiled(&world);
        prop_assert_eq!(kernel.counts(), scratch.counts());
        // Nothing is left of what is gone.
        for event in [
            world.subjects.keys().map(|key| Event::NoSubject(key.clone())).collect::<Vec<_>>(),
            world.pods.keys().map(|key| Event::NoPod(key.clone())).collect(),
            world.policies.keys().map(|key| Event::NoPolicy(key.clone())).collect(),
            world.tiers.keys().map(|key| Event::NoTier(key.clone())).collect(),
            world.namespaces.keys().map(|key| Event::NoNamespace(key.clone())).collect(),
        ].concat() {
            tell(&mut engine, &event);
        }
        kernel.apply(&engine.commit());
        engine.forget_removed();
        disk.write(engine.take_kept());
        prop_assert!(disk.is_empty(), "{:?}", disk);
        prop_assert!(kernel.items.is_empty());
        prop_assert!(engine.is_idle(), "{:?}", engine);
    }
}
