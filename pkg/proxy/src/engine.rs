//! All Services of a node at once: what the kernel should have, and what one change makes of it.
//!
//! The engine holds rows and plans, not the kernel's state. [`Engine::commit`] gives the difference between what it gave
//! before and what holds now; [`Engine::ruleset`] gives everything. Both come from the same per-Service compilation, so a
//! history of changes ends where a compilation from scratch begins.

use crate::elements::{self, Elements, Place, Shared};
use crate::names::Pick;
use crate::node::NodeContext;
use crate::plan::{self, Front, FrontKey, ServicePlan};
use crate::{host_ports, ruleset};
use std::collections::btree_map::Entry as MapEntry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use warren_netlink::nft::Change;
use warren_netlink::nft::model::{Chain, Element, Ruleset};
use warren_types::{Attachment, EndpointSlice, Fault, Protocol, Service, ServiceKey, SliceByKey, SliceKey};

/// Chains for so many endpoints are there from the beginning.
const READY_PICKS: u32 = 32;

/// See the module.
pub struct Engine {
    node: NodeContext,
    /// Those with a row, with slices, or still with elements.
    services: BTreeMap<Arc<ServiceKey>, Entry>,
    slices: BTreeSet<SliceByKey>,
    /// Who wants a front, the oldest first.
    claims: BTreeMap<FrontKey, Vec<Claim>>,
    /// Elements that several have, counted.
    shared: BTreeMap<Shared, u32>,
    /// Chains that fronts use, counted.
    picks: BTreeMap<Pick, u32>,
    /// Pods with host ports, by their keys in the table.
    pods: BTreeMap<String, Arc<Attachment>>,
    host_ports: Elements,
    dirty: BTreeSet<ServiceKey>,
    dirty_pods: bool,
    /// Services that are left out because the kernel refuses them, until they change.
    quarantined: BTreeSet<ServiceKey>,
}

#[derive(Default)]
struct Entry {
    row: Option<Arc<Service>>,
    /// In the order of their keys.
    slices: Vec<Arc<EndpointSlice>>,
    plan: ServicePlan,
    /// Fronts that an older Service has.
    refused: BTreeSet<FrontKey>,
}

impl Entry {
    /// Whether there is nothing to keep it for.
    fn is_empty(&self) -> bool {
        self.row.is_none() && self.slices.is_empty() && self.plan == ServicePlan::default()
    }
}

/// A Service that wants a front. The older is the lesser, then the first by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    created: i64,
    service: Arc<ServiceKey>,
}

/// What a commit brought.
#[derive(Debug, Default)]
pub struct Committed {
    /// For the kernel.
    pub change: Change,
    /// Whether fronts of UDP changed, so that flows may point to where nothing serves.
    pub flows: bool,
    /// Services whose plan, or whose share of it, changed.
    pub services: BTreeSet<ServiceKey>,
}

impl Engine {
    /// An engine without Services.
    #[must_use]
    pub fn new(node: NodeContext) -> Self {
        Self {
            node,
            services: BTreeMap::new(),
            slices: BTreeSet::new(),
            claims: BTreeMap::new(),
            shared: BTreeMap::new(),
            picks: BTreeMap::new(),
            pods: BTreeMap::new(),
            host_ports: Elements::default(),
            dirty: BTreeSet::new(),
            dirty_pods: false,
            quarantined: BTreeSet::new(),
        }
    }

    /// What the node is.
    #[must_use]
    pub fn node(&self) -> &NodeContext {
        &self.node
    }

    /// A Service is like this now, or gone.
    pub fn set_service(&mut self, key: &ServiceKey, row: Option<Arc<Service>>) {
        let entry = self.entry(key);
        if entry.row != row {
            entry.row = row;
            self.quarantined.remove(key);
            self.dirty.insert(key.clone());
        }
    }

    fn entry(&mut self, key: &ServiceKey) -> &mut Entry {
        let known = self.services.get_key_value(key).map(|(known, _)| Arc::clone(known));
        self.services.entry(known.unwrap_or_else(|| Arc::new(key.clone()))).or_default()
    }

