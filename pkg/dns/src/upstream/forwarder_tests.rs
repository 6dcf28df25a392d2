//! The forwarder over real sockets, against upstreams that are slow, dead, hostile or away.

use super::*;
use crate::upstream::fake::{Fake, Query, Replies};
use crate::upstream::testing::{Answer, a, alias, asked, name, soa};
use crate::wire::Data;

const MS: Duration = Duration::from_millis(1);

fn forwarder(upstreams: Vec<Address>) -> Arc<Forwarder> {
    Forwarder::new(Config { upstreams, ..Config::default() }, Bounds::default())
}

/// An address record for whatever is asked.
fn plain(query: &Query<'_>, ttl: u32) -> Vec<u8> {
    Answer::of(vec![a(&asked(query.bytes).0.to_string(), ttl, "192.0.2.1")]).reply(query.bytes)
}

fn at_once(query: Query<'_>) -> Replies {
    vec![(Duration::ZERO, plain(&query, 60))]
}

fn silent(_: Query<'_>) -> Replies {
    vec![]
}

/// An address of loopback where nobody listens.
async fn nobody() -> Address {
    let fake = Fake::start(silent).await;
    fake.stop().await.to_string().parse().unwrap()
}

async fn resolve(forwarder: &Arc<Forwarder>, text: &str) -> Resolved {
    forwarder.resolve(&name(text), Type::A).await
}

fn address(resolved: &Resolved) -> String {
    match resolved.entry.answers().last().map(|record| &record.data) {
        Some(Data::Address(ip)) => ip.to_string(),
        other => format!("{other:?} {:?} {:?}", resolved.entry.rcode(), resolved.origin),
    }
}

#[tokio::test]
async fn an_answer_is_asked_for_once_and_then_kept() {
    let fake = Fake::start(at_once).await;
    let forwarder = forwarder(vec![fake.upstream()]);
    assert!(forwarder.quick(&name("a.example"), Type::A, now()).is_none());
    let first = resolve(&forwarder, "a.example").await;
    assert_eq!((address(&first).as_str(), &first.origin), ("192.0.2.1", &Origin::Upstream(fake.upstream())));
    let second = forwarder.quick(&name("A.Example"), Type::A, now()).unwrap();
    assert_eq!(second.origin, Origin::Cache);
    assert!(second.ttl > 55 && second.ttl <= 60);
    assert_eq!((fake.count(), forwarder.figures().hits.get(), forwarder.figures().misses.get()), (1, 1, 1));
}

#[tokio::test]
async fn one_question_is_under_way_however_many_ask() {
    let fake = Fake::start(|query| vec![(MS * 100, plain(&query, 60))]).await;
    let forwarder = forwarder(vec![fake.upstream()]);
    let all = futures::future::join_all((0..200).map(|_| resolve(&forwarder, "a.example"))).await;
    assert!(all.iter().all(|one| address(one) == "192.0.2.1"));
    assert_eq!((fake.count(), forwarder.figures().joined.get()), (1, 199));
    assert_eq!(forwarder.status().under_way, 0);
}

#[tokio::test]
async fn what_is_truncated_is_asked_by_tcp() {
    let fake = Fake::start(|query| match query.stream {
        true => at_once(query),
        false => vec![(Duration::ZERO, Answer { flags: 0x8380, ..Answer::default() }.reply(query.bytes))],
    })
    .await;
    assert_eq!(address(&resolve(&forwarder(vec![fake.upstream()]), "a.example").await), "192.0.2.1");
    assert_eq!(fake.count(), 2);
}

#[tokio::test]
async fn long_answers_come_whole_by_tcp() {
    let fake = Fake::start(|query| {
        let records = (0..200).map(|n| a("many.example", 60, &format!("192.0.2.{n}"))).collect();
        let reply = Answer::of(records).reply(query.bytes);
        if query.stream {
            vec![(Duration::ZERO, reply)]
        } else {
            vec![(Duration::ZERO, [&reply[..2], &[0x83], &reply[3..512]].concat())]
        }
    })
    .await;
    assert_eq!(resolve(&forwarder(vec![fake.upstream()]), "many.example").await.entry.answers().len(), 200);
}

