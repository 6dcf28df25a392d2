//! The rules against the plain reading, and histories against a compilation from scratch.

use super::interpreter::{self, Fate, Packet, Remembered};
use super::naive::{self, Origin};
use super::world::{self, Event, World, destinations, event, ip, node, world};
use crate::engine::Engine;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use warren_netlink::nft::Change;
use warren_netlink::nft::model::{Chain, Element, Ruleset};
use warren_types::marks::SERVICE_MARK;
use warren_types::{Affinity, Protocol};

fn engine_of(world: &World) -> Engine {
    let mut engine = Engine::new(node());
    for (key, row) in &world.services {
        engine.set_service(key, Some(row.clone()));
    }
    for (key, row) in &world.slices {
        engine.set_slice(key, Some(row.clone()));
    }
    engine.commit();
    engine
}

fn packet(source: IpAddr, to: SocketAddr, protocol: Protocol) -> Packet {
    let to_this_node = node().node_port_addresses.contains(&to.ip());
    Packet {
        source: SocketAddr::new(source, 40000),
        destination: to,
        protocol,
        to_this_node,
        out_link: "",
        mark: 0,
    }
}

/// Sources of each kind, for a family.
fn sources(v4: bool) -> Vec<(Origin, IpAddr)> {
    let texts: [(Origin, &str, &str); 5] = [
        (Origin::Outside, "192.168.7.9", "2001:db8:5::9"),
        (Origin::Outside, "203.0.113.9", "2001:db8:6::9"),
        (Origin::Pod, "10.42.1.6", "fd42:0:0:1::6"),
        // A pod of another node, at a node port: no different from a client outside.
        (Origin::Outside, "10.42.2.6", "fd42:0:0:2::6"),
        (Origin::ThisNode, "192.0.2.1", "2001:db8::1"),
    ];
    texts.into_iter().map(|(origin, four, six)| (origin, ip(if v4 { four } else { six }))).collect()
}

/// The kernel, as strict as it is: what is removed must be there, what is added must not.
struct Kernel(Ruleset);

