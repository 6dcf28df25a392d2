//! The journal: every batch once more, in a plain file that is synced before a write is acknowledged.
//!
//! It begins with everything the store held, so that the journal alone gives the whole store, as the engine alone
//! does. On opening, the newer of the two that is intact wins and the other is brought to it. Thus an engine that lost
//! its tail, or does not open, costs nothing; nor does a damaged journal.
//!
//! A file of frames: magic, length, checksum, and the engine writes of one batch. A frame that was cut off ends it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use crate::codec::{Batch, Content, Write};
use crate::disk::{self, DiskFile, sync_dir};

const NAME: &str = "journal";
const NAME_NEW: &str = "journal.new";
const MAGIC: &[u8; 4] = b"WRNj";
const HEADER: usize = 12;
/// The journal is begun anew when it has grown by this much,
const GROWTH: u64 = if cfg!(test) { 16 * 1024 } else { 4 * 1024 * 1024 };
/// or by this many times what it began with, whichever is more.
const GROWTH_FACTOR: u64 = 3;

/// Engine writes in one frame of what it begins with.
const STEP: usize = 256;

/// An open journal.
pub(crate) struct Journal {
    file: DiskFile,
    len: u64,
    /// When it is longer than this, it is time to begin anew.
    limit: u64,
}

/// Why a journal could not be begun.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BeginError {
    /// The one before is still in its place.
    #[error("{0}")]
    Kept(io::Error),
    /// The new one has the name, but perhaps not yet on disk; what is written to the one before is lost.
    #[error("{0}")]
    Replaced(io::Error),
}

impl From<BeginError> for io::Error {
    fn from(e: BeginError) -> Self {
        match e {
            BeginError::Kept(e) | BeginError::Replaced(e) => e,
        }
    }
}

/// What a journal file gave.
pub(crate) struct Found {
    pub(crate) content: Content,
    /// How much of the file is intact.
    len: u64,
}

impl Journal {
    /// Reads the journal in `dir`. `None`: there is none.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub(crate) fn read(dir: &Path) -> Result<Option<Found>, String> {
        let bytes = match fs::read(dir.join(NAME)) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(format!("the journal cannot be read: {e}")),
        };
        let mut records = BTreeMap::new();
        let mut rest = bytes.as_slice();
        while let Some((writes, after)) = next_frame(rest) {
            for (key, value) in writes {
                match value {
                    Some(value) => records.insert(key, value),
                    None => records.remove(&key),
                };
            }
            rest = after;
        }
        let content = Content::decode(records).map_err(|e| format!("the journal: {e}"))?;
        Ok(Some(Found { content, len: (bytes.len() - rest.len()) as u64 }))
    }

    /// Goes on with the journal that was read.
    pub(crate) fn resume(dir: &Path, found: &Found) -> io::Result<Self> {
        let file = DiskFile::append(&dir.join(NAME))?;
        file.set_len(found.len)?;
        file.sync()?;
        Ok(Self { file, len: found.len, limit: found.len + GROWTH })
    }

    /// Begins a journal with `content`, in the place of the one before, and brings it to disk.
    ///
    /// # Errors
    /// Which of the two journals now has the name decides whether the one before may still be written to.
    pub(crate) fn begin(dir: &Path, content: &Content) -> Result<Self, BeginError> {
        let path = dir.join(NAME_NEW);
        let written = (|| {
            let mut journal = Self { file: DiskFile::create(&path)?, len: 0, limit: 0 };
            // In steps: as one frame the content would be in memory twice more.
            let mut batch = Batch::default();
            for (base, (revision, _, payload)) in content.records() {
                batch.put(&base, None, revision, payload);
                if batch.writes.len() >= STEP {
                    journal.append(&std::mem::take(&mut batch.writes))?;
                }
            }
            let digest = batch.digest;
            batch.seal(content.revision, digest);
            journal.append(&batch.writes)?;
            journal.file.sync()?;
            disk::rename(&path, &dir.join(NAME))?;
            Ok(journal)
        })();
        let mut journal = written.map_err(|e| {
            // It may be what fills the disk.
            let _ = disk::remove(&path);
            BeginError::Kept(e)
        })?;
        sync_dir(dir).map_err(BeginError::Replaced)?;
        journal.limit = journal.len + GROWTH.max(journal.len * GROWTH_FACTOR);
        Ok(journal)
    }

    /// Removes the journal in `dir`.
    pub(crate) fn remove(dir: &Path) -> io::Result<()> {
        disk::remove(&dir.join(NAME))
    }

    /// Appends a batch. It is on disk after [`Journal::sync`].
    pub(crate) fn append(&mut self, writes: &[Write]) -> io::Result<()> {
        let frame = frame(writes);
        self.file.write_all(&frame)?;
        self.len += frame.len() as u64;
        Ok(())
    }

    /// Brings everything appended to disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Whether it is time to begin anew.
    pub(crate) fn is_long(&self) -> bool {
        self.len > self.limit
    }

    /// After beginning anew failed: not again before it has grown some more.
    pub(crate) fn postpone(&mut self) {
        self.limit = self.len + GROWTH;
    }
}