/// Replies that are none are passed over, and the right one that follows is taken.
#[tokio::test]
async fn guesses_are_passed_over() {
    let fake = Fake::start(|query| {
        let good = plain(&query, 60);
        let evil =
            Answer::of(vec![a(&asked(query.bytes).0.to_string(), 60, "198.51.100.66")]).reply(query.bytes);
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut reply = evil.clone();
            change(&mut reply);
            (Duration::ZERO, reply)
        };
        vec![
            with(&|r| r[0] ^= 0xff),
            with(&|r| r[2] &= 0x7f),
            with(&|r| r[2] |= 0x28),
            with(&|r| r[13] = b'z'),
            with(&|r| r[5] = 0),
            with(&|r| r.truncate(7)),
            with(&|r| r.clear()),
            (MS * 50, good),
        ]
    })
    .await;
    assert_eq!(address(&resolve(&forwarder(vec![fake.upstream()]), "a.example").await), "192.0.2.1");
}

#[tokio::test]
async fn a_flood_of_guesses_turns_the_question_to_tcp() {
    let fake = Fake::start(|query| match query.stream {
        true => at_once(query),
        false => (0..100).map(|n| (Duration::ZERO, vec![n; 40])).collect(),
    })
    .await;
    assert_eq!(address(&resolve(&forwarder(vec![fake.upstream()]), "a.example").await), "192.0.2.1");
}

