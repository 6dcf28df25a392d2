//! A hash for tables whose keys no client chooses: looking an endpoint up by the one that is safe from chosen keys costs more
//! than all else about it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A table whose keys no client chooses.
pub(crate) type QuickMap<K, V> = HashMap<K, V, BuildHasherDefault<Quick>>;

/// Odd, and with no pattern in its bits: those of pi, after the point.
const FACTOR: u64 = 0x243f_6a88_85a3_08d3;

#[derive(Debug, Default)]
pub(crate) struct Quick(u64);

impl Quick {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    }
}

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u16(&mut self, word: u16) {
        self.mix(word.into());
    }

    fn write_usize(&mut self, word: usize) {
        self.mix(word as u64);
    }

    fn finish(&self) -> u64 {
        // A product is best mixed in its high bits, and tables use the low ones first.
        self.0.rotate_left(26)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::{BuildHasher, Hash};
    use std::net::SocketAddr;

    fn spread<K: Hash>(keys: impl Iterator<Item = K>) -> (usize, usize) {
        let hasher = BuildHasherDefault::<Quick>::default();
        let places: Vec<u64> = keys.map(|key| hasher.hash_one(key) % 4_096).collect();
        (places.len(), places.iter().collect::<HashSet<_>>().len())
    }

    #[test]
    fn keys_that_differ_in_little_lie_apart() {
        // Of as many places as keys, by chance 63 in 100 are taken.
        let endpoint = |at: u16| SocketAddr::from(([10, 42, (at >> 8) as u8, at as u8], 8080));
        let (keys, places) = spread((0..4_096).map(endpoint));
        assert!(places * 2 > keys, "{places} places of {keys} endpoints");
        let (keys, places) = spread((0..4_096_usize).map(|at| 0x5555_0000_0000 + at * 64));
        assert!(places * 2 > keys, "{places} places of {keys} pointers");
        let (keys, places) = spread((0..4_096).map(|at: u16| SocketAddr::from(([10, 42, 0, 1], at))));
        assert!(places * 2 > keys, "{places} places of {keys} ports");
    }
}
