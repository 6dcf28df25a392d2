//! What the admin socket tells of Services: the proxy's views, with what only the agent as a whole knows.

mod render;
#[cfg(test)]
mod tests;

pub(crate) use render::lines;
pub use render::{render_explanation, render_list, render_show};

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use warren_dns::DnsStatus;
use warren_dns::place::PORT;
use warren_loadbalancer::{AddressState, LoadBalancerStatus, Mode, StatusSnapshot};
use warren_netlink::nft::Nft;
use warren_proxy::ProxyStatus;
use warren_proxy::explain::{self, Explanation, PodSource, Question, Source};
use warren_proxy::names::{V4, V6};
use warren_proxy::view::{self, FaultView, Hits, HolderView, NoLocal, ServiceSummary, ServiceView};
use warren_store::Store;
use warren_store::tables::{pod_key, service_key};
use warren_types::{LoadBalancerAddresses, Node, NodeName, Pod, PodKey, Service, ServiceKey};

/// The part of `warren status` that is about Services.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicesReport {
    /// The proxy; none where another proxy takes care of Services.
    pub proxy: Option<ProxyView>,
    /// The load balancer; none where somebody else gives addresses.
    pub load_balancer: Option<BalancerView>,
}

/// What the proxy did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyView {
    /// Services that are translated.
    pub services: u64,
    /// Changes brought to the kernel.
    pub changes: u64,
    /// Microseconds that the last one took, from its row to the kernel's word.
    pub last_change_micros: u64,
    /// How often the kernel was compared as a whole.
    pub comparisons: u64,
    /// How often something had to be mended then.
    pub repairs: u64,
    /// UDP flows ended because they led nowhere.
    pub flows_ended: u64,
    /// Ports of Services with `internalTrafficPolicy: Local` and endpoints on other nodes only.
    pub no_local_internal: u64,
    /// As `no_local_internal`, by `externalTrafficPolicy`.
    pub no_local_external: u64,
}

/// What the load balancer does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BalancerView {
    /// `nodes` or `pool`.
    pub mode: String,
    /// Whether this node writes the addresses of Services.
    pub writer: bool,
    /// Addresses of the pool that this node answers for.
    pub held: Vec<String>,
    /// Addresses of the pool that another node answers for.
    pub backed_up: Vec<String>,
    /// Addresses of the pool that it listens for before it takes them.
    pub listening: Vec<String>,
    /// Addresses that are not announced, and why.
    pub refused: Vec<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoAnswer {
    /// Nothing to look at.
    #[error(
        "the proxy of this node has not loaded Services yet, or is off (--proxy=off); `warren status` says which"
    )]
    NotLoaded,
    /// No such Service.
    #[error("there is no Service {0}")]
    NoService(String),
    /// No such pod.
    #[error("there is no pod {0}")]
    NoPod(String),
    /// Not to be understood.
    #[error("{0:?} is no sender: a pod as NAMESPACE/NAME, `node`, or `outside:ADDRESS` is needed")]
    NoSender(String),
    /// As the proxy says.
    #[error(transparent)]
    Question(#[from] explain::ExplainError),
}

/// An answer, with what is to be known beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told<T> {
    /// Why the kernel may not do yet what the answer says; empty when it does.
    pub behind: String,
    /// The answer.
    pub answer: T,
}

/// What is asked of `/explain`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExplainQuery {
    /// `NAMESPACE/POD`, `node` or `outside:ADDRESS`.
    pub from: String,
    /// `NAMESPACE/NAME`.
    pub service: String,
    /// Number or name.
    pub port: String,
    /// One of the Service's addresses.
    pub at: Option<IpAddr>,
}

/// Everything that is needed to tell of Services.
#[derive(Clone)]
pub struct Desk {
    /// The proxy; none when it is off.
    pub proxy: Option<ProxyStatus>,
    /// Cluster DNS, whose addresses are served by no endpoint; none when it is off.
    pub dns: Option<DnsStatus>,
    /// The load balancer.
    pub load_balancer: LoadBalancerStatus,
    /// Where its addresses come from.
    pub mode: Mode,
    /// The kernel's table, for counts.
    pub nft: Nft,
    /// Pods and nodes.
    pub store: Store,
    /// This node.
    pub node: NodeName,
}

