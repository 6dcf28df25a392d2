//! Requests to verbs.

use axum::body::Body;
use axum::extract::{Request, State};
use http::{Method, Response, StatusCode};
use hyper::body::Body as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use warren_store::Store;
use warren_types::HealthCell;

use crate::audit::{Audit, Entry};
use crate::auth::{Peer, User, Verb, authorize};
use crate::bearer::{self, BODY_LIMIT as OWN_LIMIT, Bearers};
use crate::decode::{self, BODY_LIMIT};
use crate::deletion::DeleteOptions;
use crate::error::{ApiError, ApiResult};
use crate::gates::Gates;
use crate::join::Joining;
use crate::ops::{Objects, WriteOptions, Written};
use crate::patch::Patch;
use crate::query::{FieldValidation, Params, Target, target};
use crate::registry::{DAEMON_SET, NODE};
use crate::reply::{self, Form, negotiate};
use crate::selector::Selector;
use crate::storage::Object;
use crate::table::Include;
use crate::watch::{self, Shape};
use crate::{backup, discovery, impersonate, lists, rbac, reviews};

/// Forms of objects.
const FORMS: &[Form] = &[Form::Object, Form::Table, Form::Partial];

/// What requests need.
pub(crate) struct App {
    pub(crate) objects: Objects,
    pub(crate) ca_pem: String,
    pub(crate) joining: Joining,
    pub(crate) bearers: Bearers,
    pub(crate) audit: Audit,
    pub(crate) gates: Gates,
    pub(crate) store: Store,
    pub(crate) health: HealthCell,
    pub(crate) stop: CancellationToken,
}

/// Answers one request.
pub(crate) async fn handle(State(app): State<Arc<App>>, request: Request) -> Response<Body> {
    let peer = request.extensions().get::<Peer>().cloned();
    let Some(mut peer) = peer else {
        return ApiError::internal("the connection has no peer").response();
    };
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let result = match identify(&app, &mut peer, &request) {
        Ok(()) => dispatch(&app, &peer, request).await,
        Err(e) => Err(e),
    };
    if let Err(e) = &result {
        tracing::debug!(%method, path, user = %peer.user.name(), code = e.code.as_u16(), error = %e.message, "request refused");
    }
    result.unwrap_or_else(|e| e.response())
}

/// Whoever came without a client certificate may show a token. The token of a join is that endpoint's own matter. An
/// administrator may act as somebody else.
fn identify(app: &App, peer: &mut Peer, request: &Request) -> ApiResult<()> {
    if peer.user == User::Anonymous
        && request.uri().path() != JOIN
        && let Some(user) = app.bearers.user(request.headers(), Timestamp::now())?
    {
        peer.standing.promote();
        peer.user = user;
    }
    peer.user = impersonate::acting(peer.user.clone(), request.headers())?;
    Ok(())
}

/// Where nodes join, and where they renew their certificates.
const JOIN: &str = "/v1-warren/join";
const RENEW: &str = "/v1-warren/renew";

