//! Policies that the kernel refuses: they isolate as they did, and allow nothing, until they change.

use crate::engine::{Committed, Engine};
use crate::items::Item;
use crate::rules::PolicyId;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Engine {
    /// The policies that new elements come from: when the kernel refuses them, it is for these.
    #[must_use]
    pub fn suspects(&self, committed: &Committed) -> BTreeSet<PolicyId> {
        let class_of = |item: &Item| match item {
            Item::Closed { class } | Item::Peer { class, .. } | Item::Block { class, .. } => Some(*class),
            Item::Identity { .. } | Item::Local { .. } | Item::Loop { .. } => None,
        };
        let classes: BTreeSet<u32> = committed.add.iter().filter_map(class_of).collect();
        classes.into_iter().filter_map(|class| self.class(class)).flat_map(|class| class.policies).collect()
    }

    /// Takes what they allow from these policies, and from no others of the suspects, until they change.
    pub fn quarantine(&mut self, suspects: &BTreeSet<PolicyId>, out: &BTreeSet<PolicyId>) {
        for id in suspects {
            let Some(number) = self.slot_ids.get(id) else { continue };
            let Some(slot) = self.slots.get_mut(number) else { continue };
            match slot.refused.take() {
                None if out.contains(id) => {
                    let withdrawn = Arc::new(slot.policy.withdrawn());
                    slot.refused = Some(std::mem::replace(&mut slot.policy, withdrawn));
                }
                Some(written) if !out.contains(id) => slot.policy = written,
                as_it_is => {
                    slot.refused = as_it_is;
                    continue;
                }
            }
            self.dirty_policies.insert(*number);
        }
    }
}
