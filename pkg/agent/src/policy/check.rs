//! What policies make of a connection, as it is and as it would be.

use super::{NoPolicyAnswer, PolicyDesk, name_of, protocol, socket, words};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use warren_dns::DnsStatus;
use warren_policy::{Direction, Engine, Flow, PolicyId, RuleId, Side};
use warren_store::tables::{node_key, pod_key, service_key};
use warren_types::{
    EndpointSlice, NetworkPolicy, Node, NodeName, Pod, PodKey, PolicyKey, Protocol, Service, ServiceKey,
};

/// Entries of a rule's lists that are written out.
const ENTRIES: usize = 6;
/// ICMP and ICMPv6: what is asked for when no port is.
const ICMP: [u8; 2] = [1, 58];

/// One end of what is asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum End {
    /// A pod.
    Pod(PodKey),
    /// A Service; it only receives.
    Service(ServiceKey),
    /// An address.
    Address(IpAddr),
}

/// A port that is asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortAsked {
    /// Number or name.
    pub port: String,
    /// Its protocol; none: TCP, or whichever the Service has.
    pub protocol: Option<Protocol>,
}

/// What is asked of `/policy/check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckQuery {
    /// Who sends.
    pub from: End,
    /// To whom.
    pub to: End,
    /// Where; none: ICMP, or every port of a Service.
    pub port: Option<PortAsked>,
    /// What would be changed before.
    pub proposed: Option<Proposed>,
}

/// Policies as they would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Proposed {
    /// Those that would be made, or be like this.
    pub put: Vec<NetworkPolicy>,
    /// Those that would be deleted.
    pub delete: Vec<PolicyKey>,
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Check {
    /// Whether all of it is allowed: with what was proposed, when something was.
    pub allowed: bool,
    /// Whether it is asked what would be.
    pub proposed: bool,
    /// Every combination of addresses, endpoints and ports.
    pub flows: Vec<FlowView>,
}

/// One of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FlowView {
    /// Who sends, with the address.
    pub from: String,
    /// To whom, with the address.
    pub to: String,
    /// The Service's port by which it comes there.
    pub by: Option<String>,
    /// `TCP`, `UDP`, `SCTP` or `ICMP`.
    pub protocol: String,
    /// The port at the receiver.
    pub port: Option<u16>,
    /// Whether it is allowed; with what was proposed, when something was.
    pub allowed: bool,
    /// Whether it is allowed now, when something was proposed.
    pub allowed_before: Option<bool>,
    /// At the sender.
    pub egress: SideView,
    /// At the receiver.
    pub ingress: SideView,
    /// At both as it is now, where that is something else.
    pub before: Option<(SideView, SideView)>,
}

/// What is decided at one end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SideView {
    /// At which pod or address.
    pub at: String,
    /// On which node, where it is known.
    pub node: Option<String>,
    /// Whether it passes.
    pub allowed: bool,
    /// The policies that decided: the one whose rule did, or all that isolate the pod.
    pub policies: Vec<String>,
    /// The rule that decided: its number among the policy's rules for the direction, from 1.
    pub rule: Option<usize>,
    /// Why, in words.
    pub why: String,
}

/// Where a flow goes, before it has addresses at both ends.
struct Target {
    name: String,
    address: IpAddr,
    by: Option<String>,
    protocol: Option<Protocol>,
    port: Option<u16>,
}

impl PolicyDesk {
    /// Judges.
    ///
    /// # Errors
    /// When the question is about something that is not there.
    pub fn check(&self, query: &CheckQuery) -> Result<Check, NoPolicyAnswer> {
        // A copy, so that nobody waits while it is asked; its rows are shared.
        let mut now = self.look(Engine::clone)?;
        now.commit();
        let sources = self.sources(&now, &query.from)?;
        let targets = self.targets(&now, query)?;
        let then = query.proposed.as_ref().map(|proposed| with(&now, proposed)).transpose()?;
        let mut flows = Vec::new();
        for target in &targets {
            for (name, source) in sources.iter().filter(|(_, ip)| ip.is_ipv4() == target.address.is_ipv4()) {
                flows.push(self.flow(&now, then.as_ref(), (name, *source), target));
            }
        }
        if flows.is_empty() {
            return Err(NoPolicyAnswer::NoFamily { from: text(&query.from), to: text(&query.to) });
        }
        let allowed = flows.iter().all(|flow| flow.allowed);
        Ok(Check { allowed, proposed: then.is_some(), flows })
    }

