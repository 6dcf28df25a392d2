//! The supervisor: the only place that starts subsystems, and starts them again.
//!
//! A subsystem is made anew by its factory for each life, so that no state of a failed life is carried over. An error,
//! an early end and a panic are all outcomes: the health cell says so, a jittered wait follows (100 ms to 30 s, back to
//! the start after a minute of health), then the next life. One subsystem's end touches no other.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use warren_source::backoff::Backoff;
pub(crate) use warren_source::client::chain;
use warren_types::{HealthCell, HealthState};

/// Why a subsystem ended.
pub type SubsystemError = Box<dyn std::error::Error + Send + Sync>;
/// One life of a subsystem.
pub type Life = Pin<Box<dyn Future<Output = Result<(), SubsystemError>> + Send>>;
/// Makes a life.
pub type Factory = Arc<dyn Fn(HealthCell, CancellationToken) -> Life + Send + Sync>;

/// First wait before a restart.
const FIRST: Duration = Duration::from_millis(100);
/// Longest wait before a restart.
const CEILING: Duration = Duration::from_secs(30);
/// A life this long starts the waits anew.
const HEALTHY: Duration = Duration::from_secs(60);

/// What is known of a subsystem, shared with status and metrics.
#[derive(Debug)]
pub struct Watched {
    /// Its name.
    pub name: &'static str,
    /// What it says of itself.
    pub health: HealthCell,
    restarts: AtomicU64,
    last_failure: Mutex<Option<(Instant, String)>>,
}

impl Watched {
    /// A subsystem that is not started by the supervisor, or not yet.
    #[must_use]
    pub fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            name,
            health: HealthCell::default(),
            restarts: AtomicU64::new(0),
            last_failure: Mutex::default(),
        })
    }
    /// How often it was started again.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }
    /// Its last failure, and how long ago.
    #[must_use]
    pub fn last_failure(&self) -> Option<(Duration, String)> {
        let last = self.last_failure.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map(|(at, why)| (at.elapsed(), why.clone()))
    }
    fn failed(&self, why: &str) {
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Instant::now(), why.to_owned()));
    }
}

/// Runs subsystems until told to stop.
#[derive(Default)]
pub struct Supervisor {
    tasks: JoinSet<()>,
    stop: CancellationToken,
    watched: Vec<Arc<Watched>>,
}

impl Supervisor {
    /// A supervisor whose subsystems stop when `stop` fires.
    #[must_use]
    pub fn new(stop: CancellationToken) -> Self {
        Self { tasks: JoinSet::new(), stop, watched: Vec::new() }
    }

    /// Starts a subsystem, and keeps it started.
    pub fn start(&mut self, name: &'static str, factory: Factory) -> Arc<Watched> {
        let watched = Watched::new(name);
        self.start_watched(&watched, factory);
        watched
    }

    /// As [`Supervisor::start`], for a [`Watched`] that others already look at.
    pub fn start_watched(&mut self, watched: &Arc<Watched>, factory: Factory) {
        self.watched.push(watched.clone());
        self.tasks.spawn(keep(watched.clone(), factory, self.stop.clone()));
    }

    /// Every subsystem that was started, in order.
    #[must_use]
    pub fn watched(&self) -> Vec<Arc<Watched>> {
        self.watched.clone()
    }

    /// Stops all, waiting at most `grace`; returns how many did not stop in time.
    pub async fn stop(mut self, grace: Duration) -> usize {
        self.stop.cancel();
        let drain = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, drain).await.is_ok() {
            return 0;
        }
        let late = self.tasks.len();
        self.tasks.shutdown().await;
        late
    }
}

