//! An engine in memory that remembers each of its states, and that loses everything when told to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::codec::{Stored, Write};
use crate::disk::tape::{self, Note};
use crate::engine::{Engine, OpenError, Opener};

pub(super) type State = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Default)]
struct Shared {
    dirs: BTreeMap<PathBuf, State>,
    history: Vec<State>,
}

pub(super) struct Memory {
    root: PathBuf,
    shared: Arc<Mutex<Shared>>,
}

impl Memory {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), shared: Arc::default() }
    }
    pub(super) fn put(&self, dir: &Path, state: State) {
        self.shared.lock().unwrap().dirs.insert(dir.to_owned(), state);
    }
    pub(super) fn forget(&self) {
        self.shared.lock().unwrap().dirs.clear();
    }
    pub(super) fn history(&self) -> Vec<State> {
        self.shared.lock().unwrap().history.clone()
    }
}

struct Opened {
    root: PathBuf,
    dir: PathBuf,
    shared: Arc<Mutex<Shared>>,
}

impl Opener for Memory {
    fn open(&self, dir: &Path) -> Result<Box<dyn Engine>, OpenError> {
        self.shared.lock().unwrap().dirs.entry(dir.to_owned()).or_default();
        Ok(Box::new(Opened {
            root: self.root.clone(),
            dir: dir.to_owned(),
            shared: Arc::clone(&self.shared),
        }))
    }
}

impl Engine for Opened {
    fn apply(&mut self, batch: Vec<Write>) -> Result<(), String> {
        let mut shared = self.shared.lock().unwrap();
        let state = shared.dirs.entry(self.dir.clone()).or_default();
        for (key, value) in batch {
            match value {
                Some(value) => state.insert(key, value),
                None => state.remove(&key),
            };
        }
        let state = state.clone();
        shared.history.push(state);
        tape::note(&self.root, Note::Engine(shared.history.len()));
        Ok(())
    }
    fn flush(&mut self) -> Result<(), String> {
        Ok(())
    }
    fn scan(&mut self) -> Result<Vec<Stored>, String> {
        Ok(self.shared.lock().unwrap().dirs.get(&self.dir).cloned().unwrap_or_default().into_iter().collect())
    }
    fn disk_bytes(&self) -> u64 {
        0
    }
}