    fn flow(&self, now: &Engine, then: Option<&Engine>, from: (&str, IpAddr), to: &Target) -> FlowView {
        let (from, source) = from;
        let number = match to.protocol {
            Some(protocol) => protocol.number(),
            None => ICMP[usize::from(to.address.is_ipv6())],
        };
        let port = to.port.unwrap_or_default();
        let flow = Flow { source, destination: to.address, protocol: number, port };
        let (egress, ingress) = self.sides(then.unwrap_or(now), &flow, from, &to.name);
        let allowed = |sides: &(SideView, SideView)| sides.0.allowed && sides.1.allowed;
        let before = then.map(|_| self.sides(now, &flow, from, &to.name));
        let shown = |name: &str, address: IpAddr, port| match name == address.to_string() {
            true => socket(address, port),
            false => format!("{name} ({})", socket(address, port)),
        };
        FlowView {
            from: shown(from, source, None),
            to: shown(&to.name, to.address, to.port),
            by: to.by.clone(),
            protocol: protocol(number).0,
            port: to.port,
            allowed: egress.allowed && ingress.allowed,
            allowed_before: before.as_ref().map(allowed),
            before: before.filter(|(out, into)| (out, into) != (&egress, &ingress)),
            egress,
            ingress,
        }
    }

    fn sides(&self, engine: &Engine, flow: &Flow, from: &str, to: &str) -> (SideView, SideView) {
        let nodes = [flow.source, flow.destination].map(|address| engine.node_at(address).cloned());
        let view = |at: &str, node: &Option<NodeName>| SideView {
            at: at.to_owned(),
            node: node.as_ref().map(ToString::to_string),
            allowed: true,
            ..SideView::default()
        };
        let (mut egress, mut ingress) = (view(from, &nodes[0]), view(to, &nodes[1]));
        // What a pod and its own node have to do with each other passes no hook that is judged.
        let own = |node: &Option<NodeName>, address| {
            node.as_ref().is_some_and(|node| self.is_of_node(node, address))
        };
        if own(&nodes[0], flow.destination) || own(&nodes[1], flow.source) {
            "the pod's own node: always passes".clone_into(&mut egress.why);
            ingress.why.clone_from(&egress.why);
            return (egress, ingress);
        }
        let judgement = engine.decide_in_cluster(flow);
        decided(&mut egress, engine, Direction::Egress, &judgement.egress);
        decided(&mut ingress, engine, Direction::Ingress, &judgement.ingress);
        (egress, ingress)
    }

    /// Whether an address is a node's own.
    fn is_of_node(&self, node: &NodeName, address: IpAddr) -> bool {
        let row = self.store.table::<Node>().get(&node_key(node));
        let own = |row: &Arc<Node>| {
            row.internal_ips.contains(&address) || row.pod_cidrs.node_addresses().any(|own| own == address)
        };
        row.as_ref().is_some_and(own)
            || self.dns.as_ref().and_then(DnsStatus::get).is_some_and(|dns| dns.addresses.contains(&address))
    }

    fn sources(&self, engine: &Engine, end: &End) -> Result<Vec<(String, IpAddr)>, NoPolicyAnswer> {
        match end {
            End::Address(address) => Ok(vec![(name_at(engine, *address), *address)]),
            End::Pod(key) => {
                let addresses = addresses(engine, key)?;
                Ok(addresses.into_iter().map(|address| (key.to_string(), address)).collect())
            }
            End::Service(key) => Err(NoPolicyAnswer::NoPod(format!("svc/{key}"))),
        }
    }

