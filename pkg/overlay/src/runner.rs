//! The overlay's runner: reads tables and kernel, asks the engine, and applies the difference.
//!
//! Order of a pass: guard (unreachable routes, nftables), forwarding, link, peers, routes and rules; then removals in
//! reverse: rules and routes, peers, addresses, guards.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;
use warren_netlink::nft::BaseRules;
use warren_netlink::{LinkChange, Route};
use warren_store::tables::ONLY;
use warren_store::{Change, Durability};
use warren_types::marks::{
    GUARD_METRIC, LINK_ALIAS_PREFIX, ROUTE_PROTOCOL, ROUTE_TABLE_NODES, TUNNEL_FWMARK, TUNNEL_LINK,
};
use warren_types::{HealthCell, HealthState, LocalNode, Node, PeerEndpoint, PublicKey};

use crate::backend::{BackendKind, Tunnel, in_namespace};
use crate::config::{Deps, OverlayConfig};
use crate::device::{DeviceChange, DeviceSettings, ObservedDevice, PeerChange, diff};
use crate::endpoint::{KEEPALIVE, PeerState};
use crate::engine::{self, Desired, OverlayInput, Underlay};
use crate::error::OverlayError;
use crate::status::PeerStatus;
use crate::sysctls;
use crate::tracker::Tracker;
use crate::underlay;

/// Passes are at least this far apart.
const GAP: Duration = Duration::from_millis(50);
/// While the kernel's changes turn out not to concern the overlay (pods come and go), passes become rarer, up to this.
const GAP_MAX: Duration = Duration::from_secs(1);
/// The device is read back at least this often.
const READBACK: Duration = Duration::from_secs(10);
/// More often while a peer does not answer.
const READBACK_UNSETTLED: Duration = Duration::from_secs(2);
/// A new peer that may not know this node yet is called again after this, then twice this, and so on; WireGuard itself
/// waits five seconds.
const KNOCK: Duration = Duration::from_secs(1);
/// So many times at each place where it may be; then WireGuard's own pace will do.
const KNOCKS: u32 = 3;
/// After a failed pass.
const RETRY: Duration = Duration::from_millis(500);
/// So many failed passes in a row end the subsystem, and the supervisor starts it anew.
const FAILURES_MAX: u32 = 20;
/// How long the blocking work on sysctls may take.
const SYSCTLS: Duration = Duration::from_secs(5);

/// Keeps the overlay as the tables say, until `stop`; then leaves everything as it is.
///
/// # Errors
/// When the store is closed, or passes fail again and again; the supervisor starts it anew.
pub async fn run(
    config: OverlayConfig,
    deps: Deps,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), OverlayError> {
    let mut nodes = deps.tables.nodes.watch();
    let mut cluster = deps.tables.cluster.watch();
    let mut local = deps.tables.local_node.watch();
    let mut links = deps.netlink.changes().await?;
    let mut rules = deps.nft.changes().await?;
    let tunnel =
        Tunnel::new(deps.netlink.clone(), config.backend, config.run_dir.clone(), config.program.clone());
    let mut runner = Runner {
        config,
        deps,
        health,
        tunnel,
        tracker: Tracker::default(),
        forwards: None,
        knocks: BTreeMap::new(),
    };
    let (mut failures, mut gap) = (0, GAP);
    loop {
        let begun = tokio::time::Instant::now();
        links.mark_unchanged();
        rules.mark_unchanged();
        let next = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            pass = runner.pass() => match pass {
                Ok(done) => {
                    failures = 0;
                    gap = if done.changed { GAP } else { gap };
                    done.again
                }
                Err(OverlayError::StoreClosed) => return Err(OverlayError::StoreClosed),
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, failures, "the overlay could not be brought up to date");
                    if failures >= FAILURES_MAX {
                        return Err(error);
                    }
                    runner.health.degraded(error.to_string());
                    RETRY
                }
            },
        };
        let mut earliest = begun + GAP;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            row = nodes.next() => row.map(drop).ok_or(OverlayError::StoreClosed)?,
            row = cluster.next() => row.map(drop).ok_or(OverlayError::StoreClosed)?,
            row = local.next() => row.map(drop).ok_or(OverlayError::StoreClosed)?,
            change = links.changed() => {
                if change.is_err() {
                    links = runner.deps.netlink.changes().await?;
                }
                earliest = begun + gap;
                gap = (gap * 2).min(GAP_MAX);
            }
            change = rules.changed() => {
                if change.is_err() {
                    rules = runner.deps.nft.changes().await?;
                }
            }
            () = tokio::time::sleep(next) => gap = GAP,
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            // A row does not wait for pods that come and go.
            row = nodes.next(), if gap > GAP => row.map(drop).ok_or(OverlayError::StoreClosed)?,
            () = tokio::time::sleep_until(earliest) => {}
        }
    }
}

