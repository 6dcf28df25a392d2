//! A plain reading of the NetworkPolicy documentation: one packet, all rows, no tables.

use super::world::{World, is_of};
use crate::decide::Flow;
use crate::engine::{Subject, Unknown};
use crate::rules::{Action, PodSelector, Policy, RulePeer, Scope, Tier, TierRule};
use std::net::IpAddr;
use warren_types::*;

fn selects(selector: &Selector, labels: &Labels) -> bool {
    selector.requirements().all(|requirement| match requirement {
        Requirement::In(key, values) => matches!(labels.get(key), Some(value) if values.contains(value)),
        Requirement::NotIn(key, values) => !matches!(labels.get(key), Some(value) if values.contains(value)),
        Requirement::Exists(key) => labels.contains_key(key),
        Requirement::DoesNotExist(key) => !labels.contains_key(key),
    })
}

/// A pod of this node, as far as the world tells.
pub(crate) fn pod_of(world: &World, subject: &Subject) -> Option<Pod> {
    let last = world.last_rows.get(&subject.addresses).cloned();
    let labels_only = subject.labels.clone().map(|labels| Pod {
        key: subject.pod.clone(),
        uid: String::new(),
        node: None,
        ips: Vec::new(),
        host_network: false,
        labels,
        finished: false,
        named_ports: Vec::new(),
    });
    last.or(labels_only)
}

/// Whose an address is: of pods of this node by their attachments, of others by their rows.
fn owners(world: &World, address: IpAddr) -> Vec<Pod> {
    let mut out = Vec::new();
    for subject in world.subjects.values().filter(|s| s.addresses.contains(&address)) {
        out.extend(pod_of(world, subject).filter(|pod| !pod.finished && !pod.host_network));
    }
    for row in world.pods.values().filter(|row| row.ips.contains(&address)) {
        let attached = |s: &Subject| is_of(s, row);
        let here = row.node == world.settings.node || world.subjects.values().any(attached);
        if !here && !row.host_network && !row.finished {
            out.push(row.clone());
        }
    }
    out
}

fn namespace_is(world: &World, selector: &Selector, namespace: &Namespace) -> bool {
    match world.namespace_labels(namespace) {
        Some(labels) => selects(selector, labels),
        None => selector.is_everything(),
    }
}

fn names(pod: &Pod, name: &str, protocol: Protocol, port: u16) -> bool {
    pod.named_ports.iter().any(|p| p.name == name && p.protocol == protocol && p.port == port)
}

struct Packet<'a> {
    flow: &'a Flow,
    /// The pod that is judged.
    subject: &'a Pod,
    ingress: bool,
    peer: IpAddr,
    /// Who has the peer's address.
    peers: Vec<Pod>,
}

