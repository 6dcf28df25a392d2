//! Where questions are answered: all that is known, and the way from a packet to its answer.

use crate::answer::{self, Asked, Client, Context, Outcome, Reply, Settings};
use crate::clients::Clients;
use crate::figures::Figures;
use crate::limits::{Limits, Rate, Shares, teller};
use crate::upstream::{Forwarder, Resolved};
use crate::wire::{Name, Query, Rcode, Transport, Writer};
use crate::zone::Zone;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;
use tokio::sync::Semaphore;

/// Most questions that wait for others at once.
pub(crate) const WAITING: u32 = 4_096;

/// What answers are made of.
#[derive(Debug)]
pub(crate) struct World {
    /// The cluster's names.
    pub(crate) zone: Zone,
    /// Who may ask.
    pub(crate) clients: Clients,
    /// How answers are given.
    pub(crate) settings: Settings,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Desk {
    world: RwLock<World>,
    pub(crate) forwarder: Arc<Forwarder>,
    limits: Limits,
    shares: Arc<Shares>,
    /// Places for those who wait.
    pub(crate) waiting: Arc<Semaphore>,
    pub(crate) figures: Figures,
    turns: AtomicU64,
    seed: RandomState,
}

/// What became of a packet.
#[derive(Debug)]
pub(crate) enum Handled {
    /// The buffer holds the answer.
    Answered,
    /// There is none.
    Silent,
    /// Others have to be asked first: [`Desk::finish`].
    Waits(Outcome),
}

impl Desk {
    pub(crate) fn new(world: World, forwarder: Arc<Forwarder>, limit: Rate) -> Self {
        Self {
            world: RwLock::new(world),
            forwarder,
            limits: Limits::new(limit),
            shares: Arc::default(),
            waiting: Arc::new(Semaphore::new(WAITING as usize)),
            figures: Figures::default(),
            turns: AtomicU64::new(0),
            seed: RandomState::new(),
        }
    }

    pub(crate) fn world(&self) -> RwLockReadGuard<'_, World> {
        self.world.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        change(&mut self.world.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Differs from answer to answer; nothing is to be kept from anybody by it.
    fn random(&self) -> u64 {
        let mut hasher = self.seed.build_hasher();
        hasher.write_u64(self.turns.fetch_add(1, Ordering::Relaxed));
        hasher.finish()
    }

    /// The address that stands for a client where there are limits.
    pub(crate) fn teller(&self, from: IpAddr) -> IpAddr {
        teller(from, self.world().clients.find(from).known())
    }

    /// Answers a packet as far as that is possible at once.
    pub(crate) fn handle(
        &self,
        packet: &[u8],
        from: IpAddr,
        transport: Transport,
        out: &mut Vec<u8>,
    ) -> Handled {
        let query = match Query::read(packet) {
            Ok(query) => query,
            Err(refusal) => {
                self.figures.unreadable.add();
                return if refusal.write(out) { Handled::Answered } else { Handled::Silent };
            }
        };
        let now = Instant::now();
        self.figures.asked(transport, from, query.qtype);
        let world = self.world();
        let client = world.clients.find(from);
        if !self.limits.allow(teller(from, client.known()), now) {
            self.figures.limited.add();
            // By UDP the source may be another's name; an answer would be an attack on that one.
            return match transport {
                Transport::Udp => Handled::Silent,
                Transport::Tcp => self.refuse(&query, transport, out, now),
            };
        }
        let context =
            Context { zone: &world.zone, settings: &world.settings, transport, random: self.random() };
        let outcome = match self.rewritten(&query, client) {
            Some(target) => answer::alias(context, &query, target, out),
            None => answer::answer(context, client, &query, out),
        };
        let handled = self.quickly(context, &query, outcome, out);
        if let Handled::Answered = handled {
            self.figures.answered(out, now);
        }
        handled
    }

    fn refuse(&self, query: &Query<'_>, transport: Transport, out: &mut Vec<u8>, since: Instant) -> Handled {
        Writer::new(query, transport, out).finish(Rcode::REFUSED);
        self.figures.answered(out, since);
        Handled::Answered
    }

    /// The name that is asked in place of the question's.
    pub(crate) fn rewritten(&self, query: &Query<'_>, client: Client<'_>) -> Option<Name> {
        if matches!(client, Client::Stranger) {
            return None;
        }
        let overrides = self.forwarder.overrides();
        if !overrides.rewrites() {
            return None;
        }
        overrides.rewrite(&Name::from_wire(query.name).ok()?)
    }

    /// Goes on as long as nobody has to be waited for.
    fn quickly(
        &self,
        context: Context<'_>,
        query: &Query<'_>,
        mut outcome: Outcome,
        out: &mut Vec<u8>,
    ) -> Handled {
        loop {
            let Some(Asked { name, qtype }) = wanted(&outcome) else { return Handled::Answered };
            let Some(resolved) = self.forwarder.quick(&name, qtype, Instant::now()) else {
                return Handled::Waits(outcome);
            };
            outcome = go_on(context, query, outcome, &resolved, out);
        }
    }

    /// Answers a packet that has to wait for others. The buffer holds the answer then.
    pub(crate) async fn finish(
        &self,
        packet: &[u8],
        from: IpAddr,
        transport: Transport,
        mut outcome: Outcome,
        out: &mut Vec<u8>,
    ) {
        let since = Instant::now();
        let Ok(query) = Query::read(packet) else { return };
        let Some(_place) = self.shares.take(self.teller(from)) else {
            self.figures.limited.add();
            Writer::new(&query, transport, out).finish(Rcode::SERV_FAIL);
            self.figures.answered(out, since);
            return;
        };
        while let Some(Asked { name, qtype }) = wanted(&outcome) {
            let resolved = self.forwarder.resolve(&name, qtype).await;
            let world = self.world();
            let context =
                Context { zone: &world.zone, settings: &world.settings, transport, random: self.random() };
            outcome = go_on(context, &query, outcome, &resolved, out);
        }
        self.figures.answered(out, since);
    }
}

/// What others have to be asked.
pub(crate) fn wanted(outcome: &Outcome) -> Option<Asked> {
    match outcome {
        Outcome::Answered => None,
        Outcome::Forward(asked) => Some(asked.clone()),
        Outcome::ForwardThen(chain) => Some(chain.asked()),
        Outcome::WalkSearch(walk) => Some(walk.asked()),
    }
}

/// What follows from what others said.
pub(crate) fn go_on(
    context: Context<'_>,
    query: &Query<'_>,
    outcome: Outcome,
    resolved: &Resolved,
    out: &mut Vec<u8>,
) -> Outcome {
    let reply = Reply {
        rcode: resolved.entry.rcode(),
        answers: resolved.entry.answers(),
        soa: resolved.entry.soa(),
        ttl: resolved.ttl,
    };
    match outcome {
        Outcome::Answered => return Outcome::Answered,
        Outcome::Forward(_) => answer::relay(query, reply, context.transport, out),
        Outcome::ForwardThen(chain) => {
            answer::complete(context.settings, query, &chain, Some(reply), context.transport, out);
        }
        Outcome::WalkSearch(walk) => return walk.next(context, query, Some(reply), out),
    }
    Outcome::Answered
}
