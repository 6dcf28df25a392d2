//! Attachments that live in the kernel and have no row: the store was lost, the pods were not.
//!
//! A link that is up is a pod's that runs: ADD raises it last but for the journal, and it goes with the pod's namespace.
//! Its route, filter entries and neighbours tell its addresses. It gets a row, so that the addresses are leased and
//! repairs include it; the row's key says that the runtime's is not known ([`AttachmentKey::of_found`]). DEL, CHECK and
//! GC find the row all the same, since the link's name follows from the key that the runtime uses. A link that is down
//! is what an ADD left that was broken off; it carries nothing, and is removed.

use super::attach::pod_route;
use super::recover::{Observed, Recovered};
use super::{Engine, Halt, identity};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use warren_netlink::{Link, RouteTarget};
use warren_types::{Attachment, AttachmentKey, IfName, LeaseRequest, Namespace, PodKey, PodName, marks};

impl Engine {
    /// Gives rows to the pods' links that no row knows; the rows are added to `live`. Returns the links for which that
    /// failed, which stay as they are: the pool keeps addresses that the kernel shows in use from being given out.
    pub(super) async fn adopt(
        &self,
        live: &mut Vec<Attachment>,
        observed: &Observed,
        report: &mut Recovered,
    ) -> HashSet<String> {
        let mut spared = HashSet::new();
        let known: HashSet<&str> = live.iter().map(|row| row.host_link.as_str()).collect();
        let mut links: Vec<&Link> =
            observed.links.values().filter(|link| link.up && !known.contains(link.name.as_str())).collect();
        links.sort_by(|a, b| a.name.cmp(&b.name));
        // A row whose link is gone may be of an older store, and its address another pod's by now.
        let mut taken: HashSet<IpAddr> = live
            .iter()
            .filter(|row| observed.links.contains_key(row.host_link.as_str()))
            .flat_map(|row| row.addresses.iter().copied())
            .collect();
        for link in links {
            let addresses = addresses_of(link, observed, &taken);
            let Some(request) = request(link, addresses) else { continue };
            match self.0.pool.adopt(request).await {
                Ok(row) => {
                    tracing::warn!(
                        link = link.name, addresses = ?row.addresses, alias = link.alias,
                        "a running pod has no row: keeping its link until the runtime deletes it"
                    );
                    taken.extend(&row.addresses);
                    self.names().insert(row.host_link.clone(), row.key.clone());
                    report.adopted += 1;
                    live.push(row);
                }
                Err(error) => {
                    tracing::warn!(link = link.name, %error, "cannot give a row to a running pod");
                    spared.insert(link.name.clone());
                    report.failed += 1;
                }
            }
        }
        spared
    }

    /// The key of the row of an attachment that was found in the kernel, if that is what the runtime means by `key`.
    pub(super) fn found(&self, key: &AttachmentKey) -> Option<AttachmentKey> {
        let names = self.names();
        identity::host_links(key)
            .filter_map(|link| AttachmentKey::of_found(&link).filter(|found| names.get(&link) == Some(found)))
            .next()
    }

    /// DEL of an attachment that was found in the kernel. GC knows it by its own key, so that is locked besides.
    pub(super) async fn del_found(&self, key: &AttachmentKey, found: &AttachmentKey) -> Result<(), Halt> {
        let _guard = self.0.locks.lock(found).await;
        if let Some(row) = self.0.pool.get(found).await? {
            self.dismantle(&row).await?;
            tracing::info!(%key, link = %row.host_link, addresses = ?row.addresses, "detached a pod whose row had been lost");
        }
        Ok(())
    }
}

/// What GC may not take: the attachments that the runtime names.
pub(super) struct Known<'a> {
    valid: &'a BTreeSet<AttachmentKey>,
    /// The names that their links can have, when there are attachments that are known by their links alone.
    links: HashSet<IfName>,
}

impl<'a> Known<'a> {
    pub(super) fn new(valid: &'a BTreeSet<AttachmentKey>, rows: &[Attachment]) -> Self {
        let any_found = rows.iter().any(Attachment::was_found);
        let links = valid.iter().filter(|_| any_found).flat_map(identity::host_links).collect();
        Self { valid, links }
    }

    pub(super) fn contains(&self, row: &Attachment) -> bool {
        self.valid.contains(&row.key) || (row.was_found() && self.links.contains(&row.host_link))
    }
}

/// The addresses of a pod by its host link, one a family; none that another holds.
fn addresses_of(link: &Link, observed: &Observed, taken: &HashSet<IpAddr>) -> Vec<IpAddr> {
    let leads_here =
        |target: &RouteTarget| matches!(target, RouteTarget::Link { link: to, .. } if *to == link.name);
    let routed = observed.routes.values().filter(|r| leads_here(&r.target)).map(|r| r.dst.addr());
    let filtered = observed.sources.iter().filter(|(name, _)| *name == link.name).map(|(_, addr)| *addr);
    let neighbours =
        observed.neighbours.values().filter(|n| n.permanent && n.index == link.index).map(|n| n.addr);
    let Ok(name) = IfName::new(link.name.as_str()) else { return Vec::new() };
    let mut by_family: BTreeMap<bool, IpAddr> = BTreeMap::new();
    for addr in routed.chain(filtered).chain(neighbours) {
        let elsewhere =
            observed.routes.get(&pod_route(addr, &name).dst).is_some_and(|r| !leads_here(&r.target));
        if !taken.contains(&addr) && !elsewhere && !addr.is_multicast() {
            by_family.entry(addr.is_ipv6()).or_insert(addr);
        }
    }
    by_family.into_values().collect()
}

/// What can be said of a pod by its host link; none when it has no address, and so can do nothing.
fn request(link: &Link, addresses: Vec<IpAddr>) -> Option<LeaseRequest> {
    let host_link = IfName::new(link.name.as_str()).ok().filter(|_| !addresses.is_empty())?;
    Some(LeaseRequest {
        key: AttachmentKey::of_found(&host_link)?,
        pod: pod_of(&link.alias),
        pod_uid: None,
        labels: BTreeMap::new(),
        netns: PathBuf::new(),
        host_link,
        host_ports: Vec::new(),
        named_ports: Vec::new(),
        requested: addresses,
    })
}

/// The pod that an alias names; none when it was too long to be named whole.
fn pod_of(alias: &str) -> Option<PodKey> {
    let (namespace, name) =
        alias.strip_prefix(marks::LINK_ALIAS_PREFIX)?.strip_prefix("pod:")?.split_once('/')?;
    let whole = alias.len() < super::attach::MAX_ALIAS;
    let (namespace, name) = (Namespace::new(namespace).ok()?, PodName::new(name).ok()?);
    whole.then_some(PodKey { namespace, name })
}
