//! From rows that have changed to elements that have.

use crate::classes::{self, Class, Concerned};
use crate::engine::{Committed, Engine, Known, Life};
use crate::index;
use crate::items::{Item, Verdict};
use crate::peers::{Holder, Moved};
use crate::rules::{Direction, Tier};
use std::collections::{BTreeMap, BTreeSet};
use warren_types::{Labels, Namespace, PodKey};

/// Elements that came (true) and went (false), in the order in which they did.
type Changes = Vec<(Item, bool)>;

impl Engine {
    /// Compiles what has changed.
    pub fn commit(&mut self) -> Committed {
        let mut changes = Changes::new();
        let namespaces = std::mem::take(&mut self.dirty_namespaces);
        self.settle_policies();
        self.select(&namespaces);
        let (stale, freed) = self.classes.settle(&self.subjects, &mut changes);
        let compiled = self.compile(stale, freed, &mut changes);
        self.settle_claims(&namespaces);
        let moved = self.peers.settle_addresses(&mut changes);
        self.settle_covers(&compiled, moved, &mut changes);
        self.forget_namespaces();
        self.committed(changes)
    }

    /// Decides of policies whose object is gone whether they stay.
    fn settle_policies(&mut self) {
        let is_going = |known: Option<&Known>| known.is_none_or(Known::is_going);
        let removed = |number: &u32| self.slots.get(number).is_some_and(|slot| slot.life == Life::Removed);
        let removed: Vec<u32> = self.dirty_policies.iter().copied().filter(removed).collect();
        for number in removed.into_iter().chain(self.held.clone()) {
            let Some(slot) = self.slots.get_mut(&number) else { continue };
            let before = match &slot.life {
                Life::Live => continue,
                Life::Removed => BTreeSet::new(),
                Life::Held(subjects) => subjects.clone(),
            };
            let namespace = slot.policy.id.namespace.as_ref().filter(|_| slot.row.is_some());
            let going = namespace.is_some_and(|name| is_going(self.namespaces.get(name)));
            let of_it = self.subjects.iter().filter(|(_, l)| Some(&l.subject.pod.namespace) == namespace);
            let now: BTreeSet<String> =
                of_it.map(|(key, _)| key).filter(|key| going || before.contains(*key)).cloned().collect();
            if now != before || slot.life == Life::Removed {
                self.unkept.policies.insert(slot.policy.id.clone());
                self.dirty_policies.insert(number);
            }
            if now.is_empty() {
                self.selecting.remove(&slot.policy.subjects, number);
                self.slot_ids.remove(&slot.policy.id);
                let removed = slot.life == Life::Removed && !going;
                if let Some(row) = slot.row.clone().filter(|_| removed) {
                    self.recent.insert(slot.policy.id.clone(), row);
                }
                self.slots.remove(&number);
                self.set_held_slot(number, false);
            } else {
                slot.life = Life::Held(now);
                self.set_held_slot(number, true);
            }
        }
    }

