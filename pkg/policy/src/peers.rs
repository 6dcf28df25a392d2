//! Identities: everything that rules can tell of an address of a pod.
//!
//! An atom is a peer of a rule, a selector or a block, that a class uses. An identity is the atoms that an address matches and
//! what names of ports in use mean at it.

use crate::classes::{self, Class, Named, PortName};
use crate::index::{self, Index};
use crate::items::Item;
use crate::rules::{Block, PodSelector, RulePeer, Scope};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use warren_types::{Family, Labels, Namespace, Pod, PodKey};

/// Who has addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Holder {
    /// A pod elsewhere, by its row.
    Pod(PodKey),
    /// A pod of this node, by its attachment.
    Subject(String),
}

#[derive(Debug, Clone)]
struct Claimant {
    holder: Holder,
    pod: Arc<Pod>,
    addresses: Vec<IpAddr>,
    /// Selectors in use that match it, ascending.
    atoms: Vec<u32>,
    named: Named,
}

/// Addresses with the same of this share an identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct IdentityKey {
    /// Ascending.
    pub(crate) atoms: Vec<u32>,
    pub(crate) named: Named,
}

#[derive(Debug, Clone)]
struct Identity {
    key: Arc<IdentityKey>,
    refs: u32,
}

#[derive(Debug, Clone, Default)]
struct Address {
    claimants: Vec<u32>,
    identity: Option<u32>,
}

#[derive(Debug, Clone)]
struct Atom {
    peer: RulePeer,
    classes: BTreeSet<u32>,
}

/// Blocks in use, found by prefix.
#[derive(Debug, Clone, Default)]
struct Blocks {
    by_cidr: HashMap<IpNet, Vec<(u32, Block)>>,
    /// Lengths of prefixes, counted.
    lengths: BTreeMap<(Family, u8), usize>,
}

impl Blocks {
    fn length(block: &Block) -> (Family, u8) {
        (Family::of(block.cidr.addr()), block.cidr.prefix_len())
    }

    fn insert(&mut self, atom: u32, block: &Block) {
        self.by_cidr.entry(block.cidr.trunc()).or_default().push((atom, block.clone()));
        *self.lengths.entry(Self::length(block)).or_default() += 1;
    }

    fn remove(&mut self, atom: u32, block: &Block) {
        let cidr = block.cidr.trunc();
        let Some(list) = self.by_cidr.get_mut(&cidr) else { return };
        list.retain(|(of, _)| *of != atom);
        if list.is_empty() {
            self.by_cidr.remove(&cidr);
        }
        let length = Self::length(block);
        if let Some(count) = self.lengths.get_mut(&length) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&length);
            }
        }
    }

    fn containing(&self, address: IpAddr, out: &mut Vec<u32>) {
        let family = Family::of(address);
        for (_, length) in self.lengths.range((family, 0)..=(family, u8::MAX)).map(|(key, _)| key) {
            let Ok(net) = IpNet::new(address, *length) else { continue };
            let with_prefix = self.by_cidr.get(&net.trunc()).into_iter().flatten();
            out.extend(with_prefix.filter(|(_, block)| block.contains(address)).map(|(atom, _)| *atom));
        }
    }
}

/// What a commit has to look at again, and what it found.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    /// Identities whose peers' covers may be others now, by the atoms that came or went and the names likewise; for a new
    /// identity all that it has.
    pub(crate) stale: BTreeMap<u32, Stale>,
    /// Identities that nobody has any more.
    pub(crate) gone: Vec<u32>,
}

