//! Buffers, lent by the thread: a connection that waits holds none.
//!
//! What each read and each write costs is mostly the same for few bytes and for many: the kernel tells the other side about
//! either, and wakes it. So a body that comes faster than a small buffer takes it is read by large ones. Of these a thread
//! lends so many and no more, whatever its clients do: who finds none does with a small one.

use std::cell::RefCell;
use std::mem;
use std::ops::{Deref, DerefMut};

/// Bytes of a small buffer. Heads may grow it.
pub(crate) const SMALL: usize = 16 << 10;
/// Bytes of a large one.
pub(crate) const LARGE: usize = 256 << 10;
/// How many large buffers a thread has lent at once, at most: 8 MiB.
const LENT: usize = 32;
/// How many unused small buffers a thread keeps.
const SPARE: usize = 256;
/// How many unused large ones: one is enough while nobody is slow.
const SPARE_LARGE: usize = 2;

#[derive(Default)]
struct Spares {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
    /// Large buffers that somebody has.
    lent: usize,
}

thread_local! {
    static SPARES: RefCell<Spares> = RefCell::default();
}

/// Room for bytes; none at first. It goes back to its thread when it is dropped.
#[derive(Default)]
pub(crate) struct Buffer {
    data: Vec<u8>,
    is_large: bool,
}

impl Buffer {
    /// Room for the bytes of a small buffer.
    pub(crate) fn small() -> Self {
        let spare = SPARES.with_borrow_mut(|spares| spares.small.pop());
        Self { data: spare.unwrap_or_else(|| Vec::with_capacity(SMALL)), is_large: false }
    }

    /// Room for those of a large one, unless too many are lent.
    pub(crate) fn large() -> Self {
        let lent = SPARES.with_borrow_mut(|spares| {
            let is_free = spares.lent < LENT;
            spares.lent += usize::from(is_free);
            is_free.then(|| spares.large.pop())
        });
        match lent {
            None => Self::small(),
            Some(spare) => Self { data: spare.unwrap_or_else(|| Vec::with_capacity(LARGE)), is_large: true },
        }
    }

    /// Whether there is no room at all.
    pub(crate) fn is_none(&self) -> bool {
        self.data.capacity() == 0
    }

    /// Gives back all of the room.
    pub(crate) fn give_back(&mut self) {
        drop(mem::take(self));
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.data
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.data
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.is_none() {
            return;
        }
        let mut data = mem::take(&mut self.data);
        data.clear();
        // While a thread ends there is nobody to give it to.
        let _ = SPARES.try_with(|spares| {
            let spares = &mut *spares.borrow_mut();
            let (kept, most, size) = match self.is_large {
                true => (&mut spares.large, SPARE_LARGE, LARGE),
                false => (&mut spares.small, SPARE, SMALL),
            };
            spares.lent -= usize::from(self.is_large);
            // One that has grown would hold more than it is counted for.
            if data.capacity() == size && kept.len() < most {
                kept.push(data);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_large_ones_are_lent_than_are_allowed() {
        let mut lent: Vec<Buffer> = (0..LENT).map(|_| Buffer::large()).collect();
        assert!(lent.iter().all(|buffer| buffer.capacity() == LARGE));
        assert_eq!(Buffer::large().capacity(), SMALL, "there is room all the same");
        let mut grown = lent.pop().unwrap();
        grown.extend_from_slice(&[0; LARGE + 1]);
        grown.give_back();
        assert!(grown.is_none());
        assert_eq!(Buffer::large().capacity(), LARGE, "one was given back");
        lent.clear();
        let (kept, lent) = SPARES.with_borrow(|spares| (spares.large.len(), spares.lent));
        assert_eq!((kept, lent), (SPARE_LARGE, 0));
    }

    #[test]
    fn what_is_given_back_is_lent_empty() {
        let mut buffer = Buffer::small();
        buffer.extend_from_slice(b"secret");
        let at = buffer.as_ptr();
        drop(buffer);
        let again = Buffer::small();
        assert!(again.is_empty() && again.as_ptr() == at && again.capacity() == SMALL);
    }
}
