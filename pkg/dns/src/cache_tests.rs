//! The cache: times, bounds, and what stays.

use super::*;
use crate::upstream::testing::{a, name, soa};
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn entry(ttl: u64, now: Instant) -> Arc<Entry> {
    let ttl = Some(SECOND * ttl as u32);
    Arc::new(Entry::new(
        Rcode::NO_ERROR,
        vec![a("a.example", 1, "192.0.2.1")],
        None,
        ttl,
        &Bounds::default(),
        now,
    ))
}

fn found(cache: &Cache, text: &str, now: Instant) -> &'static str {
    match cache.find(&name(text), Type::A, now) {
        None => "none",
        Some(Found::Fresh(_)) => "fresh",
        Some(Found::Ending(_)) => "ending",
        Some(Found::Held(_)) => "held",
        Some(Found::Stale(_)) => "stale",
    }
}

#[test]
fn an_answer_is_fresh_then_stale_then_gone() {
    let (cache, now) = (Cache::new(Bounds::default()), Instant::now());
    cache.keep(&name("a.example"), Type::A, entry(60, now));
    assert_eq!(found(&cache, "A.EXAMPLE", now), "fresh");
    assert!(cache.find(&name("a.example"), Type::AAAA, now).is_none());
    assert_eq!(found(&cache, "a.example", now + SECOND * 60), "stale");
    assert_eq!(found(&cache, "a.example", now + SECOND * (60 + 86_400)), "none");
}

#[test]
fn ttls_are_bounded_and_age() {
    let now = Instant::now();
    assert_eq!(entry(0, now).ttl(now), 5);
    assert_eq!(entry(1_000_000, now).ttl(now), 3_600);
    let aged = entry(60, now);
    assert_eq!(aged.ttl(now + SECOND * 40), 20);
    assert_eq!(aged.ttl(now + SECOND * 59 + SECOND / 2), 1);
    assert_eq!(aged.ttl(now + SECOND * 61), STALE_TTL);
    let bounds = Bounds::default();
    let denial = |ttl: Option<u32>| {
        let soa = Some(soa("example", 900, 900));
        let ttl = ttl.map(|ttl| SECOND * ttl);
        Entry::new(Rcode::NX_DOMAIN, vec![], soa, ttl, &bounds, now).ttl(now)
    };
    assert_eq!((denial(Some(900)), denial(Some(9)), denial(None)), (30, 9, 5));
}

#[test]
fn what_is_asked_often_is_fetched_before_it_ends_once() {
    let (cache, now) = (Cache::new(Bounds::default()), Instant::now());
    cache.keep(&name("a.example"), Type::A, entry(100, now));
    assert_eq!(found(&cache, "a.example", now + SECOND * 81), "fresh", "asked once");
    (0..3).for_each(|_| assert_eq!(found(&cache, "a.example", now + SECOND), "fresh"));
    assert_eq!(found(&cache, "a.example", now + SECOND * 79), "fresh");
    assert_eq!(found(&cache, "a.example", now + SECOND * 80), "ending");
    assert_eq!(found(&cache, "a.example", now + SECOND * 81), "fresh");
}

#[test]
fn a_held_answer_is_given_for_a_while_without_asking() {
    let (cache, now) = (Cache::new(Bounds::default()), Instant::now());
    let old = entry(60, now);
    let failed = now + SECOND * 100;
    cache.keep(&name("a.example"), Type::A, Arc::new(old.held(failed)));
    assert_eq!(found(&cache, "a.example", failed), "held");
    assert_eq!(found(&cache, "a.example", failed + STALE_HOLD), "stale");
    assert_eq!(
        found(&cache, "a.example", now + SECOND * (60 + 86_400)),
        "none",
        "holding does not make it younger"
    );
}

