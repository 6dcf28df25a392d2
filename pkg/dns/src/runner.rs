//! The runner: rows in, names out; and the sockets, routes and rules by which the server is reached.
//!
//! It serves as soon as the sockets are there, from what the store knows: last known names while the API is away, SERVFAIL when
//! nothing was ever known.

use crate::answer::Settings;
use crate::cache::Bounds;
use crate::clients::Clients;
use crate::config::{Deps, DnsConfig};
use crate::desk::{Desk, WAITING, World};
use crate::error::DnsError;
use crate::place;
use crate::resolv::{self, HostResolver};
use crate::server::Server;
use crate::sockets::{KEEPER, Sockets};
use crate::upstream::tls::Roots;
use crate::upstream::{self, Forwarder};
use crate::zone::{Knowledge, Zone};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use warren_netlink::keeper::Keeper;
use warren_netlink::nft::{Applied, Nft, Section};
use warren_netlink::route::Route;
use warren_netlink::{Netlink, NetlinkError};
use warren_store::tables::ONLY;
use warren_store::{Record, Update, Watch};
use warren_types::marks::ROUTE_PROTOCOL;
use warren_types::{
    Attachment, ClusterConfig, EndpointSlice, HealthCell, HealthState, LocalNode, Node, NodeName, Pod,
    PodKey, Service, ServiceKey, SliceKey,
};

/// The kernel is looked at at least this often.
const COMPARE: Duration = Duration::from_secs(180);
/// After something failed, and between two looks at the kernel.
const RETRY: Duration = Duration::from_millis(500);
/// How often a keeper is started that could not be started.
const UNKEPT: Duration = Duration::from_secs(5);
const GAP: Duration = Duration::from_millis(50);
/// How long those who wait for upstreams are waited for at the end.
const GRACE: Duration = Duration::from_millis(1_000);

/// Serves cluster DNS until `stop`; then leaves its sockets to the keeper, and routes and rules as they are.
///
/// # Errors
/// When the store is closed, or threads cannot be started; the supervisor starts it anew.
pub async fn run(
    config: DnsConfig,
    deps: Deps,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), DnsError> {
    let mut follow = Follow::of(&deps);
    let mut files = resolv::Watch::new(deps.resolv.clone());
    let mut links = deps.netlink.changes().await?;
    let mut rules = deps.nft.changes().await?;
    let mut runner = Runner::new(config, deps, health)?;
    runner.health.set(HealthState::Starting, "waiting for the cluster's range of Services");
    runner.rebuild();
    runner.resolve();
    runner.adopt().await;
    let mut look = true;
    let ended = loop {
        let wait = match runner.settle(look).await {
            Ok(()) if runner.is_unkept() => UNKEPT,
            Ok(()) => COMPARE,
            Err(Unsettled::Fatal(error)) => break Err(error),
            Err(Unsettled::Now(why)) => {
                tracing::warn!(why, "cluster DNS is not as it should be");
                runner.health.degraded(why);
                RETRY
            }
        };
        look = false;
        tokio::select! {
            () = stop.cancelled() => break Ok(()),
            rows = follow.services.next() => match rows {
                Some(update) => runner.take(update, |world, key, row| {
                    if let Some(key) = ServiceKey::parse(key) { world.zone.set_service(&key, row) }
                }),
                None => break Err(DnsError::StoreClosed),
            },
            rows = follow.slices.next() => match rows {
                Some(update) => runner.take(update, |world, key, row| {
                    if let Some(key) = SliceKey::parse(key) { world.zone.set_slice(&key, row) }
                }),
                None => break Err(DnsError::StoreClosed),
            },
            rows = follow.pods.next() => match rows {
                Some(update) => runner.take(update, |world, key, row| {
                    if let Some(key) = PodKey::parse(key) { world.zone.set_pod(&key, row) }
                }),
                None => break Err(DnsError::StoreClosed),
            },
            rows = follow.nodes.next() => match rows {
                Some(update) => {
                    runner.take(update, |world, key, row| {
                        if let Ok(name) = NodeName::new(key) { world.zone.set_node(&name, row) }
                    });
                    runner.admit();
                }
                None => break Err(DnsError::StoreClosed),
            },
            rows = follow.attachments.next() => match rows {
                Some(update) => runner.take(update, |world, key, row| world.clients.set_attachment(key, row)),
                None => break Err(DnsError::StoreClosed),
            },
            row = follow.cluster.next() => match row {
                Some(_) => runner.admit(),
                None => break Err(DnsError::StoreClosed),
            },
            row = follow.local_node.next() => match row {
                Some(_) => runner.admit(),
                None => break Err(DnsError::StoreClosed),
            },
            () = files.changed() => runner.resolve(),
            change = links.changed() => {
                if change.is_err() {
                    links = runner.deps.netlink.changes().await?;
                }
                look = true;
            }
            change = rules.changed() => {
                if change.is_err() {
                    rules = runner.deps.nft.changes().await?;
                }
                look = true;
            }
            () = runner.unkept() => runner.keeper = None,
            () = tokio::time::sleep(wait) => look = true,
        }
        if look {
            tokio::select! {
                () = stop.cancelled() => break Ok(()),
                () = tokio::time::sleep(GAP) => {}
            }
        }
    };
    runner.stop().await;
    ended
}

