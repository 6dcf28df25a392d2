//! The runner: rows in, a table for the data path out, and what the API is to be told.

mod gateways;
mod names;
mod publish;
mod status;
mod taken;

pub use status::{IngressStatus, Listening, StatusSnapshot};

use crate::access::AccessLog;
use crate::certificate;
use crate::compile::{Compiled, Engine, Settings};
use crate::config::{Deps, IngressConfig, Tables};
use crate::external::Forbidden;
use crate::observe::Observer;
use crate::server::{Ingress as Server, Listener, Serving};
use crate::sockets::{KEEPER, Place, Sockets};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use warren_netlink::keeper::Keeper;
use warren_store::tables::{ONLY, node_key};
use warren_store::{Durability, Record, StoreError, Update, Watch};
use warren_types::{
    ClusterConfig, EndpointSlice, HealthCell, HealthState, Ingress, IngressClass, IngressClassName,
    IngressKey, Node, SecretObject, SecretRef, Service, ServiceKey, SliceKey,
};

/// Tables are at least this far apart; the first after a pause is made at once.
const GAP: Duration = Duration::from_millis(20);
/// How often a port that somebody else has is tried again, and a keeper that is gone is started again.
const RETRY: Duration = Duration::from_secs(5);
/// How long the last lines of the access log may take.
const LAST_LINES: Duration = Duration::from_millis(500);

/// Why the ingress cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The data path cannot be started.
    #[error(transparent)]
    Serve(#[from] crate::error::IngressError),
    /// The store refused something.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store was closed.
    #[error("the store was closed; the agent is stopping, or its disk failed")]
    StoreClosed,
    /// Nobody can write the access log.
    #[error("the thread of the access log cannot be started: {0}; raise the limit of tasks of the service")]
    AccessLog(std::io::Error),
    /// There is no certificate for hosts that have none.
    #[error("the default certificate cannot be made: {0}")]
    Certificate(String),
    /// A socket cannot be used.
    #[error("a listening socket cannot be copied: {0}; raise the limit of open files of the service")]
    Socket(std::io::Error),
}

/// Serves Ingresses until `stop`; then lets requests end that are under way, and leaves its sockets to their keeper.
///
/// # Errors
/// When the store is closed or the data path cannot be started; the supervisor starts it anew.
pub async fn run(
    config: IngressConfig,
    deps: Deps,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let tables = deps.tables.clone();
    let mut follow = Follow {
        ingresses: tables.ingresses.watch(),
        classes: tables.classes.watch(),
        services: tables.services.watch(),
        slices: tables.slices.watch(),
        secrets: tables.secrets.watch(),
        nodes: tables.nodes.watch(),
        cluster: tables.cluster.watch(),
        gateways: gateways::Watches::of(&tables),
    };
    let mut runner = Runner::new(config, deps, health)?;
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        ready = runner.load(&mut follow) => ready?,
    }
    let ended = loop {
        let begun = Instant::now();
        if let Err(error) = runner.pass().await {
            break Err(error);
        }
        tokio::select! {
            () = stop.cancelled() => break Ok(()),
            () = tokio::time::sleep_until(begun + GAP) => {}
        }
        let retry = runner.is_lame().then(|| begun + RETRY);
        let Runner { engine, keeper, ending, names, .. } = &mut runner;
        let told = tokio::select! {
            () = stop.cancelled() => break Ok(()),
            told = follow.next(engine) => told,
            () = gone(keeper.as_ref()) => {
                *keeper = None;
                Some(())
            }
            Some(_) = ending.join_next() => Some(()),
            () = names.next() => Some(()),
            () = at(retry) => Some(()),
        };
        if told.is_none() {
            break Err(RunError::StoreClosed);
        }
        follow.take_what_is_there(&mut runner.engine);
    };
    runner.stop().await;
    ended
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Waits until the keeper is gone.
async fn gone(keeper: Option<&Keeper>) {
    match keeper {
        Some(keeper) => keeper.gone().await,
        None => std::future::pending().await,
    }
}

struct Follow {
    ingresses: Watch<Ingress>,
    classes: Watch<IngressClass>,
    services: Watch<Service>,
    slices: Watch<EndpointSlice>,
    secrets: Watch<SecretObject>,
    /// Nodes change often, and mostly in nothing that matters here: they are read when a pass asks for them.
    nodes: Watch<Node>,
    /// The same for the ranges of the cluster.
    cluster: Watch<ClusterConfig>,
    gateways: gateways::Watches,
}

