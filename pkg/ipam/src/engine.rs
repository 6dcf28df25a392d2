//! The allocator: which addresses are leased, resting or free. No I/O; time is an argument, in boot time.
//!
//! Addresses never given out before come first, in order from where the last one was; then those that were given
//! back, the longest ago first. An address that was given back rests for a while ([quarantine](crate::Settings)), even
//! when no other is left: neighbours, connection tracking and DNS may still know its last holder.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;

/// So many addresses that were given back are remembered; the memory of the oldest goes first. Above the size of any
/// IPv4 podCIDR in use, so that only IPv6 ones, where the next fresh address is never far, ever forget.
const REMEMBERED: usize = 1 << 16;

/// A set of numbers, stored as its runs.
#[derive(Debug, Default, Clone)]
struct Runs(BTreeMap<u128, u128>);

impl Runs {
    fn run_at(&self, x: u128) -> Option<(u128, u128)> {
        self.0.range(..=x).next_back().map(|(a, b)| (*a, *b)).filter(|(_, end)| *end >= x)
    }
    fn insert(&mut self, x: u128) {
        if self.run_at(x).is_some() {
            return;
        }
        let (mut start, mut end) = (x, x);
        if let Some((a, _)) = x.checked_sub(1).and_then(|p| self.run_at(p)) {
            start = a;
        }
        if let Some(b) = x.checked_add(1).and_then(|n| self.0.remove(&n)) {
            end = b;
        }
        self.0.insert(start, end);
    }
    fn remove(&mut self, x: u128) {
        let Some((start, end)) = self.run_at(x) else { return };
        self.0.remove(&start);
        if start < x {
            self.0.insert(start, x - 1);
        }
        if x < end {
            self.0.insert(x + 1, end);
        }
    }
    /// The smallest number from `from` to `to` that is not in the set.
    fn absent(&self, from: u128, to: u128) -> Option<u128> {
        let x = match self.run_at(from) {
            Some((_, end)) => end.checked_add(1)?,
            None => from,
        };
        (x <= to).then_some(x)
    }
}

/// A podCIDR and the addresses in it that pods can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) net: IpNet,
    first: u128,
    last: u128,
}

impl Range {
    /// Without the network address, the node's own (the first after it) and the last IPv4 address.
    pub(crate) fn new(net: IpNet) -> Self {
        let tail = u128::from(net.addr().is_ipv4());
        Self {
            net,
            first: number(net.network()).saturating_add(2),
            last: number(net.broadcast()).saturating_sub(tail),
        }
    }
    fn size(&self) -> u128 {
        if self.first > self.last { 0 } else { (self.last - self.first).saturating_add(1) }
    }
    pub(crate) fn usable(&self, addr: IpAddr) -> bool {
        self.net.contains(&addr) && (self.first..=self.last).contains(&number(addr))
    }
}

fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

fn address(v4: bool, x: u128) -> IpAddr {
    if v4 { Ipv4Addr::from(u32::try_from(x).unwrap_or(u32::MAX)).into() } else { Ipv6Addr::from(x).into() }
}

/// Why there is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no podCIDR of this family.
    NoRange,
    /// Nothing is free.
    Exhausted,
    /// The requested address is outside of what pods can have.
    OutOfRange,
    /// The requested address is leased.
    Leased,
    /// The requested address rests for this much longer.
    Resting(Duration),
    /// The requested address is in use by something without a lease.
    Held,
}

/// How the addresses of a podCIDR are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) total: u128,
    pub(crate) used: u128,
    pub(crate) quarantined: u128,
    pub(crate) held: u128,
    pub(crate) free: u128,
}

/// The addresses of one family.
#[derive(Debug)]
pub(crate) struct FamilyPool {
    v4: bool,
    range: Option<Range>,
    /// Leased, and by how many leases: more than one only after damage.
    leased: BTreeMap<u128, u32>,
    /// Given back, and until when each rests.
    returned: BTreeMap<u128, Duration>,
    /// The same by age, oldest first; an entry that `returned` does not confirm is stale.
    by_age: VecDeque<(u128, Duration)>,
    /// In use by something without a lease.
    held: BTreeSet<u128>,
    /// All of the above.
    touched: Runs,
    /// Where the search for a fresh address goes on.
    cursor: u128,
}

impl FamilyPool {
    pub(crate) fn new(v4: bool) -> Self {
        Self {
            v4,
            range: None,
            leased: BTreeMap::new(),
            returned: BTreeMap::new(),
            by_age: VecDeque::new(),
            held: BTreeSet::new(),
            touched: Runs::default(),
            cursor: 0,
        }
    }

