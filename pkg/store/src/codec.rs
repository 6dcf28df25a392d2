//! How rows become engine records, and back.
//!
//! A record is a header (version, checksum, revision, length) and the row as JSON. It is cut into fragments of at most
//! [`FRAGMENT`] bytes, each under a key of its own: the engine then never puts a value into a side file, which it
//! would not bring to disk with the rest. The checksum covers key, revision and payload, so that neither a flipped bit
//! nor a record under a wrong key goes unseen. One more record holds the store-wide revision and a digest over the
//! (key, revision) pairs of every record: a missing, a surplus and a stale record are seen too.

use std::collections::BTreeMap;

use crate::Revision;

/// Newest layout of records and of the directory that this binary knows.
pub(crate) const SCHEMA: u32 = 1;
/// Largest value given to the engine. Sixteen of them, a full leaf of the engine's tree, stay below its limit for
/// values inside the log.
pub(crate) const FRAGMENT: usize = 4096;
/// Longest key of a row. An inner page of the engine's tree with such keys stays below the same limit.
pub(crate) const KEY_MAX: usize = 440;
/// Longest name of a table.
const TABLE_MAX: usize = 40;
/// Largest encoded row.
pub(crate) const ROW_MAX: usize = 8 * 1024 * 1024;

const VERSION: u8 = 1;
const HEADER: usize = 1 + 4 + 8 + 4;
const KIND_META: u8 = b'm';
const KIND_ROW: u8 = b'r';
const KIND_LOADED: u8 = b'l';

/// A change of one engine key.
pub(crate) type Write = (Vec<u8>, Option<Vec<u8>>);

/// An engine key and its value.
pub(crate) type Stored = (Vec<u8>, Vec<u8>);

/// Key of the record with revision and digest.
pub(crate) fn meta_key() -> Vec<u8> {
    vec![KIND_META]
}

/// Engine key of a row, without the fragment number.
pub(crate) fn row_key(table: &str, key: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(6 + table.len() + key.len());
    out.push(KIND_ROW);
    out.push(u8::try_from(table.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(table.as_bytes());
    out.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(key.as_bytes());
    out
}

/// Engine key of a table's loaded flag, without the fragment number.
pub(crate) fn loaded_key(table: &str) -> Vec<u8> {
    let mut out = vec![KIND_LOADED, u8::try_from(table.len()).unwrap_or(u8::MAX)];
    out.extend_from_slice(table.as_bytes());
    out
}

/// Whether a row with this key and this encoded length can be stored; the message says why not.
pub(crate) fn check_limits(table: &str, key: &str, payload: usize) -> Result<(), String> {
    if table.is_empty() || table.len() > TABLE_MAX {
        return Err(format!("table name {table:?} must have 1 to {TABLE_MAX} bytes"));
    }
    if key.len() > KEY_MAX {
        let start: String = key.chars().take(60).collect();
        return Err(format!(
            "table {table}: key {start:?}... has {} bytes; at most {KEY_MAX} fit",
            key.len()
        ));
    }
    if payload > ROW_MAX {
        return Err(format!("table {table}: row {key:?} has {payload} bytes; at most {ROW_MAX} fit"));
    }
    Ok(())
}

fn checksum(base: &[u8], rest: &[u8]) -> u32 {
    let mut h = crc32fast::Hasher::new();
    h.update(&u32::try_from(base.len()).unwrap_or(u32::MAX).to_le_bytes());
    h.update(base);
    h.update(rest);
    h.finalize()
}

/// A batch under construction: engine writes and what they do to the digest.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) writes: Vec<Write>,
    /// What the digest grows by.
    pub(crate) digest: Digest,
}

impl Batch {
    /// Stores a record, in the place of one of `old` (its revision and number of fragments). Returns the number of
    /// fragments.
    pub(crate) fn put(
        &mut self,
        base: &[u8],
        old: Option<(Revision, u16)>,
        revision: Revision,
        payload: &[u8],
    ) -> u16 {
        let mut record = Vec::with_capacity(HEADER + payload.len());
        record.push(VERSION);
        record.extend_from_slice(&[0; 4]);
        record.extend_from_slice(&revision.to_le_bytes());
        record.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        record.extend_from_slice(payload);
        let crc = checksum(base, &record[5..]);
        record[1..5].copy_from_slice(&crc.to_le_bytes());
        let mut count = 0u16;
        for piece in record.chunks(FRAGMENT) {
            self.writes.push((fragment_key(base, count), Some(piece.to_vec())));
            count += 1;
        }
        if let Some((old_revision, fragments)) = old {
            self.digest.remove(base, old_revision);
            for surplus in count..fragments {
                self.writes.push((fragment_key(base, surplus), None));
            }
        }
        self.digest.add(base, revision);
        count
    }

    /// Removes a record.
    pub(crate) fn delete(&mut self, base: &[u8], (revision, fragments): (Revision, u16)) {
        for n in 0..fragments {
            self.writes.push((fragment_key(base, n), None));
        }
        self.digest.remove(base, revision);
    }

    /// Appends the record with the revision and the digest after this batch.
    pub(crate) fn seal(&mut self, revision: Revision, digest: Digest) {
        let mut body = Vec::with_capacity(29);
        body.push(VERSION);
        body.extend_from_slice(&[0; 4]);
        body.extend_from_slice(&revision.to_le_bytes());
        body.extend_from_slice(&digest.sum.to_le_bytes());
        body.extend_from_slice(&digest.count.to_le_bytes());
        let crc = checksum(&meta_key(), &body[5..]);
        body[1..5].copy_from_slice(&crc.to_le_bytes());
        self.writes.push((meta_key(), Some(body)));
    }
}

fn fragment_key(base: &[u8], n: u16) -> Vec<u8> {
    let mut key = Vec::with_capacity(base.len() + 2);
    key.extend_from_slice(base);
    key.extend_from_slice(&n.to_be_bytes());
    key
}

/// A sum over the (key, revision) pairs of a set of records; adding and removing commute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Digest {
    sum: u64,
    count: u64,
}

