//! What people ask of the engine: who is selected, what a policy costs, where a pod is.

use crate::classes::{self, ClassKey};
use crate::engine::{Engine, Life};
use crate::rules::{Policy, PolicyId};
use crate::status::PolicyStatus;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use warren_types::{NodeName, PodKey};

/// What a policy has in the kernel of this node. Classes may be shared with other policies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Classes of pods that it is part of.
    pub classes: usize,
    /// Elements of these classes.
    pub elements: usize,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Policies in force, held ones included.
    pub policies: usize,
    /// Those whose objects are gone.
    pub held: usize,
    /// Those that the kernel refuses.
    pub refused: usize,
    /// Attachments of this node that are isolated, in either direction.
    pub isolated: usize,
    /// Attachments of this node of whose pods nothing is known.
    pub unknown: usize,
}

/// Where a pod is found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its node.
    pub node: Option<NodeName>,
    /// Whether it is in its node's network.
    pub host_network: bool,
    /// Whether it has ended.
    pub finished: bool,
}

impl Engine {
    /// The policy of a name, as far as it is in force.
    #[must_use]
    pub fn policy(&self, id: &PolicyId) -> Option<&Arc<Policy>> {
        let slot = self.slots.get(self.slot_ids.get(id)?)?;
        Some(slot.refused.as_ref().unwrap_or(&slot.policy))
    }

    /// Whether the kernel refuses a policy, of which nothing is allowed then.
    #[must_use]
    pub fn is_refused(&self, id: &PolicyId) -> bool {
        let slot = self.slot_ids.get(id).and_then(|number| self.slots.get(number));
        slot.is_some_and(|slot| slot.refused.is_some())
    }

    /// Whether a policy stays in force without its object.
    #[must_use]
    pub fn is_held(&self, id: &PolicyId) -> bool {
        let slot = self.slot_ids.get(id).and_then(|number| self.slots.get(number));
        slot.is_some_and(|slot| matches!(slot.life, Life::Held(_)))
    }

    /// The pods of this node that a policy selects, as of the last commit.
    #[must_use]
    pub fn selected_pods(&self, id: &PolicyId) -> BTreeSet<PodKey> {
        let subjects = self.selected(id).into_iter().filter_map(|key| self.subjects.get(key));
        subjects.map(|local| local.subject.pod.clone()).collect()
    }

    /// What a policy has in the kernel, as of the last commit.
    #[must_use]
    pub fn cost(&self, id: &PolicyId) -> Cost {
        let Some(slot) = self.slot_ids.get(id) else { return Cost::default() };
        let mut cost = Cost::default();
        for (number, class) in &self.classes.classes {
            let ClassKey::Of { policies, .. } = &class.key else { continue };
            if policies.binary_search(slot).is_err() {
                continue;
            }
            let peers =
                class.peers.iter().map(|(id, cover)| classes::peer_items(*number, *id, cover).count());
            cost.classes += 1;
            cost.elements += class.own_items(*number).len() + peers.sum::<usize>();
        }
        cost
    }

    /// How much there is, as of the last commit.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let locals = || self.subjects.values();
        Counts {
            policies: self.slot_ids.len(),
            held: self.held.len(),
            refused: self.slots.values().filter(|slot| slot.refused.is_some()).count(),
            isolated: locals().filter(|local| local.keys.iter().any(Option::is_some)).count(),
            unknown: locals().filter(|local| local.pod().is_none()).count(),
        }
    }

    /// Where a pod is; none when there is no such pod.
    #[must_use]
    pub fn place(&self, key: &PodKey) -> Option<Place> {
        let row = self.pods.get(key);
        let subjects = self.by_pod.get(key).into_iter().flatten().filter_map(|key| self.subjects.get(key));
        let here: Vec<IpAddr> = subjects.flat_map(|local| local.subject.addresses.iter().copied()).collect();
        match row {
            None if here.is_empty() => None,
            None => Some(Place { addresses: here, node: self.settings.node.clone(), ..Place::default() }),
            Some(row) => Some(Place {
                addresses: if here.is_empty() { row.ips.clone() } else { here },
                node: row.node.clone(),
                host_network: row.host_network,
                finished: row.finished,
            }),
        }
    }

    /// The node of the pod that has an address, where it has one of its own.
    #[must_use]
    pub fn node_at(&self, address: IpAddr) -> Option<&NodeName> {
        if self.classes.is_local(address) {
            return self.settings.node.as_ref();
        }
        let mut pods = self.peers.holders(address).map(|(_, pod)| pod);
        let pod = pods.next().filter(|pod| !pod.host_network)?;
        if pods.next().is_some() { None } else { pod.node.as_ref() }
    }
}

impl PolicyStatus {
    /// One that shows an engine which nobody keeps up to date.
    #[must_use]
    pub fn of(engine: Engine) -> Self {
        let status = Self::default();
        status.with(|slot| *slot = Some(engine));
        status
    }
}
