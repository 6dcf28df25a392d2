//! Classes: what decides for a pod of this node in one direction.

use crate::boxes::{self, Cover, Entry, Ports, Range, Slabs};
use crate::items::{Item, Verdict};
use crate::peers::IdentityKey;
use crate::rules::{self, Action, Direction, Policy, RulePeer, Tier};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use warren_types::{Family, NamedPort, PolicyPort, PortMatch, Protocol};

/// So many covers of a class are kept for identities to come.
const KNOWN: usize = 1024;

/// The name of a port.
pub(crate) type PortName = (String, Protocol);

/// What names of ports mean at a pod. Names that it does not have are not in here.
pub(crate) type Named = BTreeMap<PortName, BTreeSet<u16>>;

/// What those names that are asked for mean at a pod.
pub(crate) fn resolve(ports: &[NamedPort], asked: impl Fn(&PortName) -> bool) -> Named {
    let mut out = Named::new();
    for port in ports {
        let name = (port.name.clone(), port.protocol);
        if asked(&name) {
            out.entry(name).or_default().insert(port.port);
        }
    }
    out
}

/// Pods with the same of this share a class.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum ClassKey {
    /// What applies is not known: nothing passes.
    Unknown(Direction),
    /// These policies, by their numbers in ascending order.
    Of {
        direction: Direction,
        policies: Vec<u32>,
        /// Ingress: what the names in their rules mean at the pod.
        named: Named,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    tier: Tier,
    action: Action,
    /// The peers that it names, ascending; none when it is for everyone.
    atoms: Vec<u32>,
    everyone: bool,
    /// Those that do not depend on the peer.
    fixed: Vec<Ports>,
    /// Those that the peer has a name for.
    named: Vec<PortName>,
}

/// Whose covers a compilation may have changed.
#[derive(Debug, Clone)]
pub(crate) enum Concerned {
    /// Those of all identities.
    Everyone,
    /// Those of identities that have, or had, one of these atoms.
    Having(BTreeSet<u32>),
}

