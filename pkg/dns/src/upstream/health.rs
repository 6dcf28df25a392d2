//! Which upstream is asked, and when the next: pure, with time as an argument.
//!
//! A [`Selector`] knows the health of the upstreams of one group: smoothed latency, and after failures in a row that an
//! upstream is down until a probe finds it alive. A [`Plan`] is the course of one question: the likeliest first, a second
//! beside it when the first takes longer than it should, the next at once when one fails, and an end in any case.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Failures in a row after which an upstream is down.
const FAILURES: u32 = 3;
/// First and longest time between probes of an upstream that is down.
const PROBES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// How long an upstream of unknown latency is waited for before a second is asked.
const UNKNOWN: Duration = Duration::from_millis(300);
/// Bounds of that wait for one whose latency is known. Below 50 ms a hedge costs more than it brings.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Least time before the same upstream is asked again: it may only be finding the name out.
const AGAIN: Duration = Duration::from_millis(300);
/// After this an attempt counts as failed, so that an upstream that is silent is found down within one question.
pub const ATTEMPT: Duration = Duration::from_millis(1_500);
/// Time for a question in all: below the 5 s after which resolvers of libc ask again.
pub const QUESTION: Duration = Duration::from_secs(4);
/// Most attempts for one question; with one upstream they are its retransmissions.
const ATTEMPTS: usize = 4;
/// Most attempts under way for one question.
const AT_ONCE: usize = 3;
/// One question in so many goes first to another upstream than the fastest, so that its latency stays known.
const EXPLORE: u32 = 32;

/// Health of one upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// Smoothed round trip; unknown before the first reply.
    pub latency: Option<Duration>,
    /// Failures since the last reply.
    pub failures: u32,
    /// Since when it is down and when it is probed next.
    pub down: Option<Down>,
}

impl Health {
    /// Whether it is not asked.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.down.is_some_and(|down| down.certain)
    }
}

/// An upstream that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Down {
    /// Since when.
    pub since: Instant,
    /// When the next probe is due.
    pub probe: Instant,
    /// Time from that probe to the one after.
    pub interval: Duration,
    /// Whether it is known: a probe failed as well, or the network said so. Until then it may be that only a name is slow,
    /// and it is still asked, after the others.
    pub certain: bool,
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No reply in time, which may be for the sake of a name that the upstream itself waits for.
    Silent,
    /// The network says that nobody is there, or what came makes no sense.
    Plain,
}

/// The health of the upstreams of a group.
#[derive(Debug)]
pub struct Selector {
    peers: Vec<Health>,
}

