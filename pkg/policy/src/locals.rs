//! Pods of this node, and the classes that their addresses have.

use crate::classes::{self, Class, ClassKey, Named, PortName};
use crate::engine::{Slot, Subject, Unknown};
use crate::items::Item;
use crate::peers::next_number;
use crate::rules::{Direction, Policy};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use warren_types::{Labels, Pod, PortMatch};

/// A subject and what is known of it.
#[derive(Debug, Clone)]
pub(crate) struct Local {
    pub(crate) subject: Subject,
    /// The latest row of its pod.
    pub(crate) last: Option<Arc<Pod>>,
    /// The policies that select it, ascending.
    pub(crate) policies: Vec<u32>,
    /// What decides, for each direction; none: not isolated.
    pub(crate) keys: [Option<ClassKey>; 2],
}

impl Local {
    pub(crate) fn new(subject: Subject) -> Self {
        Self { subject, last: None, policies: Vec::new(), keys: [None, None] }
    }

    /// Whether a row is of this pod, and not of another with the same name: the uid tells, or labels that the attachment has.
    pub(crate) fn is_of(&self, row: &Pod) -> bool {
        let Subject { pod, uid, labels, .. } = &self.subject;
        *pod == row.key
            && uid.as_ref().is_none_or(|uid| *uid == row.uid)
            && labels.iter().flatten().all(|(key, value)| row.labels.get(key) == Some(value))
    }

    /// The pod as far as it is known.
    pub(crate) fn pod(&self) -> Option<Arc<Pod>> {
        if let Some(last) = &self.last {
            return Some(last.clone());
        }
        let labels = self.subject.labels.clone()?;
        Some(Arc::new(Pod {
            key: self.subject.pod.clone(),
            uid: self.subject.uid.clone().unwrap_or_default(),
            node: None,
            ips: self.subject.addresses.clone(),
            host_network: false,
            labels,
            finished: false,
            named_ports: Vec::new(),
        }))
    }

    /// Its labels as far as they are known.
    pub(crate) fn labels(&self) -> Option<&Labels> {
        self.last.as_ref().map(|row| &row.labels).or(self.subject.labels.as_ref())
    }

    /// What decides for it in a direction.
    pub(crate) fn key(
        &self,
        direction: Direction,
        slots: &HashMap<u32, Slot>,
        unknown: Unknown,
    ) -> Option<ClassKey> {
        let Some(pod) = self.pod() else {
            return (unknown == Unknown::Closed).then_some(ClassKey::Unknown(direction));
        };
        if pod.host_network {
            return None;
        }
        let selecting = |number: &u32| Some((*number, slots.get(number)?.policy.rules(direction)?));
        let selecting: Vec<_> = self.policies.iter().filter_map(selecting).collect();
        if selecting.is_empty() {
            return None;
        }
        let mut named = Named::new();
        if direction == Direction::Ingress && !pod.named_ports.is_empty() {
            let ports = selecting.iter().flat_map(|(_, rules)| rules.iter()).flat_map(|rule| &rule.ports);
            let names: BTreeSet<PortName> = ports
                .filter_map(|port| match &port.ports {
                    PortMatch::Named(name) => Some((name.clone(), port.protocol)),
                    _ => None,
                })
                .collect();
            named = classes::resolve(&pod.named_ports, |name| names.contains(name));
        }
        let policies = selecting.into_iter().map(|(number, _)| number).collect();
        Some(ClassKey::Of { direction, policies, named })
    }
}

/// An address of this node's pods.
#[derive(Debug, Clone, Default)]
struct Address {
    subjects: BTreeSet<String>,
    classes: [Option<u32>; 2],
    /// Whether the kernel was told of it.
    told: bool,
}

/// All classes and the addresses that have them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Classes {
    addresses: BTreeMap<IpAddr, Address>,
    numbers: HashMap<ClassKey, u32>,
    pub(crate) classes: BTreeMap<u32, Class>,
    /// By policy, the classes that it decides in.
    by_policy: HashMap<u32, BTreeSet<u32>>,
    next: u32,
    /// Addresses whose class may be another.
    dirty: BTreeSet<IpAddr>,
    /// Classes that are new, or whose policies say something else.
    stale: BTreeSet<u32>,
    /// Classes that may have no address any more.
    idle: BTreeSet<u32>,
}

impl Classes {
    /// A subject has this address now, or no longer.
    pub(crate) fn set_address(&mut self, address: IpAddr, subject: &str, here: bool) {
        let entry = self.addresses.entry(address).or_default();
        if here {
            entry.subjects.insert(subject.to_owned());
        } else {
            entry.subjects.remove(subject);
        }
        self.dirty.insert(address);
    }

    /// What decides for these addresses may be something else.
    pub(crate) fn touch(&mut self, addresses: &[IpAddr]) {
        self.dirty.extend(addresses);
    }

    /// A policy says something else.
    pub(crate) fn policy_changed(&mut self, policy: u32) {
        self.stale.extend(self.by_policy.get(&policy).into_iter().flatten());
    }

