//! What people see of Services: fronts, endpoints, and why each endpoint is chosen or not.
//!
//! Everything is read from the plans that the kernel's rules are made of, so that it cannot tell another story than they do.

use crate::engine::Engine;
use crate::names::front_bytes;
use crate::plan::{self, Candidate, Front, FrontKey, Origin, Route};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use warren_types::{EndpointSlice, Family, Service, ServiceKey, ServiceKind, TrafficPolicy};

#[cfg(test)]
pub(crate) mod tests;

/// New connections by front, as the kernel counts them: by the bytes of the key.
pub type Hits = BTreeMap<Vec<u8>, u64>;

/// One line of `warren service list`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSummary {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `spec.type`; `Headless` for one without addresses.
    pub kind: String,
    /// Cluster addresses.
    pub cluster_ips: Vec<String>,
    /// Addresses of load balancers, and external ones.
    pub external: Vec<String>,
    /// Ports, as `80/TCP` or `80:30080/TCP`.
    pub ports: Vec<String>,
    /// Endpoints that are ready.
    pub ready: usize,
    /// All endpoints.
    pub endpoints: usize,
    /// New connections since it has its fronts; none when nothing is counted.
    pub hits: Option<u64>,
    /// How many things are wrong with it.
    pub faults: usize,
}

/// A Service, as `warren service show` has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceView {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `spec.type`; `Headless` for one without addresses.
    pub kind: String,
    /// Why nothing is translated for it; empty when something is.
    pub note: String,
    /// How endpoints are chosen.
    pub mode: ModeView,
    /// Where packets arrive.
    pub fronts: Vec<FrontView>,
    /// Where they can go.
    pub endpoints: Vec<EndpointView>,
    /// Who has its load-balancer addresses.
    pub load_balancer: Vec<HolderView>,
    /// What is wrong with it and what to do.
    pub faults: Vec<FaultView>,
}

/// How endpoints are chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ModeView {
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: String,
    /// `spec.externalTrafficPolicy`, where it means something.
    pub external_policy: Option<String>,
    /// Seconds for which a client keeps its endpoint.
    pub affinity_seconds: Option<u32>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Vec<String>,
    /// `spec.trafficDistribution`.
    pub traffic_distribution: Option<String>,
    /// `spec.healthCheckNodePort`, where it is answered.
    pub health_check_node_port: Option<u16>,
}

/// What a front does with new connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Does {
    /// It sends them to endpoints.
    Forwards,
    /// It refuses them at once: nothing serves anywhere.
    #[default]
    Refuses,
    /// It drops them: nothing on this node serves, but another node may.
    Drops,
    /// Nothing: an older Service has the address and port.
    Taken,
}

/// An address and port of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FrontView {
    /// The address.
    pub address: String,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: String,
    /// Name of the Service's port; may be empty.
    pub port_name: String,
    /// `ClusterIP`, `NodePort`, `ExternalIP` or `LoadBalancer`.
    pub origin: String,
    /// What it does.
    pub does: Does,
    /// Among how many endpoints it draws.
    pub endpoints: usize,
    /// As `endpoints`, for packets from pods and from the node, where that differs.
    pub endpoints_inside: Option<usize>,
    /// New connections since the Service has it; none when the kernel could not be asked.
    pub hits: Option<u64>,
}

/// What an endpoint says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// It takes connections.
    Ready,
    /// It ends, and still takes connections.
    Serving,
    /// It ends.
    Terminating,
    /// It takes none.
    #[default]
    NotReady,
}

/// An endpoint of one port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointView {
    /// Its address.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// The Service's port that it stands for, as `80/TCP`.
    pub service_port: String,
    /// Name of the Service's port; may be empty.
    pub port_name: String,
    /// The pod, when it is one.
    pub pod: Option<String>,
    /// Its node, as far as it is known.
    pub node: Option<String>,
    /// Its zone.
    pub zone: Option<String>,
    /// Whether it is on this node.
    pub local: bool,
    /// What it says of itself.
    pub state: State,
    /// Whether it is drawn for packets to the cluster address.
    pub chosen: bool,
    /// Whether it is drawn for packets from outside; none where there are no such fronts.
    pub chosen_outside: Option<bool>,
    /// Why it is not drawn; empty when it always is.
    pub why: String,
}

/// Who has a load-balancer address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HolderView {
    /// The address.
    pub address: String,
    /// Who, for people.
    pub holder: String,
}

/// Something that is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FaultView {
    /// In one word.
    pub reason: String,
    /// What it is and what to do.
    pub message: String,
}

/// Ports of Services that are `Local` and have endpoints elsewhere only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NoLocal {
    /// By their internal policy.
    pub internal: u64,
    /// By their external policy.
    pub external: u64,
}