impl Selector {
    /// As many upstreams, all taken for healthy.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { peers: vec![Health::default(); count] }
    }

    /// The health of each.
    #[must_use]
    pub fn health(&self) -> &[Health] {
        &self.peers
    }

    /// Whether none is up: questions are then answered without asking.
    #[must_use]
    pub fn all_down(&self) -> bool {
        self.peers.iter().all(Health::is_down)
    }

    /// The upstreams that are up, in the order of asking.
    #[must_use]
    pub fn order(&self, random: u32) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.peers.len()).filter(|&n| !self.peers[n].is_down()).collect();
        // The order of configuration decides among equals, and those never asked come first.
        order.sort_by_key(|&n| (self.peers[n].failures > 0, self.peers[n].latency.unwrap_or_default()));
        if order.len() > 1 && random.is_multiple_of(EXPLORE) {
            let other = 1 + (random / EXPLORE) as usize % (order.len() - 1);
            order.swap(0, other);
        }
        order
    }

    /// How long the first is waited for alone: as long as the fastest may take, whichever is asked first, so that trying
    /// out a slow one costs a client little.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let up = self.peers.iter().filter(|peer| !peer.is_down());
        let each = up
            .map(|peer| peer.latency.map_or(UNKNOWN, |latency| (latency * 2).clamp(PATIENCE.0, PATIENCE.1)));
        each.min().unwrap_or(UNKNOWN)
    }

    /// Upstream `n` replied after `took`; says whether it was down.
    pub fn replied(&mut self, n: usize, took: Duration) -> bool {
        let Some(peer) = self.peers.get_mut(n) else { return false };
        let was_down = peer.down.is_some();
        let latency = peer.latency.filter(|_| !was_down).map_or(took, |old| (old * 7 + took) / 8);
        *peer = Health { latency: Some(latency), failures: 0, down: None };
        was_down
    }

    /// Upstream `n` was asked, and another replied before it, after `waited`. It takes at least as long; nothing more is known.
    pub fn overtaken(&mut self, n: usize, waited: Duration) {
        if let Some(peer) = self.peers.get_mut(n)
            && peer.latency.is_none_or(|latency| latency < waited)
        {
            peer.latency = Some(peer.latency.map_or(waited, |old| (old + waited) / 2));
        }
    }

    /// Upstream `n` could not be asked or did not reply; says whether it is down from now on.
    pub fn failed(&mut self, n: usize, fault: Fault, now: Instant) -> bool {
        let Some(peer) = self.peers.get_mut(n) else { return false };
        peer.failures = peer.failures.saturating_add(1);
        if peer.failures < FAILURES || peer.is_down() {
            return false;
        }
        let certain = fault == Fault::Plain;
        let probe = if certain { now + PROBES.0 } else { now };
        let down = peer.down.get_or_insert(Down { since: now, probe, interval: PROBES.0 * 2, certain });
        down.certain = certain;
        certain
    }

    /// A probe of upstream `n` failed; says whether it is down from now on.
    pub fn probe_failed(&mut self, n: usize) -> bool {
        let down = self.peers.get_mut(n).and_then(|peer| peer.down.as_mut());
        down.is_some_and(|down| !std::mem::replace(&mut down.certain, true))
    }

    /// When the next probe is due.
    #[must_use]
    pub fn next_probe(&self) -> Option<Instant> {
        self.peers.iter().filter_map(|peer| Some(peer.down?.probe)).min()
    }

    /// Takes the upstream whose probe is due, and sets the time of the one after, which is twice as far away.
    pub fn take_probe(&mut self, now: Instant) -> Option<usize> {
        let due = |peer: &Health| peer.down.filter(|down| down.probe <= now).map(|down| down.probe);
        let n = (0..self.peers.len())
            .filter(|&n| due(&self.peers[n]).is_some())
            .min_by_key(|&n| due(&self.peers[n]))?;
        let down = self.peers[n].down.as_mut()?;
        down.probe = now + down.interval;
        down.interval = (down.interval * 2).min(PROBES.1);
        Some(n)
    }
}

/// What a question does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Ask this upstream.
    Ask(usize),
    /// Wait for replies until then.
    Wait(Instant),
    /// Nothing more can come.
    GiveUp,
}

/// The course of one question.
#[derive(Debug)]
pub struct Plan {
    order: VecDeque<usize>,
    asked: usize,
    due: Instant,
    pause: Duration,
    end: Instant,
}

impl Plan {
    /// Of a question that begins now, to upstreams in this order; `pause` is the patience with the first.
    #[must_use]
    pub fn new(order: Vec<usize>, pause: Duration, now: Instant) -> Self {
        Self { order: order.into(), asked: 0, due: now, pause, end: now + QUESTION }
    }

    /// When it ends at the latest.
    #[must_use]
    pub fn end(&self) -> Instant {
        self.end
    }

    /// What to do now, while `under_way` attempts wait for replies.
    pub fn step(&mut self, now: Instant, under_way: usize) -> Step {
        let more = self.asked < ATTEMPTS && !self.order.is_empty();
        if now >= self.end || (!more && under_way == 0) {
            return Step::GiveUp;
        }
        if !more || under_way >= AT_ONCE {
            return Step::Wait(self.end);
        }
        if now < self.due && under_way > 0 {
            return Step::Wait(self.due.min(self.end));
        }
        let Some(n) = self.order.pop_front() else { return Step::GiveUp };
        self.order.push_back(n);
        self.asked += 1;
        let again = self.asked >= self.order.len();
        self.due = now + if again { self.pause.max(AGAIN) } else { self.pause };
        // Retransmissions back off, so that an upstream under load is not buried.
        self.pause *= 2;
        Step::Ask(n)
    }

    /// Upstream `n` answered that it will not; it is not asked again for this question.
    pub fn refused(&mut self, n: usize, now: Instant) {
        self.order.retain(|&other| other != n);
        self.due = now;
    }

    /// An attempt failed: the next is due at once.
    pub fn failed(&mut self, now: Instant) {
        self.due = now;
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
