//! What outlives a table: counts of endpoints, and what each client has used of a route's limits.

use crate::hash::QuickMap;
use crate::route::{Backend, Ejection, Endpoint, Limits, Readiness, RouteTable};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// How many clients a route's limits remember.
const CLIENTS: usize = 65_536;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A table, and the state of what is in it.
pub(crate) struct Live {
    pub(crate) table: Arc<RouteTable>,
    /// As [`RouteTable::routes`].
    pub(crate) routes: Vec<Arc<RouteState>>,
    /// By where a backend lies; the table holds it there.
    backends: QuickMap<usize, LiveBackend>,
}

impl Live {
    /// The state of a backend of this table.
    pub(crate) fn backend(&self, backend: &Arc<Backend>) -> Option<&LiveBackend> {
        self.backends.get(&Arc::as_ptr(backend).addr())
    }
}

/// The endpoints of a backend, and their state.
type LiveEndpoints = Arc<[(Readiness, Arc<EndpointState>)]>;

/// A backend and its endpoints.
pub(crate) struct LiveBackend {
    endpoints: RwLock<LiveEndpoints>,
    ejection: Ejection,
}

/// State by name and address, carried from table to table.
#[derive(Default)]
pub(crate) struct Registry {
    routes: HashMap<Arc<str>, Arc<RouteState>>,
    endpoints: HashMap<(Arc<str>, SocketAddr), Arc<EndpointState>>,
}

impl Registry {
    /// The state of a table; what no table needs any more is forgotten.
    pub(crate) fn enliven(&mut self, table: Arc<RouteTable>) -> Live {
        let mut old = std::mem::take(self);
        let routes = table.routes().iter().map(|route| {
            let state = old.routes.remove(&route.name).unwrap_or_default();
            self.routes.entry(route.name.clone()).or_insert(state).clone()
        });
        let routes = routes.collect();
        let mut backends = QuickMap::default();
        for backend in table.backends() {
            let endpoints = self.states(backend, |key| old.endpoints.remove(key));
            let live = LiveBackend { endpoints: RwLock::new(endpoints), ejection: backend.ejection };
            backends.insert(Arc::as_ptr(backend).addr(), live);
        }
        Live { table, routes, backends }
    }

    /// Takes the endpoints that a backend of a table has now; those that stay keep their state.
    pub(crate) fn renew(&mut self, live: &Live, backend: &Arc<Backend>) {
        let Some(known) = live.backend(backend) else { return };
        let mut old: HashMap<SocketAddr, Arc<EndpointState>> = HashMap::new();
        for (_, state) in &*known.endpoints() {
            old.extend(
                self.endpoints
                    .remove(&(backend.name.clone(), state.address))
                    .map(|state| (state.address, state)),
            );
        }
        let endpoints = self.states(backend, |(_, address)| old.remove(address));
        *known.endpoints.write().unwrap_or_else(PoisonError::into_inner) = endpoints;
    }

    /// The endpoints that a backend has, with the state that each had, or a new one.
    fn states(
        &mut self,
        backend: &Backend,
        mut old: impl FnMut(&(Arc<str>, SocketAddr)) -> Option<Arc<EndpointState>>,
    ) -> LiveEndpoints {
        let endpoints = backend.endpoints.get();
        let states = endpoints.iter().map(|Endpoint { address, readiness }| {
            let key = (backend.name.clone(), *address);
            let state = old(&key).unwrap_or_else(|| Arc::new(EndpointState::new(&key.0, *address)));
            (*readiness, self.endpoints.entry(key).or_insert(state).clone())
        });
        states.collect()
    }
}

/// What is known of an endpoint.
#[derive(Debug)]
pub(crate) struct EndpointState {
    pub(crate) address: SocketAddr,
    /// What a sticky cookie says of it.
    pub(crate) token: String,
    /// Requests under way.
    outstanding: AtomicU32,
    failures: AtomicU32,
    ejections: AtomicU32,
    /// Milliseconds since the process began.
    ejected_until: AtomicU64,
}

