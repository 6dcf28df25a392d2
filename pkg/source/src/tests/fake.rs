//! A Kubernetes API in a hundred lines: list, watch with history, 410, create, merge patch, delete; can be taken down.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use futures::StreamExt as _;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct Inner {
    revision: u64,
    /// Resource, then key (`namespace/name` or name).
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    /// (revision, resource, type, object).
    events: Vec<(u64, String, &'static str, Value)>,
    /// Revisions below this are too old; and whether the watch says so in its stream or by its status.
    oldest: u64,
    expire_in_stream: bool,
    /// Whether networking.k8s.io is not served, and whether the list of groups is not either.
    without_networking: bool,
    without_groups: bool,
    /// The kinds of the Gateway API that are served, by version.
    gateway_kinds: BTreeMap<String, Vec<String>>,
    /// The Secrets, by key, that this client may not read, and whether lists of Secrets come as nonsense.
    forbidden: Vec<String>,
    nonsense: bool,
    /// Watches of Secrets under way, by key.
    watched: BTreeMap<String, usize>,
    lists: HashMap<String, usize>,
    writes: HashMap<String, usize>,
}

pub(super) struct FakeApi {
    inner: Arc<Mutex<Inner>>,
    changed: watch::Sender<u64>,
    address: SocketAddr,
    life: Mutex<Option<(CancellationToken, Arc<Notify>)>>,
}

#[derive(Clone)]
struct Served {
    inner: Arc<Mutex<Inner>>,
    changed: watch::Sender<u64>,
    stop: CancellationToken,
}

impl FakeApi {
    pub(super) async fn start() -> Self {
        // An address of its own: nobody takes its port while it is down.
        static LAST: AtomicU8 = AtomicU8::new(1);
        let own = [127, 0, 1, LAST.fetch_add(1, Ordering::Relaxed)];
        let address =
            std::net::TcpListener::bind((std::net::Ipv4Addr::from(own), 0)).unwrap().local_addr().unwrap();
        let api =
            Self { inner: Arc::default(), changed: watch::Sender::new(0), address, life: Mutex::new(None) };
        api.inner.lock().unwrap().revision = 10;
        api.up().await;
        api
    }

    pub(super) fn kubeconfig(&self) -> String {
        json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", self.address)}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}]})
        .to_string()
    }

