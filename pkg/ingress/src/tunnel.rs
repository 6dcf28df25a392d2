//! What comes after a switch of protocols: bytes both ways, until both sides have closed or neither says anything.

use crate::error::Broken;
use crate::front::Front;
use crate::h1::io::{Reader, Writer};
use crate::message::{H2Source, Source};
use crate::upstream::Connection;
use bytes::Bytes;
use h2::SendStream;
use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Carries bytes both ways until both sides have closed, neither says anything for as long as `patience`, or `stopped`. `sent`
/// counts those to the client, which are on `stream` where it speaks HTTP/2. An error means that the client has broken it off.
pub(crate) async fn run(
    source: &mut Source<'_>,
    front: &mut Front<'_>,
    stream: Option<SendStream<Bytes>>,
    mut connection: Connection,
    patience: Duration,
    stopped: impl Future<Output = ()>,
    sent: &AtomicU64,
) -> Result<(), Broken> {
    let activity = Activity::new();
    let (up, down) = (&mut connection.writer, &mut connection.reader);
    match (source, front, stream) {
        (Source::H1(body), Front::H1(client), _) => {
            let both = async {
                tokio::try_join!(
                    copy(body.reader, up, &activity, None),
                    copy(down, client.writer, &activity, Some(sent))
                )
            };
            tokio::select! {
                _ = both => {}
                () = activity.silence(patience) => {}
                () = stopped => {}
            }
            Ok(())
        }
        (Source::H2(client), Front::H2(_), Some(mut stream)) => {
            let both = async {
                tokio::try_join!(
                    from_stream(client, up, &activity),
                    to_stream(down, &mut stream, &activity, sent)
                )
            };
            let ended = tokio::select! {
                ended = both => ended.map(drop),
                () = activity.silence(patience) => Err(End::Here),
                () = stopped => Err(End::Here),
            };
            match ended {
                Ok(()) => Ok(()),
                // What a reset is to a connection (RFC 8441, 5).
                Err(End::Here) => {
                    stream.send_reset(h2::Reason::CANCEL);
                    Ok(())
                }
                Err(End::Client(broken)) => Err(broken),
            }
        }
        _ => Ok(()),
    }
}

/// Who broke off a tunnel.
enum End {
    /// The backend, or we.
    Here,
    Client(Broken),
}

/// From a connection to another, until the first closes.
async fn copy(
    from: &mut Reader,
    to: &mut Writer,
    activity: &Activity,
    sent: Option<&AtomicU64>,
) -> io::Result<()> {
    loop {
        if from.bytes().is_empty() && from.fill().await? == 0 {
            return to.shutdown().await;
        }
        while !from.bytes().is_empty() {
            activity.seen();
            let taken = to.take(from.bytes()).await?;
            from.consume(taken);
            if let Some(sent) = sent {
                sent.fetch_add(taken as u64, Relaxed);
            }
        }
        to.flush().await?;
    }
}

/// From a client's stream to a backend. The client may send as much again only once it was written.
async fn from_stream(client: &mut H2Source, to: &mut Writer, activity: &Activity) -> Result<(), End> {
    let here = |_: io::Error| End::Here;
    while let Some(data) = client.piece().await.map_err(End::Client)? {
        let mut rest = &data[..];
        while !rest.is_empty() {
            activity.seen();
            let taken = to.take(rest).await.map_err(here)?;
            rest = &rest[taken..];
        }
        to.flush().await.map_err(here)?;
        client.release(data.len()).map_err(End::Client)?;
    }
    to.shutdown().await.map_err(here)
}

/// From a backend to a client's stream. No more is read of it than the client lets in.
async fn to_stream(
    from: &mut Reader,
    stream: &mut SendStream<Bytes>,
    activity: &Activity,
    sent: &AtomicU64,
) -> Result<(), End> {
    let gone = |error: h2::Error| End::Client(error.into());
    loop {
        if from.bytes().is_empty() {
            let filled = tokio::select! {
                filled = from.fill() => filled,
                _ = poll_fn(|cx| stream.poll_reset(cx)) => return Err(End::Client(Broken::Closed)),
            };
            if filled.map_err(|_| End::Here)? == 0 {
                return stream.send_data(Bytes::new(), true).map_err(gone);
            }
        }
        activity.seen();
        let most = from.bytes().len();
        stream.reserve_capacity(most);
        let granted = poll_fn(|cx| stream.poll_capacity(cx)).await;
        let granted = granted.ok_or(End::Client(Broken::Closed))?.map_err(gone)?.min(most);
        stream.send_data(Bytes::copy_from_slice(&from.bytes()[..granted]), false).map_err(gone)?;
        from.consume(granted);
        sent.fetch_add(granted as u64, Relaxed);
    }
}

/// When something was last seen on either side.
struct Activity(Mutex<Instant>);

impl Activity {
    fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Returns when nothing was seen for this long.
    async fn silence(&self, patience: Duration) {
        loop {
            let until = self.last() + patience;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}