    /// An EndpointSlice is like this now, or gone.
    pub fn set_slice(&mut self, key: &SliceKey, row: Option<Arc<EndpointSlice>>) {
        let before = match row.clone() {
            Some(row) => self.slices.replace(SliceByKey(row)),
            None => self.slices.take(key),
        };
        let before = before.map(|SliceByKey(slice)| slice);
        if before == row {
            return;
        }
        for (slice, there) in [(before, false), (row, true)] {
            let Some(slice) = slice else { continue };
            let of_service = &mut self.entry(&slice.service).slices;
            match of_service.binary_search_by(|other| other.key.cmp(key)) {
                Ok(at) if !there => drop(of_service.remove(at)),
                Err(at) if there => {
                    // Most Services have one for each family.
                    of_service.reserve_exact(1);
                    of_service.insert(at, Arc::clone(&slice));
                }
                _ => {}
            }
            self.quarantined.remove(&slice.service);
            self.dirty.insert(slice.service.clone());
        }
    }

    /// Leaves these Services out, and of the suspects no others, until they change.
    pub fn quarantine(&mut self, suspects: &BTreeSet<ServiceKey>, out: &BTreeSet<ServiceKey>) {
        for key in suspects {
            let changed = match out.contains(key) {
                true => self.quarantined.insert(key.clone()),
                false => self.quarantined.remove(key),
            };
            if changed {
                self.dirty.insert(key.clone());
            }
        }
    }

    /// A pod's attachment is like this now, or gone.
    pub fn set_attachment(&mut self, key: &str, row: Option<Arc<Attachment>>) {
        let ports = |row: Option<&Arc<Attachment>>| row.is_some_and(|row| !row.host_ports.is_empty());
        let row = row.filter(|row| ports(Some(row)));
        let before = match row.clone() {
            Some(row) => self.pods.insert(key.to_owned(), row),
            None => self.pods.remove(key),
        };
        self.dirty_pods |= before != row;
    }

    /// The Services that it knows, by their keys in the table.
    #[must_use]
    pub fn known_services(&self) -> Vec<String> {
        self.services.keys().map(ToString::to_string).collect()
    }

    /// The slices that it knows, by their keys in the table.
    #[must_use]
    pub fn known_slices(&self) -> Vec<String> {
        self.slices.iter().map(|SliceByKey(slice)| slice.key.to_string()).collect()
    }

    /// The attachments with host ports that it knows, by their keys in the table.
    #[must_use]
    pub fn known_attachments(&self) -> Vec<String> {
        self.pods.keys().cloned().collect()
    }

    /// The node has changed: everything is compiled anew. What [`Engine::commit`] gives next is not the whole difference;
    /// the kernel needs [`Engine::ruleset`]. False when it is as it was.
    pub fn set_node(&mut self, node: NodeContext) -> bool {
        if self.node == node {
            return false;
        }
        self.node = node;
        self.dirty.extend(self.services.keys().map(|key| ServiceKey::clone(key)));
        self.dirty_pods = true;
        true
    }

    /// Compiles what has changed.
    pub fn commit(&mut self) -> Committed {
        let mut done = Committed::default();
        let mut affected = BTreeMap::new();
        for key in std::mem::take(&mut self.dirty) {
            self.recompile(&key, &mut affected);
        }
        let mut changed = Changed::default();
        for (key, old) in affected {
            self.emit(key, old, &mut changed, &mut done);
        }
        if std::mem::take(&mut self.dirty_pods) {
            let new = host_ports::compile(self.pods.values().map(Arc::as_ref), &self.node);
            changed.difference(&self.host_ports, &new);
            self.host_ports = new;
            done.flows = true;
        }
        for (element, by) in std::mem::take(&mut changed.shared) {
            changed.count(&mut self.shared, element, by);
        }
        for (pick, by) in std::mem::take(&mut changed.picks) {
            let before = self.picks.get(&pick).copied().unwrap_or(0);
            let after = before.saturating_add_signed(by);
            if after == 0 {
                self.picks.remove(&pick);
            } else {
                self.picks.insert(pick, after);
            }
            if before == 0 && after > 0 && !is_ready(&pick) {
                // It may still be there from an earlier time.
                changed.change.chains.insert(pick.chain(), ruleset::pick(&pick));
            }
        }
        done.change = changed.change;
        done
    }

