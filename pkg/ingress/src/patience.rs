//! Waiting for a bounded time, where there is mostly nothing to wait for.

use crate::error::Broken;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;
use tokio::time::sleep;

/// How long a connection stays ready for the next request before it rests, with less memory.
pub(crate) const REST: Duration = Duration::from_secs(1);

/// What a future comes to, unless that takes too long. The clock is asked and a timer made only once there is something to wait
/// for: most writes end at once, and most heads are there as a whole.
pub(crate) async fn within<F: Future + Unpin>(most: Duration, mut future: F) -> Result<F::Output, Broken> {
    let begun = poll_fn(|cx| Poll::Ready(Pin::new(&mut future).poll(cx))).await;
    if let Poll::Ready(output) = begun {
        return Ok(output);
    }
    let mut timer = pin!(sleep(most));
    let mut is_asked = true;
    poll_fn(|cx| {
        // It was asked in this very moment.
        if !std::mem::take(&mut is_asked)
            && let Poll::Ready(output) = Pin::new(&mut future).poll(cx)
        {
            return Poll::Ready(Ok(output));
        }
        timer.as_mut().poll(cx).map(|()| Err(Broken::Slow))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn what_is_there_is_taken_and_what_comes_is_waited_for_but_not_for_ever() {
        let (long, short) = (Duration::from_secs(600), Duration::from_millis(1));
        assert!(matches!(within(Duration::ZERO, pin!(async { 1 })).await, Ok(1)));
        let (said, mut heard) = oneshot::channel();
        let (heard, ()) = tokio::join!(within(long, &mut heard), async {
            tokio::task::yield_now().await;
            said.send(2).unwrap();
        });
        assert!(matches!(heard, Ok(Ok(2))));
        let (_never, mut heard) = oneshot::channel::<()>();
        assert!(matches!(within(short, &mut heard).await, Err(Broken::Slow)));
    }
}
