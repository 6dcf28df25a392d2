//! All policies at once: what the kernel should have, and what one change makes of it.
//!
//! The engine holds rows and what follows from them, not the kernel's state. [`Engine::commit`] gives the difference between
//! what it gave before and what holds now; [`Engine::items`] gives everything.

use crate::classes::{self, ClassKey};
use crate::decide::Flow;
use crate::index::Index;
use crate::items::{Item, Verdict};
use crate::keep::Unkept;
use crate::locals::{Classes, Local};
use crate::peers::{Peers, next_number};
use crate::rules::{Direction, Policy, PolicyId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use warren_types::{Labels, Namespace, NamespaceState, NetworkPolicy, NodeName, Pod, PodKey, PolicyKey};

/// What is done with a pod of this node of which nothing is known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unknown {
    /// Nothing passes.
    #[default]
    Closed,
    /// Everything passes.
    Open,
}

/// What the engine is told once.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// What is done with pods of this node of which nothing is known yet.
    pub unknown: Unknown,
    /// This node: addresses of its pods are those of attachments, whatever their rows say. None: only the rows of pods that
    /// have an attachment are not believed.
    pub node: Option<NodeName>,
}

/// A pod of this node: an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The pod.
    pub pod: PodKey,
    /// Its uid, when known: a row with another is not of this pod.
    pub uid: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its labels as far as the attachment tells them; used until there is a row.
    pub labels: Option<Labels>,
}

/// What a commit brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// Elements that the kernel lacks.
    pub add: BTreeSet<Item>,
    /// Elements that it should have no longer; they go first.
    pub remove: BTreeSet<Item>,
    /// Whether a flow that was allowed before may be forbidden now.
    pub tightened: bool,
}

impl Committed {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

/// How long a policy applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Life {
    /// Its object is there.
    Live,
    /// Its object went since the last commit.
    Removed,
    /// Its object is gone; it stays for these subjects.
    Held(BTreeSet<String>),
}

#[derive(Debug, Clone)]
pub(crate) struct Slot {
    /// As it is judged by.
    pub(crate) policy: Arc<Policy>,
    /// As it was written, when the kernel refuses it and it is judged by without what it allows.
    pub(crate) refused: Option<Arc<Policy>>,
    pub(crate) row: Option<Arc<NetworkPolicy>>,
    pub(crate) life: Life,
}

impl Slot {
    /// Whether its object is there.
    pub(crate) fn is_live(&self) -> bool {
        self.life == Life::Live
    }

    /// Whether it applies to a subject that it selects.
    pub(crate) fn applies_to(&self, subject: &str) -> bool {
        match &self.life {
            Life::Live => true,
            Life::Removed => false,
            Life::Held(subjects) => subjects.contains(subject),
        }
    }
}

/// A namespace as far as it is known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    pub(crate) row: Option<Arc<NamespaceState>>,
    /// Its latest row.
    pub(crate) last: Option<Arc<NamespaceState>>,
}

impl Known {
    /// Whether it is being deleted, or is gone.
    pub(crate) fn is_going(&self) -> bool {
        self.row.as_ref().is_none_or(|row| row.terminating)
    }
}