impl Desk {
    /// For `warren status` and the metrics.
    #[must_use]
    pub fn report(&self) -> ServicesReport {
        let proxy = self.proxy.as_ref().map(|proxy| {
            let figures = proxy.figures();
            let NoLocal { internal, external } = proxy.look(view::no_local).unwrap_or_default();
            ProxyView {
                services: figures.services as u64,
                changes: figures.changes,
                last_change_micros: u64::try_from(figures.last_change.as_micros()).unwrap_or(u64::MAX),
                comparisons: figures.comparisons,
                repairs: figures.repairs,
                flows_ended: figures.flows_ended,
                no_local_internal: internal,
                no_local_external: external,
            }
        });
        let mode = match &self.mode {
            Mode::Off => return ServicesReport { proxy, load_balancer: None },
            Mode::Nodes => "nodes",
            Mode::Pool(_) => "pool",
        };
        ServicesReport { proxy, load_balancer: Some(balancer(mode, &self.load_balancer.get())) }
    }

    /// All Services.
    ///
    /// # Errors
    /// When the proxy has not loaded them.
    pub async fn list(&self) -> Result<Vec<ServiceSummary>, NoAnswer> {
        let hits = self.hits().await;
        let proxy = self.proxy.as_ref().ok_or(NoAnswer::NotLoaded)?;
        proxy.look(|engine| view::list(engine, hits.as_ref())).ok_or(NoAnswer::NotLoaded)
    }

    /// One Service.
    ///
    /// # Errors
    /// When there is none of this name, or the proxy has not loaded them.
    pub async fn show(&self, namespace: &str, name: &str) -> Result<ServiceView, NoAnswer> {
        let text = format!("{namespace}/{name}");
        let key = ServiceKey::parse(&text).ok_or_else(|| NoAnswer::NoService(text.clone()))?;
        let hits = self.hits().await;
        let proxy = self.proxy.as_ref().ok_or(NoAnswer::NotLoaded)?;
        let found = proxy.look(|engine| {
            let addresses = engine.service(&key).map(|(row, ..)| row.load_balancer_ips.clone());
            Some((view::show(engine, &key, hits.as_ref())?, addresses?))
        });
        let (mut view, addresses) = found.ok_or(NoAnswer::NotLoaded)?.ok_or(NoAnswer::NoService(text))?;
        if let Some(addresses) = self.served_by_dns(&key) {
            view.note = format!("cluster DNS: this node's agent answers at {addresses} itself, port 53");
            view.fronts.retain(|front| front.port != PORT);
        }
        view.load_balancer = self.holders(&addresses);
        // Only the node that writes addresses knows why some are missing.
        let row = self.store.table::<LoadBalancerAddresses>().get(&service_key(&key));
        let faults = row.iter().flat_map(|row| &row.faults);
        view.faults
            .extend(faults.map(|f| FaultView { reason: f.reason.clone(), message: f.message.clone() }));
        Ok(view)
    }

    /// What would happen to a packet.
    ///
    /// # Errors
    /// When the question is about something that is not there.
    pub fn explain(&self, query: &ExplainQuery) -> Result<Explanation, NoAnswer> {
        let no_service = || NoAnswer::NoService(query.service.clone());
        let service = ServiceKey::parse(&query.service).ok_or_else(no_service)?;
        let source = self.source(&query.from)?;
        let nodes = self.store.table::<Node>().snapshot().rows;
        let others = nodes.values().filter(|node| node.name != self.node);
        let others = others.flat_map(|node| node.internal_ips.iter().copied()).collect();
        let question = Question { source, service, port: query.port.clone(), at: query.at, others };
        let proxy = self.proxy.as_ref().ok_or(NoAnswer::NotLoaded)?;
        let mut answer =
            proxy.look(|engine| explain::explain(engine, &question)).ok_or(NoAnswer::NotLoaded)??;
        if let Some(addresses) = self.served_by_dns(&question.service) {
            let of_dns = |path: &&mut explain::Path| path.destination.ends_with(&format!(":{PORT}"));
            for path in answer.paths.iter_mut().filter(of_dns) {
                let text = format!("this node's agent answers at {addresses} itself, untranslated");
                path.steps = vec![explain::Step { about: "cluster DNS".into(), text }];
                path.outcome = explain::Outcome::Delivered;
                path.end = "it comes to this node's own server".into();
                path.advice = Some("`warren dns query NAME --from POD` says what it answers".into());
            }
        }
        Ok(answer)
    }

