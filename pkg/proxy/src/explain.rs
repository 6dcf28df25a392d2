//! What would happen to one packet, step by step: read from the plans that the kernel's rules are made of.

use crate::engine::Engine;
use crate::names::Names;
use crate::node::NodeContext;
use crate::plan::{Candidate, Front, Origin, Route, Target};
use crate::view::{self, State};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use warren_types::{Family, Service, TrafficPolicy};

mod answer;
#[cfg(test)]
mod tests;

pub use answer::{ExplainError, Explanation, Outcome, Path, PodSource, Question, Source, Step};

/// Answers.
///
/// # Errors
/// When the question is about something that is not there.
pub fn explain(engine: &Engine, question: &Question) -> Result<Explanation, ExplainError> {
    let (service, ..) =
        engine.service(&question.service).ok_or_else(|| ExplainError::NoService(question.service.clone()))?;
    let node = engine.node();
    let mut answer = Explanation {
        from: sender(&question.source),
        to: format!("svc/{}:{}", question.service, question.port),
        paths: Vec::new(),
    };
    if let Some(path) = elsewhere(&question.source, node) {
        answer.paths.push(path);
        return Ok(answer);
    }
    if let Some(note) = view::note(service) {
        let mut trail = Trail::default();
        trail.step("service", note);
        if service.is_headless() && !service.foreign_proxy {
            let all = view::slices(engine, service).into_iter().flat_map(|slice| &slice.endpoints);
            let ready: BTreeSet<String> = all.filter(|e| e.ready).map(|e| e.address.to_string()).collect();
            let ready: Vec<String> = ready.into_iter().collect();
            trail.step(
                "endpoints",
                match ready.is_empty() {
                    true => "none is ready".to_owned(),
                    false => format!("ready, and what its name stands for: {}", ready.join(", ")),
                },
            );
        }
        answer.paths.push(trail.end(
            Outcome::Untouched,
            "the proxy has nothing to do with such packets",
            None,
        ));
        return Ok(answer);
    }
    let ports = ports(service, question);
    if ports.is_empty() {
        answer.paths.push(no_port(service, question)?);
        return Ok(answer);
    }
    for port in ports {
        for place in places(engine, service, port, question)? {
            answer.paths.push(Teller { engine, service, port, place }.tell(&question.source));
        }
    }
    if answer.paths.is_empty() {
        let mut trail = Trail::default();
        let text = format!("Service {} has no such address and port that leads to this node", service.key);
        trail.step("address", text);
        for fault in engine.faults(&service.key) {
            trail.step("fault", fault.message);
        }
        answer.paths.push(trail.end(
            Outcome::Untouched,
            "clients outside cannot reach it by this node",
            Some("give it the type NodePort or LoadBalancer, or ask on the node that has its address".into()),
        ));
    }
    Ok(answer)
}

fn sender(source: &Source) -> String {
    match source {
        Source::Pod(pod) => format!("pod {}", pod.name),
        Source::Node => "this node".into(),
        Source::Outside(address) => format!("{address}, outside of the cluster"),
    }
}

/// Packets are translated where they are sent.
fn elsewhere(source: &Source, node: &NodeContext) -> Option<Path> {
    let Source::Pod(pod) = source else { return None };
    let mut trail = Trail::default();
    match &pod.node {
        Some(on) if *on == node.name => None,
        Some(on) => {
            trail.step("source", format!("pod {} runs on {on}; its packets are translated there", pod.name));
            let advice = format!("run the same command on {on}");
            Some(trail.end(Outcome::Elsewhere, "another node decides", Some(advice)))
        }
        None => {
            trail.step("source", format!("pod {} runs on no node yet", pod.name));
            Some(trail.end(Outcome::Elsewhere, "it sends nothing", Some("wait until it is scheduled".into())))
        }
    }
}

/// The ports that may be meant: by name, by number, and from outside by node port.
fn ports(service: &Service, question: &Question) -> Vec<usize> {
    let (text, protocol) = question.port_and_protocol();
    let number = text.parse::<u16>().ok();
    let meant = |port: &warren_types::ServicePort| {
        let by_node_port = question.at.is_some() || matches!(question.source, Source::Outside(_));
        let numbered = number == Some(port.port) || (by_node_port && number == port.node_port);
        (if number.is_some() { numbered } else { port.name == text })
            && protocol.is_none_or(|protocol| protocol == port.protocol)
    };
    let all = service.ports.iter().enumerate();
    all.filter(|(_, port)| meant(port)).map(|(index, _)| index).collect()
}