async fn dispatch(app: &Arc<App>, peer: &Peer, request: Request) -> ApiResult<Response<Body>> {
    let path = request.uri().path().to_owned();
    let get = request.method() == Method::GET || request.method() == Method::HEAD;
    match path.trim_end_matches('/') {
        "/cacerts" if get => {
            return Ok(reply::typed(StatusCode::OK, "application/x-pem-file", app.ca_pem.clone()));
        }
        "/livez" | "/healthz" | "/readyz" if get => {
            return Ok(health(app, path.trim_end_matches('/'), request.uri().query()));
        }
        "/version" if get => return Ok(reply::json(StatusCode::OK, &discovery::version())),
        JOIN if request.method() == Method::POST => return own(app, peer, "join", request).await,
        _ => {}
    }
    if peer.user == User::Anonymous {
        return Err(ApiError::unauthorized(
            "Unauthorized: give a client certificate, as the kubeconfig of this server holds one, or a bearer token",
        ));
    }
    let post = request.method() == Method::POST;
    let size = request.body().size_hint().upper();
    match path.as_str() {
        RENEW if post => return own(app, peer, "renew", request).await,
        backup::PATH if get => return own(app, peer, "backup", request).await,
        p if p == bearer::PATH || p.strip_prefix(bearer::PATH).is_some_and(|rest| rest.starts_with('/')) => {
            return own(app, peer, "tokens", request).await;
        }
        p => {
            if let Some(review) = reviews::at(p).filter(|_| post) {
                let _place = app.gates.write(size).await?;
                let (parts, body) = request.into_parts();
                let bytes = read_body(app, body, BODY_LIMIT).await?;
                let body = decode::body(&parts.headers, &bytes, Some(review.proto))?;
                let permitted = |verb, target: &Target| permitted(app, &peer.user, verb, target);
                return reviews::answer(review, &peer.user, &body, permitted);
            }
        }
    }
    if get && let Some(answer) = discovery::answer(&path, request.headers())? {
        return Ok(answer);
    }
    let target = target(&path)?;
    let params = Params::parse(request.uri())?;
    let verb = verb(request.method(), &target, &params)?;
    let asked = named(&target, &params)?;
    let authorized = permitted(app, &peer.user, verb, &asked);
    if verb.reads() {
        authorized?;
        return run(app, peer, verb, target, params, request).await;
    }
    let pending = app.audit.begin(entry(peer, verb, &target));
    let result = match authorized {
        Ok(()) => match app.gates.write(size).await {
            Ok(_place) => run(app, peer, verb, target, params, request).await,
            Err(e) => Err(e),
        },
        Err(e) => Err(e),
    };
    match &result {
        Ok(response) => {
            let name = response.extensions().get::<WrittenName>();
            pending.done(response.status(), name.map(|n| n.0.as_str()));
        }
        Err(e) => pending.done(e.code, None),
    }
    result
}

/// The name of a written object, for its audit line: the request for a new one has it in the body only.
#[derive(Clone)]
struct WrittenName(String);

fn entry(peer: &Peer, verb: Verb, target: &Target) -> Entry {
    let sub = if target.status { "/status" } else { "" };
    Entry {
        user: peer.user.name(),
        verb: verb.name(),
        resource: format!("{}{sub}", target.kind.get().qualified()),
        namespace: target.namespace.clone().unwrap_or_default(),
        name: target.name.clone().unwrap_or_default(),
        code: 0,
        from: Some(peer.address),
    }
}

/// Warren's own paths: joining, renewing, tokens, backup. Each that changes something, or tells everything, has its
/// audit line.
async fn own(app: &App, peer: &Peer, what: &'static str, request: Request) -> ApiResult<Response<Body>> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let entry = Entry {
        user: peer.user.name(),
        verb: match (what, &parts.method) {
            ("tokens", &Method::DELETE) => "delete",
            ("backup", _) => "get",
            _ => "create",
        },
        resource: format!("warren/{what}"),
        name: path.strip_prefix(bearer::PATH).unwrap_or_default().trim_start_matches('/').to_owned(),
        from: Some(peer.address),
        ..Entry::default()
    };
    let listed = what == "tokens" && !matches!(parts.method, Method::POST | Method::DELETE);
    let pending = (!listed).then(|| app.audit.begin(entry));
    let result = match read_body(app, body, OWN_LIMIT).await {
        Err(e) => Err(e),
        Ok(bytes) => match what {
            "join" => app.joining.answer(peer, &parts.headers, &bytes).await,
            "renew" => app.joining.renew(&peer.user, &bytes),
            "backup" if matches!(peer.user, User::Admin(_)) => Ok(backup::answer(&app.store)),
            "backup" => Err(ApiError::forbidden(format!("User {:?} is no administrator", peer.user.name()))),
            _ => app.bearers.answer(&peer.user, &parts.method, path, &bytes, Timestamp::now()).await,
        },
    };
    if let Some(pending) = pending {
        pending.done(result.as_ref().map_or_else(|e| e.code, Response::status), None);
    }
    result
}