/// Takes away what leads to the server, and ends the keeper of its sockets: for when somebody else serves cluster DNS.
///
/// # Errors
/// When the kernel refuses.
pub async fn clear(netlink: &Netlink, nft: &Nft, run_dir: &std::path::Path) -> Result<(), NetlinkError> {
    for route in netlink.list_local_routes(ROUTE_PROTOCOL).await? {
        netlink.remove_route(&route).await?;
    }
    if nft.table_exists().await? {
        nft.ensure_section(Section::Dns, Arc::default()).await?;
    }
    let process = KEEPER.detached(run_dir);
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || process.end()).await {
        tracing::warn!(%error, "the keeper of the DNS sockets could not be ended");
    }
    Ok(())
}

struct Follow {
    services: Watch<Service>,
    slices: Watch<EndpointSlice>,
    pods: Watch<Pod>,
    nodes: Watch<Node>,
    cluster: Watch<ClusterConfig>,
    local_node: Watch<LocalNode>,
    attachments: Watch<Attachment>,
}

impl Follow {
    fn of(deps: &Deps) -> Self {
        let tables = &deps.tables;
        Self {
            services: tables.services.watch(),
            slices: tables.slices.watch(),
            pods: tables.pods.watch(),
            nodes: tables.nodes.watch(),
            cluster: tables.cluster.watch(),
            local_node: tables.local_node.watch(),
            attachments: tables.attachments.watch(),
        }
    }
}

/// Why not everything is as it should be.
enum Unsettled {
    /// It may be a moment later.
    Now(String),
    /// It will not be.
    Fatal(DnsError),
}

impl From<NetlinkError> for Unsettled {
    fn from(error: NetlinkError) -> Self {
        Self::Now(error.to_string())
    }
}

struct Runner {
    config: DnsConfig,
    deps: Deps,
    health: HealthCell,
    desk: Arc<Desk>,
    roots: Roots,
    /// Which tables had been loaded when what the zone has of them was read. The tables themselves may be further.
    loaded: BTreeMap<&'static str, bool>,
    addresses: BTreeSet<IpAddr>,
    sockets: Sockets,
    taken_over: usize,
    /// Addresses that cannot be listened on, and why.
    failed: Vec<String>,
    keeper: Option<Keeper>,
    server: Option<Server>,
}

impl Runner {
    fn new(config: DnsConfig, deps: Deps, health: HealthCell) -> Result<Self, DnsError> {
        let settings =
            Settings { pods: config.pods, ttl: config.ttl, servers: Vec::new(), search: config.search };
        let world =
            World { zone: Zone::new(&config.domain)?, clients: Clients::new(&config.domain), settings };
        let forwarder = Forwarder::new(upstream::Config::default(), Bounds::default());
        Ok(Self {
            desk: Arc::new(Desk::new(world, forwarder, config.limit)),
            config,
            deps,
            health,
            roots: Roots::default(),
            loaded: BTreeMap::new(),
            addresses: BTreeSet::new(),
            sockets: Sockets::default(),
            taken_over: 0,
            failed: Vec::new(),
            keeper: None,
            server: None,
        })
    }