    pub(crate) fn range(&self) -> Option<Range> {
        self.range
    }

    /// Allocates from `net` from now on. Leases outside of it stay.
    pub(crate) fn set_range(&mut self, net: Option<IpNet>) {
        self.range = net.map(Range::new);
    }

    /// Leases an address.
    pub(crate) fn take(&mut self, now: Duration) -> Result<IpAddr, Refusal> {
        let range = self.range.ok_or(Refusal::NoRange)?;
        if range.size() == 0 {
            return Err(Refusal::Exhausted);
        }
        let from = if (range.first..=range.last).contains(&self.cursor) { self.cursor } else { range.first };
        let fresh =
            self.touched.absent(from, range.last).or_else(|| self.touched.absent(range.first, range.last));
        let x = match fresh {
            Some(x) => {
                self.cursor = x.saturating_add(1);
                x
            }
            None => self.oldest_rested(range, now).ok_or(Refusal::Exhausted)?,
        };
        self.lease_number(x);
        Ok(address(self.v4, x))
    }

    /// The address given back longest ago, if it has rested.
    fn oldest_rested(&mut self, range: Range, now: Duration) -> Option<u128> {
        self.forget_stale();
        let pick = self.by_age.iter().position(|&(x, until)| {
            until <= now
                && (range.first..=range.last).contains(&x)
                && self.returned.get(&x) == Some(&until)
                && !self.held.contains(&x)
                && !self.leased.contains_key(&x)
        })?;
        self.by_age.remove(pick).map(|(x, _)| x)
    }

    fn forget_stale(&mut self) {
        while let Some((x, until)) = self.by_age.front()
            && self.returned.get(x) != Some(until)
        {
            self.by_age.pop_front();
        }
    }

    /// Leases a certain address.
    pub(crate) fn take_this(&mut self, addr: IpAddr, now: Duration) -> Result<(), Refusal> {
        let range = self.range.ok_or(Refusal::NoRange)?;
        let x = number(addr);
        if !range.usable(addr) {
            return Err(Refusal::OutOfRange);
        }
        if self.leased.contains_key(&x) {
            return Err(Refusal::Leased);
        }
        if self.held.contains(&x) {
            return Err(Refusal::Held);
        }
        match self.returned.get(&x) {
            Some(until) if *until > now => Err(Refusal::Resting(until.saturating_sub(now))),
            _ => {
                self.lease_number(x);
                Ok(())
            }
        }
    }

    /// Notes a lease that exists already, wherever it lies.
    pub(crate) fn adopt(&mut self, addr: IpAddr) {
        self.lease_number(number(addr));
    }

    fn lease_number(&mut self, x: u128) {
        *self.leased.entry(x).or_default() += 1;
        self.returned.remove(&x);
        self.touched.insert(x);
    }

    /// Ends a lease whose address nobody ever saw: it is free at once.
    pub(crate) fn undo(&mut self, addr: IpAddr) {
        let x = number(addr);
        if self.end_lease(x) && !self.held.contains(&x) {
            self.touched.remove(x);
        }
    }

    /// Ends a lease; the address rests until `until`.
    pub(crate) fn give_back(&mut self, addr: IpAddr, until: Duration, now: Duration) {
        let x = number(addr);
        if self.end_lease(x) {
            self.rest(addr, until, now);
        }
    }

    /// Lets an address that is not leased rest until `until`.
    pub(crate) fn rest(&mut self, addr: IpAddr, until: Duration, now: Duration) {
        let x = number(addr);
        if self.leased.contains_key(&x) {
            return;
        }
        self.returned.insert(x, until);
        self.by_age.push_back((x, until));
        self.touched.insert(x);
        while self.by_age.len() > REMEMBERED {
            self.forget_stale();
            match self.by_age.front() {
                Some(&(x, until)) if until <= now => {
                    self.by_age.pop_front();
                    self.returned.remove(&x);
                    if !self.held.contains(&x) {
                        self.touched.remove(x);
                    }
                }
                _ => break,
            }
        }
    }

    /// Whether that was the last lease of the address.
    fn end_lease(&mut self, x: u128) -> bool {
        match self.leased.get_mut(&x) {
            Some(n) if *n > 1 => {
                *n -= 1;
                false
            }
            Some(_) => {
                self.leased.remove(&x);
                true
            }
            None => false,
        }
    }