/// Decides by the request: what the user is, and which roles it has.
fn permitted(app: &App, user: &User, verb: Verb, target: &Target) -> ApiResult<()> {
    let cache = &app.objects.cache;
    rbac::refuse_roles(user, verb, target)?;
    match authorize(user, verb, target, |ns, name| {
        crate::ingress::is_shown(cache, ns, name) || crate::gateway::is_shown(cache, ns, name)
    }) {
        Err(refused) => {
            let allowed = rbac::allows(cache, user, verb, target);
            let (kind, sub) = (target.kind.get(), if target.status { "/status" } else { "" });
            tracing::debug!(target: "rbac", user = user.name(), verb = verb.name(), group = kind.group,
                resource = format!("{}{sub}", kind.plural), namespace = target.namespace.as_deref().unwrap_or_default(),
                name = target.name.as_deref().unwrap_or_default(), allowed, "asked the roles");
            if allowed { Ok(()) } else { Err(refused) }
        }
        allowed => allowed,
    }
}

/// The target as its request is judged: a list or watch that selects one name asks for that object alone.
fn named(target: &Target, params: &Params) -> ApiResult<Target> {
    let mut target = target.clone();
    if target.name.is_none() && !params.field_selector.is_empty() {
        let selector = Selector::parse(target.kind.get(), None, "", &params.field_selector)?;
        target.name = selector.single_name().map(Into::into);
    }
    Ok(target)
}

/// Whether the server lives, or is ready; with `verbose` each check by name.
fn health(app: &App, path: &str, query: Option<&str>) -> Response<Body> {
    let report = app.health.get();
    let ready = report.state == warren_types::HealthState::Ready || path != "/readyz";
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose = query.is_some_and(|q| q.split('&').any(|p| p == "verbose" || p.starts_with("verbose=")));
    let text = match (ready, verbose) {
        (true, false) => "ok".to_owned(),
        (false, false) => report.message,
        (ready, true) => {
            let name = path.trim_start_matches('/');
            let (state, word) =
                if ready { ("[+]server ok", "passed") } else { ("[-]server failed", "failed") };
            format!("[+]ping ok\n{state}\n{name} check {word}\n")
        }
    };
    reply::text(code, text)
}

fn verb(method: &Method, target: &Target, params: &Params) -> ApiResult<Verb> {
    let named = target.name.is_some();
    if target.finalize && method != Method::PUT {
        return Err(ApiError::method_not_allowed());
    }
    Ok(match (method.as_str(), named) {
        ("GET" | "HEAD", true) if !params.watch => Verb::Get,
        ("GET" | "HEAD", _) if params.watch => Verb::Watch,
        ("GET" | "HEAD", _) => Verb::List,
        ("POST", false) => Verb::Create,
        ("PUT", true) => Verb::Update,
        ("PATCH", true) => Verb::Patch,
        ("DELETE", true) if !target.status => Verb::Delete,
        ("DELETE", false) => Verb::DeleteCollection,
        _ => return Err(ApiError::method_not_allowed()),
    })
}

/// Reads a whole body, bounded in size and time.
async fn read_body(app: &App, body: Body, limit: usize) -> ApiResult<bytes::Bytes> {
    match tokio::time::timeout(app.gates.wait, axum::body::to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(e)) => {
            let source = std::error::Error::source(&e);
            if source.is_some_and(|s| s.is::<http_body_util::LengthLimitError>()) {
                Err(ApiError::too_large(limit))
            } else {
                Err(ApiError::bad_request("the body ended early"))
            }
        }
        Err(_) => Err(ApiError::request_timeout("the body took too long to arrive")),
    }
}