impl Digest {
    pub(crate) fn add(&mut self, base: &[u8], revision: Revision) {
        self.sum = self.sum.wrapping_add(mix(base, revision));
        self.count = self.count.wrapping_add(1);
    }
    pub(crate) fn remove(&mut self, base: &[u8], revision: Revision) {
        self.sum = self.sum.wrapping_sub(mix(base, revision));
        self.count = self.count.wrapping_sub(1);
    }
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { sum: self.sum.wrapping_add(other.sum), count: self.count.wrapping_add(other.count) }
    }
}

/// Spreads a key and a revision over 64 bits (FNV-1a, then the finaliser of splitmix64).
fn mix(base: &[u8], revision: Revision) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    for &b in base.iter().chain(&revision.to_le_bytes()) {
        h = (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    }
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

/// A stored row, not yet decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawRow {
    pub(crate) revision: Revision,
    pub(crate) fragments: u16,
    pub(crate) payload: Vec<u8>,
}

/// A stored table, not yet decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RawTable {
    /// Since which revision the table is loaded, and in how many fragments the flag is stored.
    pub(crate) loaded: Option<(Revision, u16)>,
    pub(crate) rows: BTreeMap<String, RawRow>,
}

/// Everything a store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) revision: Revision,
    pub(crate) digest: Digest,
    pub(crate) tables: BTreeMap<String, RawTable>,
}

impl Content {
    /// Reads the engine's records, which come in key order.
    ///
    /// # Errors
    /// What is wrong, for a person.
    pub(crate) fn decode(records: impl IntoIterator<Item = Stored>) -> Result<Self, String> {
        let mut out = Self::default();
        let mut meta = None;
        let mut open: Option<(Vec<u8>, Vec<u8>, u16)> = None;
        for (key, value) in records {
            if key == meta_key() {
                meta = Some(value);
                continue;
            }
            let Some((base, n)) = key.split_last_chunk::<2>().map(|(b, n)| (b, u16::from_be_bytes(*n)))
            else {
                return Err("a key is too short".into());
            };
            match &mut open {
                Some((current, record, count)) if current == base => {
                    if n != *count {
                        return Err(format!("fragment {count} of {} is missing", printable(base)));
                    }
                    record.extend_from_slice(&value);
                    *count += 1;
                }
                _ => {
                    if let Some(done) = open.take() {
                        out.take(done)?;
                    }
                    if n != 0 {
                        return Err(format!("fragment 0 of {} is missing", printable(base)));
                    }
                    open = Some((base.to_vec(), value, 1));
                }
            }
        }
        if let Some(done) = open.take() {
            out.take(done)?;
        }
        let (revision, digest) = decode_meta(&meta.ok_or("the revision record is missing")?)?;
        if digest != out.digest {
            return Err(format!(
                "{} records were found that do not add up to revision {revision} ({} records)",
                out.digest.count, digest.count
            ));
        }
        if out.newest() > revision {
            return Err(format!("a record is newer than revision {revision}"));
        }
        out.revision = revision;
        Ok(out)
    }