#[test]
fn a_flood_of_names_does_not_drive_out_what_is_asked_for() {
    let (cache, now) = (Cache::new(Bounds { entries: 800, ..Bounds::default() }), Instant::now());
    let wanted: Vec<_> = (0..100).map(|n| name(&format!("wanted{n}.example"))).collect();
    wanted.iter().for_each(|name| cache.keep(name, Type::A, entry(60, now)));
    for n in 0..20_000 {
        if n % 100 == 0 {
            wanted.iter().for_each(|name| drop(cache.find(name, Type::A, now)));
        }
        cache.keep(&name(&format!("flood{n}.example")), Type::A, entry(60, now));
    }
    let left = wanted.iter().filter(|name| cache.find(name, Type::A, now).is_some()).count();
    assert!(left >= 95, "{left} of 100 left");
    assert!(cache.size().0 <= 800);
}

/// What a hit costs; the bound is wide, for a machine that is shared and a build without optimisation.
#[test]
fn a_hit_is_fast() {
    let (cache, now) = (Cache::new(Bounds::default()), Instant::now());
    let names: Vec<_> = (0..5_000).map(|n| name(&format!("name-{n}.some.example.com"))).collect();
    names.iter().for_each(|name| cache.keep(name, Type::A, entry(60, now)));
    let start = Instant::now();
    let hits = (0..20).flat_map(|_| &names).filter(|name| cache.find(name, Type::A, now).is_some()).count();
    let each = start.elapsed() / 100_000;
    println!("a hit takes {each:?}");
    assert!(hits > 90_000 && each < Duration::from_micros(20), "{hits} hits, {each:?} each");
}

proptest! {
    /// Against a map without bounds: what is found is what was kept last, and the bounds hold after every step.
    #[test]
    fn it_finds_what_was_kept_and_never_more_than_it_may(
        steps in prop::collection::vec((0_u8..60, 0_u32..200, 0_u64..30, any::<bool>()), 1..300),
        entries in 8_usize..64,
        bytes in 4_000_usize..20_000,
    ) {
        let bounds = Bounds { entries, bytes, ..Bounds::default() };
        let cache = Cache::new(bounds);
        let mut model = HashMap::new();
        let mut now = Instant::now();
        for (which, ttl, pass, keep) in steps {
            now += SECOND * pass as u32;
            let owner = name(&format!("n{which}.example"));
            if keep {
                let kept = entry(ttl.into(), now);
                cache.keep(&owner, Type::A, Arc::clone(&kept));
                model.insert(which, kept);
            } else if let Some(found) = cache.find(&owner, Type::A, now) {
                let (entry, fresh) = match found {
                    Found::Fresh(entry) | Found::Ending(entry) => (entry, true),
                    Found::Held(entry) | Found::Stale(entry) => (entry, false),
                };
                let kept = model.get(&which);
                prop_assert!(kept.is_some_and(|kept| Arc::ptr_eq(kept, &entry)));
                prop_assert_eq!(fresh, now - entry.stored < entry.fresh);
                prop_assert!(entry.ttl(now) >= 1);
            }
            let (held, size, _) = cache.size();
            prop_assert!(held <= entries && size <= bytes, "{held} entries, {size} bytes");
            let counted: usize = cache.shards.iter().map(|shard| {
                let shard = shard.lock().unwrap();
                assert_eq!(shard.index.len(), shard.slots.len());
                shard.slots.iter().map(|slot| cost(&slot.name, &slot.entry)).sum::<usize>()
            }).sum();
            prop_assert_eq!(counted, size);
        }
    }
}

#[test]
fn the_default_bounds_hold_usual_answers() {
    let (cache, now) = (Cache::new(Bounds::default()), Instant::now());
    for n in 0..10_000 {
        let owner = format!("service-{n}.region.some-provider.example.com");
        let answers = (0..4).map(|n| a(&owner, 60, &format!("192.0.2.{n}"))).collect();
        let bounds = Bounds::default();
        let entry = Entry::new(Rcode::NO_ERROR, answers, None, Some(SECOND * 60), &bounds, now);
        cache.keep(&name(&owner), Type::A, Arc::new(entry));
    }
    let (entries, bytes, _) = cache.size();
    println!("{entries} answers of 4 addresses in {} KiB", bytes >> 10);
    assert!(entries > 9_000 && bytes < Bounds::default().bytes, "{entries} answers, {bytes} bytes");
}