/// Nonsense of one upstream has the next asked; nothing of it is kept.
#[tokio::test]
async fn nonsense_has_the_next_one_asked() {
    let bad: [fn(&Query<'_>) -> Vec<u8>; 6] = [
        |q| [&plain(q, 60)[..], &[0xff; 8]].concat()[..40.min(plain(q, 60).len())].to_vec(),
        |q| Answer::of(vec![alias("a.example", 60, "a.example")]).reply(q.bytes),
        |q| Answer { rcode: 2, ..Answer::default() }.reply(q.bytes),
        |q| Answer { rcode: 5, ..Answer::default() }.reply(q.bytes),
        |q| {
            let mut reply = plain(q, 60);
            reply[6] = 0xff;
            reply
        },
        |q| Answer { flags: 0x8100, ..Answer::default() }.reply(q.bytes),
    ];
    for (which, bad) in bad.into_iter().enumerate() {
        let hostile = Fake::start(move |query| vec![(Duration::ZERO, bad(&query))]).await;
        let good = Fake::start(at_once).await;
        // The order is random now and then; it is not so each time.
        for _ in 0..4 {
            let forwarder = forwarder(vec![hostile.upstream(), good.upstream()]);
            let began = Instant::now();
            assert_eq!(address(&resolve(&forwarder, "a.example").await), "192.0.2.1", "case {which}");
            assert!(began.elapsed() < MS * 250, "at once, case {which}: {:?}", began.elapsed());
        }
        assert!(hostile.count() >= 1);
    }
}

#[tokio::test]
async fn unrelated_records_are_not_kept() {
    let fake = Fake::start(|query| {
        let victim = a("victim.example", 60, "198.51.100.66");
        let reply = Answer {
            answers: vec![a(&asked(query.bytes).0.to_string(), 60, "192.0.2.1"), victim.clone()],
            authority: vec![alias("victim.example", 60, "evil.example")],
            additional: vec![victim],
            ..Answer::default()
        };
        vec![(Duration::ZERO, reply.reply(query.bytes))]
    })
    .await;
    let forwarder = forwarder(vec![fake.upstream()]);
    assert_eq!(resolve(&forwarder, "a.example").await.entry.answers().len(), 1);
    assert!(forwarder.quick(&name("victim.example"), Type::A, now()).is_none());
    resolve(&forwarder, "victim.example").await;
    assert_eq!(fake.count(), 2, "it has to be asked for");
}

#[tokio::test]
async fn a_server_without_edns_is_asked_without() {
    let fake = Fake::start(|query| match query.bytes[11] {
        0 => at_once(query),
        _ => vec![(Duration::ZERO, Answer { rcode: 1, ..Answer::default() }.reply(query.bytes))],
    })
    .await;
    assert_eq!(address(&resolve(&forwarder(vec![fake.upstream()]), "a.example").await), "192.0.2.1");
}

#[tokio::test]
async fn a_second_is_asked_when_the_first_is_slow_and_soon_first() {
    let slow = Fake::start(|query| vec![(MS * 900, plain(&query, 60))]).await;
    let fast = Fake::start(at_once).await;
    let forwarder = forwarder(vec![slow.upstream(), fast.upstream()]);
    let mut took = Vec::new();
    for n in 0..10 {
        let began = Instant::now();
        assert_eq!(address(&resolve(&forwarder, &format!("n{n}.example")).await), "192.0.2.1");
        took.push(began.elapsed());
    }
    println!("hedged: {took:?}");
    assert!(slow.count() >= 1 && took.iter().all(|took| *took < MS * 600), "{took:?}");
    assert!(took[3..].iter().filter(|took| **took < MS * 100).count() >= 4, "{took:?}");
}

#[tokio::test]
async fn a_lost_datagram_is_sent_again() {
    let fake = Fake::start(|query| if query.nth == 0 { vec![] } else { at_once(query) }).await;
    let began = Instant::now();
    assert_eq!(address(&resolve(&forwarder(vec![fake.upstream()]), "a.example").await), "192.0.2.1");
    assert!(began.elapsed() < MS * 800, "{:?}", began.elapsed());
}

#[tokio::test]
async fn where_nobody_listens_the_next_is_asked_at_once() {
    let good = Fake::start(at_once).await;
    let forwarder = forwarder(vec![nobody().await, good.upstream()]);
    let began = Instant::now();
    for n in 0..5 {
        assert_eq!(address(&resolve(&forwarder, &format!("n{n}.example")).await), "192.0.2.1");
    }
    assert!(began.elapsed() < MS * 250, "{:?}", began.elapsed());
}

/// The breaker: dead upstreams are answered for at once, are probed, and are used again when they are back.
#[tokio::test]
async fn dead_upstreams_make_no_queue_and_come_back() {
    let dead = nobody().await;
    let forwarder = forwarder(vec![dead.clone()]);
    let first = resolve(&forwarder, "a.example").await;
    assert_eq!(first.entry.rcode(), Rcode::SERV_FAIL);
    assert!(matches!(first.origin, Origin::Failed(Failure::Unanswered(_))), "{:?}", first.origin);
    let began = Instant::now();
    for n in 0..10_000 {
        let answer = forwarder.quick(&name(&format!("n{n}.example")), Type::A, now()).expect("at once");
        assert_eq!(answer.origin, Origin::Failed(Failure::AllDown));
    }
    println!("10,000 questions with dead upstreams took {:?}", began.elapsed());
    assert_eq!((forwarder.status().under_way, forwarder.status().cache.0), (0, 0));
    let back = Fake::start_at(dead.socket().unwrap(), at_once).await;
    let began = Instant::now();
    while forwarder.quick(&name("b.example"), Type::A, now()).is_some() {
        assert!(began.elapsed() < MS * 3_000, "it is not found to be back");
        tokio::time::sleep(MS * 5).await;
    }
    println!("found to be back after {:?}", began.elapsed());
    assert_eq!(address(&resolve(&forwarder, "b.example").await), "192.0.2.1");
    assert!(back.count() >= 2);
}

#[tokio::test]
async fn a_silent_upstream_is_found_down_and_bounds_hold() {
    let fake = Fake::start(silent).await;
    let forwarder = forwarder(vec![fake.upstream()]);
    let began = Instant::now();
    let many = (0..2_000).map(|n| {
        let (forwarder, name) = (Arc::clone(&forwarder), name(&format!("n{n}.example")));
        async move { forwarder.resolve(&name, Type::A).await }
    });
    let answers = futures::future::join_all(many).await;
    assert!(began.elapsed() < QUESTION + MS * 1_000, "{:?}", began.elapsed());
    let busy = answers.iter().filter(|one| one.origin == Origin::Failed(Failure::Busy)).count();
    assert!(answers.iter().all(|one| one.entry.rcode() == Rcode::SERV_FAIL));
    assert_eq!(busy, 2_000 - QUESTIONS);
    let began = Instant::now();
    while forwarder.quick(&name("later.example"), Type::A, now()).is_none() {
        assert!(began.elapsed() < MS * 3_000, "it is not found to be down");
        tokio::time::sleep(MS * 5).await;
    }
    assert!(forwarder.status().upstreams[0].1.is_down());
}

#[tokio::test]
async fn old_answers_are_given_when_upstreams_are_gone() {
    let fake = Fake::start(|query| vec![(Duration::ZERO, plain(&query, 1))]).await;
    let bounds = Bounds { positive: (MS * 100, MS * 100), ..Bounds::default() };
    let forwarder = Forwarder::new(Config { upstreams: vec![fake.upstream()], ..Config::default() }, bounds);
    assert_eq!(address(&resolve(&forwarder, "a.example").await), "192.0.2.1");
    fake.stop().await;
    tokio::time::sleep(MS * 150).await;
    let began = Instant::now();
    let old = resolve(&forwarder, "a.example").await;
    assert_eq!(
        (address(&old).as_str(), &old.origin, old.ttl),
        ("192.0.2.1", &Origin::Stale, crate::cache::STALE_TTL)
    );
    assert!(began.elapsed() < MS * 500);
    let again = forwarder.quick(&name("a.example"), Type::A, now()).expect("held");
    assert_eq!(again.origin, Origin::Stale);
}

#[tokio::test]
async fn old_answers_are_given_when_upstreams_take_too_long() {
    let fake = Fake::start(|query| if query.nth == 0 { at_once(query) } else { vec![] }).await;
    let bounds = Bounds { positive: (MS * 50, MS * 50), ..Bounds::default() };
    let forwarder = Forwarder::new(Config { upstreams: vec![fake.upstream()], ..Config::default() }, bounds);
    resolve(&forwarder, "a.example").await;
    tokio::time::sleep(MS * 80).await;
    let began = Instant::now();
    let old = resolve(&forwarder, "a.example").await;
    assert_eq!((address(&old).as_str(), old.origin), ("192.0.2.1", Origin::Stale));
    assert!(
        began.elapsed() >= STALE_AFTER && began.elapsed() < STALE_AFTER + MS * 400,
        "{:?}",
        began.elapsed()
    );
    assert_eq!(forwarder.status().under_way, 1, "it is asked on behind");
}

#[tokio::test]
async fn a_new_answer_is_worth_waiting_for() {
    let fake = Fake::start(|query| {
        let after = if query.nth == 0 { Duration::ZERO } else { MS * 1_000 };
        vec![(after, plain(&query, 1))]
    })
    .await;
    let bounds = Bounds { positive: (MS * 50, MS * 50), ..Bounds::default() };
    let forwarder = Forwarder::new(Config { upstreams: vec![fake.upstream()], ..Config::default() }, bounds);
    resolve(&forwarder, "a.example").await;
    tokio::time::sleep(MS * 80).await;
    assert_eq!(resolve(&forwarder, "a.example").await.origin, Origin::Upstream(fake.upstream()));
}

/// An upstream that has to find the name out itself takes long once, for all that ask it meanwhile.
#[tokio::test]
async fn a_name_that_takes_its_upstream_long_is_answered_and_not_held_against_it() {
    let began = Instant::now();
    let fake =
        Fake::start(move |query| vec![((MS * 2_100).saturating_sub(began.elapsed()), plain(&query, 60))])
            .await;
    let forwarder = forwarder(vec![fake.upstream()]);
    assert_eq!(address(&resolve(&forwarder, "a.example").await), "192.0.2.1");
    assert!(!forwarder.status().upstreams[0].1.is_down());
}

/// An upstream, and whoever guesses beside it, sends anything at all; questions end, and a good one beside it is found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_harms_nobody() {
    let noise = |query: &Query<'_>| -> Vec<u8> {
        let mut bytes = vec![0; 12 + usize::from(query.bytes[0])];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).unwrap();
        let mut reply =
            Answer { answers: vec![a("x.example", 1, "192.0.2.9")], ..Answer::default() }.reply(query.bytes);
        match bytes[0] % 4 {
            0 => bytes,
            1 => [&reply[..reply.len() - 9], &bytes].concat(),
            _ => {
                let length = reply.len();
                bytes
                    .chunks_exact(2)
                    .take(6)
                    .for_each(|pair| reply[2 + usize::from(pair[0]) % (length - 2)] = pair[1]);
                reply
            }
        }
    };
    let hostile = Fake::start(move |query| (0..4).map(|n| (MS * n * 10, noise(&query))).collect()).await;
    let good = Fake::start(at_once).await;
    let forwarder = forwarder(vec![hostile.upstream(), good.upstream()]);
    let began = Instant::now();
    let many = (0..300).map(|n| {
        let forwarder = Arc::clone(&forwarder);
        async move { resolve(&forwarder, &format!("n{n}.example")).await }
    });
    let answers = futures::future::join_all(many).await;
    let right = answers.iter().filter(|one| address(one) == "192.0.2.1").count();
    println!("{right} of 300 right beside noise, in {:?}", began.elapsed());
    for (n, answer) in answers.iter().enumerate() {
        let asked = name(&format!("n{n}.example"));
        assert!(answer.entry.answers().first().is_none_or(|record| record.owner == asked));
    }
    assert!(right >= 250, "{right}");
    assert!(began.elapsed() < QUESTION + MS * 500);
}

