//! Watches: a stream of events read from the history by position.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{ApiError, ApiResult};
use crate::meta;
use crate::query::Params;
use crate::registry::KindId;
use crate::reply::Form;
use crate::selector::Selector;
use crate::storage::{Cache, Event, Object, Since};
use crate::table::{Include, partial, table};

/// Events read from the history at once.
const STEP: usize = 200;
/// Between two bookmarks.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long a watch lasts when the client does not say; about half an hour, so that watches move on.
const DEFAULT_LIFE: Duration = Duration::from_secs(1800);

/// How objects are written into a stream or list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) kind: KindId,
    pub(crate) form: Form,
    pub(crate) include: Include,
}

impl Shape {
    /// One object.
    pub(crate) fn object(&self, object: &Object, now: Timestamp) -> Bytes {
        match self.form {
            Form::Table => {
                let metadata = json!({ "resourceVersion": object.revision.to_string() });
                table(self.kind.get(), std::iter::once(&object.value), metadata, self.include, now)
                    .to_string()
                    .into()
            }
            Form::Partial => partial(&object.full()).to_string().into(),
            Form::Object | Form::Discovery => object.json.clone(),
        }
    }
    fn bookmark(&self, revision: u64, ends_initial: bool) -> Value {
        let mut metadata = json!({ "resourceVersion": revision.to_string(), "creationTimestamp": null });
        if ends_initial {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let kind = self.kind.get();
        match self.form {
            Form::Table => {
                // The annotation goes on the row's object: that is where clients look.
                let row = json!({ "metadata": metadata });
                let rows = if ends_initial { vec![row] } else { Vec::new() };
                let metadata = json!({ "resourceVersion": revision.to_string() });
                table(kind, rows.iter(), metadata, self.include, Timestamp::UNIX_EPOCH)
            }
            Form::Partial => {
                json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata })
            }
            Form::Object | Form::Discovery => {
                json!({ "kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata })
            }
        }
    }
}

fn frame(out: &mut BytesMut, kind: &str, object: &[u8]) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
}

/// What a watcher with `selector` sees of an event: an object that enters the selection is added, one that leaves it
/// is deleted.
pub(crate) fn translate(event: &Event, selector: &Selector) -> Option<(&'static str, Arc<Object>)> {
    let shows = |o: &Object| selector.matches(&o.value, &o.namespace);
    let before = event.previous.as_ref().is_some_and(|p| shows(p));
    let after = !event.deleted && shows(&event.object);
    match (before, after) {
        (false, false) => None,
        (false, true) => Some(("ADDED", event.object.clone())),
        (true, true) => Some(("MODIFIED", event.object.clone())),
        (true, false) if event.deleted => Some(("DELETED", event.object.clone())),
        // It lives on outside the selection; the watcher gets what it last knew, at this revision.
        (true, false) => {
            let last = event.previous.as_ref()?.full();
            Some(("DELETED", Arc::new(Object::new(event.object.kind, last, event.revision))))
        }
    }
}

struct Watcher {
    cache: Arc<Cache>,
    selector: Selector,
    shape: Shape,
    changed: watch::Receiver<u64>,
    /// Everything up to here has been sent.
    position: u64,
    initial: std::vec::IntoIter<Arc<Object>>,
    initial_bookmark: bool,
    bookmarks: bool,
    next_bookmark: Instant,
    until: Instant,
    stop: CancellationToken,
    over: bool,
}

