//! Answers of upstreams, kept for as long as they may be, and longer for when the upstreams fail.
//!
//! Bounded by entries and by bytes; a question that is asked once leaves before one that is asked again (a second chance
//! for each, in the order of a clock). Parts of it have locks of their own, held for a lookup, so that threads that answer
//! hardly ever meet.
//!
//! Times: a TTL is honoured between 5 s, as CoreDNS does by default since many records with 0 or 1 would make every
//! question an upstream's, and 1 hour, after which a forgotten error of an owner ends. A denial is kept for 30 s at most:
//! what is created a moment after it was asked for must not stay away for long. An answer is kept for a day beyond its TTL
//! and is given with 5 s when upstreams do not answer (RFC 8767).

use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::wire::{Data, Name, Rcode, Record, Type};

/// Parts with a lock of their own.
const SHARDS: usize = 8;
/// What the allocator takes for each piece of memory beside it, roughly.
const PIECE: usize = 16;
/// What an answer costs beside its names and data: slot, place in the index, entry with its counts, and their pieces.
const OVERHEAD: usize = size_of::<Slot>() + 2 * size_of::<(u64, usize)>() + size_of::<Entry>() + 4 * PIECE;
/// What a record costs beside its names and data.
const RECORD: usize = size_of::<Record>() + 2 * PIECE;

/// How much is kept, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Most answers.
    pub entries: usize,
    /// Most bytes, as counted by [`Entry::bytes`].
    pub bytes: usize,
    /// Least and longest time of an answer with records.
    pub positive: (Duration, Duration),
    /// Least and longest time of a denial.
    pub negative: (Duration, Duration),
    /// How long beyond its time an answer may be given when upstreams fail.
    pub stale: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            entries: 10_000,
            bytes: 16 << 20,
            positive: (Duration::from_secs(5), Duration::from_secs(3_600)),
            negative: (Duration::from_secs(5), Duration::from_secs(30)),
            stale: Duration::from_secs(86_400),
        }
    }
}

/// TTL of stale answers: RFC 8767 recommends 30 s, but an answer that is known to be old should be asked for again soon.
pub const STALE_TTL: u32 = 5;
/// For so long a stale answer is given without asking again after upstreams failed.
pub const STALE_HOLD: Duration = Duration::from_secs(5);
/// Asked so often, an entry is fetched anew before it ends.
const PREFETCH_HITS: u32 = 3;

/// A kept answer.
#[derive(Debug)]
pub struct Entry {
    rcode: Rcode,
    answers: Box<[Record]>,
    soa: Option<Record>,
    stored: Instant,
    fresh: Duration,
    stale: Duration,
    held: Option<Instant>,
    hits: AtomicU32,
    prefetched: AtomicBool,
}

impl Entry {
    /// An answer that came now and says `ttl` of itself.
    #[must_use]
    pub fn new(
        rcode: Rcode,
        answers: Vec<Record>,
        soa: Option<Record>,
        ttl: Option<Duration>,
        bounds: &Bounds,
        now: Instant,
    ) -> Self {
        let positive = rcode == Rcode::NO_ERROR && soa.is_none() && !answers.is_empty();
        let (least, most) = if positive { bounds.positive } else { bounds.negative };
        // Without a TTL (a denial without SOA) the least one: not keeping it at all would send every step of a search
        // path to an upstream, for each of its clients.
        let fresh = ttl.unwrap_or(least).clamp(least, most);
        Self::with_times(rcode, answers, soa, fresh, bounds.stale, now)
    }

    /// An answer for this long, and no longer.
    #[must_use]
    pub fn brief(rcode: Rcode, soa: Option<Record>, fresh: Duration, now: Instant) -> Self {
        Self::with_times(rcode, Vec::new(), soa, fresh, Duration::ZERO, now)
    }

    /// An answer of configuration, with the TTL of its records.
    #[must_use]
    pub fn fixed(answers: Vec<Record>, soa: Option<Record>, ttl: u32, now: Instant) -> Self {
        let fresh = Duration::from_secs(ttl.into());
        Self::with_times(Rcode::NO_ERROR, answers, soa, fresh, Duration::ZERO, now)
    }