/// Tells the engine what changed in one table.
fn tell<R: Record, K>(
    engine: &mut Engine,
    update: Update<R>,
    known: impl Fn(&Engine) -> Vec<String>,
    parse: impl Fn(&str) -> Option<K>,
    set: impl Fn(&mut Engine, &K, Option<Arc<R>>),
) {
    for (key, row) in update.rows_by_key(|| known(engine)) {
        if let Some(key) = parse(&key) {
            set(engine, &key, row);
        }
    }
}

fn texts<K: ToString>(keys: impl Iterator<Item = K>) -> Vec<String> {
    keys.map(|key| key.to_string()).collect()
}

fn tell_ingresses(engine: &mut Engine, update: Update<Ingress>) {
    tell(engine, update, |e| texts(e.known_ingresses()), IngressKey::parse, Engine::set_ingress);
}

fn tell_classes(engine: &mut Engine, update: Update<IngressClass>) {
    let parse = |key: &str| IngressClassName::new(key).ok();
    tell(engine, update, |e| texts(e.known_classes()), parse, Engine::set_class);
}

fn tell_services(engine: &mut Engine, update: Update<Service>) {
    tell(engine, update, |e| texts(e.known_services()), ServiceKey::parse, Engine::set_service);
}

fn tell_slices(engine: &mut Engine, update: Update<EndpointSlice>) {
    tell(engine, update, |e| texts(e.known_slices()), SliceKey::parse, Engine::set_slice);
}

fn tell_secrets(engine: &mut Engine, update: Update<SecretObject>) {
    tell(engine, update, |e| texts(e.known_secrets()), SecretRef::parse, Engine::set_secret);
}

impl Follow {
    /// Takes the next change; none when the store is closed.
    async fn next(&mut self, engine: &mut Engine) -> Option<()> {
        tokio::select! {
            update = self.ingresses.next() => tell_ingresses(engine, update?),
            update = self.classes.next() => tell_classes(engine, update?),
            update = self.services.next() => tell_services(engine, update?),
            update = self.slices.next() => tell_slices(engine, update?),
            update = self.secrets.next() => tell_secrets(engine, update?),
            update = self.nodes.next() => drop(update?),
            update = self.cluster.next() => drop(update?),
            told = self.gateways.next(engine) => told?,
        }
        Some(())
    }

    /// What came together makes one table.
    fn take_what_is_there(&mut self, engine: &mut Engine) {
        while let Some(update) = self.ingresses.try_next() {
            tell_ingresses(engine, update);
        }
        while let Some(update) = self.classes.try_next() {
            tell_classes(engine, update);
        }
        while let Some(update) = self.services.try_next() {
            tell_services(engine, update);
        }
        while let Some(update) = self.slices.try_next() {
            tell_slices(engine, update);
        }
        while let Some(update) = self.secrets.try_next() {
            tell_secrets(engine, update);
        }
        while self.nodes.try_next().is_some() {}
        while self.cluster.try_next().is_some() {}
        self.gateways.take_what_is_there(engine);
    }
}

struct Runner {
    config: IngressConfig,
    deps: Deps,
    health: HealthCell,
    engine: Engine,
    compiled: Arc<Compiled>,
    sockets: Sockets,
    /// Why it does not listen everywhere.
    failed: Vec<String>,
    /// Why what it listens for goes elsewhere.
    taken: Vec<String>,
    server: Option<Server>,
    /// Servers of other sockets that are at their last requests.
    ending: JoinSet<()>,
    keeper: Option<Keeper>,
    access_log: Option<Arc<AccessLog>>,
    told: publish::Told,
    names: names::Names,
}

impl Runner {
    fn new(config: IngressConfig, deps: Deps, health: HealthCell) -> Result<Self, RunError> {
        let settings = Settings {
            class: config.class.clone(),
            http_port: config.http_port,
            https_port: config.https_port,
            external_names: config.external_names,
            certificate: None,
        };
        let access_log = config.access_log.as_ref().map(AccessLog::start).transpose();
        let access_log = access_log.map_err(RunError::AccessLog)?.map(Arc::new);
        Ok(Self {
            config,
            deps,
            health,
            engine: Engine::new(settings),
            compiled: Arc::default(),
            sockets: Sockets::default(),
            failed: Vec::new(),
            taken: Vec::new(),
            server: None,
            ending: JoinSet::new(),
            keeper: None,
            access_log,
            told: publish::Told::default(),
            names: names::Names::default(),
        })
    }