    /// Addresses in use by something without a lease: they are not given out. Replaces what was said before.
    pub(crate) fn set_held(&mut self, addrs: impl Iterator<Item = IpAddr>) {
        for x in std::mem::take(&mut self.held) {
            if !self.leased.contains_key(&x) && !self.returned.contains_key(&x) {
                self.touched.remove(x);
            }
        }
        for x in addrs.map(number) {
            if !self.leased.contains_key(&x) {
                self.held.insert(x);
                self.touched.insert(x);
            }
        }
    }

    /// Whether the address may be given out only after more rest.
    pub(crate) fn resting(&self, addr: IpAddr, now: Duration) -> bool {
        self.returned.get(&number(addr)).is_some_and(|until| *until > now)
    }

    /// Addresses that are held and not leased.
    pub(crate) fn held(&self) -> impl Iterator<Item = IpAddr> {
        self.held.iter().filter(|x| !self.leased.contains_key(*x)).map(|x| address(self.v4, *x))
    }

    /// Leased addresses.
    pub(crate) fn leased(&self) -> impl Iterator<Item = IpAddr> {
        self.leased.keys().map(|x| address(self.v4, *x))
    }

    pub(crate) fn counts(&self, now: Duration) -> Option<(IpNet, Counts)> {
        let range = self.range?;
        let inside = |x: &u128| (range.first..=range.last).contains(x);
        let count = |n: usize| u128::try_from(n).unwrap_or(u128::MAX);
        let used = count(self.leased.keys().filter(|x| inside(x)).count());
        let quarantined = self.returned.iter().filter(|(x, until)| inside(x) && **until > now).count();
        let resting = |x: &u128| self.returned.get(x).is_some_and(|until| *until > now);
        let held =
            self.held.iter().filter(|x| inside(x) && !self.leased.contains_key(x) && !resting(x)).count();
        let (total, quarantined, held) = (range.size(), count(quarantined), count(held));
        let free = total.saturating_sub(used + quarantined + held);
        Some((range.net, Counts { total, used, quarantined, held, free }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REST: Duration = Duration::from_secs(30);

    fn pool(net: &str) -> FamilyPool {
        let net: IpNet = net.parse().unwrap();
        let mut pool = FamilyPool::new(net.addr().is_ipv4());
        pool.set_range(Some(net));
        pool
    }

    #[test]
    fn tiny_prefixes_have_exactly_the_addresses_they_have() {
        let now = Duration::ZERO;
        for (net, n) in [
            ("10.0.0.0/32", 0),
            ("10.0.0.0/31", 0),
            ("10.0.0.0/30", 1),
            ("10.0.0.0/29", 5),
            ("10.0.0.0/24", 253),
        ] {
            let mut p = pool(net);
            for _ in 0..n {
                p.take(now).unwrap();
            }
            assert_eq!(p.take(now), Err(Refusal::Exhausted), "{net}");
            assert_eq!(
                p.counts(now).unwrap().1,
                Counts { total: n, used: n, quarantined: 0, held: 0, free: 0 }
            );
        }
        for (net, n) in
            [("fd00::/128", 0), ("fd00::/127", 0), ("fd00::/126", 2), ("fd00::/64", (1 << 64) - 2)]
        {
            assert_eq!(pool(net).counts(now).unwrap().1.total, n, "{net}");
        }
        let mut p = pool("fd00::/126");
        assert_eq!(p.take(now).unwrap(), "fd00::2".parse::<IpAddr>().unwrap());
        assert_eq!(p.take(now).unwrap(), "fd00::3".parse::<IpAddr>().unwrap());
        assert_eq!(p.take(now), Err(Refusal::Exhausted));
        assert_eq!(FamilyPool::new(true).take(now), Err(Refusal::NoRange));
        let top = pool("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124").take(now);
        assert!(top.is_ok());
    }

    #[test]
    fn an_ipv6_pool_that_churns_stays_small() {
        let mut p = pool("fd00::/64");
        for i in 0..200_000u64 {
            let now = Duration::from_secs(i);
            let a = p.take(now).unwrap();
            p.give_back(a, now + REST, now);
        }
        assert!(p.returned.len() <= REMEMBERED && p.by_age.len() <= REMEMBERED, "{}", p.returned.len());
        assert!(p.touched.0.len() < 4);
    }

    #[derive(Debug, Clone)]
    enum Op {
        Take,
        TakeThis(u8),
        GiveBack(prop::sample::Index),
        Undo(prop::sample::Index),
        Wait(u8),
        Hold(Vec<u8>),
        Range(bool),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        prop::collection::vec(
            prop_oneof![
                6 => Just(Op::Take),
                2 => (0u8..40).prop_map(Op::TakeThis),
                4 => any::<prop::sample::Index>().prop_map(Op::GiveBack),
                1 => any::<prop::sample::Index>().prop_map(Op::Undo),
                3 => (0u8..20).prop_map(Op::Wait),
                1 => prop::collection::vec(0u8..40, 0..4).prop_map(Op::Hold),
                1 => any::<bool>().prop_map(Op::Range),
            ],
            0..200,
        )
    }

    proptest! {
        #[test]
        fn never_twice_never_early_and_exhausted_only_when_nothing_is_left(ops in ops(), v6: bool) {
            let nets: [IpNet; 2] = if v6 {
                ["fd00::/124".parse().unwrap(), "fd00::10/124".parse().unwrap()]
            } else {
                ["10.0.0.0/28".parse().unwrap(), "10.0.0.16/28".parse().unwrap()]
            };
            let at = |n: u8| address(!v6, number(nets[0].network()) + u128::from(n));
            let mut p = FamilyPool::new(!v6);
            let mut range = Range::new(nets[0]);
            p.set_range(Some(nets[0]));
            let mut now = Duration::ZERO;
            let mut leased: Vec<IpAddr> = Vec::new();
            let mut rests: BTreeMap<IpAddr, Duration> = BTreeMap::new();
            let mut held: BTreeSet<IpAddr> = BTreeSet::new();
            for op in ops {
                let resting = |rests: &BTreeMap<IpAddr, Duration>, a: &IpAddr| rests.get(a).is_some_and(|t| *t > now);
                let usable: BTreeSet<IpAddr> = (0..40).map(at).filter(|a| range.usable(*a)).collect();
                let free: BTreeSet<IpAddr> = usable.iter().copied()
                    .filter(|a| !leased.contains(a) && !held.contains(a) && !resting(&rests, a)).collect();
                match op {
                    Op::Take => match p.take(now) {
                        Ok(a) => {
                            prop_assert!(free.contains(&a), "{a} is not free");
                            // Reused last: nothing fresh was left, and nothing was given back before it.
                            if let Some(t) = rests.get(&a) {
                                prop_assert!(free.iter().all(|b| rests.get(b).is_some_and(|u| u >= t)));
                            }
                            leased.push(a);
                            rests.remove(&a);
                        }
                        Err(Refusal::Exhausted) => prop_assert!(free.is_empty(), "{free:?} were free"),
                        Err(e) => prop_assert!(false, "{e:?}"),
                    },
                    Op::TakeThis(n) => {
                        let a = at(n);
                        let got = p.take_this(a, now);
                        prop_assert_eq!(got.is_ok(), free.contains(&a));
                        match got {
                            Ok(()) => {
                                leased.push(a);
                                rests.remove(&a);
                            }
                            Err(Refusal::OutOfRange) => prop_assert!(!usable.contains(&a)),
                            Err(Refusal::Leased) => prop_assert!(leased.contains(&a)),
                            Err(Refusal::Held) => prop_assert!(held.contains(&a)),
                            Err(Refusal::Resting(d)) => prop_assert_eq!(now + d, rests[&a]),
                            Err(e) => prop_assert!(false, "{e:?}"),
                        }
                    }
                    Op::GiveBack(i) if !leased.is_empty() => {
                        let a = leased.swap_remove(i.index(leased.len()));
                        p.give_back(a, now + REST, now);
                        rests.insert(a, now + REST);
                    }
                    Op::Undo(i) if !leased.is_empty() => {
                        let a = leased.swap_remove(i.index(leased.len()));
                        p.undo(a);
                    }
                    Op::GiveBack(_) | Op::Undo(_) => {}
                    Op::Wait(s) => now += Duration::from_secs(s.into()),
                    Op::Hold(list) => {
                        held = list.into_iter().map(at).filter(|a| !leased.contains(a)).collect();
                        p.set_held(held.iter().copied());
                    }
                    Op::Range(second) => {
                        range = Range::new(nets[usize::from(second)]);
                        p.set_range(Some(range.net));
                    }
                }
                let c = p.counts(now).unwrap().1;
                let inside = |a: &&IpAddr| range.usable(**a);
                prop_assert_eq!(c.used, leased.iter().filter(inside).count() as u128);
                prop_assert_eq!(c.quarantined, rests.iter().filter(|(a, t)| range.usable(**a) && **t > now).count() as u128);
                let n = (0..40).map(at).filter(|a| range.usable(*a) && !leased.contains(a) && !held.contains(a)
                    && rests.get(a).is_none_or(|t| *t <= now)).count();
                prop_assert_eq!(c.free, n as u128);
                prop_assert_eq!(p.leased().collect::<BTreeSet<_>>(), leased.iter().copied().collect::<BTreeSet<_>>());
            }
        }
    }
}