impl Kernel {
    fn apply(&mut self, change: &Change) {
        for (name, rules) in &change.chains {
            self.0.chains.insert(name.clone(), Chain::default());
            self.0.rules.insert(name.clone(), rules.clone());
        }
        for (set, keys) in &change.counting {
            let has =
                |all: &BTreeMap<String, Vec<Element>>, key: &Vec<u8>| all[set].iter().any(|e| e.key == *key);
            assert!(keys.iter().all(|key| has(&change.remove, key) && has(&change.add, key)), "{set}");
        }
        for (set, elements) in &change.remove {
            for element in elements {
                let have = self.0.elements.get_mut(set).unwrap_or_else(|| panic!("no set {set}"));
                assert!(have.remove(element), "{set} has no {element:?}");
            }
        }
        for (set, elements) in &change.add {
            for element in elements {
                let have = self.0.elements.get_mut(set).unwrap_or_else(|| panic!("no set {set}"));
                let same = |e: &Element| e.key == element.key && e.last == element.last;
                assert!(!have.iter().any(same), "{set} has {element:?}");
                have.insert(element.clone());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Some 3,000 packets for each world.
    #[test]
    fn every_packet_meets_what_the_documentation_says(world in world()) {
        let (node, ruleset) = (node(), engine_of(&world).ruleset());
        for to in destinations() {
            for port in world::PORTS.iter().chain(&world::NODE_PORTS).chain(&[81]) {
                let to = SocketAddr::new(to, *port);
                for protocol in world::PROTOCOLS {
                    for from in sources(to.is_ipv4()) {
                        let hook = if from.0 == Origin::ThisNode { "svc_output" } else { "svc_prerouting" };
                        let expected = naive::fates(&world, &node, from, to, protocol);
                        let actual = interpreter::fates(&ruleset, hook, &packet(from.1, to, protocol));
                        prop_assert_eq!(actual, expected, "{:?} -> {} {}", from, to, protocol);
                    }
                }
            }
        }
    }

    #[test]
    fn histories_end_like_a_compilation_from_scratch(events in vec(event(), 1..40)) {
        let mut world = World::default();
        let mut engine = Engine::new(node());
        let mut kernel = Kernel(engine.ruleset());
        for event in events.into_iter().chain([Event::Commit]) {
            match event {
                Event::Service(row) => {
                    let row = Arc::new(*row);
                    engine.set_service(&row.key, Some(row.clone()));
                    world.services.insert(row.key.clone(), row);
                }
                Event::NoService(key) => {
                    engine.set_service(&key, None);
                    world.services.remove(&key);
                }
                Event::Slice(row) => {
                    let row = Arc::new(row);
                    engine.set_slice(&row.key, Some(row.clone()));
                    world.slices.insert(row.key.clone(), row);
                }
                Event::NoSlice(key) => {
                    engine.set_slice(&key, None);
                    world.slices.remove(&key);
                }
                Event::Commit => kernel.apply(&engine.commit().change),
            }
        }
        let scratch = engine_of(&world).ruleset();
        prop_assert_eq!(&kernel.0.elements, &scratch.elements);
        prop_assert_eq!(&engine.ruleset(), &scratch);
        for chain in scratch.chains.keys() {
            prop_assert_eq!(kernel.0.rules.get(chain), scratch.rules.get(chain), "{}", chain);
        }
        prop_assert_eq!(engine.commit().change, Change::default());
    }

    #[test]
    fn a_client_keeps_its_endpoint_while_that_serves(
        world in world(), draws in vec(any::<u32>(), 1..6), seconds in 1u32..5,
    ) {
        let mut world = world;
        for service in world.services.values_mut() {
            Arc::make_mut(service).affinity = Some(Affinity { seconds });
        }
        let ruleset = engine_of(&world).ruleset();
        for to in destinations().into_iter().map(|to| SocketAddr::new(to, 80)) {
            let packet = packet(if to.is_ipv4() { ip("203.0.113.9") } else { ip("2001:db8:6::9") }, to, Protocol::Tcp);
            let possible = interpreter::fates(&ruleset, "svc_prerouting", &packet);
            let mut remembered = Remembered::new();
            let fates: BTreeSet<Fate> = draws
                .iter()
                .map(|draw| interpreter::fate(&ruleset, "svc_prerouting", &packet, *draw, &mut remembered))
                .collect();
            prop_assert_eq!(fates.len(), 1, "one client, one endpoint");
            prop_assert!(fates.is_subset(&possible));
            // Another endpoint once this one does not serve any more.
            if let Some(Fate::To(gone, _)) = fates.first() {
                let mut without = world.clone();
                for slice in without.slices.values_mut() {
                    Arc::make_mut(slice).endpoints.retain(|endpoint| endpoint.address != gone.ip());
                }
                let ruleset = engine_of(&without).ruleset();
                let possible = interpreter::fates(&ruleset, "svc_prerouting", &packet);
                for draw in &draws {
                    let fate = interpreter::fate(&ruleset, "svc_prerouting", &packet, *draw, &mut remembered);
                    prop_assert!(possible.contains(&fate), "{fate:?} of {possible:?}");
                }
            }
        }
    }

    #[test]
    fn a_source_is_rewritten_only_where_answers_would_miss_this_node(world in world(), marked: bool) {
        let ruleset = engine_of(&world).ruleset();
        let pods = ["10.42.1.5", "10.42.2.5"].map(ip);
        for source in ["203.0.113.9", "10.42.1.5", "10.42.2.5", "192.0.2.1", "10.42.1.1"].map(ip) {
            for (to, out_link) in [(pods[0], "wrnp0"), (pods[1], "wrn-wg"), (ip("192.0.2.2"), "eth0"), (ip("192.0.2.1"), "lo")] {
                let mark = if marked { SERVICE_MARK | 7 } else { 7 };
                let packet = Packet {
                    out_link, mark, to_this_node: false,
                    ..packet(source, SocketAddr::new(to, 8080), Protocol::Tcp)
                };
                let served = ruleset.elements["svc_hairpin4"].iter().any(|e| e.key[..4] == e.key[4..] && e.key[..4] == [10, 42, 1, 5]);
                let of_here = node().local_pod_cidrs.iter().any(|net| net.contains(&source))
                    || node().own_addresses.contains(&source);
                let expected = match out_link {
                    _ if !marked => Fate::Pass,
                    "wrnp0" if source == to && served => Fate::From(ip("10.42.1.1")),
                    "wrn-wg" if !of_here => Fate::From(ip("10.42.1.1")),
                    "eth0" => Fate::FromLink,
                    _ => Fate::Pass,
                };
                let actual = interpreter::fates(&ruleset, "svc_postrouting", &packet);
                prop_assert_eq!(actual, [expected].into(), "{} -> {} by {}", source, to, out_link);
            }
        }
    }
}

#[test]
fn a_service_that_the_kernel_refuses_is_left_out_until_it_changes() {
    let mut engine = engine_of(&World::default());
    let empty = engine.ruleset();
    let (row, slice) = world::plain();
    engine.set_service(&row.key, Some(row.clone()));
    engine.set_slice(&slice.key, Some(slice.clone()));
    engine.commit();
    let served = engine.ruleset();
    assert_ne!(served, empty);
    let suspects = BTreeSet::from([row.key.clone()]);
    engine.quarantine(&suspects, &suspects);
    engine.commit();
    assert_eq!(engine.ruleset(), empty);
    assert_eq!(engine.faults(&row.key).first().map(|fault| fault.reason.as_str()), Some("RulesRefused"));
    let changed = Arc::new(warren_types::Service { created: 7, ..(*row).clone() });
    engine.set_service(&row.key, Some(changed));
    engine.commit();
    assert_eq!(engine.ruleset(), served);
}

#[test]
fn a_front_goes_on_counting_while_it_is_the_same_services() {
    let mut engine = engine_of(&World::default());
    let (row, slice) = world::plain();
    engine.set_service(&row.key, Some(row.clone()));
    engine.set_slice(&slice.key, Some(slice.clone()));
    assert_eq!(engine.commit().change.counting, BTreeMap::new(), "nothing was counted yet");
    let mut more = (*slice).clone();
    more.endpoints.push(warren_types::Endpoint::ready(ip("10.42.2.5")));
    engine.set_slice(&slice.key, Some(more.into()));
    let front = [&[10, 43, 0, 10][..], &[6, 0, 0, 0, 0, 80, 0, 0]].concat();
    let counting = BTreeMap::from([("svc_fronts4".to_owned(), BTreeSet::from([front]))]);
    assert_eq!(engine.commit().change.counting, counting, "two endpoints instead of one");
    engine.set_slice(&slice.key, None);
    assert_eq!(engine.commit().change.counting, counting, "none any more");
    // The same address and port, for somebody else.
    let key = world::service_key(1);
    engine.set_service(&row.key, None);
    engine.set_service(&key, Some(Arc::new(warren_types::Service { key: key.clone(), ..(*row).clone() })));
    let change = engine.commit().change;
    assert_eq!(change.counting, BTreeMap::new());
}