    pub(super) async fn up(&self) {
        let (stop, ended) = (CancellationToken::new(), Arc::new(Notify::new()));
        let served = Served { inner: self.inner.clone(), changed: self.changed.clone(), stop: stop.clone() };
        let router = Router::new()
            .route("/api/v1/{resource}", any(cluster_all))
            .route("/api/v1/nodes/{name}", any(node_one))
            .route("/api/v1/nodes/{name}/status", any(node_one))
            .route("/api/v1/namespaces/{ns}/{resource}", any(ns_all))
            .route("/api/v1/namespaces/{ns}/{resource}/{name}", any(ns_one))
            .route("/api/v1/namespaces/{ns}/{resource}/{name}/status", any(ns_one))
            .route("/apis", any(groups))
            .route("/apis/discovery.k8s.io/v1/{resource}", any(cluster_all))
            .route("/apis/networking.k8s.io/v1/{resource}", any(networking_all))
            .route("/apis/networking.k8s.io/v1/namespaces/{ns}/{resource}/{name}/status", any(ns_one))
            .route("/apis/gateway.networking.k8s.io/{version}", any(gateway_kinds))
            .route("/apis/gateway.networking.k8s.io/{version}/{resource}", any(gateway_all))
            .route(
                "/apis/gateway.networking.k8s.io/{version}/gatewayclasses/{name}/status",
                any(gateway_class),
            )
            .route(
                "/apis/gateway.networking.k8s.io/{version}/namespaces/{ns}/{resource}/{name}/status",
                any(gateway_one),
            )
            .route("/apis/coordination.k8s.io/v1/namespaces/{ns}/{resource}", any(ns_all))
            .route("/apis/coordination.k8s.io/v1/namespaces/{ns}/{resource}/{name}", any(ns_one))
            .with_state(served);
        let listener = {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(self.address).unwrap();
            socket.listen(64).unwrap()
        };
        let (token, done) = (stop.clone(), ended.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let listener = listener.into_std().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = token.cancelled() => {}
                    r = std::future::IntoFuture::into_future(axum::serve(listener, router)) => r.unwrap(),
                }
            });
            // Dropping the runtime closes every connection, as a killed process does.
            drop(runtime);
            done.notify_one();
        });
        *self.life.lock().unwrap() = Some((stop, ended));
    }

    pub(super) async fn down(&self) {
        let life = self.life.lock().unwrap().take();
        if let Some((stop, ended)) = life {
            stop.cancel();
            ended.notified().await;
        }
    }

    pub(super) fn put(&self, resource: &str, object: Value) {
        put(&self.inner, &self.changed, resource, object);
    }
    pub(super) fn delete(&self, resource: &str, key: &str) {
        delete(&self.inner, &self.changed, resource, key);
    }
    pub(super) fn get(&self, resource: &str, key: &str) -> Option<Value> {
        self.inner.lock().unwrap().objects.get(resource)?.get(key).cloned()
    }
    pub(super) fn keys(&self, resource: &str) -> Vec<String> {
        self.inner.lock().unwrap().objects.get(resource).into_iter().flat_map(|o| o.keys().cloned()).collect()
    }
    /// Removes an object without an event.
    pub(super) fn forget(&self, resource: &str, key: &str) {
        self.inner.lock().unwrap().objects.get_mut(resource).unwrap().remove(key).unwrap();
    }
    /// Cuts the history, and ends every watch.
    pub(super) fn expire(&self, in_stream: bool) {
        let mut inner = self.inner.lock().unwrap();
        inner.revision += 100;
        inner.oldest = inner.revision;
        inner.expire_in_stream = in_stream;
        inner.events.clear();
        self.changed.send_replace(inner.revision);
    }
    /// From now on networking.k8s.io is (not) served; `groups`: the list of groups is not either.
    pub(super) fn without_networking(&self, without: bool, groups: bool) {
        let mut inner = self.inner.lock().unwrap();
        (inner.without_networking, inner.without_groups) = (without, groups);
    }
    /// From now on these Secrets may not be read.
    /// From now on these kinds of the Gateway API are served in a version; none: the version is not.
    pub(super) fn serve_gateways(&self, version: &str, kinds: &[&str]) {
        let kinds = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        self.inner.lock().unwrap().gateway_kinds.insert(version.into(), kinds);
    }
    pub(super) fn forbid_secrets(&self, keys: &[&str]) {
        self.inner.lock().unwrap().forbidden = keys.iter().map(|k| (*k).to_owned()).collect();
    }
    /// From now on (no more), lists of Secrets cannot be read.
    pub(super) fn talk_nonsense(&self, nonsense: bool) {
        self.inner.lock().unwrap().nonsense = nonsense;
    }
    /// The Secrets that are watched, each alone.
    pub(super) fn watched_secrets(&self) -> Vec<String> {
        let inner = self.inner.lock().unwrap();
        inner.watched.iter().filter(|(_, n)| **n > 0).map(|(k, _)| k.clone()).collect()
    }
    pub(super) fn lists(&self, resource: &str) -> usize {
        self.inner.lock().unwrap().lists.get(resource).copied().unwrap_or(0)
    }
    pub(super) fn writes(&self, resource: &str) -> usize {
        self.inner.lock().unwrap().writes.get(resource).copied().unwrap_or(0)
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        if let Some((stop, _)) = self.life.lock().unwrap().take() {
            stop.cancel();
        }
    }
}

fn key_of(object: &Value) -> String {
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    object["metadata"]["namespace"].as_str().map_or_else(|| name.clone(), |ns| format!("{ns}/{name}"))
}

fn put(inner: &Mutex<Inner>, changed: &watch::Sender<u64>, resource: &str, mut object: Value) -> Value {
    let mut inner = inner.lock().unwrap();
    inner.revision += 1;
    let revision = inner.revision;
    object["metadata"]["resourceVersion"] = json!(revision.to_string());
    let old = inner.objects.entry(resource.into()).or_default().insert(key_of(&object), object.clone());
    let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
    inner.events.push((revision, resource.into(), kind, object.clone()));
    changed.send_replace(revision);
    object
}

fn delete(inner: &Mutex<Inner>, changed: &watch::Sender<u64>, resource: &str, key: &str) -> Option<Value> {
    let mut inner = inner.lock().unwrap();
    let mut object = inner.objects.get_mut(resource)?.remove(key)?;
    inner.revision += 1;
    let revision = inner.revision;
    object["metadata"]["resourceVersion"] = json!(revision.to_string());
    inner.events.push((revision, resource.into(), "DELETED", object.clone()));
    changed.send_replace(revision);
    Some(object)
}

type Params = Query<HashMap<String, String>>;

