//! What the API is told: wanted Secrets, faults, and addresses when it is this node's turn.

use crate::compile::{Compiled, Gateways, Served};
use crate::config::{Deps, IngressConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use warren_store::{Durability, StoreError};
use warren_types::{
    GatewayStatus, GatewayTold, IngressAddresses, IngressFaults, IngressKey, Node, WantedSecrets, node,
};

type All = Arc<BTreeMap<IngressKey, Served>>;

/// What it was told last. Most tables differ in endpoints alone, of which none of it is made.
#[derive(Default)]
pub(super) struct Told {
    wanted: Option<WantedSecrets>,
    faults: Option<All>,
    /// Of whom, and by which addresses they are served; without any when it is another node's turn.
    addresses: Option<(All, Option<BTreeSet<IpAddr>>)>,
    /// The same of Gateways.
    gateways: Option<(Arc<Gateways>, Option<BTreeSet<IpAddr>>)>,
}

impl Told {
    /// Writes the rows that are not as they should be.
    pub(super) async fn publish(
        &mut self,
        config: &IngressConfig,
        deps: &Deps,
        compiled: &Compiled,
    ) -> Result<(), StoreError> {
        let tables = &deps.tables;
        if self.wanted.as_ref().is_none_or(|told| told.secrets != compiled.wanted) {
            let wanted = WantedSecrets { secrets: compiled.wanted.clone() };
            tables.wanted.replace(vec![wanted.clone()], Durability::Cached).await?;
            self.wanted = Some(wanted);
        }
        let served = &compiled.served;
        if self.faults.as_ref().is_none_or(|told| !Arc::ptr_eq(told, served)) {
            tables.faults.replace(faults(served), Durability::Cached).await?;
            self.faults = Some(served.clone());
        }
        let nodes = tables.nodes.snapshot().rows;
        let serving = || nodes.values().map(AsRef::as_ref).filter(|node| !node.ingress.is_empty());
        let is_ours = node::is_first_ready(&config.node_name, serving());
        // While nobody serves, a class may still have to be accepted, by one of those who would.
        let chosen =
            || nodes.values().map(AsRef::as_ref).filter(|node: &&Node| config.nodes.matches(&node.labels));
        let nobody = serving().all(|node| !node.ready);
        let tells = is_ours || (nobody && node::is_first_ready(&config.node_name, chosen()));
        // Every Ingress is served by every node that serves any.
        let ready = || serving().filter(|node| node.ready).flat_map(|node| node.internal_ips.iter().copied());
        let by: Option<BTreeSet<IpAddr>> = is_ours.then(|| ready().collect());
        let told = self.addresses.as_ref();
        if told.is_none_or(|(told, told_by)| !Arc::ptr_eq(told, served) || *told_by != by) {
            let rows = by.as_ref().map_or_else(Vec::new, |by| addresses(served, by));
            tables.addresses.replace(rows, Durability::Cached).await?;
            self.addresses = Some((served.clone(), by));
        }
        let gateways = &compiled.gateways;
        let by: Option<BTreeSet<IpAddr>> = tells.then(|| ready().collect());
        let told = self.gateways.as_ref();
        if told.is_none_or(|(told, told_by)| !Arc::ptr_eq(told, gateways) || *told_by != by) {
            let rows = by.as_ref().map_or_else(Vec::new, |by| statuses(gateways, by));
            tables.gateway_statuses.replace(rows, Durability::Cached).await?;
            self.gateways = Some((gateways.clone(), by));
        }
        Ok(())
    }
}

fn faults(served: &BTreeMap<IngressKey, Served>) -> Vec<IngressFaults> {
    let faulty = served.iter().filter(|(_, served)| !served.faults.is_empty());
    faulty
        .map(|(key, served)| IngressFaults {
            ingress: key.clone(),
            uid: served.uid.clone(),
            faults: served.faults.clone(),
        })
        .collect()
}

fn addresses(served: &BTreeMap<IngressKey, Served>, by: &BTreeSet<IpAddr>) -> Vec<IngressAddresses> {
    let row = |(key, served): (&IngressKey, &Served)| IngressAddresses {
        ingress: key.clone(),
        uid: served.uid.clone(),
        addresses: by.iter().copied().collect(),
    };
    served.iter().map(row).collect()
}

/// What is said of Gateways while they are served at these addresses; at none they are not programmed.
fn statuses(gateways: &Gateways, by: &BTreeSet<IpAddr>) -> Vec<GatewayStatus> {
    let at = |mut status: GatewayStatus| {
        if let GatewayTold::Gateway { addresses, conditions, .. } = &mut status.told {
            addresses.extend(by);
            let programmed = conditions.iter_mut().find(|c| c.kind == "Programmed" && c.holds);
            if let Some(programmed) = programmed.filter(|_| by.is_empty()) {
                programmed.holds = false;
                programmed.reason = "AddressNotAssigned".into();
                programmed.message = "no node that is ready serves it yet".into();
            }
        }
        status
    };
    gateways.statuses.iter().cloned().map(at).collect()
}
