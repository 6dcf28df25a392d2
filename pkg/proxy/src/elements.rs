//! The elements that say what a Service's fronts do.

use crate::names::{DROP, Names, Pick, REJECT, address_bytes, end_bytes, front_bytes};
use crate::node::NodeContext;
use crate::plan::{Front, FrontKey, Origin, Route, ServicePlan};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use warren_netlink::nft::expr::Verdict;
use warren_netlink::nft::model::{Element, Value};

/// Where an element is: its set, and its key.
pub type Place = (&'static str, Vec<u8>);

/// An element that others may have too: what is in the set, whoever needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shared {
    /// The set.
    pub set: SharedSet,
    /// The address that it is made of.
    pub address: IpAddr,
}

/// The sets of such elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SharedSet {
    /// Cluster addresses.
    ClusterIps,
    /// Other addresses of Services that are no node's.
    VirtualIps,
    /// Pods of this node that are endpoints.
    Hairpin,
}

impl Shared {
    /// The name of its set.
    #[must_use]
    pub fn set(&self) -> &'static str {
        let names = Names::of(self.address);
        match self.set {
            SharedSet::ClusterIps => names.cluster_ips,
            SharedSet::VirtualIps => names.virtual_ips,
            SharedSet::Hairpin => names.hairpin,
        }
    }

    /// The element.
    #[must_use]
    pub fn element(&self) -> Element {
        let address = address_bytes(self.address);
        Element::exact(match self.set {
            SharedSet::ClusterIps | SharedSet::VirtualIps => address,
            // A pod as its own client.
            SharedSet::Hairpin => address.repeat(2),
        })
    }
}

/// The elements of one Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Elements {
    /// Those that only this Service has.
    pub own: BTreeMap<Place, Element>,
    /// Those that others may have too, with how often this one does.
    pub shared: BTreeMap<Shared, u32>,
    /// The chains that pick its endpoints, with how many fronts use each.
    pub picks: BTreeMap<Pick, u32>,
}

/// The elements of the fronts of `plan`, without the `refused` ones, which are another's.
#[must_use]
pub fn compile(plan: &ServicePlan, refused: &BTreeSet<FrontKey>, node: &NodeContext) -> Elements {
    let mut all = Elements::default();
    for front in plan.fronts.iter().filter(|front| !refused.contains(&front.key)) {
        add_front(front, node, &mut all);
    }
    all
}

impl Elements {
    fn put(&mut self, set: &'static str, element: Element) {
        self.own.insert((set, element.key.clone()), element);
    }
    /// Notes that it needs one of those that others may have too.
    pub(crate) fn share(&mut self, set: SharedSet, address: IpAddr) {
        *self.shared.entry(Shared { set, address }).or_default() += 1;
    }
}

fn add_front(front: &Front, node: &NodeContext, all: &mut Elements) {
    let names = Names::of(front.key.address);
    let key = front_bytes(&front.key);
    add_route(front, &front.route, false, names, &key, all);
    if let Some(inside) = &front.inside {
        add_route(front, inside, true, names, &key, all);
    }
    if let Some(sources) = &front.sources {
        all.put(names.guarded, Element::exact(key.clone()));
        for range in sources.iter() {
            let (first, last) = ends_of(range);
            let with = |address: IpAddr| [key.clone(), address_bytes(address)].concat();
            all.put(names.allowed, Element::range(with(first), with(last)));
        }
    }
    match front.origin {
        Origin::ClusterIp => all.share(SharedSet::ClusterIps, front.key.address),
        Origin::ExternalIp | Origin::LoadBalancer if !node.node_addresses.contains(&front.key.address) => {
            all.share(SharedSet::VirtualIps, front.key.address);
        }
        _ => {}
    }
}

fn ends_of(range: &IpNet) -> (IpAddr, IpAddr) {
    (range.network(), range.broadcast())
}

fn add_route(front: &Front, route: &Route, inside: bool, names: &Names, key: &[u8], all: &mut Elements) {
    let (fronts, ends) = match inside {
        true => (names.inside_fronts, names.inside_ends),
        false => (names.fronts, names.ends),
    };
    let targets = route.targets();
    let chain = match route {
        Route::Reject => REJECT.to_owned(),
        Route::Drop => DROP.to_owned(),
        Route::To(_) => {
            let count = u32::try_from(targets.len()).unwrap_or(u32::MAX);
            let pick = Pick { family: names.family, inside, affinity: front.affinity, count };
            *all.picks.entry(pick).or_default() += 1;
            pick.chain()
        }
    };
    all.put(fronts, Element::exact(key.to_vec()).to(Value::Verdict(Verdict::Goto(chain))));
    for (index, target) in (0u32..).zip(targets) {
        // The number generator writes its numbers in the machine's order.
        let indexed = [key, &index.to_ne_bytes()].concat();
        let end = end_bytes(target.address, target.port);
        if front.affinity.is_some() {
            all.put(names.alive, Element::exact([key, &end[..]].concat()));
        }
        all.put(ends, Element::exact(indexed).to(Value::Bytes(end)));
        if target.local_pod {
            all.share(SharedSet::Hairpin, target.address);
        }
    }
}
