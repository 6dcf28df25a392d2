//! Numbers from a range, each with at most one owner. Pure: no clock, no randomness, no I/O.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Why a wanted number cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// Another has it, or it is kept for another.
    Taken,
    /// It is not of this range.
    OutOfRange,
}

/// A range with a lower band that is handed out last, so that who asks for a certain number of it mostly finds it free.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    range: RangeInclusive<u128>,
    /// Where the upper band begins.
    band: u128,
    /// Where the search for the next free one begins: freed numbers are used again last.
    cursor: u128,
    /// A number that only this owner gets.
    reserved: Option<(u128, String)>,
    taken: BTreeMap<u128, String>,
}

impl Pool {
    /// Numbers of `range`; the lower band ends before `band`.
    pub(crate) fn new(range: RangeInclusive<u128>, band: u128) -> Self {
        let band = band.clamp(*range.start(), (*range.end()).max(*range.start()));
        Self { range, band, cursor: band, reserved: None, taken: BTreeMap::new() }
    }

    /// Keeps a number for one owner.
    pub(crate) fn reserve(mut self, number: u128, owner: &str) -> Self {
        self.reserved = Some((number, owner.to_owned()));
        self
    }

    /// Forgets who has what.
    pub(crate) fn clear(&mut self) {
        self.taken.clear();
    }

    /// Who has a number.
    pub(crate) fn owner(&self, number: u128) -> Option<&str> {
        self.taken.get(&number).map(String::as_str)
    }

    /// Gives `owner` a certain number.
    pub(crate) fn take(&mut self, number: u128, owner: &str) -> Result<(), Unavailable> {
        if !self.range.contains(&number) {
            return Err(Unavailable::OutOfRange);
        }
        if self.reserved.as_ref().is_some_and(|(n, o)| *n == number && o != owner) {
            return Err(Unavailable::Taken);
        }
        match self.taken.get(&number) {
            Some(other) if other != owner => Err(Unavailable::Taken),
            _ => {
                self.taken.insert(number, owner.to_owned());
                Ok(())
            }
        }
    }

    /// Gives `owner` the next free number: of the upper band while it has one.
    pub(crate) fn next(&mut self, owner: &str) -> Option<u128> {
        let (first, last) = (*self.range.start(), *self.range.end());
        let number = self
            .free(self.cursor, last)
            .or_else(|| self.free(self.band, last))
            .or_else(|| self.free(first, last))?;
        if number >= self.band {
            self.cursor = if number == last { self.band } else { number + 1 };
        }
        self.taken.insert(number, owner.to_owned());
        Some(number)
    }

    /// The first free number from `from` to `to`.
    fn free(&self, from: u128, to: u128) -> Option<u128> {
        if from > to {
            return None;
        }
        let mut candidate = from;
        for (taken, _) in self.taken.range(from..=to) {
            if candidate < *taken && !self.is_reserved(candidate) {
                return Some(candidate);
            }
            if candidate < *taken && candidate + 1 < *taken {
                // The reserved one is skipped; what follows it is free.
                return Some(candidate + 1);
            }
            candidate = taken.checked_add(1)?;
        }
        if self.is_reserved(candidate) {
            candidate = candidate.checked_add(1)?;
        }
        (candidate <= to).then_some(candidate)
    }

    fn is_reserved(&self, number: u128) -> bool {
        self.reserved.as_ref().is_some_and(|(n, _)| *n == number)
    }

    /// Frees a number, if it is `owner`'s.
    pub(crate) fn release(&mut self, number: u128, owner: &str) {
        if self.owner(number) == Some(owner) {
            self.taken.remove(&number);
        }
    }

    /// Everything that is taken.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> &BTreeMap<u128, String> {
        &self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_lower_band_comes_last_and_freed_numbers_late() {
        let mut p = Pool::new(1..=6, 3).reserve(1, "first");
        assert_eq!((p.next("a"), p.next("b")), (Some(3), Some(4)));
        p.release(3, "a");
        assert_eq!([p.next("c"), p.next("d"), p.next("e")], [Some(5), Some(6), Some(3)]);
        assert_eq!((p.next("f"), p.next("g")), (Some(2), None), "1 is reserved");
        assert_eq!(p.take(1, "x"), Err(Unavailable::Taken));
        assert_eq!(p.take(1, "first"), Ok(()));
        assert_eq!(p.take(0, "x"), Err(Unavailable::OutOfRange));
        p.release(4, "not the owner");
        assert_eq!(p.owner(4), Some("b"));
    }

    proptest! {
        #[test]
        fn nothing_is_given_twice_and_nothing_is_lost(ops in prop::collection::vec((0u8..3, 0u128..14, 0u8..20), 1..200)) {
            let mut pool = Pool::new(2..=11, 5).reserve(2, "owner-0");
            let mut model: BTreeMap<u128, String> = BTreeMap::new();
            for (op, number, owner) in ops {
                let owner = format!("owner-{owner}");
                match op {
                    0 => {
                        let given = pool.next(&owner);
                        let free: Vec<u128> = (3..=11).filter(|n| !model.contains_key(n)).collect();
                        match given {
                            Some(n) => {
                                prop_assert!(free.contains(&n));
                                prop_assert!(n >= 5 || free.iter().all(|f| *f < 5), "the upper band first");
                                model.insert(n, owner);
                            }
                            None => prop_assert!(free.is_empty(), "{:?} are free", free),
                        }
                    }
                    1 => {
                        let expected = if !(2..=11).contains(&number) {
                            Err(Unavailable::OutOfRange)
                        } else if number == 2 && owner != "owner-0" || model.get(&number).is_some_and(|o| *o != owner) {
                            Err(Unavailable::Taken)
                        } else {
                            Ok(())
                        };
                        prop_assert_eq!(pool.take(number, &owner), expected);
                        if expected.is_ok() {
                            model.insert(number, owner);
                        }
                    }
                    _ => {
                        pool.release(number, &owner);
                        if model.get(&number) == Some(&owner) {
                            model.remove(&number);
                        }
                    }
                }
                prop_assert_eq!(pool.taken(), &model);
            }
        }
    }
}
