//! What has to outlive this process, because its objects may be gone before what it is about.
//!
//! Policies are kept ahead: a policy is written down while its object is there and pods of its namespace are here, so that it
//! is known whatever happens between the object's end and the next commit. The next engine finds out whether it stays.

use crate::engine::{Engine, Known, Life};
use crate::locals::Local;
use crate::rules::{Policy, PolicyId, Tier};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use warren_types::{Namespace, NamespaceState, NetworkPolicy, Pod, PolicyKey};

/// A policy that outlives its object, or may have to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The policy as it was.
    pub policy: NetworkPolicy,
    /// The attachments for which it stays in force.
    pub subjects: BTreeSet<String>,
    /// Its object was there when this was written, or had gone a moment before: if it is not there any more, its namespace tells
    /// whether it stays in force.
    #[serde(default)]
    pub undecided: bool,
}

/// What is to be kept of something; none: nothing any more.
type Keep<K, V> = Vec<(K, Option<V>)>;

/// What is to be kept of what has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Policies.
    pub policies: Keep<PolicyKey, Held>,
    /// By attachment, the last row of its pod, when that row is gone.
    pub pods: Keep<String, Arc<Pod>>,
    /// Last rows of namespaces that are gone, and in which there still are pods.
    pub namespaces: Keep<Namespace, Arc<NamespaceState>>,
}

/// Of what it may have changed what is to be kept.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unkept {
    pub(crate) policies: BTreeSet<PolicyId>,
    /// Attachments.
    pub(crate) subjects: BTreeSet<String>,
    pub(crate) namespaces: BTreeSet<Namespace>,
}

impl Engine {
    /// What is to be kept of what has changed since it was asked last. It has to be asked after a commit, and kept before the
    /// commit goes into force.
    #[must_use]
    pub fn take_kept(&mut self) -> Kept {
        let Unkept { policies, subjects, namespaces } = std::mem::take(&mut self.unkept);
        let policy = |id: &PolicyId| Some((key_of(id)?, self.kept_policy(id)));
        let pod = |key: String| (key.clone(), self.kept_pod(&key));
        let namespace = |name: Namespace| (name.clone(), self.kept_namespace(&name));
        Kept {
            policies: policies.iter().filter_map(policy).collect(),
            pods: subjects.into_iter().map(pod).collect(),
            namespaces: namespaces.into_iter().map(namespace).collect(),
        }
    }

    fn kept_policy(&self, id: &PolicyId) -> Option<Held> {
        let undecided = |row: &Arc<NetworkPolicy>| {
            Some(Held { policy: row.as_ref().clone(), subjects: BTreeSet::new(), undecided: true })
        };
        let slot = self.slot_ids.get(id).and_then(|number| self.slots.get(number));
        let Some(slot) = slot else { return self.recent.get(id).and_then(undecided) };
        let row = slot.row.as_ref()?;
        match &slot.life {
            Life::Held(subjects) => {
                Some(Held { policy: row.as_ref().clone(), subjects: subjects.clone(), undecided: false })
            }
            Life::Live | Life::Removed if self.inhabited.contains_key(&row.key.namespace) => undecided(row),
            Life::Live | Life::Removed => None,
        }
    }

    fn kept_pod(&self, subject: &str) -> Option<Arc<Pod>> {
        let last = self.subjects.get(subject)?.last.as_ref()?;
        (self.pods.get(&last.key) != Some(last)).then(|| last.clone())
    }

    fn kept_namespace(&self, name: &Namespace) -> Option<Arc<NamespaceState>> {
        self.namespaces.get(name).filter(|known| known.row.is_none())?.last.clone()
    }

    /// An attachment of a namespace comes or goes.
    pub(crate) fn inhabit(&mut self, namespace: &Namespace, comes: bool) {
        let count = self.inhabited.entry(namespace.clone()).or_default();
        let was = *count > 0;
        *count = if comes { *count + 1 } else { count.saturating_sub(1) };
        let is = *count > 0;
        if !is {
            self.inhabited.remove(namespace);
        }
        if is != was {
            let of_it = |id: &&PolicyId| id.namespace.as_ref() == Some(namespace);
            self.unkept.policies.extend(self.slot_ids.keys().filter(of_it).cloned());
        }
    }

    /// What an earlier engine kept; to be set when all else is, before the first commit. What there are rows of now is left out.
    pub fn set_kept(&mut self, kept: Kept) {
        for (name, row) in kept.namespaces {
            self.unkept.namespaces.insert(name.clone());
            if let Some(last) = row
                && !self.namespaces.contains_key(&name)
            {
                self.namespaces.insert(name.clone(), Known { row: None, last: Some(last) });
                self.departed.insert(name.clone());
                self.dirty_namespaces.insert(name);
            }
        }
        for (key, row) in kept.pods {
            let is_unknown = |local: &&mut Local, row: &Pod| local.last.is_none() && local.is_of(row);
            if let Some(row) = row
                && let Some(local) = self.subjects.get_mut(&key).filter(|local| is_unknown(local, &row))
            {
                local.last = Some(row);
                self.dirty_subjects.insert(key.clone());
            }
            self.unkept.subjects.insert(key);
        }
        for (key, held) in kept.policies {
            let id = PolicyId::of(&key);
            if let Some(Held { policy, subjects, undecided }) = held
                && !self.slot_ids.contains_key(&id)
            {
                let rules = Arc::new(Policy::from(&policy));
                let life = if undecided { Life::Removed } else { Life::Held(subjects) };
                self.put(&id, rules, Some(Arc::new(policy)), life);
            }
            self.unkept.policies.insert(id);
        }
    }
}

fn key_of(id: &PolicyId) -> Option<PolicyKey> {
    let namespace = id.namespace.clone().filter(|_| id.tier == Tier::NetworkPolicy)?;
    Some(PolicyKey { namespace, name: id.name.clone() })
}