impl Packet<'_> {
    fn port_is(&self, port: &PolicyPort) -> bool {
        if port.protocol.number() != self.flow.protocol {
            return false;
        }
        match &port.ports {
            PortMatch::Any => true,
            PortMatch::Range(first, last) => *first <= self.flow.port && self.flow.port <= *last,
            PortMatch::Named(name) if self.ingress => {
                names(self.subject, name, port.protocol, self.flow.port)
            }
            PortMatch::Named(name) => {
                !self.peers.is_empty()
                    && self.peers.iter().all(|pod| names(pod, name, port.protocol, self.flow.port))
            }
        }
    }

    fn block_is(&self, cidr: &ipnet::IpNet, except: &[ipnet::IpNet]) -> bool {
        cidr.contains(&self.peer) && !except.iter().any(|net| net.contains(&self.peer))
    }

    /// "from" and "to" of a NetworkPolicy.
    fn peer_is(&self, world: &World, peer: &PolicyPeer, own: &Namespace) -> bool {
        match peer {
            PolicyPeer::Block { cidr, except } => self.block_is(cidr, except),
            PolicyPeer::Pods { namespaces, pods } => {
                !self.peers.is_empty()
                    && self.peers.iter().all(|pod| {
                        let in_namespace = match namespaces {
                            None => pod.key.namespace == *own,
                            Some(selector) => namespace_is(world, selector, &pod.key.namespace),
                        };
                        in_namespace && selects(pods, &pod.labels)
                    })
            }
        }
    }

    fn rule_allows(&self, world: &World, rule: &PolicyRule, own: &Namespace) -> bool {
        (rule.peers.is_empty() || rule.peers.iter().any(|peer| self.peer_is(world, peer, own)))
            && (rule.ports.is_empty() || rule.ports.iter().any(|port| self.port_is(port)))
    }

    fn tier_rule_matches(&self, world: &World, rule: &TierRule) -> bool {
        let peer_is = |peer: &RulePeer| match peer {
            RulePeer::Block(block) => self.block_is(&block.cidr, &block.except),
            RulePeer::Pods(selector) => {
                !self.peers.is_empty() && self.peers.iter().all(|pod| in_selector(world, selector, pod))
            }
        };
        (rule.peers.is_empty() || rule.peers.iter().any(peer_is))
            && (rule.ports.is_empty() || rule.ports.iter().any(|port| self.port_is(port)))
    }

    /// The first rule of a tier that matches.
    fn first_of_tier(&self, world: &World, tier: Tier) -> Option<Action> {
        let mut policies: Vec<&Policy> = world.tiers.values().filter(|p| p.id.tier == tier).collect();
        policies.retain(|policy| in_selector(world, &policy.subjects, self.subject));
        policies.sort_by_key(|policy| (policy.order, policy.id.clone()));
        let rules =
            |policy: &Policy| if self.ingress { policy.ingress.clone() } else { policy.egress.clone() };
        let rules: Vec<TierRule> = policies.into_iter().filter_map(rules).flatten().collect();
        rules.iter().find(|rule| self.tier_rule_matches(world, rule)).map(|rule| rule.action)
    }

    fn passes(&self, world: &World, subject: &str) -> bool {
        match self.first_of_tier(world, Tier::Admin) {
            Some(Action::Accept) => return true,
            Some(Action::Deny) => return false,
            Some(Action::Pass) | None => {}
        }
        let namespace = &self.subject.key.namespace;
        let held = world.held.values().filter(|(_, subjects)| subjects.contains(subject)).map(|(row, _)| row);
        let mut isolated = false;
        for policy in world.policies.values().chain(held) {
            if policy.key.namespace != *namespace || !selects(&policy.pods, &self.subject.labels) {
                continue;
            }
            let rules = if self.ingress { &policy.ingress } else { &policy.egress };
            let Some(rules) = rules else { continue };
            isolated = true;
            if rules.iter().any(|rule| self.rule_allows(world, rule, namespace)) {
                return true;
            }
        }
        !isolated && self.first_of_tier(world, Tier::Baseline) != Some(Action::Deny)
    }
}

fn in_selector(world: &World, selector: &PodSelector, pod: &Pod) -> bool {
    let in_namespace = match &selector.namespaces {
        Scope::Namespace(name) => *name == pod.key.namespace,
        Scope::Matching(namespaces) => namespace_is(world, namespaces, &pod.key.namespace),
    };
    in_namespace && selects(&selector.pods, &pod.labels)
}

/// Whether this node lets a flow pass.
pub(crate) fn is_allowed(world: &World, flow: &Flow) -> bool {
    let end = |ingress: bool| {
        let (own, peer) =
            if ingress { (flow.destination, flow.source) } else { (flow.source, flow.destination) };
        let Some((key, subject)) = world.subjects.iter().find(|(_, s)| s.addresses.contains(&own)) else {
            return true;
        };
        if own == peer {
            return true;
        }
        match pod_of(world, subject) {
            None => world.settings.unknown == Unknown::Open,
            Some(pod) if pod.host_network => true,
            Some(pod) => {
                let peers = owners(world, peer);
                Packet { flow, subject: &pod, ingress, peer, peers }.passes(world, key)
            }
        }
    };
    end(false) && end(true)
}
