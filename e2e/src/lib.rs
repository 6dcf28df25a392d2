//! What the end-to-end tests stand on: a lab that is taken down whatever happens, and oracles that owe nothing to
//! Warren's own status: a packet capture, a probe at 1 kHz, a long TCP transfer, a dump of the kernel's state.
//!
//! Every test starts the real binary, named by `WARREN_BIN` (`cargo xtask e2e` sets it). Needs root, and fails
//! without it.

pub mod battery;
pub mod capture;
pub mod cri;
pub mod dig;
pub mod faults;
pub mod frame;
pub mod lab;
pub mod netns;
pub mod probe;
pub mod runtime;
pub mod scenario;
pub mod state;
pub mod station;
pub mod tls;
pub mod transfer;

pub use battery::Battery;
pub use capture::Capture;
pub use lab::Lab;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// How many times longer than on the machine itself everything may take, by `WARREN_SLOWNESS`: inside the emulated machine,
/// whose processor runs some twenty times slower, the limits of the tests would else tell of QEMU.
static SLOWNESS: LazyLock<u32> = LazyLock::new(|| {
    let said = std::env::var("WARREN_SLOWNESS").unwrap_or_else(|_| "1".to_owned());
    said.parse().unwrap_or_else(|e| panic!("WARREN_SLOWNESS={said}: {e}"))
});

/// `limit`, written for a real machine, as this one needs it.
#[must_use]
pub fn patient(limit: Duration) -> Duration {
    limit * *SLOWNESS
}

/// Asks `check` until it answers `Ok`, at most for `limit` ([`patient`]); returns how long it took. Between two questions
/// it yields for 20 ms: the event awaited is one of another process, of which there is no notice.
///
/// # Errors
/// The last answer of `check`, when `limit` has passed.
pub fn eventually<T>(
    limit: Duration,
    mut check: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Duration)> {
    let (start, limit) = (Instant::now(), patient(limit));
    loop {
        match check() {
            Ok(value) => return Ok((value, start.elapsed())),
            Err(error) if start.elapsed() > limit => {
                return Err(error.context(format!("still so after {limit:?}")));
            }
            Err(_) => std::thread::park_timeout(Duration::from_millis(20)),
        }
    }
}