    /// Reads all tables anew. Questions are answered from what was known meanwhile.
    fn rebuild(&mut self) {
        let tables = &self.deps.tables;
        // Its domain was a zone before.
        let Ok(mut zone) = Zone::new(&self.config.domain) else { return };
        let (services, slices) = (tables.services.snapshot(), tables.slices.snapshot());
        let (pods, nodes) = (tables.pods.snapshot(), tables.nodes.snapshot());
        services.rows.values().for_each(|row| zone.set_service(&row.key, Some(row)));
        slices.rows.values().for_each(|row| zone.set_slice(&row.key, Some(row)));
        pods.rows.values().for_each(|row| zone.set_pod(&row.key, Some(row)));
        nodes.rows.values().for_each(|row| zone.set_node(&row.name, Some(row)));
        self.loaded = [
            (Service::TABLE, services.loaded),
            (EndpointSlice::TABLE, slices.loaded),
            (Pod::TABLE, pods.loaded),
            (Node::TABLE, nodes.loaded),
        ]
        .into();
        let mut clients = Clients::new(&self.config.domain);
        for (key, row) in tables.attachments.snapshot().rows.iter() {
            clients.set_attachment(key, Some(row));
        }
        zone.set_knowledge(self.known());
        let found = self.found();
        clients.set_host_search(&found.search);
        let (ranges, hosts) = self.admitted();
        zone.set_cluster(ranges.iter().copied());
        clients.set_ranges(ranges);
        clients.set_nodes(hosts);
        // All at once: without its knowledge a zone denies everybody an answer, and without ranges all are strangers.
        self.desk.change(|world| (world.zone, world.clients) = (zone, clients));
    }

    /// Takes over the changes of a table.
    fn take<R: Record>(&mut self, update: Update<R>, set: impl Fn(&mut World, &str, Option<&R>)) {
        match update {
            Update::Snapshot(_) => self.rebuild(),
            Update::Delta { changes, snapshot } => {
                self.desk.change(|world| {
                    changes.iter().for_each(|(key, row)| set(world, key, row.as_deref()));
                });
                if let Some(loaded) = self.loaded.get_mut(R::TABLE) {
                    *loaded = snapshot.loaded;
                }
            }
        }
        self.know();
    }

    /// Whether all that negative answers rest on is known.
    fn known(&self) -> Knowledge {
        let known = !self.loaded.is_empty() && self.loaded.values().all(|loaded| *loaded);
        if known { Knowledge::Current } else { Knowledge::Nothing }
    }

    /// Notes what is known.
    fn know(&self) {
        let knowledge = self.known();
        self.desk.change(|world| {
            if world.zone.knowledge() != knowledge {
                world.zone.set_knowledge(knowledge);
            }
        });
    }

    /// Whose questions are answered: ranges, and hosts. The ranges' reverse names are the cluster's.
    fn admitted(&self) -> (Vec<IpNet>, BTreeSet<IpAddr>) {
        let tables = &self.deps.tables;
        let cluster = tables.cluster.get(ONLY).unwrap_or_default();
        let nodes = tables.nodes.snapshot().rows;
        let local = tables.local_node.get(ONLY);
        let mut ranges = cluster.cluster_cidrs.clone();
        ranges.extend(nodes.values().flat_map(|node| node.pod_cidrs.iter()));
        ranges.extend(cluster.service_cidrs.iter().copied());
        let own = local.iter().flat_map(|node| node.internal_ips.iter().copied());
        let hosts = nodes.values().flat_map(|node| node.internal_ips.iter().copied()).chain(own);
        (ranges, hosts.chain(self.addresses.iter().copied()).collect())
    }

    /// Notes who is answered.
    fn admit(&mut self) {
        let (ranges, hosts) = self.admitted();
        self.desk.change(|world| {
            world.zone.set_cluster(ranges.iter().copied());
            world.clients.set_ranges(ranges);
            world.clients.set_nodes(hosts);
            world.settings.servers = self.addresses.iter().copied().collect();
        });
        self.know();
    }

    /// The resolvers of the node.
    fn found(&self) -> HostResolver {
        let own: Vec<IpAddr> = self.addresses.iter().copied().collect();
        HostResolver::find(&self.config.upstreams, &own, &self.deps.resolv)
    }

    /// Finds the upstreams anew.
    fn resolve(&mut self) {
        let found = self.found();
        self.desk.change(|world| world.clients.set_host_search(&found.search));
        self.desk.forwarder.update(upstream::Config {
            upstreams: found.upstreams.clone(),
            overrides: Arc::clone(&self.config.overrides),
            offline: self.config.offline,
            own: self.addresses.iter().copied().collect(),
            roots: self.roots.clone(),
        });
        self.deps.status.resolves(&found);
    }

