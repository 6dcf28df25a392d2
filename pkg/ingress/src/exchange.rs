//! One request: decided, sent to an endpoint, answered.

use crate::decide::{self, Answer, Client, Decision, Peer};
use crate::error::Broken;
use crate::front::Front;
use crate::h1::body::Decoder;
use crate::h1::head::{Framing, Request, Response, Version};
use crate::message::{Side, Sink, Source, carry};
use crate::observe::{self, Record};
use crate::route::{Backend, Forward, Protocol, Route};
use crate::spare;
use crate::state::{EndpointState, Live, Outstanding};
use crate::tunnel;
use crate::upstream::{self, Answering, Connection, Unanswered};
use crate::websocket;
use crate::worker::Worker;
use bytes::Bytes;
use h2::SendStream;
use http::StatusCode;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use tokio::time::timeout;

/// How far an answer came: what is known of it also when it broke off.
#[derive(Default)]
struct Progress {
    /// Who gives it.
    endpoint: OnceLock<SocketAddr>,
    /// Bytes of its body that the client was sent.
    sent: AtomicU64,
}

/// Serves one request. An error means that the client's connection, or stream, cannot go on.
pub(crate) async fn serve(
    worker: &Worker,
    peer: &Peer,
    request: &mut Request,
    framing: Framing,
    source: &mut Source<'_>,
    front: &mut Front<'_>,
) -> Result<(), Broken> {
    let begun = Instant::now();
    let live = worker.shared.live();
    let client = Client::of(peer, &request.fields, &worker.shared.trusted);
    let length = match framing {
        Framing::Length(length) => Some(length),
        Framing::Chunked | Framing::Close => None,
    };
    let found = decide::find(&live, peer.scheme, request);
    let decision = match found {
        _ if decide::is_misdirected(&live, peer, request, client) => {
            Decision::Answer(Answer::new(StatusCode::MISDIRECTED_REQUEST))
        }
        None => Decision::Answer(Answer::new(StatusCode::NOT_FOUND)),
        Some(found) => decide::decide(&live, found, request, client, length).await,
    };
    let progress = Progress::default();
    // What was asked for, when that is not what is sent on.
    let asked = match &decision {
        Decision::Forward { forward, .. } if forward.path.is_some() && worker.shared.observer.is_some() => {
            Some(request.target.clone())
        }
        _ => None,
    };
    let outcome = match decision {
        Decision::Answer(answer) => refuse(request, source, front, answer, &progress).await,
        Decision::Forward { route, forward, depth, admission } => {
            let upgrade = decide::upgrade(request);
            let cookie_of = |backend: &Backend| {
                let sticky = backend.sticky.as_ref()?;
                decide::cookie(&request.fields, &sticky.cookie).map(str::to_owned)
            };
            let backend = decide::backend(forward, |most| worker.draw(most));
            let stuck = backend.and_then(|backend| cookie_of(backend));
            decide::prepare(request, peer, client, forward, route, depth);
            let exchange =
                Exchange { worker, live: &live, peer, client, route, forward, framing, progress: &progress };
            let outcome = {
                // In one place for both: what is moved is there twice.
                let work = pin!(exchange.run(request, source, front, backend, stuck, upgrade));
                match forward.timeouts.request {
                    None => Ok(work.await),
                    Some(most) => timeout(most, work).await,
                }
            };
            let outcome = match outcome {
                Ok(outcome) => outcome,
                Err(_) if front.has_begun() => Err(Broken::Slow),
                Err(_) => {
                    let answer = Answer::new(StatusCode::GATEWAY_TIMEOUT);
                    refuse(request, source, front, answer, &progress).await
                }
            };
            drop(admission);
            outcome
        }
    };
    // As nginx logs it: the client has gone, or the answer broke off.
    let status = *outcome.as_ref().unwrap_or(&499);
    if let Some((_, state)) = found {
        state.answers[usize::from(status / 100).min(5)].fetch_add(1, Relaxed);
    }
    if let Some(observer) = &worker.shared.observer {
        observer.done(&Record {
            client: client.address,
            method: &request.method,
            protocol: observe::protocol(request.version),
            host: &request.host,
            target: asked.as_ref().unwrap_or(&request.target),
            route: found.map(|(matched, _)| &*matched.route.name),
            endpoint: progress.endpoint.get().copied(),
            status,
            sent: progress.sent.load(Relaxed),
            took: begun.elapsed(),
        });
    }
    outcome.map(drop)
}

