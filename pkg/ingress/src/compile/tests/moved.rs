//! Endpoints that come and go without another table.

use super::*;
use std::net::SocketAddr;

/// Endpoints of every backend of a table, by its name.
fn held(compiled: &Compiled) -> BTreeMap<String, Vec<(SocketAddr, Readiness)>> {
    let of = |backend: &Arc<Backend>| {
        let endpoints = backend.endpoints.get();
        (backend.name.to_string(), endpoints.iter().map(|end| (end.address, end.readiness)).collect())
    };
    compiled.table.backends().iter().map(of).collect()
}

/// What happens to a slice: of which Service it is, which endpoints it has, and whether they end; or it goes.
type Step = (u8, Option<(u8, Vec<(u8, bool)>)>);

fn a_step() -> impl Strategy<Value = Step> {
    let endpoints = proptest::collection::vec((20u8..26, any::<bool>()), 0..4);
    (0u8..4, proptest::option::of((0u8..3, endpoints)))
}

fn take(world: &mut World, (which, row): &Step) {
    let name = format!("slice-{which}");
    match row {
        None => world.0.set_slice(&SliceKey::parse(&format!("{NS}/{name}")).unwrap(), None),
        Some((service, endpoints)) => {
            let of = ["a", "b", "c"][usize::from(*service)];
            let endpoint = |(last, ends): &(u8, bool)| {
                let mut endpoint = Endpoint::ready(address(*last));
                (endpoint.ready, endpoint.serving, endpoint.terminating) = (!ends, true, *ends);
                endpoint
            };
            let endpoints = endpoints.iter().map(endpoint).collect();
            world.slice(slice(of, &name, &[("", 8080), ("other", 9090)], endpoints));
        }
    }
}

fn world() -> World {
    let mut world = World::new();
    let paths = [path("/a", PathKind::Prefix, "a"), path("/b", PathKind::Prefix, "b")];
    world.ingress(ingress("one", 1, &[rule("foo.test", &paths)]));
    // A backend of its own, of the same Service.
    let sticky = ingress("two", 2, &[rule("bar.test", &paths[..1])]);
    world.ingress(with(sticky, &[("ingress.warren.dev/sticky-cookie", "at")]));
    world
}

proptest! {
    #[test]
    fn swaps_end_in_what_a_compilation_from_scratch_gives(steps in proptest::collection::vec((a_step(), any::<bool>()), 0..24)) {
        let mut world = world();
        let compiled = world.compile();
        for (step, is_seen) in &steps {
            take(&mut world, step);
            if *is_seen {
                world.0.move_endpoints();
            }
        }
        prop_assert!(!world.0.is_changed(), "no route has changed");
        world.0.move_endpoints();
        prop_assert!(world.0.move_endpoints().is_empty(), "and no more of it");
        let mut again = self::world();
        steps.iter().for_each(|(step, _)| take(&mut again, step));
        prop_assert_eq!(held(&compiled), held(&again.compile()));
    }
}

#[test]
fn only_what_differs_is_told() {
    let mut world = world();
    let compiled = world.compile();
    let step = |service| (1, Some((service, vec![(20, false)])));
    take(&mut world, &step(2));
    assert!(world.0.move_endpoints().is_empty(), "no route leads there");
    take(&mut world, &step(0));
    let names: Vec<String> =
        world.0.move_endpoints().iter().map(|backend| backend.name.to_string()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    take(&mut world, &step(0));
    assert!(world.0.move_endpoints().is_empty(), "the same again");
    // A slice that goes over to another Service is missed by the first.
    world.slice(slice("c", "a", &[("", 8080)], vec![Endpoint::ready(address(9))]));
    assert_eq!(world.0.move_endpoints().len(), 2);
    assert_eq!(to(&compiled, "foo.test", "/a"), "10.42.0.20:8080");
}