impl EndpointState {
    fn new(backend: &str, address: SocketAddr) -> Self {
        let hash = ring::digest::digest(&ring::digest::SHA256, format!("{backend} {address}").as_bytes());
        let token = hash.as_ref()[..12].iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            address,
            token,
            outstanding: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
        }
    }

    /// Counts a request until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Outstanding {
        self.outstanding.fetch_add(1, Relaxed);
        Outstanding(self.clone())
    }

    pub(crate) fn succeeded(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
        if self.ejections.load(Relaxed) != 0 {
            self.ejections.store(0, Relaxed);
        }
    }

    /// Counts a failure; the endpoint is left alone when there were too many in a row.
    pub(crate) fn failed(&self, ejection: &Ejection) {
        if ejection.failures == 0 || self.failures.fetch_add(1, Relaxed) + 1 < ejection.failures {
            return;
        }
        self.failures.store(0, Relaxed);
        let times = self.ejections.fetch_add(1, Relaxed).min(16);
        let time = ejection.base.saturating_mul(1 << times).min(ejection.longest);
        self.ejected_until.store(now() + time.as_millis() as u64, Relaxed);
    }

    fn is_ejected(&self) -> bool {
        let until = self.ejected_until.load(Relaxed);
        until != 0 && until > now()
    }
}

/// A request that is under way at an endpoint.
pub(crate) struct Outstanding(pub(crate) Arc<EndpointState>);

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Relaxed);
    }
}

/// Milliseconds since the process began to ask.
fn now() -> u64 {
    static BEGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    // One more, so that no moment is 0.
    BEGIN.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1
}

impl LiveBackend {
    /// Those of this moment.
    pub(crate) fn endpoints(&self) -> LiveEndpoints {
        self.endpoints.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The endpoint of a request: the one that the client sticks to when it is ready, else of two drawn ones that with fewer
    /// requests under way. Those that were tried are left out, and so are the ejected ones unless there is no other.
    pub(crate) fn pick(
        &self,
        stuck: Option<&str>,
        tried: &[SocketAddr],
        mut draw: impl FnMut(usize) -> usize,
    ) -> Option<Arc<EndpointState>> {
        let endpoints = self.endpoints();
        let has_ready = endpoints.iter().any(|(readiness, _)| *readiness == Readiness::Ready);
        let wanted = if has_ready { Readiness::Ready } else { Readiness::Terminating };
        let usable = |ejected: bool| {
            endpoints.iter().filter(move |(readiness, state)| {
                *readiness == wanted && !tried.contains(&state.address) && (ejected || !state.is_ejected())
            })
        };
        if let Some(stuck) = stuck
            && let Some((_, state)) = usable(false).find(|(_, state)| state.token == stuck)
        {
            return Some(state.clone());
        }
        let ejected = usable(false).next().is_none();
        let count = usable(ejected).count();
        let nth = |at: usize| usable(ejected).nth(at).map(|(_, state)| state);
        match count {
            0 => None,
            1 => nth(0).cloned(),
            _ => {
                let first = draw(count);
                let second = (first + 1 + draw(count - 1)) % count;
                let (first, second) = (nth(first)?, nth(second)?);
                let load = |state: &EndpointState| state.outstanding.load(Relaxed);
                Some(if load(second) < load(first) { second } else { first }.clone())
            }
        }
    }

    pub(crate) fn ejection(&self) -> &Ejection {
        &self.ejection
    }
}

/// Counts of a route, and its clients.
#[derive(Debug, Default)]
pub(crate) struct RouteState {
    clients: Mutex<Clients>,
    /// Answers by hundred: index 1 is 1xx.
    pub(crate) answers: [AtomicU64; 6],
}

#[derive(Debug, Default)]
struct Clients {
    known: HashMap<IpAddr, Client>,
    /// When those who are owed nothing were last forgotten.
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Client {
    /// When its rate is used up to; later than now by at most the burst.
    until: Instant,
    concurrent: u32,
}

/// What a client may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exceeded {
    Rate,
    Concurrent,
}

/// A request that counts against a client's limit of requests under way.
pub(crate) struct Admission(Option<(Arc<RouteState>, IpAddr)>);

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some((state, client)) = &self.0
            && let Some(client) = lock(&state.clients).known.get_mut(client)
        {
            client.concurrent = client.concurrent.saturating_sub(1);
        }
    }
}

