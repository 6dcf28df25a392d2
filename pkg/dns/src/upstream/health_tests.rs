//! The choice of upstreams and the course of questions, over histories at random.

use super::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

#[test]
fn three_failures_in_a_row_take_an_upstream_out_and_a_reply_brings_it_back() {
    let now = Instant::now();
    let mut selector = Selector::new(2);
    assert!(!selector.failed(0, Fault::Plain, now) && !selector.failed(0, Fault::Plain, now));
    selector.replied(0, MS);
    assert!(!selector.failed(0, Fault::Plain, now) && !selector.failed(0, Fault::Plain, now));
    assert_eq!(selector.order(1), [1, 0], "it failed last");
    assert!(selector.failed(0, Fault::Plain, now));
    assert_eq!(selector.order(1), [1]);
    assert!(!selector.all_down());
    assert!(selector.replied(0, MS));
    assert_eq!(selector.order(1).len(), 2);
}

#[test]
fn silence_is_held_against_an_upstream_only_when_a_probe_fails_too() {
    let now = Instant::now();
    let mut selector = Selector::new(1);
    (0..5).for_each(|_| assert!(!selector.failed(0, Fault::Silent, now)));
    assert!(!selector.all_down());
    assert_eq!(selector.take_probe(now), Some(0), "at once");
    assert!(selector.probe_failed(0));
    assert!(selector.all_down());
    assert!(!selector.probe_failed(0), "said once");
}

#[test]
fn probes_grow_apart_and_never_stop() {
    let mut now = Instant::now();
    let mut selector = Selector::new(1);
    let down: Vec<_> = (0..3).map(|_| selector.failed(0, Fault::Plain, now)).collect();
    assert_eq!(down, [false, false, true]);
    let mut gaps = Vec::new();
    for _ in 0..10 {
        let next = selector.next_probe().unwrap();
        gaps.push(next - now);
        now = next;
        assert_eq!(selector.take_probe(now - MS), None);
        assert_eq!(selector.take_probe(now), Some(0));
        assert_eq!(selector.take_probe(now), None, "one at a time");
        assert!(!selector.probe_failed(0));
    }
    assert_eq!(gaps[0], PROBES.0);
    assert!(gaps.windows(2).all(|pair| pair[0] <= pair[1]) && gaps[9] == PROBES.1, "{gaps:?}");
}

#[test]
fn the_fastest_is_asked_first_and_the_others_now_and_then() {
    let mut selector = Selector::new(3);
    selector.replied(0, MS * 30);
    selector.replied(1, MS * 3);
    assert_eq!(selector.order(1), [2, 1, 0], "one never asked is found out about");
    selector.replied(2, MS * 9);
    assert_eq!(selector.order(1), [1, 2, 0]);
    let first: std::collections::HashSet<_> = (0..200).map(|random| selector.order(random)[0]).collect();
    assert_eq!(first.len(), 3);
    // One that was fast and is overtaken loses its place.
    (0..4).for_each(|_| selector.overtaken(1, MS * 100));
    assert_eq!(selector.order(1)[0], 2);
}

#[test]
fn a_second_is_asked_when_the_first_takes_long() {
    let now = Instant::now();
    let mut plan = Plan::new(vec![4, 7], MS * 50, now);
    assert_eq!(plan.step(now, 0), Step::Ask(4));
    assert_eq!(plan.step(now, 1), Step::Wait(now + MS * 50));
    assert_eq!(plan.step(now + MS * 50, 1), Step::Ask(7));
    assert_eq!(plan.step(now + MS * 51, 2), Step::Wait(now + MS * 350), "the same again not so soon");
    plan.failed(now + MS * 60);
    assert_eq!(plan.step(now + MS * 60, 1), Step::Ask(4), "at once after a failure");
}

#[test]
fn who_refuses_is_not_asked_again() {
    let now = Instant::now();
    let mut plan = Plan::new(vec![0, 1], MS, now);
    assert_eq!(plan.step(now, 0), Step::Ask(0));
    plan.refused(0, now);
    assert_eq!(plan.step(now, 0), Step::Ask(1));
    plan.refused(1, now);
    assert_eq!(plan.step(now, 0), Step::GiveUp);
}

proptest! {
    /// Whatever upstreams do, a question ends in time, with few attempts, and none to those that refused it.
    #[test]
    fn every_question_ends(
        count in 0_usize..6,
        pause in 1_u64..1_000,
        fates in prop::collection::vec((0_u8..3, 0_u64..6_000), 10),
    ) {
        let start = Instant::now();
        let mut now = start;
        let mut plan = Plan::new((0..count).collect(), MS * pause as u32, now);
        let mut running: Vec<(Instant, usize, u8)> = Vec::new();
        let mut fates = fates.into_iter();
        let (mut asked, mut refused) = (0, Vec::new());
        loop {
            match plan.step(now, running.len()) {
                Step::GiveUp => break,
                Step::Ask(n) => {
                    prop_assert!(!refused.contains(&n));
                    asked += 1;
                    let (fate, after) = fates.next().unwrap_or((0, 1));
                    running.push((now + (MS * after as u32).min(ATTEMPT), n, fate));
                    prop_assert!(running.len() <= AT_ONCE && asked <= ATTEMPTS);
                }
                Step::Wait(until) => {
                    prop_assert!(until > now, "it would spin");
                    running.sort();
                    if running.first().is_some_and(|first| first.0 <= until) {
                        let (at, n, fate) = running.remove(0);
                        now = now.max(at);
                        if fate == 0 { plan.failed(now) } else { refused.push(n); plan.refused(n, now) }
                    } else {
                        now = until;
                    }
                }
            }
            prop_assert!(now - start <= QUESTION);
        }
    }

    /// Histories at random: the order has each upstream that is up once, and one that is down always has a probe to come.
    #[test]
    fn who_is_down_will_be_probed(events in prop::collection::vec((0_usize..4, 0_u8..6, 0_u64..20_000), 0..80)) {
        let mut now = Instant::now();
        let mut selector = Selector::new(4);
        for (n, what, after) in events {
            now += MS * after as u32;
            match what {
                0 => {
                    let _ = selector.replied(n, MS * after as u32);
                },
                1 => {
                    let _ = selector.failed(n, Fault::Plain, now);
                },
                4 => {
                    let _ = selector.failed(n, Fault::Silent, now);
                },
                5 => {
                    let _ = selector.probe_failed(n);
                },
                2 => selector.overtaken(n, MS * after as u32),
                _ => {
                    let _ = selector.take_probe(now);
                }
            }
            let mut order = selector.order(after as u32);
            order.sort_unstable();
            let up: Vec<_> = (0..4).filter(|&n| !selector.health()[n].is_down()).collect();
            prop_assert_eq!(&order, &up);
            let well = selector.health().iter().all(|peer| peer.down.is_none());
            prop_assert_eq!(selector.next_probe().is_none(), well);
            prop_assert_eq!(selector.all_down(), up.is_empty());
            prop_assert!(selector.patience() >= PATIENCE.0 && selector.patience() <= PATIENCE.1);
            for down in selector.health().iter().filter_map(|peer| peer.down) {
                prop_assert!(down.interval <= PROBES.1);
            }
        }
    }
}