    /// Waits for the first complete load of everything, and takes the sockets that the agent before has left.
    async fn load(&mut self, follow: &mut Follow) -> Result<(), RunError> {
        let closed = RunError::StoreClosed;
        self.health
            .set(HealthState::Starting, "waiting for the first list of Ingresses, Services and endpoints");
        let all = async {
            follow.ingresses.loaded().await?;
            follow.classes.loaded().await?;
            follow.services.loaded().await?;
            follow.slices.loaded().await.map(drop)
        };
        all.await.ok_or(closed)?;
        follow.take_what_is_there(&mut self.engine);
        if let Ok(keeper) = KEEPER.connect(&self.deps.run_dir).await
            && let Ok(deposited) = keeper.take().await
        {
            self.sockets.adopt(deposited);
            self.keeper = Some(keeper);
        }
        Ok(())
    }

    /// Whether something is to be tried again after a while.
    fn is_lame(&self) -> bool {
        !self.failed.is_empty() || (self.server.is_some() && self.keeper.is_none())
    }

    /// Brings everything up to date.
    async fn pass(&mut self) -> Result<(), RunError> {
        self.judge_names();
        if self.engine.is_changed() {
            self.compile();
        } else {
            let moved = self.engine.move_endpoints();
            if let Some(server) = self.server.as_ref().filter(|_| !moved.is_empty()) {
                server.renew(&moved);
            }
        }
        self.listen().await?;
        self.look_for_takers();
        // Before the store is waited for: whoever is answered by a route finds it listed.
        self.show();
        self.told.publish(&self.config, &self.deps, &self.compiled).await?;
        Ok(())
    }

    fn compile(&mut self) {
        let before = std::mem::replace(&mut self.compiled, Arc::new(self.engine.compile()));
        let fault = &self.compiled.default_fault;
        if let Some(fault) = fault.as_ref().filter(|_| *fault != before.default_fault) {
            tracing::warn!(
                why = fault.message,
                "hosts without a certificate are shown one that was made here"
            );
        }
        self.names.want(&self.compiled.names);
        if let Some(server) = &self.server {
            server.swap(self.compiled.table.clone());
        }
    }

    /// Tells the engine where names lead. Nodes and ranges may have changed since they were resolved.
    fn judge_names(&mut self) {
        if self.names.is_empty() {
            return self.engine.set_names(BTreeMap::new());
        }
        let tables = &self.deps.tables;
        let (cluster, nodes) = (tables.cluster.get(ONLY), tables.nodes.snapshot().rows);
        let nodes = nodes.values().map(AsRef::as_ref);
        let forbidden = Forbidden::new(cluster.as_deref(), nodes, self.names.own());
        self.engine.set_names(self.names.judged(forbidden.as_ref()));
    }

    /// Whether this node is to serve.
    fn is_to_serve(&self) -> bool {
        let own = self.deps.tables.nodes.get(&node_key(&self.config.node_name));
        let chosen = own.is_some_and(|node| self.config.nodes.matches(&node.labels));
        // A port that nobody needs is left to whoever may want it.
        chosen && (!self.compiled.served.is_empty() || self.compiled.gateways.is_served)
    }

    async fn listen(&mut self) -> Result<(), RunError> {
        let wanted = match self.is_to_serve() {
            true => Place::all(self.config.http_port, self.config.https_port),
            false => Vec::new(),
        };
        let before: Vec<Place> = self.sockets.places().collect();
        let mut failed = self.sockets.listen(&wanted);
        failed.sort();
        let places: Vec<Place> = self.sockets.places().collect();
        if before != places {
            if !places.is_empty() && !self.engine.has_certificate() {
                // Until there is a Secret with one, and should it go.
                let made = certificate::self_signed().map_err(|e| RunError::Certificate(e.to_string()))?;
                self.engine.set_certificate(made);
                self.compile();
            }
            self.serve()?;
            self.deposit().await;
        }
        if !places.is_empty() && self.keeper.is_none() {
            let named = self.sockets.named();
            let found = KEEPER.entrust(&self.deps.run_dir, &self.deps.program, &named).await;
            self.keeper =
                found.inspect_err(|error| tracing::warn!(%error, "nobody can keep the ingress sockets")).ok();
        }
        for why in failed.iter().filter(|why| !self.failed.contains(why)) {
            tracing::warn!(why, "ingress is not served there");
        }
        self.failed = failed;
        let mut ports: Vec<u16> = places.iter().map(|place| place.address.port()).collect();
        ports.sort_unstable();
        ports.dedup();
        self.deps.ports.send_if_modified(|now| {
            *now != ports && {
                *now = ports;
                true
            }
        });
        Ok(())
    }