    /// The addresses of cluster DNS, when the Service stands for them.
    fn served_by_dns(&self, service: &ServiceKey) -> Option<String> {
        let served = self.dns.as_ref()?.get()?.addresses;
        let row = self.store.table::<Service>().get(&service_key(service))?;
        let addresses: Vec<String> =
            row.cluster_ips.iter().filter(|ip| served.contains(ip)).map(ToString::to_string).collect();
        (!addresses.is_empty()).then(|| addresses.join(", "))
    }

    fn source(&self, text: &str) -> Result<Source, NoAnswer> {
        let unknown = || NoAnswer::NoSender(text.to_owned());
        if text == "node" {
            return Ok(Source::Node);
        }
        if let Some(address) = text.strip_prefix("outside:") {
            return Ok(Source::Outside(address.parse().map_err(|_| unknown())?));
        }
        let key = PodKey::parse(text).ok_or_else(unknown)?;
        let row = self.store.table::<Pod>().get(&pod_key(&key));
        let row = row.ok_or_else(|| NoAnswer::NoPod(text.to_owned()))?;
        Ok(Source::Pod(PodSource {
            name: text.to_owned(),
            node: row.node.clone(),
            addresses: if row.finished { Vec::new() } else { row.ips.clone() },
            host_network: row.host_network,
        }))
    }

    /// What the kernel counted; none when it cannot be asked.
    async fn hits(&self) -> Option<Hits> {
        let mut all = Hits::new();
        for set in [V4.fronts, V4.inside_fronts, V6.fronts, V6.inside_fronts] {
            match self.nft.element_counts(set).await {
                Ok(counts) => counts.into_iter().for_each(|(key, n)| *all.entry(key).or_default() += n),
                Err(error) => {
                    tracing::debug!(%error, "connections to Services cannot be counted");
                    return None;
                }
            }
        }
        Some(all)
    }

    fn holders(&self, addresses: &[IpAddr]) -> Vec<HolderView> {
        let nodes = self.store.table::<Node>().snapshot().rows;
        let status = self.load_balancer.get();
        let of = |address: &IpAddr| {
            let node = nodes.values().find(|node| node.internal_ips.contains(address));
            let holder = match node {
                Some(node) if node.name == self.node => format!("{} (this node)", node.name),
                Some(node) => node.name.to_string(),
                None => holder(*address, &status),
            };
            HolderView { address: address.to_string(), holder }
        };
        addresses.iter().map(of).collect()
    }
}

/// Who has an address that is no node's.
fn holder(address: IpAddr, status: &StatusSnapshot) -> String {
    if let Some(why) = status.refused.get(&address) {
        return format!("this node does not announce it: {why}");
    }
    match status.addresses.get(&address).map(|a| (a.state, a.since.elapsed().as_secs())) {
        Some((AddressState::Holder, seconds)) => {
            format!("this node, for {}", crate::status::age(seconds))
        }
        Some((AddressState::Backup { holder }, _)) => format!("the node with hardware address {holder}"),
        Some((AddressState::Listening, _)) => "not known yet: this node listens before it takes it".into(),
        None => "not this node, which could not serve it, or announces none".into(),
    }
}

fn balancer(mode: &str, status: &StatusSnapshot) -> BalancerView {
    let mut view = BalancerView { mode: mode.into(), writer: status.writer, ..BalancerView::default() };
    for (address, status) in &status.addresses {
        match status.state {
            AddressState::Holder => view.held.push(address.to_string()),
            AddressState::Backup { .. } => view.backed_up.push(address.to_string()),
            AddressState::Listening => view.listening.push(address.to_string()),
        }
    }
    view.refused = status.refused.iter().map(|(address, why)| format!("{address}: {why}")).collect();
    view
}