/// What a pass found.
struct Done {
    /// Whether anything had to be changed.
    changed: bool,
    /// When to look again, without any trigger.
    again: Duration,
}

struct Runner {
    config: OverlayConfig,
    deps: Deps,
    health: HealthCell,
    tunnel: Tunnel,
    tracker: Tracker,
    /// The families (IPv4, IPv6) whose forwarding has been set; others may change it later, and then it is theirs.
    forwards: Option<(bool, bool)>,
    /// Peers that have not answered yet.
    knocks: BTreeMap<PublicKey, Knock>,
}

/// The calls to a peer that this node has never had a handshake with.
struct Knock {
    last: Instant,
    count: u32,
    /// The places it is called at, in turn. Others than before begin a new series.
    candidates: Vec<SocketAddr>,
}

impl Knock {
    fn new(now: Instant, candidates: &[SocketAddr]) -> Self {
        Self { last: now, count: 0, candidates: candidates.to_vec() }
    }
    /// How many full rounds of the candidates have been made.
    fn rounds(&self) -> u32 {
        self.count / u32::try_from(self.candidates.len().max(1)).unwrap_or(u32::MAX)
    }
    fn over(&self) -> bool {
        self.rounds() >= KNOCKS
    }
    fn due(&self, now: Instant) -> bool {
        !self.over() && now.duration_since(self.last) >= KNOCK * 2u32.pow(self.rounds())
    }
    /// The next place, after the one called last.
    fn next(&mut self, now: Instant, current: Option<SocketAddr>) -> Option<SocketAddr> {
        (self.last, self.count) = (now, self.count + 1);
        let after = self.candidates.iter().position(|c| Some(*c) == current).map_or(0, |at| at + 1);
        self.candidates.get(after % self.candidates.len().max(1)).copied().or(current)
    }
}