/// Answers without a backend. What the client still sends is not waited for here.
async fn refuse(
    request: &Request,
    source: &Source<'_>,
    front: &mut Front<'_>,
    answer: Answer,
    progress: &Progress,
) -> Result<u16, Broken> {
    let status = answer.status.as_u16();
    if !source.is_done() {
        front.stop();
    }
    progress.sent.store(front.answer(&request.method, answer).await?, Relaxed);
    Ok(status)
}

/// A request on its way to a backend.
struct Exchange<'a> {
    worker: &'a Worker,
    live: &'a Live,
    peer: &'a Peer,
    client: Client,
    route: &'a Route,
    forward: &'a Forward,
    framing: Framing,
    progress: &'a Progress,
}

/// How an attempt ended.
enum Attempt {
    /// By an answer of this status.
    Done(u16),
    /// Nothing of the request is used up: another endpoint may have it. The endpoint failed unless its connection was old.
    Again { failed: bool, status: StatusCode },
    /// There is no answer, and no other attempt.
    Failed(StatusCode),
}

impl Exchange<'_> {
    async fn run(
        &self,
        request: &mut Request,
        source: &mut Source<'_>,
        front: &mut Front<'_>,
        backend: Option<&Arc<Backend>>,
        stuck: Option<String>,
        upgrade: Option<Vec<u8>>,
    ) -> Result<u16, Broken> {
        let mut status = StatusCode::SERVICE_UNAVAILABLE;
        if request.websocket && backend.is_some_and(|backend| backend.protocol == Protocol::H2c) {
            status = StatusCode::NOT_IMPLEMENTED;
        } else if let Some(backend) = backend
            && let Some(endpoints) = self.live.backend(backend)
        {
            let mut tried: Vec<SocketAddr> = Vec::new();
            let mut fresh = false;
            let mut attempts = u32::from(self.forward.retry.attempts) + 1;
            while attempts > 0 {
                let Some(endpoint) = endpoints.pick(stuck.as_deref(), &tried, |most| self.worker.draw(most))
                else {
                    break;
                };
                let _outstanding: Outstanding = endpoint.begin();
                let stays = stuck.as_deref() == Some(&endpoint.token);
                let cookie = backend
                    .sticky
                    .as_ref()
                    .filter(|_| !stays)
                    .map(|sticky| decide::set_cookie(sticky, &endpoint.token, self.client.secure));
                let way = Way { backend, endpoint: &endpoint, fresh, cookie, upgrade: upgrade.as_deref() };
                let attempt = match backend.protocol {
                    Protocol::Http1 => self.by_h1(&way, request, source, front).await?,
                    Protocol::H2c => Box::pin(self.by_h2(&way, request, source, front)).await?,
                };
                match attempt {
                    Attempt::Done(status) => {
                        endpoint.succeeded();
                        return Ok(status);
                    }
                    Attempt::Again { failed: false, .. } if !fresh => fresh = true,
                    Attempt::Again { status: why, .. } => {
                        endpoint.failed(endpoints.ejection());
                        tried.push(endpoint.address);
                        status = why;
                        attempts -= 1;
                    }
                    Attempt::Failed(why) => {
                        endpoint.failed(endpoints.ejection());
                        status = why;
                        break;
                    }
                }
            }
        }
        front.stop();
        self.tell(status, request, front).await
    }

    /// Answers by a status of our own.
    async fn tell(
        &self,
        status: StatusCode,
        request: &Request,
        front: &mut Front<'_>,
    ) -> Result<u16, Broken> {
        let sent = front.answer(&request.method, Answer::new(status)).await?;
        self.progress.sent.store(sent, Relaxed);
        Ok(status.as_u16())
    }

    /// By HTTP/1, on a connection of its own for the time of the request.
    async fn by_h1(
        &self,
        way: &Way<'_>,
        request: &Request,
        source: &mut Source<'_>,
        front: &mut Front<'_>,
    ) -> Result<Attempt, Broken> {
        let (worker, timeouts) = (self.worker, &self.forward.timeouts);
        let proxy = way.backend.proxy_header.map(|version| (version, self.peer));
        let address = way.endpoint.address;
        let connected = upstream::connect(worker, address, timeouts, proxy, way.fresh).await;
        let mut connection = match connected {
            Ok(connection) => connection,
            Err(broken) => return Ok(unreached(address, &broken)),
        };
        let used = connection.used;
        upstream::write_request(connection.writer.buffer(), request, self.framing, way.upgrade);
        let mut decoder = Decoder::new(Framing::NONE);
        let Connection { reader, writer, .. } = &mut connection;
        let sink = upstream::sink(writer, self.framing, timeouts);
        let answering = Answering::H1 { reader, decoder: &mut decoder, method: request.method.clone() };
        let flow = self.flow(way, request, source, front, sink, answering, used).await?;
        match flow {
            Flow::Attempt(attempt) => Ok(attempt),
            Flow::Switched(stream) => {
                front.stop();
                let stopped = worker.shared.stopped();
                let sent = &self.progress.sent;
                Box::pin(tunnel::run(source, front, stream, connection, timeouts.read, stopped, sent))
                    .await?;
                Ok(Attempt::Done(if request.websocket { 200 } else { 101 }))
            }
            Flow::Answered { status, reusable } => {
                if reusable && decoder.is_done() && proxy.is_none() {
                    worker.pool.give(connection, worker.shared.bounds.pool);
                }
                Ok(Attempt::Done(status))
            }
        }
    }

    /// By HTTP/2 in clear text, on a stream of a shared connection.
    async fn by_h2(
        &self,
        way: &Way<'_>,
        request: &Request,
        source: &mut Source<'_>,
        front: &mut Front<'_>,
    ) -> Result<Attempt, Broken> {
        let timeouts = &self.forward.timeouts;
        let Some(made) = upstream::h2_request(request, self.framing) else {
            return Ok(Attempt::Failed(StatusCode::BAD_REQUEST));
        };
        let address = way.endpoint.address;
        let (mut send, _busy) = match upstream::connect_h2(self.worker, address, timeouts).await {
            Ok(way) => way,
            Err(broken) => return Ok(unreached(address, &broken)),
        };
        let (future, stream) = match send.send_request(made, source.is_done()) {
            Ok(sent) => sent,
            Err(_) => return Ok(Attempt::Again { failed: false, status: StatusCode::BAD_GATEWAY }),
        };
        let sink = match source.is_done() {
            true => Sink::Nowhere,
            false => Sink::H2 { stream, patience: timeouts.send, left: None },
        };
        match self.flow(way, request, source, front, sink, Answering::H2(future), true).await? {
            Flow::Attempt(attempt) => Ok(attempt),
            Flow::Switched(_) => Ok(Attempt::Failed(StatusCode::BAD_GATEWAY)),
            Flow::Answered { status, .. } => Ok(Attempt::Done(status)),
        }
    }

    /// Both directions at once, since a backend may answer before it has read everything.
    #[expect(clippy::too_many_arguments, reason = "both ends of both directions")]
    async fn flow(
        &self,
        way: &Way<'_>,
        request: &Request,
        source: &mut Source<'_>,
        front: &mut Front<'_>,
        mut sink: Sink<'_>,
        answering: Answering<'_>,
        used: bool,
    ) -> Result<Flow, Broken> {
        let timeouts = &self.forward.timeouts;
        // What follows the head of a WebSocket is for the tunnel.
        let has_body = !source.is_done() && !request.websocket;
        let uploaded = AtomicBool::new(!has_body);
        let (unsent, received) = (AtomicBool::new(false), AtomicU64::new(0));
        if !has_body && let Err(broken) = sink.flush().await {
            let old = Unanswered { broken, silent: true };
            return Ok(Flow::Attempt(self.unanswered(way, request, &old, used, has_body)));
        }
        if has_body && request.expects {
            front.go_on().await?;
        }
        // Ends only when the client has gone: its request is of no use any more.
        let upload = async {
            if has_body {
                match carry(source, &mut sink, self.route.body_limit, &received).await {
                    Ok(()) => uploaded.store(true, Relaxed),
                    Err(Side::Source(broken)) => {
                        sink.abort();
                        return broken;
                    }
                    // The backend reads no more; it may have said why.
                    Err(Side::Sink(_)) => {
                        unsent.store(true, Relaxed);
                        std::future::pending::<()>().await;
                    }
                }
            }
            source.gone().await;
            Broken::Closed
        };
        let mut upload = std::pin::pin!(upload);
        let mut response = spare::take::<Response>();
        let head = answering.head(self.worker, &mut response, timeouts);
        let head = tokio::select! {
            biased;
            head = head => head,
            broken = &mut upload => return Box::pin(self.client_broke(broken, front, request)).await,
            () = front.taken_back() => return Err(Broken::Closed),
        };
        let (framing, mut answer) = match head {
            Ok(head) => head,
            Err(old) => {
                return Ok(Flow::Attempt(self.unanswered(way, request, &old, used, has_body)));
            }
        };
        if response.status == 101 {
            let switched = match request.websocket {
                true => websocket::is_accepted(&request.fields, &response.fields),
                false => response.fields.get("upgrade").is_some(),
            };
            if way.upgrade.is_none() || !switched {
                return Ok(Flow::Attempt(Attempt::Failed(StatusCode::BAD_GATEWAY)));
            }
            let _ = self.progress.endpoint.set(way.endpoint.address);
            return Ok(Flow::Switched(front.switch(&response.fields).await?));
        }
        let _ = self.progress.endpoint.set(way.endpoint.address);
        // There it would say that the WebSocket is open. The backend has done no wrong: its clients know the difference.
        if request.websocket && (200..300).contains(&response.status) {
            let status = self.tell(StatusCode::BAD_GATEWAY, request, front).await?;
            return Ok(Flow::Answered { status, reusable: false });
        }
        let backend_keeps = response.version == Version::V11
            && !response.fields.has_token(crate::fields::Known::Connection, "close");
        decide::finish(&mut response.fields, request, self.route, way.cookie.as_deref().map(str::as_bytes));
        if !uploaded.load(Relaxed) || self.worker.shared.is_draining() {
            front.stop();
        }
        let status = response.status;
        let mut client_sink = front.head(&request.method, &response, framing)?;
        spare::give(response);
        let sent = &self.progress.sent;
        let download = async {
            let mut nowhere = Sink::Nowhere;
            match matches!(client_sink, Sink::Nowhere) {
                true => carry(&mut answer, &mut nowhere, None, sent).await,
                false => carry(&mut answer, &mut client_sink, None, sent).await,
            }
        };
        let carried = tokio::select! {
            biased;
            carried = download => carried,
            broken = &mut upload => Err(Side::Source(broken)),
        };
        match carried {
            Ok(()) => {
                let reusable = backend_keeps && uploaded.load(Relaxed) && !unsent.load(Relaxed);
                Ok(Flow::Answered { status, reusable })
            }
            Err(Side::Source(broken) | Side::Sink(broken)) => {
                client_sink.abort();
                tracing::debug!(route = %self.route.name, %broken, "an answer broke off");
                Err(broken)
            }
        }
    }

    /// What becomes of a request that got no answer.
    fn unanswered(
        &self,
        way: &Way<'_>,
        request: &Request,
        why: &Unanswered,
        used: bool,
        has_body: bool,
    ) -> Attempt {
        let status = match why.broken {
            Broken::Slow => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::BAD_GATEWAY,
        };
        let endpoint = way.endpoint.address;
        tracing::debug!(route = %self.route.name, %endpoint, error = %why.broken, "no answer");
        match why.silent && used && !has_body && request.method.is_idempotent() {
            true => Attempt::Again { failed: false, status },
            false => Attempt::Failed(status),
        }
    }

    /// What a client whose body cannot be read is told, if anything.
    async fn client_broke(
        &self,
        broken: Broken,
        front: &mut Front<'_>,
        request: &Request,
    ) -> Result<Flow, Broken> {
        let status = match broken {
            Broken::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Broken::Bad(_) => StatusCode::BAD_REQUEST,
            Broken::Slow => StatusCode::REQUEST_TIMEOUT,
            broken => return Err(broken),
        };
        front.stop();
        let status = self.tell(status, request, front).await?;
        Ok(Flow::Answered { status, reusable: false })
    }
}

/// One attempt: where to, and what it takes along.
struct Way<'a> {
    backend: &'a Arc<Backend>,
    endpoint: &'a Arc<EndpointState>,
    /// On a new connection, since a kept one was dead.
    fresh: bool,
    cookie: Option<String>,
    upgrade: Option<&'a [u8]>,
}

enum Flow {
    Attempt(Attempt),
    Answered {
        status: u16,
        reusable: bool,
    },
    /// To another protocol; what the client is sent goes on this stream, when there is one.
    Switched(Option<SendStream<Bytes>>),
}

fn unreached(endpoint: SocketAddr, broken: &Broken) -> Attempt {
    tracing::debug!(%endpoint, error = %broken, "an endpoint cannot be reached");
    let status = match broken {
        Broken::Slow => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    };
    Attempt::Again { failed: true, status }
}
