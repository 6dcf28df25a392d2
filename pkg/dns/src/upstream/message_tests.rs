//! Replies: what is taken, what is refused, and that nothing harms the reader.

use super::*;
use crate::upstream::testing::{Answer, a, alias, name, soa};
use proptest::prelude::*;

fn question() -> Question {
    Question { name: name("www.example.com"), rtype: Type::A, id: 0x1234 }
}

fn read(answer: &Answer) -> Result<Reply, BadReply> {
    question().read(&answer.reply(&question().message(true)), true)
}

#[test]
fn a_plain_answer_is_taken() {
    let reply =
        read(&Answer::of(vec![a("WWW.example.com", 60, "192.0.2.1"), a("www.example.com", 30, "192.0.2.2")]));
    let reply = reply.unwrap();
    assert_eq!(reply.answers.len(), 2);
    assert_eq!(reply.ttl, Some(Duration::from_secs(30)));
    assert_eq!(reply.rcode, Rcode::NO_ERROR);
}

#[test]
fn the_chain_is_followed_in_any_order_and_nothing_else_is_kept() {
    let reply = read(&Answer::of(vec![
        a("b.example.net", 60, "192.0.2.1"),
        a("victim.example.org", 60, "192.0.2.66"),
        alias("a.example.net", 9, "b.example.net"),
        alias("www.example.com", 60, "a.example.net"),
        alias("victim.example.org", 60, "evil.example.net"),
    ]))
    .unwrap();
    let owners: Vec<_> = reply.answers.iter().map(|r| r.owner.to_string()).collect();
    assert_eq!(owners, ["www.example.com.", "a.example.net.", "b.example.net."]);
    assert_eq!(reply.ttl, Some(Duration::from_secs(9)));
}

#[test]
fn loops_and_contradictions_are_refused() {
    for records in [
        vec![alias("www.example.com", 1, "www.example.com")],
        vec![alias("www.example.com", 1, "b.example"), alias("b.example", 1, "www.example.com")],
        vec![alias("www.example.com", 1, "b.example"), alias("www.example.com", 1, "c.example")],
    ] {
        assert!(matches!(read(&Answer::of(records)), Err(BadReply::Malformed(_))));
    }
    let mut chain = vec![alias("www.example.com", 1, "n0.example")];
    chain.extend((0..20).map(|n| alias(&format!("n{n}.example"), 1, &format!("n{}.example", n + 1))));
    assert!(matches!(read(&Answer::of(chain)), Err(BadReply::Malformed(_))));
    let denied = Answer { rcode: 3, ..Answer::of(vec![a("www.example.com", 1, "192.0.2.1")]) };
    assert!(matches!(read(&denied), Err(BadReply::Malformed(_))));
}

#[test]
fn a_denial_lives_as_long_as_its_soa_says() {
    let denied = Answer { rcode: 3, authority: vec![soa("example.com", 900, 120)], ..Answer::default() };
    let reply = read(&denied).unwrap();
    assert_eq!((reply.rcode, reply.ttl), (Rcode::NX_DOMAIN, Some(Duration::from_secs(120))));
    // The SOA of a zone that has nothing to do with the name counts for nothing.
    let foreign = Answer { rcode: 3, authority: vec![soa("example.org", 900, 120)], ..Answer::default() };
    assert_eq!(read(&foreign).map(|reply| (reply.soa, reply.ttl)), Ok((None, None)));
}

#[test]
fn a_referral_is_no_denial() {
    let ns = Record { rtype: Type::NS, ..alias("example.com", 60, "ns.example.com") };
    let refers = Answer { authority: vec![ns], ..Answer::default() };
    assert_eq!(read(&refers), Err(BadReply::Unwilling(Rcode::SERV_FAIL)));
    assert_eq!(
        read(&Answer { flags: 0x8100, ..Answer::default() }),
        Err(BadReply::Unwilling(Rcode::SERV_FAIL)),
        "neither authoritative nor recursive"
    );
}

#[test]
fn an_alias_without_its_end_says_so() {
    let reply = read(&Answer::of(vec![alias("www.example.com", 60, "elsewhere.example.net")])).unwrap();
    assert_eq!(reply.unfinished, Some(name("elsewhere.example.net")));
}

