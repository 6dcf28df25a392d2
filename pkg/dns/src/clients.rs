//! Who asks.

use crate::answer::Client;
use crate::search::pod_path;
use crate::wire::Name;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use warren_types::{Attachment, Namespace};

/// Those who are answered.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    domain: Option<Name>,
    /// Search domains of the node.
    host_search: Vec<Name>,
    /// Of pods and Services.
    ranges: Vec<IpNet>,
    /// Of nodes.
    nodes: BTreeSet<IpAddr>,
    /// Pods of this node, by their key in the table.
    pods: BTreeMap<String, (Namespace, Vec<IpAddr>)>,
    paths: HashMap<IpAddr, Arc<[Name]>>,
}

impl Clients {
    pub(crate) fn new(domain: &Name) -> Self {
        Self { domain: Some(domain.clone()), ..Self::default() }
    }

    /// What is known of the one with this address.
    pub(crate) fn find(&self, address: IpAddr) -> Client<'_> {
        let address = address.to_canonical();
        if let Some(path) = self.paths.get(&address) {
            return Client::Pod(path);
        }
        let known = address.is_loopback()
            || self.nodes.contains(&address)
            || self.ranges.iter().any(|range| range.contains(&address));
        if known { Client::Other } else { Client::Stranger }
    }

    /// The namespace of a pod of this node.
    pub(crate) fn namespace(&self, address: IpAddr) -> Option<&Namespace> {
        self.pods.values().find(|(_, addresses)| addresses.contains(&address)).map(|(namespace, _)| namespace)
    }

    pub(crate) fn set_ranges(&mut self, ranges: Vec<IpNet>) {
        self.ranges = ranges;
    }

    pub(crate) fn set_nodes(&mut self, nodes: BTreeSet<IpAddr>) {
        self.nodes = nodes;
    }

    pub(crate) fn set_host_search(&mut self, search: &[Name]) {
        self.host_search = search.to_vec();
        self.paths.clear();
        let pods: Vec<_> = self.pods.values().cloned().collect();
        pods.iter().for_each(|(namespace, addresses)| self.note(namespace, addresses));
    }

    /// A pod's attachment is like this now, or gone.
    pub(crate) fn set_attachment(&mut self, key: &str, row: Option<&Attachment>) {
        let pod = row.and_then(|row| Some((row.pod.as_ref()?.namespace.clone(), row.addresses.clone())));
        if self.pods.get(key) == pod.as_ref() {
            return;
        }
        if let Some((_, addresses)) = self.pods.remove(key) {
            let of_others = |address: &IpAddr| self.pods.values().any(|(_, held)| held.contains(address));
            let free: Vec<IpAddr> = addresses.into_iter().filter(|address| !of_others(address)).collect();
            free.iter().for_each(|address| drop(self.paths.remove(address)));
        }
        if let Some((namespace, addresses)) = pod {
            self.note(&namespace, &addresses);
            self.pods.insert(key.to_owned(), (namespace, addresses));
        }
    }

    fn note(&mut self, namespace: &Namespace, addresses: &[IpAddr]) {
        let Some(domain) = &self.domain else { return };
        let path: Arc<[Name]> = pod_path(domain, namespace, &self.host_search).into();
        self.paths.extend(addresses.iter().map(|address| (*address, Arc::clone(&path))));
    }
}