#[tokio::test]
async fn what_is_asked_often_is_fetched_before_it_ends() {
    let fake = Fake::start(at_once).await;
    let bounds = Bounds { positive: (MS * 500, MS * 500), ..Bounds::default() };
    let forwarder = Forwarder::new(Config { upstreams: vec![fake.upstream()], ..Config::default() }, bounds);
    resolve(&forwarder, "a.example").await;
    let began = Instant::now();
    while began.elapsed() < MS * 2_000 {
        let found = forwarder.quick(&name("a.example"), Type::A, now()).expect("always kept");
        assert_eq!(found.origin, Origin::Cache);
        tokio::time::sleep(MS * 5).await;
    }
    assert!((3..=6).contains(&forwarder.figures().prefetches.get()));
}

#[tokio::test]
async fn denials_are_kept_apart_by_type() {
    let fake = Fake::start(|query| {
        let rcode = if asked(query.bytes).1 == Type::A { 3 } else { 0 };
        let reply = Answer { rcode, authority: vec![soa("example", 60, 60)], ..Answer::default() };
        vec![(Duration::ZERO, reply.reply(query.bytes))]
    })
    .await;
    let forwarder = forwarder(vec![fake.upstream()]);
    assert_eq!(resolve(&forwarder, "a.example").await.entry.rcode(), Rcode::NX_DOMAIN);
    let other = forwarder.resolve(&name("a.example"), Type::AAAA).await;
    assert_eq!((other.entry.rcode(), other.entry.answers().len()), (Rcode::NO_ERROR, 0));
    let kept = forwarder.quick(&name("a.example"), Type::A, now()).unwrap();
    assert_eq!((kept.origin, kept.ttl <= 30, kept.entry.soa().is_some()), (Origin::Cache, true, true));
    assert_eq!(forwarder.figures().denial_hits.get(), 1);
}