fn word(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes()
}

fn frame(writes: &[Write]) -> Vec<u8> {
    let mut out = Vec::with_capacity(
        HEADER + writes.iter().map(|(k, v)| 9 + k.len() + v.as_ref().map_or(0, Vec::len)).sum::<usize>(),
    );
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[0; 8]);
    for (key, value) in writes {
        out.extend_from_slice(&word(key.len()));
        out.extend_from_slice(key);
        match value {
            Some(value) => {
                out.push(1);
                out.extend_from_slice(&word(value.len()));
                out.extend_from_slice(value);
            }
            None => out.push(0),
        }
    }
    let len = word(out.len() - HEADER);
    out[4..8].copy_from_slice(&len);
    let crc = checksum(len, &out[HEADER..]);
    out[8..12].copy_from_slice(&crc.to_le_bytes());
    out
}

fn checksum(len: [u8; 4], body: &[u8]) -> u32 {
    let mut h = crc32fast::Hasher::new();
    h.update(&len);
    h.update(body);
    h.finalize()
}

/// The writes of the frame at the beginning of `bytes`, and what follows it; `None` when there is no intact frame.
fn next_frame(bytes: &[u8]) -> Option<(Vec<Write>, &[u8])> {
    let ([m0, m1, m2, m3, l0, l1, l2, l3, c0, c1, c2, c3], rest) = bytes.split_first_chunk::<HEADER>()?;
    let len = [*l0, *l1, *l2, *l3];
    let (mut body, after) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(len)).ok()?)?;
    if [*m0, *m1, *m2, *m3] != *MAGIC || checksum(len, body) != u32::from_le_bytes([*c0, *c1, *c2, *c3]) {
        return None;
    }
    let mut writes = Vec::new();
    while !body.is_empty() {
        let key = field(&mut body)?.to_vec();
        let (kind, next) = body.split_first()?;
        body = next;
        let value = if *kind == 1 { Some(field(&mut body)?.to_vec()) } else { None };
        writes.push((key, value));
    }
    Some((writes, after))
}

fn field<'a>(body: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, rest) = body.split_first_chunk::<4>()?;
    let (field, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
    *body = rest;
    Some(field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{RawRow, RawTable};
    use proptest::prelude::*;

    fn writes() -> impl Strategy<Value = Vec<Write>> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..30);
        prop::collection::vec((bytes(), prop::option::of(bytes())), 0..6)
    }

    #[test]
    fn what_it_begins_with_comes_back_from_many_frames() {
        let row = |n: usize| RawRow { revision: n as u64, fragments: 1, payload: vec![7; n] };
        let rows = (0..3 * STEP).map(|n| (format!("row-{n}"), row(n))).collect();
        let table = RawTable { loaded: Some((1, 1)), rows };
        let content =
            Content { revision: 9999, tables: [("t".to_owned(), table)].into(), ..Content::default() };
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::begin(dir.path(), &content).unwrap();
        let found = Journal::read(dir.path()).unwrap().unwrap();
        assert_eq!((found.content.revision, &found.content.tables), (9999, &content.tables));
        assert_eq!(found.len, journal.len());
        let bytes = fs::read(dir.path().join(NAME)).unwrap();
        assert!(next_frame(&bytes).is_some_and(|(_, rest)| !rest.is_empty()), "one frame holds it all");
        // Without its last frame it is no journal.
        fs::write(dir.path().join(NAME), &bytes[..bytes.len() - 1]).unwrap();
        assert!(Journal::read(dir.path()).is_err());
    }

    proptest! {
        #[test]
        fn frames_come_back_and_a_cut_or_flipped_one_ends_the_journal(
            batches in prop::collection::vec(writes(), 1..6), at: prop::sample::Index, bit in 0u8..8, cut: bool,
        ) {
            let frames: Vec<_> = batches.iter().map(|b| frame(b)).collect();
            let mut bytes = frames.concat();
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1 << bit;
            }
            let mut end = 0;
            let intact = frames.iter().take_while(|f| { end += f.len(); end <= at }).count();
            let (mut rest, mut got) = (bytes.as_slice(), Vec::new());
            while let Some((writes, after)) = next_frame(rest) {
                got.push(writes);
                rest = after;
            }
            prop_assert_eq!(&got[..], &batches[..intact]);
        }

        #[test]
        fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = next_frame(&bytes);
            let _ = next_frame(&[&MAGIC[..], &bytes].concat());
        }
    }
}