    fn targets(&self, engine: &Engine, query: &CheckQuery) -> Result<Vec<Target>, NoPolicyAnswer> {
        let asked = query.port.as_ref();
        match &query.to {
            End::Service(key) => self.endpoints(key, asked),
            End::Address(address) => match self.service_at(*address) {
                Some(key) if !self.is_of_node(&self.node, *address) => self.endpoints(&key, asked),
                _ => {
                    let port = asked.map(|asked| number(asked, &address.to_string(), &[])).transpose()?;
                    let name = name_at(engine, *address);
                    Ok(vec![target(name, *address, asked, port)])
                }
            },
            End::Pod(key) => {
                let row = self.store.table::<Pod>().get(&pod_key(key));
                let named = row.as_ref().map(|row| row.named_ports.as_slice()).unwrap_or_default();
                let protocol = asked.and_then(|asked| asked.protocol).unwrap_or(Protocol::Tcp);
                let names = named.iter().filter(|port| port.protocol == protocol);
                let names: Vec<(&str, u16)> = names.map(|port| (port.name.as_str(), port.port)).collect();
                let port = asked.map(|asked| number(asked, &format!("pod {key}"), &names)).transpose()?;
                let addresses = addresses(engine, key)?.into_iter();
                Ok(addresses.map(|address| target(key.to_string(), address, asked, port)).collect())
            }
        }
    }

    /// The Service that has an address.
    fn service_at(&self, address: IpAddr) -> Option<ServiceKey> {
        let rows = self.store.table::<Service>().snapshot().rows;
        let found = rows.values().find(|row| row.cluster_ips.contains(&address));
        found.map(|row| row.key.clone())
    }

    /// The endpoints of a Service that serve.
    fn endpoints(&self, key: &ServiceKey, asked: Option<&PortAsked>) -> Result<Vec<Target>, NoPolicyAnswer> {
        let row = self.store.table::<Service>().get(&service_key(key));
        let row = row.ok_or_else(|| NoPolicyAnswer::NoService(key.to_string()))?;
        let is_asked = |asked: &PortAsked, name: &str, port: u16, protocol: Protocol| {
            (asked.port == name || asked.port == port.to_string())
                && asked.protocol.is_none_or(|asked| asked == protocol)
        };
        let ports = row
            .ports
            .iter()
            .filter(|port| asked.is_none_or(|asked| is_asked(asked, &port.name, port.port, port.protocol)));
        let ports: BTreeMap<(&str, Protocol), u16> =
            ports.map(|port| ((port.name.as_str(), port.protocol), port.port)).collect();
        if let Some(asked) = asked.filter(|_| ports.is_empty()) {
            let there = row.ports.iter().map(|port| format!("{}/{} {}", port.port, port.protocol, port.name));
            return Err(NoPolicyAnswer::NoPort {
                of: format!("Service {key}"),
                port: asked.port.clone(),
                there: format!("it has {}", there.collect::<Vec<_>>().join(", ").replace(" ,", ",")),
            });
        }
        // Cluster DNS is no endpoint's: each node serves it at the Service's own address.
        let own: Vec<IpAddr> =
            row.cluster_ips.iter().copied().filter(|ip| self.is_of_node(&self.node, *ip)).collect();
        if !own.is_empty() {
            let of_port = |(protocol, port): (Protocol, u16), address: IpAddr| Target {
                name: address.to_string(),
                address,
                by: Some(format!("svc/{key}:{port}")),
                protocol: Some(protocol),
                port: Some(port),
            };
            let ports = ports.iter().map(|((_, protocol), port)| (*protocol, *port));
            return Ok(ports.flat_map(|port| own.iter().map(move |ip| of_port(port, *ip))).collect());
        }
        let mut out = BTreeMap::new();
        let slices = self.store.table::<EndpointSlice>().snapshot().rows;
        for slice in slices.values().filter(|slice| slice.service == *key) {
            for port in &slice.ports {
                let Some(of_service) = ports.get(&(port.name.as_str(), port.protocol)) else { continue };
                for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.ready || endpoint.serving) {
                    let name = endpoint.pod.as_ref().map(ToString::to_string);
                    let to = Target {
                        name: name.unwrap_or_else(|| endpoint.address.to_string()),
                        address: endpoint.address,
                        by: Some(format!("svc/{key}:{of_service}")),
                        protocol: Some(port.protocol),
                        port: Some(port.port),
                    };
                    out.insert((*of_service, port.protocol, endpoint.address, port.port), to);
                }
            }
        }
        if out.is_empty() {
            Err(NoPolicyAnswer::NoEndpoint(format!("Service {key}")))
        } else {
            Ok(out.into_values().collect())
        }
    }
}