impl Runner {
    async fn pass(&mut self) -> Result<Done, OverlayError> {
        let nodes = self.deps.tables.nodes.snapshot();
        let cluster = self.deps.tables.cluster.snapshot();
        let waiting = |what: &str| {
            self.health.set(HealthState::Starting, what);
            Ok(Done { changed: false, again: READBACK })
        };
        let Some(local) = self.deps.tables.local_node.get(ONLY) else {
            return waiting("waiting for this node's own addresses");
        };
        if !nodes.loaded {
            return waiting("waiting for the first list of nodes; check that the API can be reached");
        }
        let Some(cluster) = cluster.rows.get(ONLY).cloned().or_else(|| cluster.loaded.then(Default::default))
        else {
            return waiting("waiting for the cluster's ranges; give --cluster-cidr, or check the API");
        };
        let nodes: Vec<Node> = nodes.rows.iter().map(|(_, row)| Node::clone(row)).collect();
        let learned = self.learned();
        let routes = self.deps.netlink.list_routes(None).await?;
        let underlay = self.underlay(&routes, &local, &nodes, &learned).await?;
        let mut input = OverlayInput {
            local: &local,
            nodes: &nodes,
            cluster: &cluster,
            learned: &learned,
            underlay: &underlay,
            tunnels: &BTreeMap::new(),
            mtu: self.config.mtu,
            max_mtu: self.tunnel.kind().unwrap_or(BackendKind::Userspace).max_mtu(),
        };

        // The guard needs nothing of the device, and comes before it.
        let before = engine::compile(&input);
        let mut changed = self.guard(&before, &routes).await?;
        self.deps.status.update(|s| {
            s.guarded = true;
            s.quarantined.clone_from(&before.quarantined);
        });
        self.forwarding(&before).await?;

        let ensured = self.tunnel.ensure(before.mtu).await?;
        if ensured.new {
            self.tracker.clear();
            self.knocks.clear();
            changed = true;
        }
        let observed = self.tunnel.read().await?;
        self.tracker.observe(Instant::now(), SystemTime::now(), &observed);
        let states = self.tracker.states(Instant::now());
        // A packet may have come from a place that nothing named before it.
        let named = |state: &PeerState| state.endpoint.is_none_or(|e| underlay.paths.contains_key(&e.ip()));
        let reread = match states.values().all(named) {
            true => None,
            false => Some(self.underlay(&routes, &local, &nodes, &learned).await?),
        };
        input.underlay = reread.as_ref().unwrap_or(&underlay);
        input.tunnels = &states;
        input.max_mtu = ensured.kind.max_mtu();
        let desired = engine::compile(&input);

        changed |= self.guard(&desired, &routes).await?;
        changed |= self.link(&desired, &ensured.link, ensured.new).await?;
        let (alter, remove) = diff(&observed, &self.settings(), &desired.peers).split();
        if !alter.is_empty() {
            changed = true;
            self.alter(&alter, ensured.kind).await?;
        }
        self.knock(&desired, &states, ensured.kind).await?;
        changed |= self.ways(&desired, &routes).await?;
        if !remove.is_empty() {
            changed = true;
            for key in &remove.removed {
                tracing::info!(%key, "peer removed");
            }
            self.tunnel.apply(&remove).await?;
        }
        changed |= self.sweep(&desired, &routes).await?;
        self.remember(&nodes, &desired, &states, &learned).await?;
        self.tell(&desired, &observed, ensured.kind);
        let unsettled = desired.peers.keys().any(|k| states.get(k).is_none_or(PeerState::unsettled));
        let again = match (self.knocks.values().any(|k| !k.over()), unsettled) {
            (true, _) => KNOCK,
            (false, true) => READBACK_UNSETTLED,
            (false, false) => READBACK,
        };
        Ok(Done { changed, again })
    }

    fn settings(&self) -> DeviceSettings {
        DeviceSettings {
            private_key: self.config.private_key.clone(),
            listen_port: self.config.listen_port,
            fwmark: TUNNEL_FWMARK,
        }
    }

    fn learned(&self) -> BTreeMap<PublicKey, SocketAddr> {
        let rows = self.deps.tables.peer_endpoints.snapshot().rows;
        rows.iter().map(|(_, row)| (row.public_key, row.endpoint)).collect()
    }

    async fn underlay(
        &self,
        routes: &[Route],
        local: &LocalNode,
        nodes: &[Node],
        learned: &BTreeMap<PublicKey, SocketAddr>,
    ) -> Result<Underlay, OverlayError> {
        let others = nodes.iter().filter(|n| n.name != self.config.node_name);
        let mut targets: BTreeSet<IpAddr> =
            others.flat_map(|n| n.endpoints.iter().map(SocketAddr::ip)).collect();
        targets.extend(nodes.iter().flat_map(|n| n.observed.values().map(SocketAddr::ip)));
        targets.extend(learned.values().map(SocketAddr::ip));
        let states = self.tracker.states(Instant::now());
        targets.extend(states.values().filter_map(|s| s.endpoint).map(|e| e.ip()));
        Ok(underlay::read(&self.deps.netlink, routes, &local.internal_ips, &targets).await?)
    }