#[tokio::test]
async fn a_failure_is_kept_for_a_second_and_no_longer() {
    let fake = Fake::start(|query| {
        vec![(Duration::ZERO, Answer { rcode: 2, ..Answer::default() }.reply(query.bytes))]
    })
    .await;
    let forwarder = forwarder(vec![fake.upstream()]);
    resolve(&forwarder, "a.example").await;
    let kept = resolve(&forwarder, "a.example").await;
    assert_eq!((kept.origin, fake.count()), (Origin::Failed(Failure::Lately), 1));
    tokio::time::sleep(MS * 1_050).await;
    resolve(&forwarder, "a.example").await;
    assert_eq!(fake.count(), 2);
}

#[tokio::test]
async fn an_alias_that_is_left_open_is_asked_on_at_whoever_knows() {
    let corp = Fake::start(|query| {
        vec![(
            Duration::ZERO,
            Answer { flags: 0x8500, ..Answer::of(vec![alias("www.corp.example", 20, "cdn.example.net")]) }
                .reply(query.bytes),
        )]
    })
    .await;
    let world = Fake::start(at_once).await;
    let stub = format!("corp.example={}", corp.upstream()).parse().unwrap();
    let overrides = Arc::new(Overrides::new([stub], [], []).unwrap());
    let config = Config { upstreams: vec![world.upstream()], overrides, ..Config::default() };
    let forwarder = Forwarder::new(config, Bounds::default());
    let answer = resolve(&forwarder, "www.corp.example").await;
    let owners: Vec<_> = answer.entry.answers().iter().map(|record| record.owner.to_string()).collect();
    assert_eq!(owners, ["www.corp.example.", "cdn.example.net."]);
    assert_eq!((answer.ttl <= 20, corp.count(), world.count()), (true, 1, 1));
}