    fn newest(&self) -> Revision {
        let rows = self.tables.values().flat_map(|t| t.rows.values().map(|r| r.revision));
        rows.chain(self.tables.values().filter_map(|t| t.loaded.map(|l| l.0))).max().unwrap_or(0)
    }

    fn take(&mut self, (base, record, fragments): (Vec<u8>, Vec<u8>, u16)) -> Result<(), String> {
        let damaged = |what: &str| format!("record {}: {what}", printable(&base));
        let (header, payload) =
            record.split_first_chunk::<HEADER>().ok_or_else(|| damaged("too short for its header"))?;
        if header[0] != VERSION {
            return Err(damaged("unknown version"));
        }
        let [_, c0, c1, c2, c3, r @ .., l0, l1, l2, l3] = *header;
        if checksum(&base, &record[5..]) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(damaged("the checksum is wrong"));
        }
        if usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).ok() != Some(payload.len()) {
            return Err(damaged("the length is wrong"));
        }
        let revision = u64::from_le_bytes(r);
        self.digest.add(&base, revision);
        let (kind, table, rest) = split_key(&base).ok_or_else(|| damaged("not a key of a row"))?;
        let table = self.tables.entry(table.to_owned()).or_default();
        if kind == KIND_LOADED {
            table.loaded = Some((revision, fragments));
            return Ok(());
        }
        let key = rest
            .split_first_chunk::<2>()
            .filter(|(len, key)| usize::from(u16::from_be_bytes(**len)) == key.len())
            .and_then(|(_, key)| std::str::from_utf8(key).ok())
            .ok_or_else(|| damaged("not a key of a row"))?;
        table.rows.insert(key.to_owned(), RawRow { revision, fragments, payload: payload.to_vec() });
        Ok(())
    }

    /// Every record of this content by engine key, as (revision, fragments, payload).
    pub(crate) fn records(&self) -> BTreeMap<Vec<u8>, (Revision, u16, &[u8])> {
        let mut out = BTreeMap::new();
        for (name, table) in &self.tables {
            if let Some((revision, fragments)) = table.loaded {
                out.insert(loaded_key(name), (revision, fragments, &[][..]));
            }
            for (key, row) in &table.rows {
                out.insert(row_key(name, key), (row.revision, row.fragments, row.payload.as_slice()));
            }
        }
        out
    }

    /// The batch that turns `on_disk` into this content, and the digest after it.
    pub(crate) fn difference(&self, on_disk: &Content) -> (Batch, Digest) {
        let (want, have) = (self.records(), on_disk.records());
        let mut batch = Batch::default();
        for (base, (revision, _, payload)) in &want {
            let old = have.get(base).map(|(r, f, _)| (*r, *f));
            if old.map(|o| o.0) != Some(*revision) {
                batch.put(base, old, *revision, payload);
            }
        }
        for (base, (revision, fragments, _)) in &have {
            if !want.contains_key(base) {
                batch.delete(base, (*revision, *fragments));
            }
        }
        let digest = on_disk.digest.plus(batch.digest);
        batch.seal(self.revision, digest);
        (batch, digest)
    }
}

fn decode_meta(bytes: &[u8]) -> Result<(Revision, Digest), String> {
    let damaged = || "the revision record is damaged".to_owned();
    let bytes: &[u8; 29] = bytes.try_into().map_err(|_| damaged())?;
    let word = |at: usize| bytes[at..].first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
    let crc = u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
    if bytes[0] != VERSION || checksum(&meta_key(), &bytes[5..]) != crc {
        return Err(damaged());
    }
    Ok((word(5), Digest { sum: word(13), count: word(21) }))
}