    /// Makes the plan of one Service anew. Whoever is concerned is noted with what was given for it before.
    fn recompile(&mut self, key: &ServiceKey, affected: &mut BTreeMap<Arc<ServiceKey>, Elements>) {
        let Some((key, entry)) = self.services.get_key_value(key) else { return };
        let key = Arc::clone(key);
        if entry.row.is_none() && entry.plan == ServicePlan::default() {
            // Slices of a Service that is not there, or the last of them went.
            if entry.is_empty() {
                self.services.remove(&key);
            }
            return;
        }
        let slices: Vec<&EndpointSlice> = entry.slices.iter().map(Arc::as_ref).collect();
        let plan = match &entry.row {
            Some(_) if self.quarantined.contains(&*key) => plan::quarantined(),
            Some(row) => plan::compile(row, &slices, &self.node),
            None => ServicePlan::default(),
        };
        let created = entry.row.as_ref().map(|row| row.created);
        let before: BTreeSet<FrontKey> = entry.plan.fronts.iter().map(|front| front.key).collect();
        let after: BTreeSet<FrontKey> = plan.fronts.iter().map(|front| front.key).collect();
        let mut concerned = BTreeSet::from([Arc::clone(&key)]);
        for front in before.union(&after) {
            let claimants = self.claims.entry(*front).or_default();
            claimants.retain(|claim| claim.service != key);
            concerned.extend(claimants.iter().map(|claim| Arc::clone(&claim.service)));
            if let Some(created) = created.filter(|_| after.contains(front)) {
                let claim = Claim { created, service: Arc::clone(&key) };
                // Nearly every front is wanted once.
                claimants.reserve_exact(1);
                claimants.insert(claimants.partition_point(|other| *other < claim), claim);
            }
            if claimants.is_empty() {
                self.claims.remove(front);
            }
        }
        for service in concerned {
            if let MapEntry::Vacant(slot) = affected.entry(service)
                && let Some(entry) = self.services.get(&**slot.key())
            {
                slot.insert(elements::compile(&entry.plan, &entry.refused, &self.node));
            }
        }
        if let Some(entry) = self.services.get_mut(&*key) {
            entry.plan = plan;
        }
    }

    /// Notes the difference between `old` and what is to be given for a Service now.
    fn emit(&mut self, key: Arc<ServiceKey>, old: Elements, changed: &mut Changed, done: &mut Committed) {
        let Some(entry) = self.services.get_mut(&*key) else { return };
        let claims = &self.claims;
        let first = |front: &FrontKey| claims.get(front).and_then(|all| all.first());
        let fronts = entry.plan.fronts.iter().map(|front| front.key);
        entry.refused =
            fronts.filter(|front| first(front).is_none_or(|claim| claim.service != key)).collect();
        let new = elements::compile(&entry.plan, &entry.refused, &self.node);
        if old != new {
            let udp = |front: &Front| front.key.protocol == Protocol::Udp;
            // The fronts that are gone had elements; which protocol they were of is in the key.
            done.flows |= entry.plan.fronts.iter().any(udp) || old.own.keys().any(is_udp);
            changed.difference(&old, &new);
        }
        if entry.is_empty() {
            self.services.remove(&*key);
        }
        done.services.insert(ServiceKey::clone(&key));
    }

    /// Everything that the kernel should have.
    #[must_use]
    pub fn ruleset(&self) -> Ruleset {
        let mut all = ruleset::compile(&self.node);
        let ready = ready_picks();
        for pick in self.picks.keys().chain(&ready) {
            all.chains.insert(pick.chain(), Chain::default());
            all.rules.insert(pick.chain(), ruleset::pick(pick));
        }
        let mut put = |set: &str, element: Element| {
            all.elements.entry(set.to_owned()).or_default().insert(element);
        };
        for entry in self.services.values() {
            for ((set, _), element) in elements::compile(&entry.plan, &entry.refused, &self.node).own {
                put(set, element);
            }
        }
        for shared in self.shared.keys() {
            put(shared.set(), shared.element());
        }
        for ((set, _), element) in &self.host_ports.own {
            put(set, element.clone());
        }
        all
    }