    /// Puts unreachable routes and the base of the nftables table in place.
    async fn guard(&self, desired: &Desired, routes: &[Route]) -> Result<bool, OverlayError> {
        let mut changed = self.ensure_routes(&desired.guards, routes).await?;
        let base = BaseRules {
            pod_ranges: desired.pod_ranges.iter().copied().collect(),
            local_pod_cidrs: desired.local_pod_cidrs.iter().copied().collect(),
            service_ranges: desired.service_ranges.iter().copied().collect(),
            tunnel_port: self.config.listen_port,
        };
        let applied = self.deps.nft.ensure_base(&base).await?;
        if applied != warren_netlink::nft::Applied::Unchanged {
            tracing::info!(?applied, "guard in nftables");
            changed = true;
        }
        Ok(changed)
    }

    async fn ensure_routes(&self, wanted: &BTreeSet<Route>, routes: &[Route]) -> Result<bool, OverlayError> {
        let have = underlay::own_routes(routes, TUNNEL_LINK, GUARD_METRIC);
        let mut changed = false;
        for route in wanted.iter().filter(|r| !have.contains(&underlay::as_kernel_shows(r))) {
            tracing::info!(%route, "route added");
            self.deps.netlink.ensure_route(route).await?;
            changed = true;
        }
        Ok(changed)
    }

    async fn forwarding(&mut self, desired: &Desired) -> Result<(), OverlayError> {
        let v4 = desired.local_pod_cidrs.iter().any(|n| n.addr().is_ipv4());
        let v6 = desired.local_pod_cidrs.iter().any(|n| n.addr().is_ipv6());
        if self.forwards == Some((v4, v6)) || !(v4 || v6) {
            return Ok(());
        }
        let note = self.deps.note_sysctl.clone();
        let ns = self.deps.netlink.namespace();
        let missing =
            in_namespace(ns, "set sysctls", SYSCTLS, move || sysctls::forwarding(v4, v6, &note)).await?;
        self.forwards = missing.is_empty().then_some((v4, v6));
        self.deps.status.update(|s| s.sysctls = missing);
        Ok(())
    }

    /// Brings the link up, with its addresses.
    async fn link(
        &self,
        desired: &Desired,
        link: &warren_netlink::Link,
        new: bool,
    ) -> Result<bool, OverlayError> {
        let netlink = &self.deps.netlink;
        let alias = format!("{LINK_ALIAS_PREFIX}tunnel");
        let mut changed = false;
        if new {
            for problem in
                in_namespace(netlink.namespace(), "set sysctls", SYSCTLS, sysctls::tunnel_link).await?
            {
                tracing::warn!(problem, "sysctl of the tunnel link");
            }
        }
        let change = LinkChange {
            up: (!link.up).then_some(true),
            mtu: (link.mtu != desired.mtu).then_some(desired.mtu),
            alias: (link.alias != alias).then_some(alias.as_str()),
            ..LinkChange::default()
        };
        if change != LinkChange::default() {
            tracing::info!(link = link.name, mtu = desired.mtu, "tunnel link brought up to date");
            netlink.set_link_at(link.index, &change).await?;
            changed = true;
        }
        let have = self.addresses(link.index).await?;
        for addr in desired.addresses.difference(&have) {
            tracing::info!(link = link.name, %addr, "address added");
            netlink.ensure_address_at(link.index, *addr).await?;
            changed = true;
        }
        Ok(changed)
    }

    /// Addresses on the tunnel link, without those that the kernel makes itself.
    async fn addresses(&self, index: u32) -> Result<BTreeSet<IpNet>, OverlayError> {
        let all = self.deps.netlink.list_addresses(None).await?;
        let kept = all.into_iter().filter(|(i, net)| *i == index && !is_link_local(net.addr()));
        Ok(kept.map(|(_, net)| net).collect())
    }

