//! How much is done at a time, so that memory is bounded whatever comes in.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{ApiError, ApiResult};
use crate::serve::Limits;

/// A body of more bytes is large. Objects of every day are smaller, so they never wait for large ones.
const LARGE: u64 = 64 << 10;

/// Places for requests.
pub(crate) struct Gates {
    writes: Arc<Semaphore>,
    large: Arc<Semaphore>,
    /// Longest wait for a place, and longest a body may take to arrive.
    pub(crate) wait: Duration,
}

/// A place, kept while the request is worked on.
pub(crate) struct Place {
    _write: OwnedSemaphorePermit,
    _large: Option<OwnedSemaphorePermit>,
}

impl Gates {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            writes: Arc::new(Semaphore::new(limits.writes)),
            large: Arc::new(Semaphore::new(limits.large)),
            wait: limits.body,
        }
    }

    /// A place for a request with a body of at most this many bytes; none: it does not say.
    pub(crate) async fn write(&self, size: Option<u64>) -> ApiResult<Place> {
        let write = self.writes.clone().try_acquire_owned().map_err(|_| {
            ApiError::too_many_requests("too many requests at a time; please try again later", 1)
        })?;
        // A body that does not say its length may be as large as bodies get.
        let large = size.is_none_or(|n| n > LARGE);
        let large = if large { Some(self.large().await?) } else { None };
        Ok(Place { _write: write, _large: large })
    }

    /// A place for something large.
    async fn large(&self) -> ApiResult<OwnedSemaphorePermit> {
        let busy =
            || ApiError::too_many_requests("too many large requests at a time; please try again later", 1);
        let place = tokio::time::timeout(self.wait, self.large.clone().acquire_owned()).await;
        place.map_err(|_| busy())?.map_err(|_| busy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn small_requests_do_not_wait_for_large_ones() {
        let limits = Limits { writes: 3, large: 1, body: Duration::from_millis(50), ..Limits::default() };
        let gates = Gates::new(&limits);
        let first = gates.write(None).await.ok().unwrap();
        assert_eq!(gates.write(Some(LARGE + 1)).await.err().unwrap().code, 429);
        let small = (gates.write(Some(LARGE)).await, gates.write(Some(0)).await);
        assert!(small.0.is_ok() && small.1.is_ok());
        assert_eq!(gates.write(Some(0)).await.err().unwrap().code, 429);
        drop(first);
        assert!(gates.write(None).await.is_ok());
    }
}