    fn with_times(
        rcode: Rcode,
        answers: Vec<Record>,
        soa: Option<Record>,
        fresh: Duration,
        stale: Duration,
        stored: Instant,
    ) -> Self {
        let (hits, prefetched) = (AtomicU32::new(0), AtomicBool::new(false));
        Self { rcode, answers: answers.into(), soa, stored, fresh, stale, held: None, hits, prefetched }
    }

    /// The same answer with its records changed by `change`; as old as it is.
    #[must_use]
    pub fn changed(&self, change: impl FnOnce(&mut Vec<Record>)) -> Self {
        let mut answers = self.answers.to_vec();
        change(&mut answers);
        let (rcode, soa) = (self.rcode, self.soa.clone());
        Self { held: self.held, ..Self::with_times(rcode, answers, soa, self.fresh, self.stale, self.stored) }
    }

    /// The same answer, given for a while without asking, since asking just failed.
    #[must_use]
    pub fn held(&self, now: Instant) -> Self {
        Self { held: Some(now + STALE_HOLD), ..self.changed(|_| {}) }
    }

    /// The response code.
    #[must_use]
    pub fn rcode(&self) -> Rcode {
        self.rcode
    }

    /// The records, in their order: aliases first. Their own TTLs are those of the upstream; [`Entry::ttl`] is to be written.
    #[must_use]
    pub fn answers(&self) -> &[Record] {
        &self.answers
    }

    /// The SOA of a negative answer.
    #[must_use]
    pub fn soa(&self) -> Option<&Record> {
        self.soa.as_ref()
    }

    /// The TTL to write on each record now: what is left of the least of its chain.
    #[must_use]
    pub fn ttl(&self, now: Instant) -> u32 {
        let left = self.fresh.saturating_sub(now.saturating_duration_since(self.stored));
        match u32::try_from(left.as_secs()).unwrap_or(u32::MAX) {
            _ if left.is_zero() && self.stale > Duration::ZERO => STALE_TTL,
            // Less than a second is left: 0 would say "never keep this".
            0 if !left.is_zero() => 1,
            seconds => seconds,
        }
    }

    /// What it costs in memory, roughly.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.answers
            .iter()
            .chain(&self.soa)
            .map(|record| RECORD + record.owner.wire().len() + data(record))
            .sum()
    }

    /// Whether it denies: no such name, or no such records.
    #[must_use]
    pub fn denies(&self) -> bool {
        self.rcode == Rcode::NX_DOMAIN || self.answers.is_empty() || self.soa.is_some()
    }

    fn state(&self, now: Instant) -> State {
        let age = now.saturating_duration_since(self.stored);
        if age < self.fresh {
            let late = age >= self.fresh - self.fresh / 5;
            return if late && self.hits.load(Ordering::Relaxed) >= PREFETCH_HITS {
                State::Ending
            } else {
                State::Fresh
            };
        }
        match self.held {
            _ if age >= self.fresh + self.stale => State::Gone,
            Some(until) if now < until => State::Held,
            _ => State::Stale,
        }
    }
}

