//! Policies of all tiers in one form. Today only NetworkPolicy objects are turned into it.

use crate::items::Verdict;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use warren_types::{
    Namespace, NetworkPolicy, PolicyKey, PolicyName, PolicyPeer, PolicyPort, PolicyRule, Selector,
};

/// Which way a packet goes, seen from the pod that a policy selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the pod.
    Egress,
    /// To the pod.
    Ingress,
}

impl Direction {
    /// Both, in the order in which packets are judged.
    pub const BOTH: [Self; 2] = [Self::Egress, Self::Ingress];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        })
    }
}

/// Policies are asked tier by tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// Rules of the cluster's administrators: the first that matches decides.
    Admin,
    /// NetworkPolicies: they only allow, and what none allows is denied to the pods that one of them selects.
    NetworkPolicy,
    /// Rules of the administrators for pods that no NetworkPolicy selects: the first that matches decides.
    Baseline,
}

/// What a rule does with what it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Action {
    /// It passes, and nobody else is asked.
    Accept,
    /// It is denied, and nobody else is asked.
    Deny,
    /// The next tier is asked.
    Pass,
}

/// What a policy is called. Policies of one tier with the same order come in the order of this.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyId {
    /// Its tier.
    pub tier: Tier,
    /// Its namespace; none for policies of the cluster.
    pub namespace: Option<Namespace>,
    /// Its name.
    pub name: PolicyName,
}

impl PolicyId {
    /// That of a NetworkPolicy.
    #[must_use]
    pub fn of(key: &PolicyKey) -> Self {
        Self { tier: Tier::NetworkPolicy, namespace: Some(key.namespace.clone()), name: key.name.clone() }
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.tier {
            Tier::NetworkPolicy => "NetworkPolicy ",
            Tier::Admin | Tier::Baseline => "ClusterNetworkPolicy ",
        })?;
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

/// Which namespaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// This one.
    Namespace(Namespace),
    /// Those with such labels.
    Matching(Selector),
}

/// Which pods.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodSelector {
    /// In which namespaces.
    pub namespaces: Scope,
    /// With which labels.
    pub pods: Selector,
}

/// Addresses: a prefix without parts of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// The prefix.
    pub cidr: IpNet,
    /// What does not belong to it.
    pub except: Vec<IpNet>,
}

impl Block {
    /// Whether an address belongs to it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(&address) && !self.except.iter().any(|except| except.contains(&address))
    }
}

/// A peer of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RulePeer {
    /// Pods of the cluster.
    Pods(PodSelector),
    /// Addresses, whoever has them.
    Block(Block),
}

/// A rule of a policy of any tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierRule {
    /// What it does.
    pub action: Action,
    /// With whom; empty: everyone.
    pub peers: Vec<RulePeer>,
    /// Ports of the receiving side; empty: everything.
    pub ports: Vec<PolicyPort>,
}

/// A policy of any tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What it is called.
    pub id: PolicyId,
    /// Within its tier the lowest is asked first. NetworkPolicies have no order, and need none.
    pub order: i32,
    /// Whose packets it judges.
    pub subjects: PodSelector,
    /// Rules for what reaches them; none when it does not speak of that.
    pub ingress: Option<Vec<TierRule>>,
    /// Rules for what they send; none when it does not speak of that.
    pub egress: Option<Vec<TierRule>>,
}

impl Policy {
    /// The same without what it allows: fail-closed, where it was asked.
    #[must_use]
    pub fn withdrawn(&self) -> Self {
        let none = match self.id.tier {
            Tier::NetworkPolicy => Vec::new(),
            Tier::Admin | Tier::Baseline => {
                vec![TierRule { action: Action::Deny, peers: Vec::new(), ports: Vec::new() }]
            }
        };
        let without = |rules: &Option<Vec<TierRule>>| rules.as_ref().map(|_| none.clone());
        Self { ingress: without(&self.ingress), egress: without(&self.egress), ..self.clone() }
    }

    /// Its rules for a direction, when it speaks of it.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> Option<&[TierRule]> {
        match direction {
            Direction::Egress => self.egress.as_deref(),
            Direction::Ingress => self.ingress.as_deref(),
        }
    }
}

impl From<&NetworkPolicy> for Policy {
    fn from(row: &NetworkPolicy) -> Self {
        let own = Scope::Namespace(row.key.namespace.clone());
        let peer = |peer: &PolicyPeer| match peer {
            PolicyPeer::Pods { namespaces, pods } => RulePeer::Pods(PodSelector {
                namespaces: namespaces.clone().map_or_else(|| own.clone(), Scope::Matching),
                pods: pods.clone(),
            }),
            PolicyPeer::Block { cidr, except } => {
                RulePeer::Block(Block { cidr: *cidr, except: except.clone() })
            }
        };
        let rule = |rule: &PolicyRule| TierRule {
            action: Action::Accept,
            peers: rule.peers.iter().map(peer).collect(),
            ports: rule.ports.clone(),
        };
        let rules = |rules: &Vec<PolicyRule>| rules.iter().map(rule).collect();
        Self {
            id: PolicyId::of(&row.key),
            order: 0,
            subjects: PodSelector { namespaces: own.clone(), pods: row.pods.clone() },
            ingress: row.ingress.as_ref().map(rules),
            egress: row.egress.as_ref().map(rules),
        }
    }
}

/// The verdict of rules that match a packet, given in the order of their tiers and in their order within, and the one
/// that decided; `isolated`: whether a NetworkPolicy selects the pod in this direction.
pub(crate) fn judge<T>(
    isolated: bool,
    matching: impl IntoIterator<Item = (Tier, Action, T)>,
) -> (Verdict, Option<T>) {
    let mut passed = None;
    for (tier, action, rule) in matching {
        if passed == Some(tier) {
            continue;
        }
        if tier == Tier::Baseline && isolated {
            break;
        }
        match action {
            Action::Accept => return (Verdict::Accept, Some(rule)),
            Action::Deny => return (Verdict::Deny, Some(rule)),
            Action::Pass => passed = Some(tier),
        }
    }
    (if isolated { Verdict::Deny } else { Verdict::Accept }, None)
}