    /// Gives classes to the addresses that have changed. What is left are classes to compile, and classes to forget.
    pub(crate) fn settle(
        &mut self,
        subjects: &BTreeMap<String, Local>,
        changes: &mut Vec<(Item, bool)>,
    ) -> (BTreeSet<u32>, Vec<(u32, Class)>) {
        for address in std::mem::take(&mut self.dirty) {
            let Some(entry) = self.addresses.get(&address) else { continue };
            let (before, told) = (entry.classes, entry.told);
            let wanted = Direction::BOTH.map(|direction| key_of(&entry.subjects, subjects, direction));
            let gone = entry.subjects.is_empty();
            let now = wanted.map(|key| key.map(|key| self.acquire(key)));
            for (direction, (old, new)) in Direction::BOTH.into_iter().zip(before.into_iter().zip(now)) {
                if let Some(old) = old {
                    self.release(old);
                }
                if old != new {
                    changes.extend(old.map(|class| (Item::Local { direction, address, class }, false)));
                    changes.extend(new.map(|class| (Item::Local { direction, address, class }, true)));
                }
            }
            if told == gone {
                changes.push((Item::Loop { address }, !gone));
            }
            if gone {
                self.addresses.remove(&address);
            } else if let Some(entry) = self.addresses.get_mut(&address) {
                (entry.classes, entry.told) = (now, true);
            }
        }
        let mut freed = Vec::new();
        for number in std::mem::take(&mut self.idle) {
            if self.classes.get(&number).is_some_and(|class| class.refs == 0)
                && let Some(class) = self.classes.remove(&number)
            {
                self.numbers.remove(&class.key);
                self.stale.remove(&number);
                self.note(&class.key, number, false);
                freed.push((number, class));
            }
        }
        (std::mem::take(&mut self.stale), freed)
    }

    fn acquire(&mut self, key: ClassKey) -> u32 {
        let number = match self.numbers.get(&key) {
            Some(number) => *number,
            None => {
                let number = next_number(&mut self.next, |number| self.classes.contains_key(&number));
                self.numbers.insert(key.clone(), number);
                self.note(&key, number, true);
                self.classes.insert(number, Class::new(key));
                self.stale.insert(number);
                number
            }
        };
        if let Some(class) = self.classes.get_mut(&number) {
            class.refs += 1;
        }
        number
    }

    fn release(&mut self, number: u32) {
        if let Some(class) = self.classes.get_mut(&number) {
            class.refs -= 1;
            if class.refs == 0 {
                self.idle.insert(number);
            }
        }
    }

    fn note(&mut self, key: &ClassKey, number: u32, here: bool) {
        let ClassKey::Of { policies, .. } = key else { return };
        for policy in policies {
            let of_policy = self.by_policy.entry(*policy).or_default();
            if here {
                of_policy.insert(number);
            } else {
                of_policy.remove(&number);
                if of_policy.is_empty() {
                    self.by_policy.remove(policy);
                }
            }
        }
    }

    /// The policies of a class that is about to be compiled.
    pub(crate) fn policies(&self, number: u32, slots: &HashMap<u32, Slot>) -> Vec<Arc<Policy>> {
        match self.classes.get(&number).map(|class| &class.key) {
            Some(ClassKey::Of { policies, .. }) => {
                policies.iter().filter_map(|policy| Some(slots.get(policy)?.policy.clone())).collect()
            }
            _ => Vec::new(),
        }
    }

    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.addresses.is_empty()
            && self.numbers.is_empty()
            && self.classes.is_empty()
            && self.by_policy.is_empty()
    }

    /// Whether a pod of this node has an address.
    pub(crate) fn is_local(&self, address: IpAddr) -> bool {
        self.addresses.contains_key(&address)
    }

    /// The subjects that have an address.
    pub(crate) fn subjects(&self, address: IpAddr) -> impl Iterator<Item = &String> {
        self.addresses.get(&address).into_iter().flat_map(|entry| &entry.subjects)
    }

    /// The class of an address in a direction.
    pub(crate) fn class_of(&self, address: IpAddr, direction: Direction) -> Option<u32> {
        self.addresses.get(&address)?.classes[direction as usize]
    }

    /// Elements of addresses.
    pub(crate) fn items(&self) -> impl Iterator<Item = Item> {
        self.addresses.iter().flat_map(|(address, entry)| {
            let address = *address;
            let of_direction = move |(direction, class): (Direction, Option<u32>)| {
                Some(Item::Local { direction, address, class: class? })
            };
            let classes = Direction::BOTH.into_iter().zip(entry.classes).filter_map(of_direction);
            std::iter::once(Item::Loop { address }).chain(classes)
        })
    }
}

/// What decides for an address. Several subjects do not have one address; if they ever did, nothing passes but what is decided
/// alike for all.
fn key_of(
    subjects: &BTreeSet<String>,
    all: &BTreeMap<String, Local>,
    direction: Direction,
) -> Option<ClassKey> {
    let mut keys = subjects.iter().filter_map(|key| all.get(key)).map(|l| &l.keys[direction as usize]);
    let first = keys.next()?;
    if keys.any(|key| key != first) { Some(ClassKey::Unknown(direction)) } else { first.clone() }
}
