use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use std::time::Duration;

use super::harness::{TestServer, pod};
use crate::alloc::Allocators;
use crate::storage::{Cache, Disk, History, Op, Since, WriterTask};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// A watch, line by line.
pub(super) struct Watching {
    body: futures::stream::BoxStream<'static, Bytes>,
    rest: Vec<u8>,
}

impl Watching {
    pub(super) async fn open(s: &TestServer, path: &str, accept: &str) -> Self {
        let request =
            ::http::Request::get(path).header("accept", accept).body(kube::client::Body::empty()).unwrap();
        let response = s.client.send(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let body = response.into_body().into_data_stream().map(|b| b.unwrap()).boxed();
        Self { body, rest: Vec::new() }
    }
    /// The next event; `None` when the watch has ended.
    pub(super) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let bytes = tokio::time::timeout(Duration::from_secs(20), self.body.next())
                .await
                .expect("an event in time");
            self.rest.extend(bytes?);
        }
    }
    async fn seen(&mut self) -> (String, String) {
        let e = self.next().await.unwrap();
        (
            e["type"].as_str().unwrap().to_owned(),
            e["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        )
    }
}

fn is(kind: &str, name: &str) -> (String, String) {
    (kind.into(), name.into())
}

#[tokio::test]
async fn a_watch_begins_with_the_state_and_follows() {
    let s = TestServer::start().await;
    s.create(PODS, pod("a", "n1", "web")).await;
    let mut all = Watching::open(&s, &format!("{PODS}?watch=true"), "application/json").await;
    let mut web = Watching::open(&s, "/api/v1/pods?watch=1&labelSelector=app%3Dweb", "*/*").await;
    let mut on_n2 = Watching::open(&s, "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn2", "*/*").await;
    assert_eq!((all.seen().await, web.seen().await), (is("ADDED", "a"), is("ADDED", "a")));
    s.create(PODS, pod("b", "n2", "db")).await;
    let r = s
        .patch(
            &format!("{PODS}/a"),
            "application/merge-patch+json",
            json!({"metadata": {"labels": {"app": "db"}}}),
        )
        .await;
    let left = web.next().await.unwrap();
    assert_eq!(
        (&left["type"], &left["object"]["metadata"]["labels"]["app"]),
        (&json!("DELETED"), &json!("web"))
    );
    assert_eq!(left["object"]["metadata"]["resourceVersion"], r.body["metadata"]["resourceVersion"]);
    s.patch(
        &format!("{PODS}/b"),
        "application/merge-patch+json",
        json!({"metadata": {"labels": {"app": "web"}}}),
    )
    .await;
    assert_eq!(web.seen().await, is("ADDED", "b"));
    s.ask("DELETE", &format!("{PODS}/b?gracePeriodSeconds=0"), Value::Null).await;
    assert_eq!(web.seen().await, is("DELETED", "b"));
    for expected in [is("ADDED", "b"), is("MODIFIED", "a"), is("MODIFIED", "b"), is("DELETED", "b")] {
        assert_eq!(all.seen().await, expected);
    }
    for expected in [is("ADDED", "b"), is("MODIFIED", "b"), is("DELETED", "b")] {
        assert_eq!(on_n2.seen().await, expected);
    }
}

#[tokio::test]
async fn a_watch_resumes_where_it_left_off() {
    let s = TestServer::start().await;
    let a = s.create(PODS, pod("a", "n1", "web")).await;
    s.create(PODS, pod("b", "n1", "web")).await;
    let version = a["metadata"]["resourceVersion"].as_str().unwrap();
    let mut w =
        Watching::open(&s, &format!("{PODS}?watch=1&resourceVersion={version}&timeoutSeconds=1"), "*/*")
            .await;
    assert_eq!(w.seen().await, is("ADDED", "b"));
    assert_eq!(w.next().await, None, "the watch ends at its timeout");
    let mut w = Watching::open(&s, &format!("{PODS}?watch=1&resourceVersion=99999999"), "*/*").await;
    let e = w.next().await.unwrap();
    let (status, reason) = (&e["object"]["code"], &e["object"]["reason"]);
    assert_eq!((&e["type"], status, reason), (&json!("ERROR"), &json!(410), &json!("Expired")));
    assert_eq!(w.next().await, None);
    let s = TestServer::start_in(s.stop().await).await;
    let mut w = Watching::open(&s, &format!("{PODS}?watch=1&resourceVersion={version}"), "*/*").await;
    assert_eq!(w.next().await.unwrap()["object"]["code"], 410, "history does not survive a restart");
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let s = TestServer::start().await;
    s.create(PODS, pod("a", "n1", "web")).await;
    let path = "/api/v1/pods?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut w = Watching::open(&s, path, "*/*").await;
    assert_eq!(w.seen().await, is("ADDED", "a"));
    let mark = w.next().await.unwrap();
    assert_eq!((&mark["type"], &mark["object"]["kind"]), (&json!("BOOKMARK"), &json!("Pod")));
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn tables_are_watched_too() {
    let s = TestServer::start().await;
    s.create(PODS, pod("a", "n1", "web")).await;
    let mut w =
        Watching::open(&s, &format!("{PODS}?watch=1"), "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    let e = w.next().await.unwrap();
    assert_eq!((&e["type"], &e["object"]["kind"]), (&json!("ADDED"), &json!("Table")));
    assert_eq!(
        e["object"]["rows"][0]["cells"].as_array().unwrap()[..3],
        [json!("a"), json!("0/1"), json!("Pending")]
    );
}

#[tokio::test]
async fn watches_end_when_the_server_stops() {
    let s = TestServer::start().await;
    let mut w = Watching::open(&s, &format!("{PODS}?watch=1"), "*/*").await;
    s.create(PODS, pod("a", "n1", "web")).await;
    assert_eq!(w.seen().await, is("ADDED", "a"));
    s.stop().await;
    assert_eq!(w.next().await, None);
}

#[tokio::test]
async fn the_clients_own_watcher_follows() {
    use kube::runtime::watcher;
    let s = TestServer::start().await;
    s.create(PODS, pod("a", "n1", "web")).await;
    let api: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::all(s.client.clone());
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut events = watcher::watcher(api.clone(), config).boxed();
        let mut first = Vec::new();
        loop {
            match events.next().await.unwrap().unwrap() {
                watcher::Event::InitApply(p) => first.push(p.metadata.name.unwrap()),
                watcher::Event::InitDone => break,
                _ => {}
            }
        }
        assert_eq!(first, ["a"]);
        s.create(PODS, pod("b", "n1", "web")).await;
        assert!(
            matches!(events.next().await.unwrap().unwrap(), watcher::Event::Apply(p) if p.metadata.name.as_deref() == Some("b"))
        );
        s.ask("DELETE", &format!("{PODS}/b?gracePeriodSeconds=0"), Value::Null).await;
        assert!(matches!(events.next().await.unwrap().unwrap(), watcher::Event::Delete(_)));
    }
}

