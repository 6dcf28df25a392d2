//! Power loss at any moment. The store's file operations are recorded; then the disk is put together as it may be found
//! when the power goes between any two of them: what was not synced is there, is not, is cut off, or is there in part
//! and out of order, names of files as well as their content. The engine is trusted for nothing: it is lost, or
//! at any of its earlier states.

mod disk;
mod memory;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Item, item, runtime};
use crate::disk::tape::{self, Event, Note};
use crate::{Change, Durability, Store};
use disk::{Dice, Disk, Image};
use memory::{Memory, State};

type Rows = BTreeMap<String, Item>;

const COMMITS: usize = 48;

fn rows(store: &Store) -> Rows {
    store.table::<Item>().snapshot().rows.iter().map(|(k, v)| (k.clone(), (**v).clone())).collect()
}

/// Commit `n` changes several rows, of which some take several records.
fn batch(n: usize) -> Vec<Change<Item>> {
    let number = u32::try_from(n).unwrap();
    let long = |name: String, len: usize| {
        Change::Put(Item { text: "abcdefg".repeat(len / 7), ..item(&name, number) })
    };
    let mut batch = vec![long("head".into(), 20), long(format!("k{}", n % 5), n * 397 % 6000)];
    if n.is_multiple_of(3) {
        batch.push(Change::Delete(format!("k{}", (n + 1) % 5)));
    }
    batch.push(long("tail".into(), 20));
    batch
}

fn after(mut rows: Rows, batch: Vec<Change<Item>>) -> Rows {
    for change in batch {
        match change {
            Change::Put(row) => rows.insert(row.name.clone(), row),
            Change::Delete(key) => rows.remove(&key),
        };
    }
    rows
}

/// What the table holds after each number of commits.
fn states() -> Vec<Rows> {
    let mut states = vec![Rows::new()];
    for n in 1..=COMMITS {
        states.push(after(states[n - 1].clone(), batch(n)));
    }
    states
}

/// Writes in groups of several commits, and notes what is promised.
fn write(root: &Path, store: &Store) {
    // One thread, so that commits reach the writer in the order in which they are spawned.
    let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
    rt.block_on(async {
        let table = store.table::<Item>();
        let mut n = 0;
        while n < COMMITS {
            let group: Vec<usize> = (n + 1..=(n + 1 + n % 3).min(COMMITS)).collect();
            n = *group.last().unwrap();
            tape::note(root, Note::Asked(n));
            let mut commits = tokio::task::JoinSet::new();
            for n in group {
                // Every fifth need not be on disk at once.
                let durability = if n % 5 == 0 { Durability::Cached } else { Durability::Flushed };
                let table = table.clone();
                commits.spawn(async move {
                    table.commit(batch(n), durability).await.unwrap();
                    (n, durability)
                });
                // In this order: the next one begins when this one waits for the writer.
                tokio::task::yield_now().await;
            }
            while let Some(done) = commits.join_next().await {
                let (n, durability) = done.unwrap();
                if durability == Durability::Flushed {
                    tape::note(root, Note::Promised(n));
                }
            }
        }
    });
}

/// What had been promised and what had been asked for before a cut.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    promised: usize,
    asked: usize,
    engine: usize,
}

impl Seen {
    fn note(&mut self, note: Note) {
        match note {
            Note::Promised(n) => self.promised = self.promised.max(n),
            Note::Asked(n) => self.asked = self.asked.max(n),
            Note::Engine(n) => self.engine = n,
        }
    }
}

/// Opens what the power cut left, checks it, and returns what happened on the disk meanwhile.
fn open(
    image: &Image,
    engine: Option<State>,
    states: &[Rows],
    seen: Seen,
) -> (Vec<Event>, Vec<State>, usize) {
    let root = scratch();
    image.lay_out(root.path());
    let dir = root.path().join("var/store");
    let opener = Arc::new(Memory::new(root.path()));
    if let Some(state) = engine {
        std::fs::create_dir_all(dir.join("gen-1")).unwrap();
        opener.put(&dir.join("gen-1"), state);
    }
    tape::start(root.path(), None);
    let opened = Store::open_with(&dir, Arc::<Memory>::clone(&opener)).unwrap();
    assert!(opened.set_aside.is_none(), "{seen:?}: {:?}", opened.set_aside);
    let found = rows(&opened.store);
    let n = found.get("head").map_or(0, |r| usize::try_from(r.value).unwrap());
    assert!(n >= seen.promised, "{seen:?}: only {n} commits are there");
    assert!(n <= seen.asked, "{seen:?}: {n} commits are there");
    assert!(found == states[n], "{seen:?}: {n} commits are there, but not all of them");
    assert!(opened.store.revision() >= u64::try_from(n).unwrap());
    tape::note(root.path(), Note::Promised(n));
    // It can be written to, and the journal alone has that too.
    runtime().block_on(async {
        opened.store.table().put(item("new", 7), Durability::Flushed).await.unwrap();
    });
    let events = tape::stop(root.path());
    let history = opener.history();
    drop(opened);
    opener.forget();
    let opened = Store::open_with(&dir, opener).unwrap();
    assert!(opened.set_aside.is_none(), "{:?}", opened.set_aside);
    assert!(rows(&opened.store) == after(found, vec![Change::Put(item("new", 7))]), "after writing to it");
    let events = events.into_iter().map(|e| disk::relative(e, root.path())).collect();
    (events, history, n)
}

