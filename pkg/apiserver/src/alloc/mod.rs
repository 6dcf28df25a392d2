//! What the one writer gives out: podCIDRs to nodes, addresses and node ports to Services. All of it follows from the
//! stored objects and is rebuilt from them, at start and after a commit that failed.

mod pool;
mod service;

pub(crate) use service::{ServiceAllocator, first_address};

use ipnet::IpNet;
use serde_json::Value;

use crate::registry::{KindId, NODE, SERVICE};
use crate::storage::{Cache, Object, Refused};
use crate::table::{list, text};
use warren_types::pod_cidr::PodCidrAllocator;

/// Everything that is given out.
#[derive(Debug, Clone)]
pub(crate) struct Allocators {
    cidrs: PodCidrAllocator,
    /// Whether new nodes get podCIDRs; else somebody else gives them, and they are only kept apart here.
    gives_cidrs: bool,
    services: ServiceAllocator,
}

fn pod_cidrs(node: &Value) -> Vec<IpNet> {
    list(node, "/spec/podCIDRs").iter().filter_map(|c| c.as_str()?.parse().ok()).collect()
}

fn owner(o: &Value) -> String {
    crate::storage::object_key(text(o, "/metadata/namespace"), text(o, "/metadata/name"))
}

impl Allocators {
    pub(crate) fn new(cidrs: PodCidrAllocator, services: ServiceAllocator) -> Self {
        Self { cidrs, gives_cidrs: true, services }
    }

    /// Whether new nodes get podCIDRs.
    pub(crate) fn giving_cidrs(self, gives_cidrs: bool) -> Self {
        Self { gives_cidrs, ..self }
    }

    /// Of 10.0.0.0/9 and 10.128.0.0/16.
    #[cfg(test)]
    pub(crate) fn of_ten() -> Self {
        let cidrs = PodCidrAllocator::new(&["10.0.0.0/9".parse().unwrap()], 24, 64).unwrap();
        Self::new(cidrs, ServiceAllocator::new(&["10.128.0.0/16".parse().unwrap()], 30_000..=32_767))
    }

    /// Begins anew from the stored objects. Conflicts are named; who was made first keeps what two have.
    pub(crate) fn rebuild(&mut self, cache: &Cache) {
        self.cidrs.clear();
        self.services.clear();
        for node in cache.list(NODE).0.values() {
            if let Err(reason) = self.cidrs.occupy(&node.name, &pod_cidrs(&node.value)) {
                tracing::error!(node = %node.name, %reason, "podCIDRs of a stored node are in conflict");
            }
        }
        let services = cache.list(SERVICE).0;
        let mut services: Vec<_> = services.values().collect();
        services.sort_by_key(|s| (text(&s.value, "/metadata/creationTimestamp"), s.revision));
        for service in services {
            for reason in self.services.occupy(&service.key(), &service.value) {
                tracing::error!(service = %service.key(), %reason,
                    "a stored Service has what it cannot have; delete it and make it anew");
            }
        }
    }

    /// Completes a new object.
    pub(crate) fn create(&mut self, kind: KindId, o: &mut Value) -> Result<(), Refused> {
        match kind {
            NODE => self.give_pod_cidrs(o),
            SERVICE => self.services.hold(&owner(o), o, None),
            _ => Ok(()),
        }
    }

    /// Completes a new state.
    pub(crate) fn replace(&mut self, kind: KindId, current: &Object, o: &mut Value) -> Result<(), Refused> {
        match kind {
            NODE if pod_cidrs(&current.value) != pod_cidrs(o) => {
                self.cidrs.occupy(&current.name, &pod_cidrs(o)).map_err(|e| Refused::PodCidr(e.to_string()))
            }
            SERVICE if current.value.get("spec") != o.get("spec") => {
                self.services.hold(&current.key(), o, Some(&current.value))
            }
            _ => Ok(()),
        }
    }

    /// Frees what an object had.
    pub(crate) fn release(&mut self, object: &Object) {
        match object.kind {
            NODE => self.cidrs.release(&object.name),
            SERVICE => self.services.release(&object.key(), &object.value),
            _ => {}
        }
    }

    /// A node without podCIDRs gets some; given ones must be free.
    fn give_pod_cidrs(&mut self, node: &mut Value) -> Result<(), Refused> {
        let name = text(node, "/metadata/name").to_owned();
        let wanted = pod_cidrs(node);
        if !wanted.is_empty() {
            return self.cidrs.occupy(&name, &wanted).map_err(|e| Refused::PodCidr(e.to_string()));
        }
        if !self.gives_cidrs {
            return Ok(());
        }
        let given = self.cidrs.assign(&name).map_err(|e| Refused::PodCidr(e.to_string()))?;
        let given: Vec<Value> = given.iter().map(|c| c.to_string().into()).collect();
        if let Some(first) = given.first().cloned() {
            let spec = crate::kinds::object(node, "spec");
            spec.insert("podCIDR".into(), first);
            spec.insert("podCIDRs".into(), given.into());
        }
        Ok(())
    }
}
