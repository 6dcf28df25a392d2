//! Waiting before the next try: exponential, jittered, with a ceiling, reset by success.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

/// The waits between tries. Each is drawn between half of the current step and the whole of it, so that a cluster
/// that lost its API does not come back in step.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    ceiling: Duration,
    step: Duration,
}

impl Backoff {
    /// Waits from about `first` up to `ceiling`.
    #[must_use]
    pub fn new(first: Duration, ceiling: Duration) -> Self {
        Self { first, ceiling, step: first }
    }
    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        self.next_wait_below(self.ceiling)
    }
    /// The next wait, with another ceiling this once.
    pub fn next_wait_below(&mut self, ceiling: Duration) -> Duration {
        let step = self.step.min(ceiling);
        self.step = (self.step * 2).min(self.ceiling.max(ceiling));
        step / 2 + (step / 2).mul_f64(unit())
    }
    /// Begins anew after a success.
    pub fn reset(&mut self) {
        self.step = self.first;
    }
}

/// A number in [0, 1): good enough to spread waits, not for secrets.
fn unit() -> f64 {
    let hash = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(hash >> 32).unwrap_or(0)) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_ceiling_stay_jittered_and_reset() {
        let mut b = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        let waits: Vec<_> = (0..20).map(|_| b.next_wait()).collect();
        assert!(waits[0] >= Duration::from_millis(50) && waits[0] <= Duration::from_millis(100));
        assert!(waits[19] >= Duration::from_secs(15) && waits[19] <= Duration::from_secs(30));
        assert!(waits[15..].windows(2).any(|w| w[0] != w[1]), "no jitter: {waits:?}");
        b.reset();
        assert!(b.next_wait() <= Duration::from_millis(100));
    }
}
