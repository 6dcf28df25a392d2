//! The encoder and decoder, and the ranges, on random values.

use crate::nft::expr::{
    self, Comparison, Connection, Expr, Header, Meta, NAT_FULLY_RANDOM, Refusal, Register, SetChange,
    Translation, Verdict,
};
use crate::nft::model::{Base, Chain, Element, Field, Rule, Set, Value};
use crate::nft::ranges::{self, Family};
use crate::nft::wire::{self, Writer};
use crate::nft::{BaseRules, base, watch};
use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9_./-]{0,40}"
}

fn register() -> impl Strategy<Value = Register> {
    (0u8..16).prop_map(|word| Register::word(word).unwrap())
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 1..40)
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Drop),
        Just(Verdict::Accept),
        Just(Verdict::Return),
        name().prop_map(Verdict::Jump),
        name().prop_map(Verdict::Goto),
    ]
}

fn value() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        Just(None),
        bytes().prop_map(|bytes| Some(Value::Bytes(bytes))),
        verdict().prop_map(|verdict| Some(Value::Verdict(verdict)))
    ]
}

fn expression() -> impl Strategy<Value = Expr> {
    let meta = prop_oneof![
        Just(Meta::Mark),
        Just(Meta::InName),
        Just(Meta::OutName),
        Just(Meta::EtherType),
        Just(Meta::Family),
        Just(Meta::Protocol)
    ];
    let header = prop_oneof![Just(Header::Network), Just(Header::Transport)];
    let comparison = prop_oneof![
        Just(Comparison::Equal),
        Just(Comparison::NotEqual),
        Just(Comparison::AtMost),
        Just(Comparison::AtLeast)
    ];
    prop_oneof![
        (meta, register()).prop_map(|(load, into)| Expr::Meta { load, into }),
        (header, any::<u32>(), any::<u32>(), register())
            .prop_map(|(header, offset, length, into)| Expr::Payload { header, offset, length, into }),
        (register(), register(), vec(any::<(u8, u8)>(), 1..40)).prop_map(|(from, into, bits)| {
            let (mask, toggle) = bits.into_iter().unzip();
            Expr::Mask { from, into, mask, toggle }
        }),
        (register(), comparison, bytes()).prop_map(|(from, is, value)| Expr::Compare { from, is, value }),
        (name(), register(), any::<bool>()).prop_map(|(set, from, inverted)| Expr::Lookup {
            set,
            from,
            inverted
        }),
        register().prop_map(|into| Expr::DestinationType { into }),
        (register(), bytes()).prop_map(|(into, value)| Expr::Constant { into, value }),
        name().prop_map(Expr::CountIn),
        Just(Expr::NoTrack),
        (any::<u32>(), proptest::option::of((register(), register())))
            .prop_map(|(flags, ports)| Expr::Masquerade { flags, ports }),
        of_connections(),
        verdict().prop_map(Expr::Verdict),
        bytes().prop_map(|data| Expr::Unknown { name: "from the future".into(), data }),
    ]
}

/// What translates and picks.
fn of_connections() -> impl Strategy<Value = Expr> {
    let what = prop_oneof![Just(Translation::Source), Just(Translation::Destination)];
    let change = prop_oneof![Just(SetChange::Update), Just(SetChange::Delete)];
    let load = prop_oneof![Just(Connection::State), Just(Connection::Mark)];
    prop_oneof![
        (load, register()).prop_map(|(load, into)| Expr::Connection { load, into }),
        register().prop_map(|from| Expr::SetConnectionMark { from }),
        register().prop_map(|from| Expr::SetMark { from }),
        (name(), register(), register()).prop_map(|(map, from, into)| Expr::Map { map, from, into }),
        (name(), register()).prop_map(|(map, from)| Expr::VerdictMap { map, from }),
        (any::<u32>(), register()).prop_map(|(below, into)| Expr::Random { below, into }),
        (what, any::<u8>(), register(), proptest::option::of(register())).prop_map(
            |(what, family, address, port)| {
                Expr::Translate { what, family, address, port, flags: NAT_FULLY_RANDOM }
            }
        ),
        (name(), change, register(), proptest::option::of(register()), any::<u64>()).prop_map(
            |(set, change, key, value, timeout)| Expr::ChangeSet { set, change, key, value, timeout }
        ),
        Just(Expr::Reject(Refusal::Reset)),
        Just(Expr::Reject(Refusal::PortUnreachable)),
    ]
}

fn written(fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::default();
    fill(&mut w);
    let (bytes, fits) = w.finish();
    assert!(fits);
    bytes
}

fn prefix() -> impl Strategy<Value = IpNet> {
    // Few distinct leading bits, so that prefixes overlap and touch.
    let v4 = (0u32..4, any::<u32>(), 0u8..=32).prop_map(|(high, low, length)| {
        let address = Ipv4Addr::from(high << 30 | low >> 2 & 0xf000_00ff);
        IpNet::new(IpAddr::V4(address), length).unwrap()
    });
    let v6 = (0u128..4, any::<u8>(), prop_oneof![0u8..8, 120u8..=128]).prop_map(|(high, low, length)| {
        IpNet::new(IpAddr::V6(Ipv6Addr::from(high << 126 | u128::from(low))), length).unwrap()
    });
    prop_oneof![v4, v6]
}