/// A class as people may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassInfo {
    /// Its direction.
    pub direction: Direction,
    /// Its policies; none: pods of which nothing is known.
    pub policies: Vec<PolicyId>,
    /// Whether it denies what no rule decides.
    pub closed: bool,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Engine {
    pub(crate) settings: Settings,
    pub(crate) namespaces: HashMap<Namespace, Known>,
    pub(crate) pods: HashMap<PodKey, Arc<Pod>>,
    pub(crate) slot_ids: BTreeMap<PolicyId, u32>,
    pub(crate) slots: HashMap<u32, Slot>,
    /// Whom policies select.
    pub(crate) selecting: Index,
    pub(crate) held: BTreeSet<u32>,
    /// Policies that were removed a while ago.
    pub(crate) recent: BTreeMap<PolicyId, Arc<NetworkPolicy>>,
    pub(crate) subjects: BTreeMap<String, Local>,
    pub(crate) by_pod: HashMap<PodKey, BTreeSet<String>>,
    pub(crate) classes: Classes,
    pub(crate) peers: Peers,
    next_slot: u32,
    pub(crate) dirty_namespaces: BTreeSet<Namespace>,
    pub(crate) dirty_pods: BTreeSet<PodKey>,
    pub(crate) dirty_policies: BTreeSet<u32>,
    pub(crate) dirty_subjects: BTreeSet<String>,
    /// Attachments that are gone, but whose addresses are still claimed.
    pub(crate) gone_subjects: BTreeSet<String>,
    /// Namespaces without a row.
    pub(crate) departed: BTreeSet<Namespace>,
    /// How many attachments there are in a namespace.
    pub(crate) inhabited: HashMap<Namespace, usize>,
    pub(crate) unkept: Unkept,
}

impl Engine {
    /// An engine that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// A namespace is like this now, or gone. While there are pods in it, its last labels stay.
    pub fn set_namespace(&mut self, name: &Namespace, row: Option<Arc<NamespaceState>>) {
        if self.namespaces.get(name).and_then(|known| known.row.as_ref()) == row.as_ref() {
            return;
        }
        let known = self.namespaces.entry(name.clone()).or_default();
        match &row {
            Some(row) => {
                known.last = Some(row.clone());
                self.departed.remove(name);
            }
            None => drop(self.departed.insert(name.clone())),
        }
        known.row = row;
        let going = known.is_going();
        self.dirty_namespaces.insert(name.clone());
        self.unkept.namespaces.insert(name.clone());
        if going {
            self.revive(name);
        }
    }

    /// Policies and namespaces are watched apart: a policy's removal may be seen before the deletion that it is part of.
    fn revive(&mut self, namespace: &Namespace) {
        let of_it = |id: &PolicyId| id.namespace.as_ref() == Some(namespace);
        let (back, recent) = std::mem::take(&mut self.recent).into_iter().partition(|(id, _)| of_it(id));
        self.recent = recent;
        let back: BTreeMap<PolicyId, Arc<NetworkPolicy>> = back;
        for (id, row) in back {
            self.put(&id, Arc::new(Policy::from(row.as_ref())), Some(row), Life::Removed);
        }
    }

    /// Forgets policies that were removed from namespaces that are still there. Until then they come back when their namespace
    /// turns out to be going: it is to be called every few seconds.
    pub fn forget_removed(&mut self) {
        self.unkept.policies.extend(std::mem::take(&mut self.recent).into_keys());
    }

    /// A pod is like this now, or gone. For a pod of this node the last row stays.
    pub fn set_pod(&mut self, key: &PodKey, row: Option<Arc<Pod>>) {
        if self.pods.get(key) == row.as_ref() {
            return;
        }
        self.unkept.subjects.extend(self.by_pod.get(key).into_iter().flatten().cloned());
        if let Some(row) = &row {
            for subject in self.by_pod.get(key).into_iter().flatten() {
                if let Some(local) = self.subjects.get_mut(subject).filter(|local| local.is_of(row)) {
                    local.last = Some(row.clone());
                }
            }
        }
        match row {
            Some(row) => self.pods.insert(key.clone(), row),
            None => self.pods.remove(key),
        };
        self.dirty_pods.insert(key.clone());
    }

