//! An immutable ordered map with cheap copies and cheap changes: what a [`crate::Snapshot`] holds.
//!
//! Rows lie in sorted chunks of at most [`CHUNK`] behind shared pointers. A copy is one pointer; a change of a map that
//! somebody else still holds copies the list of chunks (one pointer per chunk) and one chunk (one pointer per row in
//! it), never the rows.

use std::fmt;
use std::sync::Arc;

use crate::Revision;

/// A chunk that grows past this is split in two.
const CHUNK: usize = 128;
/// A chunk that shrinks below this is joined with a neighbour.
const SMALL: usize = CHUNK / 4;

/// One row with what the store knows about it.
pub(crate) struct Entry<R> {
    pub(crate) key: String,
    pub(crate) value: Arc<R>,
    /// The commit that wrote it.
    pub(crate) revision: Revision,
    /// How many engine records it is stored in.
    pub(crate) fragments: u16,
}

type Chunk<R> = Vec<Arc<Entry<R>>>;

/// The rows of a table at one revision, in key order. Copies are cheap and share memory.
pub struct Rows<R> {
    chunks: Arc<Vec<Arc<Chunk<R>>>>,
    len: usize,
}

impl<R> Clone for Rows<R> {
    fn clone(&self) -> Self {
        Self { chunks: Arc::clone(&self.chunks), len: self.len }
    }
}

impl<R> Default for Rows<R> {
    fn default() -> Self {
        Self { chunks: Arc::new(Vec::new()), len: 0 }
    }
}

impl<R: fmt::Debug> fmt::Debug for Rows<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Equal when keys and rows are equal; revisions are not compared.
impl<R: PartialEq> PartialEq for Rows<R> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().zip(other.iter()).all(|(a, b)| a == b)
    }
}

impl<R> Rows<R> {
    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// The row with this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Arc<R>> {
        self.entry(key).map(|e| &e.value)
    }
    /// The row with this key and the revision of the commit that wrote it.
    #[must_use]
    pub fn get_with_revision(&self, key: &str) -> Option<(&Arc<R>, Revision)> {
        self.entry(key).map(|e| (&e.value, e.revision))
    }
    /// Whether there is a row with this key.
    #[must_use]
    pub fn contains_key(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }
    /// Keys and rows, by key.
    #[must_use]
    pub fn iter(&self) -> Iter<'_, R> {
        Iter { entries: self.entries() }
    }
    /// Keys and rows whose key is `from` or greater, by key.
    pub fn iter_from(&self, from: &str) -> impl Iterator<Item = (&String, &Arc<R>)> {
        self.entries_from(from).map(|e| (&e.key, &e.value))
    }
    /// Keys and rows whose key begins with `prefix`, by key.
    pub fn iter_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a Arc<R>)> {
        self.iter_from(prefix).take_while(move |(k, _)| k.starts_with(prefix))
    }
    /// Keys, rows and the revision of the commit that wrote each, by key.
    pub fn iter_with_revisions(&self) -> impl Iterator<Item = (&String, &Arc<R>, Revision)> {
        self.entries().map(|e| (&e.key, &e.value, e.revision))
    }
    /// The keys, in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &String> {
        self.entries().map(|e| &e.key)
    }
    /// The rows, by key.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &Arc<R>> {
        self.entries().map(|e| &e.value)
    }

    pub(crate) fn entries(&self) -> Entries<'_, R> {
        Entries { chunks: &self.chunks, front: (0, 0), remaining: self.len, back: (self.chunks.len(), 0) }
    }

    fn entries_from(&self, from: &str) -> impl Iterator<Item = &Arc<Entry<R>>> {
        let chunk = self.chunk_of(from);
        let first = self.chunks.get(chunk).map_or(&[][..], |c| {
            let at = c.partition_point(|e| e.key.as_str() < from);
            &c[at..]
        });
        let rest = self.chunks.iter().skip(chunk + 1).flat_map(|c| c.iter());
        first.iter().chain(rest)
    }

    /// The chunk that holds `key`, or would.
    fn chunk_of(&self, key: &str) -> usize {
        self.chunks.partition_point(|c| c.first().is_some_and(|e| e.key.as_str() <= key)).saturating_sub(1)
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&Arc<Entry<R>>> {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        let at = chunk.binary_search_by(|e| e.key.as_str().cmp(key)).ok()?;
        chunk.get(at)
    }

    pub(crate) fn insert(&mut self, entry: Entry<R>) {
        let at = self.chunk_of(&entry.key);
        let entry = Arc::new(entry);
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(chunk) = chunks.get_mut(at) else {
            chunks.push(Arc::new(vec![entry]));
            self.len += 1;
            return;
        };
        let chunk = Arc::make_mut(chunk);
        match chunk.binary_search_by(|e| e.key.cmp(&entry.key)) {
            Ok(i) => chunk[i] = entry,
            Err(i) => {
                chunk.insert(i, entry);
                self.len += 1;
                if chunk.len() > CHUNK {
                    // In-order loads fill chunks completely; random ones split evenly.
                    let keep = if i == chunk.len() - 1 { chunk.len() - 1 } else { chunk.len() / 2 };
                    let tail = chunk.split_off(keep);
                    chunks.insert(at + 1, Arc::new(tail));
                }
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &str) -> bool {
        if self.entry(key).is_none() {
            return false;
        }
        let at = self.chunk_of(key);
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(chunk) = chunks.get_mut(at).map(Arc::make_mut) else { return false };
        let Ok(i) = chunk.binary_search_by(|e| e.key.as_str().cmp(key)) else { return false };
        chunk.remove(i);
        self.len -= 1;
        let left = chunk.len();
        if left == 0 {
            chunks.remove(at);
        } else if left < SMALL && at + 1 < chunks.len() && chunks[at + 1].len() + left <= CHUNK {
            let next = chunks.remove(at + 1);
            Arc::make_mut(&mut chunks[at]).extend(next.iter().cloned());
        }
        true
    }
}

/// Rows without revisions, for tests of code that reads snapshots.
impl<R> FromIterator<(String, Arc<R>)> for Rows<R> {
    fn from_iter<T: IntoIterator<Item = (String, Arc<R>)>>(iter: T) -> Self {
        let mut rows = Self::default();
        for (key, value) in iter {
            rows.insert(Entry { key, value, revision: 0, fragments: 1 });
        }
        rows
    }
}

impl<'a, R> IntoIterator for &'a Rows<R> {
    type Item = (&'a String, &'a Arc<R>);
    type IntoIter = Iter<'a, R>;
    fn into_iter(self) -> Iter<'a, R> {
        self.iter()
    }
}

/// Iterator over keys and rows.
pub struct Iter<'a, R> {
    entries: Entries<'a, R>,
}

