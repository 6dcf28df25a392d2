//! The forwarder: everything about a name that is not the cluster's, from configuration, cache or upstreams.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::address::Address;
use super::figures::{ForwardFigures, UpstreamFigures};
use super::group::{Group, Unanswered, now};
use super::health::{Health, QUESTION};
use super::message::LONGEST_CHAIN;
use super::tls::Roots;
use crate::cache::{Bounds, Cache, Entry, Found};
use crate::overrides::{self, Domains, Overrides};
use crate::wire::{Name, Rcode, Record, Type};

/// For so long a client waits for upstreams when there is an old answer (the client response timer of RFC 8767).
const STALE_AFTER: Duration = Duration::from_millis(1_800);
/// For so long a failure is kept (RFC 9520 wants at least a second).
const FAILURE: Duration = Duration::from_secs(1);
/// TTL of denials while outside names are switched off: when they are switched on, clients see it soon.
const OFFLINE_TTL: u32 = 5;
/// Most questions under way; each has at most three sockets.
const QUESTIONS: usize = 512;
/// Most clients that wait, for all of them.
const WAITERS: usize = 8_192;
/// How often the end of an alias is asked for when upstreams leave it open.
const ROUNDS: usize = 8;

/// What the forwarder works by.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The upstreams, of which any will do.
    pub upstreams: Vec<Address>,
    /// Stub domains, hosts and rewrites.
    pub overrides: Arc<Overrides>,
    /// Outside names are denied at once. Overrides still hold: hosts, and stub domains with resolvers of their own.
    ///
    /// Denied with NXDOMAIN, not REFUSED or SERVFAIL: musl waits for its whole timeout on those, and glibc asks again
    /// before it gives up, while both end at once, or go on along their search path, when a name does not exist. It is
    /// also what the operator says: here are no outside names. The SOA is the root's, with a TTL of 5 s.
    pub offline: bool,
    /// Our own DNS addresses, which are never asked, whoever names them as upstreams.
    pub own: Vec<IpAddr>,
    /// The authorities of upstreams over TLS.
    pub roots: Roots,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Code and records. A record whose owner is the asked name is to be written with the name as it was asked.
    pub entry: Arc<Entry>,
    /// The TTL to write on every record.
    pub ttl: u32,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where an answer comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Kept from an earlier question.
    Cache,
    /// Kept, and beyond its time: upstreams do not answer.
    Stale,
    /// Asked just now.
    Upstream(Address),
    /// A host of the configuration.
    Configured,
    /// Outside names are switched off.
    Offline,
    /// Nobody knows; the code is SERVFAIL, or what upstreams said.
    Failed(Failure),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cache => f.write_str("the cache"),
            Self::Stale => f.write_str("the cache, beyond its time, since upstream resolvers do not answer"),
            Self::Upstream(address) => write!(f, "upstream resolver {address}"),
            Self::Configured => f.write_str("a host entry of the configuration"),
            Self::Offline => f.write_str("nowhere: outside names are switched off by --dns-offline"),
            Self::Failed(failure) => write!(f, "nowhere: {failure}"),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There is nobody to ask.
    #[error(
        "there is no upstream resolver: name one with --dns-upstream, or in /etc/resolv.conf of the node"
    )]
    NoUpstream,
    /// All are down; they are probed meanwhile.
    #[error("all upstream resolvers are down")]
    AllDown,
    /// They were asked.
    #[error("{0}")]
    Unanswered(String),
    /// They were asked a moment ago, in vain.
    #[error("upstream resolvers had no answer a moment ago")]
    Lately,
    /// Too many questions are under way.
    #[error("too many questions are under way")]
    Busy,
    /// Questions of this type are not forwarded.
    #[error("questions of this type are not forwarded")]
    Type,
}

type Outcome = Result<(Arc<Entry>, Address), (Rcode, Failure)>;
type Key = (Name, Type);

