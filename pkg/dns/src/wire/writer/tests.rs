use super::*;
use crate::wire::{Edns, Name, Refusal};
use hickory_proto::op::Message;
use hickory_proto::rr::RData;
use hickory_proto::serialize::binary::BinDecodable;
use proptest::prelude::*;

/// A packet that asks one question.
fn packet(name: &Name, qtype: Type, edns: Option<(u16, bool)>) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 0x01, 0x10, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
    packet.extend_from_slice(name.wire());
    packet.extend_from_slice(&qtype.0.to_be_bytes());
    packet.extend_from_slice(&[0, 1]);
    if let Some((size, dnssec_ok)) = edns {
        let [high, low] = size.to_be_bytes();
        packet.extend_from_slice(&[0, 0, 41, high, low, 0, 0, u8::from(dnssec_ok) << 7, 0]);
        packet.extend_from_slice(&[0, 12, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
    packet
}

fn refusal(rcode: Rcode) -> Option<Refusal> {
    Some(Refusal::Reply { id: 0x1234, opcode: 0, recursion_desired: true, rcode })
}

#[test]
fn a_question_is_read_where_it_lies() {
    let name: Name = "WeB.shop.svc.cluster.local".parse().unwrap();
    let bytes = packet(&name, Type::AAAA, Some((4096, true)));
    let query = Query::read(&bytes).unwrap();
    assert_eq!((query.id, query.qtype, query.class), (0x1234, Type::AAAA, 1));
    assert_eq!(query.name, name.wire(), "the case is kept");
    assert!(query.recursion_desired && query.checking_disabled);
    assert_eq!(query.edns, Some(Edns { udp_size: 4096, version: 0, dnssec_ok: true }));
}

#[test]
fn what_is_no_question_is_refused_by_kind() {
    let good = packet(&"a.b".parse().unwrap(), Type::A, Some((1232, false)));
    assert!(Query::read(&good).is_ok());
    for length in 0..12 {
        assert_eq!(Query::read(&good[..length]).err(), Some(Refusal::Silent));
    }
    for length in 12..good.len() {
        assert_eq!(Query::read(&good[..length]).err(), refusal(Rcode::FORM_ERR), "{length}");
    }
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        Query::read(&bytes).err()
    };
    assert_eq!(with(2, 0x81), Some(Refusal::Silent), "an answer");
    assert_eq!(
        with(2, 0x21),
        Some(Refusal::Reply { id: 0x1234, opcode: 4, recursion_desired: true, rcode: Rcode::NOT_IMP }),
        "NOTIFY"
    );
    for (at, value) in [(5, 0), (5, 2), (7, 1), (9, 1), (11, 2), (11, 200), (12, 0xc0), (12, 0x41)] {
        assert_eq!(with(at, value), refusal(Rcode::FORM_ERR), "byte {at} is {value}");
    }
    let mut twice = good.clone();
    twice.extend_from_slice(&good[good.len() - 23..]);
    assert!(Query::read(&twice).is_ok(), "what is behind the last record is not looked at");
    twice[11] = 2;
    assert_eq!(Query::read(&twice).err(), refusal(Rcode::FORM_ERR), "two OPT records");
    let mut out = vec![9];
    assert!(!Refusal::Silent.write(&mut out) && out.is_empty());
    assert!(refusal(Rcode::FORM_ERR).unwrap().write(&mut out));
    assert_eq!(out, [0x12, 0x34, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]);
}

fn name() -> impl Strategy<Value = Name> {
    // Few labels, so that names often end alike; some with bytes that look like lengths and pointers.
    let label = prop_oneof![
        8 => prop::sample::select(vec!["a", "b", "svc", "Cluster", "LOCAL", "local"]).prop_map(|l| l.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..63),
        1 => Just(b"\x01b\x00\xc0\x0c\x03svc".to_vec()),
    ];
    prop::collection::vec(label, 0..9)
        .prop_filter_map("too long", |labels| Name::from_labels(labels.iter().map(Vec::as_slice)).ok())
}

fn record() -> impl Strategy<Value = Record> {
    let data = prop_oneof![
        any::<[u8; 4]>().prop_map(|a| (Type::A, Data::Address(a.into()))),
        any::<[u8; 16]>().prop_map(|a| (Type::AAAA, Data::Address(a.into()))),
        name().prop_map(|n| (Type::CNAME, Data::Name(n))),
        name().prop_map(|n| (Type::PTR, Data::Name(n))),
        name().prop_map(|n| (Type::NS, Data::Name(n))),
        (any::<[u16; 3]>(), name()).prop_map(|([priority, weight, port], target)| {
            (Type::SRV, Data::Srv { priority, weight, port, target })
        }),
        (any::<[u32; 2]>(), name(), name()).prop_map(|([serial, minimum], mname, rname)| {
            (Type::SOA, Data::Soa(Soa { mname, rname, serial, refresh: 7, retry: 6, expire: 5, minimum }))
        }),
        Just((Type::TXT, Data::Other(Box::from(&b"\x051.1.0"[..])))),
    ];
    (name(), 0..0x7fff_ffffu32, data).prop_map(|(owner, ttl, (rtype, data))| Record {
        owner,
        rtype,
        ttl,
        data,
    })
}

fn wire_of(name: &hickory_proto::rr::Name) -> Name {
    Name::from_labels(name.iter()).unwrap()
}

/// What hickory read, as our own record.
fn read_back(record: &hickory_proto::rr::Record) -> Record {
    let data = match &record.data {
        RData::A(a) => Data::Address(a.0.into()),
        RData::AAAA(a) => Data::Address(a.0.into()),
        RData::CNAME(n) => Data::Name(wire_of(&n.0)),
        RData::PTR(n) => Data::Name(wire_of(&n.0)),
        RData::NS(n) => Data::Name(wire_of(&n.0)),
        RData::SRV(s) => {
            Data::Srv { priority: s.priority, weight: s.weight, port: s.port, target: wire_of(&s.target) }
        }
        RData::SOA(s) => Data::Soa(Soa {
            mname: wire_of(&s.mname),
            rname: wire_of(&s.rname),
            serial: s.serial,
            refresh: s.refresh.cast_unsigned(),
            retry: s.retry.cast_unsigned(),
            expire: s.expire.cast_unsigned(),
            minimum: s.minimum,
        }),
        RData::TXT(t) => {
            let mut wire = Vec::new();
            for text in &t.txt_data {
                wire.push(u8::try_from(text.len()).unwrap());
                wire.extend_from_slice(text);
            }
            Data::Other(wire.into())
        }
        other => panic!("{other:?}"),
    };
    Record { owner: wire_of(&record.name), rtype: Type(record.record_type().into()), ttl: record.ttl, data }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = Query::read(&bytes);
    }

    #[test]
    fn damaged_questions_are_read_without_harm(
        name in name(), at in any::<prop::sample::Index>(), value: u8, size: u16, tcp: bool,
    ) {
        let mut bytes = packet(&name, Type::A, Some((size, true)));
        let at = at.index(bytes.len());
        bytes[at] = value;
        let mut out = Vec::new();
        match Query::read(&bytes) {
            Ok(query) => {
                prop_assert!(Name::from_wire(query.name).is_ok());
                let transport = if tcp { Transport::Tcp } else { Transport::Udp };
                Writer::new(&query, transport, &mut out).finish(Rcode::NX_DOMAIN);
                prop_assert!(Message::from_bytes(&out).is_ok());
            }
            Err(refusal) => prop_assert_eq!(refusal.write(&mut out), !out.is_empty()),
        }
    }

    #[test]
    fn another_reads_what_was_written(
        asked in name(), records in prop::collection::vec(record(), 0..30), size in prop::option::of(any::<u16>()),
        tcp: bool, answers in 0usize..30, rcode in 0u8..6,
    ) {
        let bytes = packet(&asked, Type::A, size.map(|s| (s, false)));
        let query = Query::read(&bytes).unwrap();
        let mut out = Vec::new();
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let mut writer = Writer::new(&query, transport, &mut out);
        let mut written = [Vec::new(), Vec::new()];
        let mut cut = false;
        for (i, record) in records.iter().enumerate() {
            let section = if i < answers { Section::Answer } else { Section::Additional };
            let fitted = writer.copy(section, record, record.ttl);
            cut |= !fitted && section == Section::Answer;
            prop_assert!(!(cut && fitted), "nothing is added once the answer is cut");
            if fitted {
                written[usize::from(i >= answers)].push(record.clone());
            }
        }
        prop_assert_eq!(writer.is_cut(), cut);
        writer.finish(Rcode(rcode));
        let limit = if tcp { 65535 } else { size.map_or(512, |s| s.clamp(512, LONGEST_OVER_UDP).into()) };
        prop_assert!(out.len() <= limit, "{} of {limit} bytes", out.len());
        let message = Message::from_bytes(&out).unwrap();
        prop_assert_eq!(message.metadata.id, 0x1234);
        prop_assert_eq!(u16::from(message.metadata.response_code), u16::from(rcode));
        prop_assert_eq!(message.metadata.truncation, cut);
        prop_assert!(message.metadata.recursion_available && message.metadata.recursion_desired);
        prop_assert_eq!(message.edns.is_some(), size.is_some());
        prop_assert_eq!(wire_of(message.queries[0].name()), asked);
        prop_assert_eq!(message.answers.iter().map(read_back).collect::<Vec<_>>(), written[0].clone());
        prop_assert_eq!(message.additionals.iter().map(read_back).collect::<Vec<_>>(), written[1].clone());
    }

    #[test]
    fn common_ends_are_ends_of_both(name in name(), known in name()) {
        let labels = |n: &Name| n.labels().map(<[u8]>::to_ascii_lowercase).collect::<Vec<_>>();
        let (ours, theirs) = (labels(&name), labels(&known));
        let shared = ours.iter().rev().zip(theirs.iter().rev()).take_while(|(a, b)| a == b).count();
        let found = common_end(name.wire(), known.wire());
        let longest = (shared > 0).then(|| {
            let length = |labels: &[Vec<u8>]| labels.iter().map(|l| l.len() + 1).sum::<usize>();
            (length(&ours[..ours.len() - shared]), length(&theirs[..theirs.len() - shared]))
        });
        prop_assert_eq!(found, longest);
    }
}

#[test]
fn a_longest_answer_of_names_that_nearly_end_alike_is_written_in_bounded_work() {
    // Names of 127 labels that differ in the last: the worst case of comparing from the front.
    let long = |last: char| format!("{}{last}", "a.".repeat(126)).parse::<Name>().unwrap();
    let bytes = packet(&long('z'), Type::A, None);
    let query = Query::read(&bytes).unwrap();
    let mut out = Vec::new();
    let mut writer = Writer::new(&query, Transport::Tcp, &mut out);
    let names: Vec<Name> = ('b'..'y').map(long).collect();
    let mut tried = 0u32;
    while !writer.is_cut() {
        let owner = names[tried as usize % names.len()].clone();
        writer.copy(
            Section::Answer,
            &Record { owner, rtype: Type::A, ttl: 1, data: Data::Address([1; 4].into()) },
            1,
        );
        tried += 1;
    }
    writer.finish(Rcode::NO_ERROR);
    assert!(tried < 65535 / 16);
    assert_eq!(Message::from_bytes(&out).unwrap().answers.len(), tried as usize - 1);
}
