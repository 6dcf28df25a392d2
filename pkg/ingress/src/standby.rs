//! Tasks that serve one connection after the other. Making a task and unmaking it costs as much as the parsing of a request;
//! clients that use a connection for one request alone need not pay it each time.

use crate::state::lock;
use std::pin::pin;
use std::sync::Mutex;
use tokio::sync::Notify;

/// How many tasks of a thread wait at most.
const SPARE: usize = 64;

/// Where tasks of one thread wait for work.
pub(crate) struct Standby<T> {
    state: Mutex<State<T>>,
    arrived: Notify,
}

struct State<T> {
    /// Tasks that wait, and for which nothing has arrived.
    waiting: usize,
    /// Handed over, and not yet taken by those who were woken.
    arrivals: Vec<T>,
    closed: bool,
}

impl<T> Standby<T> {
    pub(crate) fn new() -> Self {
        let state = State { waiting: 0, arrivals: Vec::new(), closed: false };
        Self { state: Mutex::new(state), arrived: Notify::new() }
    }

    /// Hands work over to a task that waits. Gives it back when there is none.
    pub(crate) fn hand(&self, arrival: T) -> Option<T> {
        let mut state = lock(&self.state);
        if state.waiting == 0 || state.closed {
            return Some(arrival);
        }
        state.waiting -= 1;
        state.arrivals.push(arrival);
        drop(state);
        self.arrived.notify_one();
        None
    }

    /// Waits for work. There is none when enough others wait, or when no more is to come.
    pub(crate) async fn next(&self) -> Option<T> {
        let mut arrived = pin!(self.arrived.notified());
        {
            let mut state = lock(&self.state);
            if state.waiting == SPARE || state.closed {
                return None;
            }
            // Before it is counted, so that each one that is counted can be woken.
            arrived.as_mut().enable();
            state.waiting += 1;
        }
        arrived.await;
        lock(&self.state).arrivals.pop()
    }

    /// Ends those who wait.
    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
        self.arrived.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::task::{JoinSet, yield_now};

    #[tokio::test]
    async fn work_goes_to_those_who_wait_each_piece_once_and_none_is_lost_at_the_end() {
        let standby = Arc::new(Standby::new());
        assert_eq!(standby.hand(0), Some(0), "nobody waits");
        let mut tasks = JoinSet::new();
        for _ in 0..SPARE + 1 {
            let standby = standby.clone();
            tasks.spawn(async move {
                let mut done = Vec::new();
                while let Some(work) = standby.next().await {
                    done.push(work);
                }
                done
            });
        }
        let first = tasks.join_next().await.unwrap().unwrap();
        assert!(first.is_empty(), "so many do not wait");
        for round in 0..3 {
            for at in 0..SPARE {
                assert_eq!(standby.hand(round * SPARE + at), None);
            }
            assert_eq!(standby.hand(1_000), Some(1_000), "all have work");
            while lock(&standby.state).waiting < SPARE {
                yield_now().await;
            }
        }
        // What is handed over just before the end is done too.
        assert_eq!(standby.hand(3 * SPARE), None);
        standby.close();
        assert_eq!(standby.hand(1_000), Some(1_000), "it is closed");
        let mut done: Vec<usize> = tasks.join_all().await.concat();
        done.sort_unstable();
        assert_eq!(done, (0..=3 * SPARE).collect::<Vec<_>>());
        assert_eq!(standby.next().await, None);
    }
}