/// Answers what is not the cluster's.
#[derive(Debug)]
pub struct Forwarder {
    state: RwLock<Arc<State>>,
    cache: Cache,
    /// Apart from the answers, so that names at random can not drive those out by failing.
    failures: Cache,
    flights: Mutex<HashMap<Key, watch::Sender<Option<Outcome>>>>,
    waiting: Semaphore,
    figures: ForwardFigures,
    tasks: Mutex<JoinSet<()>>,
    runtime: Handle,
}

#[derive(Debug)]
struct State {
    overrides: Arc<Overrides>,
    group: Arc<Group>,
    stubs: Domains<Arc<Group>>,
    offline: bool,
    dropped: Vec<Address>,
}

/// What the forwarder says of itself.
#[derive(Debug, Clone)]
pub struct ForwardState {
    /// The upstreams with their health and counts; those of stub domains follow.
    pub upstreams: Vec<(Address, Health, Arc<UpstreamFigures>)>,
    /// Upstreams that are named but are ourselves.
    pub ourselves: Vec<Address>,
    /// Answers kept, their bytes, and how many had to leave.
    pub cache: (usize, usize, usize),
    /// Questions under way.
    pub under_way: usize,
    /// Whether outside names are switched off.
    pub offline: bool,
}

impl Forwarder {
    /// One that works by `config`; its tasks run in the runtime it is made in.
    #[must_use]
    pub fn new(config: Config, bounds: Bounds) -> Arc<Self> {
        let failures = Bounds { entries: 1_024, bytes: 1 << 20, stale: Duration::ZERO, ..bounds };
        Arc::new(Self {
            state: RwLock::new(Arc::new(State::new(config, None))),
            cache: Cache::new(bounds),
            failures: Cache::new(failures),
            flights: Mutex::default(),
            waiting: Semaphore::new(WAITERS),
            figures: ForwardFigures::default(),
            tasks: Mutex::default(),
            runtime: Handle::current(),
        })
    }

    /// Works by `config` from now on. Upstreams that stay keep their health; when they are others, what is kept becomes
    /// stale, since other resolvers may know other answers.
    pub fn update(&self, config: Config) {
        let old = self.state();
        let new = State::new(config, Some(&old));
        let same = Arc::ptr_eq(&new.group, &old.group)
            && new.stubs.values().count() == old.stubs.values().count()
            && new.stubs.values().all(|stub| old.stubs.values().any(|other| Arc::ptr_eq(stub, other)));
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        self.failures.clear();
        if !same {
            self.cache.expire(now());
        }
    }

    /// The overrides in force: a server asks them for rewrites into the cluster's domain.
    #[must_use]
    pub fn overrides(&self) -> Arc<Overrides> {
        Arc::clone(&self.state().overrides)
    }

    /// The counts.
    #[must_use]
    pub fn figures(&self) -> &ForwardFigures {
        &self.figures
    }

    /// What it says of itself.
    #[must_use]
    pub fn status(&self) -> ForwardState {
        let state = self.state();
        let groups = std::iter::once(&state.group).chain(state.stubs.values());
        ForwardState {
            upstreams: groups.flat_map(|group| group.state()).collect(),
            ourselves: state.dropped.clone(),
            cache: self.cache.size(),
            under_way: self.flights().len(),
            offline: state.offline,
        }
    }

    /// Answers when nobody has to be asked; none when [`Forwarder::resolve`] has to be awaited.
    pub fn quick(self: &Arc<Self>, asked: &Name, rtype: Type, now: Instant) -> Option<Resolved> {
        let state = self.state();
        match state.overrides.rewrite(asked) {
            None => self.quick_as(&state, asked, rtype, now),
            Some(name) => self.quick_as(&state, &name, rtype, now).map(|found| restored(found, &name, asked)),
        }
    }

    /// Answers, in [`QUESTION`] at the latest.
    pub async fn resolve(self: &Arc<Self>, asked: &Name, rtype: Type) -> Resolved {
        let state = self.state();
        let Some(name) = state.overrides.rewrite(asked) else {
            return self.resolve_as(&state, asked, rtype).await;
        };
        restored(self.resolve_as(&state, &name, rtype).await, &name, asked)
    }