    /// A Service's row and plan, and the fronts that it does not get.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<(&Arc<Service>, &ServicePlan, &BTreeSet<FrontKey>)> {
        let entry = self.services.get(key)?;
        Some((entry.row.as_ref()?, &entry.plan, &entry.refused))
    }

    /// All Services.
    pub fn services(&self) -> impl Iterator<Item = (&Arc<Service>, &ServicePlan, &BTreeSet<FrontKey>)> {
        self.services.values().filter_map(|entry| Some((entry.row.as_ref()?, &entry.plan, &entry.refused)))
    }

    /// The slices of a Service.
    pub fn slices_of(&self, key: &ServiceKey) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.services.get(key).into_iter().flat_map(|entry| &entry.slices)
    }

    /// What has a front, and the front.
    #[must_use]
    pub fn front(&self, key: &FrontKey) -> Option<(&ServiceKey, &Front)> {
        let owner = &self.claims.get(key)?.first()?.service;
        let front = self.services.get(&**owner)?.plan.fronts.iter().find(|front| front.key == *key)?;
        Some((owner, front))
    }

    /// The pods with host ports.
    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.pods.values().map(Arc::as_ref)
    }

    /// What is wrong with a Service.
    #[must_use]
    pub fn faults(&self, key: &ServiceKey) -> Vec<Fault> {
        let Some(entry) = self.services.get(key) else { return Vec::new() };
        let owner = |front: &FrontKey| Some(&*self.claims.get(front)?.first()?.service);
        let taken = entry.refused.iter().filter_map(|front| Some(plan::taken(front, owner(front)?)));
        let all: BTreeSet<Fault> = entry.plan.faults.iter().cloned().chain(taken).collect();
        all.into_iter().collect()
    }
}

fn is_ready(pick: &Pick) -> bool {
    pick.affinity.is_none() && !pick.inside && (1..=READY_PICKS).contains(&pick.count)
}

fn ready_picks() -> Vec<Pick> {
    let of =
        |family| (1..=READY_PICKS).map(move |count| Pick { family, inside: false, affinity: None, count });
    of(warren_types::Family::V4).chain(of(warren_types::Family::V6)).collect()
}

/// Whether an element is keyed by a front of UDP.
fn is_udp((set, key): &Place) -> bool {
    let address = if set.ends_with('4') { 4 } else { 16 };
    key.get(address) == Some(&Protocol::Udp.number())
}

/// The difference that is being put together.
#[derive(Default)]
struct Changed {
    change: Change,
    shared: BTreeMap<Shared, i32>,
    picks: BTreeMap<Pick, i32>,
}

impl Changed {
    fn difference(&mut self, old: &Elements, new: &Elements) {
        self.own(&old.own, &new.own);
        let signed = |count: &u32| i32::try_from(*count).unwrap_or(i32::MAX);
        for (counts, sign) in [(&old.shared, -1), (&new.shared, 1)] {
            for (shared, count) in counts {
                *self.shared.entry(*shared).or_default() += sign * signed(count);
            }
        }
        for (counts, sign) in [(&old.picks, -1), (&new.picks, 1)] {
            for (pick, count) in counts {
                *self.picks.entry(*pick).or_default() += sign * signed(count);
            }
        }
    }

    fn own(&mut self, old: &BTreeMap<Place, Element>, new: &BTreeMap<Place, Element>) {
        for (place, element) in old.iter().filter(|(place, element)| new.get(*place) != Some(*element)) {
            self.remove(place.0, element.clone());
        }
        for (place, element) in new.iter().filter(|(place, element)| old.get(*place) != Some(*element)) {
            if ruleset::counts(place.0) && old.contains_key(place) {
                self.change.counting.entry(place.0.to_owned()).or_default().insert(place.1.clone());
            }
            self.add(place.0, element.clone());
        }
    }

    fn count(&mut self, counts: &mut BTreeMap<Shared, u32>, shared: Shared, by: i32) {
        let before = counts.get(&shared).copied().unwrap_or(0);
        let after = before.saturating_add_signed(by);
        match (before, after) {
            (0, 0) => {}
            (0, _) => self.add(shared.set(), shared.element()),
            (_, 0) => self.remove(shared.set(), shared.element()),
            _ => {}
        }
        if after == 0 {
            counts.remove(&shared);
        } else {
            counts.insert(shared, after);
        }
    }

    /// What one Service gives up another may take in the same commit: then it only changes hands.
    fn add(&mut self, set: &'static str, element: Element) {
        put(&mut self.change.add, set, element);
    }

    fn remove(&mut self, set: &'static str, element: Element) {
        put(&mut self.change.remove, set, element);
    }
}

fn put(into: &mut BTreeMap<String, Vec<Element>>, set: &'static str, element: Element) {
    match into.get_mut(set) {
        Some(elements) => elements.push(element),
        None => drop(into.insert(set.to_owned(), vec![element])),
    }
}
