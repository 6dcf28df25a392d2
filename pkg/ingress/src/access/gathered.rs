//! Lines between those who serve requests and the one who writes them.

use super::line::Stamp;
use super::{Dropped, Format};
use crate::observe::Record;
use crate::state::lock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant, SystemTime};

/// Places where lines gather. Each thread that serves has its own, while there are no more of them than of these.
const PLACES: usize = 16;
/// Bytes that may wait in a place. A line more may, the length of which is bounded too.
pub(super) const MOST: usize = 1 << 20;
/// Memory that a place keeps when its lines are written.
const KEPT: usize = 64 << 10;

/// Lines that wait to be written.
#[derive(Debug)]
pub(super) struct Gathered {
    format: Format,
    places: [Mutex<Place>; PLACES],
    dropped: Dropped,
    /// Whether the writer knows that there is something to do.
    woken: AtomicBool,
    /// Whether the writer is to come to its end.
    ending: AtomicBool,
    writer: OnceLock<Thread>,
}

#[derive(Debug, Default)]
struct Place {
    lines: Lines,
    stamp: Stamp,
    /// Nobody writes any more.
    closed: bool,
}

/// Lines that are written at once.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) bytes: Vec<u8>,
    pub(super) count: u64,
}

impl Lines {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        self.count = 0;
    }
}

/// The place of this thread.
fn place() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static PLACE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % PLACES;
    }
    PLACE.with(|place| *place)
}

impl Gathered {
    pub(super) fn new(format: Format, dropped: Dropped) -> Self {
        Self {
            format,
            places: Default::default(),
            dropped,
            woken: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            writer: OnceLock::new(),
        }
    }

    /// Adds a line, unless too much waits already.
    pub(super) fn add(&self, record: &Record<'_>) {
        let now = SystemTime::now();
        let mut place = lock(&self.places[place()]);
        let Place { lines, stamp, closed } = &mut *place;
        if *closed || lines.bytes.len() >= MOST {
            return self.dropped.add(1);
        }
        self.format.line(&mut lines.bytes, stamp, record, now);
        lines.count += 1;
        // Of the others the writer knows, and when other places have lines it is awake.
        if lines.count == 1 && !self.woken.swap(true, Ordering::SeqCst) {
            self.unpark();
        }
    }

    /// Says who writes; before the first line.
    pub(super) fn written_by(&self, writer: &Thread) {
        let _ = self.writer.set(writer.clone());
    }

    /// Lets the writer write what there is, and come to its end.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
        self.woken.store(true, Ordering::SeqCst);
        self.unpark();
    }

    fn unpark(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    /// Waits for a first line, then for as long as lines gather. Returns whether more than what there is now may come.
    pub(super) fn wait(&self, gather: Duration) -> bool {
        while !self.woken.load(Ordering::SeqCst) {
            std::thread::park();
        }
        let begun = Instant::now();
        while let Some(left) = gather.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
            if self.ending.load(Ordering::SeqCst) {
                break;
            }
            std::thread::park_timeout(left);
        }
        // Before the places are looked into: a line that comes later wakes again.
        self.woken.store(false, Ordering::SeqCst);
        !self.ending.load(Ordering::SeqCst)
    }

    /// Hands over what waits, place by place. `last`: nothing is taken after it.
    pub(super) fn take(&self, last: bool, lines: &mut Lines, mut write: impl FnMut(&Lines)) {
        for place in &self.places {
            {
                let mut place = lock(place);
                place.closed |= last;
                std::mem::swap(&mut place.lines, lines);
            }
            if lines.count > 0 {
                write(lines);
                lines.clear();
            }
        }
    }
}