    fn quick_as(
        self: &Arc<Self>,
        state: &Arc<State>,
        name: &Name,
        rtype: Type,
        now: Instant,
    ) -> Option<Resolved> {
        if let Some((answers, soa)) = state.overrides.host(name, rtype) {
            self.figures.overridden.add();
            let entry = Entry::fixed(answers, soa, overrides::TTL, now);
            return Some(resolved(Arc::new(entry), now, Origin::Configured));
        }
        // Only data has a place here: no transfers, no meta types.
        if matches!(rtype.0, 0 | 41 | 128..=255) {
            return Some(failed(Rcode::REFUSED, Failure::Type, now));
        }
        let stub = state.stubs.find(name).map(|(group, _)| group);
        if state.offline && stub.is_none() {
            self.figures.offline.add();
            let soa = Some(overrides::soa(Name::root(), OFFLINE_TTL));
            let entry = Entry::brief(Rcode::NX_DOMAIN, soa, Duration::from_secs(OFFLINE_TTL.into()), now);
            return Some(resolved(Arc::new(entry), now, Origin::Offline));
        }
        let group = stub.unwrap_or(&state.group);
        let stale = match self.cache.find(name, rtype, now) {
            Some(Found::Fresh(entry)) => return Some(self.hit(entry, now)),
            Some(Found::Ending(entry)) => {
                if self.join(state, name, rtype).is_ok() {
                    self.figures.prefetches.add();
                }
                return Some(self.hit(entry, now));
            }
            Some(Found::Held(entry)) => return Some(self.stale(entry, now)),
            Some(Found::Stale(entry)) => Some(entry),
            None => None,
        };
        if !group.all_down() {
            let lately = stale.is_none().then(|| self.failures.find(name, rtype, now)).flatten();
            return match lately? {
                Found::Fresh(entry) | Found::Ending(entry) => {
                    Some(failed(entry.rcode(), Failure::Lately, now))
                }
                Found::Held(_) | Found::Stale(_) => None,
            };
        }
        self.figures.broken.add();
        self.look_after(group);
        let failure = if group.is_empty() { Failure::NoUpstream } else { Failure::AllDown };
        Some(stale.map_or_else(|| failed(Rcode::SERV_FAIL, failure, now), |entry| self.stale(entry, now)))
    }

    async fn resolve_as(self: &Arc<Self>, state: &Arc<State>, name: &Name, rtype: Type) -> Resolved {
        if let Some(found) = self.quick_as(state, name, rtype, now()) {
            return found;
        }
        self.figures.misses.add();
        let stale = match self.cache.find(name, rtype, now()) {
            Some(Found::Stale(entry) | Found::Held(entry)) => Some(entry),
            _ => None,
        };
        // The flight ends by itself; the bound here is for stale answers, and in case that it does not.
        let patience = if stale.is_some() { STALE_AFTER } else { QUESTION + Duration::from_millis(200) };
        let place = self.waiting.try_acquire();
        let joined = match &place {
            Ok(_) => self.join(state, name, rtype),
            Err(_) => {
                self.figures.rejected.add();
                Err(Failure::Busy)
            }
        };
        let outcome = match joined {
            Ok(mut landing) => {
                match tokio::time::timeout(patience, landing.wait_for(Option::is_some)).await {
                    Ok(Ok(outcome)) => outcome.clone(),
                    Ok(Err(_)) | Err(_) => None,
                }
            }
            Err(failure) => Some(Err((Rcode::SERV_FAIL, failure))),
        };
        let late = || (Rcode::SERV_FAIL, Failure::Unanswered(Unanswered::Late.to_string()));
        match (outcome.unwrap_or_else(|| Err(late())), stale) {
            (Ok((entry, from)), _) => resolved(entry, now(), Origin::Upstream(from)),
            (Err(_), Some(entry)) => self.stale(entry, now()),
            (Err((rcode, failure)), None) => failed(rcode, failure, now()),
        }
    }

