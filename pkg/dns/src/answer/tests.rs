use super::*;
use crate::wire::{LONGEST_OVER_UDP, Refusal};
use crate::zone::Knowledge;
use hickory_proto::op::Message;
use hickory_proto::rr::{RData, RecordType};
use hickory_proto::serialize::binary::BinDecodable;
use proptest::prelude::*;
use std::str::FromStr;
use table::{Case, Question};
use warren_types::{Service, ServiceKey};

#[path = "../../testdata/table.rs"]
#[expect(unreachable_pub, dead_code, reason = "the file is written for tests of other crates too")]
mod table;

const SPECIFICATION: &str = include_str!("../../testdata/specification.txt");

/// A packet that asks for a name.
pub(crate) fn packet(name: &str, qtype: Type, edns: Option<u16>) -> Vec<u8> {
    let mut packet = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
    packet.extend_from_slice(name.parse::<Name>().unwrap().wire());
    packet.extend_from_slice(&qtype.0.to_be_bytes());
    packet.extend_from_slice(&[0, 1]);
    if let Some(size) = edns {
        let [high, low] = size.to_be_bytes();
        packet.extend_from_slice(&[0, 0, 41, high, low, 0, 0, 0, 0, 0, 0]);
    }
    packet
}

pub(crate) fn qtype(name: &str) -> Type {
    Type(RecordType::from_str(name).unwrap().into())
}

/// A record as the table writes it.
fn text(section: &str, record: &hickory_proto::rr::Record) -> String {
    let data = match &record.data {
        RData::TXT(t) => t.txt_data.iter().map(|t| format!("\"{}\"", String::from_utf8_lossy(t))).collect(),
        data => data.to_string(),
    };
    format!("{section} {} {} {data}", record.name, record.record_type())
}

pub(crate) fn read(out: &[u8]) -> Message {
    Message::from_bytes(out).unwrap()
}

fn zone_of(case: &Case) -> (Zone, Settings) {
    let mut zone = Zone::new(&case.domain.parse().unwrap()).unwrap();
    zone.set_cluster(case.ranges.iter().map(|r| r.parse().unwrap()));
    case.services.iter().for_each(|s| zone.set_service(&s.key, Some(s)));
    case.slices.iter().for_each(|s| zone.set_slice(&s.key, Some(s)));
    case.pod_rows.iter().for_each(|p| zone.set_pod(&p.key, Some(p)));
    case.nodes.iter().for_each(|n| zone.set_node(&n.name, Some(n)));
    zone.set_knowledge(match &case.knowledge[..] {
        "nothing" => Knowledge::Nothing,
        "last" => Knowledge::Last,
        _ => Knowledge::Current,
    });
    let pods = match &case.pods[..] {
        "disabled" => PodNames::Disabled,
        "insecure" => PodNames::Insecure,
        _ => PodNames::Verified,
    };
    (zone, Settings { pods, servers: case.servers.clone(), ..Settings::default() })
}

/// What is wrong with the answer to a question; nothing when it is as the table has it.
fn fault(zone: &Zone, settings: &Settings, question: &Question, random: u64) -> Option<String> {
    let packet = packet(&question.name, qtype(&question.qtype), Some(1232));
    let query = Query::read(&packet).unwrap();
    let mut out = Vec::new();
    let context = Context { zone, settings, transport: Transport::Udp, random };
    let got = match answer(context, Client::Other, &query, &mut out) {
        Outcome::Forward(asked) => {
            assert_eq!((asked.name.wire(), asked.qtype), (query.name, query.qtype));
            return (question.result != "FORWARD").then(|| "it was forwarded".into());
        }
        Outcome::ForwardThen(chain) => {
            let result = format!("THEN {}", chain.asked().name);
            return (question.result != result).then_some(result);
        }
        Outcome::WalkSearch(walk) => return Some(format!("{walk:?}")),
        Outcome::Answered => read(&out),
    };
    let (code, aa) = (got.metadata.response_code, got.metadata.authoritative);
    let code = match u16::from(code) {
        0 => "NOERROR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        5 => "REFUSED",
        _ => "another code",
    };
    if (code, aa) != (&question.result[..], question.authoritative) {
        return Some(format!("{code}, aa {aa}"));
    }
    let sections =
        [("answer", &got.answers), ("authority", &got.authorities), ("additional", &got.additionals)];
    let mut records: Vec<String> =
        sections.iter().flat_map(|(name, records)| records.iter().map(|r| text(name, r))).collect();
    for expected in &question.records {
        match records.iter().position(|r| table::matches(expected, r)) {
            Some(at) => drop(records.remove(at)),
            None => return Some(format!("{expected} is not in the answer, but {records:?}")),
        }
    }
    (!records.is_empty()).then(|| format!("there is also {records:?}"))
}

