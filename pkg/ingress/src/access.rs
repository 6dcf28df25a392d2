//! The access log: one line for each request, written by a thread of its own.
//!
//! Lines are formatted where requests are served, and gather there in memory of bounded size until that thread takes them.
//! When it is behind, lines are dropped and counted: a slow disk, or a reader that does not read, holds no request up.

mod gathered;
mod line;
mod writer;

use crate::observe::{Observer, Record};
use gathered::Gathered;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Common Log Format.
    Common,
    /// A JSON object.
    Json,
}

/// What is logged of requests, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLogConfig {
    /// How lines look.
    pub format: Format,
    /// The file; standard output when there is none.
    pub file: Option<PathBuf>,
}

/// Lines that were dropped. Clones share the count.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dropped(Arc<AtomicU64>);

impl Dropped {
    fn add(&self, lines: u64) {
        self.0.fetch_add(lines, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// An access log that is written.
pub struct AccessLog {
    lines: Arc<Gathered>,
    dropped: Dropped,
    /// Ends with the writer.
    written: Mutex<Option<oneshot::Receiver<()>>>,
}

impl AccessLog {
    /// Starts its writer. A file that cannot be opened is tried again; its lines are dropped meanwhile.
    pub fn start(config: &AccessLogConfig) -> std::io::Result<Self> {
        let (writing, written) = oneshot::channel();
        let log = Self::new(config.format, written);
        let writer = writer::Writer::new(config.file.clone(), log.dropped.clone());
        let thread = std::thread::Builder::new().name("access-log".into());
        let lines = log.lines.clone();
        // It is told to end when the log is dropped, or before; it is not joined since whoever reads standard output may never
        // read.
        let thread = thread.spawn(move || {
            writer.run(&lines);
            drop(writing);
        })?;
        log.lines.written_by(thread.thread());
        Ok(log)
    }

    fn new(format: Format, written: oneshot::Receiver<()>) -> Self {
        let dropped = Dropped::default();
        let lines = Arc::new(Gathered::new(format, dropped.clone()));
        Self { lines, dropped, written: Mutex::new(Some(written)) }
    }

    /// The count of lines that were dropped.
    pub(crate) fn dropped(&self) -> &Dropped {
        &self.dropped
    }

    /// Waits until everything is written, but not for longer than this. What comes later is dropped.
    pub(crate) async fn end(&self, patience: Duration) {
        self.lines.end();
        let written = crate::state::lock(&self.written).take();
        if let Some(written) = written
            && tokio::time::timeout(patience, written).await.is_err()
        {
            tracing::warn!("the access log could not be written to its end; its last lines are lost");
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.lines.end();
    }
}

impl Observer for AccessLog {
    fn done(&self, record: &Record<'_>) {
        self.lines.add(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gathered::{Lines, MOST};
    use http::Method;

    fn record(target: &[u8]) -> Record<'_> {
        Record {
            client: [192, 0, 2, 1].into(),
            method: &Method::GET,
            protocol: "HTTP/1.1",
            host: "foo.test",
            target,
            route: None,
            endpoint: None,
            status: 404,
            sent: 0,
            took: Duration::from_millis(1),
        }
    }

    fn paths(text: &str) -> Vec<String> {
        let path = |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["path"].to_string();
        text.lines().map(path).collect()
    }

    #[tokio::test]
    async fn lines_are_in_the_file_when_it_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("access.log");
        let log =
            AccessLog::start(&AccessLogConfig { format: Format::Json, file: Some(file.clone()) }).unwrap();
        for n in 0..100 {
            log.done(&record(format!("/{n}").as_bytes()));
        }
        log.end(Duration::from_secs(10)).await;
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(paths(&text), (0..100).map(|n| format!("\"/{n}\"")).collect::<Vec<_>>());
        log.done(&record(b"/late"));
        assert_eq!(log.dropped().get(), 1, "nobody writes any more");
    }

    #[tokio::test]
    async fn no_line_of_any_thread_is_lost_however_they_meet_the_writer() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("access.log");
        let log =
            AccessLog::start(&AccessLogConfig { format: Format::Json, file: Some(file.clone()) }).unwrap();
        std::thread::scope(|threads| {
            // More threads than places, so that some share one.
            for thread in 0..20 {
                let log = &log;
                threads.spawn(move || {
                    for n in 0..200 {
                        log.done(&record(format!("/{thread}/{n}").as_bytes()));
                        if n % 50 == 0 {
                            std::thread::park_timeout(Duration::from_millis(7));
                        }
                    }
                });
            }
        });
        log.end(Duration::from_secs(10)).await;
        let mut found = paths(&std::fs::read_to_string(&file).unwrap());
        let mut made: Vec<String> =
            (0..20).flat_map(|thread| (0..200).map(move |n| format!("\"/{thread}/{n}\""))).collect();
        found.sort_unstable();
        made.sort_unstable();
        assert!(found == made && log.dropped().get() == 0, "{} of {} lines", found.len(), made.len());
    }

    #[tokio::test]
    async fn lines_are_written_while_it_goes_on_and_when_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("access.log");
        let log =
            AccessLog::start(&AccessLogConfig { format: Format::Json, file: Some(file.clone()) }).unwrap();
        let count = || std::fs::read_to_string(&file).map_or(0, |text| text.lines().count());
        let until = |wanted: usize| async move {
            let begun = std::time::Instant::now();
            while count() != wanted {
                assert!(begun.elapsed() < Duration::from_secs(10), "{} lines, not {wanted}", count());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        for n in 1..4 {
            log.done(&record(b"/"));
            until(n).await;
        }
        log.done(&record(b"/"));
        drop(log);
        until(4).await;
    }

    #[test]
    fn a_writer_that_is_behind_costs_lines_and_no_time() {
        let log = AccessLog::new(Format::Common, oneshot::channel().1);
        let mut lines = 0;
        while log.dropped().get() < 3 {
            log.done(&record(b"/"));
            lines += 1;
        }
        let (mut taken, mut bytes) = (0, 0);
        log.lines.take(false, &mut Lines::default(), |lines| {
            taken += lines.count;
            bytes += lines.bytes.len();
        });
        assert_eq!(taken, lines - 3);
        assert!((MOST..MOST + 200).contains(&bytes), "{bytes}");
        log.done(&record(b"/"));
        assert_eq!(log.dropped().get(), 3, "there is place again");
    }

    #[tokio::test]
    async fn a_writer_that_hangs_is_not_waited_for() {
        let (_writing, written) = oneshot::channel();
        let log = AccessLog::new(Format::Common, written);
        log.done(&record(b"/"));
        log.end(Duration::from_millis(20)).await;
    }
}
