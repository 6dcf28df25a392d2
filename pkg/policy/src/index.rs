//! Finds the selectors that match an object without trying them all.

use crate::rules::{PodSelector, Scope};
use std::collections::{BTreeMap, HashMap};
use warren_types::{Labels, Namespace, Requirement, Selector};

/// Selectors by one condition of theirs that only objects with a certain label can meet.
#[derive(Debug, Clone)]
struct ByLabel<T> {
    /// By label and value.
    values: HashMap<String, HashMap<String, Vec<(Selector, T)>>>,
    /// By label, any value.
    keys: HashMap<String, Vec<(Selector, T)>>,
    /// Those that objects without labels can meet.
    rest: Vec<(Selector, T)>,
}

impl<T> Default for ByLabel<T> {
    fn default() -> Self {
        Self { values: HashMap::new(), keys: HashMap::new(), rest: Vec::new() }
    }
}

/// The condition that a selector is found by: the one that the fewest can meet.
fn handle(selector: &Selector) -> Option<&Requirement> {
    let rank = |requirement: &&Requirement| match requirement {
        Requirement::In(_, values) => values.len(),
        _ => usize::MAX,
    };
    selector
        .requirements()
        .filter(|r| matches!(r, Requirement::In(..) | Requirement::Exists(_)))
        .min_by_key(rank)
}

impl<T: PartialEq + Clone> ByLabel<T> {
    fn insert(&mut self, selector: &Selector, id: &T) {
        let entry = || (selector.clone(), id.clone());
        match handle(selector) {
            Some(Requirement::In(key, values)) => {
                for value in values {
                    let of_key = self.values.entry(key.clone()).or_default();
                    of_key.entry(value.clone()).or_default().push(entry());
                }
            }
            Some(Requirement::Exists(key)) => self.keys.entry(key.clone()).or_default().push(entry()),
            _ => self.rest.push(entry()),
        }
    }

    fn remove(&mut self, selector: &Selector, id: &T) {
        let drop_from = |list: &mut Vec<(Selector, T)>| {
            if let Some(at) = list.iter().position(|(_, of)| of == id) {
                list.swap_remove(at);
            }
        };
        match handle(selector) {
            Some(Requirement::In(key, values)) => {
                let Some(of_key) = self.values.get_mut(key) else { return };
                for value in values {
                    if let Some(list) = of_key.get_mut(value) {
                        drop_from(list);
                        if list.is_empty() {
                            of_key.remove(value);
                        }
                    }
                }
                if of_key.is_empty() {
                    self.values.remove(key);
                }
            }
            Some(Requirement::Exists(key)) => {
                if let Some(list) = self.keys.get_mut(key) {
                    drop_from(list);
                    if list.is_empty() {
                        self.keys.remove(key);
                    }
                }
            }
            _ => drop_from(&mut self.rest),
        }
    }

    fn is_empty(&self) -> bool {
        self.values.is_empty() && self.keys.is_empty() && self.rest.is_empty()
    }

    fn each_matching(&self, labels: &Labels, mut found: impl FnMut(&T)) {
        let by_label = labels.iter().flat_map(|(key, value)| {
            let with_value = self.values.get(key).and_then(|values| values.get(value)).into_iter().flatten();
            with_value.chain(self.keys.get(key).into_iter().flatten())
        });
        for (selector, id) in by_label.chain(&self.rest) {
            if selector.matches(labels) {
                found(id);
            }
        }
    }
}

/// Selectors of pods, each with a number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    /// Of one namespace.
    named: HashMap<Namespace, ByLabel<u32>>,
    /// Selectors of namespaces, and by each of them those of pods.
    scopes: ByLabel<u32>,
    matching: HashMap<u32, (u32, ByLabel<u32>)>,
    scope_ids: BTreeMap<Selector, u32>,
    next: u32,
}

impl Index {
    pub(crate) fn insert(&mut self, selector: &PodSelector, id: u32) {
        match &selector.namespaces {
            Scope::Namespace(name) => {
                self.named.entry(name.clone()).or_default().insert(&selector.pods, &id);
            }
            Scope::Matching(namespaces) => {
                let scope = match self.scope_ids.get(namespaces) {
                    Some(scope) => *scope,
                    None => {
                        while self.matching.contains_key(&self.next) {
                            self.next = self.next.wrapping_add(1);
                        }
                        self.scope_ids.insert(namespaces.clone(), self.next);
                        self.scopes.insert(namespaces, &self.next);
                        self.next
                    }
                };
                let (count, by_label) = self.matching.entry(scope).or_default();
                *count += 1;
                by_label.insert(&selector.pods, &id);
            }
        }
    }

    /// The inverse of [`Index::insert`].
    pub(crate) fn remove(&mut self, selector: &PodSelector, id: u32) {
        match &selector.namespaces {
            Scope::Namespace(name) => {
                if let Some(by_label) = self.named.get_mut(name) {
                    by_label.remove(&selector.pods, &id);
                    if by_label.is_empty() {
                        self.named.remove(name);
                    }
                }
            }
            Scope::Matching(namespaces) => {
                let Some(scope) = self.scope_ids.get(namespaces).copied() else { return };
                let Some((count, by_label)) = self.matching.get_mut(&scope) else { return };
                by_label.remove(&selector.pods, &id);
                *count -= 1;
                if *count == 0 {
                    self.matching.remove(&scope);
                    self.scope_ids.remove(namespaces);
                    self.scopes.remove(namespaces, &scope);
                }
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.named.is_empty()
            && self.scopes.is_empty()
            && self.matching.is_empty()
            && self.scope_ids.is_empty()
    }

    /// The selectors that match a pod of a namespace, ascending. Of a namespace whose labels are not known only selectors
    /// match that do not look at them.
    pub(crate) fn matching(&self, namespace: &Namespace, of_it: Option<&Labels>, pod: &Labels) -> Vec<u32> {
        let mut out = Vec::new();
        if let Some(by_label) = self.named.get(namespace) {
            by_label.each_matching(pod, |id| out.push(*id));
        }
        let mut within = |scope: &u32| {
            if let Some((_, by_label)) = self.matching.get(scope) {
                by_label.each_matching(pod, |id| out.push(*id));
            }
        };
        match of_it {
            Some(labels) => self.scopes.each_matching(labels, within),
            None => self.scope_ids.get(&Selector::default()).into_iter().for_each(&mut within),
        }
        out.sort_unstable();
        out
    }
}

/// Whether namespaces are meant with one whose labels, if known, are these.
pub(crate) fn is_in(scope: &Scope, namespace: &Namespace, labels: Option<&Labels>) -> bool {
    match scope {
        Scope::Namespace(name) => name == namespace,
        Scope::Matching(selector) => {
            labels.map_or_else(|| selector.is_everything(), |labels| selector.matches(labels))
        }
    }
}
