//! How many questions a client may ask: a token bucket for each, pure, with time as an argument.
//!
//! The limit is there so that one client in a loop does not take the processor from all others; it is far above what a
//! healthy one asks. Pods and nodes are told apart by their addresses: all pods of a node are of one /64, and none can take
//! another's address. Strangers over IPv6 are told apart by /64, since one of them has all addresses of its link.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Parts of the table with a lock of their own.
const SHARDS: usize = 8;

/// The limit of each client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Questions a second in the long run.
    pub per_second: u32,
    /// Questions at once after a rest.
    pub burst: u32,
    /// Most clients that are remembered, some 40 bytes each.
    pub clients: usize,
}

impl Default for Rate {
    fn default() -> Self {
        Self { per_second: 100_000, burst: 100_000, clients: 16_384 }
    }
}

/// The buckets of all clients.
#[derive(Debug)]
pub struct Limits {
    rate: Rate,
    hasher: RandomState,
    shards: [Mutex<HashMap<u64, Bucket>>; SHARDS],
}

/// What is left to a client, as the time at which its bucket will be full.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    full: Instant,
}

impl Limits {
    /// No client known yet.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self { rate, hasher: RandomState::new(), shards: Default::default() }
    }

    /// Whether this client may ask one question now, which then counts. No limit at all for a rate of 0.
    pub fn allow(&self, client: IpAddr, now: Instant) -> bool {
        if self.rate.per_second == 0 {
            return true;
        }
        let key = self.hasher.hash_one(client);
        let cost = Duration::from_secs(1) / self.rate.per_second;
        let depth = cost * self.rate.burst.max(1);
        // A poisoned lock guards nothing that could be half written.
        let mut shard = self.shards[key as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner);
        let most = (self.rate.clients / SHARDS).max(1);
        if shard.len() >= most && !shard.contains_key(&key) {
            // A full bucket says no more than an unknown client.
            shard.retain(|_, bucket| bucket.full > now);
            if shard.len() >= most {
                // So many clients at once that are all busy: whoever is new is not limited, for a limit that could be
                // filled up by others would lock out the innocent.
                return true;
            }
        }
        let bucket = shard.entry(key).or_insert(Bucket { full: now });
        let full = bucket.full.max(now) + cost;
        let allowed = full - now <= depth;
        if allowed {
            bucket.full = full;
        }
        allowed
    }

    /// How many clients are remembered.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}

/// How many questions of one client may wait for upstreams at once.
///
/// A client that asks for names whose servers never answer would else take all places, and with them the outside names of
/// all others.
#[derive(Debug)]
pub struct Shares {
    each: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// A place of a client, free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    shares: Arc<Shares>,
    client: IpAddr,
}

impl Default for Shares {
    /// An eighth of the forwarder's 512 questions for each client.
    fn default() -> Self {
        Self::new(64)
    }
}

impl Shares {
    /// So many places for each client.
    #[must_use]
    pub fn new(each: usize) -> Self {
        Self { each, taken: Mutex::default() }
    }

    /// A place for one more question of this client, none when it has all of its own.
    pub fn take(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(client).or_default();
        if *count >= self.each {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Place { shares: Arc::clone(self), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.shares.taken.lock().unwrap_or_else(PoisonError::into_inner);
        // Clients without a question leave the table: it is as large as there are questions.
        if let Some(count) = taken.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.client);
            }
        }
    }
}

/// The address that stands for one whose address the cluster knows, or does not.
#[must_use]
pub fn teller(address: IpAddr, known: bool) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !known => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_is_allowed_and_then_the_rate() {
        let limits = Limits::new(Rate { per_second: 100, burst: 50, clients: 100 });
        let now = Instant::now();
        let asked = |at: Instant, many: usize| (0..many).filter(|_| limits.allow(ip("10.0.0.1"), at)).count();
        assert_eq!(asked(now, 200), 50);
        assert_eq!(asked(now + Duration::from_millis(100), 200), 10);
        assert_eq!(asked(now + Duration::from_secs(60), 200), 50);
        assert!(limits.allow(ip("10.0.0.2"), now), "others are not touched");
    }

    #[test]
    fn a_link_of_strangers_is_one_client_and_each_pod_is_one() {
        assert_eq!(teller(ip("fd00::1"), false), teller(ip("fd00::2"), false));
        assert_ne!(teller(ip("fd00::1"), false), teller(ip("fd00:0:0:1::1"), false));
        assert_ne!(teller(ip("fd00::1"), true), teller(ip("fd00::2"), true));
        assert_eq!(teller(ip("::ffff:10.0.0.1"), false), ip("10.0.0.1"));
        assert_eq!(teller(ip("::ffff:10.0.0.1"), true), ip("10.0.0.1"));
    }

    #[test]
    fn the_table_is_bounded_and_idle_clients_leave_it() {
        let limits = Limits::new(Rate { per_second: 10, burst: 10, clients: 800 });
        let now = Instant::now();
        for n in 0..10_000_u32 {
            assert!(limits.allow(IpAddr::V4(n.into()), now));
        }
        assert!(limits.clients() <= 800);
        let later = now + Duration::from_secs(1);
        assert!((20_000..30_000_u32).all(|n| limits.allow(IpAddr::V4(n.into()), later)));
        assert!(limits.clients() <= 800);
        let (mut first, client) = (0, ip("192.0.2.1"));
        (0..100).for_each(|_| first += u32::from(limits.allow(client, later + Duration::from_secs(1))));
        assert_eq!(first, 10, "limits hold again when there is room");
    }

    #[test]
    fn places_are_for_each_client_and_come_back() {
        let shares = Arc::new(Shares::new(3));
        let places: Vec<_> = (0..5).filter_map(|_| shares.take(ip("10.0.0.1"))).collect();
        assert_eq!(places.len(), 3);
        assert!(shares.take(ip("10.0.0.2")).is_some());
        drop(places);
        assert!(shares.taken.lock().unwrap().is_empty());
        assert!(shares.take(ip("10.0.0.1")).is_some());
    }

    proptest! {
        #[test]
        fn never_more_than_rate_and_burst(
            rate in 1_u32..5_000,
            burst in 1_u32..5_000,
            gaps in prop::collection::vec(0_u64..5_000, 1..400),
        ) {
            let limits = Limits::new(Rate { per_second: rate, burst, clients: 10 });
            let start = Instant::now();
            let mut now = start;
            let mut allowed = 0_u32;
            for gap in gaps {
                now += Duration::from_micros(gap);
                allowed += u32::from(limits.allow(ip("10.0.0.1"), now));
                let most = f64::from(burst) + (now - start).as_secs_f64() * f64::from(rate) * 1.001 + 1.0;
                prop_assert!(f64::from(allowed) <= most);
            }
            prop_assert!(allowed > 0);
        }
    }
}
