//! Warren's server in a process of its own: the real store, the real runner.

use crate::names;
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use warren_dns::answer::PodNames;
use warren_dns::limits::Rate;
use warren_dns::overrides::Overrides;
use warren_dns::resolv::Paths;
use warren_dns::{Deps, DnsConfig, DnsStatus, KEEPER, Tables};
use warren_netlink::Netlink;
use warren_netlink::nft::Nft;
use warren_store::{Change, Durability, Record, Store, Table};
use warren_types::*;

/// Clients are counted as ever, but never too many.
const LIMIT: Rate = Rate { per_second: 100_000_000, burst: 100_000_000, clients: 16_384 };

/// Serves so many Services in the network namespace it is started in, until it is killed. Its files are in `dir`.
pub(crate) fn serve(services: usize, dir: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let run_dir = dir.to_owned();
    // Of the agent's, it is a process of its own; nobody is to inherit the sockets here.
    std::thread::spawn(move || KEEPER.serve(&run_dir));
    runtime.block_on(async {
        let place = dir.join("store");
        std::fs::create_dir(&place)?;
        let store = Store::open(&place)?.store;
        fill(&store, services).await?;
        println!("{}", resident(Path::new("/proc/self"))?);
        let config = DnsConfig {
            domain: names::DOMAIN.parse()?,
            addresses: vec![names::SERVER.into()],
            ttl: 5,
            pods: PodNames::Verified,
            search: true,
            upstreams: vec![names::UPSTREAM.parse()?],
            overrides: Arc::new(Overrides::default()),
            offline: false,
            limit: LIMIT,
        };
        let deps = Deps {
            tables: Tables::of(&store),
            netlink: Netlink::current()?,
            nft: Nft::current()?,
            status: DnsStatus::default(),
            resolv: Paths {
                etc: dir.join("none"),
                resolved: dir.join("none"),
                network_manager: dir.join("none"),
            },
            run_dir: dir.to_owned(),
            program: "true".into(),
        };
        warren_dns::run(config, deps, HealthCell::default(), CancellationToken::new()).await?;
        anyhow::Ok(())
    })
}

/// Fills a table as a list of the API does, in steps.
async fn load<R: Record>(table: &Table<R>, rows: Vec<R>) -> Result<()> {
    let mut rows = rows.into_iter().map(Change::Put).peekable();
    while rows.peek().is_some() {
        table.commit(rows.by_ref().take(256).collect(), Durability::Cached).await?;
    }
    Ok(table.mark_loaded().await?)
}

async fn fill(store: &Store, services: usize) -> Result<()> {
    let (services, slices): (Vec<Service>, Vec<EndpointSlice>) =
        (0..services).filter_map(names::rows).unzip();
    load(&store.table(), services).await?;
    load(&store.table(), slices).await?;
    store.table::<Pod>().replace(Vec::new(), Durability::Cached).await?;
    store.table::<Node>().replace(Vec::new(), Durability::Cached).await?;
    let ranges = ClusterConfig {
        cluster_cidrs: vec!["10.42.0.0/16".parse()?],
        service_cidrs: vec!["10.43.0.0/16".parse()?],
    };
    store.table().replace(vec![ranges], Durability::Cached).await?;
    let client = Attachment {
        key: AttachmentKey { container_id: ContainerId::new("client")?, if_name: IfName::new("eth0")? },
        pod: PodKey::parse("namespace-0/client"),
        pod_uid: None,
        labels: BTreeMap::new(),
        addresses: vec![IpAddr::V4(names::CLIENT)],
        netns: "/none".into(),
        host_link: IfName::new("none")?,
        phase: AttachmentPhase::Live,
        host_ports: Vec::new(),
        named_ports: Vec::new(),
        boot_id: BootId::new(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim())?,
    };
    store.table().replace(vec![client], Durability::Cached).await?;
    Ok(())
}

/// KiB that a process holds in memory.
pub(crate) fn resident(process: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(process.join("status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
