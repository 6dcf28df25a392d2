//! Boxes against looking up single points.

use crate::boxes::{self, Entry, PortBox, Ports, Range, Slabs};
use crate::items::Verdict;
use crate::rules::Block;
use proptest::prelude::*;
use warren_types::Family;

#[derive(Debug, Clone)]
struct Rule {
    addresses: Vec<Range>,
    ports: Vec<Ports>,
    verdict: Verdict,
}

fn span(max: u128) -> impl Strategy<Value = Range> {
    let low = (0u128..12, 0u128..12).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let high = (0u128..12, 0u128..12).prop_map(move |(a, b)| (max - a.max(b), max - a.min(b)));
    prop_oneof![4 => low, 2 => high, 1 => Just((0, max))]
}

fn ports() -> impl Strategy<Value = Ports> {
    (span(255), span(65535)).prop_map(|(protocols, ports)| Ports {
        protocols: (protocols.0 as u8, protocols.1 as u8),
        ports: (ports.0 as u16, ports.1 as u16),
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let verdict = prop::sample::select(vec![Verdict::Accept, Verdict::Deny]);
    (prop::collection::vec(span(u128::MAX), 0..4), prop::collection::vec(ports(), 0..4), verdict)
        .prop_map(|(addresses, ports, verdict)| Rule { addresses, ports, verdict })
}

fn within(range: Range, point: u128) -> bool {
    range.0 <= point && point <= range.1
}

fn points(max: u128) -> Vec<u128> {
    (0..13).chain(max - 13..=max).collect()
}

proptest! {
    #[test]
    fn the_first_rule_that_holds_a_point_has_it(rules in prop::collection::vec(rule(), 0..6)) {
        let entries: Vec<Entry> = (0u32..)
            .zip(&rules)
            .map(|(rule, of)| Entry { rule, addresses: of.addresses.clone() })
            .collect();
        let first = |matching: &[u32]| matching.first().map(|rule| rules[*rule as usize].verdict);
        let slabs = Slabs::new(&entries, &|rule| rules[rule as usize].ports.clone(), &first);
        let boxes = slabs.boxes();
        for address in points(u128::MAX) {
            for (protocol, port) in points(255).into_iter().zip(points(65535)).flat_map(|(protocol, port)| {
                [(protocol, port), (protocol, 3), (protocol, 65530), (3, port), (250, port)]
            }) {
                let holds = |rule: &&Rule| {
                    let of_ports = |ports: &Ports| {
                        (u128::from(ports.protocols.0)..=u128::from(ports.protocols.1)).contains(&protocol)
                            && (u128::from(ports.ports.0)..=u128::from(ports.ports.1)).contains(&port)
                    };
                    rule.addresses.iter().any(|range| within(*range, address)) && rule.ports.iter().any(of_ports)
                };
                let expected = rules.iter().find(holds).map(|rule| rule.verdict);
                let here = |ports: &PortBox| ports.contains(protocol as u8, port as u16);
                let found: Vec<Verdict> = boxes
                    .iter()
                    .filter(|(range, ports)| within(*range, address) && here(ports))
                    .map(|(_, ports)| ports.verdict)
                    .collect();
                prop_assert_eq!(&found, &expected.into_iter().collect::<Vec<_>>());
                let at = slabs.at(address).and_then(|cover| cover.iter().find(|ports| here(ports)));
                prop_assert_eq!(at.map(|ports| ports.verdict), expected);
            }
        }
    }

    #[test]
    fn a_block_is_its_prefix_without_exceptions(length in 0u8..=32, excepts in prop::collection::vec((any::<u32>(), 0u8..=32), 0..6), points in prop::collection::vec(any::<u32>(), 20)) {
        let net = |address: u32, length: u8| ipnet::IpNet::new(std::net::Ipv4Addr::from(address).into(), length).unwrap().trunc();
        let cidr = net(0x0a2a_0105, length);
        let except: Vec<ipnet::IpNet> =
            excepts.iter().map(|(bits, more)| net(0x0a2a_0105 ^ bits.checked_shr(u32::from(length)).unwrap_or(0), (length + more).min(32))).collect();
        let block = Block { cidr, except };
        let ranges = boxes::ranges(&block);
        prop_assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
        let edges = block.except.iter().flat_map(|net| [net.network(), net.broadcast()]);
        let random = points.iter().map(|bits| boxes::address(Family::V4, u128::from(0x0a2a_0105 ^ bits.checked_shr(u32::from(length)).unwrap_or(0))));
        for address in edges.chain(random) {
            let number = boxes::number(address);
            prop_assert_eq!(ranges.iter().any(|range| within(*range, number)), block.contains(address));
        }
    }
}

#[test]
fn what_says_the_same_is_one_box() {
    let entries: Vec<Entry> = (0..1000u32)
        .map(|at| Entry { rule: at, addresses: vec![(u128::from(at) * 256, u128::from(at) * 256 + 255)] })
        .collect();
    let one =
        |_| vec![Ports { protocols: (6, 6), ports: (80, 80) }, Ports { protocols: (6, 6), ports: (81, 90) }];
    let slabs = Slabs::new(&entries, &one, &|_| Some(Verdict::Accept));
    let whole = PortBox { protocols: (6, 6), ports: (80, 90), verdict: Verdict::Accept };
    assert_eq!(slabs.boxes(), [((0, 255_999), whole)]);
}

#[test]
fn exceptions_can_take_everything_and_the_ends_of_the_axis() {
    let block = |cidr: &str, except: &[&str]| Block {
        cidr: cidr.parse().unwrap(),
        except: except.iter().map(|net| net.parse().unwrap()).collect(),
    };
    assert_eq!(boxes::ranges(&block("::/0", &["::/1", "8000::/1"])), []);
    assert_eq!(boxes::ranges(&block("::/0", &["8000::/1"])), [(0, u128::MAX / 2)]);
    assert_eq!(
        boxes::ranges(&block("10.0.0.0/30", &["10.0.0.1/32", "fd00::/8"])),
        [(0x0a00_0000, 0x0a00_0000), (0x0a00_0002, 0x0a00_0003)]
    );
}