#[derive(Debug, Default)]
pub(crate) struct Stale {
    pub(crate) atoms: BTreeSet<u32>,
    pub(crate) names: BTreeSet<PortName>,
    pub(crate) new: bool,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peers {
    atom_ids: HashMap<RulePeer, u32>,
    atoms: HashMap<u32, Atom>,
    index: Index,
    blocks: Blocks,
    /// Names of ports in use, by the classes that use them.
    names: BTreeMap<PortName, BTreeSet<u32>>,
    claimants: HashMap<u32, Claimant>,
    ids: HashMap<Holder, u32>,
    by_namespace: HashMap<Namespace, BTreeSet<u32>>,
    addresses: BTreeMap<IpAddr, Address>,
    identities: BTreeMap<u32, Identity>,
    numbers: HashMap<Arc<IdentityKey>, u32>,
    next_atom: u32,
    next_claimant: u32,
    next_identity: u32,
    /// Atoms that came into use since the last commit.
    fresh: BTreeSet<u32>,
    /// Atoms that may have gone out of use.
    idle: BTreeSet<u32>,
    /// Names that came into use or went out of it.
    changed_names: BTreeSet<PortName>,
    dirty: BTreeSet<IpAddr>,
}

/// The next number that is not in use. Numbers begin with 1.
pub(crate) fn next_number(next: &mut u32, used: impl Fn(u32) -> bool) -> u32 {
    loop {
        *next = next.wrapping_add(1);
        if *next != 0 && !used(*next) {
            return *next;
        }
    }
}

impl Peers {
    /// The atom of a peer.
    pub(crate) fn intern(&mut self, peer: &RulePeer) -> u32 {
        if let Some(atom) = self.atom_ids.get(peer) {
            return *atom;
        }
        let atom = next_number(&mut self.next_atom, |id| self.atoms.contains_key(&id));
        self.atom_ids.insert(peer.clone(), atom);
        self.atoms.insert(atom, Atom { peer: peer.clone(), classes: BTreeSet::new() });
        self.fresh.insert(atom);
        match peer {
            RulePeer::Pods(selector) => self.index.insert(selector, atom),
            RulePeer::Block(block) => self.blocks.insert(atom, block),
        }
        atom
    }

    /// A class uses an atom now, or no longer.
    pub(crate) fn set_use(&mut self, atom: u32, class: u32, used: bool) {
        let Some(state) = self.atoms.get_mut(&atom) else { return };
        if used {
            state.classes.insert(class);
        } else {
            state.classes.remove(&class);
            if state.classes.is_empty() {
                self.idle.insert(atom);
            }
        }
    }

    /// A class uses the name of a port now, or no longer.
    pub(crate) fn set_name_use(&mut self, name: &PortName, class: u32, used: bool) {
        if used {
            let classes = self.names.entry(name.clone()).or_default();
            if classes.is_empty() {
                self.changed_names.insert(name.clone());
            }
            classes.insert(class);
        } else if let Some(classes) = self.names.get_mut(name) {
            classes.remove(&class);
            if classes.is_empty() {
                self.names.remove(name);
                self.changed_names.insert(name.clone());
            }
        }
    }

    /// The classes that use an atom.
    pub(crate) fn users(&self, atom: u32) -> impl Iterator<Item = u32> {
        self.atoms.get(&atom).into_iter().flat_map(|atom| atom.classes.iter().copied())
    }

    /// The classes that use the name of a port.
    pub(crate) fn users_of_name(&self, name: &PortName) -> impl Iterator<Item = u32> {
        self.names.get(name).into_iter().flatten().copied()
    }

    /// Drops atoms that nobody uses, and looks at everyone whom atoms concern that came or went, but not at the claimants
    /// `fully`, which are looked at as a whole.
    pub(crate) fn settle_atoms<'a>(
        &mut self,
        labels: &dyn Fn(&Namespace) -> Option<&'a Labels>,
        fully: &BTreeSet<u32>,
    ) {
        for atom in std::mem::take(&mut self.idle) {
            let Some(state) = self.atoms.get(&atom).filter(|state| state.classes.is_empty()) else {
                continue;
            };
            let peer = state.peer.clone();
            self.atoms.remove(&atom);
            self.atom_ids.remove(&peer);
            let was_fresh = self.fresh.remove(&atom);
            match &peer {
                RulePeer::Pods(selector) => self.index.remove(selector, atom),
                RulePeer::Block(block) => self.blocks.remove(atom, block),
            }
            if !was_fresh {
                self.spread(atom, &peer, false, labels, fully);
            }
        }
        for atom in std::mem::take(&mut self.fresh) {
            if let Some(peer) = self.atoms.get(&atom).map(|state| state.peer.clone()) {
                self.spread(atom, &peer, true, labels, fully);
            }
        }
        let changed = std::mem::take(&mut self.changed_names);
        if changed.is_empty() {
            return;
        }
        let names = &self.names;
        for claimant in self.claimants.values_mut() {
            if claimant.pod.named_ports.iter().any(|p| changed.contains(&(p.name.clone(), p.protocol))) {
                claimant.named = classes::resolve(&claimant.pod.named_ports, |name| names.contains_key(name));
                self.dirty.extend(&claimant.addresses);
            }
        }
    }

