//! What the rows say of a flow, with the names of policies and rules, for people.
//!
//! It does not look at what is compiled.

use crate::classes::{self, Named};
use crate::engine::{Engine, Unknown};
use crate::index;
use crate::items::Verdict;
use crate::rules::{self, Direction, Policy, PolicyId, RulePeer, Tier, TierRule};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;
use warren_types::{Pod, PodKey, PortMatch};

/// The first packet of a connection, after the translation of its destination and before that of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Flow {
    /// Who sends it.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// The number of the protocol.
    pub protocol: u8,
    /// The destination port; 0 for protocols without ports.
    pub port: u16,
}

/// A rule of a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuleId {
    /// The policy.
    pub policy: PolicyId,
    /// Which of its rules for the direction, from 0.
    pub rule: usize,
}

/// What is decided at one end of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "camelCase")]
pub enum Side {
    /// It is not judged: not a pod, a pod in its node's network, or, where that was asked, a pod of another node.
    NotJudged,
    /// A pod and itself.
    Itself,
    /// No policy speaks of this pod in this direction.
    NotIsolated,
    /// A rule allows it.
    Allowed {
        /// The first that does.
        by: RuleId,
    },
    /// No rule forbids it, and no NetworkPolicy isolates the pod.
    AllowedByDefault,
    /// A rule denies it.
    DeniedBy {
        /// The rule.
        by: RuleId,
    },
    /// NetworkPolicies isolate the pod, and none allows it.
    Denied {
        /// Those that isolate it.
        policies: Vec<PolicyId>,
    },
    /// Nothing is known yet of the pod, or too much: several claim the address.
    UnknownPod {
        /// Whether it passes nevertheless.
        allowed: bool,
    },
}

impl Side {
    /// Whether it passes here.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        match self {
            Self::NotJudged | Self::Itself | Self::NotIsolated => true,
            Self::Allowed { .. } | Self::AllowedByDefault => true,
            Self::DeniedBy { .. } | Self::Denied { .. } => false,
            Self::UnknownPod { allowed } => *allowed,
        }
    }
}

/// What becomes of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// The pod that sends, where it is known.
    pub source: Option<PodKey>,
    /// The pod that receives, where it is known.
    pub destination: Option<PodKey>,
    /// At the sender.
    pub egress: Side,
    /// At the receiver.
    pub ingress: Side,
}

impl Judgement {
    /// Whether it passes both ends.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.egress.is_allowed() && self.ingress.is_allowed()
    }
}

/// Whose policies are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    ThisNode,
    Cluster,
}

impl Engine {
    /// What this node makes of a flow, by the rows as of the last commit. At an end that is not a pod of this node it is not
    /// judged.
    #[must_use]
    pub fn decide(&self, flow: &Flow) -> Judgement {
        self.judgement(flow, Reach::ThisNode)
    }

    /// What the nodes of both ends make of a flow, if they know what this node knows.
    #[must_use]
    pub fn decide_in_cluster(&self, flow: &Flow) -> Judgement {
        self.judgement(flow, Reach::Cluster)
    }

    fn judgement(&self, flow: &Flow, reach: Reach) -> Judgement {
        let (source, destination) = (flow.source, flow.destination);
        let name = |address| self.pods_at(address).first().map(|pod| pod.key.clone());
        Judgement {
            source: name(source),
            destination: name(destination),
            egress: self.side(Direction::Egress, source, destination, flow, reach),
            ingress: self.side(Direction::Ingress, destination, source, flow, reach),
        }
    }

    /// The pods that have an address.
    fn pods_at(&self, address: IpAddr) -> Vec<Arc<Pod>> {
        self.peers.holders(address).map(|(_, pod)| pod.clone()).collect()
    }

    fn side(&self, direction: Direction, subject: IpAddr, peer: IpAddr, flow: &Flow, reach: Reach) -> Side {
        if self.classes.is_local(subject) {
            if subject == peer {
                return Side::Itself;
            }
            let mut local =
                self.classes.subjects(subject).filter_map(|key| Some((key, self.subjects.get(key)?)));
            let Some((key, first)) = local.next() else { return Side::NotJudged };
            if local.any(|(_, other)| other.keys[direction as usize] != first.keys[direction as usize]) {
                return Side::UnknownPod { allowed: false };
            }
            return match first.pod() {
                Some(pod) if pod.host_network => Side::NotJudged,
                Some(pod) => self.side_of(direction, &pod, Some(key), peer, flow),
                None => Side::UnknownPod { allowed: self.settings.unknown == Unknown::Open },
            };
        }
        match self.pods_at(subject).as_slice() {
            [_] if reach == Reach::Cluster && subject == peer => Side::Itself,
            [pod] if reach == Reach::Cluster => self.side_of(direction, pod, None, peer, flow),
            [_, _, ..] if reach == Reach::Cluster => Side::UnknownPod { allowed: false },
            _ => Side::NotJudged,
        }
    }