    /// Adds and alters peers.
    async fn alter(&mut self, change: &DeviceChange, kind: BackendKind) -> Result<(), OverlayError> {
        for (key, peer) in &change.peers {
            tracing::info!(%key, new = peer.new, endpoint = ?peer.endpoint, keepalive = ?peer.keepalive, "peer set");
        }
        self.tunnel.apply(change).await?;
        self.tracker.applied(Instant::now(), change);
        // A handshake now, not with the first packet: a peer that still holds a session of an earlier life of this node
        // learns of the new one. The userspace tunnel does so itself; the kernel when a keepalive is turned on.
        let silent = |p: &&PeerChange| p.new && p.endpoint.is_some() && p.keepalive == Some(0);
        let greet: Vec<PublicKey> = change.peers.iter().filter(|(_, p)| silent(p)).map(|(k, _)| *k).collect();
        if kind == BackendKind::Kernel && !greet.is_empty() {
            for keepalive in [KEEPALIVE, 0] {
                let one = PeerChange { keepalive: Some(keepalive), ..PeerChange::default() };
                let peers = greet.iter().map(|key| (*key, one.clone())).collect();
                self.tunnel.apply(&DeviceChange { peers, ..DeviceChange::default() }).await?;
            }
        }
        Ok(())
    }

    /// Calls new peers again that have not answered. Two nodes learn of each other at different moments, and where only
    /// one can call (the other sits behind a NAT, or is this one) its first call may come too early. A peer is called
    /// anew by being made anew; it has no session to lose.
    async fn knock(
        &mut self,
        desired: &Desired,
        states: &BTreeMap<PublicKey, PeerState>,
        kind: BackendKind,
    ) -> Result<(), OverlayError> {
        let silent = |key: &PublicKey| states.get(key).is_none_or(|s| s.handshake_age.is_none());
        let now = Instant::now();
        self.knocks.retain(|key, _| desired.peers.contains_key(key) && silent(key));
        let mut change = DeviceChange::default();
        for (key, peer) in desired.peers.iter().filter(|(key, p)| p.endpoint.is_some() && silent(key)) {
            let knock = self.knocks.entry(*key).or_insert_with(|| Knock::new(now, &peer.candidates));
            if knock.candidates != peer.candidates {
                // At once: others may just have told where to call.
                let past = now.checked_sub(KNOCK).unwrap_or(now);
                *knock = Knock::new(past, &peer.candidates);
            }
            if !knock.due(now) {
                continue;
            }
            let anew = PeerChange {
                new: true,
                endpoint: knock.next(now, peer.endpoint),
                allowed_ips: Some(peer.allowed_ips.clone()),
                keepalive: Some(peer.keepalive),
            };
            change.peers.insert(*key, anew);
        }
        if change.peers.is_empty() {
            return Ok(());
        }
        let removed = change.peers.keys().copied().collect();
        self.tunnel.apply(&DeviceChange { removed, ..DeviceChange::default() }).await?;
        self.alter(&change, kind).await
    }

    /// Adds rules and routes into the tunnel.
    async fn ways(&self, desired: &Desired, routes: &[Route]) -> Result<bool, OverlayError> {
        let mut changed = self.ensure_routes(&desired.routes, routes).await?;
        let have: BTreeSet<_> = self.deps.netlink.list_rules(ROUTE_PROTOCOL).await?.into_iter().collect();
        for rule in desired.rules.difference(&have) {
            tracing::info!(%rule, "rule added");
            self.deps.netlink.ensure_rule(rule).await?;
            changed = true;
        }
        Ok(changed)
    }