#[tokio::test]
async fn overrides_come_first_and_hold_offline() {
    let corp = Fake::start(at_once).await;
    let world = Fake::start(at_once).await;
    let stub = format!("corp.example={}", corp.upstream()).parse().unwrap();
    let overrides = Overrides::new(
        [stub],
        ["nas.home=192.168.1.5".parse().unwrap()],
        ["old.example=www.corp.example".parse().unwrap(), "*.lan=*.home".parse().unwrap()],
    );
    let config = Config {
        upstreams: vec![world.upstream()],
        overrides: Arc::new(overrides.unwrap()),
        offline: true,
        ..Config::default()
    };
    let forwarder = Forwarder::new(config.clone(), Bounds::default());
    let rewritten = resolve(&forwarder, "OLD.example").await;
    assert_eq!(rewritten.entry.answers()[0].owner.to_string(), "OLD.example.");
    assert_eq!(address(&rewritten), "192.0.2.1");
    let kept = forwarder.quick(&name("old.example"), Type::A, now()).unwrap();
    assert_eq!((kept.origin, corp.count()), (Origin::Cache, 1));
    let host = resolve(&forwarder, "nas.lan").await;
    assert_eq!((address(&host).as_str(), host.origin), ("192.168.1.5", Origin::Configured));
    assert_eq!(host.entry.answers()[0].owner.to_string(), "nas.lan.");
    let outside = forwarder.quick(&name("www.example.org"), Type::A, now()).unwrap();
    assert_eq!((outside.entry.rcode(), outside.origin), (Rcode::NX_DOMAIN, Origin::Offline));
    assert!(outside.entry.soa().is_some());
    assert_eq!(world.count(), 0);
    forwarder.update(Config { offline: false, ..config });
    assert_eq!(address(&resolve(&forwarder, "www.example.org").await), "192.0.2.1");
}

#[tokio::test]
async fn we_are_never_our_own_upstream() {
    let fake = Fake::start(at_once).await;
    let config =
        Config { upstreams: vec![fake.upstream()], own: vec![fake.address.ip()], ..Config::default() };
    let forwarder = Forwarder::new(config, Bounds::default());
    let answer = resolve(&forwarder, "a.example").await;
    assert_eq!(
        (answer.entry.rcode(), answer.origin),
        (Rcode::SERV_FAIL, Origin::Failed(Failure::NoUpstream))
    );
    assert_eq!((fake.count(), forwarder.status().ourselves.len()), (0, 1));
}

