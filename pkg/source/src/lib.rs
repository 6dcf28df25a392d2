//! A Kubernetes API into the store, and what this node has to say back to it.
//!
//! Job: follow Nodes, Pods, Services, EndpointSlices, Namespaces, NetworkPolicies, Ingresses, IngressClasses, the Secrets
//! that ingress wants, the cluster's ConfigMap and, while the API serves them, the kinds of the Gateway API for ever, through
//! any loss of the API; write this node's Node, Lease and (where the agent registers its Node) its Pods; write the addresses
//! of load balancers and Ingresses, the status of Gateways and routes, and Events of what is wrong with Services and Ingresses;
//! where it does not register Nodes, give podCIDRs to those that nobody gave any; where it is told to, issue certificates to
//! Ingresses that ask for them.
//! Inputs: an API, reached by a kubeconfig or a service account; tables `local_node`, `attachments`, `wanted_secrets`,
//! `load_balancer_addresses`, `ingress_addresses`, `gateway_statuses`, `service_faults` and `ingress_faults`.
//! Outputs: tables `nodes`, `pods`, `services`, `endpoint_slices`, `namespaces`, `network_policies`, `ingresses`,
//! `ingress_classes`, `gateway_classes`, `gateways`, `http_routes`, `grpc_routes`, `reference_grants`, `secrets`, `cluster`; objects in the API; [`SourceStatus`].
//! Owns: annotations under `warren.dev/` of its own Node; with registration the whole Node, its Lease, and the Pods of
//! this node that carry `warren.dev/container-id`; `status.loadBalancer` of Services that Warren gives addresses to and of
//! Ingresses that it serves; the status of GatewayClasses and Gateways of its controller, and what their routes say of them;
//! Events whose source is `warren` on this node; the Leases `warren-pod-cidrs` and `warren-certificates` in `kube-system`; where
//! it issues certificates, the Secrets that carry the mark of having been issued, and the authority's Secret and ConfigMap.
//! Ordering: a list replaces a table at once, when it is complete; nothing is deleted from the API before the first
//! complete list and the first load of `attachments`. It does not know which kind of API it talks to.
//! An API that does not serve NetworkPolicies, Ingresses or IngressClasses has none; one that stopped to serve them leaves
//! those that are known. Of the Gateway API, whose kinds come and go, nothing is left. No Secret is read but those that
//! `wanted_secrets` names, and the authority's.
//! Failure modes: API away: rows stay, tries go on every two seconds at most; API refuses a write: named in the status,
//! retried with backoff; malformed object: the field is refused and named.

mod addresses;
mod allot;
pub mod backoff;
mod certificates;
pub mod client;
mod connectivity;
pub mod convert;
mod election;
mod events;
mod follow;
mod follows;
mod gateways;
mod ingresses;
pub mod join;
mod lease;
mod node;
mod observed;
pub mod pods;
mod secrets;
mod services;
pub mod status;
mod work;

pub use client::{ApiAccess, ApiClient};
pub use status::{Refusal, SourceReport, SourceStatus};

use follows::Follows;
use kube::api::ApiResource;
use kube::core::DynamicObject;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use warren_store::{Store, StoreError};
use warren_types::{HealthCell, HealthState, NodeName};

/// What the source needs to know.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// Where the API is.
    pub access: ApiAccess,
    /// This node.
    pub node_name: NodeName,
    /// Whether this agent makes and keeps its Node, Lease and Pods (there is no kubelet).
    pub register_node: bool,
    /// Whether table `cluster` is the agent's own, from flags: then the ConfigMap is not read.
    pub cluster_from_flags: bool,
    /// Whether agents issue certificates to Ingresses that ask for them: the API is somebody else's, and lets them.
    pub issue_certificates: bool,
}

/// Why the source cannot go on. A missing API is no reason.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The kubeconfig or service account cannot be used.
    #[error("{what}: {reason}")]
    Access {
        /// Which.
        what: String,
        /// Why.
        reason: String,
    },
    /// The store refused a write.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A task of the source ended by panic.
    #[error("source: {0}")]
    Task(String),
}

type Task = Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send>>;

/// Follows the API and writes back until `stop`.
///
/// # Errors
/// [`SourceError`]; never because the API is away.
pub async fn run(
    config: SourceConfig,
    store: Store,
    status: SourceStatus,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), SourceError> {
    let api = config.access.client(&status).await?;
    tracing::info!(api = %api.address, node = %config.node_name, register_node = config.register_node, "source started");
    let stop = stop.child_token();
    let _ends_with_us = stop.clone().drop_guard();
    let mut tasks: JoinSet<Result<(), SourceError>> = JoinSet::new();
    for task in tasks_of(&config, &store, &api, &status, &stop) {
        tasks.spawn(task);
    }
    let secrets = secrets::Secrets::new(&config.access, &store, status.clone()).await?;
    tasks.spawn(secrets.run(stop.clone()));
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(Ok(Ok(()))) if stop.is_cancelled() => {}
                None => return Ok(()),
                Some(Ok(Ok(()))) => return Err(SourceError::Task("a task ended early".into())),
                Some(Ok(Err(e))) => return Err(e),
                Some(Err(e)) => return Err(SourceError::Task(e.to_string())),
            },
            _ = tick.tick() => say(&status.report(), &health),
        }
    }
}

