//! What the API is told: wanted Secrets, faults, and addresses when it is this node's turn.

use crate::compile::Compiled;
use crate::config::{Deps, IngressConfig};
use std::collections::BTreeSet;
use std::net::IpAddr;
use warren_store::{Durability, StoreError};
use warren_types::{IngressAddresses, IngressFaults, Node, WantedSecrets, node};

/// What it was told last.
#[derive(Default)]
pub(super) struct Told {
    wanted: Option<WantedSecrets>,
    faults: Option<Vec<IngressFaults>>,
    addresses: Option<Vec<IngressAddresses>>,
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
        let wanted = WantedSecrets { secrets: compiled.wanted.clone() };
        if self.wanted.as_ref() != Some(&wanted) {
            tables.wanted.replace(vec![wanted.clone()], Durability::Cached).await?;
            self.wanted = Some(wanted);
        }
        let faulty = compiled.served.iter().filter(|(_, served)| !served.faults.is_empty());
        let faults: Vec<IngressFaults> = faulty
            .map(|(key, served)| IngressFaults {
                ingress: key.clone(),
                uid: served.uid.clone(),
                faults: served.faults.clone(),
            })
            .collect();
        if self.faults.as_ref() != Some(&faults) {
            tables.faults.replace(faults.clone(), Durability::Cached).await?;
            self.faults = Some(faults);
        }
        let nodes = tables.nodes.snapshot().rows;
        let serving: Vec<&Node> =
            nodes.values().map(AsRef::as_ref).filter(|node| !node.ingress.is_empty()).collect();
        let addresses = match node::is_first_ready(&config.node_name, serving.iter().copied()) {
            true => addresses(compiled, &serving),
            false => Vec::new(),
        };
        if self.addresses.as_ref() != Some(&addresses) {
            tables.addresses.replace(addresses.clone(), Durability::Cached).await?;
            self.addresses = Some(addresses);
        }
        Ok(())
    }
}

/// Every Ingress is served by every node that serves any.
fn addresses(compiled: &Compiled, serving: &[&Node]) -> Vec<IngressAddresses> {
    let ready = serving.iter().filter(|node| node.ready);
    let all: BTreeSet<IpAddr> = ready.flat_map(|node| node.internal_ips.iter().copied()).collect();
    let row = |(key, served): (&warren_types::IngressKey, &crate::compile::Served)| IngressAddresses {
        ingress: key.clone(),
        uid: served.uid.clone(),
        addresses: all.iter().copied().collect(),
    };
    compiled.served.iter().map(row).collect()
}