impl<'a, R> Iterator for Iter<'a, R> {
    type Item = (&'a String, &'a Arc<R>);
    fn next(&mut self) -> Option<Self::Item> {
        self.entries.next().map(|e| (&e.key, &e.value))
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.entries.size_hint()
    }
}
impl<R> DoubleEndedIterator for Iter<'_, R> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.entries.next_back().map(|e| (&e.key, &e.value))
    }
}
impl<R> ExactSizeIterator for Iter<'_, R> {}

/// Iterator over entries, from both ends.
pub(crate) struct Entries<'a, R> {
    chunks: &'a [Arc<Chunk<R>>],
    /// The next from the front: chunk, place in it.
    front: (usize, usize),
    /// One past the next from the back: chunk (exclusive when the place is 0), place in it (exclusive).
    back: (usize, usize),
    remaining: usize,
}

impl<'a, R> Iterator for Entries<'a, R> {
    type Item = &'a Arc<Entry<R>>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.remaining == 0 {
            return None;
        }
        let chunk = self.chunks.get(self.front.0)?;
        let entry = chunk.get(self.front.1)?;
        self.front = if self.front.1 + 1 == chunk.len() {
            (self.front.0 + 1, 0)
        } else {
            (self.front.0, self.front.1 + 1)
        };
        self.remaining -= 1;
        Some(entry)
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}
impl<R> DoubleEndedIterator for Entries<'_, R> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.remaining == 0 {
            return None;
        }
        if self.back.1 == 0 {
            self.back.0 = self.back.0.checked_sub(1)?;
            self.back.1 = self.chunks.get(self.back.0)?.len();
        }
        self.back.1 -= 1;
        self.remaining -= 1;
        self.chunks.get(self.back.0)?.get(self.back.1)
    }
}
impl<R> ExactSizeIterator for Entries<'_, R> {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn check(rows: &Rows<u32>, model: &BTreeMap<String, Arc<u32>>) {
        assert_eq!(rows.len(), model.len());
        assert!(rows.iter().eq(model.iter()));
        assert!(rows.iter().rev().eq(model.iter().rev()));
        assert!(rows.chunks.iter().all(|c| !c.is_empty() && c.len() <= CHUNK));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn behaves_as_an_ordered_map_and_old_copies_do_not_change(
            ops in prop::collection::vec((any::<bool>(), 0u32..700, any::<u32>()), 0..1500),
            from in 0u32..700,
        ) {
            let (mut rows, mut model) = (Rows::default(), BTreeMap::new());
            let mut old = Vec::new();
            for (i, (put, key, value)) in ops.into_iter().enumerate() {
                let key = format!("k{key:03}");
                if put || i < 400 {
                    rows.insert(Entry { key: key.clone(), value: Arc::new(value), revision: i as u64, fragments: 1 });
                    model.insert(key, Arc::new(value));
                } else {
                    prop_assert_eq!(rows.remove(&key), model.remove(&key).is_some());
                }
                if i % 250 == 0 {
                    old.push((rows.clone(), model.clone()));
                }
            }
            check(&rows, &model);
            for (rows, model) in &old {
                check(rows, model);
            }
            let from = format!("k{from:03}");
            prop_assert!(rows.iter_from(&from).eq(model.range(from.clone()..)));
            prop_assert!(rows.iter_prefix("k1").eq(model.range("k1".to_owned().."k2".to_owned())));
            prop_assert_eq!(rows.get(&from), model.get(&from));
            let (mut both, mut n) = (rows.iter(), 0);
            while both.next().is_some() {
                n += 1 + usize::from(both.next_back().is_some());
            }
            prop_assert_eq!(n, model.len());
        }
    }

    #[test]
    fn an_ordered_load_fills_chunks() {
        let mut rows = Rows::default();
        for i in 0..10_000u32 {
            rows.insert(Entry { key: format!("{i:05}"), value: Arc::new(i), revision: 1, fragments: 1 });
        }
        assert!(rows.chunks.len() <= 10_000 / CHUNK + 1, "{}", rows.chunks.len());
    }
}