impl RouteState {
    /// Lets a request of a client in, or says what it has too much of.
    pub(crate) fn admit(
        self: &Arc<Self>,
        limits: &Limits,
        client: IpAddr,
        now: Instant,
    ) -> Result<Admission, Exceeded> {
        let exempt = || limits.exempt.iter().any(|range| range.contains(&client));
        if (limits.rate.is_none() && limits.concurrent.is_none()) || exempt() {
            return Ok(Admission(None));
        }
        let client = network(client);
        let mut clients = lock(&self.clients);
        if clients.known.len() >= CLIENTS {
            // Looking through all of them is work too, so it is done once a second, and new clients wait meanwhile.
            if clients
                .swept
                .is_none_or(|swept| now.saturating_duration_since(swept) >= Duration::from_secs(1))
            {
                clients.known.retain(|_, client| client.concurrent > 0 || client.until > now);
                clients.swept = Some(now);
            }
            if clients.known.len() >= CLIENTS && !clients.known.contains_key(&client) {
                return Err(Exceeded::Rate);
            }
        }
        let entry = clients.known.entry(client).or_insert(Client { until: now, concurrent: 0 });
        if limits.concurrent.is_some_and(|most| entry.concurrent >= most) {
            return Err(Exceeded::Concurrent);
        }
        if let Some(rate) = limits.rate {
            let interval = rate.per.checked_div(rate.requests).unwrap_or(Duration::MAX);
            let allowance = interval.saturating_mul(limits.burst);
            let ahead = entry.until.saturating_duration_since(now);
            if ahead > allowance {
                return Err(Exceeded::Rate);
            }
            entry.until = now.checked_add(ahead.saturating_add(interval)).unwrap_or(now + allowance);
        }
        if limits.concurrent.is_none() {
            return Ok(Admission(None));
        }
        entry.concurrent += 1;
        Ok(Admission(Some((self.clone(), client))))
    }
}

/// What counts as one client: an IPv4 address, or the network of 64 bits of an IPv6 address.
pub(crate) fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{Action, Forward, HostMatch, Match, PathMatch, Route, Weighted};

    fn endpoints(last: &[u8]) -> Vec<Endpoint> {
        let endpoint =
            |last: &u8| Endpoint { address: ([10, 0, 0, *last], 80).into(), readiness: Readiness::Ready };
        last.iter().map(endpoint).collect()
    }

    #[test]
    fn endpoints_that_stay_keep_what_is_known_of_them() {
        let backend =
            Backend { name: "a".into(), endpoints: endpoints(&[1, 2]).into(), ..Backend::default() };
        let backend = Arc::new(backend);
        let backends = vec![Weighted { weight: 1, backend: backend.clone() }];
        let route = Route::new("route", Action::Forward(Forward { backends, ..Forward::default() }));
        let mut table = RouteTable::builder();
        table.route(Match::new(HostMatch::Any, PathMatch::Prefix("/".into())), &Arc::new(route));
        let table = Arc::new(table.build());
        let mut registry = Registry::default();
        let live = registry.enliven(table.clone());
        let known = live.backend(&backend).unwrap();
        let (first, second) = (known.endpoints()[0].1.clone(), known.endpoints()[1].1.clone());
        let _under_way = (first.begin(), second.begin());
        second.failed(&Ejection { failures: 1, ..Ejection::default() });

        backend.endpoints.set(endpoints(&[2, 3]));
        registry.renew(&live, &backend);
        let now = known.endpoints();
        assert!(Arc::ptr_eq(&now[0].1, &second) && now[0].1.is_ejected());
        assert_eq!(
            (now.len(), now[1].1.address, registry.endpoints.len()),
            (2, ([10, 0, 0, 3], 80).into(), 2)
        );
        for _ in 0..4 {
            assert_eq!(known.pick(None, &[], |_| 0).unwrap().address, now[1].1.address, "the other rests");
        }
        // The same as by a table that is made anew.
        let again = registry.enliven(table);
        let other = again.backend(&backend).unwrap().endpoints();
        assert!(other.iter().zip(&*now).all(|(a, b)| Arc::ptr_eq(&a.1, &b.1)));
        // One that was away begins anew, though a request of before is under way there.
        backend.endpoints.set(endpoints(&[1]));
        registry.renew(&again, &backend);
        let back = again.backend(&backend).unwrap().endpoints();
        assert!(!Arc::ptr_eq(&back[0].1, &first) && back.len() == 1);
    }
}