async fn keep(watched: Arc<Watched>, factory: Factory, stop: CancellationToken) {
    let mut backoff = Backoff::new(FIRST, CEILING);
    loop {
        let born = tokio::time::Instant::now();
        let why = match live(&watched, &factory, &stop).await {
            Ok(Ok(())) if stop.is_cancelled() => return,
            Ok(Ok(())) => "ended without being told to".to_owned(),
            Ok(Err(error)) => chain(error.as_ref()),
            Err(join) => panic_text(join),
        };
        if stop.is_cancelled() {
            tracing::debug!(subsystem = watched.name, error = %why, "failed while stopping");
            return;
        }
        if born.elapsed() >= HEALTHY {
            backoff.reset();
        }
        let wait = backoff.next_wait();
        watched.failed(&why);
        watched.health.set(HealthState::Failed, why.clone());
        tracing::error!(subsystem = watched.name, error = %why, restart_in = ?wait, "subsystem failed");
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        watched.restarts.fetch_add(1, Ordering::Relaxed);
        watched.health.set(HealthState::Starting, format!("starting again after: {why}"));
    }
}

/// One life, on a task of its own so that a panic is an outcome.
async fn live(
    watched: &Watched,
    factory: &Factory,
    stop: &CancellationToken,
) -> Result<Result<(), SubsystemError>, JoinError> {
    let mut life = JoinSet::new();
    let (factory, health, stop) = (factory.clone(), watched.health.clone(), stop.child_token());
    life.spawn(async move { factory(health, stop).await });
    match life.join_next().await {
        Some(outcome) => outcome,
        None => Ok(Ok(())),
    }
}

fn panic_text(join: JoinError) -> String {
    match join.try_into_panic() {
        Ok(payload) => {
            let text = payload
                .downcast_ref::<&str>()
                .map(|s| (*s).to_owned())
                .or_else(|| payload.downcast_ref::<String>().cloned());
            format!("panicked: {}", text.unwrap_or_else(|| "no message".into()))
        }
        Err(_) => "was aborted".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn counted(outcome: fn(usize) -> Result<bool, SubsystemError>) -> (Arc<AtomicUsize>, Factory) {
        let lives = Arc::new(AtomicUsize::new(0));
        let seen = lives.clone();
        let factory: Factory = Arc::new(move |health, stop| {
            let n = lives.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                if outcome(n)? {
                    health.ready();
                    stop.cancelled().await;
                }
                Ok(())
            })
        });
        (seen, factory)
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_an_error_and_an_early_end_are_restarted() {
        let (lives, factory) = counted(|n| match n {
            0 => panic!("boom"),
            1 => Err("broken pipe".into()),
            2 => Ok(false),
            _ => Ok(true),
        });
        let mut s = Supervisor::new(CancellationToken::new());
        let w = s.start("x", factory);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(lives.load(Ordering::SeqCst), 4);
        assert_eq!(w.restarts(), 3);
        assert_eq!(w.health.get().state, HealthState::Ready);
        assert!(w.last_failure().unwrap().1.contains("without being told"));
        assert_eq!(s.stop(Duration::from_secs(1)).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn restarts_slow_down_and_one_failure_touches_no_other() {
        let (lives, bad) = counted(|_| panic!("always"));
        let (good_lives, good) = counted(|_| Ok(true));
        let mut s = Supervisor::new(CancellationToken::new());
        let w = s.start("bad", bad);
        let g = s.start("good", good);
        tokio::time::sleep(Duration::from_secs(600)).await;
        let n = lives.load(Ordering::SeqCst);
        assert!((20..70).contains(&n), "{n} lives in 10 minutes");
        assert_eq!(
            w.health.get().message,
            if w.health.get().state == HealthState::Failed {
                "panicked: always"
            } else {
                "starting again after: panicked: always"
            }
        );
        assert_eq!((good_lives.load(Ordering::SeqCst), g.health.get().state), (1, HealthState::Ready));
        assert_eq!(s.stop(Duration::from_secs(1)).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_stop_is_counted_and_ended() {
        let mut s = Supervisor::new(CancellationToken::new());
        s.start("deaf", Arc::new(|_, _| Box::pin(std::future::pending())));
        assert_eq!(s.stop(Duration::from_secs(2)).await, 1);
    }
}