/// A resolver of the node that asks us: each question joins the one under way, so a loop ends by itself.
#[tokio::test]
async fn a_loop_through_another_resolver_ends() {
    let (ours, runtime) = (Arc::new(std::sync::OnceLock::<Arc<Forwarder>>::new()), Handle::current());
    let behind = Arc::clone(&ours);
    let fake = Fake::start(move |query| {
        let (forwarder, (name, rtype)) = (Arc::clone(behind.get().unwrap()), asked(query.bytes));
        runtime.spawn(async move { forwarder.resolve(&name, rtype).await });
        vec![]
    })
    .await;
    let forwarder = ours.get_or_init(|| forwarder(vec![fake.upstream()]));
    let answer = resolve(forwarder, "a.example").await;
    assert_eq!(answer.entry.rcode(), Rcode::SERV_FAIL);
    assert!(fake.count() <= 6, "{} queries", fake.count());
}

#[tokio::test]
async fn other_upstreams_make_what_is_kept_old_but_not_lost() {
    let (one, other) = (Fake::start(at_once).await, Fake::start(at_once).await);
    let forwarder = forwarder(vec![one.upstream()]);
    resolve(&forwarder, "a.example").await;
    forwarder.update(Config { upstreams: vec![one.upstream()], ..Config::default() });
    assert!(forwarder.quick(&name("a.example"), Type::A, now()).is_some(), "nothing changed");
    forwarder.update(Config { upstreams: vec![other.upstream()], ..Config::default() });
    assert!(forwarder.quick(&name("a.example"), Type::A, now()).is_none());
    assert_eq!(resolve(&forwarder, "a.example").await.origin, Origin::Upstream(other.upstream()));
    forwarder.update(Config { upstreams: vec![nobody().await], ..Config::default() });
    assert_eq!(resolve(&forwarder, "a.example").await.origin, Origin::Stale);
}

#[tokio::test]
async fn upstreams_that_are_no_longer_named_are_not_probed_on() {
    let (dead, good) = (nobody().await, Fake::start(at_once).await);
    let forwarder = forwarder(vec![dead.clone()]);
    resolve(&forwarder, "a.example").await;
    assert!(forwarder.status().upstreams[0].1.is_down());
    forwarder.update(Config { upstreams: vec![good.upstream()], ..Config::default() });
    let back = Fake::start_at(dead.socket().unwrap(), at_once).await;
    assert_eq!(address(&resolve(&forwarder, "b.example").await), "192.0.2.1");
    tokio::time::sleep(MS * 600).await;
    assert_eq!(back.count(), 0);
}

#[tokio::test]
async fn transfers_and_the_like_are_refused() {
    let fake = Fake::start(at_once).await;
    let forwarder = forwarder(vec![fake.upstream()]);
    for rtype in [0, 41, 249, 250, 251, 252, 255] {
        let answer = forwarder.quick(&name("a.example"), Type(rtype), now()).unwrap();
        assert_eq!(answer.entry.rcode(), Rcode::REFUSED);
    }
    assert_eq!(fake.count(), 0);
}

/// What a kept answer costs whoever answers datagrams; the bound is wide, for a shared machine and no optimisation.
#[tokio::test]
async fn a_kept_answer_is_fast() {
    let fake = Fake::start(at_once).await;
    let forwarder = forwarder(vec![fake.upstream()]);
    let asked = name("some.name.example.com");
    forwarder.resolve(&asked, Type::A).await;
    let began = Instant::now();
    for _ in 0..100_000 {
        assert!(forwarder.quick(&asked, Type::A, began).is_some());
    }
    let each = began.elapsed() / 100_000;
    println!("a kept answer takes {each:?}");
    assert!(each < Duration::from_micros(30), "{each:?}");
}