    /// An attachment is like this now, or gone.
    pub fn set_subject(&mut self, key: &str, subject: Option<Subject>) {
        let before = self.subjects.get(key);
        if before.map(|local| &local.subject) == subject.as_ref() {
            return;
        }
        let mut last = None;
        if let Some(before) = self.subjects.remove(key) {
            self.inhabit(&before.subject.pod.namespace, false);
            for address in &before.subject.addresses {
                self.classes.set_address(*address, key, false);
            }
            if let Some(of_pod) = self.by_pod.get_mut(&before.subject.pod) {
                of_pod.remove(key);
                if of_pod.is_empty() {
                    self.by_pod.remove(&before.subject.pod);
                }
            }
            self.dirty_pods.insert(before.subject.pod.clone());
            last = before.last;
        }
        if let Some(subject) = subject {
            let mut local = Local::new(subject);
            let row = self.pods.get(&local.subject.pod).cloned();
            local.last = row.into_iter().chain(last).find(|row| local.is_of(row));
            for address in &local.subject.addresses {
                self.classes.set_address(*address, key, true);
            }
            self.by_pod.entry(local.subject.pod.clone()).or_default().insert(key.to_owned());
            self.inhabit(&local.subject.pod.namespace, true);
            self.dirty_pods.insert(local.subject.pod.clone());
            self.subjects.insert(key.to_owned(), local);
        } else {
            self.gone_subjects.insert(key.to_owned());
        }
        self.dirty_subjects.insert(key.to_owned());
        self.unkept.subjects.insert(key.to_owned());
    }

    /// A NetworkPolicy is like this now, or gone. While its namespace is being deleted it stays for the pods that are there.
    pub fn set_policy(&mut self, key: &PolicyKey, row: Option<Arc<NetworkPolicy>>) {
        let id = PolicyId::of(key);
        match row {
            Some(row) => {
                let policy = Arc::new(Policy::from(row.as_ref()));
                self.put(&id, policy, Some(row), Life::Live);
            }
            None => self.take(&id),
        }
    }

    /// A policy of any tier is like this now, or gone.
    pub fn set_rules(&mut self, id: &PolicyId, policy: Option<Arc<Policy>>) {
        match policy {
            Some(policy) => self.put(id, policy, None, Life::Live),
            None => self.take(id),
        }
    }

    pub(crate) fn put(
        &mut self,
        id: &PolicyId,
        policy: Arc<Policy>,
        row: Option<Arc<NetworkPolicy>>,
        life: Life,
    ) {
        let number = match self.slot_ids.get(id) {
            Some(number) => *number,
            None => {
                let number = next_number(&mut self.next_slot, |number| self.slots.contains_key(&number));
                self.slot_ids.insert(id.clone(), number);
                number
            }
        };
        self.recent.remove(id);
        self.unkept.policies.insert(id.clone());
        self.set_held_slot(number, matches!(life, Life::Held(_)));
        let mut before = self.slots.remove(&number);
        let is_written = |slot: &&mut Slot| slot.refused.as_ref() == Some(&policy) && slot.life == life;
        if let Some(slot) = before.as_mut().filter(is_written) {
            slot.row = row;
            self.slots.extend(before.map(|slot| (number, slot)));
            return;
        }
        let subjects = |slot: &Slot| slot.policy.subjects.clone();
        if before.as_ref().map(subjects).as_ref() != Some(&policy.subjects) {
            if let Some(before) = &before {
                self.selecting.remove(&before.policy.subjects, number);
            }
            self.selecting.insert(&policy.subjects, number);
        }
        if before.is_none_or(|before| before.policy != policy || before.life != life) {
            self.dirty_policies.insert(number);
        }
        self.slots.insert(number, Slot { policy, refused: None, row, life });
    }

    fn take(&mut self, id: &PolicyId) {
        let Some(number) = self.slot_ids.get(id).copied() else { return };
        if let Some(slot) = self.slots.get_mut(&number).filter(|slot| slot.life == Life::Live) {
            slot.life = Life::Removed;
            self.dirty_policies.insert(number);
        }
    }

    pub(crate) fn set_held_slot(&mut self, number: u32, held: bool) {
        if held {
            self.held.insert(number);
        } else {
            self.held.remove(&number);
        }
    }