    /// Where a pod is known. `subject`: its attachment, when it is on this node.
    fn side_of(
        &self,
        direction: Direction,
        pod: &Pod,
        subject: Option<&String>,
        peer: IpAddr,
        flow: &Flow,
    ) -> Side {
        let namespace = &pod.key.namespace;
        let applies = |policy: &Policy| {
            let selector = &policy.subjects;
            index::is_in(&selector.namespaces, namespace, self.labels_of(namespace))
                && selector.pods.matches(&pod.labels)
        };
        let mut policies: Vec<(&Policy, &[TierRule])> = self
            .slots
            .values()
            .filter(|slot| subject.map_or(slot.is_live(), |key| slot.applies_to(key)))
            .filter_map(|slot| Some((slot.policy.as_ref(), slot.policy.rules(direction)?)))
            .filter(|(policy, _)| applies(policy))
            .collect();
        if policies.is_empty() {
            return Side::NotIsolated;
        }
        policies.sort_by(|(a, _), (b, _)| (a.id.tier, a.order, &a.id).cmp(&(b.id.tier, b.order, &b.id)));
        let is_isolating = |policy: &Policy| policy.id.tier == Tier::NetworkPolicy;
        let isolated = policies.iter().any(|(policy, _)| is_isolating(policy));
        let peers = self.pods_at(peer);
        let matching = policies.iter().flat_map(|(policy, rules)| {
            let matches = |(_, rule): &(usize, &TierRule)| {
                self.is_peer(rule, peer, &peers) && is_port(rule, direction, pod, &peers, flow)
            };
            let of_policy = rules.iter().enumerate().filter(matches);
            of_policy.map(|(at, rule)| (policy.id.tier, rule.action, (policy.id.clone(), at)))
        });
        let (verdict, by) = rules::judge::<(PolicyId, usize)>(isolated, matching);
        let by = by.map(|(policy, rule)| RuleId { policy, rule });
        match (verdict, by) {
            (Verdict::Accept, Some(by)) => Side::Allowed { by },
            (Verdict::Accept, None) => Side::AllowedByDefault,
            (Verdict::Deny, Some(by)) => Side::DeniedBy { by },
            (Verdict::Deny, None) => {
                let isolating = policies.iter().filter(|(policy, _)| is_isolating(policy));
                Side::Denied { policies: isolating.map(|(policy, _)| policy.id.clone()).collect() }
            }
        }
    }

    /// Whether a rule speaks of an address, which these pods have. Selectors have to match all of them.
    fn is_peer(&self, rule: &TierRule, address: IpAddr, pods: &[Arc<Pod>]) -> bool {
        rule.peers.is_empty()
            || rule.peers.iter().any(|peer| match peer {
                RulePeer::Block(block) => block.contains(address),
                RulePeer::Pods(selector) => {
                    let matches = |pod: &Arc<Pod>| {
                        let namespace = &pod.key.namespace;
                        index::is_in(&selector.namespaces, namespace, self.labels_of(namespace))
                            && selector.pods.matches(&pod.labels)
                    };
                    !pods.is_empty() && pods.iter().all(matches)
                }
            })
    }
}

/// Whether a rule speaks of a flow's protocol and port. Names mean what they mean at the receiver.
fn is_port(rule: &TierRule, direction: Direction, subject: &Pod, peers: &[Arc<Pod>], flow: &Flow) -> bool {
    let meant = |pod: &Pod, name: &(String, _)| -> bool {
        let named: Named = classes::resolve(&pod.named_ports, |of| of == name);
        named.get(name).is_some_and(|ports| ports.contains(&flow.port))
    };
    rule.ports.is_empty()
        || rule.ports.iter().filter(|port| port.protocol.number() == flow.protocol).any(|port| {
            match &port.ports {
                PortMatch::Any => true,
                PortMatch::Range(first, last) => (*first..=*last).contains(&flow.port),
                PortMatch::Named(name) => {
                    let name = (name.clone(), port.protocol);
                    match direction {
                        Direction::Ingress => meant(subject, &name),
                        Direction::Egress => !peers.is_empty() && peers.iter().all(|pod| meant(pod, &name)),
                    }
                }
            }
        })
}