    /// Finds which policies select which subjects.
    fn select(&mut self, namespaces: &BTreeSet<Namespace>) {
        let mut dirty = std::mem::take(&mut self.dirty_subjects);
        for pod in &self.dirty_pods {
            dirty.extend(self.by_pod.get(pod).into_iter().flatten().cloned());
        }
        if !namespaces.is_empty() {
            let in_them = self.subjects.iter().filter(|(_, l)| namespaces.contains(&l.subject.pod.namespace));
            dirty.extend(in_them.map(|(key, _)| key.clone()));
        }
        let policies = std::mem::take(&mut self.dirty_policies);
        // Those that are looked at as a whole below need not be looked at for each policy.
        let mut touched: BTreeSet<String> = BTreeSet::new();
        for number in &policies {
            self.classes.policy_changed(*number);
            let slot = self.slots.get(number);
            for (key, local) in self.subjects.iter_mut().filter(|(key, _)| !dirty.contains(*key)) {
                let namespace = &local.subject.pod.namespace;
                let of_it = self.namespaces.get(namespace).and_then(|known| known.last.as_ref());
                let selected = slot.is_some_and(|slot| {
                    let wanted = &slot.policy.subjects;
                    slot.applies_to(key)
                        && index::is_in(&wanted.namespaces, namespace, of_it.map(|row| &row.labels))
                        && local.labels().is_some_and(|labels| wanted.pods.matches(labels))
                });
                match (local.policies.binary_search(number), selected) {
                    (Ok(at), false) => {
                        local.policies.remove(at);
                    }
                    (Err(at), true) => local.policies.insert(at, *number),
                    (Ok(_), true) => {}
                    (Err(_), false) => continue,
                }
                touched.insert(key.clone());
            }
        }
        for key in &dirty {
            let Some(local) = self.subjects.get(key) else { continue };
            let namespace = &local.subject.pod.namespace;
            let mut found = match local.pod() {
                Some(pod) => self.selecting.matching(namespace, self.labels_of(namespace), &pod.labels),
                None => Vec::new(),
            };
            found.retain(|number| self.slots.get(number).is_some_and(|slot| slot.applies_to(key)));
            if let Some(local) = self.subjects.get_mut(key) {
                local.policies = found;
            }
        }
        for key in touched.into_iter().chain(dirty) {
            let Some(local) = self.subjects.get_mut(&key) else { continue };
            let keys = Direction::BOTH.map(|d| local.key(d, &self.slots, self.settings.unknown));
            if local.keys != keys {
                local.keys = keys;
                self.classes.touch(&local.subject.addresses);
            }
            // A subject may have come with the addresses of another.
            self.dirty_pods.insert(local.subject.pod.clone());
        }
    }

    /// Compiles the classes that are new or changed, and forgets those that are gone.
    fn compile(
        &mut self,
        stale: BTreeSet<u32>,
        freed: Vec<(u32, Class)>,
        changes: &mut Changes,
    ) -> BTreeMap<u32, Concerned> {
        let mut compiled = BTreeMap::new();
        for number in &stale {
            let policies = self.classes.policies(*number, &self.slots);
            let Some(class) = self.classes.classes.get_mut(number) else { continue };
            let (atoms, names) = (class.atoms(), class.names().clone());
            // A class that was not compiled yet has given nothing.
            if class.is_compiled {
                changes.extend(class.own_items(*number).into_iter().map(|item| (item, false)));
            }
            let peers = &mut self.peers;
            let concerned = class.compile(&policies, &mut |peer| peers.intern(peer));
            compiled.insert(*number, concerned);
            changes.extend(class.own_items(*number).into_iter().map(|item| (item, true)));
            let (atoms_now, names_now) = (class.atoms(), class.names());
            for atom in atoms_now.difference(&atoms) {
                peers.set_use(*atom, *number, true);
            }
            for atom in atoms.difference(&atoms_now) {
                peers.set_use(*atom, *number, false);
            }
            for name in names_now.difference(&names) {
                peers.set_name_use(name, *number, true);
            }
            for name in names.difference(names_now) {
                peers.set_name_use(name, *number, false);
            }
        }
        for (number, class) in freed {
            if class.is_compiled {
                changes.extend(class.own_items(number).into_iter().map(|item| (item, false)));
            }
            for (identity, cover) in &class.peers {
                changes.extend(classes::peer_items(number, *identity, cover).map(|item| (item, false)));
            }
            for atom in class.atoms() {
                self.peers.set_use(atom, number, false);
            }
            for name in class.names() {
                self.peers.set_name_use(name, number, false);
            }
        }
        compiled
    }

    /// Finds who has which addresses, and what matches them.
    fn settle_claims(&mut self, namespaces: &BTreeSet<Namespace>) {
        let mut fully = BTreeSet::new();
        for key in std::mem::take(&mut self.dirty_pods) {
            fully.extend(self.claim_of_row(&key));
            for subject in self.by_pod.get(&key).into_iter().flatten() {
                let Some(local) = self.subjects.get(subject) else { continue };
                let pod = local.pod().filter(|pod| !pod.host_network && !pod.finished);
                let claim = pod.map(|pod| (pod, local.subject.addresses.clone()));
                fully.extend(self.peers.claim(Holder::Subject(subject.clone()), claim));
            }
        }
        for subject in std::mem::take(&mut self.gone_subjects) {
            if !self.subjects.contains_key(&subject) {
                self.peers.claim(Holder::Subject(subject), None);
            }
        }
        for namespace in namespaces {
            fully.extend(self.peers.in_namespace(namespace));
        }
        let known = &self.namespaces;
        let labels = |namespace: &Namespace| -> Option<&Labels> {
            known.get(namespace)?.last.as_ref().map(|row| &row.labels)
        };
        self.peers.settle_atoms(&labels, &fully);
        for id in fully {
            self.peers.evaluate(id, &labels);
        }
    }