    /// Joins the question that is under way, or begins it.
    fn join(
        self: &Arc<Self>,
        state: &Arc<State>,
        name: &Name,
        rtype: Type,
    ) -> Result<watch::Receiver<Option<Outcome>>, Failure> {
        let key = (name.clone(), rtype);
        let mut flights = self.flights();
        if let Some(flight) = flights.get(&key) {
            self.figures.joined.add();
            return Ok(flight.subscribe());
        }
        if flights.len() >= QUESTIONS {
            self.figures.rejected.add();
            return Err(Failure::Busy);
        }
        let (sender, receiver) = watch::channel(None);
        flights.insert(key.clone(), sender);
        drop(flights);
        let flight = Flight { forwarder: Arc::clone(self), key, landed: false };
        let state = Arc::clone(state);
        self.spawn(async move { flight.fly(&state).await });
        Ok(receiver)
    }

    /// Has the upstreams of a group probed, if some are down and nobody does it.
    fn look_after(self: &Arc<Self>, group: &Arc<Group>) {
        if group.wants_probing() {
            // Not kept alive by its probes: a group that configuration no longer names is not probed on.
            self.spawn(Group::probe(Arc::downgrade(group)));
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(done) = tasks.try_join_next() {
            if let Err(error) = done
                && error.is_panic()
            {
                tracing::error!(%error, "a question to upstream resolvers panicked; its clients got SERVFAIL");
            }
        }
        tasks.spawn_on(task, &self.runtime);
    }

    fn hit(&self, entry: Arc<Entry>, now: Instant) -> Resolved {
        if entry.denies() {
            self.figures.denial_hits.add()
        } else {
            self.figures.hits.add()
        }
        resolved(entry, now, Origin::Cache)
    }

    fn stale(&self, entry: Arc<Entry>, now: Instant) -> Resolved {
        self.figures.stale.add();
        resolved(entry, now, Origin::Stale)
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn flights(&self) -> std::sync::MutexGuard<'_, HashMap<Key, watch::Sender<Option<Outcome>>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question under way. However it ends, it leaves the table, so that those who wait are told.
struct Flight {
    forwarder: Arc<Forwarder>,
    key: Key,
    /// It left already; the next of the same name may be in its place.
    landed: bool,
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.landed {
            self.forwarder.flights().remove(&self.key);
        }
    }
}

impl Flight {
    async fn fly(mut self, state: &Arc<State>) {
        let forwarder = Arc::clone(&self.forwarder);
        let (name, rtype) = &self.key;
        let asked = tokio::time::timeout(QUESTION, forwarder.ask(state, name, *rtype)).await;
        let outcome = asked.unwrap_or_else(|_| Err(failure(&Unanswered::Late)));
        let now = now();
        match &outcome {
            // Asked of upstreams that are no longer ours.
            _ if !Arc::ptr_eq(state, &forwarder.state()) => {}
            Ok((entry, _)) => forwarder.cache.keep(name, *rtype, Arc::clone(entry)),
            Err((rcode, _)) => match forwarder.cache.find(name, *rtype, now) {
                Some(Found::Stale(entry)) => forwarder.cache.keep(name, *rtype, Arc::new(entry.held(now))),
                Some(_) => {}
                None => {
                    forwarder.failures.keep(name, *rtype, Arc::new(Entry::brief(*rcode, None, FAILURE, now)));
                }
            },
        }
        let sender = forwarder.flights().remove(&self.key);
        self.landed = true;
        if let Some(sender) = sender {
            sender.send_replace(Some(outcome));
        }
    }
}

impl Forwarder {
    /// Asks upstreams, and asks on at the end of aliases that they leave open.
    async fn ask(self: &Arc<Self>, state: &State, name: &Name, rtype: Type) -> Outcome {
        let mut answers: Vec<Record> = Vec::new();
        let mut at = name.clone();
        for _ in 0..ROUNDS {
            let group = state.stubs.find(&at).map_or(&state.group, |(group, _)| group);
            if group.all_down() {
                let failure = if group.is_empty() { Failure::NoUpstream } else { Failure::AllDown };
                return Err((Rcode::SERV_FAIL, failure));
            }
            let reply = group.ask(&at, rtype).await;
            self.look_after(group);
            let (reply, from) = reply.map_err(|error| failure(&error))?;
            let least = answers.iter().map(|r| Duration::from_secs(r.ttl.into())).min();
            let ttl = match (reply.ttl, least) {
                (Some(reply), Some(least)) => Some(reply.min(least)),
                (reply, _) => reply,
            };
            let loops =
                |record: &Record| answers.iter().any(|a| a.rtype == Type::CNAME && a.owner == record.owner);
            if answers.len() + usize::from(!reply.answers.is_empty()) > LONGEST_CHAIN
                || reply.answers.iter().any(loops)
            {
                return Err((
                    Rcode::SERV_FAIL,
                    Failure::Unanswered("its aliases form a loop, or too long a chain".into()),
                ));
            }
            answers.extend(reply.answers);
            match reply.unfinished {
                Some(end) if rtype != Type::CNAME => at = end,
                _ => {
                    let entry = Entry::new(reply.rcode, answers, reply.soa, ttl, self.cache.bounds(), now());
                    return Ok((Arc::new(entry), from.clone()));
                }
            }
        }
        Err((Rcode::SERV_FAIL, Failure::Unanswered("its aliases do not end".into())))
    }
}

impl State {
    fn new(config: Config, old: Option<&Self>) -> Self {
        let mut dropped = Vec::new();
        let mut group = |upstreams: &[Address]| {
            let (own, others): (Vec<_>, Vec<_>) =
                upstreams.iter().cloned().partition(|upstream| config.own.contains(&upstream.ip));
            dropped.extend(own);
            let kept = old.and_then(|old| {
                let mut groups = std::iter::once(&old.group).chain(old.stubs.values());
                groups.find(|group| group.addresses().eq(others.iter()))
            });
            kept.cloned().unwrap_or_else(|| Arc::new(Group::new(others, &config.roots)))
        };
        let main = group(&config.upstreams);
        let stubs = config.overrides.stubs.map(|upstreams| group(upstreams));
        for upstream in &dropped {
            tracing::warn!(%upstream, "this upstream resolver is ourselves and is left out");
        }
        Self { overrides: config.overrides, group: main, stubs, offline: config.offline, dropped }
    }
}

fn resolved(entry: Arc<Entry>, now: Instant, origin: Origin) -> Resolved {
    Resolved { ttl: entry.ttl(now), entry, origin }
}

fn failed(rcode: Rcode, failure: Failure, now: Instant) -> Resolved {
    resolved(Arc::new(Entry::brief(rcode, None, Duration::ZERO, now)), now, Origin::Failed(failure))
}

fn failure(error: &Unanswered) -> (Rcode, Failure) {
    let rcode = match error {
        // It is what the upstream said, and clients make of it what they would.
        Unanswered::Refused(Rcode::REFUSED) => Rcode::REFUSED,
        _ => Rcode::SERV_FAIL,
    };
    (rcode, Failure::Unanswered(error.to_string()))
}

/// An answer about `name` as one about `asked`, which was rewritten to it.
fn restored(found: Resolved, name: &Name, asked: &Name) -> Resolved {
    let entry = found.entry.changed(|records| {
        if let Some(from) = records.iter().position(|record| record.owner == *asked) {
            // The rewritten name leads back to the asked one: what stands before would make a loop.
            records.drain(..from);
        }
        for record in records.iter_mut().filter(|record| record.owner == *name) {
            record.owner = asked.clone();
        }
    });
    Resolved { entry: Arc::new(entry), ..found }
}

#[cfg(test)]
#[path = "forwarder_tests.rs"]
mod tests;