/// Addresses worth asking about: at and beside the ends of the prefixes.
fn probes(prefixes: &[IpNet], random: &[u128]) -> Vec<IpAddr> {
    let mut probes = Vec::new();
    for prefix in prefixes {
        for edge in [prefix.network(), prefix.broadcast()] {
            for step in [-1i128, 0, 1] {
                probes.push(match edge {
                    IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from(u32::from(a).wrapping_add(step as u32))),
                    IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from(u128::from(a).wrapping_add(step as u128))),
                });
            }
        }
    }
    probes.extend(random.iter().map(|n| IpAddr::V6(Ipv6Addr::from(*n))));
    probes.extend(random.iter().map(|n| IpAddr::V4(Ipv4Addr::from(*n as u32))));
    probes
}

/// Membership as the kernel's interval set decides it: the last key at or below the address is no end.
fn in_keys(keys: &[(Vec<u8>, bool)], address: IpAddr) -> bool {
    let octets = match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    keys.iter().rev().find(|(key, _)| *key <= octets).is_some_and(|(_, end)| !end)
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        exprs in vec(expression(), 0..12),
        comment in proptest::option::of("[ -~]{1,127}"),
    ) {
        let rule = Rule { exprs, comment };
        let bytes = written(|w| rule.encode("warren", "a-chain", w));
        prop_assert_eq!(Rule::decode(&bytes), Some(("a-chain".to_owned(), rule)));
    }

    #[test]
    fn chains_sets_and_elements_are_read_back(
        base in proptest::option::of((name(), any::<u32>(), any::<i32>(), any::<u32>())),
        fields in vec(
            prop_oneof![Just(Field::LinkName), Just(Field::Ipv4), Just(Field::Ipv6), Just(Field::Port)], 2..4
        ),
        elements in vec((bytes(), any::<bool>(), proptest::option::of(bytes()), value()), 0..40),
        name in name(),
    ) {
        let base = base.map(|(kind, hook, priority, policy)| Base { kind, hook, priority, policy });
        let chain = Chain { base };
        prop_assert_eq!(Chain::decode(&written(|w| chain.encode("warren", &name, w))), Some((name.clone(), chain)));
        let tuples = || Set::of_tuples(&fields);
        for set in [
            tuples(),
            Set::of_ranges(fields[0]),
            Set::of_range_tuples(&fields),
            tuples().mapping_to(&fields).filled_by_packets(7),
            tuples().mapping_to_verdicts().counted(),
            tuples().lasting(2_000, 7),
        ] {
            prop_assert_eq!(Set::decode(&written(|w| set.encode("warren", &name, 7, w))), Some((name.clone(), set)));
        }
        let elements: Vec<Element> = elements
            .into_iter()
            .map(|(key, end, last, value)| Element { key, end, last, value })
            .collect();
        let bytes = written(|w| w.nest(3, |w| elements.iter().for_each(|e| e.encode(None, w))));
        prop_assert_eq!(Element::decode(&bytes).map(|(e, _)| e).collect::<Vec<_>>(), elements);
    }

    #[test]
    fn any_bytes_are_harmless(noise: Vec<u8>, flips in vec((any::<u16>(), any::<u8>()), 0..8), cut: u16) {
        let mut ruleset = Vec::new();
        for rule in base::compile(&BaseRules::default()).rules.values().flatten() {
            let body = written(|w| rule.encode("warren", "chain", w));
            wire::append_message(&mut ruleset, wire::kind_of(6), 0, 1, (1, 0), &body);
        }
        for (at, value) in flips {
            let at = usize::from(at) % ruleset.len();
            ruleset[at] = value;
        }
        ruleset.truncate(ruleset.len() - usize::from(cut) % ruleset.len());
        for bytes in [&noise, &ruleset] {
            let _ = watch::is_change(bytes, (None, 1));
            let messages: Vec<_> = wire::messages(bytes).collect();
            for attributes in messages.iter().map(|m| m.attributes().1).chain([bytes.as_slice()]) {
                let _ = (Rule::decode(attributes), Chain::decode(attributes), Set::decode(attributes));
                let _ = (Element::decode(attributes).count(), expr::decode(attributes));
            }
        }
    }

    #[test]
    fn merged_ranges_hold_exactly_what_the_prefixes_hold(
        prefixes in vec(prefix(), 0..12),
        random in vec(any::<u128>(), 0..32),
    ) {
        for family in [Family::V4, Family::V6] {
            let ranges = ranges::merge(&prefixes, family);
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].last + 1 < pair[1].first, "{:?} could be one", pair);
            }
            let keys: Vec<_> = ranges::keys(&ranges, family).collect();
            prop_assert!(keys.is_sorted());
            for address in probes(&prefixes, &random).into_iter().filter(|a| Family::of(*a) == family) {
                let expected = prefixes.iter().any(|prefix| prefix.contains(&address));
                prop_assert_eq!(in_keys(&keys, address), expected, "{} in {:?}", address, &prefixes);
            }
        }
    }
}

#[test]
fn an_attribute_too_long_is_noticed() {
    let mut w = Writer::default();
    w.nest(1, |w| w.bytes(2, &[0; 65_530]));
    assert!(!w.finish().1);
}