/// A directory on a disk of memory, where there is one: what is tested is not how fast syncs are.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The power goes after every operation; of what the disk then may hold, `per_cut` are opened. Returns how many were.
fn cut_everywhere(
    mut disk: Disk,
    events: &[Event],
    history: &[State],
    mut seen: Seen,
    states: &[Rows],
    (per_cut, again): (usize, usize),
    dice: &mut Dice,
) -> usize {
    let mut opened = 0;
    for event in events {
        if let Event::Note(note) = event {
            seen.note(*note);
            continue;
        }
        disk.apply(event);
        for image in disk.images(per_cut, dice) {
            let engine = match dice.below(3) {
                0 => None,
                1 => Some(State::new()),
                _ => dice.pick(&history[..seen.engine]).cloned(),
            };
            // No engine was ever opened in a directory that was not made.
            let engine = engine.filter(|_| seen.engine > 0);
            let (events, more, n) = open(&image, engine, states, seen);
            opened += 1;
            // And again while that is being opened.
            if again > 0 && dice.below(again) == 0 {
                let seen = Seen { promised: seen.promised, asked: n.max(seen.promised), engine: 0 };
                let events = &events
                    [..events.iter().position(|e| matches!(e, Event::Note(Note::Promised(_)))).unwrap()];
                opened += cut_everywhere(image.disk(), events, &more, seen, states, (2, 0), dice);
            }
        }
    }
    opened
}

#[test]
fn every_promise_outlives_a_power_cut_at_any_moment() {
    let root = scratch();
    let opener = Arc::new(Memory::new(root.path()));
    tape::start(root.path(), None);
    let opened = Store::open_with(&root.path().join("var/store"), Arc::<Memory>::clone(&opener)).unwrap();
    write(root.path(), &opened.store);
    let states = states();
    assert!(rows(&opened.store) == states[COMMITS]);
    drop(opened);
    let events: Vec<_> =
        tape::stop(root.path()).into_iter().map(|e| disk::relative(e, root.path())).collect();
    let begun =
        events.iter().filter(|e| matches!(e, Event::Rename(_, to) if to.ends_with("journal"))).count();
    assert!(begun > 2, "the journal was begun anew only {begun} times");
    let per_cut = std::env::var("WARREN_STORE_IMAGES").map_or(6, |s| s.parse().unwrap());
    let (disk, history, seen) = (Disk::default(), opener.history(), Seen::default());
    let dice = &mut Dice::new(per_cut);
    let count = cut_everywhere(disk, &events, &history, seen, &states, (per_cut, 12), dice);
    println!("{} operations, {count} power cuts", events.len());
}

#[test]
fn a_file_operation_that_fails_costs_no_promise() {
    for at in 0.. {
        let root = scratch();
        let dir = root.path().join("var/store");
        let opener = Arc::new(Memory::new(root.path()));
        tape::start(root.path(), Some(at));
        // What the table held after each promise.
        let mut held = vec![Rows::new()];
        if let Ok(opened) = Store::open_with(&dir, Arc::<Memory>::clone(&opener)) {
            runtime().block_on(async {
                let table = opened.store.table::<Item>();
                for n in 1..=12 {
                    if table.commit(batch(n * 3 + 1), Durability::Flushed).await.is_err() {
                        // The pause after a failed revival.
                        tokio::time::sleep(Duration::from_millis(210)).await;
                        table.commit(batch(n * 3 + 1), Durability::Flushed).await.unwrap();
                    }
                    held.push(rows(&opened.store));
                    tape::note(root.path(), Note::Promised(n));
                }
            });
        }
        let events = tape::stop(root.path());
        let failed = events.iter().any(|e| matches!(e, Event::Failed));
        let mut disk = Disk::default();
        for event in events {
            disk.apply(&disk::relative(event.clone(), root.path()));
            let Event::Note(Note::Promised(n)) = event else { continue };
            for image in disk.images(2, &mut Dice::new(at)) {
                let root = scratch();
                image.lay_out(root.path());
                let opener = Arc::new(Memory::new(root.path()));
                let opened = Store::open_with(&root.path().join("var/store"), opener).unwrap();
                assert!(opened.set_aside.is_none(), "operation {at}: {:?}", opened.set_aside);
                assert!(rows(&opened.store) == held[n], "operation {at} failed, and promise {n} was lost");
            }
        }
        if !failed {
            println!("{at} operations");
            assert!(at > 40, "only {at} operations");
            break;
        }
    }
}