/// Begins a watch.
pub(crate) fn start(
    cache: Arc<Cache>,
    selector: Selector,
    shape: Shape,
    params: &Params,
    stop: CancellationToken,
) -> ApiResult<Response<Body>> {
    let asked = params.revision()?;
    let forbidden = |why: &str| {
        Err(ApiError::unprocessable(format!(
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: {why}"
        )))
    };
    match (params.send_initial_events, params.resource_version_match.as_str()) {
        (Some(_), "NotOlderThan") | (None, "") => {}
        (Some(_), _) => {
            return forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        (None, _) => {
            return forbidden(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
    }
    // Subscribed before the state is read, so that nothing falls between.
    let mut changed = cache.subscribe(shape.kind);
    changed.mark_unchanged();
    let (objects, current) = cache.list(shape.kind);
    let with_state = match params.send_initial_events {
        Some(wanted) => wanted,
        None => matches!(asked, None | Some(0)),
    };
    let position = match asked {
        Some(n) if n > 0 && !with_state => n,
        _ => current,
    };
    let initial: Vec<Arc<Object>> = if with_state {
        objects.values().filter(|o| selector.matches(&o.value, &o.namespace)).cloned().collect()
    } else {
        Vec::new()
    };
    let now = Instant::now();
    let life = params.timeout_seconds.map_or(DEFAULT_LIFE, |s| Duration::from_secs(s.min(86_400)));
    let spread = Duration::from_secs(meta::random::<1>()?[0].into());
    let watcher = Watcher {
        cache,
        selector,
        shape,
        changed,
        position,
        initial: initial.into_iter(),
        initial_bookmark: params.send_initial_events == Some(true) && params.bookmarks,
        bookmarks: params.bookmarks,
        next_bookmark: now + BOOKMARK_EVERY,
        until: now + if params.timeout_seconds.is_some() { life } else { life + spread },
        stop,
        // From a future that this server never had (its state was lost or rolled back): the client must list again.
        over: false,
    };
    let stream = futures::stream::unfold(watcher, |mut w| async move {
        w.next().await.map(|bytes| (Ok::<_, Infallible>(bytes), w))
    });
    let mut response = crate::reply::bytes(StatusCode::OK, Bytes::new());
    *response.body_mut() = Body::from_stream(stream);
    Ok(response)
}

impl Watcher {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.over {
                return None;
            }
            let mut out = BytesMut::new();
            self.fill(&mut out);
            if !out.is_empty() {
                return Some(out.freeze());
            }
            let wake = if self.bookmarks { self.until.min(self.next_bookmark) } else { self.until };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => self.over = true,
                changed = self.changed.changed() => self.over = changed.is_err(),
                () = tokio::time::sleep_until(wake) => {
                    if Instant::now() >= self.until {
                        self.over = true;
                    }
                }
            }
        }
    }

    /// Writes what is ready to be sent.
    fn fill(&mut self, out: &mut BytesMut) {
        let now = Timestamp::now();
        if self.initial.len() > 0 {
            for object in self.initial.by_ref().take(STEP) {
                frame(out, "ADDED", &self.shape.object(&object, now));
            }
            return;
        }
        if std::mem::take(&mut self.initial_bookmark) {
            frame(out, "BOOKMARK", self.shape.bookmark(self.position, true).to_string().as_bytes());
            return;
        }
        self.changed.mark_unchanged();
        // Steps in which nothing is selected are passed over at once.
        while out.is_empty() {
            let before = self.position;
            match self.cache.since(self.shape.kind, self.position, STEP) {
                _ if self.position > self.cache.revision() => return self.gone(out, self.cache.revision()),
                Since::Gone { oldest } => return self.gone(out, oldest),
                Since::Events(events, complete) => {
                    for event in &events {
                        if let Some((kind, object)) = translate(event, &self.selector) {
                            frame(out, kind, &self.shape.object(&object, now));
                        }
                    }
                    self.position = complete;
                    if events.len() < STEP || before == complete {
                        break;
                    }
                }
            }
        }
        if self.bookmarks && Instant::now() >= self.next_bookmark {
            self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
            frame(out, "BOOKMARK", self.shape.bookmark(self.position, false).to_string().as_bytes());
        }
    }

    fn gone(&mut self, out: &mut BytesMut, oldest: u64) {
        let message = format!("too old resource version: {} ({oldest})", self.position);
        frame(out, "ERROR", ApiError::expired(message).status().to_string().as_bytes());
        self.over = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::POD;

    fn pod(revision: u64, app: &str) -> Arc<Object> {
        let value = json!({"metadata": {"name": "p", "namespace": "d", "labels": {"app": app}}});
        Arc::new(Object::new(POD, value, revision))
    }

    #[test]
    fn entering_and_leaving_a_selection_is_added_and_deleted() {
        let web = Selector::parse(POD.get(), Some("d"), "app=web", "").unwrap();
        let see = |object: Arc<Object>, previous: Option<Arc<Object>>, deleted| {
            let event = Event { revision: 9, object, previous, deleted };
            translate(&event, &web).map(|(kind, o)| {
                (kind, o.value["metadata"]["labels"]["app"].as_str().unwrap().to_owned(), o.revision)
            })
        };
        let is = |kind, app: &str| Some((kind, app.to_owned(), 9));
        assert_eq!(see(pod(9, "web"), None, false), is("ADDED", "web"));
        assert_eq!(see(pod(9, "web"), Some(pod(5, "db")), false), is("ADDED", "web"));
        assert_eq!(see(pod(9, "web"), Some(pod(5, "web")), false), is("MODIFIED", "web"));
        assert_eq!(see(pod(9, "db"), Some(pod(5, "web")), false), is("DELETED", "web"));
        assert_eq!(see(pod(9, "web"), Some(pod(5, "web")), true), is("DELETED", "web"));
        assert_eq!(see(pod(9, "db"), Some(pod(5, "db")), true), None);
        assert_eq!(see(pod(9, "db"), None, false), None);
    }
}
