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
use warren_policy::{Deps, Figures, Gate, PolicyConfig, PolicyStatus, Tables, Unknown};
use warren_store::{Durability, Store};
use warren_types::*;

/// Pods on other nodes, in so many namespaces, with so many values of the label `app`.
const REMOTE: u32 = 5_000;
const NAMESPACES: u32 = 50;
const APPS: u32 = 40;
/// Pods of this node.
const LOCAL: u32 = 100;
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Cluster {
    runtime: Runtime,
    store: Store,
    status: PolicyStatus,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn labels(pairs: &[(&str, String)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
}

fn selector(key: &str, value: String) -> Selector {
    Selector::new([Requirement::In(key.into(), [value].into())])
}

fn namespace(number: u32) -> Result<Namespace> {
    Ok(Namespace::new(format!("ns-{}", number % NAMESPACES))?)
}

fn remote(number: u32, turn: u32) -> Result<Pod> {
    Ok(Pod {
        key: PodKey { namespace: namespace(number)?, name: PodName::new(format!("remote-{number}"))? },
        uid: format!("remote-{number}"),
        node: Some(NodeName::new("node-2")?),
        ips: vec![Ipv4Addr::from(0x0a2b_0000 + number + turn * REMOTE).into()],
        host_network: false,
        labels: labels(&[("app", format!("a{}", number / NAMESPACES % APPS)), ("pod", number.to_string())]),
        finished: false,
        named_ports: Vec::new(),
    })
}

/// A pod of this node; the first two have the addresses of those that packets go between.
fn local(number: u32, app: u32) -> Result<(Pod, Attachment)> {
    let address: IpAddr = Ipv4Addr::from(0x0a2a_0000 + 250 + number).into();
    let key = PodKey { namespace: namespace(number)?, name: PodName::new(format!("local-{number}"))? };
    let id = format!("local-{number}");
    let attachment = Attachment {
        key: AttachmentKey { container_id: ContainerId::new(id.clone())?, if_name: IfName::new("eth0")? },
        pod: Some(key.clone()),
        pod_uid: Some(id.clone()),
        labels: BTreeMap::new(),
        addresses: vec![address],
        netns: "/none".into(),
        host_link: IfName::new(format!("wrnp{number}"))?,
        phase: AttachmentPhase::Live,
        host_ports: Vec::new(),
        boot_id: BootId::new("00000000-0000-0000-0000-000000000000")?,
        named_ports: Vec::new(),
    };
    let pod = Pod {
        key,
        uid: id,
        node: Some(NodeName::new("node-1")?),
        ips: vec![address],
        host_network: false,
        labels: labels(&[("app", format!("a{}", app % APPS))]),
        finished: false,
        named_ports: Vec::new(),
    };
    Ok((pod, attachment))
}

/// One that lets pods of another app, in any namespace, reach those of an app, on a few ports.
fn policy(number: u32, turn: u32) -> Result<NetworkPolicy> {
    let peer = |app: u32| PolicyPeer::Pods {
        namespaces: Some(Selector::default()),
        pods: selector("app", format!("a{}", app % APPS)),
    };
    let port = |first, last| PolicyPort { protocol: Protocol::Tcp, ports: PortMatch::Range(first, last) };
    Ok(NetworkPolicy {
        key: PolicyKey { namespace: namespace(number)?, name: PolicyName::new(format!("policy-{number}"))? },
        uid: String::new(),
        pods: selector("app", format!("a{}", number / NAMESPACES % APPS)),
        ingress: Some(vec![
            PolicyRule {
                peers: vec![peer(number), peer(number + 1 + turn)],
                ports: vec![port(8080, 8081), port(9000, 9100)],
            },
            PolicyRule {
                peers: vec![PolicyPeer::Block {
                    cidr: "192.0.2.0/24".parse()?,
                    except: vec!["192.0.2.64/26".parse()?],
                }],
                ports: Vec::new(),
            },
        ]),
        egress: None,
    })
}

impl Cluster {
    /// A store with so many policies.
    pub(crate) fn new(policies: u32) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?.store;
        let mut pods = (0..REMOTE).map(|n| remote(n, 0)).collect::<Result<Vec<_>>>()?;
        let (own, attachments): (Vec<_>, Vec<_>) =
            (0..LOCAL).map(|n| local(n, n)).collect::<Result<Vec<_>>>()?.into_iter().unzip();
        pods.extend(own);
        let state = |n| Ok(NamespaceState { name: namespace(n)?, labels: Labels::new(), terminating: false });
        let namespaces = (0..NAMESPACES).map(state).collect::<Result<Vec<_>>>()?;
        let rules = (0..policies).map(|n| policy(n, 0)).collect::<Result<Vec<_>>>()?;
        runtime.block_on(async {
            store.table().replace(pods, Durability::Cached).await?;
            store.table().replace(attachments, Durability::Cached).await?;
            store.table().replace(namespaces, Durability::Cached).await?;
            store.table().replace(rules, Durability::Cached).await?;
            anyhow::Ok(())
        })?;
        let (status, stop) = (PolicyStatus::default(), CancellationToken::new());
        Ok(Self { runtime, store, status, stop, _dir: dir })
    }

    /// Starts the runner, in the namespace of the calling thread.
    pub(crate) fn start(&self) -> Result<()> {
        let (store, status, stop) = (self.store.clone(), self.status.clone(), self.stop.clone());
        let config = PolicyConfig {
            node_name: NodeName::new("node-1")?,
            unknown: Unknown::Closed,
            labels_from_attachments: false,
        };
        let _inside = self.runtime.enter();
        let deps = Deps {
            tables: Tables::of(&store),
            netlink: Netlink::current()?,
            nft: Nft::current()?,
            conntrack: Conntrack::current()?,
            gate: Gate::default(),
            status,
        };
        self.runtime.spawn(async move {
            if let Err(error) = warren_policy::run(config, deps, HealthCell::default(), stop).await {
                eprintln!("network policy ended: {error}");
            }
        });
        self.wait(|figures| figures.comparisons > 0)
    }

    pub(crate) fn figures(&self) -> Figures {
        self.status.figures()
    }

    /// Elements that the kernel has.
    pub(crate) fn elements(&self) -> usize {
        self.status.look(|engine| engine.items().len()).unwrap_or_default()
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
        self.wait(|figures| figures.changes > before)
            .context("a change that changes nothing in the kernel")?;
        Ok(begun.elapsed())
    }

    /// A pod elsewhere gets another address.
    pub(crate) fn move_pod(&self, number: u32, turn: u32) -> Result<()> {
        self.runtime.block_on(self.store.table().put(remote(number, turn)?, Durability::Cached))?;
        Ok(())
    }

    /// A pod of this node gets other labels.
    pub(crate) fn label(&self, number: u32, app: u32) -> Result<()> {
        self.runtime.block_on(self.store.table().put(local(number, app)?.0, Durability::Cached))?;
        Ok(())
    }

    /// A policy lets others in.
    pub(crate) fn change_policy(&self, number: u32, turn: u32) -> Result<()> {
        self.runtime.block_on(self.store.table().put(policy(number, turn)?, Durability::Cached))?;
        Ok(())
    }
}