/// The engine as it would be.
fn with(now: &Engine, proposed: &Proposed) -> Result<Engine, NoPolicyAnswer> {
    let mut then = now.clone();
    for key in &proposed.delete {
        if now.policy(&PolicyId::of(key)).is_none() {
            return Err(NoPolicyAnswer::NoPolicy(key.to_string()));
        }
        then.set_policy(key, None);
    }
    for row in &proposed.put {
        then.set_policy(&row.key, Some(Arc::new(row.clone())));
    }
    then.commit();
    Ok(then)
}

fn text(end: &End) -> String {
    match end {
        End::Pod(key) => format!("pod {key}"),
        End::Service(key) => format!("Service {key}"),
        End::Address(address) => address.to_string(),
    }
}

fn target(name: String, address: IpAddr, asked: Option<&PortAsked>, port: Option<u16>) -> Target {
    let protocol = asked.map(|asked| asked.protocol.unwrap_or(Protocol::Tcp));
    Target { name, address, by: None, protocol, port }
}

/// The number of a port: its own, or what the name means.
fn number(asked: &PortAsked, of: &str, names: &[(&str, u16)]) -> Result<u16, NoPolicyAnswer> {
    if let Some(number) = asked.port.parse().ok().filter(|port| *port > 0) {
        return Ok(number);
    }
    let named: BTreeSet<u16> =
        names.iter().filter(|(name, _)| *name == asked.port).map(|(_, port)| *port).collect();
    named.first().copied().ok_or_else(|| NoPolicyAnswer::NoPort {
        of: of.to_owned(),
        port: asked.port.clone(),
        there: match names {
            [] => "give its number, from 1 to 65535".into(),
            names => {
                let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
                format!("there are {}, and numbers from 1 to 65535", names.join(", "))
            }
        },
    })
}

fn addresses(engine: &Engine, key: &PodKey) -> Result<Vec<IpAddr>, NoPolicyAnswer> {
    let place = engine.place(key).ok_or_else(|| NoPolicyAnswer::NoPod(key.to_string()))?;
    match (place.finished, place.addresses.is_empty()) {
        (true, _) => Err(NoPolicyAnswer::NoAddress(key.to_string(), "any more: it has ended")),
        (false, true) => Err(NoPolicyAnswer::NoAddress(key.to_string(), "yet")),
        (false, false) => Ok(place.addresses),
    }
}

/// The pod that has an address, or the address.
fn name_at(engine: &Engine, address: IpAddr) -> String {
    let flow = Flow { source: address, destination: address, protocol: 0, port: 0 };
    engine.decide(&flow).source.map_or_else(|| address.to_string(), |pod| pod.to_string())
}

fn decided(view: &mut SideView, engine: &Engine, direction: Direction, side: &Side) {
    view.allowed = side.is_allowed();
    let by = |view: &mut SideView, by: &RuleId| {
        view.policies = vec![name_of(&by.policy)];
        view.rule = Some(by.rule + 1);
        let rules =
            engine.policy(&by.policy).and_then(|policy| policy.rules(direction)?.get(by.rule).cloned());
        let words = rules.map(|rule| words::rule(direction, &rule, ENTRIES)).unwrap_or_default();
        view.why = format!("{}, {direction} rule {}: {words}", by.policy, by.rule + 1);
    };
    match side {
        Side::NotJudged => {
            "not judged here: no pod of the cluster, or one in its node's network".clone_into(&mut view.why);
        }
        Side::Itself => "a pod and itself: always passes".clone_into(&mut view.why),
        Side::NotIsolated => view.why = format!("by default: no policy isolates it for {direction}"),
        Side::AllowedByDefault => view.why = "by default: no rule speaks of this".into(),
        Side::Allowed { by: rule } | Side::DeniedBy { by: rule } => by(view, rule),
        Side::Denied { policies } => {
            view.policies = policies.iter().map(name_of).collect();
            let names: Vec<String> = policies.iter().map(ToString::to_string).collect();
            view.why = format!("isolated by {}, of which no {direction} rule allows this", names.join(", "));
        }
        Side::UnknownPod { .. } => {
            "nothing certain is known of the pod: the API has not told of it, or another claims its address"
                .clone_into(&mut view.why);
        }
    }
}
