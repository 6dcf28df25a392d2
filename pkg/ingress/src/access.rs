//! The access log: one line for each request, written by a thread of its own.
//!
//! Lines are formatted where requests are served, and handed over by a queue of bounded length. When the writer is behind,
//! lines are dropped and counted: a slow disk, or a reader that does not read, holds no request up.

mod line;
mod writer;

use crate::observe::{Observer, Record};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Lines that wait at most. Each is bounded too, so that their memory is.
const QUEUE: usize = 4_096;

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

/// What the writer is handed.
enum Message {
    Line(String),
    /// Everything before is to be written; then it ends, and drops this.
    End(oneshot::Sender<()>),
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
    format: Format,
    lines: mpsc::Sender<Message>,
    dropped: Dropped,
}

impl AccessLog {
    /// Starts its writer. A file that cannot be opened is tried again; its lines are dropped meanwhile.
    pub fn start(config: &AccessLogConfig) -> std::io::Result<Self> {
        let (lines, queue) = mpsc::channel(QUEUE);
        let dropped = Dropped::default();
        let writer = writer::Writer::new(config.file.clone(), dropped.clone());
        let thread = std::thread::Builder::new().name("access-log".into());
        // It ends with `lines`, or before by `end`; it is not joined since whoever reads standard output may never read.
        thread.spawn(move || writer.run(queue)).map(drop)?;
        Ok(Self { format: config.format, lines, dropped })
    }

    /// The count of lines that were dropped.
    pub(crate) fn dropped(&self) -> &Dropped {
        &self.dropped
    }

    /// Waits until everything is written, but not for longer than this. What comes later is dropped.
    pub(crate) async fn end(&self, patience: Duration) {
        let (ending, ended) = oneshot::channel();
        let written = async {
            if self.lines.send(Message::End(ending)).await.is_ok() {
                let _ = ended.await;
            }
        };
        if tokio::time::timeout(patience, written).await.is_err() {
            tracing::warn!("the access log could not be written to its end; its last lines are lost");
        }
    }
}

impl Observer for AccessLog {
    fn done(&self, record: &Record<'_>) {
        // Nothing is formatted that could not be handed over.
        match self.lines.try_reserve() {
            Ok(place) => {
                place.send(Message::Line(line::format(self.format, record, std::time::SystemTime::now())));
            }
            Err(_) => self.dropped.add(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let paths: Vec<String> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["path"].to_string())
            .collect();
        assert_eq!(paths, (0..100).map(|n| format!("\"/{n}\"")).collect::<Vec<_>>());
        log.done(&record(b"/late"));
        assert_eq!(log.dropped().get(), 1, "nobody writes any more");
    }

    #[test]
    fn a_writer_that_is_behind_costs_lines_and_no_time() {
        let (lines, mut queue) = mpsc::channel(2);
        let log = AccessLog { format: Format::Common, lines, dropped: Dropped::default() };
        for _ in 0..5 {
            log.done(&record(b"/"));
        }
        assert_eq!(log.dropped().get(), 3);
        assert!(matches!(queue.try_recv(), Ok(Message::Line(_))));
        log.done(&record(b"/"));
        assert_eq!(log.dropped().get(), 3, "there is place again");
    }

    #[tokio::test]
    async fn a_writer_that_hangs_is_not_waited_for() {
        let (lines, _queue) = mpsc::channel(1);
        let log = AccessLog { format: Format::Common, lines, dropped: Dropped::default() };
        log.done(&record(b"/"));
        log.end(Duration::from_millis(20)).await;
    }
}