async fn groups(State(s): State<Served>) -> Response {
    let inner = s.inner.lock().unwrap();
    if inner.without_groups {
        return failure(404, "NotFound");
    }
    let group = |name: &str| {
        let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
        json!({"name": name, "versions": [version], "preferredVersion": version})
    };
    let mut groups = vec![group("discovery.k8s.io"), group("coordination.k8s.io")];
    if !inner.without_networking {
        groups.push(group("networking.k8s.io"));
    }
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}).to_string().into_response()
}
async fn networking_all(
    State(s): State<Served>,
    Path(resource): Path<String>,
    q: Params,
    m: Method,
    body: String,
) -> Response {
    if s.inner.lock().unwrap().without_networking {
        // What a real server says of a group that it does not know.
        return (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
    }
    all(s, None, resource, q, m, body)
}
fn gateway_kinds_of(s: &Served, version: &str) -> Vec<String> {
    s.inner.lock().unwrap().gateway_kinds.get(version).cloned().unwrap_or_default()
}
async fn gateway_kinds(State(s): State<Served>, Path(version): Path<String>) -> Response {
    let kinds = gateway_kinds_of(&s, &version);
    if kinds.is_empty() {
        return (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
    }
    let resource = |name: &String| json!({"name": name, "singularName": "", "namespaced": true, "kind": name, "verbs": []});
    let resources: Vec<Value> = kinds.iter().map(resource).collect();
    json!({"kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": format!("gateway.networking.k8s.io/{version}"), "resources": resources})
    .to_string()
    .into_response()
}
async fn gateway_all(
    State(s): State<Served>,
    Path((version, resource)): Path<(String, String)>,
    q: Params,
    m: Method,
    body: String,
) -> Response {
    if !gateway_kinds_of(&s, &version).contains(&resource) {
        return (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
    }
    all(s, None, resource, q, m, body)
}
async fn gateway_class(
    State(s): State<Served>,
    Path((_, name)): Path<(String, String)>,
    m: Method,
    body: String,
) -> Response {
    one(s, "gatewayclasses".into(), name, m, body)
}
async fn gateway_one(
    State(s): State<Served>,
    Path((_, ns, resource, name)): Path<(String, String, String, String)>,
    m: Method,
    body: String,
) -> Response {
    one(s, resource, format!("{ns}/{name}"), m, body)
}
async fn cluster_all(
    State(s): State<Served>,
    Path(resource): Path<String>,
    q: Params,
    m: Method,
    body: String,
) -> Response {
    all(s, None, resource, q, m, body)
}
async fn ns_all(
    State(s): State<Served>,
    Path((ns, resource)): Path<(String, String)>,
    q: Params,
    m: Method,
    body: String,
) -> Response {
    all(s, Some(ns), resource, q, m, body)
}
async fn node_one(State(s): State<Served>, Path(name): Path<String>, m: Method, body: String) -> Response {
    one(s, "nodes".into(), name, m, body)
}
async fn ns_one(
    State(s): State<Served>,
    Path((ns, resource, name)): Path<(String, String, String)>,
    m: Method,
    body: String,
) -> Response {
    one(s, resource, format!("{ns}/{name}"), m, body)
}

fn failure(code: u16, reason: &str) -> Response {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": reason, "metadata": {}});
    (StatusCode::from_u16(code).unwrap(), body.to_string()).into_response()
}

fn all(
    s: Served,
    ns: Option<String>,
    resource: String,
    Query(q): Params,
    m: Method,
    body: String,
) -> Response {
    if m == Method::POST {
        let object: Value = serde_json::from_str(&body).unwrap();
        let mut object = object;
        if let Some(ns) = &ns {
            object["metadata"]["namespace"] = json!(ns);
        }
        object["metadata"]["uid"] = json!(format!("uid-{}", key_of(&object)));
        object.as_object_mut().unwrap().remove("status");
        let exists =
            s.inner.lock().unwrap().objects.get(&resource).is_some_and(|o| o.contains_key(&key_of(&object)));
        if exists {
            return failure(409, "AlreadyExists");
        }
        *s.inner.lock().unwrap().writes.entry(resource.clone()).or_default() += 1;
        return (StatusCode::CREATED, put(&s.inner, &s.changed, &resource, object).to_string())
            .into_response();
    }
    let name = q.get("fieldSelector").map(|f| f.strip_prefix("metadata.name=").unwrap().to_owned());
    let key = format!("{}/{}", ns.clone().unwrap_or_default(), name.clone().unwrap_or_default());
    if resource == "secrets" {
        let inner = s.inner.lock().unwrap();
        // As a node is let: one by one, by name.
        if ns.is_none() || name.is_none() || inner.forbidden.contains(&key) {
            return failure(403, "Forbidden");
        }
    }
    let selects = move |o: &Value| {
        ns.as_ref().is_none_or(|ns| o["metadata"]["namespace"] == *ns)
            && name.as_ref().is_none_or(|name| o["metadata"]["name"] == *name)
    };
    if q.get("watch").is_none_or(|w| w == "false") {
        let mut inner = s.inner.lock().unwrap();
        *inner.lists.entry(resource.clone()).or_default() += 1;
        let items: Vec<Value> = inner
            .objects
            .get(&resource)
            .into_iter()
            .flat_map(|o| o.values())
            .filter(|o| selects(o))
            .cloned()
            .collect();
        if inner.nonsense && resource == "secrets" {
            return json!({"items": items.iter().map(ToString::to_string).collect::<Vec<_>>()})
                .to_string()
                .into_response();
        }
        return json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": inner.revision.to_string()},
            "items": items})
        .to_string()
        .into_response();
    }
    let from: u64 = q.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
    {
        let inner = s.inner.lock().unwrap();
        if from < inner.oldest && !inner.expire_in_stream {
            return failure(410, "Expired");
        }
    }
    let counted = Counted::new(&s, &resource, &key);
    let state = (s.clone(), s.changed.subscribe(), from, (resource, selects, counted), false);
    let stream = futures::stream::unfold(state, |(s, mut changed, from, of, ended)| async move {
        if ended {
            return None;
        }
        loop {
            let (out, next, ended) = {
                let inner = s.inner.lock().unwrap();
                if from < inner.oldest {
                    let gone = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "metadata": {},
                        "status": "Failure", "message": "too old", "reason": "Expired", "code": 410}});
                    (if inner.expire_in_stream { format!("{gone}\n") } else { String::new() }, from, true)
                } else {
                    let out: String = inner
                        .events
                        .iter()
                        .filter(|(r, res, _, o)| *r > from && *res == of.0 && of.1(o))
                        .map(|(_, _, kind, o)| format!("{}\n", json!({"type": kind, "object": o})))
                        .collect();
                    (out, inner.revision, false)
                }
            };
            if ended || !out.is_empty() {
                return Some((Ok::<_, std::convert::Infallible>(out), (s, changed, next, of, ended)));
            }
            tokio::select! {
                () = s.stop.cancelled() => return None,
                _ = changed.changed() => {}
            }
        }
    });
    Body::from_stream(stream.boxed()).into_response()
}

