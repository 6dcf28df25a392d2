//! Files as they will be on a machine, in memory: what every format of package is made from.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What is at a path.
#[derive(Clone)]
pub(super) enum Content {
    Directory,
    File(Arc<[u8]>),
}

/// An entry: owned by root, dated by the release.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) content: Content,
    /// Permission bits.
    pub(super) mode: u32,
}

impl Entry {
    /// Bytes of a file.
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Directory => &[],
            Content::File(bytes) => bytes,
        }
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(self.content, Content::File(_))
    }
}

/// Entries by path, without a slash in front; sorted, parents before what is in them.
#[derive(Clone, Default)]
pub(super) struct Tree(BTreeMap<String, Entry>);

impl Tree {
    /// Adds a file, and the directories above it.
    pub(super) fn file(&mut self, path: &str, mode: u32, bytes: impl Into<Arc<[u8]>>) {
        for (at, _) in path.match_indices('/') {
            let parent = Entry { content: Content::Directory, mode: 0o755 };
            self.0.entry(path[..at].to_owned()).or_insert(parent);
        }
        self.0.insert(path.to_owned(), Entry { content: Content::File(bytes.into()), mode });
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.0.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.iter().filter(|(_, entry)| entry.is_file())
    }
}
