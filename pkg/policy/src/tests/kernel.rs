//! Does with elements what the kernel's rules do with them.

use crate::decide::Flow;
use crate::engine::Committed;
use crate::items::{Item, Verdict};
use crate::rules::Direction;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

type Boxed = ((IpAddr, IpAddr), (u8, u8), (u16, u16), Verdict);

/// The sets and maps.
#[derive(Debug, Default, Clone)]
pub(crate) struct Kernel {
    pub(crate) items: BTreeSet<Item>,
}

/// The same, looked up quickly.
pub(crate) struct Loaded {
    locals: BTreeMap<(Direction, IpAddr), u32>,
    loops: BTreeSet<IpAddr>,
    identities: BTreeMap<IpAddr, u32>,
    peers: BTreeMap<(u32, u32), Vec<Boxed>>,
    blocks: BTreeMap<u32, Vec<Boxed>>,
    closed: BTreeSet<u32>,
}

const NOWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

impl Kernel {
    pub(crate) fn apply(&mut self, committed: &Committed) {
        for item in &committed.remove {
            assert!(self.items.remove(item), "{item:?} is not there");
        }
        for item in &committed.add {
            assert!(self.items.insert(*item), "{item:?} is there already");
        }
    }

    /// Refuses what the kernel would.
    pub(crate) fn load(&self) -> Loaded {
        let mut out = Loaded {
            locals: BTreeMap::new(),
            loops: BTreeSet::new(),
            identities: BTreeMap::new(),
            peers: BTreeMap::new(),
            blocks: BTreeMap::new(),
            closed: BTreeSet::new(),
        };
        for item in &self.items {
            match *item {
                Item::Local { direction, address, class } => {
                    assert!(out.locals.insert((direction, address), class).is_none(), "two classes");
                }
                Item::Loop { address } => drop(out.loops.insert(address)),
                Item::Identity { address, identity } => {
                    assert!(out.identities.insert(address, identity).is_none(), "two identities");
                }
                Item::Peer { class, identity, protocols, ports, verdict } => {
                    let boxed = ((NOWHERE, NOWHERE), protocols, ports, verdict);
                    out.peers.entry((class, identity)).or_default().push(boxed);
                }
                Item::Block { class, addresses, protocols, ports, verdict } => {
                    assert_eq!(addresses.0.is_ipv4(), addresses.1.is_ipv4());
                    out.blocks.entry(class).or_default().push((addresses, protocols, ports, verdict));
                }
                Item::Closed { class } => drop(out.closed.insert(class)),
            }
        }
        for boxes in out.peers.values().chain(out.blocks.values()) {
            for (at, a) in boxes.iter().enumerate() {
                assert!(a.0.0 <= a.0.1 && a.1.0 <= a.1.1 && a.2.0 <= a.2.1, "{a:?} is empty");
                for b in &boxes[..at] {
                    let apart = a.0.1 < b.0.0
                        || b.0.1 < a.0.0
                        || a.1.1 < b.1.0
                        || b.1.1 < a.1.0
                        || a.2.1 < b.2.0
                        || b.2.1 < a.2.0;
                    assert!(apart, "{a:?} and {b:?} overlap");
                }
            }
        }
        out
    }

    /// How many elements of each kind there are.
    pub(crate) fn counts(&self) -> [usize; 6] {
        let mut out = [0; 6];
        for item in &self.items {
            out[match item {
                Item::Closed { .. } => 0,
                Item::Peer { .. } => 1,
                Item::Block { .. } => 2,
                Item::Identity { .. } => 3,
                Item::Local { .. } => 4,
                Item::Loop { .. } => 5,
            }] += 1;
        }
        out
    }
}

impl Loaded {
    pub(crate) fn is_allowed(&self, flow: &Flow) -> bool {
        if flow.source == flow.destination && self.loops.contains(&flow.source) {
            return true;
        }
        self.passes(Direction::Egress, flow.source, flow.destination, flow)
            && self.passes(Direction::Ingress, flow.destination, flow.source, flow)
    }

    fn passes(&self, direction: Direction, own: IpAddr, peer: IpAddr, flow: &Flow) -> bool {
        let Some(class) = self.locals.get(&(direction, own)) else { return true };
        let (boxes, address) = match self.identities.get(&peer) {
            Some(identity) => (self.peers.get(&(*class, *identity)), NOWHERE),
            None => (self.blocks.get(class), peer),
        };
        let holds = |((first, last), protocols, ports, _): &&Boxed| {
            address.is_ipv4() == first.is_ipv4()
                && (*first..=*last).contains(&address)
                && (protocols.0..=protocols.1).contains(&flow.protocol)
                && (ports.0..=ports.1).contains(&flow.port)
        };
        match boxes.into_iter().flatten().find(holds) {
            Some((_, _, _, verdict)) => *verdict == Verdict::Accept,
            None => !self.closed.contains(class),
        }
    }
}