async fn run(
    app: &Arc<App>,
    peer: &Peer,
    verb: Verb,
    target: Target,
    params: Params,
    request: Request,
) -> ApiResult<Response<Body>> {
    let form = negotiate(request.headers(), FORMS)?;
    let include = match params.include_object.as_deref() {
        Some("None") => Include::None,
        Some("Object") => Include::Object,
        _ => Include::Metadata,
    };
    let shape = Shape { kind: target.kind, form, include };
    let now = Timestamp::now();
    let options = WriteOptions {
        user: peer.user.clone(),
        manager: match params.field_manager.as_str() {
            "" => crate::query::manager_of_agent(request.headers()),
            given => given.to_owned(),
        },
        dry_run: params.dry_run,
        validation: params.field_validation,
        now,
    };
    let name = target.name.clone().unwrap_or_default();
    let show = |code: StatusCode, object: &Object| reply::bytes(code, shape.object(object, now));
    let show_written = |code: StatusCode, mut w: Written| {
        let mut response = show(code, &w.object);
        if target.kind == DAEMON_SET && matches!(verb, Verb::Create | Verb::Patch) {
            w.warnings.push(
                "this server runs no pods: the DaemonSet is kept, and nothing is started for it".into(),
            );
        }
        reply::warn(&mut response, &w.warnings);
        response.extensions_mut().insert(WrittenName(w.object.name.clone()));
        response
    };
    match verb {
        Verb::Get => {
            lists::check_version(&params, app.objects.cache.revision())?;
            let object = app.objects.get(target.kind, target.namespace.as_deref(), &name)?;
            Ok(show(StatusCode::OK, &object))
        }
        Verb::List => lists::list(&app.objects.cache, &target, &params, shape, now),
        Verb::Watch => {
            let mut selector = selector(&target, &params)?;
            if target.name.is_some() {
                selector = Selector::parse(
                    target.kind.get(),
                    target.namespace.as_deref(),
                    &params.label_selector,
                    &format!("metadata.name={name}"),
                )?;
            }
            watch::start(app.objects.cache.clone(), selector, shape, &params, app.stop.clone())
        }
        Verb::Create => {
            let (body, repeated) = object(app, request, &target, params.field_validation).await?;
            let mut written = app.objects.create(&target, body, &options).await?;
            written.warnings.extend(repeated);
            Ok(show_written(StatusCode::CREATED, written))
        }
        Verb::Update => {
            let (body, repeated) = object(app, request, &target, params.field_validation).await?;
            let mut written = app.objects.update(&target, &name, body, &options).await?;
            written.warnings.extend(repeated);
            Ok(show_written(StatusCode::OK, written))
        }
        Verb::Patch => {
            let (parts, body) = request.into_parts();
            if decode::media_type(&parts.headers) == crate::patch::APPLY {
                if params.field_manager.is_empty() {
                    return Err(ApiError::bad_request(
                        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
                    ));
                }
                let config = decode::yaml(&read_body(app, body, BODY_LIMIT).await?)?;
                refuse_deep(&config)?;
                let force = params.force.unwrap_or(false);
                let (written, new) = app.objects.apply(&target, &name, config, force, &options).await?;
                return Ok(show_written(if new { StatusCode::CREATED } else { StatusCode::OK }, written));
            }
            if params.force.is_some() {
                return Err(ApiError::unprocessable(
                    "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
                ));
            }
            let patch =
                Patch::decode(decode::media_type(&parts.headers), &read_body(app, body, BODY_LIMIT).await?)?;
            let written = app.objects.patch(&target, &name, &patch, &options).await?;
            Ok(show_written(StatusCode::OK, written))
        }
        Verb::Delete => {
            let delete = delete_options(app, request, &params).await?;
            let (object, gone) = app.objects.delete(&target, &name, &delete, &options).await?;
            if gone && target.kind == NODE && !options.dry_run {
                app.joining.forget(&name).await;
            }
            let kind = target.kind.get();
            if !gone || kind.returns_deleted {
                return Ok(show(StatusCode::OK, &object));
            }
            Ok(reply::json(StatusCode::OK, &deleted(&object)))
        }
        Verb::DeleteCollection => {
            let selector = selector(&target, &params)?;
            let delete = delete_options(app, request, &params).await?;
            let (objects, _) = app.objects.cache.list(target.kind);
            let chosen: Vec<Arc<Object>> =
                objects.values().filter(|o| selector.matches(&o.value, &o.namespace)).cloned().collect();
            for object in &chosen {
                let one = Target {
                    namespace: Some(object.namespace.clone()).filter(|n| !n.is_empty()),
                    ..target.clone()
                };
                match app.objects.delete(&one, &object.name, &delete, &options).await {
                    Ok(_) => {}
                    Err(e) if e.code == StatusCode::NOT_FOUND => {}
                    Err(e) => return Err(e),
                }
                if target.kind == NODE && !options.dry_run {
                    app.joining.forget(&object.name).await;
                }
            }
            let shape = Shape { form: Form::Object, ..shape };
            Ok(lists::render(shape, &chosen, app.objects.cache.revision(), None, now))
        }
    }
}

