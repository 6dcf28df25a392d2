//! A disk as POSIX lets it be: content is there after a sync of the file, a name after a sync of its directory, and
//! before that anything may be.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::disk::tape::Event;

/// What a disk writes whole.
const SECTOR: usize = 512;

/// Numbers that look random and are the same in every run.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: usize) -> Self {
        Self(u64::try_from(seed).unwrap())
    }
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) >> 33).unwrap() % end.max(1)
    }
    pub(super) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Node {
    Dir,
    File(usize),
}

/// A change of names that is not yet on disk.
#[derive(Debug, Clone)]
enum Change {
    Put(PathBuf, Node),
    Move(PathBuf, PathBuf, Node),
    Remove(PathBuf),
}

impl Change {
    fn dir(&self) -> Option<&Path> {
        match self {
            Change::Put(path, _) | Change::Move(_, path, _) | Change::Remove(path) => path.parent(),
        }
    }
    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Change::Put(path, node) => drop(names.insert(path.clone(), *node)),
            Change::Move(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
            Change::Remove(path) => drop(names.remove(path)),
        }
    }
}

#[derive(Debug, Default, Clone)]
pub(super) struct Disk {
    /// Of each file what is on disk, and every content it had since.
    files: Vec<Vec<Vec<u8>>>,
    handles: BTreeMap<u64, usize>,
    /// As the running system sees it.
    names: BTreeMap<PathBuf, Node>,
    /// As it is on disk.
    durable: BTreeMap<PathBuf, Node>,
    changes: Vec<Change>,
}

/// What may be found after the power was cut.
pub(super) struct Image {
    dirs: Vec<PathBuf>,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

/// With paths as they are below `root`.
pub(super) fn relative(event: Event, root: &Path) -> Event {
    let rel = |p: PathBuf| p.strip_prefix(root).map(Path::to_owned).unwrap_or(p);
    match event {
        Event::Open { handle, path, fresh } => Event::Open { handle, path: rel(path), fresh },
        Event::Rename(from, to) => Event::Rename(rel(from), rel(to)),
        Event::Remove(path) => Event::Remove(rel(path)),
        Event::SyncDir(path) => Event::SyncDir(rel(path)),
        Event::MakeDir(path) => Event::MakeDir(rel(path)),
        other => other,
    }
}

impl Disk {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    fn write(&mut self, handle: u64, f: impl FnOnce(&mut Vec<u8>)) {
        let versions = &mut self.files[self.handles[&handle]];
        let mut now = versions.last().unwrap().clone();
        f(&mut now);
        versions.push(now);
    }

    pub(super) fn apply(&mut self, event: &Event) {
        match event {
            Event::Open { handle, path, fresh } => {
                let file = match self.names.get(path) {
                    Some(Node::File(file)) => *file,
                    _ => {
                        self.files.push(vec![Vec::new()]);
                        let file = self.files.len() - 1;
                        self.change(Change::Put(path.clone(), Node::File(file)));
                        file
                    }
                };
                self.handles.insert(*handle, file);
                if *fresh {
                    self.write(*handle, Vec::clear);
                }
            }
            Event::Write(handle, bytes) => self.write(*handle, |now| now.extend_from_slice(bytes)),
            Event::SetLen(handle, len) => {
                self.write(*handle, |now| now.resize(usize::try_from(*len).unwrap(), 0));
            }
            Event::Sync(handle) => {
                let versions = &mut self.files[self.handles[handle]];
                versions.drain(..versions.len() - 1);
            }
            Event::Rename(from, to) => {
                let node = self.names[from];
                self.change(Change::Move(from.clone(), to.clone(), node));
            }
            Event::Remove(path) if self.names.contains_key(path) => self.change(Change::Remove(path.clone())),
            Event::MakeDir(path) if !self.names.contains_key(path) => {
                self.change(Change::Put(path.clone(), Node::Dir));
            }
            Event::SyncDir(dir) => {
                let (done, rest) =
                    std::mem::take(&mut self.changes).into_iter().partition(|c| c.dir() == Some(dir));
                self.changes = rest;
                let done: Vec<Change> = done;
                done.iter().for_each(|c| c.apply(&mut self.durable));
            }
            Event::Remove(_) | Event::MakeDir(_) | Event::Note(_) | Event::Failed => {}
        }
    }

    /// Different things that may be found now: all of what was written, only what was synced, and others.
    pub(super) fn images(&self, count: usize, dice: &mut Dice) -> Vec<Image> {
        (0..count).map(|n| self.image(n, dice)).collect()
    }

    fn image(&self, n: usize, dice: &mut Dice) -> Image {
        let mut names = self.durable.clone();
        for change in &self.changes {
            let there = match n {
                0 => false,
                1 => true,
                _ => dice.below(2) == 0,
            };
            if there {
                change.apply(&mut names);
            }
        }
        let (mut dirs, mut files) = (Vec::new(), BTreeMap::new());
        for (path, node) in &names {
            let above = path.ancestors().skip(1).filter(|a| !a.as_os_str().is_empty());
            if !above.into_iter().all(|a| names.get(a) == Some(&Node::Dir)) {
                continue;
            }
            match node {
                Node::Dir => dirs.push(path.clone()),
                Node::File(file) => drop(files.insert(path.clone(), content(&self.files[*file], n, dice))),
            }
        }
        Image { dirs, files }
    }
}

/// Of a file that had these contents since it was synced, the first of them then, what may be found.
fn content(versions: &[Vec<u8>], n: usize, dice: &mut Dice) -> Vec<u8> {
    let (old, new) = (&versions[0], &versions[versions.len() - 1]);
    let common = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    match n {
        0 => return old.clone(),
        1 => return new.clone(),
        // Cut off in the middle of what is new.
        2 => return new[..common + dice.below(new.len() - common + 1)].to_vec(),
        _ => {}
    }
    // One sector of the new is missing, or one alone is there, or each as it comes.
    let sectors = new.len().max(old.len()).div_ceil(SECTOR);
    let (way, one) = (dice.below(3), common / SECTOR + dice.below(sectors - (common / SECTOR).min(sectors)));
    let len = dice.pick(versions).map_or(0, Vec::len).max(if way < 2 { new.len() } else { 0 });
    let mut out = vec![0; len];
    for sector in 0..sectors {
        let from = match way {
            0 => {
                if sector == one {
                    old
                } else {
                    new
                }
            }
            1 => {
                if sector == one {
                    new
                } else {
                    old
                }
            }
            _ => &versions[dice.below(versions.len())],
        };
        let start = sector * SECTOR;
        let end = (start + SECTOR).min(len).min(from.len());
        if start < end {
            out[start..end].copy_from_slice(&from[start..end]);
        }
    }
    out
}

impl Image {
    pub(super) fn lay_out(&self, root: &Path) {
        for dir in &self.dirs {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for (path, content) in &self.files {
            fs::write(root.join(path), content).unwrap();
        }
    }

    /// A disk that holds this and nothing else.
    pub(super) fn disk(&self) -> Disk {
        let mut disk = Disk::default();
        for dir in &self.dirs {
            disk.names.insert(dir.clone(), Node::Dir);
        }
        for (path, content) in &self.files {
            disk.names.insert(path.clone(), Node::File(disk.files.len()));
            disk.files.push(vec![content.clone()]);
        }
        disk.durable = disk.names.clone();
        disk
    }
}