/// Counts a watch of a Secret while it lasts.
struct Counted(Option<(Arc<Mutex<Inner>>, String)>);
impl Counted {
    fn new(s: &Served, resource: &str, key: &str) -> Self {
        if resource != "secrets" {
            return Self(None);
        }
        *s.inner.lock().unwrap().watched.entry(key.to_owned()).or_default() += 1;
        Self(Some((s.inner.clone(), key.to_owned())))
    }
}
impl Drop for Counted {
    fn drop(&mut self) {
        if let Some((inner, key)) = &self.0 {
            *inner.lock().unwrap().watched.get_mut(key).unwrap() -= 1;
        }
    }
}

fn one(s: Served, resource: String, key: String, m: Method, body: String) -> Response {
    let old = s.inner.lock().unwrap().objects.get(&resource).and_then(|o| o.get(&key)).cloned();
    let Some(mut object) = old else { return failure(404, "NotFound") };
    match m {
        Method::PATCH => {
            *s.inner.lock().unwrap().writes.entry(resource.clone()).or_default() += 1;
            merge(&mut object, &serde_json::from_str(&body).unwrap());
            put(&s.inner, &s.changed, &resource, object).to_string().into_response()
        }
        Method::PUT => {
            let new: Value = serde_json::from_str(&body).unwrap();
            let (was, is) = (&object["metadata"]["resourceVersion"], &new["metadata"]["resourceVersion"]);
            if !is.is_null() && was != is {
                return failure(409, "Conflict");
            }
            *s.inner.lock().unwrap().writes.entry(resource.clone()).or_default() += 1;
            put(&s.inner, &s.changed, &resource, new).to_string().into_response()
        }
        Method::DELETE => delete(&s.inner, &s.changed, &resource, &key).unwrap().to_string().into_response(),
        _ => object.to_string().into_response(),
    }
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (k, v) in patch {
        if v.is_null() {
            target.as_object_mut().unwrap().remove(k);
        } else {
            merge(target.as_object_mut().unwrap().entry(k.clone()).or_insert(Value::Null), v);
        }
    }
}