impl Concerned {
    /// Whether an identity with these atoms is meant.
    pub(crate) fn has<'a>(&self, mut atoms: impl Iterator<Item = &'a u32>) -> bool {
        match self {
            Self::Everyone => true,
            Self::Having(changed) => !changed.is_empty() && atoms.any(|atom| changed.contains(atom)),
        }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Class {
    pub(crate) key: ClassKey,
    /// How many addresses have it.
    pub(crate) refs: u32,
    /// Whether it denies what no rule decides.
    pub(crate) closed: bool,
    /// In the order in which they are asked.
    rules: Vec<Rule>,
    /// Rules for everyone.
    everyone: Vec<u32>,
    /// Peers and the rules that name them, ascending.
    uses: Vec<(u32, u32)>,
    /// Names of ports of peers.
    names: BTreeSet<PortName>,
    /// Whether it was compiled before.
    pub(crate) is_compiled: bool,
    blocks: [Slabs; 2],
    /// By identity.
    pub(crate) peers: HashMap<u32, Cover>,
    /// Covers by what the rules that match say of ports.
    known: HashMap<Vec<(u32, Ports)>, Cover>,
}

impl Class {
    /// A class without rules.
    pub(crate) fn new(key: ClassKey) -> Self {
        Self {
            key,
            refs: 0,
            closed: true,
            rules: Vec::new(),
            everyone: Vec::new(),
            uses: Vec::new(),
            names: BTreeSet::new(),
            is_compiled: false,
            blocks: Default::default(),
            peers: HashMap::new(),
            known: HashMap::new(),
        }
    }

    /// Takes rules anew from its policies. Covers of peers are left as they are.
    pub(crate) fn compile(
        &mut self,
        policies: &[Arc<Policy>],
        intern: &mut dyn FnMut(&RulePeer) -> u32,
    ) -> Concerned {
        let ClassKey::Of { direction, named, .. } = &self.key else {
            return Concerned::Having(BTreeSet::new());
        };
        let mut sorted: Vec<&Policy> = policies.iter().map(Arc::as_ref).collect();
        sorted.sort_by(|a, b| (a.id.tier, a.order, &a.id).cmp(&(b.id.tier, b.order, &b.id)));
        self.closed = sorted.iter().any(|policy| policy.id.tier == Tier::NetworkPolicy);
        let mut rules = Vec::new();
        let mut everyone = Vec::new();
        let mut uses = Vec::new();
        let mut names = BTreeSet::new();
        let mut addresses: [Vec<Entry>; 2] = Default::default();
        for policy in sorted {
            for rule in policy.rules(*direction).into_iter().flatten() {
                let number = u32::try_from(rules.len()).unwrap_or(u32::MAX);
                let (fixed, of_peer) = ports(&rule.ports, *direction, named);
                names.extend(of_peer.iter().cloned());
                let mut atoms: Vec<u32> = rule.peers.iter().map(&mut *intern).collect();
                atoms.sort_unstable();
                atoms.dedup();
                uses.extend(atoms.iter().map(|atom| (*atom, number)));
                if rule.peers.is_empty() {
                    everyone.push(number);
                }
                rules.push(Rule {
                    tier: policy.id.tier,
                    action: rule.action,
                    everyone: rule.peers.is_empty(),
                    atoms,
                    fixed,
                    named: of_peer,
                });
                for (family, entries) in [Family::V4, Family::V6].into_iter().zip(&mut addresses) {
                    let of_rule = ranges(&rule.peers, family);
                    if !of_rule.is_empty() {
                        entries.push(Entry { rule: number, addresses: of_rule });
                    }
                }
            }
        }
        uses.sort_unstable();
        let concerned = concerned(&self.rules, &rules);
        (self.rules, self.everyone, self.uses, self.names) = (rules, everyone, uses, names);
        self.known.clear();
        let fixed =
            |rule: u32| self.rules.get(rule as usize).map_or_else(Vec::new, |rule| rule.fixed.clone());
        let [v4, v6] = addresses;
        self.blocks = [v4, v6].map(|entries| Slabs::new(&entries, &fixed, &|rules| self.resolve(rules)));
        concerned
    }

    /// The verdict of these rules, when it is not what the class says of everything else.
    fn resolve(&self, matching: &[u32]) -> Option<Verdict> {
        let matching = matching.iter().filter_map(|rule| self.rules.get(*rule as usize));
        let (verdict, _) = rules::judge(self.closed, matching.map(|rule| (rule.tier, rule.action, ())));
        (verdict != self.default_verdict()).then_some(verdict)
    }

    /// The verdict of what no element decides.
    pub(crate) fn default_verdict(&self) -> Verdict {
        if self.closed { Verdict::Deny } else { Verdict::Accept }
    }

    /// Whether it has rules for everyone.
    pub(crate) fn is_for_everyone(&self) -> bool {
        !self.everyone.is_empty()
    }

    /// The peers that its rules name.
    pub(crate) fn atoms(&self) -> BTreeSet<u32> {
        self.uses.iter().map(|(atom, _)| *atom).collect()
    }

    /// Names of peers' ports in its rules.
    pub(crate) fn names(&self) -> &BTreeSet<PortName> {
        &self.names
    }

    /// What passes between it and peers of an identity.
    pub(crate) fn cover_of(&mut self, identity: &IdentityKey) -> Option<Cover> {
        let mut matching = self.everyone.clone();
        self.matching(&identity.atoms, &mut matching);
        if matching.is_empty() {
            return None;
        }
        matching.sort_unstable();
        matching.dedup();
        // Where rules only allow, it does not count which one does.
        let only_allow = self.rules.iter().all(|rule| rule.tier == Tier::NetworkPolicy);
        let mut all: Vec<(u32, Ports)> = Vec::new();
        for number in matching {
            let Some(rule) = self.rules.get(number as usize) else { continue };
            let number = if only_allow { 0 } else { number };
            all.extend(rule.fixed.iter().map(|ports| (number, *ports)));
            for name in &rule.named {
                let meant = identity.named.get(name).into_iter().flatten();
                all.extend(meant.map(|port| (number, one(name.1, (*port, *port)))));
            }
        }
        all.sort_unstable();
        all.dedup();
        if let Some(cover) = self.known.get(&all) {
            return (!cover.is_empty()).then(|| cover.clone());
        }
        let cover = boxes::cover(&all, &|rules| self.resolve(rules));
        if self.known.len() >= KNOWN {
            self.known.clear();
        }
        self.known.insert(all, cover.clone());
        (!cover.is_empty()).then_some(cover)
    }

    /// The rules that name one of these peers. The shorter list is looked up in the longer.
    fn matching(&self, atoms: &[u32], out: &mut Vec<u32>) {
        if atoms.len() < self.uses.len() {
            for atom in atoms {
                let from = self.uses.partition_point(|(of, _)| of < atom);
                out.extend(self.uses[from..].iter().take_while(|(of, _)| of == atom).map(|(_, rule)| *rule));
            }
        } else {
            out.extend(
                self.uses.iter().filter(|(atom, _)| atoms.binary_search(atom).is_ok()).map(|(_, rule)| *rule),
            );
        }
    }

    /// What passes between it and an address without an identity.
    pub(crate) fn cover_at(&self, address: IpAddr) -> Option<&Cover> {
        let [v4, v6] = &self.blocks;
        let slabs = if address.is_ipv4() { v4 } else { v6 };
        slabs.at(boxes::number(address))
    }

    /// Its elements for addresses without an identity, and itself.
    pub(crate) fn own_items(&self, class: u32) -> Vec<Item> {
        let mut out = Vec::new();
        if self.closed {
            out.push(Item::Closed { class });
        }
        for (family, slabs) in [Family::V4, Family::V6].into_iter().zip(&self.blocks) {
            out.extend(slabs.boxes().into_iter().map(|((first, last), ports)| Item::Block {
                class,
                addresses: (boxes::address(family, first), boxes::address(family, last)),
                protocols: ports.protocols,
                ports: ports.ports,
                verdict: ports.verdict,
            }));
        }
        out
    }
}

/// Whose covers differ between two lists of rules. Both are in the order of policies, so that what is alike at both ends frames
/// what has changed.
fn concerned(before: &[Rule], after: &[Rule]) -> Concerned {
    let front = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let (before, after) = (&before[front..], &after[front..]);
    let back = before.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
    let changed = before[..before.len() - back].iter().chain(&after[..after.len() - back]);
    let mut atoms = BTreeSet::new();
    for rule in changed {
        if rule.everyone {
            return Concerned::Everyone;
        }
        atoms.extend(&rule.atoms);
    }
    Concerned::Having(atoms)
}

/// The elements of a cover.
pub(crate) fn peer_items(class: u32, identity: u32, cover: &Cover) -> impl Iterator<Item = Item> {
    cover.iter().map(move |ports| Item::Peer {
        class,
        identity,
        protocols: ports.protocols,
        ports: ports.ports,
        verdict: ports.verdict,
    })
}

fn one(protocol: Protocol, ports: (u16, u16)) -> Ports {
    Ports { protocols: (protocol.number(), protocol.number()), ports }
}

/// The ports of a rule: those that are known for the class, and those that depend on the peer.
fn ports(given: &[PolicyPort], direction: Direction, named: &Named) -> (Vec<Ports>, Vec<PortName>) {
    if given.is_empty() {
        return (vec![Ports::ALL], Vec::new());
    }
    let mut fixed = Vec::new();
    let mut of_peer = Vec::new();
    for port in given {
        match &port.ports {
            PortMatch::Any => fixed.push(one(port.protocol, (0, u16::MAX))),
            PortMatch::Range(first, last) if first <= last => fixed.push(one(port.protocol, (*first, *last))),
            PortMatch::Range(..) => {}
            PortMatch::Named(name) => {
                let name = (name.clone(), port.protocol);
                match direction {
                    Direction::Egress => of_peer.push(name),
                    Direction::Ingress => {
                        let meant = named.get(&name).into_iter().flatten();
                        fixed.extend(meant.map(|port| one(name.1, (*port, *port))));
                    }
                }
            }
        }
    }
    (fixed, of_peer)
}

/// The addresses that a rule matches whoever has them.
fn ranges(peers: &[RulePeer], family: Family) -> Vec<Range> {
    if peers.is_empty() {
        return vec![boxes::everything(family)];
    }
    let blocks = peers.iter().filter_map(|peer| match peer {
        RulePeer::Block(block) if Family::of(block.cidr.addr()) == family => Some(block),
        _ => None,
    });
    blocks.flat_map(boxes::ranges).collect()
}
