//! A cluster of rows in a real store, and the runner on it.

use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use warren_netlink::Netlink;
use warren_netlink::conntrack::Conntrack;
use warren_netlink::nft::Nft;
use warren_proxy::{Deps, Figures, ProxyConfig, ProxyStatus, Tables};
use warren_store::{Change, Durability, Record, Store, Table};
use warren_types::*;

const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Cluster {
    runtime: Runtime,
    store: Store,
    status: ProxyStatus,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn key(number: usize) -> ServiceKey {
    ServiceKey::parse(&format!("bench/service-{number}")).unwrap_or_else(|| unreachable!("a valid name"))
}

fn cluster_ip(number: usize) -> IpAddr {
    Ipv4Addr::from(0x0a2b_0000 + 10 + u32::try_from(number).unwrap_or(0)).into()
}

fn service(number: usize) -> Service {
    Service {
        cluster_ips: vec![cluster_ip(number)],
        families: vec![Family::V4],
        ports: vec![ServicePort { target: "8080".into(), ..ServicePort::new(Protocol::Tcp, 80) }],
        ..Service::new(key(number))
    }
}

fn slice(number: usize, addresses: &[Ipv4Addr]) -> Result<EndpointSlice> {
    let endpoint = |address: &Ipv4Addr| Endpoint {
        node: NodeName::new("node-1").ok(),
        ..Endpoint::ready(IpAddr::V4(*address))
    };
    Ok(EndpointSlice {
        key: SliceKey::parse(&format!("bench/service-{number}-x")).context("a valid name")?,
        service: key(number),
        family: Family::V4,
        ports: vec![EndpointPort { name: String::new(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: addresses.iter().map(endpoint).collect(),
        foreign_proxy: false,
    })
}

/// Two endpoints; the second is another in each turn.
fn endpoints(number: usize, turn: usize) -> [Ipv4Addr; 2] {
    let at = |n: usize| Ipv4Addr::from(0x0a2a_0000 + u32::try_from(n % 60_000).unwrap_or(0));
    [at(2 * number), at(2 * number + 1 + 2 * turn)]
}

/// Fills a table as a list of the API does, in steps.
async fn load<R: Record>(table: &Table<R>, rows: Vec<R>) -> Result<()> {
    let mut rows = rows.into_iter().map(Change::Put).peekable();
    while rows.peek().is_some() {
        table.commit(rows.by_ref().take(256).collect(), Durability::Cached).await?;
    }
    Ok(table.mark_loaded().await?)
}

impl Cluster {
    /// A store with so many Services of two endpoints each.
    pub(crate) fn new(size: usize) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?.store;
        let node = NodeName::new("node-1")?;
        let cidrs = PodCidrs::parse(vec!["10.42.0.0/16".to_owned()])?;
        runtime.block_on(async {
            let services: Vec<Service> = (0..size).map(service).collect();
            load(&store.table(), services).await?;
            let slices: Result<Vec<EndpointSlice>> =
                (0..size).map(|number| slice(number, &endpoints(number, 0))).collect();
            load(&store.table(), slices?).await?;
            let address: IpAddr = Ipv4Addr::new(192, 0, 2, 1).into();
            let row = Node {
                name: node.clone(),
                uid: String::new(),
                node_id: None,
                public_key: None,
                endpoints: Vec::new(),
                observed: BTreeMap::new(),
                held_ports: Vec::new(),
                ingress: Vec::new(),
                internal_ips: vec![address],
                served_ips: Vec::new(),
                pod_cidrs: cidrs,
                labels: BTreeMap::new(),
                ready: true,
            };
            store.table().replace(vec![row], Durability::Cached).await?;
            let ranges = ClusterConfig {
                cluster_cidrs: vec!["10.42.0.0/16".parse()?],
                service_cidrs: vec!["10.43.0.0/16".parse()?],
            };
            store.table().replace(vec![ranges], Durability::Cached).await?;
            let local = LocalNode {
                name: node.clone(),
                node_id: NodeId::new("0".repeat(32))?,
                public_key: PublicKey::parse("BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=")?,
                endpoints: Vec::new(),
                held_ports: Vec::new(),
                ingress: Vec::new(),
                internal_ips: vec![address],
                served_ips: Vec::new(),
                ready: true,
                message: String::new(),
            };
            store.table().replace(vec![local], Durability::Cached).await?;
            anyhow::Ok(())
        })?;
        Ok(Self { runtime, store, status: ProxyStatus::default(), stop: CancellationToken::new(), _dir: dir })
    }

    /// Starts the runner, in the namespace of the calling thread.
    pub(crate) fn start(&self) {
        let (store, status, stop) = (self.store.clone(), self.status.clone(), self.stop.clone());
        let config = ProxyConfig {
            node_name: NodeName::new("node-1").unwrap_or_else(|_| unreachable!("a valid name")),
            node_port_addresses: Vec::new(),
            external_ip_ranges: Vec::new(),
            tunnel_port: 51840,
        };
        let _inside = self.runtime.enter();
        let opened = (Netlink::current(), Nft::current(), Conntrack::current());
        self.runtime.spawn(async move {
            let (Ok(netlink), Ok(nft), Ok(conntrack)) = opened else { panic!("netlink sockets") };
            let deps = Deps { tables: Tables::of(&store), netlink, nft, conntrack, status };
            let ended = warren_proxy::run(config, deps, HealthCell::default(), stop).await;
            if let Err(error) = ended {
                eprintln!("the proxy ended: {error}");
            }
        });
    }

    pub(crate) fn figures(&self) -> Figures {
        self.status.figures()
    }

    /// Waits until the kernel has everything.
    pub(crate) fn loaded(&self) -> Result<()> {
        self.wait(|figures| figures.comparisons > 0)
    }

    fn wait(&self, done: impl Fn(&Figures) -> bool) -> Result<()> {
        let begun = Instant::now();
        while !done(&self.figures()) {
            if begun.elapsed() > PATIENCE {
                bail!("still waiting after {PATIENCE:?}: {:?}", self.figures());
            }
            std::thread::park_timeout(Duration::from_micros(50));
        }
        Ok(())
    }

    /// How long it takes from a row's change until the kernel has it.
    pub(crate) fn timed(&self, change: impl FnOnce() -> Result<()>) -> Result<Duration> {
        let before = self.figures().changes;
        let begun = Instant::now();
        change()?;
        self.wait(|figures| figures.changes > before)?;
        Ok(begun.elapsed())
    }

    pub(crate) fn put_slice(&self, number: usize, turn: usize) -> Result<()> {
        let row = slice(number, &endpoints(number, turn))?;
        self.runtime.block_on(self.store.table().put(row, Durability::Cached))?;
        Ok(())
    }

    pub(crate) fn move_endpoint(&self, number: usize, turn: usize) -> Result<()> {
        self.put_slice(number, turn + 1)
    }

    pub(crate) fn put_service(&self, number: usize) -> Result<()> {
        self.runtime.block_on(self.store.table().put(service(number), Durability::Cached))?;
        Ok(())
    }

    /// A Service with this address as its one endpoint; its own address.
    pub(crate) fn serve(&self, number: usize, endpoint: Ipv4Addr) -> Result<IpAddr> {
        let row = slice(number, &[endpoint])?;
        self.runtime.block_on(self.store.table().put(row, Durability::Cached))?;
        self.timed(|| self.put_service(number))?;
        Ok(cluster_ip(number))
    }
}