    /// Removes what bears the overlay's marks and is not wanted; guards last.
    async fn sweep(&self, desired: &Desired, routes: &[Route]) -> Result<bool, OverlayError> {
        let netlink = &self.deps.netlink;
        let mut changed = false;
        for rule in netlink.list_rules(ROUTE_PROTOCOL).await? {
            if rule.table == ROUTE_TABLE_NODES && !desired.rules.contains(&rule) {
                tracing::info!(%rule, "rule removed");
                netlink.remove_rule(&rule).await?;
                changed = true;
            }
        }
        let wanted: BTreeSet<(IpNet, u32, u32)> = desired
            .routes
            .iter()
            .chain(&desired.guards)
            .map(underlay::as_kernel_shows)
            .map(|r| identity(&r))
            .collect();
        let have = underlay::own_routes(routes, TUNNEL_LINK, GUARD_METRIC);
        let (guards, ways): (Vec<&Route>, Vec<&Route>) =
            have.iter().filter(|r| !wanted.contains(&identity(r))).partition(|r| r.metric == GUARD_METRIC);
        for route in ways {
            tracing::info!(%route, "route removed");
            netlink.remove_route(route).await?;
            changed = true;
        }
        if let Some(link) = netlink.get_link(TUNNEL_LINK).await? {
            for addr in self.addresses(link.index).await?.difference(&desired.addresses) {
                tracing::info!(%addr, "address removed");
                netlink.remove_address(TUNNEL_LINK, *addr).await?;
                changed = true;
            }
        }
        for route in guards {
            tracing::info!(%route, "route removed");
            netlink.remove_route(route).await?;
            changed = true;
        }
        Ok(changed)
    }

    /// Writes down where peers are that are not where they publish, for a start without the API and for third nodes, and
    /// forgets those that are gone or back.
    async fn remember(
        &self,
        nodes: &[Node],
        desired: &Desired,
        states: &BTreeMap<PublicKey, PeerState>,
        learned: &BTreeMap<PublicKey, SocketAddr>,
    ) -> Result<(), OverlayError> {
        let mut batch = Vec::new();
        let published = |key: &PublicKey, at: &SocketAddr| {
            nodes.iter().any(|n| n.public_key == Some(*key) && n.endpoints.contains(at))
        };
        let working = states.iter().filter(|(key, state)| desired.peers.contains_key(key) && state.works());
        for (key, at) in working.filter_map(|(key, state)| Some((key, state.endpoint?))) {
            match (published(key, &at), learned.get(key)) {
                (true, Some(_)) => batch.push(Change::Delete(key.to_string())),
                (false, was) if was != Some(&at) => {
                    batch.push(Change::Put(PeerEndpoint { public_key: *key, endpoint: at }));
                }
                _ => {}
            }
        }
        let gone = learned.keys().filter(|key| !desired.peers.contains_key(key));
        batch.extend(gone.map(|key| Change::Delete(key.to_string())));
        if !batch.is_empty() {
            self.deps.tables.peer_endpoints.commit(batch, Durability::Cached).await?;
        }
        Ok(())
    }

    fn tell(&self, desired: &Desired, observed: &ObservedDevice, backend: BackendKind) {
        let states = self.tracker.states(Instant::now());
        let mut peers: Vec<PeerStatus> = desired
            .peers
            .iter()
            .map(|(key, peer)| {
                let read = observed.peers.get(key).cloned().unwrap_or_default();
                let state = states.get(key).copied().unwrap_or_default();
                PeerStatus {
                    node: peer.node.clone(),
                    public_key: *key,
                    endpoint: state.endpoint.or(peer.endpoint),
                    handshake_age: state.handshake_age,
                    unanswered: state.unanswered,
                    rx_bytes: read.rx_bytes,
                    tx_bytes: read.tx_bytes,
                    allowed_ips: peer.allowed_ips.iter().copied().collect(),
                    keepalive: peer.keepalive,
                }
            })
            .collect();
        peers.sort_by(|a, b| a.node.cmp(&b.node));
        self.deps.status.update(|s| {
            s.backend = Some(backend);
            s.mtu = desired.mtu;
            s.peers = peers;
            s.quarantined.clone_from(&desired.quarantined);
        });
        let status = self.deps.status.get();
        match (status.quarantined.as_slice(), status.sysctls.first()) {
            (_, Some(problem)) => self.health.degraded(problem.clone()),
            ([], None) => self.health.ready(),
            ([one], None) => self.health.degraded(one.to_string()),
            ([first, rest @ ..], None) => self.health.degraded(format!("{first} (and {} more)", rest.len())),
        }
    }
}

fn identity(route: &Route) -> (IpNet, u32, u32) {
    (route.dst, route.table, route.metric)
}

fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(v6) if v6.is_unicast_link_local())
}
