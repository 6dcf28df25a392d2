//! The loop of every controller: follow the cache, queue keys, bring them about.

use futures::StreamExt as _;
use futures::future::select_all;
use futures::stream::FuturesUnordered;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::queue::{Key, Queue};
use crate::error::ApiResult;
use crate::registry::KindId;
use crate::storage::{Cache, Event, Object, Since};

/// Keys that one controller works on at once; the writer puts their writes into one commit.
const WORKERS: usize = 16;
/// Events read at once.
const STEP: usize = 500;
/// Failures in a row after which a key is worth a warning.
const WORTH_A_WARNING: u32 = 5;

/// A part of the control plane that brings objects about from other objects. It decides by what the cache holds when
/// it looks, never by events, which only say where to look.
pub(crate) trait Controller: Send + Sync + 'static {
    /// For logs.
    fn name(&self) -> &'static str;
    /// The kinds it follows.
    fn kinds(&self) -> Vec<KindId>;
    /// Forgets what [`Controller::learn`] was told of; everything is told anew.
    fn forget(&self) {}
    /// Keeps what it needs to know of an object to find it.
    fn learn(&self, _object: &Object) {}
    /// The keys to look at when it starts, or when events were missed.
    fn all(&self) -> Vec<Key>;
    /// The keys that a change concerns.
    fn concerned(&self, event: &Event) -> Vec<Key>;
    /// Brings one key about; says when to look again without a change.
    fn reconcile(&self, key: &Key) -> impl Future<Output = ApiResult<Option<Duration>>> + Send;
}

struct Feed {
    kind: KindId,
    position: u64,
    changed: watch::Receiver<u64>,
}

/// Runs a controller until `stop`.
pub(crate) async fn run<C: Controller>(controller: Arc<C>, cache: Arc<Cache>, stop: CancellationToken) {
    let mut queue = Queue::default();
    let mut feeds: Vec<Feed> = controller
        .kinds()
        .into_iter()
        .map(|kind| Feed { kind, position: 0, changed: cache.subscribe(kind) })
        .collect();
    relist(&*controller, &cache, &mut feeds, &mut queue);
    let mut work = FuturesUnordered::new();
    loop {
        follow(&*controller, &cache, &mut feeds, &mut queue);
        let now = Instant::now();
        while work.len() < WORKERS
            && let Some(key) = queue.pop(now)
        {
            let controller = controller.clone();
            work.push(async move {
                let result = controller.reconcile(&key).await;
                (key, result)
            });
        }
        let due = queue.next_due().filter(|_| work.len() < WORKERS);
        let changed = select_all(feeds.iter_mut().map(|f| Box::pin(f.changed.changed())));
        let finished = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(finished) = work.next(), if !work.is_empty() => Some(finished),
            (result, ..) = changed => {
                if result.is_err() { return }
                None
            }
            () = until(due) => None,
        };
        if let Some((key, result)) = finished {
            // What the work itself has changed is seen first, so that the key rests before it is looked at again.
            follow(&*controller, &cache, &mut feeds, &mut queue);
            finish(controller.name(), &mut queue, key, result);
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn finish(controller: &str, queue: &mut Queue, key: Key, result: ApiResult<Option<Duration>>) {
    let now = Instant::now();
    match result {
        Ok(again_in) => queue.done(key, again_in, now),
        Err(error) => {
            let (kind, name) = (key.0.get().singular, key.1.clone());
            match queue.failed(key, now) {
                n if n < WORTH_A_WARNING || !n.is_power_of_two() => {
                    tracing::debug!(controller, kind, name, error = %error.message, failures = n, "not brought about yet");
                }
                n => {
                    tracing::warn!(controller, kind, name, error = %error.message, failures = n, "cannot be brought about; it is tried again");
                }
            }
        }
    }
}

/// Reads what has happened since.
fn follow<C: Controller>(controller: &C, cache: &Cache, feeds: &mut [Feed], queue: &mut Queue) {
    let now = Instant::now();
    let mut missed = false;
    for feed in feeds.iter_mut() {
        feed.changed.mark_unchanged();
        loop {
            match cache.since(feed.kind, feed.position, STEP) {
                Since::Gone { .. } => missed = true,
                Since::Events(events, complete) => {
                    for event in &events {
                        for key in controller.concerned(event) {
                            queue.add(key, now);
                        }
                    }
                    feed.position = complete;
                    if events.len() == STEP {
                        continue;
                    }
                }
            }
            break;
        }
    }
    if missed {
        relist(controller, cache, feeds, queue);
    }
}

/// Learns everything anew.
fn relist<C: Controller>(controller: &C, cache: &Cache, feeds: &mut [Feed], queue: &mut Queue) {
    controller.forget();
    for feed in feeds {
        let (objects, revision) = cache.list(feed.kind);
        feed.position = revision;
        for object in objects.values() {
            controller.learn(object);
        }
    }
    let now = Instant::now();
    for key in controller.all() {
        queue.add(key, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::testing::World;
    use crate::registry::CONFIG_MAP;
    use serde_json::json;
    use std::sync::Mutex;

    /// Notes the keys it is asked for; fails those named `bad`.
    struct Noting(Mutex<Vec<String>>);

    impl Controller for Noting {
        fn name(&self) -> &'static str {
            "noting"
        }
        fn kinds(&self) -> Vec<KindId> {
            vec![CONFIG_MAP]
        }
        fn all(&self) -> Vec<Key> {
            vec![(CONFIG_MAP, "start".into())]
        }
        fn concerned(&self, event: &Event) -> Vec<Key> {
            vec![(event.object.kind, event.object.key())]
        }
        async fn reconcile(&self, key: &Key) -> ApiResult<Option<Duration>> {
            self.0.lock().unwrap().push(key.1.clone());
            if key.1.ends_with("bad") {
                return Err(crate::error::ApiError::internal("it is bad"));
            }
            Ok(None)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_change_is_looked_at_and_failures_are_tried_again_ever_slower() {
        let w = World::new().await;
        let noting = Arc::new(Noting(Mutex::default()));
        let stop = CancellationToken::new();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(run(noting.clone(), w.cache(), stop.clone()));
        w.create(CONFIG_MAP, "default", json!({"metadata": {"name": "a"}})).await;
        w.create(CONFIG_MAP, "default", json!({"metadata": {"name": "bad"}})).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        stop.cancel();
        tasks.join_next().await;
        let seen = noting.0.lock().unwrap();
        let count = |k: &str| seen.iter().filter(|s| *s == k).count();
        assert_eq!((count("start"), count("default/a")), (1, 1));
        assert!((15..25).contains(&count("default/bad")), "{}", count("default/bad"));
    }
}