fn no_port(service: &Service, question: &Question) -> Result<Path, ExplainError> {
    let has: Vec<String> = service.ports.iter().map(port_text).collect();
    let has = has.join(", ");
    let inside = !matches!(question.source, Source::Outside(_));
    let to =
        question.at.or(service.cluster_ips.first().copied()).filter(|at| service.cluster_ips.contains(at));
    let (Some(address), Ok(port), true) = (to, question.port_and_protocol().0.parse::<u16>(), inside) else {
        let (service, port) = (service.key.clone(), question.port.clone());
        return Err(ExplainError::NoPort { service, port, ports: has });
    };
    let mut trail = Trail::to(SocketAddr::new(address, port));
    trail.step("address", format!("{} stands for {address}, its ClusterIP", dns_name(service)));
    trail.step("front", format!("the Service has no port {port}; it has {has}"));
    Ok(trail.end(
        Outcome::Refused,
        "unknown ports of a ClusterIP are; the sender gets a TCP reset, or ICMP port unreachable",
        Some("use one of its ports, or add this one to spec.ports".into()),
    ))
}

fn port_text(port: &warren_types::ServicePort) -> String {
    match port.name.as_str() {
        "" => format!("{}/{}", port.port, port.protocol),
        name => format!("{}/{} ({name})", port.port, port.protocol),
    }
}

fn dns_name(service: &Service) -> String {
    format!("{}.{}.svc", service.key.name, service.key.namespace)
}

/// An address that may be meant, and what is there, if anything is.
#[derive(Clone, Copy)]
struct Place<'a> {
    address: IpAddr,
    origin: Origin,
    front: Option<&'a Front>,
}

/// The addresses that may be meant.
fn places<'a>(
    engine: &'a Engine,
    service: &Service,
    port: usize,
    question: &Question,
) -> Result<Vec<Place<'a>>, ExplainError> {
    let plan = engine.service(&service.key).map(|(_, plan, _)| plan);
    let fronts = plan.into_iter().flat_map(|plan| &plan.fronts).filter(|front| front.port == port);
    let fronts =
        fronts.map(|front| Place { address: front.key.address, origin: front.origin, front: Some(front) });
    let fronts: Vec<Place<'_>> = fronts.collect();
    let number = question.port_and_protocol().0.parse::<u16>().ok();
    // An address may have the port and the node port of a Service: the one that was asked for is meant.
    let exact = |places: Vec<Place<'a>>| {
        let is_meant = |place: &&Place<'_>| place.front.map(|front| front.key.port) == number;
        let meant: Vec<Place<'_>> = places.iter().filter(is_meant).copied().collect();
        if meant.is_empty() { places } else { meant }
    };
    let cluster = service.cluster_ips.iter().map(|ip| {
        let there = fronts.iter().find(|place| place.address == *ip).copied();
        there.unwrap_or(Place { address: *ip, origin: Origin::ClusterIp, front: None })
    });
    if let Some(at) = question.at {
        let found: Vec<_> =
            fronts.iter().copied().chain(cluster).filter(|place| place.address == at).collect();
        let found = exact(found).into_iter().next();
        let none = || ExplainError::NoAddress { service: service.key.clone(), address: at };
        return Ok(vec![found.ok_or_else(none)?]);
    }
    Ok(match question.source {
        Source::Outside(from) => {
            let leads_here = |place: &&Place<'_>| {
                place.origin != Origin::ClusterIp
                    && place.address.is_ipv4() == from.is_ipv4()
                    && !question.others.contains(&place.address)
            };
            exact(fronts.iter().filter(leads_here).copied().collect())
        }
        Source::Pod(_) | Source::Node => cluster.collect(),
    })
}

#[derive(Default)]
struct Trail(Path);

impl Trail {
    fn to(destination: impl ToString) -> Self {
        Self(Path { destination: destination.to_string(), ..Path::default() })
    }
    fn step(&mut self, about: &str, text: impl Into<String>) {
        self.0.steps.push(Step { about: about.into(), text: text.into() });
    }
    fn end(mut self, outcome: Outcome, end: impl Into<String>, advice: Option<String>) -> Path {
        self.0.outcome = outcome;
        self.0.end = end.into();
        self.0.advice = advice;
        self.0
    }
}