fn tasks_of(
    config: &SourceConfig,
    store: &Store,
    api: &ApiClient,
    status: &SourceStatus,
    stop: &CancellationToken,
) -> Vec<Task> {
    let client = &api.client;
    let (own_node, own_pods) = (
        Arc::new(observed::OwnNode::new(&config.node_name)),
        Arc::new(pods::OwnPods::new(&config.node_name)),
    );
    let listed = || tokio::sync::watch::Sender::new(false);
    let (services, ingresses) = (listed(), listed());
    let mut tasks: Vec<Task> = told::<services::Balancers, _>(
        config,
        (store, client, status, stop),
        &services,
        events::OfServices::new(store, status.clone()),
    );
    tasks.extend(told::<ingresses::Ingresses, _>(
        config,
        (store, client, status, stop),
        &ingresses,
        events::OfIngresses::new(store, status.clone()),
    ));
    let follows = Follows { client, store, status, stop };
    tasks.extend(follows.tasks(
        observed::NodeObserver(own_node.clone()),
        pods::PodObserver::new(own_pods.clone()),
        addresses::Listed(services),
        addresses::Listed(ingresses),
    ));
    tasks.push(Box::pin(gateways::Gateways::new(client, store, status).run(stop.clone())));
    if !config.cluster_from_flags {
        tasks.push(follows.cluster());
    }
    tasks.push(follows.connectivity());
    let answers = connectivity::Publisher::new(config, client.clone(), store, status.clone());
    tasks.push(Box::pin(answers.run(stop.clone())));
    let publisher = node::Publisher::new(config, client.clone(), store, own_node, status.clone());
    tasks.push(Box::pin(publisher.run(stop.clone())));
    if config.register_node {
        tasks.push(Box::pin(lease::keep(
            client.clone(),
            config.node_name.clone(),
            status.clone(),
            stop.clone(),
        )));
        let pods = pods::Publisher::new(config, client.clone(), store.table(), own_pods, status.clone());
        tasks.push(Box::pin(pods.run(stop.clone())));
    }
    if config.issue_certificates {
        let issuer =
            certificates::Issuer::new(config.node_name.clone(), client.clone(), store, status.clone());
        tasks.push(Box::pin(issuer.run(stop.clone())));
    }
    if !config.register_node {
        let allotter = allot::Allotter::new(config.node_name.clone(), client.clone(), store, status.clone());
        tasks.push(Box::pin(allotter.run(stop.clone())));
    }
    tasks
}

/// What is said back of one kind of object: its addresses, and Events of its faults.
fn told<S: addresses::Served, F: events::Faults>(
    config: &SourceConfig,
    (store, client, status, stop): (&Store, &kube::Client, &SourceStatus, &CancellationToken),
    listed: &tokio::sync::watch::Sender<bool>,
    faults: F,
) -> Vec<Task> {
    let addresses = addresses::Publisher::<S>::new(client.clone(), store, listed.subscribe(), status.clone());
    let node = config.node_name.clone();
    let events = events::Publisher::new(client.clone(), node, store, faults, listed.subscribe());
    vec![Box::pin(addresses.run(stop.clone())), Box::pin(events.run(stop.clone()))]
}

/// Says how the source is, from what it knows of the API.
fn say(report: &SourceReport, health: &HealthCell) {
    let waiting: Vec<&str> =
        report.synced.iter().filter(|(_, done)| !**done).map(|(k, _)| k.as_str()).collect();
    if !report.connected && !report.error.is_empty() {
        health.degraded(format!(
            "the API at {} does not answer; working from the store ({})",
            report.api, report.error
        ));
    } else if !report.connected {
        health.set(HealthState::Starting, format!("connecting to {}", report.api));
    } else if let Some((object, error)) = report.write_errors.iter().next() {
        health.degraded(format!("{object}: {error}"));
    } else if !waiting.is_empty() {
        health.set(HealthState::Starting, format!("listing {}", waiting.join(", ")));
    } else if let Some(r) = report.refused.first() {
        health.degraded(format!("{} {}: {}: {}", r.kind, r.object, r.field, r.reason));
    } else {
        health.ready();
    }
}

pub(crate) fn resource<K: kube::Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<K>(&())
}

/// Which API error means what, for the write side.
pub(crate) fn status_code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(s) => Some(s.code),
        _ => None,
    }
}

pub(crate) type Object = DynamicObject;

#[cfg(test)]
mod tests;