/// All Services, in order of their names.
#[must_use]
pub fn list(engine: &Engine, hits: Option<&Hits>) -> Vec<ServiceSummary> {
    let summary = |(service, plan, refused): (&std::sync::Arc<Service>, &plan::ServicePlan, &BTreeSet<_>)| {
        // A pod with addresses of both families is one endpoint.
        let mut all: BTreeMap<String, bool> = BTreeMap::new();
        for endpoint in slices(engine, service).into_iter().flat_map(|slice| &slice.endpoints) {
            let pod = endpoint.pod.as_ref().map(ToString::to_string);
            *all.entry(pod.unwrap_or_else(|| endpoint.address.to_string())).or_default() |= endpoint.ready;
        }
        let external: BTreeSet<IpAddr> = plan
            .fronts
            .iter()
            .filter(|front| matches!(front.origin, Origin::ExternalIp | Origin::LoadBalancer))
            .map(|front| front.key.address)
            .collect();
        let own = plan.fronts.iter().filter(|front| !refused.contains(&front.key));
        ServiceSummary {
            namespace: service.key.namespace.to_string(),
            name: service.key.name.to_string(),
            kind: kind(service).into(),
            cluster_ips: texts(&service.cluster_ips),
            external: external.iter().map(ToString::to_string).collect(),
            ports: service
                .ports
                .iter()
                .map(|port| match port.node_port {
                    Some(node_port) => format!("{}:{node_port}/{}", port.port, port.protocol),
                    None => format!("{}/{}", port.port, port.protocol),
                })
                .collect(),
            ready: all.values().filter(|ready| **ready).count(),
            endpoints: all.len(),
            hits: hits
                .filter(|_| !plan.fronts.is_empty())
                .map(|hits| own.filter_map(|front| hits.get(&front_bytes(&front.key))).sum()),
            faults: engine.faults(&service.key).len(),
        }
    };
    engine.services().map(summary).collect()
}

/// One Service; none when there is no such.
#[must_use]
pub fn show(engine: &Engine, key: &ServiceKey, hits: Option<&Hits>) -> Option<ServiceView> {
    let (service, plan, refused) = engine.service(key)?;
    let outside = plan.fronts.iter().any(|front| front.origin != Origin::ClusterIp);
    let fault = |fault: warren_types::Fault| FaultView { reason: fault.reason, message: fault.message };
    Some(ServiceView {
        namespace: service.key.namespace.to_string(),
        name: service.key.name.to_string(),
        kind: kind(service).into(),
        note: note(service).unwrap_or_default(),
        mode: ModeView {
            internal_policy: policy(service.internal_policy).into(),
            external_policy: outside.then(|| policy(service.external_policy).into()),
            affinity_seconds: service.affinity.map(|affinity| affinity.seconds),
            source_ranges: texts(&service.source_ranges),
            traffic_distribution: service.traffic_distribution.clone(),
            health_check_node_port: plan.health.as_ref().map(|health| health.port),
        },
        fronts: plan.fronts.iter().map(|front| front_view(service, front, refused, hits)).collect(),
        endpoints: endpoints(engine, service, &plan.fronts),
        load_balancer: Vec::new(),
        faults: engine.faults(key).into_iter().map(fault).collect(),
    })
}

/// Counts ports of Services that are `Local` and have endpoints elsewhere only.
#[must_use]
pub fn no_local(engine: &Engine) -> NoLocal {
    let mut count = NoLocal::default();
    for (_, plan, _) in engine.services() {
        let of = |internal: bool| {
            let here = plan.fronts.iter().filter(move |f| (f.origin == Origin::ClusterIp) == internal);
            let ports: BTreeSet<usize> = here.filter(|f| f.route == Route::Drop).map(|f| f.port).collect();
            ports.len() as u64
        };
        count.internal += of(true);
        count.external += of(false);
    }
    count
}

fn texts<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn kind(service: &Service) -> &'static str {
    match service.kind {
        ServiceKind::ExternalName => "ExternalName",
        _ if service.is_headless() => "Headless",
        ServiceKind::ClusterIp => "ClusterIP",
        ServiceKind::NodePort => "NodePort",
        ServiceKind::LoadBalancer => "LoadBalancer",
    }
}

/// Why nothing is translated for a Service.
pub(crate) fn note(service: &Service) -> Option<String> {
    if service.kind == ServiceKind::ExternalName {
        let name = service.external_name.as_deref().unwrap_or("another");
        return Some(format!("ExternalName: only DNS knows it, as a name for {name}"));
    }
    if service.foreign_proxy {
        return Some(
            "left alone: a label says that another proxy, or none, takes care of it \
             (service.kubernetes.io/service-proxy-name or /headless)"
                .into(),
        );
    }
    service
        .is_headless()
        .then(|| "headless: only DNS knows it, and clients dial its endpoints themselves".into())
}

/// `Cluster` or `Local`.
pub(crate) fn policy(policy: TrafficPolicy) -> &'static str {
    match policy {
        TrafficPolicy::Cluster => "Cluster",
        TrafficPolicy::Local => "Local",
    }
}

/// As Kubernetes names them.
pub(crate) fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::ClusterIp => "ClusterIP",
        Origin::NodePort => "NodePort",
        Origin::ExternalIp => "ExternalIP",
        Origin::LoadBalancer => "LoadBalancer",
    }
}

