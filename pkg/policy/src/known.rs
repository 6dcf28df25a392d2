//! What the engine has been told of, by the keys that rows have.

use crate::engine::Engine;
use warren_types::{Namespace, PodKey, PolicyKey};

impl Engine {
    /// Pods with a row.
    pub(crate) fn known_pods(&self) -> impl Iterator<Item = &PodKey> {
        self.pods.keys()
    }

    /// Namespaces with a row.
    pub(crate) fn known_namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.iter().filter(|(_, known)| known.row.is_some()).map(|(name, _)| name)
    }

    /// NetworkPolicies with a row.
    pub(crate) fn known_policies(&self) -> impl Iterator<Item = PolicyKey> {
        let live = self.slots.values().filter(|slot| slot.is_live());
        live.filter_map(|slot| slot.row.as_ref().map(|row| row.key.clone()))
    }

    /// Attachments of pods.
    pub(crate) fn known_subjects(&self) -> impl Iterator<Item = &str> {
        self.subjects.keys().map(String::as_str)
    }

    /// Whether it is known what an attachment's pod is.
    pub(crate) fn is_known(&self, subject: &str) -> bool {
        self.subjects.get(subject).is_some_and(|local| local.pod().is_some())
    }
}
