//! How many calls were answered, and how long they took: counted here, read by whoever shows it.

use crate::spec::Request;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Upper ends of the classes of latency, in microseconds; above the last there is one more class.
pub const LATENCY_CLASSES: [u64; 14] = [
    1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000,
    10_000_000, 30_000_000,
];

/// The counts. Clones share them; they outlive a server that is started again.
#[derive(Debug, Clone, Default)]
pub struct CallStats(Arc<Mutex<BTreeMap<(&'static str, &'static str), Counts>>>);

#[derive(Debug, Clone, Default)]
struct Counts {
    micros: u64,
    classes: [u64; LATENCY_CLASSES.len() + 1],
}

/// Calls of one verb with one result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallCounts {
    /// The verb, in capitals.
    pub verb: &'static str,
    /// `success` or `error`.
    pub result: &'static str,
    /// Time that all of them took.
    pub micros: u64,
    /// Calls by latency, one class for each of [`LATENCY_CLASSES`] and one for all above.
    pub classes: Vec<u64>,
}

impl CallStats {
    /// Counts a call that was answered.
    pub(crate) fn count(&self, request: &Request, success: bool, took: Duration) {
        let result = if success { "success" } else { "error" };
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class = LATENCY_CLASSES.partition_point(|end| *end < micros);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = all.entry((verb(request), result)).or_default();
        counts.micros = counts.micros.saturating_add(micros);
        if let Some(n) = counts.classes.get_mut(class) {
            *n += 1;
        }
    }

    /// All counts, now.
    #[must_use]
    pub fn snapshot(&self) -> Vec<CallCounts> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let one = |((verb, result), counts): (&(&'static str, &'static str), &Counts)| CallCounts {
            verb,
            result,
            micros: counts.micros,
            classes: counts.classes.to_vec(),
        };
        all.iter().map(one).collect()
    }
}

fn verb(request: &Request) -> &'static str {
    match request {
        Request::Add(_) => "ADD",
        Request::Del(_) => "DEL",
        Request::Check(_) => "CHECK",
        Request::Gc(_) => "GC",
        Request::Status => "STATUS",
        Request::Version(_) => "VERSION",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_falls_into_one_class() {
        let stats = CallStats::default();
        for micros in [0, 1_000, 1_001, 30_000_001, u64::MAX] {
            stats.count(&Request::Status, true, Duration::from_micros(micros));
        }
        stats.count(&Request::Status, false, Duration::from_millis(3));
        let all = stats.snapshot();
        let [error, success] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((error.verb, error.result, error.micros, error.classes[2]), ("STATUS", "error", 3_000, 1));
        assert_eq!(success.classes.len(), LATENCY_CLASSES.len() + 1);
        assert_eq!((success.classes[0], success.classes[1], success.classes[14]), (2, 1, 2));
        assert_eq!(success.micros, u64::MAX);
    }
}