/// The policy that rules a front, and the field that it is in.
pub(crate) fn ruling(service: &Service, origin: Origin) -> (TrafficPolicy, &'static str) {
    match origin {
        Origin::ClusterIp => (service.internal_policy, "internalTrafficPolicy"),
        _ => (service.external_policy, "externalTrafficPolicy"),
    }
}

fn front_view(
    service: &Service,
    front: &Front,
    refused: &BTreeSet<FrontKey>,
    hits: Option<&Hits>,
) -> FrontView {
    let taken = refused.contains(&front.key);
    let count = |route: &Route| if taken { 0 } else { route.targets().len() };
    FrontView {
        address: front.key.address.to_string(),
        port: front.key.port,
        protocol: front.key.protocol.to_string(),
        port_name: service.ports.get(front.port).map(|port| port.name.clone()).unwrap_or_default(),
        origin: origin(front.origin).into(),
        does: match &front.route {
            _ if taken => Does::Taken,
            Route::To(_) => Does::Forwards,
            Route::Reject => Does::Refuses,
            Route::Drop => Does::Drops,
        },
        endpoints: count(&front.route),
        endpoints_inside: front.inside.as_ref().map(count),
        hits: hits.filter(|_| !taken).map(|hits| hits.get(&front_bytes(&front.key)).copied().unwrap_or(0)),
    }
}

/// The slices of a Service that are this proxy's; those of a headless one carry a label that says so to proxies.
pub(crate) fn slices<'a>(engine: &'a Engine, service: &Service) -> Vec<&'a EndpointSlice> {
    let all = engine.slices_of(&service.key).map(AsRef::as_ref);
    all.filter(|slice| !slice.foreign_proxy || service.is_headless()).collect()
}

/// The endpoints of one port of a Service, by address and port.
pub(crate) fn candidates<'a>(
    engine: &Engine,
    service: &Service,
    port: usize,
    family: Family,
    slices: &[&'a EndpointSlice],
) -> BTreeMap<SocketAddr, Candidate<'a>> {
    let Some(port) = service.ports.get(port) else { return BTreeMap::new() };
    // What is wrong with endpoints is among the faults of the plan.
    plan::candidates(port, family, slices, engine.node(), &mut BTreeSet::new())
}

fn endpoints(engine: &Engine, service: &Service, fronts: &[Front]) -> Vec<EndpointView> {
    let slices = slices(engine, service);
    let mut all = Vec::new();
    for (index, port) in service.ports.iter().enumerate() {
        for family in [Family::V4, Family::V6] {
            let of_port =
                || fronts.iter().filter(move |f| f.port == index && Family::of(f.key.address) == family);
            let internal = || of_port().filter(|front| front.origin == Origin::ClusterIp);
            let external = || of_port().filter(|front| front.origin != Origin::ClusterIp);
            for (at, candidate) in candidates(engine, service, index, family, &slices) {
                let has = |front: &Front| front.route.targets().contains(&candidate.target);
                let chosen = internal().any(has);
                let chosen_outside = external().next().map(|_| external().any(has));
                let whys = [
                    internal().next().filter(|_| !chosen),
                    external().next().filter(|_| chosen_outside == Some(false)),
                ];
                let whys: BTreeSet<String> =
                    whys.into_iter().flatten().map(|front| why_not(service, front, &candidate)).collect();
                all.push(EndpointView {
                    address: at.ip().to_string(),
                    port: at.port(),
                    service_port: format!("{}/{}", port.port, port.protocol),
                    port_name: port.name.clone(),
                    pod: candidate.endpoint.pod.as_ref().map(ToString::to_string),
                    node: candidate.endpoint.node.as_ref().map(ToString::to_string),
                    zone: candidate.endpoint.zone.clone(),
                    local: candidate.on_this_node,
                    state: state(&candidate),
                    chosen,
                    chosen_outside,
                    why: whys.into_iter().collect::<Vec<_>>().join("; "),
                });
            }
        }
    }
    all
}

pub(crate) fn state(candidate: &Candidate<'_>) -> State {
    let endpoint = candidate.endpoint;
    match (endpoint.ready, endpoint.serving, endpoint.terminating) {
        (true, _, _) => State::Ready,
        (false, true, true) => State::Serving,
        (false, false, true) => State::Terminating,
        (false, _, false) => State::NotReady,
    }
}

/// Why a front does not draw an endpoint that is none of its targets.
pub(crate) fn why_not(service: &Service, front: &Front, candidate: &Candidate<'_>) -> String {
    let (policy, field) = ruling(service, front.origin);
    match state(candidate) {
        State::NotReady => "not ready".into(),
        State::Terminating => "terminating, and serves no more".into(),
        _ if policy == TrafficPolicy::Local && !candidate.on_this_node => {
            format!("not on this node, and {field} is Local")
        }
        State::Serving => "terminating, and others are ready".into(),
        State::Ready => "topology hints mean it for other nodes or zones".into(),
    }
}
