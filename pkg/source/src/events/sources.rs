//! Where faults come from: the tables of their kinds, and what the door refused.

use super::{Faults, Subject};
use crate::{Refusal, SourceStatus};
use warren_store::{Snapshot, Store, Table, Watch};
use warren_types::ingress::INGRESS_CONTROLLER;
use warren_types::{
    EndpointSlice, Fault, Ingress, IngressClass, IngressFaults, LoadBalancerAddresses, Service, ServiceFaults,
};

/// The reason of Events of what the door refused.
const REFUSED: &str = "FieldRefused";

fn refused(of: &str, refusal: &Refusal) -> Fault {
    let message = format!("{of}{}: {}; the rest of the object is used", refusal.field, refusal.reason);
    Fault { reason: REFUSED.into(), message }
}

/// The faults of each row, of a table that has been loaded.
fn of_rows<R>(snapshot: &Snapshot<R>, faults: impl Fn(&R) -> Vec<Subject>) -> Vec<Subject> {
    let rows = snapshot.loaded.then_some(&snapshot.rows).into_iter().flat_map(|rows| rows.values());
    rows.flat_map(|row| faults(row)).collect()
}

/// Faults of Services.
pub(crate) struct OfServices {
    proxy: (Table<ServiceFaults>, Watch<ServiceFaults>),
    balancer: (Table<LoadBalancerAddresses>, Watch<LoadBalancerAddresses>),
    services: Table<Service>,
    slices: Table<EndpointSlice>,
    status: SourceStatus,
}

impl OfServices {
    pub(crate) fn new(store: &Store, status: SourceStatus) -> Self {
        let (proxy, balancer): (Table<_>, Table<_>) = (store.table(), store.table());
        let (proxy, balancer) = ((proxy.clone(), proxy.watch()), (balancer.clone(), balancer.watch()));
        Self { proxy, balancer, services: store.table(), slices: store.table(), status }
    }
}

impl Faults for OfServices {
    fn now(&self) -> Vec<Subject> {
        let mut out = of_rows(&self.proxy.0.snapshot(), |r| {
            r.faults.iter().map(|f| Subject::new(&r.service, &r.uid, f)).collect()
        });
        out.extend(of_rows(&self.balancer.0.snapshot(), |r| {
            r.faults.iter().map(|f| Subject::new(&r.service, &r.uid, f)).collect()
        }));
        out
    }

    fn refused(&self) -> Vec<Subject> {
        let fault = |r: Refusal| {
            let (service, of) = match r.kind.as_str() {
                "Service" => (r.object.clone(), String::new()),
                "EndpointSlice" => {
                    let slice = self.slices.get(&r.object)?;
                    (slice.service.to_string(), format!("EndpointSlice {}: ", slice.key.name))
                }
                _ => return None,
            };
            let service = self.services.get(&service)?;
            Some(Subject::new(&service.key, &service.uid, &refused(&of, &r)))
        };
        self.status.report().refused.into_iter().filter_map(fault).collect()
    }

    async fn changed(&mut self) -> bool {
        tokio::select! {
            update = self.proxy.1.next() => update.is_some(),
            update = self.balancer.1.next() => update.is_some(),
        }
    }
}

/// Faults of Ingresses.
pub(crate) struct OfIngresses {
    faults: (Table<IngressFaults>, Watch<IngressFaults>),
    ingresses: Table<Ingress>,
    classes: Table<IngressClass>,
    status: SourceStatus,
}

impl OfIngresses {
    pub(crate) fn new(store: &Store, status: SourceStatus) -> Self {
        let faults: Table<_> = store.table();
        let faults = (faults.clone(), faults.watch());
        Self { faults, ingresses: store.table(), classes: store.table(), status }
    }

    /// Whether Warren serves it: what is wrong with others is for others to tell.
    fn is_ours(&self, ingress: &Ingress) -> bool {
        let class = ingress.class.as_deref().and_then(|class| self.classes.get(class));
        class.is_some_and(|class| class.controller == INGRESS_CONTROLLER)
    }
}

impl Faults for OfIngresses {
    fn now(&self) -> Vec<Subject> {
        of_rows(&self.faults.0.snapshot(), |r| {
            r.faults.iter().map(|f| Subject::new(&r.ingress, &r.uid, f)).collect()
        })
    }

    fn refused(&self) -> Vec<Subject> {
        let fault = |r: Refusal| {
            let ingress = self.ingresses.get(&r.object).filter(|i| r.kind == "Ingress" && self.is_ours(i))?;
            Some(Subject::new(&ingress.key, &ingress.uid, &refused("", &r)))
        };
        self.status.report().refused.into_iter().filter_map(fault).collect()
    }

    async fn changed(&mut self) -> bool {
        self.faults.1.next().await.is_some()
    }
}
