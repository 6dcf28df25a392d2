//! Which of several changes the kernel refuses, when it refuses them together.

use std::collections::BTreeSet;

/// A search by halves, driven from outside: [`Isolation::attempt`] says without whom to try, [`Isolation::tell`] what came of
/// it, until there is nothing more to try.
pub struct Isolation<K> {
    /// Who is left out now; in the end the guilty.
    out: BTreeSet<K>,
    /// Who is to be let in again, together.
    groups: Vec<Vec<K>>,
    trying: Trying<K>,
}

enum Trying<K> {
    /// Without any suspect.
    Nobody,
    /// With these back in.
    Group(Vec<K>),
    /// Even without any suspect it is refused.
    Hopeless,
}

impl<K: Ord + Clone> Isolation<K> {
    /// A search among these.
    #[must_use]
    pub fn new(suspects: &BTreeSet<K>) -> Self {
        Self {
            out: suspects.clone(),
            groups: halves(suspects.iter().cloned().collect()),
            trying: Trying::Nobody,
        }
    }

    /// Who is to be left out at the next try, whose outcome [`Isolation::tell`] takes.
    pub fn attempt(&mut self) -> &BTreeSet<K> {
        if let Trying::Group(group) = &self.trying {
            group.iter().for_each(|suspect| {
                self.out.remove(suspect);
            });
        }
        &self.out
    }

    /// What came of the attempt. False when there is no other.
    pub fn tell(&mut self, accepted: bool) -> bool {
        match std::mem::replace(&mut self.trying, Trying::Hopeless) {
            Trying::Nobody if !accepted => return false,
            Trying::Group(group) if !accepted => {
                self.out.extend(group.iter().cloned());
                if group.len() > 1 {
                    self.groups.extend(halves(group));
                }
            }
            _ => {}
        }
        match self.groups.pop() {
            Some(group) => self.trying = Trying::Group(group),
            None => {
                self.trying = Trying::Group(Vec::new());
                return false;
            }
        }
        true
    }

    /// Those without whom all others are accepted; none when it is nobody's fault.
    #[must_use]
    pub fn guilty(self) -> Option<BTreeSet<K>> {
        match self.trying {
            Trying::Hopeless => None,
            _ => Some(self.out),
        }
    }
}

/// Two groups, or one of one.
fn halves<K>(mut group: Vec<K>) -> Vec<Vec<K>> {
    let rest = group.split_off(group.len() / 2);
    [group, rest].into_iter().filter(|half| !half.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn search(
        suspects: &BTreeSet<u8>,
        accepts: impl Fn(&BTreeSet<u8>) -> bool,
    ) -> (Option<BTreeSet<u8>>, usize) {
        let mut isolation = Isolation::new(suspects);
        let mut tries = 1;
        loop {
            let accepted = accepts(isolation.attempt());
            if !isolation.tell(accepted) {
                return (isolation.guilty(), tries);
            }
            tries += 1;
        }
    }

    proptest! {
        #[test]
        fn the_guilty_are_found_and_nobody_else(guilty: BTreeSet<u8>, others: BTreeSet<u8>) {
            let suspects: BTreeSet<u8> = guilty.union(&others).copied().collect();
            let (found, tries) = search(&suspects, |out| guilty.is_subset(out));
            prop_assert_eq!(found, Some(guilty.clone()));
            prop_assert!(tries <= 3 + guilty.len() * 18, "{} tries for {}", tries, guilty.len());
        }
    }

    #[test]
    fn when_it_is_none_of_them_nobody_is_guilty() {
        assert_eq!(search(&BTreeSet::from([1, 2]), |_| false), (None, 1));
    }
}