/// Who sends, of one family.
#[derive(Clone, Copy)]
enum Client {
    Pod(IpAddr),
    Node,
    Outside(IpAddr),
}

/// Tells of packets to one address and port of a Service.
struct Teller<'a> {
    engine: &'a Engine,
    service: &'a Service,
    port: usize,
    place: Place<'a>,
}

impl Teller<'_> {
    fn tell(&self, source: &Source) -> Path {
        let Place { address, origin, front } = self.place;
        let mut trail = match front {
            Some(front) => Trail::to(front.key),
            None => Trail::to(address),
        };
        let from = match self.source(source, &mut trail) {
            Ok(from) => from,
            Err(end) => return trail.end(Outcome::Untouched, end, None),
        };
        let what = view::origin(origin);
        trail.step(
            "address",
            match origin {
                Origin::ClusterIp => format!("{} stands for {address}, its {what}", dns_name(self.service)),
                _ => format!("{address} is an address of the Service: {what}"),
            },
        );
        if let Client::Outside(ip) = from
            && self.engine.node().pod_ranges.iter().any(|range| range.contains(&ip))
        {
            let end = "what comes by such a link with a pod's address is false";
            return trail.end(Outcome::Dropped, end, Some(format!("name the pod instead of {ip}")));
        }
        let Some(front) = front else { return self.no_front(trail) };
        match self.engine.front(&front.key) {
            Some((owner, _)) if *owner == self.service.key => {}
            owner => {
                let owner = owner
                    .map_or_else(|| "another Service".to_owned(), |(owner, _)| format!("Service {owner}"));
                trail.step("front", format!("{} belongs to {owner}, which is older", front.key));
                let advice = format!("change the address or the port of Service {}", self.service.key);
                return trail.end(Outcome::Untouched, format!("{owner} gets the packet"), Some(advice));
            }
        }
        self.through(front, from, trail)
    }

    /// Who sends, or why nobody does.
    fn source(&self, source: &Source, trail: &mut Trail) -> Result<Client, String> {
        let family = if self.place.address.is_ipv4() { "IPv4" } else { "IPv6" };
        match source {
            Source::Pod(pod) if pod.host_network => {
                let text = format!("pod {} is on the host's network: it sends as this node itself", pod.name);
                trail.step("source", text);
                Ok(Client::Node)
            }
            Source::Pod(pod) => {
                let own = pod.addresses.iter().find(|ip| ip.is_ipv4() == self.place.address.is_ipv4());
                let Some(own) = own else {
                    trail.step("source", format!("pod {} has no {family} address", pod.name));
                    return Err(format!("the pod sends nothing by {family}"));
                };
                trail.step("source", format!("pod {} on this node sends from {own}", pod.name));
                Ok(Client::Pod(*own))
            }
            Source::Node => {
                trail.step("source", format!("a process of this node ({}) sends", self.engine.node().name));
                Ok(Client::Node)
            }
            Source::Outside(ip) if ip.is_ipv4() != self.place.address.is_ipv4() => {
                Err(format!("{ip} sends nothing by {family}"))
            }
            Source::Outside(ip) => {
                trail.step(
                    "source",
                    format!("{ip} sends, and the packet comes to this node by a link that is not Warren's"),
                );
                Ok(Client::Outside(*ip))
            }
        }
    }

    fn no_front(&self, mut trail: Trail) -> Path {
        let faults = self.engine.faults(&self.service.key);
        let address = self.place.address.to_string();
        let about: Vec<String> =
            faults.into_iter().map(|f| f.message).filter(|message| message.contains(&address)).collect();
        trail.step(
            "front",
            match about.is_empty() {
                true => "this node translates nothing for this address and port".to_owned(),
                false => about.join("; "),
            },
        );
        let in_range =
            self.engine.node().service_ranges.iter().any(|range| range.contains(&self.place.address));
        match in_range {
            true => trail.end(Outcome::Dropped, "nothing serves this address of the service range", None),
            false => trail.end(Outcome::Untouched, "the packet goes where routes lead it", None),
        }
    }

    /// What a front of this Service does.
    fn through(&self, front: &Front, from: Client, mut trail: Trail) -> Path {
        let port = self.service.ports.get(self.port).map(port_text).unwrap_or_default();
        let map = Names::of(self.place.address);
        let inside = front.inside.as_ref().filter(|_| !matches!(from, Client::Outside(_)));
        let map = if inside.is_some() { map.inside_fronts } else { map.fronts };
        trail.step("front", format!("{} is port {port} of the Service (an element of {map})", front.key));
        if let Some(path) = self.guard(front, from, &mut trail) {
            return path.end_of(trail);
        }
        let (policy, field) = view::ruling(self.service, front.origin);
        trail.step("policy", match (policy, inside) {
            (TrafficPolicy::Cluster, _) => format!("{field} is Cluster: endpoints on any node count"),
            (TrafficPolicy::Local, None) => format!("{field} is Local: only endpoints on this node count"),
            (TrafficPolicy::Local, Some(_)) => {
                format!("{field} is Local, but for packets from pods and from the node itself endpoints on any node count")
            }
        });
        let route = inside.unwrap_or(&front.route);
        let family = Family::of(self.place.address);
        let slices = view::slices(self.engine, self.service);
        let candidates = view::candidates(self.engine, self.service, self.port, family, &slices);
        let judged = if inside.is_some() { TrafficPolicy::Cluster } else { policy };
        for (at, candidate) in &candidates {
            trail.step("endpoint", self.judge(front, route, judged, *at, candidate));
        }
        match route {
            Route::To(targets) => self.deliver(front, targets, &candidates, from, trail),
            Route::Reject => {
                let known: usize =
                    slices.iter().filter(|s| s.family == family).map(|s| s.endpoints.len()).sum();
                let advice = self.nothing_ready(&candidates, known);
                let end = "nothing serves it anywhere; the sender gets a TCP reset, or ICMP port unreachable";
                trail.end(Outcome::Refused, end, Some(advice))
            }
            Route::Drop => trail.end(
                Outcome::Dropped,
                "there is no endpoint on this node, but elsewhere; the sender gets no answer",
                Some(format!("run an endpoint on this node, or set {field}: Cluster")),
            ),
        }
    }

    /// Whether the sender may connect; an end when it may not.
    fn guard(&self, front: &Front, from: Client, trail: &mut Trail) -> Option<Stopped> {
        let ranges = front.sources.as_ref()?;
        let shown: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        let shown = if shown.is_empty() { "none of this family".into() } else { shown.join(", ") };
        let sender = match from {
            Client::Pod(ip) | Client::Outside(ip) => ip,
            Client::Node if self.engine.node().node_addresses.contains(&self.place.address) => {
                self.place.address
            }
            Client::Node => {
                let text = format!(
                    "only sources in loadBalancerSourceRanges may connect ({shown}); this node's address on its way there has to be among them"
                );
                trail.step("ranges", text);
                return None;
            }
        };
        if ranges.iter().any(|range| range.contains(&sender)) {
            trail.step("ranges", format!("{sender} is in loadBalancerSourceRanges ({shown})"));
            return None;
        }
        trail.step("ranges", format!("{sender} is not in loadBalancerSourceRanges ({shown})"));
        Some(Stopped {
            end: "the source may not connect; the sender gets no answer",
            advice: format!("add a range with {sender} to spec.loadBalancerSourceRanges"),
        })
    }

    fn judge(
        &self,
        front: &Front,
        route: &Route,
        policy: TrafficPolicy,
        at: SocketAddr,
        candidate: &Candidate<'_>,
    ) -> String {
        let who = self.who(at, candidate);
        if route.targets().contains(&candidate.target) {
            return match view::state(candidate) {
                State::Serving => format!("{who}: counts, though it terminates: none that is ready is left"),
                _ => format!("{who}: counts, it is ready"),
            };
        }
        // From inside, a front with policy Local is judged as one with policy Cluster.
        let here = Candidate { endpoint: candidate.endpoint, target: candidate.target, on_this_node: true };
        let judged = if policy == TrafficPolicy::Cluster { &here } else { candidate };
        format!("{who}: does not count: {}", view::why_not(self.service, front, judged))
    }

    fn who(&self, at: SocketAddr, candidate: &Candidate<'_>) -> String {
        let what = candidate.endpoint.pod.as_ref().map(|pod| format!("pod {pod} on ")).unwrap_or_default();
        format!("{at} ({what}{})", self.at(candidate))
    }

    fn at(&self, candidate: &Candidate<'_>) -> String {
        match &candidate.endpoint.node {
            _ if candidate.on_this_node => "this node".into(),
            Some(node) => node.to_string(),
            None => "no node".into(),
        }
    }

    fn nothing_ready(&self, candidates: &BTreeMap<SocketAddr, Candidate<'_>>, known: usize) -> String {
        let name = &self.service.key.name;
        match (candidates.is_empty(), known > 0, self.service.selector) {
            (false, _, _) => "find out why its pods are not ready".into(),
            (true, true, _) => {
                "its endpoints have no such port, or addresses that are refused: compare spec.ports[].targetPort with the pods' ports".into()
            }
            (true, false, true) => "no pod matches its selector: compare spec.selector with the pods' labels".into(),
            (true, false, false) => {
                format!("it has no selector: make an EndpointSlice with the label kubernetes.io/service-name: {name}")
            }
        }
    }

    fn deliver(
        &self,
        front: &Front,
        targets: &[Target],
        candidates: &BTreeMap<SocketAddr, Candidate<'_>>,
        from: Client,
        mut trail: Trail,
    ) -> Path {
        if let Some(seconds) = front.affinity {
            trail.step("affinity", format!(
                "sessionAffinity is ClientIP: a client keeps its endpoint for {seconds} s after its last new connection, while that serves"
            ));
        }
        trail.step(
            "choice",
            match targets.len() {
                1 => "the only endpoint that counts gets the connection".to_owned(),
                n => format!("one of {n} is drawn for each new connection, each with the same chance"),
            },
        );
        for target in targets {
            let at = SocketAddr::new(target.address, target.port);
            let Some(candidate) = candidates.get(&at) else { continue };
            trail.step("way", format!("to {at}: {}", self.way(from, target, candidate)));
        }
        let ends: BTreeSet<String> =
            targets.iter().map(|t| SocketAddr::new(t.address, t.port).to_string()).collect();
        let ends: Vec<String> = ends.into_iter().collect();
        let end = match ends.as_slice() {
            [one] => format!("to {one}"),
            [first, second] => format!("to {first} or {second}"),
            many => format!("to one of {} endpoints", many.len()),
        };
        trail.end(Outcome::Delivered, end, None)
    }

    /// By which way, and with which source.
    fn way(&self, from: Client, target: &Target, candidate: &Candidate<'_>) -> String {
        let node = self.engine.node();
        let is_v4 = target.address.is_ipv4();
        let own = if is_v4 { node.own_v4.map(IpAddr::from) } else { node.own_v6.map(IpAddr::from) };
        let become_own = |why: &str| match own {
            Some(own) => format!("the source becomes {own}, this node's own pod-network address, {why}"),
            None => "the source stays: this node has no podCIDR of this family yet".into(),
        };
        let stays = match from {
            Client::Pod(ip) | Client::Outside(ip) => format!("the source stays {ip}"),
            // The route of the service range names it.
            Client::Node => match own.filter(|_| self.place.origin == Origin::ClusterIp) {
                Some(own) => format!("the source is {own}, this node's own pod-network address"),
                None => "the source is this node's".into(),
            },
        };
        let place = self.at(candidate);
        if target.local_pod {
            return match from {
                Client::Pod(ip) if ip == target.address => {
                    let source = become_own("so that its answer to itself comes by here");
                    format!("back into the pod by its own link; {source}")
                }
                _ => format!("on this node, by the pod's link; {stays}"),
            };
        }
        if node.pod_ranges.iter().any(|range| range.contains(&target.address)) {
            let source = match from {
                Client::Pod(_) => stays,
                Client::Node if self.place.origin == Origin::ClusterIp => stays,
                Client::Node if node.own_addresses.iter().any(|ip| ip.is_ipv4() == is_v4) => stays,
                Client::Node => become_own("because another node has its address too"),
                Client::Outside(_) => become_own("because the answer has to come back by this node"),
            };
            return format!("through the tunnel to {place}; {source}");
        }
        if candidate.on_this_node {
            return format!("to a process on this node's own network; {stays}");
        }
        if node.node_addresses.contains(&target.address) && matches!(from, Client::Pod(_)) {
            return format!("through the tunnel to {place}, to its own network; {stays}");
        }
        "by the host's routes and in clear; the source becomes this node's address on that link".into()
    }
}

/// An end before an endpoint was drawn.
struct Stopped {
    end: &'static str,
    advice: String,
}

impl Stopped {
    fn end_of(self, trail: Trail) -> Path {
        trail.end(Outcome::Dropped, self.end, Some(self.advice))
    }
}