#[test]
fn the_specification_holds() {
    let mut faults = Vec::new();
    let mut count = 0;
    for case in table::read(SPECIFICATION) {
        let (zone, settings) = zone_of(&case);
        for question in &case.questions {
            count += 1;
            if let Some(fault) = fault(&zone, &settings, question, count) {
                faults.push(format!("line {}: {} {}: {fault}", question.line, question.name, question.qtype));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count > 120, "{count} questions");
}

#[test]
fn the_specification_holds_after_every_object_went_and_came_back() {
    for case in table::read(SPECIFICATION) {
        let (mut zone, settings) = zone_of(&case);
        for round in 0..2 {
            // In another order each time: what comes first must not matter.
            case.slices.iter().for_each(|s| zone.set_slice(&s.key, (round == 1).then_some(s)));
            case.services.iter().rev().for_each(|s| zone.set_service(&s.key, (round == 1).then_some(s)));
            case.pod_rows.iter().for_each(|p| zone.set_pod(&p.key, (round == 1).then_some(p)));
            case.nodes.iter().for_each(|n| zone.set_node(&n.name, (round == 1).then_some(n)));
            if round == 0 {
                assert!(zone.is_empty(), "nothing is left of what went");
            }
        }
        for question in &case.questions {
            assert_eq!(fault(&zone, &settings, question, 1), None, "line {}", question.line);
        }
    }
}

#[test]
fn names_are_explained_by_their_objects() {
    let (zone, settings) = zone_of(&table::read(SPECIFICATION)[0]);
    for (name, explained) in [
        ("web.shop.svc.cluster.local", "Service shop/web, by its cluster addresses"),
        ("db.shop.svc.cluster.local", "Service shop/db, by its ready endpoints"),
        ("out.shop.svc.cluster.local", "Service shop/out, by its external name"),
        ("_sql._tcp.db.shop.svc.cluster.local", "a port of Service shop/db"),
        ("db-0.db.shop.svc.cluster.local", "endpoints of Service shop/db"),
        ("node-1", "a node"),
        ("10-42-0-77.jobs.pod.cluster.local", "a pod"),
        ("1.0.43.10.in-addr.arpa", "the address of kubernetes.default.svc.cluster.local."),
        ("shop.svc.cluster.local", "only names below it have records"),
        ("x.shop.svc.cluster.local", "of the cluster, where it does not exist"),
        ("example.com", "not of the cluster; upstream servers are asked"),
    ] {
        assert_eq!(zone.explain(&name.parse().unwrap(), settings.pods).to_string(), explained);
    }
}

/// A zone with a headless Service of `n` endpoints, all with hostnames.
fn many(n: u16) -> Zone {
    let endpoints: Vec<String> =
        (0..n).map(|i| format!("endpoint=10.42.{}.{},web-{i}", i >> 8, i & 255)).collect();
    let text =
        format!("zone x\nservice a/web\nslice a/web-1 of=web port=http:tcp:80 {}", endpoints.join(" "));
    zone_of(&table::read(&text)[0]).0
}

fn ask(
    zone: &Zone,
    client: Client<'_>,
    packet: &[u8],
    transport: Transport,
    random: u64,
) -> (Outcome, Vec<u8>) {
    let mut out = Vec::new();
    let settings = Settings::default();
    let context = Context { zone, settings: &settings, transport, random };
    (answer(context, client, &Query::read(packet).unwrap(), &mut out), out)
}

#[test]
fn what_does_not_fit_is_cut_and_says_so() {
    let zone = many(1000);
    for (name, qtype, edns, limit) in [
        ("web.a.svc.cluster.local", Type::A, None, 512),
        ("web.a.svc.cluster.local", Type::A, Some(100), 512),
        ("web.a.svc.cluster.local", Type::A, Some(4096), usize::from(LONGEST_OVER_UDP)),
        ("_http._tcp.web.a.svc.cluster.local", Type::SRV, Some(800), 800),
    ] {
        let (_, out) = ask(&zone, Client::Other, &packet(name, qtype, edns), Transport::Udp, 3);
        let message = read(&out);
        assert!(message.metadata.truncation && out.len() <= limit && out.len() > limit - 80, "{}", out.len());
        assert!(message.answers.len() > 6 && message.additionals.is_empty());
    }
    let question = packet("web.a.svc.cluster.local", Type::A, None);
    let (_, out) = ask(&zone, Client::Other, &question, Transport::Tcp, 3);
    assert_eq!((read(&out).metadata.truncation, read(&out).answers.len()), (false, 1000));
}

#[test]
fn addresses_behind_the_answer_are_left_out_without_a_word() {
    // Eight SRV records fit, their addresses do not.
    let zone = many(8);
    let question = packet("_http._tcp.web.a.svc.cluster.local", Type::SRV, None);
    let (_, out) = ask(&zone, Client::Other, &question, Transport::Udp, 3);
    let message = read(&out);
    assert!(!message.metadata.truncation);
    assert_eq!(message.answers.len(), 8);
    assert!(message.additionals.len() < 8);
}

#[test]
fn records_come_in_another_order_each_time() {
    let zone = many(4);
    let question = packet("web.a.svc.cluster.local", Type::A, Some(1232));
    let mut first = std::collections::BTreeMap::<String, u32>::new();
    for random in 0..400 {
        let (_, out) = ask(&zone, Client::Other, &question, Transport::Udp, random);
        let message = read(&out);
        assert_eq!(message.answers.len(), 4);
        *first.entry(message.answers[0].data.to_string()).or_default() += 1;
    }
    assert!(first.len() == 4 && first.values().all(|n| (60..=140).contains(n)), "{first:?}");
}

#[test]
fn strangers_other_classes_and_other_versions_are_refused() {
    let zone = many(1);
    let good = packet("web.a.svc.cluster.local", Type::A, Some(1232));
    let code = |client, packet: &[u8]| {
        let (_, out) = ask(&zone, client, packet, Transport::Udp, 3);
        let message = read(&out);
        assert!(message.answers.is_empty());
        u16::from(message.metadata.response_code) | u16::from(message.edns.unwrap().rcode_high()) << 4
    };
    assert_eq!(code(Client::Stranger, &good), 5);
    let mut chaos = good.clone();
    let class = good.len() - 11 - 1;
    chaos[class] = 3;
    assert_eq!(code(Client::Other, &chaos), 5);
    let mut version = good;
    let at = version.len() - 5;
    version[at] = 1;
    assert_eq!(code(Client::Other, &version), 16);
}

#[test]
fn what_an_external_name_stands_for_is_put_after_it() {
    let (zone, settings) = zone_of(&table::read("zone x\nservice a/out external=www.example.com")[0]);
    let bytes = packet("out.a.svc.cluster.local", Type::A, Some(1232));
    let query = Query::read(&bytes).unwrap();
    let mut out = Vec::new();
    let context = Context { zone: &zone, settings: &settings, transport: Transport::Udp, random: 1 };
    let Outcome::ForwardThen(chain) = answer(context, Client::Other, &query, &mut out) else { panic!() };
    let name: Name = "www.example.com".parse().unwrap();
    let record = Record {
        owner: name,
        rtype: Type::A,
        ttl: 300,
        data: crate::wire::Data::Address([192, 0, 2, 1].into()),
    };
    let reply = Reply { rcode: Rcode::NO_ERROR, answers: &[record], soa: None, ttl: 300 };
    complete(&settings, &query, &chain, Some(reply), Transport::Udp, &mut out);
    let message = read(&out);
    let texts: Vec<String> = message.answers.iter().map(|r| text("answer", r)).collect();
    assert_eq!(
        texts,
        ["answer out.a.svc.cluster.local. CNAME www.example.com.", "answer www.example.com. A 192.0.2.1"]
    );
    complete(&settings, &query, &chain, None, Transport::Udp, &mut out);
    assert_eq!(u16::from(read(&out).metadata.response_code), 2);
    assert!(read(&out).answers.is_empty());
}

proptest! {
    #[test]
    fn any_bytes_are_answered_without_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..300), random: u64, tcp: bool,
        labels in prop::collection::vec(prop_oneof![
            prop::sample::select(vec!["web", "a", "svc", "pod", "node", "_tcp", "_http", "10-42-0-1", "10", "42", "0",
                "in-addr", "ip6", "arpa", "cluster", "local", "db", "x", "ns", "dns", "shop", "n2"]).prop_map(str::as_bytes).prop_map(<[u8]>::to_vec),
            prop::collection::vec(any::<u8>(), 1..40),
        ], 0..9),
        kind in prop::sample::select(vec![Type::A, Type::SRV, Type::PTR, Type::SOA, Type::NS, Type::ANY]),
    ) {
        let case = &table::read(SPECIFICATION)[0];
        let (zone, settings) = zone_of(case);
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let context = Context { zone: &zone, settings: &settings, transport, random };
        let mut packets = vec![bytes];
        for zone in ["", "cluster.local", "arpa"] {
            let tail = zone.split('.').filter(|l| !l.is_empty()).map(str::as_bytes);
            if let Ok(name) = Name::from_labels(labels.iter().map(Vec::as_slice).chain(tail)) {
                packets.push([&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name.wire(), &kind.0.to_be_bytes(), &[0, 1]].concat());
            }
        }
        for packet in packets {
            let mut out = Vec::new();
            match Query::read(&packet) {
                Ok(query) => if let Outcome::Answered = answer(context, Client::Other, &query, &mut out) {
                    prop_assert!(Message::from_bytes(&out).is_ok(), "{:?}", packet);
                    prop_assert!(tcp || out.len() <= 1232);
                },
                Err(Refusal::Silent) => {}
                Err(refusal) => prop_assert!(refusal.write(&mut out)),
            }
        }
    }
}

#[test]
fn a_service_changes_its_kind_and_addresses() {
    let key = ServiceKey::parse("a/web").unwrap();
    let mut zone = many(2);
    let mut service = Service::new(key.clone());
    service.cluster_ips = vec!["10.43.0.9".parse().unwrap()];
    let addresses = |zone: &Zone| {
        let question = packet("web.a.svc.cluster.local", Type::A, None);
        let mut all: Vec<String> = read(&ask(zone, Client::Other, &question, Transport::Udp, 1).1)
            .answers
            .iter()
            .map(|r| r.data.to_string())
            .collect();
        all.sort();
        all
    };
    assert_eq!(addresses(&zone), ["10.42.0.0", "10.42.0.1"]);
    zone.set_service(&key, Some(&service));
    assert_eq!(addresses(&zone), ["10.43.0.9"]);
    service.cluster_ips = vec!["10.43.0.8".parse().unwrap()];
    zone.set_service(&key, Some(&service));
    assert_eq!(addresses(&zone), ["10.43.0.8"]);
    zone.set_service(&key, None);
    assert!(addresses(&zone).is_empty());
}
