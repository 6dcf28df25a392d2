//! Tasks that serve the streams of a connection of HTTP/2, each one stream after another: to make a task of its own for each
//! stream is a good part of what a short request costs.

use crate::state::lock;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// How many wait for work at most.
const MOST_IDLE: usize = 32;

/// The tasks of one connection. They end with it.
pub(crate) struct Hands<J> {
    tasks: JoinSet<()>,
    board: Arc<Board<J>>,
}

/// What a connection and its tasks share.
struct Board<J> {
    work: Mutex<Work<J>>,
    /// Calls one of those that wait; for each call there is a job.
    called: Notify,
}

struct Work<J> {
    jobs: VecDeque<J>,
    /// Tasks that wait and were not called.
    idle: usize,
    /// Jobs that were given and have not ended.
    busy: usize,
    ended: Ended,
    waker: Option<Waker>,
}

/// Jobs that have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) well: usize,
    /// Also those that panicked.
    pub(crate) badly: usize,
}

impl<J: Send + 'static> Hands<J> {
    pub(crate) fn new() -> Self {
        let work = Work { jobs: VecDeque::new(), idle: 0, busy: 0, ended: Ended::default(), waker: None };
        let board = Board { work: Mutex::new(work), called: Notify::new() };
        Self { tasks: JoinSet::new(), board: Arc::new(board) }
    }

    /// Jobs under way.
    pub(crate) fn busy(&self) -> usize {
        lock(&self.board.work).busy
    }

    /// Has a job done by who waits for one, or else by a new task. `serve` says whether it went well.
    pub(crate) fn give<F>(&mut self, job: J, serve: impl Fn(J) -> F + Send + 'static)
    where
        F: Future<Output = bool> + Send,
    {
        let mut work = lock(&self.board.work);
        work.busy += 1;
        if work.idle > 0 {
            work.idle -= 1;
            work.jobs.push_back(job);
            drop(work);
            self.board.called.notify_one();
            return;
        }
        drop(work);
        let board = self.board.clone();
        // On the heap at once: the task would be moved there in several steps, and it is large.
        self.tasks.spawn(Box::pin(async move {
            let mut next = Some(job);
            while let Some(job) = next {
                let mut busy = Busy { board: &board, well: false };
                busy.well = serve(job).await;
                drop(busy);
                next = board.next().await;
            }
        }));
    }

    /// Returns what has ended since the last call, once there is something. Dropping the future loses nothing.
    pub(crate) async fn ended(&mut self) -> Ended {
        poll_fn(|cx| {
            // Those that went, one too many or by a panic.
            while let Poll::Ready(Some(_)) = self.tasks.poll_join_next(cx) {}
            let mut work = lock(&self.board.work);
            if work.ended != Ended::default() {
                return Poll::Ready(std::mem::take(&mut work.ended));
            }
            match &mut work.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
        .await
    }

    /// Lets those go that wait, unless there is work.
    pub(crate) fn rest(&mut self) {
        let mut work = lock(&self.board.work);
        if work.busy == 0 {
            work.idle = 0;
            self.tasks.abort_all();
        }
    }
}

impl<J> Board<J> {
    /// The next job; nothing when enough others wait for it.
    async fn next(&self) -> Option<J> {
        {
            let mut work = lock(&self.work);
            if work.idle == MOST_IDLE {
                return None;
            }
            work.idle += 1;
        }
        self.called.notified().await;
        lock(&self.work).jobs.pop_front()
    }
}

/// Counts a job as ended, however that came about.
struct Busy<'a, J> {
    board: &'a Board<J>,
    well: bool,
}

impl<J> Drop for Busy<'_, J> {
    fn drop(&mut self) {
        let mut work = lock(&self.board.work);
        work.busy -= 1;
        work.ended.well += usize::from(self.well);
        work.ended.badly += usize::from(!self.well);
        if let Some(waker) = &work.waker {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    type Job = (oneshot::Receiver<bool>, Arc<Mutex<Vec<tokio::task::Id>>>);

    async fn serve((wait, who): Job) -> bool {
        lock(&who).push(tokio::task::id());
        wait.await.unwrap()
    }

    async fn all_ended(hands: &mut Hands<Job>, count: usize) -> Ended {
        let mut sum = Ended::default();
        while sum.well + sum.badly < count {
            let ended = hands.ended().await;
            (sum.well, sum.badly) = (sum.well + ended.well, sum.badly + ended.badly);
        }
        sum
    }

    /// Jobs at once, which end one by one.
    async fn round(hands: &mut Hands<Job>, who: &Arc<Mutex<Vec<tokio::task::Id>>>, jobs: usize) {
        let ends: Vec<_> = (0..jobs)
            .map(|_| {
                let (end, wait) = oneshot::channel();
                hands.give((wait, who.clone()), serve);
                end
            })
            .collect();
        assert_eq!(hands.busy(), jobs);
        for end in ends {
            end.send(true).unwrap();
        }
        assert_eq!(all_ended(hands, jobs).await, Ended { well: jobs, badly: 0 });
        assert_eq!(hands.busy(), 0);
    }

    #[tokio::test]
    async fn tasks_serve_again_and_rest_when_told() {
        let (mut hands, who) = (Hands::new(), Arc::default());
        for _ in 0..3 {
            round(&mut hands, &who, 5).await;
        }
        let mut ids = std::mem::take(&mut *lock(&who));
        assert_eq!(ids.len(), 15);
        ids.sort_by_key(ToString::to_string);
        ids.dedup();
        assert_eq!(ids.len(), 5, "as many tasks as jobs at once");
        hands.rest();
        round(&mut hands, &who, 1).await;
        assert!(!ids.contains(&lock(&who)[0]), "those that rest are gone");
    }

    #[tokio::test]
    async fn no_more_wait_than_may() {
        let (mut hands, who) = (Hands::new(), Arc::default());
        round(&mut hands, &who, MOST_IDLE + 10).await;
        // What is left over goes by itself, which is seen by who asks next.
        round(&mut hands, &who, MOST_IDLE).await;
        assert_eq!(hands.tasks.len(), MOST_IDLE);
        let mut ids = std::mem::take(&mut *lock(&who));
        ids.sort_by_key(ToString::to_string);
        ids.dedup();
        assert_eq!(ids.len(), MOST_IDLE + 10, "nobody new");
    }

    #[tokio::test]
    async fn who_panics_or_fails_is_counted_and_others_go_on() {
        let mut hands: Hands<u8> = Hands::new();
        for job in 0..4 {
            hands.give(job, |job| async move {
                assert_ne!(job, 2, "of this test");
                job != 3
            });
        }
        let mut sum = Ended::default();
        while sum.well + sum.badly < 4 {
            let ended = hands.ended().await;
            (sum.well, sum.badly) = (sum.well + ended.well, sum.badly + ended.badly);
        }
        assert_eq!(sum, Ended { well: 2, badly: 2 });
        assert_eq!(hands.busy(), 0);
    }
}