fn data(record: &Record) -> usize {
    match &record.data {
        Data::Address(_) => 0,
        Data::Name(name) => name.wire().len(),
        Data::Srv { target, .. } => target.wire().len(),
        Data::Soa(soa) => soa.mname.wire().len() + soa.rname.wire().len(),
        Data::Other(bytes) => bytes.len(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    Ending,
    Held,
    Stale,
    Gone,
}

/// What the cache has.
#[derive(Debug, Clone)]
pub enum Found {
    /// An answer to give.
    Fresh(Arc<Entry>),
    /// An answer to give, and to fetch anew meanwhile. Said once for an entry.
    Ending(Arc<Entry>),
    /// An old answer to give without asking, since asking failed a moment ago.
    Held(Arc<Entry>),
    /// An old answer, to be given only when asking fails.
    Stale(Arc<Entry>),
}

/// The cache.
#[derive(Debug)]
pub struct Cache {
    bounds: Bounds,
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
    evicted: AtomicUsize,
}

#[derive(Debug, Default)]
struct Shard {
    /// From the hash of a question to its slot. Two questions of one hash of 64 random bits take the place of each other.
    index: HashMap<u64, usize, BuildHasherDefault<Same>>,
    slots: Vec<Slot>,
    bytes: usize,
    hand: usize,
}

#[derive(Debug)]
struct Slot {
    hash: u64,
    name: Name,
    rtype: Type,
    entry: Arc<Entry>,
    asked: bool,
}

/// The keys are hashes already.
#[derive(Debug, Default)]
struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

impl Cache {
    /// An empty one.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let (shards, evicted) = (Default::default(), AtomicUsize::new(0));
        Self { bounds, hasher: RandomState::new(), shards, evicted }
    }

    /// How much it keeps, and how long.
    #[must_use]
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Looks a question up.
    pub fn find(&self, name: &Name, rtype: Type, now: Instant) -> Option<Found> {
        let hash = self.hash(name, rtype);
        let mut shard = self.shard(hash);
        let &at = shard.index.get(&hash)?;
        let slot = shard.slots.get_mut(at)?;
        if slot.rtype != rtype || slot.name != *name {
            return None;
        }
        slot.asked = true;
        let entry = Arc::clone(&slot.entry);
        drop(shard);
        entry.hits.fetch_add(1, Ordering::Relaxed);
        match entry.state(now) {
            State::Gone => None,
            State::Fresh => Some(Found::Fresh(entry)),
            State::Ending if entry.prefetched.swap(true, Ordering::Relaxed) => Some(Found::Fresh(entry)),
            State::Ending => Some(Found::Ending(entry)),
            State::Held => Some(Found::Held(entry)),
            State::Stale => Some(Found::Stale(entry)),
        }
    }

    /// Keeps an answer; others leave when there is no room.
    pub fn keep(&self, name: &Name, rtype: Type, entry: Arc<Entry>) {
        let cost = cost(name, &entry);
        let (entries, bytes) = ((self.bounds.entries / SHARDS).max(1), self.bounds.bytes / SHARDS);
        if cost > bytes {
            return;
        }
        let hash = self.hash(name, rtype);
        let mut shard = self.shard(hash);
        if let Some(&at) = shard.index.get(&hash) {
            shard.remove(at);
        }
        while shard.slots.len() >= entries || shard.bytes + cost > bytes {
            shard.evict();
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
        let at = shard.slots.len();
        shard.index.insert(hash, at);
        shard.slots.push(Slot { hash, name: name.clone(), rtype, entry, asked: false });
        shard.bytes += cost;
    }

    /// Lets every answer count as old from now on, and forgets denials: other upstreams may know other answers.
    pub fn expire(&self, now: Instant) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for at in (0..shard.slots.len()).rev() {
                let old = &shard.slots[at].entry;
                if old.denies() {
                    shard.remove(at);
                    continue;
                }
                let fresh = old.fresh.min(now.saturating_duration_since(old.stored));
                let expired = Arc::new(Entry { fresh, held: None, ..old.changed(|_| {}) });
                shard.slots[at].entry = expired;
            }
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        for shard in &self.shards {
            *shard.lock().unwrap_or_else(PoisonError::into_inner) = Shard::default();
        }
    }

    /// Answers, bytes and evictions.
    #[must_use]
    pub fn size(&self) -> (usize, usize, usize) {
        let (mut entries, mut bytes) = (0, 0);
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            entries += shard.slots.len();
            bytes += shard.bytes;
        }
        (entries, bytes, self.evicted.load(Ordering::Relaxed))
    }

    fn hash(&self, name: &Name, rtype: Type) -> u64 {
        self.hasher.hash_one((name, rtype))
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // A panic while it was locked would leave it whole: every change below is one of plain collections.
        self.shards[(hash >> 32) as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn remove(&mut self, at: usize) {
        if at >= self.slots.len() {
            return;
        }
        let slot = self.slots.swap_remove(at);
        self.bytes -= cost(&slot.name, &slot.entry);
        self.index.remove(&slot.hash);
        if let Some(moved) = self.slots.get(at) {
            self.index.insert(moved.hash, at);
        }
    }

    /// Takes out the first entry that was not asked for since the hand last passed it.
    fn evict(&mut self) {
        loop {
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            match self.slots.get_mut(self.hand) {
                None => return,
                Some(slot) if slot.asked => slot.asked = false,
                Some(_) => return self.remove(self.hand),
            }
            self.hand += 1;
        }
    }
}

fn cost(name: &Name, entry: &Entry) -> usize {
    OVERHEAD + name.wire().len() + entry.bytes()
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