    /// Takes the sockets that the agent before has left.
    async fn adopt(&mut self) {
        let kept = async {
            let keeper = KEEPER.connect(&self.deps.run_dir).await?;
            let sockets = Sockets::adopt(keeper.take().await?);
            Ok::<_, io::Error>((keeper, sockets))
        };
        match kept.await {
            Ok((keeper, sockets)) => {
                tracing::info!(sockets = sockets.0.len(), "took over the DNS sockets");
                (self.keeper, self.taken_over, self.sockets) = (Some(keeper), sockets.0.len(), sockets);
            }
            Err(error) => tracing::info!(%error, "there are no DNS sockets to take over"),
        }
    }

    /// Makes sockets, keeper, rules and routes what they should be; `look`: also when nothing of ours has changed.
    async fn settle(&mut self, look: bool) -> Result<(), Unsettled> {
        let tables = &self.deps.tables;
        let cluster = tables.cluster.get(ONLY).unwrap_or_default();
        let service = tables.services.get(place::SERVICE);
        let addresses = place::addresses(&self.config.addresses, service.as_deref(), &cluster.service_cidrs);
        if addresses.is_empty() {
            return Ok(());
        }
        let moved = addresses != self.addresses;
        if moved || (look && !self.failed.is_empty()) {
            self.addresses = addresses;
            self.admit();
            self.resolve();
            self.listen().await.map_err(Unsettled::Fatal)?;
        }
        if self.keeper.is_none() {
            self.find_keeper().await;
        }
        if moved || look {
            self.lead_here().await?;
        }
        match self.failed.first() {
            Some(why) => return Err(Unsettled::Now(why.clone())),
            None if self.keeper.is_none() => {
                self.health.degraded("nobody keeps the DNS sockets while the agent restarts");
            }
            None => self.health.ready(),
        }
        Ok(())
    }

    async fn listen(&mut self) -> Result<(), DnsError> {
        let system = |what| move |source| DnsError::System { what, source };
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
        self.failed = self.sockets.listen(&place::listen(&self.addresses));
        let server = Server::start(&self.desk, &self.sockets);
        self.server = Some(server.map_err(system("cluster DNS cannot start to serve"))?);
        self.deps.status.serves(&self.desk, &self.addresses, self.taken_over);
        tracing::info!(addresses = ?self.addresses, "serving cluster DNS");
        self.deposit().await;
        Ok(())
    }

    async fn deposit(&mut self) {
        let Some(keeper) = &self.keeper else { return };
        if let Err(error) = keeper.keep(&self.sockets.named()).await {
            tracing::warn!(%error, "the DNS sockets could not be deposited");
            self.keeper = None;
        }
    }

    /// Starts the keeper where there is none.
    async fn find_keeper(&mut self) {
        let named = self.sockets.named();
        let found = KEEPER.entrust(&self.deps.run_dir, &self.deps.program, &named).await;
        self.keeper =
            found.inspect_err(|error| tracing::warn!(%error, "nobody can keep the DNS sockets")).ok();
    }

    /// Whether nobody has the sockets that there are.
    fn is_unkept(&self) -> bool {
        self.server.is_some() && self.keeper.is_none()
    }

    /// Waits until the keeper is gone.
    async fn unkept(&self) {
        match &self.keeper {
            Some(keeper) => keeper.gone().await,
            None => std::future::pending().await,
        }
    }

    /// Rules first: what comes by the routes must not be translated on its way.
    async fn lead_here(&self) -> Result<(), NetlinkError> {
        let applied =
            self.deps.nft.ensure_section(Section::Dns, Arc::new(place::ruleset(&self.addresses))).await?;
        if applied != Applied::Unchanged {
            tracing::info!(?applied, "rules of cluster DNS");
        }
        let wanted: Vec<Route> = self.addresses.iter().map(|a| Route::local(*a, ROUTE_PROTOCOL)).collect();
        let found = self.deps.netlink.list_local_routes(ROUTE_PROTOCOL).await?;
        for route in wanted.iter().filter(|route| !found.iter().any(|other| other.dst == route.dst)) {
            self.deps.netlink.ensure_route(route).await?;
        }
        for route in found.iter().filter(|route| !wanted.iter().any(|other| other.dst == route.dst)) {
            self.deps.netlink.remove_route(route).await?;
        }
        Ok(())
    }

    /// Answers what was taken, and leaves the rest on the sockets.
    async fn stop(mut self) {
        let Some(server) = self.server.take() else { return };
        server.stop().await;
        let _ = tokio::time::timeout(GRACE, self.desk.waiting.acquire_many(WAITING)).await;
    }
}