/// Both selectors of a request, and its namespace.
fn selector(target: &Target, params: &Params) -> ApiResult<Selector> {
    Selector::parse(
        target.kind.get(),
        target.namespace.as_deref(),
        &params.label_selector,
        &params.field_selector,
    )
}

/// The object in a body, and warnings of keys that stand twice in it.
async fn object(
    app: &App,
    request: Request,
    target: &Target,
    validation: FieldValidation,
) -> ApiResult<(Value, Vec<String>)> {
    let (parts, body) = request.into_parts();
    let bytes = read_body(app, body, BODY_LIMIT).await?;
    let repeated = repeated_keys(&parts.headers, &bytes, target, validation)?;
    let body = decode::body(&parts.headers, &bytes, target.kind.get().proto)?;
    refuse_deep(&body)?;
    Ok((body, repeated))
}

/// Warnings of keys that stand twice in a JSON body, or a refusal.
fn repeated_keys(
    headers: &http::HeaderMap,
    bytes: &[u8],
    target: &Target,
    validation: FieldValidation,
) -> ApiResult<Vec<String>> {
    if validation == FieldValidation::Ignore || decode::media_type(headers) != "application/json" {
        return Ok(Vec::new());
    }
    let found: Vec<String> =
        crate::repeated::keys(bytes).into_iter().map(|k| format!("duplicate field {k:?}")).collect();
    if validation == FieldValidation::Strict && !found.is_empty() {
        return Err(decode::strict_error(target.kind.get(), &found));
    }
    Ok(found)
}

fn refuse_deep(body: &Value) -> ApiResult<()> {
    if decode::too_deep(body) { Err(ApiError::bad_request("the body nests too deep")) } else { Ok(()) }
}

async fn delete_options(app: &App, request: Request, params: &Params) -> ApiResult<DeleteOptions> {
    let (parts, body) = request.into_parts();
    let bytes = read_body(app, body, BODY_LIMIT).await?;
    if bytes.is_empty() {
        return Ok(params.delete.clone());
    }
    let value = decode::body(&parts.headers, &bytes, Some(crate::proto::DELETE_OPTIONS))?;
    let value = without_nulls(value);
    serde_json::from_value(value)
        .map_err(|e| ApiError::bad_request(format!("the body is not DeleteOptions: {e}")))
}

/// The object without members that are null, which clients send for what they leave open.
fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(map) = &mut value {
        map.retain(|_, v| !v.is_null());
    }
    value
}

/// The Status that answers a deletion.
fn deleted(object: &Object) -> Value {
    let kind = object.kind.get();
    let mut details = json!({ "name": object.name, "kind": kind.plural, "uid": object.uid() });
    if !kind.group.is_empty() {
        details["group"] = kind.group.into();
    }
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details })
}
