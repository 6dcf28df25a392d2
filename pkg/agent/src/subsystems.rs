//! Which subsystems an agent has, what each is given, and what it waits for.

mod cni;
mod connectivity;
mod dns;
mod ingress;
mod ipam;
pub(crate) mod join;
mod loadbalancer;
mod node;
mod overlay;
mod policy;
mod proxy;
mod source;

use crate::board::Board;
use crate::config::AgentConfig;
use crate::dns::DnsDesk;
use crate::ingress::IngressDesk;
use crate::policy::PolicyDesk;
use crate::services::Desk;
use crate::supervisor::{Factory, SubsystemError, Supervisor};
use crate::sysctls::SysctlRecord;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::{OnceCell, watch};
use tokio_util::sync::CancellationToken;
use warren_dns::DnsStatus;
use warren_ingress::IngressStatus;
use warren_ipam::Pool;
use warren_loadbalancer::{HeldPorts, LoadBalancerStatus, Mode};
use warren_netlink::nft::Nft;
use warren_netlink::{Netlink, NetlinkError};
use warren_overlay::OverlayStatus;
use warren_policy::{Gate, PolicyStatus};
use warren_proxy::ProxyStatus;
use warren_source::{ApiAccess, SourceStatus};
use warren_store::Store;
use warren_store::tables::NodeKeys;
use warren_types::{BootId, HealthCell};

/// What the subsystems share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) config: AgentConfig,
    pub(crate) store: Store,
    pub(crate) netlink: Netlink,
    pub(crate) keys: NodeKeys,
    pub(crate) boot_id: BootId,
    pub(crate) status: SourceStatus,
    pub(crate) board: Board,
    /// How the API is reached; none before the node has joined.
    pub(crate) access: watch::Sender<Option<ApiAccess>>,
    /// What the overlay says of itself.
    pub(crate) overlay: OverlayStatus,
    /// What the proxy shows of itself.
    pub(crate) proxy: ProxyStatus,
    /// What network policy shows of itself.
    pub(crate) policy: PolicyStatus,
    /// Where pods wait until the kernel isolates them.
    pub(crate) gate: Gate,
    /// What ingress shows of itself.
    pub(crate) ingress: IngressStatus,
    /// The ports on which this node serves ingress.
    pub(crate) ingress_ports: watch::Sender<Vec<u16>>,
    /// What cluster DNS shows of itself.
    pub(crate) dns: DnsStatus,
    /// What the load balancer says of itself.
    pub(crate) load_balancer: LoadBalancerStatus,
    /// Ports of Services that programs of this host hold.
    pub(crate) held_ports: watch::Sender<HeldPorts>,
    /// The pool, once it is open.
    pub(crate) pool: Arc<OnceCell<Pool>>,
    /// Which sysctls were changed.
    pub(crate) sysctls: SysctlRecord,
}

impl Shared {
    /// Who tells of Services.
    pub(crate) fn desk(&self) -> Result<Desk, NetlinkError> {
        Ok(Desk {
            proxy: self.config.services.proxy.then(|| self.proxy.clone()),
            dns: self.config.dns.is_some().then(|| self.dns.clone()),
            load_balancer: self.load_balancer.clone(),
            mode: self.config.services.load_balancer.clone(),
            nft: Nft::current()?,
            store: self.store.clone(),
            node: self.config.node_name.clone(),
        })
    }

    /// Who tells of network policies.
    pub(crate) fn policy_desk(&self) -> Result<PolicyDesk, NetlinkError> {
        Ok(PolicyDesk {
            status: self.config.policy.is_some().then(|| self.policy.clone()),
            dns: self.config.dns.is_some().then(|| self.dns.clone()),
            nft: Nft::current()?,
            store: self.store.clone(),
            node: self.config.node_name.clone(),
        })
    }

    /// Who tells of ingress.
    pub(crate) fn ingress_desk(&self) -> IngressDesk {
        IngressDesk { status: self.config.ingress.is_some().then(|| self.ingress.clone()) }
    }

    /// Who tells of cluster DNS.
    pub(crate) fn dns_desk(&self) -> DnsDesk {
        DnsDesk {
            status: self.config.dns.is_some().then(|| self.dns.clone()),
            store: self.store.clone(),
            source: self.status.clone(),
        }
    }
}

/// Starts everything, in order.
pub(crate) fn start_all(supervisor: &mut Supervisor, shared: &Shared) {
    if matches!(shared.config.api, crate::config::ApiChoice::Join { .. }) {
        start(supervisor, shared, "join", join::run);
    }
    start(supervisor, shared, "dns", dns::run);
    start(supervisor, shared, "source", source::run);
    start(supervisor, shared, "node", node::run);
    start(supervisor, shared, "overlay", overlay::run);
    start(supervisor, shared, "proxy", proxy::run);
    start(supervisor, shared, "policy", policy::run);
    if shared.config.services.load_balancer != Mode::Off {
        start(supervisor, shared, "loadbalancer", loadbalancer::run);
    }
    start(supervisor, shared, "ingress", ingress::run);
    start(supervisor, shared, "ipam", ipam::run);
    start(supervisor, shared, "cni", cni::run);
    start(supervisor, shared, "connectivity", connectivity::run);
}

fn start<F, Fut, E>(supervisor: &mut Supervisor, shared: &Shared, name: &'static str, run: F)
where
    F: Fn(Shared, HealthCell, CancellationToken) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<SubsystemError>,
{
    let given = shared.clone();
    let factory: Factory = Arc::new(move |health, stop| {
        let life = run(given.clone(), health, stop);
        Box::pin(async move { life.await.map_err(Into::into) })
    });
    shared.board.watch(supervisor.start(name, factory));
}