#[tokio::test]
async fn history_is_bounded_and_those_behind_it_are_told() {
    let cache = std::sync::Arc::new(Cache::new(
        Vec::new(),
        1,
        History { events: 3, bytes: 1 << 20, age: Duration::from_secs(600) },
    ));
    let (task, writer) = WriterTask::new(cache.clone(), Disk::Memory, Allocators::of_ten());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(task.run(Default::default()));
    let kind = crate::registry::NAMESPACE;
    for i in 0..5 {
        writer
            .write(Op::Create { kind, value: json!({"metadata": {"name": format!("n{i}")}}) })
            .await
            .unwrap();
    }
    assert!(matches!(cache.since(kind, 2, 10), Since::Gone { oldest: 3 }));
    assert!(matches!(cache.since(kind, 3, 10), Since::Events(e, 6) if e.len() == 3));
    assert!(matches!(cache.since(kind, 3, 2), Since::Events(e, 5) if e.len() == 2));
    assert!(
        matches!(cache.since(crate::registry::POD, 1, 2), Since::Events(e, 6) if e.is_empty()),
        "other kinds have their own history"
    );
}

#[tokio::test(start_paused = true)]
async fn history_ends_with_age_too() {
    let history = History { events: 100, bytes: 1 << 20, age: Duration::from_secs(60) };
    let cache = std::sync::Arc::new(Cache::new(Vec::new(), 1, history));
    let (task, writer) = WriterTask::new(cache.clone(), Disk::Memory, Allocators::of_ten());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(task.run(Default::default()));
    let kind = crate::registry::NAMESPACE;
    for i in 0..3 {
        let value = json!({"metadata": {"name": format!("n{i}")}});
        writer.write(Op::Create { kind, value }).await.unwrap();
        tokio::time::sleep(Duration::from_secs(25)).await;
    }
    cache.compact();
    assert!(matches!(cache.since(kind, 1, 10), Since::Gone { oldest: 2 }));
    assert!(matches!(cache.since(kind, 2, 10), Since::Events(e, 4) if e.len() == 2));
    tokio::time::sleep(Duration::from_secs(600)).await;
    cache.compact();
    assert!(matches!(cache.since(kind, 3, 10), Since::Gone { oldest: 4 }));
    assert!(
        matches!(cache.since(kind, 4, 10), Since::Events(e, 4) if e.is_empty()),
        "who is up to date stays"
    );
}