/// Kind, table and the rest of an engine key without fragment number.
fn split_key(base: &[u8]) -> Option<(u8, &str, &[u8])> {
    let ([kind, len], rest) = base.split_first_chunk::<2>()?;
    let (table, rest) = rest.split_at_checked(usize::from(*len))?;
    let known = *kind == KIND_ROW || (*kind == KIND_LOADED && rest.is_empty());
    known.then_some((*kind, std::str::from_utf8(table).ok()?, rest))
}

fn printable(base: &[u8]) -> String {
    match split_key(base) {
        Some((KIND_ROW, table, rest)) => {
            format!("{table}/{}", String::from_utf8_lossy(rest.get(2..).unwrap_or_default()))
        }
        Some((_, table, _)) => format!("{table} (loaded)"),
        None => format!("{:?}", String::from_utf8_lossy(base)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn apply(disk: &mut BTreeMap<Vec<u8>, Vec<u8>>, batch: Batch) {
        for (k, v) in batch.writes {
            match v {
                Some(v) => disk.insert(k, v),
                None => disk.remove(&k),
            };
        }
    }

    fn content() -> impl Strategy<Value = Content> {
        let row = (1u64..100, prop::collection::vec(any::<u8>(), 0..9000));
        let table = (prop::option::of(1u64..100), prop::collection::btree_map("\\PC{0,12}", row, 0..12));
        prop::collection::btree_map("[a-z]{1,8}", table, 0..4).prop_map(|tables| {
            let mut c = Content { revision: 100, ..Content::default() };
            for (name, (loaded, rows)) in tables {
                let t = c.tables.entry(name).or_default();
                t.loaded = loaded.map(|r| (r, 1));
                for (key, (revision, payload)) in rows {
                    let fragments = u16::try_from((HEADER + payload.len()).div_ceil(FRAGMENT)).unwrap();
                    t.rows.insert(key, RawRow { revision, fragments, payload });
                }
            }
            c.tables.retain(|_, t| t.loaded.is_some() || !t.rows.is_empty());
            let mut digest = Digest::default();
            for (base, (revision, ..)) in c.records() {
                digest.add(&base, revision);
            }
            c.digest = digest;
            c
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_difference_turns_one_content_into_the_other(a in content(), mut b in content()) {
            // A revision names one write: the same key with the same revision has the same payload.
            for (name, table) in &mut b.tables {
                for (key, row) in &mut table.rows {
                    if let Some(same) = a.tables.get(name).and_then(|t| t.rows.get(key))
                        && same.revision == row.revision
                    {
                        *row = same.clone();
                    }
                }
            }
            let mut disk = BTreeMap::new();
            apply(&mut disk, a.difference(&Content::default()).0);
            prop_assert_eq!(&Content::decode(disk.clone()).unwrap(), &a);
            apply(&mut disk, b.difference(&a).0);
            prop_assert_eq!(&Content::decode(disk).unwrap(), &b);
        }

        #[test]
        fn every_flipped_bit_and_every_missing_record_is_seen(a in content(), pick: prop::sample::Index, at: prop::sample::Index, bit in 0u8..8) {
            let mut disk = BTreeMap::new();
            apply(&mut disk, a.difference(&Content::default()).0);
            let keys: Vec<_> = disk.keys().cloned().collect();
            let key = &keys[pick.index(keys.len())];
            let mut flipped = disk.clone();
            let value = flipped.get_mut(key).unwrap();
            let i = at.index(value.len());
            value[i] ^= 1 << bit;
            prop_assert!(Content::decode(flipped).is_err());
            let mut flipped = disk.clone();
            let value = flipped.remove(key).unwrap();
            prop_assert!(Content::decode(flipped.clone()).is_err());
            let mut moved = key.clone();
            let i = at.index(moved.len());
            moved[i] ^= 1 << bit;
            flipped.insert(moved, value);
            prop_assert!(Content::decode(flipped).is_err());
        }

        #[test]
        fn no_input_panics(records in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), prop::collection::vec(any::<u8>(), 0..60)), 0..10)) {
            let _ = Content::decode(records);
        }
    }
}