    /// Starts the data path on the sockets that there are, and lets the one before end.
    fn serve(&mut self) -> Result<(), RunError> {
        let listeners = self.sockets.copies().map_err(RunError::Socket)?;
        let next = match listeners.is_empty() {
            true => None,
            false => {
                let listener = |(place, socket): (Place, std::net::TcpListener)| Listener {
                    socket,
                    scheme: place.scheme(),
                    proxy_from: self.config.proxy_from.clone(),
                };
                let observer = self.access_log.clone().map(|log| log as Arc<dyn Observer>);
                let serving =
                    Serving { trusted: self.config.trusted.clone(), observer, ..Serving::default() };
                let listeners = listeners.into_iter().map(listener).collect();
                Some(Server::start(serving, listeners, self.compiled.table.clone())?)
            }
        };
        tracing::info!(at = ?self.sockets.places().map(|p| p.to_string()).collect::<Vec<_>>(), "serving ingress");
        if let Some(before) = std::mem::replace(&mut self.server, next) {
            let budget = self.config.drain;
            self.ending.spawn(async move { before.drain(budget).await });
        }
        Ok(())
    }

    /// Finds who has the ports for itself.
    fn look_for_takers(&mut self) {
        let tables = &self.deps.tables;
        let ports = self.deps.ports.borrow().clone();
        let own = tables.nodes.get(&node_key(&self.config.node_name)).filter(|_| !ports.is_empty());
        let services = tables.services.snapshot().rows;
        let taken =
            own.map_or_else(Vec::new, |own| taken::taken(services.values().map(AsRef::as_ref), &own, &ports));
        for why in taken.iter().filter(|why| !self.taken.contains(why)) {
            tracing::warn!(why, "ingress is not served there");
        }
        self.taken = taken;
    }

    async fn deposit(&mut self) {
        let Some(keeper) = &self.keeper else { return };
        if let Err(error) = keeper.keep(&self.sockets.named()).await {
            tracing::warn!(%error, "the ingress sockets could not be deposited");
            self.keeper = None;
        }
    }

    fn show(&self) {
        let meter = self.server.as_ref().map(Server::meter);
        let unlogged = self.access_log.as_ref().map(|log| log.dropped().clone());
        let failed = [self.failed.as_slice(), &self.taken].concat();
        self.deps.status.show(&self.compiled, self.sockets.places(), &failed, meter, unlogged);
        match failed.first() {
            Some(why) => self.health.degraded(why.clone()),
            None if self.server.is_some() && self.keeper.is_none() => {
                self.health.degraded("nobody keeps the ingress sockets while the agent restarts");
            }
            None => self.health.ready(),
        }
    }

    /// Lets requests end that are under way. New connections wait on the sockets for the next agent.
    async fn stop(mut self) {
        if let Some(server) = self.server.take() {
            server.drain(self.config.drain).await;
        }
        self.ending.shutdown().await;
        if let Some(log) = &self.access_log {
            log.end(LAST_LINES).await;
        }
    }
}

/// Ends the keeper of the sockets, and wants no Secrets any more: for when somebody else serves Ingresses.
///
/// # Errors
/// When the store refuses.
pub async fn clear(tables: &Tables, run_dir: &std::path::Path) -> Result<(), StoreError> {
    tables.wanted.replace(Vec::new(), Durability::Cached).await?;
    tables.faults.replace(Vec::new(), Durability::Cached).await?;
    tables.addresses.replace(Vec::new(), Durability::Cached).await?;
    tables.gateway_statuses.replace(Vec::new(), Durability::Cached).await?;
    let process = KEEPER.detached(run_dir);
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || process.end()).await {
        tracing::warn!(%error, "the keeper of the ingress sockets could not be ended");
    }
    Ok(())
}
