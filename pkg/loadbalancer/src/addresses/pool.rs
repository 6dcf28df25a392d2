//! One address per family from a pool.
//!
//! Three rounds, each the oldest first: who has an address keeps it, unless it asks for another; then those who ask; then
//! the rest, each the address of those it shares with or the lowest free one.

use super::{AllGiven, Given};
use crate::pool::{Pool, after};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use warren_types::{Family, Node, Service, TrafficPolicy};

/// `services` are sorted, the oldest first.
pub(super) fn give(pool: &Pool, nodes: &[&Node], services: &[&Service]) -> AllGiven {
    let mut allocation = Allocation {
        pool,
        reserved: nodes.iter().flat_map(|node| node.internal_ips.iter().map(|ip| (*ip, *node))).collect(),
        holders: BTreeMap::new(),
        sharers: BTreeMap::new(),
        next: BTreeMap::new(),
    };
    let mut all: AllGiven = services.iter().map(|s| (s.key.clone(), Given::default())).collect();
    let mut open: Vec<(&Service, Family)> = Vec::new();
    for service in services {
        for family in service.families.iter().copied().collect::<BTreeSet<_>>() {
            let held = service.load_balancer_ips.iter().copied().filter(|ip| Family::of(*ip) == family);
            let asked = requests(service, family);
            let kept = held
                .filter(|ip| asked.is_empty() || asked.first() == Some(ip))
                .find(|ip| allocation.may_have(service, *ip).is_ok());
            match kept {
                Some(address) => allocation.take(service, address, &mut all),
                None => open.push((service, family)),
            }
        }
    }
    let mut refused = Vec::new();
    for (service, family) in &open {
        if let Some(asked) = requests(service, *family).first().copied() {
            match allocation.may_have(service, asked) {
                Ok(()) => allocation.take(service, asked, &mut all),
                Err(_) => refused.push((*service, asked)),
            }
        }
    }
    let mut without = Vec::new();
    for (service, family) in open {
        if requests(service, family).is_empty() {
            match allocation.find(service, family) {
                Some(address) => allocation.take(service, address, &mut all),
                None => without.push((service, family)),
            }
        }
    }
    // Said of those who have the addresses in the end, so that what is said stays once each of them keeps its own.
    for (service, asked) in refused {
        if let Err(why) = allocation.may_have(service, asked) {
            fault(&mut all, service, "AddressRefused", format!("{asked} was asked for, but {why}"));
        }
    }
    for service in services {
        beyond_requests(service, &mut all);
    }
    // A pool of one family serves Services that would take both; only none at all is a fault then.
    for (service, family) in without {
        let has_other = all.get(&service.key).is_some_and(|given| !given.addresses.is_empty());
        if pool.has(family) || !has_other {
            let message = allocation.exhausted(family);
            fault(&mut all, service, "AddressPoolExhausted", message);
        }
    }
    all
}

struct Allocation<'a> {
    pool: &'a Pool,
    /// Addresses of nodes.
    reserved: BTreeMap<IpAddr, &'a Node>,
    /// Who has each address that is taken.
    holders: BTreeMap<IpAddr, Vec<&'a Service>>,
    /// Addresses of each sharing key.
    sharers: BTreeMap<&'a str, BTreeSet<IpAddr>>,
    /// Where to look for the next free address: below it none is left.
    next: BTreeMap<Family, Option<IpAddr>>,
}

impl<'a> Allocation<'a> {
    /// Whether a Service may have this address, and if not, why.
    fn may_have(&self, service: &Service, address: IpAddr) -> Result<(), String> {
        if !self.pool.contains(address) {
            return Err(format!(
                "the pool ({}) does not hold it; add a range with --loadbalancer-pool",
                self.pool.describe()
            ));
        }
        if let Some(node) = self.reserved.get(&address) {
            return Err(format!(
                "it is an address of node {}; take it out of --loadbalancer-pool",
                node.name
            ));
        }
        // Which of several is named must not depend on who came first.
        let mut holders: Vec<_> = self.holders.get(&address).into_iter().flatten().collect();
        holders.sort_by(|a, b| a.key.cmp(&b.key));
        for holder in holders {
            let taken = |what: &str| Err(format!("Service {} has it, and {what}", holder.key));
            let key = service.sharing_key.as_deref();
            if key.is_none() || key != holder.sharing_key.as_deref() {
                return taken("the two have no sharing key in common (warren.dev/load-balancer-sharing-key)");
            }
            if [service, holder].iter().any(|s| s.external_policy == TrafficPolicy::Local) {
                return taken("Services with externalTrafficPolicy Local share no address");
            }
            let same = |port: &&warren_types::ServicePort| {
                holder.ports.iter().any(|p| (p.protocol, p.port) == (port.protocol, port.port))
            };
            if let Some(port) = service.ports.iter().find(same) {
                return taken(&format!("both have port {}/{}", port.port, port.protocol));
            }
        }
        Ok(())
    }

    fn take(&mut self, service: &'a Service, address: IpAddr, all: &mut AllGiven) {
        self.holders.entry(address).or_default().push(service);
        if let Some(key) = service.sharing_key.as_deref() {
            self.sharers.entry(key).or_default().insert(address);
        }
        all.entry(service.key.clone()).or_default().addresses.insert(address);
    }

    /// An address for a Service that has none and asks for none.
    fn find(&mut self, service: &Service, family: Family) -> Option<IpAddr> {
        let shared = service.sharing_key.as_deref().and_then(|key| self.sharers.get(key));
        let shared = shared.into_iter().flatten().copied().filter(|ip| Family::of(*ip) == family);
        if let Some(address) = { shared }.find(|ip| self.may_have(service, *ip).is_ok()) {
            return Some(address);
        }
        let start = self.next.entry(family).or_insert_with(|| self.pool.next(family, None));
        while let Some(address) = *start {
            if !self.holders.contains_key(&address) && !self.reserved.contains_key(&address) {
                return Some(address);
            }
            *start = after(address).and_then(|from| self.pool.next(family, Some(from)));
        }
        None
    }

    fn exhausted(&self, family: Family) -> String {
        let name = if family == Family::V4 { "IPv4" } else { "IPv6" };
        match self.pool.size(family) {
            0 => format!("the pool has no {name} addresses; add a range with --loadbalancer-pool"),
            size => format!(
                "all {size} {name} addresses of the pool are taken; add a range with --loadbalancer-pool, or let \
                 Services share addresses (warren.dev/load-balancer-sharing-key)"
            ),
        }
    }
}

fn fault(all: &mut AllGiven, service: &Service, reason: &str, message: String) {
    all.entry(service.key.clone()).or_default().fault(reason, message);
}

/// The addresses of a family that a Service asks for. It gets the first or none.
fn requests(service: &Service, family: Family) -> Vec<IpAddr> {
    service.requested_addresses.iter().copied().filter(|ip| Family::of(*ip) == family).collect()
}

/// Says which requests are beyond what any Service gets.
fn beyond_requests(service: &Service, all: &mut AllGiven) {
    for family in [Family::V4, Family::V6] {
        let asked = requests(service, family);
        let allowed = usize::from(service.families.contains(&family));
        for more in asked.iter().skip(allowed) {
            let why = match allowed {
                0 => "the Service is not of that address family; see its spec.ipFamilies",
                _ => "a Service gets one address per family; ask for one",
            };
            fault(all, service, "AddressRefused", format!("{more} was asked for, but {why}"));
        }
    }
}