    /// The labels of a namespace, as far as they are known.
    pub(crate) fn labels_of(&self, namespace: &Namespace) -> Option<&Labels> {
        self.namespaces.get(namespace)?.last.as_ref().map(|row| &row.labels)
    }

    /// Everything that the kernel should have, as of the last commit.
    #[must_use]
    pub fn items(&self) -> BTreeSet<Item> {
        let mut out: BTreeSet<Item> = self.classes.items().chain(self.peers.items()).collect();
        for (number, class) in &self.classes.classes {
            out.extend(class.own_items(*number));
            for (identity, cover) in &class.peers {
                out.extend(classes::peer_items(*number, *identity, cover));
            }
        }
        out
    }

    /// Whether this node lets a flow pass, as of the last commit. It is asked of connections that are tracked: the flow is that
    /// of a connection's first packet, after the translation of its destination.
    #[must_use]
    pub fn is_allowed(&self, flow: &Flow) -> bool {
        if flow.source == flow.destination && self.classes.is_local(flow.source) {
            return true;
        }
        self.passes(Direction::Egress, flow.source, flow.destination, flow)
            && self.passes(Direction::Ingress, flow.destination, flow.source, flow)
    }

    fn passes(&self, direction: Direction, subject: IpAddr, peer: IpAddr, flow: &Flow) -> bool {
        let Some(number) = self.classes.class_of(subject, direction) else { return true };
        let Some(class) = self.classes.classes.get(&number) else { return true };
        let cover = match self.peers.identity_of(peer) {
            Some(identity) => class.peers.get(&identity),
            None => class.cover_at(peer),
        };
        let found = cover.into_iter().flat_map(|cover| cover.iter());
        let mut found = found.filter(|ports| ports.contains(flow.protocol, flow.port));
        found.next().map_or(class.default_verdict(), |ports| ports.verdict) == Verdict::Accept
    }

    /// Whether it holds nothing at all.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.slots.is_empty()
            && self.slot_ids.is_empty()
            && self.held.is_empty()
            && self.recent.is_empty()
            && self.namespaces.is_empty()
            && self.departed.is_empty()
            && self.inhabited.is_empty()
            && self.by_pod.is_empty()
            && self.selecting.is_idle()
            && self.classes.is_idle()
            && self.peers.is_idle()
    }

    /// The class of an address of this node in a direction; none: not isolated.
    #[must_use]
    pub fn class_of(&self, address: IpAddr, direction: Direction) -> Option<u32> {
        self.classes.class_of(address, direction)
    }

    /// What a class is.
    #[must_use]
    pub fn class(&self, number: u32) -> Option<ClassInfo> {
        let class = self.classes.classes.get(&number)?;
        Some(match &class.key {
            ClassKey::Unknown(direction) => {
                ClassInfo { direction: *direction, policies: Vec::new(), closed: true }
            }
            ClassKey::Of { direction, policies, .. } => ClassInfo {
                direction: *direction,
                policies: policies
                    .iter()
                    .filter_map(|policy| Some(self.slots.get(policy)?.policy.id.clone()))
                    .collect(),
                closed: class.closed,
            },
        })
    }

    /// The numbers of all classes.
    pub fn classes(&self) -> impl Iterator<Item = u32> {
        self.classes.classes.keys().copied()
    }

    /// The policies that are in force, held ones included, in the order of their names.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.slot_ids.values().filter_map(|number| self.slots.get(number)).map(|slot| &slot.policy)
    }

    /// The attachments that a policy selects, as of the last commit.
    #[must_use]
    pub fn selected(&self, id: &PolicyId) -> Vec<&str> {
        let Some(number) = self.slot_ids.get(id) else { return Vec::new() };
        let selects = |local: &Local| local.policies.binary_search(number).is_ok();
        self.subjects.iter().filter(|(_, local)| selects(local)).map(|(key, _)| key.as_str()).collect()
    }
}