    /// The addresses that a row gives its pod.
    fn claim_of_row(&mut self, key: &PodKey) -> Option<u32> {
        let claim = self.pods.get(key).filter(|row| {
            let attached = self.by_pod.get(key).into_iter().flatten();
            let mut attached = attached.filter_map(|subject| self.subjects.get(subject));
            let here = row.node.is_some() && row.node == self.settings.node;
            !row.host_network && !row.finished && !here && !attached.any(|local| local.is_of(row))
        });
        let claim = claim.map(|row| (row.clone(), row.ips.clone()));
        self.peers.claim(Holder::Pod(key.clone()), claim)
    }

    /// Finds what passes between classes and identities where either is new or different.
    fn settle_covers(&mut self, compiled: &BTreeMap<u32, Concerned>, moved: Moved, changes: &mut Changes) {
        let all = &mut self.classes.classes;
        for identity in &moved.gone {
            for (number, class) in all.iter_mut() {
                if let Some(cover) = class.peers.remove(identity) {
                    changes.extend(classes::peer_items(*number, *identity, &cover).map(|item| (item, false)));
                }
            }
        }
        for (number, whom) in compiled {
            let Some(class) = all.get_mut(number) else { continue };
            class.is_compiled = true;
            for (identity, key) in self.peers.identities() {
                // What it had and lost counts as well: the rule that named it may be gone too.
                let lost = moved.stale.get(&identity).into_iter().flat_map(|stale| &stale.atoms);
                if whom.has(key.atoms.iter().chain(lost)) {
                    self.peers.refresh(*number, class, identity, changes);
                }
            }
        }
        let for_everyone: Vec<u32> = match moved.stale.values().any(|stale| stale.new) {
            true => all.iter().filter(|(_, class)| class.is_for_everyone()).map(|(n, _)| *n).collect(),
            false => Vec::new(),
        };
        for (identity, stale) in moved.stale {
            let mut concerned: BTreeSet<u32> =
                stale.atoms.iter().flat_map(|atom| self.peers.users(*atom)).collect();
            concerned.extend(stale.names.iter().flat_map(|name| self.peers.users_of_name(name)));
            if stale.new {
                concerned.extend(&for_everyone);
            }
            for number in concerned {
                if let Some(class) = all.get_mut(&number) {
                    self.peers.refresh(number, class, identity, changes);
                }
            }
        }
    }

    /// A namespace without a row, pods and subjects is not worth keeping.
    fn forget_namespaces(&mut self) {
        for name in std::mem::take(&mut self.departed) {
            if self.peers.in_namespace(&name).next().is_some()
                || self.subjects.values().any(|local| local.subject.pod.namespace == name)
            {
                self.departed.insert(name);
            } else {
                self.namespaces.remove(&name);
                self.unkept.namespaces.insert(name);
            }
        }
    }

    fn committed(&self, changes: Changes) -> Committed {
        let mut counts: BTreeMap<Item, i32> = BTreeMap::new();
        for (item, came) in changes {
            *counts.entry(item).or_default() += if came { 1 } else { -1 };
        }
        let mut out = Committed::default();
        for (item, count) in counts {
            match count.signum() {
                1 => drop(out.add.insert(item)),
                -1 => drop(out.remove.insert(item)),
                _ => {}
            }
        }
        let only_allows = self.slot_ids.keys().all(|id| id.tier == Tier::NetworkPolicy);
        let forbids = |item: &Item, came: bool| match item {
            Item::Local { .. } => came,
            Item::Peer { verdict, .. } | Item::Block { verdict, .. } => came == (*verdict == Verdict::Deny),
            // As long as rules only allow, an identity allows more than none.
            Item::Identity { .. } => !came || !only_allows,
            Item::Closed { .. } | Item::Loop { .. } => false,
        };
        out.tightened = out.add.iter().any(|item| forbids(item, true))
            || out.remove.iter().any(|item| forbids(item, false));
        out
    }
}