#[test]
fn what_answers_another_question_is_foreign() {
    let question = question();
    let good = Answer::of(vec![a("www.example.com", 60, "192.0.2.1")]).reply(&question.message(true));
    assert!(question.read(&good, true).is_ok());
    let changed = |at: usize, by: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= by;
        question.read(&bytes, true)
    };
    // Id, QR, opcode, count of questions, a letter of the name, type and class.
    for (at, by) in [(0, 1), (1, 1), (2, 0x80), (2, 0x08), (5, 2), (13, 1), (30, 1), (32, 2)] {
        assert_eq!(changed(at, by), Err(BadReply::Foreign), "byte {at}");
    }
    assert!(changed(13, 0x20).is_ok(), "case plays no part");
    assert_eq!(changed(2, 0x02), Err(BadReply::Truncated));
    assert_eq!(question.read(&good[..11], true), Err(BadReply::Foreign));
}

/// As many records as are read, of the longest name, each by a pointer to it: what it costs whoever reads it.
#[test]
fn the_worst_reply_takes_bounded_time() {
    let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
    let question = Question { name: name(&long), ..question() };
    let mut bytes = question.message(false);
    bytes[2..4].copy_from_slice(&[0x81, 0x80]);
    let record = [&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12][..], &[]].concat();
    let other = [&[0xc0, 76, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 1][..]].concat();
    let mut count = 0_u16;
    while u32::from(count) + 1 < MOST_READ {
        bytes.extend_from_slice(&other);
        count += 1;
    }
    bytes.extend_from_slice(&record);
    bytes[6..8].copy_from_slice(&(count + 1).to_be_bytes());
    let began = std::time::Instant::now();
    assert!(matches!(question.read(&bytes, false), Err(BadReply::Malformed(_))));
    let took = began.elapsed();
    bytes[10] = 1;
    assert!(question.read(&bytes, false).is_err(), "not even read");
    println!("{count} records in {} bytes took {took:?}", bytes.len());
    assert!(took < Duration::from_millis(300), "{took:?}");
}

#[test]
fn a_server_without_edns_is_asked_again_without() {
    let mut bytes = question().message(true);
    bytes[2] |= 0x80;
    bytes[3] = 1;
    assert_eq!(question().read(&bytes, true), Err(BadReply::NoEdns));
    assert_eq!(question().read(&bytes, false), Err(BadReply::Unwilling(Rcode::FORM_ERR)));
    let mut bare = bytes[..12].to_vec();
    bare[5] = 0;
    bare[11] = 0;
    assert_eq!(question().read(&bare, true), Err(BadReply::NoEdns));
}

/// More than usual, for bytes that anybody can send; still more with PROPTEST_CASES.
fn many() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases.max(2_000), ..usual }
}

proptest! {
    #![proptest_config(many())]

    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = question().read(&bytes, true);
        // The same behind a header and question that are right, so that the decoder sees it.
        let mut behind = question().message(false);
        behind[2] |= 0x80;
        behind[3] |= 0x80;
        behind[7] = bytes.first().copied().unwrap_or(1) % 8;
        behind[9] = bytes.get(1).copied().unwrap_or(1) % 4;
        behind.extend_from_slice(&bytes);
        let _ = question().read(&behind, true);
    }

    /// Whatever a mutated reply says, only the chain from the asked name comes through, ended, and without a loop.
    #[test]
    fn mutated_replies_keep_the_promise(
        changes in prop::collection::vec((12_usize..400, any::<u8>()), 0..12),
        cut in 0_usize..400,
    ) {
        let question = question();
        let mut bytes = Answer {
            authority: vec![soa("example.com", 900, 120)],
            additional: vec![a("ns.example.com", 60, "192.0.2.53")],
            ..Answer::of(vec![
                alias("www.example.com", 60, "a.example.net"),
                alias("a.example.net", 60, "b.example.net"),
                a("b.example.net", 60, "192.0.2.1"),
                a("b.example.net", 60, "192.0.2.2"),
                a("victim.example.org", 60, "192.0.2.3"),
            ])
        }
        .reply(&question.message(true));
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(bytes.len().saturating_sub(cut.saturating_sub(300)));
        if let Ok(reply) = question.read(&bytes, true) {
            let mut at = question.name.clone();
            let mut seen = Vec::new();
            for record in &reply.answers {
                prop_assert_eq!(&record.owner, &at);
                if let (Type::CNAME, Data::Name(target)) = (record.rtype, &record.data) {
                    prop_assert!(!seen.contains(target));
                    seen.push(at.clone());
                    at = target.clone();
                } else {
                    prop_assert_eq!(record.rtype, Type::A);
                }
            }
            prop_assert!(reply.answers.len() <= LONGEST_CHAIN + MOST_RECORDS);
        }
    }
}
