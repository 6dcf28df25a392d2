//! The load balancer's runner: reads tables and kernel, asks the engines, and tells the results.

use crate::addresses::{self, AddressInput, HeldPorts};
use crate::config::{Deps, LoadBalancerConfig, Mode};
use crate::error::LoadBalancerError;
use crate::held::{Holders, WantedPorts};
use crate::link::{self, LanLink, Links};
use crate::pool::Pool;
use crate::speaker;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use warren_netlink::NetlinkError;
use warren_store::tables::ONLY;
use warren_store::{Durability, Rows};
use warren_types::{EndpointSlice, Family, HealthCell, HealthState, LocalNode, Node, Service, node};

/// Passes are at least this far apart.
const GAP: Duration = Duration::from_millis(100);
/// Links are read at least this far apart: pods' links come and go.
const LINK_GAP: Duration = Duration::from_secs(1);
/// Who listens on the host is asked this often: the kernel does not tell.
const LISTENERS: Duration = Duration::from_secs(10);
/// After a failure.
const RETRY: Duration = Duration::from_millis(500);
/// So many failed passes in a row end the subsystem, and the supervisor starts it anew.
const FAILURES_MAX: u32 = 20;

/// Gives and announces addresses as the tables say, until `stop`; then this node falls silent, and its rows stay.
///
/// # Errors
/// When the store is closed, or passes fail again and again; the supervisor starts it anew.
pub async fn run(
    config: LoadBalancerConfig,
    deps: Deps,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), LoadBalancerError> {
    let mut services = deps.tables.services.watch();
    let mut slices = deps.tables.endpoint_slices.watch();
    let mut nodes = deps.tables.nodes.watch();
    let mut local = deps.tables.local_node.watch();
    let mut links = deps.netlink.changes().await?;
    let (mut held, mut serving) = (deps.held.clone(), deps.serving.clone());
    let holders = Holders::new(deps.netlink.namespace().try_clone()?);
    let mut runner = Runner {
        config,
        deps,
        health,
        holders,
        asked: None,
        links: Links::default(),
        speakers: BTreeMap::new(),
        tasks: JoinSet::new(),
    };
    let closed = LoadBalancerError::StoreClosed;
    let (mut pass_at, mut links_at) = (Some(Instant::now()), Some(Instant::now()));
    let (mut passed, mut linked) = (None, Instant::now());
    let mut failures = 0;
    let outcome = loop {
        let mut changed = true;
        tokio::select! {
            () = stop.cancelled() => break Ok(()),
            row = services.next() => if row.is_none() { break Err(closed) },
            row = slices.next() => if row.is_none() { break Err(closed) },
            row = nodes.next() => if row.is_none() { break Err(closed) },
            row = local.next() => {
                if row.is_none() {
                    break Err(closed);
                }
                links_at = Some(Instant::now());
            }
            Ok(()) = held.changed() => {}
            Ok(()) = serving.changed() => {}
            change = links.changed(), if links_at.is_none() => {
                changed = false;
                if change.is_err() {
                    links = runner.deps.netlink.changes().await?;
                }
                links_at = Some(linked + LINK_GAP);
            }
            Some(_) = runner.tasks.join_next() => {
                // A link went away, or its sockets failed.
                changed = false;
                runner.forget_silent();
                links_at = Some(Instant::now() + RETRY);
            }
            () = at(links_at) => {
                linked = Instant::now();
                links_at = runner.read_links().await.err().map(|error| {
                    runner.health.degraded(error.to_string());
                    linked + RETRY
                });
            }
            () = at(pass_at) => {
                let begun = Instant::now();
                (changed, passed) = (false, Some(begun));
                pass_at = Some(begun + match runner.pass().await {
                    Ok(()) => {
                        failures = 0;
                        LISTENERS
                    }
                    Err(LoadBalancerError::StoreClosed) => break Err(closed),
                    Err(error) => {
                        failures += 1;
                        tracing::warn!(%error, failures, "load balancers could not be brought up to date");
                        runner.health.degraded(error.to_string());
                        if failures >= FAILURES_MAX {
                            break Err(error);
                        }
                        RETRY
                    }
                });
            }
        }
        if changed {
            pass_at = Some(passed.map_or_else(Instant::now, |passed| passed + GAP));
        }
    };
    runner.deps.status.update(|status| status.addresses.clear());
    outcome
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

struct Runner {
    config: LoadBalancerConfig,
    deps: Deps,
    health: HealthCell,
    holders: Holders,
    /// When this host's listeners were asked for last, and for which ports.
    asked: Option<(Instant, WantedPorts, Vec<IpAddr>)>,
    links: Links,
    speakers: BTreeMap<LanLink, Speaker>,
    tasks: JoinSet<()>,
}

/// The announcer of one link. It falls silent when this is dropped.
struct Speaker {
    families: BTreeSet<Family>,
    wanted: watch::Sender<BTreeSet<IpAddr>>,
    stop: CancellationToken,
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What a pass reads of the tables.
struct Input {
    services: Rows<Service>,
    slices: Rows<EndpointSlice>,
    nodes: Rows<Node>,
    local: std::sync::Arc<LocalNode>,
}

impl Runner {
    /// The tables, once each has been loaded.
    fn input(&self) -> Result<Input, &'static str> {
        let tables = &self.deps.tables;
        let (services, slices) = (tables.services.snapshot(), tables.endpoint_slices.snapshot());
        let nodes = tables.nodes.snapshot();
        let Some(local) = tables.local_node.get(ONLY) else {
            return Err("waiting for this node's own addresses");
        };
        match (services.loaded, slices.loaded, nodes.loaded) {
            (true, true, true) => {
                Ok(Input { services: services.rows, slices: slices.rows, nodes: nodes.rows, local })
            }
            (false, ..) => Err("waiting for the first list of Services; check that the API can be reached"),
            (_, false, _) => {
                Err("waiting for the first list of EndpointSlices; check that the API can be reached")
            }
            _ => Err("waiting for the first list of nodes; check that the API can be reached"),
        }
    }

    async fn pass(&mut self) -> Result<(), LoadBalancerError> {
        if self.config.mode == Mode::Off {
            self.deps.tables.load_balancer_addresses.replace(Vec::new(), Durability::Cached).await?;
            self.deps.held_here.send_if_modified(|now| !std::mem::take(now).is_empty());
            self.health.ready();
            return Ok(());
        }
        let input = match self.input() {
            Ok(input) => input,
            Err(waiting) => {
                self.health.set(HealthState::Starting, waiting);
                return Ok(());
            }
        };
        let services: Vec<&Service> = input.services.values().map(AsRef::as_ref).collect();
        // Before rows are written: this node may be the one that writes, and a port of its own be held.
        self.hold(&services, &input.local).await?;
        self.write(&services, &input).await?;
        let refused = match &self.config.mode {
            Mode::Pool(pool) => {
                let pool = pool.clone();
                self.announce(&pool, &services, &input)
            }
            _ => BTreeMap::new(),
        };
        self.tell(&refused);
        Ok(())
    }

    /// Tells which ports this host's programs hold. A pool's addresses are nobody's but the Services'.
    async fn hold(&mut self, services: &[&Service], local: &LocalNode) -> Result<(), LoadBalancerError> {
        if self.config.mode != Mode::Nodes {
            self.deps.held_here.send_if_modified(|now| !std::mem::take(now).is_empty());
            return Ok(());
        }
        let ports = WantedPorts::of(services.iter().copied(), &local.internal_ips);
        let fresh = self.asked.as_ref().is_some_and(|(when, of, own)| {
            when.elapsed() < LISTENERS && *of == ports && *own == local.internal_ips
        });
        if fresh {
            return Ok(());
        }
        let before: HeldPorts = match self.asked {
            Some(_) => self.deps.held_here.borrow().clone(),
            // From before this agent's start.
            None => self.deps.held.borrow().get(&self.config.node_name).cloned().unwrap_or_default(),
        };
        let judged = ports.since(self.asked.as_ref().map(|(_, last, _)| last));
        let now = self.holders.read(&local.internal_ips, &judged, &before).await?;
        self.deps.held_here.send_if_modified(|told| {
            let changed = *told != now;
            *told = now;
            changed
        });
        self.asked = Some((Instant::now(), ports, local.internal_ips.clone()));
        Ok(())
    }

    /// Writes the addresses of Services, when it is this node's turn.
    async fn write(&self, services: &[&Service], input: &Input) -> Result<(), LoadBalancerError> {
        let writer = node::is_first_ready(&self.config.node_name, input.nodes.values().map(AsRef::as_ref));
        let rows = if writer {
            let mut held = self.deps.held.borrow().clone();
            held.insert(self.config.node_name.clone(), self.deps.held_here.borrow().clone());
            let wanted: BTreeSet<_> =
                services.iter().filter(|s| addresses::is_ours(s)).map(|s| &s.key).collect();
            let slices = input.slices.values().map(AsRef::as_ref);
            addresses::compile(&AddressInput {
                mode: &self.config.mode,
                services,
                slices: &slices.filter(|slice| wanted.contains(&slice.service)).collect::<Vec<_>>(),
                nodes: &input.nodes.values().map(AsRef::as_ref).collect::<Vec<_>>(),
                held: &held,
            })
        } else {
            Vec::new()
        };
        self.deps.tables.load_balancer_addresses.replace(rows, Durability::Cached).await?;
        self.deps.status.update(|status| status.writer = writer);
        Ok(())
    }

    /// Says to the speakers what to announce. Returns what must not be.
    fn announce(&self, pool: &Pool, services: &[&Service], input: &Input) -> BTreeMap<IpAddr, String> {
        let own = input.nodes.values().find(|node| node.name == self.config.node_name);
        let mut wanted = match own {
            Some(own) if *self.deps.serving.borrow() => {
                addresses::servable(pool, own, services, input.slices.values().map(AsRef::as_ref))
            }
            _ => BTreeSet::new(),
        };
        let mut refused = BTreeMap::new();
        wanted.retain(|address| {
            let node = input.nodes.values().find(|node| node.internal_ips.contains(address));
            let why = match node {
                Some(node) => format!("{address} is an address of node {}", node.name),
                None if self.links.local.contains(address) => {
                    format!("{address} is on a link of this host")
                }
                None => return true,
            };
            refused.insert(
                *address,
                format!("{why}, so it is not announced; take it out of --loadbalancer-pool"),
            );
            false
        });
        for speaker in self.speakers.values() {
            let its =
                wanted.iter().copied().filter(|ip| speaker.families.contains(&Family::of(*ip))).collect();
            speaker.wanted.send_if_modified(|now| {
                let changed = *now != its;
                *now = its;
                changed
            });
        }
        refused
    }

    fn tell(&self, refused: &BTreeMap<IpAddr, String>) {
        self.deps.status.update(|status| {
            status.refused.clone_from(refused);
            status.links = self.speakers.keys().map(|link| (link.name.clone(), link.mac)).collect();
        });
        let missing = self.links.missing.as_ref().filter(|_| matches!(self.config.mode, Mode::Pool(_)));
        match missing.or_else(|| refused.values().next()) {
            Some(why) => self.health.degraded(why.clone()),
            None => self.health.ready(),
        }
    }

    /// Reads the links again; those that are new get a speaker, those that are gone lose theirs.
    async fn read_links(&mut self) -> Result<(), NetlinkError> {
        if !matches!(self.config.mode, Mode::Pool(_)) {
            return Ok(());
        }
        let own = self.deps.tables.local_node.get(ONLY).map(|local| local.internal_ips.clone());
        let own = own.unwrap_or_default();
        self.links = link::read(&self.deps.netlink, self.config.interface.as_ref(), &own).await?;
        let mut wanted: BTreeMap<LanLink, BTreeSet<Family>> = BTreeMap::new();
        for (family, link) in &self.links.of {
            wanted.entry(link.clone()).or_default().insert(*family);
        }
        self.speakers.retain(|link, speaker| wanted.get(link) == Some(&speaker.families));
        for (link, families) in wanted {
            if !self.speakers.contains_key(&link) {
                let speaker = self.start(&link, families)?;
                self.speakers.insert(link, speaker);
            }
        }
        Ok(())
    }

    fn start(&mut self, link: &LanLink, families: BTreeSet<Family>) -> Result<Speaker, NetlinkError> {
        let (wanted, receiver) = watch::channel(BTreeSet::new());
        let stop = CancellationToken::new();
        let (status, its) = (self.deps.status.clone(), families.clone());
        let tell = move |states: speaker::States| {
            status.update(|now| {
                now.addresses.retain(|ip, _| !its.contains(&Family::of(*ip)));
                now.addresses.extend(states);
            });
        };
        let namespace = self.deps.netlink.namespace().try_clone()?;
        let speaking = speaker::speak(link.clone(), namespace, receiver, tell, stop.clone());
        let name = link.name.clone();
        self.tasks.spawn(async move {
            if let Err(error) = speaking.await {
                tracing::warn!(%error, link = name, "addresses are not announced on this link for now");
            }
        });
        Ok(Speaker { families, wanted, stop })
    }

    /// Forgets speakers that have ended.
    fn forget_silent(&mut self) {
        self.speakers.retain(|_, speaker| !speaker.wanted.is_closed());
    }
}