    fn spread<'a>(
        &mut self,
        atom: u32,
        peer: &RulePeer,
        here: bool,
        labels: &dyn Fn(&Namespace) -> Option<&'a Labels>,
        fully: &BTreeSet<u32>,
    ) {
        let PodSelector { namespaces, pods } = match peer {
            RulePeer::Pods(selector) => selector,
            RulePeer::Block(block) => {
                let (first, last) = (block.cidr.network(), block.cidr.broadcast());
                self.dirty.extend(self.addresses.range(first..=last).map(|(address, _)| *address));
                return;
            }
        };
        let within: Vec<&BTreeSet<u32>> = match namespaces {
            Scope::Namespace(name) => self.by_namespace.get(name).into_iter().collect(),
            Scope::Matching(_) => self
                .by_namespace
                .iter()
                .filter(|(name, _)| index::is_in(namespaces, name, labels(name)))
                .map(|(_, claimants)| claimants)
                .collect(),
        };
        for id in within.into_iter().flatten() {
            let Some(claimant) = self.claimants.get_mut(id) else { continue };
            if fully.contains(id) || !pods.matches(&claimant.pod.labels) {
                continue;
            }
            match (claimant.atoms.binary_search(&atom), here) {
                (Err(at), true) => claimant.atoms.insert(at, atom),
                (Ok(at), false) => {
                    claimant.atoms.remove(at);
                }
                _ => continue,
            }
            self.dirty.extend(&claimant.addresses);
        }
    }

    /// The claimants of a namespace.
    pub(crate) fn in_namespace(&self, namespace: &Namespace) -> impl Iterator<Item = u32> {
        self.by_namespace.get(namespace).into_iter().flatten().copied()
    }

    /// A holder has these addresses now, or none.
    pub(crate) fn claim(&mut self, holder: Holder, now: Option<(Arc<Pod>, Vec<IpAddr>)>) -> Option<u32> {
        let before = self.ids.get(&holder).copied();
        if let Some(id) = before {
            let keep =
                now.as_ref().zip(self.claimants.get(&id)).is_some_and(|((pod, addresses), claimant)| {
                    claimant.addresses == *addresses && claimant.pod.key == pod.key
                });
            if let Some((pod, _)) = now.as_ref().filter(|_| keep) {
                if let Some(claimant) = self.claimants.get_mut(&id) {
                    claimant.pod = pod.clone();
                }
                return before;
            }
            self.unclaim(&holder, id);
        }
        let (pod, addresses) = now?;
        let id = next_number(&mut self.next_claimant, |id| self.claimants.contains_key(&id));
        for address in &addresses {
            let entry = self.addresses.entry(*address).or_default();
            if !entry.claimants.contains(&id) {
                entry.claimants.push(id);
            }
            self.dirty.insert(*address);
        }
        self.by_namespace.entry(pod.key.namespace.clone()).or_default().insert(id);
        self.ids.insert(holder.clone(), id);
        self.claimants
            .insert(id, Claimant { holder, pod, addresses, atoms: Vec::new(), named: Named::new() });
        Some(id)
    }

    fn unclaim(&mut self, holder: &Holder, id: u32) {
        self.ids.remove(holder);
        let Some(claimant) = self.claimants.remove(&id) else { return };
        for address in claimant.addresses {
            if let Some(entry) = self.addresses.get_mut(&address) {
                entry.claimants.retain(|of| *of != id);
            }
            self.dirty.insert(address);
        }
        let namespace = &claimant.pod.key.namespace;
        if let Some(of_it) = self.by_namespace.get_mut(namespace) {
            of_it.remove(&id);
            if of_it.is_empty() {
                self.by_namespace.remove(namespace);
            }
        }
    }

    /// Looks at a claimant as a whole.
    pub(crate) fn evaluate<'a>(&mut self, id: u32, labels: &dyn Fn(&Namespace) -> Option<&'a Labels>) {
        let Some(claimant) = self.claimants.get_mut(&id) else { return };
        let namespace = &claimant.pod.key.namespace;
        let atoms = self.index.matching(namespace, labels(namespace), &claimant.pod.labels);
        let named = classes::resolve(&claimant.pod.named_ports, |name| self.names.contains_key(name));
        if claimant.atoms != atoms || claimant.named != named {
            (claimant.atoms, claimant.named) = (atoms, named);
            self.dirty.extend(&claimant.addresses);
        }
    }

    /// What rules can tell of an address; none when there is nothing that blocks alone do not tell.
    fn key(&self, address: IpAddr, claimants: &[u32]) -> Option<IdentityKey> {
        let mut all = claimants.iter().filter_map(|id| self.claimants.get(id));
        let first = all.next()?;
        let mut atoms = first.atoms.clone();
        let mut named = first.named.clone();
        // Of several that claim it, what all have in common: whoever it is, no more is allowed than to him.
        for other in all {
            atoms.retain(|atom| other.atoms.binary_search(atom).is_ok());
            named.retain(|name, ports| {
                ports.retain(|port| other.named.get(name).is_some_and(|ports| ports.contains(port)));
                !ports.is_empty()
            });
        }
        if atoms.is_empty() && named.is_empty() {
            return None;
        }
        self.blocks.containing(address, &mut atoms);
        atoms.sort_unstable();
        Some(IdentityKey { atoms, named })
    }

    /// Gives identities to the addresses that have changed.
    pub(crate) fn settle_addresses(&mut self, changes: &mut Vec<(Item, bool)>) -> Moved {
        let mut moved = Moved::default();
        let mut moves: Vec<(IpAddr, Option<u32>, Option<IdentityKey>)> = Vec::new();
        for address in std::mem::take(&mut self.dirty) {
            let Some(entry) = self.addresses.get(&address) else { continue };
            let old = entry.identity;
            let key = self.key(address, &entry.claimants);
            if entry.claimants.is_empty() {
                self.addresses.remove(&address);
            }
            let old_key = old.and_then(|number| self.identities.get(&number)).map(|of| of.key.as_ref());
            if old_key != key.as_ref() {
                moves.push((address, old, key));
            }
        }
        for number in moves.iter().filter_map(|(_, old, _)| *old) {
            if let Some(identity) = self.identities.get_mut(&number) {
                identity.refs -= 1;
            }
        }
        for (address, old, key) in moves {
            let new = key.map(|key| self.join(key, old, &mut moved));
            if let Some(entry) = self.addresses.get_mut(&address) {
                entry.identity = new;
            }
            if old != new {
                changes.extend(old.map(|identity| (Item::Identity { address, identity }, false)));
                changes.extend(new.map(|identity| (Item::Identity { address, identity }, true)));
                if let Some(old) = old.filter(|old| self.identities.get(old).is_some_and(|of| of.refs == 0)) {
                    moved.gone.push(old);
                }
            }
        }
        moved.gone.sort_unstable();
        moved.gone.dedup();
        moved.gone.retain(|number| {
            let Some(identity) = self.identities.get(number).filter(|identity| identity.refs == 0) else {
                return false;
            };
            self.numbers.remove(&identity.key);
            self.identities.remove(number);
            true
        });
        for number in &moved.gone {
            moved.stale.remove(number);
        }
        moved
    }

    /// One address more has an identity. When all addresses of one have become something else, its number goes with the
    /// first, so that a selector that is new to many pods does not give each of them another number.
    fn join(&mut self, key: IdentityKey, old: Option<u32>, moved: &mut Moved) -> u32 {
        if let Some(number) = self.numbers.get(&key).copied() {
            if let Some(identity) = self.identities.get_mut(&number) {
                identity.refs += 1;
            }
            return number;
        }
        let key = Arc::new(key);
        if let Some(number) = old
            && let Some(identity) = self.identities.get_mut(&number).filter(|identity| identity.refs == 0)
        {
            let before = std::mem::replace(&mut identity.key, key.clone());
            identity.refs = 1;
            self.numbers.remove(&before);
            self.numbers.insert(key.clone(), number);
            let stale = moved.stale.entry(number).or_default();
            let has = |atoms: &[u32], atom: &u32| atoms.binary_search(atom).is_ok();
            stale.atoms.extend(before.atoms.iter().filter(|atom| !has(&key.atoms, atom)));
            stale.atoms.extend(key.atoms.iter().filter(|atom| !has(&before.atoms, atom)));
            let differs = |name: &&PortName| before.named.get(*name) != key.named.get(*name);
            stale.names.extend(before.named.keys().chain(key.named.keys()).filter(differs).cloned());
            return number;
        }
        let number = next_number(&mut self.next_identity, |id| self.identities.contains_key(&id));
        self.identities.insert(number, Identity { key: key.clone(), refs: 1 });
        self.numbers.insert(key.clone(), number);
        let stale = moved.stale.entry(number).or_default();
        stale.new = true;
        stale.atoms.extend(&key.atoms);
        stale.names.extend(key.named.keys().cloned());
        number
    }

    /// Finds anew what passes between a class and an identity.
    pub(crate) fn refresh(
        &self,
        number: u32,
        class: &mut Class,
        identity: u32,
        changes: &mut Vec<(Item, bool)>,
    ) {
        let new = self.identities.get(&identity).and_then(|of| class.cover_of(&of.key));
        let old = match &new {
            Some(new) => class.peers.insert(identity, new.clone()),
            None => class.peers.remove(&identity),
        };
        if old == new {
            return;
        }
        for (cover, came) in [(old, false), (new, true)] {
            let items = cover.iter().flat_map(|cover| classes::peer_items(number, identity, cover));
            changes.extend(items.map(|item| (item, came)));
        }
    }

    /// All identities.
    pub(crate) fn identities(&self) -> impl Iterator<Item = (u32, &IdentityKey)> {
        self.identities.iter().map(|(number, identity)| (*number, identity.key.as_ref()))
    }

    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.atom_ids.is_empty()
            && self.atoms.is_empty()
            && self.blocks.by_cidr.is_empty()
            && self.blocks.lengths.is_empty()
            && self.names.is_empty()
            && self.index.is_idle()
            && self.claimants.is_empty()
            && self.ids.is_empty()
            && self.by_namespace.is_empty()
            && self.addresses.is_empty()
            && self.identities.is_empty()
            && self.numbers.is_empty()
    }

    /// The identity of an address.
    pub(crate) fn identity_of(&self, address: IpAddr) -> Option<u32> {
        self.addresses.get(&address)?.identity
    }

    /// Whose an address is.
    pub(crate) fn holders(&self, address: IpAddr) -> impl Iterator<Item = (&Holder, &Arc<Pod>)> {
        let claimants = self.addresses.get(&address).into_iter().flat_map(|entry| &entry.claimants);
        claimants.filter_map(|id| self.claimants.get(id)).map(|claimant| (&claimant.holder, &claimant.pod))
    }

    /// Elements of addresses with an identity.
    pub(crate) fn items(&self) -> impl Iterator<Item = Item> {
        self.addresses.iter().filter_map(|(address, entry)| {
            Some(Item::Identity { address: *address, identity: entry.identity? })
        })
    }
}
