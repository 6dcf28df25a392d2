//! Several upstreams that know the same names: asked by the plan of [`super::health`], which this carries out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::time::Instant;

use super::address::Address;
use super::exchange::{Client, ExchangeError};
use super::figures::UpstreamFigures;
use super::health::{ATTEMPT, Fault, Health, Plan, Selector, Step};
use super::message::{BadReply, Reply};
use super::tls::Roots;
use crate::wire::{Name, Rcode, Type};

/// Upstreams of which any will do.
#[derive(Debug)]
pub(crate) struct Group {
    clients: Vec<Client>,
    figures: Vec<Arc<UpstreamFigures>>,
    selector: Mutex<Selector>,
    /// Whether somebody probes those that are down.
    probing: AtomicBool,
}

/// Why a group gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error("upstreams refuse, or fail themselves (code {})", .0.0)]
    Refused(Rcode),
    #[error("no upstream answered; the last error is of {address}: {error}")]
    Failed { address: String, error: String },
    #[error("no upstream answered in time")]
    Late,
}

impl Group {
    pub(crate) fn new(addresses: Vec<Address>, roots: &Roots) -> Self {
        let clients: Vec<_> = addresses.into_iter().map(|address| Client::new(address, roots)).collect();
        Self {
            figures: clients.iter().map(|_| Arc::default()).collect(),
            selector: Mutex::new(Selector::new(clients.len())),
            clients,
            probing: false.into(),
        }
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.clients.iter().map(Client::address)
    }

    /// Each upstream with its health and counts.
    pub(crate) fn state(&self) -> Vec<(Address, Health, Arc<UpstreamFigures>)> {
        let health = self.selector().health().to_vec();
        let clients = self.clients.iter().zip(health).zip(&self.figures);
        clients
            .map(|((client, health), figures)| (client.address().clone(), health, Arc::clone(figures)))
            .collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    pub(crate) fn all_down(&self) -> bool {
        self.selector().all_down()
    }

    /// Whether the caller is the one who has to run `probe` now.
    pub(crate) fn wants_probing(&self) -> bool {
        self.selector().next_probe().is_some() && !self.probing.swap(true, Ordering::AcqRel)
    }

    /// Asks, and says who answered.
    pub(crate) async fn ask(&self, name: &Name, rtype: Type) -> Result<(Reply, &Address), Unanswered> {
        let mut plan = {
            let selector = self.selector();
            Plan::new(selector.order(random()), selector.patience(), now())
        };
        let mut running = FuturesUnordered::new();
        let mut started: Vec<(usize, std::time::Instant)> = Vec::new();
        let mut failure = Unanswered::Late;
        loop {
            let until = match plan.step(now(), running.len()) {
                Step::Ask(n) => {
                    started.push((n, now()));
                    running.push(self.attempt(n, name, rtype));
                    continue;
                }
                Step::Wait(until) => until,
                Step::GiveUp => return Err(failure),
            };
            let (n, began, result) = tokio::select! {
                Some(done) = running.next() => done,
                () = tokio::time::sleep_until(until.into()) => continue,
            };
            if let Some(at) = started.iter().position(|&one| one == (n, began)) {
                started.swap_remove(at);
            }
            let took = now() - began;
            let error = match result {
                Ok(reply) => {
                    self.figures[n].replied(reply.rcode.0, took);
                    self.replied(n, took);
                    let mut selector = self.selector();
                    for &(other, since) in started.iter().filter(|(other, _)| *other != n) {
                        selector.overtaken(other, now() - since);
                    }
                    return Ok((reply, self.clients[n].address()));
                }
                Err(ExchangeError::Reply(BadReply::Unwilling(rcode))) => {
                    self.figures[n].replied(rcode.0, took);
                    self.replied(n, took);
                    plan.refused(n, now());
                    failure = Unanswered::Refused(rcode);
                    continue;
                }
                Err(error) => error,
            };
            self.figures[n].failures.add();
            tracing::debug!(upstream = %self.clients[n].address(), %name, %error, "no answer of an upstream");
            let fault = match &error {
                ExchangeError::Here(_) => None,
                ExchangeError::Silent => Some(Fault::Silent),
                _ => Some(Fault::Plain),
            };
            let down = fault.is_some_and(|fault| self.failed(n, fault, &error));
            match error {
                // The same question to the same server would bring the same.
                ExchangeError::Reply(_) | ExchangeError::Tls(_) => plan.refused(n, now()),
                _ if down => plan.refused(n, now()),
                _ => plan.failed(now()),
            }
            if !matches!(failure, Unanswered::Refused(_)) {
                let address = self.clients[n].address().to_string();
                failure = Unanswered::Failed { address, error: error.to_string() };
            }
        }
    }

    async fn attempt(
        &self,
        n: usize,
        name: &Name,
        rtype: Type,
    ) -> (usize, std::time::Instant, Result<Reply, ExchangeError>) {
        let began = now();
        self.figures[n].requests.add();
        let reply = tokio::time::timeout(ATTEMPT, self.clients[n].ask(name, rtype)).await;
        (n, began, reply.unwrap_or(Err(ExchangeError::Silent)))
    }

    /// Probes those that are down, one after the other, until all are up again or the group is no longer used.
    pub(crate) async fn probe(group: Weak<Self>) {
        let _over = Over(group.clone());
        loop {
            let Some(next) = group.upgrade().and_then(|group| group.selector().next_probe()) else { return };
            tokio::time::sleep_until(next.into()).await;
            let Some(group) = group.upgrade() else { return };
            let due = group.selector().take_probe(now());
            if let Some(n) = due {
                group.probe_one(n).await;
            }
        }
    }

    async fn probe_one(&self, n: usize) {
        // Any answer shows life; every resolver knows who serves the root.
        let (_, began, result) = self.attempt(n, &Name::root(), Type::NS).await;
        match result {
            Ok(_) | Err(ExchangeError::Reply(_)) => self.replied(n, now() - began),
            Err(error) => {
                self.figures[n].probe_failures.add();
                let remote = !matches!(error, ExchangeError::Here(_));
                if remote && self.selector().probe_failed(n) {
                    self.warn_down(n, &error);
                }
            }
        }
    }

    fn replied(&self, n: usize, took: Duration) {
        if self.selector().replied(n, took) {
            tracing::info!(upstream = %self.clients[n].address(), "an upstream resolver answers again");
        }
    }

    fn failed(&self, n: usize, fault: Fault, error: &ExchangeError) -> bool {
        let down = self.selector().failed(n, fault, now());
        if down {
            self.warn_down(n, error);
        }
        down
    }

    fn warn_down(&self, n: usize, error: &ExchangeError) {
        tracing::warn!(upstream = %self.clients[n].address(), %error,
            "an upstream resolver is down; it is probed, and names are asked of others, or answered from what is kept");
    }

    fn selector(&self) -> MutexGuard<'_, Selector> {
        // Its methods leave it whole at every point where they could panic.
        self.selector.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that nobody probes any more, however it ended.
struct Over(Weak<Group>);

impl Drop for Over {
    fn drop(&mut self) {
        if let Some(group) = self.0.upgrade() {
            group.probing.store(false, Ordering::Release);
        }
    }
}

/// Now, by the clock of the runtime, which tests can pause.
pub(crate) fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// For spreading load, where a bad number does no harm.
fn random() -> u32 {
    let mut bytes = [0; 4];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => u32::from_ne_bytes(bytes),
        Err(_) => 1,
    }
}
